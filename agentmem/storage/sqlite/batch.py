"""What each operation of a write batch does to the rows. Every one of them checks first and changes afterwards."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentmem.config import Config
from agentmem.errors import AgentMemError, NotFoundError
from agentmem.records import Record, Scope
from agentmem.storage.operations import Delete, Expect, Insert, Operation, Restore, SetVector, Update, Upsert
from agentmem.storage.sqlite.arrivals import arrive
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.deferred import settle
from agentmem.storage.sqlite.ids import key_of
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, record_of
from agentmem.storage.sqlite.snapshot import visible
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.sqlite.update import bring_back, revise
from agentmem.storage.types import Keep, Outdated, not_found
from agentmem.timestamps import from_microseconds
from agentmem.validation import check_metadata


def kind_of(batch: Sequence[Operation]) -> Kind:
    """Returns what the batch may use of a disk that is nearly full."""
    return Kind.HIDES if all(isinstance(each, Delete) for each in batch) else Kind.ADDS


def apply(transaction: Transaction, batch: Sequence[Operation], config: Config, *, atomic: bool) -> list[Any]:
    """Makes the changes in their order; returns the result of each, or, unless `atomic`, its error.

    Raises:
        AgentMemError: `atomic`, and one of them cannot be made; none was.
    """
    arrivals = [each for each in batch if isinstance(each, (Insert, Upsert))]
    if len(arrivals) == len(batch):
        return arrive(transaction, arrivals, atomic=atomic)
    vectors = [each for each in batch if isinstance(each, SetVector)]
    if len(vectors) == len(batch):
        settle(transaction, vectors)
        return [None] * len(batch)
    if not atomic:
        return [_tried(transaction, each, config) for each in batch]
    if len(batch) == 1:
        return [_applied(transaction, batch[0], config)]
    with transaction.all_or_nothing():
        return [_applied(transaction, each, config) for each in batch]


def _tried(transaction: Transaction, operation: Operation, config: Config) -> Any:
    try:
        return _applied(transaction, operation, config)
    except AgentMemError as error:
        return error


def _applied(transaction: Transaction, operation: Operation, config: Config) -> Any:
    match operation:
        case Insert() | Upsert():
            [result] = arrive(transaction, [operation], atomic=False)
            if isinstance(result, AgentMemError):
                raise result
            return result
        case Update():
            return _update(transaction, operation, config)
        case Delete(id, scope):
            return _delete(transaction, id, scope)
        case Restore(id, scope):
            row = _row(transaction.connection, id, scope)
            if row is None:
                raise not_found(id, scope)
            return bring_back(transaction, row[0], record_of(row))
        case Expect(id, scope, content):
            return _expect(transaction, id, scope, content)
        case SetVector():
            return settle(transaction, [operation])


def _update(transaction: Transaction, operation: Update, config: Config) -> Record:
    revision = operation.revision
    key, old = _visible_row(transaction, operation.id, operation.scope)
    metadata = old.metadata
    if revision.metadata is not None:
        metadata = revision.metadata if revision.replace_metadata else old.metadata | revision.metadata
    metadata, metadata_json = check_metadata(metadata, config)
    new = replace(
        old,
        content=old.content if revision.content is None else revision.content,
        metadata=metadata,
        expires_at=old.expires_at if isinstance(revision.expires_at, Keep) else revision.expires_at,
        updated_at=operation.since or from_microseconds(transaction.moment),
    )
    revise(
        transaction, key, old, new,
        metadata_json=metadata_json, terms=revision.terms, embedded=operation.vector, since=operation.since,
    )  # fmt: skip
    return new


def _delete(transaction: Transaction, id: str, scope: Scope) -> bool:
    try:
        key, _ = _visible_row(transaction, id, scope)
    except NotFoundError:
        return False
    seq = transaction.record_event(key, "delete", None, transaction.moment)
    transaction.connection.execute(
        "UPDATE memory SET deleted_at = ?, seq = ? WHERE key = ?", (transaction.moment, seq, key)
    )
    return True


def _expect(transaction: Transaction, id: str, scope: Scope, content: str) -> None:
    try:
        _, record = _visible_row(transaction, id, scope)
    except NotFoundError:
        raise Outdated(f"The memory {id!r} has gone meanwhile; plan again.") from None
    if record.content != content:
        raise Outdated(f"The memory {id!r} has changed meanwhile; plan again.")


def _visible_row(transaction: Transaction, id: str, scope: Scope) -> tuple[int, Record]:
    connection = transaction.connection
    where, parameters = visible(scope, None, transaction.moment)
    row = connection.execute(
        f"SELECT {RECORD_COLUMNS} FROM memory WHERE memory.key = ? AND {where}",
        (key_of(connection, id, scope), *parameters),
    ).fetchone()
    if row is None:
        raise not_found(id, scope)
    return row[0], record_of(row)


def _row(connection: Connection, id: str, scope: Scope) -> tuple[Any, ...] | None:
    """The memory's row whether it is visible or not, as long as it is of this scope."""
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {RECORD_COLUMNS} FROM memory WHERE memory.key = ?", (key_of(connection, id, scope),)
    ).fetchone()
    return row
