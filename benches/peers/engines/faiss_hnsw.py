"""faiss: a graph over full-precision vectors. Filters are a bitmap made before the clock runs."""

import faiss
import numpy as np

from engine import BUILD_THREADS, CONSTRUCTION, K, LINKS, Base

VERSION = f"faiss-cpu {faiss.__version__}"


class Engine(Base):
    settings = [16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
    can = ("near", "filters")

    def __init__(self, store, dims):
        super().__init__(store, dims)
        self.file = str(store / "index.faiss")

    def make(self):
        index = faiss.IndexHNSWFlat(self.dims, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = CONSTRUCTION
        return index

    def build(self, rows, filters):
        faiss.omp_set_num_threads(BUILD_THREADS)
        index = self.make()
        if not index.is_trained:
            index.train(rows.vectors)
        index.add(rows.vectors)
        faiss.write_index(index, self.file)
        # It has no attributes of its own: whoever uses it must keep them, and make bitmaps of them.
        for name, filter in filters.items():
            np.save(self.store / f"{name}.npy", np.packbits(filter.mask(rows.documents), bitorder="little"))

    def open(self):
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(self.file)

    def filter(self, filter):
        bits = np.load(self.store / f"{filter.name}.npy")
        # The selector does not own its bits.
        return faiss.IDSelectorBitmap(bits), bits

    def parameters(self, setting, selector):
        return faiss.SearchParametersHNSW(efSearch=setting, sel=selector)

    def near(self, vector, setting, filter):
        return vector[None], self.parameters(setting, filter and filter[0])

    def ask(self, request):
        return self.index.search(request[0], K, params=request[1])[1][0]

    def ids(self, answer):
        return answer[answer >= 0]
