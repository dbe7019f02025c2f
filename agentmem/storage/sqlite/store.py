"""Memories, vectors and history as rows: the changes, each one transaction, and the door to reading.

Nothing outside this folder knows that it is SQLite: what comes in and goes out are drafts, records, keys and bytes.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from agentmem.analyzer import stored_terms
from agentmem.config import Config, Durability
from agentmem.deadline import Deadline
from agentmem.errors import (
    AgentMemError,
    DeadlineError,
    NotFoundError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
)
from agentmem.filters import Filter
from agentmem.platform.failpoints import reach
from agentmem.platform.signals import block
from agentmem.progress import Tell
from agentmem.records import Draft, Embedded, Event, Record, Scope
from agentmem.stats import Timings
from agentmem.storage.retrying import Outplanned, again
from agentmem.storage.sqlite.analysis import bind_analysis
from agentmem.storage.sqlite.as_of import PastSnapshot
from agentmem.storage.sqlite.cursor import Frozen, freeze, thaw
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.sql import Connection, bounded, is_kept, key_array
from agentmem.storage.sqlite.deduplication import outcomes
from agentmem.storage.sqlite.deferred import BACKLOG, last_pending, pending_count, pending_memories, settle
from agentmem.storage.sqlite.group_commit import GroupCommit, Write
from agentmem.storage.sqlite.ids import key_of
from agentmem.storage.sqlite.leases import claim, release
from agentmem.storage.sqlite.maintenance.backup import back_up
from agentmem.storage.sqlite.maintenance.check import problems_of
from agentmem.storage.sqlite.maintenance.page_check import page_problems
from agentmem.storage.sqlite.maintenance.purge import purge, purge_hidden
from agentmem.storage.sqlite.maintenance.repair import repair
from agentmem.storage.sqlite.maintenance.vacuum import Space
from agentmem.storage.sqlite.meta import stored_model
from agentmem.storage.sqlite.reembedding import Moves
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, events_of, record_of
from agentmem.storage.sqlite.segment_list import Segments
from agentmem.storage.sqlite.snapshot import Snapshot, known_vectors, visible
from agentmem.storage.sqlite.stats import counts
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.sqlite.update import bring_back, revise
from agentmem.storage.sqlite.upsert import Arrival, arrived, take_in
from agentmem.storage.types import (
    NEVER,
    UNKNOWN,
    Digest,
    Erased,
    Keep,
    Keys,
    OnConflict,
    Outcome,
    Outdated,
    Pending,
    Revision,
    StoredModel,
)
from agentmem.timestamps import from_microseconds, now, to_microseconds
from agentmem.validation import check_metadata

Change = Callable[[Transaction], Any]
"""Something to be done in a transaction; as `Write.apply` does, it checks first and changes afterwards."""


HIDDEN_TOGETHER = 10_000
"""Memories that `delete_all` hides in one transaction: 0.06 seconds for the writers that wait meanwhile (2 cores)."""

CHANGED_SECONDS = 0.1
"""How long a transaction may look for what changed since its memories were found; then they are looked for again
outside it."""

NO_KEYS = np.empty(0, np.int64)


class Store:
    """The truth about all memories in one file. Every method may be called from any thread; a method that changes
    something returns when the change is committed."""

    def __init__(self, path: str, config: Config, timings: Timings) -> None:
        self._config = config
        self._database = Database(
            path,
            durability=config.durability,
            busy_timeout=config.busy_timeout,
            indexed_metadata=config.indexed_metadata,
            errors=timings.errors,
        )
        self.path = path
        self.writes = GroupCommit(self._database, timings)
        self.moves = Moves(self._database, self.writes)
        self.segments = Segments(self._database, self.writes)
        self.space = Space(self._database, self.writes)
        try:
            bind_analysis(self._database)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    # -- reading --------------------------------------------------------------------------------------------------

    @block
    def snapshot(
        self, *, show_expired: bool = False, deadline: Deadline | None = None
    ) -> Generator[Snapshot, None, None]:
        """A view of one moment, for the length of the block, seeing all that was acknowledged before it began. What is
        read through it raises DeadlineError when that goes on beyond the deadline."""
        with self._database.reading(deadline=deadline) as connection:
            yield Snapshot(connection, to_microseconds(now()), show_expired=show_expired, deadline=deadline)

    @block
    def past(
        self, instant: datetime, *, show_expired: bool = False, deadline: Deadline | None = None
    ) -> Generator[Snapshot, None, None]:
        """A view of what was known at an instant."""
        with self._database.reading(deadline=deadline) as connection:
            digest_of = (stored_model(connection) or UNKNOWN).digests()
            yield PastSnapshot(
                connection, to_microseconds(instant), digest_of, show_expired=show_expired, deadline=deadline
            )

    def known_vectors(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """The vectors that the store has, of these digests."""
        return self._database.read(partial(known_vectors, digests=digests), one_statement=True)

    def history(self, id: str, scope: Scope) -> list[Event]:
        """Every event of a memory, deleted or not, oldest first; empty when there is none in this scope."""

        def events(connection: Connection) -> list[Event]:
            row = self._row(connection, id, scope)
            if row is None:
                return []
            events = connection.execute(
                "SELECT seq, what, before, at FROM history WHERE memory_key = ? ORDER BY seq", (row[0],)
            ).fetchall()
            return events_of(events, record_of(row))

        return self._database.read(events)

    @again
    def freeze(
        self, scope: Scope, filters: Filter | None, *, show_expired: bool, deadline: Deadline | None = None
    ) -> Frozen:
        """Fixes what is visible now, to be read in pages; see `thaw`."""
        with self.snapshot(show_expired=show_expired, deadline=deadline) as snapshot:
            return freeze(snapshot, scope, filters)

    def thaw(self, keys: Keys, seq: int, digest_of: Digest | None) -> list[tuple[Record, Embedded | None]]:
        """A page of what was fixed, as it was then; see `thaw`."""
        return self._database.read(lambda connection: thaw(connection, keys, seq, digest_of))

    def counts(self) -> dict[str, Any]:
        """Rows and bytes; reads indexes, so that its cost grows slowly with the store."""
        return self._database.read(lambda connection: counts(connection, self._database.path))

    @again
    def require(self, id: str, scope: Scope, *, show_expired: bool = False) -> Record:
        """The visible memory with this id. Raises NotFoundError when there is none."""
        with self.snapshot(show_expired=show_expired) as snapshot:
            record = snapshot.get(id, scope)
        if record is None:
            raise _not_found(id, scope)
        return record

    def check(self, tell: Tell) -> list[str]:
        """What is wrong with the store, a sentence each; empty when it is healthy. Reads everything."""
        problems: list[str] = []
        try:
            with self._database.inspecting() as connection:
                problems += page_problems(self._database, connection, tell)
                connection.execute("BEGIN")
                model = stored_model(connection) or UNKNOWN
                for problem in problems_of(connection, model.digests(), model.dimension, tell):
                    problems.append(problem)
        except StoreError as error:  # Damage of the schema is told as an error of the statement.
            problems.append(f"the database cannot be read to its end: {error}")
        return problems

    def repair(self, digest_of: Digest, dimension: int, tell: Tell) -> list[str]:
        """Mends what `check` names; says what was done, a sentence each."""
        return repair(self._database, self.writes, digest_of, dimension, tell)

    def back_up(self, path: str, *, overwrite: bool) -> None:
        """Copies the store as it is at one moment; see `Memory.backup`."""
        back_up(self._database, path, overwrite=overwrite)

    # -- the model ------------------------------------------------------------------------------------------------

    def bind_model(self, model: StoredModel) -> StoredModel:
        """Remembers which model makes this store's vectors, unless it has one; returns the one that it has."""
        stored = self.model()
        if stored is None:
            try:
                with self._database.writing() as connection:
                    reach("open: before the model is bound")
                    connection.execute("INSERT OR IGNORE INTO meta VALUES ('model', ?)", (model.as_json(),))
                    reach("open: after the model is bound")
            except StoreReadOnlyError:
                return model
            stored = self.model()
        return stored or model

    def model(self) -> StoredModel | None:
        """What the store remembers of its model; None when it has none yet."""
        return self._database.read(stored_model, one_statement=True)

    # -- changing -------------------------------------------------------------------------------------------------

    def insertion(
        self,
        drafts: Sequence[Draft],
        embedded: Sequence[Embedded | AgentMemError | None],
        *,
        model: str | None,
        together: bool,
        durability: Durability | None = None,
        deadline: Deadline | None = None,
    ) -> Write[list[Record | AgentMemError]]:
        """A write that adds the drafts in order, each with its event and its vector (or None: deferred); `embedded` may
        be filled until it is queued. Its result has a record for each draft (an existing one where the draft asks not
        to be stored twice), or the error that kept this one out: the embedding's, or a DuplicateIdError. With
        `together`, the first such error is raised and nothing is written. `model` is the identity of the one that made
        the vectors (None: all are deferred); ModelMoved is raised when the store's are of another.

        Raises:
            DeadlineError: finding the words of the drafts took longer than the deadline allows.
        """
        # Here and not in `apply`, which runs on the thread that leads a commit for many.
        terms = [stored_terms(draft.content, draft.created_at, deadline) for draft in drafts]

        def apply(transaction: Transaction) -> list[Record | AgentMemError]:
            if model is not None:
                transaction.require_model(model)
            decided = outcomes(transaction, drafts, embedded)
            if together:
                for position, outcome in enumerate(decided):
                    if isinstance(outcome, AgentMemError):
                        outcome.position = position
                        raise outcome
            results: list[Record | AgentMemError] = []
            for draft, vector, words, outcome in zip(drafts, embedded, terms, decided, strict=True):
                if outcome is None and not isinstance(vector, AgentMemError):
                    transaction.insert(draft, vector, words)
                results.append(outcome or draft.record())
            return results

        return Write(apply, durability)

    def insert(
        self,
        drafts: Sequence[Draft],
        embedded: Sequence[Embedded | AgentMemError | None],
        *,
        model: str | None,
        together: bool,
        durability: Durability | None = None,
        deadline: Deadline | None = None,
    ) -> list[Record | AgentMemError]:
        """Commits such a write."""
        return self.writes.run(
            self.insertion(drafts, embedded, model=model, together=together, durability=durability, deadline=deadline)
        )

    def arrived(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Which of the memories from elsewhere are here already, as they are."""
        return self._database.read(lambda connection: arrived(connection, arrivals), one_statement=True)

    def take_in(
        self,
        arrivals: Sequence[Arrival],
        embedded: Sequence[Embedded | AgentMemError | None],
        *,
        model: str,
        on_conflict: OnConflict,
        together: bool,
        durability: Durability | None,
        deadline: Deadline,
    ) -> list[Outcome | AgentMemError]:
        """Commits memories from elsewhere, in one transaction; see `take_in`. `model` is the identity of the one that
        made the vectors; ModelMoved is raised when the store's are of another. DeadlineError as for `insertion`."""
        terms = [stored_terms(arrival.draft.content, arrival.draft.created_at, deadline) for arrival in arrivals]

        def apply(transaction: Transaction) -> list[Outcome | AgentMemError]:
            transaction.require_model(model)
            return take_in(transaction, arrivals, embedded, terms, on_conflict=on_conflict, together=together)

        return self.writes.run(Write(apply, durability))

    def together(self, changes: Sequence[Change]) -> list[Any]:
        """Commits several changes in their order, all of them or none, and returns what each returned."""

        def apply(transaction: Transaction) -> list[Any]:
            with transaction.all_or_nothing():
                return [change(transaction) for change in changes]

        return self.writes.commit(apply)

    def revise(self, id: str, scope: Scope, revision: Revision, embedded: Embedded | None, *, model: str) -> Record:
        """Gives a visible memory a new version; returns the record as it then is. `model` is the identity of the one
        that made the vector.

        Raises:
            ModelMoved: the store's vectors are of another.
            NotFoundError: there is none to see.
            InvalidInputError: the merged metadata is too large.
        """
        return self.writes.commit(self.to_revise(id, scope, revision, embedded, model=model))

    def to_revise(
        self,
        id: str,
        scope: Scope,
        revision: Revision,
        embedded: Embedded | None,
        *,
        model: str,
        since: datetime | None = None,
    ) -> Callable[[Transaction], Record]:
        """The same as a change. A version from another store's history is dated `since` then; its event is dated like
        all others. Such a version may have no vector, if the one that follows in the same transaction has."""

        def apply(transaction: Transaction) -> Record:
            if embedded is not None:
                transaction.require_model(model)
            key, old = self._visible_row(transaction, id, scope)
            metadata = old.metadata
            if revision.metadata is not None:
                metadata = revision.metadata if revision.replace_metadata else old.metadata | revision.metadata
            metadata, metadata_json = check_metadata(metadata, self._config)
            new = replace(
                old,
                content=old.content if revision.content is None else revision.content,
                metadata=metadata,
                expires_at=old.expires_at if isinstance(revision.expires_at, Keep) else revision.expires_at,
                updated_at=since or from_microseconds(transaction.moment),
            )
            revise(
                transaction, key, old, new,
                metadata_json=metadata_json, terms=revision.terms, embedded=embedded, since=since,
            )  # fmt: skip
            return new

        return apply

    def to_expect(self, id: str, scope: Scope, content: str) -> Callable[[Transaction], None]:
        """A change that changes nothing, and raises Outdated unless a memory is there to see and has this content."""

        def apply(transaction: Transaction) -> None:
            try:
                _, record = self._visible_row(transaction, id, scope)
            except NotFoundError:
                raise Outdated(f"The memory {id!r} has gone meanwhile; plan again.") from None
            if record.content != content:
                raise Outdated(f"The memory {id!r} has changed meanwhile; plan again.")

        return apply

    # -- deferred memories ----------------------------------------------------------------------------------------

    def last_pending(self, scope: Scope) -> int | None:
        """The key of the newest memory of a scope that waits for its vector, or None when there is none."""
        return self._database.read(lambda connection: last_pending(connection, scope), one_statement=True)

    def pending_memories(self, scope: Scope, after_key: int, last_key: int, limit: int) -> list[Pending]:
        """Memories of a scope that wait for their vectors, oldest first, beyond a key and up to another."""
        found = partial(pending_memories, scope=scope, after_key=after_key, last_key=last_key, limit=limit)
        return self._database.read(found, one_statement=True)

    def pending_count(self) -> int:
        return self._database.read(pending_count)

    def settle(self, memories: Sequence[Pending], answers: Sequence[Embedded | AgentMemError], *, model: str) -> None:
        """Commits what became of pending memories; `model` is the identity of the one that was asked."""

        def apply(transaction: Transaction) -> None:
            transaction.require_model(model)
            settle(transaction, memories, answers)

        self.writes.commit(apply)

    def claim_backlog(self, owner: str, seconds: float) -> float:
        """See `claim`: 0 when the claim is ours, else how long another process's still runs."""
        return self.writes.commit(lambda transaction: claim(transaction, BACKLOG, owner, seconds))

    def release_backlog(self, owner: str) -> None:
        self.writes.commit(lambda transaction: release(transaction, BACKLOG, owner), Kind.ERASES)

    # -- hiding and bringing back ---------------------------------------------------------------------------------

    def delete(self, id: str, scope: Scope) -> bool:
        """Hides a memory; its text and history stay until purged. False when there is none to see."""
        return self.writes.commit(self.to_delete(id, scope), Kind.HIDES)

    def to_delete(self, id: str, scope: Scope) -> Callable[[Transaction], bool]:
        """The same as a change."""

        def apply(transaction: Transaction) -> bool:
            try:
                key, _ = self._visible_row(transaction, id, scope)
            except NotFoundError:
                return False
            seq = transaction.record_event(key, "delete", None, transaction.moment)
            transaction.connection.execute(
                "UPDATE memory SET deleted_at = ?, seq = ? WHERE key = ?", (transaction.moment, seq, key)
            )
            return True

        return apply

    def restore(self, id: str, scope: Scope) -> Record:
        """Makes a deleted or expired memory visible again, as it was; one whose `expires_at` has passed comes back
        without it. One that is visible is returned as it is.

        Raises:
            NotFoundError: there never was such a memory in this scope.
        """
        return self.writes.commit(self.to_restore(id, scope))

    def to_restore(self, id: str, scope: Scope) -> Callable[[Transaction], Record]:
        """The same as a change."""

        def apply(transaction: Transaction) -> Record:
            row = self._row(transaction.connection, id, scope)
            if row is None:
                raise _not_found(id, scope)
            return bring_back(transaction, row[0], record_of(row))

        return apply

    @again
    def _to_hide(self, scope: Scope, filters: Filter | None, since: int, deadline: Deadline) -> tuple[Keys, int, int]:
        """What a filter matches and has changed after `since`: the keys, oldest first; the latest change; the epoch."""
        with self.snapshot(deadline=deadline) as snapshot:
            return np.sort(snapshot.keys(scope, filters, since=since)), snapshot.seq, snapshot.epoch

    def delete_all(self, scope: Scope, filters: Filter | None, deadline: Deadline) -> int:
        """Hides every visible memory of a scope that passes the filter; how many it were. They are found outside the
        write lock. HIDDEN_TOGETHER of them are hidden in one transaction, more in several, oldest first; fewer on a
        full disk.

        Raises:
            DeadlineError: the time is over; what was hidden, which the message counts, stays so.
            StoreFullError: the disk has not even room for this; likewise.
        """
        hidden = since = 0
        together = HIDDEN_TOGETHER
        try:
            while True:
                found, seq, epoch = self._to_hide(scope, filters, since, deadline)
                start, is_last, complete = 0, False, False
                while not is_last:
                    if hidden:
                        deadline.check()
                    some = found[start : start + together]
                    is_last = start + together >= len(found)
                    hide = partial(_hide, scope, filters, some, seq, is_last)
                    try:
                        count, complete = self.writes.commit(hide, Kind.HIDES, epoch=epoch)
                    except Outplanned:
                        seq = 0  # They are found anew, all of them.
                        break
                    except StoreFullError as error:
                        if len(some) > 1:
                            together, is_last = max(1, len(some) // 4), False  # Fewer need less of the log.
                            continue
                        raise StoreFullError(f"{error} (Deleted so far: {hidden:,} memories.)") from error
                    hidden += count
                    start += len(some)
                if complete:
                    return hidden
                deadline.check()
                since = seq
        except DeadlineError as error:
            if not hidden:
                raise
            raise DeadlineError(
                f"{hidden:,} memories were deleted within the {deadline.seconds:g} seconds allowed, and there are "
                "more; call again for the rest, or raise timeout."
            ) from error

    def purge(self, scope: Scope, id: str | None, tell: Tell) -> Erased:
        """Erases memories of a scope for good; see `purge`."""
        return purge(self._database, self.writes, scope, id, tell)

    def purge_hidden(self, moment: datetime) -> Erased:
        """Erases everybody's memories that were deleted, or had expired, before a moment; see `purge_hidden`."""
        return purge_hidden(self._database, self.writes, to_microseconds(moment))

    def _visible_row(self, transaction: Transaction, id: str, scope: Scope) -> tuple[int, Record]:
        connection = transaction.connection
        where, parameters = visible(scope, None, transaction.moment)
        row = connection.execute(
            f"SELECT {RECORD_COLUMNS} FROM memory WHERE memory.key = ? AND {where}",
            (key_of(connection, id, scope), *parameters),
        ).fetchone()
        if row is None:
            raise _not_found(id, scope)
        return row[0], record_of(row)

    def _row(self, connection: Connection, id: str, scope: Scope) -> tuple[Any, ...] | None:
        """The memory's row whether it is visible or not, as long as it is of this scope."""
        row: tuple[Any, ...] | None = connection.execute(
            f"SELECT {RECORD_COLUMNS} FROM memory WHERE memory.key = ?", (key_of(connection, id, scope),)
        ).fetchone()
        return row


def _hide(
    scope: Scope, filters: Filter | None, found: Keys, seq: int, is_last: bool, transaction: Transaction
) -> tuple[int, bool]:
    """Hides those of the memories found that are unchanged since `seq`, and with the last of them those that were
    changed, or came, since then and pass the filter; how many, and whether nothing is left to look at."""
    connection, complete, changed = transaction.connection, False, NO_KEYS
    if is_last:
        where, parameters = visible(scope, filters, transaction.moment)
        query, values = f"SELECT memory.key FROM memory WHERE {where} AND memory.seq > ?", (*parameters, seq)
        with suppress(DeadlineError), bounded(connection, Deadline(CHANGED_SECONDS), late=CHANGED_SECONDS):
            rows = connection.execute(query, values, can_cache=is_kept(query, values)).fetchall()
            changed, complete = np.array([row[0] for row in rows], np.int64), True
    where, parameters = visible(scope, None, transaction.moment)
    hidden = 0
    for keys, bound in ((found, seq), (changed, NEVER)):
        if len(keys):
            among = f"memory.key IN (SELECT value FROM carray(?)) AND memory.seq <= ? AND {where} ORDER BY memory.key"
            hidden += transaction.hide("delete", among, (key_array(keys), bound, *parameters))
    return hidden, complete


def _not_found(id: str, scope: Scope) -> NotFoundError:
    where = f" of {scope}" if scope.owners() else ""
    return NotFoundError(f"There is no memory {id!r}{where} to change; look ids up with get_all().")
