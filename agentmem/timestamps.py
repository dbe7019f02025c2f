"""The clock, and moments as whole microseconds."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """Returns the present moment by the system's clock. A test may replace `clock`."""
    return clock()


def clock() -> datetime:
    return datetime.now(UTC)


def to_microseconds(moment: datetime) -> int:
    """Returns the exact whole microseconds since 1970-01-01 UTC. A float would round."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
