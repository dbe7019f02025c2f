"""The door of storage: what every engine offers, and nothing of how.

A `Store` holds the truth about all memories of one place. Reading goes through a `Snapshot` of one moment, changing
through batches of `operations`. Values that cross are in `types` and `agentmem.records`; `open.py` opens an engine.

Unless a method says otherwise, any thread may call it, it raises ClosedError after `close`, and StoreError (with its
kinds) when the engine refuses. What it returns as changed is committed, as durable as was asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from agentmem.config import Durability
from agentmem.deadline import Deadline
from agentmem.errors import AgentMemError
from agentmem.filters import FieldPath, Filter
from agentmem.progress import Tell
from agentmem.records import Embedded, Event, Record, Scope
from agentmem.storage.operations import Operation, Upsert
from agentmem.storage.types import (
    NEVER,
    Built,
    Digest,
    Erased,
    HomeText,
    Keys,
    ListedSegment,
    Move,
    MoveProgress,
    Owner,
    Pending,
    Position,
    Standing,
    States,
    StoredModel,
    TextPage,
    Vacuumed,
)


class Snapshot(Protocol):
    """The store at one moment, past or present. Belongs to the thread that opened it, until its block ends.

    What is read through it raises DeadlineError when that goes on beyond `deadline`.
    """

    deadline: Deadline | None
    moment: int
    """In microseconds; what has expired by then is not visible."""

    @property
    def seq(self) -> int:
        """The number of the last change that it sees."""

    @property
    def epoch(self) -> int:
        """A number that grows when nothing that was read before is true any more, as another file of the store has
        taken the place of the open one."""

    @property
    def model(self) -> str | None:
        """The identity of the model of its vectors; None of a store that has no model yet."""

    @property
    def has_pending(self) -> bool:
        """Whether it sees memories, of any owner, that wait for their vectors."""

    @property
    def segments(self) -> int:
        """A number that grows with every change of the list of sealed segments."""

    def require_model(self, identity: str) -> None:
        """Raises ModelMoved unless its vectors, if it has any, are of this model."""

    def get(self, id: str, scope: Scope) -> Record | None:
        """Returns the visible memory of a scope with an id.

        Raises:
            InvalidInputError: several homes of the scope have this id.
        """

    def page(
        self, scope: Scope, filters: Filter | None, *, newest_first: bool, after: tuple[int, int] | None, limit: int
    ) -> list[tuple[tuple[int, int], Record]]:
        """Returns visible memories by `created_at` and key, which never tie, each with its position, beyond `after`."""

    def count(self, scope: Scope, filters: Filter | None) -> int:
        """Returns the number of visible memories."""

    def scopes(self, scope: Scope, filters: Filter | None) -> list[Scope]:
        """Returns the exact scopes of the visible memories; each once, sorted, an owner that is not named first."""

    def history(self, id: str, scope: Scope) -> list[Event]:
        """Returns every event of a memory, deleted or not, oldest first; empty when the scope has none of this id."""

    def keys(self, scope: Scope, filters: Filter | None, among: Keys | None = None, *, since: int = 0) -> Keys:
        """Returns the keys of visible memories (or those `among` some) that changed after `since`, in no order."""

    def records(self, keys: Keys, scope: Scope) -> dict[int, Record]:
        """Returns the records of those keys that are visible in the scope; this decides, whatever an index holds."""

    def numbers(self, keys: Keys, scope: Scope, path: FieldPath) -> dict[int, float]:
        """Returns the numbers at a path of the metadata, of the memories that have one."""

    def changed(self, owner: Owner, since: int, until: int = NEVER) -> tuple[Keys, Keys]:
        """Returns what happened after `since` and up to `until`: the keys of erased memories, of any owner, and of the
        owner's memories whose last change falls there, in its order."""

    def states(self, owner: Owner, keys: Keys) -> Iterator[States]:
        """Yields those of the owner's memories that are live, some thousands at a time."""

    def unembedded(self, owner: Owner, keys: Keys) -> dict[int, str]:
        """Returns the texts of those of the owner's memories that wait for their vectors; in the past, of those that
        have none. A text that the model failed on is left out."""

    def listed_segments(self, owner: Owner) -> list[ListedSegment]:
        """Returns the owner's sealed segments, of the store's present model, in the order of their ranges."""

    def nth_change(self, owner: Owner, since: int, count: int) -> int | None:
        """Returns the seq of the `count`-th of the owner's undeleted memories by last change after `since`."""

    def live_count(self, owner: Owner, since: int, until: int) -> int:
        """Returns how many of the owner's memories changed last after `since`, up to `until`, and are not deleted."""

    def first_pending(self, owner: Owner) -> int | None:
        """Returns the least seq of the owner's memories that wait for their vectors."""


