"""Large owners: their memories are sealed in files, and everything stays as true as without."""

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from agentmem import Config, Memory
from agentmem.errors import ClosedError
from agentmem.filters import parse_filters
from agentmem.platform.processes import claimant
from agentmem.records import Scope
from agentmem.search import searcher as retriever
from agentmem.search.segments import builder as sealing
from agentmem.search.segments import candidates as large
from agentmem.search.segments.builder import LEASE_SECONDS, TAILS
from agentmem.search.segments.compaction import Job, Range, next_job
from agentmem.storage.sqlite.snapshot import Snapshot
from agentmem.storage.types import ListedSegment
from agentmem.testing import HashEmbedder
from tests import failpoints
from tests.children import run_python
from tests.turned import Turned

SIZE = 100
"""Memories of a segment here."""

MODES = ("vector", "keyword", "hybrid")


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch):
    monkeypatch.setattr(sealing, "SEGMENT", SIZE)
    monkeypatch.setattr(sealing, "RETRY_SECONDS", 0.0)
    yield
    failpoints.disarm()


@pytest.fixture
def graphs(monkeypatch):
    """Has graphs searched, which are only worth it in segments of another size."""
    monkeypatch.setattr(large, "ALL_OF", 20)
    monkeypatch.setattr(large, "GRAPH_COST", 0.0)


def texts(count: int, seed: int = 1) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(f"word{chosen.randrange(200)}" for _ in range(chosen.randint(4, 12))) for _ in range(count)]


def items(count: int, seed: int = 1, user_id: str = "ana"):
    return [
        {"content": text, "user_id": user_id, "run_id": f"run {seed}-{at // 7}", "metadata": {"n": at % 20}}
        for at, text in enumerate(texts(count, seed))
    ]


def seal(memory: Memory, **scope) -> int:
    """Searches, has sealed what that finds, and says how many segments the owner has by now."""
    scope = scope or {"user_id": "ana"}
    for _ in range(3):  # The first adopts what others did, the last what the second one had sealed.
        memory.search("word1", **scope)
        memory._engine.index_cache.seal()
    return sealed(memory, **scope)


def sealed(memory: Memory, **scope) -> int:
    """How many segments the owner has."""
    [owner] = (scope or {"user_id": "ana"}).items()
    with memory._engine.store.snapshot() as snapshot:
        return len(snapshot.listed_segments(None if owner == ("all_scopes", True) else owner))


def with_graphs(memory: Memory) -> list[bool]:
    """Whether each segment of ana's has a graph."""
    with memory._engine.store.snapshot() as snapshot:
        return [bool(listed.has_graph) for listed in snapshot.listed_segments(("user_id", "ana"))]


def files(memory: Memory) -> list[Path]:
    return sorted(Path(f"{memory.path}-segments").glob("*"))


def found(memory: Memory, query: str, **options) -> list[tuple[str, float]]:
    options.setdefault("user_id", "ana")
    return [(match.record.content, round(match.score, 4)) for match in memory.search(query, **options)]


def assert_like_exact(memory: Memory, *, queries: int = 8, least: float = 1.0, **options) -> None:
    """Compares with the scores of a store that has all memories in an index in memory."""
    with Memory(":memory:", embedder=HashEmbedder()) as plain:
        plain.add_batch(
            {
                "content": record.content, "id": record.id, "user_id": "ana", "run_id": record.run_id,
                "metadata": record.metadata, "created_at": record.created_at, "expires_at": record.expires_at,
            }
            for record in memory.get_all(user_id="ana", order="oldest", limit=1000)
        )  # fmt: skip
        for mode in MODES:
            hits = asked = 0
            for query in texts(queries, seed=99):
                expected = found(plain, query, mode=mode, **options)
                hits += len(set(expected) & set(found(memory, query, mode=mode, **options)))
                asked += len(expected)
            assert asked
            assert hits >= least * asked, (mode, hits, asked)


@pytest.mark.slow
def test_a_large_owner_is_sealed_by_who_searches_it_and_finds_the_same(open_memory):
    memory = open_memory()
    memory.add_batch(items(450))
    assert sealed(memory) == 0  # Adding to an owner that is not searched costs nothing.
    assert seal(memory) == 4
    assert len(files(memory)) == 4
    assert_like_exact(memory)
    assert_like_exact(memory, filters={"metadata.n": 3})
    assert_like_exact(memory, filters={"metadata.n": {"lt": 10}}, limit=40)


