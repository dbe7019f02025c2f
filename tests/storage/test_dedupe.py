"""dedupe=True: the same text in the same scope is not stored twice."""

import subprocess
import threading

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import Config, DuplicateIdError, Memory
from agentmem.testing import HashEmbedder, contents, owners
from tests.children import finish, start_python
from tests.conftest import Clock
from tests.earlier import make_store
from tests.forgery import forge


def count(memory, content, **owner):
    return sum(record.content == content for record in memory.get_all(**owner, limit=10_000))


def test_the_same_text_is_stored_once_and_its_record_is_returned(memory):
    first = memory.add("tea", user_id="ana", role="user", metadata={"n": 1}, dedupe=True)
    assert memory.add("tea", user_id="ana", role="assistant", metadata={"n": 2}, ttl=5, dedupe=True) == first
    assert memory.add("tea ", user_id="ana", dedupe=True) != first
    assert memory.add("Tea", user_id="ana", dedupe=True) != first
    assert memory.count(user_id="ana") == 3
    assert [event.what for event in memory.history(first.id)] == ["add"]


def test_a_memory_added_without_dedupe_counts_and_the_oldest_is_returned(memory):
    first, _ = (memory.add("tea", user_id="ana") for _ in range(2))
    assert memory.add("tea", user_id="ana", dedupe=True) == first
    assert memory.count(user_id="ana") == 2


def test_adding_without_dedupe_stores_another_one_as_ever(memory):
    first = memory.add("tea", user_id="ana", dedupe=True)
    assert memory.add("tea", user_id="ana") != first
    assert memory.add("tea", user_id="ana", dedupe=True) == first
    assert memory.count(user_id="ana") == 2


def test_only_exactly_the_same_owners_are_the_same_scope(memory):
    scopes = [
        {"user_id": "ana"}, {"agent_id": "ana"}, {"run_id": "ana"}, {"user_id": "ana", "agent_id": "ana"},
        {"user_id": "ana", "run_id": "r"}, {"user_id": "ana", "run_id": "s"}, {"user_id": "ben"},
    ]  # fmt: skip
    records = [memory.add("tea", **scope, dedupe=True) for scope in scopes]
    assert len({record.id for record in records}) == len(scopes)
    assert [memory.add("tea", **scope, dedupe=True) for scope in scopes] == records
    bound = memory.scope(user_id="ana")
    assert bound.add("tea", dedupe=True) == records[0]
    assert bound.add("tea", run_id="s", dedupe=True) == records[5]


def test_a_deleted_memory_does_not_count_and_comes_back_beside_the_new_one(memory):
    first = memory.add("tea", user_id="ana", dedupe=True)
    memory.delete(first.id)
    second = memory.add("tea", user_id="ana", dedupe=True)
    assert second.id != first.id
    assert memory.restore(first.id) == first
    assert memory.count(user_id="ana") == 2
    assert memory.add("tea", user_id="ana", dedupe=True) == first
    memory.delete(first.id)
    memory.delete(second.id)
    assert memory.add("tea", user_id="ana", dedupe=True).id not in (first.id, second.id)


def test_an_expired_memory_does_not_count_whether_it_was_swept_or_not(memory, clock):
    seen = []
    for _ in range(3):
        record = memory.add("tea", user_id="ana", ttl=60, dedupe=True)
        clock.wait(59)
        assert memory.add("tea", user_id="ana", ttl=60, dedupe=True) == record
        seen.append(record.id)
        clock.wait(1)
    assert len(set(seen)) == 3
    assert [memory.history(name)[-1].what for name in seen] == ["expire", "expire", "add"]
    memory.add_batch([{"content": "tea", "expires_at": clock.now}] * 3, user_id="ana", dedupe=True)
    assert memory.count(user_id="ana") == 0
    assert memory.count(user_id="ana", show_expired=True) == 6


