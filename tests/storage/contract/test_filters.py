"""The filter language means the same in every engine: the documented truth table, and what hypothesis thinks of."""

import ast
import json
import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentmem import filters as language
from agentmem.filters import number_path, parse_filters
from agentmem.records import Scope
from tests.filter_oracle import matches
from tests.storage.contract.making import ANA, EVERYBODY, add, insert, listed

TABLE = [
    (ast.literal_eval(row[0]), ast.literal_eval(row[1]), row[2] == "yes")
    for row in re.findall(r"^\| `(\{.*\})` \| `(\{.*\})` \| (yes|no) \|$", language.__doc__ or "", re.MULTILINE)
]

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.5, 2**53, -(2**63)]),
    st.sampled_from(["", "a", "A", "ab", "Straße", "STRASSE", "1", "*", "\u3042", "%_", "a.b"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
)
KEYS = st.sampled_from(["a", "b", "a.b", "c", "a.b.c", "metadata.role", '"a.b"', "role", "user_id"])
COMPARISONS = st.one_of(
    SCALARS.filter(lambda value: value != "*"),
    st.just("*"),
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["eq", "ne"]), SCALARS, min_size=1),
    st.dictionaries(st.sampled_from(["in", "nin"]), st.lists(SCALARS, max_size=3), min_size=1),
    st.dictionaries(
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        SCALARS.filter(lambda value: value is not None and not isinstance(value, bool)), min_size=1,
    ),
    st.dictionaries(st.just("contains"), SCALARS, min_size=1),
    st.dictionaries(st.just("icontains"), st.sampled_from(["a", "strasse", "\u3042", ""]), min_size=1),
    st.dictionaries(st.just("exists"), st.booleans(), min_size=1),
)  # fmt: skip
FILTERS = st.recursive(
    st.dictionaries(KEYS, COMPARISONS, min_size=1, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["AND", "OR", "NOT"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(st.sampled_from(["a", "b", "c", "role", "a.b"]), VALUES, max_size=4)


def test_every_row_of_the_documented_truth_table_holds(store):
    assert len(TABLE) > 20
    for number, (_, metadata, _) in enumerate(TABLE):
        add(store, f"text {number}", Scope(run_id=f"row {number}"), metadata=metadata)
    for number, (filters, metadata, expected) in enumerate(TABLE):
        found = listed(store, Scope(run_id=f"row {number}"), parse_filters(filters))
        assert bool(found) == expected, (filters, metadata)


def test_any_filter_means_what_the_plain_evaluator_says(opener):
    store = opener()

    @settings(max_examples=60)
    @given(st.lists(st.tuples(METADATA, st.sampled_from([None, "user", "a"])), min_size=1, max_size=5), FILTERS)
    def check(rows: list[tuple[dict[str, Any], str | None]], filters: dict[str, Any]) -> None:
        store.delete_all(EVERYBODY, None, None)
        store.commit([insert("text", ANA, metadata=metadata, role=role) for metadata, role in rows])
        records = listed(store, ANA)
        found = {record.id for record in listed(store, ANA, parse_filters(filters))}
        for record in records:
            fields = {name: getattr(record, name) for name in ("id", "role", "user_id", "agent_id", "run_id")}
            assert (record.id in found) == matches(filters, {**fields, "metadata": record.metadata}), record.metadata

    check()


def test_times_and_owners_are_fields_like_any_other(store):
    old, new = datetime(2020, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    add(store, "old", Scope("ana", "helper", "one"), created_at=old)
    add(store, "new", Scope("ana", None, "two"), created_at=new)
    for filters, between, expected in (
        ({"created_at": {"gte": "2024-01-01T00:00:00+00:00"}}, None, ["new"]),
        ({"created_at": {"in": [old]}}, None, ["old"]),
        ({"agent_id": None}, None, ["new"]),
        ({"agent_id": "*"}, None, ["old"]),
        ({"run_id": ["one", "two"]}, None, ["old", "new"]),
        (None, (None, new), ["old"]),
        (None, (new, None), ["new"]),
        ({"expires_at": {"exists": False}}, (old, new), ["old"]),
    ):
        found = listed(store, ANA, parse_filters(filters, between))
        assert [record.content for record in found] == expected, (filters, between)


def test_numbers_are_read_from_the_metadata(store):
    values = [1, 2.5, "3", True, None, {"a": 4}, -0.0]
    for value in values:
        add(store, json.dumps(value), metadata={"n": value})
    with store.snapshot() as snapshot:
        keys = snapshot.keys(ANA, None)
        assert sorted(snapshot.numbers(keys, ANA, number_path("n")).values()) == [0.0, 1.0, 2.5]
        assert list(snapshot.numbers(keys, ANA, number_path("n.a")).values()) == [4.0]
        assert snapshot.numbers(keys[:0], ANA, number_path("n")) == {}
