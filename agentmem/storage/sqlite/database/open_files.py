"""The files of an open store: whether they still stand at its path, and locks that no other code can drop.

SQLite locks with POSIX locks, which belong to the process. When any code of the process closes any descriptor of a file
(a second SQLite, a copy of the folder, an archive), all of its locks on that file are gone. Another process that closes
the store then believes that it is the last one. It removes the log that others use, and two processes write at once. So
the same bytes are locked once more, with locks that belong to one open descriptor and live as long as it:

- The bytes by which SQLite knows that a database, and the memory beside its log, are in use. Every SQLite sees these
  locks, so none removes a log in use, or begins its memory anew.
- A byte for the writer and one for the merger of the log, far behind the end of the file. So there is no lock file to
  copy, leave behind or remove. They keep processes of agentmem from writing at the same time. Another SQLite does not
  know them: its own write lock keeps it out, as long as that is not dropped.
- A byte whose place tells which log and which memory the holder uses. A process that opens the store and finds others
  with another log must not write beside them.

Linux has such locks. Elsewhere `OpenFiles` only compares, which reports what has happened but prevents nothing.

Locks do not help against deleting, moving or replacing a file. The folder tells that a name in it has changed, and then
each file is compared with the opened one. A database that another was copied over keeps its name and its inode. So
after every write by a merge or another program, the caller that opened it decides whether it is the same store.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from agentmem.errors import StoreOpenError
from agentmem.platform.files import _mode_at

_SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)

_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of a 64-bit Linux: kind, whence, first byte, how many, and a process that must be 0."""

SHARED = (0x40000002, 510)
"""Of the database: every connection has a shared lock on one or all of these bytes, https://www.sqlite.org/fileformat2.html."""

IN_MEMORY = (128, 1)
"""In the file `-shm`: a process that has it mapped holds a shared lock on this byte,
https://www.sqlite.org/walformat.html."""

WRITER, MERGER = (1 << 62, 1), ((1 << 62) + 1, 1)
LOGS, LOG_COUNT = (1 << 62) + (1 << 32), 1 << 40
"""Where the bytes begin that say which log is used, and how many there are."""

SETTLED_NANOSECONDS = 3_000_000_000
"""A folder that changed this long ago would show another time if it changed again, on the coarsest of file systems."""

COMPARED_BYTES = 1 << 20

PAGE_BYTES = 4096
"""SQLite's default, which every store has."""

TABLE_LEAF = b"\x0d"
SEQUENCE_ROW = re.compile(rb"\x03\x1b(.)history", re.DOTALL)
"""The lengths of the record's head and of its text, and the type of its integer."""

INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""By the types of integers."""

LOG, MEMORY = "-wal", "-shm"

FileId = tuple[int, int]
"""Device and inode."""


class OpenFiles:
    """The database, the log and the log's memory of one open store. Methods that change something need the store's
    write lock; any thread may call `stand`."""

    def __init__(self, path: str) -> None:
        """Opens the database once more for locks of its own, when it exists."""
        self._path = path
        self._folder = os.path.dirname(path)  # noqa: PTH120
        self._settled: tuple[int, int, int] | None = None  # The folder at the time of the last comparison.
        self._ids: tuple[FileId | None, ...] = (None, None, None)
        self._guard = _Guard(None)
        self._mergers: set[int] = set()  # Threads of this process that merge the log.
        self._written: tuple[int, int] | None = None  # The last known time and size of the database.
        self._knows: Callable[[], bool] | None = None
        self._sequence_page = 0
        self._merged_seq: int | None = None
        self.epoch = 0  # Of the store.
        self.log_number = 0
        self._descriptor, self.is_writable = _opened(path)
        self.database = file_at(path) if self._descriptor < 0 else _id_of(os.fstat(self._descriptor))

    @property
    def uses_log(self) -> bool:
        """Whether the header of the database says that it has a write-ahead log; True where there are no guards to set
        before it."""
        return _SET is None or (self._descriptor >= 0 and os.pread(self._descriptor, 2, 18) == b"\2\2")

    def guard_database(self) -> bool:
        """Before the first connection is opened: keeps every SQLite from removing the log. False while one does so."""
        self._ids = _found(self._path)
        self.log_number = _number_of(self._ids)
        return self._lock(fcntl.F_RDLCK, *SHARED)

    @property
    def are_as_found(self) -> bool:
        """Whether the files at the path are those from before the first connection was opened."""
        return _found(self._path) == self._ids

    def guard_memory(self) -> bool:
        """Keeps every SQLite from making the log's memory anew, once the store is open.

        Returns False when one of the files was created, removed or replaced meanwhile, so that SQLite's own files are
        unknown.
        """
        self._guard = _Guard(self._path + MEMORY)
        if not self.are_as_found or self._ids[0] != self.database or self._guard.file != self._ids[2]:
            return False
        if self.is_writable and None in self._ids:
            return False
        self._lock(fcntl.F_RDLCK, LOGS + self.log_number, 1)
        return True

    def others_use_another_log(self) -> bool:
        """Whether a process has the database open with another log, one that is not at its path any more."""
        return _is_locked(self._descriptor, LOGS, self.log_number) or _is_locked(
            self._descriptor, LOGS + self.log_number + 1, LOG_COUNT - self.log_number - 1
        )

    def stand(self) -> bool:
        """Whether the files at the store's path are those that are open."""
        try:
            return self._stand()
        except OSError:  # The folder is gone, or another thread has just closed these files.
            return False

    def _stand(self) -> bool:
        if self._guard.is_cut():
            return False
        state = os.stat(self._folder)  # noqa: PTH116
        folder = (state.st_dev, state.st_ino, state.st_ctime_ns)
        if folder == self._settled:
            return not self.is_overwritten()
        # A file that did not exist, of a read-only store, may appear: it is another process's.
        if any(ours not in (None, theirs) for ours, theirs in zip(self._ids, _found(self._path), strict=True)):
            self._settled = None
            return False
        if time.time_ns() - state.st_ctime_ns > SETTLED_NANOSECONDS:
            self._settled = folder
        return not self.is_overwritten()

    def know(self, knows: Callable[[], bool], sequence_page: int) -> None:
        """From now on checks, after every write, whether the database is the same store. Where the last number of a
        change has a known place, checks that it has grown."""
        self._knows, self._sequence_page = knows, sequence_page
        if self._descriptor >= 0:
            state = os.fstat(self._descriptor)
            self._written = (state.st_mtime_ns, state.st_size)
            self._merged_seq = self._last_seq()

    def is_overwritten(self) -> bool:
        """Whether another database, or an earlier state of this one, was copied over it.

        A merge, whole or torn by the end of its process, is never taken for a copy: it writes whole pages, and the page
        with the number of the last change stays in its place.
        """
        if self._knows is None or self._descriptor < 0:
            return False
        state = os.fstat(self._descriptor)
        written = (state.st_mtime_ns, state.st_size)
        if written == self._written or self._mergers or _is_locked(self._descriptor, *MERGER):
            return False
        seq = self._last_seq()
        if (seq is not None and self._merged_seq is not None and seq < self._merged_seq) or not self._knows():
            return True
        self._written, self._merged_seq = written, seq or self._merged_seq
        return False

    def _last_seq(self) -> int | None:
        """Returns the number of the last change in the database without its log.

        It is in the row of `sqlite_sequence` for the table `history`, a record of a text and an integer,
        https://www.sqlite.org/fileformat2.html#record_format. None when it is not there, as after a rewrite of the
        file.
        """
        page = (
            os.pread(self._descriptor, PAGE_BYTES, (self._sequence_page - 1) * PAGE_BYTES)
            if self._sequence_page
            else b""
        )
        found = [
            int.from_bytes(page[match.end() : match.end() + size], "big")
            for match in SEQUENCE_ROW.finditer(page)
            if page[:1] == TABLE_LEAF and (size := INTEGER_BYTES.get(match[1][0]))
        ]
        return max(found, default=None)

    def is_same_database(self) -> bool:
        """Whether the file at the path is, byte by byte, a copy of the open database."""
        with suppress(OSError), open(self._path, "rb") as other:  # noqa: PTH123
            size = os.fstat(self._descriptor).st_size
            if size != os.fstat(other.fileno()).st_size:
                return False
            return all(
                os.pread(self._descriptor, COMPARED_BYTES, place) == other.read(COMPARED_BYTES)
                for place in range(0, size, COMPARED_BYTES)
            )
        return False

    def clear_names(self, *, keep_log: bool) -> None:
        """Removes the log (unless it is kept) and its memory from the path, if they are the open ones.

        They belong to a replaced database, and SQLite would read them as the new one's. A process that has the new
        database open may have removed them already, and uses its own.
        """
        descriptor, _ = _opened(self._path)
        try:
            if _is_locked(descriptor, LOGS, LOG_COUNT):
                return
            for end, ours in zip((LOG, MEMORY), self._ids[1:], strict=True):
                if ours is not None and file_at(self._path + end) == ours and not (keep_log and end == LOG):
                    os.unlink(self._path + end)  # noqa: PTH108
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def put_log_aside(self) -> None:
        """Moves the log, if it is still the open one, away from a database that another file was copied over.

        It holds the last acknowledged writes. So it is kept beside the database, in case the old one is put back.
        """
        if self._ids[1] is not None and file_at(self._path + LOG) == self._ids[1]:
            os.rename(self._path + LOG, f"{self._path}.aside-{time.time_ns()}{LOG}")  # noqa: PTH104
        if self._ids[2] is not None and file_at(self._path + MEMORY) == self._ids[2]:
            os.unlink(self._path + MEMORY)  # noqa: PTH108

    # -- the writers ------------------------------------------------------------------------------------------------

    def lock_writer(self) -> bool:
        """False while another process writes, or another store of this one."""
        return not self.is_writable or self._lock(fcntl.F_WRLCK, *WRITER)

    def unlock_writer(self) -> None:
        self._lock(fcntl.F_UNLCK, *WRITER)

    def mend_memory(self) -> None:
        """Restores the length of the log's memory if another program has truncated it. The caller has the writers'
        lock: a writer amid a transaction would continue without its contents."""
        self._guard.lengthen()

    def lock_merger(self) -> bool:
        """False while another process merges the log, or another store of this one."""
        self._mergers.add(threading.get_ident())
        if not self.is_writable or self._lock(fcntl.F_WRLCK, *MERGER):
            return True
        self._mergers.discard(threading.get_ident())
        return False

    def unlock_merger(self) -> None:
        self._mergers.discard(threading.get_ident())
        self._lock(fcntl.F_UNLCK, *MERGER)

    # -- the end --------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Before the last connection closes, which then may remove the log: no guard stands in its way."""
        self._lock(fcntl.F_UNLCK, *SHARED)
        self._lock(fcntl.F_UNLCK, LOGS, LOG_COUNT)
        self._guard.let_go()

    def close(self) -> None:
        """After the last connection has closed."""
        self._guard.close()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def abandon(self) -> None:
        """In the child of a fork: the descriptor goes, the parent's locks stay."""
        self._guard = _Guard(None)
        self.close()

    # -- locks ----------------------------------------------------------------------------------------------------

    def _lock(self, kind: int, first: int, count: int) -> bool:
        return _lock(self._descriptor, kind, first, count)


