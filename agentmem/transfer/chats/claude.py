"""Claude: `conversations.json` of its export, an array of conversations.

A conversation is `{uuid, name, summary, created_at, chat_messages}`; a message `{uuid, sender, text, content,
created_at, attachments, files, parent_message_uuid}`. The text is that of the blocks in `content`, and `text` where
they have none. Answers that were asked for anew are branches: the chain that ends with the last message is read.
"""

from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import LeftOut, text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    chain,
    list_of,
    mapping_of,
    named_in,
    own_id,
    plain_text,
    said,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "claude"
ABOUT = "conversations.json of Claude's export"
SIGNS = (
    "chat_messages.[]",
    "chat_messages.[] uuid",
    "chat_messages.*.sender chat_messages.*.uuid uuid name",
)

ROLES = {"human": "user", "assistant": "assistant"}

KNOWN = frozenset(
    {"uuid", "name", "created_at", "updated_at", "account", "project", "chat_messages", "settings", "model",
     "is_starred", "is_temporary", "current_leaf_message_uuid", "platform", "project_uuid", "organization_uuid"}
)  # fmt: skip
KNOWN_MESSAGE = frozenset(
    {"uuid", "sender", "text", "content", "created_at", "updated_at", "attachments", "files", "files_v2",
     "sync_sources", "parent_message_uuid", "index", "truncated", "stop_reason", "input_mode", "nOfSiblings"}
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value."""
    if not isinstance(value, dict) or not isinstance(value.get("chat_messages"), list):
        raise InvalidInputError(
            f"{shorten(value)} is no conversation of Claude; it needs the key chat_messages, a list."
        )
    conversation = Conversation(
        text_or_none(value.get("uuid")), text_or_none(value.get("name")), at=time_or_none(value.get("created_at")),
        in_order=True,
    )  # fmt: skip
    project = plain_text(mapping_of(value.get("project")).get("name"))
    for message in _current(value["chat_messages"], value.get("current_leaf_message_uuid"), context):
        try:
            found = list(_messages(message, context))
        except InvalidInputError as error:
            name = shorten(mapping_of(message).get("uuid"))
            conversation.messages.append(InvalidInputError(f"message {name}: {error}"))
            continue
        for each in found:
            each.metadata |= {"project": project} if project else {}
        conversation.messages += found
    context.left.text("of summaries", value.get("summary"))
    context.left.unknown(value, KNOWN | {"summary"}, " of a conversation")
    yield conversation


def _current(messages: list[Any], leaf: Any, context: Context) -> list[Any]:
    """The messages of the branch that ends last; all of them where no message names the one before it."""
    nodes = {name: each for each in messages if (name := text_or_none(mapping_of(each).get("uuid")))}
    path = chain(nodes, leaf if named_in(nodes, leaf) else next(reversed(nodes), None), "parent_message_uuid")
    parents = any(named_in(nodes, mapping_of(each).get("parent_message_uuid")) for each in messages)
    if len(nodes) < len(messages) or not parents:
        return messages
    kept = set(map(id, path))
    for each in messages:
        if id(each) not in kept:
            context.left.text("of branches that were given up", _texts(each))
    return path


def _texts(message: Any) -> Any:
    return text_of(mapping_of(message).get("content") or []) or mapping_of(message).get("text")


def _messages(message: Any, context: Context) -> Iterator[Message]:
    if not isinstance(message, dict) or "sender" not in message:
        raise InvalidInputError(f"{shorten(message)} is no message of Claude; it needs the keys sender and text.")
    sender = message["sender"]
    if not isinstance(sender, str) or sender not in ROLES:
        raise InvalidInputError(f"sender is {shorten(sender)}; known are assistant and human.")
    own, at = message.get("uuid"), time_of(message.get("created_at"))
    content = list_of(message.get("content"))
    for number, document in enumerate(_documents(content)):
        document.id, document.at = own_id(own, f"artifact {number}"), at
        yield document
    blocks = [part for part in content if not _is_document(part)]
    if text_of(blocks, LeftOut()) is None and plain_text(message.get("text")) and not _documents(content):
        context.left.text("of reasoning", [mapping_of(part).get("thinking") for part in blocks])
        blocks = [message["text"]]
    yield from said({"role": ROLES[sender], "content": blocks}, context, id=own, at=at)
    for attachment in list_of(message.get("attachments")):
        context.left.text("of attachments", mapping_of(attachment).get("extracted_content"))
    context.left.unknown(message, KNOWN_MESSAGE, " of a message")


def _is_document(part: Any) -> bool:
    call = mapping_of(part)
    return (
        call.get("type") == "tool_use"
        and call.get("name") == "artifacts"
        and plain_text(mapping_of(call.get("input")).get("content")) is not None
    )


def _documents(content: list[Any]) -> list[Message]:
    """The documents that an assistant writes beside the conversation."""
    found = []
    for part in content:
        if _is_document(part):
            given = part["input"]
            title = plain_text(given.get("title"))
            metadata = {"kind": "artifact"} | ({"document": title} if title else {})
            found.append(Message("assistant", given["content"], metadata=metadata))
    return found
