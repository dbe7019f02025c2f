"""A store moves to another model: while others use it, in one moment, without losing a vector."""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import apsw
import pytest

from agentmem import (
    ClosedError,
    Config,
    DeadlineError,
    EmbeddingError,
    InvalidInputError,
    Memory,
    ModelError,
    ModelMismatchError,
    StoreBusyError,
)
from agentmem.storage.sqlite import reembedding as move
from agentmem.storage.sqlite import text_pages as walk
from agentmem.storage.sqlite.maintenance.repair import salvage_open
from agentmem.testing import HashEmbedder
from agentmem.timestamps import now
from tests import failpoints
from tests.forgery import forge
from tests.turned import Turned


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    failpoints.disarm()


def texts(count: int, of: str = "text") -> list[str]:
    return [f"{of} number {number} of tea and seats" for number in range(count)]


def assert_found(memory: Memory, *contents: str, user_id: str = "ana") -> None:
    """Each by its own vector: a cosine of 1, which no vector of another model has with it."""
    for content in contents:
        [match] = memory.search(content, user_id=user_id, mode="vector", limit=1)
        assert match.record.content == content
        assert match.score > 0.99


@contextmanager
def moving_while(memory: Memory, call: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Future[Any]]:
    """Moves the store while a call has its first vectors, which are not stored."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        if not held.is_set():
            held.set()
            go_on.wait(60)

    failpoints.arm("cache: before a vector is kept", hold)
    with ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(call, *arguments, **options)
        assert held.wait(60)
        failpoints.arm("reembed: after the models have changed places", go_on.set)
        memory.reembed(Turned())
        yield going_on


def tables(path) -> set[str]:
    connection = apsw.Connection(str(path))
    found = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    connection.close()
    return found


def facts(path) -> set[str]:
    connection = apsw.Connection(str(path))
    found = {row[0] for row in connection.execute("SELECT name FROM meta")}
    connection.close()
    return found


# -- what is true when it is done ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [HashEmbedder(32), Turned(64), Turned(200)], ids=lambda target: target.identity)
def test_a_moved_store_finds_everything_with_the_new_model(memory, target):
    memory.add_batch(texts(700), user_id="ana")
    assert_found(memory, texts(700)[3])
    assert memory.reembed(target) == 700
    assert_found(memory, *texts(700)[::90])
    assert memory.stats().embedding.model == type(target).__name__
    assert memory.stats().store.vectors == 700
    memory.add("a new text", user_id="ana")
    assert_found(memory, "a new text")
    assert memory.check() == []


def test_a_moved_store_opens_with_the_new_model_only(open_memory, store_path):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    memory.reembed(Turned(32))
    memory.close()
    with pytest.raises(ModelMismatchError, match=r"tests.turned:7:32.*not by .*HashEmbedder:1:64.*reembed\(embedder\)"):
        open_memory()
    with pytest.raises(ModelMismatchError, match=r"Turned.*tests.turned:7:32.*reembed\('minilm-mixed'\)"):
        Memory(store_path)
    assert_found(open_memory(embedder=Turned(32)), "tea")
    assert tables(store_path) == {"meta", "memory", "vector", "history", "segment", "sqlite_sequence"}
    assert not facts(store_path) & {"next_model", "old_model", "mover"}


def test_deleted_memories_and_earlier_versions_have_vectors_of_the_new_model(memory):
    kept = memory.add("the first version", user_id="ana")
    gone = memory.add("what was deleted", user_id="ana")
    before = now()
    memory.update(kept.id, "the second version")
    memory.delete(gone.id)
    memory.reembed(Turned())
    [match] = memory.search("the first version", user_id="ana", mode="vector", as_of=before, limit=1)
    assert (match.record.content, match.score > 0.99) == ("the first version", True)
    memory.restore(gone.id)
    assert_found(memory, "what was deleted", "the second version")


def test_a_text_of_an_earlier_version_is_not_embedded_again(memory):
    record = memory.add("the first version", user_id="ana")
    memory.update(record.id, "the second version")
    target = Turned()
    memory.reembed(target)
    memory.add("the first version", user_id="ana")
    assert target.texts == 2
    memory.add("the first version", user_id="ben")
    assert target.texts == 3


def test_memories_that_wait_for_their_vectors_get_those_of_the_new_model(open_memory, store_path):
    memory = open_memory(model=None)
    memory.add_batch(texts(40), user_id="ana", defer=True)
    assert memory.reembed(Turned()) == 0
    memory.flush()
    assert_found(memory, *texts(40)[::13])


def test_what_the_old_model_failed_on_is_given_to_the_new_one(open_memory):
    def refuse(batch: list[str]) -> None:
        if "poison" in batch:
            raise ValueError("no such word")

    memory = open_memory(embedder=Turned(before=refuse))
    memory.add("poison", user_id="ana", defer=True)
    memory.flush()
    assert memory.stats().store.pending_failed == 1
    memory.reembed(HashEmbedder())
    assert_found(memory, "poison")


def test_what_the_new_model_fails_on_is_named_and_the_rest_has_moved(open_memory):
    def refuse(batch: list[str]) -> None:
        if "poison" in batch:
            raise ValueError("no such word")

    memory = open_memory()
    memory.add_batch(["poison", *texts(20)], user_id="ana")
    record = memory.get_all(user_id="ana", order="oldest").records[0]
    memory.reembed(Turned(before=refuse))
    assert_found(memory, *texts(20))
    memory.flush()
    [problem] = memory.check()
    assert record.id in problem
    assert "no such word" in problem
    memory.update(record.id, "a better text")
    assert_found(memory, "a better text")


def test_a_model_that_fails_on_everything_is_not_moved_to(open_memory, store_path):
    def fail(batch: list[str]) -> None:
        raise ValueError("out of order")

    memory = open_memory()
    memory.add_batch(texts(30), user_id="ana")
    with pytest.raises(EmbeddingError, match="out of order"):
        memory.reembed(Turned(before=fail))
    assert_found(memory, *texts(30)[::7])
    assert memory.stats().store.moving_to == "Turned"
    assert memory.reembed(None) == 0
    assert memory.stats().store.moving_to == ""
    assert "next_vector" not in tables(store_path)


def test_a_model_that_fails_on_too_many_texts_is_not_moved_to(open_memory, monkeypatch):
    def refuse(batch: list[str]) -> None:
        if any("number" in text for text in batch):
            raise ValueError("no numbers")

    monkeypatch.setattr(move, "REFUSED_LIMIT", 5)
    memory = open_memory()
    memory.add_batch(texts(20), user_id="ana")
    with pytest.raises(EmbeddingError, match="fails on more than 5 of the texts"):
        memory.reembed(Turned(before=refuse))
    assert_found(memory, *texts(20)[::7])


def test_a_store_that_is_of_the_model_already_stays_as_it_is(memory):
    memory.add("tea", user_id="ana")
    assert memory.reembed(HashEmbedder()) == 0
    assert memory.reembed(None) == 0
    assert_found(memory, "tea")


def test_a_store_that_never_had_a_model_takes_the_one_it_is_moved_to(open_memory):
    memory = open_memory(model=None)
    assert memory.reembed(Turned()) == 0
    memory.add("tea", user_id="ana")
    assert_found(memory, "tea")


def test_a_memory_without_a_model_sees_the_one_that_another_brings(open_memory):
    """It was opened when the store had no model, and no vectors."""
    without = open_memory(model=None)
    with_one = open_memory()
    with_one.add_batch(texts(20), user_id="ana")
    [match] = without.search("number 7", user_id="ana", mode="keyword", limit=1)
    assert match.record.content == texts(20)[7]


def test_a_memory_without_a_model_moves_its_store_and_has_one_then(open_memory):
    memory = open_memory()
    memory.add_batch(texts(20), user_id="ana")
    memory.close()
    memory = open_memory(model=None)
    with pytest.raises(ModelError):
        memory.search("tea", user_id="ana")
    memory.reembed(Turned(48))
    assert_found(memory, *texts(20)[::7])


def test_there_and_back_again(memory):
    memory.add_batch(texts(20), user_id="ana")
    memory.reembed(Turned(32))
    memory.reembed(HashEmbedder())
    memory.reembed(Turned(32))
    assert_found(memory, *texts(20)[::7])


def test_what_cannot_be_moved_to_is_told(memory):
    for model in ("", 7):
        with pytest.raises(InvalidInputError, match=r"model is|embedder is"):
            memory.reembed(model)
    with pytest.raises(ModelError, match="nowhere"):
        memory.reembed("nowhere")
    with pytest.raises(InvalidInputError, match="timeout"):
        memory.reembed(Turned(), timeout=-1)


# -- meanwhile ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everybody_goes_on_meanwhile_and_never_gets_a_wrong_answer(open_memory):
    memory = open_memory()
    memory.add_batch(texts(1500), user_id="ana")
    stop = threading.Event()
    added: dict[int, list[str]] = {}

    def add(thread: int) -> int:
        added[thread] = []
        while not stop.is_set():
            number = len(added[thread])
            content = f"thread {thread} adds {number}"
            record = memory.add(content, user_id="ben")
            if number % 3 == 1:
                content = f"thread {thread} changed {number}"
                memory.update(record.id, content)
            if number % 3 == 2:
                memory.add_batch([f"{content} part {part}" for part in range(9)], user_id="ben")
            assert_found(memory, content, user_id="ben")
            added[thread].append(content)
        return len(added[thread])

    def search() -> int:
        count = 0
        while not stop.is_set():
            assert_found(memory, f"text number {count % 1500} of tea and seats")
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        work = [*(pool.submit(add, thread) for thread in range(3)), *(pool.submit(search) for _ in range(2))]
        try:
            for target in (Turned(96), HashEmbedder(), Turned(32)):
                memory.reembed(target)
                assert memory.check() == []
        finally:
            stop.set()
        assert all(each.result(60) for each in work)
    for contents in added.values():
        assert_found(memory, *contents[-20:], user_id="ben")
    assert memory.stats().store.pending == 0


def test_a_vector_that_was_made_before_the_move_is_not_stored_after_it(open_memory):
    """An add whose vector is ready when the models change places is done again, with the new one."""
    memory = open_memory()
    memory.add("tea", user_id="ana")
    with moving_while(memory, memory.add, "in between", user_id="ana") as adding:
        assert adding.result(60).content == "in between"
    assert_found(memory, "tea", "in between")
    assert memory.count(user_id="ana") == 2


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_chunk_that_was_on_its_way_is_done_again(open_memory, on_error):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    with moving_while(memory, memory.add_batch, texts(600), user_id="ana", on_error=on_error) as adding:
        assert [record.content for record in adding.result(60)] == texts(600)
    assert_found(memory, "tea", *texts(600)[::150])


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_import_that_was_on_its_way_is_done_again(open_memory, on_error):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    lines = io.StringIO("".join(f"{json.dumps(text)}\n" for text in texts(600)))
    with moving_while(memory, memory.import_, lines, user_id="ana", on_error=on_error) as importing:
        report = importing.result(60)
        assert (report.imported, report.failed) == (600, ())
    assert_found(memory, "tea", *texts(600)[::150])


@pytest.mark.parametrize(
    ("way", "on_error"), [("add_batch", "raise"), ("add_batch", "return"), ("import_", "raise"), ("import_", "skip")]
)
def test_texts_that_waited_for_the_model_that_is_left_go_to_the_new_one(open_memory, way, on_error):
    """The old model answers the texts in its queue with ClosedError, which no caller sees."""
    held = threading.Event()

    def hold(_: list[str]) -> None:
        held.set()
        end = time.monotonic() + 60
        while memory._engine.runtimes.current is left or left.embedder.stats()["waiting_texts"]:
            assert time.monotonic() < end
            time.sleep(0.01)

    embedder = Turned(turn=3)
    memory = open_memory(embedder=embedder, config=Config(workers=1, batch_tokens=512))
    memory.add("tea", user_id="ana")
    left = memory._engine.runtimes.current
    embedder.before = hold
    with ThreadPoolExecutor(1) as pool:
        if way == "add_batch":
            coming = pool.submit(memory.add_batch, texts(600), user_id="ana", on_error=on_error)
        else:
            lines = io.StringIO("".join(f"{json.dumps(text)}\n" for text in texts(600)))
            coming = pool.submit(memory.import_, lines, user_id="ana", on_error=on_error)
        assert held.wait(60)
        memory.reembed(Turned())
        done = coming.result(60)
    if way == "add_batch":
        assert [record.content for record in done] == texts(600)
    else:
        assert (done.imported, done.failed) == (600, ())
    assert_found(memory, "tea", *texts(600)[::150])


@pytest.mark.parametrize("defer", [False, True])
def test_an_import_of_old_vectors_into_a_store_that_moves_meanwhile_takes_none_of_them(open_memory, tmp_path, defer):
    source = open_memory(tmp_path / "source.db")
    source.add_batch(texts(600), user_id="ana")
    file = tmp_path / "export.jsonl"
    source.export(file, all_scopes=True, vectors=True)
    memory = open_memory()
    memory.add("tea", user_id="ana")

    class MovesWhenItIsRead(io.BytesIO):
        moved = False

        def read(self, *arguments) -> bytes:
            if not self.moved:
                self.moved = True
                memory.reembed(Turned())
            return super().read(*arguments)

        def readline(self, *arguments) -> bytes:
            self.read(0)
            return super().readline(*arguments)

    stream = MovesWhenItIsRead(file.read_bytes())
    report = memory.import_(stream, defer=defer)
    assert stream.moved
    assert report.imported == 600
    assert_found(memory, "tea", *texts(600)[::100])


def test_what_changes_at_the_last_moment_waits_for_its_vector(open_memory):
    """While the last page is on its way through the new model, everything happens to a store that can."""
    memory = open_memory(":memory:")
    records = memory.add_batch(texts(20), user_id="ana")
    done = []

    def change(batch: list[str]) -> None:
        if not done:
            done.append(True)
            memory.add("added", user_id="ana")
            memory.update(records[0].id, "updated")
            memory.delete(records[1].id)
            deleted = memory.add("added and deleted", user_id="ana")
            memory.delete(deleted.id)
            memory.purge(records[2].id)
            memory.add("deferred", user_id="ana", defer=True)

    memory.reembed(Turned(before=change))
    assert done
    assert_found(memory, "added", "updated", "deferred", *texts(20)[3:])
    memory.restore(records[1].id)
    [gone] = [each for each in memory.history(records[0].id) if each.what == "update"]
    assert gone.before.content == texts(20)[0]
    assert_found(memory, texts(20)[1])
    assert memory.check() == []


def test_a_store_that_is_written_faster_than_the_new_model_embeds_moves_all_the_same(open_memory, monkeypatch):
    """Whenever a page comes to the new model, more is added than there is in a page."""
    monkeypatch.setattr(walk, "PAGE_TEXTS", 16)
    monkeypatch.setattr("agentmem.engine.reembedding.TAIL", 4)
    memory = open_memory()
    memory.add_batch(texts(64), user_id="ana")
    batches = iter(range(1000))

    def overtake(batch: list[str]) -> None:
        if memory._engine.runtimes.current.source is not target:  # Afterwards it would wait for itself.
            memory.add_batch(texts(20, of=f"batch {next(batches)}"), user_id="ben")

    target = Turned(before=overtake)
    memory.reembed(target)
    target.before = len
    assert_found(memory, *texts(64)[::9])
    memory.flush()
    assert_found(memory, *texts(20, of="batch 0"), user_id="ben")
    assert next(batches) < 900


def test_stats_tell_how_far_a_move_is_and_a_bar_shows_it(open_memory, store_path, capsys):
    memory = open_memory()
    memory.add_batch(texts(700), user_id="ana")
    told = []

    def look(batch: list[str]) -> None:
        stats = memory.stats()
        told.append((stats.embedding.model, stats.store.moving_to, stats.store.moved, stats.store.vectors))

    memory.reembed(Turned(before=look), progress=True)
    assert {each[:2] for each in told} == {("HashEmbedder", "Turned")}
    assert told[0][2:] == (0, 700)
    assert 0 < told[-1][2] < 700
    assert "700/700" in capsys.readouterr().err
    stats = memory.stats()
    assert (stats.embedding.model, stats.store.moving_to, stats.store.moved) == ("Turned", "", 0)
    memory.reembed(HashEmbedder())
    assert capsys.readouterr().err == ""


# -- several calls ------------------------------------------------------------------------------------------------


def test_of_two_calls_for_one_model_one_embeds_and_both_return_when_it_is_done(open_memory):
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    pause = failpoints.Pause()
    failpoints.arm("reembed: before new vectors are kept", pause)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(memory.reembed, Turned())
        assert pause.reached.wait(60)
        second = pool.submit(memory.reembed, Turned())
        pause.release()
        assert sorted([first.result(60), second.result(60)]) == [0, 600]
    assert_found(memory, *texts(600)[::100])


def test_of_two_calls_for_different_models_the_second_is_told(open_memory):
    memory, other = open_memory(), open_memory()
    memory.add_batch(texts(600), user_id="ana")
    refused = []

    def move_elsewhere(batch: list[str]) -> None:
        for target in (Turned(turn=3), None):
            with pytest.raises(StoreBusyError, match="being moved to 'Turned' by process"):
                other.reembed(target)
            refused.append(target)

    memory.reembed(Turned(before=move_elsewhere))
    assert len(refused) > 2
    assert_found(memory, *texts(600)[::100])
    with pytest.raises(ModelMismatchError, match=r"was moved to 'Turned'.*embedder=HashEmbedder"):
        other.search("tea", user_id="ana")


def test_one_that_stood_still_for_too_long_finds_the_work_done_by_another(open_memory, monkeypatch):
    monkeypatch.setattr("agentmem.engine.reembedding.CLAIM_SECONDS", 0.2 - Config().timeout)
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    first, done = threading.Event(), threading.Event()

    def stand_still(batch: list[str]) -> None:
        first.set()
        done.wait(60)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(memory.reembed, Turned(before=stand_still))
        assert first.wait(60)
        assert memory.reembed(Turned()) == 600
        done.set()
        assert slow.result(60) == 0
    assert_found(memory, *texts(600)[::100])


def test_a_deadline_keeps_what_is_done(open_memory, monkeypatch):
    memory = open_memory()
    memory.add_batch(texts(1000), user_id="ana")
    late = threading.Event()

    def clock() -> float:
        return time.monotonic() + (10_000 if late.is_set() else 0)

    def be_late(batch: list[str]) -> None:
        if target.texts > 600:
            late.set()

    monkeypatch.setattr("agentmem.engine.reembedding.monotonic", clock)
    target = Turned(before=be_late)
    with pytest.raises(DeadlineError, match="not moved after 5000 seconds; what is done is kept"):
        memory.reembed(target, timeout=5000)
    done = memory.stats().store.moved
    assert 0 < done < 1000
    late.clear()
    again = Turned()
    assert memory.reembed(again) == 1000 - done == again.texts
    assert_found(memory, *texts(1000)[::100])


def test_close_ends_a_move_that_goes_on_and_the_next_call_goes_on_with_it(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(1000), user_id="ana")
    reached, go_on = threading.Event(), threading.Event()

    def stop_at_the_third(batch: list[str]) -> None:
        if target.texts > 600:
            reached.set()
            go_on.wait(60)

    target = Turned(before=stop_at_the_third)
    with ThreadPoolExecutor(2) as pool:
        moving = pool.submit(memory.reembed, target)
        assert reached.wait(60)
        closing = pool.submit(memory.close)
        assert memory._engine.runtimes.closing.wait(60)
        go_on.set()
        with pytest.raises(ClosedError):
            moving.result(60)
        closing.result(60)
    memory = open_memory()
    assert memory.check() == []
    assert "mover" not in facts(store_path)
    assert_found(memory, *texts(1000)[::300])
    assert 0 < memory.reembed(Turned()) < 1000
    assert_found(memory, *texts(1000)[::100])


def test_close_answers_who_waits_for_another_ones_move(open_memory):
    memory, other = open_memory(), open_memory()
    memory.add_batch(texts(600), user_id="ana")
    waiting: list[Future[int]] = []

    def wait_and_close(batch: list[str]) -> None:
        if not waiting:
            waiting.append(pool.submit(other.reembed, Turned()))
            other.close()

    with ThreadPoolExecutor(1) as pool:
        assert memory.reembed(Turned(before=wait_and_close)) == 600
        with pytest.raises(ClosedError):
            waiting[0].result(60)
    assert_found(memory, *texts(600)[::100])


def test_an_interrupt_ends_a_move_that_goes_on_with_the_next_call(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(1000), user_id="ana")

    struck = threading.Event()

    def interrupt(batch: list[str]) -> None:
        if target.texts > 500 and not struck.is_set():
            struck.set()
            os.kill(os.getpid(), signal.SIGINT)

    target = Turned(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        memory.reembed(target)
    assert "mover" not in facts(store_path)
    assert memory.check() == []
    assert_found(memory, *texts(1000)[::300])
    assert 0 < memory.reembed(Turned()) <= 1000
    assert_found(memory, *texts(1000)[::100])


# -- moves that were not finished ---------------------------------------------------------------------------------


def unfinished(memory: Memory) -> None:
    """A move to Turned() that failed on its way."""
    failpoints.arm("reembed: before new vectors are kept", failpoints.fail, after=1)
    with pytest.raises(OSError, match="armed"):
        memory.reembed(Turned())
    failpoints.disarm()


@pytest.mark.parametrize("model", [None, HashEmbedder()], ids=["None", "its own"])
def test_an_unfinished_move_is_given_up_on_demand(open_memory, store_path, model, monkeypatch):
    monkeypatch.setattr(move, "CLEARED_TOGETHER", 100)
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    assert memory.stats().store.moved == 256
    memory.reembed(model)
    assert "next_vector" not in tables(store_path)
    assert_found(memory, *texts(600)[::100])


def test_another_target_takes_the_place_of_an_unfinished_one(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    assert memory.reembed(Turned(32, turn=1)) == 600
    assert_found(memory, *texts(600)[::100])
    assert tables(store_path) == {"meta", "memory", "vector", "history", "segment", "sqlite_sequence"}


def test_what_was_given_up_half_way_is_made_anew_when_it_is_wanted_again(open_memory, monkeypatch):
    monkeypatch.setattr(move, "CLEARED_TOGETHER", 100)
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    failpoints.arm("reembed: before a target is given up", failpoints.fail, after=1)
    with pytest.raises(OSError, match="armed"):
        memory.reembed(None)
    failpoints.disarm()
    assert memory.stats().store.moved == 156
    assert memory.reembed(Turned()) == 600 - 156
    assert_found(memory, *texts(600)[::50])


@pytest.mark.slow
def test_the_pages_of_old_vectors_are_free_again(open_memory, store_path):
    memory = open_memory(config=Config(durability="process"))
    memory.add_batch(texts(3000), user_id="ana")
    memory.reembed(Turned())
    memory.close()
    once = store_path.stat().st_size
    memory = open_memory(embedder=Turned(), config=Config(durability="process"))
    for target in (HashEmbedder(), Turned(), HashEmbedder()):
        memory.reembed(target)
    memory.close()
    assert store_path.stat().st_size < 1.1 * once


def vectors_of(path) -> dict[str, list[bytes]]:
    connection = apsw.Connection(str(path))
    found = {
        table: [row[0] for row in connection.execute(f"SELECT data FROM {table}")]
        for table in tables(path) & {"vector", "next_vector", "old_vector"}
    }
    connection.close()
    return found


@pytest.mark.parametrize(
    "point", ["reembed: before the models change places", "reembed: before old vectors are erased"], ids=["next", "old"]
)
def test_purge_erases_the_vectors_of_both_models(open_memory, store_path, point):
    """Amid a move, and when old vectors are still to be cleared away."""
    memory = open_memory()
    secret = memory.add("the secret is in the teapot", user_id="ana")
    memory.update(secret.id, "the secret is in the kettle")
    memory.add_batch(texts(600), user_id="ben")
    kept = memory.add("shared by both", user_id="ben")
    memory.add("shared by both", user_id="ana")
    failpoints.arm(point, failpoints.fail)
    with pytest.raises(OSError, match="armed"):
        memory.reembed(Turned())
    before = vectors_of(store_path)
    failpoints.disarm()  # From now on the background may clear the old vectors away.
    assert len(before) == 2
    secrets = [
        embedder._engine.embedder.embed([text], [None], "document", urgent=True, timeout=60)[0]
        for embedder in (open_memory(":memory:"), open_memory(":memory:", embedder=Turned()))
        for text in ("the secret is in the teapot", "the secret is in the kettle")
    ]
    assert all(any(each in vectors for vectors in before.values()) for each in secrets)
    assert memory.purge(user_id="ana") == 2
    after = vectors_of(store_path)
    assert not any(each in vectors for vectors in after.values() for each in secrets)
    raw = store_path.read_bytes() + store_path.with_name("store.db-wal").read_bytes()
    assert not any(each in raw for each in secrets)
    memory.reembed(Turned())
    assert_found(memory, "shared by both", *texts(600)[::100], user_id="ben")
    assert memory.get(kept.id) is not None


def test_a_purged_text_on_its_way_through_the_new_model_leaves_nothing(open_memory, store_path):
    """Its key may even have been handed on to another text meanwhile."""
    memory = open_memory()
    memory.add_batch(texts(20), user_id="ben")
    memory.add("the secret is in the teapot", user_id="ana")
    done = []

    def purge(batch: list[str]) -> None:
        if not done:
            memory.purge(user_id="ana")
            done.append(memory.add("quite another text", user_id="ben"))

    memory.reembed(Turned(before=purge))
    assert_found(memory, "quite another text", *texts(20), user_id="ben")
    assert memory.stats().store.vectors == 21


def test_check_names_a_move_that_is_not_whole_and_repair_gives_it_up(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    assert memory.check() == []
    forge(store_path, "DELETE FROM meta WHERE name = 'next_model'")
    [problem] = memory.check()
    assert "'next_vector' and 'next_model'" in problem
    assert any("given up" in sentence for sentence in memory.repair())
    assert memory.check() == []
    assert memory.reembed(Turned()) == 600
    assert_found(memory, *texts(600)[::100])


@pytest.mark.slow
def test_a_damaged_store_is_mended_amid_a_move(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    memory.close()
    connection = apsw.Connection(str(store_path))
    [page] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'memory_user'").fetchone()
    connection.close()
    with store_path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    memory = open_memory()
    assert memory.check() != []
    memory.repair()
    memory.flush()
    assert_found(memory, *texts(600)[::100])
    memory.reembed(Turned())
    assert_found(memory, *texts(600)[::100])


def test_a_salvage_amid_a_move_takes_no_vector_for_one_of_the_other_model(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    memory.close()
    assert any("read from it" in told for told in salvage_open(str(store_path)))
    assert "next_model" not in facts(store_path)
    memory = open_memory()
    memory.repair()
    memory.flush()
    assert_found(memory, *texts(600)[::100])
    assert memory.reembed(Turned()) == memory.stats().store.vectors == 600
    assert_found(memory, *texts(600)[::100])


def test_repair_amid_a_move_leaves_it_whole(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(600), user_id="ana")
    unfinished(memory)
    forge(store_path, "UPDATE vector SET data = zeroblob(128) WHERE key IN (1, 2, 599)")
    assert len(memory.check()) == 3
    memory.repair()
    memory.flush()
    assert memory.stats().store.moved == 254
    assert memory.check() == []
    memory.reembed(Turned())
    assert_found(memory, *texts(600)[:3], *texts(600)[-3:])
