"""Imports Mem0's memories from its local Qdrant folder and its history: ids, owners, metadata and dates stay."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from agentmem.engine.write_batch import Changes, PastVersion
from agentmem.errors import AgentMemError, DuplicateIdError, EmbeddingError, InvalidInputError, StoreOpenError
from agentmem.mem0.dates import end_of, moment
from agentmem.mem0.qdrant import Point, Points, collections, opened, points
from agentmem.memory import Memory, ScopedMemory
from agentmem.progress import with_progress
from agentmem.quoting import unquoted
from agentmem.records import Scope
from agentmem.timestamps import now

COLLECTION = "mem0"
OWNERS = ("user_id", "agent_id", "run_id")
CHUNK = 256

_OWN = frozenset({
    *OWNERS, "data", "hash", "id", "text_lemmatized", "created_at", "updated_at", "expiration_date", "role",
})  # fmt: skip
"""Keys of a payload that are not metadata."""


class Row(NamedTuple):
    """An event of the history, with the columns that are read."""

    memory_id: str
    event: str
    old_memory: str | None
    new_memory: str | None
    created_at: str | None
    updated_at: str | None


@dataclass(slots=True)
class Imported:
    """The outcome of an import.

    `stored` counts new memories. `present` counts memories that were there already, deleted ones too. `failed` has the
    error of every other memory by its id.
    """

    stored: int = 0
    present: int = 0
    failed: dict[str, AgentMemError] = field(default_factory=dict)


def import_mem0(
    memory: Memory | ScopedMemory,
    folder: str | os.PathLike[str],
    *,
    history: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    progress: bool = False,
) -> Imported:
    """Imports the memories of Mem0's local Qdrant folder (`vector_store.config.path`). The texts are embedded anew.

    Ids, owners, roles, metadata, `created_at`, `updated_at` and expiration dates stay. Memories that Mem0 deleted have
    no owner any more and are left out. A memory whose id is in the store already stays unchanged, so an interrupted
    import resumes when called again. Commits 256 memories at a time, oldest first. A memory that fails is reported in
    `failed` and holds back no other. Nothing is written to the folder; no process may write to it meanwhile.

    Args:
        memory: The store that receives the memories.
        folder: The Qdrant folder.
        history: Mem0's `history_db_path`. With it the earlier texts of each memory are imported with their dates.
        collection: The collection's name: "mem0", or the only one, by default.
        progress: Whether to show a bar.

    Returns:
        How many memories were stored, how many were there already, and the errors of the others.

    Raises:
        StoreOpenError: A file cannot be read, or is not Qdrant's or Mem0's.
        InvalidInputError: There is no such collection.
        StoreFullError: The disk is full; what was committed stays. Call it again.
        DeadlineError: The embedder was too slow, likewise; and any error of `Memory.add` that is no memory's fault.
    """
    source = Path(folder).expanduser()
    imported = Imported()
    with ExitStack() as files:
        found = files.enter_context(points(source, _collection(source, collection)))
        past = None if history is None else _Past(files.enter_context(opened(Path(history).expanduser())))
        rows = found.rows(_age)
        remaining = iter(with_progress(rows, "memories") if progress else rows)
        while chunk := list(islice(remaining, CHUNK)):
            brought = list(_new(memory, found, chunk, imported))
            told = {} if past is None else past.of([each.id for each in brought])
            _bring(memory, brought, told, imported)
    return imported


def _collection(folder: Path, collection: str | None) -> str:
    if collection is not None:
        return collection
    # Mem0 has further collections for entities and for itself.
    names = [name for name in collections(folder) if not name.endswith("_entities") and name != "mem0migrations"]
    if COLLECTION in names or not names:
        return COLLECTION
    if len(names) > 1:
        raise InvalidInputError(f"The folder has several collections ({', '.join(names)}); name one with collection=.")
    return names[0]


def _age(point: Point) -> float:
    try:
        return moment("created_at", point.payload.get("created_at")).timestamp()
    except InvalidInputError:
        return 0.0


def _new(memory: Memory | ScopedMemory, found: Points, rows: Sequence[int], imported: Imported) -> Iterator[Point]:
    """Yields the points that the store never had."""
    for row in rows:
        try:
            with unquoted():
                point = found.read(row)
        except InvalidInputError as error:
            imported.failed[f"row {row}"] = error
            continue
        if _is_known(memory, point):
            imported.present += 1
        else:
            yield point


def _is_known(memory: Memory | ScopedMemory, point: Point) -> bool:
    """Whether the memory's home ever had it. An unusable owner is reported when the memory is stored."""
    with suppress(InvalidInputError):
        home = Scope.of(**_owners(point)).home
        return home is not None and bool(memory.history(point.id, **dict([home])))
    return False


