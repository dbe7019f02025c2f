"""Arms the failure points of the package: this process dies, fails or stops where the code says `reach("...")`.

A child process arms its own, with `arm` or with a text. `transaction: before COMMIT=kill@3` kills it the fourth time
that it is about to commit.
"""

import itertools
import os
import signal
import threading
from collections.abc import Callable

from agentmem.platform.failpoints import armed

POINTS = (
    # Opening: once for a new or an old store.
    "open: before a migration",
    "open: between the statements of a migration",
    "open: after a migration",
    "open: before an index",
    "open: after an index",
    "open: before the terms are made anew",
    "open: between the terms made anew",
    "open: before the model is bound",
    "open: after the model is bound",
    # Every write transaction.
    "transaction: before BEGIN",
    "transaction: after BEGIN",
    "transaction: before COMMIT",
    "transaction: after COMMIT",
    # Its rows.
    "rows: before the vectors",
    "rows: after the vectors",
    "rows: before the events",
    "rows: before the memories",
    "rows: after the memories",
    "rows: after an event",
    "rows: between the events and the memories that they hide",
    # Around it.
    "commit: before the sweep",
    "commit: before it is asked what became of it",
    "commit: before the answers",
    "commit: between two answers",
    # Deferred work.
    "backlog: before a claim",
    "backlog: after a claim",
    "backlog: before vectors are settled",
    "backlog: between the event and the vectors it is for",
    "backlog: after vectors are settled",
    "backlog: before a release",
    # Moving to another model, and following there.
    "reembed: before it begins",
    "reembed: after it has begun",
    "reembed: before new vectors are kept",
    "reembed: between new vectors and how far it has come",
    "reembed: after new vectors are kept",
    "reembed: before the models change places",
    "reembed: between the names of the tables",
    "reembed: after the models have changed places",
    "reembed: before old vectors are erased",
    "reembed: before an empty table is dropped",
    "reembed: before a target is given up",
    "reembed: before a process follows",
    # Segments of large owners.
    "segments: before one is written",
    "segments: after one is written",
    "segments: before one is listed",
    "segments: after one is listed",
    # Giving space back.
    "vacuum: before unused vectors are dropped",
    "vacuum: after unused vectors are dropped",
    "vacuum: before pages are moved",
    "vacuum: after pages are moved",
    "vacuum: before the file is written anew",
    "vacuum: before the log is cut",
    # The end, and what is kept in memory.
    "cache: before a vector is kept",
    "close: before the connections",
    "close: before the checkpoint",
)
"""Every name in the package."""


def arm(name: str, action: Callable[[], None], *, after: int = 0) -> None:
    """Has `action` called when the point is reached, the first `after` times excepted, on the thread that reaches it.
    An error of the action is raised there."""
    if name not in POINTS:
        raise ValueError(f"There is no failure point {name!r}; see POINTS.")
    passed = itertools.count()  # next() is atomic.

    def act() -> None:
        if next(passed) >= after:
            action()

    armed[name] = act


def disarm() -> None:
    """Disarms every point."""
    armed.clear()


def kill() -> None:
    """Ends this process at once: no handler runs, and no buffer is written."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """Fails as a system call does."""
    raise OSError("a failure point was armed to fail")


class Pause:
    """An action that holds each thread at the point until `release`, or for `seconds` at most."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._released = threading.Event()
        self.reached = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self._released.wait(self._seconds)

    def release(self) -> None:
        """Lets the threads at the point go on, and all that come later."""
        self._released.set()


ACTIONS: dict[str, Callable[[], None]] = {"kill": kill, "raise": fail}


def arm_all(text: str) -> None:
    """Arms what a text names: `point=action`, or `point=action@after`, with semicolons between."""
    for part in filter(None, text.split(";")):
        name, _, how = part.rpartition("=")
        action, _, after = how.partition("@")
        if action not in ACTIONS or not (after or "0").isdecimal():
            raise ValueError(f"{part!r} arms nothing; write 'point=kill' or 'point=raise@3'.")
        arm(name, ACTIONS[action], after=int(after or 0))
