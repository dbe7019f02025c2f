"""How long the write-ahead log grows, and when it is merged."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import apsw

from agentmem.storage.sqlite.database.open_files import PAGE_BYTES
from agentmem.storage.sqlite.database.reserve import (
    file_limit,
    free_bytes,
)
from agentmem.storage.sqlite.database.reserve import size_of as _size_of

MERGED_PAGES = 4096
"""Pages (16 MB) that the log grows by until they are merged into the file, as far as no reader needs the older ones, on
a thread that lives as long as this takes: until there are LOG_PAGES, no commit waits for it. Into a store of a million
memories, `add_batch` took 12,298 a second of many owners and 17,386 of one owner a call; where commits merged 8,519 and
13,403, and with thrice the pages 9,629 and 14,607 (medians of 3 alternated rounds, 2 cores)."""

LOG_PAGES = 16_384
"""64 MB: from there on a commit merges what is left, and waits until nobody reads the log, so that it can begin anew.
As long as reads overlap, or commits follow each other without a pause, it never would by itself: beside 32 threads of
four processes it grew to 2.3 GB within half an hour."""

LEAST_LOG_PAGES = 64
"""On a disk that is short of room, the log gets a quarter of what is free or its own, but not less than this; it is
merged whenever it has grown by a quarter of that, and cut."""

LOOK_PAGES = 64
"""How much the log grows between two looks at the free room, of 2 microseconds each."""

LOG_WAIT_MILLISECONDS = 200
"""How long it waits; if that was in vain, it tries again when the log has grown by a quarter."""


def keeper_of_log(
    busy_milliseconds: int,
    merge_aside: Callable[[], bool],
    path: str,
    merging_alone: Callable[[Callable[[], object]], object],
) -> Callable[[apsw.Connection, str, int], int]:
    """What a connection calls after each commit, in place of SQLite's own rule, with the pages in the log."""
    tried = merged = looked = 0
    room = LOG_PAGES

    def keep(connection: apsw.Connection, name: str, pages: int) -> int:
        nonlocal tried, merged, looked, room
        if pages < looked:
            looked = 0  # It began anew.
        if pages >= looked + LOOK_PAGES:
            looked, room = pages, _room_for_log(path)
        limit = min(LOG_PAGES, room)
        if pages < limit:
            tried = 0
        if pages < merged:
            merged = 0
        with suppress(apsw.Error):  # Like SQLite, which takes it up again at the next commit.
            if pages >= limit and pages >= tried * 5 // 4:
                tried = pages
                # Cut where room is short, for whoever else needs it.
                mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if limit < LOG_PAGES else apsw.SQLITE_CHECKPOINT_RESTART
                connection.set_busy_timeout(LOG_WAIT_MILLISECONDS)
                try:
                    merging_alone(partial(connection.wal_checkpoint, name, mode))
                finally:
                    connection.set_busy_timeout(busy_milliseconds)
            elif pages >= merged + min(MERGED_PAGES, limit // 4) and merge_aside():
                merged = pages
        return apsw.SQLITE_OK

    return keep


def _room_for_log(path: str) -> int:
    """How many pages the log may grow to, so that it takes neither the last room of the disk nor that of others."""
    log = _size_of(f"{path}-wal")
    return max(LEAST_LOG_PAGES, min((free_bytes(path) + log) // 4, file_limit() // 2) // PAGE_BYTES)
