"""Grok: `prod-grok-backend.json` of its export.

`{conversations: [{conversation: {id, title, create_time}, responses: [{response: {_id, sender, message,
create_time}}]}]}`; a time is ISO 8601, or `{"$date": {"$numberLong": milliseconds}}`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    mapping_of,
    plain_text,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "grok"
ABOUT = "prod-grok-backend.json of Grok's export"
SIGNS = (
    "conversations.*.conversation conversations.*.responses",
    "conversations.*.conversation conversations.*.responses.*.response.sender conversations.[]",
    "conversation.{} responses.*.response", "conversation.{} responses.[]",
)  # fmt: skip

ROLES = {"human": "user", "user": "user", "assistant": "assistant", "grok": "assistant", "model": "assistant"}

KNOWN = frozenset(
    {"_id", "id", "sender", "message", "create_time", "conversation_id", "parent_response_id", "model", "metadata",
     "manual", "partial", "shared", "query", "query_type", "media_types", "file_attachments", "request_metadata",
     "leaf_response_id", "thinking_start_time", "thinking_end_time", "error", "xai_user_id", "web_search_results",
     "cited_web_search_results", "xpost_ids", "thinking_trace", "agent_thinking_traces", "steps", "webpage_urls"}
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversations of a value."""
    outer = mapping_of(value)
    conversations = outer.get("conversations")
    if not isinstance(conversations, list):
        if not isinstance(outer.get("responses"), list):
            raise InvalidInputError(f"{shorten(value)} is no export of Grok; it needs the key conversations, a list.")
        conversations = [value]
    for conversation in map(mapping_of, conversations):
        about = mapping_of(conversation.get("conversation"))
        if not isinstance(conversation.get("responses"), list):
            yield InvalidInputError("a conversation has no list of responses; export it again.")
            continue
        found = Conversation(
            text_or_none(about.get("id", about.get("_id"))), text_or_none(about.get("title")),
            at=time_or_none(_stated(about.get("create_time"))),
        )  # fmt: skip
        for response in conversation["responses"]:
            try:
                found.messages.append(_message(mapping_of(mapping_of(response).get("response", response)), context))
            except InvalidInputError as error:
                found.messages.append(InvalidInputError(f"message {len(found.messages)}: {error}"))
        context.left.text("of summaries", about.get("summary"))
        context.left.text("of instructions of a chat", about.get("system_prompt_name"))
        yield found
    known = frozenset({"conversations", "conversation", "responses", "projects", "tasks", "media_posts"})
    context.left.text("of projects and tasks", [outer.get("projects"), outer.get("tasks")])
    context.left.unknown(outer, known, " beside conversations")


def _message(response: Mapping[str, Any], context: Context) -> Message:
    sender = response.get("sender")
    role = ROLES.get(sender.lower()) if isinstance(sender, str) else None
    if role is None:
        raise InvalidInputError(f"sender is {shorten(sender)}; known are {', '.join(sorted(ROLES))}.")
    context.left.text("of reasoning", [response.get("thinking_trace"), response.get("agent_thinking_traces")])
    context.left.unknown(response, KNOWN, " of a response")
    at = time_of(_stated(response.get("create_time")))
    text = response.get("message")
    own = text_or_none(response.get("_id", response.get("id")))
    return Message(role, plain_text(text) if isinstance(text, str) else text, own, at)


def _stated(value: Any) -> Any:
    """A time out of the object that databases wrap it in."""
    for key in ("$date", "$numberLong"):
        if isinstance(value, dict):
            value = value.get(key)
    return value
