"""The filter language: a mapping in, a tree out, which every storage engine compiles for itself.

    {"topic": "travel", "stars": {"gte": 3, "lt": 5}, "OR": [{"tags": {"contains": "sea"}}, {"seen": "*"}]}

| form | meaning |
|---|---|
| `{"key": value}` | equal to the text, number, boolean or `None` |
| `{"key": [a, b]}` | equal to one of them; `[]` matches nothing |
| `{"key": "*"}` | the key is there, whatever its value (`{"eq": "*"}` is the star itself) |
| `{"key": {"gt": 3, "lte": 9}}` | every operator holds |
| `{"a": 1, "b": 2}` | every entry holds |
| `{"AND": [f, g]}` / `{"OR": [f, g]}` | all of the filters / at least one of them |
| `{"NOT": [f, g]}` or `{"NOT": f}` | none of the filters |

| operator | true when |
|---|---|
| `eq`, `ne` | the value equals it; not `eq` |
| `gt`, `gte`, `lt`, `lte` | two numbers in numeric order, or two texts in code point order |
| `in`, `nin` | the value equals one member of the list; not `in` |
| `contains` | the text has it as a part, or the list has it as a member |
| `icontains` | the same for text, ignoring case as `str.casefold` does |
| `exists` | `True`: the key is there (a null value too); `False`: it is not |

A filter is true or false, never unknown. For a missing key every positive operator is false, so `ne`, `nin`
and `NOT` are true. Types never convert: text, numbers, booleans, null, lists and objects are unequal and
unordered across kinds. Integers and floats are one kind and compare exactly. The same holds inside lists.

Keys are metadata keys, or the record fields `id role user_id agent_id run_id` (text) and `created_at
updated_at expires_at` (an aware `datetime`, or ISO 8601 text with an offset). An unset field equals `None`
and does not exist. A dot leads into a nested object, never into a list. A label with a dot in it stands in
double quotes, as in JSON: `"a.b".c`. The prefix `metadata.` reaches metadata named like a field or a
connective: `metadata.role`, `metadata.OR`.

| filter | metadata | matches |
|---|---|---|
| `{"n": 1}` | `{"n": 1.0}` | yes |
| `{"n": 1}` | `{"n": True}` | no |
| `{"n": 1}` | `{"n": "1"}` | no |
| `{"n": None}` | `{"n": None}` | yes |
| `{"n": None}` | `{}` | no |
| `{"n": "*"}` | `{"n": None}` | yes |
| `{"n": [1, "a"]}` | `{"n": "a"}` | yes |
| `{"n": {"ne": 1}}` | `{}` | yes |
| `{"n": {"nin": []}}` | `{}` | yes |
| `{"n": {"gt": 3, "lte": 9}}` | `{"n": 9}` | yes |
| `{"n": {"gt": 3}}` | `{"n": "4"}` | no |
| `{"NOT": {"n": {"gt": 3}}}` | `{"n": "4"}` | yes |
| `{"n": {"contains": "sea"}}` | `{"n": "the seaside"}` | yes |
| `{"n": {"contains": "sea"}}` | `{"n": ["the seaside"]}` | no |
| `{"n": {"contains": 1}}` | `{"n": [1.0, "a"]}` | yes |
| `{"n": {"contains": 1}}` | `{"n": [True, "1"]}` | no |
| `{"n": {"icontains": "STRASSE"}}` | `{"n": "Hauptstraße"}` | yes |
| `{"a.b": 1}` | `{"a": {"b": 1}}` | yes |
| `{"a.b": 1}` | `{"a.b": 1}` | no |
| `{'"a.b"': 1}` | `{"a.b": 1}` | yes |
| `{"NOT": [{"a": 1}, {"b": 2}]}` | `{"a": 1, "b": 3}` | no |
| `{"NOT": {"a": 1, "b": 2}}` | `{"a": 1, "b": 3}` | yes |

Every other filter is an `InvalidInputError`. That includes an unknown operator, an empty `AND`, `OR`, `NOT` or
operator mapping, and a list or object in the place of one value. Booleans, `None` and numbers that are not
finite have no order. Integers have 64 bits, text has no NUL and no lone surrogate, times have an offset and
no `contains`. A filter has at most 32 levels, a cost of 1,000, and 2 MB of keys and values.

A comparison or a connective costs 1. `contains` and `icontains` on a metadata key cost 10, because they
search a whole text or list of every memory. A list costs 1 however long it is.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from agentmem.errors import InvalidInputError
from agentmem.fields import CONNECTIVES, TEXT_FIELDS, TIME_FIELDS
from agentmem.quoting import shorten
from agentmem.timestamps import to_microseconds
from agentmem.validation import check_between, check_text, clock_and_offset, iso_moment

Scalar: TypeAlias = str | int | float | bool | None

MAX_DEPTH = 32  # levels of AND, OR, NOT; also labels of one key
# Comparisons and connectives cost 1. Keeps far from SQLite's limits: 32,766 variables, expressions 1,000 deep.
MAX_COST = 1_000
# Of a term that looks through a list or text: contains takes 0.3 ms where the list has 9,000 members, icontains 3 ms; a
# comparison with one value 0.1 microseconds (2 cores).
LOOK_THROUGH_COST = 10
# Of keys and values, in characters and some for each. Checking and encoding them keeps the GIL for parts of a second.
MAX_SIZE = 2_000_000
VALUE_SIZE = 8

OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains", "icontains", "exists")

_FOREIGN_CONNECTIVES = frozenset({"$and", "$or", "$not", "$nor"})  # other products' spelling, not a key
_INT64 = range(-(2**63), 2**63)
_DECODER = json.JSONDecoder(strict=False)


Order: TypeAlias = Literal["gt", "gte", "lt", "lte"]


@dataclass(frozen=True, slots=True)
class FieldPath:
    """What a comparison reads: a field of the record, or (with `field` of None) the metadata's value at `labels`."""

    field: str | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    """True when every part is; there is at least one."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True when at least one part is; there is at least one."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True when the part is false."""

    part: "Filter"


