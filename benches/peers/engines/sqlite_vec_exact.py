"""sqlite-vec: compares every vector in a table of SQLite; text is FTS5's, which removes no stop words."""

import re

import pysqlite3 as sqlite3
import sqlite_vec

from data import NUMBERS, WORDS
from engine import K, Base

VERSION = f"sqlite-vec {sqlite_vec.__version__}" if hasattr(sqlite_vec, "__version__") else "sqlite-vec"
MAPPED_BYTES = 1 << 30


class Engine(Base):
    can = ("near", "filters", "words")
    threads = False

    def connect(self):
        self.database = sqlite3.connect(str(self.store / "rows.sqlite"))
        self.database.enable_load_extension(True)
        sqlite_vec.load(self.database)
        for setting in ("journal_mode=wal", "synchronous=full", f"mmap_size={MAPPED_BYTES}"):
            self.database.execute(f"pragma {setting}")

    def build(self, rows, filters):
        self.connect()
        columns = [f"{name} text" for name in WORDS] + [f"{name} integer" for name in NUMBERS]
        self.database.execute(
            f"create virtual table near using vec0(id integer primary key, vector float[{self.dims}] "
            f"distance_metric=cosine, {', '.join(columns)})"
        )
        self.database.execute("create virtual table words using fts5(body, tokenize='porter unicode61')")
        places = ", ".join("?" * (2 + len(columns)))
        for batch in rows.batches():
            with self.database:
                one = lambda i: (i, rows.vectors[i].tobytes(), *rows.attributes(i).values())
                self.database.executemany(f"insert into near values({places})", (one(i) for i in batch))
                bodies = ((i, rows.body(i)) for i in batch)
                self.database.executemany("insert into words(rowid, body) values(?, ?)", bodies)
        with self.database:
            self.database.execute("insert into words(words) values('optimize')")
        self.database.execute("pragma wal_checkpoint(truncate)")

    def open(self):
        self.connect()

    def filter(self, filter):
        return filter.sql()

    def near(self, vector, setting, filter):
        more = f" and {filter}" if filter else ""
        return f"select id from near where vector match ? and k = {K}{more} order by distance", (vector.tobytes(),)

    def words(self, text):
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", text))
        return "select rowid from words where words match ? order by rank limit ?", (words, K)

    def ask(self, request):
        return self.database.execute(*request).fetchall()

    def ids(self, answer):
        return [row[0] for row in answer]

    def close(self):
        self.database.close()
