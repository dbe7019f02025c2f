"""The tables, as an append-only list of migrations.

A store of schema `n` is brought up to date by running the migrations after the n-th, all in the transaction that opens
it. Released migrations are never edited. A step is a statement, or a function of the connection.
"""

from collections.abc import Callable
from typing import Any

from agentmem.storage.sqlite.database.homes import settle_vectors

APPLICATION_ID = 0x61676D65
""""agme" in ASCII, which marks agentmem's files in SQLite's header."""

CHECKSUMS = "page_checksums"
"""The name in `meta` that says that every page of the file has a checksum. The header itself may be damaged."""

Step = str | Callable[[Any], None]

HOMES = 7
"""The schema from which on ids are unique, and vectors shared, within a home only."""

MIGRATIONS: list[list[Step]] = [
    [
        # One row a store's fact: its id, what made its vectors (model identity, dimension) and its terms.
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        "INSERT INTO meta VALUES ('store_id', lower(hex(randomblob(16))))",
        # A vector is written once and never changed; a memory whose text changes points to another one.
        """CREATE TABLE vector (
            key INTEGER PRIMARY KEY,
            digest BLOB NOT NULL UNIQUE,        -- of model identity and text as embedded, 16 bytes
            data BLOB NOT NULL                  -- float16, little-endian, unit length
        ) STRICT""",
        # AUTOINCREMENT: a key is never handed out again, so no index can mistake a new memory for an erased one.
        """CREATE TABLE memory (
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            user_id TEXT, agent_id TEXT, run_id TEXT,
            role TEXT,
            created_at INTEGER NOT NULL,        -- microseconds since 1970-01-01 UTC, like all times here
            updated_at INTEGER NOT NULL,
            expires_at INTEGER,
            deleted_at INTEGER,                 -- by a user before expires_at, by a sweep at or after it
            vector_key INTEGER,                 -- NULL while the vector is still to come
            vector_error TEXT,                  -- why it never will
            seq INTEGER NOT NULL,               -- history.seq of the last change
            twin INTEGER NOT NULL,              -- hash of scope and content: equal for equal texts of one scope
            sole INTEGER CHECK (sole = 1),      -- 1 where dedupe stored it, until it makes room for another, or changes
            terms BLOB,                         -- of content and day, as `agentmem.analyzer` makes them
            metadata BLOB,                      -- JSONB object, NULL when empty
            content TEXT NOT NULL               -- the largest last: what stands before it is read without it
        ) STRICT""",
        "CREATE INDEX memory_pending ON memory (key) "
        "WHERE vector_key IS NULL AND vector_error IS NULL AND deleted_at IS NULL",
        "CREATE INDEX memory_failed ON memory (key) WHERE vector_error IS NOT NULL",
        # This index keeps out a second deduplicated text. NULLs are distinct, so any number of the others can exist.
        "CREATE UNIQUE INDEX memory_twin ON memory (twin, sole)",
        "CREATE INDEX memory_expires ON memory (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL",
        # Indexes in memory follow these: the changes of one owner since a seq, and the newest of an owner first.
        "CREATE INDEX memory_user ON memory (user_id, seq) WHERE user_id IS NOT NULL",
        "CREATE INDEX memory_agent ON memory (agent_id, seq) WHERE agent_id IS NOT NULL",
        "CREATE INDEX memory_run ON memory (run_id, seq) WHERE run_id IS NOT NULL",
        "CREATE INDEX memory_seq ON memory (seq)",
        # Append-only. `before` holds the replaced state (JSON of content, metadata, expires_at, updated_at). The new
        # state is the `before` of the memory's next event, or the memory's row, so no text is written twice. An event
        # "embed" of memory 0 stands for the vectors that deferred memories got together.
        """CREATE TABLE history (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            memory_key INTEGER NOT NULL,
            what TEXT NOT NULL,
            at INTEGER NOT NULL,                -- when it was committed; grows with seq but for changes of the clock
            before TEXT
        ) STRICT""",
        "CREATE INDEX history_memory ON history (memory_key, seq)",
    ],
    [
        # An event "purge" is all that is left of an erased memory, for indexes to find.
        "CREATE INDEX history_purge ON history (seq) WHERE what = 'purge'",
    ],
    # Pages may have checksums from here on: a version that knows only the two schemas above would write them without.
    [],
    [
        # Blocks of memories in files of their own, see segment_list.py; all of it can be rebuilt.
        """CREATE TABLE segment (
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            field TEXT, name TEXT,              -- whose, as in ('user_id', 'ana'); NULL: everybody's
            first INTEGER NOT NULL,             -- has the memories whose last change has a seq from here
            last INTEGER NOT NULL,              -- to here
            model TEXT NOT NULL,                -- identity of the model of its vectors
            places INTEGER NOT NULL,            -- how many memories
            file TEXT NOT NULL UNIQUE,          -- its name in the folder
            bytes INTEGER NOT NULL,
            checksum BLOB NOT NULL              -- of the whole file, BLAKE2b of 16 bytes
        ) STRICT""",
        "CREATE INDEX segment_owner ON segment (field, name, first)",
        # Counts deleted memories without reading all memories.
        "CREATE INDEX memory_deleted ON memory (deleted_at) WHERE deleted_at IS NOT NULL",
    ],
    # Otherwise its vectors are scanned until it has.
    ["ALTER TABLE segment ADD COLUMN has_graph INTEGER NOT NULL DEFAULT 1"],
    [
        # Memories of the same text in the same scope have the same vector, or none yet. New vectors have the highest
        # keys. So a text never seen before goes to the end of the index that finds it, and not into any page of it.
        "DROP INDEX memory_twin",
        "CREATE INDEX memory_vector ON memory (vector_key, twin)",
        "CREATE UNIQUE INDEX memory_sole ON memory (twin) WHERE sole = 1",
    ],
    [
        # An id is unique within its home. The constraint's index becomes an ordinary one, which can be dropped. Copying
        # a million memories into a table without it takes five times as long, and twice the room.
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'id TEXT NOT NULL UNIQUE,', 'id TEXT NOT NULL,') "
        "WHERE type = 'table' AND name = 'memory'",
        "UPDATE sqlite_schema SET name = 'memory_id', sql = 'CREATE UNIQUE INDEX memory_id ON memory (id)' "
        "WHERE type = 'index' AND name = 'sqlite_autoindex_memory_1'",
        "UPDATE sqlite_schema SET sql = replace(sql, 'digest BLOB NOT NULL UNIQUE,', 'digest BLOB NOT NULL,') "
        "WHERE type = 'table' AND name = 'vector'",
        "UPDATE sqlite_schema SET name = 'vector_digest', sql = 'CREATE UNIQUE INDEX vector_digest ON vector (digest)' "
        "WHERE type = 'index' AND name = 'sqlite_autoindex_vector_1'",
        "PRAGMA writable_schema = RESET",
        "DROP INDEX memory_id",
        "CREATE UNIQUE INDEX memory_user_id ON memory (id, user_id) WHERE user_id IS NOT NULL",
        "CREATE UNIQUE INDEX memory_run_id ON memory (id, run_id) WHERE user_id IS NULL AND run_id IS NOT NULL",
        "CREATE UNIQUE INDEX memory_agent_id ON memory (id, agent_id) WHERE user_id IS NULL AND run_id IS NULL",
        # A move to another model is begun anew: its vectors have the digests of before.
        "DROP TABLE IF EXISTS next_vector",
        "DROP TABLE IF EXISTS old_vector",
        "DELETE FROM meta WHERE name IN ('next_model', 'old_model', 'mover')",
        # Of model, text and home. A process that has the file open and knows no homes can store no vectors from here
        # on.
        "ALTER TABLE vector RENAME COLUMN digest TO home_digest",
        settle_vectors,
    ],
]

