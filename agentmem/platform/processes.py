"""Which process holds a lease, and whether it is still at work."""

import os
import uuid
from pathlib import Path


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
