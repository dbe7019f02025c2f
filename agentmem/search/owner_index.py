"""Owner index: the vectors and the terms of one owner in memory, scanned exactly.

An index is loaded from the store when its owner is first searched and caught up by `seq` before every search, so that
it sees the commits of every thread and process. Writers do not notify it, so adding to an owner that is never searched
costs nothing. Every memory that it proposes is checked against the database afterwards.
"""

import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agentmem.errors import REPAIR_HINT, AgentMemError, StoreDamagedError
from agentmem.platform.signals import Lock
from agentmem.search.bm25 import Mask, Terms, asking
from agentmem.search.index_view import FILTERS_KEPT, Answers, IndexView
from agentmem.search.kernels import in_steps
from agentmem.search.runs import run_numbers
from agentmem.search.segments.builder import Sealer
from agentmem.search.segments.compaction import DEAD_SHARE
from agentmem.search.segments.reader import NO_KEYS, Opened, Parts, adopted, has_holes, open_all, sealed
from agentmem.storage.interface import Snapshot
from agentmem.storage.types import Keys, ListedSegment, Owner, States

VIEW_BYTES = 25 + FILTERS_KEPT
"""What a view adds a place: two lists of places, the number of its terms, and flags."""

SEALED_BYTES = 5 + FILTERS_KEPT
"""What a sealed memory takes: how many terms it has, and flags."""

INDEX_BYTES = 10_240
"""What an index takes beside its places: its objects, and the answers of filters. Measured as the growth of RSS over
5,000 owners with one memory each: 4.7 KB, and 4.9 KB more when eight filters were asked of each."""

MAPPED_BYTES = 65_536
"""Of an array, from which on it is a mapping of its own, whose pages are a sixteenth of that."""

FILLED_TOGETHER = 2048
"""Memories whose fast halves are made between two looks at the deadline; some 70 ms."""

FastVectors = Callable[[Sequence[str]], Sequence[bytes | AgentMemError]]
"""Makes the fast halves of the vectors of texts, each as float16 bytes in all dimensions."""

SLACK = 64
"""Dead places that an index may always have; beyond, it is packed anew when a quarter of it is dead."""


