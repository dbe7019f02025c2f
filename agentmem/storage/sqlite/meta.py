"""What a store remembers of the model that its vectors are of."""

import json
from typing import Any

from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.types import StoredModel


def stored_model(connection: Connection, name: str = "model") -> StoredModel | None:
    """The model that stands under a name in `meta`; None when nothing does."""
    value = fact(connection, name)
    try:
        return None if value is None else StoredModel.of(value)
    except SENSELESS as error:
        refuse(f"What the store remembers as {name!r}", error, lambda: None if value is None else StoredModel.of(value))


def fact(connection: Connection, name: str) -> dict[str, Any] | None:
    """What stands under a name in `meta` as JSON."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    try:
        return dict(json.loads(str(row[0])))
    except SENSELESS as error:
        refuse(f"What the store remembers as {name!r}", error, lambda: dict(json.loads(str(row[0]))))


def remember(connection: Connection, name: str, value: str | None) -> None:
    """Puts a fact under a name in `meta`, in the place of what was there; None takes it away."""
    if value is None:
        connection.execute("DELETE FROM meta WHERE name = ?", (name,))
    else:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
