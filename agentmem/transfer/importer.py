"""`import_`: memories and chats out of a file, a chunk a commit, so that it can be run again after it broke off.

Every memory gets an id that is the same each time: its own, or one that is derived from the digest of the whole file,
the place in it, and the owners. What is here already is passed over before anything is embedded, and once more in the
transaction that stores the chunk.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from agentmem.analyzer import stored_terms
from agentmem.config import MIB, Durability
from agentmem.deadline import Deadline
from agentmem.embedding.future import EmbeddingFuture
from agentmem.engine.engine import Engine
from agentmem.engine.runtime import ModelRuntime
from agentmem.engine.writer import CHUNK, DEFERRED_CHUNK, URGENT_TEXTS, Later, one_ahead
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.ids import Home
from agentmem.messages import LeftOut
from agentmem.progress import with_progress
from agentmem.quoting import shorten
from agentmem.records import Embedded, Record, Scope
from agentmem.storage.operations import Upsert, Vector
from agentmem.storage.types import OnConflict, Outcome
from agentmem.transfer.chats import FORMATS
from agentmem.transfer.containers import files_of
from agentmem.transfer.exporter import model_of
from agentmem.transfer.reader import Entry, Owner, Read, Reader, check_owner

CHUNK_BYTES = 16 * MIB
"""Of texts and metadata, at which a chunk is cut however few they are."""

SHOWN = 3
"""Memories that a dry run shows."""

LISTED = 1000
"""Failed lines that a report names."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. `skipped` memories were here already, as they are or by the policy. `failed` names the first
    1,000 lines that could not be used, each with its error, and `failures` says how many it were. `notes` say what
    was left out or aside, and how many it were."""

    imported: int
    replaced: int
    skipped: int
    failures: int
    failed: tuple[tuple[int, AgentMemError], ...]
    notes: tuple[str, ...]
    preview: "Preview | None" = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a dry run found: the files by format, the conversations, the memories by role (None: of no role), the time
    of the first and of the last, and the first three as they would be stored."""

    formats: dict[str, int]
    conversations: int
    roles: dict[str | None, int]
    first: datetime | None
    last: datetime | None
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How to import; see `Memory.import_`.

    Raises:
        InvalidInputError: one of them cannot be used.
    """

    format: str | None
    owners: tuple[Owner, Owner, Owner]
    on_conflict: OnConflict
    on_error: Literal["raise", "skip"]
    dedupe: bool
    defer: bool
    durability: Durability | None
    progress: bool
    timeout: float
    dry_run: bool = False
    tag: Mapping[str, Any] | None = None
    ids: set[str] | None = None
    """Gets the ids of all memories of the file, where it is given."""

    def __post_init__(self) -> None:
        _check_choice("format", self.format, (None, *FORMATS))
        _check_choice("on_conflict", self.on_conflict, get_args(OnConflict))
        _check_choice("on_error", self.on_error, ("raise", "skip"))
        _check_choice("durability", self.durability, (None, "full", "process"))
        for name, owner in zip(("user_id", "agent_id", "run_id"), self.owners, strict=True):
            check_owner(name, owner)


def import_(engine: Engine, scope_of: Callable[[Any, Any, Any], Scope], file: Any, options: Options) -> ImportReport:
    """Stores what a file holds, a commit a chunk; see `Memory.import_`. When a line or a chunk raises, what came before
    it is stored and nothing after it."""
    tally = _Tally()
    runtime = engine.runtimes.current
    reader = Reader(
        engine.config, options.format, options.owners, scope_of, options.dedupe, model_of(runtime.embedder),
        runtime.embedder.text_digest, options.tag, Counter(), LeftOut(), Counter(),
    )  # fmt: skip
    with closing(_entries(reader, file, options)) as read:
        entries: Iterator[Read] = iter(with_progress(read, "memories") if options.progress else read)
        if options.dry_run:
            preview = _preview(entries, tally, options, reader)
            return tally.report(reader, preview)

        def chunks() -> Iterator[_Chunk]:
            waits = not (options.defer or runtime.progressive)
            while drawn := list(_draw(entries, tally, options, waits=waits)):
                yield _Chunk(engine, runtime, drawn, options)

        one_ahead(chunks(), lambda chunk: tally.add(chunk.store()))
    return tally.report(reader)


def _entries(reader: Reader, file: Any, options: Options) -> Generator[Read, None, None]:
    with closing(files_of(file, options.timeout, reader.notes)) as files:
        for each in files:
            yield from reader.read(each)


def _preview(entries: Iterator[Read], tally: "_Tally", options: Options, reader: Reader) -> Preview:
    """Reads everything and stores nothing."""
    runs, roles = set[int](), Counter[str | None]()
    first: datetime | None = None
    last: datetime | None = None
    records: list[Record] = []
    while drawn := list(_draw(entries, tally, options, waits=False)):
        for entry in drawn:
            draft = entry.arrival.draft
            if draft.scope.run_id is not None:
                runs.add(hash(draft.scope))
            roles[draft.role] += 1
            first = draft.created_at if first is None else min(first, draft.created_at)
            last = draft.created_at if last is None else max(last, draft.created_at)
            if len(records) < SHOWN:
                records.append(draft.record())
        tally.add([(entry.line, "imported") for entry in drawn])
    return Preview(dict(reader.formats), len(runs), dict(roles), first, last, tuple(records))


def _draw(entries: Iterator[Read], tally: "_Tally", options: Options, *, waits: bool) -> Iterator[Entry]:
    """The entries of the next chunk; a bad line raises, or is told to the tally."""
    count = to_embed = size = 0
    for entry in entries:
        if not isinstance(entry, Entry):
            line, error = entry
            if options.on_error == "raise":
                raise type(error)(f"Line {line}: {error}")
            tally.add([(line, error)])
            continue
        if options.ids is not None:
            options.ids.add(entry.arrival.draft.id)
        yield entry
        count += 1
        to_embed += entry.embedded is None and waits
        size += len(entry.arrival.draft.content) + len(entry.arrival.draft.metadata_json or "")
        if count >= DEFERRED_CHUNK or to_embed >= CHUNK or size >= CHUNK_BYTES:
            return


class _Chunk:
    """Some entries on their way: those that are not here yet are sent to the model when made, then stored."""

    def __init__(self, engine: Engine, runtime: ModelRuntime, entries: list[Entry], options: Options) -> None:
        """`runtime` is of the model whose vectors the entries may have brought along."""
        self._engine = engine
        self._runtime = runtime
        self._options = options
        here = engine.store.present([_upsert_of(entry, b"", None, options.on_conflict) for entry in entries])
        self._here = [entry.line for entry, is_here in zip(entries, here, strict=True) if is_here]
        self._entries = [entry for entry, is_here in zip(entries, here, strict=True) if not is_here]
        self._texts, self._homes = self._to_embed()
        self._sent: EmbeddingFuture | None = None
        self._admitted = 0
        self._later = Later.of(engine, defer=options.defer)
        if self._texts and self._later is not None:
            self._later.admit(len(self._texts), options.timeout)
            self._admitted = len(self._texts)
        elif self._texts:
            self._sent = engine.runtimes.through(self._send)

    def _to_embed(self) -> tuple[list[str], list[Home]]:
        """The texts that brought no vector, and their homes."""
        drafts = [entry.arrival.draft for entry in self._entries if entry.embedded is None]
        return [draft.content for draft in drafts], [draft.scope.home for draft in drafts]

    def _follow(self, runtime: ModelRuntime) -> None:
        """The store has moved to another model: the vectors that were brought along are worth nothing there."""
        if runtime.identity != self._runtime.identity:
            self._entries = [entry._replace(embedded=None) for entry in self._entries]
            self._texts, self._homes = self._to_embed()
        self._runtime, self._sent = runtime, None

    def _send(self, runtime: ModelRuntime) -> EmbeddingFuture:
        self._follow(runtime)
        urgent = len(self._texts) <= URGENT_TEXTS
        return runtime.embedder.send(self._texts, self._homes, "document", urgent=urgent, timeout=self._options.timeout)

    def cancel(self) -> None:
        """Gives the entries up."""
        if self._sent is not None:
            self._sent.cancel()
        if self._admitted and self._later is not None:
            self._later.wake(self._admitted)

    def store(self) -> list[tuple[int, Outcome | AgentMemError]]:
        """Commits the entries in one transaction; what became of each line."""
        engine = self._engine
        outcomes: list[Outcome | AgentMemError] = []
        try:
            if self._entries:
                outcomes = engine.runtimes.through(self._take_in)
        except AgentMemError as error:
            if error.position is None:
                raise
            raise type(error)(f"Line {self._entries[error.position].line}: {error}") from error
        finally:
            if self._admitted and self._later is not None:
                stored = zip(self._entries, outcomes, strict=False)
                deferred = sum(
                    1 for entry, said in stored if entry.embedded is None and said in ("imported", "replaced")
                )
                self._later.wake(self._admitted - deferred)
        lines = [entry.line for entry in self._entries]
        skipped: list[tuple[int, Outcome | AgentMemError]] = [(line, "skipped") for line in self._here]
        return [*skipped, *zip(lines, outcomes, strict=True)]

    def _take_in(self, runtime: ModelRuntime) -> list[Outcome | AgentMemError]:
        options = self._options
        if runtime is not self._runtime:
            self._follow(runtime)
            if self._texts and self._later is None:
                self._sent = self._send(runtime)
        deadline = Deadline(options.timeout)
        batch = []
        for entry, vector in zip(self._entries, self._vectors(), strict=True):
            terms = stored_terms(entry.arrival.draft.content, entry.arrival.draft.created_at, deadline)
            batch.append(_upsert_of(entry, terms, vector, options.on_conflict))
        outcomes: list[Outcome | AgentMemError] = self._engine.store.commit(
            batch, model=runtime.identity, atomic=options.on_error == "raise", durability=options.durability
        )
        return outcomes

    def _vectors(self) -> list[Embedded | AgentMemError | None]:
        """The vector of each entry, or why it has none; None: it is deferred."""
        if self._sent is None:
            return [entry.embedded for entry in self._entries]
        answers = iter(self._sent.embedded(self._options.timeout))
        return [next(answers) if entry.embedded is None else entry.embedded for entry in self._entries]


def _upsert_of(entry: Entry, terms: bytes, vector: Vector, on_conflict: OnConflict) -> Upsert:
    arrival = entry.arrival
    if arrival.revised and on_conflict == "error":
        on_conflict = "replace"
    elif arrival.derived and not arrival.revised:
        on_conflict = "skip"
    other_id = arrival.other_id() if on_conflict == "new_id" else None
    return Upsert(arrival.draft, terms, vector, on_conflict, arrival.derived, arrival.dated, other_id)


class _Tally:
    """Counts what became of the lines."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(get_args(Outcome), 0)
        self._failures = 0
        self._failed: list[tuple[int, AgentMemError]] = []

    def add(self, outcomes: "list[tuple[int, Outcome | AgentMemError]]") -> None:
        for line, outcome in outcomes:
            if isinstance(outcome, AgentMemError):
                self._failures += 1
                if len(self._failed) < LISTED:
                    self._failed.append((line, outcome))
            else:
                self._counts[outcome] += 1

    def report(self, reader: Reader, preview: Preview | None = None) -> ImportReport:
        return ImportReport(
            **self._counts, failures=self._failures,
            failed=tuple(sorted(self._failed, key=lambda pair: pair[0])), notes=reader.told(), preview=preview,
        )  # fmt: skip


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        *most, last = (repr(choice) for choice in choices if choice is not None)
        raise InvalidInputError(f"{name} is {shorten(value)}; use {', '.join(most)} or {last}.")
