"""A file's memories and messages, checked and with an id each, on their way into a store."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, NamedTuple

from agentmem.config import MIB, Config
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.ids import at_home
from agentmem.messages import LeftOut
from agentmem.quoting import shape, shorten, unquoted
from agentmem.records import Draft, Embedded, Scope
from agentmem.storage.types import is_vector
from agentmem.timestamps import now
from agentmem.transfer.chats import AGENTMEM, BY_NAME, TEXT_FORMATS, format_of, format_of_text, letta, signs_in
from agentmem.transfer.chats.conversation import MESSAGE_WITHOUT_TEXT, Context, Conversation, Message
from agentmem.transfer.containers import UNKNOWN, File
from agentmem.transfer.json_stream import Value, Values
from agentmem.transfer.jsonl import Item, VectorModel, is_header, item_of, model_of
from agentmem.validation import check_name, check_time

Owner = str | Mapping[str, str] | None
"""Whose the memories become: all of them one owner's; those of the owners that a mapping names another's; or as they
are."""

LARGEST_VALUE = 16 * MIB
"""Bytes of a line, or of a conversation in an array, that is held whole; more where longer texts are allowed."""

PIECE_OF_TEXT = 8 * MIB
"""Bytes of a file of text that are read together."""

WINDOW = 1000
"""Messages of a stream that are read together: their order and their times are told from each other."""

LOOKED_AT = 20
"""Values of which one has to tell the format of its file."""

RUNS = 10_000
"""Runs of a stream of which is known where they are."""

REPEATED = 100_000
"""Texts of a run of which is known how often they came."""

LEFT = "texts {}, left out"
NO_MODEL = "vectors left aside, because no header before them names their model"
OTHER_MODEL = "vectors left aside, because they are of another model than the store's"
OTHER_TEXT = "vectors left aside, because their texts were changed afterwards"

_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Arrival:
    """A memory that is to be stored under the id of its draft.

    Attributes:
        derived: The id comes from what the file says of the memory, so that a memory with this id is this very one.
        revised: A later export may bring another version of it.
        dated: The file states its `created_at`.
        other_id: Makes the id that it gets, with "new_id", when its own belongs to another memory.
    """

    draft: Draft
    derived: bool
    revised: bool
    dated: bool
    other_id: Callable[[], str]


class Entry(NamedTuple):
    """A memory of a file: the line where it stands, and its vector, if the file has one that is the store's own."""

    line: int
    arrival: Arrival
    embedded: Embedded | None


Read = Entry | tuple[int, AgentMemError]
"""An entry, or a line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How files are read, whichever they are; and, in the course of it, what is to be noted about them.

    Attributes:
        notes: What was left out or aside, by sentence.
        left: The texts that were left out, by kind.
        formats: The files that were read, by the name of their format.
        tag: Metadata of every memory, beside its own.
    """

    config: Config
    format: str | None
    owners: tuple[Owner, Owner, Owner]
    scope_of: Callable[[Any, Any, Any], Scope]
    dedupe: bool
    model: VectorModel | None
    digest_of: Callable[[str], bytes]
    tag: Mapping[str, Any] | None
    notes: Counter[str]
    left: LeftOut
    formats: Counter[str]

    def read(self, file: File) -> Iterator[Read]:
        """Yields the memories of a file, in order.

        Raises:
            InvalidInputError: it is in no format that is known, or in a newer version of the format of `export`.
        """
        for found in _Reading(self, file):
            if file.shown is not None and not isinstance(found, Entry):
                found = found[0], type(found[1])(f"{file.shown}: {found[1]}")
            yield found

    def told(self) -> tuple[str, ...]:
        """Returns what is to be noted, each with its count."""
        left = {LEFT.format(kind): count for kind, count in self.left.items()}
        return tuple(f"{what}: {count:,}" for what, count in (self.notes | left).items() if count)


@dataclass(slots=True)
class _Run:
    """How far the reading of a run is. `prints` stand for the conversations of this id: a file may have several."""

    position: int = 0
    last: datetime | None = None
    turned: bool = False
    prints: list[bytes] = field(default_factory=list)
    texts: Counter[bytes] = field(default_factory=Counter)


@dataclass(slots=True)
class _Part:
    """The part of a conversation that one value of a file has. `place` stands for the conversation where it has no id
    of its own; `nth` counts those of the same id."""

    value: Value
    conversation: Conversation
    place: str
    run_id: str | None
    run: _Run
    nth: int = 0


