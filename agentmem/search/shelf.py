"""Shelves: the vectors and the terms of one owner in memory, scanned exactly.

A shelf is loaded from the store when its owner is first searched and caught up by `seq` before every search, so that
it sees the commits of every thread and process. Nothing is told to it: adding to an owner that nobody searches costs
nothing. Whatever it proposes is checked against the database afterwards.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt

from agentmem.filters import Condition
from agentmem.forks import restart
from agentmem.records import Scope
from agentmem.search.keywords import Mask, Places, Terms, TermsView
from agentmem.storage.rows import senseless
from agentmem.storage.snapshot import NEVER, Changes, Keys, Snapshot

Owner = tuple[str, str] | None
"""A field and its value, as in ("user_id", "ana"); None for everybody."""

RUN_BYTES = 200
"""About what the name of a run takes."""

FILTERS_KEPT = 8
"""Filters whose answer a view keeps: the same few come again and again, with other queries."""

VIEW_BYTES = 17 + FILTERS_KEPT
"""What a view adds a place: two lists of places and flags."""

SLACK = 64
"""Dead places that a shelf may always have; beyond, it is packed anew when a quarter of it is dead."""


class View:
    """A shelf as it stands between two changes: n places. Shared by all threads that search meanwhile; what several
    searches need is worked out by the first (threads that come together find the same).

    Attributes:
        vectors: float16 (n, dimension), zeros where `embedded` is False.
        live: False where the memory has changed or gone away.
        created_at, expires_at: in microseconds.
        runs: the number of each memory's run, -1 where there is none.
    """

    def __init__(self, seq: int, columns: Mapping[str, npt.NDArray[Any]], terms: TermsView) -> None:
        self._seq = seq  # A snapshot before it may see less than this view.
        self.keys: Keys = columns["keys"]
        self.vectors: npt.NDArray[np.float16] = columns["vectors"]
        self.embedded: Mask = columns["embedded"]
        # The only column that changes in place: a memory whose old place dies has its new one beyond this view.
        self.live: Mask = columns["live"].copy()
        self.created_at: Keys = columns["created_at"]
        self.expires_at: Keys = columns["expires_at"]
        self.runs: npt.NDArray[np.int32] = columns["runs"]
        self.terms = terms
        self._first_expiry = int(self.expires_at.min(initial=NEVER))
        self._in_order: Places | None = None
        self._searchable: Places | None = None
        self._passing: dict[tuple[Scope, Condition | None], tuple[int, Mask]] = {}

    def passing(self, snapshot: Snapshot, scope: Scope, condition: Condition | None) -> Mask:
        """Which of the places that a snapshot sees are of a scope and satisfy a filter. Not to be changed. The database
        is asked once for all searches with the same filter between two changes."""
        if snapshot.seq < self._seq:
            return np.isin(self.keys, snapshot.keys(scope, condition))
        moment, mask = self._passing.get((scope, condition), (NEVER, self.live))
        if moment > snapshot.moment:  # When a later moment was asked about, more had expired.
            moment, mask = snapshot.moment, np.isin(self.keys, snapshot.keys(scope, condition))
            if len(self._passing) >= FILTERS_KEPT:
                self._passing.clear()
            self._passing[scope, condition] = (moment, mask)
        return mask

    def visible(self, moment: int) -> Mask:
        """Which of the places are neither gone nor expired at a moment. Not to be changed."""
        return self.live if moment < self._first_expiry else self.live & (self.expires_at > moment)

    def with_vectors(self, passing: Mask) -> Places:
        """Those of the passing places (n,) that have a vector."""
        if passing is not self.live:
            return np.flatnonzero(passing & self.embedded)
        if self._searchable is None:
            self._searchable = np.flatnonzero(self.live & self.embedded)
        return self._searchable

    def in_order(self, passing: Mask) -> Places:
        """The passing places (n,) by run and age."""
        if self._in_order is None:
            order = np.lexsort((self.keys, self.runs))
            self._in_order = order[self.live[order]]
        return self._in_order if passing is self.live else self._in_order[passing[self._in_order]]

    def scores(self, query: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        """The cosine of each place's vector and the query's (dimension,), both of unit length."""
        if not len(self.keys):
            return np.empty(0)
        scores: npt.NDArray[np.float64] = np.asarray(numkong.cdist(query[np.newaxis], self.vectors, "dot"), np.float64)
        return scores.reshape(-1)


class Shelf:
    """The memories of one owner, as far as a search looks at them. Places are only appended to and marked dead, so that
    a view stays true to its moment while others go on; `view` may be called from any thread."""

    def __init__(self, owner: Owner, dimension: int) -> None:
        self._owner = owner
        self._columns: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "keys": (np.int64, ()), "vectors": (np.float16, (dimension,)), "embedded": (np.bool_, ()),
            "live": (np.bool_, ()), "created_at": (np.int64, ()), "expires_at": (np.int64, ()), "runs": (np.int32, ()),
        }  # fmt: skip
        # Guards: everything below. Held while the changes are read, so that threads that arrive together at a new
        # shelf load it once instead of each for itself.
        self._lock = threading.Lock()
        self._seq = 0
        self._count = 0
        self._dead = 0
        self._newest_key = 0
        self._run_numbers: dict[tuple[str | None, str], int] = {}
        self.charged_bytes = 0  # What Shelves counts for this shelf; guarded by the lock of Shelves.
        self._terms = Terms()
        self._arrays = self._allocated(0)
        self._view: View | None = None
        self.bytes = 0

    def _allocated(self, capacity: int) -> dict[str, npt.NDArray[Any]]:
        return {name: np.empty((capacity, *shape), kind) for name, (kind, shape) in self._columns.items()}

    def view(self, snapshot: Snapshot) -> View:
        """The shelf with at least every change that the snapshot sees (perhaps newer ones, of other threads)."""
        seq = snapshot.seq
        with self._lock:
            if seq > self._seq:
                changes = snapshot.changes(self._owner, self._seq)
                if len(changes.keys):
                    self._view = None
                    self._apply(changes)
                self._seq = seq
            if self._view is None:
                columns = {name: array[: self._count] for name, array in self._arrays.items()}
                self._view = View(seq, columns, self._terms.view())
                held = sum(array.nbytes for array in self._arrays.values())
                self.bytes = held + self._terms.size + VIEW_BYTES * self._count + RUN_BYTES * len(self._run_numbers)
            return self._view

    def _apply(self, changes: Changes) -> None:
        known = changes.keys[changes.keys <= self._newest_key]
        if len(known):
            live = self._arrays["live"][: self._count]
            places = np.flatnonzero(np.isin(self._arrays["keys"][: self._count], known) & live)
            live[places] = False
            self._dead += len(places)
        fresh = changes.keys[changes.live]
        if len(fresh):
            self._append(fresh, changes)
        if self._dead > SLACK and self._dead * 4 > self._count:
            kept = self._arrays["live"][: self._count].copy()
            self._terms.keep(kept)
            self._move(self._count - self._dead, kept)

    def _append(self, fresh: Keys, changes: Changes) -> None:
        self._reserve(len(fresh))
        start, end = self._count, self._count + len(fresh)
        dimension = self._arrays["vectors"].shape[1]
        values: dict[str, Any] = {
            "keys": fresh,
            "vectors": _decoded(changes.vectors, dimension),
            "embedded": [vector is not None for vector in changes.vectors],
            "live": True,
            "created_at": changes.created_at,
            "expires_at": changes.expires_at,
            "runs": [self._number_of(run) for run in changes.runs],
        }
        for name, array in self._arrays.items():
            array[start:end] = values[name]
        try:
            self._terms.append(changes.terms)
        except (TypeError, ValueError) as error:
            raise senseless("What the rows of some memories hold as terms", error) from error
        self._count = end
        self._newest_key = max(self._newest_key, int(fresh.max()))

    def _number_of(self, run: tuple[str | None, str] | None) -> int:
        return -1 if run is None else self._run_numbers.setdefault(run, len(self._run_numbers))

    def _reserve(self, more: int) -> None:
        needed, capacity = self._count + more, len(self._arrays["keys"])
        if needed > capacity:
            # The first load fits exactly; what grows, grows by a half, so that it is copied a bounded number of times.
            self._move(max(needed, capacity * 3 // 2), np.ones(self._count, np.bool_))

    def _move(self, capacity: int, kept: npt.NDArray[np.bool_]) -> None:
        """Into new arrays: views that are being scanned keep the old ones."""
        count = int(kept.sum())
        moved = self._allocated(capacity)
        for name, array in self._arrays.items():
            moved[name][:count] = array[: len(kept)][kept]
        self._arrays = moved
        self._count = count
        self._dead = count - int(moved["live"][:count].sum())


def _decoded(vectors: Sequence[bytes | None], dimension: int) -> npt.NDArray[np.float16]:
    """float16 (n, dimension), zeros for None."""
    nothing = bytes(2 * dimension)
    try:
        joined = b"".join(nothing if vector is None else vector for vector in vectors)
        return np.frombuffer(joined, "<f2").reshape(-1, dimension)
    except (TypeError, ValueError) as error:
        raise senseless("What the rows of some vectors hold", error) from error


class Shelves:
    """The shelves of the owners searched last, within a number of bytes; may be called from any thread."""

    def __init__(self, dimension: int, limit_bytes: int) -> None:
        self._dimension = dimension
        self._limit_bytes = limit_bytes
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()  # Guards: _shelves and its order, bytes, evicted.
        self.turn = threading.Lock()  # Held by the one search that computes, of those that take turns.
        self._shelves: OrderedDict[Owner, Shelf] = OrderedDict()
        self.bytes = 0
        self.evicted = 0
        self._pid = os.getpid()  # Last, see Restartable.

    def view(self, owner: Owner, snapshot: Snapshot) -> View:
        """The shelf of an owner, loaded or caught up; shelves not used for longest make room for it."""
        if self._pid != os.getpid():
            restart(self, self._start)  # A thread that stayed behind in a fork may have been changing what is there.
        with self._lock:
            shelf = self._shelves.get(owner)
            if shelf is None:
                shelf = self._shelves[owner] = Shelf(owner, self._dimension)
            self._shelves.move_to_end(owner)
        view = shelf.view(snapshot)
        if shelf.bytes != shelf.charged_bytes:
            self._charge(owner, shelf)
        return view

    def _charge(self, owner: Owner, shelf: Shelf) -> None:
        with self._lock:
            if self._shelves.get(owner) is shelf:
                self.bytes += shelf.bytes - shelf.charged_bytes
                shelf.charged_bytes = shelf.bytes
            while self.bytes > self._limit_bytes and len(self._shelves) > 1:
                _, evicted = self._shelves.popitem(last=False)
                self.bytes -= evicted.charged_bytes
                self.evicted += 1

    def drop(self, owners: Iterable[Owner]) -> None:
        """Lets go of the shelves of some owners; the next search loads them anew."""
        with self._lock:
            for owner in owners:
                shelf = self._shelves.pop(owner, None)
                if shelf is not None:
                    self.bytes -= shelf.charged_bytes

    def __len__(self) -> int:
        return len(self._shelves)
