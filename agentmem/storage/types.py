"""The values that cross the door of storage, the same for every engine."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentmem.errors import AgentMemError, NotFoundError
from agentmem.ids import Home, at_home, digests_by
from agentmem.records import Scope
from agentmem.stats import VacuumReport

NEVER = 2**63 - 1
"""`expires_at` of a memory that does not expire, in arrays."""


Keys = npt.NDArray[np.int64]


Owner = tuple[str, str] | None
"""A field and its value, as in ("user_id", "ana"); None for all owners."""


@dataclass(frozen=True, slots=True)
class States:
    """Live memories as an index needs them, n of them in no order, m of them with a vector.

    Attributes:
        keys: int64 (n,).
        created_at, expires_at: int64 (n,), microseconds; NEVER when there is none.
        embedded: bool (n,); False while the vector is still to come, or when it never will.
        vectors: the float16 numbers of those that have one, one behind the other; all m of equal length.
        terms: the uint32 numbers of all, likewise.
        term_counts: int64 (n,), how many of them each has.
        runs: the user and the run of each, None where it has none.
    """

    keys: Keys
    created_at: Keys
    expires_at: Keys
    embedded: npt.NDArray[np.bool_]
    vectors: npt.NDArray[np.float16]
    terms: npt.NDArray[np.uint32]
    term_counts: npt.NDArray[np.int64]
    runs: list[tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class ListedSegment:
    """A sealed segment as the database lists it."""

    key: int
    first: int
    last: int
    places: int
    file: str
    size: int
    checksum: bytes
    has_graph: bool


Digest = Callable[[Home, str], bytes]
"""Under which digest the vector of a home's text is stored."""


class ModelMoved(AgentMemError):
    """Vectors were prepared with a model that is no longer the store's; nothing was changed.

    It never leaves the package: the caller follows the store and tries again.
    """


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A store's model. The prefix of its texts gives their digests without the model itself.

    `source` is the place where it was found, such as a folder, so that other processes find it too.
    """

    identity: str
    name: str
    dimension: int
    document_prefix: str = ""
    source: str = ""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "StoredModel":
        prefix, source = values.get("document_prefix", ""), values.get("source", "")
        return cls(values["identity"], values["name"], values["dimension"], prefix, source)

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def is_same(self, other: "StoredModel | None") -> bool:
        """Whether the vectors of both may be compared."""
        return other is not None and (self.identity, self.dimension) == (other.identity, other.dimension)

    def digests(self) -> Digest:
        """What gives a home's text the digest under which its vector is stored."""
        digest, prefix = digests_by(self.identity), self.document_prefix
        return lambda home, text: at_home(digest(prefix + text), home)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.identity[:80]}, {self.dimension} dimensions)"


UNKNOWN = StoredModel("", "none", 1)
"""In the place of the model of a store that has none yet, and so no vectors."""


class Outdated(AgentMemError):
    """A memory does not say any more what it said when a change was planned; nothing was written."""


class Keep:
    """The type of KEEP: leave this field of the memory as it is."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP = Keep()


@dataclass(frozen=True, slots=True)
class Revision:
    """What an update changes. `content` (with its `terms`) and `metadata` of None leave them as they are."""

    content: str | None
    terms: bytes | None
    metadata: dict[str, Any] | None
    replace_metadata: bool
    expires_at: datetime | Keep | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A memory without a vector, as it stood when it was read."""

    key: int
    content: str
    home: Home


OnConflict = Literal["error", "skip", "replace", "new_id"]


Outcome = Literal["imported", "replaced", "skipped"]


@dataclass(slots=True)
class Erased:
    """What was erased: the number of memories, their owners, and the digests of their texts (for every model of the
    store's vectors)."""

    count: int = 0
    owners: set[tuple[str, str]] = field(default_factory=set)
    digests: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Built:
    """A segment whose file is complete; `replaced` are the segments that it replaces, `right` the lease under which it
    was built."""

    owner: Owner
    first: int
    last: int
    file: str
    size: int
    checksum: bytes
    has_graph: bool
    keys: Keys
    replaced: tuple[ListedSegment, ...]
    right: str


HomeText = tuple[Home, str]


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the texts: of memories by `seq` and key, of the history by `seq`."""

    seq: int = 0
    key: int = 0
    event: int = 0


BEGINNING = Position()


@dataclass(frozen=True, slots=True)
class Move:
    """A move as it stands in `meta`. `refused` are the keys of the vectors whose texts the new model fails on."""

    model: StoredModel
    position: Position = BEGINNING
    refused: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Move":
        return cls(StoredModel.of(values["model"]), Position(**values["position"]), tuple(values["refused"]))

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Standing:
    """A store's model, its move to another one, and whether vectors of an older model are left."""

    model: StoredModel | None
    move: Move | None
    has_old: bool


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """The target of a move, and how many of how many distinct texts have their new vectors."""

    name: str
    done: int
    total: int


class Overtaken(AgentMemError):
    """Another process has taken the move over, because this one made no progress for too long."""


@dataclass(frozen=True, slots=True)
class TextPage:
    """Texts without a new vector, each with its home, the position behind them, and whether they are the last of their
    pass."""

    texts: list[HomeText]
    position: Position
    is_last: bool


def is_vector(data: bytes, dimension: int) -> bool:
    """Whether the bytes are a stored vector: float16, of this dimension, of unit length."""
    return len(data) == 2 * dimension and abs(_length(data) - 1) < 0.01


def _length(data: bytes) -> float:
    numbers = np.frombuffer(data, "<f2").astype(np.float32)
    return math.sqrt(numbers @ numbers)  # A sixth of the time of numpy.linalg.norm, for one vector.


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """The result of a vacuum, and its part that erased memories."""

    report: VacuumReport
    erased: Erased


def not_found(id: str, scope: Scope) -> NotFoundError:
    """Returns the error of a change to a memory that is not visible."""
    where = f" of {scope}" if scope.owners() else ""
    return NotFoundError(f"There is no memory {id!r}{where} to change; look ids up with get_all().")
