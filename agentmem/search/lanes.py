"""Lanes: as many searches of large owners compute at once as there are cores.

numpy lets go of the GIL around every operation on more than 500 numbers, and takes it back among all the threads that
search. Of an owner of 1,000,000, ten threads that all computed at once searched 70 times a second, and 117 times where
two of them did while the others waited once; four threads 93 and 121 times, two 119 and 127 times, one 112 and 113
(medians of 3 alternated rounds, 2 cores).
"""

import itertools
import threading

from agentmem.cores import usable_cores


class Lanes:
    """May be called from any thread."""

    def __init__(self) -> None:
        self._locks: list[threading.Lock] = []
        self._next = itertools.count()

    def one(self) -> threading.Lock:
        """A lane to hold while one computes; a free one, if there is any."""
        if not self._locks:  # Late: only stores with large owners need them.
            self._locks = [threading.Lock() for _ in range(usable_cores())]
        free = (lock for lock in self._locks if not lock.locked())
        return next(free, self._locks[next(self._next) % len(self._locks)])

    def is_one_free(self) -> bool:
        """Whether there is a core for a part of the work of somebody who holds a lane."""
        return any(not lock.locked() for lock in self._locks)
