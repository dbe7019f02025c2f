"""The embedder and the index of a store's model, and how a move of the store to another model is followed.

A `ModelRuntime` belongs to its model for good. Work that was begun with one ends with it. It counts only when the store
is of that model in the transaction of the commit. Otherwise it is done again with that of the store's new model.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from agentmem.config import Config
from agentmem.deadline import Deadline
from agentmem.embedding.catalog import find_model
from agentmem.embedding.custom import AbsentModel, GivenEmbedder
from agentmem.embedding.embedder import Embedder
from agentmem.embedding.model_card import ModelCard
from agentmem.errors import ClosedError, ModelError, ModelMismatchError
from agentmem.platform.failpoints import reach
from agentmem.platform.forks import restart
from agentmem.platform.signals import Lock, condition
from agentmem.search.index_cache import IndexCache
from agentmem.search.owner_index import Unsealed
from agentmem.search.searcher import Searcher
from agentmem.search.segments.builder import Sealer
from agentmem.stats import Timings
from agentmem.storage.interface import Store
from agentmem.storage.types import Keep, ModelMoved, Owner, StoredModel

DEFAULT_MODEL = "minilm-mixed"
"""Of a new store, unless another is named."""

OPENING_TRIES = 5
"""Others may give a new store its model, or move it, while it is being opened, but not five times."""

CLOSE_WAIT_SECONDS = 5.0
"""How long the end waits for moves on other threads to let go of the store."""

Source = ModelCard | GivenEmbedder | AbsentModel

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ModelRuntime:
    """A model's embedder, the indexes of its vectors, and the searches over these; `model` is the store's name for
    it."""

    source: Source
    model: StoredModel
    embedder: Embedder
    index_cache: IndexCache
    searcher: Searcher
    progressive: bool
    """Whether no add waits for its vector: searches make its fast half."""

    def temporary_cache(self) -> IndexCache:
        """Returns an index cache for one call."""
        fast = self.embedder.fast_documents if self.progressive else None
        return IndexCache(self.embedder.dimension, 0, fast=fast)

    @property
    def identity(self) -> str:
        return self.embedder.identity

    def close(self) -> None:
        """Answers all callers that wait for the model, and ends its background work."""
        self.embedder.close()
        self.index_cache.close()


class ModelRuntimes:
    """Holds the `ModelRuntime` of a store's model; any thread may call every method."""

    def __init__(
        self, store: Store, config: Config, timings: Timings, wanted: ModelCard | GivenEmbedder | Keep | None
    ) -> None:
        """KEEP: whatever the store's model is, or, where it has none, the default. None: none at all.

        Raises:
            ModelMismatchError: the store is of another model than the one that is wanted, or its own is not here.
        """
        self._store = store
        self._config = config
        self._timings = timings
        self.current = self._opened(wanted)
        self._start()

    def _start(self) -> None:
        self._lock = Lock()  # Guards: current, _ahead. Held while a model's card is read.
        self._changed = condition(self._lock)
        self._ahead: list[ModelRuntime] = []  # Of the models that threads of this process are moving the store to.
        self.closing = threading.Event()
        self._pid = os.getpid()  # Last, see Restartable.

    def _opened(self, wanted: ModelCard | GivenEmbedder | Keep | None) -> ModelRuntime:
        for _ in range(OPENING_TRIES):
            stored = self._store.model()
            if wanted is None:
                return self._made(_absent(stored))
            if not isinstance(wanted, Keep):
                runtime = self._made(wanted)
            else:
                runtime = self._made(find_model(DEFAULT_MODEL) if stored is None else self._found(stored))
            stored = self._store.bind_model(runtime.model)
            if stored.is_same(runtime.model):
                return runtime
            if not isinstance(wanted, Keep):
                break
        named = repr(wanted.name) if isinstance(wanted, ModelCard) else "embedder"
        raise ModelMismatchError(
            f"The vectors in {self._store.path!r} were made by {stored}, not by {runtime.model}; open it without "
            f"naming a model, or move it to that one with Memory({self._store.path!r}, model=None).reembed({named})."
        )

    def _made(self, source: Source) -> ModelRuntime:
        embedder = Embedder(source, self._config, self._store.vectors, self._timings)
        sealer = Sealer(self._store, embedder.identity, self._timings.errors)
        in_int8 = self._config.index_vectors == "int8"
        progressive = embedder.has_fast and self._config.refine != "before_return"
        fast = embedder.fast_documents if progressive else None
        index_cache = IndexCache(embedder.dimension, self._config.index_bytes, sealer, fast, in_int8=in_int8)
        model = StoredModel(
            embedder.identity, embedder.name, embedder.dimension, embedder.document_prefix, _place_of(source)
        )
        return ModelRuntime(source, model, embedder, index_cache, Searcher(index_cache), progressive)

    def _found(self, stored: StoredModel) -> ModelCard:
        """The model that a store says it is of, wherever it is on this machine."""
        reason = "the model of that name is another one"
        for name in filter(None, (stored.source, stored.name)):
            try:
                for dimension in (None, stored.dimension):  # Whole, or cut.
                    card = find_model(name, dimension=dimension)
                    if card.identity == stored.identity:
                        return card
            except ModelError as error:
                reason = str(error).rstrip(".")
        raise ModelMismatchError(
            f"The vectors in {self._store.path!r} are of {stored}, which cannot be used here ({reason}); name its "
            "folder with model=, pass it with embedder=, or move the store to another with "
            f"Memory({self._store.path!r}, model=None).reembed({DEFAULT_MODEL!r})."
        )

    def bind(self) -> None:
        """Has the store remember whose vectors it holds, unless it does; of no model there is nothing to remember."""
        if not self.current.embedder.absent:
            self._store.bind_model(self.current.model)

    # -- following ------------------------------------------------------------------------------------------------

    def through(self, call: Callable[[ModelRuntime], T], deadline: Deadline | None = None) -> T:
        """Returns the result of the call with the store's model.

        The call runs again when the store has moved to another model meanwhile and nothing of it was stored, and when
        memories had to be sealed first.

        Raises:
            ModelMismatchError: The store's model is not on this machine.
            DeadlineError: The sealing lasted beyond the deadline; sealed segments stay, for the next call.
        """
        sealed: set[Owner] = set()
        while True:
            runtime = self.current
            try:
                return call(runtime)
            except ModelMoved:
                self.follow(runtime)
            except Unsealed as found:
                runtime.index_cache.seal_tail(found.owner, again=found.owner in sealed, deadline=deadline)
                sealed.add(found.owner)
                if deadline is not None:
                    deadline.check()
            except ClosedError:
                if self.current is runtime:
                    raise

    def follow(self, left: ModelRuntime) -> ModelRuntime:
        """Returns the `ModelRuntime` of the store's present model. Callers that still wait for the one before get
        ClosedError."""
        if self._pid != os.getpid():
            restart(self, self._start)
        with self._lock:
            if self.current is not left:
                return self.current
            stored = self._store.model()
            if stored is None or stored.is_same(left.model):
                return left
            reach("reembed: before a process follows")
            prepared = [runtime for runtime in self._ahead if runtime.model.is_same(stored)]
            self.current = prepared[0] if prepared else self._made(self._followed(left.source, stored))
            current = self.current
        left.close()
        return current

    def _followed(self, source: Source, stored: StoredModel) -> Source:
        if isinstance(source, AbsentModel):
            return _absent(stored)
        if isinstance(source, ModelCard):
            return self._found(stored)
        raise ModelMismatchError(
            f"{self._store.path!r} was moved to {stored} while it was open with "
            f"embedder={type(source).__name__}; close it and open it again, with that model."
        )

    @contextmanager
    def ahead(self, source: ModelCard | GivenEmbedder) -> Iterator[ModelRuntime]:
        """Yields the `ModelRuntime` of a model that the store is to move to; once it has, calls use this one."""
        if self._pid != os.getpid():
            restart(self, self._start)
        runtime = self._made(source)
        with self._lock:
            if self.closing.is_set():
                raise ClosedError("The memory is closed; open a new Memory.")
            self._ahead.append(runtime)
        try:
            yield runtime
        finally:
            with self._lock:
                self._ahead.remove(runtime)
                self._changed.notify_all()
                followed = self.current is runtime
            if not followed:
                runtime.close()

    def forget(self, digests: set[bytes]) -> None:
        """Drops vectors from the caches of every model."""
        for runtime in (self.current, *self._ahead):
            runtime.embedder.forget(digests)

    def close(self) -> None:
        """Answers callers that wait for a model, and waits (bounded) for moves to release the store."""
        if self._pid != os.getpid():
            restart(self, self._start)
        self.closing.set()
        with self._lock:
            runtimes = [self.current, *self._ahead]
        for runtime in runtimes:
            runtime.close()
        with self._lock:
            self._changed.wait_for(lambda: not self._ahead, CLOSE_WAIT_SECONDS)


def _place_of(source: Source) -> str:
    """The folder where other processes find a model that its name alone does not lead to."""
    if not isinstance(source, ModelCard):
        return ""
    with suppress(ModelError):
        if find_model(source.name).folder == source.folder:
            return ""
    return str(source.folder.absolute())


def _absent(stored: StoredModel | None) -> AbsentModel:
    if stored is None:
        return AbsentModel()
    return AbsentModel(stored.identity, stored.dimension, stored.name, stored.document_prefix)
