"""Statements, parameters as tables, and deadlines of a connection."""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt

from agentmem.deadline import Deadline
from agentmem.errors import (
    StoreDamagedError,
)
from agentmem.platform.signals import block
from agentmem.storage.sqlite.database.open_files import OpenFiles


class Connection(apsw.Connection):
    """A connection to a store, and its open files."""

    files: OpenFiles | None = None

    @property
    def epoch(self) -> int:
        """Grows when another file of the store, or another state, has replaced the open one."""
        return 0 if self.files is None else self.files.epoch


OP_SECONDS = 5e-4
"""Most microseconds of an instruction of SQLite, on average, with metadata of 100 KB.

It is 430 where a filter casefolds texts of which each character becomes several, 190 for others, and 0.02 to 0.05 with
small metadata (2 cores).
"""

LATE_SECONDS = 1.0
"""How much later than its deadline a read may end in the worst case.

Looking at the clock needs the GIL, which other threads may keep for milliseconds. So a read looks when its instructions
may have used up the remaining time.
"""

KEPT_BYTES = 4096
"""Most bytes of a statement, and of its bound values, that a connection may keep for reuse. apsw keeps a hundred
statements a connection, each with the values of its last run."""


@block
def bounded(
    connection: Connection, deadline: Deadline | None, late: float = LATE_SECONDS
) -> Generator[None, None, None]:
    """Interrupts the statements in the block when the deadline has passed, at most `late` seconds after it.

    Raises:
        DeadlineError: A statement was interrupted. Its transaction stays open if it only read.
    """
    if deadline is None:
        yield
        return

    try:
        Watch(connection, deadline, late)
        yield
    except apsw.InterruptError as error:
        raise deadline.error() from error
    finally:
        connection.set_progress_handler(None)


class Watch:
    """Makes a connection's statements end with an InterruptError after the deadline, until it gets another progress
    handler.

    A class, because a closure would be garbage that only the collector frees.
    """

    __slots__ = ("connection", "deadline", "late")

    def __init__(self, connection: Connection, deadline: Deadline, late: float = LATE_SECONDS) -> None:
        self.connection = connection
        self.deadline = deadline
        self.late = late
        # At least the slack, so that instant statements work even with a timeout of 0.
        self.look_again(max(0.0, deadline.at - time.monotonic()))

    def look_again(self, left: float) -> None:
        """Returns the time at which the instructions until then may have taken the remaining seconds."""
        self.connection.set_progress_handler(self, max(1, int((left + self.late) / OP_SECONDS)))

    def __call__(self) -> bool:
        left = self.deadline.at - time.monotonic()
        if left >= 0:
            self.look_again(left)
        return left < 0


def close(connection: Connection, *, merge: bool = True) -> None:
    """Closes a connection, whatever its state. If its checkpoint fails, the log stays, and the next process that opens
    the file finds everything.

    Without `merge` the log stays in any case: SQLite removes it by its name, which may be another file's by now.
    """
    with suppress(apsw.Error):
        if not merge:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close(True)


def is_kept(query: str, parameters: Sequence[Any] = ()) -> bool:
    """Whether a connection may keep a statement with its values for reuse, see KEPT_BYTES."""
    size = len(query)
    for value in parameters:
        if isinstance(value, (str, bytes)):
            size += len(value)
    return size <= KEPT_BYTES


def all_rows(connection: Connection, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    return connection.execute(query, parameters).fetchall()


def only_row(
    connection: Connection, query: str, parameters: tuple[Any, ...] = (), *, kept: bool = True
) -> tuple[Any, ...]:
    """Returns the row of a query that always has one; `kept` is as in `is_kept`."""
    row: tuple[Any, ...] | None = connection.execute(query, parameters, can_cache=kept).fetchone()
    if row is not None:
        return row
    raise StoreDamagedError(f"The database answered nothing to {query!r}; run check().")


def key_array(keys: npt.NDArray[np.int64]) -> Any:
    """Integer keys (at least one) as a bound table: `... FROM carray(?)`."""
    return apsw.carray(np.ascontiguousarray(keys, dtype=np.int64))


def integer_array(numbers: Iterable[int]) -> Any:
    """Integers (at least one) as a bound table, likewise."""
    return apsw.carray(np.fromiter(numbers, np.int64))


def blob_array(blobs: tuple[bytes, ...]) -> Any:
    """Byte strings (at least one) as a bound table, likewise."""
    return apsw.carray(blobs)


def text_array(texts: tuple[str, ...]) -> Any:
    """Texts (at least one) as a bound table, likewise."""
    return apsw.carray(texts)


def casefold(*arguments: Any) -> Any:
    [text] = arguments
    return text.casefold() if isinstance(text, str) else text


def contains(*arguments: Any) -> int:
    text, part = arguments
    return int(isinstance(text, str) and part in text)
