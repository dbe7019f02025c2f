"""Several changes of one store that are committed together, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agentmem.analyzer import stored_terms
from agentmem.deadline import Deadline
from agentmem.engine.engine import Engine, public
from agentmem.engine.runtime import ModelRuntime
from agentmem.engine.writer import URGENT_TEXTS
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.ids import Home
from agentmem.quoting import shorten
from agentmem.records import Draft, Record, Scope, owners_of
from agentmem.storage.operations import Delete, Expect, Insert, Operation, Restore, Update
from agentmem.storage.retrying import again
from agentmem.storage.types import KEEP, Keep, Revision, not_found
from agentmem.storage.types import Outdated as Outdated
from agentmem.timestamps import now
from agentmem.validation import check_content, check_expiry, check_id, check_metadata, check_timeout


@dataclass(frozen=True, slots=True)
class PastVersion:
    """What a memory said at a time that has passed, in the store that it comes from."""

    content: str
    since: datetime


class Changes:
    """Gathers changes, in the order in which they are to be made, and commits them in one transaction. Each call checks
    what it is given, as the method of the same name of a Memory does, and writes nothing. Belongs to one thread."""

    def __init__(
        self, engine: Engine, scope_of: Callable[[Any, Any, Any], Scope], whose: Callable[[Any, Any, Any], Scope]
    ) -> None:
        """`scope_of` makes a scope of an owner's keywords that must be given, `whose` of those that may be."""
        self._engine = engine
        self._scope_of = scope_of
        self._whose = whose
        self._operations: list[Operation] = []
        self._told: list[int] = []  # Of each change the operation whose result it is.
        self._to_embed: list[tuple[Insert | Update, str, Home]] = []  # What takes the vector of a home's text.

    def __len__(self) -> int:
        return len(self._told)

    def _append(self, *operations: Operation) -> None:
        """One change, made by these operations; its result is that of the last."""
        self._operations += operations
        self._told.append(len(self._operations) - 1)

    def expect(self, record: Record) -> None:
        """Has nothing of it all be committed unless this memory is still there to see, with the same content. Its
        result is None."""
        self._append(Expect(record.id, owners_of(record), record.content))

    def add(
        self,
        content: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        **fields: Any,
    ) -> None:
        """Remembers a text. Its result is the Record."""
        scope = self._scope_of(user_id, agent_id, run_id)
        draft = Draft.of(content, scope, self._engine.config, **fields)
        self._append(self._embedded(_insert_of(draft), content, scope))

    def bring(
        self,
        versions: Sequence[PastVersion],
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        **fields: Any,
    ) -> None:
        """Remembers what another store remembered: its versions, oldest first, one or more. The last one has the
        metadata and the expiry. The events of all are dated now, when this store learned of them; the versions keep
        their dates. Its result is the Record."""
        scope = self._scope_of(user_id, agent_id, run_id)
        first, last, config = versions[0], versions[-1], self._engine.config
        final = Draft.of(last.content, scope, config, **fields)
        if len(versions) == 1:
            only = _insert_of(replace(final, updated_at=last.since))
            self._append(self._embedded(only, last.content, scope))
            return
        fields |= {"expires_at": None, "id": final.id}
        steps: list[Insert | Update] = [
            _insert_of(replace(Draft.of(first.content, scope, config, **fields), updated_at=first.since))
        ]
        for version in versions[1:]:
            check_content(version.content, config)
            terms = stored_terms(version.content, final.created_at)
            expires_at = final.expires_at if version is last else KEEP
            revision = Revision(version.content, terms, None, False, expires_at)
            steps.append(Update(final.id, scope, revision, since=version.since))
        self._embedded(steps[-1], last.content, scope)
        self._append(*steps)

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
        deadline: Deadline | None = None,
    ) -> None:
        """Gives a memory a new version; one that has expired must be restored before. Its result is the Record. The
        words of the text are found by the deadline.

        Raises:
            NotFoundError: there is no such memory, expired ones included; `commit` raises it too.
        """
        config = self._engine.config
        check_id(id)
        scope = self._whose(user_id, agent_id, run_id)
        if content is not None:
            check_content(content, config)
        checked = None if metadata is None else check_metadata(metadata, config)[0]
        revision = Revision(content, None, checked, replace_metadata, _new_expiry(expires_at, ttl))
        if content is None:
            self._append(Update(id, scope, revision))
            return
        old = _require(self._engine, id, scope)  # Before the text is embedded for nothing.
        whose = owners_of(old)
        revision = replace(revision, terms=stored_terms(content, old.created_at, deadline))
        self._append(self._embedded(Update(id, whose, revision), content, whose))

    def delete(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> None:
        """Hides a memory. Its result is whether there was one to see."""
        self._append(Delete(check_id(id), self._whose(user_id, agent_id, run_id)))

    def restore(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> None:
        """Brings a deleted or expired memory back, without the expiry that has passed. Its result is the Record."""
        self._append(Restore(check_id(id), self._whose(user_id, agent_id, run_id)))

    @public
    def commit(self, timeout: float | None = None) -> list[Any]:
        """Embeds the texts, and makes all the changes in one transaction; returns the result of each, in order.

        Raises:
            Outdated: a memory is not as it was expected to be; nothing was written.
            NotFoundError, DuplicateIdError: one of them cannot be made; likewise. Otherwise as `Memory.add`.
        """
        seconds = check_timeout(timeout, self._engine.config)
        if not self._operations:
            return []
        return self._engine.runtimes.through(lambda runtime: self._commit(runtime, seconds))

    def _commit(self, runtime: ModelRuntime, timeout: float) -> list[Any]:
        if self._to_embed and not runtime.progressive:
            texts, homes = [text for _, text, _ in self._to_embed], [home for _, _, home in self._to_embed]
            urgent = len(texts) <= URGENT_TEXTS
            answers = runtime.embedder.send(texts, homes, "document", urgent=urgent, timeout=timeout).embedded(timeout)
            for (operation, _, _), answer in zip(self._to_embed, answers, strict=True):
                if isinstance(answer, AgentMemError):
                    raise answer
                operation.vector = answer
        if runtime.progressive and self._to_embed:
            runtime.embedder.warm()
            for operation, _, _ in self._to_embed:
                operation.vector = None
        model = runtime.identity if self._to_embed and not runtime.progressive else None
        results = self._engine.store.commit(self._operations, model=model)
        if runtime.progressive:
            self._engine.backlog.stir()
        return [results[place] for place in self._told]

    def _embedded(self, operation: Insert | Update, text: str, scope: Scope) -> Insert | Update:
        """The operation, which gets the vector of a scope's text."""
        self._to_embed.append((operation, text, scope.home))
        return operation


def _insert_of(draft: Draft) -> Insert:
    return Insert(draft, stored_terms(draft.content, draft.created_at))


@again
def _require(engine: Engine, id: str, scope: Scope) -> Record:
    """Returns the memory of a scope with this id, visible or expired.

    Raises:
        NotFoundError: there is none.
    """
    with engine.store.snapshot(show_expired=True) as snapshot:
        record = snapshot.get(id, scope)
    if record is None:
        raise not_found(id, scope)
    return record


def _new_expiry(expires_at: Any, ttl: Any) -> datetime | Keep | None:
    """Returns the expiry that an update sets; `expires_at=None` and a `ttl` contradict each other too."""
    if isinstance(expires_at, Keep):
        return expires_at if ttl is None else check_expiry(None, ttl, now())
    if expires_at is None and ttl is not None:
        raise InvalidInputError(f"Both ttl={shorten(ttl)} and expires_at=None were given; drop one.")
    return check_expiry(expires_at, ttl, now())
