"""Filters as SQL: one condition over the table alias `memory`, with bound parameters.

The connection must have two deterministic functions: `agentmem_casefold(text)`, which is `str.casefold`, and
`agentmem_contains(text, part)`, which takes linear time. Where every label of a key is a plain ASCII name, its value is
written `metadata ->> '$.a.b'`. An index on exactly this expression serves it (`Config.indexed_metadata` creates such
indexes).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from agentmem.fields import PLAIN_LABEL, TEXT_FIELDS
from agentmem.filters import And, Compare, Contains, Exists, FieldPath, Filter, Not, OneOf, Or, Scalar

SQLValue: TypeAlias = str | int | float | bytes | None

# Longest text that SQLite's instr looks for. Its time is the product of both lengths: 40,000 in 100,000 characters take
# it 60 ms, and agentmem_contains 0.2.
LONG_PART = 128

_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True, slots=True)
class Condition:
    """A parenthesised SQL expression over the table alias `memory` that is 0 or 1 and never NULL, with the values of
    its `?` in order. It never fails in SQLite, whatever the metadata."""

    sql: str
    parameters: tuple[SQLValue, ...] = ()


def condition_of(filter: Filter) -> Condition:
    """Compiles a filter. Touches no database; any thread may call it."""
    match filter:
        case And(parts):
            return _join("AND", [condition_of(part) for part in parts])
        case Or(parts):
            return _join("OR", [condition_of(part) for part in parts])
        case Not(part):
            inner = condition_of(part)
            return Condition(f"(NOT {inner.sql})", inner.parameters)
        case Compare(path, order, bound):
            return _typed(_column(path), f"{_ORDER[order]} ?", bound, bound)
        case OneOf(path, values):
            return _one_of(_column(path), values)
        case Contains(path, value, folded):
            column = _column(path)
            text = f"agentmem_casefold({column.value})" if folded else column.value
            return _contains(column, text, _FOLDED_ELEMENT if folded else _ELEMENT, value)
        case Exists(path):
            column = _column(path)
            return Condition(f"({column.exists})", column.path)


def number_of(path: FieldPath) -> Condition:
    """Compiles the reading of a number: an expression that is NULL where there is none."""
    column = _column(path)
    return Condition(f"iif({column.type} IN ('integer', 'real'), {column.value}, NULL)", column.path * 2)


@dataclass(frozen=True, slots=True)
class _Column:
    """How SQL reads one value. Each expression takes the parameters `path`.

    `value` is SQL's own, `type` JSON's name of its kind (NULL when missing), `elements` its rows (empty where lists
    cannot be).
    """

    value: str
    type: str
    exists: str
    path: tuple[SQLValue, ...] = ()
    elements: str = ""
    is_number: bool = False  # Always, so that an index on it serves a comparison.


_ELEMENT = _Column("element.atom", "element.type", "1")
# iif and not AND: the planner may reorder an AND, and agentmem_casefold takes text only.
_FOLDED = "iif(element.type IS 'text', agentmem_casefold(element.atom), NULL)"
_FOLDED_ELEMENT = _Column(_FOLDED, "element.type", "1")
_NOTHING = Condition("(0)")

NEVER_NULL = frozenset({"created_at", "updated_at"})


def _column(path: FieldPath) -> _Column:
    if path.field is not None:
        kind = "text" if path.field in TEXT_FIELDS else "integer"
        column = f"memory.{path.field}"
        named = f"iif({column} IS NULL, 'null', '{kind}')"
        return _Column(column, named, f"{column} IS NOT NULL", is_number=path.field in NEVER_NULL)
    spelled, parameters = f"'$.{'.'.join(path.labels)}'", tuple[str, ...]()
    if not all(PLAIN_LABEL.fullmatch(label) for label in path.labels):
        # SQLite reads JSON's escapes in a quoted label, so every text can be a label, even with quotes and brackets.
        quoted = (json.dumps(label, ensure_ascii=False) for label in path.labels)
        spelled, parameters = "?", (f"$.{'.'.join(quoted)}",)
    kind = f"json_type(memory.metadata, {spelled})"
    elements = f"json_each(memory.metadata, {spelled})"
    return _Column(f"memory.metadata ->> {spelled}", kind, f"{kind} IS NOT NULL", parameters, elements)


def _one_of(column: _Column, values: Sequence[Scalar]) -> Condition:
    """Equality with any of the values. A list is one parameter however long it is."""
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    parts = []
    for same in (texts, numbers):
        if len(same) == 1:
            parts.append(_typed(column, "= ?", same[0], same[0]))
        elif same:
            listed = json.dumps(same, ensure_ascii=False)
            parts.append(_typed(column, "IN (SELECT value FROM json_each(?))", listed, same[0]))
    for constant, name in ((None, "null"), (True, "true"), (False, "false")):
        if any(value is constant for value in values):
            parts.append(Condition(f"({column.type} IS '{name}')", column.path))
    return _join("OR", parts) if parts else _NOTHING


def _typed(column: _Column, test: str, parameter: SQLValue, like: Scalar) -> Condition:
    """The test, on values of the kind of `like`. SQLite itself orders every text above every number, and reads true as
    1 and a list as its text.

    A value of the right kind is not NULL, and NULL AND 0 is 0.
    """
    if column.is_number and not isinstance(like, str):
        return Condition(f"({column.value} {test})", (parameter,))
    kind = "IS 'text'" if isinstance(like, str) else "IN ('integer', 'real') IS TRUE"
    return Condition(f"({column.value} {test} AND {column.type} {kind})", (*column.path, parameter, *column.path))


def _contains(column: _Column, text: str, element: _Column, operand: Scalar) -> Condition:
    """A part of the text that the SQL `text` reads, or a member of a list whose members `element` reads."""
    branches, parameters = "", column.path
    if isinstance(operand, str):
        found = f"instr({text}, ?) > 0" if len(operand) <= LONG_PART else f"agentmem_contains({text}, ?)"
        branches = f" WHEN 'text' THEN {found}"
        parameters += (*column.path, operand)
    if column.elements:
        member = _one_of(element, [operand])
        rows = f"SELECT 1 FROM {column.elements} AS element WHERE {member.sql}"
        branches += f" WHEN 'array' THEN EXISTS ({rows})"
        parameters += (*column.path, *member.parameters)
    return Condition(f"(CASE {column.type}{branches} ELSE 0 END)", parameters) if branches else _NOTHING


def _join(word: str, parts: Sequence[Condition]) -> Condition:
    """Joins all parts by AND or OR into a balanced tree: a chain would be as deep as it is long."""
    if len(parts) == 1:
        return parts[0]
    left, right = _join(word, parts[: len(parts) // 2]), _join(word, parts[len(parts) // 2 :])
    return Condition(f"({left.sql} {word} {right.sql})", left.parameters + right.parameters)
