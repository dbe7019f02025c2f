"""Memory and ScopedMemory: each call checks its arguments and hands on to `engine/`. Start reading here."""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from agentmem.config import Config, Durability
from agentmem.context import (
    LEAST_TOKENS,
    MATCHES_AT_LEAST,
    Context,
    Template,
    assemble,
    check_max_tokens,
    estimate_tokens,
)
from agentmem.deadline import Deadline
from agentmem.embedding.catalog import find_model
from agentmem.embedding.custom import GivenEmbedder
from agentmem.embedding.model_card import ModelCard
from agentmem.engine.engine import Engine, public
from agentmem.engine.reader import Listing, read
from agentmem.engine.reembedding import reembed
from agentmem.engine.runtime import DEFAULT_MODEL as DEFAULT_MODEL
from agentmem.engine.search import Effort, search
from agentmem.engine.write_batch import Changes
from agentmem.engine.writer import Drafter, Naming, as_item, remember, store_all
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.filters import number_path, parse_filters
from agentmem.messages import items_of_messages
from agentmem.platform.signals import is_amid_locks, require_room
from agentmem.progress import stages, with_progress
from agentmem.quoting import shorten
from agentmem.records import Draft, Event, Match, Page, Record, Scope
from agentmem.search.bm25 import NOTHING_SOUGHT
from agentmem.search.ranking import is_relevant
from agentmem.search.searcher import Mode, Question
from agentmem.stats import EmbeddingStats, ProcessStats, SearchStats, Stats, StoreStats, VacuumReport
from agentmem.storage.operations import Delete, Restore
from agentmem.storage.types import KEEP, Keep
from agentmem.validation import (
    check_half_life,
    check_id,
    check_limit,
    check_name,
    check_past,
    check_path,
    check_threshold,
    check_time,
    check_timeout,
)

