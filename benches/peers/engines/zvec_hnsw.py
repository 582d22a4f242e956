"""zvec: an embedded vector database with attribute indexes and BM25."""

import zvec

from data import NUMBERS, WORDS
from engine import BUILD_THREADS, CONSTRUCTION, K, LINKS, Base

VERSION = f"zvec {zvec.__version__}"


class Engine(Base):
    settings = [16, 32, 48, 64, 96, 128, 256]
    can = ("near", "filters", "words", "hybrid")

    def __init__(self, store, dims):
        super().__init__(store, dims)
        zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=1, optimize_threads=BUILD_THREADS)

    def build(self, rows, filters):
        field, kinds = zvec.FieldSchema, zvec.DataType
        fields = [field(name, kinds.STRING, True, zvec.InvertIndexParam()) for name in WORDS]
        ranges = zvec.InvertIndexParam(enable_range_optimization=True)
        fields += [field(name, kinds.INT64, True, ranges) for name in NUMBERS]
        fields.append(field("body", kinds.STRING, True, zvec.FtsIndexParam(filters=["lowercase", "stemmer"])))
        graph = zvec.HnswIndexParam(metric_type=zvec.MetricType.COSINE, m=LINKS, ef_construction=CONSTRUCTION)
        vector = zvec.VectorSchema("v", kinds.VECTOR_FP32, self.dims, graph)
        self.rows = zvec.create_and_open(str(self.store / "rows"), zvec.CollectionSchema("rows", fields, vector))
        document = lambda i: zvec.Doc(
            id=str(i), vectors={"v": rows.vectors[i]}, fields={**rows.attributes(i), "body": rows.body(i)}
        )
        for batch in rows.batches():
            self.rows.insert([document(i) for i in batch])
        self.rows.flush()
        self.rows.optimize(zvec.OptimizeOption(concurrency=BUILD_THREADS))
        self.rows.flush()

    def open(self):
        self.rows = zvec.open(str(self.store / "rows"))

    def filter(self, filter):
        return filter.sql()

    def near(self, vector, setting, filter):
        query = zvec.Query("v", vector=vector, param=zvec.HnswQueryParam(ef=setting))
        return query, {"filter": filter} if filter else {}

    def words(self, text):
        return zvec.Query("body", fts=zvec.Fts(match_string=text)), {}

    def hybrid(self, vector, text, setting):
        queries = [self.near(vector, setting, None)[0], self.words(text)[0]]
        return queries, {"reranker": zvec.RrfReRanker(60)}

    def ask(self, request):
        query, more = request
        return self.rows.query(query, topk=K, output_fields=[], **more)

    def ids(self, answer):
        return [int(document.id) for document in answer]

    def close(self):
        self.rows.close()
