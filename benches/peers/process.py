"""Starts workers and asks them; reads from the kernel what their processes take."""

import json
import subprocess
import threading
import time
from pathlib import Path

# How long any one request may take; building all rows is the longest.
PATIENCE_SECONDS = 3600


class EngineError(Exception):
    pass


class Process:
    """A worker process and the pipe to it."""

    def __init__(self, command, log, env):
        self.log, self.pids = log, []
        self.began = time.perf_counter()
        with open(log, "ab") as errors:
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, text=True
            )
        self.read()

    def call(self, **what):
        try:
            self.child.stdin.write(json.dumps(what) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            pass
        return self.read()

    def read(self):
        timer = threading.Timer(PATIENCE_SECONDS, self.child.kill)
        timer.start()
        line = self.child.stdout.readline()
        timer.cancel()
        if not line:
            raise EngineError(f"the worker ended with {self.child.wait()}; see {self.log}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def open(self):
        """Opens the engine; the answer says how long it was since the process began."""
        answer = self.call(do="open")
        answer["process_ms"] = (time.perf_counter() - self.began) * 1e3
        self.pids = answer["pids"]
        self.before = {} if self.pids else answer["memory_before"]
        return answer

    def memory(self):
        """Bytes of the processes that hold the index: anonymous, and mapped from files."""
        took = [memory_of(pid) for pid in self.pids or [self.child.pid]]
        # A worker's interpreter and queries were there before its engine.
        return {key: sum(one[key] for one in took) - self.before.get(key, 0) for key in ("anonymous", "mapped")}

    def close(self):
        """Ends the worker in order, and by force where it does not."""
        try:
            self.call(do="close")
            self.child.wait(60)
        except (EngineError, subprocess.TimeoutExpired, OSError):
            self.child.kill()
            self.child.wait()


def memory_of(pid):
    """Bytes of one process: anonymous, and mapped from files and in memory."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0]) * 1024
    return {"anonymous": sizes["Anonymous"], "mapped": sizes["Rss"] - sizes["Anonymous"]}


def bytes_on_disk(folder):
    """What the files take, the index alone: not the logs of servers."""
    files = (f for f in Path(folder).rglob("*") if f.is_file() and f.suffix != ".log")
    return sum(f.stat().st_blocks * 512 for f in files)
