"""Which process holds a lease, and whether that process still runs."""

import os
import uuid
from pathlib import Path


def claimant() -> str:
    """Returns a new holder's name, which begins with the process."""
    return f"{os.getpid()}:{uuid.uuid4().hex}"


def is_at_work(claimant: str) -> bool:
    """Returns False when the lease's process is known to have ended, or to be stopped.

    A process counts as running when its number was given to another one. Behind a container's wall a running process
    may count as ended. Neither does harm.
    """
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
    """Whether the process is stopped by a signal or a debugger, or is dead and not yet reaped. Only Linux can tell."""
    try:
        # The fields after the name, which may hold any character.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError, ValueError):
        return False
    return state in ("T", "t", "Z", "X")
