"""What a store remembers of the model that its vectors are of."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agentmem.errors import AgentMemError
from agentmem.ids import Home, at_home, digests_by
from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse

Digest = Callable[[Home, str], bytes]
"""Under which digest the vector of a home's text is stored."""


class ModelMoved(AgentMemError):
    """Something was prepared with a model that the store's vectors are not of any more; nothing was changed. Never
    leaves the package: whoever prepared it follows the store and tries again."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model as a store knows it. With the prefix of the texts, their digests can be told without the model; `source`
    is where it was found, such as a folder, for other processes to find it too."""

    identity: str
    name: str
    dimension: int
    document_prefix: str = ""
    source: str = ""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "StoredModel":
        prefix, source = values.get("document_prefix", ""), values.get("source", "")
        return cls(values["identity"], values["name"], values["dimension"], prefix, source)

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def is_same(self, other: "StoredModel | None") -> bool:
        """Whether the vectors of both may be compared."""
        return other is not None and (self.identity, self.dimension) == (other.identity, other.dimension)

    def digests(self) -> Digest:
        """What gives a home's text the digest under which its vector is stored."""
        digest, prefix = digests_by(self.identity), self.document_prefix
        return lambda home, text: at_home(digest(prefix + text), home)

    def __str__(self) -> str:
        return f"{self.name!r} ({self.identity[:80]}, {self.dimension} dimensions)"


UNKNOWN = StoredModel("", "none", 1)
"""In the place of the model of a store that has none yet, and so no vectors."""


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
