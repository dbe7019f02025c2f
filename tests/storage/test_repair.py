"""Damage: `check` names it, `repair` rebuilds derived data and saves what can be read."""

import json
import os
import random
from pathlib import Path

import pytest

from agentmem import Config, Memory, StoreBusyError, StoreError, StoreOpenError
from agentmem.cli.rescue import rescue
from agentmem.testing import HashEmbedder
from tests.children import finish, start_python
from tests.forgery import forge


def filled(path: Path, count: int = 12, words: int = 1) -> list[str]:
    with Memory(path, embedder=HashEmbedder()) as memory:
        texts = [f"text number {number} " + "word " * words for number in range(count)]
        ids = [record.id for record in memory.add_batch(texts, user_id="ana", metadata={"a": 1})]
        memory.update(ids[1], "text number one", metadata={"b": 2})
        memory.update(ids[1], metadata={"c": 3})
        memory.delete(ids[2])
        memory.delete(ids[3])
        memory.restore(ids[3])
        assert memory.check() == []
    return ids


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE memory SET content = 'forged' WHERE key = 1", "points to the vector of another text"),
        ("UPDATE memory SET terms = x'00000000' WHERE key = 1", "is not found by its words"),
        ("UPDATE memory SET twin = 7 WHERE key = 1", "is not found by its text"),
        ("UPDATE memory SET vector_key = 99 WHERE key = 1", "points to a vector that is not there"),
        ("UPDATE memory SET vector_error = 'no' WHERE key = 1", "has a vector and the reason why it has none"),
        ("UPDATE memory SET metadata = x'ff' WHERE key = 1", "has metadata that is not JSON"),
        ("UPDATE memory SET user_id = NULL WHERE key = 1", "has no owner"),
        ("UPDATE memory SET seq = 2 WHERE key = 1", "its seq is that of another memory's event"),
        ("UPDATE memory SET seq = 999 WHERE key = 1", "its seq is not that of its last event"),
        ("UPDATE memory SET deleted_at = 1 WHERE key = 1", "deleted in one of them only"),
        ("UPDATE memory SET deleted_at = NULL WHERE key = 3", "deleted in one of them only"),
        ("UPDATE memory SET deleted_at = 5 WHERE key = 3", "it was not deleted when that says"),
        ("UPDATE memory SET updated_at = 5 WHERE key = 2", "it was not updated when that says"),
        ("UPDATE vector SET data = zeroblob(128) WHERE key = 1", "vector 1 is not of unit length"),
        ("UPDATE vector SET data = x'00' WHERE key = 1", "vector 1 has 1 bytes"),
        ("UPDATE vector SET data = replace(hex(zeroblob(64)), '0000', x'007e') WHERE 0", None),
        ("UPDATE vector SET home_digest = x'00' WHERE key = 1", "has a digest of 1 bytes"),
        ("DELETE FROM vector WHERE key = 1", "points to a vector that is not there"),
        ("DELETE FROM history WHERE memory_key = 1", "has no history"),
        ("DELETE FROM history WHERE memory_key = 2 AND what = 'add'", "begins with 'update', not with 'add'"),
        ("UPDATE history SET before = '{' WHERE memory_key = 2 AND what = 'update'", "has an unreadable 'update'"),
        ("UPDATE history SET before = '{}' WHERE memory_key = 1", "has an unreadable 'add'"),
        ("UPDATE history SET what = 'restore' WHERE memory_key = 3 AND what = 'delete'", "where it cannot be"),
        ("UPDATE history SET what = 'gibberish' WHERE memory_key = 2 AND what = 'update'", "where it cannot be"),
        ("UPDATE history SET before = json_set(before, '$.updated_at', 7) WHERE memory_key = 2 AND before IS NOT NULL",
         "of a version that was not there"),
        ("DELETE FROM memory WHERE key = 1", "the history has events of a memory (key 1) that is not there"),
        ("UPDATE history SET what = 'purge' WHERE memory_key = 1", "was purged, and yet"),
        ("UPDATE meta SET value = '{' WHERE name = 'backlog' OR name = 'nothing'", None),
        ("INSERT INTO meta VALUES ('backlog', '{')", "remembers as 'backlog' is unreadable"),
    ],
)  # fmt: skip
def test_what_is_inconsistent_is_named_and_mended(store_path, statement, named):
    ids = filled(store_path)
    forge(store_path, statement)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        problems = memory.check()
        assert (problems == []) == (named is None), problems
        assert named is None or any(named in problem for problem in problems), problems
        done = memory.repair()
        assert (done == []) == (named is None), done
        assert all(each[0].isalpha() and each.endswith(".") for each in done)
        memory.flush()
        assert memory.check() == []
        assert memory.repair() == []
        lost = statement.startswith("DELETE FROM memory")
        alive = {record.id for record in memory.get_all(all_scopes=True)}
        assert alive >= set(ids[4:])
        assert memory.stats().store.memories + memory.stats().store.deleted == len(ids) - lost
        for each in ids[lost:]:
            assert memory.history(each)[0].what == "add"
        match = memory.search("text number 7 word", user_id="ana", mode="vector", limit=1)[0]
        assert match.record.id == ids[7]
        assert memory.add("and it goes on", user_id="ana").id


