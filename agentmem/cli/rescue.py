"""Repair by path: also of a store that cannot be opened any more."""

from agentmem.errors import StoreDamagedError, StoreOpenError


def rescue(path: str, *, progress: bool = False) -> tuple[list[str], list[str]]:
    """Repairs the store at a path, of whatever model; returns what was done, and what `check` still finds. `progress`
    shows a bar on standard error.

    Raises:
        StoreOpenError: there is nothing of a store.
        StoreBusyError: it cannot be opened, and somebody has it open still; nothing was changed.
    """
    from agentmem.engine.salvage import salvage
    from agentmem.memory import Memory

    told: list[str] = []
    try:
        memory = Memory(path, model=None)
    except (StoreDamagedError, StoreOpenError):
        told += salvage(path, progress=progress)
        memory = Memory(path, model=None)
    with memory:
        told += memory.repair(progress=progress)
        return told, memory.check(progress=progress)
