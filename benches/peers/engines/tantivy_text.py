"""tantivy: text only, stemmed, without stop words."""

import importlib.metadata

import tantivy

from engine import K, Base

VERSION = f"tantivy {importlib.metadata.version('tantivy')}"
BUILD_BYTES = 256 << 20


class Engine(Base):
    can = ("words",)

    def make(self):
        analyzer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        for filter in (
            tantivy.Filter.remove_long(40),
            tantivy.Filter.lowercase(),
            tantivy.Filter.stopword("english"),
            tantivy.Filter.stemmer("english"),
        ):
            analyzer = analyzer.filter(filter)
        schema = tantivy.SchemaBuilder()
        schema.add_integer_field("id", stored=True, indexed=False, fast=True)
        schema.add_text_field("body", stored=False, tokenizer_name="bodies")
        index = tantivy.Index(schema.build(), path=str(self.store))
        index.register_tokenizer("bodies", analyzer.build())
        return index

    def build(self, rows, filters):
        index = self.make()
        writer = index.writer(BUILD_BYTES, 1)
        for i in range(rows.count):
            writer.add_document(tantivy.Document(id=i, body=rows.body(i)))
        writer.commit()
        writer.wait_merging_threads()

    def open(self):
        self.index = self.make()
        self.index.reload()
        self.searcher = self.index.searcher()

    def words(self, text):
        return self.index.parse_query_lenient(text.replace(":", " "), ["body"])[0]

    def ask(self, request):
        return [self.searcher.doc(address)["id"][0] for _, address in self.searcher.search(request, K).hits]
