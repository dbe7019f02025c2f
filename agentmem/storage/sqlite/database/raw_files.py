"""Databases other than the open store: copies in the making, and bytes of a file."""

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
"""How often a writer checks whether another process has released the write lock, which sends no signal.

SQLite checks every 100 ms in the end, while a busy process releases it for less than one. With 4 processes of 8 adding
threads, the longest wait was 0.9 to 2.4 s (p99 104 to 181 ms). With this it is about 0.1 s (p99 44 to 57 ms), at the
same rate of adds within the machine's drift (medians of three alternated rounds: 4 % less).
"""


@contextmanager
def other_file(path: str) -> Iterator[Connection]:
    """Opens a database beside the store, such as a copy in the making, for the length of the block."""
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
    """Begins SQLite's copy of a whole database, and finishes it at the end of the block.

    apsw's own block raises a SystemError when a failed copy cannot be finished either, as on a file system in Python in
    the tests.
    """
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
    """Returns the bytes of a store's file, through SQLite. Closing any descriptor of a file drops all locks that the
    process has on it."""
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
    """Keeps all writers away from the database at `path` for the length of the block.

    The block gets a function that replaces the whole database by the one at `source`, in one transaction.
    """
    with other_file(source) as new, other_file(path) as old, writing_alone(path, 10.0):
        old.set_busy_timeout(10_000)
        old.pragma("writable_schema", 1)  # Otherwise a file that is shorter than it says could not be written.
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
    """Waits until a store gets a lock that another process has.

    Raises:
        StoreBusyError: The other process kept it for longer.
    """
    deadline = time.monotonic() + seconds
    while not lock():
        if time.monotonic() >= deadline:
            raise explained(path, apsw.BusyError("database is locked"))
        threading.Event().wait(LOCK_LOOK_SECONDS)


def _form_of(connection: Connection) -> tuple[int, int]:
    return connection.pragma("page_size"), connection.reserve_bytes("main")
