"""Chat messages as they are in requests, logs and exports: which text of one is remembered, and what is left out.

One parser serves `add_messages`, `import_`, the command line, Mem0's interface and the adapters. It knows the content
of OpenAI (chat, Responses, audio), the blocks of Anthropic, the parts of the AI SDK, and the messages of LangChain.
Each part is read by its own type; the text of any other is reported, never taken for something else.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.validation import check_fields

TEXT_KEYS = {
    "text": ("text", "value", "content"), "input_text": ("text", "value"), "output_text": ("text", "value"),
    "refusal": ("refusal", "text"),
    "input_audio": ("transcript",), "output_audio": ("transcript",), "audio": ("transcript",),
    "audio_transcription": ("text",), "transcript": ("transcript", "text"),
}  # fmt: skip
"""The types of parts that are remembered, and the keys under which each may have its text."""

ANSWERS = frozenset({"tool_result", "function_call_output", "tool-result", "function_response", "functionResponse"})
"""The types of parts that hold what a tool answered."""

CALLS = frozenset(
    {"tool_use", "server_tool_use", "tool_call", "tool-call", "function_call", "tool-invocation", "dynamic-tool",
     "functionCall", "mcp_call", "web_search_call", "file_search_call", "computer_call", "code_interpreter_call",
     "image_generation_call", "local_shell_call", "custom_tool_call", "mcp_list_tools", "item_reference"}
)  # fmt: skip

LANGCHAIN_ROLES = {
    "human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool",
    "HumanMessage": "user", "AIMessage": "assistant", "SystemMessage": "system", "ToolMessage": "tool",
    "FunctionMessage": "tool", "HumanMessageChunk": "user", "AIMessageChunk": "assistant",
}  # fmt: skip

NOT_TEXT = frozenset({"tool_calls", "tool_call_id", "function_call", "refusal", "annotations", "audio"})
"""What chat messages carry beside their text."""

_MARKS = re.compile("\ue200[^\ue201]{0,2000}\ue201|\u3010[^\u3010\u3011]{0,200}\u2020[^\u3010\u3011]{0,200}\u3011")
_STRAY = re.compile("[\ue200-\ue206]")
_WORD = re.compile(r"\s|[^\x00-\x7f]|^[A-Za-z]+[.!?,]?$")
_ADDRESS = re.compile(r"\A(?:[a-z][a-z0-9+.-]*://|data:)\S+\Z", re.I)
_DEPTH = 6


class LeftOut(Counter[str]):
    """The kinds of text that were left out, each with the number of its texts."""

    def text(self, kind: str, value: Any) -> None:
        """Counts the texts within a value of JSON under a kind; counts nothing where there are none."""
        if found := count_texts(value):
            self[kind] += found

    def unknown(self, mapping: Mapping[Any, Any], known: frozenset[str], where: str = "") -> None:
        """Counts the texts under the keys of an object that its reader does not know."""
        for key in mapping.keys() - known:
            self.text(f"under the unknown key {shorten(str(key)[:60])}{where}", mapping[key])


@dataclass(slots=True)
class Turn:
    """What one speaker said in one message. `text` is None where the message has none, and is no text where the message
    makes no sense; so is `role`."""

    role: Any
    text: Any
    name: Any = None


def count_texts(value: Any, depth: int = _DEPTH) -> int:
    """Returns the number of texts in a value of JSON that a person may have written: not blank, and no identifier,
    address or number."""
    if isinstance(value, str):
        text = value.strip()
        return int(bool(text) and _WORD.search(text[:2000]) is not None and not _ADDRESS.match(text[:2000]))
    if depth and isinstance(value, Mapping):
        return sum(count_texts(part, depth - 1) for key, part in value.items() if key not in _MARKERS)
    if depth and isinstance(value, list | tuple):
        return sum(count_texts(part, depth - 1) for part in value)
    return 0


def without_citations(text: str) -> str:
    """Returns a text without the marks that ChatGPT sets in the place of its sources."""
    if "\u3010" not in text and "\ue200" not in text:
        return text
    return re.sub(r"[ \t]+(?=[.,;:!?\n]|$)", "", _STRAY.sub("", _MARKS.sub("", text)))


def turns_of(message: Any, left: LeftOut) -> list[Turn]:
    """Returns what a message says: usually one turn, and before it one with the role "tool" for every answer of a tool
    that stands among its parts. What is no text counts as a turn without text; the texts that are left out are counted
    in `left`, by kind.

    Raises:
        InvalidInputError: it is no message.
    """
    message = _unwrapped(message)
    kind = message.get("type") if isinstance(message, Mapping) else None
    if isinstance(message, Mapping) and isinstance(kind, str) and ("role" not in message or kind != "message"):
        if kind in LANGCHAIN_ROLES and "content" in message:
            role = LANGCHAIN_ROLES[kind]
            return _turns(role, message, left)
        if kind in ANSWERS:
            return [Turn("tool", _answer(message, left))]
        if kind in CALLS or kind == "reasoning":
            left.text("of calls of tools" if kind in CALLS else "of reasoning", _said_of(message))
            return [Turn("assistant", None)]
    if not isinstance(message, Mapping) or "role" not in message:
        raise InvalidInputError(f"{shorten(message)} is no chat message; it needs the keys role and content.")
    if not ("content" in message or "parts" in message or any(message.get(name) for name in NOT_TEXT)):
        raise InvalidInputError(f"{shorten(message)} is no chat message; it needs the keys role and content.")
    return _turns(message["role"], message, left)


def items_of_message(message: Any, metadata: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns a message as items of `add_batch`: none when it holds no text, because it is blank, has only images, or
    only calls tools; several when answers of tools stand among its parts. `name` goes into the metadata, beside
    `metadata` unless the message brings its own. The fields of `add` may stand in a message too.

    Raises:
        InvalidInputError: it is not a message, or has a key that neither messages nor items have.
    """
    turns = turns_of(message, LeftOut())
    message = _unwrapped(message)
    fields = {key: part for key, part in message.items() if key not in _OF_MESSAGES}
    if "type" not in message and "parts" not in message:
        check_fields(fields)
    else:  # As other programs write them, with keys of their own.
        fields = {key: part for key, part in fields.items() if key in ("user_id", "agent_id", "run_id", "metadata")}
    fields.setdefault("metadata", metadata)
    items = []
    is_empty = message.get("content", "") is None and not (message.keys() & {*NOT_TEXT, "parts", "type"})
    for turn in turns:
        if turn.text is None and not is_empty:
            continue
        item = {**fields, "role": turn.role, "content": turn.text}
        if turn is not turns[-1]:
            item.pop("id", None)
        if turn.name is not None and (item["metadata"] is None or isinstance(item["metadata"], Mapping)):
            item["metadata"] = {**(item["metadata"] or {}), "name": turn.name}
        items.append(item)
    return items