@dataclass(frozen=True, slots=True)
class Compare:
    """True when the value is of the bound's kind (text or number) and in this order to it."""

    path: FieldPath
    order: Order
    bound: str | int | float


@dataclass(frozen=True, slots=True)
class OneOf:
    """True when the value equals one of these; of none, always false."""

    path: FieldPath
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Contains:
    """True when a text has the value as a part, or a list has it as a member; `folded`, ignoring case: the value has
    been casefolded already."""

    path: FieldPath
    value: Scalar
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    """True when the key is there (a null too), or the field is set."""

    path: FieldPath


Filter: TypeAlias = And | Or | Not | Compare | OneOf | Contains | Exists
"""Times are microseconds since 1970 in UTC; other values are of exact built-in types, finite and within 64 bits."""


def parse_filters(filters: Mapping[str, Any] | None, between: Any = None) -> Filter | None:
    """Returns what `filters` mean, or None when they ask for nothing (None or an empty mapping). `between` is a pair of
    aware datetimes, of which either may be None: `created_at` from the first on and before the second.

    Touches no store; may be called from any thread.

    Raises:
        InvalidInputError: something is outside the language; the message names it.
    """
    if filters is not None and not isinstance(filters, Mapping):
        raise InvalidInputError(f"filters is {shorten(filters)}; pass a mapping such as {{'topic': 'sea'}}.")
    parts = [_Parser().mapping(filters, 0)] if filters else []
    orders: tuple[Order, Order] = ("gte", "lt")
    for order, moment in zip(orders, check_between(between) or (None, None), strict=True):
        if moment is not None:
            parts.append(Compare(FieldPath("created_at"), order, moment))
    return _all(parts) if parts else None


def number_path(key: str) -> FieldPath:
    """Returns where the number under a metadata key is read.

    Raises:
        InvalidInputError: it cannot be a metadata key.
    """
    if not isinstance(key, str) or key in TEXT_FIELDS or key in TIME_FIELDS:
        raise InvalidInputError(f"importance is {shorten(key)}, which is no metadata key; name one that holds numbers.")
    return _path(key)


class _Parser:
    """Parses one filter; counts what its terms cost, and their size."""

    def __init__(self) -> None:
        self.cost = 0
        self.size = 0

    def mapping(self, filters: Mapping[str, Any], depth: int) -> Filter:
        parts = []
        for key, operand in filters.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"The filter key {shorten(key)} is not text; use a str.")
            if key in _FOREIGN_CONNECTIVES:
                raise InvalidInputError(f"Unknown operator {shorten(key)} in filters; write AND, OR or NOT.")
            parse = self.connective if key in CONNECTIVES else self.entry
            parts.append(parse(key, operand, depth))
        return _all(parts)

    def connective(self, word: str, operand: Any, depth: int) -> Filter:
        self.count(1)
        if depth >= MAX_DEPTH:
            raise InvalidInputError(f"filters nests deeper than {MAX_DEPTH} levels; flatten it.")
        members = [operand] if word == "NOT" and isinstance(operand, Mapping) else operand
        if not isinstance(members, list | tuple) or not members:
            raise _invalid(word, operand, "pass a list with at least one filter")
        parts = []
        for member in members:
            if not isinstance(member, Mapping) or not member:
                raise _invalid(word, member, "its members are mappings that are not empty")
            parts.append(self.mapping(member, depth + 1))
        if word == "AND":
            return _all(parts)
        one = parts[0] if len(parts) == 1 else Or(tuple(parts))
        return Not(one) if word == "NOT" else one

    def entry(self, key: str, operand: Any, _depth: int) -> Filter:
        self.weigh(key)
        path = _path(key)
        if isinstance(operand, list | tuple):
            operand = {"in": operand}
        elif isinstance(operand, str) and operand == "*":
            operand = {"exists": True}
        elif not isinstance(operand, Mapping):
            operand = {"eq": operand}
        if not operand:
            raise _invalid(key, operand, "give a value or an operator")
        parts = []
        for operator, value in operand.items():
            self.count(LOOK_THROUGH_COST if operator in ("contains", "icontains") and path.field is None else 1)
            for each in value if isinstance(value, list | tuple) else (value,):
                self.weigh(each)
            parts.append(_comparison(key, path, operator, value))
        return _all(parts)

    def count(self, cost: int) -> None:
        self.cost += cost
        if self.cost > MAX_COST:
            raise InvalidInputError(
                f"filters cost more than {MAX_COST:,} (a term costs 1, contains and icontains on a metadata key "
                f"{LOOK_THROUGH_COST}); put values in one list with 'in', or ask several times."
            )

    def weigh(self, value: Any) -> None:
        self.size += VALUE_SIZE + (len(value) if isinstance(value, str) else 0)
        if self.size > MAX_SIZE:
            raise InvalidInputError(
                f"filters has more than {MAX_SIZE:,} characters of keys and values ({VALUE_SIZE} more for each value); "
                "ask several times, with a part of them."
            )


