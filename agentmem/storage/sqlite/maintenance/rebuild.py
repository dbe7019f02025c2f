"""Repairs contradictions between rows, in one transaction: rebuilds all derived data from the memories' rows, which are
believed."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from agentmem.analyzer import stored_terms
from agentmem.errors import StoreDamagedError
from agentmem.ids import DIGEST_BYTES
from agentmem.platform.signals import fails_apart
from agentmem.progress import Tell, each
from agentmem.records import Scope
from agentmem.storage.sqlite.database.sql import Connection, all_rows
from agentmem.storage.sqlite.ids import keys_in
from agentmem.storage.sqlite.maintenance.check import histories, size_of, strangers
from agentmem.storage.sqlite.maintenance.replay import Replay
from agentmem.storage.sqlite.meta import stored_model
from agentmem.storage.sqlite.move_state import mend_move
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse, twin_of
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import Digest, is_vector
from agentmem.timestamps import from_microseconds

CHUNK = 1000

Aside = list[dict[str, Any]]
"""Rows that found no place, unchanged."""


def mend(transaction: Transaction, digest_of: Digest, dimension: int, aside: Aside, tell: Tell) -> list[str]:
    """Repairs the rows; returns what was done, a sentence each, and reports progress.

    `digest_of` and `dimension` are of the model to believe in where the store does not name its own. Every repaired row
    gets a new `seq`, so that the indexes of every process read it again.
    """
    connection = transaction.connection
    done: list[str] = []
    for stranger, removal in list(strangers(connection)):  # First, because a trigger may refuse all that follows.
        connection.execute(removal)
        done.append(f"{stranger}, and is removed.")
    tell("indexes", 0, 0)
    connection.execute("REINDEX")
    with suppress(StoreDamagedError):  # The remembered state of it may be damaged.
        if (model := stored_model(connection)) is not None:
            digest_of, dimension = model.digests(), model.dimension
    seq = transaction.record_event(0, "repair", None, transaction.moment)
    done += _mend_vectors(connection, dimension, tell)
    done += mend_move(connection)
    done += _mend_memories(connection, digest_of, seq, aside, tell)
    done += _mend_histories(transaction, seq, aside, tell)
    done += _mend_facts(connection, aside)
    return done


def _mend_vectors(connection: Connection, dimension: int, tell: Tell) -> Iterator[str]:
    rows = connection.execute("SELECT key, data, length(home_digest) FROM vector")
    bad = [
        key
        for key, data, digest in each(rows, tell, "vectors", size_of(connection, "vector"))
        if digest != DIGEST_BYTES or not is_vector(data, dimension)
    ]
    for key in bad:
        connection.execute("DELETE FROM vector WHERE key = ?", (key,))
        yield f"vector {key} was none and is dropped."


def _mend_memories(connection: Connection, digest_of: Digest, seq: int, aside: Aside, tell: Tell) -> Iterator[str]:
    question = (
        "SELECT memory.key, id, user_id, agent_id, run_id, content, created_at, terms, twin, vector_key, vector_error, "
        "vector.home_digest, metadata IS NULL OR json_valid(metadata, 8), hex(metadata), "
        "memory.seq IN (SELECT seq FROM history WHERE memory_key IN (0, memory.key)) "
        "AND memory.seq >= coalesce((SELECT max(seq) FROM history WHERE memory_key = memory.key), 0) "
        "FROM memory LEFT JOIN vector ON vector.key = vector_key WHERE memory.key > ? ORDER BY memory.key LIMIT ?"
    )
    after = seen = 0
    total = size_of(connection, "memory")
    while rows := all_rows(connection, question, (after, CHUNK)):
        tell("memories", seen, total)
        after, seen = rows[-1][0], seen + len(rows)
        for key, name, *owners, content, at, terms, twin, vector, error, digest, valid, metadata, in_order in rows:
            changes: dict[str, Any] = {}
            try:
                words, right_twin = _derived(owners, content, at)
            except SENSELESS as problem:
                refuse(f"The row of memory {name!r}", problem, partial(_derived, owners, content, at))
            wrong = vector is not None and digest != digest_of(Scope(*owners).home, content)
            if twin != right_twin and (wrong or terms != words):
                yield f"memory {name!r}: its text is not the one it was stored with; it is kept as it now reads."
            if terms != words:
                changes["terms"] = words
                yield f"memory {name!r}: its terms are made anew."
            if twin != right_twin:
                changes |= {"twin": right_twin, "sole": None}
                yield f"memory {name!r}: its twin is made anew."
            if wrong:
                changes |= {"vector_key": None, "vector_error": None}
                yield f"memory {name!r}: it waits for its vector, which was wrong or not there."
            elif vector is not None and error is not None:
                changes["vector_error"] = None
                yield f"memory {name!r}: it has a vector; the reason why it had none is dropped."
            if not valid:
                changes["metadata"] = None
                aside.append({"memory": name, "metadata": metadata})
                yield f"memory {name!r}: its metadata could not be read and are set aside."
            if not any(owners):
                changes["run_id"] = _free_run(connection, name, key)
                changes["twin"] = twin_of(Scope(run_id=changes["run_id"]), content)
                yield f"memory {name!r}: it had no owner; its run_id is now {changes['run_id']!r}."
            if not in_order:
                yield f"memory {name!r}: its seq is put right."
            if changes or not in_order:
                columns = "".join(f", {column} = ?" for column in changes)
                connection.execute(f"UPDATE memory SET seq = ?{columns} WHERE key = ?", (seq, *changes.values(), key))


def _free_run(connection: Connection, id: str, key: int) -> str:
    """Returns a run in which no other memory has this id."""
    return f"repaired-{key}" if keys_in(connection, [(("run_id", "repaired"), id)]) else "repaired"


def _mend_histories(transaction: Transaction, seq: int, aside: Aside, tell: Tell) -> Iterator[str]:
    connection = transaction.connection
    columns = "seq, memory_key, what, at, before"
    lost = all_rows(
        connection,
        f"SELECT {columns} FROM history WHERE memory_key != 0 AND what != 'purge' "
        "AND memory_key NOT IN (SELECT key FROM memory)",
    )
    # agentmem never writes a purge of an existing memory, or one with a text.
    lost += all_rows(
        connection,
        f"SELECT {columns} FROM history WHERE what = 'purge' "
        "AND (before IS NOT NULL OR memory_key IN (SELECT key FROM memory))",
    )
    for event in lost:
        aside.append(dict(zip(columns.split(", "), event, strict=True)))
        connection.execute("DELETE FROM history WHERE seq = ?", (event[0],))
    for key in sorted({event[1] for event in lost if event[2] != "purge"}):
        # Like that of an erased memory, so that the indexes of other processes drop it.
        transaction.record_event(key, "purge", None, transaction.moment)
        yield f"a memory (key {key}) is lost; the events of its history are set aside."
    told = each(histories(connection), tell, "histories", size_of(connection, "memory"))
    for key, name, played in [memory for memory in told if memory[2].faults]:
        _rewrite(transaction, key, name, played, aside)
        yield f"memory {name!r}: its history is put right to lead to what it is now."


def _rewrite(transaction: Transaction, key: int, name: str, played: Replay, aside: Aside) -> None:
    connection = transaction.connection
    for event in played.dropped:
        aside.append({"memory": name, "seq": event.seq, "what": event.what, "at": event.at, "before": event.before})
        connection.execute("DELETE FROM history WHERE seq = ?", (event.seq,))
    for event in played.events:
        connection.execute(
            "INSERT OR REPLACE INTO history (seq, memory_key, what, at, before) VALUES (?, ?, ?, ?, ?)",
            (event.seq, key, event.what, event.at, event.before),
        )
    for what, at in played.closing:
        transaction.record_event(key, what, None, at)
    last = transaction.record_event(0, "repair", None, transaction.moment)
    connection.execute(
        "UPDATE memory SET updated_at = ?, deleted_at = ?, seq = ? WHERE key = ?",
        (played.updated_at, played.deleted_at, last, key),
    )


def _derived(owners: list[str | None], content: str, at: int) -> tuple[bytes, int]:
    """Returns a memory's terms, and the number of its text and scope."""
    return stored_terms(content, from_microseconds(at)), twin_of(Scope(*owners), content)


def _mend_facts(connection: Connection, aside: Aside) -> Iterator[str]:
    for name, value in all_rows(connection, "SELECT name, value FROM meta WHERE name IN ('model', 'backlog', 'mover')"):
        try:
            json.loads(value)
        except ValueError:
            if not fails_apart(partial(json.loads, value)):
                raise
            aside.append({"meta": name, "value": value})
            connection.execute("DELETE FROM meta WHERE name = ?", (name,))
            yield f"what the store remembered as {name!r} could not be read and is set aside."
