"""lancedb: clusters of product codes in columnar files, refined, with attribute indexes and BM25."""

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.query import MatchQuery

from data import NUMBERS, WORDS
from engine import K, Base

VERSION = f"lancedb {lancedb.__version__}"


class Engine(Base):
    # Clusters that are read, and how many times K candidates are refined.
    settings = [(4, 10), (8, 10), (16, 10), (32, 30)]
    can = ("near", "filters", "words", "hybrid")

    def __init__(self, store, dims):
        super().__init__(store, dims)
        self.database = lancedb.connect(str(store / "lance"))

    def build(self, rows, filters):
        table = None
        for batch in rows.batches(10_000):
            columns = {name: [rows.documents[i][name] for i in batch] for name in WORDS + NUMBERS}
            columns |= {"id": list(batch), "body": [rows.body(i) for i in batch]}
            flat = pa.array(np.ascontiguousarray(rows.vectors[batch.start : batch.stop]).ravel())
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, self.dims)
            part = pa.table(columns)
            if table is None:
                table = self.database.create_table("rows", part)
            else:
                table.add(part)
        table.optimize()
        clusters = max(1, min(512, rows.count // 400))
        table.create_index(
            metric="cosine", index_type="IVF_PQ", num_partitions=clusters, num_sub_vectors=self.dims // 8
        )
        for name in WORDS:
            table.create_scalar_index(name, index_type="BITMAP")
        for name in NUMBERS:
            table.create_scalar_index(name, index_type="BTREE")
        table.create_fts_index("body", with_position=False, stem=True, remove_stop_words=True)
        table.optimize()

    def open(self):
        self.table = self.database.open_table("rows")

    def filter(self, filter):
        return filter.sql()

    def near(self, vector, setting, filter):
        query = self.table.search(vector, vector_column_name="vector").metric("cosine").select(["id"]).limit(K)
        query = query.nprobes(setting[0]).refine_factor(setting[1])
        return query.where(filter, prefilter=True) if filter else query

    def words(self, text):
        return self.table.search(MatchQuery(text, "body"), query_type="fts").select(["id", "_score"]).limit(K)

    def hybrid(self, vector, text, setting):
        query = self.table.search(query_type="hybrid", vector_column_name="vector").vector(vector)
        return query.text(MatchQuery(text, "body")).metric("cosine").limit(K)

    def ask(self, request):
        return request.to_arrow()

    def ids(self, answer):
        return answer["id"].to_pylist()[:K]
