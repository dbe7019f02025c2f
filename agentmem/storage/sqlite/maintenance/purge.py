"""Erases memories for good: no byte of their text is left in any file of the store.

The rows are deleted in ordinary transactions. Rewriting the file (VACUUM) removes their remains in free pages and gaps.
SQLite's `secure_delete`, which is on, overwrites deleted rows, but not copies left by an earlier page split. Then the
log, which still holds older pages, is merged into the file and cut to nothing. One event "purge" a memory stays, with
its key and the time, by which indexes learn that it is gone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from agentmem.errors import StoreBusyError, StoreError, StoreFullError
from agentmem.platform.failpoints import reach
from agentmem.progress import Tell, untold
from agentmem.records import Scope
from agentmem.storage.retrying import Outplanned
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.sql import Connection, all_rows, blob_array, integer_array, key_array, only_row
from agentmem.storage.sqlite.group_commit import GroupCommit
from agentmem.storage.sqlite.ids import key_of
from agentmem.storage.sqlite.meta import stored_model
from agentmem.storage.sqlite.move_state import erase_beside, models_of
from agentmem.storage.sqlite.segment_list import strike_touched, sweep
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import UNKNOWN, Erased, Keys, StoredModel

ERASED_TOGETHER = 500
"""Memories deleted in one transaction: writers wait a second at most."""


PAGES_A_STEP = 256
"""Pages moved in one transaction, 1 MB: writers wait some 20 ms."""

UNWIPED = "unwiped"
"""The name in `meta` that says that erased bytes may still be in the file."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The memories to erase, as they stood at `seq`, found without keeping writers waiting.

    Attributes:
        where: The condition that each must still satisfy, with its parameters.
        last_use: For each of their vectors, the newest of the erased memories.
        kept: The vectors that other memories have, or had in their past.
    """

    where: str
    parameters: tuple[Any, ...]
    keys: Keys
    seq: int
    epoch: int
    last_use: dict[int, int]
    kept: set[int]


def purge(database: Database, writes: GroupCommit, scope: Scope, id: str | None, tell: Tell) -> Erased:
    """Erases the memories of a scope, or the one with an id, that exist when it begins, visible or not.

    On return they are gone from the file and its log. Every transaction leaves a healthy store. It reports progress.

    Raises:
        StoreBusyError: They are gone, but others' reads keep the log from being cut.
        InvalidInputError: Several homes of the scope have the id.
        StoreFullError: They are gone, but the disk has no room to rewrite the file; or it has no room to erase some of
            them. The message says which.
    """
    named: list[tuple[str, Any]] = [*scope.owners()]
    if id is not None:
        named = [("key", database.read(partial(key_of, id=id, scope=scope)))]  # Nothing has the key None.
    where = " AND ".join(f"memory.{name} = ?" for name, _ in named) or "1"
    return _purge(database, writes, where, tuple(value for _, value in named), tell)


def purge_hidden(database: Database, writes: GroupCommit, moment: int) -> Erased:
    """Erases the memories of all owners that were deleted, or had expired, before a past moment. Memories restored
    meanwhile stay."""
    where = "(memory.deleted_at < ? OR memory.expires_at < ?)"
    return _purge(database, writes, where, (moment, moment), untold)


def _purge(database: Database, writes: GroupCommit, where: str, parameters: tuple[Any, ...], tell: Tell) -> Erased:
    erased = Erased()
    tell("what goes, and what stays", 0, 0)
    plan = database.read(lambda connection: _plan(connection, where, parameters))
    start, together = 0, ERASED_TOGETHER
    while start < len(plan.keys):
        tell("memories", start, len(plan.keys))
        keys = plan.keys[start : start + together]
        try:
            gone = writes.commit(partial(_erase, keys=keys, plan=plan), Kind.ERASES, epoch=plan.epoch)
        except Outplanned:
            plan, start = database.read(lambda connection: _plan(connection, where, parameters)), 0
            continue
        except StoreFullError as error:
            if together > 1:
                together = max(1, together // 4)  # Fewer memories need less of the log.
                continue
            raise StoreFullError(f"{error} (Erased so far: {erased.count:,} memories.)") from error
        start += len(keys)
        erased.count += gone.count
        erased.owners |= gone.owners
        erased.digests |= gone.digests
    sweep(database)
    tell("writing the file anew", 0, 0)
    wipe(database, writes)
    return erased


def _plan(connection: Connection, where: str, parameters: tuple[Any, ...]) -> _Plan:
    model = stored_model(connection) or UNKNOWN
    rows = all_rows(connection, f"SELECT key FROM memory WHERE {where} ORDER BY key", parameters)
    keys = np.array([row[0] for row in rows], np.int64)
    if not len(keys):
        return _Plan(where, parameters, keys, 0, connection.epoch, {}, set())
    seq = only_row(connection, "SELECT coalesce(max(seq), 0) FROM history")[0]
    last_use: dict[int, int] = {}
    for start in range(0, len(keys), ERASED_TOGETHER):
        chunk = keys[start : start + ERASED_TOGETHER]
        for vector, key in _vectors_of(connection, chunk, _digests_of(connection, chunk, model)).items():
            last_use[vector] = max(key, last_use.get(vector, 0))
    kept = _used(connection, last_use, keys, since=0) | _used_before(connection, last_use, keys, model)
    return _Plan(where, parameters, keys, seq, connection.epoch, last_use, kept)


def _erase(transaction: Transaction, keys: Keys, plan: _Plan) -> Erased:
    connection = transaction.connection
    rows = all_rows(
        connection,
        f"SELECT key, user_id, agent_id, run_id, {plan.where} IS TRUE "
        "FROM carray(?) AS wanted CROSS JOIN memory ON key = wanted.value",
        (*plan.parameters, key_array(keys)),
    )
    model, *others = models_of(connection) or [UNKNOWN]
    spared = np.array([row[0] for row in rows if not row[4]], np.int64)  # Restored since the plan was made.
    if len(spared):
        plan.kept.update(_vectors_of(connection, spared, _digests_of(connection, spared, model)))
    there = [row[:4] for row in rows if row[4]]
    if not there:  # Another process was faster.
        return Erased()
    keys = np.array([row[0] for row in there], np.int64)
    digests = _digests_of(connection, keys, model)
    gone = set().union(*digests.values())
    for other in others:
        gone |= set().union(*_digests_of(connection, keys, other).values())
    vectors = _vectors_of(connection, keys, digests)
    planned = {vector for vector in vectors if vector in plan.last_use}
    used = {vector for vector in planned if vector in plan.kept or plan.last_use[vector] > keys[-1]}
    used |= _used(connection, planned, keys, since=plan.seq)
    used |= _used(connection, vectors.keys() - planned, keys, since=0)  # Of texts newer than the plan.
    unused = vectors.keys() - used
    strike_touched(connection, keys)
    erase_beside(connection, unused, gone)
    connection.execute("DELETE FROM history WHERE memory_key IN (SELECT value FROM carray(?))", (key_array(keys),))
    connection.execute("DELETE FROM memory WHERE key IN (SELECT value FROM carray(?))", (key_array(keys),))
    if unused:
        connection.execute("DELETE FROM vector WHERE key IN (SELECT value FROM carray(?))", (integer_array(unused),))
    for key in keys.tolist():
        seq = transaction.record_event(key, "purge", None, transaction.moment)
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (UNWIPED, str(seq)))
    names = ("user_id", "agent_id", "run_id")
    owners = {pair for _, *values in there for pair in zip(names, values, strict=True) if pair[1] is not None}
    return Erased(len(keys), owners, gone)


def _digests_of(connection: Connection, keys: Keys, model: StoredModel) -> dict[int, set[bytes]]:
    """Returns the digests of the texts that the memories have and had."""
    digest_of = model.digests()
    rows = all_rows(
        connection,
        "SELECT key, content, user_id, agent_id, run_id FROM carray(?) AS wanted "
        "CROSS JOIN memory ON key = wanted.value UNION ALL "
        "SELECT memory_key, before ->> '$.content', user_id, agent_id, run_id FROM carray(?) AS wanted "
        "CROSS JOIN history ON memory_key = wanted.value CROSS JOIN memory ON key = wanted.value "
        "WHERE before IS NOT NULL",
        (key_array(keys), key_array(keys)),
    )
    digests: dict[int, set[bytes]] = {}
    for key, content, *owners in rows:
        if isinstance(content, str):
            digests.setdefault(key, set()).add(digest_of(Scope(*owners).home, content))
    return digests


def _vectors_of(connection: Connection, keys: Keys, digests: dict[int, set[bytes]]) -> dict[int, int]:
    """Returns the keys of the vectors of the memories' texts, each with the newest memory that has it."""
    newest: dict[bytes, int] = {}
    for key in sorted(digests):
        newest |= dict.fromkeys(digests[key], key)
    stored = (
        all_rows(
            connection,
            "SELECT vector.key, home_digest FROM carray(?) AS wanted CROSS JOIN vector ON home_digest = wanted.value",
            (blob_array(tuple(newest)),),
        )
        if newest
        else []
    )
    pointed = all_rows(
        connection,
        "SELECT vector_key, max(key) FROM carray(?) AS wanted CROSS JOIN memory ON key = wanted.value "
        "WHERE vector_key IS NOT NULL GROUP BY vector_key",
        (key_array(keys),),
    )
    vectors = dict(pointed)
    for vector, digest in stored:
        vectors[vector] = max(newest[digest], vectors.get(vector, 0))
    return vectors


