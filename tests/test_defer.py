"""Deferred memories: durable on return, found by the next search, embedded in the background, never lost."""

import signal
import threading

import pytest
from children import finish, run_python, start_python

from agentmem import Config, EmbeddingError, InvalidInputError, NotFoundError, OverloadedError
from agentmem.testing import HashEmbedder


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
    assert memory.stats().pending == 1
    assert open_memory(embedder=HashEmbedder()).get(record.id) == record
    gated.gate.set()
    memory.flush()
    assert memory.stats().pending == 0


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
        assert memory.stats().pending == 1
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
    assert memory.stats().pending == 0
    with pytest.raises(InvalidInputError, match="Item 1"):
        memory.add_batch(["four", " "], user_id="ana", defer=True)
    assert memory.count(user_id="ana") == 2


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
    assert child.stdout.readline() == "stored\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    memory = open_memory()
    assert memory.count(user_id="ana") == 300
    assert memory.stats().pending == 300
    [match] = memory.search("fact number 17", user_id="ana", limit=1)
    assert match.record.content == "fact number 17"
    assert memory.stats().pending == 0


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
            print(memory.stats().pending, memory.stats().vectors)
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
    assert (stats.pending, stats.pending_failed) == (0, 1)
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
    assert memory.stats().pending == 3
    gated.broken = False
    memory.flush()
    assert (memory.stats().pending, memory.stats().pending_failed) == (0, 0)


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
    assert memory.stats().pending == 0


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
    assert memory.stats().pending == 0
    assert memory.stats().vectors == 640


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
    assert memory.stats().pending == 0
    assert len(memory.search("parent 3", user_id="ana", limit=3000)) == 3000
