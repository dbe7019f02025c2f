"""OpenAI and its neighbours: conversations as requests, fine-tuning files, logs and answers hold them.

One conversation is an object with `messages` (or `input`, `body.messages`, `data` of a thread, `choices`), an array of
messages, or a message a line. A message is one of the chat interface, an item of Responses, a message of Anthropic, or
one of the AI SDK with `parts`. Of a comparison (`preferred_output`, `chosen`) the preferred answer is read. Messages
that name their conversation (`conversation_id`, `session_id`, `thread_id`, `chat_id`) are put together by it. An object
`system`, `instructions` or `systemPrompt` beside the messages is a message of the system.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import ANSWERS, CALLS, LANGCHAIN_ROLES
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    list_of,
    mapping_of,
    plain_text,
    said,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "openai"
ABOUT = "chats of OpenAI (requests, fine-tuning, Responses, threads, batches), Anthropic and the AI SDK"
SIGNS = (
    "messages.[]", "messages.*.role messages.*.content", "body.messages.[] method", "input.messages.[]",
    "choices.*.message", "data.*.role data.*.object=thread.message", "chosen.*.role rejected",
    "role parts.*.type", "role content.*.type", "type=message role content", "object=thread.message role content",
    "conversation_id role content", "session_id role content", "output.*.type object=response",
    "request.body.messages.[]", "input.*.role model",
)  # fmt: skip

RUNS = ("conversation_id", "session_id", "thread_id", "chat_id", "conversationId", "sessionId", "threadId", "chatId")
TIMES = ("created_at", "createdAt", "timestamp", "create_time", "created", "time", "date", "ts")
SYSTEMS = ("system", "instructions", "systemPrompt", "system_prompt")

KNOWN = frozenset(
    {*RUNS, *TIMES, *SYSTEMS, "messages", "input", "output", "choices", "data", "body", "id", "uuid", "title", "name",
     "role", "type", "object", "model", "chosen", "rejected", "preferred_output", "non_preferred_output", "updated_at",
     "updatedAt", "method", "url", "custom_id", "usage", "response", "request", "error", "tools", "functions",
     "tool_choice", "parallel_tool_calls", "finish_reason", "stop_reason", "system_fingerprint", "user", "user_id"}
)  # fmt: skip
KNOWN_MESSAGE = KNOWN | frozenset(
    {"content", "parts", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "annotations", "weight",
     "reasoning_content", "reasoning", "thinking", "status", "index", "kwargs", "lc", "additional_kwargs",
     "response_metadata", "usage_metadata", "invalid_tool_calls", "example", "container", "stop_sequence", "phase",
     "arguments", "call_id", "action", "summary", "encrypted_content", "assistant_id", "run_id", "attachments",
     "file_ids", "experimental_attachments", "toolInvocations", "artifact", "queries", "results", "code", "outputs"}
)  # fmt: skip


def is_message(value: Any) -> bool:
    """Returns whether a value is one message of a conversation that goes on in the next."""
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    typed = isinstance(kind, str) and (kind in LANGCHAIN_ROLES or kind in ANSWERS | CALLS or kind == "reasoning")
    typed = typed or (kind == "constructor" and "kwargs" in value)
    return typed or ("role" in value and not isinstance(value.get("messages"), list))


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value, or of a message the part that it is."""
    if is_message(value):
        found = next(_messages([value], context))
        if isinstance(found, InvalidInputError):
            yield found
            return
        context.left.unknown(value, KNOWN_MESSAGE, " of a message")
        yield Conversation(_run_of(value), messages=[*found], continues=True)
        return
    if isinstance(value, list):
        value = {"messages": value}
    messages, outer = _list_in(value, context)
    conversation = Conversation(
        _run_of(value) or text_or_none(outer.get("id")) or _run_of(_first(messages)),
        text_or_none(value.get("title")),
        at=next((at for key in TIMES if (at := time_or_none(outer.get(key)))), None),
    )
    for key in SYSTEMS:
        system = outer.get(key)
        if plain_text(system) or isinstance(system, list):
            conversation.messages += said({"role": "system", "content": system}, context)
    for position, found in enumerate(_messages(messages, context)):
        if isinstance(found, InvalidInputError):
            conversation.messages.append(InvalidInputError(f"message {position}: {found}"))
        else:
            conversation.messages += found
    context.left.unknown(outer, KNOWN, " beside messages")
    yield conversation


def _messages(messages: list[Any], context: Context) -> Iterator[list[Message] | InvalidInputError]:
    for message in messages:
        try:
            at = next((message[key] for key in TIMES if isinstance(message, dict) and message.get(key)), None)
            inner = mapping_of(message).get("kwargs", mapping_of(message).get("data"))
            own = mapping_of(message).get("id") or mapping_of(message).get("uuid")
            own = mapping_of(inner).get("id") if not isinstance(own, str | int) and inner else own
            yield list(said(message, context, id=own, at=time_of(at)))
        except InvalidInputError as error:
            yield error


def _list_in(value: Any, context: Context) -> tuple[list[Any], Mapping[str, Any]]:
    """The messages of an object, and the object beside which they stand."""
    outer = mapping_of(value)
    for key in ("body", "request", "response"):  # Of a batch, and of what logs a request with its answer.
        inner = outer.get(key)
        if isinstance(inner, dict) and not isinstance(outer.get("messages"), list):
            outer = {**{name: outer[name] for name in outer if name != key}, **mapping_of(inner.get("body", inner))}
    messages: list[Any] | None = None
    for key in ("messages", "input", "data"):
        found = outer.get(key)
        if isinstance(found, dict):
            found = found.get("messages")
        if isinstance(found, list):
            messages = [*found]
            break
        if key == "input" and plain_text(found):
            messages = [{"role": "user", "content": found}]
            break
    for key in ("preferred_output", "chosen", "output"):
        more = outer.get(key)
        if more is not None and (isinstance(more, dict) or (isinstance(more, list) and _first(more))):
            more = more if isinstance(more, list) else [more]
            # Some repeat the question before each answer.
            messages = more if messages and more[: len(messages)] == messages else [*(messages or ()), *more]
    choices = list_of(outer.get("choices"))
    if choices:
        messages = [*(messages or ()), *(mapping_of(_first(choices)).get(key) for key in ("message",))]
        context.left.text("of other answers", [mapping_of(choice).get("message") for choice in choices[1:]])
    context.left.text("of answers that were not preferred", [outer.get("non_preferred_output"), outer.get("rejected")])
    if messages is None:
        raise InvalidInputError(f"{shorten(value)} is no conversation; it needs the key messages, a list.")
    return messages, outer


def _run_of(value: Any) -> str | None:
    return next((found for key in RUNS if (found := text_or_none(mapping_of(value).get(key)))), None)


def _first(values: list[Any]) -> Any:
    return values[0] if values else None
