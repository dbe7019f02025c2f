"""Vacuum: gives back space that nothing needs any more, step by step, while everybody goes on.

Each step is a transaction by itself, and between two of them the writers of other processes, who look for the lock now
and then, find it free.
"""

from collections.abc import Iterator
from datetime import datetime

from agentmem.engine.engine import Engine
from agentmem.errors import ClosedError, StoreFullError
from agentmem.progress import progress
from agentmem.stats import VacuumReport
from agentmem.storage.sqlite.maintenance.vacuum import Space

PAUSE_SECONDS = 0.005
"""Between two steps: a few times what other processes' writers wait until they look again."""

CUTS = 25
"""How often the log is tried to be cut, which others' reads keep from it; in the end, commits to come do that."""


def vacuum(engine: Engine, deleted_before: datetime | None, *, full: bool, shown: bool) -> VacuumReport:
    """See `Memory.vacuum`."""
    store, space = engine.store, engine.store.space
    before = space.bytes()
    purged = 0 if deleted_before is None else engine.forget(store.purge_hidden(deleted_before))
    unwiped = _finish_purge(space)
    store.segments.sweep()
    for _ in _paced(engine, iter(store.moves.clear, False)):
        pass
    dropped = sum(_paced(engine, space.drop_unused()))
    free = space.free_bytes()
    with progress("B", free, shown=shown) as tell:
        if full or (free and not space.is_movable):
            space.write_anew()
        else:
            for given in _paced(engine, iter(space.give_back, 0)):
                tell(given)
    for _ in range(CUTS):  # Each keeps writers waiting no longer than a step.
        if space.cut_log() or engine.lenses.closing.wait(PAUSE_SECONDS):
            break
    if unwiped:  # Now that there may be more room.
        space.finish_purge()
    return VacuumReport(before, space.bytes(), dropped, purged, space.deleted())


def _finish_purge(space: Space) -> bool:
    """Whether what a purge has left to do must wait, because the disk has no room for it."""
    try:
        space.finish_purge()
    except StoreFullError:
        return True
    return False


def _paced(engine: Engine, steps: Iterator[int]) -> Iterator[int]:
    """The steps, with a pause after each.

    Raises:
        ClosedError: the memory was closed meanwhile.
    """
    for step in steps:
        yield step
        if engine.lenses.closing.wait(PAUSE_SECONDS):
            raise ClosedError("The memory was closed while it was being vacuumed; what was done is kept.")
