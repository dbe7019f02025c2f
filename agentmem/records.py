"""What goes in and comes out: Record, Match, Event, Page, Scope, and the checks on what a caller hands over.

Everything here is immutable and knows nothing of models or databases. A `Draft` that exists is valid: whatever is wrong
with an argument is said when it is made, in the caller's thread, before anything is queued or written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from datetime import datetime
from typing import Any, SupportsIndex, overload

from agentmem.config import Config
from agentmem.errors import InvalidInputError
from agentmem.ids import Home, new_id
from agentmem.timestamps import now, to_microseconds
from agentmem.validation import check_content, check_expiry, check_metadata, check_name, check_time

SHOWN_CHARACTERS = 60
"""Of a content, in a `repr`."""


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One memory as it is stored. Times are aware, in UTC; `metadata` is this record's own copy."""

    id: str
    content: str
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    role: str | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as values of JSON: times in ISO 8601 with their offset, the metadata a copy."""
        fields: dict[str, Any] = {each.name: getattr(self, each.name) for each in dataclass_fields(self)}
        for name, value in fields.items():
            if isinstance(value, datetime):
                fields[name] = value.isoformat()
        return fields | {"metadata": copy_json(self.metadata)}

    def __repr__(self) -> str:
        owners = "".join(f", {name}={value!r}" for name, value in owners_of(self).owners())
        more = "" if self.role is None else f", role={self.role!r}"
        more += f", metadata={self.metadata!r}" if self.metadata else ""
        more += "" if self.expires_at is None else f", expires_at={self.expires_at.isoformat(' ', 'seconds')!r}"
        day = self.created_at.isoformat(" ", "seconds")
        return f"Record({_shown(self.content)}{owners}{more}, created_at={day!r}, id={self.id!r})"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}...")


@dataclass(frozen=True, slots=True, repr=False)
class Match:
    """A record found by a search. `score` runs from 0 to 1, higher is better; `explanation` says how it came about
    when the search was asked to explain, and is None otherwise."""

    record: Record
    score: float
    explanation: Mapping[str, Any] | None = None

    @property
    def content(self) -> str:
        """The record's content."""
        return self.record.content

    def to_dict(self) -> dict[str, Any]:
        """Returns `score`, `record` as in `Record.to_dict`, and `explanation` (None without one), as values of JSON."""
        explanation = None if self.explanation is None else copy_json(dict(self.explanation))
        return {"score": self.score, "record": self.record.to_dict(), "explanation": explanation}

    def __repr__(self) -> str:
        return f"Match({self.score:.2f}, {self.record!r})"


@dataclass(frozen=True, slots=True)
class Version:
    """What can change about a memory, as it stood at one moment, and since when (`updated_at`)."""

    content: str
    metadata: dict[str, Any]
    expires_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a memory's history. `seq` orders all events of a store. `what` is "add", "update", "delete",
    "expire" (some time after `expires_at` has passed) or "restore"; `before` is None where nothing was visible before,
    `after` where nothing is visible afterwards. `at` is when it was committed."""

    seq: int
    memory_id: str
    what: str
    before: Version | None
    after: Version | None
    at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class Page:
    """Some records of a listing; hand `next` to `after=` for the following page, None means there is none. It iterates
    and indexes as the list of its records does."""

    records: list[Record]
    next: str | None

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, at: SupportsIndex) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> list[Record]: ...

    def __getitem__(self, at: SupportsIndex | slice) -> Record | list[Record]:
        return self.records[at]

    def __repr__(self) -> str:
        lines = "".join(f"\n  {record!r}," for record in self.records)
        return f"Page([{lines}\n], next={self.next!r})" if lines else f"Page([], next={self.next!r})"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memories: each owner that is named must match. An empty scope means every owner and is only made by
    `all_scopes=True`."""

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None

    @classmethod
    def of(cls, user_id: Any, agent_id: Any, run_id: Any, *, all_scopes: bool = False) -> "Scope":
        """The scope of a call.

        Raises:
            InvalidInputError: no owner is named (or one is, together with `all_scopes`), or a name cannot be one.
        """
        scope = cls(check_name("user_id", user_id), check_name("agent_id", agent_id), check_name("run_id", run_id))
        if all_scopes and scope:
            raise InvalidInputError(f"all_scopes=True was given together with {scope}; drop one of the two.")
        if not all_scopes and not scope:
            raise InvalidInputError(
                "No owner was given; pass user_id=, agent_id= or run_id= (reads across owners take all_scopes=True)."
            )
        return scope

    def __bool__(self) -> bool:
        """Whether an owner is named."""
        return not (self.user_id is None and self.agent_id is None and self.run_id is None)

    def owners(self) -> list[tuple[str, str]]:
        """The owners that are named, as pairs of field and value, the widest first."""
        named = (("user_id", self.user_id), ("agent_id", self.agent_id), ("run_id", self.run_id))
        return [(name, value) for name, value in named if value is not None]

    @property
    def home(self) -> Home:
        """Where a memory of exactly this scope lives."""
        if self.user_id is not None:
            return "user_id", self.user_id
        if self.run_id is not None:
            return "run_id", self.run_id
        return None if self.agent_id is None else ("agent_id", self.agent_id)

    def narrowed(self, user_id: Any, agent_id: Any, run_id: Any) -> "Scope":
        """This scope with further owners named.

        Raises:
            InvalidInputError: an owner is named that differs from this scope's own.
        """
        asked = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
        for name, value in self.owners():
            if asked[name] is not None and asked[name] != value:
                raise InvalidInputError(f"{name}={asked[name]!r} is outside this scope, whose {name} is {value!r}.")
            asked[name] = value
        return Scope.of(**asked)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.owners()) or "every owner"


