"""Deadline: the moment by which a call is to answer, counted from where it began."""

import time

from agentmem.errors import DeadlineError


class Deadline:
    """So many seconds from now. May be looked at from any thread."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, to the millisecond; 0 when none is left."""
        return round(max(0.0, self.at - time.monotonic()), 3)

    def check(self) -> None:
        """Between two steps of a read. Raises DeadlineError when no time is left."""
        if time.monotonic() > self.at:
            raise self.error()

    def error(self) -> DeadlineError:
        """What to raise when a read takes longer."""
        return DeadlineError(
            f"Reading took longer than the {self.seconds:g} seconds allowed; nothing was written. Give filters fewer "
            "terms (contains and icontains look through whole texts and lists), name their keys in "
            "Config.indexed_metadata, ask about fewer memories, or raise timeout."
        )


def is_over(deadline: Deadline | None) -> bool:
    """Whether there is one, and it has passed."""
    return deadline is not None and time.monotonic() > deadline.at
