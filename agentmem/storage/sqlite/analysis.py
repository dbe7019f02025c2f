"""The analysis that made the terms of a store; another version of it rebuilds them."""

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
    """Remembers the analysis of this version. Rebuilds all terms, in one transaction, where the store has those of
    another.

    That takes some 15 seconds for a million memories. A store that cannot be written keeps its terms.
    """
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
        # The new seq tells the indexes of other processes. The event belongs to no memory, since no memory changed.
        # There is one for each chunk, because segments are ranges of these numbers.
        seq = transaction.record_event(0, "analyse", None, to_microseconds(now()))

        def renew(rows: list[tuple[Any, ...]] = rows, seq: int = seq) -> list[tuple[bytes, int, int]]:
            return [(stored_terms(content, from_microseconds(at)), seq, each) for each, content, at in rows]

        try:
            renewed = renew()
        except SENSELESS as error:
            refuse("What the rows of some memories hold", error, renew)
        connection.executemany("UPDATE memory SET terms = ?, seq = ? WHERE key = ?", renewed)
        reach("open: between the terms made anew")
