"""Memories, vectors and history as rows of a SQLite file: the engine behind `storage.interface.Store`."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from agentmem.config import Config, Durability
from agentmem.deadline import Deadline
from agentmem.errors import DeadlineError, StoreError, StoreFullError, StoreReadOnlyError
from agentmem.filters import Filter
from agentmem.platform.failpoints import reach
from agentmem.platform.signals import block
from agentmem.progress import Tell
from agentmem.records import Embedded, Record, Scope
from agentmem.stats import Timings
from agentmem.storage.operations import Operation, Upsert
from agentmem.storage.retrying import Outplanned, again
from agentmem.storage.sqlite.analysis import bind_analysis
from agentmem.storage.sqlite.arrivals import present
from agentmem.storage.sqlite.as_of import PastSnapshot
from agentmem.storage.sqlite.batch import apply, kind_of
from agentmem.storage.sqlite.cursor import thaw
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.sql import bounded, is_kept, key_array
from agentmem.storage.sqlite.deferred import last_pending, pending_count, pending_memories
from agentmem.storage.sqlite.group_commit import GroupCommit, Write
from agentmem.storage.sqlite.leases import claim, release
from agentmem.storage.sqlite.maintenance.backup import back_up
from agentmem.storage.sqlite.maintenance.check import problems_of
from agentmem.storage.sqlite.maintenance.page_check import page_problems
from agentmem.storage.sqlite.maintenance.purge import purge, purge_hidden
from agentmem.storage.sqlite.maintenance.repair import repair
from agentmem.storage.sqlite.maintenance.vacuum import Space, vacuum
from agentmem.storage.sqlite.meta import stored_model
from agentmem.storage.sqlite.reembedding import Moves
from agentmem.storage.sqlite.segment_list import Segments
from agentmem.storage.sqlite.snapshot import Snapshot, known_vectors, visible
from agentmem.storage.sqlite.stats import counts
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import NEVER, UNKNOWN, Digest, Erased, Keys, Pending, StoredModel, Vacuumed
from agentmem.timestamps import now, to_microseconds

HIDDEN_TOGETHER = 10_000
"""Memories that `delete_all` hides in one transaction: writers wait 0.06 seconds meanwhile (2 cores)."""

CHANGED_SECONDS = 0.1
"""How long a transaction may look for changes since its memories were found; then they are found again outside it."""

PAGE = 1000
"""Memories of a cursor that are read in one transaction."""

NO_KEYS = np.empty(0, np.int64)


class Prepared:
    """A write batch that is ready to be queued; see `storage.interface.Commit`."""

    def __init__(self, writes: GroupCommit, write: Write[list[Any]]) -> None:
        self._writes = writes
        self._write = write

    def enqueue(self) -> None:
        """Puts the batch into the next commit, unless it was cancelled. Never blocks; any thread may call it."""
        self._writes.enqueue([self._write])

    def result(self, timeout: float, *, of: float = 0.0) -> list[Any]:
        """Waits until the batch is committed, or leads that commit; returns the results.

        Raises:
            DeadlineError: It was not queued within `timeout` seconds, the rest of the `of` seconds allowed.
        """
        return self._writes.finish(self._write, timeout, of=of)

    def cancel(self) -> None:
        """Withdraws the batch: unless it is being committed, it never will be."""
        self._writes.leave(self._write)


class SQLiteStore:
    """All memories in one file. Any thread may call every method; one that changes something returns when it is
    committed."""

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
        self._writes = GroupCommit(self._database, timings)
        self.segments = Segments(self._database, self._writes)
        self._space = Space(self._database, self._writes)
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
        self, *, as_of: datetime | None = None, show_expired: bool = False, deadline: Deadline | None = None
    ) -> Generator[Snapshot, None, None]:
        with self._database.reading(deadline=deadline) as connection:
            if as_of is None:
                yield Snapshot(connection, to_microseconds(now()), show_expired=show_expired, deadline=deadline)
            else:
                digest_of = (stored_model(connection) or UNKNOWN).digests()
                moment = to_microseconds(as_of)
                yield PastSnapshot(connection, moment, digest_of, show_expired=show_expired, deadline=deadline)

    def cursor(
        self,
        scope: Scope,
        filters: Filter | None,
        *,
        show_expired: bool,
        digest_of: Digest | None,
        deadline: Deadline | None = None,
    ) -> Iterator[list[tuple[Record, Embedded | None]]]:
        keys, seq = self._visible_keys(scope, filters, show_expired, deadline)
        pages = (keys[start : start + PAGE] for start in range(0, len(keys), PAGE))
        return (self._database.read(partial(thaw, keys=page, seq=seq, digest_of=digest_of)) for page in pages)

    @again
    def _visible_keys(
        self, scope: Scope, filters: Filter | None, show_expired: bool, deadline: Deadline | None
    ) -> tuple[Keys, int]:
        """Returns the keys that are visible now, ascending, and the number of the last change."""
        with self.snapshot(show_expired=show_expired, deadline=deadline) as snapshot:
            return np.sort(snapshot.keys(scope, filters)), snapshot.seq

    def vectors(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        return self._database.read(partial(known_vectors, digests=digests), one_statement=True)

    def present(self, batch: Sequence[Upsert]) -> list[bool]:
        return self._database.read(partial(present, batch=batch), one_statement=True)

    def stats(self) -> dict[str, Any]:
        written = self._writes.counts
        read = self._database.read(lambda connection: counts(connection, self._database.path))
        return {**read, "commits": written.commits, "writes": written.writes}

    def check(self, tell: Tell) -> list[str]:
        problems: list[str] = []
        try:
            with self._database.inspecting() as connection:
                problems += page_problems(self._database, connection, tell)
                connection.execute("BEGIN")
                model = stored_model(connection) or UNKNOWN
                for problem in problems_of(connection, model.digests(), model.dimension, tell):
                    problems.append(problem)
        except StoreError as error:  # Damage of the schema is reported as an error of the statement.
            problems.append(f"the database cannot be read to its end: {error}")
        return problems

    # -- the model ------------------------------------------------------------------------------------------------

    def model(self) -> StoredModel | None:
        return self._database.read(stored_model, one_statement=True)

    def bind_model(self, model: StoredModel) -> StoredModel:
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

    def reembedding(self, holder: str | None = None) -> Moves:
        return Moves(self._database, self._writes, holder)

    # -- changing -------------------------------------------------------------------------------------------------

    def prepare(
        self,
        batch: Sequence[Operation],
        *,
        model: str | None = None,
        atomic: bool = True,
        durability: Durability | None = None,
    ) -> Prepared:
        write = Write(self._application(batch, model, atomic=atomic), durability, kind_of(batch))
        write.caller = sys._getframe(1)
        return Prepared(self._writes, write)

    def commit(
        self,
        batch: Sequence[Operation],
        *,
        model: str | None = None,
        atomic: bool = True,
        durability: Durability | None = None,
    ) -> list[Any]:
        return self._writes.run(Write(self._application(batch, model, atomic=atomic), durability, kind_of(batch)))

    def _application(
        self, batch: Sequence[Operation], model: str | None, *, atomic: bool
    ) -> Callable[[Transaction], list[Any]]:
        def application(transaction: Transaction) -> list[Any]:
            if model is not None:
                transaction.require_model(model)
            return apply(transaction, batch, self._config, atomic=atomic)

        return application

    @again
    def _to_hide(self, scope: Scope, filters: Filter | None, since: int, deadline: Deadline) -> tuple[Keys, int, int]:
        """Returns the memories that a filter matches and that changed after `since`: the keys, oldest first; the latest
        change; the epoch."""
        with self.snapshot(deadline=deadline) as snapshot:
            return np.sort(snapshot.keys(scope, filters, since=since)), snapshot.seq, snapshot.epoch

    def delete_all(self, scope: Scope, filters: Filter | None, deadline: Deadline) -> int:
        """Hides every visible memory of a scope that passes the filter. Returns their number.

        They are found outside the write lock. HIDDEN_TOGETHER of them are hidden in one transaction, more in several,
        oldest first; fewer on a full disk.

        Raises:
            DeadlineError: The time is over. The memories hidden so far, which the message counts, stay hidden.
            StoreFullError: The disk has no room even for this; likewise.
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
                        count, complete = self._writes.commit(hide, Kind.HIDES, epoch=epoch)
                    except Outplanned:
                        seq = 0  # They are all found again.
                        break
                    except StoreFullError as error:
                        if len(some) > 1:
                            together, is_last = max(1, len(some) // 4), False  # Fewer memories need less of the log.
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

    def purge(
        self, scope: Scope, id: str | None = None, *, hidden_before: datetime | None = None, tell: Tell
    ) -> Erased:
        if hidden_before is not None:
            return purge_hidden(self._database, self._writes, to_microseconds(hidden_before))
        return purge(self._database, self._writes, scope, id, tell)

    # -- pending memories -----------------------------------------------------------------------------------------

    def last_pending(self, scope: Scope) -> int | None:
        return self._database.read(partial(last_pending, scope=scope), one_statement=True)

    def pending(self, scope: Scope, *, after: int, until: int, limit: int) -> list[Pending]:
        found = partial(pending_memories, scope=scope, after_key=after, last_key=until, limit=limit)
        return self._database.read(found, one_statement=True)

    def pending_count(self) -> int:
        return self._database.read(pending_count)

    def lease(self, name: str, holder: str, seconds: float) -> float:
        return self._writes.commit(lambda transaction: claim(transaction, name, holder, seconds))

    def release(self, name: str, holder: str) -> None:
        self._writes.commit(lambda transaction: release(transaction, name, holder), Kind.ERASES)

    # -- the file -------------------------------------------------------------------------------------------------

    def repair(self, digest_of: Digest, dimension: int, tell: Tell) -> list[str]:
        return repair(self._database, self._writes, digest_of, dimension, tell)

    def backup(self, path: str, *, overwrite: bool) -> None:
        back_up(self._database, path, overwrite=overwrite)

    def vacuum(
        self, *, hidden_before: datetime | None, full: bool, stop: Callable[[float], bool], shown: bool
    ) -> Vacuumed:
        return vacuum(self, self._space, hidden_before, full=full, stop=stop, shown=shown)


def _hide(
    scope: Scope, filters: Filter | None, found: Keys, seq: int, is_last: bool, transaction: Transaction
) -> tuple[int, bool]:
    """Hides those of the memories found that are unchanged since `seq`; with the last ones also those that changed or
    came since.

    Returns their number, and whether nothing is left.
    """
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
