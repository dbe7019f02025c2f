"""Reading: everything of one moment, through one read transaction."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agentmem.deadline import Deadline
from agentmem.filters import FieldPath, Filter
from agentmem.records import Event, Record, Scope
from agentmem.storage.sqlite.database.sql import Connection, all_rows, blob_array, is_kept, key_array, only_row
from agentmem.storage.sqlite.deferred import PENDING
from agentmem.storage.sqlite.filter_sql import condition_of, number_of
from agentmem.storage.sqlite.ids import key_of
from agentmem.storage.sqlite.row_codec import RECORD_COLUMNS, SENSELESS, events_of, record_of, refuse
from agentmem.storage.types import NEVER, Keys, ListedSegment, ModelMoved, Owner, States

NOT_DELETED = "memory.deleted_at IS NULL"
# A memory deleted at its expiry or later was deleted by the sweep: by then no call can see it to delete it.
NOT_DELETED_BY_A_USER = "(memory.deleted_at IS NULL OR memory.deleted_at >= memory.expires_at) IS TRUE"


class Snapshot:
    """The store at one moment. Belongs to the thread that opened it, until its `with` block ends."""

    _wanted = "carray(?) AS wanted CROSS JOIN memory ON memory.key = wanted.value"
    """The memories of an array of keys, each of them looked up."""

    _waits = "memory.vector_key IS NULL AND memory.vector_error IS NULL"
    """What a memory satisfies that waits for its vector."""

    _together = 2048
    """Memories whose states are read at once: one statement for each would let go of the GIL and take it back among all
    threads. 13,400 memories at 512, 2,048, 4,096 and all at once took 77, 65, 105 and 111 ms of a loaded machine's
    processor (medians of 7 in a prototype; with a larger page cache 96, 86, 102 and 106)."""

    RECORDS_TOGETHER = 256
    """Records that are read at once, without those that are large: what decodes them keeps the GIL meanwhile."""

    LARGE = 16_384
    """Bytes of content, or of metadata, above which a record is read alone."""

    def __init__(
        self, connection: Connection, moment: int, *, show_expired: bool = False, deadline: Deadline | None = None
    ) -> None:
        self._connection = connection
        self._show_expired = show_expired
        self.deadline = deadline
        self._known_state: tuple[int, bool, str | None, int] | None = None
        self.moment = moment

    @property
    def seq(self) -> int:
        """The number of the last change of any process that this snapshot sees."""
        return self._state()[0]

    @property
    def epoch(self) -> int:
        """A number that grows when another file of the store has taken the place of the one that was open, so that
        nothing which was read before is true of it."""
        return self._connection.epoch

    @property
    def has_pending(self) -> bool:
        """Whether it sees memories, of any owner, that wait for their vectors."""
        return self._state()[1]

    @property
    def model(self) -> str | None:
        """The identity of the model that its vectors are of; None of a store that has no model yet."""
        return self._state()[2]

    @property
    def segments(self) -> int:
        """A number that grows with every change of the list of sealed segments."""
        return self._state()[3]

    def require_model(self, identity: str) -> None:
        """Before vectors that a model made are compared with those of this snapshot.

        Raises:
            ModelMoved: these are of another one.
        """
        if self.model not in (None, identity):
            raise ModelMoved("The store moved to another model meanwhile.")

    def _state(self) -> tuple[int, bool, str | None, int]:
        if self._known_state is None:
            seq, pending, model, segments = only_row(
                self._connection,
                f"SELECT (SELECT max(seq) FROM history), EXISTS (SELECT 1 {PENDING}), "
                "(SELECT value ->> '$.identity' FROM meta WHERE name = 'model'), "
                "(SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'segments')",
            )
            self._known_state = (seq or 0, bool(pending), model, segments or 0)
        return self._known_state

    def listed_segments(self, owner: Owner) -> list[ListedSegment]:
        """The sealed segments of an owner, those of the store's present model, in the order of their ranges."""
        return [] if self.model is None else listed_segments(self._connection, owner, self.model)

    def nth_change(self, owner: Owner, since: int, count: int) -> int | None:
        """The seq of the `count`-th of an owner's undeleted memories by their last change after `since`; None when
        there are fewer."""
        where, bound = _changed(owner, since, NEVER)
        row = self._connection.execute(
            f"SELECT memory.seq FROM memory WHERE {where} AND {NOT_DELETED} ORDER BY memory.seq LIMIT 1 OFFSET ?",
            (*bound, count - 1),
        ).fetchone()
        return None if row is None else int(row[0])

    def live_count(self, owner: Owner, since: int, until: int) -> int:
        """How many of an owner's memories were changed last after `since` and up to `until`, and are not deleted."""
        where, bound = _changed(owner, since, until)
        return int(only_row(self._connection, f"SELECT count(*) FROM memory WHERE {where} AND {NOT_DELETED}", bound)[0])

    def first_pending(self, owner: Owner) -> int | None:
        """The least seq of an owner's memories that wait for their vectors."""
        where, bound = _changed(owner, 0, NEVER)
        seq = only_row(self._connection, f"SELECT min(seq) {PENDING} AND {where}", bound)[0]
        return None if seq is None else int(seq)

    def changed(self, owner: Owner, since: int, until: int = NEVER) -> tuple[Keys, Keys]:
        """Returns what happened after `since` and up to `until`: the keys of erased memories of any owner, and of one
        owner's changed memories.

        An owner is a field and its value; None means all. The changed memories are those whose last change falls there,
        in its order.
        """
        source, parameters = self._source(scope_of(owner))
        where, bound = _changed(owner, since, until)
        # An erased memory has no row, only an event. A new index has nothing of it.
        erased = (
            "SELECT group_concat(memory_key) FROM history WHERE what = 'purge' AND seq > ? AND seq <= ?"
            if since
            else "SELECT nullif(?, ?)"
        )
        gone, changed = only_row(  # As one value each, see _together.
            self._connection,
            f"{source}SELECT ({erased}), "
            f"(SELECT group_concat(key) FROM (SELECT memory.key FROM memory WHERE {where} ORDER BY memory.seq))",
            (*parameters, since, until if since else since, *bound),
        )
        return _numbers(gone), _numbers(changed)

    def states(self, owner: Owner, keys: Keys) -> Iterator[States]:
        """Those of the owner's memories with these keys that are live, some thousands at a time. Reads two pages of the
        file for each memory whose neighbours are others'."""
        for start in range(0, len(keys), self._together):
            if start:
                self._in_time()
            yield self._states(owner, keys[start : start + self._together])

    def _states(self, owner: Owner, keys: Keys) -> States:
        source, parameters = self._source(scope_of(owner))
        live, expires_at = NOT_DELETED, f"coalesce(memory.expires_at, {NEVER})"
        if self._show_expired:
            live, expires_at = NOT_DELETED_BY_A_USER, str(NEVER)
        row = only_row(
            self._connection,
            f"{source}SELECT group_concat(key), group_concat(created_at), group_concat(expires_at), "
            "group_concat(data IS NOT NULL), CAST(group_concat(data, '') AS BLOB), min(length(data)), "
            "max(length(data)), CAST(group_concat(terms, '') AS BLOB), group_concat(length(terms) / 4), "
            "json_group_array(user_id), json_group_array(run_id) FROM ("
            f"SELECT memory.key, memory.created_at, {expires_at} AS expires_at, vector.data, "
            "coalesce(memory.terms, x'') AS terms, memory.user_id, memory.run_id "
            f"FROM {self._wanted} LEFT JOIN vector ON vector.key = memory.vector_key WHERE {live})",
            (*parameters, key_array(keys)),
        )
        return _states_of(row)

    def unembedded(self, owner: Owner, keys: Keys) -> dict[int, str]:
        """The texts of those of the owner's memories that wait for their vectors."""
        if not len(keys):
            return {}
        source, parameters = self._source(scope_of(owner))
        rows = all_rows(
            self._connection,
            f"{source}SELECT memory.key, memory.content FROM {self._wanted} WHERE {self._waits}",
            (*parameters, key_array(keys)),
        )
        return dict(rows)

    def keys(self, scope: Scope, filters: Filter | None, among: Keys | None = None, *, since: int = 0) -> Keys:
        """The keys of the visible memories of a scope (or those among some) that satisfy a filter, in no order; of
        those that changed after `since`."""
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, filters)
        if since:
            where, bound = f"{where} AND memory.seq > ?", (*bound, since)
        memories, named = ("memory", ()) if among is None else (self._wanted, (key_array(among),))
        # As one value: fetching a row alone releases the GIL and waits for it among the other threads.
        query = f"{source}SELECT group_concat(key) FROM (SELECT memory.key FROM {memories} WHERE {where})"
        values = (*parameters, *named, *bound)
        kept = filters is None or is_kept(query, values)
        return _numbers(only_row(self._connection, query, values, kept=kept)[0])

    def numbers(self, keys: Keys, scope: Scope, path: FieldPath) -> dict[int, float]:
        """The number that those of the memories of a scope have which have one at `path` in their metadata."""
        if not len(keys):
            return {}
        field = number_of(path)
        source, parameters = self._source(scope)
        query = f"{source}SELECT memory.key, {field.sql} AS number FROM {self._wanted} WHERE number IS NOT NULL"
        values = (*parameters, *field.parameters, key_array(keys))
        rows = self._connection.execute(query, values, can_cache=is_kept(query, values))
        return {key: float(number) for key, number in rows}

    def records(self, keys: Keys, scope: Scope) -> dict[int, Record]:
        """The records of those keys that are visible in the scope; whatever an index believed, this decides."""
        if not len(keys):
            return {}
        found = self._records(keys[: self.RECORDS_TOGETHER], scope)
        for start in range(self.RECORDS_TOGETHER, len(keys), self.RECORDS_TOGETHER):
            self._in_time()
            found |= self._records(keys[start : start + self.RECORDS_TOGETHER], scope)
        return found

    def _records(self, keys: Keys, scope: Scope) -> dict[int, Record]:
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, None)
        is_large = f"octet_length(content) > {self.LARGE} OR octet_length(metadata) > {self.LARGE}"
        rows = only_row(  # As one value, like the keys.
            self._connection,
            f"{source}SELECT json_group_array(CASE WHEN {is_large} THEN memory.key ELSE json_array({RECORD_COLUMNS}) "
            f"END) FROM {self._wanted} WHERE {where}",
            (*parameters, key_array(keys), *bound),
        )[0]
        try:
            decoded: list[Any] = json.loads(rows)
        except SENSELESS as error:
            refuse("What the rows of some memories hold", error, lambda: json.loads(rows))
        found = {row[0]: record_of(row) for row in decoded if not isinstance(row, int)}
        if len(found) < len(decoded):
            query = f"{source}SELECT {RECORD_COLUMNS} FROM {self._wanted}"
            for key in [row for row in decoded if isinstance(row, int)]:
                self._in_time()
                found[key] = record_of(only_row(self._connection, query, (*parameters, key_array(np.array([key])))))
        return found

    def get(self, id: str, scope: Scope) -> Record | None:
        """The visible memory of a scope with an id. Raises as `key_of` does."""
        key = key_of(self._connection, id, scope)
        if key is None:
            return None
        source, parameters = self._source(scope, key)
        where, bound = self._visible(scope, None)
        row = self._connection.execute(
            f"{source}SELECT {RECORD_COLUMNS} FROM memory WHERE memory.key = ? AND {where}", (*parameters, key, *bound)
        ).fetchone()
        return None if row is None else record_of(row)

    def history(self, id: str, scope: Scope) -> list[Event]:
        """Every event of a memory, deleted or not, oldest first; empty when there is none in this scope. Raises as
        `key_of` does."""
        row = self._connection.execute(
            f"SELECT {RECORD_COLUMNS} FROM memory WHERE memory.key = ?", (key_of(self._connection, id, scope),)
        ).fetchone()
        if row is None:
            return []
        events = self._connection.execute(
            "SELECT seq, what, before, at FROM history WHERE memory_key = ? ORDER BY seq", (row[0],)
        ).fetchall()
        return events_of(events, record_of(row))

    def count(self, scope: Scope, filters: Filter | None) -> int:
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, filters)
        query, values = f"{source}SELECT count(*) FROM memory WHERE {where}", (*parameters, *bound)
        kept = filters is None or is_kept(query, values)
        return int(only_row(self._connection, query, values, kept=kept)[0])

    def scopes(self, scope: Scope, filters: Filter | None) -> list[Scope]:
        """The scopes, exactly, of the visible memories; each once, sorted, an owner that is not named first."""
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, filters)
        query = (
            f"{source}SELECT DISTINCT memory.user_id, memory.agent_id, memory.run_id FROM memory WHERE {where} "
            "ORDER BY 1, 2, 3"
        )
        values = (*parameters, *bound)
        found = []
        for row in self._connection.execute(query, values, can_cache=filters is None or is_kept(query, values)):
            self._in_time()
            found.append(Scope(*row))
        return found

    def page(
        self,
        scope: Scope,
        filters: Filter | None,
        *,
        newest_first: bool,
        after: tuple[int, int] | None,
        limit: int,
    ) -> list[tuple[tuple[int, int], Record]]:
        """Visible memories by `created_at` and key, which never tie, each with its position; `after` a position."""
        source, parameters = self._source(scope)
        where, bound = self._visible(scope, filters)
        direction, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        if after is not None:
            where += f" AND (memory.created_at, memory.key) {beyond} (?, ?)"
            bound = (*bound, *after)
        query = (
            f"{source}SELECT memory.created_at, {RECORD_COLUMNS} FROM memory WHERE {where} "
            f"ORDER BY memory.created_at {direction}, memory.key {direction} LIMIT ?"
        )
        values = (*parameters, *bound, limit)
        found = []
        for row in self._connection.execute(query, values, can_cache=filters is None or is_kept(query, values)):
            self._in_time()
            found.append(((row[0], row[1]), record_of(row[1:])))
        return found

    def _in_time(self) -> None:
        """Between two statements, or two rows. Raises DeadlineError when the time is over."""
        if self.deadline is not None:
            self.deadline.check()

    def _source(self, scope: Scope, key: int | None = None) -> tuple[str, tuple[Any, ...]]:
        """What stands before a query on the memories of a scope (or the one with a key), and its parameters: nothing,
        when they are read as they are."""
        return "", ()

    def _visible(self, scope: Scope, filters: Filter | None) -> tuple[str, tuple[Any, ...]]:
        return visible(scope, filters, self.moment, show_expired=self._show_expired)


