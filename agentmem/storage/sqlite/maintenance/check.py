"""Looks for damage: SQLite's findings about its pages, and contradictions between rows."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby

from agentmem.analyzer import stored_terms
from agentmem.errors import StoreError
from agentmem.ids import DIGEST_BYTES
from agentmem.platform.signals import fails_apart
from agentmem.progress import Tell, each
from agentmem.records import Scope
from agentmem.storage.sqlite.database.errors import DatabaseError
from agentmem.storage.sqlite.database.schema import INDEX_PREFIX, MIGRATIONS
from agentmem.storage.sqlite.database.sql import Connection, all_rows, only_row
from agentmem.storage.sqlite.maintenance.replay import Replay, Stored, replay
from agentmem.storage.sqlite.move_state import problems_of_move
from agentmem.storage.sqlite.row_codec import SENSELESS, twin_of
from agentmem.storage.types import Digest, is_vector
from agentmem.timestamps import from_microseconds

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
        "SELECT id FROM memory WHERE vector_key IS NOT NULL AND vector_error IS NOT NULL",
        "memory {!r} has a vector and the reason why it has none",
    ),
    (
        "SELECT id FROM memory JOIN history USING (seq) WHERE memory_key NOT IN (0, memory.key)",
        "memory {!r} is not as its history left it: its seq is that of another memory's event",
    ),
    (
        "SELECT memory_key FROM history WHERE what = 'purge' "
        "AND (before IS NOT NULL OR memory_key IN (SELECT key FROM memory))",
        "a memory (key {!r}) was purged, and yet something of it is there",
    ),
    (
        "SELECT name FROM meta WHERE name IN ('model', 'backlog', 'mover') AND NOT json_valid(value)",
        "what the store remembers as {!r} is unreadable",
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


def problems_of(connection: Connection, digest_of: Digest, dimension: int, tell: Tell) -> Iterator[str]:
    """Yields the problems, a sentence each, and reports progress. Damage that ends one check does not prevent the
    others."""
    looks: list[Callable[[], Iterator[str]]] = [
        lambda: _page_problems(connection, tell),
        lambda: _index_problems(connection, tell),
        lambda: (f"{each}; repair() removes it." for each, _ in strangers(connection)),
        *(partial(_answers, connection, question, sentence) for question, sentence in _QUESTIONS),
        lambda: _history_problems(connection, tell),
        lambda: _vector_problems(connection, dimension, tell),
        lambda: problems_of_move(connection),
        lambda: _text_problems(connection, digest_of, tell),
        lambda: _term_problems(connection, tell),
        lambda: _twin_problems(connection, tell),
    ]
    ends: set[str] = set()
    for look in looks:
        try:
            yield from look()
        except UnicodeDecodeError as error:
            if not fails_apart(partial(_taken, look)):
                raise
            ends.add(f"the database has text that is not UTF-8: {error.object[:40]!r}.")
        except (StoreError, DatabaseError, *SENSELESS) as error:
            if not isinstance(error, StoreError | DatabaseError) and not fails_apart(partial(_taken, look)):
                raise
            ends.add(f"the database cannot be read to its end: {type(error).__name__}: {error}.")
    yield from sorted(ends)


def _taken(look: Callable[[], Iterator[str]]) -> None:
    for _ in look():
        pass


def size_of(connection: Connection, table: str) -> int:
    """Returns the number of rows of a table, for progress; 0 where damage hides it."""
    with suppress(StoreError, DatabaseError):
        return int(only_row(connection, f"SELECT count(*) FROM {table}")[0])
    return 0


def _page_problems(connection: Connection, tell: Tell) -> Iterator[str]:
    tell("trees of the database", 0, 0)
    for row in connection.execute("PRAGMA integrity_check(100)"):
        if row[0] != "ok":
            yield f"the database file is damaged: {row[0]}."


def strangers(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yields the triggers and indexes that agentmem has not made, each with a sentence without its end, and the
    statement that removes it.

    Triggers may change or refuse writes, and indexes keep what is purged elsewhere. Of a store that a newer version has
    migrated meanwhile, nothing can be said.
    """
    if connection.pragma("user_version") > len(MIGRATIONS):
        return
    statements = "\n".join(step for migration in MIGRATIONS for step in migration if isinstance(step, str))
    tables = set(re.findall(r"CREATE TABLE (\w+)", statements))
    indexes = set(re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", statements))
    indexes -= set(re.findall(r"DROP INDEX (\w+)", statements))
    rows = all_rows(connection, "SELECT type, name, tbl_name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
    for kind, name, table in rows:
        ours = name in indexes or name.startswith(INDEX_PREFIX)
        if kind == "trigger" or (kind == "index" and table in tables and not ours):
            quoted = name.replace('"', '""')
            yield f"the {kind} {name!r} on {table!r} is not agentmem's", f'DROP {kind} "{quoted}"'


def _index_problems(connection: Connection, tell: Tell) -> Iterator[str]:
    """For an index with wrong entries, SQLite compares only the number of entries."""
    tell("indexes and links", 0, 0)
    partial_indexes = connection.execute(
        "SELECT name, substr(sql, instr(sql, ' WHERE ') + 7) FROM sqlite_schema "
        "WHERE type = 'index' AND tbl_name = 'memory' AND instr(sql, ' WHERE ')"
    ).fetchall()
    for name, condition in partial_indexes:
        listed = f'SELECT key FROM memory INDEXED BY "{name}" WHERE {condition}'
        right = f"SELECT key FROM memory NOT INDEXED WHERE {condition}"
        strangers = only_row(connection, f"SELECT count(*) FROM ({listed} EXCEPT {right})")[0]
        if strangers:
            yield f"the index {name!r} lists {strangers:,} memories that do not belong there."


def _answers(connection: Connection, question: str, sentence: str) -> Iterator[str]:
    for row in connection.execute(f"{question} LIMIT 100"):
        yield sentence.format(row[0]) + "."


def _history_problems(connection: Connection, tell: Tell) -> Iterator[str]:
    for _, _, played in each(histories(connection), tell, "histories", size_of(connection, "memory")):
        yield from played.faults


def histories(connection: Connection) -> Iterator[tuple[int, str, Replay]]:
    """Yields every memory's key and id, and replays its history."""
    rows = connection.execute(
        "SELECT memory.key, memory.id, updated_at, deleted_at, history.seq, what, at, before "
        "FROM memory LEFT JOIN history ON history.memory_key = memory.key ORDER BY memory.key, history.seq"
    )
    for (key, name, updated_at, deleted_at), events in groupby(rows, lambda row: row[:4]):
        stored = [Stored(*event[4:]) for event in events if event[4] is not None]
        yield key, name, replay(name, stored, updated_at, deleted_at)


def _vector_problems(connection: Connection, dimension: int, tell: Tell) -> Iterator[str]:
    rows = connection.execute("SELECT key, data, length(home_digest) FROM vector")
    for key, data, digest in each(rows, tell, "vectors", size_of(connection, "vector")):
        if len(data) != 2 * dimension:
            yield f"vector {key} has {len(data)} bytes instead of {2 * dimension}."
        elif not is_vector(data, dimension):
            yield f"vector {key} is not of unit length."
        elif digest != DIGEST_BYTES:
            yield f"vector {key} has a digest of {digest} bytes."


def _text_problems(connection: Connection, digest_of: Digest, tell: Tell) -> Iterator[str]:
    rows = connection.execute(
        "SELECT memory.id, user_id, agent_id, run_id, memory.content, vector.home_digest "
        "FROM memory JOIN vector ON vector.key = memory.vector_key"
    )
    for memory, *owners, content, digest in each(rows, tell, "texts", size_of(connection, "memory")):
        if digest_of(Scope(*owners).home, content) != digest:
            yield f"memory {memory!r} points to the vector of another text or owner."


def _term_problems(connection: Connection, tell: Tell) -> Iterator[str]:
    rows = connection.execute("SELECT id, content, created_at, terms FROM memory")
    for memory, content, created_at, terms in each(rows, tell, "words", size_of(connection, "memory")):
        if terms != stored_terms(content, from_microseconds(created_at)):
            yield f"memory {memory!r} is not found by its words: its terms are not those of its text."


def _twin_problems(connection: Connection, tell: Tell) -> Iterator[str]:
    """Deduplication finds a text by this number; the unique index ensures that no two are sole."""
    rows = connection.execute("SELECT id, user_id, agent_id, run_id, content, twin FROM memory")
    for memory, user_id, agent_id, run_id, content, twin in each(rows, tell, "owners", size_of(connection, "memory")):
        if twin_of(Scope(user_id, agent_id, run_id), content) != twin:
            yield f"memory {memory!r} is not found by its text: its twin is that of another text or scope."
