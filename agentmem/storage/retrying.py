"""Retries calls that meet the files of a store while they are removed, moved or replaced."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from agentmem.errors import StoreError

P = ParamSpec("P")
T = TypeVar("T")

CHANGE_TRIES = 5
"""How often a call begins again while the files of the store are replaced, one by one."""

CHANGE_PAUSE_SECONDS = 0.02
"""Pause before each retry. By then, a moved file has been replaced."""


class Displaced(StoreError):
    """The commit went into files that are no longer the store's; nothing of it was acknowledged."""


class Outplanned(Displaced):
    """The plan was read from other files than the store's present ones: plan again."""


def may_pass(error: BaseException) -> bool:
    """Whether an error may come from files that were being replaced, so that the call may succeed when repeated."""
    return isinstance(error, Displaced) or getattr(error, "amid_a_change", False)


def again(read: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that only reads: it begins again when it meets files that are being replaced."""

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
