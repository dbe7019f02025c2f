"""The time that a call may take: reads end by their timeout, whatever their filters are, and hold up no other call."""

import io
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentmem import AgentMemError, DeadlineError, Memory, Record
from agentmem import analyzer as terms
from agentmem.analyzer import stored_terms
from agentmem.deadline import Deadline
from agentmem.storage.sqlite import store

HEAVY = {"AND": [{"list": {"icontains": f"x{number}"}} for number in range(8900, 8990)]}
"""Looks through nearly the whole list of every memory of `laden`, ninety times."""

SECONDS = 30


@pytest.fixture
def laden(memory: Memory) -> Memory:
    """A memory with forty memories of eve, over which HEAVY takes some ten seconds, and one of ben."""
    _lade(memory)
    memory.add("text of ben", user_id="ben")
    return memory


def _lade(memory: Memory) -> None:
    metadata = {"list": [f"x{number}" for number in range(9000)]}
    memory.add_batch([{"content": f"text {number}", "metadata": metadata} for number in range(40)], user_id="eve")


CALLS: dict[str, Callable[..., Any]] = {
    "search": lambda memory, **asked: memory.search("text", mode="keyword", **asked),
    "search of the past": lambda memory, **asked: memory.search(
        "text", mode="keyword", as_of=memory.get_all(user_id="ben").records[0].created_at, **asked
    ),
    "get_all": lambda memory, **asked: memory.get_all(**asked),
    "count": lambda memory, **asked: memory.count(**asked),
    "delete_all": lambda memory, **asked: memory.delete_all(**asked),
    "dry run": lambda memory, **asked: memory.delete_all(dry_run=True, **asked),
    "export": lambda memory, **asked: memory.export(io.BytesIO(), **asked),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_ends_by_its_timeout_whatever_its_filters_ask(laden, call):
    began = time.thread_time()  # Not the hours that others take from a busy machine.
    with pytest.raises(DeadlineError, match=r"0\.2 seconds allowed.*fewer terms"):
        call(laden, user_id="eve", filters=HEAVY, timeout=0.2)
    assert time.thread_time() - began < SECONDS / 10
    # The same connection, and the same statements.
    assert laden.count(user_id="eve") == 40
    assert laden.count(user_id="eve", filters={"list": {"contains": "x0"}}, timeout=SECONDS) == 40
    assert len(laden.search("text", user_id="eve", mode="keyword", limit=500)) == 40


def test_a_search_in_batches_ends_by_its_timeout_between_two_queries(memory, monkeypatch):
    memory.add_batch(["one text", "another text"], user_id="ana")
    monkeypatch.setattr(Deadline, "check", lambda deadline: (_ for _ in ()).throw(deadline.error()))
    assert len(memory.search_batch(["text"], user_id="ana", mode="keyword")) == 1
    with pytest.raises(DeadlineError):
        memory.search_batch(["text", "one"], user_id="ana", mode="keyword")


def test_many_queries_end_by_their_timeout_while_their_words_and_tokens_are_found(memory, monkeypatch):
    found: list[str] = []

    def slowly(*arguments):
        found.append(arguments[-1])
        time.sleep(0.05)
        return {}

    def slowly_prepared(model, texts):
        found.append(texts[0])
        time.sleep(0.05)
        return [(text, 1) for text in texts]

    queries = [f"text {number}" for number in range(250)]
    with monkeypatch.context() as patched:
        patched.setattr("agentmem.engine.search.query_terms", slowly)
        with pytest.raises(DeadlineError):
            memory.search_batch(queries, user_id="ana", timeout=0.2)
    assert 1 < len(found) < 100
    found.clear()
    with monkeypatch.context() as patched:
        patched.setattr("agentmem.embedding.custom.CustomModel.prepare", slowly_prepared)
        patched.setattr("agentmem.embedding.embedder.PREPARED_TOGETHER", 4)
        for call in (memory.search_batch, memory.add_batch):
            with pytest.raises(DeadlineError):
                call(queries, user_id="ana", timeout=0.2)
    assert 2 < len(found) < 100
    assert memory.add_batch(queries, user_id="ana", timeout=SECONDS)
    assert memory.search("text 7", user_id="ana")[0].record.content == "text 7"


LONG = "\u337f" * 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda memory, known, **asked: memory.add(LONG, user_id="ana", **asked),
        lambda memory, known, **asked: memory.add(LONG, user_id="ana", defer=True, **asked),
        lambda memory, known, **asked: memory.add_batch(["short", LONG], user_id="ana", **asked),
        lambda memory, known, **asked: memory.add_batch(["short", LONG], user_id="ana", defer=True, **asked),
        lambda memory, known, **asked: memory.update(known, LONG, **asked),
        lambda memory, known, **asked: memory.search(LONG, user_id="ana", **asked),
        lambda memory, known, **asked: memory.import_(io.BytesIO(json.dumps(LONG).encode()), user_id="ana", **asked),
    ],
    ids=["add", "add, deferred", "add_batch", "add_batch, deferred", "update", "search", "import_"],
)
def test_a_call_ends_by_its_timeout_while_the_words_of_a_long_text_are_found(memory, monkeypatch, call):
    record = memory.add("a text", user_id="ana")
    with monkeypatch.context() as patched:
        patched.setattr(terms, "folded", lambda text: time.sleep(0.05) or text)
        with pytest.raises(DeadlineError, match=r"words of 100,000 characters took longer than the 0\.2 seconds"):
            call(memory, record.id, timeout=0.2)
    assert [each.content for each in memory.get_all(user_id="ana")] == ["a text"]
    call(memory, record.id, timeout=SECONDS)
    assert memory.count(user_id="ana") >= 1


