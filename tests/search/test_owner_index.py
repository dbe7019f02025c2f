"""IndexCache: loaded in parts, caught up, evicted; whatever happens on the way, a search finds each memory once."""

import gc
import threading
import tracemalloc

import pytest

from agentmem import Config, StoreDamagedError
from agentmem.errors import StoreError
from agentmem.storage.sqlite.as_of import PastSnapshot
from agentmem.storage.sqlite.database.sql import KEPT_BYTES, is_kept
from agentmem.storage.sqlite.snapshot import Snapshot


def found(memory, owner="ana", **arguments):
    matches = memory.search("tea in the morning", user_id=owner, limit=1000, **arguments)
    return sorted(match.record.content for match in matches)


def texts(count, what="morning tea"):
    return [f"{what} number {number}" for number in range(count)]


@pytest.fixture
def in_parts(monkeypatch):
    """Three memories are read at once, so that a load takes many steps."""
    monkeypatch.setattr(Snapshot, "_together", 3)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "keyword"])
def test_an_index_that_is_loaded_in_parts_is_whole(memory, in_parts, mode):
    memory.add_batch(texts(20), user_id="ana", run_id="r")
    memory.add_batch(texts(10, "coffee and tea"), user_id="ben")
    memory.add_batch(texts(5, "deferred tea"), user_id="ana", defer=True)
    assert found(memory, mode=mode) == sorted(texts(20) + texts(5, "deferred tea"))


def test_parts_without_anything_live_are_nothing(memory, in_parts):
    records = memory.add_batch(texts(12), user_id="ana")
    for record in records[:9]:
        memory.delete(record.id)
    assert found(memory) == sorted(texts(12)[9:])
    for record in records[9:]:
        memory.delete(record.id)
    assert found(memory) == []


def test_an_index_grows_over_many_searches(memory, in_parts):
    """Beyond every size that it had room for, with memories that change on the way."""
    expected = []
    for number in range(150):
        record = memory.add(f"morning tea {number}", user_id="ana", run_id=f"run {number % 7}")
        if number % 3 == 0:
            memory.update(record.id, f"evening tea {number}")
            expected.append(f"evening tea {number}")
        elif number % 3 == 1:
            memory.delete(record.id)
        else:
            expected.append(f"morning tea {number}")
        if number % 10 == 0:
            assert found(memory) == sorted(expected)
    assert found(memory) == sorted(expected)


def test_a_load_that_failed_on_the_way_is_done_again(memory, in_parts, monkeypatch):
    memory.add_batch(texts(20), user_id="ana", run_id="r")
    whole = Snapshot._states
    failures = iter([False, False, True])

    def failing(self, owner, keys):
        if next(failures, False):
            raise StoreError("reading failed")
        return whole(self, owner, keys)

    monkeypatch.setattr(Snapshot, "_states", failing)
    with pytest.raises(StoreError):
        found(memory)
    for mode in ("hybrid", "vector", "keyword"):
        assert found(memory, mode=mode) == sorted(texts(20))


def test_a_vector_of_another_length_is_damage_and_no_answer(open_memory, store_path):
    memory = open_memory()
    memory.add_batch(texts(4), user_id="ana")
    database = memory._engine.store._database
    with database.writing() as connection:  # One is longer by what another one lacks.
        rows = connection.execute("SELECT data, key FROM vector").fetchall()
        connection.execute("UPDATE vector SET data = CAST(data || x'0000' AS BLOB) WHERE key = 2")
        connection.execute("UPDATE vector SET data = substr(data, 3) WHERE key = 3")
    with pytest.raises(StoreDamagedError):
        found(memory)
    with database.writing() as connection:
        connection.executemany("UPDATE vector SET data = ? WHERE key = ?", rows)
    assert found(memory) == texts(4)


def test_the_past_of_many_memories_has_the_texts_of_then(memory, clock):
    records = memory.add_batch(texts(12), user_id="ana", metadata={"weight": 0.5})
    then = clock()
    clock.wait(60)
    for record in records[::2]:
        memory.update(record.id, "something else", metadata={"weight": 1.0})
    clock.wait(60)
    for mode in ("hybrid", "vector", "keyword"):
        assert found(memory, mode=mode, as_of=then) == sorted(texts(12))
    matches = memory.search("tea", user_id="ana", importance="weight", as_of=then, limit=20, explain=True)
    assert {match.explanation["importance"] / match.score for match in matches} == {-1 / 3}
    assert PastSnapshot._together > 10**9  # One pass over what is put together from the history, however much it is.


