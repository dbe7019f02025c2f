"""A write transaction: new memories are gathered and written together, everything else as it comes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentmem.errors import AgentMemError
from agentmem.ids import Home
from agentmem.platform.failpoints import reach
from agentmem.records import Draft, Embedded, Scope
from agentmem.storage.sqlite.database.sql import Connection, blob_array, integer_array, only_row
from agentmem.storage.sqlite.meta import stored_model
from agentmem.storage.sqlite.row_codec import twin_of
from agentmem.storage.types import UNKNOWN, ModelMoved, StoredModel
from agentmem.timestamps import now, to_microseconds

GATHERED_LIMIT = 1000
"""New memories that are gathered before they are written, so that a long batch stays small in memory."""


ROWS_A_STATEMENT = (128, 64, 32, 16, 8, 4, 2, 1)
"""Rows that an INSERT takes at once: any number is few statements, of so few kinds that each stays prepared."""


KEPT_ROWS_BYTES = 1 << 20
"""Of texts and vectors that such a statement may keep for the next time, as apsw has it: it keeps the values too."""


class Transaction:
    """Belongs to the thread that leads the commit. `connection` shows everything that was done before, the gathered
    memories included; `moment` is the transaction's, in microseconds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.moment = to_microseconds(now())
        self._drafts: list[Draft] = []
        self._embedded: list[Embedded | None] = []
        self._indexed = 0  # How many of the drafts stand in _by_text.
        self._by_text: dict[tuple[Scope, str], Draft] = {}
        self._last_event: tuple[int, int, str, int] | None = None
        self._terms: list[bytes] = []
        self._model: StoredModel | None = None  # Once it was asked for, and there was one.

    def require_model(self, identity: str) -> None:
        """Before vectors that a model made are stored.

        Raises:
            ModelMoved: the store's are of another one.
        """
        model = self._stored_model()
        if model is not None and model.identity != identity:
            raise ModelMoved("The store moved to another model meanwhile.")

    def digest_of(self, home: Home, text: str) -> bytes:
        """Under which a home's vector of a text stands, if it has one."""
        return (self._stored_model() or UNKNOWN).digests()(home, text)

    def moved_to(self, model: StoredModel) -> None:
        """Called after giving the store another model in this transaction, in which other writes may follow."""
        self._model = model

    def _stored_model(self) -> StoredModel | None:
        if self._model is None:
            self._model = stored_model(self._connection)
        return self._model

    @property
    def connection(self) -> Connection:
        self.flush()
        return self._connection

    @property
    def stored(self) -> Connection:
        """The same without the gathered memories, which stay gathered."""
        return self._connection

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Of what the block does nothing stays when it raises one of our errors; what was done before stays. (Any other
        error spoils the transaction as a whole.)"""
        connection, last_event = self.connection, self._last_event
        connection.execute("SAVEPOINT together")
        try:
            yield
        except AgentMemError:
            self._forget_gathered()
            self._last_event = last_event
            connection.execute("ROLLBACK TO together")
            connection.execute("RELEASE together")
            raise
        self.flush()
        connection.execute("RELEASE together")

    def gathered(self, scope: Scope, content: str) -> Draft | None:
        """The first gathered memory of exactly this scope and text that has not expired."""
        # Indexed when first asked, so that adding without deduplication does not pay for it.
        for draft in self._drafts[self._indexed :]:
            if not draft.expired(self.moment):
                self._by_text.setdefault((draft.scope, draft.content), draft)
        self._indexed = len(self._drafts)
        return self._by_text.get((scope, content))

    def insert(self, draft: Draft, embedded: Embedded | None, terms: bytes) -> None:
        """Adds a new memory with its event, its terms and its vector (None: it is deferred). Its id must be known to be
        free."""
        self._drafts.append(draft)
        self._embedded.append(embedded)
        self._terms.append(terms)
        if len(self._drafts) >= GATHERED_LIMIT:
            self.flush()

    def record_event(self, memory_key: int, what: str, before: str | None, at: int) -> int:
        """Appends to the history and returns the event's `seq`."""
        self.connection.execute(
            "INSERT INTO history (memory_key, what, before, at) VALUES (?, ?, ?, ?)", (memory_key, what, before, at)
        )
        seq = self._connection.last_insert_rowid()
        self._last_event = (seq, memory_key, what, at)
        reach("rows: after an event")
        return seq

    def hide(self, what: str, where: str, parameters: tuple[Any, ...]) -> int:
        """Makes every memory that satisfies the condition (ORDER BY and LIMIT may follow) a deleted one, each with an
        event of this name; how many they were."""
        connection = self.connection
        start = only_row(connection, "SELECT coalesce(max(seq), 0) FROM history")[0]
        connection.execute(
            f"INSERT INTO history (memory_key, what, at) SELECT memory.key, ?, ? FROM memory WHERE {where}",
            (what, self.moment, *parameters),
        )
        hidden = connection.changes()
        if hidden:
            reach("rows: between the events and the memories that they hide")
            connection.execute(
                "UPDATE memory SET deleted_at = ?, seq = event.seq FROM history AS event "
                "WHERE event.seq > ? AND event.memory_key = memory.key",
                (self.moment, start),
            )
            seq, key = only_row(connection, "SELECT seq, memory_key FROM history ORDER BY seq DESC LIMIT 1")
            self._last_event = (seq, key, what, self.moment)
        return hidden

    def went_through(self, connection: Connection) -> bool:
        """Whether another connection sees what this transaction did. Every change has an event; without one, nothing
        was changed that could not be changed again."""
        if self._last_event is None:
            return False
        row = connection.execute(
            "SELECT seq, memory_key, what, at FROM history WHERE seq = ?", (self._last_event[0],)
        ).fetchone()
        return row == self._last_event

    def vector_keys(self, embedded: Sequence[Embedded | bytes]) -> list[int | None]:
        """The keys of the vectors, which are stored unless the store has them; of a digest alone, the key that it has,
        or None."""
        connection = self._connection
        wanted = [entry if isinstance(entry, bytes) else entry.digest for entry in embedded]
        digests = tuple(set(wanted))
        # All in one row, see _insert_rows.
        last, known = only_row(
            connection,
            "SELECT (SELECT coalesce(max(key), 0) FROM vector), json_group_object(hex(home_digest), key) "
            "FROM carray(?) AS wanted CROSS JOIN vector ON vector.home_digest = wanted.value",
            (blob_array(digests),),
        )
        keys: dict[bytes, int] = {bytes.fromhex(digest): key for digest, key in json.loads(known).items()}
        new = {each.digest: each.vector for each in embedded if isinstance(each, Embedded) and each.digest not in keys}
        if new:
            rows = [(number, *pair) for number, pair in enumerate(new.items(), start=last + 1)]
            reach("rows: before the vectors")
            _insert_rows(connection, "INSERT INTO vector (key, home_digest, data) VALUES", "(?, ?, ?)", rows)
            reach("rows: after the vectors")
            keys |= {digest: number for number, digest, _ in rows}
        return [keys.get(digest) for digest in wanted]

    def flush(self) -> None:
        """Writes the gathered memories, in the order in which they came.

        Keys and `seq` are known beforehand, because both only grow and this transaction is the only writer.
        """
        if not self._drafts:
            return
        drafts, embedded, terms = self._drafts, self._embedded, self._terms
        self._forget_gathered()
        connection = self._connection
        key, seq = only_row(
            connection,
            "SELECT coalesce(max(seq) FILTER (WHERE name = 'memory'), 0), "
            "coalesce(max(seq) FILTER (WHERE name = 'history'), 0) FROM sqlite_sequence",
        )
        vectors = self.vector_keys(
            [
                self.digest_of(draft.scope.home, draft.content) if entry is None else entry
                for draft, entry in zip(drafts, embedded, strict=True)
            ]
        )
        twins = [twin_of(draft.scope, draft.content) for draft in drafts]
        soles = self._make_room(drafts, twins)
        rows = []
        columns = zip(drafts, vectors, twins, terms, strict=True)
        for offset, (draft, vector_key, twin, words) in enumerate(columns, start=1):
            sole = 1 if soles.get(twin) is draft else None
            rows.append((*_columns(draft), vector_key, key + offset, seq + offset, twin, sole, words))
        self._last_event = (seq + len(rows), key + len(rows), "add", self.moment)
        reach("rows: before the events")
        connection.execute(
            "INSERT INTO history (memory_key, what, at, seq) SELECT value, 'add', ?, value + ? FROM carray(?)",
            (self.moment, seq - key, integer_array(range(key + 1, key + 1 + len(rows)))),
        )
        reach("rows: before the memories")
        _insert_rows(
            connection,
            "INSERT INTO memory (id, user_id, agent_id, run_id, role, content, metadata, created_at, updated_at, "
            "expires_at, vector_key, key, seq, twin, sole, terms) VALUES",
            "(?, ?, ?, ?, ?, ?, jsonb(?), ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        reach("rows: after the memories")

    def _forget_gathered(self) -> None:
        self._drafts, self._embedded, self._terms, self._by_text, self._indexed = [], [], [], {}, 0

    def _make_room(self, drafts: Sequence[Draft], twins: Sequence[int]) -> dict[int, Draft]:
        """Returns the drafts that become the sole holders of their text and scope.

        An earlier holder is deleted or expired, or has another text by chance, and gives that up; likewise among the
        drafts.
        """
        soles = {twin: draft for draft, twin in zip(drafts, twins, strict=True) if draft.dedupe}
        if soles:
            self._connection.execute(
                "UPDATE memory SET sole = NULL WHERE sole = 1 AND twin IN (SELECT value FROM carray(?))",
                (integer_array(soles),),
            )
        return soles


def _insert_rows(connection: Connection, head: str, places: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts many rows with few statements. Each step of a statement lets go of the GIL and takes it back, which wakes
    a waiting thread for nothing: row by row, that costs as much as the insertion itself when 50 threads add."""
    start = 0
    for size in ROWS_A_STATEMENT:
        while len(rows) - start >= size:
            values = [value for row in rows[start : start + size] for value in row]
            kept = sum([len(value) for value in values if isinstance(value, (str, bytes))]) <= KEPT_ROWS_BYTES
            connection.execute(f"{head} {', '.join([places] * size)}", values, can_cache=kept)
            start += size


def _columns(draft: Draft) -> tuple[Any, ...]:
    scope = draft.scope
    return (
        draft.id, scope.user_id, scope.agent_id, scope.run_id, draft.role, draft.content, draft.metadata_json,
        to_microseconds(draft.created_at), to_microseconds(draft.updated_at),
        None if draft.expires_at is None else to_microseconds(draft.expires_at),
    )  # fmt: skip