def _used(connection: Connection, vectors: Iterable[int], besides: Keys, *, since: int) -> set[int]:
    """Returns the vectors that memories changed after `since` point to, except `besides`."""
    wanted = list(vectors)
    if not wanted:
        return set()
    # By the index with fewer entries: a text such as "yes" may belong to very many memories.
    condition = f"seq > {since} AND +vector_key" if since else "vector_key"
    rows = all_rows(
        connection,
        f"SELECT DISTINCT vector_key FROM memory WHERE {condition} IN (SELECT value FROM carray(?)) "
        "AND key NOT IN (SELECT value FROM carray(?))",
        (integer_array(wanted), key_array(besides)),
    )
    return {row[0] for row in rows}


def _used_before(connection: Connection, vectors: Iterable[int], besides: Keys, model: StoredModel) -> set[int]:
    """Returns the vectors that replaced versions of memories other than `besides` had."""
    digest_of = model.digests()
    wanted = list(vectors)
    if not wanted:
        return set()
    rows = all_rows(
        connection,
        "SELECT home_digest, key FROM carray(?) AS wanted CROSS JOIN vector ON key = wanted.value",
        (integer_array(wanted),),
    )
    by_digest = dict(rows)
    replaced = connection.execute(
        "SELECT before ->> '$.content', user_id, agent_id, run_id FROM history CROSS JOIN memory ON key = memory_key "
        "WHERE before IS NOT NULL AND memory_key NOT IN (SELECT value FROM carray(?))",
        (key_array(besides),),
    )
    digests = {digest_of(Scope(*owners).home, content) for content, *owners in replaced if isinstance(content, str)}
    return {key for digest, key in by_digest.items() if digest in digests}


