"""What is purged is gone: from every read, from every process, and from every byte of the store's files."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from agentmem import Config, InvalidInputError, Memory, NotFoundError, StoreBusyError
from agentmem.testing import HashEmbedder
from tests.children import SECONDS, finish, start_python

SECRET = "zqsecret"
"""Part of everything that is to be erased, and of nothing else."""


def files_with(path: Path | str, text: str = SECRET) -> list[str]:
    """The files of a store in which the bytes of a text are found."""
    path = Path(path)
    files = sorted(path.parent.glob(f"{path.name}*"))
    assert files
    return [file.name for file in files if text.encode() in file.read_bytes()]


def fill(memory: Memory, owner: str, word: str, length: int) -> list[str]:
    """Memories with a past: versions, metadata, deletions, deferred and expired ones; all of it says the word."""
    ids = []
    for number in range(30):
        name = f"{word}-{number}"
        record = memory.add(
            f"{name} text " + f"{word} " * length, user_id=owner, run_id=f"{word}-run", role=f"{word}-role",
            metadata={"tag": f"{word}-tag-{number}", "long": f"{word} " * length}, id=f"{word}-id-{number}",
            defer=number % 5 == 0, ttl=1000 if number % 7 == 0 else None,
        )  # fmt: skip
        ids.append(record.id)
        if number % 2:
            memory.update(record.id, f"{name} changed " + f"{word} " * (length * 2), metadata={"tag": f"{word}-new"})
        if number % 3 == 0:
            memory.delete(record.id)
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 60, 3000], ids=["small", "page", "pages"])
def test_no_byte_of_an_erased_owner_is_left_and_the_rest_is_untouched(open_memory, clock, length):
    memory = open_memory(config=Config(indexed_metadata=("tag",)))
    plain, secret = [], []
    for each in ("a", "b"):
        plain += fill(memory, "ben", f"plain-{each}", length)
        secret += fill(memory, f"{SECRET}-owner", f"{SECRET}-{each}", length)
    memory.flush()
    clock.wait(2000)
    assert files_with(memory.path) != []
    before = {each: memory.history(each) for each in plain}
    records = memory.get_all(user_id="ben", limit=1000).records
    assert memory.purge(user_id=f"{SECRET}-owner") == len(secret)
    assert files_with(memory.path) == []
    assert files_with(memory.path, "plain-a") != []
    # The sweep of what has expired rides in the same commit.
    assert {each: memory.history(each)[: len(before[each])] for each in plain} == before
    assert memory.get_all(user_id="ben", limit=1000).records == records
    assert [memory.history(each) for each in secret] == [[]] * len(secret)
    assert memory.check() == []
    assert memory.purge(user_id=f"{SECRET}-owner") == 0


def test_one_memory_goes_with_its_past_its_vectors_and_its_place_in_searches(memory):
    first = memory.add("green tea", user_id="ana")
    twin = memory.add("green tea", user_id="ben")
    memory.update(first.id, "black tea")
    other = memory.add("plays the cello", user_id="ana")
    assert memory.search("tea", user_id="ana")[0].record.id == first.id
    assert memory.stats().store.vectors == 4
    moment = memory.history(other.id)[0].at
    assert memory.purge(first.id) == 1
    assert memory.stats().store.vectors == 2  # Ben's tea and the cello: no other memory mentions black tea.
    assert (memory.get(first.id), memory.history(first.id), memory.get(first.id, as_of=moment)) == (None, [], None)
    assert [match.record for match in memory.search("tea", user_id="ana", as_of=moment)] == [other]
    assert [match.record for match in memory.search("tea", user_id="ana", limit=5)] == [other]
    assert memory.search("green tea", user_id="ben", mode="vector")[0].record == twin
    for call in (memory.restore, memory.update):
        with pytest.raises(NotFoundError):
            call(first.id, "x") if call == memory.update else call(first.id)
    assert memory.purge(first.id) == 0
    again = memory.add("white tea", user_id="ana", id=first.id)
    assert [event.what for event in memory.history(first.id)] == ["add"]
    assert memory.search("white tea", user_id="ana")[0].record == again


def test_deleted_expired_and_pending_memories_are_erased_too(open_memory, clock):
    memory = open_memory()
    deleted = memory.add(f"{SECRET} one", user_id="ana")
    memory.delete(deleted.id)
    expired = memory.add(f"{SECRET} two", user_id="ana", ttl=10)
    clock.wait(60)
    waiting = memory.add(f"{SECRET} three", user_id="ana", defer=True)
    assert [memory.purge(each.id) for each in (deleted, expired, waiting)] == [1, 1, 1]
    memory.flush()
    assert files_with(memory.path) == []
    assert memory.stats().store.vectors == memory.stats().store.pending == memory.stats().store.deleted == 0
    assert memory.count(user_id="ana", as_of=clock.now - timedelta(seconds=30)) == 0


def test_a_pending_text_that_is_erased_while_it_is_embedded_leaves_no_vector(open_memory):
    began, go_on = threading.Event(), threading.Event()

    class Slow(HashEmbedder):
        def embed(self, texts):
            began.set()
            assert go_on.wait(SECONDS)
            return super().embed(texts)

    memory = open_memory(embedder=Slow())
    record = memory.add("tea", user_id="ana", defer=True)
    kept = memory.add("coffee", user_id="ana", defer=True)
    assert began.wait(SECONDS)
    assert memory.purge(record.id) == 1
    go_on.set()
    memory.flush()
    assert memory.stats().store.vectors == 1
    assert memory.search("coffee", user_id="ana", mode="vector")[0].record == kept


def test_a_vector_stays_for_who_still_has_the_text_or_had_it(open_memory):
    memory = open_memory()
    erased = memory.add("tea", user_id="ana")
    had = memory.add("tea", user_id="ben")
    moment = memory.history(had.id)[0].at
    memory.update(had.id, "coffee")
    memory.purge(erased.id)
    [match] = memory.search("tea", user_id="ben", as_of=moment, mode="vector")
    assert match.record.content == "tea"
    memory.purge(user_id="ben")
    assert memory.stats().store.vectors == 0


def test_deduplication_starts_anew(memory):
    first = memory.add("tea", user_id="ana", dedupe=True)
    memory.purge(first.id)
    second = memory.add("tea", user_id="ana", dedupe=True)
    assert second.id != first.id
    assert memory.add("tea", user_id="ana", dedupe=True) == second


def test_a_view_erases_only_within_its_scope(memory):
    mine = memory.add("mine", user_id="ana", run_id="r1")
    memory.add("mine too", user_id="ana", run_id="r2")
    other = memory.add("not mine", user_id="ben")
    ana = memory.scope(user_id="ana")
    assert ana.purge(other.id) == 0
    assert ana.purge(run_id="r1") == 1
    assert memory.get(mine.id) is None
    with pytest.raises(InvalidInputError, match="outside this scope"):
        ana.purge(user_id="ben")
    assert ana.purge() == 1
    assert memory.count(all_scopes=True) == 1


@pytest.mark.parametrize("arguments", [{}, {"id": ""}, {"id": 3}, {"user_id": ""}, {"user_id": 3}], ids=str)
def test_what_names_nothing_to_erase_is_refused(memory, arguments):
    memory.add("tea", user_id="ana", id="m")
    with pytest.raises(InvalidInputError):
        memory.purge(**arguments)
    assert memory.count(user_id="ana") == 1


@pytest.mark.slow
def test_another_process_lets_go_of_what_was_erased(open_memory, store_path):
    memory = open_memory()
    ids = [memory.add(f"tea number {number}", user_id="ana").id for number in range(20)]
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            cache = memory._engine.index_cache
            print(len(memory.search("tea", user_id="ana", limit=50)), flush=True)
            sys.stdin.readline()
            print(len(memory.search("tea", user_id="ana", limit=50)), flush=True)
            with memory._engine.store.snapshot() as snapshot:
                print(int(cache.view(("user_id", "ana"), snapshot).live.sum()), flush=True)
    """
    child = start_python(code, store_path, stdin=-1)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.line() == "20\n"
    for each in ids[:7]:
        memory.purge(each)
    child.stdin.write("\n")
    child.stdin.flush()
    assert finish(child).split() == ["13", "13"]


