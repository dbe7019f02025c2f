"""Numbers for runs that mean the same in every process and file."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Run = tuple[str | None, str | None]
"""The user and the run of a memory."""


def run_numbers(runs: Iterable[Run]) -> npt.NDArray[np.int64]:
    """Returns a number for each: equal ones for equal runs, -1 without one.

    They are 63 bits of a digest. Among a million runs two share one with a chance of 1 in 20 million, and would only
    lend each other a few neighbours.
    """
    known: dict[Run, int] = {}
    return np.array([known[run] if run in known else known.setdefault(run, _number(run)) for run in runs], np.int64)


def _number(run: Run) -> int:
    if run[1] is None:
        return -1
    return int.from_bytes(blake2b(repr(run).encode(), digest_size=8).digest(), "little") >> 1
