"""Connections, pragmas and migrations of SQLite, and its errors as agentmem's. The only importer of apsw.

Every page of a store's file ends with eight bytes of checksum. SQLite's own checksum VFS (compiled, part of apsw's
wheels) writes it when the page is merged from the log, whose frames have checksums of their own. It compares whenever
the page is read from the file. So a flipped bit is an error and never an answer. The VFS is asked for by name; other
databases of the process do not use it.

A store whose pages have no room for checksums is read and written as it is. It was made before there were any, or
without the extension. Rewriting it while another process has it open would make that process write pages without
checksums.
"""

import fcntl
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import apsw

from agentmem.config import Durability
from agentmem.deadline import Deadline
from agentmem.errors import (
    REPAIR_HINT,
    AgentMemError,
    ClosedError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreLostError,
    StoreOpenError,
    StoreReadOnlyError,
)
from agentmem.platform.failpoints import reach
from agentmem.platform.files import is_folder, make_store
from agentmem.platform.forks import abandon, restart
from agentmem.platform.signals import Block, Hold, Lock, block, condition, no_thread, started
from agentmem.stats import BackgroundErrors
from agentmem.storage.retrying import Displaced, again
from agentmem.storage.sqlite.database.errors import explained, lack_of
from agentmem.storage.sqlite.database.identity import log_in_use, sequence_page, store_id_at, store_id_of
from agentmem.storage.sqlite.database.open_files import (
    LOG,
    MEMORY,
    PAGE_BYTES,
    FileId,
    OpenFiles,
    changed_lately,
    clear_log,
    file_at,
    is_no_file,
    log_number,
    refuse_links,
)
from agentmem.storage.sqlite.database.page_reader import looks_like_ours
from agentmem.storage.sqlite.database.raw_files import LOCK_LOOK_SECONDS, raw_file, wait_for
from agentmem.storage.sqlite.database.reserve import (
    OPENING_BYTES,
    Kind,
    Reserve,
)
from agentmem.storage.sqlite.database.reserve import size_of as _size_of
from agentmem.storage.sqlite.database.schema import (
    APPLICATION_ID,
    CHECKSUMS,
    INDEX_PREFIX,
    MIGRATIONS,
    metadata_indexes,
)
from agentmem.storage.sqlite.database.sql import Connection, Watch, bounded, casefold, close, contains, only_row
from agentmem.storage.sqlite.database.vfs import (
    CHECKSUM_BYTES,
    Beside,
    checked_vfs,
    has_checksums,
    is_checked,
)
from agentmem.storage.sqlite.database.wal import LOG_PAGES, LOG_WAIT_MILLISECONDS, keeper_of_log

T = TypeVar("T")

SYNCHRONOUS = {"full": 2, "process": 1}
"""SQLite's names are FULL and NORMAL: in a write-ahead log, NORMAL syncs at checkpoints only."""

WRITER_CACHE_KIB = 32_768
"""Most pages that the writer caches. With SQLite's 2 MB, inserting 256 memories of many owners into 100,000 took 174
microseconds each; with this it takes 87 (processor time, one run each on a loaded machine)."""

IDLE_READERS = 16
"""Reader connections kept open between reads; opening one costs 0.4 ms, keeping one about 100 KB."""

INCREMENTAL = 2
"""SQLite's number for files that know, for every page, the page that points to it, so that it can be moved.

Adding to one is as fast, and it is no larger (medians of 15 alternated rounds on 2 cores: `add_batch` 4,289 a second
against 4,279, ten threads 860 against 866).
"""

SMALLEST_DATABASE_BYTES = 512
"""One page of the smallest size."""

FORK_WAIT_SECONDS = 5.0
"""How long a fork waits for the transactions of other threads to end, so that the child inherits none."""

logger = logging.getLogger(__name__)
logging.getLogger("apsw").addHandler(logging.NullHandler())


class _Read:
    """A read transaction and its connection. Only its own `with` block holds it, so that a read torn by an interrupt
    does not count for ever."""

    __slots__ = ("__weakref__", "connection")

    def __init__(self) -> None:
        self.connection: Connection | None = None


