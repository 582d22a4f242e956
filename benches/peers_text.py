"""Text ranking beside tantivy and bm25s: debpkg's queries, top 10, one thread, each query to all in turn.

    pip install tantivy bm25s PyStemmer zstandard numpy
    cargo bench --bench text --no-run
    SHOAL_DATA=DIR python3 benches/peers_text.py [target/release/deps/text-...] [phrases]

Shoal runs as `cargo bench --bench text -- ask`, which takes a query a line and measures itself: from the request's JSON to
the ids of the rows. tantivy is measured from the query's text to the addresses of the documents, bm25s to their numbers. All
lower and stem English words; words are cut where each cuts them. Once with every word, once without English stop words, by
each one's list. Every time is the least of three rounds.

With `phrases`, rows that have a sequence of words are counted instead: by Shoal with positions and without, and by tantivy with
positions, of the same tokens.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

import bm25s
import numpy as np
import Stemmer
import tantivy
import zstandard

ROUNDS, LIMIT = 3, 10
FOLDER = os.path.join(os.environ.get("SHOAL_DATA", "../shared/data"), "debpkg")


class Shoal:
    def __init__(self, command, column):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.column = column
        ready = self.process.stdout.readline()
        assert ready == "ready\n", ready

    def ask(self, text):
        return self.send({"rank_by": [self.column, "BM25", text], "limit": LIMIT})

    def count(self, phrase, column):
        filters = [column, "ContainsTokenSequence", phrase]
        seconds, answer = self.send({"aggregate_by": {"count": ["Count"]}, "filters": filters})
        return seconds, answer["count"]

    def send(self, body):
        self.process.stdin.write(json.dumps(body) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["nanos"] / 1e9, answer["answer"]


class Tantivy:
    def __init__(self, texts, removes_stop_words):
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
        if removes_stop_words:
            builder = builder.filter(tantivy.Filter.stopword("english"))
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("body", stored=False, tokenizer_name="words")
        schema.add_unsigned_field("row", stored=True)
        self.folder = tempfile.TemporaryDirectory()
        self.index = tantivy.Index(schema.build(), path=self.folder.name)
        self.index.register_tokenizer("words", builder.filter(tantivy.Filter.stemmer("english")).build())
        writer = self.index.writer(256 << 20, 1)
        for row, text in enumerate(texts):
            writer.add_document(tantivy.Document(row=row, body=text))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def ask(self, text):
        text = "".join(c if c.isalnum() else " " for c in text).lower()
        start = time.perf_counter()
        query, _ = self.index.parse_query_lenient(text, ["body"])
        hits = self.searcher.search(query, LIMIT).hits
        took = time.perf_counter() - start
        return took, [self.searcher.doc(address)["row"][0] for _, address in hits]


class Bm25s:
    def __init__(self, texts, removes_stop_words):
        self.stop_words = "en" if removes_stop_words else None
        self.stemmer = Stemmer.Stemmer("english")
        self.index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        self.index.index(self.tokens(texts), show_progress=False)

    def tokens(self, texts):
        return bm25s.tokenize(texts, stopwords=self.stop_words, stemmer=self.stemmer, show_progress=False)

    def ask(self, text):
        start = time.perf_counter()
        rows, scores = self.index.retrieve(self.tokens([text]), k=LIMIT, show_progress=False)
        took = time.perf_counter() - start
        return took, [int(row) for row, score in zip(rows[0], scores[0]) if score > 0]


class TantivyPhrases:
    def __init__(self, texts):
        analyzer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("body", stored=False, tokenizer_name="words", index_option="position")
        self.folder = tempfile.TemporaryDirectory()
        self.index = tantivy.Index(schema.build(), path=self.folder.name)
        self.index.register_tokenizer("words", analyzer)
        writer = self.index.writer(256 << 20, 1)
        for text in texts:
            writer.add_document(tantivy.Document(body=text))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()
        files = [os.path.join(self.folder.name, name) for name in os.listdir(self.folder.name)]
        for kind in ("idx", "pos", "term"):
            print(f"  tantivy .{kind}: {sum(os.path.getsize(file) for file in files if file.endswith(kind))} bytes")

    def count(self, phrase):
        start = time.perf_counter()
        query = tantivy.Query.phrase_query(self.index.schema, "body", phrase.split())
        found = self.searcher.search(query, 1, count=True).count
        return time.perf_counter() - start, found


def phrases(command):
    """How many rows have 200 sequences of words of debpkg's texts, each asked of all in turn."""
    texts = [re.findall("[a-z0-9]+", ascii_lower(row["text"])) for row in json_lines("docs.jsonl.zst")]
    texts = [[word for word in words if len(word) < 40] for words in texts]
    shoal, peer = Shoal(command, "placed"), TantivyPhrases([" ".join(words) for words in texts])
    engines = {
        "by positions": lambda phrase: shoal.count(phrase, "placed"),
        "by texts": lambda phrase: shoal.count(phrase, "plain"),
        "tantivy": peer.count,
    }
    choice = random.Random(7)
    for length in (2, 3):
        asked = []
        while len(asked) < 200:
            words = choice.choice(texts)
            if len(words) >= length:
                start = choice.randrange(len(words) - length + 1)
                asked.append(" ".join(words[start : start + length]))
        took = {name: np.full(len(asked), np.inf) for name in engines}
        for _ in range(ROUNDS):
            for at, phrase in enumerate(asked):
                counts = {}
                for name, count in engines.items():
                    seconds, counts[name] = count(phrase)
                    took[name][at] = min(took[name][at], seconds)
                assert len(set(counts.values())) == 1, (phrase, counts)
        print(f"{length} words, {len(asked)} phrases of {len(texts)} rows, all counts equal")
        for name in engines:
            p50, p99 = np.percentile(took[name], [50, 99]) * 1e3
            print(f"  {name:12} p50 {p50:.3f} ms, p99 {p99:.3f} ms, mean {took[name].mean() * 1e3:.3f} ms")
    shoal.process.stdin.close()
    shoal.process.wait()


