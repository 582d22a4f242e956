"""What every engine under test offers; a module in `engines/` per engine has a class `Engine` of this kind.

A search is in three steps so that only the engine is timed: `near`, `words` or `hybrid` make a request in the engine's own
types, `ask` answers it and is timed, `ids` reads the rows' numbers from the answer.
"""

K = 10
# Of every graph: links of a node and candidates while building.
LINKS, CONSTRUCTION, BUILD_THREADS = 16, 128, 2


class Base:
    # What trades recall for time, lowest recall first.
    settings = [None]
    # Any of "near", "filters", "words", "hybrid".
    can = ("near",)
    # Whether two threads may ask at once.
    threads = True

    def __init__(self, store, dims):
        self.store, self.dims = store, dims

    def build(self, rows, filters):
        """Loads all rows; afterwards they are durable and the engine says that its index is finished."""
        raise NotImplementedError

    def open(self):
        """Opens what was built, in a new process."""
        raise NotImplementedError

    def filter(self, filter):
        """A filter in the engine's own types, made once."""
        return filter

    def near(self, vector, setting, filter):
        """A request for the K nearest rows that match `filter`, which is from `filter()` or None."""
        raise NotImplementedError

    def words(self, text):
        """A request for the K best rows by words."""
        raise NotImplementedError

    def hybrid(self, vector, text, setting):
        """A request for the K best rows by both rankings, fused by reciprocal rank."""
        raise NotImplementedError

    def ask(self, request):
        raise NotImplementedError

    def ids(self, answer):
        return answer

    def pids(self):
        """The processes that hold the index; none when it is this one."""
        return []

    def close(self):
        pass
