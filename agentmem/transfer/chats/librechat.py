"""LibreChat: a conversation a file, `{conversationId, title, messages | messagesTree, exportAt}`.

A message is `{messageId, parentMessageId, isCreatedByUser, text, content?, createdAt, children?}`. The branch that ends
last is read.
"""

from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    chain,
    list_of,
    mapping_of,
    named_in,
    plain_text,
    said,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "librechat"
ABOUT = "conversations that LibreChat exports as JSON"
SIGNS = (
    "conversationId messages.*.messageId", "conversationId messages.*.messageId messages.*.isCreatedByUser",
    "conversationId messagesTree.[]", "conversationId messagesTree.*.messageId", "conversationId messages.[] endpoint",
)  # fmt: skip

KNOWN = frozenset(
    {"conversationId", "title", "endpoint", "exportAt", "branches", "recursive", "options", "messages", "messagesTree",
     "createdAt", "updatedAt", "model"}
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value."""
    outer = mapping_of(value)
    tree = outer.get("messagesTree", outer.get("messages"))
    if not isinstance(tree, list):
        raise InvalidInputError(f"{shorten(value)} is no conversation of LibreChat; it needs the key messages, a list.")
    messages = list(_flat(tree))
    nodes = {name: each for each in messages if (name := plain_text(mapping_of(each).get("messageId")))}
    linked = any(named_in(nodes, mapping_of(each).get("parentMessageId")) for each in messages)
    path = chain(nodes, next(reversed(nodes), None), "parentMessageId") if linked else messages
    conversation = Conversation(
        text_or_none(outer.get("conversationId")), text_or_none(outer.get("title")),
        at=time_or_none(outer.get("createdAt")), in_order=True,
    )  # fmt: skip
    for message in path:
        given = mapping_of(message)
        try:
            if "isCreatedByUser" not in given and "sender" not in given:
                raise InvalidInputError(f"{shorten(message)} is no message of LibreChat; it needs isCreatedByUser.")
            by_user = given.get("isCreatedByUser", given.get("sender") == "User")
            content = given.get("content")
            if text_of(content) is None or not isinstance(content, list):
                context.left.text("of reasoning", [mapping_of(part).get("think") for part in list_of(content)])
                content = given.get("text")
            plain = {"role": "user" if by_user is True else "assistant", "content": content}
            conversation.messages += said(plain, context, id=given.get("messageId"), at=time_of(given.get("createdAt")))
        except InvalidInputError as error:
            conversation.messages.append(InvalidInputError(f"message {shorten(given.get('messageId'))}: {error}"))
    kept = set(map(id, path))
    for message in messages:
        if id(message) not in kept:
            given = mapping_of(message)
            context.left.text(
                "of branches that were given up", plain_text(given.get("text")) or text_of(given.get("content"))
            )
    context.left.unknown(outer, KNOWN, " of a conversation")
    yield conversation


def _flat(tree: list[Any]) -> Iterator[Any]:
    """The messages of a tree, each before its children."""
    waiting = tree[::-1]
    while waiting:
        message = waiting.pop()
        yield message
        waiting += list_of(mapping_of(message).get("children"))[::-1]
