"""Claims: which process does some work in the background for everybody."""

import json
import os
import uuid
from pathlib import Path

from agentmem.platform.failpoints import reach
from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.sqlite.meta import fact, remember
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.sqlite.transaction import Transaction


def claimant() -> str:
    """A name for one who claims; it begins with the process."""
    return f"{os.getpid()}:{uuid.uuid4().hex}"


def is_at_work(claimant: str) -> bool:
    """False when the process of a claim is known to have ended, or to be stopped. One whose number was given to another
    counts as at work, one on the other side of a container's wall perhaps not; neither does harm."""
    pid, _, rest = claimant.partition(":")
    try:
        if rest and pid.isdecimal():
            os.kill(int(pid), 0)
            return not _stands_still(pid)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _stands_still(pid: str) -> bool:
    """By a signal or a debugger, for as long as somebody likes; or dead and not yet waited for. Only Linux tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]  # After the name, which may be any.
    except (OSError, IndexError, ValueError):
        return False
    return state in ("T", "t", "Z", "X")


def claim(transaction: Transaction, name: str, owner: str, seconds: float) -> float:
    """Takes or renews the right to do some work in the background for everybody, for a time. Returns 0, or the seconds
    that another process's claim still has to run, unless that process has ended or is stopped. A claim only spares
    double work: whoever ignores it does no harm."""
    connection = transaction.connection
    held = _held(connection, name)
    if held is not None:
        holder, until = held
        left = (until - transaction.moment) / 1e6
        if holder != owner and 0 < left <= seconds and is_at_work(holder):
            return left
    reach("backlog: before a claim")
    until = transaction.moment + int(seconds * 1e6)
    remember(connection, name, json.dumps({"owner": owner, "until": until}))
    reach("backlog: after a claim")
    return 0.0


def is_claimed(connection: Connection, name: str, owner: str) -> bool:
    """Whether the right is held by this one."""
    held = _held(connection, name)
    return held is not None and held[0] == owner


def release(transaction: Transaction, name: str, owner: str) -> None:
    """Gives the right back, if it is held."""
    if is_claimed(transaction.connection, name, owner):
        reach("backlog: before a release")
        remember(transaction.connection, name, None)


def _held(connection: Connection, name: str) -> tuple[str, int] | None:
    """Whose claim it is, and until when."""
    held = fact(connection, name)
    if held is None:
        return None
    try:
        return str(held["owner"]), int(held["until"])
    except SENSELESS as error:
        refuse(f"What the store remembers as {name!r}", error, lambda: int(held["until"]) and held["owner"])
