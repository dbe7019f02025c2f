"""Limiter: bounds how many searches compute at the same time. For large owners, that is one a core.

numpy releases the GIL around every operation on more than 500 numbers, and then competes for it with all searching
threads. In an owner of 1,000,000, ten threads that all computed at once searched 70 times a second. Where two of them
did while the others waited once, they searched 117 times. Four threads: 93 and 121, two: 119 and 127, one: 112 and 113
(medians of 3 alternated rounds, 2 cores).
"""

import itertools
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from agentmem.errors import ClosedError
from agentmem.platform.signals import Lock

T = TypeVar("T")

CLOSE_WAIT_SECONDS = 1.0
"""How long `close` waits for running searches. A search takes some milliseconds."""

PATIENCE_SECONDS = 0.05
"""How long background work waits for searches.

In an owner of 1,000,000, to which four threads add while graphs are built, a search takes p50 28, p90 37, p95 40 ms.
Where the builder never waits, it takes 29, 42, 46 (medians of 3 alternated rounds of 400 searches, 2 cores).
"""


class Limiter:
    """May be called from any thread, and in signal handlers."""

    def __init__(self, count: Callable[[], int]) -> None:
        """Calls `count` when a slot is first needed: counting the cores takes a fifth of the time to open a store."""
        self._count = count
        self._next = itertools.count()
        self._inside: set[int] = set()
        self._closed = False

    @cached_property
    def _locks(self) -> list[Lock]:
        return [Lock() for _ in range(self._count())]

    def within(self, work: Callable[[bool], T]) -> T:
        """Runs `work` once a slot is free, and returns its result. Passes it whether another core is free.

        Raises:
            ClosedError: The memory was closed meanwhile.
        """
        thread = threading.get_ident()
        if thread in self._inside:  # A signal handler, amid a search of its own thread.
            return work(False)
        self._inside.add(thread)
        try:
            with self._one():
                if self._closed:
                    raise ClosedError("The memory was closed while this call was waiting.")
                return work(any(not lock.locked() for lock in self._locks))
        finally:
            self._inside.discard(thread)

    def _one(self) -> Lock:
        """Returns a free slot, else the next in turn."""
        free = (lock for lock in self._locks if not lock.locked())
        return next(free, self._locks[next(self._next) % len(self._locks)])

    def let_pass(self) -> None:
        """Waits a moment at most for running searches. Background work on the same cores calls it."""
        self._wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Refuses further work and waits (bounded) for running work: USearch ends the process when the interpreter
        ends amid a search."""
        self._closed = True
        self._wait(CLOSE_WAIT_SECONDS)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for lock in self.__dict__.get("_locks", ()):
            if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                lock.release()
