"""Repairs a store by its path, even one that cannot be opened any more."""

from agentmem.errors import StoreDamagedError, StoreOpenError


def rescue(path: str, *, progress: bool = False) -> tuple[list[str], list[str]]:
    """Repairs the store at a path, whatever its model. Returns the repairs, and the problems that `check` still finds.
    `progress` shows a bar on standard error.

    Raises:
        StoreOpenError: There is no store.
        StoreBusyError: It cannot be opened, and a process still has it open; nothing was changed.
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