@pytest.mark.slow
def test_under_concurrent_readers_and_writers_nothing_is_left_and_nobody_fails(open_memory):
    memory = open_memory()
    stop = threading.Event()

    def write(name: str) -> int:
        number = 0
        while not stop.is_set():
            memory.add(f"{name} plain {number}", user_id=name, id=f"{name}-{number}")
            memory.search("plain", user_id=name, limit=3)
            if number % 3 == 0:
                memory.update(f"{name}-{number}", f"{name} plain changed {number}")
            number += 1
        return number

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, name) for name in ("a", "b", "c")]
        try:
            for number in range(5):
                ids = fill(memory, f"{SECRET}-owner", f"{SECRET}-{number}", 1 + 200 * (number % 2))
                assert memory.purge(user_id=f"{SECRET}-owner") == len(ids)
                assert files_with(memory.path) == []
        finally:
            stop.set()
        assert all(
            writer.result(SECONDS) == memory.count(user_id=name) for name, writer in zip("abc", writers, strict=True)
        )


def test_a_read_that_goes_on_elsewhere_is_told_and_a_second_purge_finishes(open_memory):
    memory = open_memory(config=Config(busy_timeout=0.2))
    record = memory.add(f"{SECRET} tea", user_id="ana")
    reader = apsw.Connection(memory.path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM memory").fetchone() == (1,)
    with pytest.raises(StoreBusyError, match="purge again"):
        memory.purge(record.id)
    assert memory.get(record.id) is None
    assert memory.history(record.id) == []
    reader.close()
    assert memory.purge(record.id) == 0
    assert files_with(memory.path) == []


def test_many_memories_with_shared_texts_are_erased_over_several_transactions(open_memory):
    memory = open_memory()
    memory.add_batch([f"{SECRET} {number % 7}" for number in range(1300)], user_id="ana", defer=True)
    memory.flush()
    assert memory.stats().store.vectors == 7
    assert memory.purge(user_id="ana") == 1300
    assert (memory.stats().store.vectors, files_with(memory.path)) == (0, [])


PURGER = """
    import os, sys
    from agentmem import Config, Memory
    from agentmem.testing import HashEmbedder

    memory = Memory(sys.argv[1], embedder=HashEmbedder())
    os.write(1, b"ready\\n")
    memory.purge(user_id="zqsecret-owner")
    os.write(1, b"purged\\n")
"""


@pytest.mark.slow
def test_a_process_killed_while_it_erases_leaves_a_healthy_store_and_a_second_purge_finishes(store_path):
    for number in range(8):
        with Memory(store_path, embedder=HashEmbedder()) as memory:
            memory.add_batch([f"plain {number} {each}" for each in range(20)], user_id="ben")
            texts = [f"{SECRET} {number} {each % 400} " + "word " * 30 for each in range(1200)]
            memory.add_batch(texts, user_id=f"{SECRET}-owner", defer=True)
            memory.flush()
        child = start_python(PURGER, store_path)
        assert child.stdout is not None
        assert child.line() == "ready\n"
        threading.Event().wait(0.02 * number)
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate(timeout=SECONDS)
        if "purged" in output:
            assert files_with(store_path) == []
        with Memory(store_path, embedder=HashEmbedder()) as memory:
            assert memory.check() == []
            left = memory.count(user_id=f"{SECRET}-owner")
            assert memory.purge(user_id=f"{SECRET}-owner") == left
            assert files_with(store_path) == []
            assert memory.count(user_id="ben") == 20 * (number + 1)
            assert memory.stats().store.vectors == 20 * (number + 1)
            assert memory.check() == []
