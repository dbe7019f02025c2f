"""Moves a store from one model to another.

The new vectors are gathered in a table beside the old ones, each under the key of the old vector of the same text. So
memories stay untouched. One transaction swaps the tables' names and changes the store's model, which takes milliseconds
whatever the number of memories. Until then all reads and writes use the old vectors. After a crash, the new ones are a
head start.

Changes since then are found by `seq`, as an index finds them. A few memories change while the last page is in the
model. They wait for their vectors afterwards, like deferred ones.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from agentmem.errors import AgentMemError, EmbeddingError, StoreBusyError
from agentmem.platform.failpoints import reach
from agentmem.records import Embedded
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.database.schema import NEXT_VECTOR
from agentmem.storage.sqlite.database.sql import Connection, all_rows, blob_array, integer_array, only_row
from agentmem.storage.sqlite.group_commit import GroupCommit
from agentmem.storage.sqlite.leases import left_of
from agentmem.storage.sqlite.meta import fact, remember, stored_model
from agentmem.storage.sqlite.move_state import move_progress, standing
from agentmem.storage.sqlite.text_pages import next_texts
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import (
    BEGINNING,
    HomeText,
    Move,
    MoveProgress,
    Overtaken,
    Position,
    Standing,
    StoredModel,
    TextPage,
)

CLEARED_TOGETHER = 300
"""Vectors erased in one transaction, while writers wait: some 20 ms on 2 busy cores."""

REFUSED_LIMIT = 1000
"""Most texts that the new model may fail on; a model that fails on more is not one to move to."""


class Moves:
    """A store's move; any thread may call every method.

    Each change is one transaction that belongs to the `holder` of the move, and raises Overtaken when another holder
    has it.
    """

    def __init__(self, database: Database, writes: GroupCommit, holder: str | None) -> None:
        self._database = database
        self._writes = writes
        self._holder = holder

    def take(self, target: StoredModel | None, seconds: float) -> Standing | None:
        """Takes the lease to move the store to `target` (None: to give a move up) for this many seconds.

        Returns None when another holder does just that.

        Raises:
            StoreBusyError: Another holder moves it to another model.
        """

        def apply(transaction: Transaction) -> Standing | None:
            connection = transaction.connection
            held = fact(connection, "mover")
            if held is not None and self._goes_on(held, transaction.moment):
                if target is not None and held["target"] == target.identity:
                    return None
                raise StoreBusyError(
                    f"{self._database.path!r} is being moved to {held['name']!r} by process "
                    f"{held['owner'].partition(':')[0]}; wait until that is done, or end it, and try again."
                )
            self._claim(transaction, target, seconds)
            return standing(connection)

        return self._writes.commit(apply)

    def _goes_on(self, held: dict[str, Any], moment: int) -> bool:
        """Whether a live process other than this one holds the lease."""
        return bool(0 < left_of(held["owner"], held["until"], self._holder or "", moment) <= held["seconds"])

    def _claim(self, transaction: Transaction, target: StoredModel | None, seconds: float) -> None:
        until = transaction.moment + int(seconds * 1e6)
        named = (
            {"target": "", "name": "nothing"} if target is None else {"target": target.identity, "name": target.name}
        )
        claim = {"owner": self._holder, "until": until, "seconds": seconds, **named}
        remember(transaction.connection, "mover", json.dumps(claim))

    def release(self) -> None:
        """Gives the lease back, if it is held."""

        def apply(transaction: Transaction) -> None:
            held = fact(transaction.connection, "mover")
            if held is not None and held["owner"] == self._holder:
                remember(transaction.connection, "mover", None)

        self._writes.commit(apply, Kind.ERASES)

    def _own(self, transaction: Transaction, seconds: float) -> None:
        """Requires the lease and renews it."""
        held = fact(transaction.connection, "mover")
        if held is None or held["owner"] != self._holder:
            raise Overtaken("Another process has taken the move over.")
        held["until"] = transaction.moment + int(seconds * 1e6)
        remember(transaction.connection, "mover", json.dumps(held))

    def _under_way(self, transaction: Transaction, seconds: float) -> tuple[StoredModel, Move]:
        """Returns the store's model and its move to another one, which must be the holder's."""
        self._own(transaction, seconds)
        now = standing(transaction.connection)
        if now.model is None or now.move is None:
            raise Overtaken("The move was given up.")
        return now.model, now.move

    # -- the way there --------------------------------------------------------------------------------------------

    def begin(self, seconds: float, target: StoredModel) -> Move | None:
        """Begins or resumes the move to `target`; returns None for a store without a model, which takes it."""

        def apply(transaction: Transaction) -> Move | None:
            self._own(transaction, seconds)
            connection = transaction.connection
            now = standing(connection)
            if now.model is None:
                remember(connection, "model", target.as_json())
                return None
            if now.move is None:
                reach("reembed: before it begins")
                connection.execute(NEXT_VECTOR)
                remember(connection, "next_model", Move(target).as_json())
                reach("reembed: after it has begun")
            return now.move or Move(target)

        return self._writes.commit(apply)

    def newest(self) -> int:
        """Returns the seq of the last change, up to which a pass goes."""
        newest = partial(only_row, query="SELECT coalesce(max(seq), 0) FROM history")
        return int(self._database.read(newest, one_statement=True)[0])

    def page(self, move: Move, position: Position, until: int) -> TextPage:
        """Returns the next texts behind a position that have a vector and no new one, of changes up to `until`."""

        def page(connection: Connection) -> TextPage:
            current = stored_model(connection)
            texts, after, is_last = next_texts(connection, position, until)
            if current is None or not texts:
                return TextPage([], after, is_last)
            digests = current.digests()
            by_digest = {digests(*text): text for text in texts}
            rows = all_rows(
                connection,
                "SELECT vector.home_digest, vector.key FROM carray(?) AS wanted CROSS JOIN vector "
                "ON vector.home_digest = wanted.value LEFT JOIN next_vector ON next_vector.key = vector.key "
                "WHERE next_vector.key IS NULL ORDER BY vector.key",
                (blob_array(tuple(by_digest)),),
            )
            return TextPage([by_digest[digest] for digest, key in rows if key not in move.refused], after, is_last)

        return self._database.read(page)

    def keep(
        self,
        seconds: float,
        position: Position,
        texts: Sequence[HomeText],
        answers: Sequence[Embedded | AgentMemError],
    ) -> Move:
        """Keeps new vectors and the position of the move. The vector of a text that was erased meanwhile is dropped."""

        def apply(transaction: Transaction) -> Move:
            model, move = self._under_way(transaction, seconds)
            connection = transaction.connection
            digests = model.digests()
            by_digest = {digests(*text): answer for text, answer in zip(texts, answers, strict=True)}
            keys = dict(
                all_rows(
                    connection,
                    "SELECT vector.key, home_digest FROM carray(?) AS wanted "
                    "CROSS JOIN vector ON home_digest = wanted.value "
                    "ORDER BY vector.key",
                    (blob_array(tuple(by_digest)),),
                )
                if by_digest
                else ()
            )
            refused = {key for key, digest in keys.items() if not isinstance(by_digest[digest], Embedded)}
            refused |= set(move.refused)
            if len(refused) > REFUSED_LIMIT:
                raise EmbeddingError(
                    f"{move.model.name!r} fails on more than {REFUSED_LIMIT:,} of the texts; the store stays with "
                    f"{model.name!r}. See to the model and call reembed again, or reembed(None) to give it up."
                )
            rows = [
                (key, answer.digest, answer.vector)
                for key, digest in keys.items()
                if isinstance(answer := by_digest[digest], Embedded)
            ]
            reach("reembed: before new vectors are kept")
            connection.executemany("INSERT OR IGNORE INTO next_vector (key, home_digest, data) VALUES (?, ?, ?)", rows)
            reach("reembed: between new vectors and how far it has come")
            move = replace(move, position=position, refused=tuple(sorted(refused)))
            remember(connection, "next_model", move.as_json())
            reach("reembed: after new vectors are kept")
            return move

        return self._writes.commit(apply)

    def switch(self, seconds: float, position: Position, *, tail: int, complete: bool) -> bool:
        """Makes the new vectors the store's at one moment.

        Does nothing when more than `tail` memories changed behind the position, or, with `complete`, texts were
        replaced there. Afterwards the store refuses old vectors, and memories without a new one wait for it.
        """

        def apply(transaction: Transaction) -> bool:
            model, move = self._under_way(transaction, seconds)
            connection = transaction.connection
            changed = only_row(
                connection,
                "SELECT count(*) FROM (SELECT 1 FROM memory WHERE seq > ? AND vector_key IS NOT NULL LIMIT ?)",
                (position.seq, tail + 1),
            )[0]
            replaced = only_row(
                connection, "SELECT EXISTS (SELECT 1 FROM history WHERE seq > ? AND before IS NOT NULL)",
                (position.event,),
            )[0]  # fmt: skip
            if changed > tail or (complete and replaced):
                return False
            seq = transaction.record_event(0, "reembed", None, transaction.moment)
            reach("reembed: before the models change places")
            _set_pending(connection, seq, position.seq, move.refused)
            connection.execute("ALTER TABLE vector RENAME TO old_vector")
            reach("reembed: between the names of the tables")
            connection.execute("ALTER TABLE next_vector RENAME TO vector")
            remember(connection, "old_model", model.as_json())
            remember(connection, "model", move.model.as_json())
            remember(connection, "next_model", None)
            transaction.moved_to(move.model)
            reach("reembed: after the models have changed places")
            return True

        return self._writes.commit(apply)

    # -- the rest ---------------------------------------------------------------------------------------------------

    def give_up(self, seconds: float) -> bool:
        """Erases some of the new vectors of an unwanted move; False when none is left."""

        def apply(transaction: Transaction) -> bool:
            self._own(transaction, seconds)
            connection = transaction.connection
            move = standing(connection).move
            if move is None:
                return False
            reach("reembed: before a target is given up")
            # From the beginning, in case the same move begins again.
            remember(connection, "next_model", replace(move, position=BEGINNING).as_json())
            return _erase_some(connection, "next_vector", "next_model")

        return self._writes.commit(apply, Kind.ERASES)

    def clear(self, seconds: float = 0.0) -> bool:
        """Erases some vectors of the model before the move; False when none is left. Any process may do this; a mover
        names itself."""

        def apply(transaction: Transaction) -> bool:
            if self._holder is not None:
                self._own(transaction, seconds)
            if not standing(transaction.connection).has_old:
                return False
            reach("reembed: before old vectors are erased")
            return _erase_some(transaction.connection, "old_vector", "old_model")

        return self.has_old() and self._writes.commit(apply, Kind.ERASES)

    def has_old(self) -> bool:
        """Whether there is something to clear."""
        return self._database.read(lambda connection: fact(connection, "old_model") is not None, one_statement=True)

    def progress(self) -> MoveProgress | None:
        """Returns how far the move has come; None without one."""
        return self._database.read(move_progress)


def _set_pending(connection: Connection, seq: int, position: int, refused: tuple[int, ...]) -> None:
    """Makes memories wait for their vectors: those changed behind the position without a new one, and those that either
    model failed on."""
    connection.execute(
        "UPDATE memory SET vector_key = NULL, seq = ? WHERE seq > ? AND vector_key IS NOT NULL "
        "AND vector_key NOT IN (SELECT key FROM next_vector)",
        (seq, position),
    )
    if refused:
        connection.execute(
            "UPDATE memory SET vector_key = NULL, seq = ? WHERE vector_key IN (SELECT value FROM carray(?)) "
            "AND vector_key NOT IN (SELECT key FROM next_vector)",
            (seq, integer_array(refused)),
        )
    connection.execute("UPDATE memory SET vector_error = NULL WHERE vector_error IS NOT NULL")


def _erase_some(connection: Connection, table: str, name: str) -> bool:
    connection.execute(
        f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} ORDER BY key LIMIT ?)", (CLEARED_TOGETHER,)
    )
    if connection.changes() == CLEARED_TOGETHER:
        return True
    reach("reembed: before an empty table is dropped")
    connection.execute(f"DROP TABLE {table}")
    remember(connection, name, None)
    return False
