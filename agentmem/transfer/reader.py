"""A file's memories and messages, checked and with an id each, on their way into a store."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from agentmem.config import MIB, Config
from agentmem.errors import AgentMemError, InvalidInputError
from agentmem.ids import at_home
from agentmem.quoting import shape, shorten, unquoted
from agentmem.records import Draft, Embedded, Scope
from agentmem.storage.types import is_vector
from agentmem.timestamps import now
from agentmem.transfer.chats import ChatFormat, Conversation, Message, conversation_of, format_of, is_message
from agentmem.transfer.files import Source
from agentmem.transfer.json_stream import Value, Values
from agentmem.transfer.jsonl import Item, VectorModel, is_header, item_of, model_of
from agentmem.validation import check_name, check_time

Format = Literal["agentmem", "openai", "sharegpt", "chatgpt"]

Owner = str | Mapping[str, str] | None
"""Whose the memories become: all of them one owner's; those of the owners that a mapping names another's; or as they
are."""

LARGEST_VALUE = 16 * MIB
"""Bytes of a line, or of a conversation in an array; more where longer texts are allowed."""

WITHOUT_TEXT = "messages without text (calls of tools, images, nothing), left out"
NO_MODEL = "vectors left aside, because no header before them names their model"
OTHER_MODEL = "vectors left aside, because they are of another model than the store's"
OTHER_TEXT = "vectors left aside, because their texts were changed afterwards"

_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Arrival:
    """A memory that is to be stored under the id of its draft.

    Attributes:
        derived: The id comes from its place in the file, so that whoever has it is this very memory.
        dated: The file states its `created_at`.
        other_id: Makes the id that it gets, with "new_id", when its own belongs to another memory.
    """

    draft: Draft
    derived: bool
    dated: bool
    other_id: Callable[[], str]


class Entry(NamedTuple):
    """A memory of a file: the line where it stands, and its vector, if the file has one that is the store's own."""

    line: int
    arrival: Arrival
    embedded: Embedded | None


Read = Entry | tuple[int, AgentMemError]
"""An entry, or a line and what is wrong with it."""


