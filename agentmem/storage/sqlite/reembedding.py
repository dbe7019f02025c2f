"""A store on its way from one model to another.

The new vectors are gathered in a table beside the old ones, each under the key that the old one of the same text has.
So memories need not be touched: one transaction gives the tables each other's names, and what the store remembers of
its model changes in it; whatever the number of memories, that takes milliseconds. Until then everything reads and
writes the old vectors, and the new ones are only a head start for who takes the move up again after a crash.

What has been changed since is found by `seq`, as a shelf finds it. A handful of memories change while the last page is
on its way through the model: these wait for their vectors afterwards, like deferred ones.
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
"""Vectors that are erased in one transaction, in which writers wait: some 20 ms on 2 busy cores."""

REFUSED_LIMIT = 1000
"""Texts that the new model may fail on; a model that fails on more of them is not one to move to."""


class Moves:
    """The door to a store's move; every method may be called from any thread. Those that change something are each one
    transaction, belong to the `holder` that has taken the move, and raise Overtaken when another has it by now."""

    def __init__(self, database: Database, writes: GroupCommit, holder: str | None) -> None:
        self._database = database
        self._writes = writes
        self._holder = holder

    def take(self, target: StoredModel | None, seconds: float) -> Standing | None:
        """Claims the right to move the store to `target` (None: to give a move up) for so many seconds; None when
        another one is doing just that.

        Raises:
            StoreBusyError: another one is moving it to another model.
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
        """Whether a claim is another one's who is at work."""
        return bool(0 < left_of(held["owner"], held["until"], self._holder or "", moment) <= held["seconds"])

    def _claim(self, transaction: Transaction, target: StoredModel | None, seconds: float) -> None:
        until = transaction.moment + int(seconds * 1e6)
        named = (
            {"target": "", "name": "nothing"} if target is None else {"target": target.identity, "name": target.name}
        )
        claim = {"owner": self._holder, "until": until, "seconds": seconds, **named}
        remember(transaction.connection, "mover", json.dumps(claim))

    def release(self) -> None:
        """Gives the right back, if it is held."""

        def apply(transaction: Transaction) -> None:
            held = fact(transaction.connection, "mover")
            if held is not None and held["owner"] == self._holder:
                remember(transaction.connection, "mover", None)

        self._writes.commit(apply, Kind.ERASES)

    def _own(self, transaction: Transaction, seconds: float) -> None:
        """Insists on the claim and renews it."""
        held = fact(transaction.connection, "mover")
        if held is None or held["owner"] != self._holder:
            raise Overtaken("Another process has taken the move over.")
        held["until"] = transaction.moment + int(seconds * 1e6)
        remember(transaction.connection, "mover", json.dumps(held))

    def _under_way(self, transaction: Transaction, seconds: float) -> tuple[StoredModel, Move]:
        """The store's model and its move to another one, which must be the holder's."""
        self._own(transaction, seconds)
        now = standing(transaction.connection)
        if now.model is None or now.move is None:
            raise Overtaken("The move was given up.")
        return now.model, now.move

    # -- the way there --------------------------------------------------------------------------------------------

    def begin(self, seconds: float, target: StoredModel) -> Move | None:
        """The move to `target`, begun or taken up again; None for a store that has no model yet, which takes it."""

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
        """The seq of the last change, up to which a pass goes."""
        newest = partial(only_row, query="SELECT coalesce(max(seq), 0) FROM history")
        return int(self._database.read(newest, one_statement=True)[0])

    def page(self, move: Move, position: Position, until: int) -> TextPage:
        """The next texts behind a position that have a vector and no new one, of changes up to `until`."""

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
        """Keeps new vectors, and how far the move has come. Of a text that was erased meanwhile nothing is kept."""

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
        """Makes the new vectors the store's, all in one moment, unless more than `tail` memories were changed behind
        the position, or, with `complete`, texts were replaced there. Afterwards nobody's old vectors are taken any
        more, and what has no new one waits for it."""

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

    # -- what is left ---------------------------------------------------------------------------------------------

    def give_up(self, seconds: float) -> bool:
        """Erases some of the new vectors of a move that is not wanted any more; False when none is left of it."""

        def apply(transaction: Transaction) -> bool:
            self._own(transaction, seconds)
            connection = transaction.connection
            move = standing(connection).move
            if move is None:
                return False
            reach("reembed: before a target is given up")
            # From the beginning, should somebody come back to it.
            remember(connection, "next_model", replace(move, position=BEGINNING).as_json())
            return _erase_some(connection, "next_vector", "next_model")

        return self._writes.commit(apply, Kind.ERASES)

    def clear(self, seconds: float = 0.0) -> bool:
        """Erases some vectors of the model that the store had before; False when none is left. Whoever has the store
        open may do this; a mover says who it is."""

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
        """How far the move has come; None when the store is not on one."""
        return self._database.read(move_progress)


def _set_pending(connection: Connection, seq: int, position: int, refused: tuple[int, ...]) -> None:
    """Has memories wait for their vectors: what was changed behind the position and has no new one, what the new model
    failed on, and what the old one had failed on, which may be another's strength."""
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
