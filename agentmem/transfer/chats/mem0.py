"""Mem0: what its `get_all`, its platform's pages and its exports hold.

`{"results": [...]}`, a page `{"count", "next", "previous", "results"}`, or a bare list of `{id, memory, user_id?,
agent_id?, app_id?, run_id?, actor_id?, role?, metadata?, categories?, hash?, created_at, updated_at?,
expiration_date?}`. Ids, owners and times stay. The rows of its history, `{memory_id, old_memory, new_memory, event}`,
become one memory each with its last text; the earlier texts are in the metadata `earlier`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    mapping_of,
    plain_text,
    text_or_none,
    time_of,
)
from agentmem.validation import iso_moment

NAME = "mem0"
ABOUT = "memories of Mem0, of its platform or its library, and its history"
SIGNS = (
    "memory id", "memory id created_at", "results.*.memory results.*.id",
    "memory_id event", "results.*.memory_id results.*.event", "memory_id event new_memory",
    "results.[] count next", "memories.*.memory memories.*.id",
)  # fmt: skip

OWNERS = ("user_id", "agent_id", "run_id")

KNOWN = frozenset(
    {*OWNERS, "id", "memory", "hash", "app_id", "actor_id", "role", "metadata", "categories", "created_at",
     "updated_at", "expiration_date", "score", "immutable", "owner", "organization", "project", "type", "event",
     "internal_metadata", "structured_attributes", "custom_categories", "rerank_score", "name", "data", "input"}
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories of a value."""
    page = mapping_of(value)
    items = next((page[key] for key in ("results", "memories") if isinstance(page.get(key), list)), None)
    items = value if isinstance(value, list) else [value] if items is None else items
    versions: dict[str, list[dict[str, Any]]] = {}
    found = Conversation("mem0", is_run=False)
    for item in items:
        if isinstance(item, dict) and "memory_id" in item and "event" in item:
            versions.setdefault(str(text_or_none(item["memory_id"])), []).append(item)
            continue
        try:
            found.messages.append(_memory(item, context))
        except InvalidInputError as error:
            found.messages.append(error)
    for rows in versions.values():
        try:
            found.messages += _last_version(rows, context)
        except InvalidInputError as error:
            found.messages.append(error)
    context.left.text("of relations", page.get("relations"))
    yield found


def _memory(item: Any, context: Context) -> Message:
    if not isinstance(item, dict) or not isinstance(item.get("memory"), str):
        raise InvalidInputError(f"{shorten(item)} is no memory of Mem0; it needs the key memory, a text.")
    metadata = dict(mapping_of(item.get("metadata")))
    for key in ("categories", "app_id", "actor_id"):
        if item.get(key):
            metadata.setdefault(key, item[key])
    fields: dict[str, Any] = {key: text for key in OWNERS if (text := text_or_none(item.get(key)))}
    if (own := text_or_none(item.get("id"))) is not None:
        fields["id"] = own
    if (end := _end_of(item.get("expiration_date"))) is not None:
        fields["expires_at"] = end
    context.left.unknown(item, KNOWN, " of a memory")
    return Message(
        text_or_none(item.get("role")), plain_text(item["memory"]), at=time_of(item.get("created_at")),
        metadata=metadata, fields=fields, updated_at=time_of(item.get("updated_at")),
    )  # fmt: skip


def _end_of(value: Any) -> datetime | None:
    """When a memory expires; of a day, when it is over."""
    if isinstance(value, str) and len(value.strip()) == 10 and (day := iso_moment(value.strip())):
        return datetime.combine(day.date(), time(), UTC) + timedelta(days=1) if day.year < 9999 else None
    return time_of(value)


def _last_version(rows: list[dict[str, Any]], context: Context) -> Iterator[Message]:
    """The memory that the rows of a history lead to; none when it was deleted in the end."""
    timed = [(time_of(row.get("created_at") or row.get("updated_at")), row) for row in rows]
    if all(at is not None for at, _ in timed):
        timed.sort(key=lambda pair: pair[0])  # type: ignore[arg-type,return-value]
    texts = [text for _, row in timed if (text := plain_text(row.get("new_memory") or row.get("memory")))]
    last = timed[-1][1]
    if last.get("event") == "DELETE" or last.get("is_deleted") in (True, 1) or not texts:
        context.left.text("of memories that were deleted", texts or last.get("old_memory"))
        return
    fields: dict[str, Any] = {key: text for key in OWNERS if (text := text_or_none(last.get(key)))}
    if own := text_or_none(last.get("memory_id")):
        fields["id"] = own
    earlier = [text for text in texts[:-1] if text != texts[-1]]
    metadata: dict[str, Any] = {"earlier": earlier} if earlier else {}
    if actor := text_or_none(last.get("actor_id")):
        metadata["actor_id"] = actor
    yield Message(text_or_none(last.get("role")), texts[-1], at=timed[0][0], metadata=metadata, fields=fields)