def test_a_memory_whose_text_was_changed_is_found_by_its_new_text_only(memory):
    first = memory.add("tea", user_id="ana", dedupe=True)
    other = memory.add("coffee", user_id="ana", dedupe=True)
    changed = memory.update(first.id, "coffee")
    assert memory.add("tea", user_id="ana", dedupe=True).id not in (first.id, other.id)
    assert memory.add("coffee", user_id="ana", dedupe=True) == changed
    memory.delete(first.id)
    assert memory.add("coffee", user_id="ana", dedupe=True) == other
    same = memory.update(other.id, metadata={"n": 1})
    assert memory.add("coffee", user_id="ana", dedupe=True) == same


def test_a_batch_stores_a_text_once_and_gives_its_record_every_time(memory):
    stored = memory.add("tea", user_id="ana")
    items = [
        "tea",
        "coffee",
        {"content": "coffee", "user_id": "ben"},
        "coffee",
        {"content": "tea", "metadata": {"n": 1}},
    ]
    records = memory.add_batch(items, user_id="ana", dedupe=True)
    assert records[0] == records[4] == stored
    assert records[1] == records[3]
    assert records[2].user_id == "ben"
    assert memory.count(all_scopes=True) == 3
    assert memory.get(records[1].id) == records[1]
    assert memory.add_batch(items, user_id="ana", dedupe=True) == records
    thousands = [f"text {number % 700}" for number in range(3000)]
    assert len({record.id for record in memory.add_batch(thousands, user_id="eve", dedupe=True)}) == 700
    assert memory.count(user_id="eve") == 700


def test_messages_are_deduplicated_whoever_said_them(memory):
    messages = [{"role": "user", "content": "ok"}, {"role": "assistant", "content": "ok"}]
    first, second = memory.add_messages(messages, user_id="ana", run_id="r", dedupe=True)
    assert first == second
    assert first.role == "user"
    assert memory.add_messages(messages, user_id="ana", run_id="r", dedupe=True) == [first, first]


def test_the_text_decides_before_the_id(memory):
    first = memory.add("tea", user_id="ana", id="one", dedupe=True)
    assert memory.add("tea", user_id="ana", id="one", dedupe=True) == first  # A call that is tried again.
    assert memory.add("tea", user_id="ana", id="two", dedupe=True) == first
    assert memory.get("two") is None
    with pytest.raises(DuplicateIdError, match="'one' is taken"):
        memory.add("coffee", user_id="ana", id="one", dedupe=True)
    items = [{"content": "a", "id": "x"}, {"content": "a", "id": "y"}, {"content": "b", "id": "x"}]
    good, same, refused = memory.add_batch(items, user_id="ana", dedupe=True, on_error="return")
    assert good == same
    assert isinstance(refused, DuplicateIdError)
    assert memory.count(user_id="ana") == 2


def test_deferred_texts_are_deduplicated_and_their_places_in_the_backlog_given_back(open_memory):
    memory = open_memory(config=Config(pending_limit=3))
    first = memory.add("tea", user_id="ana", defer=True, dedupe=True)
    for _ in range(20):
        assert memory.add("tea", user_id="ana", id=first.id, defer=True, dedupe=True, timeout=5) == first
        assert memory.add_batch(["tea", "tea"], user_id="ana", defer=True, dedupe=True, timeout=5) == [first, first]
    memory.flush()
    assert memory.add("tea", user_id="ana", dedupe=True) == first
    assert [match.record for match in memory.search("tea", user_id="ana")] == [first]
    assert memory.stats().store.vectors == 1


def test_an_embedder_that_fails_does_not_matter_to_a_text_that_is_there(open_memory):
    class Fussy(HashEmbedder):
        def embed(self, texts):
            raise ValueError("will not")

    memory = open_memory()
    record = memory.add("tea", user_id="ana", defer=True)
    broken = open_memory(embedder=Fussy())
    assert broken.add("tea", user_id="ana", dedupe=True) == record


