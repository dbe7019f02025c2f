"""Another process with a handle on the same file, called as if it were a Memory, and killed at will."""

import atexit
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agentmem import Config, Memory
from agentmem.testing import HashEmbedder
from tests.torture.nursery import Nursery

SECONDS = 60
"""After which a call of the other process counts as hung."""

_TINY = {
    "agentmem.engine.writer.CHUNK": 3, "agentmem.engine.search.CHUNK": 3, "agentmem.engine.writer.DEFERRED_CHUNK": 2,
    "agentmem.engine.writer.URGENT_TEXTS": 1, "agentmem.engine.deferred.CHUNK": 2,
    "agentmem.storage.sqlite.group_commit.GROUP_LIMIT": 2, "agentmem.storage.sqlite.transaction.GATHERED_LIMIT": 2,
    "agentmem.storage.sqlite.expiry.SWEEP_LIMIT": 2,
    "agentmem.storage.sqlite.expiry.SWEEP_PAUSE": 0, "agentmem.storage.sqlite.database.connections.IDLE_READERS": 1,
    "agentmem.search.owner_index.SLACK": 1, "agentmem.engine.deferred.RECOUNT_SECONDS": 0.005,
    "agentmem.search.segments.builder.SEGMENT": 3, "agentmem.search.segments.builder.RETRY_SECONDS": 0.0,
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
    """A handle with little room in everything, so that indexes, vectors and queues fill and empty all the time."""
    config = Config(
        durability="process", index_bytes=3_000, cache_bytes=1_000, queue_tokens=12, batch_tokens=8, pending_limit=3,
        timeout=20,
    )  # fmt: skip
    return Memory(path, embedder=HashEmbedder(), config=config)


def serve(descriptor: int, path: Path) -> None:
    """The other process: does what it is told through the socket, until its other end is closed."""
    pipe = Connection(descriptor)
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


@functools.cache
def _nursery(owner: int) -> Nursery:
    """Of this process; it ends with it."""
    nursery = Nursery()
    atexit.register(nursery.close)
    return nursery


class Peer:
    """Has the methods of Memory; each is called in the other process, which is started with the first call, and again
    after it was killed. It is forked from a nursery, in some milliseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._nursery = _nursery(os.getpid())
        self._pid: int | None = None
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
        if self._pid is None:
            ours, theirs = socket.socketpair()
            with theirs:
                self._pid = self._nursery.fork(theirs.fileno(), "tests.torture.peer:serve", self._path)
            self._pipe = Connection(ours.detach())
        self._pipe.send((name, arguments, options))

    def kill(self) -> None:
        """kill -9, wherever the process is at this moment."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)  # Not yet waited for, so that the number is still its own.
            self._end()

    def close(self) -> None:
        """Lets the process close its handle and end."""
        if self._pid is not None:
            status = self._end()
            assert status == 0, f"the other process ended with {status}"

    def _end(self) -> int:
        assert self._pid is not None
        self._pipe.close()
        pid, self._pid = self._pid, None
        return self._nursery.wait(pid)
