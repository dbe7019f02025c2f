"""A process that is killed while it writes loses nothing that it had acknowledged and leaves no half record."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from agentmem import Memory
from agentmem.testing import HashEmbedder
from tests.children import SECONDS, start_python

pytestmark = [pytest.mark.slow, pytest.mark.torture]

WRITER = """
    import itertools, os, sys, threading
    from agentmem import Config, Memory
    from agentmem.testing import HashEmbedder

    path, source, way, durability = sys.argv[1:]
    source = {"model": "all-MiniLM-L6-v2"} if source == "model" else {"embedder": HashEmbedder()}
    memory = Memory(path, config=Config(durability=durability), **source)
    name = os.getpid()

    def acknowledge(records):
        # One write a call, shorter than the pipe's buffer: it is there whole or not at all.
        os.write(1, "".join(record.id + "\\n" for record in records).encode())

    def add(thread):
        for number in itertools.count():
            acknowledge([memory.add(f"process {name} thread {thread} number {number}", user_id="ana",
                                    metadata={"number": number}, defer=way == "defer")])

    def add_batches(thread):
        for number in itertools.count():
            texts = [f"process {name} thread {thread} batch {number} text {each}" for each in range(60)]
            acknowledge(memory.add_batch(texts, user_id="ana"))

    def change(thread):
        for number in itertools.count():
            record = memory.add(f"process {name} thread {thread} number {number}", user_id="ana")
            changed = memory.update(record.id, f"process {name} thread {thread} changed {number}", metadata={"v": 2})
            if number % 3 == 0:
                memory.delete(record.id)
                memory.restore(record.id)
            acknowledge([changed])

    work = {"add": add, "defer": add, "batch": add_batches, "change": change}[way]
    for thread in range(4):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    threading.Event().wait()
"""


def acknowledged_before_a_kill(*arguments: Any, at_least: int) -> list[str]:
    """What a writer acknowledged before it was killed, at no particular moment after some acknowledgements."""
    child = start_python(WRITER, *arguments)
    assert child.stdout is not None
    hung = threading.Timer(SECONDS, os.killpg, (child.pid, signal.SIGKILL))
    hung.start()
    ids = [child.stdout.readline().strip() for _ in range(at_least)]
    os.killpg(child.pid, signal.SIGKILL)
    rest = child.stdout.read()  # And what was read ahead; `communicate` would not give that.
    _, errors = child.communicate()
    hung.cancel()
    hung.join()
    assert child.returncode == -signal.SIGKILL, errors
    assert "" not in ids, f"the writer ended or hung: {errors}"
    return ids + rest.split()


def assert_all_there(path: Path, ids: list[str], expected_metadata: dict[str, Any] | None = None) -> None:
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        stored = {record.id: record for record in memory.get_all(user_id="ana", limit=1_000_000)}
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(stored)
        for each in ids[-3:]:
            record = stored[each]
            assert memory.search(record.content, user_id="ana", limit=1, mode="vector")[0].record == record
            if expected_metadata:
                assert record.metadata == expected_metadata
        memory.add("and it goes on", user_id="ben")


def test_twenty_kills_in_a_row_lose_nothing_that_was_acknowledged(store_path):
    ids: list[str] = []
    for number in range(20):
        durability = ("full", "process")[number % 2]
        ids += acknowledged_before_a_kill(store_path, "hash", "add", durability, at_least=1 + 17 * number)
        assert_all_there(store_path, ids)
    assert len(ids) > 20 * 100


@pytest.mark.parametrize("way", ["batch", "change", "defer"])
def test_kills_during_batches_changes_and_deferred_work_leave_whole_records(store_path, way):
    ids: list[str] = []
    for number in range(5):
        ids += acknowledged_before_a_kill(store_path, "hash", way, "full", at_least=60 * number + 1)
        assert_all_there(store_path, ids, {"v": 2} if way == "change" else None)


def test_a_killed_batch_is_stored_in_whole_chunks(store_path):
    """A chunk of a batch is one transaction: of the sixty texts there are sixty or none."""
    acknowledged_before_a_kill(store_path, "hash", "batch", "full", at_least=61)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        batches: dict[str, int] = {}
        for record in memory.get_all(user_id="ana", limit=1_000_000):
            batch = record.content.rpartition(" text ")[0]
            batches[batch] = batches.get(batch, 0) + 1
        assert set(batches.values()) == {60}


def test_kills_under_the_real_model_lose_nothing(tmp_path):
    ids: list[str] = []
    path = tmp_path / "model.db"
    for number in range(3):
        ids += acknowledged_before_a_kill(path, "model", "add", "full", at_least=20 + 40 * number)
    with Memory(path) as memory:
        assert memory.check() == []
        stored = {record.id: record for record in memory.get_all(user_id="ana", limit=1_000_000)}
        assert set(ids) <= set(stored)
        last = stored[ids[-1]]
        assert memory.search(last.content, user_id="ana", limit=1, mode="vector")[0].record == last
