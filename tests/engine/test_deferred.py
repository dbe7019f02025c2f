"""Deferred memories: durable on return, found by the next search, embedded in the background, never lost."""

import signal
import threading
from contextlib import suppress

import pytest

from agentmem import (
    ClosedError,
    Config,
    DeadlineError,
    EmbeddingError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
)
from agentmem.testing import HashEmbedder
from tests.children import finish, run_python, start_python


class GatedEmbedder(HashEmbedder):
    """Embeds nothing until the gate is open, and fails on what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.refused: set[str] = set()
        self.broken = False
        self.embedded: list[str] = []

    def embed(self, texts):
        assert self.gate.wait(60)
        if self.broken or self.refused & set(texts):
            raise ValueError("refused")
        self.embedded += texts
        return super().embed(texts)


@pytest.fixture
def gated():
    embedder = GatedEmbedder()
    yield embedder
    embedder.gate.set()


def test_a_deferred_memory_is_committed_before_it_has_a_vector(open_memory, gated):
    memory = open_memory(embedder=gated)
    record = memory.add("tea with lemon", user_id="ana", metadata={"n": 1}, defer=True)
    assert memory.get(record.id) == record
    assert memory.stats().store.pending == 1
    assert open_memory(embedder=HashEmbedder()).get(record.id) == record
    gated.gate.set()
    memory.flush()
    assert memory.stats().store.pending == 0


def test_a_search_finds_what_was_deferred_in_its_scope_just_before(open_memory, gated):
    memory = open_memory(embedder=gated)
    memory.add("tea with lemon", user_id="ana", defer=True)
    memory.add("coffee without sugar", user_id="ben", defer=True)
    gated.gate.set()
    [match] = memory.search("tea with lemon", user_id="ana", limit=1, mode="vector")
    assert match.record.content == "tea with lemon"
    assert match.score == pytest.approx(1, abs=0.01)


def test_a_search_of_another_scope_does_not_wait_for_pending_memories(open_memory):
    class Refusing(GatedEmbedder):
        def embed(self, texts):
            if texts == ["coffee"]:
                return HashEmbedder.embed(self, texts)
            return super().embed(texts)

    embedder = Refusing()
    memory = open_memory(embedder=embedder, config=Config(workers=2))
    memory.add("coffee", user_id="ben")
    memory.add("tea", user_id="ana", defer=True)
    try:
        assert [match.record.content for match in memory.search("coffee", user_id="ben")] == ["coffee"]
        assert memory.stats().store.pending == 1
    finally:
        embedder.gate.set()


def test_deferred_batches_keep_order_and_errors(open_memory):
    memory = open_memory()
    results = memory.add_batch(
        ["one", "", {"content": "two", "id": "x"}, {"content": "three", "id": "x"}],
        user_id="ana",
        on_error="return",
        defer=True,
    )
    assert [type(result).__name__ for result in results] == [
        "Record", "InvalidInputError", "Record", "DuplicateIdError",
    ]  # fmt: skip
    memory.flush()
    assert memory.count(user_id="ana") == 2
    assert memory.stats().store.pending == 0
    with pytest.raises(InvalidInputError, match="Item 1"):
        memory.add_batch(["four", " "], user_id="ana", defer=True)
    assert memory.count(user_id="ana") == 2


@pytest.mark.slow
def test_pending_memories_survive_kill_9_and_another_process_finishes_them(open_memory, store_path):
    child = start_python(
        """
        import sys, threading
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        class Stuck(HashEmbedder):
            def embed(self, texts):
                threading.Event().wait()

        memory = Memory(sys.argv[1], embedder=Stuck())
        memory.add_batch([f"fact number {i}" for i in range(300)], user_id="ana", defer=True)
        print("stored", flush=True)
        threading.Event().wait()
        """,
        store_path,
    )
    assert child.line() == "stored\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    memory = open_memory()
    assert memory.count(user_id="ana") == 300
    assert memory.stats().store.pending == 300
    [match] = memory.search("fact number 17", user_id="ana", limit=1)
    assert match.record.content == "fact number 17"
    assert memory.stats().store.pending == 0


@pytest.mark.slow
def test_work_left_by_a_process_that_ended_is_done_after_opening(open_memory, store_path, gated):
    memory = open_memory(embedder=gated)
    memory.add_batch([f"fact {i}" for i in range(20)], user_id="ana", defer=True)
    assert (
        run_python(
            """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.flush()
            print(memory.stats().store.pending, memory.stats().store.vectors)
        """,
            store_path,
        )
        == "0 20\n"
    )
    gated.gate.set()
    memory.flush()


def test_a_text_that_cannot_be_embedded_is_given_up_and_named(open_memory, gated):
    gated.gate.set()
    gated.refused = {"poison"}
    memory = open_memory(embedder=gated)
    good = memory.add("water", user_id="ana", defer=True)
    bad = memory.add("poison", user_id="ana", defer=True)
    memory.flush()
    stats = memory.stats()
    assert (stats.store.pending, stats.store.pending_failed) == (0, 1)
    [problem] = memory.check()
    assert bad.id in problem
    assert "refused" in problem
    assert [match.record.id for match in memory.search("water", user_id="ana")] == [good.id]
    assert memory.get(bad.id) is not None
    gated.refused = set()
    memory.update(bad.id, "poison")
    assert memory.check() == []
    assert len(memory.search("water", user_id="ana")) == 2


def test_an_embedder_that_fails_on_everything_gives_nothing_up(open_memory, gated):
    gated.gate.set()
    gated.broken = True
    memory = open_memory(embedder=gated)
    memory.add_batch(["one", "two", "three"], user_id="ana", defer=True)
    with pytest.raises(EmbeddingError):
        memory.flush()
    assert memory.stats().store.pending == 3
    gated.broken = False
    memory.flush()
    assert (memory.stats().store.pending, memory.stats().store.pending_failed) == (0, 0)


def test_a_full_backlog_holds_deferred_adds_back(open_memory, gated):
    memory = open_memory(embedder=gated, config=Config(pending_limit=5))
    memory.add_batch([f"fact {i}" for i in range(5)], user_id="ana", defer=True)
    with pytest.raises(OverloadedError, match="5 deferred"):
        memory.add("one too many", user_id="ana", defer=True, timeout=0.05)
    assert memory.count(user_id="ana") == 5
    gated.gate.set()
    memory.add("now there is room", user_id="ana", defer=True)
    memory.flush()
    assert memory.count(user_id="ana") == 6


def test_what_changes_while_it_is_pending_ends_with_its_newest_text(open_memory, gated):
    memory = open_memory(embedder=gated, config=Config(workers=4))
    record = memory.add("old text", user_id="ana", defer=True)
    gone = memory.add("goes away", user_id="ana", defer=True)
    memory.update(record.id, metadata={"seen": True})
    memory.delete(gone.id)
    gated.gate.set()
    memory.update(record.id, "entirely new words")
    memory.flush()
    [match] = memory.search("entirely new words", user_id="ana", mode="vector")
    assert match.record.content == "entirely new words"
    assert match.record.metadata == {"seen": True}
    assert match.score == pytest.approx(1, abs=0.01)
    memory.restore(gone.id)
    assert len(memory.search("goes away", user_id="ana")) == 2
    assert memory.stats().store.pending == 0


def test_the_history_does_not_show_the_arrival_of_the_vector(open_memory):
    memory = open_memory()
    record = memory.add("tea", user_id="ana", defer=True)
    memory.flush()
    assert [event.what for event in memory.history(record.id)] == ["add"]


def test_flush_of_a_scope_leaves_the_others_alone(open_memory, gated):
    memory = open_memory(embedder=gated)
    memory.scope(user_id="ana").flush()
    with pytest.raises(NotFoundError):
        memory.update("nobody", "text")
    gated.gate.set()


def test_many_threads_defer_at_once_and_everything_arrives(open_memory):
    memory = open_memory()
    failures = []

    def work(number):
        try:
            for i in range(40):
                memory.add(f"fact {i} of thread {number}", user_id=f"user {number}", defer=True)
                if i % 10 == 9:
                    [match] = memory.search(f"fact {i} of thread {number}", user_id=f"user {number}", limit=1)
                    assert match.record.content == f"fact {i} of thread {number}"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    memory.flush()
    assert memory.stats().store.pending == 0
    assert memory.stats().store.vectors == 640


@pytest.mark.slow
def test_two_processes_share_the_background_work(open_memory, store_path):
    memory = open_memory()
    child = start_python(
        """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.add_batch([f"child {i}" for i in range(1500)], user_id="ana", defer=True)
            memory.flush()
        """,
        store_path,
    )
    memory.add_batch([f"parent {i}" for i in range(1500)], user_id="ana", defer=True)
    memory.flush()
    finish(child)
    memory.flush()
    assert memory.stats().store.pending == 0
    assert len(memory.search("parent 3", user_id="ana", limit=3000)) == 3000


def test_several_bad_texts_alone_in_a_scope_are_given_up_and_do_not_keep_it_from_being_searched(open_memory, gated):
    gated.gate.set()
    gated.refused = {"poison 1", "poison 2"}
    memory = open_memory(embedder=gated)
    bad = memory.add_batch(["poison 1", "poison 2"], user_id="ana", defer=True)
    assert memory.search("anything", user_id="ana") == []
    assert (memory.stats().store.pending, memory.stats().store.pending_failed) == (0, 2)
    assert len(memory.check()) == 2
    for record in bad:
        memory.delete(record.id)
    assert (memory.check(), memory.stats().store.pending_failed) == ([], 0)


def test_a_lone_text_deferred_while_the_model_is_away_is_embedded_when_it_is_back(open_memory, gated):
    gated.gate.set()
    gated.broken = True
    memory = open_memory(embedder=gated)
    memory.add("important fact", user_id="ana", defer=True)
    with pytest.raises(EmbeddingError):
        memory.flush()
    gated.broken = False
    assert [match.record.content for match in memory.search("important fact", user_id="ana")] == ["important fact"]


def test_a_deferred_text_on_which_the_embedder_hangs_is_given_up_and_others_go_on(open_memory):
    released = threading.Event()

    class Hanging(HashEmbedder):
        def embed(self, texts):
            if "hang" in texts:
                released.wait(60)
            return super().embed(texts)

    memory = open_memory(embedder=Hanging(), config=Config(timeout=0.5))
    try:
        bad = memory.add("hang", user_id="ana", defer=True)
        memory.add("good", user_id="ben", timeout=60)
        assert len(memory.search("good", user_id="ben", timeout=60)) == 1
        while memory.stats().store.pending:
            with suppress(DeadlineError):
                memory.flush(timeout=0.5)
        assert bad.id in memory.check()[0]
        memory.delete(bad.id)
    finally:
        released.set()


def test_room_made_by_another_holder_of_the_file_is_noticed(open_memory):
    memory, other = open_memory(config=Config(pending_limit=15)), open_memory()
    memory.add_batch([f"fact {i}" for i in range(14)], user_id="ana", defer=True)
    other.flush()
    memory.add_batch([f"more {i}" for i in range(15)], user_id="ana", defer=True, timeout=30)
    memory.flush()
    assert memory.count(user_id="ana") == 29


def test_a_full_backlog_recovers_when_the_model_is_back(open_memory, gated):
    gated.gate.set()
    gated.broken = True
    memory = open_memory(embedder=gated, config=Config(pending_limit=4))
    memory.add_batch([f"fact {i}" for i in range(4)], user_id="ana", defer=True)
    with pytest.raises(OverloadedError):
        memory.add("too many", user_id="ana", defer=True, timeout=0.1)
    gated.broken = False
    memory.add("now", user_id="ana", defer=True, timeout=30)
    memory.flush()
    assert memory.count(user_id="ana") == 5


def test_a_flush_waits_for_what_was_there_and_not_for_what_keeps_coming(open_memory):
    memory = open_memory()
    stop = threading.Event()

    def defer():
        number = 0
        while not stop.is_set():
            memory.add_batch([f"text {number} {i}" for i in range(50)], user_id="ana", defer=True)
            number += 1

    thread = threading.Thread(target=defer)
    thread.start()
    try:
        for _ in range(3):
            memory.flush(timeout=30)
            memory.search("text", user_id="ana", timeout=30)
    finally:
        stop.set()
        thread.join(60)
    memory.flush()


@pytest.mark.slow
def test_a_process_that_is_open_takes_over_from_one_that_died(open_memory, store_path, monkeypatch):
    monkeypatch.setattr("agentmem.engine.deferred.LEASE_SECONDS", 0.1)
    memory = open_memory(config=Config(timeout=0.1))
    child = start_python(
        """
        import os, sys, threading
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        class Stuck(HashEmbedder):
            def embed(self, texts):
                threading.Event().wait()

        Memory(sys.argv[1], embedder=Stuck()).add_batch(["one", "two"], user_id="ana", defer=True)
        print("stored", flush=True)
        os.kill(os.getpid(), 9)
        """,
        store_path,
    )
    child.communicate()
    memory.add("three", user_id="ben", timeout=30)
    memory.search("three", user_id="ben", timeout=30)
    for thread in threading.enumerate():
        if thread.name == "agentmem-backlog":
            memory.flush(timeout=30)
    assert memory.stats().store.pending == 0


def test_closing_while_the_background_embeds_reports_nothing(open_memory, gated, caplog):
    memory = open_memory(embedder=gated)
    memory.add("tea with lemon", user_id="ana", defer=True)
    engine = memory._engine
    engine.runtimes.close()  # As `close` begins; the background learns of it from its model, before it is told.
    gated.gate.set()
    with suppress(ClosedError):
        memory.flush()
    engine.backlog._thread.join(0.5)
    memory.close()
    assert caplog.text == ""
