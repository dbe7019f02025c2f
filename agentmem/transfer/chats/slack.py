"""Slack: the folders of its export, a channel each, with a file a day.

A file is an array of `{type: "message", user, text, ts: "seconds.microseconds", thread_ts?, subtype?}`; `users.json`
beside the folders has the names. A channel is a run; a message of a bot has the role "assistant".
"""

import re
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

NAME = "slack"
ABOUT = "channels of Slack's export, a folder each"
SIGNS = (
    "type=message ts text",
    "type=message ts user text",
    "type=message ts user text client_msg_id",
    "type=message ts subtype",
)

_MENTION = re.compile(
    r"<([@#!])([^<>|\s]{1,100})(?:\|([^<>]{0,200}))?>|<([a-z]+:[^<>|\s]{1,2000})(?:\|([^<>]{0,2000}))?>"
)
SERVICE = ("channel_join", "channel_leave", "channel_topic", "channel_purpose", "channel_name", "channel_archive",
           "group_join", "group_leave", "bot_add", "bot_remove", "pinned_item", "reminder_add")  # fmt: skip

KNOWN = frozenset(
    {"type", "user", "text", "ts", "thread_ts", "subtype", "client_msg_id", "team", "user_team", "source_team",
     "blocks", "user_profile", "reply_count", "reply_users_count", "latest_reply", "reply_users", "replies",
     "is_locked", "subscribed", "parent_user_id", "reactions", "edited", "files", "upload", "display_as_bot",
     "bot_id", "app_id", "bot_profile", "username", "icons", "inviter", "hidden", "last_read", "attachments", "root",
     "permalink", "room", "bot_link", "purpose", "topic", "old_name", "members", "channel", "item_type", "x_files"}
)  # fmt: skip


def is_message(value: Any) -> bool:
    """Returns whether a value is one message of a channel, as all are."""
    return isinstance(value, dict)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the part of the channel that a message is."""
    message = mapping_of(value)
    if "ts" not in message:
        raise InvalidInputError(f"{shorten(value)} is no message of Slack; it needs the keys type and ts.")
    channel = context.folder or text_or_none(message.get("channel"))
    found = Conversation(f"slack-{channel}" if channel else None, channel, continues=True, in_order=True)
    found.messages.append(_message(message, context))
    context.left.unknown(message, KNOWN, " of a message")
    yield found


def _message(message: Mapping[str, Any], context: Context) -> Message:
    text = message.get("text")
    subtype = message.get("subtype")
    if subtype in SERVICE:
        context.left.text("of service messages", text)
        return Message("user", None)
    at = time_of(message["ts"])
    user = text_or_none(message.get("user"))
    profile = mapping_of(message.get("user_profile"))
    name = (
        context.names.get(user or "") or text_or_none(profile.get("real_name")) or text_or_none(message.get("username"))
    )
    metadata: dict[str, Any] = {"name": name or user} if name or user else {}
    thread = text_or_none(message.get("thread_ts"))
    metadata |= {"thread": thread} if thread and thread != message["ts"] else {}
    words = _plain(text, context) if isinstance(text, str) else text
    for attachment in map(mapping_of, list_of(message.get("attachments"))):
        context.left.text("of attachments", [attachment.get(key) for key in ("pretext", "title", "text", "fallback")])
    bot = "bot_id" in message or subtype == "bot_message"
    own = text_or_none(message["ts"]) or text_or_none(str(message["ts"]))
    return Message("assistant" if bot else "user", words, own, at, metadata)


def _plain(text: str, context: Context) -> str | None:
    def named(found: re.Match[str]) -> str:
        mark, own, label, address, shown = found.groups()
        if address:
            return f"{shown} ({address})" if shown and shown != address else address
        return f"{'' if mark == '!' else mark}{label or context.names.get(own, own)}"

    text = _MENTION.sub(named, text)
    return plain_text(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def names_of(users: Any) -> dict[str, str]:
    """Returns the names of the users in `users.json`, by their ids."""
    found = {}
    for user in map(mapping_of, list_of(users)):
        profile = mapping_of(user.get("profile"))
        names = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"), user.get("name"))
        own, name = text_or_none(user.get("id")), next(filter(None, map(text_or_none, names)), None)
        if own and name:
            found[own] = name
    return found
