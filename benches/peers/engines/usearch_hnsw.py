"""usearch: a graph over full-precision vectors. Its Python package has no filters."""

import numpy as np
import usearch
from usearch.index import Index

from engine import BUILD_THREADS, CONSTRUCTION, K, LINKS, Base

VERSION = f"usearch {usearch.__version__}"


class Engine(Base):
    settings = [16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
    # The breadth of a search is a property of the index, which two threads would share; they use the same one.

    def make(self):
        return Index(ndim=self.dims, metric="cos", dtype="f32", connectivity=LINKS, expansion_add=CONSTRUCTION)

    def build(self, rows, filters):
        index = self.make()
        index.add(np.arange(rows.count), rows.vectors, threads=BUILD_THREADS)
        index.save(str(self.store / "index.usearch"))

    def open(self):
        self.index = self.make()
        self.index.load(str(self.store / "index.usearch"))

    def near(self, vector, setting, filter):
        return vector, setting

    def ask(self, request):
        vector, setting = request
        if self.index.expansion_search != setting:
            self.index.expansion_search = setting
        return self.index.search(vector, K, threads=1).keys
