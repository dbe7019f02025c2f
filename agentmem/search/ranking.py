"""Ranking: what the two searches found, as one score from 0 to 1 that means the same for every query.

The scores are added, not their ranks, and nothing is scaled by the best of a query: a threshold would mean nothing
then. The weights were measured on three conversations and confirmed on two others; every figure near them is as good.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agentmem.records import Match
from agentmem.search.bm25 import Keywords, Mask, Numbers, Places, keyword_scores

Scores = npt.NDArray[np.float64]

KEYWORD_WEIGHT = 0.6
VECTOR_WEIGHT = 0.4

KEYWORD_NEIGHBOURS = (0.6, 0.4)
"""What a word counts that stands in the memory before or after, or in the one beyond it: the answer to a question
often stands beside the turn that has its words."""

VECTOR_NEIGHBOURS = (0.2, 0.1)
"""The same for the meaning, which is less a matter of single words."""

KEYWORD_QUESTION = (1.0, 0.2)
VECTOR_QUESTION = (0.5, 0.0)
"""The same between a memory that asks and the next one: from question to answer, then back. A question says little
itself (perf/README.md)."""

PRIOR_WEIGHT = 0.1
"""The most by which a long memory in a run comes nearer to 1."""

_TOLD = 1 - np.exp(-np.arange(128) / 10)

TOGETHER = 100_000
"""Numbers that are computed at once: enough that numpy's calls cost little, few enough for a processor's cache."""

RELEVANT = {"hybrid": 0.25, "vector": 0.4, "keyword": 0.15}
"""Least scores of matches that are relevant, by mode; in a hybrid search a cosine of `RELEVANT["vector"]` does as well.
Measured for all-MiniLM-L6-v2: perf/README.md."""

RECENCY_WEIGHT = 0.5
"""The part of its score that an endlessly old memory loses when recency is asked for."""

IMPORTANCE_WEIGHT = 0.5
"""The part of its score that a memory without importance loses when importance is asked for."""


Links = tuple[tuple[Numbers, Numbers], ...]
"""By distance in the run (one, two): what each candidate lends to the later one, and the later one to it."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the candidates (m,), sorted by run and age, lend each other: shares of their words and of their cosines.

    At distance d, both arrays of a link are (m - d,) and hold 0 where the two candidates are not neighbours.
    """

    words: Links
    cosines: Links

    @classmethod
    def of(
        cls, runs: npt.NDArray[np.int64], asks: Mask, beside: npt.NDArray[np.int64] | None = None
    ) -> "Neighbours | None":
        """Returns the links, or None when no candidate has a neighbour.

        Args:
            runs: the number of each candidate's run, below 0 where there is none.
            asks: which candidates ask something.
            beside: numbers that follow each other where two candidates of a run do; None: all of each run is here.
        """
        words: list[tuple[Numbers, Numbers]] = []
        cosines: list[tuple[Numbers, Numbers]] = []
        shares = zip(KEYWORD_NEIGHBOURS, VECTOR_NEIGHBOURS, strict=True)
        for distance, (word, cosine) in enumerate(shares, start=1):
            same = (runs[distance:] == runs[:-distance]) & (runs[distance:] >= 0)
            if beside is not None:
                same &= beside[distance:] - beside[:-distance] == distance
            if not same.any():
                return None if distance == 1 and beside is None else cls(tuple(words), tuple(cosines))
            answered = np.flatnonzero(same & asks[:-1]) if distance == 1 else None
            words.append(_link(same, word, answered, KEYWORD_QUESTION))
            cosines.append(_link(same, cosine, answered, VECTOR_QUESTION))
        return cls(tuple(words), tuple(cosines))


def _link(same: Mask, share: float, answered: Places | None, question: tuple[float, float]) -> tuple[Numbers, Numbers]:
    """Returns the shares at one distance, with other ones behind a memory that asks."""
    onward = backward = same * np.float32(share)
    if answered is not None and len(answered):
        backward = onward.copy()
        onward[answered], backward[answered] = question
    return onward, backward


def lifted(values: Numbers, links: Links) -> Numbers:
    """Returns values (..., m) from 0 to 1 raised by those of the neighbours: each neighbour's value, times its share,
    is the part by which the distance to 1 shrinks."""
    missing = 1 - values
    for distance, (onward, backward) in enumerate(links, start=1):
        missing[..., distance:] *= 1 - onward * values[..., :-distance]
        missing[..., :-distance] *= 1 - backward * values[..., distance:]
    return 1 - missing


@dataclass(frozen=True, slots=True)
class Parts:
    """What a score is made of, from 0 to 1 and negative where it was taken away; they add up to the score."""

    keyword: float = 0.0
    vector: float = 0.0
    neighbours: float = 0.0
    prior: float = 0.0
    window: float = 0.0
    recency: float = 0.0
    importance: float = 0.0


def hybrid_scores(neighbours: Neighbours | None, found: Keywords, cosines: Numbers) -> Numbers:
    """Returns both searches added, each raised by the neighbours: `cosines` (m,) from 0 to 1, `found` among the
    candidates."""
    if neighbours is None:
        return np.float32(VECTOR_WEIGHT) * cosines + np.float32(KEYWORD_WEIGHT) * keyword_scores(found, len(cosines))
    scores = np.float32(VECTOR_WEIGHT) * lifted(cosines, neighbours.cosines)
    together = max(1, TOGETHER // max(1, len(scores)))
    for start in range(0, len(found.words), together):
        own = np.zeros((min(together, len(found.words) - start), len(scores)), np.float32)
        here = (found.word >= start) & (found.word < start + together)
        own[found.word[here] - start, found.place[here]] = found.strength[here]
        # Word by word, because a neighbour that repeats a word of the memory says nothing more about it.
        for share, row in zip(found.shares[start:], lifted(own, neighbours.words), strict=False):
            scores += np.float32(KEYWORD_WEIGHT * share) * row
    return scores


def told(lengths: npt.NDArray[Any], runs: npt.NDArray[np.int64]) -> Scores:
    """Returns the part by which the distance of a score to 1 shrinks because the memory tells much: more terms, more
    to find. Only in runs, where many turns say next to nothing."""
    parts: Scores = _TOLD.take(np.minimum(lengths, len(_TOLD) - 1)) * np.float64(PRIOR_WEIGHT)
    parts[runs < 0] = 0.0
    return parts


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