class Commit(Protocol):
    """A write batch on its way into a commit."""

    def enqueue(self) -> None:
        """Has the batch be part of the next commit, unless it was cancelled. Never blocks."""

    def result(self, timeout: float, *, of: float = 0.0) -> list[Any]:
        """Waits until the batch is committed; returns the result of each operation. Only the function that prepared it
        may call this.

        Raises:
            DeadlineError: It was not queued within `timeout` seconds (the rest `of` those allowed), and never will be.
            AgentMemError: it was refused; nothing of it was written.
        """

    def cancel(self) -> None:
        """Gives the batch up; unless it is being committed, it never will be. Always safe to call."""


class Reembedding(Protocol):
    """A store's way to another model, seen by one holder. Methods that change something raise Overtaken when another
    holder has taken the way over, and hold it for `seconds` more."""

    def take(self, target: StoredModel | None, seconds: float) -> Standing | None:
        """Takes the lease to move to `target` (None: to give a move up); None while another holder does just that.

        Raises:
            StoreBusyError: another holder moves the store to another model.
        """

    def release(self) -> None:
        """Gives the lease back, if it is held."""

    def begin(self, seconds: float, target: StoredModel) -> Move | None:
        """Begins the move or takes it up again; None for a store without a model, which takes the target."""

    def newest(self) -> int:
        """Returns the seq of the last change, up to which a pass goes."""

    def page(self, move: Move, position: Position, until: int) -> TextPage:
        """Returns the next texts behind a position that have a vector and no new one, of changes up to `until`."""

    def keep(
        self,
        seconds: float,
        position: Position,
        texts: Sequence[HomeText],
        answers: Sequence[Embedded | AgentMemError],
    ) -> Move:
        """Keeps new vectors, and how far the move has come."""

    def switch(self, seconds: float, position: Position, *, tail: int, complete: bool) -> bool:
        """Makes the new vectors the store's in one moment; False when more than `tail` memories changed behind the
        position, or, with `complete`, texts were replaced there."""

    def give_up(self, seconds: float) -> bool:
        """Erases some of the new vectors of an unwanted move; False when none is left."""

    def clear(self, seconds: float = 0.0) -> bool:
        """Erases some vectors of the model before; False when none is left. Needs no lease without a holder."""

    def has_old(self) -> bool:
        """Returns whether there is something to clear."""

    def progress(self) -> MoveProgress | None:
        """Returns how far the move has come; None when there is none."""


class SegmentCatalog(Protocol):
    """The list of a store's sealed segments, and the folder of their files."""

    @property
    def possible(self) -> bool:
        """Whether there is a folder for files."""

    @property
    def like(self) -> str:
        """The file whose mode and owner the segments' files get."""

    def new_file(self) -> Path:
        """Returns where the next segment goes; the folder is there."""

    def path_of(self, file: str) -> Path:
        """Returns where a listed file stands."""

    def add(self, holder: str, model: str, built: Built, since: int, epoch: int) -> ListedSegment | None:
        """Lists a segment in the place of others. None when that must not be: its lease was lost, the store is of
        another model or in another epoch, one of the others is gone, or a memory of it was purged after `since`."""

    def remove(self, keys: Iterable[int]) -> None:
        """Takes segments off the list."""

    def have_been_purged(self, keys: Keys, since: int) -> bool:
        """Returns whether any of the memories was purged after the change `since`."""

    def forget_models(self) -> None:
        """Takes the segments of models that the store has left off the list."""

    def sweep(self) -> None:
        """Removes files that are not listed."""


