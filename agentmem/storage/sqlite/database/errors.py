"""Translates SQLite's errors: the obstacle, the state of the store, and the next step."""

import errno
from collections.abc import Callable

import apsw

from agentmem.errors import (
    REPAIR_HINT,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
)
from agentmem.storage.sqlite.database.reserve import (
    NO_LIMIT,
    file_limit,
    what_fills,
)

ConstraintError = apsw.ConstraintError
DatabaseError = apsw.Error


def is_of_checksum(error: apsw.Error) -> bool:
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA


def explained(path: str, error: apsw.Error) -> StoreError:
    """Returns the error for an error of SQLite, in one sentence: the obstacle, the state of the store, and the next
    step.

    The state is named where the error tells it, see `Database._noting`; the sentences hold wherever SQLite raises such
    an error.
    """
    if is_of_checksum(error):
        return StoreDamagedError(f"{path!r}: the file is damaged (the checksum of a page is wrong); {REPAIR_HINT}.")
    state = f"; {error.state}" if hasattr(error, "state") else ""
    if (lack := lack_of(error)) is not None:
        helps = "free some space and try again"
        if state:  # It is of the store itself.
            helps = f"{what_fills(path)}; call purge() or vacuum(deleted_before=...), or free some space, and try again"
        return StoreFullError(f"{path!r}: {lack}{state}; {helps} ({error}).")
    for kind, ours, sentence, helps in _EXPLANATIONS:
        if isinstance(error, kind):
            return ours(f"{path!r}: {sentence}{state}; {helps} ({error}).")
    return StoreError(f"{path!r}: the database refused{state} ({type(error).__name__}: {error}).")


def lack_of(error: apsw.Error) -> str | None:
    """Returns what kept SQLite from writing more, or None for another error."""
    if not isinstance(error, apsw.FullError | apsw.IOError):
        return None
    number = getattr(error, "errno", 0)
    if number == errno.EFBIG:
        limit = file_limit()
        by = "its file system" if limit == NO_LIMIT else f"the limit of this process, {limit:,} bytes (`ulimit -f`)"
        return f"no file may be larger than {by} allows"
    if number == errno.EDQUOT:
        return "the disk quota is used up"
    of_memory = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE  # A file too, `...-shm`.
    return "the disk is full" if number == errno.ENOSPC or of_memory or isinstance(error, apsw.FullError) else None


def ended_early(error: BaseException) -> bool:
    """Whether a COMMIT failed for want of room in the log, before its end was written. Room in the shared memory is
    requested afterwards."""
    cause = error.__cause__
    of_memory = getattr(cause, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE
    return isinstance(error, StoreFullError) and cause is not None and not of_memory


_EXPLANATIONS: list[tuple[type[Exception], Callable[[str], StoreError], str, str]] = [
    (apsw.BusyError, StoreBusyError, "another process kept a lock too long", "try again"),
    (apsw.LockedError, StoreBusyError, "another connection kept a lock too long", "try again"),
    (apsw.ReadOnlyError, StoreReadOnlyError, "the file or its folder cannot be written", "check their permissions"),
    (apsw.CorruptError, StoreDamagedError, "the file is damaged", REPAIR_HINT),
    (apsw.NotADBError, StoreDamagedError, "the file is damaged", REPAIR_HINT),
    (
        apsw.CantOpenError, StoreOpenError, "the file, or one beside it, cannot be opened",
        "check its permissions and the open files limit",
    ),
    (apsw.IOError, StoreError, "reading or writing failed", "check the disk"),
]  # fmt: skip
