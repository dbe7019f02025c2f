"""Statements, parameters as tables, deadlines: how SQL is spoken to a connection."""

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
    """A connection to a store, and the files that it has open."""

    files: OpenFiles | None = None

    @property
    def epoch(self) -> int:
        """Grows when another file of the store, or another state, has taken the place of the one that was open."""
        return 0 if self.files is None else self.files.epoch


OP_SECONDS = 5e-4
"""What an instruction of SQLite takes at most, on average, with metadata of 100 KB: 430 microseconds where a filter has
texts casefolded of which each character becomes several, 190 for others, 0.02 to 0.05 with small metadata (2 cores)."""

LATE_SECONDS = 1.0
"""How much later than its deadline a read may end in the worst case. Looking at the clock needs the GIL, which other
threads may keep for milliseconds; so a read looks when its instructions may have used up the time that is left."""

KEPT_BYTES = 4096
"""Of a statement, and of the values bound to it, that a connection may keep for the next time: apsw keeps a hundred
statements a connection, each with the values that it was run with last."""


@block
def bounded(
    connection: Connection, deadline: Deadline | None, late: float = LATE_SECONDS
) -> Generator[None, None, None]:
    """Interrupts the statements in the block when the deadline has passed, at most `late` seconds after it.

    Raises:
        DeadlineError: one was. A transaction that the block is in goes on, if the statement only read.
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
    """Has a connection's statements end with an InterruptError once the deadline has passed, until the connection gets
    another progress handler. Not a closure, which would be garbage only the collector frees."""

    __slots__ = ("connection", "deadline", "late")

    def __init__(self, connection: Connection, deadline: Deadline, late: float = LATE_SECONDS) -> None:
        self.connection = connection
        self.deadline = deadline
        self.late = late
        # At least the slack: what takes no time is done even with a timeout of 0.
        self.look_again(max(0.0, deadline.at - time.monotonic()))

    def look_again(self, left: float) -> None:
        """When the instructions until then may have taken the seconds that are left."""
        self.connection.set_progress_handler(self, max(1, int((left + self.late) / OP_SECONDS)))

    def __call__(self) -> bool:
        left = self.deadline.at - time.monotonic()
        if left >= 0:
            self.look_again(left)
        return left < 0


def close(connection: Connection, *, merge: bool = True) -> None:
    """Lets go of a connection, well or not: what it may still fail at is the checkpoint, and then the log stays, where
    whoever opens the file next finds everything. Without `merge` it stays in any case: SQLite removes it by its name,
    and that may be another file's by now."""
    with suppress(apsw.Error):
        if not merge:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close(True)


def is_kept(query: str, parameters: Sequence[Any] = ()) -> bool:
    """Whether a connection may keep a statement with its values for the next time, see KEPT_BYTES."""
    size = len(query)
    for value in parameters:
        if isinstance(value, str | bytes):
            size += len(value)
    return size <= KEPT_BYTES


def all_rows(connection: Connection, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    return connection.execute(query, parameters).fetchall()


def only_row(
    connection: Connection, query: str, parameters: tuple[Any, ...] = (), *, kept: bool = True
) -> tuple[Any, ...]:
    """The row of a query that always has one; `kept` is as in `is_kept`."""
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
