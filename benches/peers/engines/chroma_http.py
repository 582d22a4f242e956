"""Chroma's server over HTTP: a graph, attributes in SQLite."""

import json
import os
import sys
from pathlib import Path

import chromadb

from engine import CONSTRUCTION, K, LINKS, Base
from http_client import Connections, free_port, start, stop

VERSION = f"chromadb {chromadb.__version__}"
COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


class Engine(Base):
    # The breadth of a search is fixed when the collection is made.
    settings = [100]
    can = ("near", "filters")

    def serve(self):
        port = free_port()
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(self.store / "chroma")]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        self.server = start(command, port, self.store / "server.log", {**os.environ, "ANONYMIZED_TELEMETRY": "False"})
        self.connections = Connections(port)
        settings = chromadb.Settings(anonymized_telemetry=False)
        return lambda: chromadb.HttpClient("127.0.0.1", port, settings=settings)

    def build(self, rows, filters):
        graph = {"space": "cosine", "max_neighbors": LINKS, "ef_construction": CONSTRUCTION, "ef_search": 100}
        collection = self.serve()().create_collection("rows", configuration={"hnsw": graph})
        for batch in rows.batches():
            collection.add(
                ids=[str(i) for i in batch],
                embeddings=rows.vectors[batch.start : batch.stop],
                metadatas=[rows.attributes(i) for i in batch],
                documents=[rows.body(i) for i in batch],
            )
        # The first search finds everything indexed.
        collection.query(query_embeddings=[rows.vectors[0]], n_results=1, include=[])

    def open(self):
        self.serve()
        found = self.connections.json("GET", f"{COLLECTIONS}/rows")
        self.path = f"{COLLECTIONS}/{found['id']}/query"

    def filter(self, filter):
        conditions = [{a: {"$eq" if op == "eq" else "$gte": v}} for a, op, v in filter.conditions]
        return conditions[0] if len(conditions) == 1 else {"$and": conditions}

    def near(self, vector, setting, filter):
        body = {"query_embeddings": [vector.tolist()], "n_results": K, "include": []}
        return self.connections.request("POST", self.path, {**body, "where": filter} if filter else body)

    def ask(self, request):
        return self.connections.send(request)

    def ids(self, answer):
        return [int(i) for i in json.loads(answer)["ids"][0]]

    def pids(self):
        return [self.server.pid]

    def close(self):
        stop(self.server)