def _comparison(key: str, path: FieldPath, operator: str, operand: Any) -> Filter:
    match operator:
        case "eq":
            return OneOf(path, (_scalar(key, operand),))
        case "in":
            if not isinstance(operand, list | tuple):
                raise _invalid(key, operand, "'in' and 'nin' take a list")
            return OneOf(path, tuple(_scalar(key, each) for each in operand))
        case "ne" | "nin":
            return Not(_comparison(key, path, "eq" if operator == "ne" else "in", operand))
        case "gt" | "gte" | "lt" | "lte":
            bound = _scalar(key, operand)
            if bound is None or isinstance(bound, bool):
                raise _invalid(key, operand, f"{operator!r} takes text or a number")
            return Compare(path, operator, bound)
        case "contains" | "icontains" if key in TIME_FIELDS:
            raise _invalid(key, operand, f"{operator!r} does not apply to a time, use 'gte' and 'lt'")
        case "contains":
            return Contains(path, _scalar(key, operand))
        case "icontains":
            if not isinstance(operand, str):
                raise _invalid(key, operand, "'icontains' takes text")
            return Contains(path, _text(key, operand).casefold(), folded=True)
        case "exists":
            if not isinstance(operand, bool):
                raise _invalid(key, operand, "'exists' takes True or False")
            return Exists(path) if operand else Not(Exists(path))
    known = ", ".join(OPERATORS)
    raise _invalid(key, operator, f"the operators are {known} (a nested value has a dotted key)")


def _all(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _path(key: str) -> FieldPath:
    return FieldPath(key) if key in TEXT_FIELDS or key in TIME_FIELDS else FieldPath(None, tuple(_labels(key)))


def _labels(key: str) -> list[str]:
    path = key.removeprefix("metadata.")
    labels: list[str] = []
    at = -1  # the dot before the next label
    while at < len(path):
        at += 1
        if path.startswith('"', at):
            try:
                label, at = _DECODER.raw_decode(path, at)
            except ValueError:
                raise _invalid(key, path[at:], "quote a label as json.dumps does") from None
            if path[at : at + 1] not in ("", "."):
                raise _invalid(key, path[at:], "a quoted label ends at a dot")
        else:
            label = path[at:].partition(".")[0]
            at += len(label)
            if not label:
                raise _invalid(key, label, "name every level between the dots")
        labels.append(_text(key, label))
        if len(labels) > MAX_DEPTH:
            raise _invalid(key, label, f"a key has at most {MAX_DEPTH} levels")
    return labels


def _scalar(key: str, value: Any) -> Scalar:
    """The value of an exact built-in type; the times of time fields in microseconds."""
    if value is None:
        return None
    if key in TIME_FIELDS:
        return _microseconds(key, value)
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(key, value)
    if isinstance(value, int):
        if int(value) not in _INT64:  # int() first: a range is searched one by one for a subclass of int
            raise _invalid(key, value, "an integer has at most 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid(key, value, "a number is finite")
        return float(value)
    raise _invalid(key, value, f"a {type(value).__name__} is not one text, number, boolean or None")


def _text(key: str, value: str) -> str:
    check_text(f"The filter on {shorten(key)}:", value)
    return str.__str__(value)  # an exact str also of an enum's member


def _microseconds(key: str, value: Any) -> int:
    moment = iso_moment(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise _invalid(key, value, "use an aware datetime or ISO 8601 text with an offset")
    clock, offset = clock_and_offset(f"The filter on {shorten(key)}", moment)
    return to_microseconds(clock) - offset // timedelta(microseconds=1)  # Also beyond the years 1 to 9999 in UTC.


def _invalid(key: str, value: object, advice: str) -> InvalidInputError:
    return InvalidInputError(f"The filter on {shorten(key)} has {shorten(value)}; {advice}.")
