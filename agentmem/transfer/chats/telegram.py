"""Telegram: `result.json` of its desktop export, of one chat or of all.

A chat is `{id, name, type, messages}`, all of them `{chats: {list: [...]}}`; a message `{id, type: "message" |
"service", date, date_unixtime, from, from_id, text}`, where `text` is a text or a list of texts and `{type, text}`.
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

NAME = "telegram"
ABOUT = "result.json of Telegram's export"
SIGNS = (
    "chats.list.[]", "chats.list.*.messages chats.list.*.type", "messages.*.date_unixtime messages.*.from_id",
    "messages.*.from_id messages.*.text type id", "messages.*.date_unixtime type id name", "left_chats.list.[]",
)  # fmt: skip

KNOWN = frozenset(
    {"id", "type", "date", "date_unixtime", "edited", "edited_unixtime", "from", "from_id", "text", "text_entities",
     "reply_to_message_id", "reply_to_peer_id", "forwarded_from", "forwarded_from_id", "photo", "file", "thumbnail",
     "media_type", "mime_type", "duration_seconds", "width", "height", "sticker_emoji", "via_bot", "actor", "actor_id",
     "action", "file_name", "file_size", "photo_file_size", "reactions", "saved_from", "performer", "author", "members",
     "thumbnail_file_size", "inline_bot_buttons", "location_information", "contact_information", "title"}
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversations of a value."""
    outer = mapping_of(value)
    chats = [
        *list_of(mapping_of(outer.get("chats")).get("list")),
        *list_of(mapping_of(outer.get("left_chats")).get("list")),
    ]
    if not chats and isinstance(outer.get("messages"), list):
        chats = [outer]
    if not chats and not isinstance(outer.get("chats"), dict):
        raise InvalidInputError(f"{shorten(value)} is no export of Telegram; it needs chats.list or messages, a list.")
    for chat in map(mapping_of, chats):
        own = text_or_none(chat.get("id"))
        found = Conversation(f"telegram-{own}" if own else None, text_or_none(chat.get("name")))
        for message in list_of(chat.get("messages")):
            try:
                found.messages.append(_message(mapping_of(message), context))
            except InvalidInputError as error:
                name = shorten(mapping_of(message).get("id"))
                found.messages.append(InvalidInputError(f"message {name}: {error}"))
        yield found
    context.left.text("of contacts and other sections", [outer.get("contacts"), outer.get("frequent_contacts")])


def _message(message: Mapping[str, Any], context: Context) -> Message:
    text = _text(message.get("text"))
    at = time_of(message.get("date_unixtime"))
    at = time_of(message.get("date"), zone=None) if at is None else at
    if message.get("type") == "service":
        context.left.text("of service messages", text)
        return Message("user", None)
    if message.get("type") != "message":
        raise InvalidInputError(f"type is {shorten(message.get('type'))}; known are message and service.")
    name, forwarded = text_or_none(message.get("from")), text_or_none(message.get("forwarded_from"))
    metadata: dict[str, Any] = {"name": name} if name else {}
    metadata |= {"forwarded_from": forwarded} if forwarded else {}
    bot = str(message.get("from_id"))[:60].startswith("bot")
    context.left.unknown(message, KNOWN, " of a message")
    return Message("assistant" if bot else "user", text, text_or_none(message.get("id")), at, metadata)


def _text(text: Any) -> str | None:
    parts = text if isinstance(text, list) else [text]
    texts = [part if isinstance(part, str) else mapping_of(part).get("text") for part in parts]
    return plain_text("".join(part for part in texts if isinstance(part, str)))
