"""Memory and ScopedMemory: the order of the steps, and nothing else. Start reading here.

An `add` is: check (`records`), embed (`embedding`), commit (`storage`). A `search` is: check, embed the query, then
within one snapshot of the store let the shelves propose (`search`) and the rows decide.
"""

import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import numpy as np

from agentmem.analyzer import query_terms, stored_terms
from agentmem.config import Config, Durability
from agentmem.deadline import Deadline
from agentmem.embedding.batch import Answer
from agentmem.embedding.catalog import find_model
from agentmem.embedding.collector import Ticket
from agentmem.embedding.embedder import GivenEmbedder, failure_of, to_store
from agentmem.embedding.model_card import ModelCard
from agentmem.engine.engine import Engine, is_within_a_call
from agentmem.engine.reembedding import reembed
from agentmem.engine.runtime import DEFAULT_MODEL as DEFAULT_MODEL
from agentmem.engine.runtime import Lens
from agentmem.engine.write_batch import Changes, new_expiry, require
from agentmem.engine.writer import CHUNK, URGENT_TEXTS, Drafter, Naming, as_item, inserts_of, put_off, store_all
from agentmem.errors import AgentMemError, InvalidInputError, StoreFullError, StoreReadOnlyError
from agentmem.filters import number_path, parse_filters
from agentmem.messages import item_of_message
from agentmem.platform.paths import absolute, is_utf8
from agentmem.platform.signals import require_room
from agentmem.progress import stages, with_progress
from agentmem.quoting import is_address, shorten
from agentmem.records import Draft, Event, Match, Page, Record, Scope, owners_of
from agentmem.search.index_cache import IndexCache
from agentmem.search.searcher import Mode, Question, Searcher
from agentmem.stats import Stats, VacuumReport
from agentmem.storage.interface import Snapshot
from agentmem.storage.operations import Delete, Restore, Update
from agentmem.storage.retrying import again
from agentmem.storage.types import KEEP, Keep, Revision
from agentmem.validation import (
    INT64,
    check_content,
    check_half_life,
    check_id,
    check_limit,
    check_metadata,
    check_past,
    check_query,
    check_threshold,
    check_time,
    check_timeout,
)

if TYPE_CHECKING:
    from agentmem.storage.types import OnConflict
    from agentmem.transfer.importer import ImportReport
    from agentmem.transfer.reader import Format, Owner

T = TypeVar("T")

Between = tuple[datetime | None, datetime | None] | None
"""From the first moment on, before the second; None where there is no bound."""