def test_a_text_whose_embedding_failed_is_still_found(open_memory):
    class Fussy(HashEmbedder):
        def embed(self, texts):
            if "tea" in texts:
                raise ValueError("no tea")
            return super().embed(texts)

    memory = open_memory(embedder=Fussy())
    record = memory.add("tea", user_id="ana", defer=True)
    memory.flush()
    assert memory.stats().store.pending_failed == 1
    assert memory.add("tea", user_id="ana", defer=True, dedupe=True) == record
    memory.delete(record.id)
    assert memory.add("tea", user_id="ana", defer=True, dedupe=True) != record
    memory.delete_all(user_id="ana")


def test_a_text_is_found_whichever_model_its_vector_is_of(open_memory):
    """Before the store moves, on its way, when it has arrived, and when the memory waits for its new vector."""
    memory = open_memory()
    first, second = memory.add_batch(["tea", "coffee"], user_id="ana")
    seen = []

    class Watching(HashEmbedder):
        def embed(self, texts):
            seen.append(memory.add("tea", user_id="ana", dedupe=True))
            if "coffee" in texts:
                raise ValueError("no coffee")
            return super().embed(texts)

    memory.reembed(Watching(dimension=48))
    seen += [memory.add("tea", user_id="ana", dedupe=True, defer=deferred) for deferred in (False, True)]
    assert len(seen) > 2
    assert all(record == first for record in seen)
    assert memory.add("coffee", user_id="ana", dedupe=True, defer=True) == second
    assert memory.count(user_id="ana") == 2
    memory.delete(second.id)


@pytest.mark.parametrize("schema", [5, 6])
def test_a_store_of_an_earlier_schema_is_deduplicated_as_ever(open_memory, store_path, schema):
    make_store(
        store_path,
        [
            {"id": "first", "user_id": "ana", "versions": ["tea"]},
            {"id": "of ben", "user_id": "ben", "versions": ["tea"]},
            {"id": "waits", "user_id": "ana", "versions": ["coffee"], "pending": True},
        ],
        schema=schema,
    )
    memory = open_memory()
    again = memory.add_batch(["tea", "coffee"], user_id="ana", dedupe=True)
    assert [record.id for record in again] == ["first", "waits"]
    assert memory.add("tea", user_id="ben", dedupe=True).id == "of ben"
    other = memory.add("water", user_id="ana", dedupe=True)
    assert memory.add("water", user_id="ana", dedupe=True) == other
    assert memory.check() == []


def test_texts_whose_hashes_collide_are_told_apart(open_memory, monkeypatch):
    for module in ("row_codec", "arrivals", "transaction", "maintenance.check", "update"):
        monkeypatch.setattr(f"agentmem.storage.sqlite.{module}.twin_of", lambda scope, content: 7)
    memory = open_memory(":memory:")
    texts = [f"text {number}" for number in range(20)]
    records = memory.add_batch(texts, user_id="ana", dedupe=True)
    records += [memory.add(text, user_id="ben", dedupe=True) for text in texts]
    assert len({record.id for record in records}) == 40
    assert memory.add_batch(texts, user_id="ana", dedupe=True) == records[:20]
    assert [memory.add(text, user_id="ben", dedupe=True) for text in texts] == records[20:]
    memory.delete(records[0].id)
    assert memory.add("text 0", user_id="ana", dedupe=True).id != records[0].id
    assert memory.count(all_scopes=True) == 40
    assert memory.check() == []
    memory.close()


