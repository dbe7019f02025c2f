"""Which analysis made the terms of a store; they are made anew when it is another one."""

from typing import Any

from agentmem.analyzer import ANALYSIS, stored_terms
from agentmem.errors import StoreReadOnlyError
from agentmem.platform.failpoints import reach
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.sql import Connection, all_rows
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.timestamps import from_microseconds, now, to_microseconds

CHUNK = 1000


def bind_analysis(database: Database) -> None:
    """Remembers the analysis of this version; where the store has the terms of another, makes them anew, all in one
    transaction (some 15 seconds for a million memories). A store that cannot be written keeps what it has."""
    if database.read(_analysis_of) == ANALYSIS:
        return
    try:
        with database.writing() as connection:
            if _analysis_of(connection) not in (None, ANALYSIS):
                reach("open: before the terms are made anew")
                _renew(connection)
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('analysis', ?)", (ANALYSIS,))
    except StoreReadOnlyError:
        return


def _analysis_of(connection: Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'analysis'").fetchone()
    return None if row is None else str(row[0])


def _renew(connection: Connection) -> None:
    transaction = Transaction(connection)
    key = 0
    question = "SELECT key, content, created_at FROM memory WHERE key > ? ORDER BY key LIMIT ?"
    while rows := all_rows(connection, question, (key, CHUNK)):
        key = rows[-1][0]
        # The new seq tells the shelves of other processes; the event is of no memory, since no memory changed. One for
        # each chunk, because segments are ranges of these numbers.
        seq = transaction.record_event(0, "analyse", None, to_microseconds(now()))

        def renew(rows: list[tuple[Any, ...]] = rows, seq: int = seq) -> list[tuple[bytes, int, int]]:
            return [(stored_terms(content, from_microseconds(at)), seq, each) for each, content, at in rows]

        try:
            renewed = renew()
        except SENSELESS as error:
            refuse("What the rows of some memories hold", error, renew)
        connection.executemany("UPDATE memory SET terms = ?, seq = ? WHERE key = ?", renewed)
        reach("open: between the terms made anew")
