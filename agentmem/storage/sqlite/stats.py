"""Counts what the store holds, for `Stats`."""

import os
from contextlib import suppress
from typing import Any

from agentmem.storage.sqlite.database.sql import Connection, only_row
from agentmem.storage.sqlite.deferred import pending_counts
from agentmem.storage.sqlite.move_state import move_progress
from agentmem.storage.sqlite.segment_list import listed_counts
from agentmem.timestamps import from_microseconds

OWNERS_COUNTED = 10_000
"""Most owners of a kind that are counted, each looked up in an index: 12 milliseconds."""


def counts(connection: Connection, path: str) -> dict[str, Any]:
    """Returns rows, owners, the last change and bytes."""
    # Each from an index that holds little else: together, they would read all rows.
    memories = only_row(connection, "SELECT count(*) FROM memory")[0]
    deleted = only_row(connection, "SELECT count(*) FROM memory WHERE deleted_at IS NOT NULL")[0]
    move = move_progress(connection)
    last = connection.execute("SELECT seq, at FROM history ORDER BY seq DESC LIMIT 1").fetchone()
    return {
        "memories": memories - deleted,
        "deleted": deleted,
        "vectors": only_row(connection, "SELECT count(*) FROM vector")[0],
        "users": _owners(connection, "user"),
        "agents": _owners(connection, "agent"),
        "runs": _owners(connection, "run"),
        "changes": 0 if last is None else last[0],
        "changed_at": None if last is None else from_microseconds(last[1]),
        "bytes": connection.pragma("page_count") * connection.pragma("page_size"),
        "log_bytes": size_of(f"{path}-wal"),
        **listed_counts(connection),
        **pending_counts(connection),
        **({} if move is None else {"moving_to": move.name, "moved": move.done}),
    }


def _owners(connection: Connection, kind: str) -> int:
    """Returns the number of owners, from one to the next in the index, past all the memories of each."""
    return int(
        only_row(
            connection,
            f"""WITH RECURSIVE owner (name) AS (
                SELECT min({kind}_id) FROM memory INDEXED BY memory_{kind} WHERE {kind}_id IS NOT NULL
                UNION ALL
                SELECT (SELECT min({kind}_id) FROM memory INDEXED BY memory_{kind} WHERE {kind}_id > owner.name)
                FROM owner WHERE owner.name IS NOT NULL LIMIT {OWNERS_COUNTED + 1}
            ) SELECT min(count(name), {OWNERS_COUNTED}) FROM owner""",
        )[0]
    )


def size_of(path: str) -> int:
    """Returns the bytes of a file; 0 without one."""
    with suppress(OSError, ValueError):
        return os.stat(path).st_size  # noqa: PTH116 - Path raises on names that no file can have.
    return 0
