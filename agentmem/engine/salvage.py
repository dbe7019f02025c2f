"""Mending the file of a store that cannot be opened."""

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
    """Makes it a file that can be opened; says what was done, a sentence each.

    Raises:
        StoreOpenError: there is nothing of a store.
        StoreBusyError: somebody has it open still; nothing was changed.
    """
    path = os.path.realpath(absolute(path))
    with stages(shown=progress) as tell:
        if Path(path).is_file():
            with suppress(StoreDamagedError):
                return salvage_open(path, tell)
        return salvage_closed(path, tell)
