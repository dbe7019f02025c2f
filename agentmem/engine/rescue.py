"""Repair by path: also of a store that cannot be opened any more."""

import os
from contextlib import suppress
from pathlib import Path

from agentmem.errors import StoreDamagedError, StoreOpenError
from agentmem.memory import Memory
from agentmem.platform.paths import absolute
from agentmem.progress import Tell, stages
from agentmem.storage.sqlite.maintenance.repair import salvage_closed, salvage_open


def rescue(path: str, *, progress: bool = False) -> tuple[list[str], list[str]]:
    """Repairs the store at a path, of whatever model; returns what was done, and what `check` still finds. `progress`
    shows a bar on standard error.

    Raises:
        StoreOpenError: there is nothing of a store.
        StoreBusyError: it cannot be opened, and somebody has it open still; nothing was changed.
    """
    told: list[str] = []
    try:
        memory = Memory(path, model=None)
    except (StoreDamagedError, StoreOpenError):
        with stages(shown=progress) as tell:
            told += _salvaged(os.path.realpath(absolute(path)), tell)
        memory = Memory(path, model=None)
    with memory:
        told += memory.repair(progress=progress)
        return told, memory.check(progress=progress)


def _salvaged(path: str, tell: Tell) -> list[str]:
    if Path(path).is_file():
        with suppress(StoreDamagedError):
            return salvage_open(path, tell)
    return salvage_closed(path, tell)
