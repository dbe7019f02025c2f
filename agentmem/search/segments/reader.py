"""The sealed part of an index: which of the places of its segments still count.

A memory is where its last change puts it: in the segment (or the unsealed rest) whose range has the number of that
change. Whatever an older segment has of it is dead.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.platform.cpu import usable_cores
from agentmem.search.bm25 import Mask, Statistics
from agentmem.search.segments.file import Segment, Unsound, open_segment
from agentmem.storage.interface import SegmentCatalog, Snapshot
from agentmem.storage.types import Keys, ListedSegment, Owner

NO_KEYS = np.empty(0, np.int64)

COUNTED_ANEW = 256
"""A word at fewer places of a segment is counted as fast as it is looked up."""

COUNTS_KEPT = 4096
"""Words of a segment whose counts are kept, some 200 bytes each."""


class Seen:
    """The visible places of a segment from one moment (`since`) to the next (`until`): `mask` (n,), not to be
    changed."""

    def __init__(self, segment: Segment, live: Mask, moment: int) -> None:
        self._segment = segment
        self.mask, self.since, self.until = live, 0, segment.first_expiry
        if moment >= segment.first_expiry:
            expired = segment.expires_at <= moment
            self.mask = live & ~expired
            self.since = int(segment.expires_at[expired].max())
            self.until = int(segment.expires_at.min(where=~expired, initial=2**63 - 1))
        self.count = int(np.count_nonzero(self.mask))
        self._having: dict[tuple[int, int], int] = {}

    @cached_property
    def _terms(self) -> int:
        return int(self._segment.postings.lengths.sum(where=self.mask, dtype=np.int64))

    def statistics(self, spans: npt.NDArray[np.int64]) -> Statistics:
        """Returns, of these memories, the counts for terms that stand at these spans (t, 2) of the postings."""
        having = spans[:, 1] - spans[:, 0]
        if self.count < len(self.mask):
            having = np.array([self._counted(start, end) for start, end in spans.tolist()], np.int64)
        return Statistics(self.count, self._terms, having)

    def _counted(self, start: int, end: int) -> int:
        known = self._having.get((start, end))
        if known is None:
            known = int(np.count_nonzero(self.mask[self._segment.postings.places[start:end]]))
            if end - start >= COUNTED_ANEW:  # Common words come again, and take longest.
                if len(self._having) >= COUNTS_KEPT:
                    self._having.clear()
                self._having[start, end] = known
        return known


class Part:
    """A segment and its live places, (n,). Not to be changed."""

    def __init__(self, listed: ListedSegment, segment: Segment, live: Mask) -> None:
        self.listed = listed
        self.segment = segment
        self.live = live
        self._seen: Seen | None = None

    def seen(self, moment: int) -> Seen:
        """Returns its visible places at a moment."""
        seen = self._seen
        if seen is None or not seen.since <= moment < seen.until:
            seen = self._seen = Seen(self.segment, self.live, moment)
        return seen

    @property
    def living(self) -> Keys:
        """The keys of its memories, ascending."""
        return self.segment.keys[self.live]

    def holding(self, keys: Keys) -> Mask:
        """Whether each place holds one of these memories (ascending)."""
        found = np.zeros(len(self.live), np.bool_)
        found[self._places_of(keys)] = True
        return found & self.live

    def without(self, keys: Keys) -> "Part":
        """Returns the same after these memories (ascending) have changed."""
        gone = self._places_of(keys)
        if not self.live[gone].any():
            return self
        live = self.live.copy()
        live[gone] = False
        return Part(self.listed, self.segment, live)

    def _places_of(self, keys: Keys) -> npt.NDArray[np.intp]:
        at = np.searchsorted(self.segment.keys, keys)
        places: npt.NDArray[np.intp] = at[self.segment.keys.take(at, mode="clip") == keys]
        return places


class Parts:
    """An owner's parts in the order of their ranges. Not to be changed.

    Their places are numbered in sequence: those of part i from starts[i] on.
    """

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        self._parts = tuple(parts)
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + len(part.segment))

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def __len__(self) -> int:
        """The number of parts."""
        return len(self._parts)

    @property
    def places(self) -> int:
        """The number of places."""
        return self.starts[-1]

    @cached_property
    def lengths(self) -> npt.NDArray[np.uint32]:
        """How many terms each place has, (n,)."""
        return np.concatenate([part.segment.postings.lengths for part in self._parts])

    @property
    def keys(self) -> list[int]:
        """The numbers under which the segments are listed."""
        return [part.listed.key for part in self._parts]

    def without(self, keys: Keys) -> "Parts":
        """Returns the same after these memories (ascending) have changed."""
        parts = [part.without(keys) for part in self._parts]
        if all(new is old for new, old in zip(parts, self._parts, strict=True)):
            return self
        changed = Parts(parts)
        if "lengths" in self.__dict__:
            changed.__dict__["lengths"] = self.lengths
        return changed


Opened = tuple[ListedSegment, Segment]

OPENED_TOGETHER = 4
"""Files whose checksums are compared at once. With more, a disk is no faster."""


def open_all(files: SegmentCatalog, listed: Sequence[ListedSegment]) -> tuple[list[Opened], list[ListedSegment]]:
    """Opens segments; returns the open ones, and those that cannot be used."""
    if not listed:
        return [], []
    from concurrent.futures import ThreadPoolExecutor  # Imported late: only stores with large owners need it.

    def opened(each: ListedSegment) -> Segment | None:
        try:
            return open_segment(files.path_of(each.file), each.checksum)
        except Unsound:
            return None

    try:
        with ThreadPoolExecutor(min(OPENED_TOGETHER, usable_cores()), "agentmem-opener") as pool:
            segments = list(pool.map(opened, listed))
    except RecursionError:
        raise
    except (RuntimeError, MemoryError):  # The system gives no threads, or the interpreter is ending.
        segments = list(map(opened, listed))
    both = list(zip(listed, segments, strict=True))
    return [(each, segment) for each, segment in both if segment], [each for each, segment in both if segment is None]


class Sealed(NamedTuple):
    """The parts of an owner, and the keys that changed in no part's range."""

    parts: Parts
    unsealed: Keys
    holes: bool


