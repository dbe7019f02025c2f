"""Reads every text of a store in pages, in the order of last changes. A text that changes meanwhile comes again at the
end."""

from dataclasses import replace
from typing import Any

from agentmem.records import Scope
from agentmem.storage.sqlite.database.sql import Connection
from agentmem.storage.types import HomeText, Position

PAGE_TEXTS = 256
"""Texts that are read, embedded and kept together."""

PAGE_BYTES = 2_000_000
"""Size beyond which no further text is read into a page."""

LAST_KEY = 2**63 - 1


def next_texts(connection: Connection, position: Position, until: int) -> tuple[list[HomeText], Position, bool]:
    """Returns the texts behind a position, each with its home, the position behind them, and whether there are no more.

    Present texts come first, then those of earlier versions.
    """
    where = "seq <= ? AND vector_key IS NOT NULL ORDER BY seq, key"
    texts: list[HomeText] = []
    # In two steps, because SQLite uses the index only for the first part of (seq, key) > (?, ?). One event may be the
    # last of a million memories.
    for condition, bound in (("seq = ? AND key > ?", (position.seq, position.key)), ("seq > ?", (position.seq,))):
        rows = connection.execute(
            f"SELECT content, user_id, agent_id, run_id, seq, key FROM memory WHERE {condition} AND {where}",
            (*bound, until),
        )
        if place := _take(rows, texts):
            return texts, replace(position, seq=place[0], key=place[1]), False
    position = replace(position, seq=max(position.seq, until), key=LAST_KEY)
    rows = connection.execute(
        "SELECT before ->> '$.content', user_id, agent_id, run_id, history.seq "
        "FROM history CROSS JOIN memory ON memory.key = memory_key "
        "WHERE history.seq > ? AND history.seq <= ? AND before IS NOT NULL ORDER BY history.seq",
        (position.event, until),
    )
    if place := _take(rows, texts):
        return texts, replace(position, event=place[0]), False
    return texts, replace(position, event=max(position.event, until)), True


def _take(rows: Any, texts: list[HomeText]) -> tuple[int, ...] | None:
    """Fills a page from rows that begin with a text and its owners. Returns the rest of the last row when it is full,
    else None."""
    size = sum(len(text) for _, text in texts)
    for text, user_id, agent_id, run_id, *place in rows:
        if isinstance(text, str):
            texts.append((Scope(user_id, agent_id, run_id).home, text))
            size += len(text)
        if len(texts) >= PAGE_TEXTS or size >= PAGE_BYTES:
            return tuple(place)
    return None
