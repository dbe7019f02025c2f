"""The filter language again, as a plain Python evaluator: the specification that the SQL is compared with.

Knows valid filters only. A record is a dict with the record fields (times as aware datetimes) and `metadata`.
"""

import json
import operator
import re
from datetime import datetime
from typing import Any

FIELDS = {"id", "role", "user_id", "agent_id", "run_id", "created_at", "updated_at", "expires_at"}
MISSING = object()
ORDER = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
LABEL = re.compile(r'(?:^|\.)(?:("(?:[^"\\]|\\.)*")|([^.]*))', re.DOTALL)


def matches(filters: dict[str, Any], record: dict[str, Any]) -> bool:
    return all(_entry(key, operand, record) for key, operand in filters.items())


def _entry(key: str, operand: Any, record: dict[str, Any]) -> bool:
    if key == "AND":
        return all(matches(each, record) for each in operand)
    if key == "OR":
        return any(matches(each, record) for each in operand)
    if key == "NOT":
        return not any(matches(each, record) for each in ([operand] if isinstance(operand, dict) else operand))
    if isinstance(operand, list | tuple):
        operand = {"in": operand}
    elif operand == "*":
        operand = {"exists": True}
    elif not isinstance(operand, dict):
        operand = {"eq": operand}
    value = _lookup(key, record)
    exists = value is not (None if key in FIELDS else MISSING)
    return all(
        wanted == exists if name == "exists" else _holds(name, value, wanted) for name, wanted in operand.items()
    )


def _lookup(key: str, record: dict[str, Any]) -> Any:
    if key in FIELDS:
        return record.get(key)
    value = record["metadata"]
    for quoted, bare in LABEL.findall(key.removeprefix("metadata.")):
        label = json.loads(quoted, strict=False) if quoted else bare
        value = value.get(label, MISSING) if isinstance(value, dict) else MISSING
    return value


def _holds(name: str, value: Any, wanted: Any) -> bool:
    if isinstance(value, datetime) and isinstance(wanted, str):
        wanted = datetime.fromisoformat(wanted)
    match name:
        case "eq":
            return _same(value, wanted)
        case "ne":
            return not _same(value, wanted)
        case "in":
            return any(_holds("eq", value, each) for each in wanted)
        case "nin":
            return not any(_holds("eq", value, each) for each in wanted)
        case "gt" | "gte" | "lt" | "lte":
            return _kind(value) == _kind(wanted) and ORDER[name](value, wanted)
        case "contains":
            if isinstance(value, list):
                return any(_same(each, wanted) for each in value)
            return isinstance(value, str) and isinstance(wanted, str) and wanted in value
        case "icontains":
            return _holds("contains", _folded(value), wanted.casefold())
    raise AssertionError(name)


def _same(value: Any, wanted: Any) -> bool:
    return _kind(value) == _kind(wanted) and value == wanted


def _kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def _folded(value: Any) -> Any:
    if isinstance(value, list):
        return [each.casefold() if isinstance(each, str) else each for each in value]
    return value.casefold() if isinstance(value, str) else value
