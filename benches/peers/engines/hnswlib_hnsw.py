"""hnswlib: the graph's first implementation. A filter is a Python function that it calls for every candidate."""

import importlib.metadata

import hnswlib
import numpy as np

from engine import BUILD_THREADS, CONSTRUCTION, K, LINKS, Base

VERSION = f"hnswlib {importlib.metadata.version('hnswlib')}"


class Engine(Base):
    settings = [16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
    can = ("near", "filters")

    def build(self, rows, filters):
        index = hnswlib.Index("cosine", self.dims)
        index.init_index(max_elements=rows.count, ef_construction=CONSTRUCTION, M=LINKS)
        index.set_num_threads(BUILD_THREADS)
        index.add_items(rows.vectors, np.arange(rows.count))
        index.save_index(str(self.store / "index.hnswlib"))
        for name, filter in filters.items():
            np.save(self.store / f"{name}.npy", filter.mask(rows.documents))

    def open(self):
        self.index = hnswlib.Index("cosine", self.dims)
        self.index.load_index(str(self.store / "index.hnswlib"))
        self.index.set_num_threads(1)
        self.breadth = None

    def filter(self, filter):
        return np.load(self.store / f"{filter.name}.npy").tolist().__getitem__

    def near(self, vector, setting, filter):
        return vector, setting, filter

    def ask(self, request):
        vector, setting, filter = request
        if self.breadth != setting:
            self.index.set_ef(setting)
            self.breadth = setting
        return self.index.knn_query(vector, K, num_threads=1, filter=filter)[0][0]
