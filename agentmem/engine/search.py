"""Searches: embed the queries, embed what is pending in their scope, then rank within one snapshot of the store."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice

import numpy as np

from agentmem.analyzer import query_terms
from agentmem.deadline import Deadline
from agentmem.embedding.future import failure_of
from agentmem.engine.engine import Engine
from agentmem.engine.reader import snapshot_of
from agentmem.engine.runtime import Lens
from agentmem.engine.writer import URGENT_TEXTS
from agentmem.errors import StoreFullError, StoreReadOnlyError
from agentmem.records import Match
from agentmem.search.index_cache import IndexCache
from agentmem.search.searcher import Question, Searcher
from agentmem.storage.interface import Snapshot
from agentmem.storage.retrying import again
from agentmem.validation import check_query

CHUNK = 256
"""Queries that are embedded together and see the store of one moment; memory stays small."""


def search(
    engine: Engine,
    asked: Question,
    queries: Iterable[str],
    seconds: float,
    *,
    show_expired: bool,
    as_of: datetime | None,
) -> list[list[Match]]:
    """Answers every query, chunk by chunk, each within `seconds`.

    Args:
        engine: The store and its model.
        asked: All queries have this in common; their terms and vectors are filled in here.
        queries: Any iterable; each chunk is checked before it is embedded.
        seconds: For each chunk.
        show_expired: Expired memories are found too.
        as_of: The instant whose memories are searched.

    Returns:
        A list of matches for each query, in order.
    """
    remaining = iter(queries)
    results: list[list[Match]] = []
    while chunk := list(islice(remaining, CHUNK)):
        for query in chunk:
            check_query(query, engine.config)
        deadline = Deadline(seconds)
        answer = partial(_answer, engine, asked, chunk, deadline, show_expired, as_of)
        results += engine.lenses.through(answer, deadline)
    return results


@again
def _answer(
    engine: Engine,
    asked: Question,
    queries: Sequence[str],
    deadline: Deadline,
    show_expired: bool,
    as_of: datetime | None,
    lens: Lens,
) -> list[list[Match]]:
    """Searches in one snapshot. Memories of the scope that were there before have their vectors in it, if the mode
    needs them."""
    questions = _questions(lens, asked, queries, deadline)
    usual = not show_expired and as_of is None
    with snapshot_of(engine, deadline, show_expired=show_expired, as_of=as_of) as snapshot:
        snapshot.require_model(lens.identity)
        if asked.mode == "keyword" or not snapshot.has_pending:
            return _matches(engine, lens, snapshot, questions, usual=usual)
    engine.backlog.wake(0)  # The process that deferred them may have ended.
    # A store that takes no vectors can still be searched; these memories have their keywords until it does.
    with suppress(StoreFullError, StoreReadOnlyError):
        engine.backlog.settle(asked.scope, deadline.left, urgent=True)
    with snapshot_of(engine, deadline, show_expired=show_expired, as_of=as_of) as snapshot:
        snapshot.require_model(lens.identity)
        return _matches(engine, lens, snapshot, questions, usual=usual)


def _questions(lens: Lens, asked: Question, queries: Sequence[str], deadline: Deadline) -> list[Question]:
    """Makes a question of each query, with the terms and the vector that the mode needs."""
    terms: list[dict[int, str]] = []
    for query in queries:
        if terms:
            deadline.check()
        terms.append({} if asked.mode == "vector" else query_terms(query, deadline))
    if asked.mode == "keyword":
        return [replace(asked, terms=words) for words in terms]
    urgent = len(queries) <= URGENT_TEXTS
    homes = [asked.scope.home] * len(queries)
    vectors = lens.embedder.embed(queries, homes, "query", urgent=urgent, timeout=deadline.left)
    failure = failure_of(vectors)
    if failure is not None:
        raise failure
    return [
        replace(asked, terms=words, vector=np.frombuffer(vector, "<f2"))
        for words, vector in zip(terms, vectors, strict=True)
        if isinstance(vector, bytes)
    ]


def _matches(
    engine: Engine, lens: Lens, snapshot: Snapshot, questions: Sequence[Question], *, usual: bool
) -> list[list[Match]]:
    """Ranks within the snapshot. The owners' indexes hold what is visible now; other views build a temporary index
    for this call."""
    searcher = lens.searcher if usual else Searcher(IndexCache(lens.embedder.dimension, 0))
    began = time.perf_counter()
    matches: list[list[Match]] = []
    for question in questions:
        if matches and snapshot.deadline is not None:
            snapshot.deadline.check()
        matches.append(searcher.search(snapshot, question))
    engine.timings.record("search", (time.perf_counter() - began) / len(questions))
    return matches
