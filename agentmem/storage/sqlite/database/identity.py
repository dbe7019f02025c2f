"""Which store a file belongs to, and which log belongs to it."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

import apsw

from agentmem.storage.sqlite.database.open_files import LOG, is_no_file
from agentmem.storage.sqlite.database.sql import Connection

T = TypeVar("T")


def store_id_of(connection: Connection) -> str | None:
    """Returns the store's own name, whatever its path; None for a database without tables."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone() is None:
        return None
    row = connection.execute("SELECT value FROM meta WHERE name = 'store_id'").fetchone()
    return None if row is None else str(row[0])


def sequence_page(connection: Connection) -> int:
    """Returns the page where SQLite keeps the last numbers that it gave; 0 for a database without tables."""
    row = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone()
    return 0 if row is None else int(row[0])


def store_id_at(path: str) -> str | None:
    """Returns the same name of the file at a path, read without its log; None if it cannot be read so."""
    return _read_alone(path, store_id_of)


def log_in_use(path: str) -> int | None:
    """Returns the number of the log that was begun last while other processes still had the earlier one open."""

    def number(connection: Connection) -> int | None:
        row = connection.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE name = ?", (LOG,)).fetchone()
        return None if row is None else int(row[0])

    return _read_alone(path, number)


def _read_alone(path: str, read: Callable[[Connection], T]) -> T | None:
    """Reads a file as if there were no log and no other process; returns None where that fails."""
    if is_no_file(path):
        return None
    uri = f"file:{quote(path)}?immutable=1"
    try:
        connection = Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            return read(connection)
        finally:
            connection.close(True)
    except apsw.Error:
        return None
