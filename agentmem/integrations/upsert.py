"""Writing by key, as key-value stores do: what is there is replaced, what is not is added, all in one commit."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agentmem.errors import DuplicateIdError, NotFoundError
from agentmem.timestamps import now

if TYPE_CHECKING:
    from agentmem.engine.write_batch import Changes
    from agentmem.memory import Memory, ScopedMemory

NO_TEXT = "-"
"""The content of a memory that holds no text. All of a home share its one vector."""

ATTEMPTS = 8
"""Of one batch, while other threads and processes write and delete the same keys between its look and its commit."""


def write(memory: "Memory | ScopedMemory", puts: Iterable[Mapping[str, Any]]) -> None:
    """Stores memories by their ids. A memory that is there gets a new version, one that was deleted comes back. A put
    without content deletes. All are committed together, and on return they are durable and found.

    Args:
        memory: Whose memories they are.
        puts: The fields of each, as `add` takes them, with `id`; each id once.

    Raises:
        InvalidInputError: a field cannot be used; nothing was written.
    """
    puts = list(puts)
    for attempt in range(ATTEMPTS):
        changes = memory._changes()
        try:
            for put in puts:
                _gather(memory, changes, put)
            changes.commit()
            return
        except (DuplicateIdError, NotFoundError):  # Another thread was between the look and the commit.
            if attempt == ATTEMPTS - 1:
                raise


def _gather(memory: "Memory | ScopedMemory", changes: "Changes", put: Mapping[str, Any]) -> None:
    named = {name: put[name] for name in ("id", "user_id", "agent_id", "run_id") if name in put}
    if "content" not in put:
        changes.delete(**named)
        return
    old = memory.get(**named, show_expired=True)
    if old is None and memory.history(**named):
        memory.restore(**named)  # It goes on with its history.
        old = memory.get(**named, show_expired=True)
    if old is None:
        changes.add(**put)
        return
    if old.expires_at is not None and old.expires_at <= now():
        changes.restore(**named)
    changes.update(**put, replace_metadata=True)