class Database:
    """One SQLite file (or `":memory:"`), one writer at a time, any number of readers.

    Any thread may call every method. A file is in WAL mode: readers never wait for the writer. A memory database is one
    connection that all threads take in turn.

    Raises:
        StoreOpenError: The path cannot be opened as a store of agentmem.
    """

    def __init__(
        self,
        path: str,
        *,
        durability: Durability,
        busy_timeout: float,
        indexed_metadata: tuple[str, ...] | None = None,
        checksums: bool = True,
        errors: BackgroundErrors | None = None,
    ) -> None:
        self._errors = errors or BackgroundErrors()
        self.path = path
        self._checksums = checksums  # Of a new file; one that is there has them or not.
        self.in_memory = path == ":memory:"
        self._durability: Durability = durability
        self._busy_milliseconds = int(busy_timeout * 1000)
        self._merged = False  # Whether this process has just merged a log that is not at its path any more.
        self._database_id: FileId | None = None  # Of the file that was open last.
        self._store_id: str | None = None  # Known once it is open; from then on no file is made at its path.
        self._epoch = 0  # Of the files that were opened last, see `Connection.epoch`.
        self._start()
        with _fork_lock:  # A fork that has begun goes first,
            _open_databases.add(self)  # and the next one has to know of the first connection.
        try:
            self._bring_up_to_date(indexed_metadata)
        except BaseException:
            self.close()
            raise

    def _start(self, *, closed: bool = False) -> None:
        self._closed = closed
        self._write_lock = Lock()  # Guards: the writer connection and what it does.
        self._pool_lock = Lock()  # Guards: _idle, _reads, _forking.
        self._pool_changed = condition(self._pool_lock)
        self._opening = Lock()  # Guards: that one thread opens the files. Held while that takes.
        self._idle: list[Connection] = []
        self._reads: weakref.WeakSet[_Read] = weakref.WeakSet()  # The running ones.
        self._forking = False  # New transactions wait, or those of many threads would never make a pause for the fork.
        self._files: OpenFiles | None = None  # Of all connections, as long as there is one.
        self._writer: Connection | None = None
        self._writer_durability = self._durability
        self._merging: threading.Thread | None = None  # The latest that merged the log.
        self._reserve = Reserve(self.path)
        self._own = threading.local()  # A thread's latest `write`.
        self._pid = os.getpid()  # Last, see Restartable.

    # -- transactions ---------------------------------------------------------------------------------------------

    @block
    def reading(
        self, *, one_statement: bool = False, deadline: Deadline | None = None
    ) -> Generator[Connection, None, None]:
        """Opens a read transaction: everything read through the connection is of one snapshot. May open a connection.

        A block with a single statement needs no transaction around it, and saves two statements by saying so.

        Raises:
            DeadlineError: A statement in the block ran until the deadline; the connection stays usable.
        """
        if self.in_memory:
            with self.writing() as connection, bounded(connection, deadline):
                yield connection
            return
        self._ensure_open()
        with self._mapped():
            read = _Read()
            try:
                connection = self._borrow(read)
                if not one_statement:
                    connection.execute("BEGIN")
                if deadline is not None:
                    Watch(connection, deadline)
                yield connection
            except apsw.InterruptError as error:
                if deadline is None:
                    raise
                raise deadline.error() from error
            finally:
                self._give_back(read)

    @again
    def read(
        self, work: Callable[[Connection], T], *, one_statement: bool = False, deadline: Deadline | None = None
    ) -> T:
        """Returns the result of `work` in a read transaction. Calls it again when files are replaced meanwhile."""
        with self.reading(one_statement=one_statement, deadline=deadline) as connection:
            return work(connection)

    def writing(self, durability: Durability | None = None, kind: Kind = Kind.ERASES) -> Block[Connection]:
        """A write transaction, committed when the block ends well and rolled back otherwise; as durable as it says, or
        as the database was opened. It is refused, as on a full disk, when it would not leave what its kind must leave.

        Waits for writers of this process without bound (each is bounded), for other processes up to the busy timeout.
        """
        self.end_torn_write()
        write = self._own.write = Block(self._writing(durability, kind))
        return write

    def end_torn_write(self) -> None:
        """Rolls back a write of this thread that an interrupt left open, and releases the write lock."""
        write: Block[Connection] | None = getattr(self._own, "write", None)
        if write is not None:
            write.end()

    def _writing(self, durability: Durability | None, kind: Kind) -> Generator[Connection, None, None]:
        self._ensure_open()
        self._let_forks_pass()
        with self._mapped():
            done = False
            while not done:
                self._stand()
                with self._write_lock.hold() as hold, self._noting("nothing was written"):
                    done = yield from self._transaction(durability or self._durability, kind, hold)

    def _transaction(self, durability: Durability, kind: Kind, hold: Hold) -> Generator[Connection, None, bool]:
        """Of the thread that has the write lock. False, and nothing is done, when the files are to be left first."""
        self._ensure_open()
        connection = self._rested_writer()
        files = self._files
        try:
            if not self._lock_writer(files):
                return False
            try:
                connection.set_progress_handler(None)  # An interrupt may have kept a read from taking its own away.
                if durability != self._writer_durability:  # Before BEGIN: within, it has no effect.
                    connection.pragma("synchronous", SYNCHRONOUS[durability])
                    self._writer_durability = durability
                # Within the try: an interrupt may strike just after it, and the transaction would stay open for ever.
                # IMMEDIATE: a read transaction that upgrades fails with BUSY_SNAPSHOT, which no timeout cures.
                self._begin(connection)
                reach("transaction: after BEGIN")
                yield connection
                reach("transaction: before COMMIT")
                if kind is not Kind.ERASES and (lack := self._reserve.hold(_bytes_of(connection), kind)):
                    refusal = apsw.FullError("what is left is kept for deletions")
                    refusal.errno = lack  # type: ignore[attr-defined]
                    raise refusal
                connection.execute("COMMIT")
                reach("transaction: after COMMIT")
                if files is not None and not files.stand():
                    raise self._displaced()
            except BaseException:
                if hold.stands:
                    self._roll_back(connection)
                raise
            return True
        finally:
            if files is not None and hold.stands:
                files.unlock_writer()

    def _lock_writer(self, files: OpenFiles | None) -> bool:
        """Keeps the writers of other processes away. False when the files are not those at the path any more."""
        reach("transaction: before BEGIN")
        if files is None:
            return True
        wait_for(self.path, files.lock_writer, self._busy_milliseconds / 1000)
        return files.stand()

    @contextmanager
    def last_seen(self) -> Iterator[Connection]:
        """As `reading`, also of a store that is gone from its path: through a connection that has its files open."""
        self._ensure_open()
        try:
            with self._mapped():
                self._stand()
        except StoreLostError:
            pass
        else:
            with self.reading() as connection:
                yield connection
            return
        with self._mapped(), self._write_lock:
            self._ensure_open()
            with self._pool_lock:
                spare = self._idle.pop() if self._idle and self._writer is None else None
            connection = self._writer or spare  # type: ignore[assignment]
            if connection is None:
                raise self._gone()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                self._roll_back(connection)
                if spare is not None:
                    with self._pool_lock:
                        self._idle.append(spare)

    @contextmanager
    def inspecting(self) -> Iterator[Connection]:
        """Opens a connection of its own, outside a transaction, for looking at damage.

        It may be told to read pages in spite of their checksums, since neither it nor its cache is used afterwards.
        """
        if self.in_memory:
            with self.between_transactions() as connection:
                try:
                    yield connection
                finally:
                    self._roll_back(connection)
            return
        self._ensure_open()
        with self._mapped():
            read = _Read()
            try:
                yield self._borrow(read, fresh=True)
            finally:
                self._give_back(read, reusable=False)

    def _begin(self, connection: Connection) -> None:
        """Takes the file's write lock; waits for it in small steps, between which an interrupt is heard."""
        deadline = time.monotonic() + self._busy_milliseconds / 1000

        def wait(tries: int) -> bool:
            if time.monotonic() >= deadline:
                return False
            threading.Event().wait(LOCK_LOOK_SECONDS)
            return True

        connection.set_busy_handler(wait)
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            connection.set_busy_timeout(self._busy_milliseconds)

    def overwrite_log(self) -> None:
        """Commits a transaction that changes nothing, in the log's place of one that failed in its COMMIT.

        That one's sync failed, but its bytes are there. Otherwise it might come to life when the log is read after a
        crash.
        """
        with self.between_transactions() as connection:  # Not `writing`, whose errors say that nothing was written.
            try:
                self._begin(connection)
                connection.pragma("user_version", connection.pragma("user_version"))
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    @block
    def between_transactions(self) -> Generator[Connection, None, None]:
        """The writer's connection outside a transaction, for what SQLite does not do inside one. Other writers wait
        until the block ends."""
        self._ensure_open()
        with self._mapped():
            done = False
            while not done:
                self._stand()
                with self._write_lock.hold() as hold, self._noting("the store is whole"):
                    self._ensure_open()
                    connection = self._rested_writer()
                    files = self._files
                    try:
                        done = self._lock_writer(files)
                        if done:
                            yield connection
                    finally:
                        if files is not None and hold.stands:
                            files.unlock_writer()

    def _rested_writer(self) -> Connection:
        """The writer's connection, outside a transaction. The caller holds the write lock."""
        if self._writer is not None and self._writer.in_transaction:  # An abandoned transaction.
            self._roll_back(self._writer)
        return self._writer or self._open_writer()

    def _open_writer(self) -> Connection:
        connection = self._writer = self._connect()
        self._writer_durability = self._durability
        connection.pragma("cache_size", -WRITER_CACHE_KIB)
        return connection

    def _merge_aside(self) -> bool:
        """Begins to merge the log, as far as no read needs older pages. Returns False when a merge is running
        already."""
        if self._merging is not None and self._merging.is_alive():
            return False
        merging = started(self._merge, "agentmem-merger")
        if merging is None:
            self._errors.note("starting the thread that merges the log", no_thread(), logger)
            return False  # A later commit tries again; at LOG_PAGES, it merges the log itself.
        self._merging = merging
        return True

    def _merge(self) -> None:
        try:
            self.merge_log()
        except BaseException as error:  # A later commit takes up again what fails, as with SQLite itself.
            if not self._closed:
                self._errors.note("merging the log", error, logger)

    def merge_log(self) -> None:
        """Merges the log as far as no read needs older pages; no write waits for it."""
        if not self.in_memory:
            with self.reading(one_statement=True) as connection, suppress(apsw.BusyError):
                self._merging_alone(partial(connection.wal_checkpoint, "main", apsw.SQLITE_CHECKPOINT_PASSIVE))

    def _merging_alone(self, merge: Callable[[], T]) -> T | None:
        """Returns the result of `merge`; None, without calling it, while another process merges the log."""
        files = self._files
        if files is not None and not files.lock_merger():
            return None
        try:
            return merge()
        finally:
            if files is not None:
                files.unlock_merger()

    def cut_log(self, connection: Connection, milliseconds: int | None = None, *, keep: bool = False) -> bool:
        """Merges the log into the file, outside a transaction, and cuts it to nothing. With `keep` it begins anew in
        its own length.

        Returns False when reads of older states last longer than the busy timeout (or the given time), or others keep
        merging. Other processes' writes wait meanwhile.
        """
        patience = self._busy_milliseconds if milliseconds is None else min(milliseconds, self._busy_milliseconds)
        deadline = time.monotonic() + patience / 1000
        connection.set_busy_timeout(patience)
        try:
            while True:
                cut = f"PRAGMA wal_checkpoint({'RESTART' if keep else 'TRUNCATE'})"
                row = self._merging_alone(partial(only_row, connection, cut))
                if row is not None and not row[0]:
                    return True
                if time.monotonic() > deadline:
                    return False
                threading.Event().wait(0.01)  # SQLite waits for reads, but not for another's checkpoint.
        finally:
            connection.set_busy_timeout(self._busy_milliseconds)

    def write_anew(self, connection: Connection) -> None:
        """Rewrites the whole file, outside a transaction: rows close together, without gaps or free pages.

        Reads continue, all writes wait. A copy of the used pages goes through a file beside the store, another through
        the log. Afterwards its pages can be moved one by one.

        Raises:
            StoreFullError: There was no room for either; the file is unchanged.
        """
        if self.in_memory:
            connection.pragma("auto_vacuum", INCREMENTAL)
            connection.execute("VACUUM")
            return
        beside = Beside(self.path)
        try:
            self._vacuum(beside.name)
        except apsw.FullError:
            try:
                self.cut_log(connection, LOG_WAIT_MILLISECONDS)
                self._vacuum(checked_vfs() or "")  # The folder for temporary files may be on another disk.
            except apsw.Error:
                pass
            else:
                return
            raise
        finally:
            beside.unregister()

    def _vacuum(self, vfs: str) -> None:
        own = Connection(self.path, vfs=vfs)
        try:
            own.set_busy_timeout(self._busy_milliseconds)
            own.pragma("synchronous", SYNCHRONOUS[self._durability])
            own.pragma("temp_store", 1)  # The copy may be larger than the memory.
            own.pragma("auto_vacuum", INCREMENTAL)
            own.wal_autocheckpoint(0)
            own.execute("VACUUM")
        except apsw.IOError as error:
            error.errno = own.system_errno  # type: ignore[attr-defined]
            raise
        finally:
            close(own)

    def make_room(self, kind: Kind, *, spend: bool = False) -> None:
        """After a change that found the disk full: merges the log, so that it begins anew.

        For a change that adds, the log is cut. For others it keeps its length, which no other program can then take.
        With `spend` the change gets its share of the reserve.
        """
        if self.in_memory:
            return
        with suppress(AgentMemError), self.between_transactions() as connection:
            try:
                self.cut_log(connection, LOG_WAIT_MILLISECONDS, keep=kind is not Kind.ADDS)
            except (apsw.FullError, apsw.IOError):
                self._reserve.give_up()
                self.cut_log(connection, LOG_WAIT_MILLISECONDS, keep=kind is not Kind.ADDS)
            size = _bytes_of(connection)
            if spend:
                self._reserve.spend(size, kind)
            elif self._reserve.hold(size, Kind.ADDS):
                self._reserve.hold(size, Kind.HIDES)  # There is no room for more.

    def renew_writer(self) -> None:
        """Closes the writer's connection, with whatever an error left unfinished in it; the next writer opens one."""
        with self._write_lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close(True)

    def _let_forks_pass(self) -> None:
        """A lock goes to the thread that asks at the right moment, so fast writers could keep a fork from it."""
        if self._forking:
            with self._pool_lock:
                self._pool_changed.wait_for(lambda: not self._forking, FORK_WAIT_SECONDS)

    def _roll_back(self, connection: Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except apsw.Error:
                # Nothing is known about this connection any more; the next writer opens another, and SQLite recovers
                # the file from its log.
                self._writer = None
                close(connection)

    def _borrow(self, read: "_Read", *, fresh: bool = False) -> Connection:
        self._stand()
        with self._pool_lock:
            self._pool_changed.wait_for(lambda: not self._forking, FORK_WAIT_SECONDS)
            self._ensure_open()  # `close` may have come meanwhile, and closes what is read with only once.
            self._reads.add(read)
            if self._idle and not fresh:
                read.connection = self._idle.pop()
        if read.connection is None:
            read.connection = self._connect()
        return read.connection

    def _give_back(self, read: "_Read", *, reusable: bool = True) -> None:
        connection = read.connection
        try:
            if connection is not None:
                connection.set_progress_handler(None)  # No other read ends by this read's deadline.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except apsw.Error:
            reusable = False
        with self._pool_lock:
            reusable = reusable and connection is not None and connection.files is self._files
            if connection is not None and reusable and not self._closed and len(self._idle) < IDLE_READERS:
                self._idle.append(connection)
                connection = None
            if connection is None:
                self._reads.discard(read)
                self._pool_changed.notify_all()
        if connection is not None:
            close(connection, merge=connection.files is self._files)
            with self._pool_lock:  # Only now is a fork free of it.
                self._reads.discard(read)
                self._pool_changed.notify_all()

    # -- opening --------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        connection = self._opened() if self.in_memory else self._opened_at_path()
        try:
            if not self.in_memory:
                connection.pragma("synchronous", SYNCHRONOUS[self._durability])
            connection.pragma("temp_store", 2)
            connection.pragma("journal_size_limit", LOG_PAGES * 4096)
            connection.set_wal_hook(
                keeper_of_log(self._busy_milliseconds, self._merge_aside, self.path, self._merging_alone)
            )
            # Erased rows are overwritten, or `purge` would leave texts in free pages and gaps.
            connection.pragma("secure_delete", 1)
            connection.create_scalar_function("agentmem_casefold", casefold, 1, deterministic=True)
            connection.create_scalar_function("agentmem_contains", contains, 2, deterministic=True)
            return connection
        except BaseException:
            close(connection)
            raise

    def _opened_at_path(self) -> Connection:
        """Returns a connection to the open files, or, if there is none yet, to those at the path."""
        _let_go_of_inherited()
        path = self.path
        if path in _lost_paths:
            raise StoreError(
                f"{path!r} cannot be used in this process, which was forked in the middle of a transaction on it; "
                "open it in a process that is started afresh, or fork when no other thread uses it."
            )
        with self._opening:
            files = self._files
            if files is None:
                self._files, connection = self._open_files()
                return connection
        try:
            connection = self._opened()
        except (apsw.Error, StoreError) as error:
            if files.stand():
                raise
            raise self._displaced() from error  # What SQLite read was of files that do not belong together.
        if files.stand():
            connection.files = files
            return connection
        close(connection, merge=False)
        raise self._displaced()

    def _open_files(self) -> tuple[OpenFiles, Connection]:
        """Opens the files at the path, with locks that last."""
        path = self.path
        if self._store_id is None:  # One that was open under this name is refused under any other.
            refuse_links(path)
        deadline = time.monotonic() + self._busy_milliseconds / 1000
        while True:
            files = OpenFiles(path)
            if not files.uses_log and time.monotonic() < deadline:
                files.close()
                if _size_of(path) and _size_of(path + LOG):
                    threading.Event().wait(0.01)  # Until the processes that have it open remove it.
                    continue
                close(self._opened())  # SQLite makes a store, or turns the log on, before there is a guard.
                files = OpenFiles(path)
                if not files.uses_log and files.is_writable and not _is_sealed(path):
                    files.close()
                    continue
            if not files.uses_log and _size_of(path + LOG):
                files.close()
                raise StoreOpenError(
                    f"{path!r} is a copy that has no log, and {path + LOG!r} beside it is that of another file; remove "
                    f"it and {path + MEMORY!r}, and open the store again."
                )
            connection: Connection | None = None
            try:
                wait_for(path, files.guard_database, self._busy_milliseconds / 1000)
                self._require_log(files)
                connection = self._opened()
                if files.guard_memory():
                    self._recognise(connection, files)
                    connection.files = files
                    return files, connection
            except BaseException as error:
                if connection is not None:
                    close(connection, merge=False)
                # What SQLite reads amid a change may be of files that do not belong together.
                if not isinstance(error, apsw.Error | StoreError) or files.are_as_found or time.monotonic() > deadline:
                    files.close()
                    raise
                connection = None
            files.let_go()  # A file was created, moved or removed meanwhile.
            if connection is not None:
                close(connection, merge=False)
            files.close()
            if time.monotonic() > deadline:
                raise StoreBusyError(f"{path!r}: its files are replaced again and again; try again later.")

    def _recognise(self, connection: Connection, files: OpenFiles) -> None:
        """Checks that the opened file is the same store as before.

        Raises:
            StoreLostError: It is not; nothing may be read or written.
        """
        if self._store_id not in (None, store_id_of(connection)):
            raise self._replaced()
        if self._database_id not in (None, files.database):
            self._epoch += 1
        self._database_id, files.epoch = files.database, self._epoch
        files.know(self._knows_again, sequence_page(connection))

    def _knows_again(self) -> bool:
        """Whether the database is this store, or cannot be read just now."""
        return self._store_id is None or store_id_at(self.path) in (None, self._store_id)

    def _require_log(self, files: OpenFiles) -> None:
        """Waits until no process has another log open than the one at the path, or that log is known to hold nothing
        new.

        Raises:
            StoreBusyError: Not within the busy timeout.
        """
        deadline = time.monotonic() + self._busy_milliseconds / 1000
        while files.others_use_another_log() and not self._merged and log_in_use(self.path) != files.log_number:
            if time.monotonic() > deadline:
                raise StoreBusyError(
                    f"{self.path!r}: its log was removed or replaced while another process has it open; use the memory "
                    "there once, or end that process, and try again."
                )
            threading.Event().wait(0.01)
            files.guard_database()

    # -- files that are not at their path any more ----------------------------------------------------------------

    def _stand(self) -> None:
        """Makes the open files those at the path.

        Raises:
            StoreError: The store is not at its path.
        """
        files = self._files
        if self.in_memory or (files is not None and files.stand()):
            return
        standing = file_at(self.path)
        for each in list(_open_databases):  # Another store of this process may have to leave a log first.
            theirs = each._files
            own = files is not None and files.database == standing
            if not own and each.path == self.path and theirs is not None and theirs.database == standing:
                each._stand()
        if files is not None:
            self._mend(files)

    def _mend(self, files: OpenFiles) -> None:
        """Leaves files that are not at the path any more for those that are."""
        with _mending, self._write_lock:
            if self._closed or self._files is not files or files.stand():
                return
            # From now on no thread of this process writes into the remains.
            wait_for(self.path, files.lock_writer, self._busy_milliseconds / 1000)
            try:
                files.mend_memory()
                if files.stand():
                    return
                found = file_at(self.path)
                if found is None:
                    raise self._gone()
                if is_no_file(self.path):
                    raise self._replaced()
                if files.is_overwritten():
                    self._leave_state(files)
                elif found == files.database:
                    self._leave_log(files)
                else:
                    self._leave_database(files)
            finally:
                files.unlock_writer()
                if self._files is not files:
                    files.close()

    def _leave_log(self, files: OpenFiles) -> None:
        """The database is at its path, but not its log: merges what only that log has into the database."""
        self._merge_all()
        quiesced: list[Database] = []
        self._forking = True
        self._pause(merge=False, leave=False)  # The right to write is kept to the end.
        files.let_go()
        try:
            # Within a process, SQLite has one memory of the log for each database.
            twins = [each for each in list(_open_databases) if each.shares(files)]
            quiesced.extend(each for each in twins if each.quiesce(merge=False))
            if self._files is not None or any(each.shares(files) for each in twins):
                raise StoreBusyError(f"{self.path!r}: its log was removed or replaced; try again when reads end.")
            if log_in_use(self.path) != log_number(self.path):  # Else another process has done all this.
                clear_log(self.path)
            self._merged = True
        finally:
            for each in quiesced:
                each.resume()
            self._go_on()
        try:
            self._writer = self._open_writer()
        finally:
            self._merged = False
        if self._files is not None and self._files.others_use_another_log():
            self._mark_log()

    def _mark_log(self) -> None:
        """Records in the database which log belongs to it, for processes that still have another one open.

        All contents of their log are in the database, or in this log, and they must not remove it.
        """
        connection, files = self._writer, self._files
        if connection is not None and files is not None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (LOG, str(files.log_number)))
            self._merge_all()
            if log_in_use(self.path) != files.log_number:
                raise self._displaced()

    def _leave_state(self, files: OpenFiles) -> None:
        """Another file was copied over the database. Opens it if it is an earlier state of this store, without the log
        of the replaced one."""
        found = store_id_at(self.path)
        if found is None:  # It is just being written.
            raise self._displaced()
        files.put_log_aside()
        if found != self._store_id:
            raise self._replaced()
        self._database_id = None
        with self._pool_lock:
            self._let_go(merge=False, leave=False)
        files.let_go()
        self._epoch += 1
        self._writer = self._open_writer()

    def _leave_database(self, files: OpenFiles) -> None:
        """Another file is at the path: if it is of this store too (a copy, an earlier state), it is opened."""
        ours = store_id_at(self.path) == self._store_id
        same = ours and files.is_same_database()  # The log's contents are missing there then.
        if not same:
            with suppress(StoreError):
                self._merge_all()  # The file that was is whole then, wherever it is now.
        if log_in_use(self.path) != log_number(self.path):  # Else another process has done all this.
            files.clear_names(keep_log=same)
        if not ours:
            raise self._replaced()
        with self._pool_lock:
            self._let_go(merge=False, leave=False)
        self._writer = self._open_writer()
        if same:
            self._mark_log()

    def _merge_all(self) -> None:
        deadline = time.monotonic() + self._busy_milliseconds / 1000
        while True:
            with self._pool_lock:
                connection = self._writer or (self._idle[-1] if self._idle else None)
                if connection is not None and connection is not self._writer:
                    self._idle.remove(connection)
            if connection is not None:
                try:
                    with suppress(apsw.BusyError):
                        done = self._merging_alone(
                            partial(connection.wal_checkpoint, "main", apsw.SQLITE_CHECKPOINT_PASSIVE)
                        )
                        if done is not None and done[0] == done[1]:
                            return
                finally:
                    if connection is not self._writer:
                        with self._pool_lock:
                            self._idle.append(connection)
            if time.monotonic() > deadline:
                raise StoreBusyError(
                    f"{self.path!r}: its log was removed or replaced, and reads of earlier states keep it from being "
                    "merged; nothing was acknowledged, try again when they end."
                )
            threading.Event().wait(0.01)

    def shares(self, files: OpenFiles) -> bool:
        """Whether its connections are to the same database."""
        return self._files is not None and self._files.database == files.database

    def _displaced(self) -> Displaced:
        return Displaced(
            f"{self.path!r}: its files were replaced or removed just now; nothing was acknowledged, try again."
        )

    def _gone(self) -> StoreLostError:
        return StoreLostError(
            f"{self.path!r} is gone: it was deleted or moved while it was open here, and nothing is acknowledged any "
            f"more. Put it back (with its {LOG} and {MEMORY}), or save what this process still has with backup()."
        )

    def _replaced(self) -> StoreLostError:
        return StoreLostError(
            f"{self.path!r} is not the store any more that was opened: another file has taken its place, and nothing "
            "is acknowledged. Put the store back, or save what this process still has with backup() and open a new one."
        )

    def _opened(self) -> Connection:
        path = self.path
        if not self.in_memory:
            if is_folder(path):
                raise StoreOpenError(f"{path!r} is a directory; pass the path of a file in it.")
            for each in (path, path + LOG, path + MEMORY):
                if is_no_file(each):
                    raise StoreOpenError(f"{each!r} is not a file; remove it, or choose another path.")
            if self._store_id is not None and file_at(path) is None:
                raise self._gone()
            parent = os.path.dirname(path)  # noqa: PTH120
            if not is_folder(parent):
                raise StoreOpenError(f"The folder {parent!r} of the store does not exist; make it first.")
            if _size_of(f"{path}-wal") and not _size_of(path):  # SQLite would erase the log, and all that is in it.
                raise StoreDamagedError(f"{path!r} is gone or empty, but its log is there; restore the file beside it.")
            if file_at(path) is None:
                make_store(path)  # Before SQLite does, for which the umask decides the mode.
        # Again, when another process made the store while the first connection was opening an empty file.
        try:
            connection = self._open() or self._open()
        except apsw.Error as error:
            if self.in_memory or lack_of(error) is None or not self._reserve.give_up(OPENING_BYTES):
                raise
            connection = self._open() or self._open()
        if connection is None:
            raise StoreDamagedError(f"{path!r}: the header of the file is damaged; {REPAIR_HINT}.")
        return connection

    def _open(self) -> Connection | None:
        """Returns a connection to the database, whose file has only agentmem's contents.

        Returns None when it would not write and compare checksums although the file has them, or the other way round.
        """
        path = self.path
        try:
            if self.in_memory:
                connection = Connection(path)
            elif not _is_sealed(path):
                connection = Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=checked_vfs())
            else:
                uri = f"file:{quote(path)}?immutable=1"
                flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
                connection = Connection(uri, flags=flags, vfs=checked_vfs())
        except apsw.CantOpenError as error:
            raise StoreOpenError(f"{path!r} cannot be opened ({error}); check its permissions.") from error
        try:
            connection.set_busy_timeout(self._busy_milliseconds)
            if self.in_memory:
                connection.reserve_bytes("main", CHECKSUM_BYTES)  # For its copies.
                connection.pragma("auto_vacuum", INCREMENTAL)
            else:
                if not _size_of(path):
                    if self._checksums and checked_vfs():
                        connection.reserve_bytes("main", CHECKSUM_BYTES)
                    connection.pragma("auto_vacuum", INCREMENTAL)  # Last, as it writes the first page.
                self._refuse_foreign_file(connection)
                if not connection.readonly("main"):
                    mode = self._use_log(connection)
                    if mode != "wal":
                        raise StoreOpenError(f"{path!r} cannot use a write-ahead log (its mode stays {mode!r}).")
                if not self._is_checked_as_it_should_be(connection):
                    close(connection)
                    return None
            return connection
        except BaseException:
            close(connection)
            raise

    def _is_checked_as_it_should_be(self, connection: Connection) -> bool:
        reserved = connection.reserve_bytes("main")
        if reserved == CHECKSUM_BYTES and not checked_vfs():
            raise StoreOpenError(
                f"{self.path!r} has page checksums, which the apsw of this Python cannot keep (it was built without "
                "SQLite's extras); install apsw from a wheel of PyPI: pip install --force-reinstall --only-binary "
                ":all: apsw."
            )
        return reserved == (CHECKSUM_BYTES if is_checked(connection) else 0)

    def _use_log(self, connection: Connection) -> Any:
        """Switches to the write-ahead log.

        SQLite waits for no other process here, whatever the busy timeout, so processes that create a store together
        would collide.
        """
        deadline = time.monotonic() + self._busy_milliseconds / 1000
        while True:
            try:
                return connection.pragma("journal_mode", "wal")
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                threading.Event().wait(0.005)  # No signal tells of another process releasing its lock.

    def _refuse_foreign_file(self, connection: Connection) -> None:
        """Before the first write into a file: it is empty, or it is ours."""
        try:
            # One statement, and so of one moment: another process may be making this store just now.
            application, filled = only_row(
                connection, "SELECT application_id, EXISTS (SELECT 1 FROM sqlite_schema) FROM pragma_application_id"
            )
            if application == APPLICATION_ID:
                return
            if application or filled:
                self._refuse_damaged_file()
                raise StoreOpenError(f"{self.path!r} is a database of another application; choose another path.")
            if 0 < Path(self.path).stat().st_size < SMALLEST_DATABASE_BYTES:  # SQLite takes it for an empty one.
                self._refuse_damaged_file()
                raise StoreOpenError(f"{self.path!r} is not a database; choose another path.")
        except (apsw.NotADBError, apsw.CorruptError) as error:
            self._refuse_damaged_file()
            raise StoreOpenError(f"{self.path!r} is not a database ({error}); choose another path.") from error

    def _refuse_damaged_file(self) -> None:
        """What SQLite cannot open, or does not know as ours, may be ours all the same."""
        with raw_file(self.path) as file:
            ours = looks_like_ours(file)
        if ours:
            raise StoreDamagedError(f"{self.path!r} is a store whose file is damaged at its beginning; {REPAIR_HINT}.")

    @again
    def _bring_up_to_date(self, indexed_metadata: tuple[str, ...] | None) -> None:
        """Makes the tables, or those that are missing; a store that lacks nothing is only read. Done again, it comes to
        the same."""
        with self.reading() as connection:
            current = self._is_current(connection, indexed_metadata)
        if not current:
            try:
                with self.writing() as connection:
                    self._migrate(connection)
                    if indexed_metadata is not None:
                        self._index_metadata(connection, indexed_metadata)
                with suppress(StoreError):  # Has the file itself say which store it is, whatever becomes of its log.
                    self.merge_log()
            except StoreReadOnlyError:
                self._check_schema_of_read_only()
        with self.reading(one_statement=True) as connection:
            self._store_id = store_id_of(connection)
            if connection.files is not None and not current:
                connection.files.know(self._knows_again, sequence_page(connection))

    def _is_current(self, connection: Connection, indexed_metadata: tuple[str, ...] | None) -> bool:
        version = self._schema_version(connection)
        if version and not self.in_memory and not connection.reserve_bytes("main") and has_checksums(connection):
            raise StoreDamagedError(f"{self.path!r}: the header of the file is damaged; {REPAIR_HINT}.")
        return version == len(MIGRATIONS) and (
            indexed_metadata is None or set(metadata_indexes(indexed_metadata)) == _present_indexes(connection)
        )

    def _migrate(self, connection: Connection) -> None:
        version = self._schema_version(connection)
        reserved = 0 if self.in_memory else connection.reserve_bytes("main")
        for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
            reach("open: before a migration")
            for step in migration:
                step(connection) if callable(step) else connection.execute(step)
                reach("open: between the statements of a migration")
            connection.pragma("user_version", number)
            reach("open: after a migration")
        if version == 0:
            connection.pragma("application_id", APPLICATION_ID)
            if reserved:
                connection.execute("INSERT INTO meta VALUES (?, ?)", (CHECKSUMS, str(reserved)))

    def _index_metadata(self, connection: Connection, keys: tuple[str, ...]) -> None:
        wanted = metadata_indexes(keys)
        present = _present_indexes(connection)
        for name in present - set(wanted):
            connection.execute(f'DROP INDEX "{name}"')
        for name in set(wanted) - present:
            reach("open: before an index")
            connection.execute(wanted[name])
            reach("open: after an index")

    def _schema_version(self, connection: Connection) -> int:
        version = int(connection.pragma("user_version"))
        if version > len(MIGRATIONS):
            raise StoreOpenError(
                f"{self.path!r} has schema {version}, newer than the {len(MIGRATIONS)} this agentmem knows; upgrade it."
            )
        return version

    def _check_schema_of_read_only(self) -> None:
        """A store on read-only media can be read as long as nothing needs migrating."""
        self._writer = None
        with self.reading() as connection:
            if self._schema_version(connection) != len(MIGRATIONS):
                raise StoreReadOnlyError(f"{self.path!r} needs a migration and cannot be written; open a copy.")

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes every connection, after a checkpoint; waits for the transactions that are running."""
        if self._pid != os.getpid():
            self._closed = True
            _let_go_of_inherited()
            return
        with self._write_lock:  # To the end, so that a fork does not come amid it.
            self._closed = True
            merging = self._merging
            if merging is not None and merging.is_alive():
                merging.join()  # It would be the last to leave, and merge what came since.
            reach("close: before the connections")
            with self._pool_lock:
                self._let_go()
            if not self.in_memory:
                self._reserve.leave()
        _open_databases.discard(self)

    def _let_go(self, *, merge: bool = True, leave: bool = True) -> None:
        """Closes the idle connections, and with `leave` their files.

        The last of all processes to do so merges the log into the database and removes it. The caller holds the write
        lock and that of the pool.
        """
        idle, self._idle = self._idle, []
        writer, self._writer = self._writer, None
        files, self._files = self._files, None
        merge = merge and (files is None or files.stand())
        if files is not None and merge:
            files.let_go()
        for reader in idle:
            close(reader, merge=merge)
        reach("close: before the checkpoint")
        if writer is not None:
            close(writer, merge=merge)
        if files is not None and leave:
            files.close()

    def _ensure_open(self) -> None:
        if self._pid != os.getpid():
            restart(self, self._restart)
            if self.in_memory:
                raise ClosedError("A ':memory:' store stays with the process that opened it; open a new Memory here.")
        if self._closed:
            raise ClosedError(f"The memory on {self.path!r} is closed; open a new Memory.")

    # -- forks ----------------------------------------------------------------------------------------------------

    def quiesce(self, *, merge: bool = True) -> bool:
        """Before a fork, or before leaving the files: waits for running transactions (bounded) and closes the
        connections.

        SQLite keeps a process's locks in process-wide tables, and a child would inherit them as locks that it does not
        have. New transactions wait until `resume`. Returns False when a write was still running.
        """
        if self.in_memory or self.is_inherited:
            return False
        self._forking = True
        if not self._write_lock.acquire(timeout=FORK_WAIT_SECONDS):
            with self._pool_lock:
                self._forking = False
                self._pool_changed.notify_all()
            return False
        self._pause(merge=merge)
        return True

    def resume(self) -> None:
        self._go_on()
        self._write_lock.release()

    def _pause(self, *, merge: bool, leave: bool = True) -> None:
        """Waits (bounded) until no thread reads, and closes the connections then. No read begins until `_go_on`."""
        self._pool_lock.acquire()
        drained = self._pool_changed.wait_for(lambda: not self._reads, FORK_WAIT_SECONDS)
        if drained and not self._closed:
            self._let_go(merge=merge, leave=leave)

    def _go_on(self) -> None:
        self._forking = False
        self._pool_changed.notify_all()
        self._pool_lock.release()

    @property
    def is_inherited(self) -> bool:
        """Whether this is the child of a fork, and the connections, if there are any, are the parent's."""
        return not self.in_memory and self._pid != os.getpid()

    def inherited(self) -> tuple[list[Connection], bool]:
        """In a forked child: returns the parent's inherited connections, and whether none of its transactions was
        running. Later calls find none."""
        idle, self._idle = self._idle, []
        writer, self._writer = self._writer, None
        files, self._files = self._files, None
        if files is not None:
            files.abandon()
        reads = [read.connection for read in self._reads if read.connection is not None]
        connections = [*idle, *reads, *([writer] if writer else [])]
        # No thread of this process holds the write lock, except one that stayed in the parent, or `quiesce`.
        at_rest = not self._reads and (self._forking or self._write_lock.acquire(blocking=False))
        return connections, at_rest and not (writer and writer.in_transaction)

    def _restart(self) -> None:
        _let_go_of_inherited()
        self._start(closed=self._closed or self.in_memory)

    # -- errors ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _noting(self, state: str) -> Iterator[None]:
        """Notes, at an error of the writer's connection, the system's error and the state of the store.

        The outcome is unknown of a transaction whose COMMIT failed for another reason than want of room.
        """
        try:
            yield
        except apsw.Error as error:
            writer = self._writer
            if writer is not None and isinstance(error, apsw.IOError) and not hasattr(error, "errno"):
                error.errno = writer.system_errno  # type: ignore[attr-defined]
            unsure = isinstance(error, apsw.IOError) and lack_of(error) is None
            error.state = "nothing was acknowledged" if unsure else state  # type: ignore[attr-defined]
            raise

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        files = self._files
        try:
            yield
        except (StoreDamagedError, StoreOpenError) as error:
            self._note_change(error, files)
            raise
        except AgentMemError:
            raise
        except apsw.NoMemError as error:
            raise MemoryError(f"SQLite had no memory for {self.path!r} ({error})") from error
        except (apsw.CorruptError, apsw.IOError, apsw.NotADBError, apsw.CantOpenError) as error:
            ours = explained(self.path, error)
            ours.__cause__ = error
            raise self._note_change(ours, files) from error
        except apsw.Error as error:
            raise explained(self.path, error) from error
        except UnicodeDecodeError as error:  # From apsw, which hands out every text decoded.
            damaged = StoreDamagedError(f"{self.path!r} has text that is not UTF-8 ({error}); {REPAIR_HINT}.")
            raise self._note_change(damaged, files) from error

    def _note_change(self, error: StoreError, files: OpenFiles | None) -> StoreError:
        """Returns the error, marked as one that may pass if the files are others now or were just replaced: the data
        read may not belong together."""
        failed = getattr(error.__cause__, "extendedresult", 0)
        if not self.in_memory and not isinstance(error, StoreFullError) and failed not in _OF_WRITING:
            displaced = files is not None and (files is not self._files or not files.stand())
            error.amid_a_change = displaced or changed_lately(self.path)  # type: ignore[attr-defined]
        return error


