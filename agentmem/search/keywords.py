"""Keywords: how well the words of a query are found in each memory of an owner.

BM25 (Robertson and Zaragoza, 2009) with the statistics of the owner's visible memories: nobody else's texts move a
score. There is no inverted index, so there is nothing to keep in order: the terms of all memories lie one behind the
other in two flat arrays, which one pass per query reads, however many terms the query has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

K1 = 0.6
"""How much a further occurrence of a word in a text adds to the first."""

B = 0.4
"""How much a word counts less in a long text."""

MOST_TERMS = 64
"""Of a query that has more known terms, these rarest ones are looked for: they say nearly all that it says."""

Number = TypeVar("Number", bound=np.generic)
Places = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TermsView:
    """The terms of n places. `low` and `high` are the halves of each term, uint16 (all terms,), so that the pass over
    all of them reads half the bytes; `ends` (n,) says where those of a place end."""

    low: npt.NDArray[np.uint16]
    high: npt.NDArray[np.uint16]
    ends: npt.NDArray[np.int64]

    def lengths(self) -> npt.NDArray[np.int64]:
        lengths = self.ends.copy()
        lengths[1:] -= self.ends[:-1]
        return lengths

    def occurrences(self, terms: Sequence[int]) -> tuple[npt.NDArray[np.uint32], Places]:
        """Where any of the terms stands: which of them, and at which place, by place."""
        wanted = np.zeros(65_536, np.bool_)
        wanted[np.array(terms, np.uint32) & 0xFFFF] = True
        positions = np.flatnonzero(wanted.take(self.low))  # Few others, whose lower halves are the same.
        found: npt.NDArray[np.uint32] = self.high[positions].astype(np.uint32) << np.uint32(16)
        found |= self.low[positions]
        return found, np.searchsorted(self.ends, positions, "right")


class Terms:
    """The growing terms of a shelf. Only appended to, or moved into new arrays, so that a view stays true; guarded by
    the lock of its shelf."""

    def __init__(self) -> None:
        self._low = np.empty(0, np.uint16)
        self._high = np.empty(0, np.uint16)
        self._ends = np.empty(0, np.int64)
        self._count = 0
        self._places = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self._low.nbytes + self._high.nbytes + self._ends.nbytes

    def view(self) -> TermsView:
        return TermsView(self._low[: self._count], self._high[: self._count], self._ends[: self._places])

    def append(self, texts: Sequence[bytes]) -> None:
        """Adds places, each with its terms as they are stored."""
        fresh = np.frombuffer(b"".join(texts), "<u4")
        start, end = self._count, self._count + len(fresh)
        self._low, self._high = _room(self._low, start, end), _room(self._high, start, end)
        self._low[start:end] = fresh & 0xFFFF
        self._high[start:end] = fresh >> 16
        first, last = self._places, self._places + len(texts)
        self._ends = _room(self._ends, first, last)
        self._ends[first:last] = start + np.cumsum([len(text) // 4 for text in texts])
        self._count, self._places = end, last

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Leaves out the places where `kept` (n,) is False."""
        view = self.view()
        lengths = view.lengths()
        terms = np.repeat(kept, lengths)
        self._low, self._high = view.low[terms], view.high[terms]
        self._ends = np.cumsum(lengths[kept])
        self._count, self._places = len(self._low), len(self._ends)


def _room(array: npt.NDArray[Number], used: int, needed: int) -> npt.NDArray[Number]:
    """The array, or a copy with room. What grows, grows by a half, so that it is copied a bounded number of times."""
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, len(array) * 3 // 2), array.dtype)
    larger[:used] = array[:used]
    return larger


@dataclass(frozen=True, slots=True)
class Keyword:
    """A word of the query that visible memories have. `share` is its part of what the query asks for: the shares of all
    words, unknown ones too, add up to 1. `strength` (places,), from 0 to 1, says how fully each place has it."""

    word: str
    share: float
    places: Places
    strength: Numbers


def find_keywords(terms: TermsView, visible: npt.NDArray[np.bool_], query: Mapping[int, str]) -> list[Keyword]:
    """Looks the terms of a query up in the places that are `visible` (n,), which are also the statistics.

    The sum over the keywords of share x strength is the BM25 score as a part of the highest that any text could have,
    so that it runs from 0 to 1 and means the same for every query: 0, no word of it is there; 1, all are, endlessly
    often. Weight of a word: ln(1 + (N - n + 0.5) / (n + 0.5)), for n of N memories; strength of f occurrences in a text
    of length l: f / (f + K1 (1 - B + B l / mean l)).
    """
    total = int(np.count_nonzero(visible))
    if not total or not query:
        return []
    lengths = terms.lengths()
    slowness = K1 * (1 - B + B * total / max(1, int(lengths.dot(visible))) * lengths)
    occurring, places_of_all = terms.occurrences(list(query))
    seen = visible[places_of_all]
    occurring, places_of_all = occurring[seen], places_of_all[seen]
    found: list[tuple[float, str, Places, Numbers]] = []
    unknown = 0.0
    for term, word in query.items():
        places = places_of_all[occurring == term]
        if len(places):
            places, counts = _counted(places)
            weight = math.log1p((total - len(places) + 0.5) / (len(places) + 0.5))
            found.append((weight, word, places, (counts / (counts + slowness[places])).astype(np.float32)))
        else:
            unknown += math.log1p((total + 0.5) / 0.5)
    if len(found) > MOST_TERMS:
        found = sorted(found, key=lambda entry: -entry[0])[:MOST_TERMS]
    whole = unknown + sum(weight for weight, *_ in found)
    return [Keyword(word, weight / whole, places, strength) for weight, word, places, strength in found]


def _counted(places: Places) -> tuple[Places, Places]:
    """The different ones of some ascending places, and how often each is there. np.diff would cost thrice as much."""
    if len(places) == 1:
        return places, np.ones(1, np.intp)
    firsts = np.flatnonzero(places[1:] != places[:-1])
    firsts += 1
    starts = np.concatenate(([0], firsts))
    counts = np.concatenate((firsts, [len(places)])) - starts
    return places[starts], counts
