"""The memories of one moment, read page by page, each page in a read transaction of its own.

A slow reader (a pipe, a network, a pause) with one open transaction would keep the log from being merged. So the moment
is a number, `seq`. The keys that are visible then are listed once, 8 bytes each. Later changes of a memory's row are
undone with its history. Memories purged meanwhile are left out.
"""

from dataclasses import replace

from agentmem.records import Embedded, Record, owners_of
from agentmem.storage.sqlite.database.sql import Connection, all_rows, integer_array, key_array
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, record_of, version_of_json
from agentmem.storage.sqlite.snapshot import known_vectors
from agentmem.storage.types import Digest, Keys

_COLUMNS = RECORD_COLUMNS.count(",") + 1


def thaw(
    connection: Connection, keys: Keys, seq: int, digest_of: Digest | None
) -> list[tuple[Record, Embedded | None]]:
    """Yields those of the memories that still exist, as they were at `seq`, in the order of their keys.

    With `digest_of`, which returns the digest of a home's text, they come with their vectors.
    """
    if not len(keys):
        return []
    vector, join = "", ""
    if digest_of is not None:
        vector, join = ", vector.home_digest, vector.data", "LEFT JOIN vector ON vector.key = memory.vector_key"
    rows = all_rows(
        connection,
        f"SELECT {RECORD_COLUMNS}, memory.seq{vector} FROM carray(?) AS wanted "
        f"CROSS JOIN memory ON memory.key = wanted.value {join}",
        (key_array(keys),),
    )
    replaced = _replaced_since(connection, [row[0] for row in rows if row[_COLUMNS] > seq], seq)
    found: list[tuple[Record, Embedded | None]] = []
    missing: list[tuple[int, bytes]] = []
    for row in rows:
        record, embedded = record_of(row[:_COLUMNS]), None
        if row[0] in replaced:
            record = _as_it_was(record, replaced[row[0]])
        if digest_of is not None:
            digest = digest_of(owners_of(record).home, record.content)
            if row[-2] == digest:
                embedded = Embedded(digest, row[-1])
            elif row[0] in replaced:
                missing.append((len(found), digest))
        found.append((record, embedded))
    if missing:
        vectors = known_vectors(connection, [digest for _, digest in missing])
        for position, digest in missing:
            if digest in vectors:
                found[position] = found[position][0], Embedded(digest, vectors[digest])
    return found


def _replaced_since(connection: Connection, keys: list[int], seq: int) -> dict[int, str]:
    """Returns the versions at `seq` of the memories that were changed since."""
    if not keys:
        return {}
    rows = all_rows(
        connection,
        "SELECT memory_key, before, min(seq) FROM carray(?) AS wanted "
        "CROSS JOIN history ON memory_key = wanted.value WHERE seq > ? AND before IS NOT NULL GROUP BY memory_key",
        (integer_array(keys), seq),
    )
    return {key: before for key, before, _ in rows}


def _as_it_was(record: Record, before: str) -> Record:
    version = version_of_json(before)
    return replace(
        record,
        content=version.content,
        metadata=version.metadata,
        expires_at=version.expires_at,
        updated_at=version.updated_at,
    )
