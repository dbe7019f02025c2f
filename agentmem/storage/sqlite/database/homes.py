"""The migration that gives every vector a home: until then the same text of several owners shared one."""

import json
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any

from agentmem.ids import Home, at_home, digests_by
from agentmem.records import Scope

TOGETHER = 1000
"""Vectors whose rows are written at once."""

_USES = """SELECT vector.key, memory.key, home_digest, user_id, agent_id, run_id
    FROM memory CROSS JOIN vector ON vector.key = vector_key ORDER BY vector_key"""

_PAST_USES = """SELECT DISTINCT vector.key, NULL, home_digest, user_id, agent_id, run_id FROM history
    CROSS JOIN memory ON memory.key = memory_key
    CROSS JOIN vector ON home_digest = agentmem_digest(iif(json_valid(before), before ->> '$.content', NULL))
    WHERE before IS NOT NULL ORDER BY vector.key"""

_Use = tuple[int, int | None, bytes, str | None, str | None, str | None]
"""A vector, a memory that has or had it, its digest before the migration, and the memory's owners."""


def settle_vectors(connection: Any) -> None:
    """Makes the digest of each vector one of text and home, and copies the vector for every further home of the text.

    Homes that had the text count too. A vector without a text stays unchanged until a vacuum drops it.
    """
    connection.create_scalar_function("agentmem_digest", _shared_digests(connection), 1, deterministic=True)
    past = connection.execute(_PAST_USES).fetchall()
    connection.create_scalar_function("agentmem_digest", None, 1)
    # Sorting a million entries is faster than inserting each in its place.
    connection.execute("DROP INDEX vector_digest")
    _settle(connection, merge(connection.execute(_USES), past, key=itemgetter(0)))
    connection.execute("CREATE UNIQUE INDEX vector_digest ON vector (home_digest)")


def _settle(connection: Any, uses: Iterable[_Use]) -> None:
    last = connection.execute("SELECT coalesce(max(key), 0) FROM vector").fetchone()[0]
    settled: list[tuple[bytes, int]] = []
    copies: list[tuple[int, bytes, int]] = []
    moved: list[tuple[int, int]] = []

    def write() -> None:
        connection.executemany("UPDATE vector SET home_digest = ? WHERE key = ?", settled)
        connection.executemany("INSERT INTO vector SELECT ?, ?, data FROM vector WHERE key = ?", copies)
        copies.clear()
        settled.clear()

    for vector, its_uses in groupby(uses, itemgetter(0)):
        keys: dict[Home, int] = {}
        for home, memory, digest in _homes(its_uses):
            if home not in keys:
                if keys:
                    keys[home] = last = last + 1
                    copies.append((last, at_home(digest, home), vector))
                else:
                    keys[home] = vector
                    settled.append((at_home(digest, home), vector))
            if memory is not None and keys[home] != vector:
                moved.append((keys[home], memory))
        if len(settled) + len(copies) >= TOGETHER:
            write()
    write()
    connection.executemany("UPDATE memory SET vector_key = ? WHERE key = ?", moved)


def _homes(uses: Iterable[_Use]) -> Iterator[tuple[Home, int | None, bytes]]:
    for _, memory, digest, *owners in uses:
        if (home := Scope(*owners).home) is not None:
            yield home, memory, digest


def _shared_digests(connection: Any) -> Any:
    """Returns the digest of a text without a home."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'model' AND json_valid(value)").fetchone()
    model = {} if row is None else json.loads(row[0])
    digest, prefix = digests_by(str(model.get("identity", ""))), str(model.get("document_prefix", ""))
    return lambda text: digest(prefix + text) if isinstance(text, str) else None
