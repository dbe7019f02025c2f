"""Leases: which process does some work in the background for all."""

import json

from agentmem.platform.failpoints import reach
from agentmem.platform.processes import is_at_work
from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.meta import fact, remember
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.sqlite.transaction import Transaction


def claim(transaction: Transaction, name: str, owner: str, seconds: float) -> float:
    """Takes or renews the right to do some work in the background, for a time.

    A lease only spares double work: ignoring it does no harm.

    Returns:
        0, or the seconds that another process's lease still runs, unless that process has ended or is stopped.
    """
    connection = transaction.connection
    held = _held(connection, name)
    if held is not None:
        holder, until = held
        left = left_of(holder, until, owner, transaction.moment)
        if 0 < left <= seconds:
            return left
    reach("backlog: before a claim")
    until = transaction.moment + int(seconds * 1e6)
    remember(connection, name, json.dumps({"owner": owner, "until": until}))
    reach("backlog: after a claim")
    return 0.0


def left_of(holder: str, until: int, owner: str, moment: int) -> float:
    """Returns the seconds for which a lease keeps `owner` out.

    They are 0 for its own lease, or when its holder's process has ended or is stopped. A lease that lasts longer than
    any was given for means that the clock was set back.
    """
    if holder == owner or not is_at_work(holder):
        return 0.0
    return max(0.0, (until - moment) / 1e6)


def is_claimed(connection: Connection, name: str, owner: str) -> bool:
    """Whether this holder has the lease."""
    held = _held(connection, name)
    return held is not None and held[0] == owner


def release(transaction: Transaction, name: str, owner: str) -> None:
    """Gives the lease back, if it is held."""
    if is_claimed(transaction.connection, name, owner):
        reach("backlog: before a release")
        remember(transaction.connection, name, None)


def _held(connection: Connection, name: str) -> tuple[str, int] | None:
    """Returns the lease's holder, and its end."""
    held = fact(connection, name)
    if held is None:
        return None
    try:
        return str(held["owner"]), int(held["until"])
    except SENSELESS as error:
        refuse(f"What the store remembers as {name!r}", error, lambda: int(held["until"]) and held["owner"])
