"""Reading: everything of one moment, through one read transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agentmem.filters import Condition
from agentmem.records import Record, Scope
from agentmem.storage.database import Connection, all_rows, blob_array, key_array, only_row
from agentmem.storage.pending import PENDING
from agentmem.storage.rows import RECORD_COLUMNS, SENSELESS, record_of, senseless

NEVER = 2**63 - 1
"""`expires_at` of what does not expire, in arrays."""

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of an owner's memories since some `seq`, each in its latest state, in the order of their `seq`.

    Attributes:
        keys: int64 (n,); a key appears once. Erased ones come first, whosever they were.
        live: bool (n,); False for deleted and erased memories.

    The other attributes are of the live ones only, in order:
        created_at, expires_at: int64, microseconds; NEVER when there is none.
        vectors: the float16 bytes; None while they are still to come, or when they never will.
        terms: the uint32 bytes.
        runs: the user and the run, or None of what belongs to no run.
    """

    keys: Keys
    live: npt.NDArray[np.bool_]
    created_at: Keys
    expires_at: Keys
    vectors: list[bytes | None]
    terms: list[bytes]
    runs: list[tuple[str | None, str] | None]


NOT_DELETED = "memory.deleted_at IS NULL"
# What was deleted at its expiry or later was deleted by the sweep: by then nobody else can see it to delete.
NOT_DELETED_BY_A_USER = "(memory.deleted_at IS NULL OR memory.deleted_at >= memory.expires_at) IS TRUE"