def give_back(writes: GroupCommit) -> int:
    """Moves some pages from the end of the file into free ones, in a transaction. Returns the bytes saved; 0 without
    free pages."""
    pages = PAGES_A_STEP
    while True:
        try:
            return writes.commit(partial(_move_pages, pages=pages), Kind.ERASES)
        except StoreFullError:
            if pages == 1:
                raise
            pages = max(1, pages // 8)  # Fewer pages need less of the log.


def _move_pages(transaction: Transaction, pages: int) -> int:
    connection = transaction.connection
    before = connection.pragma("page_count")
    reach("vacuum: before pages are moved")
    all_rows(connection, f"PRAGMA incremental_vacuum({pages})")
    reach("vacuum: after pages are moved")
    return int((before - connection.pragma("page_count")) * connection.pragma("page_size"))


def wipe(database: Database, writes: GroupCommit) -> None:
    """Removes every erased byte from the file and its log.

    It waits for other writes, and for reads of older states, up to the busy timeout each.

    Raises:
        StoreBusyError: They took too long.
        StoreFullError: There is no room to rewrite the file, not even after returning its free pages.
        StoreError: It failed in another way. Erased memories stay erased in all cases.
    """
    if database.in_memory:
        return
    try:
        try:
            done = _rewritten(database)
        except StoreFullError:
            while give_back(writes):  # The erased bytes may be the missing room.
                pass
            database.make_room(Kind.ADDS)
            done = _rewritten(database)
    except StoreBusyError:
        done = False
    except StoreError as error:
        raise type(error)(
            "The memories are erased, but bytes of them may stay in the file, which could not be written anew: "
            f"{error} Then purge again (it says 0)."
        ) from error
    if not done:
        raise StoreBusyError(
            f"{database.path!r}: the memories are erased, but bytes of them stay in the file or its log, because "
            "another read or write went on for too long; purge again (it then says 0) when that has ended."
        )


def _rewritten(database: Database) -> bool:
    """Whether the file has been rewritten, and its log cut, since the last erasure."""
    with database.between_transactions() as connection:
        unwiped = connection.execute("SELECT value FROM meta WHERE name = ?", (UNWIPED,)).fetchone()
        if unwiped is None:
            return True
        database.write_anew(connection)
        if not database.cut_log(connection):
            return False
        connection.execute("DELETE FROM meta WHERE (name, value) = (?, ?)", (UNWIPED, unwiped[0]))
        return True
