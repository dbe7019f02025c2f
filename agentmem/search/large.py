"""The candidates of a search in an owner that has segments: from graphs, postings, and a scan of the unsealed rest.

Each block (a segment, or the rest) proposes what is nearest in meaning, all of them together what has the words; the
best of these are the candidates, with what stands beside them in their runs. Their scores are then those of an exact
search. Where few memories are asked about, all of them are candidates, so that nothing can be missed.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from agentmem.search.keywords import (
    NO_KEYWORDS,
    NOTHING,
    Found,
    Keywords,
    Mask,
    Places,
    find_terms,
    keyword_scores,
    statistics_of,
    weigh,
)
from agentmem.search.lookup import Lookup
from agentmem.search.sealed import Part
from agentmem.search.vectors import Vectors
from agentmem.search.view import View

ALL_OF = 20_000
"""Memories asked about, up to which all of them are candidates."""

GRAPH_COST = 1.2
LOOK_UP_COST = 0.12
SCAN_COST = 0.03
"""Microseconds a vector that a graph proposes, that is compared after it was looked up, and that is compared with all
others of its segment (perf/segments.py, 2 cores with AVX512); what counts is how they relate."""

OVERFETCH = 1.3
"""A graph is asked for so many times what its dead and filtered places make necessary."""

BESIDE = np.array((-2, -1, 1, 2))
"""Where the neighbours in a run stand that lend a memory some of their score."""

BLOCK = 1 << 32
"""More than the ranks of any block."""

Scores = npt.NDArray[np.float64]
Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], Mask]


class Pool(NamedTuple):
    """The candidates (m,) by run and age.

    Attributes:
        beside: two that stand side by side in their run have numbers that follow each other; None: all of the run that
            is asked about is here.
        cosines: 0 where there is no vector; None when there is none to compare with.
        complete: whether nothing else could be found.
        graphs, scanned: how many blocks were searched in which way.
    """

    keys: npt.NDArray[np.int64]
    created_at: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int64]
    embedded: Mask
    beside: npt.NDArray[np.int64] | None
    cosines: Scores | None
    keywords: Keywords
    complete: bool
    graphs: int
    scanned: int


class Near(NamedTuple):
    """Places of a block with their cosines; whether no other is asked about, and whether a graph proposed them."""

    places: Places
    cosines: Scores
    complete: bool
    by_graph: bool


class Block(Protocol):
    """Some of an owner's places (n,), of which the `passing` ones are asked about, `asked` in number."""

    passing: Mask
    asked: int

    def nearest(self, query: Vectors, wanted: int) -> Near:
        """About so many of those that are asked about, or more."""

    def cosines(self, query: Vectors, places: Places) -> Scores:
        """0 where there is no vector."""

    def in_line(self, places: Places) -> tuple[Places, npt.NDArray[np.int64]]:
        """The places (ascending) and those that stand beside them in their runs, ascending, with numbers that follow
        each other where they do."""

    def columns(self, places: Places) -> Columns:
        """Keys, times, runs, and whether there are vectors."""


class Segmented:
    """A segment."""

    def __init__(self, part: Part, passing: Mask) -> None:
        self.segment = part.segment
        self.passing = passing
        self.asked = int(np.count_nonzero(passing))

    def nearest(self, query: Vectors, wanted: int) -> Near:
        segment = self.segment
        count = int(OVERFETCH * wanted * len(segment) / max(1, self.asked))
        look_up, scan = LOOK_UP_COST * self.asked, SCAN_COST * len(segment.vectors)
        while segment.has_graph and count <= len(segment.vectors) and GRAPH_COST * count < min(look_up, scan):
            found = segment.nearest(query, count)
            found = found[self.passing[found]]
            if len(found) >= wanted:
                return Near(found, segment.cosines_at(query, found), len(found) == self.asked, True)
            count *= 4
        if look_up < scan:
            found = np.flatnonzero(self.passing & segment.embedded)
            return _nearest(found, segment.cosines_at(query, found), wanted)
        cosines = segment.cosines(query)
        found = np.flatnonzero(self.passing & segment.embedded)
        return _nearest(found, cosines[found], wanted)

    def cosines(self, query: Vectors, places: Places) -> Scores:
        return self.segment.cosines_at(query, places)

    def in_line(self, places: Places) -> tuple[Places, npt.NDArray[np.int64]]:
        order, runs = self.segment.order, self.segment.runs
        at = self.segment.rank[places].astype(np.intp)[:, np.newaxis] + BESIDE
        besides = order[np.clip(at, 0, len(order) - 1)].astype(np.intp)
        own = runs[places]
        same = (runs[besides] == own[:, np.newaxis]) & (own >= 0)[:, np.newaxis] & self.passing[besides]
        places = _united(places, besides[same])
        return places, self.segment.rank[places].astype(np.int64)

    def columns(self, places: Places) -> Columns:
        segment = self.segment
        return segment.keys[places], segment.created_at[places], segment.runs[places], segment.embedded[places]