class Snapshot:
    """The store at one moment. Belongs to the thread that opened it, until its `with` block ends."""

    def __init__(self, connection: Connection, moment: int, *, show_expired: bool = False) -> None:
        self._connection = connection
        self._show_expired = show_expired
        self._known_state: tuple[int, bool] | None = None
        self.moment = moment

    _terms = "coalesce(memory.terms, x'')"
    """What reads the terms of a memory."""

    @property
    def seq(self) -> int:
        """The number of the last change of any process that this snapshot sees."""
        return self._state()[0]

    @property
    def has_pending(self) -> bool:
        """Whether it sees memories, of anybody, that wait for their vectors."""
        return self._state()[1]

    def _state(self) -> tuple[int, bool]:
        if self._known_state is None:
            seq, pending = only_row(
                self._connection, f"SELECT (SELECT max(seq) FROM history), EXISTS (SELECT 1 {PENDING})"
            )
            self._known_state = (seq or 0, bool(pending))
        return self._known_state

    def changes(self, owner: tuple[str, str] | None, since: int) -> Changes:
        """What changed for one owner (a field and its value; None: for everybody) after `since`."""
        source, parameters = self._source(Scope() if owner is None else Scope(**{owner[0]: owner[1]}))
        where, bound = "memory.seq > ?", list[Any]((since,))
        if owner is not None:
            where, bound = f"memory.{owner[0]} = ? AND {where}", [owner[1], since]
        live, expires_at = NOT_DELETED, f"coalesce(memory.expires_at, {NEVER})"
        if self._show_expired:
            live, expires_at = NOT_DELETED_BY_A_USER, str(NEVER)
        rows = all_rows(
            self._connection,
            f"{source}SELECT memory.key, {live}, memory.created_at, {expires_at}, vector.data, "
            f"{self._terms}, memory.user_id, memory.run_id "
            f"FROM memory LEFT JOIN vector ON vector.key = memory.vector_key WHERE {where} ORDER BY memory.seq",
            (*parameters, *bound),
        )
        rows = self._completed(rows)
        # Of what was erased there is no row, only an event; a shelf that begins has nothing of it.
        erased = all_rows(
            self._connection, "SELECT memory_key FROM history WHERE what = 'purge' AND seq > ?", (since,)
        ) if since else []  # fmt: skip
        rows = [*((key, False) for (key,) in erased), *rows]
        alive = [row for row in rows if row[1]]
        try:
            return Changes(
                np.array([row[0] for row in rows], np.int64),
                np.array([row[1] for row in rows], np.bool_),
                np.array([row[2] for row in alive], np.int64),
                np.array([row[3] for row in alive], np.int64),
                [row[4] for row in alive],
                [row[5] for row in alive],
                [None if row[7] is None else (row[6], row[7]) for row in alive],
            )
        except SENSELESS as error:
            raise senseless("What the rows of some memories hold", error) from error

    def keys(self, scope: Scope, condition: Condition | None) -> Keys:
        """The keys of the visible memories of a scope that satisfy a filter, in no order."""
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, condition)
        # As one value: every row that is fetched by itself lets go of the GIL and waits for it among the other threads.
        query = f"{source}SELECT group_concat(key) FROM (SELECT memory.key FROM memory WHERE {where})"
        keys = only_row(self._connection, query, (*parameters, *bound))[0]
        return np.fromstring("" if keys is None else str(keys), np.int64, sep=",")

    def numbers(self, keys: Keys, scope: Scope, field: Condition) -> dict[int, float]:
        """The number that those of the memories of a scope have which have one at `field` (see `filters.number_at`)."""
        if not len(keys):
            return {}
        source, parameters = self._source(scope)
        rows = self._connection.execute(
            f"{source}SELECT memory.key, {field.sql} AS number FROM carray(?) AS wanted "
            "CROSS JOIN memory ON memory.key = wanted.value WHERE number IS NOT NULL",
            (*parameters, *field.parameters, key_array(keys)),
        )
        return {key: float(number) for key, number in rows}

    def records(self, keys: Keys, scope: Scope) -> dict[int, Record]:
        """The records of those keys that are visible in the scope; whatever an index believed, this decides."""
        if not len(keys):
            return {}
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, None)
        rows = only_row(  # As one value, like the keys.
            self._connection,
            f"{source}SELECT json_group_array(json_array({RECORD_COLUMNS})) FROM carray(?) AS wanted "
            f"CROSS JOIN memory ON memory.key = wanted.value WHERE {where}",
            (*parameters, key_array(keys), *bound),
        )[0]
        try:
            decoded = json.loads(rows)
        except SENSELESS as error:
            raise senseless("What the rows of some memories hold", error) from error
        return {row[0]: record_of(row) for row in decoded}

    def get(self, id: str, scope: Scope) -> Record | None:
        source, parameters = self._source(scope, id)
        where, bound = self._visible(scope, None)
        row = self._connection.execute(
            f"{source}SELECT {RECORD_COLUMNS} FROM memory WHERE memory.id = ? AND {where}", (*parameters, id, *bound)
        ).fetchone()
        return None if row is None else record_of(row)

    def count(self, scope: Scope, condition: Condition | None) -> int:
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, condition)
        query = f"{source}SELECT count(*) FROM memory WHERE {where}"
        return int(only_row(self._connection, query, (*parameters, *bound))[0])

    def listing(
        self,
        scope: Scope,
        condition: Condition | None,
        *,
        newest_first: bool,
        after: tuple[int, int] | None,
        limit: int,
    ) -> list[tuple[tuple[int, int], Record]]:
        """Visible memories by `created_at` and key, which never tie, each with its position; `after` a position."""
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, condition)
        direction, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        if after is not None:
            where += f" AND (memory.created_at, memory.key) {beyond} (?, ?)"
            bound = (*bound, *after)
        rows = self._connection.execute(
            f"{source}SELECT memory.created_at, {RECORD_COLUMNS} FROM memory WHERE {where} "
            f"ORDER BY memory.created_at {direction}, memory.key {direction} LIMIT ?",
            (*parameters, *bound, limit),
        )
        return [((row[0], row[1]), record_of(row[1:])) for row in rows]

    def _completed(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows of `changes` with what the tables do not have."""
        return rows

    def _source(self, scope: Scope, id: str | None = None) -> tuple[str, tuple[Any, ...]]:
        """What stands before a query on the memories of a scope (or the one with an id), and its parameters: nothing,
        when they are read as they are."""
        return "", ()

    def _visible(self, scope: Scope, condition: Condition | None) -> tuple[str, tuple[Any, ...]]:
        return visible(scope, condition, self.moment, show_expired=self._show_expired)


def visible(
    scope: Scope, condition: Condition | None, moment: int, *, show_expired: bool = False
) -> tuple[str, tuple[Any, ...]]:
    """The one definition of what a caller may see: of the scope, not deleted, not expired (unless asked for), passing
    the filter."""
    parts = [f"memory.{name} = ?" for name, _ in scope.owners()]
    parameters: list[Any] = [value for _, value in scope.owners()]
    if show_expired:
        parts.append(NOT_DELETED_BY_A_USER)
    else:
        parts.append(f"{NOT_DELETED} AND (memory.expires_at IS NULL OR memory.expires_at > ?)")
        parameters.append(moment)
    if condition is not None:
        parts.append(condition.sql)
        parameters.extend(condition.parameters)
    return " AND ".join(parts), tuple(parameters)


def known_vectors(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, bytes]:
    """The stored vectors of those digests, where there are any."""
    rows = all_rows(
        connection,
        "SELECT digest, data FROM carray(?) AS wanted CROSS JOIN vector ON vector.digest = wanted.value",
        (blob_array(tuple(digests)),),
    )
    return dict(rows)