class Unsealed(Exception):
    """The unsealed memories of an owner fill segments. They are written before the owner is searched, because they may
    not fit into memory. See `IndexCache.seal_tail`."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self.owner = owner


class OwnerIndex:
    """The memories of one owner, as far as a search looks at them. Places are only appended to and marked dead, so that
    a view stays true to its moment while others go on; `view` may be called from any thread."""

    def __init__(
        self, owner: Owner, dimension: int, sealer: Sealer | None, fast: FastVectors | None, *, in_int8: bool
    ) -> None:
        self._owner = owner
        self._sealer = sealer
        self._fast = fast
        self._columns: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "keys": (np.int64, ()), "vectors": (np.int8 if in_int8 else np.float16, (dimension,)),
            "embedded": (np.bool_, ()), "whole": (np.bool_, ()), "live": (np.bool_, ()), "created_at": (np.int64, ()),
            "expires_at": (np.int64, ()), "runs": (np.int64, ()), "asks": (np.bool_, ()),
        }  # fmt: skip
        if in_int8:
            self._columns["steps"] = (np.float32, ())
        # Guards: everything below. Held while the changes are read, so that threads that arrive together at a new
        # index load it once instead of each for itself.
        self._lock = Lock()
        self._reset()
        self.charged_bytes = 0  # What IndexCache counts for this index; guarded by the lock of IndexCache.
        self.to_seal = False
        self.is_empty = False
        self.bytes = 0

    def _reset(self) -> None:
        """Has it be one that has not begun."""
        self._view: IndexView | None = None
        self._seq = 0
        self._count = self._dead = self._newest_key = 0
        self._arrays, self._terms, self._answers = self._allocated(0), Terms(), Answers()
        self._bare: list[Keys] = []  # The places that a fast half could be made for, and is not.
        self._parts, self._has_holes = Parts(), False
        self._segments = -1  # Of the list of segments, as it was looked at last.

    def _allocated(self, capacity: int) -> dict[str, npt.NDArray[Any]]:
        return {name: _allocated((capacity, *shape), kind) for name, (kind, shape) in self._columns.items()}

    @property
    def last_view(self) -> IndexView | None:
        """The view of the last search, unless something has changed since."""
        return self._view

    def view(self, snapshot: Snapshot, *, for_vectors: bool = True) -> IndexView:
        """The index with at least every change that the snapshot sees (perhaps newer ones, of other threads). With a
        model that has a fast half, and `for_vectors`, pending memories have that of their vectors.

        Raises:
            Unsealed: there is too much to load.
        """
        seq = snapshot.seq
        with self._lock:
            if seq > self._seq:
                if self._seq:
                    self._catch_up(snapshot)
                else:
                    self._begin(snapshot)
            if self._sealer is not None and snapshot.segments != self._segments and seq >= self._seq:
                self._adopt(snapshot)
            if for_vectors and self._bare:
                self._fill(snapshot)
            if self._view is None:
                columns = {name: array[: self._count] for name, array in self._arrays.items()}
                self._view = IndexView(self._seq, columns, self._terms.view(), self._parts, self._answers)
                self.to_seal = self._is_to_seal()
                held = sum(array[: self._count].nbytes for array in self._arrays.values())
                self.bytes = (
                    INDEX_BYTES + held + self._terms.size + VIEW_BYTES * self._count
                    + SEALED_BYTES * self._parts.places
                )  # fmt: skip
                self.is_empty = self._count == self._dead and not len(self._parts)
            return self._view

    def _begin(self, snapshot: Snapshot) -> None:
        """Loads all of the owner that is not sealed."""
        present = {part.listed.key: (part.listed, part.segment) for part in self._parts}
        listed = snapshot.listed_segments(self._owner) if snapshot.segments and self._sealer else []
        fresh = self._opened([each for each in listed if each.key not in present])
        opened = sorted([*fresh, *(present[each.key] for each in listed if each.key in present)], key=_first)
        found = sealed(snapshot, self._owner, opened)
        if self._sealer is not None and len(found.unsealed) >= self._sealer.size and self._sealer.can_seal(self._owner):
            raise Unsealed(self._owner)
        self._reset()
        self._load(snapshot, found.unsealed)
        self._parts, self._has_holes = found.parts, found.holes
        self._segments, self._seq = snapshot.segments, snapshot.seq
        if self._sealer is not None and self._count < self._sealer.size:
            self._sealer.give_up(self._owner, whether=False)

    def _opened(self, listed: Sequence[ListedSegment]) -> list[Opened]:
        """Those of the segments that can be used; the others are to be made anew."""
        if not listed or self._sealer is None:
            return []
        ready = self._sealer.take_ready(listed)
        known = {each.key for each, _ in ready}
        opened, unusable = open_all(self._sealer.files, [each for each in listed if each.key not in known])
        if unusable:
            self._sealer.discard(unusable)
        return sorted([*ready, *opened], key=_first)

    def _catch_up(self, snapshot: Snapshot) -> None:
        erased, changed = snapshot.changed(self._owner, self._seq)
        if self._sealer is not None and len(changed) >= self._sealer.size:
            self._begin(snapshot)
            return
        if len(erased) or len(changed):
            self._view = None
            gone = np.concatenate((erased, changed))
            self._parts = self._parts.without(np.sort(gone))
            self._forget(gone)
            self._load(snapshot, changed)
        self._seq = snapshot.seq

    def _adopt(self, snapshot: Snapshot) -> None:
        """Looks at the list of segments, which has changed; of what is sealed now the index lets go."""
        listed = snapshot.listed_segments(self._owner)
        if [each.key for each in listed] != self._parts.keys:  # Else those of others have changed.
            try:
                self._exchange(snapshot, listed)
            except BaseException:
                self._reset()  # It would lack what it was about to let go of.
                raise
        self._segments = snapshot.segments

    def _exchange(self, snapshot: Snapshot, listed: Sequence[ListedSegment]) -> None:
        """Has these be the parts."""
        left = {part.listed.key: part for part in self._parts}
        kept = [left.pop(each.key) for each in listed if each.key in left]
        known = {part.listed.key for part in kept}
        fresh = [
            adopted(snapshot, self._owner, each)
            for each in self._opened([each for each in listed if each.key not in known])
        ]
        sealed_now = np.concatenate([NO_KEYS, *(part.living for part in fresh)])
        homeless = np.setdiff1d(np.concatenate([NO_KEYS, *(part.living for part in left.values())]), sealed_now)
        self._view = None
        self._forget(sealed_now)
        self._load(snapshot, homeless)
        self._parts = Parts(sorted([*kept, *fresh], key=lambda part: part.listed.first))
        self._has_holes = has_holes(snapshot, self._owner, self._parts)
        self._answers = Answers()

    def _is_to_seal(self) -> bool:
        """Whether the sealer would find something to do."""
        return self._sealer is not None and (
            self._count - self._dead >= self._sealer.size
            or self._has_holes
            or any(
                not part.segment.has_graph or np.count_nonzero(part.live) < (1 - DEAD_SHARE) * len(part.live)
                for part in self._parts
            )
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
            self._bare = [(np.cumsum(kept) - 1)[places[kept[places]]] for places in self._bare]
            self._terms.keep(kept)
            self._move(self._count - self._dead, kept)
            self._answers = Answers()

    def _append(self, fresh: States) -> None:
        self._reserve(len(fresh.keys))
        start, end = self._count, self._count + len(fresh.keys)
        arrays = {name: array[start:end] for name, array in self._arrays.items()}
        for name in {"vectors", "steps"} & set(arrays):
            arrays[name][~fresh.embedded] = 0
        vectors = fresh.vectors
        if vectors.size != np.count_nonzero(fresh.embedded) * arrays["vectors"].shape[1]:
            raise StoreDamagedError(
                "What the rows of some vectors hold makes no sense (they have another size than the model's), so that "
                f"the file is damaged; {REPAIR_HINT}."
            )
        vectors = vectors.reshape(-1, arrays["vectors"].shape[1])
        if "steps" in arrays:
            arrays["vectors"][fresh.embedded], arrays["steps"][fresh.embedded] = in_steps(vectors)
        else:
            arrays["vectors"][fresh.embedded] = vectors
        arrays["keys"][:] = fresh.keys
        arrays["embedded"][:] = fresh.embedded
        arrays["whole"][:] = fresh.embedded if self._fast is not None else True
        if self._fast is not None and not fresh.embedded.all():
            self._bare.append(start + np.flatnonzero(~fresh.embedded))
        arrays["live"][:] = True
        arrays["created_at"][:] = fresh.created_at
        arrays["expires_at"][:] = fresh.expires_at
        arrays["runs"][:] = run_numbers(fresh.runs)
        arrays["asks"][:] = asking(fresh.terms, fresh.term_counts)
        self._terms.append(start, fresh.terms, fresh.term_counts)
        self._count = end
        self._newest_key = max(self._newest_key, int(fresh.keys.max()))

    def _fill(self, snapshot: Snapshot) -> None:
        """Makes the fast halves of what has no vector, where that is still to come; of the rest it never will."""
        arrays = self._arrays
        places = np.concatenate(self._bare)
        places = places[arrays["live"][places]]
        waiting = snapshot.unembedded(self._owner, arrays["keys"][places])
        self._view = None
        for name in ("embedded", "whole"):  # Views that are being searched keep the old ones.
            arrays[name] = arrays[name].copy()
        arrays["whole"][places] = True
        texts = {place: waiting[key] for place in places.tolist() if (key := int(arrays["keys"][place])) in waiting}
        wanted = list(texts)
        arrays["whole"][wanted] = False
        for start in range(0, len(wanted), FILLED_TOGETHER):
            if start and snapshot.deadline is not None:
                snapshot.deadline.check()
            some = wanted[start : start + FILLED_TOGETHER]
            self._put_fast(some, [texts[place] for place in some])
        self._bare = []  # Last: when the model cannot be loaded, the next search tries again.

    def _put_fast(self, places: list[int], texts: list[str]) -> None:
        assert self._fast is not None
        arrays = self._arrays
        found = [
            (place, each) for place, each in zip(places, self._fast(texts), strict=True) if isinstance(each, bytes)
        ]
        if not found:
            return
        at = [place for place, _ in found]
        vectors = np.frombuffer(b"".join(each for _, each in found), "<f2").reshape(len(at), -1)
        if "steps" in arrays:
            arrays["vectors"][at], arrays["steps"][at] = in_steps(vectors)
        else:
            arrays["vectors"][at] = vectors
        arrays["embedded"][at] = True

    def _reserve(self, more: int) -> None:
        needed, capacity = self._count + more, len(self._arrays["keys"])
        if needed > capacity:
            # What grows, grows by a half, so that it is copied a bounded number of times; beside segments all at once,
            # since it will grow until it is one. What is not used yet takes no memory.
            full = self._sealer.size if self._sealer is not None and len(self._parts) else 0
            self._move(max(needed, capacity * 3 // 2, full), None)

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


def _allocated(shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
    """Returns an array that gives its memory back to the system when it is freed. The allocator would keep much of the
    memory of indexes that come and go (measured in perf/README.md)."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < MAPPED_BYTES:
        return np.empty(shape, kind)
    return np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), kind).reshape(shape)


def _first(opened: Opened) -> int:
    return opened[0].first
