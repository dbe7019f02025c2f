"""One search over the store: candidates from the shelves, the decision from the database."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentmem.filters import Condition
from agentmem.records import Match, Record, Scope
from agentmem.search.shelf import Owner, Shelves, View
from agentmem.storage.snapshot import Keys, Snapshot


@dataclass(frozen=True, slots=True)
class Question:
    """What a search asks. `vector` is the query's, float16 (dimension,), of unit length; `threshold` a score."""

    vector: npt.NDArray[np.float16]
    scope: Scope
    condition: Condition | None
    limit: int
    threshold: float
    explain: bool


class Retriever:
    """Searches; may be called from any thread."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves

    def search(self, snapshot: Snapshot, question: Question) -> list[Match]:
        """The best matches first, ties by the newest; every one of them visible in the snapshot."""
        scope, condition = question.scope, question.condition
        view = self._shelves.view(shelf_owner(scope), snapshot)
        places = np.flatnonzero(view.live & (view.expires_at > snapshot.moment))
        if condition is not None or len(scope.owners()) > 1:
            # Before ranking, never after: of the ten best of everything, none may pass a filter.
            places = places[np.isin(view.keys[places], snapshot.keys(scope, condition))]
        scores = np.clip(view.scores(question.vector)[places], 0.0, 1.0)
        if question.threshold:
            enough = scores >= question.threshold
            places, scores = places[enough], scores[enough]
        matches = []
        for score, record in _visible(snapshot, scope, view, places, scores, question.limit):
            explanation = {"mode": "vector", "vector": score, "plan": "exact", "candidates": len(places)}
            matches.append(Match(record, score, explanation if question.explain else None))
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


def _visible(
    snapshot: Snapshot, scope: Scope, view: View, places: Keys, scores: npt.NDArray[np.float64], limit: int
) -> Iterator[tuple[float, Record]]:
    """The candidates from the best down that the database confirms. It confirms nearly always, so that no more rows are
    fetched than asked for; what another thread deleted meanwhile costs a second, larger fetch."""
    keys = view.keys[places]
    start, size = 0, limit
    while start < len(keys):
        best = _best(scores, keys, start + size)[start:]
        records = snapshot.records(keys[best], scope)
        for position in best:
            record = records.get(int(keys[position]))
            if record is not None:
                yield float(scores[position]), record
        start, size = start + size, size * 4


def _best(scores: npt.NDArray[np.float64], keys: Keys, count: int) -> npt.NDArray[np.intp]:
    """The positions of the `count` highest scores, best first, equal ones by the newest key."""
    if count >= len(scores):
        return np.lexsort((-keys, -scores))
    # The scores that may be among the best, with all that tie with the last of them.
    bar = np.partition(scores, len(scores) - count)[len(scores) - count]
    pool = np.flatnonzero(scores >= bar)
    return pool[np.lexsort((-keys[pool], -scores[pool]))[:count]]
