"""Memory with Mem0's methods. Each one checks, translates, and calls the underlying `agentmem.Memory`."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from agentmem.engine.write_batch import Changes
from agentmem.errors import InvalidInputError, ModelError, NotFoundError, StoreOpenError
from agentmem.mem0 import items
from agentmem.mem0.dates import end_of, end_of_reference
from agentmem.mem0.extraction import LanguageModel, check_model, learn, summarise
from agentmem.mem0.filters import Owners, owners, owners_and_filters
from agentmem.mem0.llm import Endpoint
from agentmem.mem0.messages import Fields, Turn, fields_of, turns_of, without_identity
from agentmem.mem0.settings import read_settings
from agentmem.mem0.types import Added, AddedMemory, Confirmation, Found, HistoryEntry, Listing, StoredMemory
from agentmem.memory import Memory as Store
from agentmem.quoting import shorten
from agentmem.records import Match, Record
from agentmem.timestamps import now
from agentmem.validation import MAX_LIMIT, check_threshold

TOP_K = 20
THRESHOLD = 0.1
MEANING = 0.4
"""Weight of the cosine in a score: no memory scores less than this share of it."""
PROCEDURAL = "procedural_memory"
PAGE = 256
UNSET: Any = object()


class UnknownMemoryError(NotFoundError, InvalidInputError):
    """No memory with this id can be changed. It is a ValueError, as with Mem0."""


class Memory:
    """Mem0's Memory, in one file. Any number of threads may share it, and any number of processes the file.

    Args:
        config: Mem0's dictionary, as for `from_config`.
        llm: A callable that takes chat messages and returns the answer's text. Only `add(infer=True)` calls it.
        embedder: As for `agentmem.Memory`.
        store: An open `agentmem.Memory`, which `close` leaves open.

    Raises:
        InvalidInputError: The configuration asks for an unsupported feature; the message names it.
        ModelError: As for `agentmem.Memory`.
        StoreOpenError: As for `agentmem.Memory`.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        llm: LanguageModel | None = None,
        embedder: Any = None,
        store: Store | None = None,
    ) -> None:
        if llm is not None:
            check_model("llm", llm)
        if store is not None and embedder is not None:
            raise InvalidInputError(
                "Both store= and embedder= were given; the store has its embedder, drop the latter."
            )
        own_embedder = embedder is not None or store is not None
        settings = read_settings(config or {}, own_embedder=own_embedder, own_llm=llm is not None)
        self._llm = llm or settings.llm
        self._endpoint = self._llm if llm is None and isinstance(self._llm, Endpoint) else None
        self._instructions = settings.instructions
        self._max_changes = settings.max_changes
        self._owned = store is None
        if store is None:
            if settings.path != ":memory:":
                _make_folder(Path(settings.path).parent)
            store = _opened(settings.path, settings.model, embedder)
        self.store = store

    @classmethod
    def from_config(
        cls,
        config_dict: Mapping[str, Any],
        *,
        llm: LanguageModel | None = None,
        embedder: Any = None,
    ) -> "Memory":
        """Opens a Memory from Mem0's dictionary.

        `vector_store` (qdrant, faiss or chroma with a `path`) puts the store into the file `agentmem.db` of that
        folder. A collection not named "mem0" gets `<collection_name>.agentmem.db`. Without a path the store is in the
        folder of `history_db_path`, else in the working folder. Mem0's own files there stay untouched; see
        `import_mem0`.

        `embedder` (huggingface, fastembed) names the model. `llm` is openai, or a provider that speaks its protocol:
        deepseek, lmstudio, ollama or vllm; it needs the extra `[llm]`. A callable may stand there too.
        `custom_instructions` is passed to the language model. One answer updates or deletes at most `max_changes` known
        memories (5 by default; with 0, `add` only adds).

        Args:
            config_dict: The dictionary.
            llm: As for the class; the part `llm` is then ignored.
            embedder: As for the class; the part `embedder` is then ignored.

        Returns:
            The open Memory.

        Raises:
            InvalidInputError: Something is not supported; the message names every such key.
        """
        return cls(config_dict, llm=llm, embedder=embedder)

    def add(
        self,
        messages: Any,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timestamp: Any = None,
        expiration_date: Any = None,
        infer: bool = True,
        memory_type: str | None = None,
        prompt: str | None = None,
        skip_invalid: bool = False,
    ) -> Added:
        """Remembers a text, a message, or a list of messages, without the system's messages.

        With `infer=False` each message is stored unchanged. With `infer=True` the language model extracts facts and
        compares them with the known memories of the owner. What it adds, updates and deletes is one transaction. When
        others change those memories meanwhile, it is asked again. At most `max_changes` memories of the configuration
        are updated or deleted. The result names what was `withheld`, and the `call` under which the log names the
        changes. Of an unreadable answer, either nothing or all facts are added.

        Of a long text the model reads the first 256 word pieces, or its own `max_tokens`. The rest is found by its
        words only.

        Args:
            messages: The text, message or messages.
            user_id: The user. At least one of the three owners is required.
            agent_id: The agent.
            run_id: The run.
            metadata: Stored with each memory, without any owners in it.
            timestamp: The moment that dates the memories: Unix seconds, ISO 8601 or a datetime.
            expiration_date: The last day, in UTC, on which they are seen. A value with a zone is that moment.
            infer: Whether the language model extracts facts.
            memory_type: "procedural_memory", with an `agent_id`, stores one summary of what was done.
            prompt: What the language model shall look for.
            skip_invalid: Whether to skip messages without role or text.

        Returns:
            `{"results": [...]}`, an entry for each memory that was added, updated or deleted.

        Raises:
            InvalidInputError: No owner; a message without role or text; or `infer=True` without a language model.
            LanguageModelError: The language model failed; nothing was written. Otherwise as `agentmem.Memory.add`.
        """
        named = owners(user_id=user_id, agent_id=agent_id, run_id=run_id)
        fields = fields_of(metadata, timestamp, expiration_date)
        if memory_type not in (None, PROCEDURAL):
            raise InvalidInputError(f"memory_type is {shorten(memory_type)}; pass {PROCEDURAL!r}, or leave it out.")
        if prompt is not None and not isinstance(prompt, str):
            raise InvalidInputError(f"prompt is {shorten(prompt)}; pass text.")
        turns = turns_of(messages, skip_invalid=skip_invalid)
        if memory_type is not None and agent_id is not None:
            return {"results": self._procedure(turns, named, fields, prompt)}
        if infer:
            instructions = prompt or self._instructions
            return learn(self.store, self._model(), turns, named, fields, instructions, self._max_changes)
        return {"results": self._keep(turns, named, fields)}

    def _keep(self, turns: list[Turn], named: Owners, fields: Fields) -> list[AddedMemory]:
        contents = [
            {
                "content": turn.content, "role": turn.role,
                "metadata": fields.metadata | ({} if turn.name is None else {"actor_id": turn.name}),
            }
            for turn in turns
        ]  # fmt: skip
        records: list[Record] = self.store.add_batch(
            contents, **named, created_at=fields.created_at, expires_at=fields.expires_at
        )
        return [
            {"id": record.id, "memory": turn.content, "event": "ADD", "actor_id": turn.name, "role": turn.role}
            for record, turn in zip(records, turns, strict=True)
        ]

    def _procedure(self, turns: list[Turn], named: Owners, fields: Fields, prompt: str | None) -> list[AddedMemory]:
        record = self.store.add(
            summarise(self._model(), turns, prompt), **named, role=fields.role, created_at=fields.created_at,
            expires_at=fields.expires_at, metadata={**fields.metadata, "memory_type": PROCEDURAL},
        )  # fmt: skip
        return [{"id": record.id, "memory": record.content, "event": "ADD"}]

    def _model(self) -> LanguageModel:
        if self._llm is None:
            raise InvalidInputError(
                "There is no language model to extract facts; pass infer=False to keep the messages as they are, or "
                "open the Memory with llm=, a callable that takes messages and returns text."
            )
        return self._llm

    def get(self, memory_id: str) -> StoredMemory | None:
        """Returns the memory with this id, expired or not.

        Args:
            memory_id: The id.

        Returns:
            The memory, or None.

        Raises:
            InvalidInputError: The id cannot be one, or several homes have it.
        """
        record = self.store.get(memory_id, show_expired=True)
        return None if record is None else items.stored(record)

    def get_all(
        self,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        top_k: int | None = None,
        limit: int | None = None,
        show_expired: bool = False,
    ) -> Listing:
        """Lists the newest memories of an owner.

        Args:
            user_id: The user. At least one owner is required, here or in `filters`.
            agent_id: The agent.
            run_id: The run.
            filters: Conditions, in Mem0's language.
            top_k: The most memories to return, 20 by default.
            limit: Another name of `top_k`.
            show_expired: Whether to include expired memories.

        Returns:
            `{"results": [...]}`, newest first.

        Raises:
            InvalidInputError: No owner, or an argument cannot be used.
        """
        named, rest = owners_and_filters(filters, user_id=user_id, agent_id=agent_id, run_id=run_id)
        size = _size(top_k, limit)
        if not size:
            return {"results": []}
        page = self.store.get_all(**named, filters=rest, limit=size, show_expired=show_expired)
        return {"results": [items.listed(record) for record in page]}

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        filters: Mapping[str, Any] | None = None,
        top_k: int | None = None,
        limit: int | None = None,
        threshold: float | None = THRESHOLD,
        rerank: bool = False,
        explain: bool = False,
        reference_date: Any = None,
        show_expired: bool = False,
    ) -> Found:
        """Finds the memories of an owner that are relevant to a question, best first.

        The score is that of agentmem's hybrid search.

        Args:
            query: The question.
            user_id: The user. At least one owner is required, here or in `filters`.
            agent_id: The agent.
            run_id: The run.
            filters: Conditions, in Mem0's language.
            top_k: The most memories to return, 20 by default.
            limit: Another name of `top_k`.
            threshold: The least cosine, as with Mem0. A memory whose score is that high is kept too.
            rerank: Changes nothing, as with Mem0 when no reranker is configured.
            explain: Whether to add `score_details`.
            reference_date: Asks as of that day or moment. Memories created later are left out; memories that expired
                later are not.
            show_expired: Whether to include expired memories.

        Returns:
            `{"results": [...]}`, best first.

        Raises:
            InvalidInputError: No owner, a blank query, or a value out of its range.
        """
        named, rest = owners_and_filters(filters, user_id=user_id, agent_id=agent_id, run_id=run_id)
        if not isinstance(query, str) or not query.strip():
            raise InvalidInputError(f"query is {shorten(query)}; pass a str that is not blank.")
        size = _size(top_k, limit)
        least = THRESHOLD if threshold is None else check_threshold(threshold)
        asked: dict[str, Any] = {"filters": rest, "show_expired": show_expired}
        if reference_date is not None:
            asked = _asked_then(end_of_reference(reference_date), rest, show_expired)
        asked |= {"threshold": MEANING * least, "explain": True}
        if not size:
            return {"results": []}
        fetched, exhausted = size, False
        matches: list[Match] = []
        while len(matches) < size and not exhausted:
            best = self.store.search(query.strip(), **named, **asked, limit=fetched)
            matches = [match for match in best if max(match.score, (match.explanation or {})["cosine"]) >= least]
            exhausted = len(best) < fetched or fetched == MAX_LIMIT
            fetched = min(4 * fetched, MAX_LIMIT)
        return {"results": [items.found(match, least, explain=explain) for match in matches[:size]]}

    def update(
        self,
        memory_id: str,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expiration_date: Any = UNSET,
        data: str | None = None,
    ) -> Confirmation:
        """Gives a memory another text, further metadata, or another expiry.

        Args:
            memory_id: The id.
            text: The new text.
            metadata: Merged with the present metadata, without any owners in it.
            expiration_date: As for `add`; None removes it.
            data: The old name of `text`.

        Returns:
            A confirmation, as Mem0's.

        Raises:
            InvalidInputError: No change was given, or it cannot be used.
            UnknownMemoryError: There is no such memory.
        """
        text = data if text is None else text
        if text is None and metadata is None and expiration_date is UNSET:
            raise InvalidInputError("Nothing to change was given; pass text, metadata or expiration_date.")
        plain = without_identity(metadata)
        if expiration_date is UNSET:
            expiration_date = plain.get("expiration_date", UNSET)
        for name in ("created_at", "expiration_date", "role"):
            plain.pop(name, None)
        record, changes = self._to_change(memory_id)
        expires_at = record.expires_at
        if expiration_date is not UNSET:
            expires_at = None if expiration_date is None else end_of("expiration_date", expiration_date)
        changes.update(memory_id, text, metadata=plain, expires_at=expires_at)
        _commit(changes, memory_id)
        return {"message": "Memory updated successfully!"}

    def delete(self, memory_id: str) -> Confirmation:
        """Deletes a memory; its history stays.

        Args:
            memory_id: The id.

        Returns:
            A confirmation, as Mem0's.

        Raises:
            UnknownMemoryError: There is no such memory.
        """
        _, changes = self._to_change(memory_id)
        changes.delete(memory_id)
        if not _commit(changes, memory_id)[-1]:
            raise _unknown(memory_id)
        return {"message": "Memory deleted successfully!"}

    def delete_all(
        self, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> Confirmation:
        """Deletes every memory of an owner, expired ones too.

        Args:
            user_id: The user. At least one of the three owners is required.
            agent_id: The agent.
            run_id: The run.

        Returns:
            A confirmation, as Mem0's.

        Raises:
            InvalidInputError: No owner is given.
        """
        named = owners(user_id=user_id, agent_id=agent_id, run_id=run_id)
        self.store.delete_all(**named)
        expired = {"expires_at": {"lte": now()}}
        while page := self.store.get_all(**named, filters=expired, limit=PAGE, show_expired=True).records:
            changes = self.store._changes()
            for record in page:
                changes.restore(record.id, **named)
                changes.delete(record.id, **named)
            changes.commit()
        return {"message": "Memories deleted successfully!"}

    def history(self, memory_id: str) -> list[HistoryEntry]:
        """Lists every event of a memory, deleted or not.

        Args:
            memory_id: The id.

        Returns:
            The events, oldest first; an empty list when there never was such a memory.

        Raises:
            InvalidInputError: The id cannot be one, or several homes have it.
        """
        events = self.store.history(memory_id)
        if not events:
            return []
        record = self.store.get(memory_id, show_expired=True)
        if record is None:
            record = self.store.get(memory_id, show_expired=True, as_of=events[0].at)
        return list(items.entries(events, record))

    def reset(self) -> None:
        """Erases every memory of every owner for good, history included.

        Raises:
            StoreBusyError: Another process uses the store; nothing was erased.
        """
        self.store.reset(confirm=True)

    def close(self) -> None:
        """Closes the connections and the store. A store that was passed as `store=` stays open. May be called twice."""
        if self._endpoint is not None:
            self._endpoint.close()
        if self._owned:
            self.store.close()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"agentmem.mem0.Memory({self.store!r})"

    def _to_change(self, memory_id: str) -> tuple[Record, Changes]:
        """Returns the memory, and the changes that come before its own: with Mem0 an expired memory can be changed
        too."""
        record = self.store.get(memory_id, show_expired=True)
        if record is None:
            raise _unknown(memory_id)
        changes = self.store._changes()
        if record.expires_at is not None and record.expires_at <= now():
            changes.restore(memory_id)
        return record, changes


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreOpenError(
            f"The folder {str(folder)!r} of the store cannot be made ({error.strerror}); make it, or name another."
        ) from error


def _opened(path: str, model: str | None, embedder: Any) -> Store:
    if model is None:
        return Store(path, embedder=embedder)
    try:
        return Store(path, model=model)
    except ModelError as error:
        raise type(error)(f"embedder.config.model: {error}") from error


def _size(top_k: Any, limit: Any) -> int:
    """Returns the number of results; both names mean the same."""
    if top_k is not None and limit is not None and top_k != limit:
        raise InvalidInputError(f"Both top_k={shorten(top_k)} and limit={shorten(limit)} were given; drop one of them.")
    name, size = ("top_k", top_k) if limit is None else ("limit", limit)
    if size is None:
        return TOP_K
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_LIMIT:
        raise InvalidInputError(f"{name} is {shorten(size)}; pass a whole number from 0 to {MAX_LIMIT:,}.")
    return size


def _asked_then(end: datetime, filters: dict[str, Any], show_expired: bool) -> dict[str, Any]:
    unexpired = {"OR": [{"expires_at": {"gte": end}}, {"expires_at": {"exists": False}}]}
    parts = [filters, {} if show_expired else unexpired]
    return {
        "filters": {"AND": [part for part in parts if part]} if any(parts) else None,
        "between": (None, end),
        "show_expired": True,
        "reference_date": end,
    }


def _commit(changes: Changes, memory_id: str) -> list[Any]:
    try:
        return changes.commit()
    except NotFoundError:  # It was deleted since the look-up.
        raise _unknown(memory_id) from None


def _unknown(memory_id: str) -> UnknownMemoryError:
    return UnknownMemoryError(f"There is no memory {memory_id!r} to change; look ids up with get_all().")