class Rest:
    """The shelf itself, which is not sealed yet."""

    def __init__(self, view: View, passing: Mask, query: Vectors | None) -> None:
        self._view = view
        self._cosines = None if query is None else view.scores(query)  # Once, whatever is asked of it.
        self.passing = passing
        self.asked = int(np.count_nonzero(passing))

    def nearest(self, query: Vectors, wanted: int) -> Near:
        places = np.flatnonzero(self.passing & self._view.embedded)
        return _nearest(places, self.cosines(query, places), wanted)

    def cosines(self, query: Vectors, places: Places) -> Scores:
        return np.zeros(len(places)) if self._cosines is None else self._cosines[places]

    def in_line(self, places: Places) -> tuple[Places, npt.NDArray[np.int64]]:
        runs = self._view.runs
        own_runs = runs[places]
        line = np.flatnonzero(self.passing & _among(runs, own_runs[own_runs >= 0]))
        line = line[np.lexsort((self._view.keys[line], runs[line]))]
        rank = np.full(len(runs), -1)
        rank[line] = np.arange(len(line))
        own = rank[places]
        own = own[own >= 0]
        at = own[:, np.newaxis] + BESIDE
        within = (at >= 0) & (at < len(line))
        besides = line[at.clip(0, max(0, len(line) - 1))] if len(line) else at
        same = within & (runs[besides] == runs[line[own]][:, np.newaxis]) if len(line) else within
        places = _united(places, besides[same])
        return places, rank[places]

    def columns(self, places: Places) -> Columns:
        view = self._view
        return view.keys[places], view.created_at[places], view.runs[places], view.embedded[places]


class Words:
    """The words of a query in all blocks: the rest first, then the segments."""

    def __init__(self, view: View, visible: Mask, moment: int, terms: Mapping[int, str]) -> None:
        """`visible` (n,) are places of the rest."""
        sought = np.fromiter(terms, np.uint32)
        self._view = view
        self._lookup = Lookup(view.parts, sought)
        self._rest = find_terms(view.terms, visible, sought) if len(visible) else Found(NOTHING, NOTHING, NOTHING)
        lengths = view.terms.lengths()
        self.weights = weigh(
            [
                statistics_of(self._rest, visible, lengths, len(sought)),
                *self._lookup.statistics([part.seen(moment) for part in view.parts]),
            ],
            terms,
        )
        self._keywords = self.weights.keywords(self._rest, lengths[self._rest.place])

    def best(self, blocks: Sequence[Block], wanted: int) -> tuple[list[Places], bool]:
        """The places of each block that have most of the words, about so many in all, and whether no other has any."""
        rest, *_ = blocks
        scores = keyword_scores(self._keywords, len(rest.passing)) * rest.passing
        places = np.flatnonzero(scores)
        everything = all(block.asked == len(block.passing) for block in blocks[1:])
        passing = None if everything else np.concatenate([block.passing for block in blocks[1:]])
        sealed, sealed_scores, complete = self._lookup.best(self.weights, passing, wanted)
        values = np.concatenate((scores[places], sealed_scores))
        both = np.concatenate((places, sealed + len(rest.passing)))
        if len(both) > wanted:
            both, complete = both[_highest(values, wanted)], False
        both.sort()
        starts = [len(rest.passing) + start for start in self._view.parts.starts]
        ends = np.searchsorted(both, starts)
        several = np.split(both, ends[:-1])
        return [several[0], *(each - start for each, start in zip(several[1:], starts, strict=False))], complete

    def at(self, chosen: Sequence[Places]) -> Keywords:
        """What is found at the chosen places of each block, ascending; `place` numbers them through."""
        rest, *sealed = chosen
        where = np.full(len(self._view.keys), -1, np.intp)
        where[rest] = np.arange(len(rest))
        found = self._keywords.among(where)
        hits = self._lookup.found_at(sealed)
        sealed_found = self.weights.keywords(hits.found, hits.lengths)
        return Keywords(
            self.weights.words, self.weights.shares,
            np.concatenate((found.word, sealed_found.word)),
            np.concatenate((found.place, sealed_found.place + len(rest))),
            np.concatenate((found.strength, sealed_found.strength)),
        )  # fmt: skip


