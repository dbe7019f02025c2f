"""Shelves: the vectors and the terms of one owner in memory, scanned exactly.

A shelf is loaded from the store when its owner is first searched and caught up by `seq` before every search, so that
it sees the commits of every thread and process. Nothing is told to it: adding to an owner that nobody searches costs
nothing. Whatever it proposes is checked against the database afterwards.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from agentmem.filters import Condition
from agentmem.forks import abandon, restart
from agentmem.records import Scope
from agentmem.search.keywords import Mask, Places, Terms, TermsView
from agentmem.search.runs import run_numbers
from agentmem.search.sealed import Part, sealed
from agentmem.search.sealing import DEAD_SHARE, Sealer
from agentmem.search.vectors import cosines
from agentmem.storage.rows import senseless
from agentmem.storage.snapshot import NEVER, Keys, Owner, Snapshot, States

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

    def __init__(
        self, seq: int, columns: Mapping[str, npt.NDArray[Any]], terms: TermsView, parts: tuple[Part, ...]
    ) -> None:
        self._seq = seq  # A snapshot before it may see less than this view.
        self.keys: Keys = columns["keys"]
        self.vectors: npt.NDArray[np.float16] = columns["vectors"]
        self.embedded: Mask = columns["embedded"]
        # The only column that changes in place: a memory whose old place dies has its new one beyond this view.
        self.live: Mask = columns["live"].copy()
        self.created_at: Keys = columns["created_at"]
        self.expires_at: Keys = columns["expires_at"]
        self.runs: npt.NDArray[np.int64] = columns["runs"]
        self.terms = terms
        self.parts = parts
        self._first_expiry = int(self.expires_at.min(initial=NEVER))
        self._in_order: Places | None = None
        self._searchable: Places | None = None
        self._passing: dict[tuple[Scope, Condition | None], tuple[int, list[Mask]]] = {}

    def passing(self, snapshot: Snapshot, scope: Scope, condition: Condition | None) -> list[Mask]:
        """Which of the places that a snapshot sees are of a scope and satisfy a filter: those of the shelf, and then
        those of each part. Not to be changed. The database is asked once for all searches with the same filter between
        two changes."""
        if snapshot.seq < self._seq:
            return self._at(snapshot.keys(scope, condition))
        moment, masks = self._passing.get((scope, condition), (NEVER, []))
        if moment > snapshot.moment:  # When a later moment was asked about, more had expired.
            moment, masks = snapshot.moment, self._at(snapshot.keys(scope, condition))
            if len(self._passing) >= FILTERS_KEPT:
                self._passing.clear()
            self._passing[scope, condition] = (moment, masks)
        return masks

    def _at(self, keys: Keys) -> list[Mask]:
        keys = np.sort(keys) if self.parts else keys
        return [np.isin(self.keys, keys), *(part.at(keys) for part in self.parts)]

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
        return cosines(query, self.vectors)


class Shelf:
    """The memories of one owner, as far as a search looks at them. Places are only appended to and marked dead, so that
    a view stays true to its moment while others go on; `view` may be called from any thread."""

    def __init__(self, owner: Owner, dimension: int, sealer: Sealer | None) -> None:
        self._owner = owner
        self._sealer = sealer
        self._columns: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "keys": (np.int64, ()), "vectors": (np.float16, (dimension,)), "embedded": (np.bool_, ()),
            "live": (np.bool_, ()), "created_at": (np.int64, ()), "expires_at": (np.int64, ()), "runs": (np.int64, ()),
        }  # fmt: skip
        # Guards: everything below. Held while the changes are read, so that threads that arrive together at a new
        # shelf load it once instead of each for itself.
        self._lock = threading.Lock()
        self._seq = 0
        self._count = 0
        self._dead = 0
        self._newest_key = 0
        self.charged_bytes = 0  # What Shelves counts for this shelf; guarded by the lock of Shelves.
        self._parts: tuple[Part, ...] = ()
        self._segments = 0  # Of the list of segments, as it was looked at last.
        self._has_holes = False
        self.to_seal = False
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
            if self._sealer is not None and snapshot.segments != self._segments and seq >= self._seq:
                self._adopt(snapshot, self._sealer)
            if seq > self._seq:
                erased, changed = snapshot.changed(self._owner, self._seq)
                if len(erased) or len(changed):
                    self._view = None
                    gone = np.concatenate((erased, changed))
                    self._parts = tuple(part.without(np.unique(gone)) for part in self._parts)
                    self._forget(gone)
                    self._load(snapshot, changed)
                self._seq = seq
            if self._view is None:
                columns = {name: array[: self._count] for name, array in self._arrays.items()}
                self._view = View(seq, columns, self._terms.view(), self._parts)
                self.to_seal = self._is_to_seal()
                held = sum(array.nbytes for array in self._arrays.values())
                sealed_places = sum(len(part.live) for part in self._parts)
                self.bytes = held + self._terms.size + VIEW_BYTES * self._count + sealed_places
            return self._view

    def _adopt(self, snapshot: Snapshot, sealer: Sealer) -> None:
        """Looks at the list of segments, which has changed; if the owner's have, the shelf keeps only what is not
        sealed."""
        listed = snapshot.listed_segments(self._owner)
        present = [part.listed.key for part in self._parts]
        if [each.key for each in listed] == present:  # Those of others have changed.
            self._segments = snapshot.segments
            return
        found, unusable = sealed(snapshot, self._owner, sealer.files, listed, self._parts)
        if unusable:
            sealer.discard(unusable)
        if [part.listed.key for part in found.parts] != present:
            # Whatever ends it amid this, the shelf is one that has not begun.
            self._view, self._parts, self._seq, self._segments = None, (), 0, -1
            self._arrays, self._terms = self._allocated(0), Terms()
            self._count = self._dead = self._newest_key = 0
            self._load(snapshot, found.unsealed)
            self._parts, self._has_holes, self._seq = found.parts, found.holes, snapshot.seq
        self._segments = snapshot.segments

    def _is_to_seal(self) -> bool:
        """Whether the sealer would find something to do."""
        return self._sealer is not None and (
            self._count - self._dead >= self._sealer.size
            or self._has_holes
            or any(np.count_nonzero(part.live) < (1 - DEAD_SHARE) * len(part.live) for part in self._parts)
        )

    def _forget(self, keys: Keys) -> None:
        known = keys[keys <= self._newest_key]
        if len(known):
            live = self._arrays["live"][: self._count]
            places = np.flatnonzero(np.isin(self._arrays["keys"][: self._count], known) & live)
            live[places] = False
            self._dead += len(places)

    def _load(self, snapshot: Snapshot, changed: Keys) -> None:
        if not self._count:  # With little room beyond, since most do not grow.
            self._reserve(len(changed) + len(changed) // 16)
        for states in snapshot.states(self._owner, changed):
            if len(states.keys):
                self._append(states)
        if self._dead > SLACK and self._dead * 4 > self._count:
            kept = self._arrays["live"][: self._count].copy()
            self._terms.keep(kept)
            self._move(self._count - self._dead, kept)

    def _append(self, fresh: States) -> None:
        self._reserve(len(fresh.keys))
        start, end = self._count, self._count + len(fresh.keys)
        arrays = {name: array[start:end] for name, array in self._arrays.items()}
        arrays["vectors"][~fresh.embedded] = 0
        try:
            vectors = fresh.vectors.reshape(np.count_nonzero(fresh.embedded), arrays["vectors"].shape[1])
        except ValueError as error:
            raise senseless("What the rows of some vectors hold", error) from error
        arrays["vectors"][fresh.embedded] = vectors
        arrays["keys"][:] = fresh.keys
        arrays["embedded"][:] = fresh.embedded
        arrays["live"][:] = True
        arrays["created_at"][:] = fresh.created_at
        arrays["expires_at"][:] = fresh.expires_at
        arrays["runs"][:] = run_numbers(fresh.runs)
        self._terms.append(start, fresh.terms, fresh.term_counts)
        self._count = end
        self._newest_key = max(self._newest_key, int(fresh.keys.max()))

    def _reserve(self, more: int) -> None:
        needed, capacity = self._count + more, len(self._arrays["keys"])
        if needed > capacity:
            # What grows, grows by a half, so that it is copied a bounded number of times.
            self._move(max(needed, capacity * 3 // 2), None)

    def _move(self, capacity: int, kept: Mask | None) -> None:
        """Into new arrays, all places or those that are `kept`: views that are being scanned keep the old ones."""
        count = self._count if kept is None else int(np.count_nonzero(kept))
        moved = self._allocated(capacity)
        for name, array in self._arrays.items():
            if kept is None:
                moved[name][:count] = array[:count]
            else:
                np.compress(kept, array[: self._count], axis=0, out=moved[name][:count])
        self._arrays = moved
        self._count = count
        self._dead = count - int(np.count_nonzero(moved["live"][:count]))


class Shelves:
    """The shelves of the owners searched last, within a number of bytes; may be called from any thread."""

    def __init__(self, dimension: int, limit_bytes: int, sealer: Sealer | None = None) -> None:
        """Without a sealer, nothing is sealed and no segment is looked for."""
        self._dimension = dimension
        self._limit_bytes = limit_bytes
        self._sealer = sealer
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
            restart(self, self._restart)
        with self._lock:
            shelf = self._shelves.get(owner)
            if shelf is None:
                shelf = self._shelves[owner] = Shelf(owner, self._dimension, self._sealer)
            self._shelves.move_to_end(owner)
        view = shelf.view(snapshot)
        if shelf.bytes != shelf.charged_bytes:
            self._charge(owner, shelf)
        if shelf.to_seal and self._sealer is not None:
            self._sealer.wake(owner)
        return view

    def _charge(self, owner: Owner, shelf: Shelf) -> None:
        evicted = []  # Their memory is given back when nobody waits for the lock.
        with self._lock:
            if self._shelves.get(owner) is shelf:
                self.bytes += shelf.bytes - shelf.charged_bytes
                shelf.charged_bytes = shelf.bytes
            while self.bytes > self._limit_bytes and len(self._shelves) > 1:
                _, unused = self._shelves.popitem(last=False)
                self.bytes -= unused.charged_bytes
                self.evicted += 1
                evicted.append(unused)

    def drop(self, owners: Iterable[Owner]) -> None:
        """Lets go of the shelves of some owners; the next search loads them anew."""
        with self._lock:
            for owner in owners:
                shelf = self._shelves.pop(owner, None)
                if shelf is not None:
                    self.bytes -= shelf.charged_bytes

    def seal(self) -> None:
        """Has what was found to be sealed sealed, and waits for it."""
        if self._sealer is not None:
            self._sealer.wait()

    def close(self) -> None:
        """Ends the work in the background, within seconds."""
        if self._sealer is not None:
            self._sealer.close()

    def _restart(self) -> None:
        # A thread that stayed behind in a fork may have been changing what is there, or searching a graph.
        abandon(self._shelves)
        self._start()

    def __len__(self) -> int:
        return len(self._shelves)
