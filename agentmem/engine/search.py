"""A search: embed the queries, then rank and read in one snapshot of the store.

With a model that has a fast half, a search waits for no refinement. The owner's index makes the fast halves of pending
memories, and the queries are compared by the half that all of the owner's memories have. The view in the snapshot
decides which half that is. It is guessed before; after a wrong guess the other half is made, and the search begins
again.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Literal

import numpy as np

from agentmem.analyzer import query_terms
from agentmem.deadline import Deadline, late
from agentmem.embedding.future import failure_of
from agentmem.engine.engine import Engine
from agentmem.engine.runtime import ModelRuntime
from agentmem.engine.writer import URGENT_TEXTS
from agentmem.errors import DeadlineError, StoreFullError, StoreReadOnlyError
from agentmem.records import Match, Scope
from agentmem.search.bm25 import NOTHING_SOUGHT, Sought
from agentmem.search.near_words import with_near_words
from agentmem.search.searcher import Half, OtherHalf, Question, Searcher, index_owner
from agentmem.search.windows import Window, find_windows
from agentmem.storage.interface import Snapshot
from agentmem.storage.retrying import again
from agentmem.timestamps import now
from agentmem.validation import check_query

Effort = Literal["fast", "full"]

CHUNK = 256
"""Queries that are embedded together and see the store of one moment; memory stays small."""

SETTLED_TRIES = 3
"""How often a search with full effort has its owner refined, while others go on adding to it."""


def search(
    engine: Engine,
    asked: Question,
    queries: Iterable[str],
    seconds: float,
    *,
    show_expired: bool,
    as_of: datetime | None,
    effort: Effort | None,
    reference_date: datetime | None,
) -> list[list[Match]]:
    """Answers every query, chunk by chunk, each within `seconds`.

    Args:
        engine: The store and its model.
        asked: All queries have this in common; their terms and vectors are filled in here.
        queries: Any iterable; each chunk is checked before it is embedded.
        seconds: For each chunk.
        show_expired: Expired memories are found too.
        as_of: The instant whose memories are searched.
        effort: As in `Memory.search`.
        reference_date: From when the queries look back ("last week"); None: `as_of`, or else now.

    Returns:
        A list of matches for each query, in order.
    """
    remaining = iter(queries)
    results: list[list[Match]] = []
    while chunk := list(islice(remaining, CHUNK)):
        for query in chunk:
            check_query(query, engine.config)
        reference = reference_date or as_of or now()
        results += _Search(engine, asked, chunk, Deadline(seconds), show_expired, as_of, effort, reference).answer()
    return results


@dataclass(slots=True)
class _Search:
    """One chunk of queries on its way; belongs to the thread that asks.

    Attributes:
        asked: What all of the queries have in common.
        as_of, show_expired: The state that is searched. Any but the usual one has a temporary index.
        reference: The moment from which the queries look back.
        effort: "fast": without a run of the model. "full": with all vectors refined. None: as they are.
    """

    engine: Engine
    asked: Question
    queries: Sequence[str]
    deadline: Deadline
    show_expired: bool
    as_of: datetime | None
    effort: Effort | None
    reference: datetime

    def answer(self) -> list[list[Match]]:
        """Returns the matches of each query."""
        return self.engine.runtimes.through(self._answer, self.deadline)

    @again
    def _answer(self, runtime: ModelRuntime) -> list[list[Match]]:
        questions = self._questions(runtime)
        if self.asked.mode == "keyword":
            return self._found(runtime, questions)
        if not runtime.progressive or self.effort == "full":
            return self._settled(runtime, questions)
        half = "fast" if self.effort == "fast" else self._guess(runtime)
        while True:
            questions = self._embedded(runtime, questions, half)
            try:
                return self._found(runtime, questions)
            except OtherHalf as other:
                half = other.half

    def _guess(self, runtime: ModelRuntime) -> Half:
        """The half that the owner's memories had last. An unknown owner may have pending ones: the fast half costs
        nothing."""
        return "full" if self._is_usual and runtime.index_cache.is_pending(self._owner) is False else "fast"

    @property
    def _is_usual(self) -> bool:
        return not self.show_expired and self.as_of is None

    @property
    def _owner(self) -> tuple[str, str] | None:
        return index_owner(self.asked.scope)

    def _settled(self, runtime: ModelRuntime, questions: list[Question]) -> list[list[Match]]:
        """Searches when nothing of the scope that was there before waits for its vector. With a model that has a fast
        half, that is nothing of the owner, as all of its memories are compared alike."""
        fast = self.effort == "fast" and runtime.embedder.has_fast
        questions = self._embedded(runtime, questions, "fast" if fast else "full")
        for _ in range(SETTLED_TRIES):
            with suppress(OtherHalf):
                return self._found(runtime, questions, settled=False)
            self.engine.backlog.wake(0)  # Perhaps the process that deferred them is no more.
            owner = self._owner
            scope = (
                self.asked.scope if not runtime.progressive else Scope() if owner is None else Scope(**dict([owner]))
            )
            # A store that takes no vectors can still be searched; these memories have their keywords until it does.
            with suppress(StoreFullError, StoreReadOnlyError):
                self.engine.backlog.settle(scope, self.deadline.left, urgent=True)
            if not runtime.progressive:
                break
        return self._found(runtime, self._embedded(runtime, questions, "fast") if runtime.progressive else questions)

    def _found(
        self, runtime: ModelRuntime, questions: Sequence[Question], *, settled: bool = True
    ) -> list[list[Match]]:
        """Searches in one snapshot.

        Raises:
            OtherHalf: the owner's memories have another half than the questions; unless `settled`, they wait for
                their vectors.
        """
        store, asked = self.engine.store, self.asked
        with store.snapshot(as_of=self.as_of, show_expired=self.show_expired, deadline=self.deadline) as snapshot:
            snapshot.require_model(runtime.identity)
            if asked.mode != "keyword" and snapshot.has_pending:
                if not settled and not runtime.progressive:
                    raise OtherHalf("full")
                self.engine.backlog.wake_for(self._owner)
            return self._matches(runtime, snapshot, questions)

    def _matches(self, runtime: ModelRuntime, snapshot: Snapshot, questions: Sequence[Question]) -> list[list[Match]]:
        """The indexes hold what is visible now. Other views build a temporary index for this call."""
        searcher = runtime.searcher if self._is_usual else Searcher(runtime.temporary_cache())
        began = time.perf_counter()
        matches: list[list[Match]] = []
        for question in questions:
            if matches:
                self.deadline.check()
            matches.append(searcher.search(snapshot, question))
        self.engine.timings.record("search", (time.perf_counter() - began) / len(questions))
        return matches

    def _questions(self, runtime: ModelRuntime) -> list[Question]:
        """One for each query, with its words and times, as far as the mode needs them."""
        questions = []
        for number, query in enumerate(self.queries):
            if number:
                self.deadline.check()
            terms, windows = NOTHING_SOUGHT, list[Window]()
            if self.asked.mode != "vector":
                words = query_terms(query, self.deadline)
                terms = with_near_words(words) if self.engine.config.near_words else Sought.of(words)
                windows = find_windows(query, self.reference)
            half: Half | None = "fast" if self.effort == "fast" and runtime.embedder.has_fast else None
            questions.append(replace(self.asked, terms=terms, windows=windows, half=half))
        return questions

    def _embedded(self, runtime: ModelRuntime, questions: list[Question], half: Half) -> list[Question]:
        """The questions with the vectors of a half of their queries, ahead of bulk work."""
        if all(half in question.vectors for question in questions):
            return questions
        queries = self.queries
        if half == "fast":
            vectors = [runtime.embedder.fast_query(query) for query in queries]
        else:
            urgent = len(queries) <= URGENT_TEXTS
            homes = [self.asked.scope.home] * len(queries)
            try:
                answers = runtime.embedder.embed(queries, homes, "query", urgent=urgent, timeout=self.deadline.left)
            except DeadlineError as error:  # It tells what was left, and not what the caller allowed.
                raise late(self.deadline.seconds) from error
            failure = failure_of(answers)
            if failure is not None:
                raise failure
            vectors = [answer for answer in answers if isinstance(answer, bytes)]
        return [
            replace(question, vectors={**question.vectors, half: np.frombuffer(vector, "<f2")})
            for question, vector in zip(questions, vectors, strict=True)
        ]
