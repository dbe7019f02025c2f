"""Indexes on metadata keys that the user declares."""

import threading

import apsw
import pytest

from agentmem import Config, Memory
from agentmem.filters import parse_filters
from agentmem.records import Scope
from agentmem.storage.sqlite.snapshot import visible
from agentmem.testing import HashEmbedder
from tests.children import run_python

DECLARED = Config(indexed_metadata=("topic", "place.city", "metadata.role"))

SERVED = ["Rome", 3, ["Rome", "Oslo"], {"gt": "A"}, {"gte": 2, "lt": 5}, {"eq": "Rome", "ne": "x"}]


def names_of_indexes(path):
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE 'metadata:%'")
        return {row[0].rpartition(":")[2] for row in rows}
    finally:
        connection.close()


def plan_of(path, scope, filters):
    where, parameters = visible(scope, parse_filters(filters), 0)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return str(
            connection.execute(f"EXPLAIN QUERY PLAN SELECT key FROM memory WHERE {where}", parameters).fetchall()
        )
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("scope", "owner"),
    [
        (Scope(user_id="ana"), "user_id"), (Scope(agent_id="bot"), "agent_id"), (Scope(run_id="r"), "run_id"),
        (Scope(user_id="ana", run_id="r"), "(user|run)_id"), (Scope(), ""),
    ],
    ids=str,
)  # fmt: skip
def test_filters_on_declared_keys_are_answered_by_an_index_within_an_owner_and_across(store_path, scope, owner):
    with Memory(store_path, embedder=HashEmbedder(), config=DECLARED) as memory:
        memory.add("text", user_id="ana", metadata={"topic": "sea"})
        for key, path in (("topic", "topic"), ("place.city", "place.city"), ("metadata.role", "role")):
            for operand in SERVED:
                plan = plan_of(store_path, scope, {key: operand, "other": 1})
                indexes = [f"USING INDEX metadata:{name}:{path} (" for name in (owner, "user_id", "run_id")]
                wanted = indexes[1:] if "|" in owner else indexes[:1]
                assert any(index in plan for index in wanted), (key, operand, plan)
        assert "metadata:" not in plan_of(store_path, scope, {"undeclared": "Rome"})


def test_an_index_changes_no_answer(open_memory):
    indexed, plain = open_memory(":memory:", config=DECLARED), open_memory(":memory:")
    values = ["Rome", "rome", 3, 3.0, True, None, ["Rome"], {"city": "Rome"}, "3", "", 10**18, -2.5]
    items = [{"content": f"text {n}", "id": str(n), "metadata": {"topic": value}} for n, value in enumerate(values)]
    items.append({"content": "no topic", "id": "none"})
    for memory in (indexed, plain):
        memory.add_batch(items, user_id="ana")
        memory.add_batch([item | {"id": f"of ben {item['id']}"} for item in items], user_id="ben", run_id="r")
    operands = [*values[:6], *SERVED, {"gt": 2}, {"lt": "s"}, {"nin": ["Rome", 3]}, {"contains": "o"}, "*", {"ne": 3}]
    for operand in operands:
        for owner in ({"user_id": "ana"}, {"run_id": "r"}, {"all_scopes": True}):
            seen = [
                [record.id for record in memory.get_all(filters={"topic": operand}, **owner)]
                for memory in (indexed, plain)
            ]
            assert seen[0] == seen[1], (operand, owner)


def test_indexes_are_made_when_declared_kept_when_nothing_is_said_and_dropped_when_left_out(open_memory, store_path):
    first = open_memory(config=Config(indexed_metadata=("topic",)))
    first.add("text", user_id="ana", metadata={"topic": "sea", "place": {"city": "Rome"}})
    assert names_of_indexes(store_path) == {"topic"}
    open_memory()
    assert names_of_indexes(store_path) == {"topic"}
    second = open_memory(config=Config(indexed_metadata=("place.city", "topic")))
    assert names_of_indexes(store_path) == {"topic", "place.city"}
    third = open_memory(config=Config(indexed_metadata=("place.city",)))
    assert names_of_indexes(store_path) == {"place.city"}
    for memory in (first, second, third):  # All of them go on, whatever became of the indexes meanwhile.
        memory.add("text", user_id="ana", metadata={"topic": "sea"})
    for memory in (first, second, third):
        assert memory.count(user_id="ana", filters={"topic": "sea"}) == 4
        assert memory.count(user_id="ana", filters={"place.city": "Rome"}) == 1
    open_memory(config=Config(indexed_metadata=()))
    assert names_of_indexes(store_path) == set()


@pytest.mark.slow
def test_an_index_is_made_and_dropped_while_another_process_writes(open_memory, store_path):
    memory = open_memory()
    memory.add("text", user_id="ana", metadata={"n": 0})
    code = """
        import sys
        from agentmem import Config, Memory
        from agentmem.testing import HashEmbedder
        for keys in [("n",), (), ("n", "m")] * 5:
            with Memory(sys.argv[1], embedder=HashEmbedder(), config=Config(indexed_metadata=keys)) as memory:
                memory.add("text", user_id="ben", metadata={"n": 1})
        print(memory.path == sys.argv[1])
    """
    done = threading.Event()
    child = threading.Thread(target=lambda: (run_python(code, store_path), done.set()), name="child")
    child.start()
    added = 1
    while not done.wait(0.001) and child.is_alive():
        memory.add("text", user_id="ana", metadata={"n": 0})
        added += 1
    child.join()
    assert done.is_set()
    assert memory.count(user_id="ana", filters={"n": 0}) == added
    assert memory.count(all_scopes=True, filters={"n": 1}) == 15
