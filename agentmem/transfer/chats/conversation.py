"""What a module of a format hands over: conversations of messages, with what the file says of them, and nothing else.

A module has NAME, ABOUT, SIGNS and either `read(value, context)`, for values of JSON, or `read_text(text, context)`.
Both yield conversations; what is no conversation they raise, or yield in its place, as InvalidInputError. They trust no
value of a file to have a type.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import LeftOut, turns_of
from agentmem.quoting import shorten
from agentmem.validation import check_time, iso_moment

MILLISECONDS, MICROSECONDS, NANOSECONDS = 10**11, 10**14, 10**17
"""From these numbers on, a time counts in them: as seconds they would lie beyond the year 5000."""

MESSAGE_WITHOUT_TEXT = "messages without text (calls of tools, images, nothing), left out"

SEARCHED = 64
"""Members of a list or an object that are looked at for a sign."""


@dataclass(slots=True)
class Message:
    """One message, or one memory. `text` of None: it has none, by design. `id` is its own, within its conversation."""

    role: Any
    text: Any
    id: str | None = None
    at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of `add`, such as owners and `expires_at`."""
    updated_at: datetime | None = None


@dataclass(slots=True)
class Conversation:
    """Messages in order, an error in the place of one that makes no sense.

    Attributes:
        id: its own, as far as it has one.
        at: when it began.
        is_run: whether it becomes a run; memories belong to none.
        continues: whether further values of the file may bring more of it.
        newest_first: whether the files of the format are known to stand so, where their times do not say otherwise.
        in_order: whether the order is that in which its messages were said, whatever their times say.
    """

    id: str | None = None
    title: str | None = None
    messages: list[Message | InvalidInputError] = field(default_factory=list)
    at: datetime | None = None
    is_run: bool = True
    continues: bool = False
    in_order: bool = False
    newest_first: bool = False


@dataclass(slots=True)
class Context:
    """What is known of the file that is read. `folder` is the name of the one in which it is. `left` counts the texts
    that are left out, by kind, and `notes` whatever else the report is to say; `state` is the module's own, from value
    to value."""

    name: str | None = None
    folder: str | None = None
    left: LeftOut = field(default_factory=LeftOut)
    notes: LeftOut = field(default_factory=LeftOut)
    state: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """The names of users by their ids, where another file of the folder has them."""


def said(
    message: Any,
    context: Context,
    *,
    id: Any = None,
    at: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Message]:
    """Yields the messages of one that `turns_of` can read. An answer of a tool within it gets an id of its own."""
    turns = turns_of(message, context.left)
    for number, turn in enumerate(turns):
        own = text_or_none(id) if turn is turns[-1] else own_id(id, f"answer {number}")
        more = dict(metadata or {})
        if isinstance(turn.name, str) and turn.name.strip():
            more["name"] = turn.name
        yield Message(turn.role, turn.text, own, at, more)


def own_id(id: Any, part: str) -> str | None:
    """Returns the id of a part of the message that has this id."""
    whole = text_or_none(id)
    return None if whole is None else f"{whole}/{part}"


def has(value: Any, path: str) -> bool:
    """Returns whether a value has something at a path, such as `mapping.*.message.author` or `sender=human|assistant`.
    A star stands for the members of a list or an object, of which the first are looked at."""
    path, _, wanted = path.partition("=")
    return _has(value, path.split("."), wanted.split("|") if wanted else None)


def _has(value: Any, path: list[str], wanted: list[str] | None) -> bool:
    for place, key in enumerate(path):
        if key == "*":
            if not isinstance(value, list | dict):
                return False
            members = value.values() if isinstance(value, dict) else value
            rest = path[place + 1 :]
            return any(_has(member, rest, wanted) for member, _ in zip(members, range(SEARCHED), strict=False))
        if key in ("[]", "{}"):
            if not isinstance(value, list if key == "[]" else dict):
                return False
        elif not isinstance(value, dict) or key not in value:
            return False
        else:
            value = value[key]
    return wanted is None or (isinstance(value, str) and value in wanted)


def mapping_of(value: Any) -> dict[str, Any]:
    """Returns an object of JSON; an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """Returns a list of JSON; an empty one in the place of anything else."""
    return value if isinstance(value, list) else []


def text_or_none(value: Any) -> str | None:
    """Returns a text that is not blank, a whole number as text, and None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**30 else None
    return value.strip() if isinstance(value, str) and value.strip() else None


def plain_text(value: Any) -> str | None:
    """Returns a text as it is unless it is blank, and None for anything else."""
    return value if isinstance(value, str) and value.strip() else None


_OFFSET = re.compile(r"([+-]\d\d)(\d\d)$|\s*(UTC|GMT)$")


def time_of(value: Any, *, zone: Any = UTC) -> datetime | None:
    """Returns the moment of a stated time: seconds, milliseconds, microseconds or nanoseconds since 1970, also as text,
    or ISO 8601; None where there is none. A time without an offset is of `zone` (None: that of this machine).

    Raises:
        InvalidInputError: it is no time.
    """
    if value is None or value == "":
        return None
    number = value
    if isinstance(value, str):
        text = value.strip()
        moment = iso_moment(_OFFSET.sub(lambda found: f"{found[1]}:{found[2]}" if found[1] else "+00:00", text))
        if moment is not None and not (text.isdecimal() and len(text) != 8):
            with suppress(OverflowError, ValueError, OSError):
                moment = moment if moment.tzinfo else moment.replace(tzinfo=zone).astimezone(zone or UTC)
            return check_time("the time", moment)
        if len(text) <= 30:
            with suppress(ValueError):
                number = float(text)
    if isinstance(number, int | float) and not isinstance(number, bool):
        size = abs(number)
        unit = 10**9 if size >= NANOSECONDS else 10**6 if size >= MICROSECONDS else 1000 if size >= MILLISECONDS else 1
        with suppress(OverflowError, OSError, ValueError):
            return datetime.fromtimestamp(number if unit == 1 else number / unit, UTC)
    raise InvalidInputError(
        f"the time is {shorten(value)}; give seconds or milliseconds since 1970, or ISO 8601 with an offset."
    )


def time_or_none(value: Any) -> datetime | None:
    """Returns the same, and None for what is no time: of what only serves to fill gaps."""
    try:
        return time_of(value)
    except InvalidInputError:
        return None


def named_in(nodes: Mapping[str, Any], name: Any) -> bool:
    """Returns whether a value is the name of one of the nodes."""
    return isinstance(name, str) and name in nodes


def chain(nodes: Mapping[str, Any], last: Any, parent: str) -> list[Any]:
    """Returns the nodes of a tree from its root to the node `last`, each found by the key `parent` of the next."""
    found, passed = [], set[str]()
    while isinstance(last, str) and last in nodes and last not in passed:
        passed.add(last)
        found.append(nodes[last])
        last = mapping_of(nodes[last]).get(parent)
    return found[::-1]


def last_leaf(nodes: dict[str, Any], parent: str) -> str | None:
    """Returns the last node of a tree, in the order of the file, that no other names as its parent."""
    parents = {above for node in nodes.values() if isinstance(above := mapping_of(node).get(parent), str)}
    return next((name for name in reversed(nodes) if name not in parents), None)
