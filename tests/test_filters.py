"""The filter language, compiled to SQL and run by SQLite, against its documentation and a plain evaluator."""

import ast
import copy
import enum
import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmem import filters as language
from agentmem.errors import InvalidInputError
from agentmem.filters import MAX_COST, MAX_DEPTH, MAX_SIZE, OPERATORS, VALUE_SIZE, parse_filters
from agentmem.storage.sqlite.database.sql import contains
from agentmem.storage.sqlite.filter_sql import LONG_PART, Condition, condition_of
from tests.filter_oracle import matches

TABLE = """
CREATE TABLE memory (
  key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  user_id TEXT, agent_id TEXT, run_id TEXT, role TEXT, content TEXT NOT NULL, metadata BLOB,
  created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, expires_at INTEGER,
  deleted_at INTEGER, vector_key INTEGER, seq INTEGER NOT NULL) STRICT
"""


def compiled(filters: Any) -> Condition:
    tree = parse_filters(filters)
    assert tree is not None
    return condition_of(tree)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
TEXT_COLUMNS = ("user_id", "agent_id", "run_id", "role")
TIME_COLUMNS = ("created_at", "updated_at", "expires_at")


class Table:
    """A real `memory` table, filled anew for every question."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(TABLE)
        casefold: Any = str.casefold
        self.connection.create_scalar_function("agentmem_casefold", casefold, 1, deterministic=True)
        self.connection.create_scalar_function("agentmem_contains", contains, 2, deterministic=True)

    def fill(self, records: list[dict[str, Any]]) -> None:
        self.connection.execute("DELETE FROM memory")
        columns = ("id", *TEXT_COLUMNS, *TIME_COLUMNS)
        for number, record in enumerate(records):
            values: list[Any] = [record.get(name) for name in columns]
            for at, name in enumerate(columns):
                if name in TIME_COLUMNS and values[at] is not None:
                    values[at] = (values[at] - EPOCH) // timedelta(microseconds=1)
            metadata = json.dumps(record["metadata"], ensure_ascii=False) if record["metadata"] else None
            self.connection.execute(
                f"INSERT INTO memory (seq, content, metadata, {', '.join(columns)}) "
                f"VALUES (?, 'text', jsonb(?), {', '.join('?' * len(columns))})",
                (number, metadata, *values),
            )

    def select(self, filters: dict[str, Any], records: list[dict[str, Any]]) -> list[bool]:
        """Which records match, asked twice: as a value, which must be 0 or 1, and as a WHERE."""
        self.fill(records)
        condition = compiled(filters)
        sql, parameters = condition.sql, condition.parameters
        assert sql.startswith("(")
        assert sql.endswith(")")
        values = [row[0] for row in self.run(f"SELECT {sql} FROM memory ORDER BY seq", parameters)]
        assert all(type(value) is int and value in (0, 1) for value in values)
        found = {row[0] for row in self.run(f"SELECT seq FROM memory WHERE {sql}", parameters)}
        assert found == {seq for seq, value in enumerate(values) if value}
        return [bool(value) for value in values]

    def run(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        return list(self.connection.execute(sql, parameters))


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.connection.close()


def record(metadata: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "x", "created_at": NOON, "updated_at": NOON, **fields, "metadata": metadata or {}}


def one(table: Table, filters: dict[str, Any], metadata: dict[str, Any] | None = None, **fields: Any) -> bool:
    row = record(metadata, **fields)
    (answer,) = table.select(filters, [row])
    assert answer == matches(filters, row)
    return answer


# The documentation is the truth table


def documented_rows() -> list[tuple[dict[str, Any], dict[str, Any], bool]]:
    rows = re.findall(r"^\| `(\{.*\})` \| `(\{.*\})` \| (yes|no) \|$", language.__doc__ or "", re.MULTILINE)
    return [(ast.literal_eval(row[0]), ast.literal_eval(row[1]), row[2] == "yes") for row in rows]


def test_every_row_of_the_documented_truth_table_holds(table: Table) -> None:
    rows = documented_rows()
    assert len(rows) > 20
    for filters, metadata, expected in rows:
        assert one(table, filters, metadata) == expected, (filters, metadata)


def test_every_operator_is_documented_and_no_other() -> None:
    section = (language.__doc__ or "").partition("| operator |")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines()[2:]]
    assert re.findall(r"`(\w+)`", "".join(cells)) == list(OPERATORS)


VALUES: dict[str, dict[str, Any]] = {
    "missing": {},
    "null": {"k": None},
    "true": {"k": True},
    "one": {"k": 1},
    "float": {"k": 1.5},
    "text": {"k": "One"},
    "digit": {"k": "1"},
    "list": {"k": [1, "One", None, True]},
    "object": {"k": {"k": 1}},
    "empty list": {"k": []},
}


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        (1, "one"),
        (1.0, "one"),
        (True, "true"),
        (False, ""),
        (None, "null"),
        ("One", "text"),
        ("1", "digit"),
        ("[]", ""),
        ('{"k":1}', ""),
        ("*", "null, true, one, float, text, digit, list, object, empty list"),
        ({"eq": "*"}, ""),
        ([], ""),
        ([1, "1", None], "null, one, digit"),
        ((True, "One"), "true, text"),
        ({"ne": 1}, "missing, null, true, float, text, digit, list, object, empty list"),
        ({"ne": None}, "missing, true, one, float, text, digit, list, object, empty list"),
        ({"nin": [1, 1.5]}, "missing, null, true, text, digit, list, object, empty list"),
        ({"gt": 0}, "one, float"),
        ({"gte": 1, "lt": 1.5}, "one"),
        ({"lte": 10**18}, "one, float"),
        ({"gt": ""}, "text, digit"),
        ({"lt": "O"}, "digit"),
        ({"contains": "ne"}, "text"),
        ({"contains": ""}, "text, digit"),
        ({"contains": "One"}, "text, list"),
        ({"contains": 1}, "list"),
        ({"contains": True}, "list"),
        ({"contains": None}, "list"),
        ({"contains": False}, ""),
        ({"icontains": "oNE"}, "text, list"),
        ({"icontains": "ON"}, "text"),
        ({"exists": True}, "null, true, one, float, text, digit, list, object, empty list"),
        ({"exists": False}, "missing"),
    ],
)
def test_each_operator_knows_each_kind_of_value(table: Table, operand: Any, expected: str) -> None:
    found = table.select({"k": operand}, [record(value, id=name) for name, value in VALUES.items()])
    names = [name for name, match in zip(VALUES, found, strict=True) if match]
    assert ", ".join(names) == expected
    negated = table.select({"NOT": {"k": operand}}, [record(value, id=name) for name, value in VALUES.items()])
    assert negated == [not match for match in found]


def test_connectives_nest_and_siblings_are_all_required(table: Table) -> None:
    filters = {"a": 1, "OR": [{"b": 2}, {"AND": [{"c": 3}, {"NOT": [{"d": 4}, {"e": 5}]}]}]}
    assert one(table, filters, {"a": 1, "b": 2})
    assert one(table, filters, {"a": 1, "c": 3})
    assert not one(table, filters, {"a": 1, "c": 3, "e": 5})
    assert not one(table, filters, {"a": 1})
    assert not one(table, filters, {"b": 2})


def test_lower_case_connectives_are_ordinary_keys(table: Table) -> None:
    assert one(table, {"and": 1, "or": 2, "not": 3}, {"and": 1, "or": 2, "not": 3})


def test_nothing_asked_is_no_condition() -> None:
    assert parse_filters(None) is None
    assert parse_filters({}) is None


def test_any_mapping_will_do_and_none_is_changed(table: Table) -> None:
    filters = {"a": {"in": [1, "x"]}, "OR": [{"b": "*"}, {"NOT": {"c": None}}]}
    before = copy.deepcopy(filters)
    assert parse_filters(MappingProxyType(filters)) == parse_filters(filters)
    assert filters == before


def test_members_of_enums_are_their_values(table: Table) -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    assert one(table, {"c": "red", "n": 3}, {"c": "red", "n": 3})
    condition = compiled({"c": Colour.RED, "n": [Level.HIGH, 4], "t": Colour.RED})
    assert condition == compiled({"c": "red", "n": [3, 4], "t": "red"})
    assert {type(value) for value in condition.parameters} == {str}


# Record fields


def test_record_fields_are_reached_by_name_and_metadata_by_prefix(table: Table) -> None:
    assert one(table, {"role": "user"}, {"role": "metadata"}, role="user")
    assert not one(table, {"role": "metadata"}, {"role": "metadata"}, role="user")
    assert one(table, {"metadata.role": "metadata", "metadata.OR": 1}, {"role": "metadata", "OR": 1}, role="user")
    assert one(table, {"metadata.metadata.a": 1}, {"metadata": {"a": 1}})
    assert one(table, {"role.a": 1}, {"role": {"a": 1}}, role="user")
    assert one(table, {"id": ["a", "x"], "user_id": {"contains": "n"}, "agent_id": {"ne": "b"}}, user_id="ana")
    assert not one(table, {"role": 3}, role="3")
    assert not one(table, {"role": {"gt": 3}}, role="user")


def test_an_unset_field_equals_none_and_does_not_exist(table: Table) -> None:
    assert one(table, {"role": None, "expires_at": None, "run_id": {"exists": False}})
    assert not one(table, {"role": "*"})
    assert one(table, {"role": {"ne": "user"}, "NOT": {"expires_at": {"gt": NOON}}})
    assert one(table, {"role": {"exists": False, "in": [None]}})
    assert not one(table, {"expires_at": {"lt": NOON}})
    assert one(table, {"role": "*", "expires_at": [None, NOON]}, role="user", expires_at=NOON)


def test_times_compare_to_the_microsecond_in_any_offset(table: Table) -> None:
    later = NOON + timedelta(microseconds=1)
    assert one(table, {"created_at": NOON.astimezone(timezone(timedelta(hours=-7)))}, created_at=NOON)
    assert one(table, {"created_at": {"gt": NOON, "lte": later}}, created_at=later)
    assert one(table, {"created_at": "2026-05-01T14:00:00.000001+02:00"}, created_at=later)
    assert one(table, {"created_at": ["2026-05-01T12:00:00Z", later]}, created_at=NOON)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert one(table, {"created_at": {"gte": first, "lte": last}}, created_at=last)
    east = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    assert one(table, {"created_at": {"gt": east}}, created_at=first)


# Keys

HOSTILE = [
    *("", " ", ".", "a.b", '"', '""', 'a"b', "\\", "\\\\", '\\"', "a\\", "\\u0041", "A", "[0]", "[#-1]", "0"),
    *(
        "$",
        "$.a",
        "$and",
        "*",
        "'",
        "''",
        "?",
        "?1",
        ":a",
        "@a",
        "#",
        "/",
        "--",
        ";",
        "%",
        "_",
        "\n",
        "\t",
        "\x01",
    ),
    *(
        "\x7f",
        "\u2028",
        "\u0661",
        "é",
        "e\u0301",
        "😀",
        "\uffff",
        "AND",
        "OR",
        "NOT",
        "and",
        "metadata",
        "role",
    ),
    *(
        "id",
        "a",
        "a b",
        "memory.content",
        "') OR 1=1 --",
        "x'; DROP TABLE memory; --",
        "k" * 200,
        "null",
        "true",
    ),
]


def key_of(*labels: str) -> str:
    return ".".join(json.dumps(label, ensure_ascii=False) for label in labels)


@pytest.mark.parametrize("ascii_json", [False, True])
def test_every_label_reaches_its_own_value_and_no_other(table: Table, ascii_json: bool) -> None:
    metadata = {label: {"in": number} for number, label in enumerate(HOSTILE)}
    assert len(metadata) == len(HOSTILE)
    table.fill([record()])
    text = json.dumps(metadata, ensure_ascii=ascii_json)
    table.run("UPDATE memory SET metadata = jsonb(?)", (text,))
    for number, label in enumerate(HOSTILE):
        condition = compiled({key_of(label, "in"): {"eq": number}})
        assert table.run(f"SELECT {condition.sql} FROM memory", condition.parameters) == [(1,)], label
        condition = compiled({key_of(label + "x", "in"): {"exists": True}})
        assert table.run(f"SELECT {condition.sql} FROM memory", condition.parameters) == [(0,)], label


@pytest.mark.parametrize("label", [each for each in HOSTILE if each and "." not in each and each[0] != '"'])
def test_a_label_without_dot_or_leading_quote_needs_no_quotes(table: Table, label: str) -> None:
    assert one(table, {f"metadata.{label}": 1}, {label: 1, "other": 2})
    assert not one(table, {f"metadata.{label}": 1}, {label + "x": 1, "other": 1})


def test_a_dotted_key_walks_objects_and_never_lists(table: Table) -> None:
    assert one(table, {"a.b.c": 1}, {"a": {"b": {"c": 1}}})
    assert one(table, {'a."b.c".d': 1}, {"a": {"b.c": {"d": 1}}})
    for key in ("a.0", "a[0]", "a.[0]", "a.*", 'a."0"', "a.#"):
        assert not one(table, {key: "*"}, {"a": [1]})
    assert not one(table, {"a.b": "*"}, {"a": '{"b": 1}'})
    assert not one(table, {"a.b": "*"}, {"a.b": 1})


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=4))
def test_no_text_of_the_caller_that_is_not_a_plain_name_enters_the_sql(labels: list[str]) -> None:
    safe = compiled({'"é"': {"eq": "v", "contains": "v", "icontains": "v", "in": ["v", "w"], "ne": 1}})
    value = labels[0]
    operand = {"eq": value, "contains": value, "icontains": value, "in": labels * 2, "ne": 1}
    condition = compiled({key_of(*labels, "é"): operand})
    assert condition.sql == safe.sql


# SQL that the planner and SQLite's limits can live with


def test_an_index_on_the_plain_expression_serves_equality_lists_and_order(table: Table) -> None:
    table.run("CREATE INDEX city ON memory (metadata ->> '$.place.city')")
    try:
        for operand in ("Rome", 3, ["Rome", "Oslo"], {"gt": "A"}, {"gte": 2, "lt": 5}):
            condition = compiled({"place.city": operand, "other": 1})
            plan = table.run(f"EXPLAIN QUERY PLAN SELECT key FROM memory WHERE {condition.sql}", condition.parameters)
            assert "SEARCH memory USING INDEX city" in str(plan), (operand, plan)
    finally:
        table.run("DROP INDEX city")


@pytest.mark.slow
def test_a_hundred_thousand_values_are_one_parameter(table: Table) -> None:
    condition = compiled({"id": {"in": [f"id-{number}" for number in range(100_000)]}})
    assert len(condition.parameters) == 1
    assert table.select({"id": [*map(str, range(100_000)), "x"]}, [record()]) == [True]


@pytest.mark.parametrize("word", ["AND", "OR", "NOT"])
def test_the_costliest_filter_runs_and_a_costlier_one_is_refused(table: Table, word: str) -> None:
    mixed = {'"é"': {"in": ["a", "b", 1, 2, True, False, None]}}
    folded = {'"é"': {"icontains": "x"}}
    for each, count in ((mixed, MAX_COST - 1), (folded, MAX_COST // 10 - 1), ({"id": {"contains": "x"}}, MAX_COST - 1)):
        table.select({word: [each] * count}, [record({"é": [1]})])
        with pytest.raises(InvalidInputError, match=r"filters cost more than 1,000 .* ask several times"):
            parse_filters({word: [each] * (count + 1)})
    with pytest.raises(InvalidInputError, match="filters cost more than 1,000"):
        parse_filters({f"k{number}": 1 for number in range(MAX_COST + 1)})


def test_the_largest_filter_runs_and_a_larger_one_is_refused(table: Table) -> None:
    values = ["x" * (MAX_SIZE - 4 * VALUE_SIZE - len("nsought")), 7, "sought"]  # Of one key, and three values.
    assert one(table, {"n": values}, {"n": "sought"})
    for filters in ({"n": [*values, 1]}, {"n" * MAX_SIZE: 1}, {"n": ["x" * 20_000] * 100}, {"n": [1] * 250_000}):
        with pytest.raises(InvalidInputError, match=r"more than 2,000,000 characters .* with a part of them"):
            parse_filters(filters)


@pytest.mark.parametrize("size", [1, LONG_PART - 1, LONG_PART, LONG_PART + 1, 50_000])
@pytest.mark.parametrize("word", ["contains", "icontains"])
def test_a_part_of_any_length_is_found(table: Table, word: str, size: int) -> None:
    part = "ä" * size + "B"
    assert one(table, {"n": {word: part}}, {"n": f"a{part}c"})
    assert one(table, {"n": {word: part}}, {"n": ["c", part]})
    assert not one(table, {"n": {word: part}}, {"n": f"a{part[1:]}c"})
    assert not one(table, {"n": {word: part}}, {"n": 1})
    assert not one(table, {"n": {word: part}})


@pytest.mark.parametrize("word", ["AND", "OR", "NOT"])
def test_the_deepest_filter_runs_and_a_deeper_one_is_refused(table: Table, word: str) -> None:
    filters: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH):
        filters = {word: [filters, *({"b": 2} for _ in range(25))]}
    one(table, filters, {"a": 1})
    with pytest.raises(InvalidInputError, match="32 levels"):
        parse_filters({word: [filters]})
    deep = ".".join(["a"] * MAX_DEPTH)
    assert not one(table, {deep: 1})
    with pytest.raises(InvalidInputError, match="32 levels"):
        parse_filters({deep + ".a": 1})


# What is outside the language

CYCLE: dict[str, Any] = {}
CYCLE["NOT"] = CYCLE


@pytest.mark.parametrize(
    "filters",
    [
        *([], "a", 3, [{"a": 1}]),
        *({1: 2}, {None: 1}, {("a",): 1}),
        *({"$and": [{"a": 1}]}, {"$or": []}, {"$not": {}}, {"$nor": [{}]}),
        *({"AND": []}, {"OR": []}, {"NOT": []}, {"NOT": {}}, {"OR": {}}, {"OR": {"a": 1}}, {"AND": {"a": 1}}),
        *({"OR": [{}]}, {"AND": [{"a": 1}, {}]}, {"OR": ["a"]}, {"NOT": None}, {"NOT": "a"}, {"AND": {1: 2}}),
        *(
            {"a": {}},
            {"a": {"like": 1}},
            {"a": {"$gt": 1}},
            {"a": {"GT": 1}},
            {"a": {1: 1}},
            {"a": {"b": {"c": 1}}},
        ),
        *(
            {"a": {"eq": []}},
            {"a": {"ne": [1]}},
            {"a": {"eq": {}}},
            {"a": [[1]]},
            {"a": [{}]},
            {"a": {"gt": [1]}},
        ),
        *(
            {"a": {"in": 1}},
            {"a": {"in": "abc"}},
            {"a": {"nin": None}},
            {"a": {"in": {1, 2}}},
            {"a": {"in": {}}},
        ),
        *({"a": {"gt": True}}, {"a": {"lte": None}}, {"a": {"contains": ["x"]}}, {"a": {"icontains": 1}}),
        *(
            {"a": {"icontains": None}},
            {"a": {"exists": 1}},
            {"a": {"exists": None}},
            {"a": {"exists": "yes"}},
        ),
        *({"a": math.nan}, {"a": math.inf}, {"a": [1, -math.inf]}, {"a": {"gt": math.nan}}),
        *({"a": 2**63}, {"a": -(2**63) - 1}, {"a": 10**5000}, {"a": [10**5000]}, {"a": {"in": 10**5000}}),
        *(
            {"a": b"x"},
            {"a": {1, 2}},
            {"a": object()},
            {"a": 1j},
            {"a": range(3)},
            {"a": NOON},
            {"role": NOON},
        ),
        *(
            {"a": "\0"},
            {"a": "x\ud800"},
            {"a": ["\udfff"]},
            {"a": {"icontains": "\0"}},
            {"a": {"gt": "\ud800"}},
        ),
        *({"a\0b": 1}, {"\ud800": 1}, {'"\\ud800"': 1}, {'"\\u0000"': 1}),
        *({"": 1}, {".": 1}, {"a.": 1}, {".a": 1}, {"a..b": 1}, {"metadata.": 1}, {"metadata..a": 1}),
        *({'"a': 1}, {'"a"b': 1}, {'"a".': 1}, {'a."b': 1}, {'"': 1}, {'"\\x"': 1}),
        *({"created_at": 1}, {"created_at": 1.5}, {"created_at": True}, {"created_at": "yesterday"}),
        *(
            {"created_at": NOON.replace(tzinfo=None)},
            {"created_at": "2026-05-01"},
            {"created_at": NOON.date()},
        ),
        *({"created_at": {"gt": "2026-05-01T12:00:00"}}, {"created_at": {"contains": "2026"}}),
        *(
            {"updated_at": {"icontains": "2026"}},
            {"created_at": {"gt": None}},
            {"created_at": {"in": [NOON, 1]}},
        ),
        CYCLE,
    ],
    ids=lambda filters: None,
)
def test_whatever_is_outside_the_language_is_refused_in_one_sentence(filters: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_filters(filters)
    message = str(caught.value)
    assert message.endswith(".")
    assert "; " in message
    assert len(message) < 300
    message.encode()


# Random documents, random filters

SCALARS = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 2, 0.0, -0.0, 1.0, 1.5, 0.1, 1e300, -1e300, 5e-324]),
    st.sampled_from([2**53, 2**53 + 1, 2.0**53, 2**63 - 1, -(2**63), 2.0**63, -(2.0**63), 9007199254740993]),
    st.sampled_from(["", "a", "A", "ab", "1", "true", "null", "*", '"', "[1]", "{}", "%", "_", "\n", "'", "\\"]),
    st.sampled_from(
        ["ß", "ss", "SS", "\u017f", "İ", "i̇", "\u0131", "Σ", "ς", "é", "e\u0301", "\uffff", "😀", "\ue000"]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5),
)
LABELS = st.one_of(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=3),
    st.text('"\\.$[]*\n', max_size=4),
)
DOCUMENTS = st.dictionaries(
    LABELS,
    st.recursive(
        SCALARS,
        lambda values: st.lists(values, max_size=4) | st.dictionaries(LABELS, values, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
MOMENTS = st.one_of(
    st.sampled_from([NOON, NOON + timedelta(microseconds=1), EPOCH, EPOCH - timedelta(microseconds=1)]),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])),
)
FEW_LABELS = st.lists(LABELS, min_size=1, max_size=3)
RESERVED = {"id", *TEXT_COLUMNS, *TIME_COLUMNS, "AND", "OR", "NOT", "$and"}
NAMES = st.sampled_from(["ana", "Ana", "bo", "ß", "1"])
RECORDS = st.fixed_dictionaries(
    {"created_at": MOMENTS, "updated_at": MOMENTS, "metadata": DOCUMENTS},
    optional={**dict.fromkeys(TEXT_COLUMNS, NAMES), "expires_at": MOMENTS},
)


def paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every path of a document with its value, and those of a list's members under the list's path."""
    if above:
        yield above, value
    if isinstance(value, dict):
        for label, inner in value.items():
            yield from paths(inner, (*above, label))
    if isinstance(value, list):
        yield from ((above, each) for each in value)