def test_the_first_search_of_a_large_owner_seals_him_and_graphs_follow(open_memory, graphs):
    memory = open_memory()
    memory.add_batch(items(450))
    pause = failpoints.Pause()
    failpoints.arm("segments: after one is written", pause, after=4)  # The first graph.
    [match, *_] = memory.search("word1 word2", user_id="ana", explain=True)
    assert pause.reached.wait(30)
    assert with_graphs(memory) == [False] * 4
    assert (match.explanation["plan"], match.explanation["graphs"]) == ("segments", 0)
    assert match.explanation["why"].startswith("450 memories are asked about, ")
    index = memory._engine.index_cache._indexes["user_id", "ana"]
    assert index._count == 50  # The others are in files.
    assert_like_exact(memory)
    pause.release()
    assert seal(memory) == 4
    assert with_graphs(memory) == [True] * 4
    [match, *_] = memory.search("word1 word2", user_id="ana", explain=True)
    assert match.explanation["graphs"] == 4
    assert_like_exact(memory, least=0.9)


def test_what_another_process_is_sealing_is_waited_for_and_then_loaded(open_memory, monkeypatch):
    monkeypatch.setattr(sealing, "TAIL_WAIT_SECONDS", 0.2)
    memory = open_memory()
    memory.add_batch(items(250))
    other = open_memory()
    assert not other._engine.store.lease(TAILS, claimant(), LEASE_SECONDS)
    memory.search("word1", user_id="ana")
    assert sealed(memory) == 0
    assert memory._engine.index_cache._indexes["user_id", "ana"]._count == 250
    assert_like_exact(memory)


@pytest.mark.slow
def test_two_handles_that_search_a_large_owner_first_at_once_seal_him_once(open_memory):
    one, other = open_memory(), open_memory()
    one.add_batch(items(450))
    pause = failpoints.Pause()
    failpoints.arm("segments: before one is written", pause)
    graphs = failpoints.Pause()
    failpoints.arm("segments: after one is written", graphs, after=4)
    searching = [
        threading.Thread(target=each.search, args=("word1",), kwargs={"user_id": "ana"}) for each in (one, other)
    ]
    for each in searching:
        each.start()
    assert pause.reached.wait(30)
    pause.release()
    for each in searching:
        each.join(60)
    for memory in (one, other):
        assert memory._engine.index_cache._indexes["user_id", "ana"]._count == 50
        assert_like_exact(memory)
    assert sealed(one) == 4
    graphs.release()


def test_what_was_sealed_meanwhile_is_let_go_of_and_not_loaded_anew(open_memory, monkeypatch):
    memory = open_memory()
    records = memory.add_batch(items(150))
    memory.search("word1", user_id="ana")  # Seals 100 of them.
    memory.add_batch(items(130, seed=2))
    memory.search("word1", user_id="ana")  # Has the sealer begin.
    memory._engine.index_cache.seal()
    memory.update(records[-1].id, content="a kettle sings")  # Its range is sealed by now.
    loaded = []
    states = Snapshot.states
    monkeypatch.setattr(Snapshot, "states", lambda *arguments: loaded.append(arguments[2]) or states(*arguments))
    memory.search("word1", user_id="ana")
    assert sum(map(len, loaded)) == 1  # What was updated.
    assert sealed(memory) == 2
    assert found(memory, "kettle", mode="keyword")[0][0] == "a kettle sings"
    assert_like_exact(memory)


def test_the_best_keywords_are_found_without_reading_all_of_the_common_words(open_memory, graphs):
    memory = open_memory()
    chosen = random.Random(3)
    contents = [
        " ".join(chosen.choices(["the kettle", "red", "old"], k=3) + chosen.choices(words, k=3))
        for words in [[f"rare{at % 150}", f"rarer{at}", "cup"] for at in range(640)]
    ]
    memory.add_batch({"content": content, "user_id": "ana"} for content in contents)
    seal(memory)
    for record in memory.get_all(user_id="ana", limit=60).records[::3]:
        memory.delete(record.id)
    with Memory(":memory:", embedder=HashEmbedder()) as plain:
        plain.add_batch(
            {"content": record.content, "id": record.id, "user_id": "ana", "created_at": record.created_at}
            for record in memory.get_all(user_id="ana", order="oldest", limit=1000)
        )
        for query in ("red cup", "rare3 red old cup", "rarer77 kettle", "old rare9 rare10 rare11", "red", "rarer900"):
            options = {"mode": "keyword", "limit": 12}
            expected = [score for _, score in found(plain, query, **options)]
            assert [score for _, score in found(memory, query, **options)] == expected, query