def test_the_database_itself_refuses_a_second_one(store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana", dedupe=True)
        memory.add("tea", user_id="ana")
    with pytest.raises(apsw.ConstraintError):
        forge(store_path, "UPDATE memory SET sole = 1")
    forge(store_path, "UPDATE memory SET twin = twin + 1 WHERE sole = 1")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        [problem] = memory.check()
        assert "is not found by its text" in problem


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "dedupe", "batch", "delete", "restore", "update", "wait"]),
                  st.integers(0, 3), st.integers(0, 1), st.sampled_from([None, 5, 10])),
        max_size=30,
    ),
    texts=st.lists(contents(), min_size=4, max_size=4, unique=True),
    scopes=st.lists(owners(), min_size=2, max_size=2, unique_by=str),
)  # fmt: skip
def test_whatever_happened_before_a_text_is_deduplicated_against_what_can_be_seen(steps, texts, scopes):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch, Memory(":memory:", embedder=HashEmbedder()) as memory:
        patch.setattr("agentmem.timestamps.clock", clock)
        ids = []
        for what, text, scope, ttl in steps:
            content, owner = texts[text], scopes[scope]
            there = [
                record for record in memory.get_all(all_scopes=True, order="oldest", limit=1000)
                if record.content == content and {"user_id": None, "agent_id": None, "run_id": None} | owner
                == {name: getattr(record, name) for name in ("user_id", "agent_id", "run_id")}
            ]  # fmt: skip
            if what == "add":
                ids.append(memory.add(content, **owner, ttl=ttl).id)
            elif what in ("dedupe", "batch"):
                if what == "dedupe":
                    record = memory.add(content, **owner, ttl=ttl, dedupe=True)
                else:
                    record, again = memory.add_batch([content, content], **owner, ttl=ttl, dedupe=True)
                    assert record == again
                assert (record in there) == bool(there)
                assert not there or record == min(there, key=lambda each: ids.index(each.id))
                ids += [record.id] if record.id not in ids else []
            elif what == "wait":
                clock.wait(5)
            elif ids and what == "update":
                if memory.get(ids[text % len(ids)]):
                    memory.update(ids[text % len(ids)], content)
            elif ids:
                getattr(memory, what)(ids[text % len(ids)])
        assert memory.check() == []


# -- at the same time ---------------------------------------------------------------------------------------------

ADDERS = """
    import sys, threading
    from agentmem import Config, Memory
    from agentmem.testing import HashEmbedder

    def work(number):
        for text in range(50):
            given = {"id": f"{sys.argv[2]} {number} {text}"} if number % 4 == 3 else {"defer": number % 4 == 2}
            if number % 4 == 1:
                [record] = memory.add_batch([f"text {text}"], user_id="ana", dedupe=True)
            else:
                record = memory.add(f"text {text}", user_id="ana", dedupe=True, **given)
            got.add((text, record.id))

    got = set()
    with Memory(sys.argv[1], embedder=HashEmbedder(), config=Config(durability="process")) as memory:
        print("ready", flush=True)
        sys.stdin.readline()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for text, id in sorted(got):
        print(text, id)
"""


@pytest.mark.slow
def test_threads_of_two_processes_that_bring_the_same_texts_store_each_once(open_memory, store_path):
    open_memory()
    children = [start_python(ADDERS, store_path, name, stdin=subprocess.PIPE) for name in ("one", "two")]
    for child in children:
        assert child.line() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    outputs = [set(finish(child).splitlines()) for child in children]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 50
    memory = open_memory()
    assert sorted(record.content for record in memory.get_all(user_id="ana")) == sorted(f"text {n}" for n in range(50))
    assert memory.check() == []


def test_threads_of_one_process_that_bring_the_same_texts_store_each_once(memory):
    got, start = set(), threading.Barrier(8)

    def work(number):
        start.wait()
        for text in range(50):
            got.add((text, memory.add(f"text {text}", user_id="ana", dedupe=True, defer=number % 2 == 1).id))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == memory.count(user_id="ana") == 50


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_text_twice(open_memory, store_path):
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        for round in range(1000):
            for text in range(200):
                memory.add(f"text {text}", user_id="ana", dedupe=True)
                print(text, flush=True)
    """
    for acknowledged in (1, 70, 500):
        child = start_python(code, store_path)
        for _ in range(acknowledged):
            child.line()
        child.kill()
        child.communicate()
    memory = open_memory()
    listed = [record.content for record in memory.get_all(user_id="ana", limit=1000)]
    assert listed
    assert len(listed) == len(set(listed))
    memory.add_batch([f"text {number}" for number in range(200)], user_id="ana", dedupe=True)
    assert memory.count(user_id="ana") == 200
