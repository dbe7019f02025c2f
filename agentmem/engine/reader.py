"""Reads: one snapshot of the store for each, now or at an instant of the past."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar

from agentmem.deadline import Deadline
from agentmem.engine.engine import Engine
from agentmem.errors import InvalidInputError
from agentmem.filters import Filter
from agentmem.quoting import shorten
from agentmem.records import Page, Record, Scope
from agentmem.storage.interface import Snapshot
from agentmem.storage.retrying import again
from agentmem.validation import INT64

T = TypeVar("T")


def snapshot_of(
    engine: Engine, deadline: Deadline, *, show_expired: bool = False, as_of: datetime | None = None
) -> AbstractContextManager[Snapshot]:
    """Opens a snapshot for the length of a block; reading in it ends at the deadline."""
    return engine.store.snapshot(as_of=as_of, show_expired=show_expired, deadline=deadline)


@again
def read(
    engine: Engine,
    reading: Callable[[Snapshot], T],
    deadline: Deadline,
    *,
    show_expired: bool = False,
    as_of: datetime | None = None,
) -> T:
    """Returns what `reading` returns of one snapshot."""
    with snapshot_of(engine, deadline, show_expired=show_expired, as_of=as_of) as snapshot:
        return reading(snapshot)


class Listing:
    """Pages of memories by `created_at`, in one order. A page's `next` names the order and the last memory's place."""

    def __init__(self, scope: Scope, wanted: Filter | None, order: str, after: Any, limit: int) -> None:
        """Raises:
        InvalidInputError: `after` is not the `next` of a page in this order.
        """
        self._scope = scope
        self._wanted = wanted
        self._order = order
        self._after = _place_of(after, order)
        self._limit = limit

    def page(self, snapshot: Snapshot) -> Page:
        """Returns the page after the given place; reads one memory more, to know whether another page follows."""
        rows: list[tuple[tuple[int, int], Record]] = snapshot.page(
            self._scope, self._wanted, newest_first=self._order == "newest", after=self._after, limit=self._limit + 1
        )
        more = None
        if len(rows) > self._limit:
            created_at, key = rows[self._limit - 1][0]
            more = f"{self._order}:{created_at}:{key}"
        return Page([record for _, record in rows[: self._limit]], more)


def _place_of(after: Any, order: str) -> tuple[int, int] | None:
    if after is None:
        return None
    try:
        made_for, created_at, key = after.split(":")
        place = int(created_at), int(key)
        if not (place[0] in INT64 and place[1] in INT64):
            raise OverflowError(after)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"after is {shorten(after)}; pass the `next` of a page.") from None
    if made_for != order:
        raise InvalidInputError(f"after is {after!r}, from a listing in the other order; begin again without it.")
    return place
