"""Another process with a handle on the same file, called as if it were a Memory, and killed at will."""

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agentmem import Config, Memory
from agentmem.testing import HashEmbedder

SECONDS = 60
"""After which a call of the other process counts as hung."""

_TINY = {
    "agentmem.batches.CHUNK": 3, "agentmem.memory.CHUNK": 3, "agentmem.batches.DEFERRED_CHUNK": 2,
    "agentmem.batches.URGENT_TEXTS": 1, "agentmem.backlog.CHUNK": 2, "agentmem.storage.commit.GROUP_LIMIT": 2,
    "agentmem.storage.transaction.GATHERED_LIMIT": 2, "agentmem.storage.expiry.SWEEP_LIMIT": 2,
    "agentmem.storage.expiry.SWEEP_PAUSE": 0, "agentmem.storage.database.IDLE_READERS": 1,
    "agentmem.search.shelf.SLACK": 1,
}  # fmt: skip
"""The limits that no setting has, as small as they can be."""


@contextmanager
def tiny_limits() -> Iterator[None]:
    """So that a handful of memories crosses every border that a million would."""
    with ExitStack() as stack:
        for name, value in _TINY.items():
            stack.enter_context(patch(name, value))
        yield


def open_tiny(path: Path) -> Memory:
    """A handle with little room in everything, so that shelves, vectors and lines fill and empty all the time."""
    config = Config(
        durability="process", shelf_bytes=3_000, cache_bytes=1_000, queue_tokens=12, batch_tokens=8, pending_limit=3,
        timeout=20,
    )  # fmt: skip
    return Memory(path, embedder=HashEmbedder(), config=config)


def _serve(pipe: Connection, theirs: Connection, path: Path) -> None:
    theirs.close()
    with tiny_limits(), open_tiny(path) as memory:
        while True:
            try:
                name, arguments, options = pipe.recv()
            except EOFError:
                return
            try:
                answer = getattr(memory, name)(*arguments, **options)
            except Exception as error:
                pipe.send((False, error))
            else:
                pipe.send((True, answer))


class Peer:
    """Has the methods of Memory; each is called in the other process, which is started with the first call, and again
    after it was killed. It is forked, which costs some milliseconds, and is one more thing that handles survive."""

    _context = multiprocessing.get_context("fork")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: Any = None
        self._pipe: Any = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.begin(name, *arguments, **options)
            assert self._pipe.poll(SECONDS), f"{name} hangs in the other process"
            good, answer = self._pipe.recv()
            if good:
                return answer
            raise answer

        return call

    def begin(self, name: str, *arguments: Any, **options: Any) -> None:
        """Has a method called and does not wait for its answer."""
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(theirs, self._pipe, self._path), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Of newer Pythons, on forks beside threads.
                self._process.start()
            theirs.close()
        self._pipe.send((name, arguments, options))

    def kill(self) -> None:
        """kill -9, wherever the process is at this moment."""
        if self._process is not None:
            self._process.kill()
            self._process.join(SECONDS)
            self._process.close()
            self._pipe.close()
            self._process = None

    def close(self) -> None:
        """Lets the process close its handle and end."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(SECONDS)
            assert self._process.exitcode == 0, f"the other process ended with {self._process.exitcode}"
            self._process.close()
            self._process = None
