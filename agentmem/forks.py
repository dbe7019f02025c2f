"""What becomes of native handles when a process forks.

Neither an onnxruntime session nor a SQLite connection survives `fork()`: using one in the child deadlocks or corrupts,
and even destroying one there can crash or drop locks that the parent relies on. The child therefore abandons what it
inherited: it is never closed, never freed, and a few megabytes of copy-on-write memory are the price.
"""

import ctypes


def abandon(*handles: object) -> None:
    """Keeps each handle alive until the process ends, past interpreter shutdown, so that no destructor ever runs."""
    for handle in handles:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
