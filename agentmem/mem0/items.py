"""Records, matches and events in Mem0's shapes."""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, cast
from uuid import UUID, uuid5

from agentmem.mem0.dates import expiration_date
from agentmem.mem0.types import FoundMemory, HistoryEntry, ListedMemory, ScoreDetails, StoredMemory
from agentmem.records import Event, Match, Record

PROMOTED = ("actor_id", "attributed_to")
"""Metadata keys that are shown beside the text."""

_IDS = UUID("6f0c4a52-5f0e-4c7e-9d0b-1c8f6d1f5e0a")
_EVENTS: dict[str, Literal["ADD", "UPDATE", "DELETE"]] = {
    "add": "ADD", "restore": "ADD", "update": "UPDATE", "delete": "DELETE",
}  # fmt: skip


def listed(record: Record) -> ListedMemory:
    """Returns a memory as `get_all` shows it."""
    item: ListedMemory = {
        "id": record.id,
        "memory": record.content,
        "hash": hashlib.md5(record.content.encode(), usedforsecurity=False).hexdigest(),
        "metadata": {key: value for key, value in record.metadata.items() if key not in PROMOTED} or None,
        "created_at": record.created_at.isoformat(),
        "updated_at": record.updated_at.isoformat(),
    }
    promoted: dict[str, Any] = {
        "user_id": record.user_id, "agent_id": record.agent_id, "run_id": record.run_id,
        **{name: record.metadata.get(name) for name in PROMOTED},
        "role": record.role,
        "expiration_date": None if record.expires_at is None else expiration_date(record.expires_at),
    }  # fmt: skip
    return cast(ListedMemory, {**item, **{name: value for name, value in promoted.items() if value is not None}})


def stored(record: Record) -> StoredMemory:
    """Returns a memory as `get` shows it."""
    return {**listed(record), "score": None}


def found(match: Match, threshold: float, *, explain: bool) -> FoundMemory:
    """Returns a memory as `search` shows it."""
    item = cast(FoundMemory, {**listed(match.record), "score": match.score})
    if explain:
        item["score_details"] = _score_details(match, threshold)
    return item


def _score_details(match: Match, threshold: float) -> ScoreDetails:
    explanation = match.explanation or {}
    return {
        "semantic_score": explanation["cosine"],
        "bm25_score": explanation["keyword"],
        "entity_boost": 0.0,
        "raw_score": match.score,
        "max_possible_score": 1.0,
        "final_score": match.score,
        "threshold": threshold,
    }


def entries(events: list[Event], record: Record | None) -> Iterator[HistoryEntry]:
    """Yields the events of a memory's history in Mem0's shape; `record` is the memory at any time, if known.

    For Mem0 an expiry is no event, and a restored memory is added again.
    """
    hidden = None
    for event in events:
        if event.what == "expire" or (event.what == "restore" and hidden == "expire"):
            hidden = event.what
            continue
        hidden = event.what
        before, after = (None if version is None else version.content for version in (event.before, event.after))
        version = event.after or event.before
        metadata: dict[str, Any] = {} if version is None else version.metadata
        created_at = event.at if record is None else record.created_at
        updated_at = event.at if event.after is None or event.what == "restore" else event.after.updated_at
        yield {
            "id": str(uuid5(_IDS, f"{event.memory_id}/{event.seq}")),
            "memory_id": event.memory_id,
            "old_memory": before,
            "new_memory": after,
            "event": _EVENTS[event.what],
            "created_at": created_at.isoformat(),
            "updated_at": updated_at.isoformat(),
            "is_deleted": after is None,
            "actor_id": metadata.get("actor_id"),
            "role": None if record is None else record.role,
        }
