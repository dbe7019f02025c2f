"""Deadline: the moment by which a call must answer, counted from the call's beginning."""

import time

from agentmem.errors import DeadlineError


class Deadline:
    """A number of seconds from now. Any thread may read it."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """The seconds that are left, to the millisecond; 0 when none are."""
        return round(max(0.0, self.at - time.monotonic()), 3)

    def check(self) -> None:
        """Raises DeadlineError when no time is left. Call it between two steps of a read."""
        if time.monotonic() > self.at:
            raise self.error()

    def error(self) -> DeadlineError:
        """Returns the error to raise when a read takes longer."""
        return DeadlineError(
            f"Reading took longer than the {self.seconds:g} seconds allowed; nothing was written. Give filters fewer "
            "terms (contains and icontains look through whole texts and lists), name their keys in "
            "Config.indexed_metadata, ask about fewer memories, or raise timeout."
        )


def is_over(deadline: Deadline | None) -> bool:
    """Whether the deadline, if any, has passed."""
    return deadline is not None and time.monotonic() > deadline.at


def late(seconds: float) -> DeadlineError:
    """Returns the error to raise when no embedding came within the seconds that the caller allowed."""
    return DeadlineError(f"No embedding within {seconds:g} seconds; try again or raise timeout.")
