"""Shelves: the vectors of one owner in memory, scanned exactly.

A shelf is loaded from the store when its owner is first searched and caught up by `seq` before every search, so that
it sees the commits of every thread and process. Nothing is told to it: adding to an owner that nobody searches costs
nothing. Whatever it proposes is checked against the database afterwards.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt

from agentmem.storage.snapshot import Changes, Keys, Snapshot

Owner = tuple[str, str] | None
"""A field and its value, as in ("user_id", "ana"); None for everybody."""

SLACK = 64
"""Dead places that a shelf may always have; beyond, it is packed anew when a quarter of it is dead."""


@dataclass(frozen=True, slots=True)
class View:
    """A shelf as it stood when it was looked at. `vectors` (n, dimension) float16, the others (n,); a place whose
    `live` is False holds a memory that changed or went away."""

    keys: Keys
    vectors: npt.NDArray[np.float16]
    live: npt.NDArray[np.bool_]
    expires_at: Keys

    def scores(self, query: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        """The cosine of each place's vector and the query's (dimension,), both of unit length."""
        if not len(self.keys):
            return np.empty(0)
        scores: npt.NDArray[np.float64] = np.asarray(numkong.cdist(query[np.newaxis], self.vectors, "dot"), np.float64)
        return scores.reshape(-1)


class Shelf:
    """The vectors of one owner. Places are only appended to and marked dead, so that a view stays true to its moment
    while others go on; `view` may be called from any thread."""

    def __init__(self, owner: Owner, dimension: int) -> None:
        self._owner = owner
        self._dimension = dimension
        # Guards: everything below. Held while the changes are read, so that threads that arrive together at a new
        # shelf load it once instead of each for itself.
        self._lock = threading.Lock()
        self._seq = 0
        self._count = 0
        self._dead = 0
        self._newest_key = 0
        self.charged_bytes = 0  # What Shelves counts for this shelf; guarded by the lock of Shelves.
        self._allocate(0)

    def _allocate(self, capacity: int) -> None:
        self._keys = np.empty(capacity, np.int64)
        self._vectors = np.empty((capacity, self._dimension), np.float16)
        self._live = np.empty(capacity, np.bool_)
        self._expires_at = np.empty(capacity, np.int64)

    @property
    def bytes(self) -> int:
        return self._keys.nbytes + self._vectors.nbytes + self._live.nbytes + self._expires_at.nbytes

    def view(self, snapshot: Snapshot) -> View:
        """The shelf with at least every change that the snapshot sees (perhaps newer ones, of other threads)."""
        seq = snapshot.seq()
        with self._lock:
            if seq > self._seq:
                self._apply(snapshot.changes(self._owner, self._seq))
                self._seq = seq
            end = self._count
            return View(self._keys[:end], self._vectors[:end], self._live[:end], self._expires_at[:end])

    def _apply(self, changes: Changes) -> None:
        known = changes.keys[changes.keys <= self._newest_key]
        if len(known):
            places = np.flatnonzero(np.isin(self._keys[: self._count], known) & self._live[: self._count])
            self._live[places] = False
            self._dead += len(places)
        fresh = changes.keys[changes.live]
        if len(fresh):
            self._reserve(len(fresh))
            start, end = self._count, self._count + len(fresh)
            self._keys[start:end] = fresh
            self._vectors[start:end] = np.frombuffer(b"".join(changes.vectors), "<f2").reshape(-1, self._dimension)
            self._expires_at[start:end] = changes.expires_at[changes.live]
            self._live[start:end] = True
            self._count = end
            self._newest_key = max(self._newest_key, int(fresh.max()))
        if self._dead > SLACK and self._dead * 4 > self._count:
            self._move(self._count - self._dead, self._live[: self._count].copy())

    def _reserve(self, more: int) -> None:
        needed = self._count + more
        if needed > len(self._keys):
            # The first load fits exactly; what grows, grows by a half, so that it is copied a bounded number of times.
            self._move(max(needed, len(self._keys) * 3 // 2), np.ones(self._count, np.bool_))

    def _move(self, capacity: int, kept: npt.NDArray[np.bool_]) -> None:
        """Into new arrays: views that are being scanned keep the old ones."""
        old: tuple[npt.NDArray[Any], ...] = (self._keys, self._vectors, self._live, self._expires_at)
        count = int(kept.sum())
        self._allocate(capacity)
        new: tuple[npt.NDArray[Any], ...] = (self._keys, self._vectors, self._live, self._expires_at)
        for source, target in zip(old, new, strict=True):
            target[:count] = source[: len(kept)][kept]
        self._count = count
        self._dead = count - int(self._live[:count].sum())


class Shelves:
    """The shelves of the owners searched last, within a number of bytes; may be called from any thread."""

    def __init__(self, dimension: int, limit_bytes: int) -> None:
        self._dimension = dimension
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()  # Guards: _shelves and its order, bytes, evicted.
        self._shelves: OrderedDict[Owner, Shelf] = OrderedDict()
        self.bytes = 0
        self.evicted = 0

    def view(self, owner: Owner, snapshot: Snapshot) -> View:
        """The shelf of an owner, loaded or caught up; shelves not used for longest make room for it."""
        with self._lock:
            shelf = self._shelves.get(owner)
            if shelf is None:
                shelf = self._shelves[owner] = Shelf(owner, self._dimension)
            self._shelves.move_to_end(owner)
        view = shelf.view(snapshot)
        with self._lock:
            if self._shelves.get(owner) is shelf:
                self.bytes += shelf.bytes - shelf.charged_bytes
                shelf.charged_bytes = shelf.bytes
            while self.bytes > self._limit_bytes and len(self._shelves) > 1:
                _, evicted = self._shelves.popitem(last=False)
                self.bytes -= evicted.charged_bytes
                self.evicted += 1
        return view

    def __len__(self) -> int:
        return len(self._shelves)
