"""Stores of earlier schemas are brought up to date as a whole, or not at all."""

import random
import signal

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmem import Memory, StoreOpenError
from agentmem.cli.rescue import rescue
from agentmem.records import Scope
from agentmem.storage.sqlite.database.schema import MIGRATIONS
from agentmem.testing import HashEmbedder
from agentmem.timestamps import from_microseconds
from tests.children import start_python
from tests.earlier import BEGAN, make_store
from tests.forgery import forge
from tests.storage.test_homes import CountingEmbedder, shared_vectors

MEMORIES = [
    {"id": "a1", "user_id": "ana", "versions": ["yes"]},
    {"id": "a2", "user_id": "ana", "run_id": "r", "versions": ["yes"]},
    {"id": "b1", "user_id": "ben", "versions": ["yes"]},
    {"id": "b2", "user_id": "ben", "versions": ["of before", "yes", "of now"]},
    {"id": "c1", "run_id": "ana", "versions": ["of before", "of now"]},
    {"id": "c2", "run_id": "ana", "agent_id": "bot", "versions": ["of before"]},
    {"id": "d1", "agent_id": "ana", "versions": ["yes", "of ana alone"]},
    {"id": "d2", "agent_id": "bot", "versions": ["still to come"], "pending": True},
    {"id": "d3", "agent_id": "bot", "versions": ["of the bot alone"]},
]


def owner_of(memory):
    return {name: memory[name] for name in ("user_id", "agent_id", "run_id") if name in memory}


@pytest.mark.parametrize("schema", [1, 2, 5, 6])
def test_a_store_of_an_earlier_schema_keeps_what_it_had_and_every_vector_gets_a_home(open_memory, store_path, schema):
    make_store(store_path, MEMORIES, schema=schema)
    embedder = CountingEmbedder()
    memory = open_memory(embedder=embedder)
    assert memory.check() == []
    memory.flush()
    assert shared_vectors(memory) == 0
    for each in MEMORIES:
        *_, last = each["versions"]
        assert memory.get(each["id"]).content == last
        told = [event.after.content for event in memory.history(each["id"], **owner_of(each))]
        assert told == each["versions"]
        found = memory.search(last, **owner_of(each), mode="vector")
        assert found[0].record.content == last
        memory.add(each["versions"][0], **owner_of(each))  # Its home has the vector still.
    assert set(embedder.asked) == {"still to come"}
    memory.add("yes", user_id="cleo")
    assert embedder.asked["yes"] == 1
    at = from_microseconds(BEGAN + 3_000_000)
    [match] = memory.search("of before", user_id="ben", as_of=at, mode="vector", limit=1)
    assert match.record.content == "of before"
    assert match.score > 0.99


def test_after_it_a_purge_leaves_no_vector_of_the_home_and_a_vacuum_drops_what_nobody_has(open_memory, store_path):
    make_store(store_path, MEMORIES)
    forge(store_path, "INSERT INTO vector (key, digest, data) SELECT 0, randomblob(16), data FROM vector WHERE key = 1")
    memory = open_memory()
    assert memory.check() == []
    memory.flush()
    assert memory.vacuum().vectors == 1
    for each in MEMORIES:
        memory.purge(**owner_of(each))
        assert memory.check() == []
    assert memory.stats().store.vectors == 0


def test_ids_are_unique_within_a_home_afterwards(open_memory, store_path):
    make_store(store_path, MEMORIES)
    memory = open_memory()
    for each in MEMORIES:
        memory.add("the same id", id=each["id"], user_id="cleo")
        with pytest.raises(apsw.ConstraintError):
            forge(
                store_path,
                "INSERT INTO memory (id, user_id, agent_id, run_id, created_at, updated_at, seq, twin, content) "
                f"SELECT id, user_id, agent_id, run_id, 0, 0, 0, 0, '' FROM memory WHERE id = '{each['id']}'",
            )
    assert len({memory.add(f"{number}", user_id="ana").id for number in range(3)}) == 3
    with memory._engine.store._database.reading() as connection:
        [(last,)] = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'memory'").fetchall()
    assert last == 2 * len(MEMORIES) + 3  # The numbering goes on: no key is given out again.