def _bring(
    memory: Memory | ScopedMemory, brought: Sequence[Point], told: dict[str, list[Row]], imported: Imported
) -> None:
    """Stores the memories in one commit; when one of them fails, each in its own."""
    good: list[Point] = []
    changes = memory._changes()
    for point in brought:
        try:
            _gather(changes, point, told.get(point.id, []))
        except InvalidInputError as error:
            imported.failed[point.id] = error
        else:
            good.append(point)
    try:
        changes.commit()
        imported.stored += len(good)
        return
    except DuplicateIdError:  # Another process imports too.
        if len(good) == 1:
            imported.present += 1
            return
    except (InvalidInputError, EmbeddingError) as error:
        if len(good) == 1:
            imported.failed[good[0].id] = error
            return
    for point in good:
        _bring(memory, [point], told, imported)


@unquoted()
def _gather(changes: Changes, point: Point, rows: Sequence[Row]) -> None:
    payload = point.payload
    role, expiration_date = payload.get("role"), payload.get("expiration_date")
    created_at = _moment(payload, "created_at") or _earliest(rows) or _moment(payload, "updated_at") or now()
    updated_at = _moment(payload, "updated_at") or created_at
    changes.bring(
        _versions(payload.get("data"), created_at, updated_at, rows), **_owners(point), id=point.id, role=role,
        metadata={key: value for key, value in payload.items() if key not in _OWN}, created_at=created_at,
        expires_at=None if not expiration_date else end_of("expiration_date", expiration_date),
    )  # fmt: skip


def _owners(point: Point) -> dict[str, Any]:
    """Returns an owner as Mem0 reads it: without the spaces around it. A number is a name too."""
    named = {name: point.payload.get(name) for name in OWNERS}
    return {name: str(value).strip() if isinstance(value, str | int) else value for name, value in named.items()}


def _moment(payload: dict[str, Any], name: str) -> datetime | None:
    return None if payload.get(name) is None else moment(name, payload[name])


def _earliest(rows: Sequence[Row]) -> datetime | None:
    dates = [_date(row.created_at) for row in rows]
    return min((date for date in dates if date is not None), default=None)


def _date(text: Any) -> datetime | None:
    """Returns a date of the history. It may be missing or damaged; the memory is then imported without it."""
    try:
        return None if text is None else moment("date", text)
    except InvalidInputError:
        return None


def _versions(content: Any, created_at: datetime, updated_at: datetime, rows: Sequence[Row]) -> list[PastVersion]:
    """Yields the texts of a memory, oldest first. The last one is the point's, whatever the history says."""
    earlier: list[PastVersion] = []
    for row in rows:
        before, after = _text(row.old_memory), _text(row.new_memory)
        if row.event == "UPDATE" and not earlier and before:
            earlier.append(PastVersion(before, created_at))
        if row.event in ("ADD", "UPDATE") and after:
            since = created_at if row.event == "ADD" else _date(row.updated_at) or created_at
            earlier.append(PastVersion(after, since))
    if earlier and earlier[-1].content == content:
        earlier.pop()
    return [*earlier, PastVersion(content, updated_at)]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


class _Past:
    """The history of Mem0. Belongs to one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        columns = {row[1] for row in connection.execute("PRAGMA table_info(history)")}
        if missing := sorted(set(Row._fields) - columns):
            raise StoreOpenError(f"This is no history of Mem0: its table has no {', '.join(missing)}.")

    def of(self, ids: Sequence[str]) -> dict[str, list[Row]]:
        """Returns the events of some memories, oldest first."""
        places = ", ".join("?" * len(ids))
        rows: dict[str, list[Row]] = {}
        for found in self._connection.execute(
            f"SELECT {', '.join(Row._fields)} FROM history WHERE memory_id IN ({places}) ORDER BY rowid", tuple(ids)
        ):
            row = Row(*found)
            rows.setdefault(row.memory_id, []).append(row)
        return rows
