"""Reads a data set: vectors, documents, queries, filters, judgements; and finds the truth by comparing everything."""

import io
import json
from pathlib import Path

import numpy as np
import zstandard

# What filters may ask for. An engine stores and indexes these, and the text as `body`.
WORDS = ("section", "priority", "arch", "multi_arch", "component", "maintainer_domain")
NUMBERS = ("installed_size", "n_depends")

# Similarities nearer than this are equal: sums of f32 in another order.
TIE = 1e-6


def _read(path):
    """The bytes of a file, or of the file packed with zstd beside its name."""
    if path.exists():
        return path.read_bytes()
    packed = path.with_name(path.name + ".zst")
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed.read_bytes())).read()


def _vectors(path):
    """Half-precision vectors, widened and normalised."""
    vectors = np.load(io.BytesIO(_read(path))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _lines(path, limit=None):
    lines = _read(path).split(b"\n")[:limit]
    return [json.loads(line) for line in lines if line]


class Filter:
    """A filter of the set: conditions that all hold, each an attribute, `eq` or `ge`, and a value."""

    def __init__(self, entry):
        self.name = entry["name"]
        self.conditions = [tuple(condition) for condition in entry["where"]]

    def mask(self, documents):
        """For every document whether it matches."""
        return np.array(
            [all(d[a] == v if op == "eq" else d[a] >= v for a, op, v in self.conditions) for d in documents], bool
        )

    def sql(self):
        """The conditions as SQL engines read them."""
        literal = lambda v: f"'{v}'" if isinstance(v, str) else str(v)
        return " AND ".join(f"{a} {'=' if op == 'eq' else '>='} {literal(v)}" for a, op, v in self.conditions)


class Queries:
    """What is asked. Small: a worker that answers holds nothing else of the set."""

    def __init__(self, folder, count):
        self.vectors = _vectors(folder / "queries.f16.npy")[:count]
        self.texts = [line["text"] for line in _lines(folder / "queries.jsonl")][:count]
        path = folder / "filters.json"
        entries = json.loads(path.read_text()) if path.exists() else []
        self.filters = {entry["name"]: Filter(entry) for entry in entries}


class Rows:
    """What is loaded: the first `limit` rows of the set, or all of them."""

    def __init__(self, folder, limit=None):
        self.vectors = _vectors(folder / "base.f16.npy")[:limit]
        self.documents = _lines(folder / "docs.jsonl", limit)
        self.count, self.dims = self.vectors.shape

    def attributes(self, row):
        document = self.documents[row]
        return {name: document[name] for name in WORDS + NUMBERS}

    def body(self, row):
        return f"{self.documents[row]['title']} {self.documents[row]['text']}"

    def batches(self, size=1000):
        return (range(first, min(first + size, self.count)) for first in range(0, self.count, size))


class Truth:
    """The nearest rows of every query, found by comparing all of them; and how much of that an answer has."""

    def __init__(self, rows, queries, k):
        self.vectors, self.queries, self.k = rows.vectors, queries.vectors, k
        self.masks = {None: None}
        self.masks.update({name: f.mask(rows.documents) for name, f in queries.filters.items()})
        similar = queries.vectors @ rows.vectors.T
        # Of every query the similarity of its k-th row: whatever is as near as that is right.
        self.least = {}
        for name, mask in self.masks.items():
            among = similar if mask is None else similar[:, mask]
            kth = min(k, among.shape[1])
            self.least[name] = np.partition(among, -kth, axis=1)[:, -kth] if kth else None

    def matching(self, name):
        mask = self.masks[name]
        return len(self.vectors) if mask is None else int(mask.sum())

    def recall(self, query, ids, name=None):
        """The share of the true answer that `ids` has; rows that do not match the filter are wrong."""
        expected = min(self.k, self.matching(name))
        if not expected:
            return 1.0
        mask = self.masks[name]
        right = [i for i in set(ids[: self.k]) if mask is None or mask[i]]
        found = self.vectors[right] @ self.queries[query] >= self.least[name][query] - TIE
        return min(int(found.sum()), expected) / expected


def judgements(folder):
    """Of every judged query the relevant documents with their grades."""
    judged = {}
    path = folder / "qrels.tsv"
    for line in path.read_text().splitlines()[1:] if path.exists() else []:
        query, document, grade = line.split("\t")
        if float(grade) > 0:
            judged.setdefault(int(query), {})[int(document)] = float(grade)
    return judged


def ndcg(ids, grades, k=10):
    """Discounted gain of the first k against the best there could be."""
    gain = lambda values: sum(value / np.log2(place + 2) for place, value in enumerate(values))
    best = sorted(grades.values(), reverse=True)[:k]
    return gain(grades.get(i, 0.0) for i in ids[:k]) / gain(best)
