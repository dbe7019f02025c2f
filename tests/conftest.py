"""Fixtures. Each ends with a healthy store, a closed memory and no thread of ours left alive."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings

import agentmem
from agentmem import ClosedError, Memory
from agentmem.cli import main
from agentmem.embedding import onnx_model
from agentmem.embedding.model_card import ModelCard
from agentmem.testing import HashEmbedder
from tests.command_line import COMMAND, Terminal, environment, jsonl

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell starts what runs in its background: the children whose interruption is tested would inherit deafness.
    signal.signal(signal.SIGINT, signal.default_int_handler)

RAM = Path("/dev/shm")
if os.access(RAM, os.W_OK) and shutil.disk_usage(RAM).free > 2 << 30:
    # The stores of the tests lie in RAM: syncing to a disk proves nothing here, because no power is cut.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(RAM))

settings.register_profile(
    "short", deadline=None, max_examples=30, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long", deadline=None, max_examples=1000, stateful_step_count=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("AGENTMEM_HYPOTHESIS_PROFILE", "short"))

Opener = Callable[..., Memory]

BUNDLED = Path(agentmem.__file__).parent.parent.resolve() / "models"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> datetime:
        """Moves the clock by this number of seconds, which may be negative."""
        self.now += timedelta(seconds=seconds)
        return self.now


def our_threads(known: Set[threading.Thread] = frozenset()) -> list[str]:
    """The names of those that are alive and not known. One that was struck as it began is listed for ever."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("agentmem") and thread not in known]
    return sorted(thread.name for thread in ours if thread.is_alive())


def wait_for_our_threads(seconds: float = 30) -> None:
    """For tests in which `close` rightly leaves a run behind that ends a little later."""
    for thread in threading.enumerate():
        if thread.name.startswith("agentmem") and thread.is_alive():  # One that was struck never starts.
            thread.join(seconds)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first. At the end, one of two workers would wait for the other's."""
    items.sort(key=lambda item: item.path.name != "test_torture.py")


@pytest.fixture(autouse=True, scope="session")
def models_are_loaded_once() -> Iterator[None]:
    """Loading a bundled model takes most of the time of a test that embeds a few texts with it. A loaded one is not
    changed by what it embeds."""
    load, loaded = onnx_model.load_model, {}

    def load_once(card: ModelCard, providers: Sequence[str]) -> onnx_model.Model:
        if not card.folder.resolve().is_relative_to(BUNDLED):
            return load(card, providers)
        key = (os.getpid(), card.folder, *providers)
        if key not in loaded:
            loaded[key] = load(card, providers)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_model, "load_model", load_once)
        yield


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "store.db"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def open_memory(store_path: Path) -> Iterator[Opener]:
    """Opens memories, by default on `store_path` with a HashEmbedder; each must be healthy at the end, unless the test
    has closed it."""
    opened: list[Memory] = []
    before = set(threading.enumerate())

    def open_(path: Any = store_path, **arguments: Any) -> Memory:
        if "model" not in arguments:
            arguments.setdefault("embedder", HashEmbedder())
        memory = Memory(path, **arguments)
        opened.append(memory)
        return memory

    yield open_
    try:
        for memory in opened:
            with suppress(ClosedError):
                assert memory.check() == []
    finally:
        for memory in opened:
            memory.close()
    assert our_threads(before) == []


@pytest.fixture(params=["memory", "file"])
def memory(request: pytest.FixtureRequest, open_memory: Opener, store_path: Path) -> Memory:
    """A memory with a HashEmbedder, once in RAM and once in a file."""
    return open_memory(":memory:" if request.param == "memory" else store_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the system's clock, for everything that agentmem dates."""
    replacement = Clock()
    monkeypatch.setattr("agentmem.timestamps.clock", replacement)
    return replacement


@pytest.fixture
def model_memory(open_memory: Opener) -> Memory:
    """A memory in a file, with the bundled model."""
    return open_memory(model="all-MiniLM-L6-v2")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "agent.db"


@pytest.fixture
def run(db: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command on the store `db` within this process; the store must be healthy at the end."""
    monkeypatch.setenv("AGENTMEM_DB", str(db))
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: object, stdin: str | bytes | None = None, columns: int | None = None) -> Result:
        environment = {"COLUMNS": None if columns is None else str(columns)}
        return CliRunner().invoke(main, [str(each) for each in arguments], input=stdin, env=environment)

    yield run
    if db.exists():
        with Memory(db) as memory:
            assert memory.check() == []


@pytest.fixture
def start(db: Path):
    """Starts a command as a process of its own."""
    processes = []

    def start(*arguments: object, **options) -> subprocess.Popen:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [*COMMAND, *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=environment(db, **options.pop("env", {})), **options))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def terminal(db: Path):
    """Starts a command at a terminal."""
    terminals = []

    def terminal(*arguments: object, **settings) -> Terminal:
        terminals.append(Terminal(*arguments, db=db, **settings))
        return terminals[-1]

    yield terminal
    for each in terminals:
        each.close()


@pytest.fixture
def filled(run):
    """Five memories of ana, made on the first days of 2026, and one of ben."""
    days = [{"metadata": {"day": day}, "created_at": f"2026-01-0{day}T12:00:00Z"} for day in range(1, 6)]
    items = [{"content": f"Fact number {day}", "id": f"m{day}"} | fields for day, fields in enumerate(days, 1)]
    assert run("add", "-", "--user", "ana", stdin=jsonl(*items)).exit_code == 0
    assert run("add", "Ben's own secret", "--user", "ben", "--id", "b1").exit_code == 0
    return run
