"""Makes tables of records: `report.py RESULTS.jsonl` prints markdown."""

import json
import math
import sys

RECALLS = (0.92, 0.95, 0.97, 0.99)


def table(head, rows):
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
    return "\n".join([line(head), line("---" for _ in head), *map(line, rows)]) + "\n"


def number(value, digits=2):
    return "-" if value is None else f"{value:,.{digits}f}"


def at_recall(records, wanted, key):
    """`key` at a recall, between the two settings around it; a bound where all settings are above it."""
    points = sorted((record["recall"], record[key]) for record in records)
    above = [point for point in points if point[0] >= wanted]
    below = [point for point in points if point[0] < wanted]
    if not above:
        return None, None
    (high, fast) = above[0]
    if not below:
        return fast, high
    (low, faster) = below[-1]
    # A graph's misses fall by a power of its work, so straight lines are drawn between logarithms.
    misses = [math.log(max(1 - recall, 1e-5)) for recall in (low, wanted, high)]
    share = (misses[1] - misses[0]) / (misses[2] - misses[0])
    return math.exp(math.log(faster) + share * (math.log(fast) - math.log(faster))), None


def report(records):
    of = lambda record, **what: [
        r for r in records if r["record"] == record and all(r.get(key) == value for key, value in what.items())
    ]
    run = of("run")[0]
    engines = run["engines"]
    one = lambda kind, engine: (of(kind, engine=engine) or [{}])[0]
    near = lambda engine, threads: [r for r in of("search", engine=engine, kind="near", threads=threads) if not r["filter"]]
    out = [
        f"{run['date']}, {run['machine']}: {run['set']}, {run['rows']:,} rows of {run['dims']} dimensions, "
        f"{run['queries']} held-out queries, the best 10. Load while measuring: {run['load']}.\n",
        "## Queries a second at equal recall, one thread\n",
        "Between the measured settings around each recall; `(0.98)` where the lowest setting finds that much. "
        "In brackets queries per second of processor time.\n",
    ]
    rows = []
    for engine in engines:
        cells = []
        for wanted in RECALLS:
            rate, only = at_recall(near(engine, 1), wanted, "queries_per_second")
            per_cpu = [{**r, "rate": 1e3 / max(r["cpu_ms"], 1e-6)} for r in near(engine, 1)]
            cpu, _ = at_recall(per_cpu, wanted, "rate")
            found = f" ({only:.3f})" if only else ""
            cells.append("-" if rate is None else f"{rate:,.0f} [{cpu:,.0f}]{found}")
        if near(engine, 1):
            rows.append([engine, *cells])
    out += [table(["engine", *RECALLS], rows), "## Every setting\n"]
    rows = []
    for engine in engines:
        two = {json.dumps(r["setting"]): r["queries_per_second"] for r in near(engine, 2)}
        for r in near(engine, 1):
            rows.append([
                engine, r["setting"] if r["setting"] is not None else "", number(r["recall"], 4),
                number(r["recall_p1"], 1), number(r["p50_ms"], 3), number(r["p99_ms"], 3), number(r["cpu_ms"], 3),
                number(r["queries_per_second"], 0), number(two.get(json.dumps(r["setting"])), 0), r["queries"],
            ])
    head = ["engine", "setting", "recall", "worst 1 %", "p50 ms", "p99 ms", "cpu ms", "queries/s", "two threads", "queries"]
    out.append(table(head, rows))
    filters = run["filters"]
    if filters:
        out.append("## Under filters: recall, p50 ms\n")
        out.append(f"At the first setting with a recall of {run['recall_for_filters']} or more without filters.\n")
        rows = []
        for engine in engines:
            under = {name: of("search", engine=engine, kind="near", threads=1, filter=name) for name in filters}
            if any(under.values()):
                setting = next(r["setting"] for found in under.values() for r in found)
                plain = [r for r in near(engine, 1) if r["setting"] == setting]
                cell = lambda found: f"{found[0]['recall']:.3f}, {found[0]['p50_ms']:.2f}" if found else "-"
                rows.append([engine, setting if setting is not None else "", cell(plain), *map(cell, under.values())])
        names = [f"{name} ({share:.2%})" for name, share in filters.items()]
        out.append(table(["engine", "setting", "no filter", *names], rows))
    out.append("## Words, and both rankings fused\n")
    rows = []
    for engine in engines:
        for kind in ("words", "hybrid"):
            for r in of("search", engine=engine, kind=kind):
                rows.append([engine, kind, number(r.get("ndcg"), 4), number(r["p50_ms"], 3), number(r["p99_ms"], 3), number(r["cpu_ms"], 3), r["queries"]])
    out.append(table(["engine", "by", "nDCG@10", "p50 ms", "p99 ms", "cpu ms", "queries"], rows))
    out.append("## Building, disk, memory, opening\n")
    rows = []
    for engine in engines:
        build, cold, memory = one("build", engine), one("cold", engine), one("memory", engine)
        mb = lambda value: number(value and value / 1e6, 0)
        rate = lambda seconds: number(build["rows"] / build[seconds] if build.get(seconds) else None, 0)
        rows.append([
            engine, cold.get("version", "-"), rate("seconds"), rate("cpu_seconds"), number(build.get("seconds"), 1), mb(build.get("disk")), mb(memory.get("anonymous")),
            mb(memory.get("mapped")), number(cold.get("open_ms"), 0), number(cold.get("process_ms"), 0),
        ])
    head = ["engine", "version", "rows/s until indexed", "rows/cpu s", "s", "MB on disk", "MB anonymous", "MB mapped"]
    out.append(table([*head, "open to first answer ms", "process to first answer ms"], rows))
    return "\n".join(out)


if __name__ == "__main__":
    with open(sys.argv[1]) as lines:
        print(report([json.loads(line) for line in lines]), end="")
