"""The three rooms behind the door: what a Memory and its scoped views share."""

import atexit
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from agentmem.config import Config
from agentmem.embedding.custom import GivenEmbedder
from agentmem.embedding.embedder import Embedder
from agentmem.embedding.model_card import ModelCard
from agentmem.engine.deferred import Backlog
from agentmem.engine.runtime import ModelRuntimes
from agentmem.platform.forks import restart
from agentmem.platform.signals import Lock, holds_locks, is_amid_locks, started
from agentmem.search.index_cache import IndexCache
from agentmem.stats import Timings
from agentmem.storage.open import open_store
from agentmem.storage.types import Erased, Keep

P = ParamSpec("P")
T = TypeVar("T")


def public(call: Callable[P, T]) -> Callable[P, T]:
    """Makes a method one of the public calls. A signal handler that strikes amid one closes on another thread."""
    return holds_locks(call)


class Engine:
    """Opens the store and prepares the rest, all of it cheap: models, threads and indexes come with their first use.

    `ModelRuntimes` explains the wanted model.
    """

    @holds_locks
    def __init__(self, path: str, wanted: ModelCard | GivenEmbedder | Keep | None, config: Config) -> None:
        self.config = config
        self.timings = Timings()
        self.store = open_store(path, config, self.timings)
        try:
            self.runtimes = ModelRuntimes(self.store, config, self.timings, wanted)
            self.backlog = Backlog(
                self.store,
                self.runtimes,
                self.timings.errors,
                limit=config.pending_limit,
                patience=config.timeout,
                never_refines=config.refine == "never",
            )
        except BaseException:
            self.store.close()
            raise

        self._closed = False
        self._start()
        _open_engines.add(self)

    def _start(self) -> None:
        self._closing = Lock()  # Guards: that only one thread closes; others wait until it has.
        self._pid = os.getpid()  # Last, see Restartable.

    @property
    def embedder(self) -> Embedder:
        """Of the model that this process takes the store to be of."""
        return self.runtimes.current.embedder

    @property
    def index_cache(self) -> IndexCache:
        """Likewise."""
        return self.runtimes.current.index_cache

    def forget(self, erased: Erased) -> int:
        """Drops erased memories from caches and indexes; returns their number."""
        self.runtimes.forget(erased.digests)
        self.index_cache.drop([*erased.owners, None])
        return erased.count

    @holds_locks
    def close(self) -> None:
        """Closes in this order: callers that wait for the model are answered, then no call is left to write."""
        if self._pid != os.getpid():
            restart(self, self._start)
        with self._closing:
            if self._closed:
                return
            self._closed = True
            _open_engines.discard(self)
            self.runtimes.close()
            self.backlog.close()
            self.store.close()

    def close_aside(self) -> None:
        """Closes on a thread of its own.

        The garbage collector, or a signal, may strike in any thread, at any moment, even in one that holds a lock which
        closing needs.
        """
        if started(self.close, "agentmem-closer") is None and not is_amid_locks():
            self.close()  # Otherwise the end of the process does.


_open_engines: set[Engine] = set()


@atexit.register
def _close_open_engines() -> None:
    for engine in list(_open_engines):
        engine.close()
