"""bm25s: text only, all scores computed ahead as a sparse matrix."""

import bm25s
import Stemmer

from engine import K, Base

VERSION = f"bm25s {bm25s.__version__}"


class Engine(Base):
    can = ("words",)

    def tokens(self, texts):
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    def build(self, rows, filters):
        scores = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        scores.index(self.tokens([rows.body(i) for i in range(rows.count)]), show_progress=False)
        scores.save(str(self.store))

    def open(self):
        self.scores = bm25s.BM25.load(str(self.store), mmap=True)

    def words(self, text):
        return text

    def ask(self, request):
        # Reading the words is part of a search, as it is for the others.
        return self.scores.retrieve(self.tokens([request]), k=K, show_progress=False)[0][0]
