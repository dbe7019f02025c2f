"""The sealed part of a shelf: which of the places of its segments still count.

A memory is where its last change puts it: in the segment (or the unsealed rest) whose range has the number of that
change. Whatever an older segment has of it is dead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agentmem.search.keywords import Mask
from agentmem.search.segments import Segment, Unsound, open_segment
from agentmem.storage.segments import Segments
from agentmem.storage.snapshot import Keys, ListedSegment, Owner, Snapshot

NONE = np.empty(0, np.int64)


class Part(NamedTuple):
    """A segment and which of its places live, (n,). Not to be changed."""

    listed: ListedSegment
    segment: Segment
    live: Mask

    def at(self, keys: Keys) -> Mask:
        """Which of the places are these memories (ascending)."""
        found = np.zeros(len(self.live), np.bool_)
        if len(keys):
            near = np.minimum(np.searchsorted(keys, self.segment.keys), len(keys) - 1)
            found = (keys[near] == self.segment.keys) & self.live
        return found

    def without(self, keys: Keys) -> "Part":
        """The same after these memories (ascending) have changed."""
        at = np.minimum(np.searchsorted(self.segment.keys, keys), len(self.segment) - 1)
        gone = at[self.segment.keys[at] == keys]
        if not self.live[gone].any():
            return self
        live = self.live.copy()
        live[gone] = False
        return self._replace(live=live)


class Sealed(NamedTuple):
    """The parts of an owner in the order of their ranges, and the keys of what changed in no part's range."""

    parts: tuple[Part, ...]
    unsealed: Keys
    holes: bool


def sealed(
    snapshot: Snapshot, owner: Owner, files: Segments, listed: Sequence[ListedSegment], present: Sequence[Part]
) -> tuple[Sealed, list[ListedSegment]]:
    """What an owner has sealed by now, of the segments that are listed, and which of these cannot be used; those that
    are `present` are open already."""
    open_already = {part.listed.file: part.segment for part in present}
    usable: list[tuple[ListedSegment, Segment]] = []
    unusable: list[ListedSegment] = []
    for each in listed:
        try:
            segment = open_already.get(each.file) or open_segment(files.path_of(each.file), each.checksum)
            usable.append((each, segment))
        except Unsound:
            unusable.append(each)
    # Every range in turn, also the holes before the segments and the rest behind the last.
    blocks: list[Keys] = []
    changes: list[Keys] = []
    after = 0
    for each, segment in usable:
        erased, changed = snapshot.changed(owner, after, each.first - 1) if each.first > after + 1 else (NONE, NONE)
        changes.append(changed)
        blocks += [np.concatenate((changed, erased)), np.concatenate((segment.keys, segment.changed))]
        after = each.last
    erased, rest = snapshot.changed(owner, after)
    newest = _newest([*blocks, np.concatenate((rest, erased))])
    parts = tuple(
        Part(each, segment, mask[: len(segment)]) for (each, segment), mask in zip(usable, newest[1::2], strict=True)
    )
    holes = [keys[mask[: len(keys)]] for keys, mask in zip(changes, newest[0::2], strict=False)]
    return Sealed(parts, np.concatenate((*holes, rest)), any(map(len, holes))), unusable


def _newest(blocks: Sequence[Keys]) -> list[Mask]:
    """Which of the keys of each block are in no later one."""
    keys = np.concatenate(blocks)
    order = np.argsort(keys, kind="stable")  # Equal ones in the order of the blocks.
    ordered = keys[order]
    newest = np.ones(len(keys), np.bool_)
    newest[order[:-1]] = ordered[1:] != ordered[:-1]
    return np.split(newest, np.cumsum([len(block) for block in blocks])[:-1])
