"""Parses the times of other systems: Unix seconds, ISO 8601, and Mem0's days, at whose end memories expire."""

from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.validation import check_time, iso_moment

_LAST = datetime.max.replace(tzinfo=UTC)


def moment(name: str, value: Any) -> datetime:
    """Returns the moment of Unix seconds, ISO 8601 text (UTC without an offset), a date or an aware datetime.

    Raises:
        InvalidInputError: The value is none of these.
    """
    parsed = None
    with suppress(ValueError, OverflowError, OSError):
        if isinstance(value, datetime):
            parsed = value
        elif isinstance(value, date):
            parsed = datetime.combine(value, time(), UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            parsed = datetime.fromtimestamp(value, UTC)
        elif (read := iso_moment(value)) is not None:
            parsed = read if read.tzinfo else read.replace(tzinfo=UTC)
    if parsed is None:
        raise InvalidInputError(
            f"{name} is {shorten(value)}; pass Unix seconds, ISO 8601 text such as '2026-03-05T18:30:00+01:00', or an "
            "aware datetime."
        )
    return _checked(name, parsed)


def _checked(name: str, moment: datetime) -> datetime:
    checked = check_time(name, moment)
    assert checked is not None
    return checked


def bounds_of(name: str, value: Any) -> tuple[datetime, datetime]:
    """Returns the beginning and the end in UTC of a day: a date, text as YYYY-MM-DD, or a datetime without a zone.

    A datetime with a zone, or ISO 8601 text with an offset, is one moment: both values are that moment.

    Raises:
        InvalidInputError: The value is none of these.
    """
    found: Any = iso_moment(value) if isinstance(value, str) else value
    if isinstance(found, datetime) and found.tzinfo is not None:
        at = _checked(name, found)
        return at, at
    start = None
    with suppress(TypeError, ValueError):  # No date at all, or the NaT of pandas, which is a datetime.
        start = datetime.combine(found.date() if isinstance(found, datetime) else found, time(), UTC)
    if start is None:
        raise InvalidInputError(
            f"{name} is {shorten(value)}; pass a date in the form YYYY-MM-DD, or an aware datetime for a moment."
        )
    try:
        return start, start + timedelta(days=1)
    except OverflowError:
        return start, _LAST


def end_of(name: str, value: Any) -> datetime:
    """Returns the moment at which the day ends, or the moment that was named; see `bounds_of`."""
    return bounds_of(name, value)[1]


def expiration_date(expires_at: datetime) -> str:
    """Returns the last day in UTC on which a memory with this expiry can be seen."""
    midnight = expires_at.time() == time()
    return (expires_at.date() - timedelta(days=midnight and expires_at.date() > date.min)).isoformat()


def end_of_reference(value: Any) -> datetime:
    """Returns the moment from which a question is asked: the end of a day, or the moment itself."""
    is_day = isinstance(value, date) and not isinstance(value, datetime)
    if isinstance(value, str):
        with suppress(ValueError):
            is_day = bool(date.fromisoformat(value))
    return end_of("reference_date", value) if is_day else moment("reference_date", value)
