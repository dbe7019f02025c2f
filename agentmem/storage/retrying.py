"""Calls that meet the files of a store while they are being removed, moved or replaced, and begin again."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from agentmem.errors import StoreError

P = ParamSpec("P")
T = TypeVar("T")

CHANGE_TRIES = 5
"""How often a call begins again while the files of the store are being replaced, one by one."""

CHANGE_PAUSE_SECONDS = 0.02
"""Before each further one; by then, one file that was moved stands in its place."""


class Displaced(StoreError):
    """What was committed went into files that are not the store's any more; nothing of it was acknowledged."""


class Outplanned(Displaced):
    """What was planned was read from other files than the store's are now: it must be planned again."""


def may_pass(error: BaseException) -> bool:
    """Whether an error may be of files that were being replaced, so that the same call may find them well."""
    return isinstance(error, Displaced) or getattr(error, "amid_a_change", False)


def again(read: Callable[P, T]) -> Callable[P, T]:
    """A function that only reads; it begins again when it meets files that are being replaced."""

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(CHANGE_TRIES):
            try:
                return read(*args, **kwargs)
            except StoreError as error:
                if not may_pass(error):
                    raise
            threading.Event().wait(CHANGE_PAUSE_SECONDS)
        return read(*args, **kwargs)

    return reading
