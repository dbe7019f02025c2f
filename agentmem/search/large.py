"""The candidates of a search in an owner that has segments: from graphs, postings, and a scan of the unsealed rest.

Each block (a segment, or the rest) proposes its nearest vectors and its best keywords, and what stands beside these in
their runs; the scores of the candidates are then those of an exact search. Where few memories are asked about, all of
them are candidates, so that nothing can be missed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.search.keywords import (
    NOTHING,
    Block,
    Found,
    Keywords,
    Mask,
    Places,
    find_terms,
    keyword_scores,
    weigh_keywords,
)
from agentmem.search.sealed import Part
from agentmem.search.shelf import View
from agentmem.search.vectors import Vectors

ALL_OF = 20_000
"""Memories asked about, up to which all of them are candidates."""

SCANNED_SHARE = 1 / 16
"""Of a segment's vectors: a graph that is asked for more takes longer than a scan of all."""

OVERFETCH = 1.3
"""A graph is asked for so many times what its dead and filtered places make necessary."""

BESIDE = (-2, -1, 1, 2)
"""Where the neighbours in a run stand that lend a memory some of their score."""

Scores = npt.NDArray[np.float64]

BLOCK = 1 << 32
"""More than the ranks of any block."""


class Asked(NamedTuple):
    """A block (None: the rest) with the places that are `visible` and those that are asked about, each (n,)."""

    part: Part | None
    visible: Mask
    passing: Mask


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
    cosines: npt.NDArray[np.float64] | None
    keywords: Keywords
    complete: bool
    graphs: int
    scanned: int


class _Choice(NamedTuple):
    """The candidates of one block: their places with their cosines and ranks."""

    places: Places
    cosines: npt.NDArray[np.float64] | None
    ranks: npt.NDArray[np.int64]
    complete: bool
    by_graph: bool


def pool_of(
    view: View,
    blocks: Sequence[Asked],
    query: Vectors | None,
    terms: Mapping[int, str],
    *,
    wanted: int,
    neighbours: bool,
) -> Pool:
    """About `wanted` candidates of each kind and block, more where some of them are dead; with their neighbours, if
    these are asked for."""
    keywords = _keywords(view, blocks, terms) if terms else None
    every = sum(int(np.count_nonzero(block.passing)) for block in blocks) <= ALL_OF
    choices = [
        _choice(view, block, query, None if keywords is None else keywords[at], wanted, every, neighbours)
        for at, block in enumerate(blocks)
    ]
    columns = [_columns(view, block, choice) for block, choice in zip(blocks, choices, strict=True)]
    keys, created_at, runs, embedded = (np.concatenate(several) for several in zip(*columns, strict=True))
    ranks = np.concatenate([choice.ranks + at * BLOCK for at, choice in enumerate(choices)])
    order = np.lexsort((keys, runs))
    cosines = None
    if query is not None:
        cosines = np.clip(np.concatenate([choice.cosines for choice in choices if choice.cosines is not None]), 0, 1)
    return Pool(
        keys[order], created_at[order], runs[order], embedded[order],
        None if every else ranks[order],
        None if cosines is None else cosines[order],
        _joined(view, blocks, choices, keywords, order),
        every or all(choice.complete for choice in choices),
        sum(choice.by_graph for choice in choices),
        sum(not choice.by_graph for choice in choices),
    )  # fmt: skip


def _keywords(view: View, blocks: Sequence[Asked], terms: Mapping[int, str]) -> list[Keywords]:
    """What each block has of the query's words, with the statistics of all that is visible."""
    sought = np.fromiter(terms, np.uint32)
    found = []
    for part, visible, _ in blocks:
        if part is None:
            hits = find_terms(view.terms, visible, sought) if len(visible) else Found(NOTHING, NOTHING, NOTHING)
            found.append(Block(visible, hits, view.terms.lengths()))
        else:
            postings = part.segment.postings
            found.append(Block(visible, postings.found(sought).at(visible), postings.lengths))
    return weigh_keywords(found, terms)


