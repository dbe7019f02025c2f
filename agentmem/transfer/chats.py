"""Chat transcripts: what OpenAI's formats, ShareGPT and the export of ChatGPT say, as conversations of messages.

Only texts are remembered. Calls of tools, images and empty messages are counted and left out; what tools answered is
kept, with the role "tool".
"""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.validation import moment_of

ChatFormat = Literal["openai", "sharegpt", "chatgpt"]

SHAREGPT_ROLES = {
    "human": "user", "user": "user",
    "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "model": "assistant", "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
"""Who speaks, in ShareGPT's words and in ours."""

SHAREGPT_CALLS = frozenset({"function_call", "tool_call"})

TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


@dataclass(slots=True)
class Message:
    """One message. `text` of None: it has none, by design."""

    role: str
    text: str | None
    name: str | None = None
    at: datetime | None = None


@dataclass(slots=True)
class Conversation:
    """`id` and `title` as far as it has any; its messages in order, an error in the place of one that is none."""

    id: str | None
    title: str | None = None
    messages: list[Message | InvalidInputError] = field(default_factory=list)


def format_of(value: Any, *, member: bool) -> ChatFormat | None:
    """Which format a first value is in, or None when it is no chat. `member`: it stands in an array."""
    if isinstance(value, list):  # An array of messages without more.
        return format_of(value[0], member=True) if value and isinstance(value[0], dict) else None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("mapping"), dict):
        return "chatgpt"
    if isinstance(value.get("conversations"), list) or {"from", "value"} <= value.keys():
        return "sharegpt"
    if isinstance(value.get("messages"), list):
        return "openai"
    # A message by itself; a memory that has a role has one of these too.
    memory = value.keys() & {"id", "user_id", "agent_id", "run_id", "metadata", "updated_at", "expires_at"}
    return "openai" if {"role", "content"} <= value.keys() and not memory else None


def is_message(value: Any) -> bool:
    """Whether a value is one message of a conversation that goes on in the next."""
    return isinstance(value, dict) and not value.keys() & {"messages", "conversations", "mapping"}


def conversation_of(value: Any, format: ChatFormat) -> Conversation:
    """The conversation that a value holds; of a single message, the one message.

    Raises:
        InvalidInputError: it holds none.
    """
    if format == "chatgpt":
        return _of_chatgpt(value)
    read, key = (_of_openai, "messages") if format == "openai" else (_of_sharegpt, "conversations")
    if isinstance(value, list):
        value = {key: value}
    elif is_message(value):
        return Conversation(None, None, [read(value)])
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise InvalidInputError(f"{shorten(value)} is no conversation; it needs the key {key}, a list.")
    conversation = Conversation(_id_of(value), _text_or_none(value.get("title")))
    for position, message in enumerate(value[key]):
        try:
            conversation.messages.append(read(message))
        except InvalidInputError as error:
            conversation.messages.append(InvalidInputError(f"message {position}: {error}"))
    return conversation


def _of_openai(message: Any) -> Message:
    if not isinstance(message, dict) or "role" not in message:
        raise InvalidInputError(f"{shorten(message)} is no chat message; it needs the keys role and content.")
    calls = message.get("tool_calls") or message.get("function_call")
    if "content" not in message and not calls:
        raise InvalidInputError(f"{shorten(message)} is no chat message; it needs the keys role and content.")
    at = message.get("created_at")
    at = message.get("timestamp") if at is None else at
    return Message(message["role"], _text_of(message.get("content")), message.get("name"), _time_of(at))


def _text_of(content: Any) -> Any:
    """The text of a message's content: a text, or parts, whose texts are joined. What is neither is given back, for
    whoever checks it to refuse."""
    if isinstance(content, list):
        texts = []
        for part in content:
            text = part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part
            text = text.get("value") if isinstance(text, dict) else text  # As stored threads have it.
            if isinstance(text, str):
                texts.append(text)
        content = "\n".join(texts)
    return None if isinstance(content, str) and not content.strip() else content


def _of_sharegpt(message: Any) -> Message:
    if isinstance(message, dict) and "role" in message and "from" not in message:
        message = {"from": message["role"], "value": message.get("content", message.get("value"))}
    if not isinstance(message, dict) or not {"from", "value"} <= message.keys():
        raise InvalidInputError(f"{shorten(message)} is no message of ShareGPT; it needs the keys from and value.")
    speaker = message["from"]
    if isinstance(speaker, str) and speaker in SHAREGPT_CALLS:
        return Message("assistant", None)
    if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
        raise InvalidInputError(f"from is {shorten(speaker)}; known are {', '.join(sorted(SHAREGPT_ROLES))}.")
    return Message(SHAREGPT_ROLES[speaker], _text_of(message["value"]))


def _of_chatgpt(value: Any) -> Conversation:
    """A tree of messages, of which answers that were asked for anew are branches: the one that was current is read,
    from its end to its root."""
    if not isinstance(value, dict) or not isinstance(value.get("mapping"), dict):
        raise InvalidInputError(f"{shorten(value)} is no conversation of ChatGPT; it needs the key mapping, an object.")
    nodes = value["mapping"]
    conversation = Conversation(_id_of(value), _text_or_none(value.get("title")))
    name, passed = value.get("current_node"), set[str]()
    while isinstance(name, str) and name in nodes and name not in passed:
        passed.add(name)
        node = nodes[name] if isinstance(nodes[name], dict) else {}
        if isinstance(node.get("message"), dict):
            try:
                conversation.messages.append(_of_node(node["message"]))
            except InvalidInputError as error:
                conversation.messages.append(InvalidInputError(f"message {name!r}: {error}"))
        name = node.get("parent")
    if nodes and not passed:
        raise InvalidInputError(f"current_node is {shorten(name)}, which is not in mapping; export it again.")
    conversation.messages.reverse()
    return conversation


def _of_node(message: dict[str, Any]) -> Message:
    author, content = message.get("author"), message.get("content")
    if not isinstance(author, dict) or not isinstance(content, dict):
        raise InvalidInputError(f"{shorten(message)} is no message of ChatGPT; it needs the keys author and content.")
    hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
    text = None
    if content.get("content_type") in ("text", "multimodal_text") and not hidden:
        text = _text_of(content.get("parts") or [])
    return Message(author.get("role", ""), text, None, _time_of(message.get("create_time")))


def _id_of(value: dict[str, Any]) -> str | None:
    found = value.get("conversation_id", value.get("id"))
    if found is None or isinstance(found, bool) or not isinstance(found, str | int) or not str(found).strip():
        return None
    return str(found).strip()


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _time_of(value: Any) -> datetime | None:
    """From seconds since 1970, or ISO 8601."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return moment_of("the time", value)
    with suppress(OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(value, UTC)
    raise InvalidInputError(
        f"the time is {shorten(value)}; give seconds (not milliseconds) since 1970, or ISO 8601 with an offset."
    )
