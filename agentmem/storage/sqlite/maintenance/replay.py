"""Replays a memory's history: finds its contradictions and how to correct them."""

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentmem.platform.signals import fails_apart
from agentmem.storage.sqlite.row_codec import HIDING

WHATS = frozenset({"add", "update", "restore"}) | HIDING


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it stands in its row."""

    seq: int
    what: str
    at: int
    before: str | None


@dataclass(slots=True)
class Replay:
    """The corrected history of a memory.

    `events` are in order. `dropped` could not be part of it, and stay as they were. `closing` must be added (what, at)
    for the history to lead to the row. `updated_at` and `deleted_at` are those that the row should have.
    """

    updated_at: int
    deleted_at: int | None
    events: list[Stored] = field(default_factory=list)
    dropped: list[Stored] = field(default_factory=list)
    closing: list[tuple[str, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def replay(id: str, stored: list[Stored], updated_at: int, deleted_at: int | None) -> Replay:
    """Replays the events of a memory. It begins with "add", is hidden and restored by turns, and each version has its
    time."""
    played = Replay(updated_at, deleted_at)
    deleted, version_since = False, None
    for event in stored:
        right = _as_it_should_be(event, version_since, first=not played.events, deleted=deleted)
        if right != event:
            played.dropped.append(event)
            played.faults.append(_fault(id, event, right, first=not played.events))
        if right is not None:
            played.events.append(right)
            deleted = right.what in HIDING
            if right.what == "update":
                version_since = _since(right)
    last = played.events[-1] if played.events else None
    if last is None:
        played.closing.append(("add", updated_at))
        played.faults.append(f"memory {id!r} has no history.")
    if version_since is not None and version_since != updated_at:
        played.updated_at = version_since
        played.faults.append(f"memory {id!r} is not as its history left it: it was not updated when that says.")
    if deleted != (deleted_at is not None):
        played.closing.append(("delete", deleted_at) if deleted_at is not None else ("restore", updated_at))
        played.faults.append(f"memory {id!r} is not as its history left it: deleted in one of them only.")
    elif last is not None and deleted and deleted_at != last.at:
        played.deleted_at = last.at
        played.faults.append(f"memory {id!r} is not as its history left it: it was not deleted when that says.")
    return played


def _as_it_should_be(event: Stored, version_since: int | None, *, first: bool, deleted: bool) -> Stored | None:
    """Returns the event, corrected where possible; None when it cannot have happened."""
    if first:
        return event if event.what == "add" and event.before is None else Stored(event.seq, "add", event.at, None)
    if event.what == "add" or event.what not in WHATS or (event.what == "restore") != deleted:
        return None
    if event.before is None:
        return None if event.what == "update" else event
    version = _version(event.before)
    if version is None or event.what not in ("update", "restore"):
        # A restore replaces a state when it removes an expiry that had passed.
        return None if event.what == "update" else Stored(event.seq, event.what, event.at, None)
    if version_since is None or version["updated_at"] == version_since:
        return event
    before = json.dumps({**version, "updated_at": version_since}, ensure_ascii=False, separators=(",", ":"))
    return Stored(event.seq, event.what, event.at, before)


def _fault(id: str, event: Stored, right: Stored | None, *, first: bool) -> str:
    if first and event.what != "add":
        return f"the history of memory {id!r} begins with {event.what!r}, not with 'add'."
    if right is not None and right.before is not None:
        return f"the history of memory {id!r} has {event.what!r} of a version that was not there."
    if event.before is not None and (right is not None or _version(event.before) is None):
        return f"the history of memory {id!r} has an unreadable {event.what!r}."
    return f"the history of memory {id!r} has {event.what!r} where it cannot be."


def _since(update: Stored) -> int:
    """Returns the time of the version of an update: that of the update, unless it says otherwise."""
    version = _version(update.before or "") or {}
    return int(version.get("since", update.at))


def _version(text: str) -> dict[str, Any] | None:
    try:
        version = json.loads(text)
    except (ValueError, RecursionError):
        if not fails_apart(partial(json.loads, text)):
            raise
        return None
    parts = {"content", "metadata", "expires_at", "updated_at"}
    if not isinstance(version, dict) or set(version) - {"since"} != parts:
        return None
    whole = isinstance(version["content"], str) and isinstance(version["metadata"], dict)
    times = isinstance(version["updated_at"], int) and isinstance(version["expires_at"], int | None)
    times = times and isinstance(version.get("since", 0), int)
    return version if whole and times else None