def ascii_lower(text):
    return "".join(c.lower() if c.isascii() else c for c in text)


def json_lines(name):
    path = os.path.join(FOLDER, name)
    with open(path, "rb") as file:
        data = file.read()
    if name.endswith(".zst"):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return [json.loads(line) for line in data.splitlines()]


def ndcg(found):
    with open(os.path.join(FOLDER, "qrels.tsv")) as file:
        lines = [line.split() for line in file][1:]
    known = {}
    for query, row, _ in lines:
        known.setdefault(int(query), set()).add(int(row))
    gains = 1 / np.log2(np.arange(2, 12))
    gain = [sum(gains[at] for at, row in enumerate(found[query]) if row in rows) for query, rows in known.items()]
    return np.mean([got / gains[: len(rows)].sum() for got, rows in zip(gain, known.values())])


def measure(command, texts, queries, removes_stop_words):
    engines = {
        "shoal": Shoal(command, "content" if removes_stop_words else "body"),
        "tantivy": Tantivy(texts, removes_stop_words),
        "bm25s": Bm25s(texts, removes_stop_words),
    }
    took = {name: np.full(len(queries), np.inf) for name in engines}
    found = {name: [None] * len(queries) for name in engines}
    for _ in range(ROUNDS):
        for at, query in enumerate(queries):
            for name, engine in engines.items():
                seconds, rows = engine.ask(query)
                took[name][at] = min(took[name][at], seconds)
                found[name][at] = rows
    print("stemmed,", "without stop words" if removes_stop_words else "every word")
    for name in engines:
        p50, p99 = np.percentile(took[name], [50, 99]) * 1e3
        same = np.mean([len(set(a) & set(b)) / max(len(b), 1) for a, b in zip(found[name], found["shoal"])])
        print(
            f"  {name:8} p50 {p50:.3f} ms, p99 {p99:.3f} ms, mean {took[name].mean() * 1e3:.3f} ms; "
            f"nDCG@10 {ndcg(found[name]):.4f}, {same:.3f} of shoal's rows"
        )
    engines["shoal"].process.stdin.close()
    engines["shoal"].process.wait()


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "phrases"]
    program = arguments[:1] or ["cargo", "bench", "-q", "--bench", "text", "--"]
    if len(arguments) < len(sys.argv[1:]):
        return phrases([*program, "ask-phrases"])
    command = [*program, "ask"]
    texts = [f"{row.get('title') or ''} {row['text']}" for row in json_lines("docs.jsonl.zst")]
    queries = [query["text"] for query in json_lines("queries.jsonl")]
    print(f"debpkg: {len(texts)} rows, {len(queries)} queries, top {LIMIT}")
    for removes_stop_words in (False, True):
        measure(command, texts, queries, removes_stop_words)


main()
