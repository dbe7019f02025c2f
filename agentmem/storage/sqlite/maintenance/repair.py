"""Repairs a store: rebuilds derived data, and moves the readable rows of a damaged file into a whole one.

A page with a wrong checksum may hold a flipped bit wherever no other place repeats its contents. A memory of such a
page is kept when its row's digest proves its text and its owner. An event is kept as it reads. Both are kept only where
no sound row stands, and each is reported. Vectors are rebuilt; the rest is set aside.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from agentmem.errors import StoreBusyError, StoreDamagedError, StoreOpenError
from agentmem.platform.files import make_file
from agentmem.platform.signals import fails_apart
from agentmem.progress import Tell, untold
from agentmem.records import Scope
from agentmem.storage.new_files import SIDE_FILES, new_file, sync
from agentmem.storage.sqlite.database.connections import Database, is_open_elsewhere
from agentmem.storage.sqlite.database.errors import ConstraintError
from agentmem.storage.sqlite.database.homes import settle_vectors
from agentmem.storage.sqlite.database.open_files import file_at
from agentmem.storage.sqlite.database.page_reader import COLUMNS, Row, Text, rows_of, table_of
from agentmem.storage.sqlite.database.raw_files import raw_file, write_locked_copy
from agentmem.storage.sqlite.database.schema import CHECKSUMS, HOMES
from agentmem.storage.sqlite.database.sql import Connection, integer_array, only_row
from agentmem.storage.sqlite.group_commit import GroupCommit
from agentmem.storage.sqlite.ids import keys_in
from agentmem.storage.sqlite.maintenance.page_check import damaged_pages, numbered, pages_at
from agentmem.storage.sqlite.maintenance.rebuild import Aside, mend
from agentmem.storage.sqlite.row_codec import twin_of
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import Digest
from agentmem.timestamps import from_microseconds

GAP = 1000
"""Numbers skipped after such a rescue, in case the newest ones were lost."""


def repair(database: Database, writes: GroupCommit, digest_of: Digest, dimension: int, tell: Tell) -> list[str]:
    """See `Memory.repair`."""
    told: list[str] = []
    aside: Aside = []

    def apply(transaction: Transaction) -> list[str]:
        aside.clear()  # It may run twice.
        return mend(transaction, digest_of, dimension, aside, tell)

    if not _is_whole(database, tell):
        try:
            with database.writing() as connection:
                # An index is no more than its table: its damage does not justify rewriting the file.
                connection.execute("REINDEX")
        except StoreDamagedError:
            pass
        if _is_whole(database, tell):
            told.append("the indexes were damaged and are made anew.")
        else:
            told += _salvaged(database, tell)
    done: list[str] | None = None
    with suppress(StoreDamagedError):  # Within its rows, such as an invalid text.
        done = writes.commit(apply)
    if done is None:
        told += _salvaged(database, tell)
        done = writes.commit(apply)
    told += done
    if aside and not database.in_memory:
        name = _put_aside(database.path, aside)
        told.append(f"what found no place is set aside in {name!r}; purge does not reach it.")
    return told


def _is_whole(database: Database, tell: Tell) -> bool:
    try:
        with database.inspecting() as connection:
            if damaged_pages(database, connection, tell):
                return False
            tell("trees of the database", 0, 0)
            return bool(only_row(connection, "PRAGMA integrity_check(1)")[0] == "ok")
    except StoreDamagedError:
        return False


def _salvaged(database: Database, tell: Tell) -> list[str]:
    if database.in_memory:
        raise StoreDamagedError("This ':memory:' store is damaged and has no file to read; open a new one.")
    database.renew_writer()  # A statement that an error left open would see the old file for ever.
    return salvage_open(database.path, tell)


def salvage_open(path: str, tell: Tell = untold) -> list[str]:
    """Replaces the contents of a file that SQLite can open by the readable rows, in one transaction.

    Processes that have it open see it like any other. The damaged file is copied first.

    Raises:
        StoreBusyError: Others kept the write lock.
        StoreDamagedError: Not even its first page can be used.
    """
    kept = _free_name(path, "damaged")
    with pages_at(path) as pages:
        checksums = pages.checked  # Processes that have the file open continue as before.
    with new_file(path + ".salvaged", like=path, overwrite=True) as unfinished:
        made = Database(unfinished, durability="process", busy_timeout=10.0, checksums=checksums)
        try:
            with write_locked_copy(unfinished, path) as put_in_place:
                told = _fill(made, path, tell)
                _keep(path, kept)
                with made.between_transactions() as connection:
                    made.cut_log(connection)
                put_in_place()
        finally:
            made.close()
    with suppress(OSError):
        Path(path + ".salvaged").unlink()
    return [*told, _kept_sentence(kept)]


def salvage_closed(path: str, tell: Tell = untold) -> list[str]:
    """Does the same for a file that SQLite cannot open any more. No process may have it open.

    Raises:
        StoreBusyError: A process has it open.
        StoreOpenError: It is no file, or holds nothing of a store.
    """
    if not Path(path).is_file():
        raise StoreOpenError(f"{path!r} is not a file; name the store to repair.")
    if is_open_elsewhere(path):
        raise StoreBusyError(
            f"{path!r} is too damaged to be repaired while it is open; close it everywhere, then repair."
        )
    kept = _free_name(path, "damaged")
    with new_file(path, like=path, overwrite=True) as unfinished:
        made = Database(unfinished, durability="process", busy_timeout=10.0)
        try:
            told = _fill(made, path, tell)
        finally:
            made.close()
        _keep(path, kept)
        for end in SIDE_FILES:
            Path(path + end).unlink(missing_ok=True)  # Kept; SQLite would take them for the new file's.
    return [*told, _kept_sentence(kept)]


def _kept_sentence(kept: str) -> str:
    return (
        f"the damaged file is kept as {kept!r}; delete it when nothing more is wanted of it (purge does not reach it)."
    )


def _fill(made: Database, path: str, tell: Tell) -> list[str]:
    """Writes the readable rows at a path into a new database; returns a summary."""
    salvage = _Salvage()
    with pages_at(path) as pages, made.writing() as connection:
        connection.execute("DELETE FROM meta WHERE name != ?", (CHECKSUMS,))
        # The sound rows first, so that no damaged one takes their place.
        for sound in (True, False) if pages.checked else (True,):
            for row in rows_of(pages, tell):
                if row.sound == sound:
                    salvage.take(connection, row)
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('store_id', lower(hex(randomblob(16))))")
        if 0 < pages.schema < HOMES:
            settle_vectors(connection)
        moving = connection.execute("DELETE FROM meta WHERE name IN ('next_model', 'old_model', 'mover') RETURNING 1")
        if moving.fetchall() or not connection.execute("SELECT 1 FROM meta WHERE name = 'model'").fetchone():
            # Their model is unknown: vectors of two models look alike.
            connection.execute("DELETE FROM vector")
        _number(connection, salvage.newest)
        damaged = [number for number in range(1, pages.count + 1) if not pages.is_sound(number)]
    counts = salvage.counts
    if not counts["memory"]:
        raise StoreOpenError(f"{path!r} holds nothing of a store that can be read; it is left as it is.")
    told = [
        "the file was damaged; read from it: "
        + ", ".join(f"{counts[name]:,} of {label}" for name, label in _LABELS.items())
        + "."
    ]
    if damaged:
        told.append(f"{numbered(damaged)} had a wrong checksum; what stood there and nothing proves was not believed.")
    told += salvage.told()
    if salvage.aside:
        name = _put_aside(path, salvage.aside)
        told.append(f"rows that could not be used are set aside in {name!r}; purge does not reach it.")
    return told


class _Salvage:
    """What became of the rows of a damaged file."""

    def __init__(self) -> None:
        self.aside: Aside = []
        self.counts = dict.fromkeys(COLUMNS, 0)
        self.newest = {"memory": 0, "history": 0}
        self._unproven: list[str] = []
        self._events: list[int] = []
        self._vectors = 0

    def take(self, connection: Connection, row: Row) -> None:
        """Writes a row to its place, or sets it aside."""
        table = table_of(row.columns)
        if table is None:
            return
        try:
            self._store(connection, table, row)
        except ConstraintError:
            self._put_aside(table, row)
        except (AttributeError, OverflowError, TypeError, ValueError):
            if not fails_apart(partial(self._store, connection, table, row)):
                raise
            self._put_aside(table, row)

    def _store(self, connection: Connection, table: str, row: Row) -> None:
        values = [each.decode() if isinstance(each, Text) else each for each in row.columns]
        if table == "vector" and not row.sound:
            self._vectors += 1
        elif table == "sqlite_sequence" and row.sound:
            self.newest[str(values[0])] = max(self.newest[str(values[0])], int(values[1]))
        elif table == "meta" and row.sound:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", tuple(values))
        elif table in COLUMNS and _insert(connection, table, [row.key, *values[1:]], sound=row.sound):
            self.counts[table] += 1
            if not row.sound:
                self._note(table, row.key, values)
        else:
            self._put_aside(table, row)

    def _note(self, table: str, key: int, values: list[Any]) -> None:
        if table == "memory":
            self._unproven.append(
                f"memory {values[1]!r} stood on a damaged page: its text and owner are proven by their digest; its id, "
                "role, metadata and times are kept as they read."
            )
        else:
            self._events.append(key)

    def _put_aside(self, table: str, row: Row) -> None:
        self.aside.append({"table": table, "key": row.key, "columns": [repr(each) for each in row.columns]})

    def told(self) -> Iterator[str]:
        yield from self._unproven
        if self._events:
            numbers = ", ".join(map(str, sorted(self._events)))
            yield f"events of the history that stood on a damaged page are kept as they read (seq {numbers})."
        if self._vectors:
            yield f"vectors that stood on a damaged page are made anew: {self._vectors:,}."


_LABELS = {"memory": "the memories", "history": "the events", "vector": "the vectors"}


def _number(connection: Connection, newest: dict[str, int]) -> None:
    """Makes the numbering continue after every number ever given."""
    [seq] = only_row(
        connection, "SELECT max(coalesce(max(seq), 0), (SELECT coalesce(max(seq), 0) FROM memory)) FROM history"
    )
    [key] = only_row(connection, "SELECT coalesce(max(key), 0) FROM memory")
    connection.execute("DELETE FROM sqlite_sequence")
    for name, last in (("history", seq), ("memory", key)):
        connection.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, max(last, newest[name]) + GAP))


def _insert(connection: Connection, table: str, values: list[Any], *, sound: bool) -> bool:
    """Whether the row has a place: of two versions of a memory the newer one has, and a sound one before others."""
    places = ", ".join("?" * len(values))
    if table != "memory":
        connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", tuple(values))
        return bool(connection.changes())
    names = [row[1] for row in connection.execute("PRAGMA table_info(memory)")]
    row = dict(zip(names, values, strict=True))
    for name in ("created_at", "updated_at", "expires_at", "deleted_at"):
        if row[name] is not None:
            from_microseconds(row[name])
    if not sound and twin_of(Scope(row["user_id"], row["agent_id"], row["run_id"]), row["content"]) != row["twin"]:
        return False
    home = Scope(row["user_id"], row["agent_id"], row["run_id"]).home
    named = keys_in(connection, [(home, row["id"])] if home else [])
    rivals = connection.execute(
        "SELECT key, seq FROM memory WHERE key IN (SELECT value FROM carray(?))",
        (integer_array([row["key"], *named.values()]),),
    ).fetchall()
    if (rivals and not sound) or any(seq >= row["seq"] for _, seq in rivals):
        return False
    for key, _ in rivals:
        connection.execute("DELETE FROM memory WHERE key = ?", (key,))
    row["sole"] = row["sole"] and (
        None if connection.execute("SELECT 1 FROM memory WHERE twin = ? AND sole = 1", (row["twin"],)).fetchone() else 1
    )
    connection.execute(f"INSERT INTO memory VALUES ({places})", tuple(row.values()))
    return True


def _keep(path: str, kept: str) -> None:
    """Copies a store's files, unchanged, to another name."""
    for end in ("", "-wal"):
        if file_at(path + end) is None:
            continue
        with raw_file(path + end) as source, os.fdopen(make_file(kept + end, like=path), "wb") as target:
            size = source.xFileSize()
            for start in range(0, size, 1 << 20):
                target.write(source.xRead(min(1 << 20, size - start), start))
            target.flush()
            os.fsync(target.fileno())
    sync(os.path.dirname(path))  # noqa: PTH120


def _put_aside(path: str, aside: Aside) -> str:
    name = _free_name(path, "aside", ".jsonl")
    with os.fdopen(make_file(name, like=path), "w", encoding="utf-8") as file:
        for each in aside:
            file.write(json.dumps(each, ensure_ascii=True, default=repr) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return name


def _free_name(path: str, what: str, end: str = "") -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    number = 0
    while os.path.lexists(name := f"{path}.{what}-{stamp}{f'-{number}' if number else ''}{end}"):
        number += 1
    return name
