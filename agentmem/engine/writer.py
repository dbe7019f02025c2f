"""Many items: drawn from any iterable, in chunks, the model always one chunk ahead of the commit."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

from agentmem.analyzer import stored_terms
from agentmem.config import Durability
from agentmem.deadline import Deadline
from agentmem.embedding.future import EmbeddingFuture, to_store
from agentmem.engine.engine import Engine
from agentmem.engine.runtime import ModelRuntime
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.quoting import shorten
from agentmem.records import Draft, Record, Scope, owners_of
from agentmem.storage.operations import Insert
from agentmem.validation import check_fields

CHUNK = 256
"""Items of an `add_batch` or `search_batch` that go together.

Enough that a commit costs nothing beside them, and few enough that memory stays small and a failed chunk is cheap.
"""

DEFERRED_CHUNK = 1000
"""The same for deferred items, where the commit is all there is."""

URGENT_TEXTS = 8
"""Calls with more texts than this are bulk work, which lets queries and small adds pass."""

Naming = Callable[[int], str]
"""What an error calls the item at a position."""


def as_item(position: int) -> str:
    return f"Item {position}"


Drawn = Draft | AgentMemError
"""An item that was checked: what will be stored, or what is wrong with it."""


class Drafter:
    """Turns items (texts, or mappings with the fields of `add`) into drafts; what an item does not say, `defaults` do.
    `scope_of` makes the scope of user, agent and run."""

    def __init__(
        self,
        defaults: dict[str, Any],
        scope_of: Callable[[Any, Any, Any], Scope],
        engine: Engine,
        naming: Naming = as_item,
    ) -> None:
        self._naming = naming
        self._defaults = defaults
        self._scope_of = scope_of
        self._config = engine.config

    def draw(self, items: Iterable[Any], *, together: bool) -> Iterator[Drawn]:
        """The items in order; a bad one raises with its position when `together`, or comes as its error."""
        for position, item in enumerate(items):
            try:
                yield self._draft_of(item)
            except AgentMemError as error:
                placed = type(error)(f"{self._naming(position)}: {error}")
                if together:
                    raise placed from None
                yield placed

    def _draft_of(self, item: Any) -> Draft:
        if isinstance(item, str):
            item = {"content": item}
        if not isinstance(item, Mapping):
            raise InvalidInputError(f"{shorten(item)} is a {type(item).__name__}; pass a text or a mapping.")
        check_fields(item)
        fields = self._defaults | dict(item)
        if "ttl" in item or "expires_at" in item:  # Two ways to say one thing: what the item says, it says of both.
            fields |= {"ttl": item.get("ttl"), "expires_at": item.get("expires_at")}
        content = fields.pop("content", None)
        scope = self._scope_of(fields.pop("user_id"), fields.pop("agent_id"), fields.pop("run_id"))
        return Draft.of(content, scope, self._config, **fields)


class Chunk:
    """Some items on their way: sent to the model when made (deferred ones are not), then stored."""

    def __init__(
        self,
        engine: Engine,
        drawn: list[Drawn],
        timeout: float,
        *,
        start: int,
        later: "Later | None",
        durability: Durability | None,
        naming: Naming,
    ) -> None:
        """`start` is the position of the first item among all."""
        self._naming = naming
        self._engine = engine
        self._durability = durability
        self._start = start
        self._drawn = drawn
        self._drafts = [draft for draft in drawn if isinstance(draft, Draft)]
        self._sent: tuple[ModelRuntime, EmbeddingFuture] | None = None
        self._later = later
        if later is not None:
            later.admit(len(self._drafts), timeout)
        elif self._drafts:
            self._sent = engine.runtimes.through(partial(self._send, timeout=timeout))

    def _send(self, runtime: ModelRuntime, timeout: float) -> tuple[ModelRuntime, EmbeddingFuture]:
        urgent = len(self._drafts) <= URGENT_TEXTS
        texts, homes = [draft.content for draft in self._drafts], [draft.scope.home for draft in self._drafts]
        return runtime, runtime.embedder.send(texts, homes, "document", urgent=urgent, timeout=timeout)

    def cancel(self) -> None:
        """Gives the items up."""
        if self._sent is not None:
            self._sent[1].cancel()
        if self._later is not None:
            self._later.wake(len(self._drafts))

    def store(self, timeout: float, *, together: bool) -> list[Record | AgentMemError]:
        """Commits the items in one transaction; returns a record or an error for each, in order."""
        engine, drafts = self._engine, self._drafts
        stored: list[Record | AgentMemError] = []
        try:
            if self._later is not None and drafts:
                stored = engine.store.commit(
                    inserts_of(drafts, Deadline(timeout)), atomic=together, durability=self._durability
                )
            elif drafts:
                stored = engine.runtimes.through(partial(self._store, timeout=timeout, together=together))
        except AgentMemError as error:
            if error.position is None:
                raise
            raise type(error)(f"{self._naming(self._start + error.position)}: {error}") from error
        finally:
            if self._later is not None:
                self._later.wake(_missed(drafts, stored))
        records = iter(stored)
        return [next(records) if isinstance(draft, Draft) else draft for draft in self._drawn]

    def _store(self, runtime: ModelRuntime, timeout: float, *, together: bool) -> list[Record | AgentMemError]:
        if self._sent is None or self._sent[0] is not runtime:  # The store has moved to another model since.
            self._sent = None
            self._sent = self._send(runtime, timeout)
        # The store refuses the answers of a model that was left meanwhile, so their errors are dropped.
        embedded = self._sent[1].embedded(timeout)
        inserts = inserts_of(self._drafts, Deadline(timeout))
        for insert, vector in zip(inserts, embedded, strict=True):
            insert.vector = vector
        return self._engine.store.commit(inserts, model=runtime.identity, atomic=together, durability=self._durability)


def inserts_of(drafts: Iterable[Draft], deadline: Deadline) -> list[Insert]:
    """Returns the drafts as operations, with the terms of their texts and without vectors. They are made here, not in
    the commit, whose thread works for many.

    Raises:
        DeadlineError: that took longer than the deadline allows.
    """
    return [Insert(draft, stored_terms(draft.content, draft.created_at, deadline)) for draft in drafts]


def store_all(
    engine: Engine,
    drawn: Iterator[Drawn],
    timeout: float,
    *,
    together: bool,
    defer: bool,
    durability: Durability | None = None,
    naming: Naming = as_item,
) -> list[Record | AgentMemError]:
    """Stores the items, a commit a chunk. When the items or a chunk raise, what came before is stored and nothing after
    it."""
    results: list[Record | AgentMemError] = []

    def chunks() -> Iterator[Chunk]:
        start = 0
        later = Later.of(engine, defer=defer)
        while items := list(islice(drawn, CHUNK if later is None else DEFERRED_CHUNK)):
            yield Chunk(engine, items, timeout, start=start, later=later, durability=durability, naming=naming)
            start += len(items)

    one_ahead(chunks(), lambda chunk: results.extend(chunk.store(timeout, together=together)))
    return results


class OnItsWay(Protocol):
    """Something that was sent to the model when it was made, and can be given up."""

    def cancel(self) -> None: ...


C = TypeVar("C", bound=OnItsWay)


def one_ahead(chunks: Iterable[C], store: Callable[[C], object]) -> None:
    """Stores the chunks, each when the next one is on its way to the model, which so never waits for a commit. Whatever
    ends the chunks, those that came before are stored; when one cannot be stored, none after it is."""
    ahead: C | None = None
    try:
        for chunk in chunks:
            current, ahead = ahead, chunk
            if current is not None:
                try:
                    store(current)
                except BaseException:
                    ahead.cancel()
                    ahead = None
                    raise
    finally:
        if ahead is not None:
            store(ahead)


def remember(engine: Engine, draft: Draft, timeout: float, *, defer: bool) -> Record:
    """Stores one memory. Waits for its vector unless it is deferred, or the model has a fast half. Its error names no
    position."""
    later = Later.of(engine, defer=defer)
    if later is None:
        [record] = engine.runtimes.through(partial(_remember, engine, draft, timeout))
    else:
        stored: list[Any] = []
        later.admit(1, timeout)
        try:
            stored = engine.store.commit(inserts_of([draft], Deadline(timeout)))
        finally:
            later.wake(_missed([draft], stored))
        [record] = stored
    assert isinstance(record, Record)
    return record


def _remember(engine: Engine, draft: Draft, timeout: float, runtime: ModelRuntime) -> list[Any]:
    """The worker that makes the vector puts the write into the next commit. This thread sleeps until it is committed,
    or is woken to lead that commit."""
    embedder, deadline = runtime.embedder, Deadline(timeout)
    [insert] = inserts_of([draft], deadline)
    commit = engine.store.prepare([insert], model=runtime.identity)

    def enqueue(answered: EmbeddingFuture) -> None:
        [insert.vector] = to_store(answered.digests, answered.answers)
        commit.enqueue()

    future = None
    try:
        texts, homes = [draft.content], [draft.scope.home]
        future = embedder.send(texts, homes, "document", urgent=True, timeout=timeout, then=enqueue)
        return commit.result(deadline.left, of=timeout)
    except BaseException:
        commit.cancel()
        if future is not None:
            future.cancel()
        raise


class Later:
    """How memories with later vectors are admitted, and which work is woken for them."""

    def __init__(self, engine: Engine, *, refined: bool) -> None:
        backlog = engine.backlog
        self.admit = backlog.admit_refined if refined else backlog.admit
        self.wake: Callable[[int], object] = backlog.stir if refined else backlog.wake

    @classmethod
    def of(cls, engine: Engine, *, defer: bool) -> "Later | None":
        """None: the vectors are waited for. A model with a fast half is loaded meanwhile.

        Raises:
            ModelError: it cannot be loaded, which was found out before.
        """
        refined = engine.runtimes.current.progressive
        if refined and not defer:
            engine.embedder.warm()
        return cls(engine, refined=refined) if refined or defer else None


def _missed(drafts: list[Draft], stored: list[Record | AgentMemError]) -> int:
    """Returns how many of the drafts were not stored, because they failed or the same text was there.

    A draft with the id of that very memory counts as stored; the background counts again when its work is done.
    """
    records = [record for record in stored if isinstance(record, Record)]
    new = {(draft.scope.home, draft.id) for draft in drafts} & {(owners_of(each).home, each.id) for each in records}
    return len(drafts) - len(new)
