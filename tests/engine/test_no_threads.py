"""Where the system gives no more threads (a limit of a container): every call does its work or reports why not.

A stored write is never reported as a failure, and everything works as before once there are threads again.
"""

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentmem import Config, Memory
from agentmem.search.segments import builder as sealing
from agentmem.testing import HashEmbedder
from tests.conftest import our_threads

SECONDS = 30

TOO_MUCH = 1 << 46
"""Bytes of a thread's stack: more than any process may have, so that the system refuses every new thread."""


@contextmanager
def no_threads() -> Iterator[None]:
    before = threading.stack_size(TOO_MUCH)
    try:
        with pytest.raises(RuntimeError):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


@pytest.fixture(params=["embedder", "all-MiniLM-L6-v2", "minilm-static"])
def opened(request: pytest.FixtureRequest, open_memory) -> Memory:
    return open_memory() if request.param == "embedder" else open_memory(model=request.param)


@pytest.mark.filterwarnings("ignore:tqdm")  # It says that its own thread cannot be had.
def test_every_call_does_its_work_without_threads(opened, tmp_path):
    with no_threads():
        opened.add("Likes tea", user_id="ana", id="tea")
        opened.add_batch([f"Fact number {number}" for number in range(40)], user_id="ana")
        assert opened.search("tea", user_id="ana")[0].record.id == "tea"
        opened.update("tea", "Likes coffee")
        assert opened.delete("tea")
        assert opened.restore("tea").content == "Likes coffee"
        assert opened.add("Has a dog", user_id="ana", defer=True).content == "Has a dog"
        assert opened.search("dog", user_id="ana")[0].record.content == "Has a dog"
        opened.flush(SECONDS)
        opened.backup(tmp_path / "copy.db")
        assert opened.purge("tea") == 1
        assert opened.vacuum(progress=True).purged == 0
        assert opened.stats().store.pending == 0
        assert opened.check(progress=True) == opened.repair() == []
        opened.close()
    assert our_threads() == []


def test_a_deferred_memory_is_stored_and_embedded_when_there_are_threads_again(open_memory, caplog):
    memory = open_memory()
    with no_threads():
        for number in range(3):
            memory.add(f"Fact number {number}", user_id="ana", defer=True)
        assert (memory.count(user_id="ana"), memory.stats().store.pending) == (3, 3)
        [(cause, error)] = memory.stats().process.background_errors.items()
    assert "deferred memories" in cause
    assert error.count == 3
    assert [(record.levelno, record.name) for record in caplog.records] == [
        (logging.WARNING, "agentmem.engine.deferred")
    ]
    memory.add("One more", user_id="ana", defer=True)
    waited = threading.Event()
    for _ in range(SECONDS * 10):
        if not memory.stats().store.pending or waited.wait(0.1):
            break
    assert memory.stats().store.pending == 0


def test_a_full_backlog_is_worked_off_by_its_callers_without_threads(open_memory):
    memory = open_memory(config=Config(pending_limit=5))
    with no_threads():
        for number in range(20):
            memory.add(f"Fact number {number}", user_id="ana", defer=True, timeout=SECONDS)
        assert memory.count(user_id="ana") == 20
    memory.flush(SECONDS)


def test_the_same_texts_are_embedded_again_after_a_call_without_threads(open_memory):
    memory = open_memory(embedder=HashEmbedder())
    with no_threads():
        memory.add_batch(["Has a dog", "Has a cat"], user_id="ana")
    memory.add_batch(["Has a dog", "Has a cat"], user_id="ben", timeout=SECONDS)
    assert memory.search("cat", user_id="ben")[0].record.content == "Has a cat"


def test_callers_on_threads_of_their_own_serve_each_other_without_new_threads(opened):
    ready, errors = threading.Barrier(9), []

    def work(number: int) -> None:
        ready.wait(SECONDS)
        try:
            for turn in range(5):
                opened.add(f"text {number} {turn}", user_id="ana", timeout=SECONDS)
                opened.add_batch([f"text {number} {turn} {each}" for each in range(10)], user_id="ana", timeout=SECONDS)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    with no_threads():
        ready.wait(SECONDS)
        for thread in threads:
            thread.join(SECONDS)
        assert errors == []
        assert opened.count(user_id="ana") == 8 * 5 * 11


def test_segments_are_built_once_there_are_threads_again(open_memory, monkeypatch):
    monkeypatch.setattr(sealing, "SEGMENT", 50)
    memory = open_memory()
    memory.add_batch([f"Fact number {number}" for number in range(300)], user_id="ana")
    with no_threads():
        assert memory.search("number 7", user_id="ana")
        assert "builds segments" in " ".join(memory.stats().process.background_errors)
        assert not has_graphs(memory)
    memory.search("number 8", user_id="ana")
    memory._engine.index_cache._sealer.wait()
    assert has_graphs(memory)


def has_graphs(memory: Memory) -> bool:
    with memory._engine.store.snapshot() as snapshot:
        return any(segment.has_graph for segment in snapshot.listed_segments(("user_id", "ana")))


def test_a_memory_that_is_thrown_away_without_threads_closes(store_path):
    with no_threads():
        memory = Memory(store_path, embedder=HashEmbedder())
        memory.add("Likes tea", user_id="ana")
        del memory
        gc.collect()
    with Memory(store_path, embedder=HashEmbedder()) as again:
        assert again.count(user_id="ana") == 1
        assert again.check() == []
