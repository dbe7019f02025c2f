"""Reads the points of a local Qdrant folder as data.

The folder has `meta.json`, which names the collections. Each collection has a file `collection/<name>/storage.sqlite`
with one pickled point a row. A pickle can name any function and have it called, so no name is looked up here. A class
that only keeps its arguments replaces the classes of qdrant-client; any other name refuses the point. The file is read
with the standard library's SQLite, as qdrant-client does, so that both may have it open.
"""

import io
import json
import math
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agentmem.errors import AgentMemError, InvalidInputError, StoreOpenError
from agentmem.quoting import shape, shorten

LARGEST_ROW = 8 * 1024 * 1024
"""Most bytes of a point. A vector of 4,096 dimensions with a long text has less than 1 % of it. The objects that a
pickle makes may take sixty times its size."""

BUSY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Point:
    """A memory's data in Qdrant beside its vector."""

    id: str
    payload: dict[str, Any]


def collections(folder: Path) -> list[str]:
    """Returns the names of the collections in a folder.

    Raises:
        StoreOpenError: It is not a local Qdrant folder.
    """
    path = folder / "meta.json"
    try:
        named = json.loads(path.read_text("utf-8"))["collections"]
        return sorted(str(name) for name in named)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # The error's text would quote the file.
        reason = f"its meta.json names no collections, {type(error).__name__}"
    raise StoreOpenError(f"{str(folder)!r} is no folder of a local Qdrant ({reason}); pass the one that has meta.json.")


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens another product's SQLite file for reading only.

    Raises:
        StoreOpenError: It cannot be read; also within the block.
    """
    try:
        # Opened by hand first, because SQLite's own message names neither the file nor the reason.
        with path.open("rb"):
            pass
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_ROW)
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
        finally:
            connection.close()
    except AgentMemError:  # Some of these are OSErrors too.
        raise
    except (OSError, sqlite3.Error) as error:
        raise StoreOpenError(f"{str(path)!r} cannot be read ({shorten(str(error))}); is it the right file?") from error


class Points:
    """The points of one collection. Belongs to one thread, for the length of the `with` block."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, age: Callable[[Point], float]) -> list[int]:
        """Returns the rows of all points, oldest first, after the unreadable ones.

        Reads everything and keeps some 100 bytes a point. Old versions wrote several rows for one point; only the
        latest counts.
        """
        latest: dict[str, tuple[float, int]] = {}
        for row, data in self._connection.execute("SELECT rowid, point FROM points ORDER BY rowid"):
            try:
                point = point_of(data)
            except AgentMemError:
                latest[f"row {row}"] = (-math.inf, row)
            else:
                latest[point.id] = (age(point), row)
        return [row for _, row in sorted(latest.values())]

    def read(self, row: int) -> Point:
        """Returns the point of a row. Raises InvalidInputError when the row holds none."""
        found = self._connection.execute("SELECT point FROM points WHERE rowid = ?", (row,)).fetchone()
        if found is None:
            raise InvalidInputError(f"The row {row} is gone; let no other program write to the folder meanwhile.")
        return point_of(found[0])


@contextmanager
def points(folder: Path, collection: str) -> Iterator[Points]:
    """Opens the points of a collection.

    Raises:
        InvalidInputError: There is no such collection.
        StoreOpenError: The folder or the collection cannot be read.
    """
    if collection not in (names := collections(folder)):
        raise InvalidInputError(f"There is no collection {collection!r}; the folder has {', '.join(names) or 'none'}.")
    root = (folder / "collection").resolve()
    path = (root / collection / "storage.sqlite").resolve()
    if root not in path.parents:
        raise InvalidInputError(f"The collection {collection!r} lies outside the folder; it is not read.")
    with opened(path) as connection:
        yield Points(connection)


class _Kept:
    """Stands for an object of qdrant-client: keeps the state that it is given, and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "_Kept":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "qdrant_client":
            return _Kept
        raise pickle.UnpicklingError("it names what no point has")


def point_of(data: Any) -> Point:
    """Returns a point from its pickle.

    Raises:
        InvalidInputError: It is no point.
    """
    try:
        value = _Reader(io.BytesIO(data)).load()
        state = value.state
        state = state[0] if isinstance(state, tuple) else state
        fields = state.get("__dict__", state)
        name, payload = fields["id"], fields["payload"]
        if not isinstance(name, bool) and isinstance(name, str | int) and isinstance(payload, dict):
            return Point(str(name), payload)
        reason = f"id {shape(name)}, payload {shape(payload)}"
    except Exception as error:  # A damaged pickle raises nearly any error, which quotes the file.
        reason = f"its pickle cannot be read, {type(error).__name__}"
    raise InvalidInputError(f"This is no point of Qdrant ({reason}).")
