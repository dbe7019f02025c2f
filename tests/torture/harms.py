"""The files of a store are read, copied, removed, moved or replaced while four processes of four threads write into it.

Afterwards every acknowledged write is there, whole, and every refused one is not.
"""

import os
import pickle
import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentmem import Config, Memory
from agentmem.testing import HashEmbedder
from tests.torture.kills import MEMORIES_A_STORE, PROCESSES, Store
from tests.torture.nursery import Nursery
from tests.torture.writers import rows_of, tiny_segments

SIDES = ("-wal", "-shm")

PATIENT = Config(busy_timeout=60)


class Harmed(Store):
    """A store whose writers also read its files now and then, each time dropping SQLite's locks of their process."""

    tolerated = ("ClosedError", "StoreLostError")

    def fill(self) -> None:
        while len(self.writers) < PROCESSES:
            name = self.start(reads=True)
            while not any(token.startswith(f"{name}t") for token in self.ledger.states):
                self.hear(0.002)  # Until it has opened the store.

    def stopped(self, harm: Callable[[], object]) -> None:
        """Does it while all writers stand still, wherever they are."""
        for writer in self.writers.values():
            os.kill(writer.pid, signal.SIGSTOP)
        try:
            harm()
        finally:
            for writer in self.writers.values():
                os.kill(writer.pid, signal.SIGCONT)

    def look_beside(self, *, finish: bool = False) -> dict[str, list[str]]:
        """What a fresh process finds wrong, that opens the store as any process would."""
        self.hear()
        sure, shared = dict(self.ledger.sure), dict(self.ledger.shared)
        child = self._nursery.start(
            "tests.torture.nursery:say_result", "tests.torture.harms:look", (str(self.path), finish)
        )
        try:
            seen = pickle.loads(child.hear_all())
        finally:
            child.wait()
        self.hear()
        lost, half = self.ledger.compare(seen, sure, shared, set())
        problems = seen["problems"] + self.ledger.complaints
        self.ledger.complaints = []
        return {"lost": lost, "half": half, "problems": problems}


def look(path: str, finish: bool) -> dict[str, Any]:
    tiny_segments()
    with Memory(path, embedder=HashEmbedder(), config=PATIENT) as memory:
        memory.count(all_scopes=True)
        seen = rows_of(path)
        seen["problems"] = memory.check()
        if finish:
            memory.flush(60)
            seen["problems"] += memory.check()
    return seen


def read(words: int, path: str) -> None:
    """As a backup agent does: all bytes, a copy of the folder, and a foreign SQLite that opens and closes."""
    for end in ("", *SIDES):
        with suppress(FileNotFoundError):
            Path(path + end).read_bytes()
    copied = Path(path).parent.with_name("copied")
    with suppress(shutil.Error):  # A segment that was listed when it began may have been replaced.
        shutil.copytree(Path(path).parent, copied)
    shutil.rmtree(copied)
    connection = sqlite3.connect(path, timeout=60)
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.close()
    with Memory(path, embedder=HashEmbedder(), config=PATIENT) as memory:
        memory.count(all_scopes=True)
    os.write(words, b"read\n")


def back_up(words: int, path: str, copy: str) -> None:
    Memory(path, embedder=HashEmbedder(), config=PATIENT).backup(copy, overwrite=True)
    os.write(words, b"copied\n")
    os._exit(0)  # Closing would wait for the writers, which stand still.


def harm(store: Harmed, kind: str, chance: random.Random) -> None:
    path, nursery = str(store.path), store.nursery

    def child(function: str, *arguments: str) -> None:
        life = nursery.start(f"tests.torture.harms:{function}", path, *arguments)
        said = life.hear_all()
        assert life.wait() == 0, function
        assert said, function

    def remove(ends: tuple[str, ...]) -> None:
        for end in ends:
            Path(path + end).unlink(missing_ok=True)

    def replace_by_copies() -> None:
        there = [end for end in ("", *SIDES) if Path(path + end).exists()]
        for end in there:
            shutil.copy(path + end, f"{path}.anew{end}")
        for end in there:
            Path(f"{path}.anew{end}").replace(path + end)

    def replace_by_backup() -> None:
        child("back_up", f"{path}.restored")
        Path(f"{path}.restored").replace(path)

    match kind:
        case "read":
            child("read")
        case "log removed":
            remove(SIDES)
        case "half of the log removed":
            remove((chance.choice(SIDES),))
        case "older log":
            if Path(f"{path}-wal").exists():
                shutil.copy(f"{path}-wal", f"{path}.older")
                store.go_on(chance.uniform(0.0, 0.05))
                Path(f"{path}.older").replace(f"{path}-wal")
        case "copies in its place":
            store.stopped(replace_by_copies)
        case "backup in its place":
            store.stopped(replace_by_backup)
        case "copied over in place":
            store.stopped(lambda: Path(path).write_bytes(Path(path).read_bytes()))
        case "moved away and back":
            Path(path).rename(f"{path}.away")
            store.go_on(chance.uniform(0.0, 0.05))
            Path(f"{path}.away").rename(path)
        case "killed amid the removal of the log":
            remove(SIDES)
            name = chance.choice(list(store.writers))
            store.go_on(chance.uniform(0.0, 0.005))
            store.writers[name].kill()
            store.bury(name)


KINDS = [
    "read", "log removed", "half of the log removed", "older log", "copies in its place", "backup in its place",
    "copied over in place", "moved away and back", "killed amid the removal of the log",
]  # fmt: skip


def run(folder: Path, cases: int, seed: int, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """`cases` harms, each kind by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    figures: Counter[str] = Counter()
    failures: list[str] = []

    def note(kind: str, found: dict[str, list[str]]) -> None:
        for name, each in found.items():
            figures[name] += len(each)
            failures.extend(f"harm {figures['harms']} ({kind}): {name}: {one}" for one in each[:5])

    with Nursery() as nursery:
        store: Harmed | None = None
        for number in range(cases):
            kind = kinds[number % len(kinds)]
            if store is None:
                (folder / str(number)).mkdir()
                store = Harmed(nursery, folder / str(number) / "store.db", chance)
            store.fill()
            store.go_on(chance.uniform(0.05, 0.2))
            harm(store, kind, chance)
            store.go_on(chance.uniform(0.05, 0.2))
            figures["harms"] += 1
            note(kind, store.look_beside())
            if len(store.ledger.states) >= MEMORIES_A_STORE or number == cases - 1:
                store.end()
                note("end", store.look_beside(finish=True))
                figures["acknowledged"] += store.ledger.acknowledged
                figures["refused"] += store.ledger.refused
                figures["unknown"] += store.ledger.unknown
                figures["stores"] += 1
                shutil.rmtree(store.path.parent)
                store = None
    return {"seed": seed, **figures, "failures": failures}
