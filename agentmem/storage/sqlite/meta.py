"""The model of the store's vectors, as the store remembers it."""

import json
from typing import Any

from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.types import StoredModel


def stored_model(connection: Connection, name: str = "model") -> StoredModel | None:
    """Returns the model under a name in `meta`; None without one."""
    value = fact(connection, name)
    try:
        return None if value is None else StoredModel.of(value)
    except SENSELESS as error:
        refuse(f"What the store remembers as {name!r}", error, lambda: None if value is None else StoredModel.of(value))


def fact(connection: Connection, name: str) -> dict[str, Any] | None:
    """Returns the JSON value under a name in `meta`."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    try:
        return dict(json.loads(str(row[0])))
    except SENSELESS as error:
        refuse(f"What the store remembers as {name!r}", error, lambda: dict(json.loads(str(row[0]))))


def remember(connection: Connection, name: str, value: str | None) -> None:
    """Sets or replaces a value under a name in `meta`; None removes it."""
    if value is None:
        connection.execute("DELETE FROM meta WHERE name = ?", (name,))
    else:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