def test_a_search_of_the_past_ends_by_its_timeout_between_two_texts_that_were_replaced(memory, monkeypatch):
    records = memory.add_batch(["one text", "another text", "a third"], user_id="ana")
    moment = memory.history(records[-1].id)[0].at
    for record in records:
        memory.update(record.id, "changed")
    calls: list[str] = []

    def slowly(content, created_at):
        calls.append(content)
        time.sleep(0.3)
        return stored_terms(content, created_at)

    monkeypatch.setattr("agentmem.storage.sqlite.as_of.stored_terms", slowly)
    with pytest.raises(DeadlineError):
        memory.search("text", user_id="ana", mode="keyword", as_of=moment, timeout=0.2)
    assert len(calls) < 3
    assert len(memory.search("text", user_id="ana", mode="keyword", as_of=moment, timeout=SECONDS)) == 2


def test_a_timeout_of_nothing_is_enough_for_what_takes_no_time(memory):
    memory.add("a text", user_id="ana", metadata={"n": 1})
    assert memory.count(user_id="ana", filters={"n": 1}, timeout=0) == 1
    assert memory.delete_all(user_id="ana", filters={"n": 1}, timeout=0) == 1


@pytest.mark.slow
def test_what_a_signal_handler_raises_amid_a_read_comes_out_of_it(laden):
    class Struck(BaseException):
        pass

    def strike(*_: Any) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Struck):
            laden.count(user_id="eve", filters=HEAVY)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert laden.count(user_id="eve") == 40


@pytest.mark.slow
def test_nobodys_write_waits_while_the_memories_to_delete_are_found(open_memory, store_path):
    memory = open_memory(store_path)
    _lade(memory)
    begun, errors = threading.Event(), []

    def delete() -> None:
        begun.set()
        try:
            memory.delete_all(user_id="eve", filters=HEAVY, timeout=3)
        except AgentMemError as error:
            errors.append(error)

    deleting = threading.Thread(target=delete)
    deleting.start()
    begun.wait(SECONDS)
    time.sleep(0.2)
    memory.add("a text", user_id="ben")
    memory.delete_all(user_id="ben")
    assert deleting.is_alive()
    deleting.join()
    assert isinstance(errors[0], DeadlineError)
    assert memory.count(user_id="eve") == 40


