"""One search over the store: candidates from the shelves, the decision from the database."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentmem.filters import Condition
from agentmem.records import Match, Record, Scope
from agentmem.search.keywords import Keywords, Mask, find_keywords
from agentmem.search.ranking import (
    KEYWORD_WEIGHT,
    VECTOR_WEIGHT,
    Line,
    Parts,
    hybrid_scores,
    importance_factors,
    keyword_scores,
    recency_factors,
)
from agentmem.search.shelf import Owner, Shelves, View
from agentmem.storage.snapshot import Keys, Snapshot

Mode = Literal["hybrid", "vector", "keyword"]
Scores = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Differences below are those of sums in float32."""

IN_TURN = range(500, 10_000)
"""Sizes of shelves whose searches are computed one after the other. numpy lets go of the GIL around every operation on
more than 500 numbers, and takes it back among all the threads that search: 20 to 140 switches of thread a search with
ten of them, a third of its time. Taking turns, the others wait once. Larger shelves let the cores work side by side."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a search asks. `vector` is the query's, float16 (dimension,), of unit length, and None when only keywords
    are asked for; `terms` its terms with their words; `threshold` a score; `recency` a half-life in seconds;
    `importance` what reads a number from the metadata."""

    mode: Mode
    vector: npt.NDArray[np.float16] | None
    terms: Mapping[int, str]
    scope: Scope
    condition: Condition | None
    limit: int
    threshold: float
    recency: float | None
    importance: Condition | None
    collapse: bool
    explain: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates (m,) with their scores and what these are made of."""

    places: npt.NDArray[np.intp]
    relevance: Scores
    recency: Scores | None
    importance: Scores | None
    cosines: Scores | None
    keywords: Keywords

    def scores(self) -> Scores:
        scores = self.relevance
        for factors in (self.recency, self.importance):
            if factors is not None:
                scores = scores * factors
        return scores


class Retriever:
    """Searches; may be called from any thread."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    def search(self, snapshot: Snapshot, question: Question) -> list[Match]:
        """The best matches first, ties by the newest; every one of them visible in the snapshot."""
        view = self._shelves.view(shelf_owner(question.scope), snapshot)
        visible = view.visible(snapshot.moment)
        passing = _passing(snapshot, view, visible, question)
        in_turn = len(view.keys) in IN_TURN and question.importance is None  # Nobody waits for another's disk.
        with self._shelves.turn if in_turn else nullcontext():
            ranking = _ranked(snapshot, view, visible, passing, question)
            scores, places = ranking.scores(), ranking.places
            good = np.flatnonzero(scores >= question.threshold) if question.threshold else None
            if good is not None:
                scores, places = scores[good], places[good]
            keys = view.keys[places]
        matches: list[Match] = []
        contents: set[str] = set()
        for at, record in _visible(snapshot, question.scope, keys, scores, question.limit):
            if question.collapse:
                if record.content in contents:
                    continue
                contents.add(record.content)
            candidate = at if good is None else int(good[at])
            explanation = _explanation(question, ranking, candidate) if question.explain else None
            matches.append(Match(record, float(scores[at]), explanation))
            if len(matches) == question.limit:
                break
        return matches


def shelf_owner(scope: Scope) -> Owner:
    """Whose shelf serves a scope: the user's, who is likely to be searched in other ways too; else the run's, which is
    small; the agent's only alone, since one agent may serve everybody."""
    for owner in (("user_id", scope.user_id), ("run_id", scope.run_id), ("agent_id", scope.agent_id)):
        if owner[1] is not None:
            return (owner[0], owner[1])
    return None


def _passing(snapshot: Snapshot, view: View, visible: Mask, question: Question) -> Mask:
    """Which of the visible places are asked about. Before ranking, never after: of the ten best of everything, none may
    pass a filter."""
    if question.condition is None and len(question.scope.owners()) <= 1:
        return visible
    return visible & view.passing(snapshot, question.scope, question.condition)


