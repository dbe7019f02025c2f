"""Looks the terms of a query up in the postings of all of an owner's segments.

It finds the places with the best scores without reading all postings of common words (MaxScore; Turtle and Flood,
1995). Rare words come first. Once no place without them could be among the best, the others are only looked up at the
places that have them.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.search.bm25 import NOTHING, Found, Mask, Numbers, Places, Statistics, Weights
from agentmem.search.segments.reader import Parts, Seen


class Hits(NamedTuple):
    """Where terms stand among some places, numbered in their order, and (p,) how many terms each has in all."""

    found: Found
    lengths: npt.NDArray[Any]


class Lookup:
    """Looks t terms up in the segments of some parts. Belongs to one search."""

    def __init__(self, parts: Parts, terms: npt.NDArray[np.uint32]) -> None:
        self._parts = parts
        self._postings = [part.segment.postings for part in parts]
        self._spans = [postings.spans(terms) for postings in self._postings]
        self._bounds = [spans.tolist() for spans in self._spans]
        self._read: dict[int, tuple[Places, npt.NDArray[np.uint16]]] = {}  # Of all parts.

    def statistics(self, seen: Sequence[Seen]) -> list[Statistics]:
        """Of the visible places of each part."""
        return [each.statistics(spans) for each, spans in zip(seen, self._spans, strict=True)]

    def found_at(self, places: Sequence[Places], terms: Sequence[int] | None = None) -> Hits:
        """Returns where the terms (or some of them) stand among the places of each part, ascending."""
        everywhere = np.concatenate([here + start for here, start in zip(places, self._parts.starts, strict=False)])
        several = [here.astype(np.uint32) for here in places]
        words, at, counts = [NOTHING], [NOTHING], [NOTHING]
        for term in range(len(self._bounds[0])) if terms is None else terms:
            for first, here, there, how_often in self._among(term, everywhere, several):
                near = there.searchsorted(here)
                hits = np.flatnonzero(there.take(near, mode="clip") == here)
                words.append(np.full(len(hits), term))
                at.append(hits + first)
                counts.append(how_often[near[hits]])
        found = np.concatenate(at)
        lengths = self._parts.lengths[everywhere[found]]
        return Hits(Found(np.concatenate(words), found, np.concatenate(counts)), lengths)

    def _among(
        self, term: int, everywhere: Places, several: Sequence[npt.NDArray[np.uint32]]
    ) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """Returns where to look for a term: at places from the `first` of all on, among those that have it."""
        if term in self._read:  # All parts at once: the number of lookups takes the time.
            there, counts = self._read[term]
            if len(there):
                yield 0, everywhere, there, counts
            return
        first = 0
        for postings, bounds, here in zip(self._postings, self._bounds, several, strict=True):
            start, end = bounds[term]
            if start < end and len(here):
                yield first, here, postings.places[start:end], postings.counts[start:end]
            first += len(here)

    def best(self, weights: Weights, passing: Mask | None, wanted: int) -> tuple[Places, Numbers, bool]:
        """Returns the `wanted` places with the highest scores, their scores, and whether no other place has one.

        The places are those that are `passing` (n,) of all parts, or all, ascending. Of equal scores the last places
        count.
        """
        scores = np.zeros(self._parts.places, np.float32)
        strengths = np.zeros(self._parts.places, np.float32)  # Of one word, else 0.
        places: list[Places] = []
        by_rarity = self._by_rarity(weights)
        # What the words from each on could add, since no strength is more than that of their best term.
        most = [float(weights.shares[word]) * max(factor for _, factor in terms) for word, terms in by_rarity]
        further = [*np.cumsum(most[::-1])[::-1].tolist(), 0.0]
        bar = 0.0
        read = 0
        for word, terms in by_rarity:
            bar = _nth_highest(scores, places, wanted)
            if bar > further[read]:
                break
            there = self._strongest(weights, terms, passing, strengths)
            before = scores[there]
            scores[there] = before + np.float32(weights.shares[word]) * strengths[there]
            strengths[there] = 0
            places.append(there[before == 0])
            read += 1
        found = np.sort(np.concatenate([NOTHING, *places]))
        complete = read == len(by_rarity)
        if not complete:
            found = found[scores[found] + further[read] >= bar]
            self._add(scores, found, weights, by_rarity[read:])
        best = scores[found]
        if len(found) <= wanted:
            return found, best, complete
        chosen = highest(best, wanted)
        return found[chosen], best[chosen], False

    def _by_rarity(self, weights: Weights) -> list[tuple[int, list[tuple[int, float]]]]:
        """Returns each word that is looked for, with its terms and what each counts; words that stand at few places
        come first."""
        sought = weights.sought
        terms: dict[int, list[tuple[int, float]]] = {word: [] for word in range(len(weights.words))}
        for term, (start, end) in enumerate(pairwise(sought.starts.tolist())):
            for word, factor in zip(sought.word[start:end].tolist(), sought.factor[start:end].tolist(), strict=True):
                if (number := int(weights.numbers[word])) >= 0:
                    terms[number].append((term, factor))
        frequency = np.sum([spans[:, 1] - spans[:, 0] for spans in self._spans], axis=0)
        return sorted(terms.items(), key=lambda item: sum(int(frequency[term]) for term, _ in item[1]))

    def _strongest(
        self, weights: Weights, terms: Sequence[tuple[int, float]], passing: Mask | None, strengths: Numbers
    ) -> Places:
        """Writes how strongly the best of the terms stands at each place; returns these places, each once."""
        touched: list[Places] = []
        for term, factor in terms:
            if term in self._read:
                there, counts = self._read[term]
            else:
                there, counts = self._postings_of(term)
                if passing is not None:
                    kept = passing[there]
                    there, counts = there[kept], counts[kept]
                self._read[term] = there, counts
            before = strengths[there]
            strength = np.float32(factor) * weights.strength(counts, self._parts.lengths[there])
            strengths[there] = np.maximum(before, strength)
            touched.append(there[before == 0])
        return np.concatenate(touched)

    def _postings_of(self, term: int) -> tuple[Places, npt.NDArray[np.uint16]]:
        """Returns all of a term: its places and how often it stands there."""
        spans = [bounds[term] for bounds in self._bounds]
        places = np.empty(sum(end - start for start, end in spans), np.intp)
        at = 0
        for postings, first, (start, end) in zip(self._postings, self._parts.starts, spans, strict=False):
            np.add(postings.places[start:end], first, out=places[at : at + end - start])
            at += end - start
        counts = [postings.counts[start:end] for postings, (start, end) in zip(self._postings, spans, strict=True)]
        return places, np.concatenate(counts)

    def _add(
        self,
        scores: Numbers,
        places: Places,
        weights: Weights,
        words: Sequence[tuple[int, Sequence[tuple[int, float]]]],
    ) -> None:
        """Adds the worth of further words to the scores at some places, ascending."""
        starts = self._parts.starts
        several = [
            here - first
            for here, first in zip(np.split(places, np.searchsorted(places, starts[1:-1])), starts, strict=False)
        ]
        found, lengths = self.found_at(several, sorted({term for _, terms in words for term, _ in terms}))
        keywords = weights.keywords(found, lengths)
        further = np.isin(keywords.word, [word for word, _ in words])  # A term may be near a word that was read before.
        word, place, strength = keywords.word[further], keywords.place[further], keywords.strength[further]
        np.add.at(scores, places[place], (weights.shares[word] * strength).astype(np.float32))


def _nth_highest(scores: Numbers, places: Sequence[Places], count: int) -> float:
    """Returns the scores at the places; 0 where these are fewer."""
    if sum(map(len, places)) < count:
        return 0.0
    values = scores[np.concatenate(places)]
    return float(np.partition(values, len(values) - count)[len(values) - count])


def highest(values: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """Returns where this number of the highest values is, of equal ones the last, ascending; there are more of them."""
    bar = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > bar)
    ties = np.flatnonzero(values == bar)
    return np.sort(np.concatenate((above, ties[len(ties) - (count - len(above)) :])))
