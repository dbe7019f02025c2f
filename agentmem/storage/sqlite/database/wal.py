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
"""Pages (16 MB) by which the log grows before a thread merges them into the file, as far as no reader needs older ones.

Below LOG_PAGES no commit waits for it. Into a store of a million memories, `add_batch` took 12,298 a second of many
owners and 17,386 of one owner a call. Where commits merged, it took 8,519 and 13,403, and with thrice the pages 9,629
and 14,607 (medians of 3 alternated rounds, 2 cores).
"""

LOG_PAGES = 16_384
"""64 MB. From there on a commit merges the rest, and waits until no process reads the log, so that it can begin anew.

With overlapping reads, or commits without a pause, it would never begin anew otherwise: beside 32 threads of four
processes it grew to 2.3 GB within half an hour.
"""

LEAST_LOG_PAGES = 64
"""Least pages of the log on a disk that is short of room. There it gets a quarter of the free room and its own. It is
merged and cut whenever it has grown by a quarter of that."""

LOOK_PAGES = 64
"""Growth of the log between two looks at the free room, of 2 microseconds each."""

LOG_WAIT_MILLISECONDS = 200
"""Seconds to wait. If that fails, it tries again when the log has grown by a quarter."""


def keeper_of_log(
    busy_milliseconds: int,
    merge_aside: Callable[[], bool],
    path: str,
    merging_alone: Callable[[Callable[[], object]], object],
) -> Callable[[apsw.Connection, str, int], int]:
    """Replaces SQLite's own rule after each commit; gets the pages in the log."""
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
                # Cut where room is short, for other programs that need it.
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
    """Returns the most pages of the log, so that it takes neither the disk's last room nor that of others."""
    log = _size_of(f"{path}-wal")
    return max(LEAST_LOG_PAGES, min((free_bytes(path) + log) // 4, file_limit() // 2) // PAGE_BYTES)
