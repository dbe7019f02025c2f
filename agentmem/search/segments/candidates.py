"""The candidates of a search in an owner that has segments: from graphs, postings, and a scan of the unsealed rest.

Each block (a segment, or the rest) proposes what is nearest in meaning, all of them together what has the words; the
best of these are the candidates, with what stands beside them in their runs. Their scores are then those of an exact
search. Where few memories are asked about, all of them are candidates, so that nothing can be missed.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from agentmem.platform.signals import aside, off_main_thread
from agentmem.search.bm25 import (
    NO_KEYWORDS,
    NOTHING,
    Found,
    Keywords,
    Mask,
    Places,
    Sought,
    find_terms,
    keyword_scores,
    statistics_of,
    weigh,
)
from agentmem.search.columns import Columns
from agentmem.search.index_view import IndexView
from agentmem.search.kernels import Vectors
from agentmem.search.segments.maxscore import Lookup, highest
from agentmem.search.segments.reader import Part

ALL_OF = 20_000
"""Memories asked about, up to which all of them are candidates. Of 1,000,000 of one owner, filters that keep 1, 2, 4
and 8 % took 5.6, 8.0, 13.1 and 20.3 ms with all that pass as candidates, 5.7, 7.2, 9.9 and 14.4 ms with the best
(medians of 100 searches by meaning and words, 2 cores with AVX512)."""

GRAPH_COST = 1.2
LOOK_UP_COST = 0.12
SCAN_COST = 0.03
"""Microseconds a vector that a graph proposes, that is compared after it was looked up, and that is compared with all
others of its segment (perf/segments.py, 2 cores with AVX512); what counts is how they relate."""

OVERFETCH = 1.3
"""How many times the number that its dead and filtered places make necessary a graph is asked for."""

BESIDE = np.array((-2, -1, 1, 2))
"""Where the neighbours in a run stand that lend a memory some of their score."""

BLOCK = 1 << 32
"""More than the ranks of any block."""

Scores = npt.NDArray[np.float64]


class Candidates(NamedTuple):
    """What is ranked (m,), by run and age where neighbours count.

    Attributes:
        columns: what is known of each.
        beside: two that stand side by side in their run have numbers that follow each other; None: all of the run that
            is asked about is here.
        cosines: 0 where there is no vector; None when there is none to compare with.
        complete: whether nothing else could be found.
        floors: what is not here scores at most by words, and by meaning (but for what a graph missed).
        graphs, scanned: how many blocks were searched in which way.
    """

    columns: Columns
    beside: npt.NDArray[np.int64] | None
    cosines: Scores | None
    keywords: Keywords
    complete: bool
    floors: tuple[float, float]
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
        """Returns about as many as are wanted of the places that are asked about, or more."""

    def cosines(self, query: Vectors, places: Places) -> Scores:
        """0 where there is no vector."""

    def in_line(self, places: Places) -> tuple[Places, npt.NDArray[np.int64]]:
        """The places (ascending) and those that stand beside them in their runs, ascending, with numbers that follow
        each other where they do."""

    def columns(self, places: Places) -> Columns:
        """Returns what is known of each of the places."""


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
            near = self._near(*segment.nearest(query, count))
            if len(near.places) >= wanted:
                return near._replace(complete=len(near.places) == self.asked, by_graph=True)
            count *= 4
        if look_up < scan:
            places = np.flatnonzero(self.passing & segment.embedded)
            return _nearest(places, segment.cosines_at(query, places), wanted)
        nearest = segment.scan(query)
        while True:
            near = self._near(*nearest(count))
            if len(near.places) >= wanted or count >= len(segment.vectors):
                return near._replace(complete=count >= len(segment.vectors))
            count *= 4

    def _near(self, places: Places, cosines: Scores) -> Near:
        """Those of the places that are asked about."""
        kept = self.passing[places]
        return Near(places[kept], cosines[kept], False, False)

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
        return self.segment.columns.at(places)


class Rest:
    """The index itself, which is not sealed yet."""

    def __init__(self, view: IndexView, passing: Mask, query: Vectors | None) -> None:
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
        runs = self._view.columns.runs
        own_runs = runs[places]
        line = np.flatnonzero(self.passing & _among(runs, own_runs[own_runs >= 0]))
        line = line[np.lexsort((self._view.keys[line], runs[line]))]
        rank = np.full(len(runs), -1)
        if not len(line):
            return places, rank[places]
        rank[line] = np.arange(len(line))
        own = rank[places]
        own = own[own >= 0]
        at = own[:, np.newaxis] + BESIDE
        besides = line[at.clip(0, len(line) - 1)]
        same = (at >= 0) & (at < len(line)) & (runs[besides] == runs[line[own]][:, np.newaxis])
        places = _united(places, besides[same])
        return places, rank[places]

    def columns(self, places: Places) -> Columns:
        return self._view.columns.at(places)


class Choice(NamedTuple):
    """Candidates of one kind: their places in each block, ascending; what any other scores at most in that kind, as far
    as is known; whether there is no other; and how many graphs were asked."""

    places: list[Places]
    floor: float
    complete: bool
    graphs: int = 0


class Words:
    """The words of a query in all blocks: those of the parts, and the rest, which comes last."""

    def __init__(self, view: IndexView, visible: Mask, moment: int, sought: Sought) -> None:
        """`visible` (n,) are places of the rest."""
        self._view = view
        self._lookup = Lookup(view.parts, sought.terms)
        self._rest = find_terms(view.terms, visible, sought.terms) if len(visible) else Found(NOTHING, NOTHING, NOTHING)
        lengths = view.lengths
        self.weights = weigh(
            [
                *self._lookup.statistics([part.seen(moment) for part in view.parts]),
                statistics_of(self._rest, visible, lengths, len(sought)),
            ],
            sought,
        )
        self._keywords = self.weights.keywords(self._rest, lengths[self._rest.place])

    def best(self, blocks: Sequence[Block], wanted: int) -> Choice:
        """Returns the wanted number of places that have most of the words; of equal ones the newest."""
        *segmented, rest = blocks
        everything = all(block.asked == len(block.passing) for block in segmented)
        passing = None if everything else np.concatenate([block.passing for block in segmented])
        sealed, sealed_scores, complete = self._lookup.best(self.weights, passing, wanted)
        scores = keyword_scores(self._keywords, len(rest.passing)) * rest.passing
        unsealed = np.flatnonzero(scores)
        first = self._view.parts.places
        places, values = np.concatenate((sealed, unsealed + first)), np.concatenate((sealed_scores, scores[unsealed]))
        if len(places) > wanted:
            kept = highest(values, wanted)
            places, values, complete = places[kept], values[kept], False
        several = np.split(places, np.searchsorted(places, self._view.parts.starts[1:]))
        starts = self._view.parts.starts
        floor = 0.0 if complete or not len(values) else float(values.min())
        return Choice([here - start for here, start in zip(several, starts, strict=True)], floor, complete)

    def at(self, chosen: Sequence[Places]) -> Keywords:
        """What is found at the chosen places of each block, ascending; `place` numbers them through."""
        *sealed, rest = chosen
        hits = self._lookup.found_at(sealed)
        found = self.weights.keywords(hits.found, hits.lengths)
        where = np.full(len(self._view.keys), -1, np.intp)
        where[rest] = np.arange(len(rest)) + sum(map(len, sealed))
        unsealed = self._keywords.among(where)
        return Keywords(
            self.weights.words, self.weights.shares, np.concatenate((found.word, unsealed.word)),
            np.concatenate((found.place, unsealed.place)), np.concatenate((found.strength, unsealed.strength)),
        )  # fmt: skip


def pool_of(
    blocks: Sequence[Block],
    words: Words | None,
    query: Vectors | None,
    *,
    wanted: int,
    each: int,
    neighbours: bool,
    spare: bool,
) -> Candidates:
    """Returns about `wanted` candidates of each kind, `each` of which one block alone may have; with their neighbours,
    if these are asked for. With a core to `spare`, it looks for words and meaning at the same time: of an owner of
    1,000,000, in 8.3 instead of 9.5 ms (medians of 3 alternated rounds, 2 cores with AVX512)."""
    every = sum(block.asked for block in blocks) <= ALL_OF
    complete, floors, graphs = True, (0.0, 0.0), 0
    if every:
        chosen = [np.flatnonzero(block.passing) for block in blocks]
        ranks = [np.zeros(len(places), np.int64) for places in chosen]
    else:
        near, worded = _best_of_both(blocks, words, query, wanted, each, spare)
        chosen = [_united(*both) for both in zip(near.places, worded.places, strict=True)]
        floors, graphs = (worded.floor, near.floor), near.graphs
        complete = worded.complete if query is None else near.complete
        ranks = [np.arange(len(places)) for places in chosen]
        if neighbours:
            lines = [block.in_line(places) for block, places in zip(blocks, chosen, strict=True)]
            chosen, ranks = [places for places, _ in lines], [numbers for _, numbers in lines]
    several = [block.columns(places) for block, places in zip(blocks, chosen, strict=True)]
    columns = Columns(*map(np.concatenate, zip(*several, strict=True)))
    order = np.lexsort((columns.keys, columns.runs))
    cosines = None
    if query is not None:
        cosines = np.concatenate([block.cosines(query, places) for block, places in zip(blocks, chosen, strict=True)])
        cosines = np.clip(cosines[order], 0, 1)
    beside = None if every else np.concatenate([rank + at * BLOCK for at, rank in enumerate(ranks)])[order]
    keywords = NO_KEYWORDS if words is None else _reordered(words.at(chosen), order)
    return Candidates(columns.at(order), beside, cosines, keywords, complete, floors, graphs, len(blocks) - graphs)


def _best_of_both(
    blocks: Sequence[Block], words: Words | None, query: Vectors | None, wanted: int, each: int, spare: bool
) -> tuple[Choice, Choice]:
    """What is nearest in meaning, and what has most of the words; nothing of what is not asked for."""
    nothing = Choice([NOTHING for _ in blocks], 0.0, True)
    if query is None:
        return nothing, nothing if words is None else words.best(blocks, wanted)

    def nearest() -> Choice:
        return _nearest_of_all(blocks, query, wanted, each)

    # On another thread, because USearch looks for signals amid a search, and forgets what their handlers raise.
    if words is None or not spare:
        return off_main_thread(nearest), nothing if words is None else words.best(blocks, wanted)
    near = aside(nearest)
    worded = words.best(blocks, wanted)
    return near(), worded


def _nearest_of_all(blocks: Sequence[Block], query: Vectors, wanted: int, each: int) -> Choice:
    """The nearest places, `wanted` in all; of equally near ones the newest."""
    near = [block.nearest(query, max(each, wanted // len(blocks))) for block in blocks]
    cosines = np.concatenate([one.cosines for one in near])
    chosen = [one.places for one in near]
    complete = all(one.complete for one in near)
    # What a block has beside its proposals is no nearer than the last of these.
    floor = max([float(one.cosines.min()) for one in near if not one.complete and len(one.cosines)], default=0.0)
    if len(cosines) > wanted:
        kept = np.zeros(len(cosines), np.bool_)
        kept[highest(cosines, wanted)] = True
        floor = max(floor, float(cosines[kept].min()))
        starts = list(accumulate(map(len, chosen)))[:-1]
        chosen = [places[of] for places, of in zip(chosen, np.split(kept, starts), strict=True)]
        complete = False
    return Choice([np.sort(places) for places in chosen], floor, complete, sum(one.by_graph for one in near))


def _nearest(places: Places, cosines: Scores, wanted: int) -> Near:
    """Of all places of a block (ascending) that are asked about and have a vector."""
    if len(places) <= wanted:
        return Near(places, cosines, True, False)
    best = highest(cosines, wanted)
    return Near(places[best], cosines[best], False, False)


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
