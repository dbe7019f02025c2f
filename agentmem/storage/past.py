"""The store as it was known at an instant, reconstructed from the history.

An instant means the state after the last event, in the order of `seq`, whose `at` is not later. As long as the clock
only goes forward, these are exactly the events committed by then. When it was put back by an hour, the instants of that
hour were passed twice and mean the second time; what was committed under a clock that was ahead belongs to every state
after it, however early the clock was set afterwards.

Memories that have not changed since are read from their rows. Of the others, the last event up to then says whether
they were there or hidden, and the first one afterwards that replaced a version holds the version of then.
"""

from collections.abc import Callable
from typing import Any

from agentmem.records import Scope, from_microseconds
from agentmem.storage.database import Connection
from agentmem.storage.rows import SENSELESS, senseless
from agentmem.storage.snapshot import Snapshot, known_vectors
from agentmem.terms import stored_terms

_AS_IT_WAS = """WITH memory AS (
    SELECT key, id, user_id, agent_id, run_id, role, created_at, updated_at, expires_at, deleted_at, vector_key, seq,
        terms, metadata, content
    FROM main.memory WHERE seq <= ?{narrowed}
    UNION ALL
    SELECT key, id, user_id, agent_id, run_id, role, created_at,
        iif(replaced.seq IS NULL, updated_at, replaced.before ->> '$.updated_at'),
        iif(replaced.seq IS NULL, expires_at, replaced.before ->> '$.expires_at'),
        iif(latest.what IN ('delete', 'expire'), latest.at, NULL),
        iif(replaced.seq IS NULL OR replaced.before ->> '$.content' = content, vector_key, NULL),
        latest.seq,
        iif(replaced.seq IS NULL OR replaced.before ->> '$.content' = content, terms, NULL),
        iif(replaced.seq IS NULL, metadata, replaced.before -> '$.metadata'),
        iif(replaced.seq IS NULL, content, replaced.before ->> '$.content')
    FROM main.memory AS present
    JOIN history AS latest ON latest.seq =
        (SELECT max(seq) FROM history WHERE memory_key = present.key AND seq <= ?)
    LEFT JOIN history AS replaced ON replaced.seq =
        (SELECT min(seq) FROM history WHERE memory_key = present.key AND seq > ? AND before IS NOT NULL)
    WHERE present.seq > ?{narrowed}
) """
"""Stands before a query and takes the place of the table, so that every filter and every rule of what may be seen
applies to the state of then."""


class PastSnapshot(Snapshot):
    """The store at one past moment, as seen from now.

    Opening it reads the events since then, newest first (some 0.1 microseconds each); a query reads what belongs to its
    scope. Vectors are never changed, so that those of replaced texts are still there, under the digest of the text,
    unless a deferred text was replaced before it was embedded; terms are made anew.
    """

    _terms = "coalesce(memory.terms, memory.content)"

    def __init__(
        self, connection: Connection, moment: int, digest_of: Callable[[str], bytes], *, show_expired: bool = False
    ) -> None:
        super().__init__(connection, moment, show_expired=show_expired)
        self._digest_of = digest_of
        last = connection.execute(
            "SELECT seq FROM history WHERE at <= ? ORDER BY seq DESC LIMIT 1", (moment,)
        ).fetchone()
        self._until = 0 if last is None else last[0]

    def _completed(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """With vectors and terms for the texts that stand where their terms should."""
        digests = {row[5]: self._digest_of(row[5]) for row in rows if isinstance(row[5], str)}
        vectors = known_vectors(self._connection, list(digests.values())) if digests else {}
        try:
            return [
                (*row[:4], vectors.get(digests[row[5]]), stored_terms(row[5], from_microseconds(row[2])), *row[6:])
                if isinstance(row[5], str)
                else row
                for row in rows
            ]
        except SENSELESS as error:
            raise senseless("What the history holds of some memories", error) from error

    def _source(self, scope: Scope, id: str | None = None) -> tuple[str, tuple[Any, ...]]:
        named = scope.owners() if id is None else [("id", id)]
        narrowed = "".join(f" AND {name} = ?" for name, _ in named)
        values = tuple(value for _, value in named)
        until = self._until
        return _AS_IT_WAS.format(narrowed=narrowed), (until, *values, until, until, until, *values)