_OF_WRITING = {
    apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC, apsw.SQLITE_IOERR_TRUNCATE,
}  # fmt: skip
"""An error that no change of files explains. After a failed sync the state of the disk is unknown: it is not tried
again."""


def is_open_elsewhere(path: str) -> bool:
    """Whether this process or another has a connection to the database at a path."""
    real = os.path.realpath(path)
    if any(not each.in_memory and os.path.realpath(each.path) == real for each in list(_open_databases)):
        return True
    with open(path, "r+b") as file:  # noqa: PTH123
        try:
            # The bytes that every connection holds a shared lock on, see https://www.sqlite.org/fileformat2.html.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
        except OSError:
            return True
    return False


def _is_sealed(path: str) -> bool:
    """Whether neither the file nor the log beside it can be written, because their file system is read-only. SQLite
    must be told so, or it insists on making the shared memory of a log."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not _size_of(f"{path}-wal")
    except OSError:
        return False


def _bytes_of(connection: Connection) -> int:
    return int(connection.pragma("page_count")) * PAGE_BYTES


def _present_indexes(connection: Connection) -> set[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND substr(name, 1, ?) = ?",
        (len(INDEX_PREFIX), INDEX_PREFIX),
    )
    return {row[0] for row in rows}


_open_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()
_pid = os.getpid()
_lost_paths: set[str] = set()
_mending = Lock()  # Guards: that one thread leaves files for others; taken before any write lock.
_letting_go = threading.Lock()  # Guards: that only one thread of a child lets go, and the others wait until it has.
_fork_lock = threading.Lock()  # Held from before a fork until after it. Guards: _quiesced, as several threads may fork.
_quiesced: list[Database] = []


def _let_go_of_inherited() -> None:
    """In a forked child, before its first connection: removes everything that SQLite holds for the parent.

    Usually there is nothing, because the parent has closed its connections before it forked. Servers that skip Python's
    fork hooks leave them open. SQLite then believes that this process has their locks: the child would read without a
    lock, and the parent would delete the log under it. So they are closed here. The descriptors are the child's own,
    and POSIX locks belong to a process, so the parent keeps its locks, and the log stays. Connections amid a
    transaction are no longer sound. They are kept open for ever, and their files cannot be used in this process.
    """
    global _pid
    if _pid == os.getpid():
        return
    with _letting_go:
        if _pid == os.getpid():
            return
        found = [(database, *database.inherited()) for database in list(_open_databases) if database.is_inherited]
        sound = all(at_rest for _, _, at_rest in found)  # Otherwise locks inside SQLite may be held for ever.
        for database, connections, at_rest in found:
            if not at_rest or (connections and not sound):
                _lost_paths.add(database.path)
            for connection in connections:
                if sound:
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                    connection.close(True)
                else:
                    abandon(connection)
        _pid = os.getpid()


def _before_fork() -> None:
    # In the child of a fork without hooks, the thread that would release it may not exist.
    if not _fork_lock.acquire(timeout=FORK_WAIT_SECONDS):
        return
    _quiesced.extend(database for database in list(_open_databases) if database.quiesce())


def _after_fork_in_parent() -> None:
    try:
        while _quiesced:
            _quiesced.pop().resume()
    finally:
        with suppress(RuntimeError):  # It was not had.
            _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock, _letting_go, _mending
    _quiesced.clear()
    _fork_lock, _letting_go = threading.Lock(), threading.Lock()
    _mending = Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