def test_the_answer_of_a_filter_follows_what_changes(open_memory, monkeypatch):
    memory = open_memory()
    records = memory.add_batch(items(250))
    seal(memory)
    options = {"filters": {"metadata.n": 3}, "mode": "keyword", "limit": 100}

    def expected(query: str) -> set[str]:
        matching = memory.get_all(user_id="ana", filters=options["filters"], limit=1000)
        return {record.content for record in matching.records if query in record.content.split()}

    assert {content for content, _ in found(memory, "word1", **options)} == expected("word1")
    asked = []
    keys = Snapshot.keys
    monkeypatch.setattr(Snapshot, "keys", lambda *arguments: asked.append(arguments[3:]) or keys(*arguments))
    memory.add("word1 is new", user_id="ana", metadata={"n": 3})
    memory.add("word1 is something else", user_id="ana", metadata={"n": 4})
    assert {content for content, _ in found(memory, "word1", **options)} == expected("word1")
    memory.update(records[1].id, metadata={"n": 3}, content="word1 had another number")
    memory.update(records[3].id, metadata={"n": 5})
    memory.delete(records[23].id)
    assert {content for content, _ in found(memory, "word1", **options)} == expected("word1")
    assert all(among is not None for among, *_ in asked)  # Nothing was asked about all memories again.


def test_closing_amid_the_first_search_gives_its_right_back(open_memory):
    memory = open_memory()
    memory.add_batch(items(250))
    pause = failpoints.Pause()
    failpoints.arm("segments: before one is written", pause)

    def search():
        with suppress(ClosedError):
            memory.search("word1", user_id="ana")

    searching = threading.Thread(target=search)
    searching.start()
    assert pause.reached.wait(30)
    closing = threading.Thread(target=memory.close)
    closing.start()
    pause.release()
    for each in (closing, searching):
        each.join(30)
    failpoints.disarm()
    again = open_memory()
    assert not again._engine.store.lease(TAILS, claimant(), LEASE_SECONDS)


@pytest.mark.slow
def test_whoever_comes_when_the_tail_is_sealed_gives_nothing_up(open_memory):
    memory = open_memory()
    memory.add_batch(items(450))
    searching = [threading.Thread(target=memory.search, args=("word1",), kwargs={"user_id": "ana"}) for _ in range(6)]
    for each in searching:
        each.start()
    for each in searching:
        each.join(60)
    assert memory._engine.index_cache._sealer.can_seal(("user_id", "ana"))
    memory.add_batch(items(450, seed=2))
    memory.search("word1", user_id="ana")
    assert memory._engine.index_cache._indexes["user_id", "ana"]._count < SIZE
    assert_like_exact(memory, limit=50)


def test_a_filter_answered_for_a_later_state_is_no_answer_for_an_earlier_one(open_memory, clock):
    """Two readers of one moment: the clock stands still, or was put back."""
    memory = open_memory()
    records = memory.add_batch(items(30))
    cache, scope = memory._engine.index_cache, Scope(user_id="ana")
    condition = parse_filters({"metadata.n": 3}, None)
    memory.search("word1", user_id="ana")
    with memory._engine.store.snapshot() as earlier:
        assert earlier.seq == 30
        view = cache.view(("user_id", "ana"), earlier)
        memory.update(records[5].id, metadata={"n": 3})
        memory.search("word1", user_id="ana", filters={"metadata.n": 3})
        [mask] = view.passing(earlier, scope, condition)
        assert set(view.keys[mask]) == set(earlier.keys(scope, condition))


def test_of_equal_scores_the_newest_come_first(open_memory, graphs):
    memory = open_memory()
    memory.add_batch({"content": "status", "user_id": "ana", "id": f"m{at:04}"} for at in range(650))
    seal(memory)
    for mode in MODES:
        matches = memory.search("status", user_id="ana", mode=mode, limit=5)
        assert [match.record.id for match in matches] == [f"m{at:04}" for at in range(649, 644, -1)], mode