def near(value: Any) -> list[Any]:
    """The value and some that are easily taken for it."""
    if isinstance(value, str):
        return [value, value[1:], value[:1], value.upper(), value.swapcase()]
    if isinstance(value, bool) or value is None:
        return [value, 1, 0]
    others = [value, str(value)]
    if isinstance(value, int):
        others += [float(value), min(value + 1, 2**63 - 1)]
    elif value.is_integer() and -(2.0**63) <= value < 2.0**63:
        others.append(int(value))
    return others


@st.composite
def questions(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A few records, and a filter made mostly of the keys and values that are in them."""
    records = draw(st.lists(RECORDS, min_size=1, max_size=4))
    for number, each in enumerate(records):
        each["id"] = str(number)
    there = [pair for each in records for pair in paths(each["metadata"])]
    seen = [value for _, value in there if not isinstance(value, list | dict)]

    def pick(choices: Sequence[Any]) -> Any:
        return draw(st.sampled_from(choices))

    def key() -> str:
        labels = pick(there)[0] if there and pick([1, 1, 1, 0]) else draw(FEW_LABELS)
        parts = []
        for label in labels:
            bare = label and "." not in label and not label.startswith('"')
            parts.append(label if bare and pick([0, 1]) else json.dumps(label, ensure_ascii=pick([False, True])))
        key = ".".join(parts)
        prefixed = key in RESERVED or key.startswith("metadata.") or pick([0, 1])
        return f"metadata.{key}" if prefixed else key

    def value(kind: str) -> Any:
        if kind == "time":
            moment = pick(records)["created_at"] if pick([0, 1]) else draw(MOMENTS)
            return pick([moment, moment.isoformat(), None])
        if kind == "text" and pick([1, 1, 0]):
            return draw(NAMES)
        return pick(near(pick(seen))) if seen and pick([1, 1, 0]) else draw(SCALARS)

    def operand(operator: str, kind: str) -> Any:
        if operator in ("in", "nin"):
            return [value(kind) for _ in range(pick([0, 1, 2, 3]))]
        if operator == "exists":
            return pick([True, False])
        chosen = value(kind)
        if operator in ("gt", "gte", "lt", "lte") and (chosen is None or isinstance(chosen, bool)):
            return NOON if kind == "time" else 1
        return str(chosen) if operator == "icontains" else chosen

    def entry() -> dict[str, Any]:
        kind = pick(["json", "json", "json", "json", "text", "time"])
        name = key() if kind == "json" else pick(TEXT_COLUMNS if kind == "text" else TIME_COLUMNS)
        match pick(["value", "list", "star", "operators", "operators", "operators"]):
            case "value":
                return {name: value(kind)}
            case "list":
                return {name: operand("in", kind)}
            case "star":
                return {name: "*"}
        known = [each for each in OPERATORS if kind != "time" or "contains" not in each]
        return {name: {each: operand(each, kind) for each in dict.fromkeys([pick(known), pick(known)])}}

    def question(depth: int) -> dict[str, Any]:
        form = pick(["entry", "entry", "AND", "OR", "NOT", "not", "siblings"]) if depth else "entry"
        if form == "entry":
            return entry()
        if form == "not":
            return {"NOT": question(depth - 1)}
        if form == "siblings":
            return {**question(depth - 1), **question(depth - 1)}
        return {form: [question(depth - 1) for _ in range(pick([1, 2, 3]))]}

    return question(pick([0, 1, 2, 3])), records


@pytest.mark.slow
@settings(deadline=None, max_examples=4 * settings().max_examples)
@given(question=questions())
def test_sqlite_and_the_plain_evaluator_agree(
    table: Table, question: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    filters, records = question
    assert table.select(filters, records) == [matches(filters, each) for each in records]


@pytest.mark.slow
@settings(deadline=None, max_examples=4 * settings().max_examples)
@given(value=SCALARS, other=SCALARS, data=st.data())
def test_two_scalars_compare_as_in_python(table: Table, value: Any, other: Any, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        other = data.draw(st.sampled_from(near(value)))
    filters: list[dict[str, Any]] = [
        {"eq": other},
        {"in": [other, other]},
        {"ne": other},
        {"contains": other},
    ]
    if other is not None and not isinstance(other, bool):
        filters += [{name: other} for name in ("gt", "gte", "lt", "lte")]
    if isinstance(other, str):
        filters.append({"icontains": other})
    for each in filters:
        one(table, {"k": each}, {"k": value})
        one(table, {"k": each}, {"k": [value, "x"]})
