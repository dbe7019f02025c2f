"""Deferred memories: committed, visible, and waiting for their vectors."""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentmem.errors import AgentMemError
from agentmem.failpoints import reach
from agentmem.records import Embedded, Scope, from_microseconds, now
from agentmem.storage.database import Connection, all_rows, integer_array, only_row
from agentmem.storage.rows import SENSELESS, senseless
from agentmem.storage.transaction import Transaction

# Spelled as the partial index is, so that SQLite uses it: pending memories are found among millions in microseconds.
PENDING = (
    "FROM memory INDEXED BY memory_pending WHERE vector_key IS NULL AND vector_error IS NULL AND deleted_at IS NULL"
)


BACKLOG = "backlog"
"""The name of the claim to work through everybody's pending memories."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A memory without a vector, as it stood when it was read."""

    key: int
    content: str


def pending_memories(connection: Connection, scope: Scope, after_key: int, last_key: int, limit: int) -> list[Pending]:
    """Those of a scope, oldest first, beyond a key and up to another."""
    owners = "".join(f" AND {name} = ?" for name, _ in scope.owners())
    rows = connection.execute(
        f"SELECT key, content {PENDING}{owners} AND key > ? AND key <= ? ORDER BY key LIMIT ?",
        (*(value for _, value in scope.owners()), after_key, last_key, limit),
    )
    return [Pending(*row) for row in rows]


def last_pending(connection: Connection, scope: Scope) -> int | None:
    """The key of the newest of them, or None when there is none."""
    owners = "".join(f" AND {name} = ?" for name, _ in scope.owners())
    parameters = tuple(value for _, value in scope.owners())
    key = only_row(connection, f"SELECT max(key) {PENDING}{owners}", parameters)[0]
    return None if key is None else int(key)


def pending_count(connection: Connection) -> int:
    return int(only_row(connection, f"SELECT count(*) {PENDING}")[0])


def pending_counts(connection: Connection) -> dict[str, float]:
    """How many wait, for how long the oldest has, and how many have failed."""
    count, oldest = only_row(connection, f"SELECT count(*), min(updated_at) {PENDING}")
    failed = only_row(connection, "SELECT count(*) FROM memory WHERE vector_error IS NOT NULL AND deleted_at IS NULL")[
        0
    ]
    # Never below 0: the clock may have been put back.
    seconds = 0.0 if oldest is None else max(0.0, (now() - from_microseconds(oldest)).total_seconds())
    return {"pending": count, "pending_seconds": seconds, "pending_failed": failed}


def settle(transaction: Transaction, memories: Sequence[Pending], answers: Sequence[Embedded | AgentMemError]) -> None:
    """Gives the memories their vectors, or the reason why they get none. What was changed meanwhile is left alone: it
    has its vector by now, or it is still pending with another text."""
    reach("backlog: before vectors are settled")
    connection = transaction.connection
    seq = transaction.record_event(0, "embed", None, transaction.moment)
    waiting = _still_pending(connection, [memory.key for memory in memories])
    good = [
        (memory, answer)
        for memory, answer in zip(memories, answers, strict=True)
        if isinstance(answer, Embedded) and memory.key in waiting  # Of an erased text not even the vector is stored.
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
            (str(answer), seq, memory.key, memory.content)
            for memory, answer in zip(memories, answers, strict=True)
            if isinstance(answer, AgentMemError)
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


def _held(connection: Connection, name: str) -> tuple[str, int] | None:
    """Whose claim it is, and until when."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    try:
        held = json.loads(row[0])
        return str(held["owner"]), int(held["until"])
    except SENSELESS as error:
        raise senseless(f"What the store remembers as {name!r}", error) from error


def claimant() -> str:
    """A name for one who claims; it begins with the process."""
    return f"{os.getpid()}:{uuid.uuid4().hex}"


def is_at_work(claimant: str) -> bool:
    """False when the process of a claim is known to have ended, or to be stopped. One whose number was given to another
    counts as at work, one on the other side of a container's wall perhaps not; neither does harm."""
    pid, _, rest = claimant.partition(":")
    try:
        if rest and pid.isdecimal():
            os.kill(int(pid), 0)
            return not _stands_still(pid)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _stands_still(pid: str) -> bool:
    """By a signal or a debugger, for as long as somebody likes; or dead and not yet waited for. Only Linux tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]  # After the name, which may be any.
    except (OSError, IndexError, ValueError):
        return False
    return state in ("T", "t", "Z", "X")


def claim(transaction: Transaction, name: str, owner: str, seconds: float) -> float:
    """Takes or renews the right to do some work in the background for everybody, for a time. Returns 0, or the seconds
    that another process's claim still has to run, unless that process has ended or is stopped. A claim only spares
    double work: whoever ignores it does no harm."""
    connection = transaction.connection
    held = _held(connection, name)
    if held is not None:
        holder, until = held
        left = (until - transaction.moment) / 1e6
        if holder != owner and 0 < left <= seconds and is_at_work(holder):
            return left
    reach("backlog: before a claim")
    until = transaction.moment + int(seconds * 1e6)
    connection.execute(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps({"owner": owner, "until": until}))
    )
    reach("backlog: after a claim")
    return 0.0


def is_claimed(connection: Connection, name: str, owner: str) -> bool:
    """Whether the right is held by this one."""
    held = _held(connection, name)
    return held is not None and held[0] == owner


def release(transaction: Transaction, name: str, owner: str) -> None:
    """Gives the right back, if it is held."""
    if is_claimed(transaction.connection, name, owner):
        reach("backlog: before a release")
        transaction.connection.execute("DELETE FROM meta WHERE name = ?", (name,))
