"""Jobs: which segment of an owner is built next."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from agentmem.storage.types import ListedSegment

DEAD_SHARE = 0.2
"""Dead share of a segment at which it is rebuilt."""

SMALL_SHARE = 0.5
"""Share of a full segment; two neighbours that are smaller together are joined."""


class Job(NamedTuple):
    """A segment to build: of the changes from `first` to `last`, in place of others."""

    first: int
    last: int
    replaced: tuple[ListedSegment, ...] = ()
    with_graph: bool = True


class Range(NamedTuple):
    """A listed segment, or a range that none covers, and the number of its memories that still exist."""

    first: int
    last: int
    listed: ListedSegment | None
    live: int

    @property
    def is_sound(self) -> bool:
        return self.listed is not None and self.listed.places - self.live <= DEAD_SHARE * self.listed.places


def next_job(ranges: Sequence[Range], size: int) -> Job | None:
    """Returns the next segment to build, of ranges that follow each other; None when all is well.

    Holes come first, then ranges that are dead for a good part, then small ones, then those without a graph. Segments
    grow to `size` memories at most.
    """
    for at, each in enumerate(ranges):
        if each.is_sound:
            continue
        # With its neighbours, as far as they fit into one.
        group = [each]
        for following in ranges[at + 1 :]:
            if sum(member.live for member in group) + following.live > size * SMALL_SHARE:
                break
            group.append(following)
        return _joined(group)
    for pair in pairwise(ranges):
        if sum(each.live for each in pair) <= size * SMALL_SHARE:
            return _joined(pair)
    for each in ranges:
        if each.listed and not each.listed.has_graph:
            return _joined([each])
    return None


def _joined(ranges: Sequence[Range]) -> Job:
    return Job(ranges[0].first, ranges[-1].last, tuple(each.listed for each in ranges if each.listed))