def pool_of(
    blocks: Sequence[Block], words: Words | None, query: Vectors | None, *, wanted: int, each: int, neighbours: bool
) -> Pool:
    """About `wanted` candidates of each kind, `each` of which one block alone may have; with their neighbours, if these
    are asked for."""
    every = sum(block.asked for block in blocks) <= ALL_OF
    complete, graphs = True, 0
    if every:
        chosen = [np.flatnonzero(block.passing) for block in blocks]
        ranks = [np.zeros(len(places), np.int64) for places in chosen]
    else:
        chosen = [NOTHING for _ in blocks]
        if query is not None:
            chosen, complete, graphs = _nearest_of_all(blocks, query, wanted, each)
        if words is not None:
            with_words, no_other = words.best(blocks, wanted)
            chosen = [_united(*both) for both in zip(chosen, with_words, strict=True)]
            complete = complete if query is not None else no_other
        ranks = [np.arange(len(places)) for places in chosen]
        if neighbours:
            chosen, ranks = map(list, zip(*map(_in_line, blocks, chosen), strict=True))
    columns = [block.columns(places) for block, places in zip(blocks, chosen, strict=True)]
    keys, created_at, runs, embedded = (np.concatenate(several) for several in zip(*columns, strict=True))
    order = np.lexsort((keys, runs))
    cosines = None
    if query is not None:
        cosines = np.concatenate([block.cosines(query, places) for block, places in zip(blocks, chosen, strict=True)])
        cosines = np.clip(cosines[order], 0, 1)
    beside = None if every else np.concatenate([rank + at * BLOCK for at, rank in enumerate(ranks)])[order]
    keywords = NO_KEYWORDS if words is None else _reordered(words.at(chosen), order)
    return Pool(
        keys[order], created_at[order], runs[order], embedded[order], beside, cosines, keywords, complete, graphs,
        len(blocks) - graphs,
    )  # fmt: skip


def _in_line(block: Block, places: Places) -> tuple[Places, npt.NDArray[np.int64]]:
    return block.in_line(places)


def _nearest_of_all(blocks: Sequence[Block], query: Vectors, wanted: int, each: int) -> tuple[list[Places], bool, int]:
    """The nearest places of each block, ascending, `wanted` in all; whether no other is asked about; and how many
    graphs were asked."""
    near = [block.nearest(query, max(each, wanted // len(blocks))) for block in blocks]
    cosines = np.concatenate([one.cosines for one in near])
    chosen = [one.places for one in near]
    complete = all(one.complete for one in near)
    if len(cosines) > wanted:
        kept = np.zeros(len(cosines), np.bool_)
        kept[_highest(cosines, wanted)] = True
        starts = list(accumulate(map(len, chosen)))[:-1]
        chosen = [places[of] for places, of in zip(chosen, np.split(kept, starts), strict=True)]
        complete = False
    return [np.sort(places) for places in chosen], complete, sum(one.by_graph for one in near)


def _nearest(places: Places, cosines: Scores, wanted: int) -> Near:
    """Of all places of a block that are asked about and have a vector."""
    if len(places) <= wanted:
        return Near(places, cosines, True, False)
    best = _highest(cosines, wanted)
    return Near(places[best], cosines[best], False, False)


def _highest(values: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """Where so many of the values are the highest, in no order; there are more of them."""
    return np.argpartition(values, len(values) - count)[len(values) - count :]


def _united(one: Places, other: Places) -> Places:
    """Both, ascending, each once."""
    both = np.concatenate((one, other))
    both.sort()
    return both[np.append(True, both[1:] != both[:-1])] if len(both) else both


def _among(values: npt.NDArray[np.int64], few: npt.NDArray[np.int64]) -> Mask:
    """Which of the values are among a few."""
    table = np.zeros(65_536, np.bool_)
    table[few & 0xFFFF] = True
    found = table[values & 0xFFFF]
    at = np.flatnonzero(found)  # Few others, whose lower halves are the same.
    found[at] = np.isin(values[at], few)
    return np.asarray(found)


def _reordered(found: Keywords, order: npt.NDArray[np.intp]) -> Keywords:
    """The same of candidates in another order."""
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    place = rank[found.place]
    by_place = np.argsort(place, kind="stable")
    return Keywords(found.words, found.shares, found.word[by_place], place[by_place], found.strength[by_place])
