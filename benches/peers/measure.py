"""Asks all engines the same queries in turn, a block of queries each, and keeps what they took and found."""

import time

from data import ndcg

BLOCK = 50
# So much of a block goes unmeasured to every engine and setting before the clock runs.
WARM_UP = 20
# An engine whose queries took longer than this in all is not asked the rest at that setting.
SECONDS_MAX = 12.0
# The recall from which on a setting is taken for filters and fusion.
RECALL_FOR_FILTERS = 0.95


class Cell:
    """What one engine took and found at one setting."""

    def __init__(self, **what):
        self.what = what
        self.ns, self.recalls, self.gains = [], [], []
        self.wall_ns = self.cpu_ns = 0

    def is_over(self):
        return self.wall_ns > SECONDS_MAX * 1e9

    def record(self):
        from numpy import mean, percentile

        count = len(self.ns)
        out = {"record": "search", **self.what, "queries": count}
        if self.recalls:
            out |= {"recall": mean(self.recalls), "recall_p1": percentile(self.recalls, 1)}
        if self.gains:
            out["ndcg"] = mean(self.gains)
        p50, p99 = percentile(self.ns, [50, 99]) / 1e6
        out |= {"p50_ms": p50, "p99_ms": p99, "queries_per_second": count * 1e9 / self.wall_ns}
        return out | {"cpu_ms": self.cpu_ns / count / 1e6}


class Bench:
    def __init__(self, processes, opened, truth, judged, count, say):
        self.processes, self.opened, self.truth, self.judged = processes, opened, truth, judged
        self.count, self.say, self.failed = count, say, {}

    def turns(self, cells):
        """Every block is asked of every engine at each setting, and each of them is first as often as the others: the first
        finds the processor's caches full of something else."""
        engines = list(dict.fromkeys(cell.what["engine"] for cell in cells))
        for cell in cells:
            self.ask(cell, 0, min(WARM_UP, self.count), keep=False)
        began = time.monotonic()
        for number, first in enumerate(range(0, self.count, BLOCK)):
            turn = number % len(engines)
            for engine in engines[turn:] + engines[:turn]:
                own = [cell for cell in cells if cell.what["engine"] == engine]
                first_own = number % len(own)
                for cell in own[first_own:] + own[:first_own]:
                    if not cell.is_over():
                        self.ask(cell, first, min(BLOCK, self.count - first), keep=True)
            self.say(f"  {first + BLOCK} of {self.count} queries, {time.monotonic() - began:.0f} s")
        return [cell.record() for cell in cells if cell.ns]

    def ask(self, cell, first, count, keep):
        what = cell.what
        if what["engine"] in self.failed:
            return
        asked = {key: what[key] for key in ("kind", "filter", "setting", "threads")}
        try:
            answer = self.processes[what["engine"]].call(do="ask", **asked, **{"from": first, "count": count})
        except Exception as error:
            # What cannot do one thing is still asked for the others.
            self.say(f"  {what['engine']}: {asked}: {error}")
            cell.wall_ns = float("inf")
            return
        if not keep:
            return
        cell.ns += answer["ns"]
        cell.wall_ns += answer["wall_ns"]
        cell.cpu_ns += answer["cpu_ns"]
        for query, ids in enumerate(answer["ids"], first):
            if what["kind"] == "near":
                cell.recalls.append(self.truth.recall(query, ids, what["filter"]))
            elif query in self.judged:
                cell.gains.append(ndcg(ids, self.judged[query]))

    def cells(self, kind, filters=(None,), threads=1, settings=None):
        able = "filters" if filters != (None,) else kind
        out = []
        for engine, opened in self.opened.items():
            if able in opened["can"] and (threads == 1 or opened["threads"]):
                chosen = settings[engine] if settings else opened["settings"]
                out += [
                    Cell(engine=engine, kind=kind, filter=filter, setting=setting, threads=threads)
                    for filter in filters
                    for setting in chosen
                ]
        return out

    def run(self):
        """All measurements, as records."""
        self.say("nearest")
        records = self.turns(self.cells("near"))
        chosen = {}
        for record in records:
            enough = record["recall"] >= RECALL_FOR_FILTERS
            engine = record["engine"]
            # The first that is enough, else the best.
            if engine not in chosen or chosen[engine][0] < RECALL_FOR_FILTERS:
                chosen[engine] = (record["recall"], record["setting"]) if enough else max(
                    chosen.get(engine, (0, None)), (record["recall"], record["setting"]), key=lambda pair: pair[0]
                )
        settings = {engine: [chosen.get(engine, (0, opened["settings"][-1]))[1]] for engine, opened in self.opened.items()}
        self.say("nearest, two threads")
        records += self.turns(self.cells("near", threads=2))
        filters = tuple(name for name in self.truth.masks if name is not None)
        if filters:
            self.say("nearest under filters")
            records += self.turns(self.cells("near", filters, settings=settings))
        self.say("words")
        records += self.turns(self.cells("words", settings={engine: [None] for engine in self.opened}))
        self.say("hybrid")
        records += self.turns(self.cells("hybrid", settings=settings))
        return records