@pytest.mark.slow
@given(
    memories=st.lists(
        st.tuples(
            st.sampled_from([{"user_id": "a"}, {"user_id": "b"}, {"run_id": "a"}, {"agent_id": "a"}]),
            st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=3),
        ),
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_home_has_a_vector_of_every_text_that_it_has_or_had(tmp_path_factory, memories):
    path = tmp_path_factory.mktemp("earlier") / "store.db"
    made = [{"id": f"{number}", **owner, "versions": texts} for number, (owner, texts) in enumerate(memories)]
    make_store(path, made)
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        assert shared_vectors(memory) == 0
        texts = {(Scope(**owner_of(each)).home, text) for each in made for text in each["versions"]}
        assert memory.stats().store.vectors == len(texts)
        digests = [memory._engine.embedder.digest(*text) for text in texts]
        assert not digests or len(memory._engine.store.vectors(digests)) == len(texts)


def test_what_has_the_file_open_and_knows_of_no_homes_can_store_no_vector(open_memory, store_path):
    make_store(store_path, MEMORIES)
    memory = open_memory()
    older = apsw.Connection(str(store_path))
    with pytest.raises(apsw.SQLError, match="digest"):
        older.execute("INSERT INTO vector (key, digest, data) VALUES (99, x'00', x'00')")
    with pytest.raises(apsw.SQLError, match="digest"):
        older.execute("SELECT key FROM vector WHERE digest = x'00'")
    older.close()
    assert older is not memory


def test_a_version_that_knows_of_no_homes_refuses_the_store(open_memory, store_path, monkeypatch):
    open_memory().close()
    monkeypatch.setattr("agentmem.storage.sqlite.database.connections.MIGRATIONS", MIGRATIONS[:6])
    with pytest.raises(StoreOpenError, match="has schema 7, newer than the 6"):
        open_memory()


KILLED = """
    import sys
    from agentmem import Memory
    from tests import failpoints
    from agentmem.testing import HashEmbedder

    failpoints.arm("open: between the statements of a migration", failpoints.kill, after=int(sys.argv[2]))
    Memory(sys.argv[1], embedder=HashEmbedder()).close()
"""


@pytest.mark.slow
def test_a_process_killed_amid_it_leaves_the_store_of_before(open_memory, store_path):
    make_store(store_path, MEMORIES)
    for step in range(len(MIGRATIONS[6])):
        child = start_python(KILLED, store_path, step)
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
        connection = apsw.Connection(str(store_path))
        assert connection.pragma("user_version") == 6
        assert connection.pragma("integrity_check") == "ok"
        assert connection.execute("SELECT count(digest) FROM vector").fetchone() == (5,)
        connection.close()
    memory = open_memory()
    assert memory.check() == []
    assert memory.count(all_scopes=True) == len(MEMORIES)


def test_an_unfinished_move_to_another_model_begins_anew(open_memory, store_path):
    make_store(store_path, MEMORIES)
    forge(
        store_path,
        "CREATE TABLE next_vector (key INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL) STRICT",
        "INSERT INTO next_vector SELECT key, randomblob(16), data FROM vector WHERE key < 3",
        "INSERT INTO meta VALUES ('next_model', json_object('model', json_object('identity', 'agentmem.testing."
        "HashEmbedder:1:32', 'name', 'HashEmbedder', 'dimension', 32), 'position', json_object('seq', 3, 'key', 2, "
        "'event', 0), 'refused', json_array()))",
    )
    memory = open_memory()
    assert memory.stats().store.moving_to == ""
    memory.flush()
    assert memory.reembed(HashEmbedder(32)) == memory.stats().store.vectors
    assert memory.check() == []
    assert memory.search("yes", user_id="ben", mode="vector")[0].record.content == "yes"


def test_a_damaged_store_of_an_earlier_schema_is_salvaged_with_its_vectors(store_path):
    many = [
        {
            "id": f"m{number}",
            "user_id": random.Random(number).choice(["ana", "ben"]),
            "versions": [f"text {number % 40}"],
        }
        for number in range(400)
    ]
    make_store(store_path, many)
    connection = apsw.Connection(str(store_path))
    connection.pragma("wal_checkpoint(TRUNCATE)")
    [root] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'memory_seq'").fetchone()
    size = connection.pragma("page_size")
    connection.close()
    with store_path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(bytes(size))
    told, left = rescue(str(store_path))
    assert left == []
    assert "400 of the memories" in told[0]
    assert not any("waits for its vector" in each for each in told)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.count(all_scopes=True) == 400
        assert shared_vectors(memory) == 0
        assert memory.stats().store.pending == 0
