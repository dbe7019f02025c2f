"""Frees unused space: vectors of no text, free pages, the log.

Pages become free when a table is dropped (`reembed` drops one), and are used before the file grows. To shrink the file,
its last pages must move into free ones. SQLite can do that page by page in a file that keeps, for every page, the page
that points to it (`auto_vacuum=incremental`). Other files it can only rewrite as a whole.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from agentmem.errors import ClosedError, StoreFullError
from agentmem.platform.failpoints import reach
from agentmem.progress import Tell, progress, untold
from agentmem.records import Scope
from agentmem.stats import VacuumReport
from agentmem.storage.retrying import Outplanned
from agentmem.storage.sqlite.database.connections import INCREMENTAL, Database
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.sql import Connection, all_rows, integer_array, only_row
from agentmem.storage.sqlite.database.wal import LOG_WAIT_MILLISECONDS
from agentmem.storage.sqlite.group_commit import GroupCommit
from agentmem.storage.sqlite.maintenance.purge import give_back, wipe
from agentmem.storage.sqlite.meta import stored_model
from agentmem.storage.sqlite.move_state import erase_beside
from agentmem.storage.sqlite.reembedding import Moves
from agentmem.storage.sqlite.segment_list import Segments
from agentmem.storage.sqlite.stats import size_of
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import UNKNOWN, Erased, StoredModel, Vacuumed

ROWS_A_READ = 10_000
"""Rows read in one transaction, so that none keeps the log for long."""

DROPPED_TOGETHER = 300
"""Vectors dropped in one transaction: writers wait some 20 ms on 2 busy cores."""

Heads = npt.NDArray[np.uint64]
"""The first eight bytes of digests (n,): enough to tell a million texts apart. A digest that shares them with a needed
text stays too."""


PAUSE_SECONDS = 0.005
"""Pause between two steps: a few times the interval at which other processes' writers look."""

CUTS = 25
"""How often cutting the log is tried while others' reads keep it; later commits cut it in the end."""


class Vacuumable(Protocol):
    """What a vacuum needs of the store beside its space."""

    segments: Segments

    def purge(
        self, scope: Scope, id: str | None = None, *, hidden_before: datetime | None = None, tell: Tell
    ) -> Erased: ...

    def reembedding(self, holder: str | None = None) -> Moves: ...


def vacuum(
    store: Vacuumable,
    space: "Space",
    hidden_before: datetime | None,
    *,
    full: bool,
    stop: Callable[[float], bool],
    shown: bool,
) -> Vacuumed:
    """Frees unused space step by step, while other processes work; see `Store.vacuum`.

    Each step is a transaction. Between two steps the writers of other processes, which look for the lock now and then,
    find it free.
    """
    before = space.bytes()
    erased = Erased() if hidden_before is None else store.purge(Scope(), hidden_before=hidden_before, tell=untold)
    unwiped = _finish_purge(space)
    store.segments.sweep()
    moves = store.reembedding()
    for _ in _paced(iter(moves.clear, False), stop):
        pass
    dropped = sum(_paced(space.drop_unused(), stop))
    free = space.free_bytes()
    with progress("B", free, shown=shown) as tell:
        if full or (free and not space.is_movable):
            space.write_anew()
        else:
            for given in _paced(iter(space.give_back, 0), stop):
                tell(given)
    for _ in range(CUTS):  # Each keeps writers waiting no longer than a step.
        if space.cut_log() or stop(PAUSE_SECONDS):
            break
    if unwiped:  # There may be more room now.
        space.finish_purge()
    return Vacuumed(VacuumReport(before, space.bytes(), dropped, erased.count, space.deleted()), erased)


def _finish_purge(space: "Space") -> bool:
    """Whether the rest of a purge must wait, because the disk has no room for it."""
    try:
        space.finish_purge()
    except StoreFullError:
        return True
    return False


