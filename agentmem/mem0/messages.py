"""Turns messages into turns, and an `add`'s metadata into stored fields."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.mem0.dates import end_of, moment
from agentmem.mem0.filters import OWNERS
from agentmem.messages import text_of
from agentmem.quoting import shorten

logger = logging.getLogger("agentmem.mem0")

IDENTITY = frozenset({*OWNERS, "actor_id"})
"""Fields that arguments and messages set when a memory is made. In metadata they are dropped."""

DERIVED = frozenset({"data", "hash", "id", "updated_at", "text_lemmatized"})
"""Names in metadata that Mem0 overwrites."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message that holds text and is not the system's."""

    role: str
    content: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields that all memories of one `add` share. `role` is the one in the metadata."""

    metadata: dict[str, Any]
    role: str | None
    created_at: datetime | None
    expires_at: datetime | None


def turns_of(messages: Any, *, skip_invalid: bool) -> list[Turn]:
    """Returns the messages to store: a text counts as a user's. Messages that only call tools hold no text.

    Raises:
        InvalidInputError: A message has no role or no text, unless these are skipped.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif isinstance(messages, Mapping):
        messages = [messages]
    elif not isinstance(messages, list | tuple):
        raise InvalidInputError(f"messages is {shorten(messages)}; pass a text, a message or a list of messages.")
    turns = []
    for position, message in enumerate(messages):
        try:
            turn = _turn(message)
        except InvalidInputError as error:
            if not skip_invalid:
                raise InvalidInputError(f"Message {position}: {error}") from None
            logger.warning("Message %d is skipped: %s", position, error)
        else:
            if turn is not None:
                turns.append(turn)
    return turns


def _turn(message: Any) -> Turn | None:
    if not isinstance(message, Mapping):
        raise InvalidInputError(f"{shorten(message)} is no message; pass a mapping with role and content.")
    role, content, name = (message.get(key) for key in ("role", "content", "name"))
    if role == "system" or (not content and (message.get("tool_calls") or message.get("function_call"))):
        return None
    text = text_of(content)
    if text is None and isinstance(content, list) and content:  # Images, calls of tools and their like.
        return None
    if not isinstance(role, str) or not role:
        raise InvalidInputError(f"role is {shorten(role)} in {shorten(message)}; pass text (or skip_invalid=True).")
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"content is {shorten(content)}; pass a text that is not blank (or skip_invalid=True).")
    if name is not None and not isinstance(name, str):
        raise InvalidInputError(f"name is {shorten(name)}; pass text, or leave it out.")
    return Turn(role, text, name or None)


def fields_of(metadata: Any, timestamp: Any, expiration_date: Any) -> Fields:
    """Returns the fields that an `add` gives beside its messages.

    Mem0 reads `created_at`, `expiration_date` and `role` from the metadata too.

    Raises:
        InvalidInputError: A value is no date, or the metadata is no mapping.
    """
    plain = without_identity(metadata)
    timestamp = plain.pop("created_at", None) if timestamp is None else timestamp
    expiration_date = plain.pop("expiration_date", None) if expiration_date is None else expiration_date
    role = plain.pop("role", None)
    for name in ("created_at", "expiration_date"):
        plain.pop(name, None)
    return Fields(
        plain,
        role,
        None if timestamp is None else moment("timestamp", timestamp),
        None if expiration_date is None else end_of("expiration_date", expiration_date),
    )


def without_identity(metadata: Any) -> dict[str, Any]:
    """Returns the metadata without the names that the caller may not set."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata is {shorten(metadata)}; pass a mapping of JSON values.")
    if named := sorted(IDENTITY & set(metadata)):
        logger.warning("metadata has %s, which is dropped: owners are given as arguments.", ", ".join(named))
    return {key: value for key, value in metadata.items() if key not in IDENTITY | DERIVED}
