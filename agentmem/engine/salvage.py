"""Repairs the file of a store that cannot be opened."""

import os
from contextlib import suppress
from pathlib import Path

from agentmem.errors import StoreDamagedError
from agentmem.platform.paths import absolute
from agentmem.platform.signals import holds_locks
from agentmem.progress import stages
from agentmem.storage.open import salvage_closed, salvage_open


@holds_locks
def salvage(path: str, *, progress: bool) -> list[str]:
    """Turns it into a file that can be opened. Returns what was done, a sentence each.

    Raises:
        StoreOpenError: It holds nothing of a store.
        StoreBusyError: A process still has it open; nothing was changed.
    """
    path = os.path.realpath(absolute(path))
    with stages(shown=progress) as tell:
        if Path(path).is_file():
            with suppress(StoreDamagedError):
                return salvage_open(path, tell)
        return salvage_closed(path, tell)
