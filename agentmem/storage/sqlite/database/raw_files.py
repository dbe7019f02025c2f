"""Other databases than the open store: copies in the making, and bytes of a file."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import apsw

from agentmem.errors import (
    REPAIR_HINT,
    StoreDamagedError,
)
from agentmem.storage.sqlite.database.errors import explained
from agentmem.storage.sqlite.database.open_files import OpenFiles
from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.database.vfs import checked_vfs

LOCK_LOOK_SECONDS = 0.002
"""How often a writer looks whether another process has let go of the write lock: nothing tells of it. SQLite looks
every 100 ms in the end, while a busy process is without it for less than one: with 4 processes of 8 threads that add,
the longest wait was 0.9 to 2.4 s (p99 104 to 181 ms); so it is about 0.1 s (p99 44 to 57 ms). The rate of adds stayed
within what the machine drifts by (medians of three alternated rounds: 4 % less)."""


@contextmanager
def other_file(path: str) -> Iterator[Connection]:
    """A database beside the store, such as a copy in the making, for the length of the block."""
    try:
        connection = Connection(path, vfs=checked_vfs())
        try:
            yield connection
        finally:
            connection.close(True)
    except apsw.Error as error:
        raise explained(path, error) from error


@contextmanager
def copying(target: Connection, source: Connection) -> Iterator[apsw.Backup]:
    """SQLite's copy of a whole database, begun; finished at the end of the block. apsw's own block makes a SystemError
    of it when a copy that has failed cannot be finished either (of a file system in Python, such as the tests have)."""
    backup = target.backup("main", source, "main")
    try:
        yield backup
    except BaseException:
        with suppress(Exception):
            backup.finish()
        raise
    backup.finish()


@contextmanager
def raw_file(path: str) -> Iterator[apsw.VFSFile]:
    """The bytes of a store's file. Through SQLite, because the system drops all locks that a process has on a file as
    soon as it closes any descriptor of it."""
    try:
        file = apsw.VFSFile("", path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            yield file
        finally:
            file.xClose()
    except apsw.Error as error:
        raise explained(path, error) from error


@contextmanager
def write_locked_copy(source: str, path: str) -> Iterator[Callable[[], bool]]:
    """Keeps all writers away from the database at `path` for the length of the block, which calls what it is handed to
    have the whole of it replaced by the database at `source`, in one transaction."""
    with other_file(source) as new, other_file(path) as old, writing_alone(path, 10.0):
        old.set_busy_timeout(10_000)
        old.pragma("writable_schema", 1)  # Or a file that is shorter than it says could not be written.
        old.pragma("checksum_verification", "OFF")  # Each page is read before it is replaced.
        if _form_of(old) != _form_of(new):  # Pages would be written without checksums, or in another size.
            raise StoreDamagedError(f"{path!r}: the header of the file is damaged; {REPAIR_HINT}.")
        old.pragma("synchronous", 2)
        with copying(old, new) as backup:
            backup.step(0)  # Takes the lock.
            yield lambda: backup.step(-1)


@contextmanager
def writing_alone(path: str, seconds: float) -> Iterator[None]:
    """Keeps the writers of all processes from the store at a path for the length of the block."""
    files = OpenFiles(path)
    try:
        wait_for(path, files.lock_writer, seconds)
        yield
    finally:
        files.close()


def wait_for(path: str, lock: Callable[[], bool], seconds: float) -> None:
    """Until a store has a lock that another process has.

    Raises:
        StoreBusyError: the other kept it for longer.
    """
    deadline = time.monotonic() + seconds
    while not lock():
        if time.monotonic() >= deadline:
            raise explained(path, apsw.BusyError("database is locked"))
        threading.Event().wait(LOCK_LOOK_SECONDS)


def _form_of(connection: Connection) -> tuple[int, int]:
    return connection.pragma("page_size"), connection.reserve_bytes("main")
