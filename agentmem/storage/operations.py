"""A write batch as data: what a store is asked to change, in order.

An engine interprets the operations inside a transaction of its own, as `interface.Store.prepare` says. Those that take
a vector may be given it until the batch is queued.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from agentmem.errors import AgentMemError
from agentmem.records import Draft, Embedded, Scope
from agentmem.storage.types import OnConflict, Pending, Revision

Vector: TypeAlias = Embedded | AgentMemError | None
"""The vector of a text. None: it follows later. An error: why it has none; the operation's own error then."""


@dataclass(slots=True)
class Insert:
    """Adds a memory with its event and the terms of its text.

    Its result is the Record, or, of a draft with `dedupe`, that of the oldest visible memory of this text and scope.
    DuplicateIdError: the id that was given is taken in its home.
    """

    draft: Draft
    terms: bytes
    vector: Vector = None


@dataclass(slots=True)
class Upsert:
    """Brings a memory from elsewhere under the id of its draft; it may be here already.

    Its result is an Outcome. DuplicateIdError: the id belongs to another memory, and `on_conflict` says "error", or
    "replace" where the other one is of another scope.

    Attributes:
        derived: the id comes from what the file says of the memory, so that a memory with this id is this very one.
            With "replace", another text or other metadata make a new version. A deleted memory stays deleted.
        dated: the draft's `created_at` was stated, and is not the moment of the import.
        other_id: the id that it gets, with "new_id", when its own belongs to another memory.
    """

    draft: Draft
    terms: bytes
    vector: Vector
    on_conflict: OnConflict
    derived: bool
    dated: bool
    other_id: str | None


@dataclass(slots=True)
class Update:
    """Gives a visible memory a new version. Its result is the Record as it then is.

    A version from another store's history is dated `since`; its event is dated like all others. NotFoundError: there is
    none to see. InvalidInputError: the merged metadata is too large.
    """

    id: str
    scope: Scope
    revision: Revision
    vector: Embedded | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Hides a memory; its text and history stay until they are purged. Its result is whether there was one to see."""

    id: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Restore:
    """Makes a deleted or expired memory visible again, without an expiry that has passed. Its result is the Record.

    NotFoundError: there never was such a memory in this scope.
    """

    id: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Expect:
    """Changes nothing. Its result is None. Outdated: the memory is not there to see, or has another content."""

    id: str
    scope: Scope
    content: str


@dataclass(frozen=True, slots=True)
class SetVector:
    """Gives a pending memory its vector, or the reason why it gets none; a memory that has changed or has its vector is
    left alone. Its result is None."""

    memory: Pending
    answer: Embedded | AgentMemError


Operation: TypeAlias = Insert | Upsert | Update | Delete | Restore | Expect | SetVector