def items_of_messages(messages: Iterable[Any], metadata: Mapping[str, Any] | None) -> list[tuple[int, dict[str, Any]]]:
    """Returns the messages that hold text as items of `add_batch`, each with the position of its message.

    Raises:
        InvalidInputError: A message is unusable; the error names its position.
    """
    items: list[tuple[int, dict[str, Any]]] = []
    for position, message in enumerate(messages):
        try:
            items += ((position, item) for item in items_of_message(message, metadata))
        except InvalidInputError as error:
            raise InvalidInputError(f"Message {position}: {error}") from None
    return items


_OF_MESSAGES = NOT_TEXT | {"name", "parts"}


def text_of(content: Any, left: LeftOut | None = None) -> Any:
    """Returns the text of a message's content: a text as it is, of a list of parts their texts, a line each; None where
    there is none. What is neither comes back, for the caller's check to refuse."""
    return _joined(content, LeftOut() if left is None else left, [])


def _turns(role: Any, message: Mapping[str, Any], left: LeftOut) -> list[Turn]:
    answers: list[Turn] = []
    content = message.get("content")
    if isinstance(message.get("parts"), list) and not (isinstance(content, str) and content.strip()):
        content = message["parts"]
    text = _joined(content, left, answers)
    if text is None:
        audio = message.get("audio")
        spoken = audio.get("transcript") if isinstance(audio, Mapping) else None
        text = spoken if isinstance(spoken, str) and spoken.strip() else None
    for key in message.keys() & _BESIDE.keys():
        left.text(_BESIDE[key], _said_of(message[key]))
    return [*answers, Turn(role, text, message.get("name"))]


