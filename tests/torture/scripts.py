"""The scripts for failing calls: twenty of them, each for another corner of the store.

A script gets a `Play`, whose steps report beforehand what they are about to change and afterwards the outcome. The
store is compared with these reports. A step that gets an error of agentmem counts as refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from agentmem import AgentMemError, Config, Memory
from agentmem.storage.sqlite import expiry
from agentmem.storage.sqlite.database import wal
from agentmem.testing import HashEmbedder
from tests.earlier import turn_back
from tests.forgery import forge
from tests.torture.writers import Writer

TRIES = 2
"""How often a store that does not open is opened."""

FLUSH_SECONDS = 5.0

OPERATIONS = 8


class Play:
    """One run of a script."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.memory: Memory | None = None
        self.other: Memory | None = None
        self.spoken: list[bytes] = []
        self.refused: list[str] = []
        self.wrong: list[str] = []
        self.copies: list[tuple[Path, int]] = []  # What was copied, and how much had been spoken by then.
        self._seed = seed
        self._writer: Writer | None = None

    # -- before the calls fail ------------------------------------------------------------------------------------

    def prepare(self, change: Callable[[Writer], None] | None = None) -> None:
        """Makes the store, with what `change` does in it."""
        with Memory(self.path, embedder=HashEmbedder()) as memory:
            if change is not None:
                change(self._author(memory))

    # -- while they fail ------------------------------------------------------------------------------------------

    def open(self, **settings: Any) -> Memory | None:
        """None when it is refused every time."""
        for _ in range(TRIES):
            try:
                return Memory(self.path, embedder=HashEmbedder(), config=Config(busy_timeout=0.2, **settings))
            except AgentMemError as error:
                self._refuse(error)
        return None

    def begin(self, **settings: Any) -> bool:
        """Opens the store for what is to be done next; whether it could be."""
        if self.memory is None:
            self.memory = self.open(**settings)
        return self.memory is not None

    def end(self) -> None:
        if self.memory is not None:
            memory, self.memory = self.memory, None
            memory.close()

    def do(self, *names: str, through: Memory | None = None, **options: Any) -> None:
        """What the writer does under these names, one after the other."""
        for name in names:
            if (memory := through or self.memory) is not None:
                writer = self._author(memory)
                writer.attempt(lambda writer=writer, name=name: getattr(writer, name)(**options))

    def ask(self, question: Callable[[Memory], Any]) -> Any:
        """Its answer, None when it is refused."""
        if self.memory is None:
            return None
        try:
            return question(self.memory)
        except AgentMemError as error:
            self._refuse(error)
            return None

    def expect(self, question: Callable[[Memory], Any], answer: Any) -> None:
        """Refused, or right."""
        got = self.ask(lambda memory: (question(memory),))
        if got not in (None, (answer,)):
            self.wrong.append(f"answered {got} instead of {answer}")

    def _author(self, memory: Memory) -> Writer:
        self._writer = self._writer or Writer(memory, self.spoken.append, 0, "p", self._seed)
        self._writer.memory = memory
        return self._writer

    def _refuse(self, error: AgentMemError) -> None:
        self.refused.append(f"{type(error).__name__}: {error}")