@pytest.mark.slow
def test_what_orders_matches_anew_looks_at_what_was_not_among_the_best(open_memory, graphs, monkeypatch, clock):
    monkeypatch.setattr(retriever, "CANDIDATES", 16)
    memory = open_memory()
    memory.add_batch({"content": "word1 word2 word3", "user_id": "ana"} for _ in range(300))
    clock.wait(3000 * 86_400)
    memory.add_batch(
        {"content": f"word1 word2 other{at}", "user_id": "ana", "metadata": {"n": 1.0}} for at in range(300)
    )
    memory.add_batch(items(50))
    seal(memory)
    for mode in MODES:
        for options in (
            {"recency": 86_400.0},
            {"importance": "n"},
            {"collapse": True},
            {"collapse": True, "threshold": 0.1},
        ):
            with Memory(":memory:", embedder=HashEmbedder()) as plain:
                plain.add_batch(
                    {
                        "content": record.content, "user_id": "ana", "run_id": record.run_id, "id": record.id,
                        "metadata": record.metadata, "created_at": record.created_at,
                    }
                    for record in memory.get_all(user_id="ana", order="oldest", limit=1000)
                )  # fmt: skip
                expected = [score for _, score in found(plain, "word1 word2 word3", mode=mode, **options)]
            got = [score for _, score in found(memory, "word1 word2 word3", mode=mode, **options)]
            assert got == pytest.approx(expected, abs=0.02), (mode, options)


@pytest.mark.slow
def test_an_interrupt_amid_a_graph_is_what_the_handler_raised(open_memory, graphs):
    class Deadline(Exception):
        pass

    def strike(_signal, _frame):
        raise Deadline

    memory = open_memory()
    memory.add_batch(items(450))
    seal(memory)
    struck = 0
    before = signal.signal(signal.SIGALRM, strike)
    gc.disable()  # What strikes in a callback of the collector, such as hypothesis has, is swallowed.
    try:
        for turn in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + turn % 20 * 0.0001)
                memory.search("word1 word7", user_id="ana", mode="vector")
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Deadline:
                struck += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert struck
    assert_like_exact(memory, least=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_threads_that_search_at_once_find_what_each_finds_alone(open_memory, graphs, monkeypatch, cores):
    monkeypatch.setattr("agentmem.search.index_cache.usable_cores", lambda: cores)
    memory = open_memory()
    memory.add_batch(items(450))
    seal(memory)
    asked = [(mode, query) for mode in MODES for query in texts(20, seed=3)]
    alone = [found(memory, query, mode=mode) for mode, query in asked]
    together: dict[int, list[list[tuple[str, float]]]] = {}
    within: set[int] = set()
    most = 0

    def counted(*arguments, **options):
        nonlocal most
        within.add(threading.get_ident())
        most = max(most, len(within))
        try:
            return pool_of(*arguments, **options)
        finally:
            within.discard(threading.get_ident())

    pool_of = retriever.pool_of
    monkeypatch.setattr(retriever, "pool_of", counted)

    def work(number: int) -> None:
        together[number] = [found(memory, query, mode=mode) for mode, query in asked]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(8)] == [alone] * 8
    assert 1 <= most <= cores


def test_a_search_that_fails_amid_its_graphs_says_so_and_keeps_nobody_out(open_memory, graphs, monkeypatch):
    memory = open_memory()
    memory.add_batch(items(450))
    seal(memory)
    threads = threading.active_count()

    def broken(*_):
        raise MemoryError("no room")

    for _ in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(large.Segmented, "nearest", broken)
            with pytest.raises(MemoryError, match="no room"):
                memory.search("word1", user_id="ana")
        with monkeypatch.context() as patch:
            patch.setattr(large.Words, "best", broken)
            with pytest.raises(MemoryError, match="no room"):
                memory.search("word1", user_id="ana")
    assert threading.active_count() == threads
    assert_like_exact(memory, least=0.9)


def test_a_signal_handler_may_search_amid_a_search(open_memory, graphs, monkeypatch):
    monkeypatch.setattr("agentmem.search.index_cache.usable_cores", lambda: 1)
    memory, small = open_memory(), open_memory(":memory:")
    memory.add_batch(items(450))
    seal(memory)
    small.add_batch(items(700))  # Searches of as many take turns.
    answers = []

    def amid(name: str, memory: Memory) -> None:
        """Stands in for a handler that strikes where the search computes."""
        original = getattr(retriever, name)

        def struck(*arguments, **options):
            monkeypatch.setattr(retriever, name, original)
            answers.append(found(memory, "word1 word7"))
            return original(*arguments, **options)

        monkeypatch.setattr(retriever, name, struck)

    for name, searched in (("_pool", memory), ("_ranked", small)):
        alone = found(searched, "word1 word7")
        amid(name, searched)
        assert found(searched, "word1 word7") == alone
        assert answers.pop() == alone


