"""What goes in and comes out: Record, Match, Event, Page, Scope, and the checks on what a caller hands over.

Everything here is immutable and knows nothing of models or databases. A `Draft` that exists is valid: whatever is wrong
with an argument is said when it is made, in the caller's thread, before anything is queued or written.
"""

import base64
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ContextDecorator, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from numbers import Number
from pathlib import PurePath
from reprlib import Repr
from types import FrameType
from typing import Any
from urllib.parse import unquote

from agentmem.config import SHORT, Config
from agentmem.errors import InvalidInputError, TooLongError

FIELDS = frozenset(
    {"content", "user_id", "agent_id", "run_id", "role", "metadata", "id", "created_at", "expires_at", "ttl"}
)
"""What a caller may say of a memory."""
MAX_NAME_LENGTH = 512
"""Characters in an owner, a role or an id."""
MAX_METADATA_DEPTH = 32
MAX_LIMIT = 1_000_000

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SHORT = Repr()
_SHORT.maxother = _SHORT.maxlong = 60
_COUNT = re.compile(r"[0-9]{9,}(?:\.[0-9]*)?")
# What a time zone may raise that was written by hand; whatever else comes, such as RecursionError, means the caller.
_ZONE_ERRORS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CREDENTIALS = re.compile(r"(?<=//)[^/\s]*@")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Match:
    """A record found by a search. `score` runs from 0 to 1, higher is better; `explanation` says how it came about
    when the search was asked to explain, and is None otherwise."""

    record: Record
    score: float
    explanation: Mapping[str, Any] | None = None


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


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of a listing; hand `next` to `after=` for the following page, None means there is none."""

    records: list[Record]
    next: str | None

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


Home = tuple[str, str] | None
"""Where a memory lives: the field and the name of its user, else its run, else its agent; None of no owner. Ids are
unique, and vectors are shared, within a home only."""


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


DIGEST_BYTES = 16
"""128 bits: the chance of any collision among a billion texts is about 10**-21."""


def digests_by(identity: str) -> Callable[[str], bytes]:
    """What gives a text, as the model of this identity reads it, the digest of its vector: no two models share one."""
    of_model = blake2b(identity.encode() + b"\0", digest_size=DIGEST_BYTES)

    def digest(text: str) -> bytes:
        of_text = of_model.copy()
        of_text.update(text.encode())
        return of_text.digest()

    return digest


def at_home(digest: bytes, home: Home) -> bytes:
    """The digest under which a home keeps the vector of a text with this digest: no two homes share one."""
    return blake2b(digest + _home_bytes(home), digest_size=DIGEST_BYTES).digest()


def _home_bytes(home: Home) -> bytes:
    return b"" if home is None else f"{home[0]}\0{home[1]}".encode()  # Names hold no NUL.


@dataclass(slots=True)  # Like Draft.
class Embedded:
    """A text's vector on its way into the store: the digest of text and home, and the float16 bytes."""

    digest: bytes
    vector: bytes


def now() -> datetime:
    """This moment, by the system's clock. A test may put another clock in the place of `clock`."""
    return clock()


def clock() -> datetime:
    return datetime.now(UTC)


def to_microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970-01-01 UTC, exactly (a float would round)."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


BUCKET_BITS = 12
"""Of a home, in the ids that are generated for it: the last three hexadecimal digits."""


def bucket_of(home: Home) -> int:
    """A number below 4,096 that is the same for a home in every store and version: the first 12 bits of BLAKE2b (of 2
    bytes) over the field, NUL and the name, without a key. Whoever knows an owner's name can tell it."""
    digest = blake2b(_home_bytes(home), digest_size=2).digest()
    return int.from_bytes(digest, "big") >> 16 - BUCKET_BITS


def bucket_in(id: str) -> int:
    """The bucket of the home that a generated id was made for."""
    return int(id[-3:], 16)


def new_id(home: Home) -> str:
    """A UUID version 7 (RFC 9562, section 5.7): milliseconds, then the fraction of the millisecond in 12 bits (section
    6.2, method 3), then 50 random bits of the system, then the bucket of the home. Ids sort by time of creation."""
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    tail = 1 << 63 | _random_bits() >> 14 << BUCKET_BITS | bucket_of(home)
    text = f"{(milliseconds << 16 | 7 << 12 | fraction) & (2**64 - 1):016x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


RANDOM_TOGETHER = 512
"""Numbers that are asked of the system at once: each question lets go of the GIL, which costs 25 microseconds an `add`
when 50 threads want it."""

_random: list[int] = []
_random_pid = 0


def _random_bits() -> int:
    """64 bits of the system's generator, given out once: a forked child asks for its own."""
    global _random_pid
    if _random_pid != (pid := os.getpid()):  # Some servers skip Python's fork hooks.
        _random.clear()
        _random_pid = pid
    while True:
        try:
            return _random.pop()
        except IndexError:
            _random.extend(struct.unpack(f"{RANDOM_TOGETHER}Q", os.urandom(8 * RANDOM_TOGETHER)))


