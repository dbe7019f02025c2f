"""What the contract is written with: drafts, vectors and operations, made as the package makes them."""

import hashlib
from typing import Any

import numpy as np

from agentmem.analyzer import stored_terms
from agentmem.config import Config
from agentmem.deadline import Deadline
from agentmem.ids import new_id
from agentmem.records import Draft, Embedded, Record, Scope
from agentmem.storage.interface import Snapshot, Store
from agentmem.storage.operations import Insert, Update, Upsert
from agentmem.storage.types import KEEP, Revision, StoredModel

MODEL = StoredModel("contract-model", "contract", 8)
ANA = Scope(user_id="ana")
BEN = Scope(user_id="ben")
EVERYBODY = Scope()


def untold(what: str, done: int, total: int) -> None:
    """Hears of progress."""


def vector(text: str, scope: Scope = ANA) -> Embedded:
    """A unit vector that the text alone decides, under the digest of its home."""
    numbers = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.int8).astype(np.float32) + 0.5
    return Embedded(MODEL.digests()(scope.home, text), (numbers / np.linalg.norm(numbers)).astype("<f2").tobytes())


def draft(text: str, scope: Scope = ANA, **fields: Any) -> Draft:
    return Draft.of(text, scope, Config(), **fields)


def insert(text: str, scope: Scope = ANA, *, pending: bool = False, **fields: Any) -> Insert:
    made = draft(text, scope, **fields)
    return Insert(made, stored_terms(text, made.created_at), None if pending else vector(text, scope))


def upsert(
    text: str,
    scope: Scope = ANA,
    *,
    on_conflict: Any = "error",
    derived: bool = False,
    dated: bool = False,
    **fields: Any,
) -> Upsert:
    made = draft(text, scope, **fields)
    terms, other = stored_terms(text, made.created_at), new_id(scope.home)
    return Upsert(made, terms, vector(text, scope), on_conflict, derived, dated, other)


def update(record: Record, text: str | None = None, **changes: Any) -> Update:
    scope = Scope(record.user_id, record.agent_id, record.run_id)
    terms = None if text is None else stored_terms(text, record.created_at)
    metadata, expires_at = changes.get("metadata"), changes.get("expires_at", KEEP)
    revision = Revision(text, terms, metadata, changes.get("replace_metadata", False), expires_at)
    return Update(record.id, scope, revision, None if text is None else vector(text, scope))


def add(store: Store, text: str, scope: Scope = ANA, **fields: Any) -> Record:
    [record] = store.commit([insert(text, scope, **fields)], model=MODEL.identity)
    return record


def listed(store: Store, scope: Scope = EVERYBODY, filters: Any = None, **view: Any) -> list[Record]:
    """All visible records, in the order of adding."""
    with store.snapshot(**view) as snapshot:
        return [record for _, record in all_of(snapshot, scope, filters)]


def all_of(snapshot: Snapshot, scope: Scope, filters: Any = None) -> list[tuple[tuple[int, int], Record]]:
    return snapshot.page(scope, filters, newest_first=False, after=None, limit=100_000)


def texts(store: Store, scope: Scope = EVERYBODY, **view: Any) -> list[str]:
    return [record.content for record in listed(store, scope, **view)]


def later() -> Deadline:
    return Deadline(60)