@pytest.mark.slow
def test_the_interpreter_may_end_while_threads_search_graphs(store_path):
    """USearch ended the process with an abort."""
    code = """
        import random, sys, threading, time
        from contextlib import suppress
        from agentmem import ClosedError, Memory
        from agentmem.search.segments import candidates as large
        from agentmem.search.segments import builder as sealing
        from agentmem.testing import HashEmbedder

        sealing.SEGMENT, large.ALL_OF, large.GRAPH_COST = 1000, 20, 0.0
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        if not memory.count(user_id="ana"):
            words = random.Random(1)
            memory.add_batch(
                [" ".join(f"word{words.randrange(200)}" for _ in range(8)) for _ in range(4200)], user_id="ana"
            )
            memory.search("word1", user_id="ana")
            memory._engine.index_cache.seal()

        def search():
            with suppress(ClosedError):
                while True:
                    memory.search(f"word{random.randrange(200)} word{random.randrange(200)}", user_id="ana", limit=50)

        for _ in range(3):
            threading.Thread(target=search, daemon=True).start()
        time.sleep(0.1 + random.random() * 0.1)
        if sys.argv[2] == "close":
            memory.close()
    """
    for turn in range(16):
        run_python(code, store_path, "close" if turn % 2 else "leave")


@pytest.mark.slow
def test_graphs_find_nearly_all(open_memory, graphs):
    memory = open_memory()
    memory.add_batch(items(650))
    assert seal(memory) == 6
    [match, *_] = memory.search("word1 word2", user_id="ana", explain=True)
    assert match.explanation["plan"] == "segments"
    assert match.explanation["graphs"] == 6
    assert_like_exact(memory, least=0.9, queries=20)
    for text in texts(650)[::13]:
        assert found(memory, text, mode="vector", limit=3)[0] == (text, pytest.approx(1.0, abs=0.01))


@pytest.mark.slow
def test_a_filter_that_leaves_few_is_answered_exactly(open_memory, graphs):
    memory = open_memory()
    memory.add_batch(items(650))
    seal(memory)
    with Memory(":memory:", embedder=HashEmbedder()) as plain:
        plain.add_batch(items(650))
        for query in texts(10, seed=5):
            for mode in MODES:
                options = {"filters": {"metadata.n": 3}, "mode": mode, "limit": 100}
                assert found(memory, query, **options) == found(plain, query, **options)


def test_what_changes_after_it_was_sealed_is_seen_at_once(open_memory, graphs):
    memory = open_memory()
    records = memory.add_batch(items(250))
    assert seal(memory) == 2
    memory.update(records[5].id, content="a kettle sings")
    memory.delete(records[6].id)
    memory.add("a kettle is silent", user_id="ana")
    assert [content for content, _ in found(memory, "kettle", mode="keyword")] == [
        "a kettle sings",
        "a kettle is silent",
    ]
    for query in (records[5].content, records[6].content):
        assert query not in [content for content, _ in found(memory, query, mode="vector")]
    memory.restore(records[6].id)
    assert found(memory, records[6].content, mode="vector")[0][0] == records[6].content
    assert_like_exact(memory, least=0.9)


def test_a_segment_that_is_dead_for_a_good_part_is_built_anew(open_memory):
    memory = open_memory()
    records = memory.add_batch(items(310))
    assert seal(memory) == 3
    before = files(memory)
    for record in records[100:160]:
        memory.delete(record.id)
    seal(memory)
    after = files(memory)
    assert len(set(before) - set(after)) >= 1
    assert_like_exact(memory)


def test_where_nothing_is_to_be_sealed_nothing_is_written(open_memory):
    memory = open_memory()
    memory.add_batch(items(250))
    seal(memory)
    parts = memory._engine.index_cache._indexes["user_id", "ana"]._parts
    with memory._engine.store.snapshot() as before:
        assert before.segments
    memory.add("one more", user_id="ben")
    memory._engine.index_cache._sealer.wake(("user_id", "ana"))
    seal(memory)
    with memory._engine.store.snapshot() as after:
        assert after.segments == before.segments
    assert memory._engine.index_cache._indexes["user_id", "ana"]._parts is parts


def test_small_segments_become_one(open_memory):
    memory = open_memory()
    records = memory.add_batch(items(310))
    seal(memory)
    for record in records[:160]:
        memory.delete(record.id)
    assert seal(memory) == 2
    assert len(files(memory)) == 2
    assert_like_exact(memory)


