"""A process with one engine in it: reads a request a line from standard input, writes an answer a line.

`worker.py ENGINE STORE DATA LIMIT COUNT`; requests: {"do": "build"}, {"do": "open"},
{"do": "ask", "kind", "filter", "setting", "from", "count", "threads"}, {"do": "close"}. Times are taken here, around the
engine's own call, so that pipes cost nothing. `benches/in_process.rs` speaks the same.
"""

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from data import Queries, Rows
from process import memory_of


class Worker:
    def __init__(self, engine, store, data, limit, count):
        self.name, self.store, self.data = engine, Path(store), Path(data)
        self.limit = int(limit) or None
        self.queries = Queries(self.data, int(count))
        self.engine, self.filters, self.requests = None, {}, {}

    def make(self):
        module = importlib.import_module(f"engines.{self.name}")
        self.engine = module.Engine(self.store, self.queries.vectors.shape[1])
        return module

    def build(self, _):
        rows = Rows(self.data, self.limit)
        self.make()
        began, cpu = time.perf_counter(), time.process_time()
        self.engine.build(rows, self.queries.filters)
        took = time.perf_counter() - began
        # A server began with the build; what its client did is not counted.
        cpu = self.processor_ns() / 1e9 - (0 if self.engine.pids() else cpu)
        self.engine.close()
        return {"rows": rows.count, "seconds": took, "cpu_seconds": cpu}

    def open(self, _):
        before = memory_of("self")
        began = time.perf_counter()
        module = self.make()
        imported = time.perf_counter()
        self.engine.open()
        engine = self.engine
        if "near" in engine.can:
            request = engine.near(self.queries.vectors[0], engine.settings[-1], None)
        else:
            request = engine.words(self.queries.texts[0])
        engine.ask(request)
        answered = time.perf_counter()
        return {
            "import_ms": (imported - began) * 1e3,
            "open_ms": (answered - imported) * 1e3,
            "version": module.VERSION,
            "settings": engine.settings,
            "can": engine.can,
            "threads": engine.threads,
            "pids": engine.pids(),
            "memory_before": before,
        }

    def request(self, at, kind, filter, setting):
        """Requests are made before the clock runs, and kept for the next time."""
        key = (at, kind, filter, json.dumps(setting))
        if key not in self.requests:
            engine, queries = self.engine, self.queries
            if filter is not None and filter not in self.filters:
                self.filters[filter] = engine.filter(queries.filters[filter])
            if kind == "near":
                made = engine.near(queries.vectors[at], setting, self.filters.get(filter))
            elif kind == "words":
                made = engine.words(queries.texts[at])
            else:
                made = engine.hybrid(queries.vectors[at], queries.texts[at], setting)
            self.requests[key] = made
        return self.requests[key]

    def ask(self, what):
        places = range(what["from"], what["from"] + what["count"])
        # JSON makes lists of tuples.
        setting = tuple(what["setting"]) if isinstance(what["setting"], list) else what["setting"]
        requests = [self.request(at, what["kind"], what["filter"], setting) for at in places]
        answers, nanoseconds = [None] * len(requests), [0] * len(requests)
        ask, clock, threads = self.engine.ask, time.perf_counter_ns, what["threads"]

        def work(first):
            for at in range(first, len(requests), threads):
                began = clock()
                answers[at] = ask(requests[at])
                nanoseconds[at] = clock() - began

        began, cpu = clock(), self.processor_ns()
        if threads == 1:
            work(0)
        else:
            several = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
            [thread.start() for thread in several]
            [thread.join() for thread in several]
        wall, cpu = clock() - began, self.processor_ns() - cpu
        ids = [[int(row) for row in self.engine.ids(answer)] for answer in answers]
        return {"ids": ids, "ns": nanoseconds, "wall_ns": wall, "cpu_ns": cpu}

    def processor_ns(self):
        """What the processes with the index have had of the processors."""
        # A process's clock by its number, as clock_getcpuclockid(3) makes it.
        clocks = [(~pid << 3) | 2 for pid in self.engine.pids()] or [time.CLOCK_PROCESS_CPUTIME_ID]
        return sum(map(time.clock_gettime_ns, clocks))

    def close(self, _):
        self.engine and self.engine.close()
        return {}


def main():
    # Libraries print; only answers may go to the driver.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(*sys.argv[1:])
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        what = json.loads(line)
        try:
            answer = getattr(worker, what["do"])(what)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(answer), file=answers)
        if what["do"] == "close":
            return


if __name__ == "__main__":
    main()
