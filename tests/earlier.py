"""Stores of schemas before the present one, written row by row as the versions of then did."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from agentmem.analyzer import ANALYSIS, stored_terms
from agentmem.ids import digests_by
from agentmem.records import Record, Scope
from agentmem.storage.sqlite.database.schema import APPLICATION_ID, CHECKSUMS, MIGRATIONS
from agentmem.storage.sqlite.database.vfs import checked_vfs
from agentmem.storage.sqlite.row_codec import twin_of, version_json
from agentmem.testing import HashEmbedder
from agentmem.timestamps import from_microseconds

CHECKED_SINCE = 3
"""The schema of the first stores whose pages have checksums."""

BEGAN = 1_750_000_000_000_000
"""Microseconds; each event comes a second after the one before."""


def make_store(path: Path, memories: Sequence[dict[str, Any]], *, schema: int = 6, checksums: bool = True) -> None:
    """Makes a store of a schema with these memories.

    A memory has an `id`, owners, and `versions`: its texts, the last of which it has now. `pending` means that its
    vector is still to come.
    """
    if schema >= CHECKED_SINCE:  # A new connection, for only then are checksums written.
        connection = apsw.Connection(str(path), vfs=checked_vfs())
        connection.reserve_bytes("main", 8)
        connection.pragma("journal_mode", "wal")
        connection.close()
    connection = apsw.Connection(str(path), vfs=checked_vfs())
    connection.pragma("journal_mode", "wal")
    for number, migration in enumerate(MIGRATIONS[:schema], start=1):
        for statement in migration:
            assert isinstance(statement, str)
            connection.execute(statement)
        connection.pragma("user_version", number)
    connection.pragma("application_id", APPLICATION_ID)
    embedder = HashEmbedder()
    model = {"identity": embedder.identity, "name": "HashEmbedder", "dimension": embedder.dimension}
    facts = [("model", json.dumps(model)), ("analysis", ANALYSIS)]
    if schema >= CHECKED_SINCE:
        facts.append((CHECKSUMS, "8"))
    connection.executemany("INSERT INTO meta VALUES (?, ?)", facts)
    digest_of, seq = digests_by(embedder.identity), 0
    for key, memory in enumerate(memories, start=1):
        scope = Scope(*(memory.get(name) for name in ("user_id", "agent_id", "run_id")))
        versions, begun, before = memory["versions"], BEGAN + 1_000_000 * seq, None
        for content in versions:
            seq += 1
            at = BEGAN + 1_000_000 * (seq - 1)
            if before is not None:
                told = Record(
                    memory["id"], before[0], None, None, None, None, {}, from_microseconds(begun),
                    from_microseconds(before[1]), None,
                )  # fmt: skip
            connection.execute(
                "INSERT INTO history (memory_key, what, at, before) VALUES (?, ?, ?, ?)",
                (key, *(("add", at, None) if before is None else ("update", at, version_json(told)))),
            )
            before = content, at
            if not memory.get("pending"):
                data = embedder.embed([content])[0].astype("<f2").tobytes()
                connection.execute(
                    "INSERT OR IGNORE INTO vector (digest, data) VALUES (?, ?)", (digest_of(content), data)
                )
        connection.execute(
            "INSERT INTO memory (key, id, user_id, agent_id, run_id, created_at, updated_at, vector_key, seq, twin, "
            "terms, content) VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT key FROM vector WHERE digest = ?), ?, ?, ?, ?)",
            (
                key, memory["id"], scope.user_id, scope.agent_id, scope.run_id, begun, at,
                None if memory.get("pending") else digest_of(content), seq, twin_of(scope, content),
                stored_terms(content, from_microseconds(begun)), content,
            ),
        )  # fmt: skip
    connection.close()


def turn_back(path: Path) -> None:
    """Turns a store of the present schema, in which no two homes share an id, into one of schema 6. The vectors of
    replaced texts are left out."""
    connection = apsw.Connection(str(path), vfs=checked_vfs())
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ALTER TABLE vector RENAME COLUMN home_digest TO digest")
    [identity] = connection.execute("SELECT value ->> '$.identity' FROM meta WHERE name = 'model'").fetchone()
    digest_of = digests_by(identity)
    for key, vector, content in connection.execute("SELECT key, vector_key, content FROM memory").fetchall():
        shared = connection.execute("SELECT key FROM vector WHERE digest = ?", (digest_of(content),)).fetchone()
        if shared is not None:
            connection.execute("UPDATE memory SET vector_key = ? WHERE key = ?", (*shared, key))
        else:
            connection.execute("UPDATE vector SET digest = ? WHERE key = ?", (digest_of(content), vector))
    pointed = "SELECT vector_key FROM memory WHERE vector_key IS NOT NULL"
    connection.execute(f"DELETE FROM vector WHERE key NOT IN ({pointed})")
    for kind in ("user", "run", "agent"):
        connection.execute(f"DROP INDEX memory_{kind}_id")
    connection.execute("CREATE UNIQUE INDEX memory_id ON memory (id)")
    connection.execute("PRAGMA writable_schema = ON")
    for table, index, column in (("memory", "memory_id", "id TEXT"), ("vector", "vector_digest", "digest BLOB")):
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?",
            (f"{column} NOT NULL,", f"{column} NOT NULL UNIQUE,", table),
        )
        connection.execute(
            "UPDATE sqlite_schema SET name = ?, sql = NULL WHERE name = ?", (f"sqlite_autoindex_{table}_1", index)
        )
    connection.execute("PRAGMA writable_schema = RESET")
    connection.pragma("user_version", 6)
    connection.execute("COMMIT")
    connection.close()
