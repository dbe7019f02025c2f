"""What becomes of native handles when a process forks.

Neither an onnxruntime session nor a SQLite connection survives `fork()`. Using one in the child deadlocks or corrupts.
Even destroying one there can crash, or drop locks that the parent relies on. So the child abandons every inherited
handle: it never closes or frees it, and pays with a few megabytes of copy-on-write memory.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Protocol


class Restartable(Protocol):
    """An object that starts afresh in a forked child.

    `_pid` is the process that it was started for. `_start` must set `_pid` last, because other threads then proceed
    without asking.
    """

    _pid: int


_restarting = threading.Lock()  # Taken only in a child that was just forked.


def restart(thing: Restartable, start: Callable[[], None]) -> None:
    """Calls `start`, unless another thread has done so: a child's first calls may come from several threads at once."""
    with _restarting:
        if thing._pid != os.getpid():
            start()


def _renew_lock() -> None:
    global _restarting
    _restarting = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def abandon(*handles: object) -> None:
    """Keeps each handle alive until the process ends, past interpreter shutdown, so that no destructor ever runs."""
    for handle in handles:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