class Reading:
    """The memories of a source, in order. `notes` counts what was left out or aside meanwhile, by sentence."""

    def __init__(
        self,
        source: Source,
        config: Config,
        *,
        format: Format | None,
        owners: tuple[Owner, Owner, Owner],
        scope_of: Callable[[Any, Any, Any], Scope],
        dedupe: bool,
        model: VectorModel | None,
        digest_of: Callable[[str], bytes],
    ) -> None:
        self.notes: Counter[str] = Counter()
        self._source = source
        self._config = config
        self._format = format
        self._owners = owners
        self._scope_of = scope_of
        self._dedupe = dedupe
        self._model = model  # Of the store's vectors,
        self._their_model: VectorModel | None = None  # and of those in the file.
        self._digest_of = digest_of
        self._moment = now()  # When the next message was written that does not say it.
        self._last: datetime | None = None  # When the message before in the conversation was written.

    def __iter__(self) -> Iterator[Read]:
        values = Values(self._source, max(LARGEST_VALUE, 8 * self._config.max_content_bytes))
        for value in values:
            if isinstance(value.content, AgentMemError):
                yield value.line, value.content
                continue
            if self._format is None:
                self._format = self._guess(value, member=values.is_array)
            if self._format != "agentmem":
                yield from self._messages(value, self._format)
            elif is_header(value.content):
                self._their_model = self._model_of(value)
            else:
                yield self._memory(value)

    @unquoted()
    def _guess(self, value: Value, *, member: bool) -> Format:
        content = value.content
        chat = format_of(content, member=member)
        if chat is not None:
            return chat
        if is_header(content) or isinstance(content, str) or (isinstance(content, dict) and "content" in content):
            return "agentmem"
        raise InvalidInputError(
            f"Line {value.line}: {shape(content)} is neither a memory (a text, or an object with content) nor a chat "
            "in a format that is known; name it with format='agentmem', 'openai', 'sharegpt' or 'chatgpt'."
        )

    @unquoted()
    def _model_of(self, value: Value) -> VectorModel | None:
        try:
            return model_of(value.content)
        except InvalidInputError as error:  # Whatever else may be skipped: what follows is not understood.
            raise InvalidInputError(f"Line {value.line}: {error}") from None

    @unquoted()
    def _memory(self, value: Value) -> Read:
        try:
            return self._entry(value, 0, item_of(value.content))
        except AgentMemError as error:
            return value.line, error

    def _messages(self, value: Value, format: ChatFormat) -> Iterator[Read]:
        try:
            with unquoted():
                conversation = conversation_of(value.content, format)
        except InvalidInputError as error:
            yield value.line, error
            return
        single = is_message(value.content)
        if not single:
            self._last = None
        run_id = conversation.id or f"{self._source.digest().hex()[:12]}-{0 if single else value.number}"
        for part, message in enumerate(conversation.messages):
            if isinstance(message, InvalidInputError):
                yield value.line, message
            elif message.text is None:
                self.notes[WITHOUT_TEXT] += 1
            else:
                try:
                    with unquoted():
                        entry = self._entry(value, part, self._item_of(message, conversation, run_id))
                    yield entry
                except AgentMemError as error:
                    reason = f"{error}" if single else f"message {part}: {error}"
                    yield value.line, type(error)(reason)

    def _item_of(self, message: Message, conversation: Conversation, run_id: str) -> Item:
        """A message as a memory. Its time is later than that of the one before, so that their order stays."""
        said = message.at
        at = self._moment if said is None else said
        try:
            if self._last is not None and at <= self._last:
                at = self._last + _MICROSECOND
            if said is None:
                self._moment = at + _MICROSECOND
        except OverflowError:
            raise InvalidInputError("the message before is of the last moment of the year 9999; date it.") from None
        self._last = at
        metadata = {"title": conversation.title, "name": message.name}
        fields = {
            "content": message.text, "role": message.role, "run_id": run_id, "created_at": at,
            "metadata": {key: value for key, value in metadata.items() if value is not None},
        }  # fmt: skip
        return Item(fields)

    def _entry(self, value: Value, part: int, item: Item) -> Entry:
        fields = item.fields
        user, agent, run = self._owners
        scope = self._scope_of(
            _renamed(fields.pop("user_id", None), user),
            _renamed(fields.pop("agent_id", None), agent),
            _renamed(fields.pop("run_id", None), run),
        )
        own_id = fields.pop("id", None)
        content, dated = fields.pop("content", None), fields.get("created_at") is not None
        given = own_id
        if own_id is None:
            given = _id_of("place", self._source.digest().hex(), value.number, part, scope)
        draft = Draft.of(content, scope, self._config, id=given, dedupe=self._dedupe, **fields)
        if item.updated_at is not None:
            draft.updated_at = check_time("updated_at", item.updated_at) or draft.updated_at
        arrival = Arrival(draft, own_id is None, dated, partial(_other_id_of, draft, dated))
        return Entry(value.line, arrival, self._embedded(item, draft))

    def _embedded(self, item: Item, draft: Draft) -> Embedded | None:
        if item.vector is None:
            return None
        if self._model is None or self._their_model is None or self._their_model.identity != self._model.identity:
            self.notes[NO_MODEL if self._their_model is None else OTHER_MODEL] += 1
            return None
        digest = self._digest_of(draft.content)
        if item.digest is not None and item.digest != digest:
            self.notes[OTHER_TEXT] += 1
            return None
        if not is_vector(item.vector, self._model.dimension):
            raise InvalidInputError(
                f"vector has {len(item.vector)} bytes, which are no unit vector of {self._model.dimension} float16 "
                "numbers; leave vector and digest out."
            )
        return Embedded(at_home(digest, draft.scope.home), item.vector)


def check_owner(name: str, owner: Any) -> Owner:
    """An owner to give the memories to, or which of their owners become which.

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


def _renamed(name: Any, owner: Owner) -> Any:
    if owner is None:
        return name
    if isinstance(owner, str):
        return owner
    return owner.get(name, name) if isinstance(name, str) else name


def _id_of(*parts: Any) -> str:
    """A UUID version 8 (RFC 9562, section 5.8) that is the same whenever the parts are."""
    joined = "\0".join("" if part is None else str(part) for part in parts)  # None of them holds NUL, or is empty.
    digest = int.from_bytes(blake2b(joined.encode(), digest_size=16).digest())
    digest = digest & ~(0xF << 76) & ~(0x3 << 62) | 8 << 76 | 2 << 62
    text = f"{digest:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _other_id_of(draft: Draft, dated: bool) -> str:
    """The id of a memory whose own belongs to another: the same for the same memory."""
    at = draft.created_at if dated else None
    return _id_of("other", draft.id, draft.scope, draft.content, draft.role, draft.metadata_json, at)