class Store(Protocol):
    """The memories of one place."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def segments(self) -> SegmentCatalog:
        """Its sealed segments."""

    def snapshot(
        self, *, as_of: datetime | None = None, show_expired: bool = False, deadline: Deadline | None = None
    ) -> AbstractContextManager[Snapshot]:
        """Opens a view of now, seeing all that was acknowledged before, or of what was known at an instant."""

    def cursor(
        self,
        scope: Scope,
        filters: Filter | None,
        *,
        show_expired: bool,
        digest_of: Digest | None,
        deadline: Deadline | None = None,
    ) -> Iterator[list[tuple[Record, Embedded | None]]]:
        """Fixes what is visible now (within `deadline`), and yields it page by page in the order of adding, as it is
        now; what is purged meanwhile is left out. With vectors where `digest_of` is given. No read stays open."""

    def prepare(
        self,
        batch: Sequence[Operation],
        *,
        model: str | None = None,
        atomic: bool = True,
        durability: Durability | None = None,
    ) -> Commit:
        """Makes a batch ready for one transaction, in which its operations are applied in order. Writes nothing yet.

        Args:
            model: The identity of the model that made the vectors; ModelMoved when the store is of another by then.
            atomic: The first refused operation raises its error (with its position, in a batch of arrivals), and
                nothing is written; otherwise errors stand in the results, and the rest is written.
            durability: None: as the store was opened.
        """

    def commit(
        self,
        batch: Sequence[Operation],
        *,
        model: str | None = None,
        atomic: bool = True,
        durability: Durability | None = None,
    ) -> list[Any]:
        """Prepares a batch, queues it and waits; returns the result of each operation."""

    def delete_all(self, scope: Scope, filters: Filter | None, deadline: Deadline) -> int:
        """Hides every visible memory that passes, in transactions of thousands; returns how many.

        Raises:
            DeadlineError: the time is over; what was hidden, which the message counts, stays so.
        """

    def present(self, batch: Sequence[Upsert]) -> list[bool]:
        """Returns which of the memories from elsewhere are here already, as they are."""

    def vectors(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Returns the stored vectors of those digests, where there are any."""

    def model(self) -> StoredModel | None:
        """Returns what it remembers of its model; None when it has none yet."""

    def bind_model(self, model: StoredModel) -> StoredModel:
        """Remembers a model unless it has one; returns the one that it has."""

    def last_pending(self, scope: Scope) -> int | None:
        """Returns the key of the scope's newest memory that waits for its vector; None when none does."""

    def pending(self, scope: Scope, *, after: int, until: int, limit: int) -> list[Pending]:
        """Returns memories that wait for their vectors, oldest first, with keys beyond `after` and up to `until`."""

    def pending_count(self) -> int:
        """Returns how many memories, of all owners, wait for their vectors."""

    def lease(self, name: str, holder: str, seconds: float) -> float:
        """Takes or renews the right to some background work; 0, or the seconds that another holder's still runs. It
        only spares double work: ignoring it does no harm."""

    def release(self, name: str, holder: str) -> None:
        """Gives a lease back, if it is held."""

    def reembedding(self, holder: str | None = None) -> Reembedding:
        """Returns the way to another model, as one holder sees it."""

    def purge(
        self, scope: Scope, id: str | None = None, *, hidden_before: datetime | None = None, tell: Tell
    ) -> Erased:
        """Erases a scope's memories (or the one with an id), or all that were deleted or had expired before an
        instant, for good; no byte of them is left on return.

        Raises:
            StoreBusyError, StoreFullError: erased, but bytes may be left; the message says what to do.
        """

    def stats(self) -> dict[str, Any]:
        """Returns counts of rows and bytes, by the names of `agentmem.stats.StoreStats`."""

    def check(self, tell: Tell) -> list[str]:
        """Returns what is wrong with it, a sentence each; empty when it is healthy."""

    def repair(self, digest_of: Digest, dimension: int, tell: Tell) -> list[str]:
        """Repairs what `check` names; returns what was done, a sentence each."""

    def backup(self, path: str, *, overwrite: bool) -> None:
        """Copies it as it is at one moment into a new file."""

    def vacuum(
        self, *, hidden_before: datetime | None, full: bool, stop: Callable[[float], bool], shown: bool
    ) -> Vacuumed:
        """Gives unneeded space back, in short steps; `stop` waits the given seconds and says whether to end early."""

    def close(self) -> None:
        """Closes it. May be called twice."""
