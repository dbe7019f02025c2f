"""Opens the store of a command."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentmem.errors import StoreOpenError

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory


def open_memory(db: str, model: str | None = None, *, create: bool = False, **config: Any) -> "Memory":
    """Opens the store at a path. Only a command that adds creates a missing one.

    A command that embeds nothing passes no model (None) and takes the store of any. A model of "" is the library's
    choice. Settings in `config` that are None keep their defaults. A command waits for whole vectors:
    no process may be there to make them when it has ended.

    Raises:
        StoreOpenError: There is no store.
    """
    if not create:
        existing(db)
    _refuse_ram(db)
    from agentmem.config import Config
    from agentmem.memory import Memory

    given = {name: value for name, value in config.items() if value is not None}
    settings = Config(**{"refine": "before_return", **given})
    return Memory(db, config=settings) if model == "" else Memory(db, model=model, config=settings)


def trial_memory() -> "Memory":
    """Opens a store in memory that loads no model, for a command that is only tried."""
    from agentmem.memory import Memory

    return Memory(":memory:", model=None)


def existing(db: str) -> str:
    """Returns the path, where there is a store.

    Raises:
        StoreOpenError: There is no store.
    """
    _refuse_ram(db)
    from agentmem.quoting import is_address

    if is_address(db):
        raise StoreOpenError("--db is the address of something, and not the path of a file; name the store's file.")
    path = Path(db)
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        raise StoreOpenError(f"There is no store at {db!r}; make one with `agentmem add`, or name another with --db.")
    return db


def scoped(memory: "Memory", owner: Mapping[str, str | None]) -> "Memory | ScopedMemory":
    """Returns the view of an owner, or the whole memory where none is named."""
    named = any(value is not None for value in owner.values())
    return memory.scope(**owner) if named else memory


def _refuse_ram(db: str) -> None:
    if db == ":memory:":
        raise click.UsageError("':memory:' would be gone when the command ends; pass the path of a file.")