def shorten(value: Any) -> str:
    """How a value is quoted in a message: never more than a line of it, no password of an address, and of what may hold
    anything, such as a mapping, only its kind and size."""
    if not isinstance(value, _PLAIN):
        return shape(value)
    if isinstance(value, str):
        return quote(value) if _quotes() or len(value) <= SHORT else shape(value)
    try:
        shown = _SHORT.repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits.
        return f"a huge {type(value).__name__}"
    return shown if _quotes() or len(shown) <= SHORT else shape(value)


def with_kind(value: Any) -> str:
    """The same, with the kind of the value."""
    shown = shorten(value)
    return shown if shown.startswith("a ") else f"{shown}, a {type(value).__name__}"


def quote(text: str) -> str:
    """How a name is quoted, wherever it comes from."""
    text = without_credentials(text)
    return repr(text) if len(text) <= 60 else f"{text[:50]!r}... ({len(text):,} characters)"


def _key(key: Any) -> str:
    return quote(key) if isinstance(key, str) else shorten(key)


_PLAIN = Number | str | bytes | date | timedelta | PurePath | None
_Unquoted = tuple[FrameType, "_Unquoted | None"]

_unquoted: ContextVar[_Unquoted | None] = ContextVar("unquoted", default=None)


class unquoted(ContextDecorator):
    """Within it, and within a function that it decorates, messages name the kinds of values and quote none of more
    than a few characters: they come from a file that may be any file. One that an error tore before its end is over
    with the function that it stood in."""

    def __enter__(self) -> None:
        _unquoted.set((sys._getframe(1), _unquoted.get()))

    def __exit__(self, *_: object) -> None:
        within = _unquoted.get()
        _unquoted.set(None if within is None else within[1])


def _quotes() -> bool:
    within = _unquoted.get()
    while within is not None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame is within[0]:
                return False
            frame = frame.f_back
        within = within[1]
    return True


def is_address(path: str) -> bool:
    """Whether a text is no path but the address of something, such as of a database, perhaps with a password in it.
    (What went through a Path has one stroke of its two.)"""
    return _ADDRESS.match(path) is not None


def without_credentials(text: str) -> str:
    """A text in which no address (`//user:password@host`) tells who asks."""
    return _CREDENTIALS.sub("***@", text) if "@" in text else text


def shape(value: Any) -> str:
    """How a value is named in a message that may be a secret, or somebody's text: its kind and size."""
    kind = type(value).__name__
    if value is None:
        return kind
    if isinstance(value, str):
        return f"a text of {len(value):,} characters"
    size = f" of {len(value):,}" if isinstance(value, bytes | dict | list | tuple | set | frozenset) else ""
    return f"a {kind}{size}"


def split_credentials(address: str) -> tuple[str, str | None]:
    """An address without user and password, and the header `Authorization` that says the same."""
    who = credentials_of(address)
    header = f"Basic {base64.b64encode(who.encode()).decode()}" if who else None
    return _CREDENTIALS.sub("", address, count=1), header


def credentials_of(address: str) -> str:
    """What stands in an address before its host, such as `user:password`; nothing where nothing does."""
    found = _CREDENTIALS.search(address)
    return unquote(found[0][:-1]) if found else ""


def check_text(name: str, text: str) -> bytes:
    """The UTF-8 of `text`.

    Raises:
        InvalidInputError: it holds a lone surrogate or NUL, which no database column or JSON reader agrees on.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{name} holds a lone surrogate at position {error.start}; decode the source with errors='replace' first."
        ) from None
    if b"\0" in encoded:
        raise InvalidInputError(f"{name} holds NUL at position {text.index(chr(0))}; remove it.")
    return encoded


def check_content(content: Any, config: Config) -> None:
    if not isinstance(content, str):
        raise InvalidInputError(f"content is {with_kind(content)}; pass a str.")
    if not content or content.isspace():
        raise InvalidInputError(f"content is {shorten(content)}, which is blank; pass a text worth remembering.")
    # A character takes a byte or more: what is far too long is not encoded to be told so.
    size, unit = len(content), "characters"
    if size <= config.max_content_bytes:
        size, unit = len(check_text("content", content)), "bytes"
    if size > config.max_content_bytes:
        raise TooLongError(
            f"content has {size:,} {unit}, more than Config.max_content_bytes = "
            f"{config.max_content_bytes:,}; split it or raise the limit."
        )


def check_query(query: Any, config: Config) -> None:
    if not isinstance(query, str) or not query or query.isspace():
        raise InvalidInputError(f"query is {shorten(query)}; pass a str that is not blank.")
    if len(query) > config.max_content_bytes or len(check_text("query", query)) > config.max_content_bytes:
        raise TooLongError(f"query exceeds Config.max_content_bytes = {config.max_content_bytes:,}; shorten it.")


def check_name(name: str, value: Any) -> str | None:
    """An owner, a role or an id: text without surrounding spaces, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is {with_kind(value)}; pass a str.")
    # Most names, known to be good at a glance: every `add` comes by here.
    if value.isascii() and value.isprintable() and value[:1] != " " != value[-1:] and 0 < len(value) <= MAX_NAME_LENGTH:
        return value
    if not value:
        raise InvalidInputError(f"{name} is empty; leave it out or pass a name.")
    if value.isspace():
        raise InvalidInputError(f"{name} is {shorten(value)}, which is blank; leave it out or pass a name.")
    if value != value.strip():
        raise InvalidInputError(f"{name} is {shorten(value)}, with spaces around it; pass {shorten(value.strip())}.")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidInputError(
            f"{name} {shorten(value)} is longer than {MAX_NAME_LENGTH} characters; pass a shorter one or its digest."
        )
    check_text(name, value)
    return value