def sealed(snapshot: Snapshot, owner: Owner, opened: Sequence[Opened]) -> Sealed:
    """Returns an owner's sealed parts, of these segments in the order of their ranges. It reads no row of a sealed
    memory."""
    # Every range in turn, also the holes before the segments and the rest behind the last.
    blocks: list[Keys] = []
    changes: list[Keys] = []
    after = 0
    for each, segment in opened:
        erased, changed = (
            snapshot.changed(owner, after, each.first - 1) if each.first > after + 1 else (NO_KEYS, NO_KEYS)
        )  # fmt: skip
        changes.append(changed)
        blocks += [np.concatenate((changed, erased)), np.concatenate((segment.keys, segment.changed))]
        after = each.last
    erased, rest = snapshot.changed(owner, after)
    newest = _newest([*blocks, np.concatenate((rest, erased))])
    parts = Parts([
        Part(each, segment, mask[: len(segment)]) for (each, segment), mask in zip(opened, newest[1::2], strict=True)
    ])  # fmt: skip
    holes = [keys[mask[: len(keys)]] for keys, mask in zip(changes, newest[0::2], strict=False)]
    return Sealed(parts, np.concatenate((*holes, rest)), any(map(len, holes)))


def adopted(snapshot: Snapshot, owner: Owner, opened: Opened) -> Part:
    """Returns a segment beside others, with the places that the snapshot says still count in its range."""
    listed, segment = opened
    _, changed = snapshot.changed(owner, listed.first - 1, listed.last)
    whole = Part(listed, segment, np.ones(len(segment), np.bool_))
    return Part(listed, segment, whole.holding(np.sort(changed)))


def has_holes(snapshot: Snapshot, owner: Owner, parts: Parts) -> bool:
    """Whether a change stands last between the ranges of the parts, or before the first."""
    after = 0
    for part in parts:
        first = part.listed.first
        if first > after + 1 and len(snapshot.changed(owner, after, first - 1)[1]):
            return True
        after = part.listed.last
    return False


def _newest(blocks: Sequence[Keys]) -> list[Mask]:
    """Returns which of the keys of each block are in no later one."""
    keys = np.concatenate(blocks)
    order = np.argsort(keys, kind="stable")  # Equal ones in the order of the blocks.
    ordered = keys[order]
    newest = np.ones(len(keys), np.bool_)
    newest[order[:-1]] = ordered[1:] != ordered[:-1]
    return np.split(newest, np.cumsum([len(block) for block in blocks])[:-1])
