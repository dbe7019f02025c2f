"""A storage engine of plain dictionaries: the door of storage with nothing behind it.

It keeps every state that a row ever had, so that any past moment is a fold over them. It passes the contract suite, and
is the oracle of its stateful test. Nothing in it is fast, durable, or safe for several processes.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from agentmem.analyzer import redated_terms
from agentmem.config import Config, Durability
from agentmem.deadline import Deadline
from agentmem.errors import AgentMemError, ClosedError, DuplicateIdError, InvalidInputError, StoreError
from agentmem.fields import TIME_FIELDS
from agentmem.filters import And, Compare, Contains, Exists, FieldPath, Filter, Not, OneOf, Or
from agentmem.ids import Home
from agentmem.records import Draft, Embedded, Event, Record, Scope, Version, owners_of
from agentmem.stats import VacuumReport
from agentmem.storage.operations import Delete, Expect, Insert, Operation, Restore, SetVector, Update, Upsert
from agentmem.storage.types import (
    NEVER,
    UNKNOWN,
    Built,
    Digest,
    Erased,
    Keep,
    Keys,
    ListedSegment,
    ModelMoved,
    Move,
    MoveProgress,
    Outdated,
    Owner,
    Pending,
    Position,
    Standing,
    States,
    StoredModel,
    TextPage,
    Vacuumed,
    not_found,
)
from agentmem.timestamps import from_microseconds, now, to_microseconds
from agentmem.validation import check_metadata


@dataclass(frozen=True, slots=True)
class Row:
    """One state of a memory. `digest` is that of its vector; `failure` says why it never gets one."""

    key: int
    seq: int
    record: Record
    terms: bytes
    digest: bytes | None
    failure: str | None = None
    deleted_at: int | None = None

    @property
    def expires_at(self) -> int:
        expiry = self.record.expires_at
        return NEVER if expiry is None else to_microseconds(expiry)

    @property
    def is_pending(self) -> bool:
        return self.digest is None and self.failure is None and self.deleted_at is None


@dataclass(frozen=True, slots=True)
class Change:
    """An event: the state that it left (None: the memory was erased), and the date of the version where it differs."""

    seq: int
    at: int
    what: str
    key: int
    row: Row | None


# -- the filter language --------------------------------------------------------------------------------------------


def holds(filters: Filter, record: Record) -> bool:
    """Whether a record passes."""
    match filters:
        case And(parts):
            return all(holds(part, record) for part in parts)
        case Or(parts):
            return any(holds(part, record) for part in parts)
        case Not(part):
            return not holds(part, record)
        case Exists(path):
            return read(path, record)[0]
        case Compare(path, order, bound):
            _, value = read(path, record)
            if kind(value) != kind(bound):
                return False
            return {"gt": value > bound, "gte": value >= bound, "lt": value < bound, "lte": value <= bound}[order]
        case OneOf(path, values):
            there, value = read(path, record)
            return (there or path.field is not None) and any(same(value, each) for each in values)
        case Contains(path, wanted, folded):
            _, value = read(path, record)
            if isinstance(value, str):
                return isinstance(wanted, str) and wanted in (value.casefold() if folded else value)
            if isinstance(value, list):
                members = [each.casefold() if folded and isinstance(each, str) else each for each in value]
                return any(same(each, wanted) for each in members)
            return False


def read(path: FieldPath, record: Record) -> tuple[bool, Any]:
    """Whether the path leads anywhere, and to what."""
    if path.field is not None:
        value = getattr(record, path.field)
        return value is not None, to_microseconds(value) if path.field in TIME_FIELDS and value is not None else value
    value = record.metadata
    for label in path.labels:
        if not isinstance(value, dict) or label not in value:
            return False, None
        value = value[label]
    return True, value


def kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def same(value: Any, wanted: Any) -> bool:
    return not isinstance(value, list | dict) and kind(value) == kind(wanted) and bool(value == wanted)


# -- reading --------------------------------------------------------------------------------------------------------


class MemorySnapshot:
    """The rows of one moment."""

    epoch = 0
    segments = 0

    def __init__(
        self, store: "MemoryEngine", until: int, moment: int, show_expired: bool, deadline: Deadline | None
    ) -> None:
        self.deadline = deadline
        self.moment = moment
        self.seq = store.seq
        self.model = None if store.stored is None else store.stored.identity
        self._show_expired = show_expired
        self._store = store
        self._past = until < store.seq
        self._rows: dict[int, Row] = {}
        for change in store.log:
            if change.seq <= until and change.row is not None:
                self._rows[change.key] = change.row

    @property
    def has_pending(self) -> bool:
        return any(row.is_pending for row in self._rows.values())

    def require_model(self, identity: str) -> None:
        if self.model not in (None, identity):
            raise ModelMoved("The store moved to another model meanwhile.")

    def _visible(self, scope: Scope, filters: Filter | None = None) -> list[Row]:
        return [
            row
            for row in self._rows.values()
            if is_of(row, scope)
            and is_visible(row, self.moment, self._show_expired)
            and (filters is None or holds(filters, row.record))
        ]

    def get(self, id: str, scope: Scope) -> Record | None:
        key = key_of(self._store.rows, id, scope)
        row = None if key is None else self._rows.get(key)
        return row.record if row is not None and row in self._visible(scope) else None

    def page(
        self, scope: Scope, filters: Filter | None, *, newest_first: bool, after: tuple[int, int] | None, limit: int
    ) -> list[tuple[tuple[int, int], Record]]:
        found = [((to_microseconds(row.record.created_at), row.key), row) for row in self._visible(scope, filters)]
        found.sort(key=lambda pair: pair[0], reverse=newest_first)
        if after is not None:
            found = [pair for pair in found if (pair[0] < after if newest_first else pair[0] > after)]
        return [(position, row.record) for position, row in found[:limit]]

    def count(self, scope: Scope, filters: Filter | None) -> int:
        return len(self._visible(scope, filters))

    def scopes(self, scope: Scope, filters: Filter | None) -> list[Scope]:
        found = {owners_of(row.record) for row in self._visible(scope, filters)}
        return sorted(
            found, key=lambda each: [(name is not None, name) for name in (each.user_id, each.agent_id, each.run_id)]
        )

    def history(self, id: str, scope: Scope) -> list[Event]:
        key = key_of(self._store.rows, id, scope)
        events: list[Event] = []
        state: Version | None = None
        for change in self._store.log:
            if change.key != key or change.row is None or change.what == "embed":
                continue
            version = version_of(change.row.record)
            hidden = change.what in ("delete", "expire")
            before = None if change.what in ("add", "restore") else state
            at = from_microseconds(change.at)
            events.append(Event(change.seq, id, change.what, before, None if hidden else version, at))
            state = version
        return events

    def keys(self, scope: Scope, filters: Filter | None, among: Keys | None = None, *, since: int = 0) -> Keys:
        wanted = None if among is None else set(among.tolist())
        found = [row.key for row in self._visible(scope, filters) if row.seq > since]
        return np.array([key for key in found if wanted is None or key in wanted], np.int64)

    def records(self, keys: Keys, scope: Scope) -> dict[int, Record]:
        wanted = set(keys.tolist())
        return {row.key: row.record for row in self._visible(scope) if row.key in wanted}

    def numbers(self, keys: Keys, scope: Scope, path: FieldPath) -> dict[int, float]:
        found = {key: read(path, self._rows[key].record)[1] for key in keys.tolist() if key in self._rows}
        return {key: float(value) for key, value in found.items() if kind(value) == "number"}

    def changed(self, owner: Owner, since: int, until: int = NEVER) -> tuple[Keys, Keys]:
        erased = [each.key for each in self._store.log if each.row is None and since < each.seq <= until and since]
        rows = [row for row in self._rows.values() if is_of(row, scope_of(owner)) and since < row.seq <= until]
        changed = [row.key for row in sorted(rows, key=lambda row: row.seq)]
        return np.array(erased, np.int64), np.array(changed, np.int64)

    def states(self, owner: Owner, keys: Keys) -> Iterator[States]:
        live = is_live if not self._show_expired else lambda row: is_visible(row, self.moment, True)
        rows = [
            row for key in keys.tolist() if (row := self._rows.get(key)) and is_of(row, scope_of(owner)) and live(row)
        ]
        digest_of = (self._store.stored or UNKNOWN).digests()
        digests = [
            digest_of(owners_of(row.record).home, row.record.content) if self._past else row.digest or b""
            for row in rows
        ]
        vectors = [self._store.known.get(digest, b"") for digest in digests]
        terms = [row.terms for row in rows]
        yield States(
            np.array([row.key for row in rows], np.int64),
            np.array([to_microseconds(row.record.created_at) for row in rows], np.int64),
            np.array([NEVER if self._show_expired else row.expires_at for row in rows], np.int64),
            np.array([bool(vector) for vector in vectors], np.bool_),
            np.frombuffer(b"".join(vectors), "<f2"),
            np.frombuffer(b"".join(terms), "<u4"),
            np.array([len(each) // 4 for each in terms], np.int64),
            [(row.record.user_id, row.record.run_id) for row in rows],
        )

    def unembedded(self, owner: Owner, keys: Keys) -> dict[int, str]:
        rows = [self._rows[key] for key in keys.tolist() if key in self._rows]
        waiting = [row for row in rows if row.digest is None and (self._past or row.failure is None)]
        return {row.key: row.record.content for row in waiting if is_of(row, scope_of(owner))}

    def listed_segments(self, owner: Owner) -> list[ListedSegment]:
        return []

    def nth_change(self, owner: Owner, since: int, count: int) -> int | None:
        rows = [row for row in self._rows.values() if is_of(row, scope_of(owner)) and is_live(row) and row.seq > since]
        changes = sorted(row.seq for row in rows)
        return changes[count - 1] if len(changes) >= count else None

    def live_count(self, owner: Owner, since: int, until: int) -> int:
        rows = [row for row in self._rows.values() if is_of(row, scope_of(owner)) and is_live(row)]
        return sum(since < row.seq <= until for row in rows)

    def first_pending(self, owner: Owner) -> int | None:
        rows = [row for row in self._rows.values() if is_of(row, scope_of(owner)) and row.is_pending]
        return min((row.seq for row in rows), default=None)


def is_live(row: Row) -> bool:
    return row.deleted_at is None


def is_of(row: Row, scope: Scope) -> bool:
    return all(getattr(row.record, name) == value for name, value in scope.owners())


def is_visible(row: Row, moment: int, show_expired: bool) -> bool:
    if show_expired:  # What was deleted at its expiry or later was deleted by the sweep.
        return row.deleted_at is None or row.deleted_at >= row.expires_at
    return row.deleted_at is None and row.expires_at > moment


def scope_of(owner: Owner) -> Scope:
    return Scope() if owner is None else Scope(**{owner[0]: owner[1]})


def version_of(record: Record) -> Version:
    return Version(record.content, record.metadata, record.expires_at, record.updated_at)


def key_of(rows: dict[int, Row], id: str, scope: Scope) -> int | None:
    found = [row for row in rows.values() if row.record.id == id and is_of(row, scope)]
    if scope.home is not None:
        for row in found:
            if owners_of(row.record).home == scope.home:
                return row.key
        if scope.home[0] == "user_id":
            return None
    if len(found) > 1:
        raise InvalidInputError(f"id {id!r} is that of several memories, each of another owner; pass the owner too.")
    return found[0].key if found else None


# -- changing -------------------------------------------------------------------------------------------------------


class MemoryCommit:
    """A batch that its caller commits."""

    def __init__(self, commit: Callable[[], list[Any]]) -> None:
        self._commit = commit
        self._done = threading.Event()
        self._cancelled = False
        self._results: list[Any] = []
        self._error: BaseException | None = None

    def enqueue(self) -> None:
        if not self._cancelled:
            try:
                self._results = self._commit()
            except BaseException as error:
                self._error = error
            self._done.set()

    def result(self, timeout: float, *, of: float = 0.0) -> list[Any]:
        assert self._done.wait(timeout)
        if self._error is not None:
            raise self._error
        return self._results

    def cancel(self) -> None:
        self._cancelled = True


class MemoryEngine:
    """The store. One lock around every change; a change that is refused puts everything back as it was."""

    def __init__(self, config: Config | None = None) -> None:
        self.path = ":memory:"
        self.segments = NoSegments()
        self.known: dict[bytes, bytes] = {}
        self.stored: StoredModel | None = None
        self.log: list[Change] = []
        self.seq = 0
        self.next_key = 1
        self._config = config or Config()
        self._lock = threading.RLock()
        self._leases: dict[str, tuple[str, int]] = {}
        self._closed = False

    @property
    def rows(self) -> dict[int, Row]:
        return {change.key: change.row for change in self.log if change.row is not None}

    @contextmanager
    def snapshot(
        self, *, as_of: datetime | None = None, show_expired: bool = False, deadline: Deadline | None = None
    ) -> Iterator[MemorySnapshot]:
        if self._closed:
            raise ClosedError("The memory is closed; open a new Memory.")
        with self._lock:
            if as_of is None:
                view = MemorySnapshot(self, self.seq, to_microseconds(now()), show_expired, deadline)
            else:
                moment = to_microseconds(as_of)
                until = max((change.seq for change in self.log if change.at <= moment), default=0)
                view = MemorySnapshot(self, until, moment, show_expired, deadline)
        yield view

    def cursor(
        self,
        scope: Scope,
        filters: Filter | None,
        *,
        show_expired: bool,
        digest_of: Digest | None,
        deadline: Deadline | None = None,
    ) -> Iterator[list[tuple[Record, Embedded | None]]]:
        with self.snapshot(show_expired=show_expired, deadline=deadline) as snapshot:
            rows = [self.rows[key] for key in np.sort(snapshot.keys(scope, filters)).tolist()]
        return self._pages(rows, digest_of is not None)

    def _pages(self, rows: list[Row], with_vectors: bool) -> Iterator[list[tuple[Record, Embedded | None]]]:
        for start in range(0, len(rows), 1000):
            page = [row for row in rows[start : start + 1000] if row.key in self.rows]  # Unless it was purged.
            yield [(row.record, self._embedded(row) if with_vectors else None) for row in page]

    def _embedded(self, row: Row) -> Embedded | None:
        return None if row.digest is None else Embedded(row.digest, self.known[row.digest])

    def vectors(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        return {digest: self.known[digest] for digest in digests if digest in self.known}

    # -- batches --------------------------------------------------------------------------------------------------

    def prepare(
        self,
        batch: Sequence[Operation],
        *,
        model: str | None = None,
        atomic: bool = True,
        durability: Durability | None = None,
    ) -> MemoryCommit:
        return MemoryCommit(lambda: self.commit(batch, model=model, atomic=atomic))

    def commit(
        self,
        batch: Sequence[Operation],
        *,
        model: str | None = None,
        atomic: bool = True,
        durability: Durability | None = None,
    ) -> list[Any]:
        if self._closed:
            raise ClosedError("The memory is closed; open a new Memory.")
        with self._lock:
            kept = (list(self.log), dict(self.known), self.seq, self.next_key)
            try:
                if model is not None and self.stored is not None and self.stored.identity != model:
                    raise ModelMoved("The store moved to another model meanwhile.")
                moment = to_microseconds(now())
                self._sweep(moment)
                return self._applied(batch, moment, atomic)
            except BaseException:
                self.log, self.known, self.seq, self.next_key = kept
                raise

    def _applied(self, batch: Sequence[Operation], moment: int, atomic: bool) -> list[Any]:
        results: list[Any] = []
        for position, operation in enumerate(batch):
            try:
                results.append(self._apply(operation, moment))
            except AgentMemError as error:
                if atomic:
                    if all(isinstance(each, Insert | Upsert) for each in batch):
                        error.position = position
                    raise
                results.append(error)
        return results

    def _apply(self, operation: Operation, moment: int) -> Any:
        match operation:
            case Insert():
                return self._insert(operation, moment)
            case Upsert():
                return self._upsert(operation, moment)
            case Update():
                return self._update(operation, moment)
            case Delete(id, scope):
                row = self._seen(id, scope, moment)
                if row is not None:
                    self._log("delete", moment, replace(row, deleted_at=moment))
                return row is not None
            case Restore(id, scope):
                key = key_of(self.rows, id, scope)
                if key is None:
                    raise not_found(id, scope)
                return self._brought_back(self.rows[key], moment).record
            case Expect(id, scope, content):
                row = self._seen(id, scope, moment)
                if row is None or row.record.content != content:
                    raise Outdated(f"The memory {id!r} has changed meanwhile; plan again.")
                return None
            case SetVector(memory, answer):
                row = self.rows.get(memory.key)
                if row is not None and row.record.content == memory.content and row.digest is None:
                    if isinstance(answer, Embedded):
                        self.known.setdefault(answer.digest, answer.vector)
                        self._log("embed", moment, replace(row, digest=answer.digest))
                    else:
                        self._log("embed", moment, replace(row, failure=str(answer)))
                return None

    def _log(self, what: str, moment: int, row: Row) -> Row:
        self.seq += 1
        row = replace(row, seq=self.seq)
        self.log.append(Change(self.seq, moment, what, row.key, row))
        return row

    def _sweep(self, moment: int) -> None:
        for row in sorted(self.rows.values(), key=lambda row: row.expires_at):
            if is_live(row) and row.expires_at <= moment:
                self._log("expire", moment, replace(row, deleted_at=moment))

    def _seen(self, id: str, scope: Scope, moment: int) -> Row | None:
        key = key_of(self.rows, id, scope)
        row = None if key is None else self.rows[key]
        return row if row is not None and is_visible(row, moment, False) else None

    def _named(self, home: Home, id: str) -> Row | None:
        rows = [row for row in self.rows.values() if row.record.id == id and owners_of(row.record).home == home]
        return rows[0] if rows else None

    def _twin(self, draft: Draft, moment: int) -> Row | None:
        rows = [
            row
            for row in self.rows.values()
            if owners_of(row.record) == draft.scope
            and row.record.content == draft.content
            and is_visible(row, moment, False)
        ]
        return min(rows, key=lambda row: row.key, default=None)

    def _insert(self, operation: Insert, moment: int) -> Record:
        draft = operation.draft
        if draft.dedupe and (twin := self._twin(draft, moment)) is not None:
            return twin.record
        if isinstance(operation.vector, AgentMemError):
            raise type(operation.vector)(*operation.vector.args)
        if draft.id_given and self._named(draft.scope.home, draft.id) is not None:
            raise DuplicateIdError(f"id {draft.id!r} is taken.")
        return self._stored(operation, moment).record

    def _stored(self, operation: Insert | Upsert, moment: int) -> Row:
        vector = operation.vector
        assert not isinstance(vector, AgentMemError)
        key, self.next_key = self.next_key, self.next_key + 1
        record = operation.draft.record()
        return self._log("add", moment, Row(key, 0, record, operation.terms, self._kept(vector, record)))

    def _kept(self, vector: Embedded | None, record: Record) -> bytes | None:
        if vector is None:
            digest = (self.stored or UNKNOWN).digests()(owners_of(record).home, record.content)
            return digest if digest in self.known else None
        self.known.setdefault(vector.digest, vector.vector)
        return vector.digest

    def _upsert(self, operation: Upsert, moment: int) -> str:
        draft = operation.draft
        old = self._named(draft.scope.home, draft.id)
        if old is not None:
            if self._is_here(operation, old) or operation.on_conflict == "skip":
                return "skipped"
            if operation.on_conflict == "new_id":
                assert operation.other_id is not None
                draft.id = operation.other_id
                if self._named(draft.scope.home, draft.id) is not None:
                    return "skipped"
                old = None
            elif operation.on_conflict == "error" or owners_of(old.record) != draft.scope:
                raise DuplicateIdError(f"id {draft.id!r} belongs to another memory.")
            elif not is_deleted_by_user(old) and comparable(old.record) == comparable(draft.record()):
                return "skipped"
        if old is None and draft.dedupe and self._twin(draft, moment) is not None:
            return "skipped"
        if isinstance(operation.vector, AgentMemError):
            raise type(operation.vector)(*operation.vector.args)
        if old is None:
            self._stored(operation, moment)
            return "imported"
        back = self._brought_back(old, moment)
        new = replace(
            back.record, content=draft.content, metadata=draft.metadata, expires_at=draft.expires_at,
            updated_at=from_microseconds(moment),
        )  # fmt: skip
        if comparable(back.record) != comparable(new):
            row = replace(back, record=new)
            if new.content != back.record.content:
                terms = redated_terms(operation.terms, new.created_at)
                row = replace(row, terms=terms, digest=self._kept(operation.vector, new), failure=None)
            self._log("update", moment, row)
        return "replaced"

    def _is_here(self, operation: Upsert, row: Row) -> bool:
        old, new = row.record, operation.draft.record()
        if operation.derived and (operation.on_conflict != "replace" or is_deleted_by_user(row)):
            return True
        return (operation.derived and comparable(old) == comparable(new)) or (
            not is_deleted_by_user(row)
            and owners_of(old) == operation.draft.scope
            and old.role == new.role
            and (old.created_at == new.created_at or not operation.dated)
            and comparable(old) == comparable(new)
        )

    def _update(self, operation: Update, moment: int) -> Record:
        row, revision = self._seen(operation.id, operation.scope, moment), operation.revision
        if row is None:
            raise not_found(operation.id, operation.scope)
        old, metadata = row.record, row.record.metadata
        if revision.metadata is not None:
            metadata = revision.metadata if revision.replace_metadata else old.metadata | revision.metadata
        new = replace(
            old,
            content=old.content if revision.content is None else revision.content,
            metadata=check_metadata(metadata, self._config)[0],
            expires_at=old.expires_at if isinstance(revision.expires_at, Keep) else revision.expires_at,
            updated_at=operation.since or from_microseconds(moment),
        )
        row = replace(row, record=new)
        if revision.terms is not None:
            row = replace(row, terms=revision.terms, digest=self._kept(operation.vector, new), failure=None)
        return self._log("update", moment, row).record

    def _brought_back(self, row: Row, moment: int) -> Row:
        expired = row.expires_at <= moment
        if is_live(row) and not expired:
            return row
        record = replace(row.record, expires_at=None) if expired else row.record
        return self._log("restore", moment, replace(row, record=record, deleted_at=None))

    def delete_all(self, scope: Scope, filters: Filter | None, deadline: Deadline) -> int:
        with self._lock, self.snapshot(deadline=deadline) as snapshot:
            keys = sorted(snapshot.keys(scope, filters).tolist())
            for key in keys:
                self._log("delete", snapshot.moment, replace(self.rows[key], deleted_at=snapshot.moment))
        return len(keys)

    def present(self, batch: Sequence[Upsert]) -> list[bool]:
        old = [self._named(each.draft.scope.home, each.draft.id) for each in batch]
        return [row is not None and self._is_here(each, row) for each, row in zip(batch, old, strict=True)]

    # -- the model ------------------------------------------------------------------------------------------------

    def model(self) -> StoredModel | None:
        return self.stored

    def bind_model(self, model: StoredModel) -> StoredModel:
        self.stored = self.stored or model
        return self.stored

    def reembedding(self, holder: str | None = None) -> "MemoryReembedding":
        return MemoryReembedding(self)

    # -- pending --------------------------------------------------------------------------------------------------

    def _pending(self, scope: Scope) -> list[Row]:
        return sorted(
            (row for row in self.rows.values() if is_of(row, scope) and row.is_pending), key=lambda row: row.key
        )

    def last_pending(self, scope: Scope) -> int | None:
        return max((row.key for row in self._pending(scope)), default=None)

    def pending(self, scope: Scope, *, after: int, until: int, limit: int) -> list[Pending]:
        rows = [row for row in self._pending(scope) if after < row.key <= until][:limit]
        return [Pending(row.key, row.record.content, owners_of(row.record).home) for row in rows]

    def pending_count(self) -> int:
        return len(self._pending(Scope()))

    def lease(self, name: str, holder: str, seconds: float) -> float:
        with self._lock:
            moment = to_microseconds(now())
            other, until = self._leases.get(name, (holder, 0))
            if other != holder and until > moment:
                return (until - moment) / 1e6
            self._leases[name] = (holder, moment + int(seconds * 1e6))
            return 0.0

    def release(self, name: str, holder: str) -> None:
        if self._leases.get(name, ("", 0))[0] == holder:
            del self._leases[name]

    # -- the rest -------------------------------------------------------------------------------------------------

    def purge(self, scope: Scope, id: str | None = None, *, hidden_before: datetime | None = None, tell: Any) -> Erased:
        with self._lock:
            rows = [row for row in self.rows.values() if is_of(row, scope)]
            if id is not None:
                rows = [self.rows[key]] if (key := key_of(self.rows, id, scope)) is not None else []
            if hidden_before is not None:
                before = to_microseconds(hidden_before)
                rows = [row for row in rows if (row.deleted_at or NEVER) < before or row.expires_at < before]
            gone = {row.key for row in rows}
            digest_of = (self.stored or UNKNOWN).digests()
            texts = {key: set[bytes]() for key in self.rows}
            for change in self.log:
                if change.row is not None:
                    record = change.row.record
                    texts[change.key].add(digest_of(owners_of(record).home, record.content))
            digests = set[bytes]().union(*(texts[key] for key in gone))
            kept = set[bytes]().union(*(texts[key] for key in texts if key not in gone))
            self.log = [change for change in self.log if change.key not in gone]
            self.known = {
                digest: data for digest, data in self.known.items() if digest in kept or digest not in digests
            }
            moment = to_microseconds(now())
            for key in sorted(gone):
                self.seq += 1
                self.log.append(Change(self.seq, moment, "purge", key, None))
            owners = {pair for row in rows for pair in owners_of(row.record).owners()}
            return Erased(len(gone), owners, digests)

    def stats(self) -> dict[str, Any]:
        rows = list(self.rows.values())
        return {"memories": sum(map(is_live, rows)), "deleted": sum(not is_live(row) for row in rows)}

    def check(self, tell: Any) -> list[str]:
        rows = [row for row in self.rows.values() if is_live(row)]
        failed = [f"memory {row.record.id!r}: {row.failure}" for row in rows if row.failure is not None]
        lost = [row.record.id for row in rows if row.digest not in (None, *self.known)]
        return failed + [f"memory {each!r} has no vector." for each in lost]

    def repair(self, digest_of: Digest, dimension: int, tell: Any) -> list[str]:
        return []

    def backup(self, path: str, *, overwrite: bool) -> None:
        raise StoreError("A store of dictionaries has no file to copy; use a file.")

    def vacuum(
        self, *, hidden_before: datetime | None, full: bool, stop: Callable[[float], bool], shown: bool
    ) -> Vacuumed:
        erased = Erased() if hidden_before is None else self.purge(Scope(), hidden_before=hidden_before, tell=None)
        return Vacuumed(VacuumReport(0, 0, 0, erased.count, 0), erased)

    def close(self) -> None:
        self._closed = True


def is_deleted_by_user(row: Row) -> bool:
    return row.deleted_at is not None and row.deleted_at < row.expires_at


def comparable(record: Record) -> tuple[Any, ...]:
    return record.content, json.dumps(record.metadata, sort_keys=True), record.expires_at


class MemoryReembedding:
    """A move to another model, all of it in one page."""

    def __init__(self, store: MemoryEngine) -> None:
        self._store = store
        self._target: StoredModel | None = None
        self._new: dict[tuple[Home, str], Embedded] = {}

    def take(self, target: StoredModel | None, seconds: float) -> Standing | None:
        return Standing(self._store.stored, None, False)

    def release(self) -> None:
        return None

    def begin(self, seconds: float, target: StoredModel) -> Move | None:
        self._target = target
        if self._store.stored is None:
            self._store.stored = target
            return None
        return Move(target)

    def newest(self) -> int:
        return self._store.seq

    def page(self, move: Move, position: Position, until: int) -> TextPage:
        rows = [change.row for change in self._store.log if change.row is not None]
        texts = {(owners_of(row.record).home, row.record.content): None for row in rows}
        return TextPage([text for text in texts if text not in self._new], Position(until, NEVER, until), True)

    def keep(
        self, seconds: float, position: Position, texts: Sequence[tuple[Home, str]], answers: Sequence[Any]
    ) -> Move:
        self._new |= {text: answer for text, answer in zip(texts, answers, strict=True) if isinstance(answer, Embedded)}
        assert self._target is not None
        return Move(self._target, position)

    def switch(self, seconds: float, position: Position, *, tail: int, complete: bool) -> bool:
        store = self._store
        with store._lock:
            moment = to_microseconds(now())
            store.known = {each.digest: each.vector for each in self._new.values()}
            for row in list(store.rows.values()):
                new = self._new.get((owners_of(row.record).home, row.record.content))
                store._log("embed", moment, replace(row, digest=None if new is None else new.digest))
            store.stored = self._target
        return True

    def give_up(self, seconds: float) -> bool:
        return False

    def clear(self, seconds: float = 0.0) -> bool:
        return False

    def has_old(self) -> bool:
        return False

    def progress(self) -> MoveProgress | None:
        return None


class NoSegments:
    """There is no folder for files."""

    possible = False
    like = ":memory:"

    def new_file(self) -> Path:
        raise NotImplementedError

    def path_of(self, file: str) -> Path:
        raise NotImplementedError

    def add(self, holder: str, model: str, built: Built, since: int, epoch: int) -> ListedSegment | None:
        return None

    def remove(self, keys: Iterable[int]) -> None:
        return None

    def have_been_purged(self, keys: Keys, since: int) -> bool:
        return False

    def forget_models(self) -> None:
        return None

    def sweep(self) -> None:
        return None
