"""SillyTavern: a chat a file of JSON Lines.

The first line is `{user_name, character_name, create_date, chat_metadata}`; each other one a message `{name, is_user,
is_system?, send_date, mes, swipes?, swipe_id?, extra?}`. `mes` is the swipe that was chosen. Dates without an offset
are those of this machine's time zone.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
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

NAME = "sillytavern"
ABOUT = "chats of SillyTavern, JSON Lines"
SIGNS = (
    "user_name character_name",
    "user_name character_name create_date",
    "mes is_user",
    "mes is_user name send_date",
)

_HUMANIZED = re.compile(r"(\d{4})-(\d\d?)-(\d\d?)\s*@\s*(\d\d?)h\s*(\d\d?)m\s*(\d\d?)s(?:\s*(\d{1,3})ms)?")
_WRITTEN = ("%B %d, %Y %I:%M%p", "%B %d, %Y %I:%M %p", "%b %d, %Y %I:%M%p")

KNOWN = frozenset(
    {"name", "is_user", "is_system", "is_name", "send_date", "mes", "swipes", "swipe_id", "swipe_info", "extra",
     "title", "gen_started", "gen_finished", "force_avatar", "original_avatar", "continueHistory", "user_name",
     "character_name", "create_date", "chat_metadata", "variables"}
)  # fmt: skip


def is_message(value: Any) -> bool:
    """Returns whether a value is one line of a chat, as all are."""
    return isinstance(value, dict)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the part of the chat that a line is."""
    if not isinstance(value, dict) or not value.keys() & {"mes", "user_name", "character_name"}:
        raise InvalidInputError(f"{shorten(value)} is no line of SillyTavern; it needs the keys mes and is_user.")
    context.left.unknown(value, KNOWN, " of a line")
    state = context.state
    if "mes" not in value:
        character, date = text_or_none(value.get("character_name")), text_or_none(value.get("create_date"))
        run = text_or_none(mapping_of(value.get("chat_metadata")).get("integrity"))
        state["id"] = run or (f"{character} {date}"[:200] if character and date else None)
        state["title"] = character
        with suppress(InvalidInputError):
            state["at"] = moment_of(value.get("create_date"))
        context.left.text("of notes to a chat", mapping_of(value.get("chat_metadata")).get("note_prompt"))
    found = Conversation(state.get("id"), state.get("title"), at=state.get("at"), continues=True, in_order=True)
    if "mes" in value:
        role = "system" if value.get("is_system") is True else "user" if value.get("is_user") is True else "assistant"
        text, name = value["mes"], text_or_none(value.get("name"))
        swipes = [each for each in list_of(value.get("swipes")) if each != text]
        context.left.text("of other swipes", swipes)
        context.left.text("of reasoning", mapping_of(value.get("extra")).get("reasoning"))
        at = moment_of(value.get("send_date"))
        found.messages.append(
            Message(role, plain_text(text) if isinstance(text, str) else text, None, at, {"name": name} if name else {})
        )
    yield found


def moment_of(value: Any) -> datetime | None:
    """Returns the moment of one of the ways in which the program writes dates.

    Raises:
        InvalidInputError: it is none.
    """
    if isinstance(value, str):
        begun = _HUMANIZED.match(value.strip())
        with suppress(ValueError, OverflowError, OSError):
            if begun:
                *numbers, milliseconds = (int(part or 0) for part in begun.groups())
                return datetime(*numbers, milliseconds * 1000).astimezone(UTC)  # type: ignore[call-arg,arg-type]
        for written in _WRITTEN:
            with suppress(ValueError, OverflowError, OSError):
                return datetime.strptime(value.strip().upper(), written).astimezone(UTC)
    return time_of(value, zone=None)