def _ranked(snapshot: Snapshot, view: View, visible: Mask, passing: Mask, question: Question) -> Ranking:
    cosines = None if question.vector is None else np.clip(view.scores(question.vector), 0.0, 1.0)
    keywords = find_keywords(view.terms, visible, question.terms)
    match question.mode:
        case "vector":
            places = view.with_vectors(passing)
        case "keyword":
            places = np.flatnonzero(passing)
        case "hybrid":
            places = view.in_order(passing)
    relevance = _relevance(view, question.mode, places, cosines, keywords)
    if question.mode != "vector":
        # What has a vector is near in meaning to some degree; what was found by nothing is no match.
        found = (relevance > 0) | (view.embedded[places] if question.mode == "hybrid" else False)
        places, relevance = places[found], relevance[found]
    recency = importance = None
    if question.recency is not None:
        recency = recency_factors((snapshot.moment - view.created_at[places]) / 1e6, question.recency)
    if question.importance is not None:
        numbers = snapshot.numbers(view.keys[places], question.scope, question.importance)
        importance = importance_factors(np.array([numbers.get(key, 0.0) for key in view.keys[places].tolist()]))
    return Ranking(places, relevance, recency, importance, None if cosines is None else cosines[places], keywords)


def _relevance(
    view: View, mode: Mode, places: npt.NDArray[np.intp], cosines: Scores | None, keywords: Keywords
) -> Scores:
    if mode == "vector" and cosines is not None:
        return cosines[places]
    where = np.full(len(view.keys), -1, np.intp)
    where[places] = np.arange(len(places))
    if cosines is None:
        return keyword_scores(keywords.among(where), len(places)).astype(np.float64)
    line = Line.of(places, view.runs[places])
    return hybrid_scores(line, keywords.among(where), cosines[places].astype(np.float32)).astype(np.float64)


def _explanation(question: Question, ranking: Ranking, candidate: int) -> dict[str, Any]:
    """The parts of a score, which add up to it, and what was looked at."""
    here = ranking.keywords.at(int(ranking.places[candidate]))
    keyword = sum(part for _, part in here)
    cosine = 0.0 if ranking.cosines is None else float(ranking.cosines[candidate])
    weights = {"hybrid": (KEYWORD_WEIGHT, VECTOR_WEIGHT), "vector": (0.0, 1.0), "keyword": (1.0, 0.0)}[question.mode]
    relevance = float(ranking.relevance[candidate])
    recency = 1.0 if ranking.recency is None else float(ranking.recency[candidate])
    importance = 1.0 if ranking.importance is None else float(ranking.importance[candidate])
    own = weights[0] * keyword + weights[1] * cosine
    parts = Parts(
        keyword=weights[0] * keyword,
        vector=weights[1] * cosine,
        neighbours=relevance - own if relevance - own > ROUNDING else 0.0,
        recency=relevance * (recency - 1),
        importance=relevance * recency * (importance - 1),
    )
    return {
        "mode": question.mode,
        **asdict(parts),
        "cosine": cosine,
        "terms": [word for word, _ in here],
        "plan": "exact",
        "candidates": len(ranking.places),
    }


def _visible(snapshot: Snapshot, scope: Scope, keys: Keys, scores: Scores, limit: int) -> Iterator[tuple[int, Record]]:
    """The candidates from the best down that the database confirms. It confirms nearly always, so that no more rows are
    fetched than asked for; what another thread deleted meanwhile costs a second, larger fetch."""
    start, size = 0, limit
    while start < len(keys):
        best = _best(scores, keys, start + size)[start:]
        records = snapshot.records(keys[best], scope)
        for position in best:
            record = records.get(int(keys[position]))
            if record is not None:
                yield int(position), record
        start, size = start + size, size * 4


def _best(scores: Scores, keys: Keys, count: int) -> npt.NDArray[np.intp]:
    """The positions of the `count` highest scores, best first, equal ones by the newest key."""
    if count >= len(scores):
        return np.lexsort((-keys, -scores))
    # The scores that may be among the best, with all that tie with the last of them.
    bar = np.partition(scores, len(scores) - count)[len(scores) - count]
    pool = np.flatnonzero(scores >= bar)
    return pool[np.lexsort((-keys[pool], -scores[pool]))[:count]]
