"""The engines that the contract is checked on, each by a function that opens an empty store."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from agentmem.config import Config
from agentmem.stats import Timings
from agentmem.storage.interface import Store
from agentmem.storage.open import open_store
from tests.storage.contract.making import MODEL
from tests.storage.memory_engine import MemoryEngine

Opener = Callable[[], Store]


@pytest.fixture(params=["sqlite file", "sqlite memory", "dictionaries"])
def opener(request: pytest.FixtureRequest, tmp_path) -> Iterator[Opener]:
    """Opens an empty store of the engine; all of them are checked and closed in the end."""
    stores: list[Store] = []
    numbers = count()

    def opened() -> Store:
        store: Store
        if request.param == "dictionaries":
            store = MemoryEngine()
        else:
            path = ":memory:" if "memory" in request.param else str(tmp_path / f"{next(numbers)}.db")
            store = open_store(path, Config(), Timings())
        stores.append(store)
        store.bind_model(MODEL)
        return store

    yield opened
    for store in stores:
        assert store.check(lambda *_: None) == []
        store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()