def copy_json(value: Any) -> Any:
    """A copy of a value of JSON that shares nothing with it. Numbers of numpy become Python's, sequences lists."""
    if isinstance(value, Mapping):
        return {str(key): copy_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [copy_json(part) for part in value]
    return value.item() if hasattr(value, "item") else value


def owners_of(record: Record) -> Scope:
    """Exactly the scope that a memory is of."""
    return Scope(record.user_id, record.agent_id, record.run_id)


@dataclass(slots=True)  # Not frozen, which would make it three times as slow to make; nobody changes it.
class Draft:
    """A checked memory that is not stored yet. `metadata_json` is None when there is no metadata; with `dedupe` it is
    stored only when no visible memory has this text and exactly this scope."""

    id: str
    id_given: bool
    content: str
    scope: Scope
    role: str | None
    metadata: dict[str, Any]
    metadata_json: str | None
    created_at: datetime
    expires_at: datetime | None
    dedupe: bool = False
    updated_at: datetime = field(default_factory=lambda: now())

    @classmethod
    def of(
        cls,
        content: Any,
        scope: Scope,
        config: Config,
        *,
        role: Any = None,
        metadata: Any = None,
        id: Any = None,
        created_at: Any = None,
        expires_at: Any = None,
        ttl: Any = None,
        dedupe: bool = False,
    ) -> "Draft":
        """Raises: InvalidInputError naming the argument, its value and what to do."""
        check_content(content, config)
        metadata, metadata_json = check_metadata(metadata, config)
        moment = now()
        return cls(
            id=new_id(scope.home) if id is None else str(check_name("id", id)),
            id_given=id is not None,
            content=content,
            scope=scope,
            role=check_name("role", role),
            metadata=metadata,
            metadata_json=metadata_json,
            created_at=check_time("created_at", created_at) or moment,
            expires_at=check_expiry(expires_at, ttl, moment),
            dedupe=bool(dedupe),
            updated_at=moment,
        )

    def expired(self, moment: int) -> bool:
        """Whether it is not to be seen any more at a moment, in microseconds."""
        return self.expires_at is not None and to_microseconds(self.expires_at) <= moment

    def record(self) -> Record:
        """The record that this draft becomes once it is committed."""
        scope = self.scope
        return Record(
            self.id, self.content, scope.user_id, scope.agent_id, scope.run_id, self.role, self.metadata,
            self.created_at, self.updated_at, self.expires_at,
        )  # fmt: skip


@dataclass(slots=True)  # Like Draft.
class Embedded:
    """A text's vector on its way into the store: the digest of text and home, and the float16 bytes."""

    digest: bytes
    vector: bytes
