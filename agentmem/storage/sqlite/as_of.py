"""The store as it was known at an instant, reconstructed from the history.

An instant means the state after the last event, in the order of `seq`, whose `at` is not later. As long as the clock
only goes forward, these are exactly the events committed by then. When it was put back by an hour, the instants of that
hour were passed twice and mean the second time; what was committed under a clock that was ahead belongs to every state
after it, however early the clock was set afterwards.

Memories that have not changed since are read from their rows. Of the others, the last event up to then says whether
they were there or hidden, and the first one afterwards that replaced a version holds the version of then.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agentmem.analyzer import stored_terms
from agentmem.deadline import Deadline
from agentmem.ids import Home
from agentmem.records import Scope
from agentmem.storage.sqlite.database.sql import Connection, all_rows, key_array
from agentmem.storage.sqlite.row_codec import SENSELESS, refuse
from agentmem.storage.sqlite.snapshot import Snapshot, known_vectors, scope_of
from agentmem.storage.types import Digest, Keys, States
from agentmem.timestamps import from_microseconds

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

    # What a query makes of the table first is not looked through anew for each of the keys, or of their thousands.
    _wanted = "(SELECT * FROM memory WHERE key IN (SELECT value FROM carray(?))) AS memory"
    _together = sys.maxsize
    _waits = "memory.vector_key IS NULL"

    def __init__(
        self,
        connection: Connection,
        moment: int,
        digest_of: Digest,
        *,
        show_expired: bool = False,
        deadline: Deadline | None = None,
    ) -> None:
        super().__init__(connection, moment, show_expired=show_expired, deadline=deadline)
        self._digest_of = digest_of
        last = connection.execute(
            "SELECT seq FROM history WHERE at <= ? ORDER BY seq DESC LIMIT 1", (moment,)
        ).fetchone()
        self._until = 0 if last is None else last[0]

    def _states(self, owner: tuple[str, str] | None, keys: Keys) -> States:
        """With vectors and terms of the texts that were replaced since."""
        states = super()._states(owner, keys)
        replaced = self._replaced(owner, states.keys)
        if not replaced:
            return states
        digests = {key: self._digest_of(home, text) for key, (home, text, _) in replaced.items()}
        known = known_vectors(self._connection, list(set(digests.values())))
        all_terms = np.split(states.terms, np.cumsum(states.term_counts)[:-1])

        def as_it_was() -> tuple[list[bytes], list[bytes]]:
            have_vectors = iter(np.split(states.vectors, max(1, int(np.count_nonzero(states.embedded)))))
            vectors: list[bytes] = []
            terms: list[bytes] = []
            for key, embedded, own in zip(states.keys.tolist(), states.embedded.tolist(), all_terms, strict=True):
                if key in replaced:
                    self._in_time()
                    _, text, created_at = replaced[key]
                    vectors.append(known.get(digests[key], b""))
                    terms.append(stored_terms(text, from_microseconds(created_at)))
                else:
                    vectors.append(next(have_vectors).tobytes() if embedded else b"")
                    terms.append(own.tobytes())
            return vectors, terms

        try:
            vectors, terms = as_it_was()
        except SENSELESS as error:
            refuse("What the history holds of some memories", error, as_it_was)
        return replace(
            states,
            embedded=np.array([bool(vector) for vector in vectors]),
            vectors=np.frombuffer(b"".join(vectors), "<f2"),
            terms=np.frombuffer(b"".join(terms), "<u4"),
            term_counts=np.array([len(each) // 4 for each in terms], np.int64),
        )

    def _replaced(self, owner: tuple[str, str] | None, keys: Keys) -> dict[int, tuple[Home, str, int]]:
        """Those of the memories whose text was another one than now: the home, the text and the time of each."""
        if not len(keys):
            return {}
        source, parameters = self._source(scope_of(owner))
        rows = all_rows(
            self._connection,
            f"{source}SELECT memory.key, memory.content, memory.created_at, user_id, agent_id, run_id "
            f"FROM {self._wanted} WHERE terms IS NULL",
            (*parameters, key_array(keys)),
        )
        return {key: (Scope(*owners).home, text, at) for key, text, at, *owners in rows}

    def _source(self, scope: Scope, key: int | None = None) -> tuple[str, tuple[Any, ...]]:
        named: Sequence[tuple[str, Any]] = scope.owners() if key is None else [("key", key)]
        narrowed = "".join(f" AND {name} = ?" for name, _ in named)
        values = tuple(value for _, value in named)
        until = self._until
        return _AS_IT_WAS.format(narrowed=narrowed), (until, *values, until, until, until, *values)
