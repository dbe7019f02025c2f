"""What becomes of native handles when a process forks.

Neither an onnxruntime session nor a SQLite connection survives `fork()`: using one in the child deadlocks or corrupts,
and even destroying one there can crash or drop locks that the parent relies on. The child therefore abandons what it
inherited: it is never closed, never freed, and a few megabytes of copy-on-write memory are the price.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Protocol


class Restartable(Protocol):
    """Something that starts afresh in a forked child. `_pid` names the process it was started for; `_start` must set it
    last, because from then on other threads go ahead without asking."""

    _pid: int


_restarting = threading.Lock()  # Only ever taken in a child that was just forked.


def restart(thing: Restartable, start: Callable[[], None]) -> None:
    """Calls `start`, unless another thread has done so: the first uses in a child may come from several at once."""
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
