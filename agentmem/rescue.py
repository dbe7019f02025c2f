"""Repair by path: also of a store that cannot be opened any more."""

from contextlib import suppress
from pathlib import Path

from agentmem.errors import StoreDamagedError, StoreOpenError
from agentmem.memory import Memory
from agentmem.storage.repair import salvage_closed, salvage_open


def rescue(path: str) -> tuple[list[str], list[str]]:
    """Repairs the store at a path, of whatever model; returns what was done, and what `check` still finds.

    Raises:
        StoreOpenError: there is nothing of a store.
        StoreBusyError: it cannot be opened, and somebody has it open still; nothing was changed.
    """
    told: list[str] = []
    try:
        memory = Memory(path, model=None)
    except (StoreDamagedError, StoreOpenError):
        told += _salvaged(str(Path(path).absolute()))
        memory = Memory(path, model=None)
    with memory:
        told += memory.repair()
        return told, memory.check()


def _salvaged(path: str) -> list[str]:
    if Path(path).is_file():
        with suppress(StoreDamagedError):
            return salvage_open(path)
    return salvage_closed(path)
