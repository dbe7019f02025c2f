"""Finds memories by their ids, which are unique within a home: the user, else the run, else the agent.

Each home is asked for in an index of its kind, so that other homes' memories with the same id are neither read nor
waited for.
"""

from collections.abc import Iterable, Sequence

from agentmem.errors import InvalidInputError
from agentmem.ids import Home
from agentmem.records import Scope
from agentmem.storage.sqlite.database.sql import Connection, all_rows, text_array

LIVES_IN = {
    "user_id": "user_id = ?",
    "run_id": "user_id IS NULL AND run_id = ?",
    "agent_id": "user_id IS NULL AND run_id IS NULL AND agent_id = ?",
}
"""The condition for memories that live in a home of this kind, spelled like the indexes."""

_KINDS = ("user_id IS NOT NULL", "user_id IS NULL AND run_id IS NOT NULL", "user_id IS NULL AND run_id IS NULL")

_BESIDE = {"user_id": ", whatever the agent and run", "run_id": ", whatever the agent", "agent_id": ""}

NAMED = 3
"""Most homes that an error names."""


def home_named(scope: Scope) -> str:
    """Returns how a message names the home of a scope, in which an id is unique."""
    assert scope.home is not None  # Every memory has an owner.
    field, name = scope.home
    return f"{field}={name!r}{_BESIDE[field] if Scope(**{field: name}) != scope else ''}"


def key_of(connection: Connection, id: str, scope: Scope) -> int | None:
    """Returns the key of the memory of a scope that has an id, visible or not; None without one.

    The scope's own home comes first. An agent or a run may have a memory in the home of a user, too.

    Raises:
        InvalidInputError: Several such homes have one.
    """
    owners = "".join(f" AND {name} = ?" for name, _ in scope.owners())
    values = tuple(value for _, value in scope.owners())
    if scope.home is not None:
        field, name = scope.home
        row = connection.execute(
            f"SELECT key FROM memory WHERE id = ? AND {LIVES_IN[field]}{owners}", (id, name, *values)
        ).fetchone()
        if row is not None or field == "user_id":
            return None if row is None else int(row[0])
    parts = [f"SELECT key, user_id, agent_id, run_id FROM memory WHERE id = ? AND {kind}{owners}" for kind in _KINDS]
    rows = all_rows(connection, f"{' UNION ALL '.join(parts)} LIMIT {NAMED + 1}", (id, *values) * len(parts))
    if len(rows) > 1:
        homes = [f"{home[0]}={home[1]!r}" for row in rows if (home := Scope(*row[1:]).home) is not None]
        raise InvalidInputError(
            f"id {id!r} is that of several memories, each of another owner ({', '.join(homes[:NAMED])}"
            f"{', ...' if len(rows) > NAMED else ''}); pass the owner too."
        )
    return int(rows[0][0]) if rows else None


def keys_in(connection: Connection, named: Iterable[tuple[Home, str]]) -> dict[tuple[Home, str], int]:
    """Returns the keys of the memories that have these ids in these homes, visible or not."""
    by_home: dict[Home, list[str]] = {}
    for home, name in named:
        by_home.setdefault(home, []).append(name)
    return {(home, name): key for home, ids in by_home.items() for name, key in _in_home(connection, home, ids)}


def _in_home(connection: Connection, home: Home, ids: Sequence[str]) -> list[tuple[str, int]]:
    assert home is not None  # Every memory has an owner.
    field, name = home
    return all_rows(
        connection,
        f"SELECT id, key FROM carray(?) AS wanted CROSS JOIN memory ON id = wanted.value AND {LIVES_IN[field]}",
        (text_array(tuple(ids)), name),
    )