class _Reading:
    """The memories of one file, in order."""

    def __init__(self, reader: Reader, file: File) -> None:
        self._reader = reader
        self._file = file
        self._source = file.source
        self._their_model: VectorModel | None = None  # Of the vectors in the file.
        self._moment = file.modified or now()  # Of what is not dated at all.
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._context = Context(file.name, file.folder, reader.left, LeftOut(), {}, file.names)
        self._stream_is_turned: bool | None = None
        self._name = reader.format or AGENTMEM
        self._ids = ""

    def __iter__(self) -> Iterator[Read]:
        try:
            head = self._source.head()
        except InvalidInputError as error:
            yield 1, error
            return
        module = BY_NAME.get(self._reader.format or "", None)
        if self._reader.format is None:
            with_text = format_of_text(self._file.name, head.decode("utf-8", "replace"))
            module = None if with_text is None else BY_NAME[with_text]
        if module in TEXT_FORMATS:
            yield from self._messages(module, self._values_of_text(module))
        else:
            yield from self._of_json()
        self._reader.notes.update(self._context.notes)

    def _of_json(self) -> Iterator[Read]:
        stream = iter(Values(self._source, max(LARGEST_VALUE, 8 * self._reader.config.max_content_bytes)))
        waiting: list[Value] = []
        name = self._reader.format
        while name is None and len(waiting) < LOOKED_AT and (value := next(stream, None)) is not None:
            waiting.append(value)
            if not isinstance(value.content, AgentMemError):
                name = _format_of(value.content)
        if name is None and not self._is_known(waiting):
            return
        values = chain(waiting, stream)
        if name is None or name == AGENTMEM:
            yield from self._memories(values)
        else:
            module = BY_NAME[name]
            yield from self._messages(module, ((value, self._read(module.read, value)) for value in values))

    @unquoted()
    def _is_known(self, waiting: list[Value]) -> bool:
        """Whether a file of which no value tells its format has only errors, which are told one by one."""
        told = [value for value in waiting if not isinstance(value.content, AgentMemError)]
        if not told:
            return True
        if not self._file.alone:
            self._reader.notes[UNKNOWN] += 1
            return False
        content = told[0].content
        signs = "; ".join(signs_in(content[0] if isinstance(content, list) and content else content))
        raise InvalidInputError(
            f"Line {told[0].line}: {shape(content)} is neither a memory (a text, or an object with content) nor in "
            f"a format that is known{f' (it has {signs})' if signs else ''}; name it with format=, such as 'openai'."
        )

    @unquoted()
    def _read(self, read: Callable[..., Iterator[Any]], value: Value) -> list[Conversation | AgentMemError]:
        """The conversations of a value, and what is wrong with the others."""
        if isinstance(value.content, AgentMemError):
            return [value.content]
        found: list[Conversation | AgentMemError] = []
        try:
            found.extend(read(value.content, self._context))
        except InvalidInputError as error:
            found.append(error)
        return found

    def _values_of_text(self, module: Any) -> Iterator[tuple[Value, list[Conversation | AgentMemError]]]:
        """The conversations of a text, which is read in pieces that end between two messages."""
        number, line, rest = 0, 1, b""
        ended = False
        while not ended:
            try:
                piece = self._source.read(PIECE_OF_TEXT)
            except InvalidInputError as error:
                yield Value(line, number, None), [error]
                return
            ended = not piece
            rest += piece
            if not ended and len(rest) < PIECE_OF_TEXT:
                continue
            raw, rest = (rest, b"") if ended else _cut(rest, getattr(module, "FIRST", None))
            try:
                value = Value(line, number, raw.decode("utf-8-sig" if number == 0 else "utf-8"))
            except UnicodeDecodeError as error:
                place = line + raw.count(b"\n", 0, error.start)
                reason = f"byte 0x{raw[error.start]:02x} is not UTF-8; convert the file."
                yield Value(place, number, None), [InvalidInputError(reason)]
                return
            if raw.strip():
                yield value, self._read(module.read_text, value)
            number, line = number + 1, line + raw.count(b"\n")

    # -- memories -------------------------------------------------------------------------------------------------

    def _memories(self, values: Iterable[Value]) -> Iterator[Read]:
        self._reader.formats[AGENTMEM] += 1
        for value in values:
            if isinstance(value.content, AgentMemError):
                yield value.line, value.content
            elif is_header(value.content):
                self._their_model = self._model_of(value)
            else:
                yield self._memory(value)

    @unquoted()
    def _model_of(self, value: Value) -> VectorModel | None:
        try:
            return model_of(value.content)
        except InvalidInputError as error:  # Whatever else may be skipped: what follows is not understood.
            raise InvalidInputError(f"Line {value.line}: {error}") from None

    @unquoted()
    def _memory(self, value: Value) -> Read:
        try:
            item = item_of(value.content)
            item.fields["metadata"] = self._tagged(item.fields.get("metadata"))
            own_id = item.fields.pop("id", None)
            scope = self._scope_of(item.fields)
            given = own_id
            if own_id is None:
                given = _id_of("place", self._source.digest().hex(), value.number, 0, scope)
            return self._entry(value.line, item, scope, given, derived=own_id is None, revised=False)
        except AgentMemError as error:
            return value.line, error

    def _tagged(self, metadata: Any) -> Any:
        if self._reader.tag is None or not isinstance(metadata, Mapping | None):
            return metadata
        return {**(metadata or {}), **self._reader.tag}

    # -- messages -------------------------------------------------------------------------------------------------

    def _messages(
        self, module: Any, stream: Iterable[tuple[Value, list[Conversation | AgentMemError]]]
    ) -> Iterator[Read]:
        """The messages of conversations: those that are whole one by one, those of a stream a window at a time."""
        self._name = module.NAME
        self._reader.formats[self._name] += 1
        window: list[tuple[int, AgentMemError] | _Part] = []
        for value, found in stream:
            for nth, each in enumerate(found):
                if not isinstance(each, Conversation):
                    window.append((value.line, each))
                elif each.continues:
                    window.append(self._part(value, each, "0"))
                else:
                    if window:
                        yield from self._of_stream(window)
                        window = []
                    place = str(value.number) if nth == 0 else f"{value.number}.{nth}"
                    yield from self._of_whole(self._part(value, each, place))
            if len(window) >= WINDOW:
                yield from self._of_stream(window)
                window = []
        yield from self._of_stream(window)

    def _part(self, value: Value, conversation: Conversation, place: str) -> _Part:
        run_id = None
        if conversation.is_run:
            run_id = conversation.id or f"{self._source.digest().hex()[:12]}-{place}"
        key = f"{conversation.is_run} {run_id or conversation.id}"
        run = self._runs.pop(key, None) or _Run()
        self._runs[key] = run
        while len(self._runs) > RUNS:
            self._runs.popitem(last=False)
        return _Part(value, conversation, place, run_id, run)

    def _of_whole(self, part: _Part) -> Iterator[Read]:
        conversation, run = part.conversation, part.run
        messages = [each for each in conversation.messages if isinstance(each, Message)]
        if part.value.part == 0:
            run.turned = not conversation.in_order and is_turned(messages)
            run.last = None
            own = blake2b(digest_size=8)
            for each in messages:
                own.update(f"{each.id}\0{each.text}\0".encode("utf-8", "surrogatepass"))
            if (print_of := own.digest()) not in run.prints:
                run.prints.append(print_of)
            part.nth = run.prints.index(print_of)
        else:
            part.nth = max(len(run.prints) - 1, 0)
        if run.turned:
            conversation.messages.reverse()
            messages.reverse()
        self._date(messages, part)
        yield from self._read_of(part)

    def _of_stream(self, window: "list[tuple[int, AgentMemError] | _Part]") -> Iterator[Read]:
        parts = [part for part in window if isinstance(part, _Part)]
        if self._stream_is_turned is None and parts:
            first = [message for part in parts if (message := _first_of(part.conversation))]
            conversation = parts[0].conversation
            self._stream_is_turned = not conversation.in_order and is_turned(
                first, least=2 + (not conversation.newest_first)
            )
        if self._stream_is_turned:
            window.reverse()
            parts.reverse()
        runs: dict[int, tuple[_Part, list[Message]]] = {}
        for part in parts:
            part.run.turned = bool(self._stream_is_turned)
            held = runs.setdefault(id(part.run), (part, []))[1]
            held += [each for each in part.conversation.messages if isinstance(each, Message)]
        for part, messages in runs.values():
            self._date(messages, part)
        for each in window:
            if isinstance(each, _Part):
                yield from self._read_of(each)
            else:
                yield each

    def _date(self, messages: list[Message], part: _Part) -> None:
        """Gives every message a place in its run, and one that states no time the time of its neighbour, of the
        conversation, or of the file; the metadata say which. Their order stays."""
        run, conversation = part.run, part.conversation
        if conversation.is_run:
            start = -run.position - len(messages) if run.turned else run.position
            run.position += len(messages)
            for position, message in enumerate(messages, start):
                message.metadata["position"] = position
        last = None if run.turned else run.last
        undated: list[Message] = []
        for message in messages:
            if not conversation.is_run:  # Memories are no neighbours.
                undated += [message] if message.at is None else []
                continue
            if message.at is not None:
                for back, each in enumerate(reversed(undated), 1):
                    each.at, each.metadata["dated_by"] = _moved(message.at, -back), "the message after"
                undated = []
            elif last is not None:
                message.at, message.metadata["dated_by"] = _moved(last, 1), "the message before"
            else:
                undated.append(message)
            last = message.at or last
        if undated:
            at, source = conversation.at, "the conversation"
            if at is None:
                at, source = self._moment, "the import" if self._file.modified is None else "the file"
                self._moment = _moved(at, len(undated))
            for number, each in enumerate(undated):
                each.at, each.metadata["dated_by"] = _moved(at, number), source
            last = undated[-1].at
        run.last = last

    def _read_of(self, part: _Part) -> Iterator[Read]:
        line = part.value.line
        for number, message in enumerate(part.conversation.messages):
            if isinstance(message, InvalidInputError):
                yield line, message
            elif message.text is None:
                self._reader.notes[MESSAGE_WITHOUT_TEXT] += 1
            else:
                try:
                    yield self._of_message(message, number, part)
                except AgentMemError as error:
                    where = "" if part.conversation.continues else f"message {number}: "
                    yield line, type(error)(f"{where}{error}")

    @unquoted()
    def _of_message(self, message: Message, number: int, part: _Part) -> Entry:
        conversation = part.conversation
        metadata = {"title": conversation.title} if conversation.title else {}
        fields = {**message.fields, "content": message.text, "role": message.role, "created_at": message.at}
        fields["metadata"] = self._tagged({**metadata, **message.metadata})
        if part.run_id is not None:
            fields["run_id"] = part.run_id
        own_id = fields.pop("id", None)
        is_dated = "dated_by" not in message.metadata
        scope = self._scope_of(fields)
        revised = own_id is not None
        given = own_id
        if given is None:
            stated = message.at if is_dated else None
            said = f"{message.role}\0{message.text}\0{stated}"
            if conversation.id and message.id:
                nth = part.nth or ""
                given = _id_of("message", self._name, conversation.id, nth, message.id, scope)
                revised = True
            elif conversation.id:
                given = _id_of("said", self._name, conversation.id, self._nth(said, part.run), scope)
            elif message.id:
                # The run is named after the file, which is another one when it has grown.
                named = scope if self._reader.owners[2] else replace(scope, run_id=None)
                given = _id_of("own", self._name, message.id, said, named)
            else:
                given = _id_of("place", self._source.digest().hex(), _place_of(part), number, scope)
        item = Item(fields, message.updated_at)
        return self._entry(part.value.line, item, scope, given, derived=True, revised=revised, dated=is_dated)

    @staticmethod
    def _nth(said: str, run: _Run) -> str:
        """What was said, and how often before in this run."""
        digest = blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if len(run.texts) >= REPEATED and digest not in run.texts:
            return f"{digest.hex()} {run.position}"
        run.texts[digest] += 1
        return f"{digest.hex()} {run.texts[digest]}"

    # -- both -----------------------------------------------------------------------------------------------------

    def _scope_of(self, fields: dict[str, Any]) -> Scope:
        user, agent, run = self._reader.owners
        return self._reader.scope_of(
            _renamed(fields.pop("user_id", None), user),
            _renamed(fields.pop("agent_id", None), agent),
            _renamed(fields.pop("run_id", None), run),
        )

    def _entry(
        self, line: int, item: Item, scope: Scope, id: Any, *, derived: bool, revised: bool, dated: bool | None = None
    ) -> Entry:
        fields = item.fields
        content = fields.pop("content", None)
        dated = fields.get("created_at") is not None if dated is None else dated
        draft = Draft.of(content, scope, self._reader.config, id=id, dedupe=self._reader.dedupe, **fields)
        if item.updated_at is not None:
            draft.updated_at = check_time("updated_at", item.updated_at) or draft.updated_at
        arrival = Arrival(draft, derived, revised, dated, partial(_other_id_of, draft, dated))
        return Entry(line, arrival, self._embedded(item, draft))

    def _embedded(self, item: Item, draft: Draft) -> Embedded | None:
        if item.vector is None:
            return None
        notes, model = self._reader.notes, self._reader.model
        if model is None or self._their_model is None or self._their_model.identity != model.identity:
            notes[NO_MODEL if self._their_model is None else OTHER_MODEL] += 1
            return None
        digest = self._reader.digest_of(draft.content)
        if item.digest is not None and item.digest != digest:
            notes[OTHER_TEXT] += 1
            return None
        if not is_vector(item.vector, model.dimension):
            raise InvalidInputError(
                f"vector has {len(item.vector)} bytes, which are no unit vector of {model.dimension} float16 "
                "numbers; leave vector and digest out."
            )
        return Embedded(at_home(digest, draft.scope.home), item.vector)


