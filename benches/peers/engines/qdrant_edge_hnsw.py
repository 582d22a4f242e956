"""qdrant-edge: qdrant's engine in this process, with payload indexes and BM25."""

import importlib.metadata

import qdrant_edge as q

from data import NUMBERS, WORDS
from engine import BUILD_THREADS, CONSTRUCTION, K, LINKS, Base

VERSION = f"qdrant-edge-py {importlib.metadata.version('qdrant-edge-py')}"
# Rows of each ranking that are fused.
DEPTH = 50


class Engine(Base):
    settings = [16, 32, 48, 64, 96, 128, 256]
    can = ("near", "filters", "words", "hybrid")

    def build(self, rows, filters):
        config = q.EdgeConfig(
            vectors={"v": q.EdgeVectorParams(size=self.dims, distance=q.Distance.Cosine)},
            hnsw_config=q.HnswIndexConfig(
                m=LINKS, ef_construct=CONSTRUCTION, full_scan_threshold=10_000, max_indexing_threads=BUILD_THREADS
            ),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1_000),
        )
        folder = self.store / "shard"
        folder.mkdir()
        shard = q.EdgeShard.create(str(folder), config)
        index = lambda name, kind: shard.update(q.UpdateOperation.create_field_index(name, kind))
        for name in WORDS:
            index(name, q.PayloadSchemaType.Keyword)
        for name in NUMBERS:
            index(name, q.PayloadSchemaType.Integer)
        stemmer = q.SnowballParams(q.SnowballLanguage.English)
        text = dict(tokenizer=q.TokenizerType.Word, lowercase=True, stemmer=stemmer, stopwords=q.Language.English)
        index("body", q.TextIndexParams(scoring=True, **text))
        point = lambda i: q.Point(
            id=i, vector={"v": rows.vectors[i].tolist()}, payload={**rows.attributes(i), "body": rows.body(i)}
        )
        for batch in rows.batches():
            shard.update(q.UpdateOperation.upsert_points([point(i) for i in batch]))
        shard.flush()
        while shard.optimize():
            pass
        shard.flush()
        self.shard = shard

    def open(self):
        self.shard = q.EdgeShard.load(str(self.store / "shard"))

    def filter(self, filter):
        condition = lambda a, op, v: (
            q.FieldCondition(key=a, match=q.MatchValue(value=v))
            if op == "eq"
            else q.FieldCondition(key=a, range=q.RangeFloat(gte=v))
        )
        return q.Filter(must=[condition(*c) for c in filter.conditions])

    def request(self, query, **more):
        return q.QueryRequest(limit=K, query=query, with_payload=False, with_vector=False, **more)

    def near(self, vector, setting, filter):
        query = q.Query.Nearest(vector.tolist(), using="v")
        return self.request(query, filter=filter, params=q.SearchParams(hnsw_ef=setting))

    def words(self, text):
        return self.request(q.TextQuery("body", text))

    def hybrid(self, vector, text, setting):
        near = q.Query.Nearest(vector.tolist(), using="v")
        rankings = [
            q.Prefetch(limit=DEPTH, query=q.TextQuery("body", text)),
            q.Prefetch(limit=DEPTH, query=near, params=q.SearchParams(hnsw_ef=setting)),
        ]
        return self.request(q.Fusion.Rrf(60), prefetches=rankings)

    def ask(self, request):
        return self.shard.query(request)

    def ids(self, answer):
        return [point.id for point in answer]

    def close(self):
        self.shard.close()
