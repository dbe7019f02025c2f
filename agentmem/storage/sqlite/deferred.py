"""Deferred memories: committed, visible, and waiting for their vectors."""

from collections.abc import Sequence

from agentmem.errors import AgentMemError
from agentmem.platform.failpoints import reach
from agentmem.records import Embedded, Scope
from agentmem.storage.operations import SetVector
from agentmem.storage.sqlite.database.sql import Connection, all_rows, integer_array, only_row
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import Pending
from agentmem.timestamps import from_microseconds, now

# Spelled like the partial index, so that SQLite uses it: pending memories are found among millions in microseconds.
PENDING = (
    "FROM memory INDEXED BY memory_pending WHERE vector_key IS NULL AND vector_error IS NULL AND deleted_at IS NULL"
)


def pending_memories(connection: Connection, scope: Scope, after_key: int, last_key: int, limit: int) -> list[Pending]:
    """Returns the pending memories of a scope, oldest first, beyond a key and up to another."""
    owners = "".join(f" AND {name} = ?" for name, _ in scope.owners())
    rows = connection.execute(
        f"SELECT key, content, user_id, agent_id, run_id {PENDING}{owners} AND key > ? AND key <= ? "
        "ORDER BY key LIMIT ?",
        (*(value for _, value in scope.owners()), after_key, last_key, limit),
    )
    return [Pending(key, content, Scope(*owners).home) for key, content, *owners in rows]


def last_pending(connection: Connection, scope: Scope) -> int | None:
    """Returns the key of the newest of them, or None."""
    owners = "".join(f" AND {name} = ?" for name, _ in scope.owners())
    parameters = tuple(value for _, value in scope.owners())
    key = only_row(connection, f"SELECT max(key) {PENDING}{owners}", parameters)[0]
    return None if key is None else int(key)


def pending_count(connection: Connection) -> int:
    return int(only_row(connection, f"SELECT count(*) {PENDING}")[0])


def pending_counts(connection: Connection) -> dict[str, float]:
    """Returns how many wait, the age of the oldest, and how many have failed."""
    count, oldest = only_row(connection, f"SELECT count(*), min(updated_at) {PENDING}")
    failed = only_row(connection, "SELECT count(*) FROM memory WHERE vector_error IS NOT NULL AND deleted_at IS NULL")[
        0
    ]
    # Never below 0: the clock may have been set back.
    seconds = 0.0 if oldest is None else max(0.0, (now() - from_microseconds(oldest)).total_seconds())
    return {"pending": count, "pending_seconds": seconds, "pending_failed": failed}


def settle(transaction: Transaction, vectors: Sequence[SetVector]) -> None:
    """Gives pending memories their vectors, or the reason for having none.

    A memory that was changed meanwhile is left alone: it has its vector, or is pending with another text.
    """
    reach("backlog: before vectors are settled")
    connection = transaction.connection
    seq = transaction.record_event(0, "embed", None, transaction.moment)
    waiting = _still_pending(connection, [each.memory.key for each in vectors])
    good = [
        (each.memory, each.answer)
        for each in vectors
        # The vector of an erased text is not stored either.
        if isinstance(each.answer, Embedded) and each.memory.key in waiting
    ]
    vector_keys = transaction.vector_keys([answer for _, answer in good]) if good else []
    reach("backlog: between the event and the vectors it is for")
    guard = "WHERE key = ? AND content = ? AND vector_key IS NULL"
    connection.executemany(
        f"UPDATE memory SET vector_key = ?, seq = ? {guard}",
        [(vector, seq, memory.key, memory.content) for vector, (memory, _) in zip(vector_keys, good, strict=True)],
    )
    connection.executemany(
        f"UPDATE memory SET vector_error = ?, seq = ? {guard}",
        [
            (str(each.answer), seq, each.memory.key, each.memory.content)
            for each in vectors
            if isinstance(each.answer, AgentMemError)
        ],
    )
    reach("backlog: after vectors are settled")


def _still_pending(connection: Connection, keys: list[int]) -> set[int]:
    rows = all_rows(
        connection,
        "SELECT key FROM carray(?) AS wanted CROSS JOIN memory ON key = wanted.value WHERE vector_key IS NULL",
        (integer_array(keys),),
    )
    return {row[0] for row in rows}