def is_turned(messages: list[Message], least: int = 3) -> bool:
    """Returns whether messages stand newest first, as far as their times tell. Of fewer than `least`, the roles must
    say so too."""
    times = [message.at for message in messages if message.at is not None]
    if len(times) < 2 or times[0] <= times[-1] or any(one < other for one, other in pairwise(times)):
        return False
    return len(times) >= least or (messages[0].role, messages[-1].role) == ("assistant", "user")


def check_owner(name: str, owner: Any) -> Owner:
    """Returns an owner to give the memories to, or which of their owners become which.

    Raises:
        InvalidInputError: it is neither.
    """
    if not isinstance(owner, Mapping):
        return check_name(name, owner)
    for old, new in owner.items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise InvalidInputError(f"{name} is {shorten(owner)}; map names to names, such as {{'ana': 'anna'}}.")
        check_name(name, new)
    return owner


def _format_of(value: Any) -> str | None:
    if is_header(value) or isinstance(letta.opened(value), str):
        return AGENTMEM
    name = format_of(value)
    if name is None and isinstance(value, dict) and "content" in value:
        return AGENTMEM
    return name


def _first_of(conversation: Conversation) -> Message | None:
    return next((each for each in conversation.messages if isinstance(each, Message)), None)


def _cut(raw: bytes, first: Any) -> tuple[bytes, bytes]:
    """A piece of a text, cut before its last message where that is known, otherwise behind its last paragraph."""
    place = len(raw)
    while first is not None and (place := raw.rfind(b"\n", 0, place)) > 0:
        line = raw[place + 1 : place + 400].decode("utf-8", "ignore").partition("\n")[0]
        if first.match(line.replace("\u202f", " ").replace("\u00a0", " ")):
            return raw[: place + 1], raw[place + 1 :]
    place = raw.rfind(b"\n\n") + 1 or raw.rfind(b"\n") + 1 or len(raw)
    return raw[:place], raw[place:]


def _moved(at: datetime, steps: int) -> datetime:
    """Returns a moment later by this number of microseconds; the same where there is no such."""
    try:
        return at + steps * _MICROSECOND
    except OverflowError:
        return at


def _place_of(part: _Part) -> str:
    place = str(part.value.number) if part.conversation.continues else part.place
    return f"{place}/{part.value.part}" if part.value.part else place


def _renamed(name: Any, owner: Owner) -> Any:
    if owner is None:
        return name
    if isinstance(owner, str):
        return owner
    return owner.get(name, name) if isinstance(name, str) else name


def _id_of(*parts: Any) -> str:
    """A UUID version 8 (RFC 9562, section 5.8) that is the same whenever the parts are."""
    joined = "\0".join("" if part is None else str(part) for part in parts)
    digest = int.from_bytes(blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    digest = digest & ~(0xF << 76) & ~(0x3 << 62) | 8 << 76 | 2 << 62
    text = f"{digest:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _other_id_of(draft: Draft, dated: bool) -> str:
    """The id of a memory whose own belongs to another: the same for the same memory."""
    at = draft.created_at if dated else None
    return _id_of("other", draft.id, draft.scope, draft.content, draft.role, draft.metadata_json, at)