class _Calls(ABC):
    """The calls that `Memory` and `ScopedMemory` share. Each class says for itself whose memories a call is about."""

    _engine: Engine

    @abstractmethod
    def _scope(self, user_id: Any, agent_id: Any, run_id: Any, *, all_scopes: bool = False) -> Scope:
        """Returns the scope of a call that must name an owner."""

    @abstractmethod
    def _whose(self, user_id: Any, agent_id: Any, run_id: Any) -> Scope:
        """Returns the scope of a call by id, which may name an owner."""

    # -- remembering ----------------------------------------------------------------------------------------------

    def add(
        self,
        content: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        role: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        created_at: datetime | None = None,
        expires_at: datetime | None = None,
        ttl: float | None = None,
        dedupe: bool = False,
        defer: bool = False,
        timeout: float | None = None,
    ) -> Record:
        """Remembers one text, for ever, or until `expires_at`, or for `ttl` seconds from now; an expired memory is seen
        by no read any more. `role` is who said it, `metadata` a mapping of JSON values that filters can ask for, `id` a
        name of your own (otherwise a UUID that sorts by time), `created_at` when it was said (otherwise now). Of a long
        text the model reads the first `max_tokens` word pieces (256 for all-MiniLM-L6-v2, some 180 English words); what
        follows is found by its words only, so split it.

        On return the record, its history event and its vector are committed together, as durable as
        `Config.durability` says, and the next search of any thread or process finds it. Blocks while the text is
        embedded (none of that for a text that its home has seen before) and committed.

        With `defer=True` the record and its event are committed, the vector follows in the background: the call waits
        for the disk only. Such a memory is found all the same, because a search first has what is pending in its own
        scope embedded; pending work survives a crash and is done by whichever process has the file open.

        With `dedupe=True` the same text is not stored twice under exactly the same user, agent and run: where such a
        memory is to be seen, however it was added, the oldest is returned as it is, and the rest of the call (the id
        too, taken or not) is not used. However many threads and processes bring a text at once, one of them stores it.
        A deleted or expired memory does not count; it may still be restored beside the new one.

        Raises:
            InvalidInputError: an argument cannot be used (DuplicateIdError: the id is taken); nothing was queued.
            EmbeddingError: the model failed on this text; nothing was written.
            OverloadedError, DeadlineError: the queue stayed full, or no embedding came, for `timeout` seconds (default
                `Config.timeout`); nothing was written, a retry is safe.
        """
        draft = Draft.of(
            content, self._scope(user_id, agent_id, run_id), self._engine.config,
            role=role, metadata=metadata, id=id, created_at=created_at, expires_at=expires_at, ttl=ttl,
            dedupe=dedupe,
        )  # fmt: skip
        seconds = check_timeout(timeout, self._engine.config)
        if defer:
            [record] = put_off(self._engine, draft, seconds)
        else:
            [record] = self._remember(draft, seconds)
        assert isinstance(record, Record)
        return record

    @overload
    def add_batch(
        self,
        contents: Iterable[str | Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        role: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime | None = None,
        expires_at: datetime | None = None,
        ttl: float | None = None,
        dedupe: bool = False,
        on_error: Literal["raise"] = "raise",
        defer: bool = False,
        durability: Durability | None = None,
        progress: bool = False,
        timeout: float | None = None,
    ) -> list[Record]: ...

    @overload
    def add_batch(
        self,
        contents: Iterable[str | Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        role: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime | None = None,
        expires_at: datetime | None = None,
        ttl: float | None = None,
        dedupe: bool = False,
        on_error: Literal["return"],
        defer: bool = False,
        durability: Durability | None = None,
        progress: bool = False,
        timeout: float | None = None,
    ) -> list[Record | AgentMemError]: ...

    def add_batch(
        self,
        contents: Iterable[str | Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        role: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime | None = None,
        expires_at: datetime | None = None,
        ttl: float | None = None,
        dedupe: bool = False,
        on_error: Literal["raise", "return"] = "raise",
        defer: bool = False,
        durability: Durability | None = None,
        progress: bool = False,
        timeout: float | None = None,
    ) -> list[Record] | list[Record | AgentMemError]:
        """Remembers many texts, in order. An item is a text, or a mapping with the fields of `add`; what an item does
        not say, the keywords say (of `expires_at` and `ttl`, an item says both when it has one).

        Works through the items in chunks of 256 (deferred ones 1,000), one commit each, while the queries of other
        threads pass in between. With `on_error="raise"` the first bad item raises with its position: the chunks before
        its own are stored, nothing of its own is; a list or tuple is checked whole before anything is written. With
        `"return"` every good item is stored, and an exception stands in the place of a bad one. `timeout` is per chunk.
        `contents` may be any iterable and is never held whole. `progress` shows a bar on standard error. `defer` and
        `dedupe` (among the items too) are as in `add`.

        `durability` is this call's own (default: `Config.durability`). What was committed with `"full"` survives a
        power cut, and so does everything committed before it; what was committed with `"process"` survives a crash of
        the process, and a power cut once a later commit with `"full"` has returned. A commit that several calls share
        is as durable as the strongest of them asks.

        Returns a Record (or exception) for each item. Raises as `add` does.
        """
        if on_error not in ("raise", "return"):
            raise InvalidInputError(f"on_error is {shorten(on_error)}; use 'raise' or 'return'.")
        if durability not in (None, "full", "process"):
            raise InvalidInputError(f"durability is {shorten(durability)}; use 'full' or 'process'.")
        if isinstance(contents, str | bytes | Mapping) or not isinstance(contents, Iterable):
            raise InvalidInputError(f"contents is {shorten(contents)}; pass a list of texts or mappings.")
        defaults = {
            "user_id": user_id, "agent_id": agent_id, "run_id": run_id, "role": role, "metadata": metadata,
            "created_at": created_at, "expires_at": expires_at, "ttl": ttl, "dedupe": dedupe,
        }  # fmt: skip
        seconds = check_timeout(timeout, self._engine.config)
        together = on_error == "raise"
        return self._add_items(
            contents, defaults, seconds, together=together, defer=defer, durability=durability, progress=progress
        )

    def _add_items(
        self,
        items: Iterable[str | Mapping[str, Any]],
        defaults: dict[str, Any],
        timeout: float,
        *,
        together: bool = True,
        defer: bool,
        durability: Durability | None = None,
        progress: bool = False,
        naming: Naming = as_item,
    ) -> list[Record | AgentMemError]:
        drafter = Drafter(defaults, self._scope, self._engine, naming)
        if together and isinstance(items, Sequence):
            for _ in drafter.draw(items, together=True):
                pass
        drawn = drafter.draw(with_progress(items, "memories") if progress else items, together=together)
        return store_all(
            self._engine, drawn, timeout, together=together, defer=defer, durability=durability, naming=naming
        )

    def add_messages(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        created_at: datetime | None = None,
        expires_at: datetime | None = None,
        ttl: float | None = None,
        dedupe: bool = False,
        defer: bool = False,
        timeout: float | None = None,
    ) -> list[Record]:
        """Remembers chat messages in order, as in the OpenAI format: `{"role", "content", "name"?}`, where `content` is
        a text or a list of parts whose texts are joined. `name` goes into the metadata. Messages that hold no text
        (blank, or only images or calls of tools) are left out. Otherwise like `add_batch`: a commit for every 256
        messages, and on return all of them are stored. Returns a Record for each that holds text.

        Raises:
            InvalidInputError: a message, which is named by its position among all, cannot be used; nothing was stored.
            DuplicateIdError, EmbeddingError: likewise, but the commits before its own stay.
            OverloadedError, DeadlineError: as `add` does.
        """
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
            raise InvalidInputError(f"messages is {shorten(messages)}; pass a list of mappings with role and content.")
        defaults = {
            "user_id": user_id, "agent_id": agent_id, "run_id": run_id, "role": None, "metadata": None,
            "created_at": created_at, "expires_at": expires_at, "ttl": ttl, "dedupe": dedupe,
        }  # fmt: skip
        items = _items_of(messages, metadata)
        positions = list(items)
        records = self._add_items(
            list(items.values()), defaults, check_timeout(timeout, self._engine.config), defer=defer,
            naming=lambda position: f"Message {positions[position]}",
        )  # fmt: skip
        return [record for record in records if isinstance(record, Record)]  # Together, they are stored or one raises.

    def _remember(self, draft: Draft, timeout: float) -> list[Record | AgentMemError]:
        """Embeds and commits."""
        return self._engine.lenses.through(lambda lens: self._remember_through(lens, draft, timeout))

    def _remember_through(self, lens: Lens, draft: Draft, timeout: float) -> list[Record | AgentMemError]:
        """The worker that makes the vector puts the write into the next commit by itself; this thread sleeps until it
        is committed, or is woken to lead that commit."""
        embedder, deadline = lens.embedder, Deadline(timeout)
        [insert] = inserts_of([draft], deadline)
        commit = self._engine.store.prepare([insert], model=lens.identity)

        def enqueue(answers: list[Answer]) -> None:
            [insert.vector] = to_store(ticket.digests, answers)
            commit.enqueue()

        ticket = Ticket(1, enqueue)
        try:
            embedder.submit(
                ticket, [draft.content], [draft.scope.home], "document", urgent=True, timeout=timeout
            )  # fmt: skip
            return commit.result(deadline.left, of=timeout)
        except BaseException:
            commit.cancel()
            embedder.cancel(ticket)
            raise

    # -- finding --------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        limit: int = 10,
        threshold: float | None = None,
        mode: Mode = "hybrid",
        recency: timedelta | float | None = None,
        importance: str | None = None,
        collapse: bool = False,
        between: Between = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
        explain: bool = False,
        all_scopes: bool = False,
        timeout: float | None = None,
    ) -> list[Match]:
        """The memories relevant to a question, best first, ties by the newest.

        Sees everything that any thread or process was told is stored before the call. `filters` decides before
        ranking. Blocks while the query is embedded, ahead of bulk work, while what is pending in the scope is embedded,
        and while the owner's shelf is loaded the first time; with `mode="keyword"` no model is needed or waited for.

        `score` runs from 0 to 1 and means the same for every query; `threshold` leaves out what scores less.
        `mode="vector"`: the cosine of the two vectors (below 0 counts as 0). `"keyword"`: the share of the query's
        words that the memory has, rare words counting for more (BM25 with the statistics of the user's memories, else
        the run's or the agent's); what has none of them is no match. `"hybrid"`: 0.6 keyword + 0.4 vector, each raised
        by what the memories just before and after it in its run have.

        `recency` is a half-life (a timedelta, or seconds): one such time after `created_at` a memory has lost a quarter
        of its score, after two three eighths, and never more than half. `importance` names a metadata key with numbers
        from 0 to 1: at 1 the score stays, at 0, or without a number, half of it is left. `collapse` keeps only the best
        of memories with equal content. `explain` adds what each score is made of (`Match.explanation`).

        `between`, a pair of aware datetimes (either may be None), keeps what has its `created_at` from the first on and
        before the second. `show_expired=True` finds expired memories too. `as_of`, an aware datetime, asks what was
        known at that instant: the memories that were there, with the contents and metadata that they had, for
        `filters` too (a deferred text that was deleted or replaced before it was embedded has keywords only). Whenever
        the system's clock was changed, an instant means the state after the last event that is dated up to it. Either
        reads every memory of the owner, instead of a shelf that stays.

        `timeout` covers the reading too: a search that is not done by then, whatever its filters ask, raises
        `DeadlineError` (within a second of it in all but extreme stores) and holds nobody up.

        Raises:
            InvalidInputError, EmbeddingError, OverloadedError, DeadlineError: as `add` does.
        """
        [matches] = self.search_batch(
            [query], user_id=user_id, agent_id=agent_id, run_id=run_id, filters=filters, limit=limit,
            threshold=threshold, mode=mode, recency=recency, importance=importance, collapse=collapse,
            between=between, show_expired=show_expired, as_of=as_of, explain=explain, all_scopes=all_scopes,
            timeout=timeout,
        )  # fmt: skip
        return matches

    def search_batch(
        self,
        queries: Iterable[str],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        limit: int = 10,
        threshold: float | None = None,
        mode: Mode = "hybrid",
        recency: timedelta | float | None = None,
        importance: str | None = None,
        collapse: bool = False,
        between: Between = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
        explain: bool = False,
        all_scopes: bool = False,
        timeout: float | None = None,
    ) -> list[list[Match]]:
        """Many searches with the same owner and filters: a list of matches for each query, in order. The queries are
        embedded together, 256 at a time, and each such chunk sees the store of one moment. `queries` may be any
        iterable; `timeout` is per chunk.

        Raises:
            InvalidInputError, EmbeddingError, OverloadedError, DeadlineError: as `search` does, for the first query
                that fails; there are no results then.
        """
        if isinstance(queries, str | bytes | Mapping) or not isinstance(queries, Iterable):
            raise InvalidInputError(f"queries is {shorten(queries)}; pass a list of texts.")
        if mode not in ("hybrid", "vector", "keyword"):
            raise InvalidInputError(f"mode is {shorten(mode)}; use 'hybrid', 'vector' or 'keyword'.")
        config = self._engine.config
        seconds = check_timeout(timeout, config)
        asked = Question(
            mode, None, {}, self._scope(user_id, agent_id, run_id, all_scopes=all_scopes),
            parse_filters(filters, between), check_limit(limit), check_threshold(threshold), check_half_life(recency),
            None if importance is None else number_path(importance), collapse, explain,
        )  # fmt: skip
        check_time("as_of", as_of)
        remaining = iter(queries)
        results: list[list[Match]] = []
        while chunk := list(islice(remaining, CHUNK)):
            for query in chunk:
                check_query(query, config)
            deadline = Deadline(seconds)
            answer = partial(self._answer, asked, chunk, deadline, show_expired, as_of)
            results += self._engine.lenses.through(answer, deadline)
        return results

    def _questions(self, lens: Lens, asked: Question, queries: Sequence[str], deadline: Deadline) -> list[Question]:
        """One for each query, with its terms and its vector, as far as the mode needs them."""
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

    @again
    def _answer(
        self,
        asked: Question,
        queries: Sequence[str],
        deadline: Deadline,
        show_expired: bool,
        as_of: datetime | None,
        lens: Lens,
    ) -> list[list[Match]]:
        """Searches in one snapshot, in which nothing of the scope that was there before waits for a vector which the
        mode needs."""
        engine = self._engine
        questions = self._questions(lens, asked, queries, deadline)
        with self._snapshot(show_expired, as_of, deadline) as snapshot:
            snapshot.require_model(lens.identity)
            if asked.mode == "keyword" or not snapshot.has_pending:
                return self._matches(lens, snapshot, questions, usual=not show_expired and as_of is None)
        engine.backlog.wake(0)  # Perhaps the process that deferred them is no more.
        # A store that takes no vectors can still be searched; these memories have their keywords until it does.
        with suppress(StoreFullError, StoreReadOnlyError):
            engine.backlog.settle(asked.scope, deadline.left, urgent=True)
        with self._snapshot(show_expired, as_of, deadline) as snapshot:
            snapshot.require_model(lens.identity)
            return self._matches(lens, snapshot, questions, usual=not show_expired and as_of is None)

    def _matches(
        self, lens: Lens, snapshot: Snapshot, questions: Sequence[Question], *, usual: bool
    ) -> list[list[Match]]:
        """The shelves hold what is visible now; whoever asks for something else has some of his own, for this once."""
        engine = self._engine
        searcher = lens.searcher if usual else Searcher(IndexCache(lens.embedder.dimension, 0))
        began = time.perf_counter()
        matches: list[list[Match]] = []
        for question in questions:
            if matches and snapshot.deadline is not None:
                snapshot.deadline.check()
            matches.append(searcher.search(snapshot, question))
        engine.timings.record("search", (time.perf_counter() - began) / len(questions))
        return matches

    @again
    def _read(self, read: Callable[[Snapshot], T], show_expired: bool, as_of: Any, deadline: Deadline) -> T:
        with self._snapshot(show_expired, as_of, deadline) as snapshot:
            return read(snapshot)

    def _snapshot(self, show_expired: bool, as_of: Any, deadline: Deadline) -> AbstractContextManager[Snapshot]:
        instant = check_time("as_of", as_of)
        return self._engine.store.snapshot(as_of=instant, show_expired=show_expired, deadline=deadline)

    def _deadline(self, timeout: Any = None) -> Deadline:
        """Of a call that begins now; its `timeout`, or else that of the Config."""
        return Deadline(check_timeout(timeout, self._engine.config))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until every deferred memory that was there has its vector (in a scoped view: those of the scope), and
        does the work on this thread too. A text that cannot be embedded is given up and named by `check()`.

        Raises:
            DeadlineError: not within `timeout` seconds (default `Config.timeout`); what was done is kept.
            EmbeddingError: the model fails on everything; nothing is given up, flush again when it works.
        """
        scope = self._whose(None, None, None)
        self._engine.backlog.settle(scope, check_timeout(timeout, self._engine.config), urgent=False)

    # -- reading --------------------------------------------------------------------------------------------------

    def get(
        self,
        id: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
    ) -> Record | None:
        """The memory of an owner with this id, or None when there is none to see: deleted, expired (unless
        `show_expired`), of another owner, never was. `as_of` is as in `search`. Waits for no model and no writer.

        An id is unique within its home: the user, else the run, else the agent. So calls by id name the owner like all
        others; where an agent or a run has the id in several homes, its own home comes first. On the Memory itself they
        may name none, for administration: then every owner's memories are looked through.

        Raises:
            InvalidInputError: the id or the instant cannot be one; several homes have the id, so that an owner must be
                named.
            DeadlineError: the reading took longer than `Config.timeout`.
        """
        check_id(id)
        scope = self._whose(user_id, agent_id, run_id)
        return self._read(lambda snapshot: snapshot.get(id, scope), show_expired, as_of, self._deadline())

    def get_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        between: Between = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
        order: Literal["newest", "oldest"] = "newest",
        all_scopes: bool = False,
        timeout: float | None = None,
    ) -> Page:
        """One page of memories by `created_at`. Pages are stable: memories added or deleted meanwhile make no other
        appear twice or be left out. Hand `page.next` to `after` for the following one, with the same order. `filters`,
        `between`, `show_expired` and `as_of` are as in `search`. Waits for no model and no writer.

        Raises:
            InvalidInputError: an argument cannot be used; `after` is of a listing in the other order.
            DeadlineError: the reading took longer than `timeout` seconds (default `Config.timeout`).
        """
        if order not in ("newest", "oldest"):
            raise InvalidInputError(f"order is {shorten(order)}; use 'newest' or 'oldest'.")
        check_limit(limit)
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters, between)
        position = _position_of(after, order)

        def listed(snapshot: Snapshot) -> list[tuple[tuple[int, int], Record]]:
            return snapshot.page(scope, wanted, newest_first=order == "newest", after=position, limit=limit + 1)

        rows = self._read(listed, show_expired, as_of, deadline)
        more = f"{order}:{rows[limit - 1][0][0]}:{rows[limit - 1][0][1]}" if len(rows) > limit else None
        return Page([record for _, record in rows[:limit]], more)

    def count(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        between: Between = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
        all_scopes: bool = False,
        timeout: float | None = None,
    ) -> int:
        """How many memories `get_all` would list on all its pages.

        Raises:
            InvalidInputError, DeadlineError: as `get_all` does.
        """
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters, between)
        return self._read(lambda snapshot: snapshot.count(scope, wanted), show_expired, as_of, deadline)

    def scopes(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        all_scopes: bool = False,
        timeout: float | None = None,
    ) -> list[Scope]:
        """Returns whose memories `get_all` would list: each `Scope` (`user_id`, `agent_id`, `run_id`) once, sorted.
        Where owners are paths, such as `"team/project/ana"`, all below one are those with `filters={"user_id":
        {"gte": "team/project/", "lt": "team/project0"}}`: a zero follows the slash. Reads every memory of the owner;
        waits for no model and no writer.

        Raises:
            InvalidInputError, DeadlineError: as `get_all` does.
        """
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters)
        return self._read(lambda snapshot: snapshot.scopes(scope, wanted), False, None, deadline)

    def history(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> list[Event]:
        """Every event of a memory, oldest first, also when it is deleted or expired; empty when there never was one, or
        none of this owner, or it was purged.

        Raises:
            InvalidInputError: the id cannot be one, or several homes have it; see `get`.
        """
        check_id(id)
        scope = self._whose(user_id, agent_id, run_id)
        return self._read(lambda snapshot: snapshot.history(id, scope), False, None, self._deadline())

    # -- changing -------------------------------------------------------------------------------------------------

    def update(
        self,
        id: str,
        content: str | None = None,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        replace_metadata: bool = False,
        expires_at: datetime | Keep | None = KEEP,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Record:
        """Gives a memory a new version; the one before stays in its history. `metadata` is merged key by key, or takes
        the place of the old with `replace_metadata=True`; `expires_at=None` lets it live for ever, `ttl` so many
        seconds from now. On return the new version is committed and found by the next search.

        Raises:
            NotFoundError: there is no such memory to see.
            InvalidInputError: nothing to change was given, or it cannot be used; several homes have the id, see `get`.
                Otherwise as `add`.
        """
        config = self._engine.config
        check_id(id)
        scope = self._whose(user_id, agent_id, run_id)
        seconds = check_timeout(timeout, config)
        if content is None and metadata is None and ttl is None and isinstance(expires_at, Keep):
            raise InvalidInputError(
                f"Nothing to change was given for {id!r}; pass content, metadata, expires_at or ttl."
            )
        if content is not None:
            check_content(content, config)
        revision = Revision(
            content,
            None,
            None if metadata is None else check_metadata(metadata, config)[0],
            replace_metadata,
            new_expiry(expires_at, ttl),
        )
        if content is not None:
            old = require(self._engine, id, scope)  # Before the text is embedded for nothing.
            revision = replace(revision, terms=stored_terms(content, old.created_at, Deadline(seconds)))
            scope = owners_of(old)
        return self._engine.lenses.through(lambda lens: self._revise(lens, id, scope, revision, seconds))

    def _revise(self, lens: Lens, id: str, scope: Scope, revision: Revision, timeout: float) -> Record:
        embedded = None
        if revision.content is not None:
            sent = lens.embedder.send([revision.content], [scope.home], "document", urgent=True, timeout=timeout)
            [answer] = sent.embedded(timeout)
            if isinstance(answer, AgentMemError):
                raise answer
            embedded = answer
        model = None if embedded is None else lens.identity
        [record] = self._engine.store.commit([Update(id, scope, revision, embedded)], model=model)
        return cast(Record, record)

    def delete(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> bool:
        """Hides a memory from every read; `restore` undoes it, `history` still tells. False when there is none to see.
        On return that is committed, and the next read of any thread or process goes without it.

        Raises:
            InvalidInputError: the id cannot be one, or several homes have it; see `get`.
        """
        [was_there] = self._engine.store.commit([Delete(check_id(id), self._whose(user_id, agent_id, run_id))])
        return bool(was_there)

    def restore(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> Record:
        """Brings a deleted or expired memory back; one whose `expires_at` has passed comes back without it. One that is
        there to see is returned as it is. On return it is committed and found again.

        Raises:
            NotFoundError: there never was such a memory, it is of another owner, or was purged.
            InvalidInputError: the id cannot be one, or several homes have it; see `get`.
        """
        [record] = self._engine.store.commit([Restore(check_id(id), self._whose(user_id, agent_id, run_id))])
        return cast(Record, record)

    def delete_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        between: Between = None,
        all_scopes: bool = False,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Hides every memory that `get_all` would list (expired ones are gone already), and returns how many; with
        `dry_run` it only counts. `restore` brings them back one by one.

        The memories are found without keeping any writer waiting, and hidden in one transaction as they are then: all
        or none, and what changed meanwhile is looked at once more. More than 10,000 are hidden in several transactions,
        oldest first, so that other writers pass in between; a crash or an error leaves those that were hidden so, and
        calling again hides the rest.

        Raises:
            InvalidInputError: no owner was given, or an argument cannot be used.
            DeadlineError: it took longer than `timeout` seconds (default `Config.timeout`); nothing was hidden, unless
                the message says how many.
        """
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters, between)
        if dry_run:
            return self._read(lambda snapshot: snapshot.count(scope, wanted), False, None, deadline)
        return self._engine.store.delete_all(scope, wanted, deadline)

    def purge(
        self,
        id: str | None = None,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        progress: bool = False,
    ) -> int:
        """Erases for good the memory of an owner with this id, or (without one) every memory of the owner, in a scoped
        view those of the scope; deleted and expired ones too. Returns how many it were.

        On return no byte of their texts, of earlier versions, of metadata or owners is left in the file or its log, and
        no read finds them, `history` and `as_of` included; a vector stays only where its home has the same text in
        another memory.
        Their ids are free again. What remains is a number and the time of the purge. Other processes' shelves let go of
        them with their next search. Copies (`backup`, `export`) are yours to erase.

        Many memories go in several transactions; after a crash between them, or an error, what is left is whole: purge
        again. Waits for other reads of the file, as long as `Config.busy_timeout`. `progress` shows a bar.

        Raises:
            InvalidInputError: neither an id nor an owner was given; several homes have the id, see `get`.
            StoreBusyError: they are erased, but a read that began before keeps their bytes in the log; purge again.
            StoreFullError: they are erased, but there is no room to write the file anew, which may still have bytes of
                them; or not even to erase all of them. The message says which.
        """
        if id is None:
            return self._erase(self._scope(user_id, agent_id, run_id), None, shown=progress)
        return self._erase(self._whose(user_id, agent_id, run_id), check_id(id), shown=progress)

    def _erase(self, scope: Scope, id: str | None, *, shown: bool) -> int:
        require_room()
        with stages(shown=shown) as tell:
            erased = self._engine.store.purge(scope, id, tell=tell)
        return self._engine.forget(erased)

    # -- files ----------------------------------------------------------------------------------------------------

    def export(
        self,
        file: str | os.PathLike[str] | IO[str] | IO[bytes],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        between: Between = None,
        show_expired: bool = False,
        all_scopes: bool = False,
        vectors: bool = False,
        overwrite: bool = False,
        progress: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Writes every memory that `get_all` would list into a file, JSON Lines in the order of adding, and returns how
        many it were. What it holds is described in `agentmem.transfer.jsonl`; `import_` reads it.

        `file` is a path (compressed when it ends in `.gz`), or an open file of text or bytes. At a path, the file is
        complete and on the disk when it gets its name; one that is there is only replaced with `overwrite=True`. It has
        the mode and owner of the store. With `vectors=True` each memory brings its vector, if it has one by now, so
        that a store of the same model needs to embed nothing.

        Everything is of the moment when it begins, however long it takes and whatever others write meanwhile; it holds
        up nobody, and no read of it stays open (what is purged meanwhile is left out). It needs 8 bytes a memory, and a
        page of 1,000. Deleted memories and earlier versions are not in it: `backup` has them. The same memories make
        the same bytes. `timeout` (default `Config.timeout`) bounds the search for what passes the filters; the writing
        takes as long as the file does.

        Raises:
            InvalidInputError: there is such a file, or it is the store itself; an argument cannot be used.
            DeadlineError: finding took longer than `timeout` seconds; there is no file.
            StoreFullError, StoreOpenError: there is no room for it, or no such folder. What an open file of yours
                raises comes as it is.
        """
        from agentmem.transfer.exporter import export  # Late: most programs never do.

        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        return export(
            self._engine, scope, parse_filters(filters, between), file,
            vectors=vectors, show_expired=show_expired, overwrite=overwrite, progress=progress,
            timeout=check_timeout(timeout, self._engine.config),
        )  # fmt: skip

    def import_(
        self,
        file: str | os.PathLike[str] | IO[str] | IO[bytes],
        *,
        format: "Format | None" = None,
        user_id: "Owner" = None,
        agent_id: "Owner" = None,
        run_id: "Owner" = None,
        on_conflict: "OnConflict" = "error",
        on_error: Literal["raise", "skip"] = "raise",
        dedupe: bool = False,
        defer: bool = False,
        durability: Durability | None = None,
        progress: bool = False,
        timeout: float | None = None,
    ) -> "ImportReport":
        """Stores the memories of a file, in its order: an export, other JSON Lines (or one array) of texts or of
        objects with the fields of `add`, or chats in the formats of OpenAI, ShareGPT or ChatGPT, of which every
        conversation becomes a run. `format` is told by the first line unless it is named: `"agentmem"`, `"openai"`,
        `"sharegpt"`, `"chatgpt"`. `file` is a path (compressed or not) or an open file of text or bytes.

        An owner that is given (`user_id="ana"`) takes the place of the lines' own; a mapping (`{"ana": "anna"}`)
        renames those that it names. In a scoped view lines of other owners are errors.

        Run again after it broke off, whatever broke it off, it goes on where it was: every memory is stored once. A
        line without an id gets one from its place in the file and the digest of the whole, so that the same file does
        not come in twice under the same owner, and two equal lines are two memories. What is here already, as it is, is
        skipped. When an id belongs to another memory of its home (a deleted one too), `on_conflict` decides: `"error"`;
        `"skip"` the line; `"replace"` content, metadata and expiry of that memory by a new version (never across
        owners); or store it with a `"new_id"`, the same one every time. `dedupe` and `defer` are as in `add`.

        Goes chunk by chunk, one commit each: at most 256 texts to embed, or 1,000 lines. Vectors are taken from an
        export of the same model; others are left aside, and the report says so. With `on_error="raise"` a bad line
        raises with its number: the chunks before its own are stored, nothing of its own is. With `"skip"` every good
        line is stored and the report names the bad ones. `durability`, `timeout` (per chunk) and `progress` are as in
        `add_batch`. Never holds more than two chunks, or a line of 16 MB (or eight times
        `Config.max_content_bytes`). A longer line is an error, and so are one of over a million values, and a
        compressed file that unpacks to more than 64 MB and a hundred times its size.

        Raises:
            InvalidInputError: a line or an argument cannot be used (DuplicateIdError: a conflict). A file in a newer
                version of the format is refused whatever `on_error` says. Otherwise as `add`.
            DeadlineError: a named pipe gave nothing for `timeout` seconds, too; the chunks before are stored.
        """
        from agentmem.transfer.importer import Options, import_  # Late, as above.

        seconds = check_timeout(timeout, self._engine.config)
        owners = (user_id, agent_id, run_id)
        options = Options(format, owners, on_conflict, on_error, dedupe, defer, durability, progress, seconds)
        return import_(self._engine, self._scope, file, options)

    def scope(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> "ScopedMemory":
        """A view bound to an owner, with the same calls, that cannot reach outside it. Costs nothing and reads nothing;
        of a view it makes a narrower one.

        Raises:
            InvalidInputError: no owner was given, or one that is outside this view.
        """
        return ScopedMemory(self._engine, self._scope(user_id, agent_id, run_id), self)

    def _changes(self) -> Changes:
        """For several changes that are committed together."""
        return Changes(self._engine, self._scope, self._whose)


class ScopedMemory(_Calls):
    """The calls of a `Memory`, bound to an owner: no call reaches another owner's memories. Hand it to the code that
    serves this owner.

    `Memory.scope` makes it, and closing is left to the `Memory`. Any thread may call any method. Beside what a method's
    own text names, each raises `ClosedError` once the Memory is closed, `StoreError` when the database refuses
    (`StoreBusyError`, `StoreFullError`, `StoreReadOnlyError`, `StoreDamagedError` say why), and `InvalidInputError` for
    an argument that cannot be used.
    """

    def __init__(self, engine: Engine, bound: Scope, opener: _Calls) -> None:
        self._engine = engine
        self._bound = bound
        self._opener = opener  # A Memory without references closes; its views keep one.

    def __repr__(self) -> str:
        return f"ScopedMemory({self._engine.store.path!r}, {self._bound})"

    def _scope(self, user_id: Any, agent_id: Any, run_id: Any, *, all_scopes: bool = False) -> Scope:
        if all_scopes:
            raise InvalidInputError(f"all_scopes=True cannot leave the scope {self._bound}; ask the Memory itself.")
        return self._bound.narrowed(user_id, agent_id, run_id)

    def _whose(self, user_id: Any, agent_id: Any, run_id: Any) -> Scope:
        return self._bound.narrowed(user_id, agent_id, run_id)


class Memory(_Calls):
    """Memories in one file, or in RAM with `":memory:"`.

        with Memory("agent.db") as memory:
            memory.add("Prefers window seats", user_id="ana")
            for match in memory.search("where does she like to sit?", user_id="ana"):
                print(match.score, match.record.content)

    To remember: `add`, `add_batch`, `add_messages`. To find: `search`, `search_batch`. To read: `get`, `get_all`,
    `count`, `scopes`, `history`. To change: `update`, `delete`, `delete_all`, `restore`, and for good `purge`, `reset`.
    For an owner's own view: `scope`. For what was deferred: `flush`. To look after the file: `stats`, `check`,
    `repair`, `backup`, `vacuum`, and to another model `reembed`; out to files and in, `export` and `import_`. At the
    end: `close`.

    Every call about memories names whose: at least one of `user_id`, `agent_id`, `run_id`, or, to read across owners,
    `all_scopes=True`; a call by id may go without, for administration. Times are aware datetimes. What an argument
    means is said where it is used first: those of adding at `add`, those of finding and reading at `search`. `timeout`
    is in seconds; `progress=True` shows a bar on standard error.

    Opening is cheap: the model loads with the first text. Any number of threads may share a Memory, and any number of
    processes the file; what one was told is stored, all others see. Use it as a context manager or call `close`; a
    process that dies without loses nothing that was acknowledged.

    Without a `model` it is the store's own, or, for a new store, all-MiniLM-L6-v2. Named is a bundled one, a folder, a
    repository of the hub that was downloaded before (`agentmem.models`), or what `models.find` gave; the network is
    never reached. `embedder` is an object with `identity`, `dimension` and `embed(texts)` in its place. With
    `model=None` no model is asked for and any store opens: everything works but what embeds a text (then it is a
    ModelError), so `add` only with `defer=True` and `search` only with `mode="keyword"`.

    When another process moves the store to another model (`reembed`), this one follows: the next call that needs a
    model loads the new one. Where that cannot be found, or an `embedder` was given, the call raises ModelMismatchError.

    Raises:
        StoreOpenError: the path is a directory, unreadable, not a database, or another application's.
        ModelError, ModelMismatchError: no such model; the store's vectors are of another one.
        InvalidInputError: an argument cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "agentmem.db",
        *,
        model: str | ModelCard | Keep | None = KEEP,
        embedder: GivenEmbedder | None = None,
        config: Config | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise InvalidInputError(f"config is {shorten(config)}; pass a Config.")
        if embedder is not None and model not in (KEEP, DEFAULT_MODEL):
            raise InvalidInputError(f"Both model={shorten(model)} and an embedder were given; drop one of them.")
        if (
            embedder is None
            and not isinstance(model, Keep | None)
            and (not isinstance(model, str | ModelCard) or not model)
        ):
            raise InvalidInputError(f"model is {shorten(model)}; pass the name of a model or its folder, or None.")
        self.path = _path_of(path)
        if self.path != ":memory:":  # A store has one path: its log and its segments stand beside it.
            self.path = os.path.realpath(self.path)
        wanted = find_model(model) if embedder is None and isinstance(model, str) else model
        self._engine = Engine(self.path, embedder or cast(ModelCard | Keep | None, wanted), config or Config())
        self._finalizer = weakref.finalize(self, self._engine.close_aside)
        self._finalizer.atexit = False  # The engine sees to that itself.

    def _scope(self, user_id: Any, agent_id: Any, run_id: Any, *, all_scopes: bool = False) -> Scope:
        return Scope.of(user_id, agent_id, run_id, all_scopes=all_scopes)

    def _whose(self, user_id: Any, agent_id: Any, run_id: Any) -> Scope:
        named = (user_id, agent_id, run_id) != (None, None, None)
        return Scope.of(user_id, agent_id, run_id) if named else Scope()

    def stats(self) -> Stats:
        """Counts of the store, and of this process's work since it opened the store; `Stats` says what each means. Its
        cost grows with the store, because every memory is counted; waits for no model and no writer.

        Raises:
            ClosedError: the memory is closed.
        """
        engine = self._engine
        return Stats(
            **engine.store.stats(),
            model=engine.embedder.name,
            shelves=len(engine.index_cache),
            shelf_bytes=engine.index_cache.bytes,
            shelves_evicted=engine.index_cache.evicted,
            timings=engine.timings.percentiles(),
            background_errors=engine.timings.errors.latest(),
            **engine.embedder.stats(),
        )

    def check(self, *, progress: bool = False) -> list[str]:
        """What is wrong with the store, a sentence each; an empty list means healthy. Reads the whole file, while
        others write: the checksum of every page, also of those that hold nothing, then what the rows say of each
        other. Waits for no model and no writer; `repair` mends what it names. `progress` shows a bar on standard error.

        Raises:
            ClosedError: the memory is closed. Damage is told, not raised.
        """
        with stages(shown=progress) as tell:
            return self._engine.store.check(tell)

    def repair(self, *, progress: bool = False) -> list[str]:
        """Mends what `check` names, and says what it did, a sentence each; an empty list: nothing had to be.

        All that is derived (terms, twins, indexes, wrong or missing vectors, which come like deferred ones) is made
        anew from the memories, and a history that does not lead to its memory is put right. From a file with damaged
        pages every row that can be read is put into a whole one, which takes its place in one transaction; of those
        that stood on a page with a wrong checksum, memories whose text and owner their digest proves, and events, each
        of which is said. What cannot
        be used is set aside in a file beside the store, the damaged file is kept under another; both are named, hold
        texts, and are out of the reach of `purge`. Other processes may have the store open; they wait for the write
        lock meanwhile. `progress` is as in `check`.

        Raises:
            StoreBusyError: others kept the write lock; nothing was mended, try again.
        """
        require_room()
        engine = self._engine
        with stages(shown=progress) as tell:
            told = engine.store.repair(engine.embedder.digest, engine.embedder.dimension, tell)
        engine.lenses.bind()  # The vectors that come now are of this model, whatever was lost.
        engine.backlog.wake(0)
        return told

    def reembed(
        self, model: str | ModelCard | GivenEmbedder | None, *, progress: bool = False, timeout: float | None = None
    ) -> int:
        """Moves the store to another model: every text that it has, deleted memories and earlier versions included, is
        embedded anew. Takes the name of a model, its folder, or an embedder of your own. Returns how many texts were
        embedded by this call, 0 when the store is of that model already.

        Everybody goes on meanwhile, in every process, with the old model; the models change places in one moment, when
        all is ready. From then on this memory uses the new one, also when it was opened without any, and so do those of
        all processes, which each find it by themselves (by name, or in the same folder); one with an `embedder` of its
        own, or without access to the model, gets ModelMismatchError. No search compares vectors of two models. What was
        written in the very last moments waits for its vector like a deferred memory, and so does a text that the new
        model fails on.

        Blocks until all is done and the old vectors are erased, which gives their pages back to the file's free ones.
        It can be ended at any moment, by a crash too: the store stays with its model, and the next call with the new
        one goes on where this one ended. `reembed(None)` (or the store's own model) gives an unfinished move up. A
        second call for the same model waits for the first, and takes over when its process has ended. `timeout`:
        seconds for the whole (default: as long as it takes). `stats()` of any process tells how far it is; `progress`
        shows a bar on standard error.

        Raises:
            ModelError: there is no such model.
            StoreBusyError: another call is moving the store to another model.
            EmbeddingError: the model fails, or on more than 1,000 of the texts; what is done is kept.
            DeadlineError: not within `timeout` seconds, or a page of texts not within `Config.timeout`; likewise.
        """
        if isinstance(model, str) and not model:
            raise InvalidInputError("model is ''; pass the name of a model, its folder, or an embedder.")
        require_room()
        source = find_model(model) if isinstance(model, str) else model
        seconds = None if timeout is None else check_timeout(timeout, self._engine.config)
        return reembed(self._engine, source, shown=progress, timeout=seconds)

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> str:
        """Copies the store as it is at one moment, while others read and write, and returns the copy's full path. To
        restore is to open the copy.

        The copy is one file; it is complete, read back and verified, and survives a power cut, when it gets its name.
        A file that is there is only replaced with `overwrite=True`, and never while it seems to be open. Blocks for
        about 3 seconds a gigabyte. A process that dies meanwhile leaves a file `....unfinished`. The copy has the
        mode and owner of the store, also in the place of a file with others.

        Raises:
            InvalidInputError: there is such a file, or it is the store itself.
            StoreDamagedError: the store cannot be read to its end; nothing was copied.
            StoreFullError, StoreOpenError: there is no room for it, or no such folder.
        """
        target = _path_of(path)
        self._engine.store.backup(target, overwrite=overwrite)
        return target

    def vacuum(
        self, *, deleted_before: datetime | timedelta | None = None, full: bool = False, progress: bool = False
    ) -> VacuumReport:
        """Gives space that nothing needs any more back to the file system, and says how much it was. No answer changes:
        what goes are free pages (`reembed` leaves most of them), vectors of texts that no memory has or had in any
        version, what an unfinished `purge` left, and the log. Deleted memories stay, text, history and vector, because
        `restore`, `history` and `as_of` ask for them; the report says how many they are.

        `deleted_before` (an aware datetime, or a timedelta for an age) erases everybody's memories that were deleted or
        had expired by then, for good, as `purge` does.

        Everybody goes on meanwhile, in every process: pages are moved to the front of the file a few at a time, each
        time in a transaction of milliseconds. It can be ended at any moment, by a crash too; call it again to go on.
        What is free within pages (after scattered deletions) stays for good unless `full`: then the file is written
        anew, once and close together, as after each purge. That keeps all writes waiting (those of other processes
        fail when it takes longer than their `Config.busy_timeout`) and needs room for two more copies of what is in
        use. So it is, once, with a file that was made before its pages could be moved. `progress` shows a bar on
        standard error.

        Raises:
            InvalidInputError: the moment is none, or has not passed.
            StoreBusyError: others kept the write lock for too long, or an old read keeps erased bytes in the log.
            StoreFullError: there is no room to write the file anew, which is as it was; what could be given back is.
        """
        require_room()
        moment = None if deleted_before is None else check_past("deleted_before", deleted_before)
        engine = self._engine
        done = engine.store.vacuum(hidden_before=moment, full=full, stop=engine.lenses.closing.wait, shown=progress)
        engine.forget(done.erased)
        return done.report

    def reset(self, *, confirm: bool, progress: bool = False) -> int:
        """Erases every memory of every owner for good, as `purge` does, and returns how many it were; `confirm=True`
        says that this is meant, `progress` shows a bar. Raises as `purge` does."""
        if confirm is not True:
            raise InvalidInputError(f"confirm is {shorten(confirm)}; pass confirm=True to erase every memory.")
        return self._erase(Scope(), None, shown=progress)

    def close(self) -> None:
        """Ends: whoever waits for the model is answered with ClosedError, runs and commits that have begun end well,
        threads stop, the log is merged into the file. Bounded; may be called twice and from any thread. A signal
        handler that strikes amid one of its calls only begins the end. Afterwards every call raises ClosedError; this
        one raises nothing."""
        self._finalizer.detach()
        if is_within_a_call():
            self._engine.close_aside()
        else:
            self._engine.close()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Memory({self.path!r}, model={self._engine.embedder.name!r})"


def _path_of(path: Any) -> str:
    try:
        text = os.fspath(path)
    except TypeError:
        raise InvalidInputError(f"path is {shorten(path)}; pass the path of a file, or ':memory:'.") from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInputError(f"path is {shorten(path)}; pass the path of a file, or ':memory:'.")
    if is_address(text):  # Its folder would not be found, and the message name the address with its password.
        raise InvalidInputError(f"path is the address {shorten(text)}; pass the path of a file, or ':memory:'.")
    if not is_utf8(text):
        raise InvalidInputError(f"path is {shorten(path)}, which is not UTF-8; choose another name.")
    whole = text if text == ":memory:" else absolute(text)
    if not is_utf8(whole):
        raise InvalidInputError(
            f"path is {shorten(path)} in the working folder {str(Path.cwd())!r}, which is not UTF-8; use a folder with "
            "another name."
        )
    return whole


def _position_of(after: Any, order: str) -> tuple[int, int] | None:
    if after is None:
        return None
    try:
        made_for, created_at, key = after.split(":")
        position = int(created_at), int(key)
        if not (position[0] in INT64 and position[1] in INT64):
            raise OverflowError(after)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"after is {shorten(after)}; pass the `next` of a page.") from None
    if made_for != order:
        raise InvalidInputError(f"after is {after!r}, from a listing in the other order; begin again without it.")
    return position


def _items_of(messages: Iterable[Any], metadata: Mapping[str, Any] | None) -> dict[int, dict[str, Any]]:
    """The messages that hold text, by their positions, as items of `add_batch`."""
    items = {}
    for position, message in enumerate(messages):
        try:
            item = item_of_message(message, metadata)
        except InvalidInputError as error:
            raise InvalidInputError(f"Message {position}: {error}") from None
        if item is not None:
            items[position] = item
    return items
