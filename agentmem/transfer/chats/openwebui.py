"""Open WebUI: `chat-export-*.json` and `all-chats-export-*.json`, an array of chats.

A chat is `{id, title, chat: {title, history: {currentId, messages: {id: {parentId, role, content, timestamp}}}},
created_at, updated_at}`; times are seconds. The branch that ends with `currentId` is read. What answers hold of
reasoning and calls (`<details>`) is taken out of their text.
"""

import re
from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    chain,
    last_leaf,
    list_of,
    mapping_of,
    plain_text,
    said,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "openwebui"
ABOUT = "chats that Open WebUI exports"
SIGNS = (
    "chat.history.messages.{}", "chat.history.messages.{} chat.history.currentId", "chat.messages.*.role",
    "chat.history.messages.*.role chat.history.messages.*.parentId chat.history.currentId",
    "history.messages.{} history.currentId",
)  # fmt: skip

KNOWN = frozenset(
    {"id", "user_id", "title", "chat", "created_at", "updated_at", "archived", "pinned", "meta", "folder_id",
     "share_id", "history", "models", "messages", "tags", "timestamp", "params", "files", "options", "queue", "tasks",
     "summary"}
)  # fmt: skip
_DETAILS = re.compile(r"<details\b([^<>]{0,2000})>(.*?)</details>\s*", re.S)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value."""
    chat = mapping_of(mapping_of(value).get("chat")) or mapping_of(value)
    history = mapping_of(chat.get("history"))
    nodes = mapping_of(history.get("messages"))
    if not nodes and not isinstance(chat.get("messages"), list):
        raise InvalidInputError(
            f"{shorten(value)} is no chat of Open WebUI; it needs chat.history.messages, an object."
        )
    current = history.get("currentId")
    last = current if isinstance(current, str) and current in nodes else last_leaf(nodes, "parentId")
    path = chain(nodes, last, "parentId") if nodes else chat["messages"]
    conversation = Conversation(
        text_or_none(mapping_of(value).get("id")),
        text_or_none(mapping_of(value).get("title")) or text_or_none(chat.get("title")),
        at=time_or_none(mapping_of(value).get("created_at")), in_order=True,
    )  # fmt: skip
    for message in path:
        try:
            at = time_of(mapping_of(message).get("timestamp"))
            own = mapping_of(message).get("id")
            conversation.messages += said(_plain(message, context), context, id=own, at=at)
        except InvalidInputError as error:
            conversation.messages.append(
                InvalidInputError(f"message {shorten(mapping_of(message).get('id'))}: {error}")
            )
    kept = set(map(id, path))
    for node in nodes.values():
        if id(node) not in kept:
            context.left.text("of branches that were given up", mapping_of(node).get("content"))
    context.left.unknown(mapping_of(value), KNOWN, " of a chat")
    context.left.text("of instructions of a chat", mapping_of(chat.get("params")).get("system"))
    yield conversation


def _plain(message: Any, context: Context) -> Any:
    """The message with the text of its answer alone."""
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if isinstance(content, str) and "<details" in content:

        def left(found: re.Match[str]) -> str:
            context.left.text("of reasoning" if "reasoning" in found[1] else "of calls of tools", found[2])
            return ""

        content = _DETAILS.sub(left, content)
    if not plain_text(content) and isinstance(content, str | None):  # The items of Responses have it then.
        items = [each for each in list_of(message.get("output")) if mapping_of(each).get("type") == "message"]
        texts = [text_of(item.get("content"), context.left) for item in items]
        content = "\n".join(text for text in texts if isinstance(text, str)) or content
    context.left.text("of errors", mapping_of(message.get("error")).get("content"))
    plain = {key: message[key] for key in ("role", "name") if key in message}
    return {**plain, "content": content}
