"""The tortured processes: four threads that report what they are about to do, do it, and report that it was done.

A line of words is a JSON list: ["i", thread, [[token, state], ...]] before a change, ["a", thread, ids] after it and
before anything else, ["r", thread, error] when it was refused, ["u", thread] when the outcome is unknown. The token is
the first word of a content and names its memory. Its state is what must be visible of it: content, metadata, whether it
is deleted, its events, whether its vector may still be to come, whether it may have expired.
"""

import fcntl
import json
import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from agentmem import AgentMemError, Config, Memory, OutcomeUnknownError
from agentmem.search.segments import builder as sealing
from agentmem.search.segments import candidates as large
from agentmem.storage.sqlite.database.vfs import checked_vfs
from agentmem.testing import HashEmbedder
from tests import failpoints
from tests.forgery import forge
from tests.torture.nursery import PIPE_BYTES

WORDS = [
    "prefers", "window", "seats", "hates", "flying", "tea", "coffee", "every", "morning", "works", "from", "Lisbon",
    "on", "Tuesdays", "nuts", "cello",
]  # fmt: skip

SHARED_TEXTS = 40
"""Texts that all writers add with dedupe=True."""

SEGMENT = 20

State = tuple[str, dict[str, Any], bool, tuple[str, ...], bool, bool]


