"""Twins: memories of the same text in exactly the same scope, and how a second one is kept out when that is asked.

Writers take turns, across processes too, so that what a write transaction finds stays true until it commits; the
unique index on the twins of those that are `sole` stands behind that: it marks the one that was stored because there
was none. The others, which were not deduplicated, are found by their vector, which is that of the text, and their twin.
"""

from collections.abc import Sequence

from agentmem.errors import AgentMemError, DuplicateIdError
from agentmem.ids import Home
from agentmem.records import Draft, Embedded, Record, Scope
from agentmem.storage.sqlite.ids import home_named, keys_in
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, record_of, twin_of
from agentmem.storage.sqlite.snapshot import visible
from agentmem.storage.sqlite.transaction import Transaction

EVERYBODY = Scope()


def outcomes(
    transaction: Transaction, drafts: Sequence[Draft], embedded: Sequence[Embedded | AgentMemError | None]
) -> list[Record | AgentMemError | None]:
    """What becomes of each draft, before anything is stored: None when it is to be stored, the record that takes its
    place, or what speaks against storing it."""
    decided: list[Record | AgentMemError | None] = []
    ids: set[tuple[Home, str]] = set()
    planned: dict[tuple[Scope, str], Record] = {}
    for draft, vector in zip(drafts, embedded, strict=True):
        outcome: Record | AgentMemError | None = None
        if draft.dedupe:
            outcome = planned.get((draft.scope, draft.content)) or existing(transaction, draft)
        if outcome is None:
            outcome = _refusal(transaction, draft, vector, ids)
        if outcome is None:
            ids.add((draft.scope.home, draft.id))
            if draft.dedupe and not draft.expired(transaction.moment):
                planned[draft.scope, draft.content] = draft.record()
        decided.append(outcome)
    return decided


def _refusal(
    transaction: Transaction, draft: Draft, vector: Embedded | AgentMemError | None, ids: set[tuple[Home, str]]
) -> AgentMemError | None:
    if isinstance(vector, AgentMemError):
        # A copy: one error object may be the answer to several callers who waited for the same text.
        return type(vector)(*vector.args)
    if not draft.id_given:
        return None
    named = draft.scope.home, draft.id
    if named not in ids and not keys_in(transaction.connection, [named]):
        return None
    return DuplicateIdError(
        f"id {draft.id!r} is taken in {home_named(draft.scope)} (perhaps by a deleted memory); choose another or "
        "update that one."
    )


def existing(transaction: Transaction, draft: Draft) -> Record | None:
    """The oldest visible memory with the draft's text in exactly its scope."""
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