def _changed(owner: Owner, since: int, until: int) -> tuple[str, tuple[Any, ...]]:
    """What a memory satisfies that is an owner's and was changed last between two numbers."""
    parts = [*(f"memory.{name} = ?" for name, _ in scope_of(owner).owners()), "memory.seq > ? AND memory.seq <= ?"]
    return " AND ".join(parts), (*(value for _, value in scope_of(owner).owners()), since, until)


def listed_segments(connection: Connection, owner: Owner, model: str) -> list[ListedSegment]:
    rows = all_rows(
        connection,
        "SELECT key, first, last, places, file, bytes, checksum, has_graph FROM segment "
        "WHERE field IS ? AND name IS ? AND model = ? ORDER BY first",
        (*(owner or (None, None)), model),
    )
    return [ListedSegment(*row) for row in rows]


def scope_of(owner: Owner) -> Scope:
    return Scope() if owner is None else Scope(**{owner[0]: owner[1]})


def _numbers(joined: Any) -> Keys:
    """Whole numbers from what `group_concat` made of them."""
    return np.fromstring("" if joined is None else str(joined), np.int64, sep=",")


def _states_of(row: tuple[Any, ...]) -> States:
    try:
        return _decoded(row)
    except SENSELESS as error:
        refuse("What the rows of some memories hold", error, lambda: _decoded(row))


