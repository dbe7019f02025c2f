"""Full volumes: several processes add until a small file system has no room left.

Some of them are killed, or another program takes the rest. Then every acknowledged memory is there, deleting works, and
erasing makes adds work again.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from agentmem import AgentMemError, Config, Memory, Record, StoreFullError
from agentmem.testing import HashEmbedder
from tests.torture.nursery import ROOT

SIZES = (12, 30, 60, 150)
"""Megabytes of the volumes."""

PROCESSES = 3

SECONDS = 300.0
"""After which a writer counts as hung."""

DELETIONS = 300

EMBEDDER = HashEmbedder(64)


@contextmanager
def volume(folder: Path, megabytes: int) -> Any:
    """A file system of its own.

    Raises:
        PermissionError: only root may mount one.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        raise PermissionError("only root may mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_up(path: Path) -> None:
    """Another program takes all that is left."""
    with path.open("ab", buffering=0) as ballast:
        for size in (1 << 16, 1 << 12):
            with suppress(OSError):
                while ballast.write(bytes(size)) == size:
                    pass


def write(path: str, name: str, seed: int) -> None:
    """Adds on several threads until the volume is full, and reports each id once it is acknowledged. Errors of agentmem
    are no failures."""
    chance = random.Random(seed)
    config = Config(durability=chance.choice(("full", "process")))
    said = threading.Lock()

    def say(words: str) -> None:
        with said:
            sys.stdout.write(words + "\n")
            sys.stdout.flush()

    def add(memory: Memory, thread: int) -> None:
        chance = random.Random(seed * 100 + thread)
        number = refused = 0
        while refused < 3:
            number += 1
            text = f"{name} {thread} {number} " + ("z" * 19 + " ") * chance.choice((1, 45, 45, 250))
            try:
                if chance.random() < 0.2:
                    texts = [f"{each} {text}" for each in range(chance.choice((5, 100)))]
                    records = memory.add_batch(texts, user_id=name, defer=chance.random() < 0.3)
                else:
                    records = [memory.add(text, user_id=name, defer=chance.random() < 0.3)]
                for record in records:
                    say(f"+ {record.id}")
            except StoreFullError:
                refused += 1
            except Exception as error:
                say(f"! {type(error).__name__}: {error}")
                return
        say("full")

    with Memory(path, embedder=EMBEDDER, config=config) as memory:
        threads = [threading.Thread(target=add, args=(memory, thread)) for thread in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def one_case(folder: Path, megabytes: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Fills a volume and empties it again; what happened, and what was wrong."""
    chance = random.Random(seed)
    figures: Counter[str] = Counter()
    wrong: list[str] = []
    with volume(folder, megabytes):
        path = folder / "store.db"
        Memory(path, embedder=EMBEDDER).close()
        kill_one, ballast, reopen, reader = (chance.random() < 0.5 for _ in range(4))
        acknowledged = _fill(path, seed, wrong, kill_one=kill_one)
        figures["killed"] += kill_one
        figures["acknowledged"] += len(acknowledged)
        memory = Memory(path, embedder=EMBEDDER)
        if ballast:
            figures["filled by another program"] += 1
            fill_up(folder / "ballast")
        if reopen:
            memory.close()
            if ballast:
                fill_up(folder / "ballast")
            memory = Memory(path, embedder=EMBEDDER)
        try:
            _empty(memory, acknowledged, figures, wrong, reader=reader)
        except AgentMemError as error:
            wrong.append(f"not usable: {type(error).__name__}: {error}")
        memory.close()
        with Memory(path, embedder=EMBEDDER) as memory:
            wrong += memory.check()
    return figures, [f"{megabytes} MB, {kill_one=}, {ballast=}, {reopen=}, {reader=}: {each}" for each in wrong]


def _fill(path: Path, seed: int, wrong: list[str], *, kill_one: bool) -> dict[str, str]:
    """The ids that the writers acknowledged, each with its owner."""
    code = f"from tests.torture.full import write; write({str(path)!r}, %r, %d)"
    children = {
        f"p{number}": subprocess.Popen(
            [sys.executable, "-c", code % (f"p{number}", seed + number)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for number in range(PROCESSES)
    }  # fmt: skip
    said: dict[str, list[str]] = {name: [] for name in children}

    def listen(name: str) -> None:
        stream = children[name].stdout
        assert stream is not None
        said[name] = [line.rstrip("\n") for line in stream if line.endswith("\n")]

    threads = [threading.Thread(target=listen, args=(name,)) for name in children]
    for thread in threads:
        thread.start()
    if kill_one:
        time.sleep(1 + seed % 3)
        children["p0"].kill()
    deadline = time.monotonic() + SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for name, child in children.items():
        if child.poll() is None and time.monotonic() >= deadline:
            child.kill()
            wrong.append(f"{name} hung")
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    for lines in said.values():
        wrong += [line for line in lines if line.startswith("!")]
    return {line[2:]: name for name, lines in said.items() for line in lines if line.startswith("+ ")}


def _empty(
    memory: Memory, acknowledged: dict[str, str], figures: Counter[str], wrong: list[str], *, reader: bool
) -> None:
    """Deletes, purges and vacuums; after each, what must be there is, and in the end adds are taken again."""
    here = {record.id for name in set(acknowledged.values()) for record in records_of(memory, name)}
    lost = acknowledged.keys() - here
    wrong += [f"lost: {each}" for each in sorted(lost)[:3]]
    figures["lost"] += len(lost)
    ids = sorted(acknowledged)
    if reader:  # It keeps the log from beginning anew; the reserve is the room for this.
        with memory._engine.store.snapshot():
            figures["deleted"] += memory.delete(ids[0])
    deleted = ids[:DELETIONS]
    for each in deleted:
        figures["deleted"] += memory.delete(each)
    if any(memory.get(each) for each in deleted):
        wrong.append("deleted memories are still to be seen")
    purged = ids[DELETIONS]
    figures["no room to write the file anew"] += not _purged(lambda: memory.purge(purged), wrong)
    if memory.get(purged) is not None:
        wrong.append("a purged memory is still to be seen")
    time.sleep(0.01)
    _purged(lambda: memory.vacuum(deleted_before=timedelta(microseconds=1)), wrong)
    owner = acknowledged[ids[0]]
    _purged(lambda: memory.purge(user_id=owner), wrong)
    kept = {each for each in ids[DELETIONS + 1 :] if acknowledged[each] != owner}
    for number in range(100):
        memory.add(f"there is room again {number}", user_id="new")
    figures["added again"] += 100
    others = set(acknowledged.values()) - {owner}
    lost = kept - {record.id for name in others for record in records_of(memory, name)}
    wrong += [f"lost while room was made: {each}" for each in sorted(lost)[:3]]
    figures["lost"] += len(lost)
    for name in others:
        _purged(lambda name=name: memory.purge(user_id=name), wrong)
    memory.vacuum(full=True)
    memory.purge(user_id="new")  # Now there is room for all of it.
    wrong += memory.check()


def _purged(erase: Callable[[], object], wrong: list[str]) -> bool:
    """Whether it went to its end; without room to write the file anew, it says that the memories are erased."""
    try:
        erase()
    except StoreFullError as error:
        if "The memories are erased" not in str(error):
            wrong.append(f"not erased: {error}")
        return False
    return True


def records_of(memory: Memory, name: str) -> Iterator[Record]:
    """Everything of a user that is to be seen."""
    after = None
    while True:
        page = memory.get_all(user_id=name, limit=1000, after=after)
        yield from page.records
        if (after := page.next) is None:
            return


def run(folder: Path, cases: int, seed: int) -> dict[str, Any]:
    """Fills this number of volumes, of all SIZES in turn."""
    figures: Counter[str] = Counter({"volumes": cases, "lost": 0})
    failures: list[str] = []
    for number in range(cases):
        counted, wrong = one_case(folder / str(number), SIZES[number % len(SIZES)], seed + number)
        figures += counted
        failures += wrong
    return {"seed": seed, "lost": 0, **figures, "failures": failures}
