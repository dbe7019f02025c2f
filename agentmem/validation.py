"""The checks of a caller's arguments. Each error is one sentence with the value and the next step."""

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agentmem.config import Config
from agentmem.errors import InvalidInputError, TooLongError
from agentmem.platform.paths import absolute, is_utf8
from agentmem.quoting import _key, is_address, quote, shorten, with_kind
from agentmem.timestamps import now, to_microseconds

FIELDS = frozenset(
    {"content", "user_id", "agent_id", "run_id", "role", "metadata", "id", "created_at", "expires_at", "ttl"}
)
"""The fields of a memory that a caller may set."""
MAX_NAME_LENGTH = 512
"""Most characters of an owner, a role or an id."""
MAX_METADATA_DEPTH = 32
MAX_LIMIT = 1_000_000

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_COUNT = re.compile(r"[0-9]{9,}(?:\.[0-9]*)?")
# Errors that a hand-written time zone may raise. Any other, such as RecursionError, comes from the caller.
_ZONE_ERRORS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError)
INT64 = range(-(2**63), 2**63)


def check_text(name: str, text: str) -> bytes:
    """Returns the UTF-8 of `text`.

    Raises:
        InvalidInputError: It holds a lone surrogate or NUL, on which database columns and JSON readers disagree.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{name} holds a lone surrogate at position {error.start}; decode the source with errors='replace' first."
        ) from None
    if b"\0" in encoded:
        raise InvalidInputError(f"{name} holds NUL at position {text.index(chr(0))}; remove it.")
    return encoded


def check_content(content: Any, config: Config) -> None:
    if not isinstance(content, str):
        raise InvalidInputError(f"content is {with_kind(content)}; pass a str.")
    if not content or content.isspace():
        raise InvalidInputError(f"content is {shorten(content)}, which is blank; pass a text worth remembering.")
    # A character takes at least one byte, so a far too long text is refused without encoding it.
    size, unit = len(content), "characters"
    if size <= config.max_content_bytes:
        size, unit = len(check_text("content", content)), "bytes"
    if size > config.max_content_bytes:
        raise TooLongError(
            f"content has {size:,} {unit}, more than Config.max_content_bytes = "
            f"{config.max_content_bytes:,}; split it or raise the limit."
        )


def check_query(query: Any, config: Config) -> None:
    if not isinstance(query, str) or not query or query.isspace():
        raise InvalidInputError(f"query is {shorten(query)}; pass a str that is not blank.")
    if len(query) > config.max_content_bytes or len(check_text("query", query)) > config.max_content_bytes:
        raise TooLongError(f"query exceeds Config.max_content_bytes = {config.max_content_bytes:,}; shorten it.")


def check_name(name: str, value: Any) -> str | None:
    """Returns an owner, a role or an id: text without surrounding spaces, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is {with_kind(value)}; pass a str.")
    # Most names are known to be valid at a glance. Every `add` runs this line.
    if value.isascii() and value.isprintable() and value[:1] != " " != value[-1:] and 0 < len(value) <= MAX_NAME_LENGTH:
        return value
    if not value:
        raise InvalidInputError(f"{name} is empty; leave it out or pass a name.")
    if value.isspace():
        raise InvalidInputError(f"{name} is {shorten(value)}, which is blank; leave it out or pass a name.")
    if value != value.strip():
        raise InvalidInputError(f"{name} is {shorten(value)}, with spaces around it; pass {shorten(value.strip())}.")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidInputError(
            f"{name} {shorten(value)} is longer than {MAX_NAME_LENGTH} characters; pass a shorter one or its digest."
        )
    check_text(name, value)
    return value


def check_id(id: Any) -> str:
    checked = check_name("id", id)
    if checked is None:
        raise InvalidInputError("id is None; pass the id of a record.")
    return checked


def check_limit(limit: Any) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(f"limit is {shorten(limit)}; pass a whole number from 1 to {MAX_LIMIT:,}.")
    return limit


def check_threshold(threshold: Any) -> float:
    if threshold is None:
        return 0.0
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InvalidInputError(f"threshold is {shorten(threshold)}; pass a score from 0 to 1, or None.")
    return float(threshold)


def check_half_life(recency: Any) -> float | None:
    """Returns the duration in seconds."""
    if recency is None:
        return None
    seconds = recency.total_seconds() if isinstance(recency, timedelta) else recency
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1e-3 <= seconds <= 1e12:
        raise InvalidInputError(
            f"recency is {shorten(recency)}; pass the half-life as a timedelta or as seconds from 0.001 to 1e12."
        )
    return float(seconds)