class Writer:
    """One thread's work. No other thread changes its memories, so it knows what becomes of them."""

    def __init__(
        self, memory: Memory, say: Callable[[bytes], Any], thread: int, name: str, seed: int, *, erases: bool = False
    ) -> None:
        self.memory = memory
        self.erases = erases  # Often, and gives the space back in every way.
        self._say = say
        self._thread = thread
        self._name = name
        self._chance = random.Random(f"{seed}/{name}/{thread}")
        self._number = 0
        self._about: list[str] = []  # The tokens of the change that goes on.
        self._single: dict[str, tuple[str, State]] = {}  # token -> id, state
        self._groups: dict[str, dict[str, State]] = {}  # run -> token -> state

    def say(self, *words: Any) -> None:
        if words[0] == "i":
            self._about = [token for token, _ in words[1]]
        self._say((json.dumps([words[0], self._thread, *words[1:]]) + "\n").encode())

    def work(self, operations: int | None) -> None:
        kinds = [
            self.add, self.add_batch, self.update, self.delete, self.restore, self.forget, self.dedupe, self.find,
            self.vacuum, self.purge,
        ]  # fmt: skip
        weights = [40, 12, 12, 10, 8, 3, 12, 3, 12 if self.erases else 2, 12 if self.erases else 0]
        while operations is None or operations > 0:
            operations = None if operations is None else operations - 1
            self._number += 1
            self.attempt(self._chance.choices(kinds, weights)[0])
            if self.memory._engine._closed:
                return

    def attempt(self, change: Callable[[], None]) -> None:
        """Does it, and says what became of it."""
        try:
            change()
        except OutcomeUnknownError:
            self.say("u")
            for token in self._about:
                self._single.pop(token, None)
        except AgentMemError as error:
            self.say("r", f"{type(error).__name__}: {error}")

    def _content(self, token: str) -> str:
        return f"{token} {' '.join(self._chance.choices(WORDS, k=self._chance.randint(1, 12)))}"

    def _token(self) -> str:
        self._number += 1
        return f"{self._name}t{self._thread}n{self._number}"

    def add(self, how: str | None = None) -> None:
        token = self._token()
        content, metadata = self._content(token), {"n": self._number}
        how = how or self._chance.choices(["plain", "defer", "ttl"], [60, 30, 10])[0]
        state = (content, metadata, False, ("add",), how == "defer", how == "ttl")
        self.say("i", [[token, state]])
        record = self.memory.add(
            content, user_id="ana", agent_id=self._name, metadata=metadata,
            id=f"id-{token}" if self._chance.random() < 0.3 else None,
            defer=how == "defer", ttl=0.001 if how == "ttl" else None,
        )  # fmt: skip
        self.say("a", [record.id])
        if how != "ttl":
            self._single[token] = record.id, state

    def add_batch(self, size: int | None = None, defer: bool | None = None, padding: str = "") -> None:
        run = self._token()
        defer = self._chance.random() < 0.3 if defer is None else defer
        states: dict[str, State] = {}
        for _ in range(size or self._chance.randint(2, 9)):
            token = self._token()
            states[token] = (self._content(token) + padding, {}, False, ("add",), defer, False)
        self.say("i", list(states.items()))
        records = self.memory.add_batch([state[0] for state in states.values()], run_id=run, defer=defer)
        self.say("a", [record.id for record in records])
        self._groups[run] = states

    def _changed(self, token: str, state: State, change: Any) -> None:
        self.say("i", [[token, state]])
        key = self._single[token][0]
        change(key)
        self.say("a", [key])
        self._single[token] = key, state

    def _some(self, *, deleted: bool) -> tuple[str, State] | None:
        there = [(token, state) for token, (_, state) in self._single.items() if state[2] is deleted]
        return self._chance.choice(there) if there else None

    def update(self) -> None:
        if some := self._some(deleted=False):
            token, (content, metadata, _, events, pending, _) = some
            metadata = metadata | {"n": -self._number}
            new = self._content(token) if self._chance.random() < 0.6 else None
            state = (new or content, metadata, False, (*events, "update"), pending and new is None, False)
            self._changed(token, state, lambda key: self.memory.update(key, new, metadata=metadata))

    def delete(self) -> None:
        if some := self._some(deleted=False):
            token, (content, metadata, _, events, pending, _) = some
            state = (content, metadata, True, (*events, "delete"), pending, False)
            self._changed(token, state, self.memory.delete)

    def restore(self) -> None:
        if some := self._some(deleted=True):
            token, (content, metadata, _, events, pending, _) = some
            state = (content, metadata, False, (*events, "restore"), pending, False)
            self._changed(token, state, self.memory.restore)

    def forget(self) -> None:
        if self._groups:
            run = self._chance.choice(list(self._groups))
            states = {
                token: (content, metadata, True, (*events, "delete"), pending, False)
                for token, (content, metadata, _, events, pending, _) in self._groups.pop(run).items()
            }
            self.say("i", list(states.items()))
            self.memory.delete_all(run_id=run)
            self.say("a", [])

    def purge(self) -> None:
        """Not like the others: one that fails may have erased all the same, and says so."""
        if some := self._some(deleted=False) or self._some(deleted=True):
            token = some[0]
            self.say("i", [[token, None]])
            key = self._single.pop(token)[0]
            try:
                self.memory.purge(key)
            except AgentMemError:
                self.say("u")
            else:
                self.say("a", [key])

    def dedupe(self) -> None:
        text = f"shared{self._chance.randrange(SHARED_TEXTS)} {' '.join(WORDS[:5])}"
        self.say("i", [])
        record = self.memory.add(text, user_id="shared", dedupe=True, defer=self._chance.random() < 0.3)
        self.say("a", [record.id, text])

    def vacuum(self) -> None:
        self.say("i", [])
        self.memory.vacuum(full=self.erases and self._chance.random() < 0.5)
        self.say("a", [])

    def find(self) -> None:
        if some := self._some(deleted=False):
            self.say("i", [])
            [match] = self.memory.search(some[1][0], user_id="ana", agent_id=self._name, limit=1, mode="vector")
            self.say("a", [])
            if match.record.content != some[1][0]:
                self.say("wrong", some[0], match.record.content)


def tiny_segments() -> None:
    """Has a process seal few memories, and search them by their graphs."""
    sealing.SEGMENT, sealing.RETRY_SECONDS = SEGMENT, 0.1
    large.ALL_OF, large.GRAPH_COST = 0, 0.0