def _paced(steps: Iterator[int], stop: Callable[[float], bool]) -> Iterator[int]:
    """Runs the steps, with a pause after each.

    Raises:
        ClosedError: The memory was closed meanwhile.
    """
    for step in steps:
        yield step
        if stop(PAUSE_SECONDS):
            raise ClosedError("The memory was closed while it was being vacuumed; what was done is kept.")


class Space:
    """The vacuum of a store; any thread may call every method."""

    def __init__(self, database: Database, writes: GroupCommit) -> None:
        self._database = database
        self._writes = writes

    def bytes(self) -> int:
        """Returns the store's bytes on the disk: its file and its log; in memory, its pages."""
        path = self._database.path
        if not self._database.in_memory:
            return size_of(path) + size_of(f"{path}-wal")
        return self._database.read(
            lambda connection: int(connection.pragma("page_count") * connection.pragma("page_size"))
        )

    def deleted(self) -> int:
        """Returns the number of deleted memories."""
        deleted = partial(only_row, query="SELECT count(*) FROM memory WHERE deleted_at IS NOT NULL")
        return int(self._database.read(deleted, one_statement=True)[0])

    def finish_purge(self) -> None:
        """Completes an unfinished purge; see `wipe`."""
        wipe(self._database, self._writes)

    # -- vectors --------------------------------------------------------------------------------------------------

    def drop_unused(self) -> Iterator[int]:
        """Drops the vectors of texts that no memory has or had, some in each transaction; yields the number dropped
        each time.

        The newest vector stays, so that its number is never reused.
        """
        counters = "SELECT (SELECT coalesce(max(seq), 0) FROM history), (SELECT coalesce(max(key), 0) FROM vector)"
        model, (seq, newest), epoch = self._database.read(
            lambda connection: (stored_model(connection) or UNKNOWN, only_row(connection, counters), connection.epoch)
        )
        used, past = self._used(newest), self._past_heads(model)
        unused: list[int] = []
        for keys, heads in self._vectors():
            old = np.flatnonzero(keys < newest)
            unused += keys[old[~used[keys[old]] & ~np.isin(heads[old], past)]].tolist()
        start, together = 0, DROPPED_TOGETHER
        while start < len(unused):
            chunk = unused[start : start + together]
            try:
                drop = partial(_drop, keys=chunk, model=model, since=seq)
                dropped = self._writes.commit(drop, Kind.ERASES, epoch=epoch)
            except Outplanned:
                return  # The next run finds the rest.
            except StoreFullError:
                if together == 1:
                    raise
                together = max(1, together // 4)  # Fewer need less of the log.
                continue
            start += len(chunk)
            yield dropped

    def _used(self, newest: int) -> npt.NDArray[np.bool_]:
        """Returns the vectors, up to `newest`, that memories point to. A memory that takes another one meanwhile has
        changed since."""
        used = np.zeros(newest + 1, np.bool_)
        for rows in self._pages("SELECT key, vector_key FROM memory WHERE key > ? ORDER BY key LIMIT ?", 0):
            pointed = np.array([vector for _, vector in rows if vector is not None], np.int64)
            used[pointed[pointed <= newest]] = True
        return used

    def _past_heads(self, model: StoredModel) -> Heads:
        """Returns the digests of all texts that were replaced."""
        parts = [_heads(())]
        seq: int | None = 0
        while seq is not None:
            digests, seq = self._database.read(partial(_replaced, model=model, since=seq), one_statement=True)
            parts.append(_heads(digests))
        return np.unique(np.concatenate(parts))

    def _vectors(self) -> Iterator[tuple[npt.NDArray[np.int64], Heads]]:
        """Returns the keys of all vectors and the heads of their digests, without reading the vectors."""
        for rows in self._pages("SELECT home_digest, key FROM vector WHERE home_digest > ? ORDER BY 1 LIMIT ?", b""):
            yield np.array([key for _, key in rows], np.int64), _heads(digest for digest, _ in rows)

    def _pages(self, query: str, after: Any) -> Iterator[list[tuple[Any, ...]]]:
        """Yields the rows of a query beyond its first parameter, as many at a time as its second says. Their first
        column is the next first parameter."""
        while True:
            rows = self._database.read(
                partial(all_rows, query=query, parameters=(after, ROWS_A_READ)), one_statement=True
            )
            if not rows:
                return
            yield rows
            after = rows[-1][0]

    # -- pages ----------------------------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Returns the bytes of the free pages."""
        return self._database.read(
            lambda connection: int(connection.pragma("freelist_count") * connection.pragma("page_size"))
        )

    @property
    def is_movable(self) -> bool:
        """Whether the pages of the file can be moved one by one."""
        return self._database.read(lambda connection: bool(connection.pragma("auto_vacuum") == INCREMENTAL))

    def give_back(self) -> int:
        """Moves some pages from the end of the file into free ones; see `give_back`."""
        return give_back(self._writes)

    def write_anew(self) -> None:
        """Rewrites the whole file; see `Database.write_anew`."""
        with self._database.between_transactions() as connection:
            reach("vacuum: before the file is written anew")
            self._database.write_anew(connection)

    def cut_log(self) -> bool:
        """Merges the log into the file, which is shortest only then, and cuts it. Returns False when others' reads keep
        it; later commits cut it then."""
        if self._database.in_memory:
            return True
        self._database.merge_log()  # No caller waits for this, the larger part.
        with self._database.between_transactions() as connection:
            reach("vacuum: before the log is cut")
            return self._database.cut_log(connection, LOG_WAIT_MILLISECONDS)


def _drop(transaction: Transaction, keys: list[int], model: StoredModel, since: int) -> int:
    """Drops those of the vectors that no memory has used after `since`. Returns their number; None when the store has
    moved to another model, whose digests differ."""
    connection = transaction.connection
    if (stored_model(connection) or UNKNOWN) != model:
        return 0
    stored = all_rows(
        connection,
        "SELECT key, home_digest FROM carray(?) AS wanted CROSS JOIN vector ON key = wanted.value "
        "WHERE key < (SELECT max(key) FROM vector)",
        (integer_array(keys),),
    )
    pointed = all_rows(
        connection,
        "SELECT DISTINCT vector_key FROM memory WHERE seq > ? AND +vector_key IN (SELECT value FROM carray(?))",
        (since, integer_array(keys)),
    )
    used = {row[0] for row in pointed}
    replaced = set[bytes]()
    seq: int | None = since
    while seq is not None:
        digests, seq = _replaced(connection, model, seq)
        replaced.update(digests)
    gone = {key: digest for key, digest in stored if key not in used and digest not in replaced}
    if gone:
        reach("vacuum: before unused vectors are dropped")
        erase_beside(connection, set(gone), set(gone.values()))
        connection.execute("DELETE FROM vector WHERE key IN (SELECT value FROM carray(?))", (integer_array(gone),))
        reach("vacuum: after unused vectors are dropped")
    return len(gone)


def _replaced(connection: Connection, model: StoredModel, since: int) -> tuple[list[bytes], int | None]:
    """Yields the digests of texts that events after `since` replaced, some at a time, with the place where they end;
    None at the end."""
    digest_of = model.digests()
    rows = all_rows(
        connection,
        "SELECT history.seq, before ->> '$.content', user_id, agent_id, run_id "
        "FROM history CROSS JOIN memory ON memory.key = memory_key "
        "WHERE history.seq > ? AND before IS NOT NULL ORDER BY history.seq LIMIT ?",
        (since, ROWS_A_READ),
    )
    digests = [digest_of(Scope(*owners).home, content) for _, content, *owners in rows if isinstance(content, str)]
    return digests, rows[-1][0] if len(rows) == ROWS_A_READ else None


def _heads(digests: Iterable[bytes]) -> Heads:
    return np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), np.uint64)
