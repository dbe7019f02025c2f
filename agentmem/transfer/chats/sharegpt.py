"""ShareGPT: `{"conversations": [{"from": "human", "value": ...}]}`, an array of such objects, one a line, or messages.

`system` beside the list is a message of the system; of a comparison the answer `chosen` ends the conversation, and the
one that was `rejected` is reported. Messages may have `role` and `content` as well.
"""

from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    plain_text,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "sharegpt"
ABOUT = "conversations of from and value, as ShareGPT and many data sets have them"
SIGNS = ("conversations.[] conversations.*.from conversations.*.value", "conversations.[] conversations.*.role", "conversations.[]", "from value")  # fmt: skip  # noqa: E501

ROLES = {
    "human": "user", "user": "user",
    "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "model": "assistant", "bing": "assistant",
    "bard": "assistant", "claude": "assistant", "bot": "assistant", "gemini": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool", "function": "tool",
}  # fmt: skip
"""The speakers of the format, and the roles that they become."""

TIMES = ("created_at", "create_time", "timestamp")

CALLS = frozenset({"function_call", "tool_call", "function-call"})

KNOWN = frozenset(
    {"conversations", "conversation", "system", "chosen", "rejected", "id", "conversation_id", "title", "source",
     "model", "lang", "language", "tools", "created_at", "timestamp", "create_time", "score", "weight"}
)  # fmt: skip
KNOWN_MESSAGE = frozenset({"from", "value", "role", "content", "weight", "id", "timestamp", "created_at", "markdown"})


def is_message(value: Any) -> bool:
    """Returns whether a value is one message of a conversation that goes on in the next."""
    return isinstance(value, dict) and "conversations" not in value and ("from" in value or "role" in value)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value, or of a message the part that it is."""
    if is_message(value):
        yield Conversation(messages=[_message(value, context)], continues=True)
        return
    if isinstance(value, list):
        value = {"conversations": value}
    if not isinstance(value, dict) or not isinstance(value.get("conversations"), list):
        raise InvalidInputError(f"{shorten(value)} is no conversation; it needs the key conversations, a list.")
    conversation = Conversation(
        text_or_none(value.get("conversation_id", value.get("id"))),
        text_or_none(value.get("title")),
        at=next((at for key in TIMES if (at := time_or_none(value.get(key)))), None),
    )
    if plain_text(value.get("system")):
        conversation.messages.append(Message("system", value["system"]))
    chosen = value.get("chosen")
    messages = [*value["conversations"], *([chosen] if isinstance(chosen, dict) else [])]
    for position, message in enumerate(messages):
        try:
            conversation.messages.append(_message(message, context))
        except InvalidInputError as error:
            conversation.messages.append(InvalidInputError(f"message {position}: {error}"))
    if not isinstance(chosen, dict):
        context.left.text("under the key 'chosen'", chosen)
    context.left.text("of answers that were not preferred", value.get("rejected"))
    context.left.unknown(value, KNOWN, " beside conversations")
    yield conversation


def _message(message: Any, context: Context) -> Message:
    if isinstance(message, dict) and "role" in message and "from" not in message:
        message = {**message, "from": message["role"], "value": message.get("content", message.get("value"))}
    if not isinstance(message, dict) or not {"from", "value"} <= message.keys():
        raise InvalidInputError(f"{shorten(message)} is no message of ShareGPT; it needs the keys from and value.")
    context.left.unknown(message, KNOWN_MESSAGE, " of a message")
    speaker = message["from"]
    if isinstance(speaker, str) and speaker in CALLS:
        context.left.text("of calls of tools", message["value"])
        return Message("assistant", None)
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise InvalidInputError(f"from is {shorten(speaker)}; known are {', '.join(sorted(ROLES))}.")
    at = message.get("timestamp", message.get("created_at"))
    return Message(
        ROLES[speaker], text_of(message["value"], context.left), text_or_none(message.get("id")), time_of(at)
    )
