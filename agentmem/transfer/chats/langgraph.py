"""LangGraph: the items of its store, `{namespace: [...], key, value: {...}, created_at, updated_at}`.

The text of an item is what its value has under content, text, memory or data (also one level deeper, as LangMem writes
it); of any other value, its JSON. The namespace and the key are metadata, and what else the value has.
"""

import json
from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    list_of,
    mapping_of,
    plain_text,
    text_or_none,
    time_of,
)

NAME = "langgraph"
ABOUT = "items of LangGraph's store"
SIGNS = ("namespace key value", "namespace key value created_at", "items.*.namespace items.*.key items.*.value")

TEXTS = ("content", "text", "memory", "data")


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories of a value."""
    items = mapping_of(value).get("items", value)
    found = Conversation("langgraph", is_run=False)
    for item in items if isinstance(items, list) else [items]:
        try:
            found.messages.append(_memory(item, context))
        except InvalidInputError as error:
            found.messages.append(error)
    yield found


def _memory(item: Any, context: Context) -> Message:
    if not isinstance(item, dict) or not {"namespace", "key", "value"} <= item.keys():
        raise InvalidInputError(f"{shorten(item)} is no item of LangGraph; it needs the keys namespace, key and value.")
    space = item["namespace"]
    names = [str(name) for name in list_of(space) if isinstance(name, str | int)] or [text_or_none(space) or "default"]
    key, value = text_or_none(item["key"]), item["value"]
    metadata: dict[str, Any] = {"namespace": names} | ({"key": key} if key else {})
    text = plain_text(value)
    if isinstance(value, dict):
        inner = value["content"] if isinstance(value.get("content"), dict) else value
        name = next((name for name in TEXTS if plain_text(inner.get(name))), None)
        text = inner[name] if name else (json.dumps(value, ensure_ascii=False) if value else None)
        rest = {each: part for each, part in inner.items() if each != name} if name else {}
        rest |= {each: part for each, part in value.items() if each != "content"} if inner is not value else {}
        metadata |= {"value": rest} if rest else {}
    elif text is None and value is not None:
        text = json.dumps(value, ensure_ascii=False)
    context.left.unknown(
        item,
        frozenset({"namespace", "key", "value", "created_at", "updated_at", "score", "expires_at", "ttl_minutes"}),
        " of an item",
    )
    own = "\0".join([*names, key]) if key else None
    return Message(
        None, text, own, time_of(item.get("created_at")), metadata, updated_at=time_of(item.get("updated_at"))
    )