STRANGERS = {
    "refuses": "CREATE TRIGGER refuses BEFORE UPDATE ON memory BEGIN SELECT RAISE(ABORT, 'no'); END",
    'a "b" c': 'CREATE TRIGGER "a ""b"" c" AFTER INSERT ON history BEGIN DELETE FROM segment; END',
    "copies": "CREATE INDEX copies ON memory (content)",
    "memory_x": "CREATE UNIQUE INDEX memory_x ON vector (data)",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_foreign_trigger_or_index_is_named_and_removed(store_path, name):
    with Memory(store_path, embedder=HashEmbedder(), config=Config(indexed_metadata=("topic",))) as memory:
        record = memory.add("before", user_id="ana", metadata={"topic": "sea"})
        assert memory.check() == []
    forge(store_path, STRANGERS[name])
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        [problem] = memory.check()
        assert repr(name) in problem
        assert "is not agentmem's; repair() removes it." in problem
        [done] = [each for each in memory.repair() if repr(name) in each]
        assert done.endswith("is removed.")
        assert memory.check() == []
        assert memory.update(record.id, "after").content == "after"
        assert memory.check() == []


def test_what_others_keep_in_tables_of_their_own_is_left_alone(store_path):
    filled(store_path)
    forge(store_path, "CREATE TABLE theirs (a)", "CREATE INDEX theirs_a ON theirs (a)", "INSERT INTO theirs VALUES (1)")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        assert memory.repair() == []
        assert memory.check() == []


def test_what_has_no_place_any_more_is_set_aside_readable(store_path):
    filled(store_path)
    forge(store_path, "DELETE FROM memory WHERE key = 2")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        done = memory.repair()
    [file] = store_path.parent.glob("store.db.aside-*.jsonl")
    assert any(repr(str(file)) in each for each in done)
    aside = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["what"] for each in aside] == ["add", "update", "update"]
    assert "text number 1" in aside[1]["before"]


