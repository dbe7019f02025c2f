"""No add waits for a model with a fast half: found by meaning at once, refined in the background."""

import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agentmem import Config, EmbeddingError, InvalidInputError, OverloadedError
from agentmem.testing import HashEmbedder
from tests.children import finish, run_python, start_python

BEFORE_RETURN, NEVER = Config(refine="before_return"), Config(refine="never")


class Gated(HashEmbedder):
    """Makes whole vectors only while its gate is open, fast halves always; fails on what it is told to."""

    def __init__(self) -> None:
        super().__init__(fast=True)
        self.gate = threading.Event()
        self.refused: set[str] = set()
        self.whole: list[str] = []
        self.fast: list[str] = []

    def embed(self, texts):
        assert self.gate.wait(60)
        if self.refused & set(texts):
            raise ValueError("refused")
        self.whole += texts
        return super().embed(texts)

    def embed_fast(self, texts):
        self.fast += texts
        return super().embed_fast(texts)


@pytest.fixture
def gated():
    embedder = Gated()
    yield embedder
    embedder.gate.set()


def best(memory, query, **asked):
    [match, *_] = memory.search(query, user_id="ana", explain=True, **asked)
    return match


def test_an_add_returns_before_the_model_and_is_found_by_meaning(open_memory, gated):
    memory = open_memory(embedder=gated)
    record = memory.add("tea with lemon", user_id="ana")
    other = open_memory(embedder=HashEmbedder(fast=True), config=NEVER)
    for each in (memory, other):
        match = best(each, "tea with lemon", mode="vector")
        assert match.record == record
        assert match.score == pytest.approx(1, abs=0.01)
        assert match.explanation["half"] == "fast"
    assert gated.whole == []
    gated.gate.set()
    memory.flush()
    match = best(memory, "tea with lemon", mode="vector")
    assert match.explanation["half"] == "full"
    assert match.score == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_an_owner_is_searched_by_the_half_that_all_its_memories_have(open_memory, gated, mode):
    memory = open_memory(embedder=gated)
    gated.gate.set()
    memory.add_batch([f"fact number {number}" for number in range(20)], user_id="ana")
    memory.flush()
    whole = [match.score for match in memory.search("fact number 3", user_id="ana", mode=mode)]
    gated.gate.clear()
    late = memory.add("a late fact", user_id="ana")
    matches = memory.search("fact number 3", user_id="ana", mode=mode, limit=30, explain=True)
    assert {match.explanation["half"] for match in matches} == {"fast"}
    assert late in [match.record for match in matches]
    assert best(memory, "fact number 3", mode=mode, agent_id=None).record.content == "fact number 3"
    memory.add("of another owner", user_id="ben")
    gated.gate.set()
    memory.scope(user_id="ana").flush()
    memory.delete(late.id, user_id="ana")
    again = [match.score for match in memory.search("fact number 3", user_id="ana", mode=mode)]
    assert again == pytest.approx(whole)


@pytest.mark.parametrize("vectors", ["float16", "int8"])
def test_fast_and_full_queries_find_the_same_in_whole_memories(open_memory, vectors):
    memory = open_memory(embedder=HashEmbedder(fast=True), config=Config(index_vectors=vectors))
    memory.add_batch(["tea with lemon", "coffee with milk", "a walk in the rain"], user_id="ana")
    memory.flush()
    for effort, half in (("fast", "fast"), ("full", "full"), (None, "full")):
        match = best(memory, "coffee with milk", mode="vector", effort=effort)
        assert match.record.content == "coffee with milk"
        assert match.score == pytest.approx(1, abs=0.02)
        assert match.explanation["half"] == half


def test_a_search_without_effort_runs_no_model_and_one_with_effort_waits_for_it(open_memory, gated):
    memory = open_memory(embedder=gated)
    memory.add("tea with lemon", user_id="ana")
    memory.add("coffee", user_id="ana", agent_id="helper")
    assert best(memory, "tea", effort="fast").explanation["half"] == "fast"
    assert memory.search_batch(["tea", "coffee"], user_id="ana", effort="fast")
    assert gated.whole == []
    threading.Timer(0.1, gated.gate.set).start()
    match = best(memory, "tea with lemon", effort="full", mode="vector", agent_id=None)
    assert match.explanation["half"] == "full"
    assert {"coffee", "tea with lemon"} <= set(gated.whole)
    with pytest.raises(InvalidInputError, match="effort is 'much'"):
        memory.search("tea", user_id="ana", effort="much")


