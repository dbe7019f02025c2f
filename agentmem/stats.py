"""Stats: what happened, and how much there is."""

import logging
from collections import deque
from dataclasses import dataclass
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
class StoreStats:
    """Counts of the store, whichever process made them; the last two are of this process."""

    memories: int = 0
    """Visible memories of all owners, and expired ones that are not swept yet."""
    deleted: int = 0
    """Memories deleted by a call, or swept after they expired."""
    vectors: int = 0
    users: int = 0
    """Different values of `user_id` (up to 10,000), of deleted memories too; likewise `agents` and `runs`."""
    agents: int = 0
    runs: int = 0
    changes: int = 0
    """Number of the last change. It grows with every memory that is added, changed, deleted or embedded later."""
    changed_at: datetime | None = None
    """Time of the last change; None in an empty store."""
    bytes: int = 0
    """Size of the database file, without its log."""
    log_bytes: int = 0
    """Size of the log beside it. Its parts are used again once they are merged into the file."""
    pending: int = 0
    """Deferred memories without a vector yet."""
    pending_seconds: float = 0.0
    """Age of the oldest of them."""
    pending_failed: int = 0
    """Deferred memories that could not be embedded; `check()` names them."""
    segments: int = 0
    """Segments of large owners that the store lists."""
    segment_bytes: int = 0
    """Size of their files."""
    moving_to: str = ""
    """Name of the model that a process is moving the store to, or was when it ended (`Memory.reembed`)."""
    moved: int = 0
    """Vectors of that model so far, on the way to `vectors`."""
    commits: int = 0
    """Transactions of this process."""
    writes: int = 0
    """Calls of this process that were committed."""

    @property
    def writes_per_commit(self) -> float:
        """Returns how many calls shared a transaction, and its fsync."""
        return self.writes / self.commits if self.commits else 0.0


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    """Work of this process's model since it opened the store. Durations are in seconds."""

    model: str
    """Name of the model that this process takes the store's vectors to be of."""
    cache_hits: int
    """Texts found in memory."""
    cache_entries: int
    cache_bytes: int
    store_hits: int = 0
    """Texts whose vector the store had, from another process or an earlier one."""
    coalesced: int = 0
    """Texts that were already being embedded for another caller."""
    texts: int = 0
    """Texts that went through batches."""
    tokens: int = 0
    """Their tokens, as counted when the batches were formed. For `minilm-static` and for an embedder of yours they are
    estimated, a token for 4 characters."""
    padded_tokens: int = 0
    batches: int = 0
    largest_batch: int = 0
    failed: int = 0
    dropped: int = 0
    """Texts whose callers gave up before they were run."""
    run_seconds: float = 0.0
    refined_a_second: float = 0.0
    """Pending memories that the background gave their vectors lately."""
    waiting_texts: int = 0
    """Texts that wait for the model now."""
    waiting_tokens: int = 0
    oldest_wait_seconds: float = 0.0
    workers: int = 0

    @property
    def padding_ratio(self) -> float:
        """Returns padded tokens over real ones; 1.0 is no waste."""
        return self.padded_tokens / self.tokens if self.tokens else 1.0

    @property
    def mean_batch(self) -> float:
        """Returns the texts of a batch."""
        return self.texts / self.batches if self.batches else 0.0


@dataclass(frozen=True, slots=True)
class SearchStats:
    """The owners' indexes that this process holds in memory."""

    indexes: int
    """Owners whose index is in memory."""
    index_bytes: int
    indexes_evicted: int
    """Indexes that made room for others since the store was opened."""


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """What this process met since it opened the store."""

    background_errors: dict[str, BackgroundError]
    """The latest failure of each cause on background threads, such as `embedding deferred memories: EmbeddingError`.
    A logger below `agentmem` also logs the first error of a cause, as a warning."""
    timings: dict[str, dict[str, float]]
    """p50, p90 and p99 of the latest durations, in seconds. The kinds are `tokenise` (a call), `wait` (the oldest text
    of a batch), `embed` (a batch) and `commit` (a transaction). `search` is a query without its embedding."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of a store, and of this process's work since it opened the store, in four groups."""

    store: StoreStats
    embedding: EmbeddingStats
    search: SearchStats
    process: ProcessStats
