"""One search over the store: candidates from the indexes, the decision from the database."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agentmem.analyzer import stored_terms
from agentmem.filters import FieldPath, Filter
from agentmem.records import Match, Record, Scope
from agentmem.search.bm25 import Keywords, Mask, Sought, find_keywords, keyword_scores
from agentmem.search.index_cache import IndexCache
from agentmem.search.index_view import IndexView
from agentmem.search.near_words import near_words
from agentmem.search.ranking import (
    KEYWORD_WEIGHT,
    PRIOR_WEIGHT,
    VECTOR_WEIGHT,
    Neighbours,
    Parts,
    hybrid_scores,
    importance_factors,
    recency_factors,
    told,
)
from agentmem.search.segments.candidates import ALL_OF, Block, Candidates, Rest, Segmented, Words, pool_of
from agentmem.search.windows import WINDOW_WEIGHT, Window, in_windows
from agentmem.storage.interface import Snapshot
from agentmem.storage.types import Keys, Owner

Mode = Literal["hybrid", "vector", "keyword"]
Half = Literal["full", "fast"]
"""Of a vector: all of it, or the half that costs next to nothing, which pending memories have."""
Scores = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""Differences below are those of sums in float32."""

IN_TURN = range(500, 10_000)
"""Sizes of indexes whose searches are computed one after the other. numpy releases the GIL around every operation on
more than 500 numbers, and competes with all other searching threads to take it back. In turns, each thread waits once.
Larger indexes let the cores work side by side. Measured in perf/README.md."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a search asks.

    Attributes:
        vectors: Of the query, float16 (dimension,), by the half that they are for; empty when only keywords are asked.
        half: The half to use; None: the one that all of the owner's memories have.
        vector: The one of `vectors` that is used.
        terms: The query's words and those near them.
        windows: The times that it speaks of.
        threshold: A score, below which nothing matches.
        recency: A half-life in seconds.
        importance: Where the metadata has a number.
    """

    mode: Mode
    vectors: Mapping[Half, npt.NDArray[np.float16]]
    half: Half | None
    vector: npt.NDArray[np.float16] | None
    terms: Sought
    scope: Scope
    filters: Filter | None
    limit: int
    threshold: float
    recency: float | None
    importance: FieldPath | None
    collapse: bool
    explain: bool
    windows: Sequence[Window] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates (m,) with their scores and what these are made of. `places` are what the keywords call them;
    `complete`, whether nothing else could match; `floor`, what others score at most, nearly; `plan`, how they were
    found."""

    keys: Keys
    places: npt.NDArray[np.intp]
    complete: bool
    floor: float
    plan: dict[str, Any]
    relevance: Scores
    prior: Scores | None
    window: Scores | None
    recency: Scores | None
    importance: Scores | None
    cosines: Scores | None
    keywords: Keywords

    def scores(self) -> Scores:
        scores = self.relevance
        for parts in (self.prior, self.window):
            if parts is not None:
                scores = 1 - (1 - scores) * (1 - parts)
        for factors in (self.recency, self.importance):
            if factors is not None:
                scores = scores * factors
        return scores


CANDIDATES = 256
"""Of each kind at least, over all segments. Of an owner of 1,000,000, 64, 128, 256 and 512 found .897, .945, .974 and
.985 of the ten best of an exact search by meaning and words, in 9.3, 8.8, 9.7 and 10.9 ms (perf/synthetic.py)."""

EACH = 16
"""That each segment proposes at least, if not as many as are asked for: all of the best may be in one."""

WIDER = 8
"""Times as many, when these were too few."""


class Searcher:
    """Searches; may be called from any thread."""

    def __init__(self, cache: IndexCache) -> None:
        self._cache = cache

    def search(self, snapshot: Snapshot, question: Question) -> list[Match]:
        """The best matches first, ties by the newest; every one of them visible in the snapshot."""
        view = self._cache.view(index_owner(question.scope), snapshot, for_vectors=question.mode != "keyword")
        question = _halved(question, view)
        if not len(view.parts):
            return self._exact(snapshot, view, question)
        # What lowers scores, or leaves some out, may bring matches to light that were not among the best.
        orders_anew = question.collapse or question.recency is not None or question.importance is not None
        visible = [view.visible(snapshot.moment), *(part.seen(snapshot.moment).mask for part in view.parts)]
        passing = _passing(snapshot, view, visible, question)
        wider = 1
        while True:
            find = partial(_pool, snapshot, view, visible[0], passing, question, wider)
            candidates, plan = self._cache.limiter.within(find)
            ranking = _ranked(snapshot, question, candidates, plan)
            matches = _matches(snapshot, question, ranking, ranking.scores())
            enough = len(matches) >= question.limit and not (orders_anew and matches[-1].score < ranking.floor)
            if enough or ranking.complete or ranking.floor < question.threshold:
                return matches
            wider *= WIDER

    def _exact(self, snapshot: Snapshot, view: IndexView, question: Question) -> list[Match]:
        visible = view.visible(snapshot.moment)
        [passing, *_] = _passing(snapshot, view, [visible], question)
        in_turn = len(view.keys) in IN_TURN and question.importance is None  # No thread waits for another's disk.
        plan = {"plan": "exact", "why": "none of the owner's memories is sealed"}

        def rank(_spare: bool) -> tuple[Ranking, Scores]:
            ranking = _ranked(snapshot, question, _everything(view, visible, passing, question), plan)
            return ranking, ranking.scores()

        ranking, scores = self._cache.one.within(rank) if in_turn else rank(False)
        return _matches(snapshot, question, ranking, scores)


class OtherHalf(Exception):
    """The owner's memories have another half of their vectors than the query has; it is to be asked again with it."""

    def __init__(self, half: Half) -> None:
        super().__init__(half)
        self.half: Half = half