NEXT_VECTOR = """CREATE TABLE next_vector (
    key INTEGER PRIMARY KEY,                -- of the vector that the same text has now
    home_digest BLOB NOT NULL UNIQUE,
    data BLOB NOT NULL
) STRICT"""
"""Gathers the vectors of another model. It replaces `vector` in the end, and must be like it."""

INDEX_PREFIX = "metadata:"
"""The beginning of the names of the indexes on metadata keys."""


def metadata_indexes(keys: tuple[str, ...]) -> dict[str, str]:
    """Returns the names of the indexes that serve filters on these (plain) keys, and the statement that creates each.

    There is one for each kind of owner and one across owners. Without an owner in front, the planner reads all memories
    of the owner instead of a range of values of all owners. Each holds only memories that have the owner and the key:
    an ordinary memory stands in two of them, and one without the key in none.
    """
    indexes = {}
    for key in keys:
        path = key.removeprefix("metadata.")
        value = f"metadata ->> '$.{path}'"
        for owner in ("user_id", "agent_id", "run_id"):
            indexes[f"{INDEX_PREFIX}{owner}:{path}"] = (
                f"({owner}, {value}) WHERE {owner} IS NOT NULL AND {value} IS NOT NULL"
            )
        indexes[f"{INDEX_PREFIX}:{path}"] = f"({value}) WHERE {value} IS NOT NULL"
    return {name: f'CREATE INDEX "{name}" ON memory {columns}' for name, columns in indexes.items()}
