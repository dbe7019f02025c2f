"""Translates Mem0's filters: separates the owners from the conditions.

Operators and connectives are the same, with agentmem's truth table. The differences are translated: owners stand among
the filters, times without an offset are UTC, and `expiration_date` is a day. Filters that cannot be answered here are
refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.mem0.dates import bounds_of, moment
from agentmem.quoting import shorten

OWNERS = ("user_id", "agent_id", "run_id")

Owners = dict[str, Any]
"""Some of OWNERS with their names, as text."""

_NO_FILTERS = frozenset({"data", "hash", "memory", "text_lemmatized"})
_CONNECTIVES = ("AND", "OR", "NOT")


def owner(name: str, value: Any) -> str | None:
    """Returns the name of a user, agent or run: text without the spaces around it, or a number as text.

    Raises:
        InvalidInputError: It is something else, or blank, or `"*"`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not (text := str(value).strip()):
        raise InvalidInputError(f"{name} is {shorten(value)}; pass the name of one owner.")
    if text == "*":
        raise InvalidInputError(f"{name} is '*'; name one owner (agentmem.Memory reads all with all_scopes=True).")
    return text


def owners(**named: Any) -> Owners:
    """Returns those of `user_id`, `agent_id` and `run_id` that are given.

    Raises:
        InvalidInputError: None is given.
    """
    found = {name: text for name, value in named.items() if (text := owner(name, value)) is not None}
    if not found:
        raise InvalidInputError("No owner was given; pass user_id, agent_id or run_id.")
    return found


def owners_and_filters(filters: Any, **named: Any) -> tuple[Owners, dict[str, Any]]:
    """Returns the owners, from the arguments or the filters (also within an `AND`), and the remaining filters.

    Raises:
        InvalidInputError: No owner is given, or two for one field, or a filter cannot be used.
    """
    if filters is not None and not isinstance(filters, Mapping):
        raise InvalidInputError(f"filters is {shorten(filters)}; pass a mapping such as {{'user_id': 'ana'}}.")
    found: Owners = {}
    for name, value in named.items():
        _name(found, name, owner(name, value))
    try:
        translated = _translated(_without_owners(filters or {}, found))
    except RecursionError:
        raise InvalidInputError("filters nests too deep; flatten it.") from None
    return owners(**found), translated


def _without_owners(filters: Mapping[str, Any], found: Owners) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for key, value in filters.items():
        if key in OWNERS and not isinstance(value, list | tuple):
            if not isinstance(value, Mapping):
                _name(found, key, owner(key, value))
                continue
            if set(value) == {"eq"}:
                _name(found, key, owner(key, value["eq"]))
                continue
        if key == "AND" and isinstance(value, list | tuple):
            parts = [_without_owners(part, found) if isinstance(part, Mapping) else part for part in value]
            value = [part for part in parts if part != {}]
            if parts and not value:
                continue
        rest[key] = value
    return rest


def _name(found: Owners, key: str, value: str | None) -> None:
    if value is not None and found.setdefault(key, value) != value:
        raise InvalidInputError(f"{key} is both {found[key]!r} and {value!r}; name one.")


def _translated(filters: Mapping[str, Any]) -> dict[str, Any]:
    translated: dict[str, Any] = {}
    expiries: list[dict[str, Any]] = []
    for key, value in filters.items():
        if key in _CONNECTIVES:
            translated[key] = _members(value)
        elif key in _NO_FILTERS:
            raise InvalidInputError(f"The filter on {key!r} cannot be answered; filter on metadata, owners and times.")
        elif key == "expiration_date":
            expiries.append(_expiry(value))
        else:
            translated[_KEYS.get(key, key)] = _operand(value, _VALUES.get(key, lambda single: single))
    return {"AND": [part for part in (translated, *expiries) if part]} if expiries else translated


def _members(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _translated(value)
    if not isinstance(value, list | tuple):
        return value
    return [_translated(part) if isinstance(part, Mapping) else part for part in value]


def _expiry(value: Any) -> dict[str, Any]:
    """Translates an operand of `expiration_date` into conditions on the moment of expiry.

    That moment lies after the beginning of the last day on which the memory is seen, and not after its end.
    """
    if isinstance(value, Mapping):
        return {"AND": [_expiry_by(name, part) for name, part in value.items()]} if value else {"expires_at": value}
    if isinstance(value, list | tuple):
        return {"OR": [_expiry(part) for part in value]} if value else {"expires_at": value}
    if value is None or value == "*":
        return {"expires_at": value}
    start, end = bounds_of("The filter on 'expiration_date'", value)
    return {"expires_at": end if start == end else {"gt": start, "lte": end}}


def _expiry_by(operator: str, value: Any) -> dict[str, Any]:
    listed = isinstance(value, list | tuple)
    if (operator, listed) in (("eq", False), ("in", True)):
        return _expiry(value)
    if (operator, listed) in (("ne", False), ("nin", True)):
        return {"NOT": [_expiry(value)]}
    if operator not in ("gt", "gte", "lt", "lte"):
        return {"expires_at": {operator: value}}  # The parser of filters reports any error in it.
    start, end = bounds_of("The filter on 'expiration_date'", value)
    if start == end:
        return {"expires_at": {operator: end}}
    return {"expires_at": {"gt" if operator[0] == "g" else "lte": end if operator in ("gt", "lte") else start}}


_KEYS = {"expires_at": "metadata.expires_at"}

_VALUES: dict[str, Callable[[Any], Any]] = {
    "created_at": lambda value: moment("The filter on 'created_at'", value),
    "updated_at": lambda value: moment("The filter on 'updated_at'", value),
} | {name: lambda value: value if isinstance(value, bool) else str(value) for name in OWNERS}


def _operand(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Returns the operand with each of its values converted; `"*"`, None and the operand of `exists` stay."""
    if isinstance(value, Mapping):
        return {name: part if name == "exists" else _operand(part, convert) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_operand(part, convert) for part in value]
    return value if value is None or value == "*" else convert(value)