def _choice(
    view: View,
    block: Asked,
    query: Vectors | None,
    keywords: Keywords | None,
    wanted: int,
    every: bool,
    neighbours: bool,
) -> _Choice:
    passing = block.passing
    # The rest is scanned once, whatever is asked of it.
    scanned = view.scores(query) if query is not None and block.part is None else None
    if every:
        places = np.flatnonzero(passing)
        cosines = None if query is None else _cosines(block, query, places, scanned)
        return _Choice(places, cosines, np.zeros(len(places), np.int64), True, False)
    chosen: list[Places] = []
    complete = True
    by_graph = False
    if query is not None:
        near, by_graph = _nearest(view, block, query, wanted, scanned)
        chosen.append(near)
        complete = len(near) == np.count_nonzero(passing)
    if keywords is not None:
        scores = keyword_scores(keywords, len(passing)) * passing
        best = _best(scores, np.flatnonzero(scores), wanted)
        chosen.append(best)
        complete = complete and (query is not None or len(best) == np.count_nonzero(scores))
    places = np.unique(np.concatenate(chosen)) if chosen else NOTHING
    order, rank = (None, None) if block.part is None else (block.part.segment.order, block.part.segment.rank)
    if order is None or rank is None:
        order = view.in_order(passing)
        rank = np.zeros(len(passing), np.int64)
        rank[order] = np.arange(len(order))
    if neighbours and len(places):
        runs = view.runs if block.part is None else block.part.segment.runs
        at = rank[places].astype(np.int64)[:, np.newaxis] + np.array(BESIDE)
        besides = order[np.clip(at, 0, len(order) - 1)].astype(np.intp)
        same = (runs[besides] == runs[places][:, np.newaxis]) & (runs[besides] >= 0) & passing[besides]
        places = np.unique(np.concatenate((places, besides[same])))
    cosines = None if query is None else _cosines(block, query, places, scanned)
    return _Choice(places, cosines, rank[places].astype(np.int64), complete, by_graph)


def _nearest(view: View, block: Asked, query: Vectors, wanted: int, scanned: Scores | None) -> tuple[Places, bool]:
    """The nearest of a block's places that are asked about, and whether the graph was asked for them."""
    if block.part is None or scanned is not None:
        assert scanned is not None
        return _best(scanned, np.flatnonzero(block.passing & view.embedded), wanted), False
    segment = block.part.segment
    passing = int(np.count_nonzero(block.passing))
    count = int(OVERFETCH * wanted * len(segment) / max(1, passing))
    while count <= SCANNED_SHARE * len(segment.vectors):
        found = segment.nearest(query, count)
        found = found[block.passing[found]]
        if len(found) >= wanted:
            return found, True
        count *= 4
    asked = np.flatnonzero(block.passing & segment.embedded)
    if len(asked) <= len(segment) // 4:  # Fewer are gathered faster than all are compared.
        cosines = np.zeros(len(segment))
        cosines[asked] = segment.cosines_at(query, asked)
    else:
        cosines = segment.cosines(query)
    return _best(cosines, asked, wanted), False


def _cosines(block: Asked, query: Vectors, places: Places, scanned: Scores | None) -> Scores:
    if block.part is None or scanned is not None:
        assert scanned is not None
        return scanned[places]
    return block.part.segment.cosines_at(query, places)


def _best(scores: npt.NDArray[np.floating], places: Places, count: int) -> Places:
    """Those of the places that have the highest scores (n,), in no order."""
    if len(places) <= count:
        return places
    return places[np.argpartition(scores[places], len(places) - count)[len(places) - count :]]


def _columns(view: View, block: Asked, choice: _Choice) -> tuple[npt.NDArray[Any], ...]:
    source = view if block.part is None else block.part.segment
    return tuple(column[choice.places] for column in (source.keys, source.created_at, source.runs, source.embedded))


def _joined(
    view: View, blocks: Sequence[Asked], choices: Sequence[_Choice], keywords: Sequence[Keywords] | None, order: Places
) -> Keywords:
    """What was found at the candidates, by candidate."""
    if keywords is None:
        return Keywords([], np.empty(0), NOTHING, NOTHING, np.empty(0, np.float32))
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    several = []
    start = 0
    for block, choice, found in zip(blocks, choices, keywords, strict=True):
        where = np.full(len(block.passing), -1, np.intp)
        where[choice.places] = rank[start : start + len(choice.places)]
        several.append(found.among(where))
        start += len(choice.places)
    place = np.concatenate([each.place for each in several])
    by_place = np.argsort(place, kind="stable")
    return Keywords(
        several[0].words, several[0].shares,
        np.concatenate([each.word for each in several])[by_place], place[by_place],
        np.concatenate([each.strength for each in several])[by_place],
    )  # fmt: skip