def _halved(question: Question, view: IndexView) -> Question:
    """The question with the vector of the half that all of the owner's memories have: no memory is favoured.

    Raises:
        OtherHalf: the query has none of that.
    """
    if question.mode == "keyword":
        return question
    half: Half = question.half or ("fast" if view.is_pending else "full")
    if half not in question.vectors:
        raise OtherHalf(half)
    return replace(question, half=half, vector=question.vectors[half])


def _matches(snapshot: Snapshot, question: Question, ranking: Ranking, scores: Scores) -> list[Match]:
    keys = ranking.keys
    good = np.flatnonzero(scores >= question.threshold) if question.threshold else None
    if good is not None:
        scores, keys = scores[good], keys[good]
    matches: list[Match] = []
    contents: set[str] = set()
    for at, record in _visible(snapshot, question.scope, keys, scores, question.limit):
        if question.collapse:
            if record.content in contents:
                continue
            contents.add(record.content)
        candidate = at if good is None else int(good[at])
        explanation = _explanation(question, ranking, candidate, record) if question.explain else None
        matches.append(Match(record, float(scores[at]), explanation))
        if len(matches) == question.limit:
            break
    return matches


def index_owner(scope: Scope) -> Owner:
    """Returns the owner whose index serves a scope.

    The user's comes first, since it is likely to be searched in other ways too. A run's is small. The agent's serves
    only where it stands alone, since one agent may serve all users.
    """
    for owner in (("user_id", scope.user_id), ("run_id", scope.run_id), ("agent_id", scope.agent_id)):
        if owner[1] is not None:
            return (owner[0], owner[1])
    return None


def _passing(snapshot: Snapshot, view: IndexView, visible: list[Mask], question: Question) -> list[Mask]:
    """Which of the visible places, of the index and of its parts, are asked about. Before ranking, never after: of the
    ten best of everything, none may pass a filter."""
    if question.filters is None and len(question.scope.owners()) <= 1:
        return visible
    passing = view.passing(snapshot, question.scope, question.filters)
    return [seen & asked for seen, asked in zip(visible, passing, strict=False)]


def _everything(view: IndexView, visible: Mask, passing: Mask, question: Question) -> Candidates:
    """Returns all that is asked about of an owner without segments."""
    vector = question.vector
    match question.mode:
        case "vector":
            places = view.with_vectors(passing)
        case "keyword":
            places = np.flatnonzero(passing)
        case "hybrid":
            places = view.in_order(passing)
    cosines = None if vector is None else np.clip(view.scores(vector), 0.0, 1.0)[places]
    keywords = find_keywords(view.terms, view.lengths, visible, question.terms)
    where = np.full(len(view.keys), -1, np.intp)
    where[places] = np.arange(len(places))
    return Candidates(view.columns.at(places), None, cosines, keywords.among(where), True, (0.0, 0.0), 0, 0)


def _pool(
    snapshot: Snapshot, view: IndexView, visible: Mask, passing: list[Mask], question: Question, wider: int, spare: bool
) -> tuple[Candidates, dict[str, Any]]:
    """Returns the candidates of an owner with segments, `wider` times as many as usual, and how they were found."""
    rest, *sealed = passing
    words = Words(view, visible, snapshot.moment, question.terms) if len(question.terms) else None
    blocks: list[Block] = [*map(Segmented, view.parts, sealed), Rest(view, rest, question.vector)]
    wanted, each = wider * max(CANDIDATES, 2 * question.limit), wider * max(EACH, question.limit)
    neighbours = question.mode == "hybrid"
    pool = pool_of(blocks, words, question.vector, wanted=wanted, each=each, neighbours=neighbours, spare=spare)
    asked = sum(block.asked for block in blocks)
    why = f"more than {ALL_OF:,}" if asked > ALL_OF else "all of them are candidates"
    plan = {"plan": "segments", "why": f"{asked:,} memories are asked about, {why}"}
    return pool, plan | {"graphs": pool.graphs, "scanned": pool.scanned}


