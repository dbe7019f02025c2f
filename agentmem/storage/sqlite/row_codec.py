"""Encodes and decodes records, versions and events."""

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Any, NoReturn

from agentmem.errors import REPAIR_HINT, StoreDamagedError
from agentmem.platform.signals import fails_apart
from agentmem.records import Event, Record, Scope, Version
from agentmem.timestamps import from_microseconds, to_microseconds

RECORD_COLUMNS = (
    "memory.key, memory.id, memory.content, memory.user_id, memory.agent_id, memory.run_id, memory.role, "
    "json(memory.metadata), memory.created_at, memory.updated_at, memory.expires_at"
)

SENSELESS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors of decoding a row that is well formed and makes no sense: numbers that are no time, text that is no JSON."""


def refuse(what: str, error: Exception, decode: Callable[[], object]) -> NoReturn:
    """Reports damage where decoding a row has failed, and only there: elsewhere such an error is a bug of agentmem.

    Raises:
        StoreDamagedError: `decode` fails again. Otherwise the row is sound, and a signal handler or a full stack was to
            blame: the error itself.
    """
    if not fails_apart(decode):
        raise error
    raise StoreDamagedError(
        f"{what} makes no sense ({type(error).__name__}: {error}), so that the file is damaged; {REPAIR_HINT}."
    ) from error


HIDING = frozenset({"delete", "expire"})
"""Events after which a memory is not visible."""


def record_of(row: tuple[Any, ...]) -> Record:
    """Returns the record of a row of RECORD_COLUMNS; its metadata may be decoded already."""
    try:
        return _decoded(row)
    except SENSELESS as error:
        refuse(f"The row of memory {row[1]!r}", error, lambda: _decoded(row))


def _decoded(row: tuple[Any, ...]) -> Record:
    _, public_id, content, user_id, agent_id, run_id, role, metadata, created_at, updated_at, expires_at = row
    created = from_microseconds(created_at)
    return Record(
        public_id,
        content,
        user_id,
        agent_id,
        run_id,
        role,
        json.loads(metadata) if isinstance(metadata, str) else metadata or {},
        created,
        created if updated_at == created_at else from_microseconds(updated_at),
        None if expires_at is None else from_microseconds(expires_at),
    )


def twin_of(scope: Scope, content: str) -> int:
    """Returns 64 bits, signed: 24 of the scope, 40 of the content.

    The scope comes first so that the texts of one owner lie together in the index, and a batch of them touches few of
    its pages (256 of them into 200,000 of 2,000 owners: 14 ms on 2 cores, 31 ms with 64 bits of both). Different texts
    may share a number: compare the texts too.
    """
    # Neither names nor contents hold NUL, and no name is empty.
    names = f"{scope.user_id or ''}\0{scope.agent_id or ''}\0{scope.run_id or ''}"
    head, tail = blake2b(names.encode(), digest_size=3), blake2b(content.encode(), digest_size=5)
    return int.from_bytes(head.digest() + tail.digest(), "big", signed=True)


def version_json(record: Record, since: datetime | None = None) -> str:
    """Returns what an event keeps of the state that it replaces. `since` dates the version that it put in place, where
    that is not the event's own time."""
    version = {
        "content": record.content,
        "metadata": record.metadata,
        "expires_at": None if record.expires_at is None else to_microseconds(record.expires_at),
        "updated_at": to_microseconds(record.updated_at),
    }
    if since is not None:
        version["since"] = to_microseconds(since)
    return json.dumps(version, ensure_ascii=False, separators=(",", ":"))


def version_of_json(text: str) -> Version:
    def decoded() -> Version:
        value = json.loads(text)
        expires_at = value["expires_at"]
        until = None if expires_at is None else from_microseconds(expires_at)
        return Version(value["content"], value["metadata"], until, from_microseconds(value["updated_at"]))

    try:
        return decoded()
    except SENSELESS as error:
        refuse(f"The version {text[:80]!r} in the history", error, decoded)


def events_of(rows: list[tuple[Any, ...]], record: Record) -> list[Event]:
    """Returns the history of one memory from its rows (seq, what, before, at), oldest first, and its present state.

    An event stores the state that it replaced. The state that it put in place is in the next event that replaced
    something, or is the present one. A deletion or an expiry changes no text: the state continues below it, invisible
    until it is restored, and then without a past expiry.
    """
    events: list[Event] = []
    state: Version = Version(record.content, record.metadata, record.expires_at, record.updated_at)
    for seq, what, before_json, at in reversed(rows):
        after = None if what in HIDING else state
        if before_json is not None:
            state = version_of_json(before_json)
        before = None if what in ("add", "restore") else state
        try:
            moment = from_microseconds(at)
        except SENSELESS as error:
            refuse(f"The event {seq} of memory {record.id!r}", error, partial(from_microseconds, at))
        events.append(Event(seq, record.id, what, before, after, moment))
    return events[::-1]