@pytest.mark.slow
def test_a_repair_is_seen_by_the_indexes_of_another_process(store_path):
    ids = filled(store_path)
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            def ask():
                found = memory.search("number 7", user_id="ana", mode="keyword", limit=1)
                print(found[0].record.id, flush=True)
            ask()
            sys.stdin.readline()
            ask()
    """
    forge(store_path, "UPDATE memory SET terms = x'00000000' WHERE key = 8")
    child = start_python(code, store_path, stdin=-1)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.line() != f"{ids[7]}\n"
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.repair()
    child.stdin.write("\n")
    child.stdin.flush()
    assert finish(child) == f"{ids[7]}\n"


@pytest.mark.slow
def test_damaged_pages_are_left_out_while_another_process_goes_on(store_path):
    filled(store_path, count=600, words=40)
    data = bytearray(store_path.read_bytes())
    page = data.index(b"text number 300 ") // 4096
    data[page * 4096 : (page + 1) * 4096] = random.Random(1).randbytes(4096)
    store_path.write_bytes(data)
    code = """
        import sys
        from agentmem import Memory, StoreError
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            try:
                memory.check()
                memory.add("before", user_id="ben", id="before")
            except StoreError:
                pass
            print("ready", flush=True)
            sys.stdin.readline()
            memory.add("after", user_id="ben")
            memory.flush()
            found = memory.search("number 599", user_id="ana")[0].record.content[:15]
            print(memory.check(), memory.count(user_id="ana"), found)
    """
    child = start_python(code, store_path, stdin=-1)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.line() == "ready\n"
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.check() != []
        done = memory.repair()
        memory.flush()
        assert memory.check() == []
        count = memory.count(user_id="ana")
        assert 560 <= count < 600
        assert memory.history(memory.search("number 599", user_id="ana")[0].record.id)
    [kept] = [each for each in store_path.parent.glob("store.db.damaged-*") if each.name[-4:] != "-wal"]
    assert any(repr(str(kept)) in each for each in done)
    child.stdin.write("\n")
    child.stdin.flush()
    assert finish(child) == f"[] {count} text number 599\n"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_to_the_file_a_repair_ends_well_or_is_refused(store_path, seed):
    ids = filled(store_path, count=150, words=20)
    data, rng = bytearray(store_path.read_bytes()), random.Random(seed)
    start = rng.randrange(len(data))
    match seed % 5:
        case 0:
            data = data[:start]
        case 1:
            data[start : start + 5000] = bytes(min(5000, len(data) - start))
        case 2:
            for _ in range(8):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 3:
            data[start : start + 3000] = rng.randbytes(min(3000, len(data) - start))
        case 4:
            data[: rng.choice([20, 100, 4096])] = b""
            data = bytearray(4096 * len(data))[: -len(data) % 4096] + data
    store_path.write_bytes(data)
    try:
        done, problems = rescue(str(store_path))
    except StoreError as error:
        assert "holds nothing of a store" in str(error)  # noqa: PT017 - it may also end well.
        assert store_path.read_bytes() == data
        return
    assert problems == []
    with Memory(store_path, model=None) as memory:
        alive = {record.id for record in memory.get_all(user_id="ana", limit=1000)}
        assert alive <= set(ids) or done
        assert memory.repair() == []


@pytest.mark.slow
def test_a_file_that_cannot_be_opened_is_not_touched_while_somebody_has_it_open(store_path):
    filled(store_path, count=100)
    whole = store_path.read_bytes()
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.count(user_id="ana")
            print("ready", flush=True)
            sys.stdin.readline()
    """
    child = start_python(code, store_path, stdin=-1)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.line() == "ready\n"
    with store_path.open("r+b") as file:
        file.write(bytes(100))
    with pytest.raises(StoreBusyError, match="close it everywhere"):
        rescue(str(store_path))
    with store_path.open("r+b") as file:
        file.write(whole[:100])
    child.stdin.write("\n")
    child.stdin.flush()
    finish(child)
    assert rescue(str(store_path)) == ([], [])


@pytest.mark.parametrize("content", [b"x", b"notes " * 5000, os.urandom(50_000)], ids=["x", "text", "noise"])
def test_what_is_no_store_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreOpenError):
        rescue(str(path))
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_another_applications_database_is_left_alone(tmp_path):
    path = tmp_path / "theirs.db"
    forge(path, "CREATE TABLE memory (a, b, c)", "INSERT INTO memory VALUES (1, 2, 3)")
    before = path.read_bytes()
    with pytest.raises(StoreOpenError):
        rescue(str(path))
    assert path.read_bytes() == before


def test_a_store_in_ram_is_mended_too(open_memory):
    memory = open_memory(":memory:")
    record = memory.add("tea", user_id="ana")
    memory._engine.store._writes.commit(
        lambda transaction: transaction.connection.execute("UPDATE memory SET terms = NULL, vector_key = 9")
    )
    assert len(memory.check()) == 2
    assert len(memory.repair()) == 2
    assert memory.search("tea", user_id="ana", mode="vector")[0].record == record