def write(
    words: int,
    path: str,
    name: str,
    seed: int,
    armed: tuple[str, int] | None,
    durability: Any,
    closes: bool,
    reads: bool = False,
) -> None:
    """Four threads write until they are killed, or until `close` after a few operations each. With `reads`, another
    reads the files of the store all the time, which drops SQLite's locks of the process."""
    fcntl.fcntl(words, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    tiny_segments()
    indexed = None
    if armed is not None:
        failpoints.arm(armed[0], failpoints.kill, after=armed[1])
        indexed = ("n", f"k{name}") if "index" in armed[0] else None
        if "made anew" in armed[0]:
            forge(path, "UPDATE meta SET value = 'of old' WHERE name = 'analysis'")  # As an older version would.
        if "backlog" in armed[0]:
            forge(path, "DELETE FROM meta WHERE name = 'backlog'")  # Or the claim of a dead one stands a minute.
    config = Config(durability=durability, busy_timeout=60, indexed_metadata=indexed)
    memory = Memory(path, embedder=HashEmbedder(), config=config)
    if armed is not None and "unused vectors" in armed[0]:
        memory.add("and one of which another vector is made, that nobody uses", user_id="ana")
        forge(path, "INSERT INTO vector (home_digest, data) SELECT randomblob(16), data FROM vector LIMIT 1")
    erases = armed is not None and "vacuum" in armed[0]
    writers = [Writer(memory, partial(os.write, words), thread, name, seed, erases=erases) for thread in range(4)]
    if reads:
        threading.Thread(target=read_files, args=(path,), daemon=True).start()
    for writer in writers:
        threading.Thread(target=writer.work, args=(3 if closes and writer is writers[0] else None,)).start()
    if closes:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join(0.05)
        memory.close()
    threading.Event().wait()


def read_files(path: str) -> None:
    while True:
        for end in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(path + end).read_bytes()
        threading.Event().wait(0.005)


def open_only(words: int, path: str, armed: tuple[str, int]) -> None:
    """Makes a store, and dies at it."""
    failpoints.arm(armed[0], failpoints.kill, after=armed[1])
    Memory(path, embedder=HashEmbedder()).close()
    os.write(words, b"opened\n")


def rows_of(path: str) -> dict[str, Any]:
    """Everything that the tables say, of one moment, read past agentmem; of a store without tables nothing."""
    connection = apsw.Connection(path, vfs=checked_vfs())  # Closing, it merges the log, and pages get their checksums.
    connection.set_busy_timeout(60_000)
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'history'").fetchone():
        connection.close()
        return {"rows": [], "seqs": []}
    with connection:
        events: dict[int, list[str]] = {}
        for key, what in connection.execute("SELECT memory_key, what FROM history ORDER BY seq"):
            events.setdefault(key, []).append(what)
        rows = connection.execute(
            "SELECT key, id, content, coalesce(json(metadata), '{}'), deleted_at IS NOT NULL, vector_key IS NOT NULL, "
            "expires_at IS NOT NULL, user_id FROM memory"
        ).fetchall()
        numbers = [row[0] for row in connection.execute("SELECT seq FROM history ORDER BY seq")]
    connection.close()
    return {
        "rows": [
            (name, content, json.loads(metadata), bool(deleted), tuple(events.get(key, ())), bool(vector), user)
            for key, name, content, metadata, deleted, vector, _, user in rows
        ],
        "seqs": numbers,
    }


def look(path: str, texts: list[tuple[str, str]], finish: bool = False) -> dict[str, Any]:
    """Returns what a fresh process finds: the rows, then the findings of `check`, then the texts (user, text) that the
    search does not find.

    At the finish it also has the number of memories that never get their vectors.
    """
    seen = rows_of(path)
    tiny_segments()
    with Memory(path, embedder=HashEmbedder(), config=Config(busy_timeout=60)) as memory:
        seen["problems"] = memory.check()
        seen["unfound"] = []
        for _ in range(2 if finish else 0):  # Seals the rest, and then searches in that.
            memory.search("anything", user_id="ana")
            memory._engine.index_cache.seal()
        for user, text in texts:
            matches = memory.search(text, user_id=user, limit=1, mode="vector")
            if [match.record.content for match in matches] != [text]:
                seen["unfound"].append(text)
        if finish:
            memory.flush(60)
            memory.add("and it goes on", user_id="ben")
            seen["pending"] = memory.stats().store.pending
            seen["problems"] += memory.check()
    return seen