@pytest.mark.slow
def test_purged_memories_take_their_segments_with_them(open_memory):
    """Of a vector, the text can be guessed: no file that has it may stay, whichever version it was."""
    memory = open_memory()
    records = memory.add_batch(items(350))
    seal(memory)
    memory.update(records[10].id, content="another one")
    memory.add_batch(items(100, seed=3))
    assert seal(memory) == 4
    before = files(memory)
    vector = HashEmbedder().embed([records[10].content])[0].astype("<f2").tobytes()
    assert any(vector in file.read_bytes() for file in before)
    memory.purge(records[10].id)
    assert not any(vector in file.read_bytes() for file in files(memory))
    assert len(set(before) - set(files(memory))) == 2
    assert_like_exact(memory)
    assert seal(memory) == 4  # The hole is filled.
    assert_like_exact(memory)


def test_everybody_is_an_owner_too(open_memory):
    memory = open_memory()
    for at in range(5):
        memory.add_batch(items(70, seed=at, user_id=f"user {at}"))
    assert seal(memory, all_scopes=True) == 3
    [match, *_] = memory.search(texts(70, seed=3)[0], all_scopes=True, explain=True)
    assert match.record.user_id == "user 3"
    assert match.explanation["plan"] == "segments"
    assert sealed(memory, user_id="user 3") == 0


def test_a_search_of_a_narrower_scope_stays_in_it(open_memory, graphs):
    memory = open_memory()
    memory.add_batch(items(300))
    seal(memory)
    for match in memory.search("word1 word2", user_id="ana", run_id="run 1-3", limit=50):
        assert match.record.run_id == "run 1-3"


