"""Stats: what happened, and how much there is."""

import logging
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

SAMPLES = 1024
"""Latest durations of a kind that percentiles are taken from: enough for a p99, a few kilobytes."""


@dataclass(frozen=True, slots=True)
class BackgroundError:
    """Errors of one cause that no call was there to raise."""

    count: int
    at: datetime
    """When the latest of them struck, in UTC."""
    message: str
    """Its own."""


class BackgroundErrors:
    """What fails in the background, by cause: the work and the type of the error. Nothing is lost by it: such work is
    tried again."""

    def __init__(self) -> None:
        self._latest: dict[str, BackgroundError] = {}

    def note(self, work: str, error: BaseException, logger: logging.Logger) -> None:
        """Counts an error, and logs it as a warning if it is the first of its cause."""
        cause = f"{work}: {type(error).__name__}"
        before = self._latest.get(cause)
        self._latest[cause] = BackgroundError(1 if before is None else before.count + 1, datetime.now(UTC), str(error))
        if before is None:
            logger.warning(
                "%s failed (%s: %s); it is tried again, further errors of this cause are only counted in stats()",
                work, type(error).__name__, error,
            )  # fmt: skip

    def latest(self) -> dict[str, BackgroundError]:
        """By cause, those that came first in front."""
        return dict(self._latest)


class Timings:
    """The latest durations of each kind, in seconds. Recording costs a tenth of a microsecond and takes no lock: an
    append to a bounded deque is atomic."""

    def __init__(self) -> None:
        self.errors = BackgroundErrors()
        self._samples: dict[str, deque[float]] = {}

    def record(self, name: str, seconds: float) -> None:
        samples = self._samples.get(name)
        if samples is None:
            samples = self._samples.setdefault(name, deque(maxlen=SAMPLES))
        samples.append(seconds)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """For each kind its p50, p90 and p99, in seconds."""
        figures = {}
        for name, samples in list(self._samples.items()):
            ordered = sorted(samples.copy())
            figures[name] = {f"p{share}": ordered[(len(ordered) - 1) * share // 100] for share in (50, 90, 99)}
        return figures


@dataclass(frozen=True, slots=True)
class VacuumReport:
    """What a vacuum gave back, and what it left."""

    bytes_before: int
    """Size of the file and its log when it began."""
    bytes_after: int
    """The same when it ended; what others wrote meanwhile is in it."""
    vectors: int
    """Dropped, of texts that no memory has or had."""
    purged: int
    """Memories that were erased for good (`deleted_before`)."""
    deleted: int
    """Deleted memories that are still there, for `restore`, `history` and `as_of`."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of the store, then of this process since it opened the store. Durations are in seconds."""

    memories: int
    """Over all owners: visible ones, and expired ones that have not been swept yet."""
    deleted: int
    """By a user, or swept after they expired."""
    vectors: int
    users: int
    """Different values of `user_id` (as far as 10,000), of deleted memories too; likewise `agents` and `runs`."""
    agents: int
    runs: int
    changes: int
    """Number of the last change; it grows with every memory that is added, changed, deleted or embedded later."""
    changed_at: datetime | None
    """When that was; None in an empty store."""
    bytes: int
    """Size of the database file, without its log."""
    log_bytes: int
    """Size of the log beside it, whose parts are used again once they are merged into the file."""
    pending: int
    """Deferred memories whose vector is still to come."""
    pending_seconds: float
    """How long the oldest of them has waited."""
    pending_failed: int
    """Deferred memories that could not be embedded; `check()` names them."""

    model: str
    """The name of the model that this process takes the store's vectors to be of."""
    commits: int
    writes: int
    """Calls that were committed; over `commits` it says how many share one."""
    cache_hits: int
    """Texts found in memory."""
    cache_entries: int
    cache_bytes: int
    shelves: int
    shelf_bytes: int
    shelves_evicted: int
    segments: int
    """Sealed blocks of large owners that the store lists."""
    segment_bytes: int
    """Size of their files."""
    moving_to: str = ""
    """The name of the model that some process is moving the store to, or was when it ended (`Memory.reembed`)."""
    moved: int = 0
    """Vectors that it has of that model, on the way to as many as `vectors`."""
    store_hits: int = 0
    """Texts whose vector the store had, from another process or an earlier life."""
    coalesced: int = 0
    """Texts that were on their way for another caller already."""
    texts: int = 0
    """Texts that went through batches."""
    tokens: int = 0
    """As they were counted when the batches were cut: estimated, a token for 4 characters, for `minilm-static` and for
    an embedder of your own."""
    padded_tokens: int = 0
    batches: int = 0
    largest_batch: int = 0
    failed: int = 0
    dropped: int = 0
    """Texts whose callers gave up before they were run."""
    run_seconds: float = 0.0
    waiting_texts: int = 0
    """In line for the model now."""
    waiting_tokens: int = 0
    oldest_wait_seconds: float = 0.0
    workers: int = 0
    background_errors: dict[str, BackgroundError] = field(default_factory=dict)
    """What failed on threads of the background, such as `embedding deferred memories: EmbeddingError`, by cause. The
    first error of a cause is logged too, as a warning, by a logger below `agentmem`."""
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    """p50, p90 and p99 of the latest `tokenise` (a call), `wait` (the oldest text of a batch in line), `embed` (a
    batch), `commit` (a transaction), `search` (a query, without embedding)."""

    @property
    def padding_ratio(self) -> float:
        """Padded tokens over real ones; 1.0 is no waste."""
        return self.padded_tokens / self.tokens if self.tokens else 1.0

    @property
    def mean_batch(self) -> float:
        """Texts a batch."""
        return self.texts / self.batches if self.batches else 0.0

    @property
    def writes_per_commit(self) -> float:
        """Calls that shared a transaction, and its fsync."""
        return self.writes / self.commits if self.commits else 0.0
