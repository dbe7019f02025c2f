"""Keywords: how well the words of a query are found in each memory of an owner.

BM25 (Robertson and Zaragoza, 2009) with the statistics of the owner's visible memories: no other owner's texts
move a score. There is no inverted index to keep in order. The terms of all memories lie one behind the other in two
flat arrays. One pass per query reads them, however many terms the query has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from agentmem.analyzer import ASKS

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

    def occurrences(self, terms: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], Places]:
        """Where any of the terms stands: which of them, and at which place, by place."""
        wanted = np.zeros(65_536, np.bool_)
        wanted[terms & 0xFFFF] = True
        positions = np.flatnonzero(wanted.take(self.low))  # Few others, whose lower halves are the same.
        found: npt.NDArray[np.uint32] = self.high[positions].astype(np.uint32) << np.uint32(16)
        found |= self.low[positions]
        return found, np.searchsorted(self.ends, positions, "right")


class Terms:
    """The growing terms of an index. Only appended to, or moved into new arrays, so that a view stays true; guarded by
    the lock of its index."""

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
        """Adds places from the `first` on. Each takes as many of the terms (all terms,) as `counts` (places,) says.

        Places at and behind `first` are of an attempt that an error ended, and are overwritten.
        """
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


def asking(terms: npt.NDArray[np.uint32], counts: npt.NDArray[np.int64]) -> Mask:
    """Returns which of the places (n,) ask something. Each has as many of the terms as `counts` says."""
    marks = np.flatnonzero(terms == ASKS)
    asks = np.zeros(len(counts), np.bool_)
    asks[np.searchsorted(np.cumsum(counts), marks, "right")] = True
    return asks


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
        here = np.flatnonzero(self.place == place)
        return [
            (self.words[word], float(self.shares[word]) * float(strength))
            for word, strength in zip(self.word[here].tolist(), self.strength[here].tolist(), strict=True)
        ]


NOTHING = np.empty(0, np.intp)
ZERO = np.zeros(1, np.intp)
NO_KEYWORDS = Keywords([], np.empty(0), NOTHING, NOTHING, np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Found:
    """Where terms stand, (p,): which of those sought, at which place, and how often; each pair once."""

    word: Places
    place: Places
    count: Places


class Statistics(NamedTuple):
    """Of an owner's visible memories, or of some: how many they are, how many terms they have in all, and how many of
    them have each of the t terms of a query, int64 (t,)."""

    memories: int
    terms: int
    having: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sought:
    """The terms that a search looks for: those of the query's q words first, then those near them.

    Attributes:
        words: the q words.
        terms: uint32 (t,), all different.
        starts: (t + 1,); the links of term i are those from starts[i] to starts[i + 1].
        word: (l,) the word that the term stands for, of each link.
        factor: (l,) how much it counts as that word, 1 for the word itself.
    """

    words: list[str]
    terms: npt.NDArray[np.uint32]
    starts: Places
    word: Places
    factor: Numbers

    def __len__(self) -> int:
        return len(self.terms)

    @classmethod
    def of(cls, words: Mapping[int, str], near: Sequence[tuple[int, int, float]] = ()) -> "Sought":
        """Returns it for the terms of a query with their words, and links to further terms: the term, the number of
        the word, the factor."""
        links: dict[int, list[tuple[int, float]]] = {term: [(at, 1.0)] for at, term in enumerate(words)}
        for term, at, factor in near:
            links.setdefault(term, []).append((at, factor))
        flat = [link for several in links.values() for link in several]
        return cls(
            list(words.values()),
            np.fromiter(links, np.uint32, len(links)),
            np.cumsum([0, *map(len, links.values())]),
            np.array([at for at, _ in flat], np.intp),
            np.array([factor for _, factor in flat], np.float32),
        )

    @property
    def is_plain(self) -> bool:
        """Whether each term is a word of the query, and nothing else."""
        return len(self.word) == len(self.words)


NOTHING_SOUGHT = Sought.of({})


@dataclass(frozen=True, slots=True)
class Weights:
    """What each word of a query counts, and what it is worth at a place.

    Attributes:
        sought: the terms.
        words: the w words that are looked for: visible memories have them or near ones, and they are not too many.
        numbers: (q,), which of these each word of the query is; -1: none.
        shares: float64 (w,), the part of what the query asks for that each is.
        ground, slope: how much a place holds against a word, and how much for each of its terms.
    """

    sought: Sought
    words: list[str]
    numbers: Places
    shares: npt.NDArray[np.float64]
    ground: float
    slope: float

    def strength(self, counts: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Numbers:
        """Returns, from 0 to 1, how fully places of these lengths have a term that stands there so often."""
        slowness = self.ground + self.slope * lengths
        strength: Numbers = (counts / (counts + slowness)).astype(np.float32)
        return strength

    def keywords(self, found: Found, lengths: npt.NDArray[Any]) -> Keywords:
        """Returns the words that were found, with their strength; `lengths` (p,) are those of the places. Of a word and
        the words near it that stand at one place, the strongest counts."""
        strength = self.strength(found.count, lengths)
        if self.sought.is_plain:
            word, place = self.numbers[found.word], found.place
            if len(self.words) < len(self.numbers):
                kept = word >= 0
                word, place, strength = word[kept], place[kept], strength[kept]
            return Keywords(self.words, self.shares, word, place, strength)
        starts = self.sought.starts[found.word]
        several = self.sought.starts[found.word + 1] - starts
        hit = np.repeat(np.arange(len(starts)), several)
        link = np.arange(len(hit)) + np.repeat(starts - (np.cumsum(several) - several), several)
        word = self.numbers[self.sought.word[link]]
        # One number for each pair of place and word, with the strength below it: the last of a pair is its strongest.
        keys = (found.place[hit] * len(self.words) + word).astype(np.uint64) << np.uint64(32)
        keys |= (self.sought.factor[link] * strength[hit]).view(np.uint32)
        keys = keys[word >= 0]
        keys.sort()
        pairs = (keys >> np.uint64(32)).astype(np.intp)
        last = np.flatnonzero(np.append(pairs[1:] != pairs[:-1], True)) if len(pairs) else NOTHING
        place, word = np.divmod(pairs[last], max(1, len(self.words)))
        return Keywords(self.words, self.shares, word, place, keys[last].astype(np.uint32).view(np.float32))


def find_keywords(terms: TermsView, lengths: npt.NDArray[np.int64], visible: Mask, sought: Sought) -> Keywords:
    """Looks terms up in the places that are `visible` (n,), which are also the statistics."""
    if not len(sought) or not visible.any():
        return NO_KEYWORDS
    found = find_terms(terms, visible, sought.terms)
    weights = weigh([statistics_of(found, visible, lengths, len(sought))], sought)
    return weights.keywords(found, lengths[found.place])


def find_terms(terms: TermsView, visible: Mask, sought: npt.NDArray[np.uint32]) -> Found:
    """Where the terms (t,) stand among the visible places, by place."""
    occurring, places = terms.occurrences(sought)
    by_term = np.argsort(sought)
    nearest = np.searchsorted(sought, occurring, sorter=by_term)
    word = by_term.take(nearest, mode="clip")
    seen = visible[places] & (sought[word] == occurring)
    # A number for each pair of place and word, so that all words are counted at once.
    pairs, counts = _counted(places[seen] * len(sought) + word[seen])
    place, word = np.divmod(pairs, len(sought))
    return Found(word, place, counts)


def statistics_of(found: Found, visible: Mask, lengths: npt.NDArray[np.int64], sought: int) -> Statistics:
    """Returns the statistics of the visible places (n,), by what was found there of the terms sought."""
    having = np.bincount(found.word, minlength=sought)
    return Statistics(int(np.count_nonzero(visible)), int(lengths.dot(visible)), having)


def weigh(statistics: Sequence[Statistics], sought: Sought) -> Weights:
    """What the words of a query count among all memories that the statistics are of.

    The sum of share x strength at a place is its BM25 score as a part of the highest that any text could have, so that
    it runs from 0 to 1 and means the same for every query: 0, no word of it is there; 1, all are, endlessly often.
    Weight of a word: ln(1 + (N - n + 0.5) / (n + 0.5)), for n of N memories; strength of f occurrences in a text of
    length l: f / (f + K1 (1 - B + B l / mean l)).
    """
    memories = sum(each.memories for each in statistics)
    terms = sum(each.terms for each in statistics)
    by_term = np.sum([each.having for each in statistics], axis=0)
    having = by_term[: len(sought.words)]
    weights = np.log1p((memories - having + 0.5) / (having + 0.5))
    looked_for = having > 0
    if not sought.is_plain:
        looked_for[sought.word[np.repeat(by_term > 0, np.diff(sought.starts))]] = True
    dropped = np.zeros(len(weights), np.bool_)
    if (surplus := int(np.count_nonzero(looked_for)) - MOST_TERMS) > 0:
        dropped[np.argsort(np.where(looked_for, weights, np.inf), kind="stable")[:surplus]] = True
        looked_for &= ~dropped
    shares = weights / weights[~dropped].sum()
    words = [text for text, is_known in zip(sought.words, looked_for.tolist(), strict=True) if is_known]
    numbers = np.where(looked_for, np.cumsum(looked_for) - 1, -1)
    return Weights(sought, words, numbers, shares[looked_for], K1 * (1 - B), K1 * B * memories / max(1, terms))


def keyword_scores(found: Keywords, count: int) -> Numbers:
    """The share of the query that each of `count` candidates has, `found` among them."""
    return np.bincount(found.place, found.shares[found.word] * found.strength, count).astype(np.float32)


def _counted(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The different ones, ascending, and how often each is there; np.unique does more and takes thrice as long."""
    if not len(numbers):
        return numbers, numbers
    numbers.sort()
    later = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    firsts = np.concatenate((ZERO, later))
    return numbers[firsts], np.append(later, len(numbers)) - firsts
