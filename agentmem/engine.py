"""The three rooms behind the door: what a Memory and its scoped views share."""

from agentmem.backlog import Backlog
from agentmem.config import Config
from agentmem.embedding.catalog import ModelCard
from agentmem.embedding.embedder import Embedder, GivenEmbedder
from agentmem.search.retriever import Retriever
from agentmem.search.shelf import Shelves
from agentmem.statistics import Timings
from agentmem.storage.store import Store


class Engine:
    """Opens the store and readies the rest, all of it cheap: models, threads and shelves come with their first use."""

    def __init__(self, path: str, source: ModelCard | GivenEmbedder, config: Config) -> None:
        self.config = config
        self.timings = Timings()
        self.store = Store(path, config, self.timings)
        try:
            self.embedder = Embedder(source, config, self.store.known_vectors, self.timings)
            self.store.bind_model(
                identity=self.embedder.identity, name=self.embedder.name, dimension=self.embedder.dimension
            )
            self.shelves = Shelves(self.embedder.dimension, config.shelf_bytes)
            self.retriever = Retriever(self.shelves)
            self.backlog = Backlog(self.store, self.embedder, limit=config.pending_limit)
        except BaseException:
            self.store.close()
            raise

    def close(self) -> None:
        """In this order: who waits for the model is answered, then nobody is left to write."""
        self.embedder.close()
        self.backlog.close()
        self.store.close()
