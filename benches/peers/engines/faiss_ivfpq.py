"""faiss: clusters of 4-bit product codes scanned in registers, the best refined by full-precision vectors."""

import faiss

from . import faiss_hnsw

VERSION = faiss_hnsw.VERSION
# Four times as many clusters as faiss advises would not train on few rows.
ROWS_PER_CLUSTER = 240
# How many times K candidates are compared by full precision.
REFINED = 10


class Engine(faiss_hnsw.Engine):
    settings = [4, 8, 16, 24, 32, 48, 64, 128]

    def build(self, rows, filters):
        self.clusters = max(16, min(512, rows.count // ROWS_PER_CLUSTER))
        super().build(rows, filters)

    def make(self):
        description = f"IVF{self.clusters},PQ{self.dims // 4}x4fs,RFlat"
        return faiss.index_factory(self.dims, description, faiss.METRIC_INNER_PRODUCT)

    def parameters(self, setting, selector):
        clusters = faiss.SearchParametersIVF(nprobe=setting, sel=selector)
        return faiss.IndexRefineSearchParameters(k_factor=REFINED, base_index_params=clusters)