def _decoded(row: tuple[Any, ...]) -> States:
    keys, created_at, expires_at, embedded, vectors, least, most, terms, term_counts, users, runs = row
    if least != most:
        raise ValueError(f"vectors of {least} and of {most} bytes")
    states = States(
        _numbers(keys),
        _numbers(created_at),
        _numbers(expires_at),
        _numbers(embedded).astype(np.bool_),
        np.frombuffer(vectors or b"", "<f2"),
        np.frombuffer(terms or b"", "<u4"),
        _numbers(term_counts),
        list(zip(json.loads(users), json.loads(runs), strict=True)),
    )
    columns = (states.created_at, states.expires_at, states.embedded, states.term_counts, states.runs)
    if any(len(column) != len(states.keys) for column in columns):  # What is NULL is left out of what is joined.
        raise ValueError("rows that lack a value")
    if len(states.terms) != states.term_counts.sum():
        raise ValueError("terms of a wrong length")
    return states


def visible(
    scope: Scope, filters: Filter | None, moment: int, *, show_expired: bool = False
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
    if filters is not None:
        condition = condition_of(filters)
        parts.append(condition.sql)
        parameters.extend(condition.parameters)
    return " AND ".join(parts), tuple(parameters)


def known_vectors(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, bytes]:
    """The stored vectors of those digests, where there are any."""
    rows = all_rows(
        connection,
        "SELECT home_digest, data FROM carray(?) AS wanted CROSS JOIN vector ON home_digest = wanted.value",
        (blob_array(tuple(digests)),),
    )
    return dict(rows)
