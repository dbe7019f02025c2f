"""Decides which arriving memories are in the store already, and what to do then. They are new, or from elsewhere.

One table of decisions serves both. A batch is decided before any of it is stored, in the transaction that stores it, so
the decision holds whatever other writers do.

Memories of the same text in exactly the same scope share a number, `twin`. Writers take turns, across processes too. A
unique index on that number of `sole` memories enforces it; `sole` marks the memory that was stored because there was
none. Memories that were not deduplicated are found by their vector, which is that of the text, and their number.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentmem.analyzer import redated_terms
from agentmem.errors import AgentMemError, DuplicateIdError
from agentmem.ids import Home
from agentmem.records import Draft, Embedded, Record, Scope, owners_of
from agentmem.storage.operations import Insert, Upsert
from agentmem.storage.sqlite.database.sql import Connection, all_rows, integer_array
from agentmem.storage.sqlite.ids import home_named, keys_in
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, record_of, twin_of
from agentmem.storage.sqlite.snapshot import visible
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.sqlite.update import bring_back, revise
from agentmem.storage.types import Outcome
from agentmem.timestamps import from_microseconds, to_microseconds

EVERYBODY = Scope()

Named = tuple[Home, str]
"""A home and an id, which is unique in it."""

Decision = Literal["insert", "replace"] | Record | AgentMemError
"""What becomes of an arrival; a Record is the memory that is here already, in its place."""


@dataclass(slots=True)
class _Found:
    """The memory that has an id: its row's key (None: it comes in the same transaction), and whether a user deleted
    it."""

    key: int | None
    record: Record
    deleted: bool


def present(connection: Connection, batch: Sequence[Upsert]) -> list[bool]:
    """Returns which of them are here already, as they are."""
    found = _find(connection, [_named(each.draft) for each in batch])
    there = [found.get(_named(each.draft)) for each in batch]
    return [old is not None and _is_here(each, old) for each, old in zip(batch, there, strict=True)]


def arrive(transaction: Transaction, batch: Sequence[Insert | Upsert], *, atomic: bool) -> list[Any]:
    """Stores what is to be stored; returns the result of each, or its error.

    Raises:
        AgentMemError: `atomic`, and one of them cannot be stored (`position` says which); nothing was changed.
    """
    decisions = list(_decisions(transaction, batch))
    if atomic:
        for position, decision in enumerate(decisions):
            if isinstance(decision, AgentMemError):
                decision.position = position
                raise decision
    return [_carried_out(transaction, each, decision) for each, decision in zip(batch, decisions, strict=True)]


def _decisions(transaction: Transaction, batch: Sequence[Insert | Upsert]) -> Iterator[Decision]:
    """What is to become of each. Changes nothing but the ids that have to be others."""
    named = [_named(each.draft) for each in batch if isinstance(each, Upsert) or each.draft.id_given]
    found = _find(transaction.connection, named) if named else {}
    deduplicates = any(each.draft.dedupe for each in batch)
    planned: dict[tuple[Scope, str], Record] = {}
    for each in batch:
        draft, decision = each.draft, _by_id(transaction, each, found)
        if decision == "insert" and draft.dedupe:
            decision = planned.get((draft.scope, draft.content)) or existing(transaction, draft) or decision
        elif isinstance(each, Insert) and draft.dedupe and isinstance(decision, DuplicateIdError):
            # Of a text that is here nothing is stored, so that its id does not matter.
            decision = planned.get((draft.scope, draft.content)) or existing(transaction, draft) or decision
        if decision in ("insert", "replace") and isinstance(each.vector, AgentMemError):
            # A copy: one error object may be the answer to several callers of the same text.
            decision = type(each.vector)(*each.vector.args)
        if decision in ("insert", "replace"):
            if isinstance(each, Upsert) or draft.id_given:
                old = found.get(_named(draft))
                found[_named(draft)] = _Found(None if old is None else old.key, draft.record(), deleted=False)
            if deduplicates and not draft.expired(transaction.moment):
                planned.setdefault((draft.scope, draft.content), draft.record())
        yield decision


def _by_id(transaction: Transaction, each: Insert | Upsert, found: dict[Named, _Found]) -> Decision:
    """What the id alone decides."""
    draft = each.draft
    old = found.get(_named(draft))
    if old is None:
        return "insert"
    if isinstance(each, Insert):
        return DuplicateIdError(
            f"id {draft.id!r} is taken in {home_named(draft.scope)} (perhaps by a deleted memory); choose another or "
            "update that one."
        )
    if _is_here(each, old):
        return old.record
    if each.on_conflict != "new_id":
        return _of_conflict(old, each)
    assert each.other_id is not None
    draft.id = each.other_id
    old = found.get(_named(draft)) or _find(transaction.connection, [_named(draft)]).get(_named(draft))
    return "insert" if old is None else old.record


def _of_conflict(old: _Found, each: Upsert) -> Decision:
    draft = each.draft
    if each.on_conflict == "skip":
        return old.record
    if each.on_conflict == "error":
        return DuplicateIdError(
            f"id {draft.id!r} belongs to another memory (perhaps a deleted one); decide with on_conflict='skip', "
            "'replace' or 'new_id'."
        )
    if owners_of(old.record) != draft.scope:
        return DuplicateIdError(
            f"id {draft.id!r} belongs to another memory in {home_named(draft.scope)}, which is not replaced; decide "
            "with on_conflict='skip' or 'new_id'."
        )
    return "replace" if old.deleted or _version(old.record) != _version(draft.record()) else old.record


def _carried_out(
    transaction: Transaction, each: Insert | Upsert, decision: Decision
) -> Record | Outcome | AgentMemError:
    if isinstance(decision, AgentMemError):
        return decision
    if isinstance(decision, Record):
        return decision if isinstance(each, Insert) else "skipped"
    assert not isinstance(each.vector, AgentMemError)
    if decision == "replace":
        _replace(transaction, each.draft, each.vector, each.terms)
        return "replaced"
    transaction.insert(each.draft, each.vector, each.terms)
    return each.draft.record() if isinstance(each, Insert) else "imported"


def existing(transaction: Transaction, draft: Draft) -> Record | None:
    """Returns the oldest visible memory with the draft's text in exactly its scope."""
    scope = draft.scope
    where, parameters = visible(EVERYBODY, None, transaction.moment)
    row = transaction.stored.execute(
        f"SELECT {RECORD_COLUMNS} FROM memory INDEXED BY memory_vector "
        "WHERE (vector_key = (SELECT key FROM vector WHERE home_digest = ?) OR vector_key IS NULL) AND twin = ? "
        f"AND content = ? AND user_id IS ? AND agent_id IS ? AND run_id IS ? AND {where} ORDER BY key LIMIT 1",
        (
            transaction.digest_of(scope.home, draft.content), twin_of(scope, draft.content),
            draft.content, scope.user_id, scope.agent_id, scope.run_id, *parameters,
        ),
    ).fetchone()  # fmt: skip
    if row is not None:
        return record_of(row)
    gathered = transaction.gathered(scope, draft.content)
    return None if gathered is None else gathered.record()


def _is_here(each: Upsert, found: _Found) -> bool:
    """Whether what has the id is this memory, in the version that arrives."""
    old, new = found.record, each.draft.record()
    if each.derived:
        return found.deleted or each.on_conflict != "replace" or _version(old) == _version(new)
    return (
        not found.deleted
        and owners_of(old) == each.draft.scope
        and old.role == new.role
        and (old.created_at == new.created_at or not each.dated)
        and _version(old) == _version(new)
    )


def _named(draft: Draft) -> Named:
    return draft.scope.home, draft.id


def _version(record: Record) -> tuple[Any, ...]:
    """What a new version may change; the metadata as JSON, because to Python 1, 1.0 and True are equal."""
    return record.content, json.dumps(record.metadata, sort_keys=True), record.expires_at


def _find(connection: Connection, named: Iterable[Named]) -> dict[Named, _Found]:
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
        # A memory deleted at its expiry or later was deleted by the sweep.
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
