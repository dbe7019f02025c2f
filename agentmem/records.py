"""The values that callers pass and receive: Record, Match, Event, Page, Scope; and drafts, which are checked.

They are immutable and know nothing of models or databases. An existing `Draft` is valid: its constructor reports a bad
argument in the caller's thread, before anything is queued or written.
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
"""Most characters of a content in a `repr`."""


@dataclass(frozen=True, slots=True, repr=False)
class Record:
    """One memory. Times are aware, in UTC; `metadata` is this record's own copy."""

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
        """Returns the fields as values of JSON.

        Returns:
            The fields by name: times in ISO 8601 with their offset, the metadata a copy.
        """
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
    """A record found by a search. `score` runs from 0 to 1; higher is better.

    `explanation` has the parts of the score when the search was asked for it with `explain=True`, and is None
    otherwise.
    """

    record: Record
    score: float
    explanation: Mapping[str, Any] | None = None

    @property
    def content(self) -> str:
        """The record's content."""
        return self.record.content

    def to_dict(self) -> dict[str, Any]:
        """Returns the match as values of JSON.

        Returns:
            `score`, `record` as in `Record.to_dict`, and `explanation` (None without one).
        """
        explanation = None if self.explanation is None else copy_json(dict(self.explanation))
        return {"score": self.score, "record": self.record.to_dict(), "explanation": explanation}

    def __repr__(self) -> str:
        return f"Match({self.score:.2f}, {self.record!r})"


@dataclass(frozen=True, slots=True)
class Version:
    """The changeable fields of a memory at one moment, and the time since which they held (`updated_at`)."""

    content: str
    metadata: dict[str, Any]
    expires_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a memory's history. `seq` orders all events of a store.

    `what` is "add", "update", "delete", "restore", or "expire", which follows some time after `expires_at`. `before` is
    None where nothing was visible before, and `after` where nothing is visible afterwards. `at` is the time of the
    commit.
    """

    seq: int
    memory_id: str
    what: str
    before: Version | None
    after: Version | None
    at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class Page:
    """A page of a listing. It iterates and indexes like the list of its records.

    Pass `next` as `after=` for the following page; None means that there is none.
    """

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
    """The owners of the memories in question: each named owner must match.

    An empty scope means every owner; only `all_scopes=True` creates it.
    """

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None

    @classmethod
    def of(cls, user_id: Any, agent_id: Any, run_id: Any, *, all_scopes: bool = False) -> "Scope":
        """Returns the scope of a call.

        Args:
            user_id: The user.
            agent_id: The agent.
            run_id: The run.
            all_scopes: Whether no owner is named, and all are meant.

        Returns:
            The scope.

        Raises:
            InvalidInputError: No owner is named, or one is together with `all_scopes`, or a name cannot be used.
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
        """Returns the named owners.

        Returns:
            Pairs of field and value, the widest owner first.
        """
        named = (("user_id", self.user_id), ("agent_id", self.agent_id), ("run_id", self.run_id))
        return [(name, value) for name, value in named if value is not None]

    @property
    def home(self) -> Home:
        """The home of a memory of exactly this scope."""
        if self.user_id is not None:
            return "user_id", self.user_id
        if self.run_id is not None:
            return "run_id", self.run_id
        return None if self.agent_id is None else ("agent_id", self.agent_id)

    def narrowed(self, user_id: Any, agent_id: Any, run_id: Any) -> "Scope":
        """Returns this scope with further owners.

        Args:
            user_id: The user.
            agent_id: The agent.
            run_id: The run.

        Returns:
            The narrower scope.

        Raises:
            InvalidInputError: An owner differs from this scope's own.
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
    """Returns a copy of a value of JSON that shares nothing with it. Numbers of numpy become Python's, sequences
    lists."""
    if isinstance(value, Mapping):
        return {str(key): copy_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [copy_json(part) for part in value]
    return value.item() if hasattr(value, "item") else value


def owners_of(record: Record) -> Scope:
    """The exact scope of a memory."""
    return Scope(record.user_id, record.agent_id, record.run_id)


@dataclass(slots=True)  # Not frozen, which would take three times as long to make; no code changes it.
class Draft:
    """A checked memory that is not stored yet.

    `metadata_json` is None when there is no metadata. With `dedupe` it is stored only when no visible memory has this
    text and exactly this scope.
    """

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
        """Checks the fields. Raises InvalidInputError with the argument, its value and the next step."""
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
        """Whether it has expired at a moment, in microseconds."""
        return self.expires_at is not None and to_microseconds(self.expires_at) <= moment

    def record(self) -> Record:
        """Returns the record of this draft after its commit."""
        scope = self.scope
        return Record(
            self.id, self.content, scope.user_id, scope.agent_id, scope.run_id, self.role, self.metadata,
            self.created_at, self.updated_at, self.expires_at,
        )  # fmt: skip


@dataclass(slots=True)  # Not frozen, like Draft.
class Embedded:
    """A text's vector for the store: the digest of text and home, and the float16 bytes."""

    digest: bytes
    vector: bytes