def check_time(name: str, moment: Any) -> datetime | None:
    """Returns the moment in UTC, or None."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise InvalidInputError(f"{name} is {shorten(moment)}; pass an aware datetime.")
    clock, offset = clock_and_offset(name, moment)
    try:
        return clock - offset
    except OverflowError:
        raise InvalidInputError(f"{name} is {moment.isoformat()}, outside the years 1 to 9999 in UTC.") from None


def clock_and_offset(name: str, moment: datetime) -> tuple[datetime, timedelta]:
    """Returns an aware datetime's clock as a plain datetime in UTC, and its offset from UTC.

    Raises:
        InvalidInputError: It has no time zone, or one that does not know its offset.
    """
    offset, fault = None, ""
    if moment.tzinfo is not None:
        try:
            offset = moment.utcoffset()
        except _ZONE_ERRORS as error:
            fault = type(error).__name__
    if fault:
        raise InvalidInputError(f"{name} has a time zone without an offset from UTC ({fault}); pass one of zoneinfo.")
    if offset is None:
        raise InvalidInputError(
            f"{name} is {moment.isoformat()}, which has no time zone; pass datetime(..., tzinfo=timezone.utc)."
        )
    # Not `astimezone`, which keeps a subclass and its behaviour (a Timestamp of pandas has nanoseconds).
    return datetime.combine(moment.date(), moment.time(), UTC), offset


def check_past(name: str, moment: Any) -> datetime:
    """Returns a past moment in UTC. A timedelta counts back from now."""
    try:
        checked = check_time(name, now() - moment if isinstance(moment, timedelta) else moment)
    except OverflowError:
        raise InvalidInputError(f"{name} is {shorten(moment)}, before the year 1; pass an aware datetime.") from None
    if checked is None or checked > now():
        raise InvalidInputError(f"{name} is {shorten(moment)}, which has not passed; pass a moment that has.")
    return checked


def iso_moment(text: Any) -> datetime | None:
    """Returns the moment of ISO 8601 text, perhaps without an offset; None for other text.

    Digits alone are a day at most: Python reads some counts of milliseconds ("1712010112345") as a moment of the year
    1712.
    """
    with suppress(OverflowError, ValueError):
        if isinstance(text, str) and not _COUNT.fullmatch(text):
            return datetime.fromisoformat(text)
    return None


def moment_of(name: str, text: Any) -> datetime:
    """Returns the moment of ISO 8601 text with an offset, in UTC.

    Raises:
        InvalidInputError: It is not such a text, or has no offset from UTC.
    """
    moment = iso_moment(text)
    if moment is None or moment.tzinfo is None:
        raise InvalidInputError(
            f"{name} is {shorten(text)}; write ISO 8601 with an offset, such as 2026-03-05T18:30:00+01:00."
        )
    checked = check_time(name, moment)
    assert checked is not None
    return checked


def check_expiry(expires_at: Any, ttl: Any, moment: datetime) -> datetime | None:
    """Returns the moment in UTC when a memory expires: `expires_at`, or `ttl` seconds after `moment`. None means never.

    Raises:
        InvalidInputError: Both are given, or one cannot be used.
    """
    if ttl is None:
        return check_time("expires_at", expires_at)
    if expires_at is not None:
        raise InvalidInputError(f"Both ttl={shorten(ttl)} and expires_at={shorten(expires_at)} were given; drop one.")
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not ttl > 0:
        raise InvalidInputError(f"ttl is {shorten(ttl)}; pass seconds greater than 0.")
    try:
        return moment + timedelta(seconds=ttl)
    except OverflowError:
        raise InvalidInputError(
            f"ttl is {shorten(ttl)}, beyond the year 9999; leave it out to keep for ever."
        ) from None


def check_between(between: Any) -> tuple[int | None, int | None] | None:
    """Returns the two ends in microseconds; None for an open end."""
    if between is None:
        return None
    if not isinstance(between, tuple | list) or len(between) != 2:
        raise InvalidInputError(f"between is {shorten(between)}; pass a pair of aware datetimes, or None for an end.")
    start, end = (check_time(f"between[{position}]", moment) for position, moment in enumerate(between))
    if start is not None and end is not None and end < start:
        raise InvalidInputError(f"between ends before it starts ({start.isoformat()}, {end.isoformat()}); swap them.")
    return (None if start is None else to_microseconds(start)), (None if end is None else to_microseconds(end))


def check_timeout(timeout: Any, config: Config) -> float:
    if timeout is None:
        return config.timeout
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 1e6:
        raise InvalidInputError(f"timeout is {shorten(timeout)}; pass seconds from 0 to 1,000,000.")
    return float(timeout)


def check_fields(item: Mapping[Any, Any]) -> None:
    """Refuses keys that are no field of a memory."""
    if unknown := set(item) - FIELDS:
        raise InvalidInputError(
            f"unknown field {_key(min(unknown, key=str))}; the fields are {', '.join(sorted(FIELDS))}."
        )


def check_metadata(metadata: Any, config: Config) -> tuple[dict[str, Any], str | None]:
    """Returns a plain copy of the metadata, and its JSON (None when empty).

    Raises:
        InvalidInputError: A part of it is not JSON; the message names the key.
    """
    if metadata is None:
        return {}, None
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata is {shorten(metadata)}; pass a mapping of JSON values.")
    # Every value, and every character, takes at least a byte of JSON. An object that holds itself many times over is
    # refused before it unfolds.
    copy = _plain("metadata", metadata, MAX_METADATA_DEPTH, _Room(config.max_metadata_bytes))
    if not copy:
        return {}, None
    text = _JSON.encode(copy)
    size = len(text.encode())
    if size > config.max_metadata_bytes:
        raise TooLongError(
            f"metadata has {size:,} bytes of JSON, more than Config.max_metadata_bytes = "
            f"{config.max_metadata_bytes:,}; store less or raise the limit."
        )
    return copy, text


class _Room:
    """The bytes that the metadata may still take."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._left = self._limit = limit

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise TooLongError(
                f"metadata has more bytes of JSON than Config.max_metadata_bytes = {self._limit:,}; store less or "
                "raise the limit."
            )


