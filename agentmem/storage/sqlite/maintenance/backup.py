"""Copies the store while it is in use.

SQLite's backup copies in steps, from a connection whose read transaction fixes the moment. Writers continue, though
their log cannot begin anew meanwhile. However much they write, the copy never restarts. Measured on 73 MB with two
adding threads: 0.2 s and the same rate of adds; `VACUUM INTO` 0.35 s.
"""

from agentmem.errors import StoreDamagedError
from agentmem.storage.new_files import check_target, new_file
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.raw_files import copying, other_file
from agentmem.storage.sqlite.database.sql import Connection, only_row

PAGES_A_STEP = 1000
"""Four megabytes, after which other threads, and an interrupt, get their turn."""


def back_up(database: Database, path: str, *, overwrite: bool) -> None:
    """Copies the database to a path; see `Memory.backup`."""
    check_target(database.path, path, overwrite=overwrite)
    with new_file(path, like=database.path, overwrite=overwrite) as unfinished:
        try:
            with database.between_transactions() if database.in_memory else database.last_seen() as source:
                told = _copy(source, unfinished)
            with other_file(unfinished) as copy:
                problem = only_row(copy, "PRAGMA quick_check(1)")[0]
                if problem == "ok" and _counts(copy) != told:
                    problem = "its tables and its indexes differ"
        except StoreDamagedError as error:
            problem = str(error)
        if problem != "ok":
            raise StoreDamagedError(f"{database.path!r} is damaged and was not copied ({problem}); run check().")


def _copy(source: Connection, path: str) -> tuple[int, ...]:
    """Returns the contents of the source at the moment of the copy."""
    counts = _counts(source)
    with other_file(path) as target:
        target.pragma("synchronous", 0)  # Synced as a whole, before it gets its name.
        # From its first page on, so that none is written without a checksum; a source that has none takes them away.
        target.reserve_bytes("main", source.reserve_bytes("main"))
        target.pragma("user_version", 1)
        with copying(target, source) as backup:
            while not backup.done:
                backup.step(PAGES_A_STEP)
        target.pragma("journal_mode", "delete")  # One file; opening it as a store turns the log on again.
    return counts


def _counts(connection: Connection) -> tuple[int, ...]:
    return only_row(
        connection,
        "SELECT (SELECT count(*) FROM memory), (SELECT count(*) FROM vector), (SELECT count(*) FROM history), "
        "(SELECT coalesce(max(seq), 0) FROM history)",
    )