def mixed(play: Play) -> None:
    """Whatever comes, in two sessions."""
    for last in (False, True):
        if play.begin() and play.memory is not None:
            play._author(play.memory).work(OPERATIONS // 2)
        if not last:
            play.end()


def adds(play: Play) -> None:
    play.begin()
    for _ in range(6):
        play.do("add", how="plain")


def batches(play: Play) -> None:
    play.begin()
    for size in (1, 2, 40, 130):
        play.do("add_batch", size=size, defer=False)


def a_batch_larger_than_the_page_cache(play: Play) -> None:
    """So that SQLite writes pages of it before the commit, and has to take them back."""
    apsw.connection_hooks.append(lambda connection: connection.pragma("cache_size", 8))
    play.begin()
    play.do("add_batch", size=16, defer=False, padding=" and so on" * 100)
    play.do("add", how="plain")


def deferred_and_flushed(play: Play) -> None:
    play.begin()
    for _ in range(2):
        play.do("add", how="defer")
        play.do("add_batch", size=5, defer=True)
        play.ask(lambda memory: memory.flush(FLUSH_SECONDS))


def updates(play: Play) -> None:
    play.begin()
    play.do("add", how="plain")
    play.do(*["update"] * 8)


def deleted_and_restored(play: Play) -> None:
    play.begin()
    play.do("add", "add", how="plain")
    play.do(*["delete", "restore"] * 4)


def deleted_together(play: Play) -> None:
    play.begin()
    for size in (3, 30):
        play.do("add_batch", size=size, defer=False)
        play.do("forget")


def purges(play: Play) -> None:
    play.begin()
    play.do("add", "add", "add", how="plain")
    play.do("update", "purge", "add", "purge")


def backups(play: Play) -> None:
    play.begin()
    for number in range(3):
        play.do("add", "add", how="plain")
        copy = play.path.with_name(f"copy-{number}.db")
        if play.ask(lambda memory, copy=copy: memory.backup(copy)) is not None:
            play.copies.append((copy, len(play.spoken)))
        elif copy.exists():
            play.wrong.append("a copy that was refused stands there")


def repairs(play: Play) -> None:
    """Of a healthy store, in two sessions."""
    play.begin()
    play.do("add", "add", how="plain")
    play.ask(Memory.repair)
    play.do("add", "update")
    play.end()
    if play.begin():
        play.ask(Memory.repair)
        play.do("add", how="plain")


def two_handles(play: Play) -> None:
    play.begin()
    play.other = play.open()
    for _ in range(4):
        play.do("add", "update")
        play.do("add", "delete", "update", through=play.other)


def opened_again_and_again(play: Play) -> None:
    for _ in range(4):
        play.begin()
        play.do("add")
        play.end()
    play.begin()


def migrated_from_an_older_schema(play: Play) -> None:
    play.begin()
    play.do("add", "update")


def made_an_older_one(play: Play) -> None:
    play.prepare(lambda writer: [writer.attempt(writer.add) for _ in range(5)] and None)
    turn_back(play.path)
    forge(play.path, "UPDATE meta SET value = 'of old' WHERE name = 'analysis'")


def indexed_anew(play: Play) -> None:
    play.begin(indexed_metadata=("n", "topic"))
    play.do("add", "update")
    play.end()
    if play.begin(indexed_metadata=("n",)):
        play.do("add")


def expired_and_swept(play: Play) -> None:
    expiry.SWEEP_PAUSE = 0
    play.begin()
    for _ in range(5):
        play.do("add", how="ttl")
        play.do("add", how="plain")


def stored_once(play: Play) -> None:
    play.begin()
    play.do(*["dedupe"] * 5, "add", *["dedupe"] * 5)


def checkpoints(play: Play) -> None:
    """Every commit merges the log into the file."""
    wal.MERGED_PAGES = 1
    play.begin()
    for _ in range(4):
        play.do("add_batch", size=20, defer=False, padding=" and so on" * 30)
        play.do("update", "delete", "restore", "add")


def filled(play: Play) -> None:
    play.prepare(
        lambda writer: [writer.memory.add(f"and this is {n} of ten", user_id="ben") for n in range(10)] and None
    )


def only_read(play: Play) -> None:
    play.begin()
    for _ in range(2):
        play.expect(lambda memory: memory.count(user_id="ben"), 10)
        play.expect(lambda memory: len(memory.get_all(user_id="ben").records), 10)
        play.expect(
            lambda memory: memory.search("and this is 7 of ten", user_id="ben")[0].record.content[-8:], "7 of ten"
        )
        play.expect(
            lambda memory: [event.what for event in memory.history(memory.get_all(user_id="ben").records[0].id)],
            ["add"],
        )
        play.ask(lambda memory: memory.stats().store.memories)
        play.ask(Memory.check)


def closed_amid_deferred_work(play: Play) -> None:
    for _ in range(3):
        play.begin()
        play.do("add", "add", how="defer")
        play.do("add_batch", size=6, defer=True)
        play.end()


@dataclass(frozen=True)
class Script:
    """`prepare` makes the store before any call fails; without it, every other seed begins with an empty one."""

    name: str
    run: Callable[[Play], None]
    prepare: Callable[[Play], None] | None = None


_NAMED = [
    Script("adds", adds),
    Script("batches", batches),
    Script("a batch larger than the page cache", a_batch_larger_than_the_page_cache),
    Script("deferred and flushed", deferred_and_flushed),
    Script("updates", updates),
    Script("deleted and restored", deleted_and_restored),
    Script("deleted together", deleted_together),
    Script("purges", purges),
    Script("backups", backups),
    Script("repairs", repairs),
    Script("two handles", two_handles),
    Script("opened again and again", opened_again_and_again),
    Script("migrated from an older schema", migrated_from_an_older_schema, made_an_older_one),
    Script("indexed anew", indexed_anew),
    Script("expired and swept", expired_and_swept),
    Script("stored once", stored_once),
    Script("checkpoints", checkpoints),
    Script("only read", only_read, filled),
    Script("closed amid deferred work", closed_amid_deferred_work),
]


def script(number: int) -> Script:
    """The first is a mixture, then each corner alone, then further mixtures."""
    if 0 < number <= len(_NAMED):
        return _NAMED[number - 1]
    return Script(f"mixture {number}", mixed)