def _plain(where: str, value: Any, depth: int, room: _Room) -> Any:
    """Returns `value` as plain dicts, lists, str, int, float, bool and None. Tuples become lists, as they do in
    JSON."""
    room.take(len(value) if isinstance(value, str) else 1)
    if depth == 0:
        raise InvalidInputError(
            f"{where[:120]} is nested deeper than {MAX_METADATA_DEPTH} levels (or holds itself); flatten it."
        )
    match value:
        case None | bool():
            return value
        case str():
            check_text(where, value)
            return str.__str__(value)  # str() would return the name of a text enumeration.
        case int():
            number = int(value)  # `in range` would search for an IntEnum one by one.
            if number not in INT64:
                raise InvalidInputError(f"{where} is {shorten(number)}, outside 64 bits; pass it as text.")
            return number
        case float():
            if not math.isfinite(value):
                raise InvalidInputError(f"{where} is {value}, which JSON does not have; leave the key out.")
            return float(value)
        case Mapping():
            copy = {}
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInputError(f"{where} has the key {_key(key)}; keys must be text.")
                room.take(len(key))
                check_text(f"a key of {where}", key)
                copy[str.__str__(key)] = _plain(f"{where}[{quote(key)}]", item, depth - 1, room)
            return copy
        case list() | tuple():
            return [_plain(f"{where}[{position}]", item, depth - 1, room) for position, item in enumerate(value)]
    raise InvalidInputError(f"{where} is {with_kind(value)}, which is not JSON; convert it first.")


def check_path(path: Any) -> str:
    """Returns the whole path of a store's file, or ":memory:".

    Raises:
        InvalidInputError: It is no path, or an address, or not UTF-8.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        raise InvalidInputError(f"path is {shorten(path)}; pass the path of a file, or ':memory:'.") from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInputError(f"path is {shorten(path)}; pass the path of a file, or ':memory:'.")
    if is_address(text):  # Its folder would not be found, and the message name the address with its password.
        raise InvalidInputError(f"path is the address {shorten(text)}; pass the path of a file, or ':memory:'.")
    if not is_utf8(text):
        raise InvalidInputError(f"path is {shorten(path)}, which is not UTF-8; choose another name.")
    whole = text if text == ":memory:" else absolute(text)
    if not is_utf8(whole):
        raise InvalidInputError(
            f"path is {shorten(path)} in the working folder {str(Path.cwd())!r}, which is not UTF-8; use a folder with "
            "another name."
        )
    return whole
