#!/usr/bin/env python3
"""Loads one data set into Shoal and its peers, asks all of them the same, and writes tables: see README.md."""

import argparse
import datetime
import fcntl
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENGINES = (
    "shoal_in_process shoal_http faiss_hnsw faiss_ivfpq usearch_hnsw hnswlib_hnsw qdrant_edge_hnsw zvec_hnsw "
    "lancedb_ivfpq chroma_http sqlite_vec_exact tantivy_text bm25s_text"
).split()
COLD_OPENS = 3


def say(text):
    print(text, file=sys.stderr, flush=True)


def in_environment(work):
    """Goes on in a virtual environment that has the pinned packages; makes it where it is not there."""
    folder, wanted = work / "venv", (HERE / "requirements.txt").read_text()
    python, made = folder / "bin" / "python", folder / "requirements.made"
    if not made.exists() or made.read_text() != wanted:
        say(f"making {folder}")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
        made.write_text(wanted)
    if Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), *sys.argv])


def binaries():
    """The daemon and `benches/in_process.rs`, optimised; made by cargo unless variables name them."""
    if "SHOAL_BIN" not in os.environ:
        found = cargo("build", "--release", "--bin", "shoal")
        os.environ["SHOAL_BIN"] = found["shoal"]
    if "SHOAL_IN_PROCESS" not in os.environ:
        os.environ["SHOAL_IN_PROCESS"] = cargo("bench", "--no-run", "--bench", "in_process")["in_process"]


def cargo(*arguments):
    done = subprocess.run(
        ["cargo", *arguments, "--message-format", "json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["target"]["name"]: line["executable"] for line in lines if line.get("executable")}


class Run:
    def __init__(self, data, work, limit, count):
        self.data, self.limit, self.count = data, limit, count
        self.work = work / f"{data.name}-{limit or 'all'}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.work / "lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{self.work} is in use by another run: wait for it, or name another --work")

    def start(self, engine):
        from process import Process

        folder = self.work / engine
        (folder / "store").mkdir(parents=True, exist_ok=True)
        arguments = [str(folder / "store"), str(self.data), str(self.limit), str(self.count)]
        if engine == "shoal_in_process":
            command = [os.environ["SHOAL_IN_PROCESS"], *arguments]
        else:
            command = [sys.executable, str(HERE / "worker.py"), engine, *arguments]
        # One thread a query wherever a library would take more; logs are not read.
        quiet = {"RUST_LOG": "error", "LANCE_LOG": "error", "TOKENIZERS_PARALLELISM": "false"}
        return Process(command, folder / "worker.log", {**os.environ, **quiet})

    def build(self, engine, again):
        """Builds the index unless it is there from an earlier run; returns what that took."""
        from process import bytes_on_disk

        folder = self.work / engine
        done = folder / "build.json"
        if again or not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            say(f"building {engine}")
            worker = self.start(engine)
            try:
                record = worker.call(do="build")
            finally:
                worker.close()
            record |= {"record": "build", "engine": engine, "disk": bytes_on_disk(folder / "store")}
            record["load"] = os.getloadavg()[0]
            done.write_text(json.dumps(record))
        return json.loads(done.read_text())

    def cold(self, engine):
        """New processes until their first answer; what they read is in the page cache."""
        opened = []
        for _ in range(COLD_OPENS):
            worker = self.start(engine)
            opened.append(worker.open())
            worker.close()
        middle = {key: statistics.median(o[key] for o in opened) for key in ("import_ms", "open_ms", "process_ms")}
        return {"record": "cold", "engine": engine, "version": opened[0]["version"], **middle}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default=",".join(ENGINES), help="which of them, with commas between")
    parser.add_argument("--set", default="debpkg", help="the folder below SHOAL_DATA")
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "shoal-peers"), help="indexes are kept here")
    parser.add_argument("--again", action="store_true", help="build indexes again that are there")
    parser.add_argument("--only-build", action="store_true")
    arguments = parser.parse_args()
    if not os.environ.get("SHOAL_DATA"):
        sys.exit("SKIPPED: SHOAL_DATA names no folder of data sets")
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    in_environment(work)
    binaries()

    from data import Queries, Rows, Truth, judgements
    from measure import RECALL_FOR_FILTERS, Bench
    from process import EngineError

    data = Path(os.environ["SHOAL_DATA"]).resolve() / arguments.set
    run = Run(data, work, int(os.environ.get("LIMIT", "0")), int(os.environ.get("NQ", "1000")))
    records, engines = [], []
    for engine in arguments.engines.split(","):
        try:
            built = run.build(engine, arguments.again)
            say(f"{engine}: {built['rows'] / built['seconds']:,.0f} rows/s until indexed, {built['disk'] / 1e6:,.0f} MB")
            if not arguments.only_build:
                records += [built, run.cold(engine)]
            engines.append(engine)
        except EngineError as error:
            say(f"{engine}: {error}")
    if arguments.only_build:
        return
    queries, rows = Queries(data, run.count), Rows(data, run.limit or None)
    truth = Truth(rows, queries, 10)
    count = len(queries.vectors)
    # Of fewer rows than all many judged ones are missing.
    judged = {query: grades for query, grades in judgements(data).items() if query < count}
    processes = {engine: run.start(engine) for engine in engines}
    before = os.getloadavg()[0]
    try:
        opened = {engine: process.open() for engine, process in processes.items()}
        records += Bench(processes, opened, truth, judged, count, say).run()
        for engine, process in processes.items():
            records.append({"record": "memory", "engine": engine, **process.memory()})
    finally:
        for process in processes.values():
            process.close()
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    filters = {name: truth.matching(name) / rows.count for name in truth.masks if name is not None}
    about = {
        "record": "run", "date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {model}",
        "set": arguments.set, "rows": rows.count, "dims": rows.dims, "queries": count, "engines": engines,
        "filters": filters, "recall_for_filters": RECALL_FOR_FILTERS,
        "load": f"{before:.1f} before, {os.getloadavg()[0]:.1f} after",
    }
    out = run.work / "results.jsonl"
    out.write_text("".join(json.dumps(record) + "\n" for record in [about, *records]))
    from report import report

    text = report([about, *records])
    out.with_suffix(".md").write_text(text)
    print(text)
    say(f"{out} and {out.with_suffix('.md')}")


if __name__ == "__main__":
    main()
