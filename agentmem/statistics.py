"""Stats: what happened, and how much there is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of the store (`memories` to `bytes`) and of this process since the store was opened (the rest)."""

    memories: int
    deleted: int
    vectors: int
    bytes: int
    commits: int
    writes: int
    cache_hits: int
    store_hits: int
    cache_entries: int
    cache_bytes: int
    shelves: int
    shelf_bytes: int
    shelves_evicted: int
    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0
    largest_batch: int = 0
    coalesced: int = 0
    failed: int = 0
    dropped: int = 0
    run_seconds: float = 0.0
    waiting_texts: int = 0
    waiting_tokens: int = 0
    oldest_wait_seconds: float = 0.0
    workers: int = 0