def refuse_links(path: str) -> None:
    """Before a store is opened.

    Raises:
        StoreOpenError: the file has several names. Each has a log of its own, so that processes which use different
            ones would write past each other.
    """
    with suppress(OSError):
        state = os.stat(path)  # noqa: PTH116
        if state.st_nlink > 1 and stat.S_ISREG(state.st_mode):
            others = sorted(
                each.name
                for each in os.scandir(os.path.dirname(path))  # noqa: PTH120
                if each.path != path and each.inode() == state.st_ino
            )
            named = f" ({', '.join(map(repr, others))} beside it)" if others else ""
            raise StoreOpenError(
                f"{path!r} is one of {state.st_nlink} names of the same file, hard links{named}, and each would have a "
                "log of its own; remove the other names, or open a copy."
            )


def clear_log(path: str) -> None:
    """Removes the log and its memory from a path, unless a process of agentmem uses them. The database has all contents
    of any log by now."""
    descriptor, _ = _opened(path)
    try:
        if not _is_locked(descriptor, LOGS + log_number(path), 1):
            for end in (LOG, MEMORY):
                with suppress(FileNotFoundError):
                    os.unlink(path + end)  # noqa: PTH108
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _opened(path: str) -> tuple[int, bool]:
    """A descriptor for locks, and whether it can be written through; -1 where there are none."""
    for mode in (os.O_RDWR, os.O_RDONLY) if _SET is not None else ():
        try:
            descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NONBLOCK)  # A pipe would keep it waiting.
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise StoreOpenError(
                    f"{path!r}: the file cannot be opened; check the open files limit ({error.strerror})."
                ) from error
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, mode == os.O_RDWR
        os.close(descriptor)
    return -1, False


def _found(path: str) -> tuple[FileId | None, ...]:
    return file_at(path), file_at(path + LOG), file_at(path + MEMORY)