def _ranked(snapshot: Snapshot, question: Question, candidates: Candidates, plan: dict[str, Any]) -> Ranking:
    """Returns the candidates that match, scored."""
    hybrid = question.mode == "hybrid"
    keys, created_at, runs, embedded, asks, lengths = candidates.columns
    prior = window = None
    if question.mode == "vector" and candidates.cosines is not None:
        relevance, found = candidates.cosines, embedded
    elif candidates.cosines is None:
        relevance = keyword_scores(candidates.keywords, len(keys)).astype(np.float64)
        found = relevance > 0
    else:
        neighbours = Neighbours.of(runs, asks, candidates.beside)
        relevance = hybrid_scores(neighbours, candidates.keywords, candidates.cosines.astype(np.float32)).astype(
            np.float64
        )
        # A vector is near in meaning to some degree; a memory that nothing found is no match.
        found = (relevance > 0) | embedded
        prior = told(lengths, runs)
    places = np.flatnonzero(found)
    recency, importance = _factors(snapshot, question, keys[places], created_at[places])
    by_words, by_meaning = candidates.floors
    floor = KEYWORD_WEIGHT * by_words + VECTOR_WEIGHT * by_meaning if hybrid else max(by_words, by_meaning)
    if prior is not None:
        floor = 1 - (1 - floor) * (1 - PRIOR_WEIGHT)
        prior = prior[places]
    if question.windows and question.mode != "vector":
        floor = 1 - (1 - floor) * (1 - WINDOW_WEIGHT)
        window = in_windows(question.windows, created_at[places])
    cosines = None if candidates.cosines is None else candidates.cosines[places]
    return Ranking(
        keys[places], places, candidates.complete, floor, plan | {"candidates": len(places)}, relevance[places], prior,
        window, recency, importance, cosines, candidates.keywords,
    )  # fmt: skip


def _factors(
    snapshot: Snapshot, question: Question, keys: Keys, created_at: Keys
) -> tuple[Scores | None, Scores | None]:
    """What recency and importance make of the scores, where they are asked for."""
    recency = importance = None
    if question.recency is not None:
        recency = recency_factors((snapshot.moment - created_at) / 1e6, question.recency)
    if question.importance is not None:
        numbers = snapshot.numbers(keys, question.scope, question.importance)
        importance = importance_factors(np.array([numbers.get(key, 0.0) for key in keys.tolist()]))
    return recency, importance


def _explanation(question: Question, ranking: Ranking, candidate: int, record: Record) -> dict[str, Any]:
    """The parts of a score, which add up to it, and what was looked at."""
    here = ranking.keywords.at(int(ranking.places[candidate]))
    keyword = sum(part for _, part in here)
    cosine = 0.0 if ranking.cosines is None else float(ranking.cosines[candidate])
    weights = {"hybrid": (KEYWORD_WEIGHT, VECTOR_WEIGHT), "vector": (0.0, 1.0), "keyword": (1.0, 0.0)}[question.mode]
    relevance = float(ranking.relevance[candidate])
    reached = [relevance]
    for parts in (ranking.prior, ranking.window):
        reached.append(reached[-1] + (0.0 if parts is None else (1 - reached[-1]) * float(parts[candidate])))
    for factors in (ranking.recency, ranking.importance):
        reached.append(reached[-1] * (1.0 if factors is None else float(factors[candidate])))
    prior, window, recency, importance = np.diff(reached).tolist()
    own = weights[0] * keyword + weights[1] * cosine
    parts_of = Parts(
        keyword=weights[0] * keyword,
        vector=weights[1] * cosine,
        neighbours=relevance - own if relevance - own > ROUNDING else 0.0,
        prior=prior,
        window=window,
        recency=recency,
        importance=importance,
    )
    return {
        "mode": question.mode,
        **asdict(parts_of),
        "cosine": cosine,
        **({} if question.half is None else {"half": question.half}),
        "terms": [word for word, _ in here],
        "near": _near(question.terms, {word for word, _ in here}, record),
        "windows": [each.to_dict() for each in question.windows],
        **ranking.plan,
    }


def _near(sought: Sought, matched: set[str], record: Record) -> dict[str, str]:
    """Returns the words of the query that the text lacks, each with the near word that stands for it there."""
    near: dict[str, str] = {}
    if sought.is_plain:
        return near
    there = np.isin(sought.terms, np.frombuffer(stored_terms(record.content, record.created_at), "<u4"))
    for place, word in enumerate(sought.words):
        if word in matched and not there[place]:
            links = np.flatnonzero((sought.word == place) & np.repeat(there, np.diff(sought.starts)))
            if len(links):
                link = links[np.argmax(sought.factor[links])]
                near[word] = near_words().text(int(np.repeat(sought.terms, np.diff(sought.starts))[link]))
    return near


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