def test_indexes_are_evicted_while_others_are_searched(open_memory):
    memory = open_memory(config=Config(index_bytes=20_000))
    owners = [f"owner {number}" for number in range(12)]
    for owner in owners:
        memory.add_batch([f"{text} of {owner}" for text in texts(20)], user_id=owner)
    wrong = []

    def search(start):
        for turn in range(24):
            owner = owners[(start + turn) % len(owners)]
            if found(memory, owner) != sorted(f"{text} of {owner}" for text in texts(20)):
                wrong.append(owner)

    threads = [threading.Thread(target=search, args=(3 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    stats = memory.stats()
    assert stats.search.indexes_evicted > 0
    assert 0 < stats.search.index_bytes <= 20_000 or stats.search.indexes == 1


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_indexes_in_int8_take_less_room_and_find_nearly_the_same(open_memory, mode):
    exact, small = open_memory(), open_memory(config=Config(index_vectors="int8"))
    exact.add_batch(texts(300), user_id="ana", run_id="r")
    for query in ("morning tea 7", "tea", "what is left of 12"):
        both = [
            {match.record.content: match.score for match in memory.search(query, user_id="ana", mode=mode, limit=300)}
            for memory in (exact, small)
        ]
        assert both[1] == pytest.approx(both[0], abs=0.01)
    # Of 64 numbers a vector, a byte instead of two, and what one step is.
    assert exact.stats().search.index_bytes - small.stats().search.index_bytes == 300 * (64 - 4)


def test_what_others_erase_takes_no_room(memory):
    memory.add_batch(texts(5), user_id="ana")
    memory.add_batch(texts(500, "coffee"), user_id="ben")
    assert found(memory) == texts(5)
    before = memory.stats().search.index_bytes
    memory.purge(user_id="ben")
    memory.add("one more", user_id="ana")
    assert found(memory) == sorted([*texts(5), "one more"])
    assert memory.stats().search.index_bytes < 2 * before


def test_nothing_is_kept_of_owners_that_have_nothing(memory):
    memory.add("a text", user_id="ana")
    gone = memory.add("a text", user_id="ben")
    assert len(memory.search("text", user_id="ben", mode="keyword")) == 1
    memory.delete(gone.id)
    memory.add("another text", user_id="cleo")
    memory.purge(user_id="cleo")
    for number in range(20):
        assert memory.search("text", user_id=f"ghost {number}", mode="keyword", filters={"n": number}) == []
    for owner in ("ben", "cleo"):
        assert memory.search("text", user_id=owner, mode="keyword") == []
    assert memory.stats().search.indexes == 0
    memory.add("at last a text", user_id="ghost 7")
    assert len(memory.search("text", user_id="ghost 7", mode="keyword")) == 1
    assert memory.stats().search.indexes == 1


def test_an_index_counts_what_it_takes_beside_its_memories(open_memory):
    memory = open_memory(config=Config(index_bytes=100_000))
    for number in range(30):
        memory.add("a text", user_id=f"user {number}")
        memory.search("text", user_id=f"user {number}", mode="keyword")
    stats = memory.stats()
    assert 0 < stats.search.indexes <= 10
    assert stats.search.index_bytes >= 10_000 * stats.search.indexes


def test_a_large_filter_is_not_kept_with_its_answer(open_memory):
    memory = open_memory()
    memory.add("a text", user_id="ana", metadata={"n": "x"})
    filters = [{"n": ["x", str(number) * 200_000]} for number in range(8)]
    for wanted in filters:
        assert len(memory.search("text", user_id="ana", mode="keyword", filters=wanted)) == 1
    gc.collect()
    tracemalloc.start()
    try:
        for wanted in [{"n": ["x", str(number) * 400_000]} for number in range(8)]:
            assert len(memory.search("text", user_id="ana", mode="keyword", filters=wanted)) == 1
        del wanted
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


def test_a_connection_keeps_no_large_statement_and_no_large_values():
    assert is_kept("SELECT ?", ("x", 1, b"y", None))
    assert not is_kept("SELECT ?", ("x" * KEPT_BYTES,))
    assert not is_kept("SELECT ?", (b"x" * KEPT_BYTES,))
    assert not is_kept("SELECT 1" + " " * KEPT_BYTES)