def log_number(path: str) -> int:
    """A number of the database, the log and its memory that stand at a path together."""
    return _number_of(_found(path))


def _number_of(files: tuple[FileId | None, ...]) -> int:
    digest = hashlib.blake2b(repr(files).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % LOG_COUNT


def _is_locked(descriptor: int, first: int, count: int) -> bool:
    """Whether another descriptor has a lock on one of the bytes."""
    if _GET is None or descriptor < 0 or not count:
        return False
    try:
        answer = fcntl.fcntl(descriptor, _GET, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0))
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _lock(descriptor: int, kind: int, first: int, count: int) -> bool:
    """False when another holds it; True also where there are no such locks."""
    if _SET is None or descriptor < 0:
        return True
    try:
        fcntl.fcntl(descriptor, _SET, _FLOCK.pack(kind, os.SEEK_SET, first, count, 0))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # A file system without locks.
        return True
    return True


def changed_lately(path: str) -> bool:
    """Whether the file at a path, or a name beside it, changed so recently that a reader may have met old and new
    parts."""
    try:
        changed = max(os.stat(each).st_ctime_ns for each in (os.path.dirname(path), path))  # noqa: PTH116, PTH120
    except OSError:
        return True
    return time.time_ns() - changed <= SETTLED_NANOSECONDS


def _id_of(state: os.stat_result) -> FileId:
    return state.st_dev, state.st_ino


def is_no_file(path: str) -> bool:
    """Whether something other than a file stands there: a folder, or a pipe, whose opening would wait for ever."""
    mode = _mode_at(path)
    return bool(mode) and not stat.S_ISREG(mode)


def file_at(path: str) -> FileId | None:
    """Returns what stands at a path; None for nothing."""
    try:
        return _id_of(os.stat(path))  # noqa: PTH116
    except OSError:
        return None


class _Guard:
    """A lock on the file of a log's memory, by which every SQLite knows that it is in use.

    Closing a descriptor of that file drops SQLite's own locks on it. So all stores of the process share one descriptor
    until the last one ends.
    """

    def __init__(self, path: str | None) -> None:
        self.file: FileId | None = None
        self._holds = False
        self._descriptor = -1
        self._size = 0
        with _guarding, suppress(OSError):
            file = None if path is None else file_at(path)
            if path is None or file is None:
                return
            if file not in _guards:
                descriptor, _ = _opened(path)
                if descriptor < 0:
                    return
                file = _id_of(os.fstat(descriptor))
                _guards[file] = (descriptor, 0, 0)
            descriptor, users, holders = _guards[file]
            _lock(descriptor, fcntl.F_RDLCK, *IN_MEMORY)
            _guards[file] = (descriptor, users + 1, holders + 1)
            self.file, self._holds, self._descriptor = file, True, descriptor

    def is_cut(self) -> bool:
        """Whether another program has shortened the file, as a copy over it begins: touching mapped bytes beyond its
        end would kill the process."""
        if self._descriptor < 0:
            return False
        before = self._size  # First: another thread may see it grow meanwhile.
        size = os.fstat(self._descriptor).st_size
        self._size = max(size, before)
        return size < before

    def lengthen(self) -> None:
        """Restores the length of the file. SQLite rebuilds the contents from the log, because they are invalid."""
        if self.is_cut():
            os.ftruncate(self._descriptor, self._size)

    def let_go(self) -> None:
        """Unlocks it, unless other stores hold it."""
        if self.file is None or not self._holds:
            return
        with _guarding:
            self._holds = False
            descriptor, users, holders = _guards[self.file]
            if holders == 1:
                _lock(descriptor, fcntl.F_UNLCK, *IN_MEMORY)
            _guards[self.file] = (descriptor, users, holders - 1)

    def close(self) -> None:
        """When the store has no connection any more."""
        self.let_go()
        self._descriptor = -1
        file, self.file = self.file, None
        if file is None:
            return
        with _guarding:
            descriptor, users, holders = _guards.pop(file)
            if users > 1:
                _guards[file] = (descriptor, users - 1, holders)
            else:
                os.close(descriptor)


_guards: dict[FileId, tuple[int, int, int]] = {}
"""A descriptor of each file, how many stores use it, and how many of these hold the lock."""

_guarding = threading.Lock()  # Guards: _guards.


def _abandon_guards() -> None:
    global _guarding
    _guarding = threading.Lock()
    while _guards:
        os.close(_guards.popitem()[1][0])


os.register_at_fork(after_in_child=_abandon_guards)