if TYPE_CHECKING:
    from agentmem.storage.types import OnConflict
    from agentmem.transfer.importer import ImportReport
    from agentmem.transfer.reader import Owner

    Importable = str | os.PathLike[str] | IO[str] | IO[bytes]

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

    @public
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
        """Stores one text as a memory.

        On return the record and its history event are committed, as durable as `Config.durability` says. The next
        search of any thread or process finds the memory, by its words and by meaning.

        With the default model the call waits for the disk only. Searches compare the fast half of the text's vector,
        which costs microseconds, until the background has made the rest (`Config.refine`). With another model the call
        waits until the text is embedded, unless its home has seen the text before.

        The model reads the first `max_tokens` word pieces of a long text (256 for minilm-mixed, about 180 English
        words). The rest is found by its words only, so split long texts.

        Args:
            content: The text.
            user_id, agent_id, run_id: The owner. Name at least one; a `ScopedMemory` has one already.
            role: The speaker, such as "user" or "assistant".
            metadata: A mapping of JSON values, which filters can ask for.
            id: A name of your choice. The default is a UUID that sorts by time.
            created_at: The moment that the text is about (default: now).
            expires_at: The end of the memory's life. Reads do not return an expired memory. The default is no end.
            ttl: The same as seconds from now. Pass one of the two.
            dedupe: Stores no second copy of the same text under exactly the same user, agent and run. If a visible
                memory has the text, the oldest one is returned unchanged, and the other arguments have no effect. Of
                several threads and processes that bring a text at once, one stores it. Deleted and expired memories
                do not count; they can be restored beside the new one.
            defer: Has the vector follow in the background with any model: the call waits for the disk only. A search
                first embeds the pending memories of its own scope, so it finds the memory. Pending work survives a
                crash; any process that has the file open does it.
            timeout: Seconds to wait at most (default: `Config.timeout`).

        Returns:
            The record as it is stored.

        Raises:
            InvalidInputError: An argument is unusable (DuplicateIdError: the id is taken). Nothing was queued.
            EmbeddingError: The model failed on this text. Nothing was written. With the default model `check` names
                such a text instead, and it is found by its words only.
            ModelError: The model cannot be loaded. The first calls may return before that is known.
            OverloadedError, DeadlineError: A queue stayed full, or no vector came, for `timeout`
                seconds. Nothing was written; a retry is safe.
        """
        draft = Draft.of(
            content, self._scope(user_id, agent_id, run_id), self._engine.config,
            role=role, metadata=metadata, id=id, created_at=created_at, expires_at=expires_at, ttl=ttl,
            dedupe=dedupe,
        )  # fmt: skip
        seconds = check_timeout(timeout, self._engine.config)
        return remember(self._engine, draft, seconds, defer=defer)

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

    @public
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
        """Stores many texts, in order.

        The items are committed in chunks of 256 (deferred ones: 1,000), while queries of other threads pass in between.
        What was committed with `durability="full"` survives a power cut, and so does everything committed before it.
        What was committed with `"process"` survives a crash of the process. A commit that several calls share is as
        durable as the strongest of them asks.

        Args:
            contents: Any iterable of texts, or of mappings with the fields of `add`. It is never held whole.
            user_id, agent_id, run_id, role, metadata, created_at, expires_at, ttl: Defaults for items without that
                field, as in `add`. An item that has `expires_at` or `ttl` takes neither default.
            dedupe: As in `add`, and among the items too.
            on_error: With "raise" the first bad item raises, and names its position. The chunks before its own are
                stored, and nothing of its own is. A list or tuple is checked whole before anything is written. With
                "return" every good item is stored, and an exception takes the place of a bad one.
            defer: As in `add`.
            durability: "full" or "process", for this call (default: `Config.durability`).
            progress: Shows a bar on standard error.
            timeout: Seconds for each chunk (default: `Config.timeout`).

        Returns:
            A record, or with `on_error="return"` an exception, for each item, in order.

        Raises:
            InvalidInputError, EmbeddingError, OverloadedError, DeadlineError: As in `add`.
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

    @public
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
        """Stores chat messages in the OpenAI format, in order.

        A commit holds up to 256 messages, and on return all of them are stored. Messages without text (blank ones,
        images, calls of tools) are left out.

        Args:
            messages: Mappings `{"role", "content", "name"?}`. The content is a text, or a list of parts whose texts are
                joined. The name goes into the metadata. Items of OpenAI's Responses, blocks of Anthropic, parts of the
                AI SDK and messages of LangChain do as well. The answer of a tool among the parts of a message becomes
                a memory of its own with the role "tool".
            user_id, agent_id, run_id, metadata, created_at, expires_at, ttl: Of every message, as in `add_batch`.
            dedupe, defer, timeout: As in `add_batch`.

        Returns:
            A record for each message that holds text.

        Raises:
            InvalidInputError: A message is unusable; the error names its position. Nothing was stored.
            DuplicateIdError, EmbeddingError: Likewise, but earlier commits stay.
            OverloadedError, DeadlineError: As in `add`.
        """
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
            raise InvalidInputError(f"messages is {shorten(messages)}; pass a list of mappings with role and content.")
        defaults = {
            "user_id": user_id, "agent_id": agent_id, "run_id": run_id, "role": None, "metadata": None,
            "created_at": created_at, "expires_at": expires_at, "ttl": ttl, "dedupe": dedupe,
        }  # fmt: skip
        items = items_of_messages(messages, metadata)
        records = self._add_items(
            [item for _, item in items], defaults, check_timeout(timeout, self._engine.config), defer=defer,
            naming=lambda number: f"Message {items[number][0]}",
        )  # fmt: skip
        return [record for record in records if isinstance(record, Record)]  # Together, they are stored or one raises.

    # -- finding --------------------------------------------------------------------------------------------------

    @public
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
        relevant_only: bool = False,
        between: Between = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
        reference_date: datetime | None = None,
        explain: bool = False,
        all_scopes: bool = False,
        effort: Effort | None = None,
        timeout: float | None = None,
    ) -> list[Match]:
        """Finds the memories that are relevant to a question, best first; of equal ones, the newest first.

        The search sees every memory that any thread or process has stored before the call. It waits for the query's
        vector, for the vectors of pending memories in the scope, and for the owner's index on its first use. With
        `mode="keyword"` it needs no model.

        A score runs from 0 to 1 and means the same for every query. In mode "vector" it is the cosine of the two
        vectors (0 if negative). In mode "keyword" it is the share of the query's words that the memory has. Rare words
        count for more; a memory with none of them is no match. In mode "hybrid" it is 0.6 keyword + 0.4 vector,
        each raised by the memories just before and after this one in its run.

        Args:
            query: The question, or a few words.
            user_id, agent_id, run_id: The owner. Name at least one, or pass `all_scopes=True`.
            filters: Conditions on metadata and fields, applied before ranking; see `agentmem.filters`.
            limit: The largest number of matches.
            threshold: The lowest score to return.
            mode: "hybrid", "vector" or "keyword".
            recency: A half-life, as a timedelta or in seconds. A memory loses a quarter of its score after one
                half-life, three eighths after two, and never more than half.
            importance: A metadata key with numbers from 0 to 1. The score stays at 1; it is halved at 0 and without a
                number.
            collapse: Keeps only the best of memories with equal content.
            relevant_only: Leaves out of these matches what is hardly an answer. Kept are scores from 0.25 and cosines
                from 0.4 (mode "vector": from 0.4; "keyword": from 0.15), as measured for all-MiniLM-L6-v2.
            between: Two aware datetimes. Keeps memories whose `created_at` is at or after the first and before the
                second; None is no bound.
            show_expired: Finds expired memories too. Reads every memory of the owner.
            as_of: An aware datetime. Searches the memories of that instant, with their contents and metadata of then. A
                deferred text that was replaced before it was embedded has keywords only. An instant means the state
                after the last event dated up to it, even if the system's clock was changed. Reads every memory of the
                owner.
            effort: Which half of the vectors is compared, where the model has a fast one. None: the half that all of
                the owner's memories have. "fast": the fast half, without a run of the model. "full": whole vectors,
                after the owner's memories are refined. `explain` says which half it was.
            reference_date: An aware datetime from which the query looks back: "last week", "3 days ago", "in May". The
                default is `as_of`, or else now. Memories of such a time score higher; no others are left out.
            explain: Adds the parts of each score (`Match.explanation`).
            all_scopes: Searches all owners' memories. A `ScopedMemory` refuses it.
            timeout: Seconds for embedding and reading (default: `Config.timeout`). It holds within a second in all but
                extreme stores.

        Returns:
            The matches, each with its `score` and `record`.

        Raises:
            InvalidInputError, EmbeddingError, OverloadedError, DeadlineError: As in `add`.
        """
        [matches] = self.search_batch(
            [query], user_id=user_id, agent_id=agent_id, run_id=run_id, filters=filters, limit=limit,
            threshold=threshold, mode=mode, recency=recency, importance=importance, collapse=collapse,
            relevant_only=relevant_only, between=between, show_expired=show_expired, as_of=as_of,
            reference_date=reference_date, explain=explain, all_scopes=all_scopes, effort=effort, timeout=timeout,
        )  # fmt: skip
        return matches

    @public
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
        relevant_only: bool = False,
        between: Between = None,
        show_expired: bool = False,
        as_of: datetime | None = None,
        reference_date: datetime | None = None,
        explain: bool = False,
        all_scopes: bool = False,
        effort: Effort | None = None,
        timeout: float | None = None,
    ) -> list[list[Match]]:
        """Runs many searches with the same owner and options.

        The queries are embedded together, 256 at a time. Each such chunk sees the store of one moment.

        Args:
            queries: Any iterable of texts.
            user_id, agent_id, run_id, filters, limit, threshold, mode, recency, importance: As in `search`.
            collapse, relevant_only, between, show_expired, as_of, reference_date, explain, all_scopes: As in `search`.
            effort: As in `search`.
            timeout: Seconds for each chunk (default: `Config.timeout`).

        Returns:
            A list of matches for each query, in order.

        Raises:
            InvalidInputError, EmbeddingError, OverloadedError, DeadlineError: As in `search`, for the first query that
                fails. There are no results then.
        """
        if isinstance(queries, str | bytes | Mapping) or not isinstance(queries, Iterable):
            raise InvalidInputError(f"queries is {shorten(queries)}; pass a list of texts.")
        if mode not in ("hybrid", "vector", "keyword"):
            raise InvalidInputError(f"mode is {shorten(mode)}; use 'hybrid', 'vector' or 'keyword'.")
        if effort not in (None, "fast", "full"):
            raise InvalidInputError(f"effort is {shorten(effort)}; use 'fast', 'full' or None.")
        seconds = check_timeout(timeout, self._engine.config)
        asked = Question(
            mode, {}, None, None, NOTHING_SOUGHT, self._scope(user_id, agent_id, run_id, all_scopes=all_scopes),
            parse_filters(filters, between), check_limit(limit), check_threshold(threshold), check_half_life(recency),
            None if importance is None else number_path(importance), collapse, explain or relevant_only,
        )  # fmt: skip
        results = search(
            self._engine, asked, queries, seconds, show_expired=show_expired, as_of=check_time("as_of", as_of),
            effort=effort, reference_date=check_time("reference_date", reference_date),
        )  # fmt: skip
        if relevant_only:
            results = [[match for match in matches if is_relevant(match)] for matches in results]
            if not explain:
                results = [[replace(match, explanation=None) for match in matches] for matches in results]
        return results

    @public
    def context(
        self,
        query: str,
        *,
        max_tokens: int = 1000,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        mode: Mode = "hybrid",
        recency: timedelta | float | None = None,
        importance: str | None = None,
        relevant_only: bool = False,
        between: Between = None,
        as_of: datetime | None = None,
        reference_date: datetime | None = None,
        exclude: Iterable[str] = (),
        exclude_roles: Iterable[str] = (),
        count_tokens: Callable[[str], int] | None = None,
        template: Template | None = None,
        all_scopes: bool = False,
        timeout: float | None = None,
    ) -> Context:
        """Returns the best memories for a message, as a text for a prompt with at most `max_tokens` tokens.

        The memories stand by day, oldest first, with numbers by which an answer can cite them. Each is one line of
        quoted data, whatever it holds. Near duplicates are left out, and so are memories whose text is the query: the
        message itself may have been added before.

        Args:
            query: The message that the prompt is to answer.
            max_tokens: The budget for the whole text.
            user_id, agent_id, run_id, filters, mode, recency, importance: As in `search`.
            relevant_only, between, as_of, reference_date, all_scopes, timeout: As in `search`.
            exclude: Ids of memories to leave out.
            exclude_roles: Roles to leave out, such as "assistant".
            count_tokens: Counts the tokens of a text. By default the store's model does; a token is taken for each
                three bytes where an embedder of your own has no tokenizer.
            template: Another way to write the text.

        Returns:
            A Context: `str(context)` is the text, `context.matches` are the memories in it.

        Raises:
            InvalidInputError, EmbeddingError, OverloadedError, DeadlineError: As in `search`.
        """
        check_max_tokens(max_tokens)
        if template is not None and not isinstance(template, Template):
            raise InvalidInputError(f"template is {shorten(template)}; pass a Template.")
        for name, given in (("exclude", exclude), ("exclude_roles", exclude_roles)):
            if isinstance(given, str | bytes) or not isinstance(given, Iterable):
                raise InvalidInputError(f"{name} is {shorten(given)}; pass a list of texts.")
        excluded, roles = set(map(check_id, exclude)), [check_name("role", role) for role in exclude_roles]
        wanted = filters
        if roles:
            wanted = {"AND": [*([filters] if filters else []), {"role": {"nin": roles}}]}
        matches = self.search(
            query, user_id=user_id, agent_id=agent_id, run_id=run_id, filters=wanted, mode=mode, recency=recency,
            importance=importance, relevant_only=relevant_only, between=between, as_of=as_of,
            reference_date=reference_date, all_scopes=all_scopes,
            limit=len(excluded) + MATCHES_AT_LEAST + max_tokens // LEAST_TOKENS, timeout=timeout,
        )  # fmt: skip
        said = query.strip()
        others = [match for match in matches if match.record.id not in excluded and match.content.strip() != said]
        return assemble(others, max_tokens, self._counter(count_tokens), template or Template())

    def _counter(self, count_tokens: Callable[[str], int] | None) -> Callable[[Sequence[str]], Sequence[int]]:
        if count_tokens is not None:
            if not callable(count_tokens):
                raise InvalidInputError(f"count_tokens is {shorten(count_tokens)}; pass a function of a text.")
            return lambda texts: [count_tokens(text) for text in texts]
        return lambda texts: self._engine.embedder.count_tokens(texts) or estimate_tokens(texts)

    def _deadline(self, timeout: Any = None) -> Deadline:
        """Returns the deadline of a call that begins now, by its `timeout` or else that of the Config."""
        return Deadline(check_timeout(timeout, self._engine.config))

    @public
    def flush(self, timeout: float | None = None) -> None:
        """Waits until every memory that was deferred before has its vector; in a `ScopedMemory`, those of its scope.

        This thread does a part of the work. A text that cannot be embedded is given up, and `check` names it.

        Args:
            timeout: Seconds to wait at most (default: `Config.timeout`).

        Raises:
            DeadlineError: The time was too short. What is done stays done.
            EmbeddingError: The model fails on every text. Nothing is given up; flush again when it works.
        """
        scope = self._whose(None, None, None)
        if self._engine.runtimes.current.progressive and self._engine.config.refine == "never":
            return
        self._engine.backlog.settle(scope, check_timeout(timeout, self._engine.config), urgent=False)

    # -- reading --------------------------------------------------------------------------------------------------

    @public
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
        """Reads one memory by its id. Waits for no model and no writer.

        An id is unique within its home: the user, else the run, else the agent. Where several homes of an agent or a
        run have the id, the owner's own home comes first.

        Args:
            id: The id of the memory.
            user_id, agent_id, run_id: The owner. A `Memory` also takes none, for administration, and then looks
                through all owners.
            show_expired: Returns an expired memory too.
            as_of: An aware datetime; returns the memory as it was at that instant, as in `search`.

        Returns:
            The record. None if no memory of the owner has the id, or if it is deleted or expired.

        Raises:
            InvalidInputError: The id or the instant is unusable, or several homes have the id: name its owner.
            DeadlineError: Reading took longer than `Config.timeout`.
        """
        check_id(id)
        scope = self._whose(user_id, agent_id, run_id)
        return read(
            self._engine, lambda snapshot: snapshot.get(id, scope), self._deadline(),
            show_expired=show_expired, as_of=check_time("as_of", as_of),
        )  # fmt: skip

    @public
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
        """Reads one page of memories, by `created_at`. Waits for no model and no writer.

        Pages are stable: memories that are added or deleted meanwhile make no other appear twice, or be left out.

        Args:
            user_id, agent_id, run_id: The owner. Name at least one, or pass `all_scopes=True`.
            filters, between, show_expired, as_of, all_scopes: As in `search`.
            limit: The largest number of memories on the page.
            after: The `next` of the page before. Keep the same order.
            order: "newest" or "oldest", whichever comes first.
            timeout: Seconds for reading (default: `Config.timeout`).

        Returns:
            The page. Its `next` is None on the last one.

        Raises:
            InvalidInputError: An argument is unusable, or `after` comes from a listing in the other order.
            DeadlineError: Reading took longer than `timeout`.
        """
        if order not in ("newest", "oldest"):
            raise InvalidInputError(f"order is {shorten(order)}; use 'newest' or 'oldest'.")
        check_limit(limit)
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters, between)
        listing = Listing(scope, wanted, order, after, limit)
        return read(self._engine, listing.page, deadline, show_expired=show_expired, as_of=check_time("as_of", as_of))

    @public
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
        """Counts the memories that `get_all` lists on all its pages. Waits for no model and no writer.

        Args:
            user_id, agent_id, run_id: The owner. Name at least one, or pass `all_scopes=True`.
            filters, between, show_expired, as_of, all_scopes: As in `search`.
            timeout: Seconds for reading (default: `Config.timeout`).

        Returns:
            The number of memories.

        Raises:
            InvalidInputError, DeadlineError: As in `get_all`.
        """
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters, between)
        return read(
            self._engine, lambda snapshot: snapshot.count(scope, wanted), deadline,
            show_expired=show_expired, as_of=check_time("as_of", as_of),
        )  # fmt: skip

    @public
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
        """Lists the owners of the memories that `get_all` lists. Waits for no model and no writer.

        The call reads every memory of the owner. Owners may be paths, such as "team/project/ana". All below one are
        those with `filters={"user_id": {"gte": "team/project/", "lt": "team/project0"}}`: a zero follows the slash.

        Args:
            user_id, agent_id, run_id: The owner. Name at least one, or pass `all_scopes=True`.
            filters, all_scopes: As in `search`.
            timeout: Seconds for reading (default: `Config.timeout`).

        Returns:
            Each `Scope` (`user_id`, `agent_id`, `run_id`) once, sorted.

        Raises:
            InvalidInputError, DeadlineError: As in `get_all`.
        """
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters)
        return read(self._engine, lambda snapshot: snapshot.scopes(scope, wanted), deadline)

    @public
    def history(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> list[Event]:
        """Reads every event of a memory, also of a deleted or expired one. Waits for no model and no writer.

        Args:
            id: The id of the memory.
            user_id, agent_id, run_id: The owner, as in `get`.

        Returns:
            The events, oldest first. Empty if the owner never had such a memory, or it was purged.

        Raises:
            InvalidInputError: The id is unusable, or several homes have it; see `get`.
            DeadlineError: Reading took longer than `Config.timeout`.
        """
        check_id(id)
        scope = self._whose(user_id, agent_id, run_id)
        return read(self._engine, lambda snapshot: snapshot.history(id, scope), self._deadline())

    # -- changing -------------------------------------------------------------------------------------------------

    @public
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
        """Gives a memory a new version, and keeps the one before in its history.

        On return the new version is committed, and the next search finds it.

        Args:
            id: The id of the memory.
            content: The new text (default: the text stays).
            user_id, agent_id, run_id: The owner, as in `get`.
            metadata: Keys to set; the other keys stay.
            replace_metadata: Replaces the whole metadata instead.
            expires_at: The new end of the memory's life; None removes the end.
            ttl: The same as seconds from now. Pass one of the two.
            timeout: Seconds to wait for the vector (default: `Config.timeout`).

        Returns:
            The record of the new version.

        Raises:
            NotFoundError: There is no such visible memory.
            InvalidInputError: No change was given, an argument is unusable, or several homes have the id; see `get`.
            EmbeddingError, OverloadedError, DeadlineError: As in `add`.
        """
        seconds = check_timeout(timeout, self._engine.config)
        if content is None and metadata is None and ttl is None and isinstance(expires_at, Keep):
            raise InvalidInputError(
                f"Nothing to change was given for {check_id(id)!r}; pass content, metadata, expires_at or ttl."
            )
        changes = self._changes()
        changes.update(
            id, content, user_id=user_id, agent_id=agent_id, run_id=run_id, metadata=metadata,
            replace_metadata=replace_metadata, expires_at=expires_at, ttl=ttl, deadline=Deadline(seconds),
        )  # fmt: skip
        [record] = changes.commit(seconds)
        return cast(Record, record)

    @public
    def delete(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> bool:
        """Hides a memory from every read. `restore` brings it back, and `history` still shows it.

        On return the change is committed, and the next read of any thread or process goes without the memory.

        Args:
            id: The id of the memory.
            user_id, agent_id, run_id: The owner, as in `get`.

        Returns:
            False if there is no such visible memory.

        Raises:
            InvalidInputError: The id is unusable, or several homes have it; see `get`.
        """
        [was_there] = self._engine.store.commit([Delete(check_id(id), self._whose(user_id, agent_id, run_id))])
        return bool(was_there)

    @public
    def restore(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> Record:
        """Brings a deleted or expired memory back.

        On return the change is committed, and searches find the memory. A memory whose `expires_at` has passed comes
        back without it. A visible memory is returned unchanged.

        Args:
            id: The id of the memory.
            user_id, agent_id, run_id: The owner, as in `get`.

        Returns:
            The record.

        Raises:
            NotFoundError: The owner never had such a memory, or it was purged.
            InvalidInputError: The id is unusable, or several homes have it; see `get`.
        """
        [record] = self._engine.store.commit([Restore(check_id(id), self._whose(user_id, agent_id, run_id))])
        self._engine.backlog.stir()  # It may have been deleted before it had its vector.
        return cast(Record, record)

    @public
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
        """Hides every memory that `get_all` lists. `restore` brings each back.

        Other writers do not wait while the memories are found. Up to 10,000 are hidden in one transaction, all or
        none. More are hidden in several transactions, oldest first, so that other writers pass in between. After a
        crash or an error between these, call again to hide the rest.

        Args:
            user_id, agent_id, run_id: The owner. Name at least one, or pass `all_scopes=True`.
            filters, between, all_scopes: As in `search`.
            dry_run: Counts only.
            timeout: Seconds for the call (default: `Config.timeout`).

        Returns:
            The number of memories hidden.

        Raises:
            InvalidInputError: No owner was named, or an argument is unusable.
            DeadlineError: The time was too short. Nothing was hidden, unless the message gives a number.
        """
        deadline = self._deadline(timeout)
        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        wanted = parse_filters(filters, between)
        if dry_run:
            return read(self._engine, lambda snapshot: snapshot.count(scope, wanted), deadline)
        return self._engine.store.delete_all(scope, wanted, deadline)

    @public
    def purge(
        self,
        id: str | None = None,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        progress: bool = False,
    ) -> int:
        """Erases one memory, or every memory of an owner, for good; deleted and expired ones too.

        On return the file and its log hold no byte of their texts, earlier versions, metadata or owners. No read finds
        them, `history` and `as_of` included. A vector stays only where its home has the same text in another memory.
        The ids are free again. A number and the time of the purge remain. Other processes drop the memories from their
        indexes with their next search. Copies (`backup`, `export`) are yours to erase.

        Many memories go in several transactions. After a crash or an error between these, each remaining memory is
        whole; purge again. The call waits for other reads of the file, up to `Config.busy_timeout`.

        Args:
            id: The id of the memory (default: all memories of the owner).
            user_id, agent_id, run_id: The owner; with an id as in `get`.
            progress: Shows a bar on standard error.

        Returns:
            The number of memories erased.

        Raises:
            InvalidInputError: Neither an id nor an owner was given, or several homes have the id; see `get`.
            StoreBusyError: The memories are erased, but an earlier read keeps their bytes in the log. Purge again.
            StoreFullError: There is no room to write the file anew, or not even to erase all memories. The message says
                which, and what may remain.
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

    @public
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
        """Writes every memory that `get_all` lists into a file of JSON Lines, in the order of adding.

        All of it is of the moment when the call begins, whatever others write meanwhile; what is purged meanwhile is
        left out. A file at a path is complete and on the disk when it gets its name, with the mode and owner of the
        store. The same memories make the same bytes. No reader or writer waits for the call. It needs 8 bytes a memory,
        and room for 1,000 memories. Deleted memories and earlier versions are left out; `backup` has them. The format
        is described in `agentmem.transfer.jsonl`, and `import_` reads it.

        Args:
            file: A path (compressed if it ends in `.gz`), or an open file of text or bytes.
            user_id, agent_id, run_id: The owner. Name at least one, or pass `all_scopes=True`.
            filters, between, show_expired, all_scopes: As in `search`.
            vectors: Writes the vectors too, so that a store of the same model need not embed again.
            overwrite: Replaces a file that exists.
            progress: Shows a bar on standard error.
            timeout: Seconds for finding the memories (default: `Config.timeout`). Writing takes as long as it takes.

        Returns:
            The number of memories written.

        Raises:
            InvalidInputError: The file exists, or is the store itself, or an argument is unusable.
            DeadlineError: Finding took longer than `timeout`. There is no file.
            StoreFullError, StoreOpenError: There is no room, or no such folder. Errors of an open file of yours come
                unchanged.
        """
        from agentmem.transfer.exporter import export  # Late: most programs never do.

        scope = self._scope(user_id, agent_id, run_id, all_scopes=all_scopes)
        return export(
            self._engine, scope, parse_filters(filters, between), file,
            vectors=vectors, show_expired=show_expired, overwrite=overwrite, progress=progress,
            timeout=check_timeout(timeout, self._engine.config),
        )  # fmt: skip

    @public
    def import_(
        self,
        file: "Importable | Sequence[Importable]",
        *,
        format: str | None = None,
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
        dry_run: bool = False,
    ) -> "ImportReport":
        """Stores the memories and chats of files, in their order.

        A call that is repeated after it broke off continues, and stores every memory once. A message gets its id from
        its conversation's and its own, where it has them. So a later export of the same account adds new messages and
        gives edited ones a new version; those deleted here stay deleted. A line without an id gets one from its place
        in the file and the digest of the whole file. So the same file comes in once under an owner, and two equal lines
        are two memories.

        A stated time is kept. A message without one gets that of a neighbour, its conversation or its file, and
        `metadata["dated_by"]` names which. `metadata["position"]` is its place in the run.

        Each chunk is one commit: at most 256 texts to embed, or 1,000 lines. The call holds two chunks at most. A line
        may have 16 MB (or eight times `Config.max_content_bytes`) and a million values; larger objects are read in
        parts. A compressed file may unpack to 64 MB, or to a hundred times its size.

        Args:
            file: A path, an open file of text or bytes, or a list of them. A path may be a folder, a zip archive, or
                compressed by gzip, bzip2, xz or Zstandard. agentmem/transfer/README.md lists the formats; every
                conversation becomes a run.
            format: A name of `agentmem.transfer.chats.FORMATS` (default: the signs of the file decide).
            user_id, agent_id, run_id: An owner that replaces those of the lines. A mapping renames them, such as
                `{"ana": "anna"}`. In a `ScopedMemory`, lines of other owners are errors.
            on_conflict: What to do if an id belongs to another memory of its home, visible or deleted. "error" raises.
                "skip" leaves the line out. "replace" makes a new version with its content, metadata and expiry.
                "new_id" stores it under another id, the same in every call.
            on_error: With "raise" a bad line raises with its number. The chunks before its own are stored, and nothing
                of its own is. With "skip" every good line is stored, and the report names the bad ones.
            dedupe, defer: As in `add`.
            durability, progress, timeout: As in `add_batch`.
            dry_run: Reads everything and stores nothing; the report then has a `preview`.

        Returns:
            The report: what was stored, skipped, replaced and refused. Vectors of another model are left aside, and
            counted there.

        Raises:
            InvalidInputError: A line or an argument is unusable (DuplicateIdError: a conflict). A file in an unknown
                format, or in a newer version of the format, is refused, whatever `on_error` says.
            EmbeddingError, OverloadedError: As in `add`.
            DeadlineError: As in `add`, or a named pipe gave nothing for `timeout` seconds. Earlier chunks are stored.
        """
        from agentmem.transfer.importer import Options, import_  # Late, as above.

        seconds = check_timeout(timeout, self._engine.config)
        owners = (user_id, agent_id, run_id)
        options = Options(format, owners, on_conflict, on_error, dedupe, defer, durability, progress, seconds, dry_run)
        return import_(self._engine, self._scope, file, options)

    @public
    def scope(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> "ScopedMemory":
        """Makes a view that is bound to an owner: the same calls, which cannot reach outside it. Reads nothing.

        Args:
            user_id, agent_id, run_id: The owner. Name at least one; a `ScopedMemory` makes a narrower view.

        Returns:
            The view. It keeps the `Memory` open, and follows it when it closes.

        Raises:
            InvalidInputError: No owner was named, or one outside of this view.
        """
        return ScopedMemory(self._engine, self._scope(user_id, agent_id, run_id), self)

    def _changes(self) -> Changes:
        """Returns a batch of changes that are committed together."""
        return Changes(self._engine, self._scope, self._whose)


class ScopedMemory(_Calls):
    """The calls of a `Memory`, bound to an owner: no call reaches another owner's memories. Hand it to the code that
    serves this owner.

    `Memory.scope` makes it, and closing is left to the `Memory`. Any thread may call any method. Besides the errors
    that a method names, each raises `ClosedError` once the memory is closed, and `StoreError` if the database refuses:
    `StoreBusyError`, `StoreFullError`, `StoreReadOnlyError` and `StoreDamagedError` say why.
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

    To remember: `add`, `add_batch`, `add_messages`. To find: `search`, `search_batch`, `context`. To read: `get`,
    `get_all`, `count`, `scopes`, `history`. To change: `update`, `delete`, `delete_all`, `restore`, and for good
    `purge`, `reset`. For an owner's own view: `scope`. For deferred memories: `flush`. To look after the file: `stats`,
    `check`, `repair`, `backup`, `vacuum`, and to another model `reembed`. To files and from files: `export`, `import_`.
    At the end: `close`.

    Every call about memories names an owner: at least one of `user_id`, `agent_id`, `run_id`. To read across owners,
    pass `all_scopes=True`. A call by id may name no owner, for administration. Times are aware datetimes.

    Opening is cheap: the model loads with the first text. Any number of threads may share a Memory, and any number of
    processes the file; all see what one was told is stored. Use it as a context manager, or call `close`. A process
    that ends without either loses nothing that was acknowledged.

    If another process moves the store to another model (`reembed`), this one follows: the next call that needs a model
    loads the new one. If that model is not on this machine, or an `embedder` was given, the call raises
    ModelMismatchError.

    Args:
        path: The file, or ":memory:".
        model: A bundled model, a folder, a repository of the hub that was downloaded (`agentmem.models`), or the result
            of `models.find`. The network is never reached. The default is the store's own model; for a new store,
            all-MiniLM-L6-v2. None opens any store without a model: then `add` needs `defer=True`, and `search` needs
            `mode="keyword"`; other calls that embed a text raise ModelError.
        embedder: An object with `identity`, `dimension` and `embed(texts)`, in the place of a model.
        config: The settings.

    Raises:
        StoreOpenError: The path is a directory, unreadable, no database, or another application's.
        ModelError, ModelMismatchError: There is no such model, or the store's vectors are of another one.
        InvalidInputError: An argument is unusable.
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
        self.path = check_path(path)
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

    @public
    def stats(self) -> Stats:
        """Counts the contents of the store, and the work of this process since it opened the store.

        Waits for no model and no writer. The call counts every memory, so its cost grows with the store.

        Returns:
            The counts in four groups: `store`, `embedding`, `search` and `process`.

        Raises:
            ClosedError: The memory is closed.
        """
        engine = self._engine
        cache, timings = engine.index_cache, engine.timings
        return Stats(
            StoreStats(**engine.store.stats()),
            EmbeddingStats(engine.embedder.name, refined_a_second=engine.backlog.rate, **engine.embedder.stats()),
            SearchStats(len(cache), cache.bytes, cache.evicted),
            ProcessStats(timings.errors.latest(), timings.percentiles()),
        )

    @public
    def check(self, *, progress: bool = False) -> list[str]:
        """Looks for damage: reads the whole file, while others write. `repair` repairs what it names.

        It verifies the checksum of every page, then what the rows say of each other. Waits for no model and no writer.

        Args:
            progress: Shows a bar on standard error.

        Returns:
            A sentence for each fault; an empty list means healthy.

        Raises:
            ClosedError: The memory is closed. Damage raises nothing.
        """
        with stages(shown=progress) as tell:
            return self._engine.store.check(tell)

    @public
    def repair(self, *, progress: bool = False) -> list[str]:
        """Repairs what `check` names, while other processes have the store open; they wait for the write lock.

        Everything derived (terms, digests, indexes, wrong or missing vectors) is rebuilt from the memories; vectors
        follow in the background. A history that does not lead to its memory is corrected. If pages are damaged, every
        readable row goes into a new file, which takes the old one's place in one transaction. Of the rows on a damaged
        page, events are kept and reported; memories are kept if their digest proves text and owner.

        The damaged file, and rows without a place, are kept in files beside the store. Both are named, hold texts, and
        are out of the reach of `purge`.

        Args:
            progress: Shows a bar on standard error.

        Returns:
            A sentence for each thing done; an empty list means that nothing needed repair.

        Raises:
            StoreBusyError: Others kept the write lock. Nothing was changed; try again.
        """
        require_room()
        engine = self._engine
        with stages(shown=progress) as tell:
            told = engine.store.repair(engine.embedder.digest, engine.embedder.dimension, tell)
        engine.runtimes.bind()  # The vectors that come now are of this model, whatever was lost.
        engine.backlog.wake(0)
        return told

    @public
    def reembed(
        self, model: str | ModelCard | GivenEmbedder | None, *, progress: bool = False, timeout: float | None = None
    ) -> int:
        """Moves the store to another model: embeds every text anew, of deleted memories and earlier versions too.

        All processes keep working with the old model meanwhile. When everything is ready, the models change places in
        one moment; no search compares vectors of two models. Then this memory uses the new model, and other processes
        find it by its name or folder. One with an `embedder` of its own, or without the model, gets ModelMismatchError.
        Texts written in the last moments, or on which the new model fails, wait for their vectors like deferred ones.

        The call returns when all is done and the old vectors are erased; their pages are free again. It can end at any
        moment, by a crash too. The store then keeps its model, and the next call with the new one continues. A second
        call for the same model waits for the first, and takes over if its process ends. `stats` shows how far it is.

        Args:
            model: The name of a model, its folder, or an embedder of yours. None, or the store's own model, gives up an
                unfinished move.
            progress: Shows a bar on standard error.
            timeout: Seconds for the whole call (default: no limit).

        Returns:
            The number of texts that this call embedded; 0 if the store is of that model already.

        Raises:
            ModelError: There is no such model.
            StoreBusyError: Another call is moving the store to another model.
            EmbeddingError: The model fails, or fails on more than 1,000 texts. What is done is kept.
            DeadlineError: The call took longer than `timeout`, or a page of texts longer than `Config.timeout`. What is
                done is kept.
        """
        if isinstance(model, str) and not model:
            raise InvalidInputError("model is ''; pass the name of a model, its folder, or an embedder.")
        require_room()
        source = find_model(model) if isinstance(model, str) else model
        seconds = None if timeout is None else check_timeout(timeout, self._engine.config)
        return reembed(self._engine, source, shown=progress, timeout=seconds)

    @public
    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> str:
        """Copies the store as it is at one moment, while others read and write. To restore, open the copy.

        The copy is one file. When it gets its name it is complete, verified, and survives a power cut. It has the mode
        and owner of the store. An existing file is replaced only with `overwrite=True`, and never while it seems to be
        open. Copying takes about 3 seconds a gigabyte. A process that dies meanwhile leaves a file `....unfinished`.

        Args:
            path: The path of the copy.
            overwrite: Replaces an existing file.

        Returns:
            The full path of the copy.

        Raises:
            InvalidInputError: The file exists, or is the store itself.
            StoreDamagedError: The store cannot be read to its end. Nothing was copied.
            StoreFullError, StoreOpenError: There is no room, or no such folder.
        """
        target = check_path(path)
        self._engine.store.backup(target, overwrite=overwrite)
        return target

    @public
    def vacuum(
        self, *, deleted_before: datetime | timedelta | None = None, full: bool = False, progress: bool = False
    ) -> VacuumReport:
        """Gives unused space back to the file system. No answer changes.

        The call removes free pages (`reembed` leaves most of them), the remains of an unfinished `purge`, and the log.
        It drops vectors of texts that no memory has or had in any version. Deleted memories stay, with
        history and vector, because `restore`, `history` and `as_of` need them.

        All processes keep working. Pages move to the front of the file a few at a time, each time in a transaction of
        milliseconds. The call can end at any moment, by a crash too; call it again to continue. A file that was made
        before its pages could be moved is written anew once, as with `full`.

        Args:
            deleted_before: An aware datetime, or a timedelta for an age. Erases all owners' memories that were deleted
                or had expired by then, for good, as `purge` does.
            full: Writes the file anew, which also frees the gaps within pages. All writes wait meanwhile; those of
                other processes fail after their `Config.busy_timeout`. Needs room for two more copies of the
                contents.
            progress: Shows a bar on standard error.

        Returns:
            The report: sizes before and after, what was erased, and how many deleted memories stay.

        Raises:
            InvalidInputError: The moment is unusable, or has not passed.
            StoreBusyError: Others kept the write lock for too long, or an earlier read keeps erased bytes in the log.
            StoreFullError: There is no room to write the file anew. The file is whole, and as small as was possible.
        """
        require_room()
        moment = None if deleted_before is None else check_past("deleted_before", deleted_before)
        engine = self._engine
        done = engine.store.vacuum(hidden_before=moment, full=full, stop=engine.runtimes.closing.wait, shown=progress)
        engine.forget(done.erased)
        return done.report

    @public
    def reset(self, *, confirm: bool, progress: bool = False) -> int:
        """Erases every memory of every owner for good, as `purge` does.

        Args:
            confirm: Pass True, to say that you mean it.
            progress: Shows a bar on standard error.

        Returns:
            The number of memories erased.

        Raises:
            InvalidInputError: `confirm` is not True.
            StoreBusyError, StoreFullError: As in `purge`.
        """
        if confirm is not True:
            raise InvalidInputError(f"confirm is {shorten(confirm)}; pass confirm=True to erase every memory.")
        return self._erase(Scope(), None, shown=progress)

    def close(self) -> None:
        """Closes the memory. Callers waiting for the model get ClosedError; running batches and commits finish.

        Threads stop, and the log is merged into the file, in a bounded time. Any thread may call it, and call it again.
        A signal handler that strikes amid a call only starts the closing, on another thread. Afterwards every other
        call raises ClosedError; this one raises nothing.
        """
        self._finalizer.detach()
        if is_amid_locks():
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
