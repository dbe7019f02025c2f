"""The state of a move to another model, and what all other changes must do because of it."""

from collections.abc import Iterator

from agentmem.storage.sqlite.database.sql import Connection, blob_array, integer_array, only_row
from agentmem.storage.sqlite.meta import fact, remember, stored_model
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.types import Move, MoveProgress, Standing, StoredModel


def standing(connection: Connection) -> Standing:
    """Returns the value in `meta`."""
    value = fact(connection, "next_model")
    try:
        move = None if value is None else Move.of(value)
    except SENSELESS as error:
        refuse("What the store remembers as 'next_model'", error, lambda: None if value is None else Move.of(value))
    return Standing(stored_model(connection), move, fact(connection, "old_model") is not None)


def move_progress(connection: Connection) -> MoveProgress | None:
    """See `Moves.progress`. Counts entries of two indexes."""
    move = standing(connection).move
    if move is None:
        return None
    total, done = only_row(connection, "SELECT (SELECT count(*) FROM vector), (SELECT count(*) FROM next_vector)")
    return MoveProgress(move.model.name, done, total)


def models_of(connection: Connection) -> list[StoredModel]:
    """Returns every model that the store has vectors of; its own comes first."""
    now = standing(connection)
    others = [now.move.model] if now.move is not None else []
    old = stored_model(connection, "old_model")
    return [each for each in (now.model, *others, old) if each is not None]


def erase_beside(connection: Connection, keys: set[int], digests: set[bytes]) -> None:
    """Erases the vectors that a present or past move has of erased texts.

    The new vectors have the same keys as the old ones. The vectors before the move, which no call uses any more, have
    the digests of their texts.
    """
    if keys and fact(connection, "next_model") is not None:
        connection.execute("DELETE FROM next_vector WHERE key IN (SELECT value FROM carray(?))", (integer_array(keys),))
    if digests and fact(connection, "old_model") is not None:
        connection.execute(
            "DELETE FROM old_vector WHERE home_digest IN (SELECT value FROM carray(?))", (blob_array(tuple(digests)),)
        )


_TABLES = {"next_vector": "next_model", "old_vector": "old_model"}


def problems_of_move(connection: Connection) -> Iterator[str]:
    """Returns what is wrong with a move, a sentence each."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    for table, name in _TABLES.items():
        row = connection.execute("SELECT json_valid(value) FROM meta WHERE name = ?", (name,)).fetchone()
        if (row is not None) != (table in tables) or row == (0,):
            yield f"of {table!r} and {name!r}, the two parts of a move to another model, one is missing or unreadable."
    if "next_vector" in tables:
        for (key,) in connection.execute("SELECT key FROM next_vector WHERE key NOT IN (SELECT key FROM vector)"):
            yield f"there is a new vector (key {key}) of a text that has no vector."


def mend_move(connection: Connection) -> Iterator[str]:
    """Drops new vectors of texts that have none, and gives up a move with other faults: all of it can be made again."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'next_vector'").fetchone():
        connection.execute("DELETE FROM next_vector WHERE key NOT IN (SELECT key FROM vector)")
    if not any(problems_of_move(connection)):
        return
    for table, name in _TABLES.items():
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        remember(connection, name, None)
    yield "a move to another model is given up; reembed again."