def test_words_need_no_vectors(open_memory, gated):
    memory = open_memory(embedder=gated)
    memory.add("tea with lemon", user_id="ana")
    assert best(memory, "tea", mode="keyword").record.content == "tea with lemon"
    assert gated.fast == []
    assert best(memory, "tea", mode="vector").record.content == "tea with lemon"
    assert "tea with lemon" in gated.fast


def test_every_way_of_writing_returns_before_the_model(open_memory, gated, tmp_path):
    memory = open_memory(embedder=gated)
    memory.add_batch(["one", {"content": "two"}], user_id="ana")
    memory.add_messages([{"role": "user", "content": "three"}], user_id="ana")
    record = memory.add("four", user_id="ana")
    memory.update(record.id, "four again", user_id="ana")
    changes = memory._changes()
    changes.add("five", user_id="ana")
    changes.commit()
    (tmp_path / "file.jsonl").write_text('{"content": "six"}\n')
    memory.import_(tmp_path / "file.jsonl", user_id="ana")
    for text in ("one", "two", "three", "four again", "five", "six"):
        assert best(memory, text, mode="vector").record.content == text
    assert gated.whole == []
    assert memory.history(record.id, user_id="ana")[-1].what == "update"
    gated.gate.set()
    memory.flush()
    assert set(gated.whole) >= {"one", "two", "three", "four again", "five", "six"}