def _before_commit(memory: Memory, monkeypatch: pytest.MonkeyPatch, *changes: Callable[[], Any]) -> None:
    """Has each of the changes made just before a commit of `delete_all`, whose memories are found by then."""
    commit, left = memory._engine.store._writes.commit, list(changes)

    def interfered(apply: Any, *kind: Any, **planned: Any) -> Any:
        if getattr(apply, "func", None) is store._hide and left:
            left.pop(0)()
        return commit(apply, *kind, **planned)

    monkeypatch.setattr(memory._engine.store._writes, "commit", interfered)


def _numbered(memory: Memory, count: int) -> list[Record]:
    return memory.add_batch([{"content": f"text {n}", "metadata": {"n": n}} for n in range(count)], user_id="ana")


@pytest.mark.parametrize("slow", [False, True], ids=["looked at in the transaction", "looked for again"])
def test_delete_all_sees_what_changes_while_it_finds_its_memories(memory, monkeypatch, slow):
    records = _numbered(memory, 8)

    def meanwhile() -> None:
        memory.update(records[0].id, metadata={"n": 7})  # Passes no more,
        memory.update(records[7].id, metadata={"n": 0})  # and this one does now.
        memory.update(records[1].id, "another text")
        memory.delete(records[2].id)
        memory.add("a new text", user_id="ana", metadata={"n": 1}, id="new")
        memory.add("a new text", user_id="ben", metadata={"n": 1})

    _before_commit(memory, monkeypatch, meanwhile)
    if slow:
        seconds = iter([-1.0])
        monkeypatch.setattr(store, "CHANGED_SECONDS", 0.0)
        monkeypatch.setattr(store, "Deadline", lambda _: Deadline(next(seconds, SECONDS)))
    assert memory.delete_all(user_id="ana", filters={"n": {"lt": 5}}) == 5  # 1, 3, 4, 7 and the new one.
    left = {record.id for record in memory.get_all(user_id="ana").records}
    assert left == {records[number].id for number in (0, 5, 6)}
    assert memory.count(user_id="ben") == 1
    assert [event.what for event in memory.history(records[2].id)] == ["add", "delete"]


def test_more_memories_are_deleted_oldest_first_and_what_ends_it_leaves_the_rest(memory, monkeypatch):
    records = _numbered(memory, 10)
    monkeypatch.setattr(store, "HIDDEN_TOGETHER", 3)
    checks = iter([None])
    with monkeypatch.context() as patched:
        patched.setattr(Deadline, "check", lambda deadline: next(checks, 0) is None or _raise(deadline.error()))
        with pytest.raises(DeadlineError, match=r"6 memories were deleted .* call again"):
            memory.delete_all(user_id="ana")
    assert {record.id for record in memory.get_all(user_id="ana").records} == {each.id for each in records[6:]}
    assert memory.delete_all(user_id="ana") == 4
    assert memory.count(user_id="ana") == 0


def _raise(error: Exception) -> None:
    raise error


def test_records_that_are_large_are_found_like_others(memory):
    texts = ["word " * size for size in (1, 10, 4_000, 100_000)]
    stored = memory.add_batch([{"content": text, "metadata": {"note": "n" * 20_000}} for text in texts], user_id="ana")
    stored += memory.add_batch([f"word {number}" for number in range(600)], user_id="ana")
    found = memory.search("word", user_id="ana", limit=1000)
    assert sorted(match.record.id for match in found) == sorted(record.id for record in stored)
    assert {match.record.id: match.record for match in found} == {record.id: record for record in stored}
    assert len(memory.search("word", user_id="ana", limit=700, show_expired=True)) == 604


@pytest.mark.slow
def test_an_export_that_takes_too_long_leaves_no_file(laden, tmp_path: Path):
    with pytest.raises(DeadlineError):
        laden.export(tmp_path / "eve.jsonl", user_id="eve", filters=HEAVY, timeout=0.2)
    assert [path.name for path in tmp_path.iterdir() if "eve" in path.name] == []
