"""Shoal's daemon over HTTP, with its defaults but that no past states are kept: the peers keep none either."""

import base64
import json
import os

from engine import K, Base
from http_client import Connections, free_port, start, stop

VERSION = "shoal, this repository"
NAMESPACE = "/v2/namespaces/rows"
# Rows of each ranking that are fused.
DEPTH = 50
TEXT = {"type": "string", "full_text_search": {"stemming": True, "remove_stopwords": True}}


def encoded(vector):
    return base64.b64encode(vector.tobytes()).decode()


class Engine(Base):
    # The recall that is asked for.
    settings = [0.8, 0.9, 0.92, 0.95, 0.97, 0.99]
    can = ("near", "filters", "words", "hybrid")

    def serve(self):
        port = free_port()
        command = [os.environ["SHOAL_BIN"], "serve", "--data-dir", str(self.store / "data")]
        command += ["--listen", f"127.0.0.1:{port}"]
        env = {**os.environ, "SHOAL_STORAGE__RETENTION_HOURS": "0"}
        self.server = start(command, port, self.store / "server.log", env)
        self.connections = Connections(port)

    def build(self, rows, filters):
        self.serve()
        one = lambda i: {"id": i, "vector": encoded(rows.vectors[i]), **rows.attributes(i), "body": rows.body(i)}
        for batch in rows.batches():
            body = {"upsert_rows": [one(i) for i in batch], "distance_metric": "cosine_distance"}
            self.connections.json("POST", NAMESPACE, {**body, "schema": {"body": TEXT}})
        # One segment, as the peers are told to make one index.
        self.connections.json("POST", NAMESPACE.replace("v2", "v1") + "/compact", {})

    def open(self):
        self.serve()

    def filter(self, filter):
        conditions = [[a, "Eq" if op == "eq" else "Gte", v] for a, op, v in filter.conditions]
        return conditions[0] if len(conditions) == 1 else ["And", conditions]

    def query(self, body):
        return self.connections.request("POST", f"{NAMESPACE}/query", body)

    def near(self, vector, setting, filter):
        body = {"rank_by": ["vector", "ANN", encoded(vector)], "limit": K, "recall": setting}
        return self.query({**body, "filters": filter} if filter else body)

    def words(self, text):
        return self.query({"rank_by": ["body", "BM25", text], "limit": K})

    def hybrid(self, vector, text, setting):
        rankings = [
            {"rank_by": ["body", "BM25", text], "limit": DEPTH},
            {"rank_by": ["vector", "ANN", encoded(vector)], "limit": DEPTH, "recall": setting},
        ]
        return self.query({"queries": rankings, "rerank_by": ["RRF"], "limit": K})

    def ask(self, request):
        return self.connections.send(request)

    def ids(self, answer):
        answer = json.loads(answer)
        rows = answer["results"][0]["rows"] if "results" in answer else answer["rows"]
        return [row["id"] for row in rows]

    def pids(self):
        return [self.server.pid]

    def close(self):
        stop(self.server)