_BESIDE = {
    "tool_calls": "of calls of tools", "function_call": "of calls of tools", "refusal": "of refusals",
    "reasoning_content": "of reasoning", "reasoning": "of reasoning", "thinking": "of reasoning",
}  # fmt: skip
"""The keys of messages whose texts are left out, and what these are."""


def _joined(content: Any, left: LeftOut, answers: list[Turn]) -> Any:
    if isinstance(content, str):
        return content if content.strip() else None
    if not isinstance(content, list):
        return content
    texts = [text for part in content if (text := _text_of_part(part, left, answers)) is not None]
    return "\n".join(texts) if texts else None


def _text_of_part(part: Any, left: LeftOut, answers: list[Turn]) -> str | None:
    if isinstance(part, str):
        return part if part.strip() else None
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type", part.get("content_type", "text"))
    if not isinstance(kind, str):
        left.text("in parts of no type", {key: part[key] for key in part if key != "type"})
        return None
    if kind in TEXT_KEYS:
        for key in TEXT_KEYS[kind]:
            text = part.get(key)
            text = text.get("value") if isinstance(text, Mapping) else text  # As stored threads have it.
            if isinstance(text, str) and text.strip():
                return text
        audio = part.get(kind)
        if isinstance(audio, Mapping) and isinstance(audio.get("transcript"), str) and audio["transcript"].strip():
            return str(audio["transcript"])
        return None
    if kind in ANSWERS:
        answers.append(Turn("tool", _answer(part, left)))
        return None
    left.text(_kind_of(kind), _said_of(part))
    return None


def _kind_of(kind: str) -> str:
    if kind in CALLS or kind.startswith("tool-"):
        return "of calls of tools"
    if kind in ("thinking", "reasoning", "think", "redacted_thinking"):
        return "of reasoning"
    return f"in parts of the type {shorten(kind[:60])}"


def _answer(part: Mapping[str, Any], left: LeftOut) -> str | None:
    found = next((part[key] for key in ("content", "output", "result", "response") if part.get(key) is not None), None)
    if isinstance(found, Mapping):
        found = found.get("content", found.get("output", found.get("value", found)))
    text = _joined(found, left, [])
    if text is None or isinstance(text, str):
        return text
    left.text("in answers of tools", found)
    return None


def _said_of(value: Any, depth: int = _DEPTH) -> Any:
    """A value without what names it: types, identifiers, names of tools, signatures, data of images."""
    if depth and isinstance(value, Mapping):
        return {key: _said_of(part, depth - 1) for key, part in value.items() if key not in _NAMES}
    if depth and isinstance(value, list):
        return [_said_of(part, depth - 1) for part in value]
    return value


_MARKERS = frozenset({"type", "role", "from", "sender", "id", "content_type"})
"""Keys whose texts are words of a format."""

_NAMES = frozenset(
    {"type", "id", "call_id", "tool_call_id", "toolCallId", "tool_use_id", "name", "toolName", "tool_name", "signature",
     "data", "encrypted_content", "status", "state", "role", "media_type", "mime_type", "mimeType", "mediaType",
     "detail", "format", "url", "image_url", "cache_control", "file_id", "filename", "title", "start_timestamp",
     "stop_timestamp", "flags", "content_type", "asset_pointer", "index"}
)  # fmt: skip


def _unwrapped(message: Any) -> Any:
    """A message of LangChain out of the object that it is stored in: `{"type", "data"}`, or its serialised class."""
    if not isinstance(message, Mapping):
        return message
    inner, kind = message.get("data"), message.get("type")
    if isinstance(inner, Mapping) and isinstance(kind, str) and kind in LANGCHAIN_ROLES and "content" in inner:
        return {"type": kind} | {key: part for key, part in inner.items() if key != "type"}
    inner = message.get("kwargs")
    if message.get("type") == "constructor" and isinstance(inner, Mapping):
        path = message.get("id")
        named = path[-1] if isinstance(path, list) and path and isinstance(path[-1], str) else None
        kind = inner.get("type") if inner.get("type") in list(LANGCHAIN_ROLES) else named
        return {**inner, "type": kind}
    return message
