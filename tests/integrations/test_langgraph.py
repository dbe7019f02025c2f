"""LangGraph's store: the same answers as its own in memory, in a graph, with langmem's tools, and on the disk."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import DuplicateIdError, InvalidInputError, Memory
from agentmem.testing import HashEmbedder
from tests.frameworks import framework

framework("langgraph.graph")

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from agentmem.integrations.langgraph import AgentMemStore

ANA, BEN = ("memories", "ana"), ("memories", "ben")


@pytest.fixture
def store(memory):
    return AgentMemStore(memory)


def test_an_item_comes_back_as_it_was_put_and_is_replaced_and_deleted(store):
    store.put(ANA, "seat", {"text": "Prefers window seats", "at": [1, None, {"x": 0.5}]})
    item = store.get(ANA, "seat")
    assert (item.namespace, item.key) == (ANA, "seat")
    assert item.value == {"text": "Prefers window seats", "at": [1, None, {"x": 0.5}]}
    assert store.get(BEN, "seat") is None
    store.put(ANA, "seat", {"text": "Prefers the aisle"})
    changed = store.get(ANA, "seat")
    assert changed.value == {"text": "Prefers the aisle"}
    assert changed.created_at == item.created_at
    assert changed.updated_at > item.updated_at
    store.delete(ANA, "seat")
    store.delete(ANA, "seat")
    assert store.get(ANA, "seat") is None
    store.put(ANA, "seat", {"text": "Stands"})
    assert store.get(ANA, "seat").value == {"text": "Stands"}
    assert [item.value for item in store.search(ANA)] == [{"text": "Stands"}]


def test_a_search_ranks_by_the_query_within_its_prefix(store):
    store.put(ANA, "seat", {"text": "Prefers window seats"})
    store.put(ANA, "food", {"text": "Is allergic to peanuts"})
    store.put(BEN, "seat", {"text": "Prefers window seats too"})
    store.put(("memories", "anab"), "seat", {"text": "Prefers window seats as well"})
    [first, second] = store.search(ANA, query="window seats")
    assert (first.key, second.key) == ("seat", "food")
    assert first.score > second.score
    assert [item.key for item in store.search(ANA, query="window seats", limit=1, offset=1)] == ["food"]
    assert {item.namespace for item in store.search(("memories",), query="window seats")} == {
        ANA, BEN, ("memories", "anab"),
    }  # fmt: skip
    store.put((*ANA, "trips"), "seat", {"text": "Wants window seats in trains"})
    assert {item.namespace for item in store.search(ANA, query="window")} == {ANA, (*ANA, "trips")}


def test_other_namespaces_do_not_show_in_the_scores(store):
    store.put(ANA, "seat", {"text": "Prefers window seats"})
    store.put(ANA, "food", {"text": "Eats fish at window tables"})
    before = [item.score for item in store.search(ANA, query="window seats")]
    for number in range(20):
        store.put(BEN, str(number), {"text": "window seats"})
    assert [item.score for item in store.search(ANA, query="window seats")] == before


def test_what_is_not_indexed_comes_last_without_a_score(store):
    store.put(ANA, "a", {"text": "window seats"}, index=False)
    store.put(ANA, "b", {"text": "window seats", "note": "tea"}, index=["note"])
    store.put(ANA, "c", {"text": "window seats"})
    found = [(item.key, item.score is None) for item in store.search(ANA, query="window seats")]
    assert found == [("c", False), ("b", False), ("a", True)]
    assert store.search(ANA, query="tea")[0].key == "b"


@pytest.mark.parametrize(
    ("filter", "keys"),
    [
        ({"n": 1}, "a"),
        ({"n": {"$gt": 1}}, "b"),
        ({"n": {"$gte": 1, "$lt": 2}}, "a"),
        ({"n": {"$lte": 2}, "kind": "x"}, "a"),
        ({"kind": {"$ne": "x"}}, "bc"),
        ({"kind": {"$eq": "y"}}, "b"),
        ({"n": None}, "c"),
        ({"n": {"$ne": None}}, "ab"),
        ({"in": {"side": {"$eq": True}}}, "c"),
        ({"a.b": 7}, "c"),
    ],
)
def test_filters_compare_values(store, filter, keys):
    store.put(ANA, "a", {"n": 1, "kind": "x"})
    store.put(ANA, "b", {"n": 2, "kind": "y"})
    store.put(ANA, "c", {"in": {"side": True}, "a.b": 7})
    assert {item.key for item in store.search(ANA, filter=filter)} == set(keys)
    assert {item.key for item in store.search(ANA, query="x", filter=filter)} == set(keys)


@pytest.mark.parametrize(
    "op",
    [
        GetOp((), "a"),
        GetOp(("a.b",), "a"),
        PutOp(("a", ""), "a", {}),
        SearchOp(("a.b",)),
        SearchOp(("a",), limit=-1),
        SearchOp(("a",), offset=True),
        SearchOp(("a",), filter={"n": {"$in": [1]}}),
        SearchOp(("a",), filter={"n": [1]}),
        SearchOp(("a",), filter={"n": {}}),
        ListNamespacesOp(match_conditions=(MatchCondition("infix", ("a",)),)),
        PutOp(("a",), "k", "text"),
        PutOp(("a",), "", {"n": 1}),
        PutOp(("a",), "k", {"n": float("nan")}),
        PutOp(("a",), "k", {"n": 1}, ttl=0),
        PutOp(("a",), "k", {"n": 1}, index="text"),
        "get",
    ],
    ids=repr,
)
def test_bad_operations_are_refused_before_anything_is_written(store, memory, op):
    memory.add("x", user_id="a", agent_id="langgraph", id="other", metadata={"value": {}, "indexed": True, "ttl": None})
    with pytest.raises((InvalidNamespaceError, InvalidInputError)):
        store.batch([PutOp(("a",), "good", {"n": 1}), op])
    assert [record.id for record in memory.get_all(all_scopes=True)] == ["other"]


def test_reads_see_the_state_before_the_puts_of_their_batch_and_the_last_put_counts(store):
    results = store.batch(
        [PutOp(ANA, "k", {"n": 1}), GetOp(ANA, "k"), SearchOp(ANA), PutOp(ANA, "k", {"n": 2}), ListNamespacesOp()]
    )
    assert results == [None, None, [], None, []]
    assert store.get(ANA, "k").value == {"n": 2}


def test_the_puts_of_a_batch_are_committed_together(store, memory):
    commits = memory.stats().store.commits
    store.batch([PutOp(ANA, str(number), {"n": number}) for number in range(20)])
    assert memory.stats().store.commits == commits + 1


def test_an_item_lives_for_its_minutes_from_the_last_access(store, clock):
    store.put(ANA, "k", {"text": "tea"}, ttl=10)
    for read in (lambda: store.get(ANA, "k"), lambda: store.search(ANA), lambda: store.search(ANA, query="tea")):
        clock.wait(8 * 60)
        assert read()
    clock.wait(8 * 60)
    assert store.get(ANA, "k", refresh_ttl=False)
    clock.wait(3 * 60)
    assert store.get(ANA, "k") is None
    assert store.search(ANA) == store.list_namespaces() == []
    store.put(ANA, "k", {"text": "coffee"})
    clock.wait(1_000_000)
    assert store.get(ANA, "k").value == {"text": "coffee"}


def test_reads_within_a_hundredth_of_the_life_write_nothing(store, memory, clock):
    store.put(ANA, "k", {"text": "tea"}, ttl=10)
    commits = memory.stats().store.commits
    clock.wait(5)
    store.get(ANA, "k")
    assert memory.stats().store.commits == commits
    clock.wait(5)
    store.get(ANA, "k")
    assert memory.stats().store.commits == commits + 1


def test_a_default_life_and_refresh_come_from_the_configuration(memory, clock):
    store = AgentMemStore(memory, ttl={"default_ttl": 10, "refresh_on_read": False})
    store.put(ANA, "k", {"n": 1})
    store.put(ANA, "forever", {"n": 1}, ttl=None)
    clock.wait(8 * 60)
    assert store.get(ANA, "k")
    clock.wait(3 * 60)
    assert [item.key for item in store.search(ANA)] == ["forever"]


def test_stores_of_other_names_and_other_memories_are_apart(memory, store):
    other = AgentMemStore(memory, name="other")
    memory.add("window seats", user_id="memories.ana")
    store.put(ANA, "k", {"n": 1})
    other.put(ANA, "j", {"n": 2})
    other.put(BEN, "j", {"n": 2})
    assert [item.key for item in store.search(ANA, query="window seats")] == ["k"]
    assert [item.key for item in store.search(("memories",))] == ["k"]
    assert store.list_namespaces() == [ANA]
    with pytest.raises(DuplicateIdError):  # An id is unique within its home, which both have.
        other.put(ANA, "k", {"n": 3})
    view = AgentMemStore(memory.scope(agent_id="other"), name="other")
    assert view.list_namespaces(prefix=("memories",)) == [ANA, BEN]
    with pytest.raises(InvalidInputError, match="outside this scope"):
        AgentMemStore(memory.scope(agent_id="planner"))


@pytest.mark.parametrize("arguments", [{"mode": "exact"}, {"fields": "text"}, {"name": ""}])
def test_bad_arguments_are_refused(memory, arguments):
    with pytest.raises(InvalidInputError):
        AgentMemStore(memory, **arguments)
    with pytest.raises(InvalidInputError, match="pass a Memory"):
        AgentMemStore("agent.db")


def test_threads_that_put_delete_and_restore_one_key_leave_one_of_the_values(store):
    def work(number):
        store.put(ANA, "k", {"n": number})
        if number % 3 == 0:
            store.delete(ANA, "k")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(24)))
    store.put(ANA, "k", {"n": "last"})
    assert [item.value for item in store.search(ANA)] == [{"n": "last"}]


def test_a_coroutine_awaits_the_same_answers(store):
    async def work():
        await asyncio.gather(*(store.aput(ANA, str(number), {"n": number}) for number in range(5)))
        return await store.aget(ANA, "3"), await store.asearch(ANA, filter={"n": {"$gt": 2}})

    item, found = asyncio.run(work())
    assert item.value == {"n": 3}
    assert {each.key for each in found} == {"3", "4"}


def test_another_process_of_the_file_finds_what_was_put(open_memory, store_path):
    AgentMemStore(open_memory()).put(ANA, "seat", {"text": "Prefers window seats"})
    again = AgentMemStore(open_memory())
    assert again.search(ANA, query="window")[0].value == {"text": "Prefers window seats"}


def test_a_graph_remembers_across_threads(store):
    graphs = framework("langgraph.graph")
    checkpoints = framework("langgraph.checkpoint.memory")
    from langgraph.store.base import BaseStore
    from typing_extensions import TypedDict

    class State(TypedDict):
        asked: str
        told: str

    def remember(state: State, *, store: BaseStore):
        found = store.search(ANA, query=state["asked"], limit=1)
        store.put(ANA, state["asked"], {"text": state["asked"]})
        return {"told": found[0].value["text"] if found else ""}

    builder = graphs.StateGraph(State)
    builder.add_node("remember", remember)
    builder.add_edge(graphs.START, "remember")
    graph = builder.compile(checkpointer=checkpoints.InMemorySaver(), store=store)
    first = graph.invoke({"asked": "window seats"}, {"configurable": {"thread_id": "1"}})
    second = graph.invoke({"asked": "seats"}, {"configurable": {"thread_id": "2"}})
    assert (first["told"], second["told"]) == ("", "window seats")


def test_the_tools_of_langmem_manage_and_search_memories(store):
    langmem = framework("langmem")
    manage = langmem.create_manage_memory_tool(namespace=ANA, store=store)
    search = langmem.create_search_memory_tool(namespace=ANA, store=store)
    created = manage.invoke({"content": "Prefers window seats", "action": "create"})
    [item] = store.search(ANA)
    assert item.key in created
    assert "window seats" in search.invoke({"query": "seats"})
    manage.invoke({"content": "Prefers the aisle", "action": "update", "id": item.key})
    assert "aisle" in search.invoke({"query": "seats"})
    manage.invoke({"action": "delete", "id": item.key})
    assert store.search(ANA) == []


# -- programs -----------------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "ab", "a/", "b", "ü"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "l", "m"])
SCALARS = st.sampled_from([0, 1, 2, 1.5, "x", "y", None])
INNER = st.fixed_dictionaries({"s": SCALARS})
VALUES = st.fixed_dictionaries({}, optional={"n": st.integers(0, 3), "s": SCALARS, "in": INNER})
ORDERS = st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte", "$eq"]), st.integers(0, 3), min_size=1)
FILTERS = st.one_of(
    st.none(),
    INNER,
    st.fixed_dictionaries({"s": st.fixed_dictionaries({"$ne": SCALARS})}),
    st.fixed_dictionaries({"in": st.fixed_dictionaries({"s": SCALARS.filter(lambda scalar: scalar is not None)})}),
    st.fixed_dictionaries({}, optional={"n": ORDERS}),
)
PUTS = st.builds(PutOp, NAMESPACES, KEYS, st.one_of(st.none(), VALUES), index=st.none(), ttl=st.none())
GETS = st.builds(GetOp, NAMESPACES, KEYS, refresh_ttl=st.booleans())
SEARCHES = st.builds(
    SearchOp, st.lists(LABELS, max_size=2).map(tuple), filter=FILTERS, query=st.none(),
    limit=st.integers(0, 4), offset=st.integers(0, 3), refresh_ttl=st.booleans(),
)  # fmt: skip
CONDITIONS = st.builds(
    MatchCondition,
    st.sampled_from(["prefix", "suffix"]),
    st.lists(st.one_of(LABELS, st.just("*")), max_size=2).map(tuple),
)
LISTINGS = st.builds(
    ListNamespacesOp, st.one_of(st.none(), st.lists(CONDITIONS, max_size=2).map(tuple)),
    max_depth=st.one_of(st.none(), st.integers(1, 3)), limit=st.integers(0, 4), offset=st.integers(0, 2),
)  # fmt: skip
PROGRAMS = st.lists(
    st.lists(st.one_of(PUTS, PUTS, GETS, SEARCHES, LISTINGS), min_size=1, max_size=4),
    min_size=1, max_size=8,
)  # fmt: skip


@given(program=PROGRAMS)
def test_programs_answer_as_on_the_store_in_memory(program):
    """But for the differences that agentmem/integrations/README.md names: newest first, a comparison with a missing
    number is false, and a namespace without items is none."""
    model = InMemoryStore()
    born: dict[tuple, int] = {}
    with Memory(":memory:", embedder=HashEmbedder(8)) as memory:
        store = AgentMemStore(memory)
        for ops in program:
            expected = [answer_of(model, op, born) for op in ops]
            assert [plain(result) for result in store.batch(ops)] == expected
            model.batch([op for op in ops if isinstance(op, PutOp)])
            puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
            for key, op in puts.items():
                if op.value is not None:
                    born.setdefault(key, len(born))
        assert memory.check() == []


def answer_of(model, op, born):
    if isinstance(op, PutOp):
        return None
    if isinstance(op, GetOp):
        item = model._data[op.namespace].get(op.key) if op.namespace in model._data else None
        return plain(item)
    if isinstance(op, ListNamespacesOp):
        for namespace in [namespace for namespace, items in model._data.items() if not items]:
            del model._data[namespace]  # Emptied ones are no namespaces any more.
        return model.batch([op])[0]
    with_numbers = InMemoryStore()
    for namespace, items in model._data.items():
        kept = {key: item for key, item in items.items() if "n" in item.value or "n" not in (op.filter or {})}
        with_numbers._data[namespace] = kept
    found = with_numbers.batch([op._replace(limit=1000, offset=0)])[0]
    found.sort(key=lambda item: -born[item.namespace, item.key])
    return plain(found[op.offset : op.offset + op.limit])


def plain(result):
    if isinstance(result, list):
        return [plain(each) for each in result]
    return (result.namespace, result.key, result.value) if hasattr(result, "value") else result