def test_the_past_and_what_has_expired_are_found_by_meaning_too(open_memory, gated):
    memory = open_memory(embedder=gated)
    record = memory.add("tea with lemon", user_id="ana")
    gone = memory.add("coffee", user_id="ana", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    then = memory.history(record.id, user_id="ana")[0].at
    memory.update(record.id, "a walk in the rain", user_id="ana")
    assert best(memory, "tea with lemon", mode="vector", as_of=then).record.content == "tea with lemon"
    assert best(memory, "coffee", mode="vector", show_expired=True).record.id == gone.id
    gated.gate.set()
    memory.flush()
    assert best(memory, "tea with lemon", mode="vector", as_of=then).record.content == "tea with lemon"


def test_a_text_that_its_home_knows_does_not_make_its_owner_fast_again(open_memory, gated):
    memory = open_memory(embedder=gated)
    gated.gate.set()
    memory.add("tea with lemon", user_id="ana")
    memory.flush()
    gated.gate.clear()
    memory.add("tea with lemon", user_id="ana")
    assert best(memory, "tea", effort=None, mode="keyword")
    gated.gate.set()
    assert best(memory, "tea with lemon", mode="vector").explanation["half"] == "full"


def test_a_text_that_the_model_fails_on_is_named_and_leaves_its_owner_whole(open_memory, gated):
    memory = open_memory(embedder=gated)
    gated.refused = {"bad"}
    gated.gate.set()
    bad = memory.add("bad", user_id="ana")
    memory.add("good", user_id="ana")
    memory.flush()
    [match] = memory.search("good", user_id="ana", mode="vector", explain=True)
    assert match.explanation["half"] == "full"
    assert "refused" in memory.check()[0]
    memory.delete(bad.id, user_id="ana")


def test_with_before_return_an_add_waits_as_for_any_other_model(open_memory, gated):
    memory = open_memory(embedder=gated, config=BEFORE_RETURN)
    gated.refused = {"bad"}
    gated.gate.set()
    with pytest.raises(EmbeddingError):
        memory.add("bad", user_id="ana")
    memory.add("good", user_id="ana")
    assert gated.whole == ["good"]
    assert best(memory, "good", mode="vector").explanation["half"] == "full"
    assert gated.fast == []


def test_with_never_the_model_is_never_run(open_memory, gated):
    memory = open_memory(embedder=gated, config=NEVER)
    memory.add_batch([f"fact {number}" for number in range(30)], user_id="ana")
    memory.flush()
    assert best(memory, "fact 7").record.content == "fact 7"
    memory.close()
    assert gated.whole == []
    with pytest.raises(InvalidInputError, match=r"Config\.refine is 'later'"):
        Config(refine="later")


def test_adds_that_come_faster_than_refinement_are_held_back_and_told(open_memory, gated):
    memory = open_memory(embedder=gated, config=Config(pending_limit=20))
    refused = None
    for number in range(200):
        try:
            memory.add(f"fact {number}", user_id="ana", timeout=0.05)
        except OverloadedError as error:
            refused = error
            break
    assert "raise timeout or Config.pending_limit" in str(refused)
    waiting = memory.count(user_id="ana")
    assert 10 <= waiting <= 20
    gated.gate.set()
    memory.flush()
    assert memory.add("there is room again", user_id="ana", timeout=20)


def test_a_restored_memory_is_refined_too(open_memory, gated):
    memory = open_memory(embedder=gated)
    record = memory.add("tea", user_id="ana")
    memory.delete(record.id, user_id="ana")
    gated.gate.set()
    memory.restore(record.id, user_id="ana")
    assert best(memory, "tea", mode="vector").record == record
    memory.flush()
    assert best(memory, "tea", mode="vector").explanation["half"] == "full"


def test_purged_texts_are_found_by_nobody_while_they_are_on_their_way(open_memory, gated):
    memory = open_memory(embedder=gated)
    record = memory.add("a secret", user_id="ana")
    memory.add("no secret", user_id="ana")
    assert best(memory, "a secret", mode="vector").record == record
    memory.purge(record.id, user_id="ana")
    gated.gate.set()
    memory.flush()
    assert [match.record.content for match in memory.search("a secret", user_id="ana")] == ["no secret"]
    digest = memory._engine.embedder.digest(("user_id", "ana"), "a secret")
    assert memory._engine.store.vectors([digest]) == {}


def test_a_store_moves_to_and_from_a_model_with_a_fast_half(open_memory):
    memory = open_memory(embedder=HashEmbedder())
    memory.add("tea with lemon", user_id="ana")
    memory.reembed(HashEmbedder(fast=True))
    memory.add("coffee with milk", user_id="ana")
    assert best(memory, "coffee with milk", mode="vector").record.content == "coffee with milk"
    memory.reembed(HashEmbedder())
    memory.add("a walk", user_id="ana")
    assert best(memory, "coffee with milk", mode="vector").score == pytest.approx(1, abs=0.01)
    assert memory.stats().store.pending == 0


def test_what_is_pending_survives_a_kill_and_is_refined_by_whoever_opens_the_store(store_path):
    child = start_python(
        """
        import sys, time
        from agentmem import Config, Memory
        from agentmem.testing import HashEmbedder
        memory = Memory(sys.argv[1], embedder=HashEmbedder(fast=True), config=Config(refine="never"))
        for number in range(50):
            memory.add(f"fact {number}", user_id="ana")
        print("added", flush=True)
        time.sleep(60)
        """,
        store_path,
    )
    assert child.stdout.readline() == "added\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stderr.close()
    output = run_python(
        """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        with Memory(sys.argv[1], embedder=HashEmbedder(fast=True)) as memory:
            assert memory.count(user_id="ana") == 50
            [match] = memory.search("fact 7", user_id="ana", mode="vector", limit=1)
            memory.flush()
            [full] = memory.search("fact 7", user_id="ana", mode="vector", limit=1, explain=True)
            print(match.record.content, full.record.content, full.explanation["half"], memory.check())
        """,
        store_path,
    )
    assert output == "fact 7 fact 7 full []\n"


def test_the_bundled_default_answers_another_process_at_once(store_path):
    """With the real model: added in one process, found by meaning in another, before and after refinement."""
    adder = start_python(
        """
        import sys
        from agentmem import Memory
        memory = Memory(sys.argv[1])
        for text in ("Ana prefers window seats", "The cat is called Miso", "Rent is due on Fridays"):
            memory.add(text, user_id="ana")
        print("added", flush=True)
        sys.stdin.read()
        """,
        store_path,
        stdin=-1,
    )
    assert adder.stdout.readline() == "added\n"
    output = run_python(
        """
        import sys
        from agentmem import Memory
        with Memory(sys.argv[1]) as memory:
            for effort in ("fast", None, "full"):
                [match] = memory.search("window seats", user_id="ana", mode="vector", limit=1, effort=effort)
                print(match.record.content)
        """,
        store_path,
    )
    assert output == "Ana prefers window seats\n" * 3
    finish(adder)


def test_the_background_begins_when_adds_pause(open_memory, gated):
    gated.gate.set()
    memory = open_memory(embedder=gated)
    memory.add("tea", user_id="ana")
    deadline = time.monotonic() + 30
    while memory.stats().store.pending and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert set(gated.whole) == {"tea"}
    assert np.isfinite(memory._engine.backlog.rate)


@pytest.mark.parametrize("refine", ["background", "before_return", "never"])
@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_a_search_compares_the_half_that_its_effort_names_however_vectors_are_made(open_memory, refine, mode):
    memory = open_memory(":memory:", embedder=HashEmbedder(fast=True), config=Config(refine=refine))
    memory.add("Prefers window seats", user_id="ana")
    memory.add("The boiler was repaired", user_id="ana", defer=True)
    for effort in ("fast", "full"):
        found = memory.search("window seats", user_id="ana", mode=mode, effort=effort, explain=True)
        assert {match.explanation["half"] for match in found} == {effort}
        assert found[0].content == "Prefers window seats"
