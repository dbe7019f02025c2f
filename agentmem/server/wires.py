"""Standard input and output as the two wires of a protocol that nothing else may write to."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def standard_wires() -> Iterator[tuple[IO[str], IO[str]]]:
    """Yields the process's standard input and output as two files of their own.

    From here on, and for the rest of the process, descriptor 0 reads nothing and descriptor 1 is standard error. What
    libraries and child processes print goes there, and so does what was printed before and still waits in a buffer.
    """
    reads, writes = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.flush()
    with (
        os.fdopen(reads, encoding="utf-8", errors="replace") as wire_in,
        os.fdopen(writes, "w", encoding="utf-8", newline="\n") as wire_out,
    ):
        yield wire_in, wire_out
