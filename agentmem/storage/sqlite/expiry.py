"""Turns expired memories into deleted ones.

Every read leaves out expired memories, with or without the sweep. The sweep writes the history, and so tells the
indexes, which then drop the vectors. It runs within commits that happen anyway. It needs no thread and no timer, and
never takes long enough to be noticed by the writer.
"""

from agentmem.storage.sqlite.transaction import Transaction

SWEEP_LIMIT = 50
"""Most memories swept in one commit, about 10 microseconds each; the rest waits for the next commit."""

SWEEP_PAUSE = 1_000_000
"""Microseconds between two looks after the last one found nothing more."""


class Sweeper:
    """Used by one thread at a time, the writing one."""

    def __init__(self) -> None:
        self._rested_at: int | None = None

    def sweep(self, transaction: Transaction) -> None:
        """Deletes expired memories, the earliest first, each with an event "expire"."""
        # Both bounds, because the clock may have been set back.
        if self._rested_at is not None and 0 <= transaction.moment - self._rested_at < SWEEP_PAUSE:
            return
        swept = transaction.hide(
            "expire",
            # Spelled like the partial index, so that nothing else is read.
            "memory.expires_at IS NOT NULL AND memory.deleted_at IS NULL AND memory.expires_at <= ? "
            "ORDER BY memory.expires_at LIMIT ?",
            (transaction.moment, SWEEP_LIMIT),
        )
        self._rested_at = None if swept == SWEEP_LIMIT else transaction.moment
