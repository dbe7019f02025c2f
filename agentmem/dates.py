"""Moments from what other systems write: Unix seconds, ISO 8601, and Mem0's days, with whose end memories expire."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.records import check_time, shorten

_LAST = datetime.max.replace(tzinfo=UTC)


def moment(name: str, value: Any) -> datetime:
    """A moment from Unix seconds, from ISO 8601 text (UTC unless it has an offset), from a date or an aware datetime.

    Raises:
        InvalidInputError: it is none of these.
    """
    parsed = value
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            parsed = datetime.fromtimestamp(value, UTC)
        elif isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        elif isinstance(value, date) and not isinstance(value, datetime):
            parsed = datetime.combine(value, time(), UTC)
    except (ValueError, OverflowError, OSError):
        parsed = None
    if not isinstance(parsed, datetime):
        raise InvalidInputError(
            f"{name} is {shorten(value)}; pass Unix seconds, ISO 8601 text such as '2026-03-05T18:30:00+01:00', or an "
            "aware datetime."
        )
    checked = check_time(name, parsed)
    assert checked is not None
    return checked


def day(name: str, value: Any) -> date:
    """The day of a date, a datetime or text in the form YYYY-MM-DD.

    Raises:
        InvalidInputError: it is none of these.
    """
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{name} is {shorten(value)}; pass a date in the form YYYY-MM-DD.") from None


def end_of(name: str, value: Any) -> datetime:
    """The moment with which the day is over."""
    try:
        return datetime.combine(day(name, value) + timedelta(days=1), time(), UTC)
    except OverflowError:
        return _LAST


def expiration_date(expires_at: datetime) -> str:
    """The last day on which what expires then can be seen."""
    return (expires_at - timedelta(microseconds=1)).date().isoformat()


def end_of_reference(value: Any) -> datetime:
    """The moment from which a question is asked: the end of a day, or the moment itself."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return end_of("reference_date", value)
    if isinstance(value, str) and len(value) == len("2026-03-05"):
        return end_of("reference_date", value)
    return moment("reference_date", value)
