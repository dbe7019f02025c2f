"""Failure points: named places in the code where a test makes the process die, fail or stop."""

from collections.abc import Callable

armed: dict[str, Callable[[], None]] = {}
"""The actions of the armed points, by name. Nothing in the package arms one."""


def reach(name: str) -> None:
    """Stands at a point and does what a test has armed there; otherwise nothing, for the cost of a call."""
    if armed:
        action = armed.get(name)
        if action is not None:
            action()
