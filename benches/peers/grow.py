#!/usr/bin/env python3
"""Makes a set of more rows than there are: `grow.py SET FOLDER ROWS` repeats the rows of SET with noise added to the vectors.

Synthetic, and to be called so: the rows beyond those of SET are near one real row each, at a cosine of about 0.86, and have its
document. Queries and filters stay.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from data import Rows

# The length of the noise against that of the vector.
NOISE = 0.6
SEED = 7


def grow(source, folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("queries.f16.npy", "queries.jsonl", "filters.json", "qrels.tsv"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    rows = Rows(source)
    random = np.random.default_rng(SEED)
    shape = (count, rows.dims)
    out = np.lib.format.open_memmap(folder / "base.f16.npy", "w+", np.float16, shape, version=(1, 0))
    with open(folder / "docs.jsonl", "w") as documents:
        for first in range(0, count, rows.count):
            part = rows.vectors[: count - first]
            if first:
                noise = random.standard_normal(part.shape, np.float32)
                part = part + noise * (NOISE / np.linalg.norm(noise, axis=1, keepdims=True))
            out[first : first + len(part)] = part
            lines = (json.dumps({**rows.documents[i], "id": first + i}) + "\n" for i in range(len(part)))
            documents.writelines(lines)


if __name__ == "__main__":
    grow(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
