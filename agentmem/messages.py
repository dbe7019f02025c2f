"""Chat messages in the OpenAI format, as items of `add_batch`."""

from collections.abc import Iterable, Mapping
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.validation import check_fields

NOT_TEXT = frozenset({"tool_calls", "tool_call_id", "function_call", "refusal", "annotations", "audio"})
"""Keys of a chat message beside its text, which are not remembered."""


def item_of_message(message: Any, metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns a message as an item, or None when it holds no text: it is blank, has only images, or only calls tools.

    `content` is a text or a list of parts, whose texts are joined. `name` goes into the metadata. The message's own
    `metadata` replaces the one of the call. The fields of `add` may stand in a message too.

    Raises:
        InvalidInputError: It is not a message, or has a key that neither messages nor items have.
    """
    carries = isinstance(message, Mapping) and any(message.get(name) for name in NOT_TEXT)
    if not isinstance(message, Mapping) or "role" not in message or not ("content" in message or carries):
        raise InvalidInputError(f"{shorten(message)} is no chat message; it needs the keys role and content.")
    item = {name: part for name, part in message.items() if name not in NOT_TEXT and name != "name"}
    check_fields(item)
    item["content"] = text_of(message.get("content"))
    if (item["content"] is None and carries) or (isinstance(item["content"], str) and not item["content"].strip()):
        return None
    item.setdefault("metadata", metadata)
    if message.get("name") is not None and (item["metadata"] is None or isinstance(item["metadata"], Mapping)):
        item["metadata"] = {**(item["metadata"] or {}), "name": message["name"]}
    return item


def items_of_messages(messages: Iterable[Any], metadata: Mapping[str, Any] | None) -> dict[int, dict[str, Any]]:
    """Returns the messages that hold text as items of `add_batch`, by their positions.

    Raises:
        InvalidInputError: A message is unusable; the error names its position.
    """
    items = {}
    for position, message in enumerate(messages):
        try:
            item = item_of_message(message, metadata)
        except InvalidInputError as error:
            raise InvalidInputError(f"Message {position}: {error}") from None
        if item is not None:
            items[position] = item
    return items


def text_of(content: Any) -> Any:
    """Returns the content of a message; of a list of parts, the texts, one a line."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))
