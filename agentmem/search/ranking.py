"""Ranking: what the two searches found, as one score from 0 to 1 that means the same for every query.

The scores are added, not their ranks, and nothing is scaled by the best of a query: a threshold would mean nothing
then. The weights were measured on three conversations and confirmed on two others; every figure near them is as good.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentmem.records import Match
from agentmem.search.bm25 import Keywords, Numbers, Places, keyword_scores

KEYWORD_WEIGHT = 0.6
VECTOR_WEIGHT = 0.4

KEYWORD_NEIGHBOURS = (0.6, 0.4)
"""What a word counts that stands in the memory before or after, or in the one beyond it: the answer to a question
often stands beside the turn that has its words."""

VECTOR_NEIGHBOURS = (0.2, 0.1)
"""The same for the meaning, which is less a matter of single words."""

TOGETHER = 100_000
"""Numbers that are computed at once: enough that numpy's calls cost little, few enough for a processor's cache."""

RELEVANT = {"hybrid": 0.25, "vector": 0.4, "keyword": 0.15}
"""Least scores of matches that are relevant, by mode; in a hybrid search a cosine of `RELEVANT["vector"]` does as well.
Measured for all-MiniLM-L6-v2: perf/README.md."""

RECENCY_WEIGHT = 0.5
"""The part of its score that an endlessly old memory loses when recency is asked for."""

IMPORTANCE_WEIGHT = 0.5
"""The part of its score that a memory without importance loses when importance is asked for."""


@dataclass(frozen=True, slots=True)
class Line:
    """The candidates (m,) in a line, so that the neighbours in a run stand side by side. `links[0]` (m - 1,) is 1 where
    a candidate and the next are of one run, else 0; `links[1]` (m - 2,) the same for the one after the next."""

    places: Places
    links: tuple[Numbers, ...]

    @classmethod
    def of(cls, places: Places, runs: npt.NDArray[np.int64], beside: npt.NDArray[np.int64] | None = None) -> "Line":
        """`places` by run and age; `runs` (m,) numbers the run of each, below 0 where there is none. With `beside` (m,)
        only those are neighbours whose numbers follow each other."""
        links = []
        for distance in range(1, len(KEYWORD_NEIGHBOURS) + 1):
            same = (runs[distance:] == runs[:-distance]) & (runs[distance:] >= 0)
            if beside is not None:
                same &= beside[distance:] - beside[:-distance] == distance
            links.append(same.astype(np.float32))
        return cls(places, tuple(links) if len(links[0]) and links[0].any() else ())

    def lifted(self, values: Numbers, shares: Sequence[float]) -> Numbers:
        """Values (..., m) from 0 to 1, raised by those of the neighbours: what is missing to 1 shrinks by the share of
        each neighbour's value."""
        if not self.links:
            return values
        missing = 1 - values
        for distance, (link, share) in enumerate(zip(self.links, shares, strict=True), start=1):
            linked = np.float32(share) * link
            missing[..., distance:] *= 1 - linked * values[..., :-distance]
            missing[..., :-distance] *= 1 - linked * values[..., distance:]
        return 1 - missing


@dataclass(frozen=True, slots=True)
class Parts:
    """What a score is made of, from 0 to 1 and negative where it was taken away; they add up to the score."""

    keyword: float = 0.0
    vector: float = 0.0
    neighbours: float = 0.0
    recency: float = 0.0
    importance: float = 0.0


def hybrid_scores(line: Line, found: Keywords, cosines: Numbers) -> Numbers:
    """Both searches added, each with what the neighbours in the run have: `cosines` (m,) from 0 to 1, `found` among the
    candidates."""
    scores = np.float32(VECTOR_WEIGHT) * line.lifted(cosines, VECTOR_NEIGHBOURS)
    if not line.links:
        return scores + np.float32(KEYWORD_WEIGHT) * keyword_scores(found, len(scores))
    together = max(1, TOGETHER // max(1, len(scores)))
    for start in range(0, len(found.words), together):
        own = np.zeros((min(together, len(found.words) - start), len(scores)), np.float32)
        here = (found.word >= start) & (found.word < start + together)
        own[found.word[here] - start, found.place[here]] = found.strength[here]
        # Word by word, because a neighbour that repeats a word of the memory says nothing more about it.
        for share, row in zip(found.shares[start:], line.lifted(own, KEYWORD_NEIGHBOURS), strict=False):
            scores += np.float32(KEYWORD_WEIGHT * share) * row
    return scores


def recency_factors(ages: npt.NDArray[np.float64], half_life: float) -> npt.NDArray[np.float64]:
    """What is left of a score at an age, both times in seconds; memories of the future count as new."""
    factors: npt.NDArray[np.float64] = 1 - RECENCY_WEIGHT * (1 - np.exp2(-np.maximum(ages, 0.0) / half_life))
    return factors


def importance_factors(importances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What is left of a score with an importance; below 0 counts as 0, above 1 as 1."""
    factors: npt.NDArray[np.float64] = 1 - IMPORTANCE_WEIGHT * (1 - np.clip(importances, 0.0, 1.0))
    return factors


def is_relevant(match: Match) -> bool:
    """Whether a match, which must have its explanation, is likely to be an answer."""
    told = match.explanation
    assert told is not None
    mode = told["mode"]
    return match.score >= RELEVANT[mode] or (mode == "hybrid" and told["cosine"] >= RELEVANT["vector"])
