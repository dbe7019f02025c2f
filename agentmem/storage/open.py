"""From an address to an engine: the only module that imports one."""

from agentmem.config import Config
from agentmem.stats import Timings
from agentmem.storage.interface import Store
from agentmem.storage.sqlite.maintenance.repair import salvage_closed, salvage_open
from agentmem.storage.sqlite.store import SQLiteStore

__all__ = ["open_store", "salvage_closed", "salvage_open"]


def open_store(path: str, config: Config, timings: Timings) -> Store:
    """Opens the store at a path, or makes it.

    Raises:
        StoreOpenError: the path cannot be a store's.
    """
    return SQLiteStore(path, config, timings)
