"""Keywords: how well the words of a query are found in each memory of an owner.

BM25 (Robertson and Zaragoza, 2009) with the statistics of the owner's visible memories: nobody else's texts move a
score. There is no inverted index, so there is nothing to keep in order: the terms of all memories lie one behind the
other in two flat arrays, which one pass per query reads, however many terms the query has.
"""

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
Mask = npt.NDArray[np.bool_]


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

    def append(self, first: int, terms: npt.NDArray[np.uint32], counts: npt.NDArray[np.int64]) -> None:
        """Adds places from the `first` on (others than so many may be of an attempt that an error ended), each with as
        many of the terms (all terms,) as `counts` (places,) says."""
        start = int(self._ends[first - 1]) if first else 0
        end, last = start + len(terms), first + len(counts)
        self._low, self._high = _room(self._low, start, end), _room(self._high, start, end)
        self._low[start:end] = terms & 0xFFFF
        self._high[start:end] = terms >> 16
        self._ends = _room(self._ends, first, last)
        self._ends[first:last] = start + np.cumsum(counts)
        self._count, self._places = end, last

    def keep(self, kept: Mask) -> None:
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
class Keywords:
    """The words of a query that visible memories have: t words, found p times. The shares of all words of the query,
    unknown ones too, add up to 1.

    Attributes:
        words: the t words.
        shares: float64 (t,), the part of what the query asks for that each word is.
        word, place: (p,), which word was found where; by place, each pair once.
        strength: float32 (p,), from 0 to 1, how fully the place has the word.
    """

    words: list[str]
    shares: npt.NDArray[np.float64]
    word: Places
    place: Places
    strength: Numbers

    def among(self, where: Places) -> "Keywords":
        """What was found at the candidates: `where` tells the candidate at a place, or -1; `place` becomes the
        candidate."""
        at = where[self.place]
        kept = at >= 0
        return Keywords(self.words, self.shares, self.word[kept], at[kept], self.strength[kept])

    def at(self, place: int) -> list[tuple[str, float]]:
        """The words that stand at a place, with what they add to its score."""
        start, end = np.searchsorted(self.place, (place, place + 1))
        return [
            (self.words[word], float(self.shares[word]) * float(strength))
            for word, strength in zip(self.word[start:end].tolist(), self.strength[start:end].tolist(), strict=True)
        ]


NOTHING = np.empty(0, np.intp)
ZERO = np.zeros(1, np.intp)


def find_keywords(terms: TermsView, visible: Mask, query: Mapping[int, str]) -> Keywords:
    """Looks the terms of a query up in the places that are `visible` (n,), which are also the statistics.

    The sum of share x strength at a place is its BM25 score as a part of the highest that any text could have, so that
    it runs from 0 to 1 and means the same for every query: 0, no word of it is there; 1, all are, endlessly often.
    Weight of a word: ln(1 + (N - n + 0.5) / (n + 0.5)), for n of N memories; strength of f occurrences in a text of
    length l: f / (f + K1 (1 - B + B l / mean l)).
    """
    total = int(np.count_nonzero(visible))
    if not total or not query:
        return Keywords([], np.empty(0), NOTHING, NOTHING, np.empty(0, np.float32))
    occurring, places = terms.occurrences(list(query))
    sought = np.fromiter(query, np.uint32)
    by_term = np.argsort(sought)
    nearest = np.searchsorted(sought, occurring, sorter=by_term)
    word = by_term.take(nearest, mode="clip")
    seen = visible[places] & (sought[word] == occurring)
    # A number for each pair of place and word, so that all words are counted at once.
    pairs, counts = _counted(places[seen] * len(sought) + word[seen])
    place, word = np.divmod(pairs, len(sought))
    memories = np.bincount(word, minlength=len(sought))  # That have each word.
    weights = np.log1p((total - memories + 0.5) / (memories + 0.5))
    shares = weights / weights.sum()
    looked_for = memories > 0
    if (surplus := int(np.count_nonzero(looked_for)) - MOST_TERMS) > 0:
        looked_for[np.argsort(np.where(looked_for, weights, np.inf), kind="stable")[:surplus]] = False
        shares = weights / weights[looked_for | (memories == 0)].sum()
        kept = looked_for[word]
        word, place, counts = word[kept], place[kept], counts[kept]
    lengths = terms.lengths()
    slowness = K1 * (1 - B) + K1 * B * total / max(1, int(lengths.dot(visible))) * lengths[place]
    return Keywords(
        [text for text, is_known in zip(query.values(), looked_for.tolist(), strict=True) if is_known],
        shares[looked_for],
        (np.cumsum(looked_for) - 1)[word],
        place,
        (counts / (counts + slowness)).astype(np.float32),
    )


def _counted(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The different ones, ascending, and how often each is there; np.unique does more and takes thrice as long."""
    if not len(numbers):
        return numbers, numbers
    numbers.sort()
    later = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    firsts = np.concatenate((ZERO, later))
    return numbers[firsts], np.append(later, len(numbers)) - firsts
