"""Memories that come from elsewhere with ids of their own: which of them are here already, and what then.

An import that was interrupted is simply run again, and that is exact because every line has an id: its own, or one that
is derived from its place in the file. What is decided here is decided in the transaction that stores it, so that it is
true whoever else writes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentmem.analyzer import redated_terms
from agentmem.errors import AgentMemError, DuplicateIdError
from agentmem.ids import Home
from agentmem.records import Draft, Embedded, Record, Scope, owners_of
from agentmem.storage.sqlite.database.sql import Connection, all_rows, integer_array
from agentmem.storage.sqlite.deduplication import existing
from agentmem.storage.sqlite.ids import home_named, keys_in
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, record_of
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.sqlite.update import bring_back, revise
from agentmem.storage.types import OnConflict, Outcome
from agentmem.timestamps import from_microseconds, to_microseconds

Named = tuple[Home, str]
"""A home and an id, which is unique in it."""


@dataclass(slots=True)
class Arrival:
    """A memory that is to be stored under the id of its draft.

    `derived`: the id comes from its place in a file, so that whoever has it is this very memory. `dated`: its
    `created_at` was said, and is not just the moment of the import. `other_id` is the one that it gets when its own
    belongs to another memory and the policy is "new_id".
    """

    draft: Draft
    derived: bool
    dated: bool
    other_id: Callable[[], str]


@dataclass(slots=True)
class _Found:
    """The memory that has an id: its row's key (None: it comes in the same transaction), and whether a user deleted
    it."""

    key: int | None
    record: Record
    deleted: bool


def arrived(connection: Connection, arrivals: Sequence[Arrival]) -> list[bool]:
    """Which of them are here already, as they are."""
    found = _find(connection, [_named(arrival.draft) for arrival in arrivals])
    there = [found.get(_named(arrival.draft)) for arrival in arrivals]
    return [old is not None and _is_here(arrival, old) for arrival, old in zip(arrivals, there, strict=True)]


def take_in(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    embedded: Sequence[Embedded | AgentMemError | None],
    terms: Sequence[bytes],
    *,
    on_conflict: OnConflict,
    together: bool,
) -> list[Outcome | AgentMemError]:
    """Stores what is not here yet, with its vector (None: it is deferred), and says of each what became of it.

    Raises:
        AgentMemError: `together`, and one of them cannot be stored (`position` says which); nothing was changed.
    """
    outcomes = list(_outcomes(transaction, arrivals, embedded, on_conflict))
    if together:
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome, AgentMemError):
                outcome.position = position
                raise outcome
    for arrival, vector, words, outcome in zip(arrivals, embedded, terms, outcomes, strict=True):
        if isinstance(vector, AgentMemError):
            continue
        if outcome == "imported":
            transaction.insert(arrival.draft, vector, words)
        elif outcome == "replaced":
            _replace(transaction, arrival.draft, vector, words)
    return outcomes


def _outcomes(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    embedded: Sequence[Embedded | AgentMemError | None],
    on_conflict: OnConflict,
) -> Iterator[Outcome | AgentMemError]:
    """What is to become of each. Changes nothing but the ids that have to be others."""
    found = _find(transaction.connection, [_named(arrival.draft) for arrival in arrivals])
    texts: set[tuple[Scope, str]] = set()
    for arrival, vector in zip(arrivals, embedded, strict=True):
        draft, old = arrival.draft, found.get(_named(arrival.draft))
        outcome: Outcome | AgentMemError = "imported"
        if old is not None and _is_here(arrival, old):
            outcome = "skipped"
        elif old is not None and on_conflict == "new_id":
            draft.id = arrival.other_id()
            old = found.get(_named(draft)) or _find(transaction.connection, [_named(draft)]).get(_named(draft))
            outcome = "imported" if old is None else "skipped"
        elif old is not None:
            outcome = _of_conflict(old, draft, on_conflict)
        twin = draft.scope, draft.content
        if outcome == "imported" and draft.dedupe and (twin in texts or existing(transaction, draft) is not None):
            outcome = "skipped"
        if outcome in ("imported", "replaced") and isinstance(vector, AgentMemError):
            # A copy: one error object may be the answer to several who waited for the same text.
            outcome = type(vector)(*vector.args)
        if outcome in ("imported", "replaced"):
            found[_named(draft)] = _Found(None if old is None else old.key, draft.record(), deleted=False)
            if not draft.expired(transaction.moment):
                texts.add(twin)
        yield outcome


def _of_conflict(old: _Found, draft: Draft, on_conflict: OnConflict) -> Outcome | AgentMemError:
    if on_conflict == "skip":
        return "skipped"
    if on_conflict == "error":
        return DuplicateIdError(
            f"id {draft.id!r} belongs to another memory (perhaps a deleted one); decide with on_conflict='skip', "
            "'replace' or 'new_id'."
        )
    if owners_of(old.record) != draft.scope:
        return DuplicateIdError(
            f"id {draft.id!r} belongs to another memory in {home_named(draft.scope)}, which is not replaced; decide "
            "with on_conflict='skip' or 'new_id'."
        )
    return "replaced" if old.deleted or _version(old.record) != _version(draft.record()) else "skipped"


def _is_here(arrival: Arrival, found: _Found) -> bool:
    """Whether what has the id is this memory, in the version that arrives."""
    if arrival.derived:
        return True
    old, new = found.record, arrival.draft.record()
    return (
        not found.deleted
        and owners_of(old) == arrival.draft.scope
        and old.role == new.role
        and (old.created_at == new.created_at or not arrival.dated)
        and _version(old) == _version(new)
    )


def _named(draft: Draft) -> Named:
    return draft.scope.home, draft.id


def _version(record: Record) -> tuple[Any, ...]:
    """What a new version may change; the metadata as JSON, because to Python 1, 1.0 and True are equal."""
    return record.content, json.dumps(record.metadata, sort_keys=True), record.expires_at


def _find(connection: Connection, named: Sequence[Named]) -> dict[Named, _Found]:
    keys = keys_in(connection, named)
    if not keys:
        return {}
    rows = all_rows(
        connection,
        f"SELECT {RECORD_COLUMNS}, memory.deleted_at FROM carray(?) AS wanted "
        "CROSS JOIN memory ON memory.key = wanted.value",
        (integer_array(keys.values()),),
    )
    found = {}
    for row in rows:
        record, deleted_at = record_of(row[:-1]), row[-1]
        # Whoever deleted it at its expiry or later was the sweep.
        swept = record.expires_at is not None and (deleted_at or 0) >= to_microseconds(record.expires_at)
        found[owners_of(record).home, record.id] = _Found(row[0], record, deleted=deleted_at is not None and not swept)
    return found


def _replace(transaction: Transaction, draft: Draft, embedded: Embedded | None, words: bytes) -> None:
    """Gives the memory that has the draft's id a new version; role and `created_at` stay, as in every update."""
    found = _find(transaction.connection, [_named(draft)])[_named(draft)]
    assert found.key is not None
    old = bring_back(transaction, found.key, found.record)
    new = replace(
        old,
        content=draft.content,
        metadata=draft.metadata,
        expires_at=draft.expires_at,
        updated_at=from_microseconds(transaction.moment),
    )
    if _version(old) != _version(new):
        # The draft was made at another time. Nothing is analysed here, where others wait for the write lock.
        terms = redated_terms(words, old.created_at) if old.content != new.content else None
        revise(
            transaction, found.key, old, new, metadata_json=draft.metadata_json, terms=terms, embedded=embedded
        )  # fmt: skip
