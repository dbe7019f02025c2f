"""Finds the pages of a store's file that are not as they were written, empty ones included.

The file is read past SQLite's locks, while others write. So a page may be read amid its write, and after a power cut it
may be torn, which the log heals. A suspicious page is merged from the log first and read again. It counts when it is
wrong each time, and the log holds no replacement.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from agentmem.progress import Tell, each
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.errors import DatabaseError
from agentmem.storage.sqlite.database.open_files import file_at
from agentmem.storage.sqlite.database.page_reader import Pages
from agentmem.storage.sqlite.database.raw_files import raw_file
from agentmem.storage.sqlite.database.sql import Connection, only_row
from agentmem.storage.sqlite.database.vfs import checksum_is_wrong, has_checksums, is_checked

LOOKS = 4
"""How often a page is read before it counts as damaged."""

PAUSE_SECONDS = 0.005
"""Pause between two reads: some thousand times the writing of a page."""

NAMED = 20
"""Most pages that a sentence names."""


def damaged_pages(database: Database, connection: Connection, tell: Tell) -> list[int]:
    """Returns the pages with a wrong checksum, in order; none for a store without checksums. The connection must be
    outside a transaction."""
    if database.in_memory or not is_checked(connection):
        return []
    size = connection.pragma("page_size")
    count = only_row(connection, "PRAGMA page_count")[0]
    numbers = each(range(1, count + 1), tell, "pages", count)
    suspects = [page for page in numbers if checksum_is_wrong(connection, page, size)]
    merged = 0
    for _ in range(LOOKS):
        if not suspects:
            return []
        with suppress(DatabaseError):  # A store that cannot be written has no log that matters.
            merged = max(0, only_row(connection, "PRAGMA wal_checkpoint(PASSIVE)")[2])
        threading.Event().wait(PAUSE_SECONDS)
        suspects = [page for page in suspects if checksum_is_wrong(connection, page, size)]
    if not suspects:
        return []
    with pages_at(database.path) as pages:
        return [page for page in suspects if pages.is_merged(page, merged)]


@contextmanager
def pages_at(path: str) -> Iterator[Pages]:
    """The pages of the file at a path, and of the log beside it."""
    with ExitStack() as stack:
        file = stack.enter_context(raw_file(path))
        log = stack.enter_context(raw_file(path + "-wal")) if file_at(path + "-wal") else None
        yield Pages(file, log)


def tables_of(connection: Connection, pages: list[int]) -> dict[int, str]:
    """Returns what the pages belong to, as far as the trees of the tables, read in spite of their checksums, still
    tell."""
    wanted, found = set(pages), dict[int, str]()
    with suppress(DatabaseError):
        found.update(row for row in connection.execute("SELECT pageno, name FROM dbstat") if row[0] in wanted)
    return found


def page_problems(database: Database, connection: Connection, tell: Tell) -> list[str]:
    """Returns a sentence when there are such pages. From then on, the connection reads in spite of checksums."""
    if not is_checked(connection) and has_checksums(connection):
        return ["the database file is damaged: its header does not say that its pages have checksums."]
    pages = damaged_pages(database, connection, tell)
    connection.pragma("checksum_verification", "OFF")
    if not pages:
        return []
    tables = tables_of(connection, pages)
    named = [f"{page} ({tables.get(page, 'of no table that can be told')})" for page in pages]
    return [f"the database file is damaged: {numbered(named)} {'has' if len(pages) == 1 else 'have'} a wrong checksum."]


def numbered(pages: list[int] | list[str]) -> str:
    """ "page 7", or "3 pages (7, 8, 9)"."""
    if len(pages) == 1:
        return f"page {pages[0]}"
    more = ", ..." if len(pages) > NAMED else ""
    return f"{len(pages):,} pages ({', '.join(map(str, pages[:NAMED]))}{more})"