def check_id(id: Any) -> str:
    checked = check_name("id", id)
    if checked is None:
        raise InvalidInputError("id is None; pass the id of a record.")
    return checked


def check_limit(limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(f"limit is {shorten(limit)}; pass a whole number from 1 to {MAX_LIMIT:,}.")
    return limit


def check_threshold(threshold: Any) -> float:
    if threshold is None:
        return 0.0
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InvalidInputError(f"threshold is {shorten(threshold)}; pass a score from 0 to 1, or None.")
    return float(threshold)


def check_half_life(recency: Any) -> float | None:
    """In seconds."""
    if recency is None:
        return None
    seconds = recency.total_seconds() if isinstance(recency, timedelta) else recency
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1e-3 <= seconds <= 1e12:
        raise InvalidInputError(
            f"recency is {shorten(recency)}; pass the half-life as a timedelta or as seconds from 0.001 to 1e12."
        )
    return float(seconds)


def check_time(name: str, moment: Any) -> datetime | None:
    """The moment in UTC, or None."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise InvalidInputError(f"{name} is {shorten(moment)}; pass an aware datetime.")
    clock, offset = clock_and_offset(name, moment)
    try:
        return clock - offset
    except OverflowError:
        raise InvalidInputError(f"{name} is {moment.isoformat()}, outside the years 1 to 9999 in UTC.") from None


def clock_and_offset(name: str, moment: datetime) -> tuple[datetime, timedelta]:
    """What the clock of an aware datetime shows, as a plain datetime in UTC, and how far it is ahead of UTC.

    Raises:
        InvalidInputError: it has no time zone, or one that does not know its offset.
    """
    offset, fault = None, ""
    if moment.tzinfo is not None:
        try:
            offset = moment.utcoffset()
        except _ZONE_ERRORS as error:
            fault = type(error).__name__
    if fault:
        raise InvalidInputError(
            f"{name} has a time zone that does not tell its offset from UTC ({fault}); pass one of zoneinfo."
        )
    if offset is None:
        raise InvalidInputError(
            f"{name} is {moment.isoformat()}, which has no time zone; pass datetime(..., tzinfo=timezone.utc)."
        )
    # Not `astimezone`, which keeps a subclass, with whatever it does otherwise (a Timestamp of pandas: nanoseconds).
    return datetime.combine(moment.date(), moment.time(), UTC), offset


def check_past(name: str, moment: Any) -> datetime:
    """A moment that has passed, in UTC; a timedelta means one so long ago."""
    try:
        checked = check_time(name, now() - moment if isinstance(moment, timedelta) else moment)
    except OverflowError:
        raise InvalidInputError(f"{name} is {shorten(moment)}, before the year 1; pass an aware datetime.") from None
    if checked is None or checked > now():
        raise InvalidInputError(f"{name} is {shorten(moment)}, which has not passed; pass a moment that has.")
    return checked


def iso_moment(text: Any) -> datetime | None:
    """The moment of ISO 8601 text, perhaps without an offset; None when it is none. Digits alone are a day at most:
    Python reads some counts of milliseconds ("1712010112345") as a moment of the year 1712."""
    with suppress(OverflowError, ValueError):
        if isinstance(text, str) and not _COUNT.fullmatch(text):
            return datetime.fromisoformat(text)
    return None


def moment_of(name: str, text: Any) -> datetime:
    """The moment of ISO 8601 text with an offset, in UTC.

    Raises:
        InvalidInputError: it is something else, or has no offset from UTC.
    """
    moment = iso_moment(text)
    if moment is None or moment.tzinfo is None:
        raise InvalidInputError(
            f"{name} is {shorten(text)}; write ISO 8601 with an offset, such as 2026-03-05T18:30:00+01:00."
        )
    checked = check_time(name, moment)
    assert checked is not None
    return checked


def check_expiry(expires_at: Any, ttl: Any, moment: datetime) -> datetime | None:
    """When a memory expires, in UTC: at `expires_at`, or `ttl` seconds after `moment`; None is never.

    Raises:
        InvalidInputError: both are given, or one cannot be used.
    """
    if ttl is None:
        return check_time("expires_at", expires_at)
    if expires_at is not None:
        raise InvalidInputError(f"Both ttl={shorten(ttl)} and expires_at={shorten(expires_at)} were given; drop one.")
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not ttl > 0:
        raise InvalidInputError(f"ttl is {shorten(ttl)}; pass seconds greater than 0.")
    try:
        return moment + timedelta(seconds=ttl)
    except OverflowError:
        raise InvalidInputError(
            f"ttl is {shorten(ttl)}, beyond the year 9999; leave it out to keep for ever."
        ) from None


def check_between(between: Any) -> tuple[int | None, int | None] | None:
    """The two ends in microseconds; None where there is none."""
    if between is None:
        return None
    if not isinstance(between, tuple | list) or len(between) != 2:
        raise InvalidInputError(f"between is {shorten(between)}; pass a pair of aware datetimes, or None for an end.")
    start, end = (check_time(f"between[{position}]", moment) for position, moment in enumerate(between))
    if start is not None and end is not None and end < start:
        raise InvalidInputError(f"between ends before it starts ({start.isoformat()}, {end.isoformat()}); swap them.")
    return (None if start is None else to_microseconds(start)), (None if end is None else to_microseconds(end))


def check_timeout(timeout: Any, config: Config) -> float:
    if timeout is None:
        return config.timeout
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 1e6:
        raise InvalidInputError(f"timeout is {shorten(timeout)}; pass seconds from 0 to 1,000,000.")
    return float(timeout)


def check_fields(item: Mapping[Any, Any]) -> None:
    """Refuses what is no field of a memory."""
    if unknown := set(item) - FIELDS:
        raise InvalidInputError(
            f"unknown field {_key(min(unknown, key=str))}; the fields are {', '.join(sorted(FIELDS))}."
        )


def check_metadata(metadata: Any, config: Config) -> tuple[dict[str, Any], str | None]:
    """A plain copy of the metadata and its JSON (None when empty).

    Raises:
        InvalidInputError: something in it is not JSON: the message names the key.
    """
    if metadata is None:
        return {}, None
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata is {shorten(metadata)}; pass a mapping of JSON values.")
    # Every value, and every character, takes a byte of JSON or more. What is in itself many times over is refused
    # before it unfolds.
    copy = _plain("metadata", metadata, MAX_METADATA_DEPTH, _Room(config.max_metadata_bytes))
    if not copy:
        return {}, None
    text = _JSON.encode(copy)
    size = len(text.encode())
    if size > config.max_metadata_bytes:
        raise TooLongError(
            f"metadata has {size:,} bytes of JSON, more than Config.max_metadata_bytes = "
            f"{config.max_metadata_bytes:,}; store less or raise the limit."
        )
    return copy, text


class _Room:
    """The bytes that metadata may still take."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._left = self._limit = limit

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise TooLongError(
                f"metadata has more bytes of JSON than Config.max_metadata_bytes = {self._limit:,}; store less or "
                "raise the limit."
            )


def _plain(where: str, value: Any, depth: int, room: _Room) -> Any:
    """`value` as plain dicts, lists, str, int, float, bool and None; tuples become lists as they do in JSON."""
    room.take(len(value) if isinstance(value, str) else 1)
    if depth == 0:
        raise InvalidInputError(
            f"{where[:120]} is nested deeper than {MAX_METADATA_DEPTH} levels (or holds itself); flatten it."
        )
    match value:
        case None | bool():
            return value
        case str():
            check_text(where, value)
            return str.__str__(value)  # str() would give a text enumeration its name.
        case int():
            number = int(value)  # An IntEnum would be looked for in the range one by one.
            if number not in INT64:
                raise InvalidInputError(f"{where} is {shorten(number)}, outside 64 bits; pass it as text.")
            return number
        case float():
            if not math.isfinite(value):
                raise InvalidInputError(f"{where} is {value}, which JSON does not have; leave the key out.")
            return float(value)
        case Mapping():
            copy = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInputError(f"{where} has the key {_key(key)}; keys must be text.")
                room.take(len(key))
                check_text(f"a key of {where}", key)
                copy[str.__str__(key)] = _plain(f"{where}[{quote(key)}]", item, depth - 1, room)
            return copy
        case list() | tuple():
            return [_plain(f"{where}[{position}]", item, depth - 1, room) for position, item in enumerate(value)]
    raise InvalidInputError(f"{where} is {with_kind(value)}, which is not JSON; convert it first.")