def test_others_see_it(open_memory):
    first = open_memory()
    first.add_batch(items(250))
    second = open_memory(first.path)
    before = found(second, "word1 word7")
    seal(first)
    seal(second)  # Whichever of them is at it.
    assert found(second, "word1 word7") == before == found(first, "word1 word7")
    assert {part.listed.first for part in second._engine.index_cache._indexes["user_id", "ana"]._parts} == {1, 101}
    record = second.add("only here: zeppelin", user_id="ana")
    assert found(first, "zeppelin", mode="keyword")[0][0] == record.content


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone", "swapped"])
def test_a_file_that_is_damaged_is_scanned_around_and_made_anew(open_memory, harm):
    memory = open_memory()
    memory.add_batch(items(350))
    assert seal(memory) == 3
    memory.close()
    names = files(memory)
    whole = names[1].read_bytes()
    match harm:
        case "flip":
            at = random.Random(harm).randrange(len(whole))
            names[1].write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        case "cut":
            names[1].write_bytes(whole[: len(whole) // 2])
        case "empty":
            names[1].write_bytes(b"")
        case "gone":
            names[1].unlink()
        case "swapped":
            shutil.copy(names[0], names[1])
    again = open_memory(memory.path)
    assert_like_exact(again)
    assert seal(again) == 3
    assert names[1] not in files(again)
    assert_like_exact(again)


def test_the_folder_can_be_thrown_away(open_memory):
    memory = open_memory()
    memory.add_batch(items(250))
    seal(memory)
    memory.close()
    shutil.rmtree(f"{memory.path}-segments")
    again = open_memory(memory.path)
    [match, *_] = again.search("word1 word2", user_id="ana", explain=True)
    assert match.explanation["plan"] == "segments"  # The search made them, rather than load everything.
    assert again._engine.index_cache._indexes["user_id", "ana"]._count == 50
    assert_like_exact(again)
    assert seal(again) == 2
    assert len(files(again)) == 2


def test_a_copy_has_no_segments_and_makes_its_own(open_memory, tmp_path):
    memory = open_memory()
    memory.add_batch(items(250))
    seal(memory)
    memory.backup(tmp_path / "copy.db")
    copy = open_memory(tmp_path / "copy.db")
    assert_like_exact(copy)
    assert seal(copy) == 2
    assert len(files(copy)) == len(files(memory)) == 2


def test_a_folder_that_cannot_be_written_costs_speed_and_nothing_else(open_memory, tmp_path):
    memory = open_memory()
    Path(f"{memory.path}-segments").write_text("in the way")
    memory.add_batch(items(250))
    assert seal(memory) == 0
    assert_like_exact(memory)


def test_memories_that_wait_for_their_vectors_are_sealed_later(open_memory):
    memory = open_memory()
    memory.add_batch(items(150))
    memory.add_batch(items(150, seed=2), defer=True)
    memory.flush()
    assert seal(memory) == 2  # What got its vectors together was changed by one event, and stays together.
    assert_like_exact(memory)


def test_a_segment_without_any_vector_is_found_by_its_words(open_memory):
    class Failing(HashEmbedder):
        def embed(self, texts):
            if any("unspeakable" in text for text in texts):
                raise ValueError("no vector for this")
            return super().embed(texts)

    memory = open_memory(embedder=Failing())
    memory.add_batch([{"content": f"unspeakable thing {at}", "user_id": "ana"} for at in range(150)], defer=True)
    memory.flush()
    memory.add_batch(items(150))
    for _ in range(2):
        assert found(memory, "unspeakable thing 7", mode="keyword")[0][0] == "unspeakable thing 7"
        assert len(found(memory, "word1", mode="vector", limit=300)) == 150
        assert seal(memory) == 2  # All that failed was told by one event, and stays together.
    assert with_graphs(memory) == [True] * 2
    memory.close()  # What has no vector is told by check().


def test_a_store_that_moves_to_another_model_seals_again(open_memory):
    memory = open_memory()
    memory.add_batch(items(250))
    seal(memory)
    before = files(memory)
    memory.reembed(Turned())
    text = texts(250)[17]
    assert found(memory, text, mode="vector")[0] == (text, pytest.approx(1.0, abs=0.01))
    assert seal(memory) == 2
    assert not set(before) & set(files(memory))
    assert found(memory, text, mode="vector")[0] == (text, pytest.approx(1.0, abs=0.01))


def test_expired_memories_are_not_found(open_memory, clock):
    memory = open_memory()
    memory.add_batch([item | {"ttl": 60} if at % 3 == 0 else item for at, item in enumerate(items(250))])
    seal(memory)
    assert_like_exact(memory)
    clock.wait(120)
    assert_like_exact(memory)
    short_lived = {item["content"] for item in items(250)[::3]}
    assert not short_lived & {content for content, _ in found(memory, "word1 word2 word3", limit=250)}


def test_equal_texts_share_a_vector_and_are_all_found(open_memory, graphs):
    memory = open_memory()
    memory.add_batch([*items(200), *[{"content": "the same again", "user_id": "ana"}] * 30])
    seal(memory)
    assert len(memory.search("the same again", user_id="ana", mode="vector", limit=30, threshold=0.99)) == 30
    assert len(memory.search("the same again", user_id="ana", mode="vector", collapse=True, threshold=0.99)) == 1


def test_a_limit_beyond_what_was_proposed_is_served(open_memory, graphs):
    memory = open_memory()
    memory.add_batch(items(350))
    seal(memory)
    for mode in ("vector", "hybrid"):
        assert len(memory.search("word1", user_id="ana", mode=mode, limit=350)) == 350


def test_recency_and_importance_look_further(open_memory, graphs, clock):
    memory = open_memory()
    memory.add_batch(items(150))
    clock.wait(300 * 86_400)
    memory.add_batch(items(150, seed=2))
    seal(memory)
    assert_like_exact(memory, least=0.9, recency=86_400.0)
    assert_like_exact(memory, least=0.9, importance="n")


POINTS = [name for name in failpoints.POINTS if name.startswith("segments:")]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_while_sealing_loses_nothing_and_it_is_taken_up_again(open_memory, store_path, point):
    memory = open_memory()
    memory.add_batch(items(350))
    memory.close()
    child = os.fork()
    if not child:
        try:
            failpoints.arm(point, failpoints.kill, after=1)
            doomed = Memory(store_path, embedder=HashEmbedder())
            doomed.search("word1", user_id="ana")
            doomed._engine.index_cache.seal()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    again = open_memory()
    assert_like_exact(again)
    assert seal(again) == 3
    assert len(files(again)) == 3
    assert_like_exact(again)


@pytest.mark.parametrize("point", POINTS)
def test_a_failure_while_sealing_costs_nothing(open_memory, point):
    memory = open_memory()
    memory.add_batch(items(350))
    failpoints.arm(point, failpoints.fail)
    seal(memory)
    assert_like_exact(memory)
    failpoints.disarm()
    assert seal(memory) == 3
    assert len(files(memory)) == 3


@pytest.mark.parametrize("point", ["segments: before one is written", "segments: after one is written"])
@pytest.mark.parametrize("earlier", [0, 1], ids=["by the search", "its graph"])
def test_a_purge_while_a_segment_is_built_keeps_it_off_the_list(open_memory, point, earlier):
    memory = open_memory()
    records = memory.add_batch(items(150))
    pause = failpoints.Pause()
    failpoints.arm(point, pause, after=earlier)
    searching = threading.Thread(target=memory.search, args=("word1",), kwargs={"user_id": "ana"})
    searching.start()
    assert pause.reached.wait(30)
    if earlier:
        searching.join()
    assert memory.purge(records[5].id) == 1  # It does not wait: segments are never written amid a read.
    pause.release()
    searching.join()
    memory._engine.index_cache.seal()
    vector = HashEmbedder().embed([records[5].content])[0].astype("<f2").tobytes()
    assert not any(vector in file.read_bytes() for file in [Path(memory.path), *files(memory)])
    assert seal(memory) == 1
    assert_like_exact(memory)


def test_what_is_built_in_the_background_lets_searches_pass(open_memory):
    memory = open_memory()
    memory.add_batch(items(250))
    passed = []
    memory._engine.index_cache._sealer.let_pass = lambda: passed.append(True)
    memory._engine.index_cache.seal_tail(("user_id", "ana"), again=False)
    assert with_graphs(memory) == [False, False]
    assert not passed  # A search waits for this.
    assert seal(memory) == 2
    assert with_graphs(memory) == [True, True]
    assert passed


@pytest.mark.slow
def test_the_end_does_not_wait_for_a_segment(open_memory, monkeypatch):
    monkeypatch.setattr(sealing, "SEGMENT", 20_000)
    memory = open_memory(config=Config(durability="process"))
    memory.add_batch([{"content": f"text number {at}", "user_id": "ana"} for at in range(20_500)])
    memory.search("text", user_id="ana")
    assert any(thread.name == "agentmem-sealer" for thread in threading.enumerate())
    memory.close()
    assert not any(thread.name == "agentmem-sealer" for thread in threading.enumerate())
    [only] = files(memory)  # The first search has written it; its graph would have taken seconds.
    again = open_memory()
    assert only == files(again)[0]
    assert with_graphs(again) == [False]


def test_a_child_of_a_fork_searches_segments_of_its_own(open_memory):
    memory = open_memory()
    memory.add_batch(items(250))
    seal(memory)
    expected = found(memory, "word1 word2")
    child = os.fork()
    if not child:
        os._exit(0 if found(memory, "word1 word2") == expected else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert found(memory, "word1 word2") == expected


@pytest.mark.slow
@pytest.mark.parametrize("first", ["segments", "usearch"])
def test_a_model_can_be_used_after_segments_and_never_crashes(tmp_path, first):
    """Importing onnxruntime after usearch ends the process, in any code."""
    program = """
import sys
from agentmem import Memory, ModelError
from agentmem.search.segments import builder as sealing
from agentmem.testing import HashEmbedder
if sys.argv[2] == "usearch":
    import usearch
else:
    sealing.SEGMENT = 50
    with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text {number}" for number in range(60)], user_id="ana")
        memory.search("text 3", user_id="ana")
        memory._engine.index_cache.seal()
        assert memory.stats().store.segments == 1
with Memory(":memory:") as memory:
    try:
        memory.add("Prefers window seats", user_id="ana")
        memory.search("seats", user_id="ana")
        print("added")
    except ModelError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.db", first],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith({"segments": "added", "usearch": "usearch was imported before onnxruntime"}[first])


def test_in_memory_nothing_is_sealed(open_memory):
    memory = open_memory(":memory:")
    memory.add_batch(items(250))
    assert seal(memory) == 0
    assert_like_exact(memory)


def listed(first: int, last: int, places: int, *, has_graph: bool = True) -> ListedSegment:
    return ListedSegment(first, first, last, places, "", 0, b"", has_graph)


def test_what_is_built_next():
    def ranges(*of: tuple[int, int, int | None, int]) -> list[Range]:
        return [
            Range(first, last, None if places is None else listed(first, last, places), live)
            for first, last, places, live in of
        ]

    assert next_job([], 100) is None
    assert next_job(ranges((1, 100, 100, 100), (101, 200, 100, 81)), 100) is None
    # A hole, what is dead, and neighbours that are small.
    assert next_job(ranges((1, 100, 100, 100), (101, 200, None, 90)), 100) == Job(101, 200, ())
    [replaced] = [listed(101, 200, 100)]
    assert next_job(ranges((1, 100, 100, 100), (101, 200, 100, 79)), 100) == Job(101, 200, (replaced,))
    flat = listed(101, 200, 100, has_graph=False)
    assert next_job([*ranges((1, 100, 100, 100)), Range(101, 200, flat, 100)], 100) == Job(101, 200, (flat,))
    pair = (listed(1, 100, 30), listed(101, 200, 20))
    assert next_job(ranges((1, 100, 30, 30), (101, 200, 20, 20), (201, 300, 90, 90)), 100) == Job(1, 200, pair)
