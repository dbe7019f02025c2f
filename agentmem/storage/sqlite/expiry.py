"""Expired memories, on their way from hidden to deleted.

Every read leaves out what has expired, whatever is written here; the sweep only tells the history, and the shelves,
which then let go of the vectors. It rides in commits that are made anyway: no thread, no timer, and never so much that
the writer whose commit it is would notice.
"""

from agentmem.storage.sqlite.transaction import Transaction

SWEEP_LIMIT = 50
"""Most memories swept in one commit, about 10 microseconds each; what is left waits for the next commit."""

SWEEP_PAUSE = 1_000_000
"""Microseconds between two looks when the last one found nothing more."""


class Sweeper:
    """Used by one thread at a time, the one that writes."""

    def __init__(self) -> None:
        self._rested_at: int | None = None

    def sweep(self, transaction: Transaction) -> None:
        """Makes expired memories deleted ones, the earliest first, each with an event "expire"."""
        # Both bounds, because the clock may have been put back.
        if self._rested_at is not None and 0 <= transaction.moment - self._rested_at < SWEEP_PAUSE:
            return
        swept = transaction.hide(
            "expire",
            # Spelled as the partial index is, so that nothing else is read.
            "memory.expires_at IS NOT NULL AND memory.deleted_at IS NULL AND memory.expires_at <= ? "
            "ORDER BY memory.expires_at LIMIT ?",
            (transaction.moment, SWEEP_LIMIT),
        )
        self._rested_at = None if swept == SWEEP_LIMIT else transaction.moment
