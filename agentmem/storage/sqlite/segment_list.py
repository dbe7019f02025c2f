"""The list of sealed segments, and the folder of their files.

A segment holds the memories of an owner (or of all) whose last change has a number from `first` to `last`. Its contents
follow from the rows, so it can be deleted at any time. A file counts when the database lists it with its checksum. By
then it is complete and on the disk. Unlisted files are remains of a crash.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np

from agentmem.platform.failpoints import reach
from agentmem.platform.files import make_folder
from agentmem.storage.new_files import sync
from agentmem.storage.retrying import Outplanned
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.sql import Connection, all_rows, key_array, only_row
from agentmem.storage.sqlite.group_commit import GroupCommit
from agentmem.storage.sqlite.leases import is_claimed
from agentmem.storage.sqlite.snapshot import listed_segments
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import Built, Keys, ListedSegment

SUFFIX = ".segment"


class Segments:
    """A store's list of segments and their folder; any thread may call every method."""

    def __init__(self, database: Database, writes: GroupCommit) -> None:
        self._database = database
        self._writes = writes

    @property
    def possible(self) -> bool:
        """Whether the store is a file, and so has a folder beside it."""
        return not self._database.in_memory

    def new_file(self) -> Path:
        """Returns the path for the next segment; the folder exists."""
        path = self.path_of(f"{uuid4().hex}{SUFFIX}")
        make_folder(path.parent, like=self._database.path)
        return path

    @property
    def like(self) -> str:
        """The file whose mode and owner the segments' files get: the store's."""
        return self._database.path

    def path_of(self, file: str) -> Path:
        return folder_of(self._database.path) / file

    def add(self, holder: str, model: str, built: Built, since: int, epoch: int) -> ListedSegment | None:
        """Lists a segment from now on, in place of others.

        Returns None when that must not be. Reasons are a lost lease, a move of the store to another model, a missing
        one of the others, a memory of it purged after the change `since`, at which its rows were read, and another
        `epoch` of files.
        """

        def apply(transaction: Transaction) -> ListedSegment | None:
            connection = transaction.connection
            present = {each.key for each in listed_segments(connection, built.owner, model)}
            if (
                not is_claimed(connection, built.right, holder)
                or stored_identity(connection) != model
                or not present.issuperset(each.key for each in built.replaced)
                or np.isin(built.keys, _purged_since(connection, since)).any()
            ):
                return None
            reach("segments: before one is listed")
            _strike(connection, [each.key for each in built.replaced])
            owner = built.owner or (None, None)
            connection.execute(
                "INSERT INTO segment (field, name, first, last, model, places, file, bytes, checksum, has_graph) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*owner, built.first, built.last, model, len(built.keys), built.file, built.size, built.checksum,
                 built.has_graph),
            )  # fmt: skip
            listed = ListedSegment(
                connection.last_insert_rowid(), built.first, built.last, len(built.keys), built.file, built.size,
                built.checksum, built.has_graph,
            )  # fmt: skip
            _count_up(connection)
            reach("segments: after one is listed")
            return listed

        sync(str(folder_of(self._database.path)))
        try:
            return self._writes.commit(apply, epoch=epoch)
        except Outplanned:
            return None

    def have_been_purged(self, keys: Keys, since: int) -> bool:
        """Whether any of the memories was purged after the change `since`."""
        purged = self._database.read(partial(_purged_since, since=since), one_statement=True)
        return bool(len(purged)) and bool(np.isin(keys, purged).any())

    def remove(self, keys: Iterable[int]) -> None:
        """Removes segments from the list because their files cannot be used."""

        def apply(transaction: Transaction) -> None:
            _strike(transaction.connection, list(keys))
            _count_up(transaction.connection)

        self._writes.commit(apply, Kind.ERASES)

    def sweep(self) -> None:
        """Removes files that are not listed; see `sweep`."""
        sweep(self._database)

    def forget_models(self) -> None:
        """Removes the segments of models that the store has left from the list."""

        def apply(transaction: Transaction) -> None:
            connection = transaction.connection
            connection.execute("DELETE FROM segment WHERE model IS NOT ?", (stored_identity(connection),))
            if connection.changes():
                _count_up(connection)

        self._writes.commit(apply, Kind.ERASES)


def folder_of(path: str) -> Path:
    return Path(f"{path}-segments")


def sweep(database: Database) -> None:
    """Removes the files of a store's segments that are not listed: of crashes, of earlier models, of purges.

    A file that another process is just writing goes too; that process will notice.
    """
    if database.in_memory or not (folder := folder_of(database.path)).is_dir():
        return
    listed = {row[0] for row in database.read(partial(all_rows, query="SELECT file FROM segment"))}
    with suppress(OSError):
        for each in os.scandir(folder):
            if each.name.endswith(SUFFIX) and each.name not in listed:
                with suppress(OSError):
                    os.unlink(each.path)  # noqa: PTH108


def stored_identity(connection: Connection) -> str | None:
    row = connection.execute("SELECT value ->> '$.identity' FROM meta WHERE name = 'model'").fetchone()
    return None if row is None else str(row[0])


def strike_touched(connection: Connection, keys: Keys) -> None:
    """Removes every segment that has, or had, one of the memories from the list, before these are purged."""
    if connection.execute("SELECT 1 FROM segment LIMIT 1").fetchone() is None:
        return
    events = "SELECT seq FROM carray(?) AS wanted CROSS JOIN history ON memory_key = wanted.value"
    rows_seq = "SELECT seq FROM carray(?) AS wanted CROSS JOIN memory ON memory.key = wanted.value"
    wanted = key_array(keys)
    low, high = only_row(
        connection, f"SELECT min(seq), max(seq) FROM ({events} UNION ALL {rows_seq})", (wanted, wanted)
    )
    rows = all_rows(
        connection,
        f"""SELECT key FROM segment WHERE EXISTS (SELECT 1 FROM ({events} UNION ALL {rows_seq})
            WHERE seq BETWEEN first AND last)
        -- What was deferred once has had the number of an event of no memory.
        OR EXISTS (SELECT 1 FROM history WHERE memory_key = 0 AND seq BETWEEN max(first, ?) AND min(last, ?))""",
        (wanted, wanted, low, high),
    )
    if rows:
        _strike(connection, [row[0] for row in rows])
        _count_up(connection)


def _strike(connection: Connection, keys: Iterable[int]) -> None:
    connection.executemany("DELETE FROM segment WHERE key = ?", [(key,) for key in keys])


def _count_up(connection: Connection) -> None:
    """Tells every process that the list has changed."""
    connection.execute(
        "INSERT OR REPLACE INTO meta VALUES ('segments', "
        "1 + coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'segments'), 0))"
    )


def _purged_since(connection: Connection, since: int) -> Keys:
    rows = all_rows(connection, "SELECT memory_key FROM history WHERE what = 'purge' AND seq > ?", (since,))
    return np.array([row[0] for row in rows], np.int64)


def listed_counts(connection: Connection) -> dict[str, int]:
    """Returns the number of segments, and their bytes."""
    count, size = only_row(connection, "SELECT count(*), coalesce(sum(bytes), 0) FROM segment")
    return {"segments": count, "segment_bytes": size}
