"""How the row of a memory goes from one version to the next, and comes back after it was hidden."""

from dataclasses import replace
from datetime import datetime

from agentmem.records import Embedded, Record, Scope
from agentmem.storage.sqlite.database.sql import only_row
from agentmem.storage.sqlite.row_codec import twin_of, version_json
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.timestamps import to_microseconds


def revise(
    transaction: Transaction,
    key: int,
    old: Record,
    new: Record,
    *,
    metadata_json: str | None,
    terms: bytes | None,
    embedded: Embedded | None,
    since: datetime | None = None,
) -> None:
    """Puts content, metadata and expiry of `new` in the place of those of `old`, which go into the history. `terms` are
    those of a new content (None: it stays, and its vector with it); `embedded` of None: its vector is to come. `since`
    dates a version from another store, whose event is dated like all others."""
    seq = transaction.record_event(key, "update", version_json(old, since), transaction.moment)
    transaction.connection.execute(
        "UPDATE memory SET content = ?, terms = coalesce(?, terms), metadata = jsonb(?), expires_at = ?, "
        "updated_at = ?, seq = ? WHERE key = ?",
        (
            new.content, terms, metadata_json, None if new.expires_at is None else to_microseconds(new.expires_at),
            to_microseconds(new.updated_at), seq, key,
        ),
    )  # fmt: skip
    if terms is None:
        return
    scope = Scope(new.user_id, new.agent_id, new.run_id)
    [vector_key] = transaction.vector_keys([embedded or transaction.digest_of(scope.home, new.content)])
    transaction.connection.execute(
        "UPDATE memory SET vector_key = ?, vector_error = NULL, twin = ?, sole = NULL WHERE key = ?",
        (vector_key, twin_of(scope, new.content), key),
    )


def bring_back(transaction: Transaction, key: int, record: Record) -> Record:
    """Makes a memory visible again, as it was; one whose `expires_at` has passed comes back without it. One that is
    visible stays as it is. Returns the record as it then is."""
    connection = transaction.connection
    [deleted_at] = only_row(connection, "SELECT deleted_at FROM memory WHERE key = ?", (key,))
    expired = record.expires_at is not None and to_microseconds(record.expires_at) <= transaction.moment
    if deleted_at is None and not expired:
        return record
    if deleted_at is None:
        transaction.record_event(key, "expire", None, transaction.moment)  # As the sweep would have done.
    before = version_json(record) if expired else None
    seq = transaction.record_event(key, "restore", before, transaction.moment)
    if expired:
        record = replace(record, expires_at=None)
        connection.execute("UPDATE memory SET expires_at = NULL WHERE key = ?", (key,))
    connection.execute("UPDATE memory SET deleted_at = NULL, seq = ? WHERE key = ?", (seq, key))
    return record
