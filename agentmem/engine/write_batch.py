"""Several changes of one store that are committed together, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agentmem.analyzer import stored_terms
from agentmem.embedding.embedder import failure_of, to_store
from agentmem.engine.engine import Engine
from agentmem.engine.runtime import Lens
from agentmem.engine.writer import URGENT_TEXTS
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.ids import Home
from agentmem.quoting import shorten
from agentmem.records import Draft, Embedded, Record, Scope, owners_of
from agentmem.storage.sqlite.store import Change
from agentmem.storage.sqlite.transaction import Transaction
from agentmem.storage.types import KEEP, Keep, Revision
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
        self._texts: list[str] = []
        self._homes: list[Home] = []  # Of the texts.
        self._changes: list[Callable[[list[Embedded], str], Change]] = []  # Of the vectors, and whose they are.

    def __len__(self) -> int:
        return len(self._changes)

    def expect(self, record: Record) -> None:
        """Has nothing of it all be committed unless this memory is still there to see, with the same content. Its
        result is None."""
        change = self._engine.store.to_expect(record.id, owners_of(record), record.content)
        self._changes.append(lambda _vectors, _model: change)

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
        place = self._embed(content, scope)
        self._changes.append(lambda vectors, model: self._insertion(draft, vectors[place], model))

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
            draft, only = replace(final, updated_at=last.since), self._embed(last.content, scope)
            self._changes.append(lambda vectors, model: self._insertion(draft, vectors[only], model))
            return
        fields |= {"expires_at": None, "id": final.id}
        begun = replace(Draft.of(first.content, scope, config, **fields), updated_at=first.since)
        revisions: list[tuple[Revision, datetime]] = []
        for version in versions[1:]:
            check_content(version.content, config)
            terms = stored_terms(version.content, final.created_at)
            expires_at = final.expires_at if version is last else KEEP
            revisions.append((Revision(version.content, terms, None, False, expires_at), version.since))
        place = self._embed(last.content, scope)

        def change(vectors: list[Embedded], model: str) -> Change:
            store = self._engine.store
            steps: list[Change] = [self._insertion(begun, None, model)]
            for number, (revision, since) in enumerate(revisions, start=1):
                vector = vectors[place] if number == len(revisions) else None
                steps.append(store.to_revise(final.id, scope, revision, vector, model=model, since=since))
            return lambda transaction: [step(transaction) for step in steps][-1]

        self._changes.append(change)

    def update(
        self,
        id: str,
        content: str | None = None,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expires_at: datetime | Keep | None = KEEP,
    ) -> None:
        """Gives a memory a new version; one that has expired must be restored before. Its result is the Record.

        Raises:
            NotFoundError: there is no such memory, expired ones included; `commit` raises it too.
        """
        config, store = self._engine.config, self._engine.store
        scope = self._whose(user_id, agent_id, run_id)
        check_id(id)
        checked = None if metadata is None else check_metadata(metadata, config)[0]
        revision = Revision(content, None, checked, False, new_expiry(expires_at, None))
        if content is None:
            self._changes.append(lambda _, model: store.to_revise(id, scope, revision, None, model=model))
            return
        check_content(content, config)
        old = store.require(id, scope, show_expired=True)
        whose = owners_of(old)
        revision = replace(revision, terms=stored_terms(content, old.created_at))
        place = self._embed(content, whose)
        self._changes.append(lambda vectors, model: store.to_revise(id, whose, revision, vectors[place], model=model))

    def delete(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> None:
        """Hides a memory. Its result is whether there was one to see."""
        change = self._engine.store.to_delete(check_id(id), self._whose(user_id, agent_id, run_id))
        self._changes.append(lambda _vectors, _model: change)

    def restore(
        self, id: str, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> None:
        """Brings a deleted or expired memory back, without the expiry that has passed. Its result is the Record."""
        change = self._engine.store.to_restore(check_id(id), self._whose(user_id, agent_id, run_id))
        self._changes.append(lambda _vectors, _model: change)

    def commit(self, timeout: float | None = None) -> list[Any]:
        """Embeds the texts, and makes all the changes in one transaction; returns the result of each, in order.

        Raises:
            Outdated: a memory is not as it was expected to be; nothing was written.
            NotFoundError, DuplicateIdError: one of them cannot be made; likewise. Otherwise as `Memory.add`.
        """
        seconds = check_timeout(timeout, self._engine.config)
        if not self._changes:
            return []
        return self._engine.lenses.through(lambda lens: self._commit(lens, seconds))

    def _commit(self, lens: Lens, timeout: float) -> list[Any]:
        vectors: list[Embedded] = []
        if self._texts:
            urgent = len(self._texts) <= URGENT_TEXTS
            sent = lens.embedder.send(self._texts, self._homes, "document", urgent=urgent, timeout=timeout)
            answers = sent.answers(timeout)
            failure = failure_of(answers)
            if failure is not None:
                raise failure
            embedded = to_store(sent.ticket.digests, answers)
            vectors = [vector for vector in embedded if isinstance(vector, Embedded)]
        return self._engine.store.together([change(vectors, lens.identity) for change in self._changes])

    def _embed(self, text: str, scope: Scope) -> int:
        """The place that the vector of a scope's text will have."""
        self._texts.append(text)
        self._homes.append(scope.home)
        return len(self._texts) - 1

    def _insertion(self, draft: Draft, vector: Embedded | None, model: str) -> Change:
        whose = None if vector is None else model
        insert = self._engine.store.insertion([draft], [vector], model=whose, together=True).apply

        def change(transaction: Transaction) -> Record:
            [record] = insert(transaction)
            assert not isinstance(record, AgentMemError)
            return record

        return change


def new_expiry(expires_at: Any, ttl: Any) -> datetime | Keep | None:
    """What an update makes of the expiry; `expires_at=None` together with a `ttl` contradict each other too."""
    if isinstance(expires_at, Keep):
        return expires_at if ttl is None else check_expiry(None, ttl, now())
    if expires_at is None and ttl is not None:
        raise InvalidInputError(f"Both ttl={shorten(ttl)} and expires_at=None were given; drop one.")
    return check_expiry(expires_at, ttl, now())
