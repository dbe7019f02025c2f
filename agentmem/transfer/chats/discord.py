"""Discord: channels as DiscordChatExporter writes them, a file each.

`{guild, channel: {id, name}, messages: [{id, type, timestamp, content, author: {name, nickname, isBot}}]}`. A channel
is a run; a message of a bot has the role "assistant".
"""

from collections.abc import Iterator, Mapping
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

NAME = "discord"
ABOUT = "channels of Discord, by DiscordChatExporter"
SIGNS = (
    "channel.id messages.*.author", "channel.id guild messages.[]",
    "channel.id guild messages.*.author messages.*.content",
    "channel.id messages.*.author.isBot messages.*.timestamp",
)  # fmt: skip

SAID = ("Default", "Reply", "ThreadStarterMessage", "ApplicationCommand", "ContextMenuCommand", "0", "19")

KNOWN = frozenset(
    {"id", "type", "timestamp", "timestampEdited", "callEndedTimestamp", "isPinned", "content", "author", "attachments",
     "embeds", "stickers", "reactions", "mentions", "reference", "interaction", "inlineEmojis", "forwardedMessage"}
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value."""
    outer = mapping_of(value)
    if not isinstance(outer.get("messages"), list):
        raise InvalidInputError(f"{shorten(value)} is no channel of Discord; it needs the key messages, a list.")
    channel = mapping_of(outer.get("channel"))
    own = text_or_none(channel.get("id"))
    found = Conversation(f"discord-{own}" if own else None, text_or_none(channel.get("name")))
    for message in outer["messages"]:
        try:
            found.messages.append(_message(mapping_of(message), context))
        except InvalidInputError as error:
            found.messages.append(InvalidInputError(f"message {shorten(mapping_of(message).get('id'))}: {error}"))
    yield found


def _message(message: Mapping[str, Any], context: Context) -> Message:
    if "content" not in message:
        raise InvalidInputError(f"{shorten(message)} is no message of Discord; it needs the keys author and content.")
    kind, author = text_or_none(message.get("type")), mapping_of(message.get("author"))
    if kind is not None and kind not in SAID:
        context.left.text("of service messages", message["content"])
        return Message("user", None)
    text, name = message["content"], text_or_none(author.get("nickname")) or text_or_none(author.get("name"))
    for embed in map(mapping_of, list_of(message.get("embeds"))):
        context.left.text("of embeds", [embed.get(key) for key in ("title", "description", "fields")])
    context.left.text("of forwarded messages", mapping_of(message.get("forwardedMessage")).get("content"))
    context.left.unknown(message, KNOWN, " of a message")
    return Message(
        "assistant" if author.get("isBot") is True else "user",
        plain_text(text) if isinstance(text, str) else text,
        text_or_none(message.get("id")),
        time_of(message.get("timestamp")),
        {"name": name} if name else {},
    )
