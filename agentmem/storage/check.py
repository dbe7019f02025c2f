"""Looking for damage: what SQLite says of its pages, and what the rows say of each other."""

import json
from collections.abc import Callable, Iterator

import numpy as np

from agentmem.errors import StoreError
from agentmem.records import Scope, from_microseconds
from agentmem.storage.database import Connection
from agentmem.storage.rows import HIDING, twin_of
from agentmem.terms import stored_terms

Digest = Callable[[str], bytes]

_QUESTIONS = [
    (
        # IS NOT NULL, because NULL NOT IN an empty table is true, and the first memories of a store may be deferred.
        "SELECT id FROM memory WHERE vector_key IS NOT NULL AND vector_key NOT IN (SELECT key FROM vector)",
        "memory {!r} points to a vector that is not there",
    ),
    (
        # Not equal, because the arrival of a deferred vector changes the seq and is an event of no memory.
        "SELECT id FROM memory WHERE seq NOT IN (SELECT seq FROM history) "
        "OR seq < coalesce((SELECT max(seq) FROM history WHERE memory_key = memory.key), 1e18)",
        "memory {!r} is not as its history left it: its seq is not that of its last event",
    ),
    (
        "SELECT DISTINCT memory_key FROM history WHERE memory_key != 0 AND what != 'purge' "
        "AND memory_key NOT IN (SELECT key FROM memory)",
        "the history has events of a memory (key {!r}) that is not there",
    ),
    (
        "SELECT id || ': ' || vector_error FROM memory WHERE vector_error IS NOT NULL AND deleted_at IS NULL",
        "memory {} - so it is not found by meaning; update or delete it",
    ),
    (
        "SELECT id FROM memory WHERE user_id IS NULL AND agent_id IS NULL AND run_id IS NULL",
        "memory {!r} has no owner",
    ),
    (
        "SELECT id FROM memory WHERE metadata IS NOT NULL AND NOT json_valid(metadata, 8)",
        "memory {!r} has metadata that is not JSON",
    ),
]


def problems_of(connection: Connection, digest_of: Digest, dimension: int) -> Iterator[str]:
    """Yields what is wrong, a sentence each."""
    try:
        for row in connection.execute("PRAGMA integrity_check(100)"):
            if row[0] != "ok":
                yield f"the database file is damaged: {row[0]}"
                return
        for question, sentence in _QUESTIONS:
            for row in connection.execute(f"{question} LIMIT 100"):
                yield sentence.format(row[0]) + "."
        yield from _history_problems(connection)
        yield from _vector_problems(connection, digest_of, dimension)
        yield from _term_problems(connection)
        yield from _twin_problems(connection)
    except StoreError as error:
        yield f"the database cannot be read to its end: {error}"


def _history_problems(connection: Connection) -> Iterator[str]:
    """Replays every memory's events: added once and first, deleted and restored by turns, ending as the row is."""
    rows = connection.execute(
        "SELECT memory.id, memory.deleted_at IS NOT NULL, history.what, history.before "
        "FROM history CROSS JOIN memory ON memory.key = history.memory_key ORDER BY history.memory_key, history.seq"
    )
    current, deleted, present = None, False, False
    for memory, is_deleted, what, before in rows:
        if memory != current:
            if deleted != present:
                yield f"memory {current!r} is not as its history left it: deleted in one of them only."
            current, deleted = memory, False
            if what != "add":
                yield f"the history of memory {memory!r} begins with {what!r}, not with 'add'."
        elif what == "add" or (what == "restore") != deleted:
            yield f"the history of memory {memory!r} has {what!r} where it cannot be."
        deleted, present = what in HIDING, bool(is_deleted)
        # A restore replaces something when it takes away an expiry that had passed.
        needless = before is not None and what not in ("update", "restore")
        if needless or (what == "update" and before is None) or (before is not None and not _is_version(before)):
            yield f"the history of memory {memory!r} has an unreadable {what!r}."
    if deleted != present:
        yield f"memory {current!r} is not as its history left it: deleted in one of them only."


def _is_version(text: str) -> bool:
    try:
        return set(json.loads(text)) == {"content", "metadata", "expires_at", "updated_at"}
    except ValueError:
        return False


def _vector_problems(connection: Connection, digest_of: Digest, dimension: int) -> Iterator[str]:
    for key, data in connection.execute("SELECT key, data FROM vector"):
        vector = np.frombuffer(data, "<f2") if len(data) == 2 * dimension else None
        if vector is None:
            yield f"vector {key} has {len(data)} bytes instead of {2 * dimension}."
        elif not abs(float(np.linalg.norm(vector.astype(np.float32))) - 1) < 0.01:
            yield f"vector {key} is not of unit length."
    for memory, content, digest in connection.execute(
        "SELECT memory.id, memory.content, vector.digest FROM memory JOIN vector ON vector.key = memory.vector_key"
    ):
        if digest_of(content) != digest:
            yield f"memory {memory!r} points to the vector of another text."


def _term_problems(connection: Connection) -> Iterator[str]:
    for memory, content, created_at, terms in connection.execute("SELECT id, content, created_at, terms FROM memory"):
        if terms != stored_terms(content, from_microseconds(created_at)):
            yield f"memory {memory!r} is not found by its words: its terms are not those of its text."


def _twin_problems(connection: Connection) -> Iterator[str]:
    """Deduplication finds a text by its twin; that no two are sole is for the unique index to say."""
    rows = connection.execute("SELECT id, user_id, agent_id, run_id, content, twin FROM memory")
    for memory, user_id, agent_id, run_id, content, twin in rows:
        if twin_of(Scope(user_id, agent_id, run_id), content) != twin:
            yield f"memory {memory!r} is not found by its text: its twin is that of another text or scope."
