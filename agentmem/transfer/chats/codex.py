"""Codex: its sessions, `~/.codex/sessions/**/rollout-*.jsonl`, a line an event.

A line is `{timestamp, type, payload}`; the first is `session_meta` with the session's id. The messages of
`response_item` are read; `event_msg` repeats them. Older files have the session's `{id, timestamp, instructions}` on
their first line, and items of Responses below it.
"""

from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import ANSWERS, CALLS, text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    mapping_of,
    plain_text,
    said,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "codex"
ABOUT = "sessions of Codex, ~/.codex/sessions/**/rollout-*.jsonl"
SIGNS = (
    "type=session_meta payload.{}", "timestamp type=response_item payload.{}", "timestamp type=event_msg payload.{}",
    "timestamp type=turn_context payload.{}", "id timestamp instructions", "record_type=state",
)  # fmt: skip

INSERTED = (
    "<environment_context>",
    "<user_instructions>",
    "# AGENTS.md instructions",
    "<turn_aborted>",
    "<INSTRUCTIONS>",
)


def is_message(value: Any) -> bool:
    """Returns whether a value is one line of a session, as all are."""
    return isinstance(value, dict)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the part of the session that a line is."""
    if not isinstance(value, dict):
        raise InvalidInputError(f"{shorten(value)} is no line of a session; it needs the keys type and payload.")
    kind, payload = value.get("type"), value.get("payload")
    if kind == "session_meta" or ("instructions" in value and "id" in value and "type" not in value):
        meta = mapping_of(payload) or value
        context.state["id"] = text_or_none(meta.get("id"))
        context.state["folder"] = text_or_none(meta.get("cwd"))
        context.state["at"] = time_or_none(meta.get("timestamp"))
        context.left.text("of instructions", [meta.get("instructions"), meta.get("base_instructions")])
    at = time_of(value.get("timestamp"))
    found = Conversation(context.state.get("id"), at=context.state.get("at"), continues=True, in_order=True)
    item = mapping_of(payload) if kind == "response_item" else value if "payload" not in value else {}
    said_as = item.get("type")
    if said_as == "message" and "role" in item:
        text = text_of(item.get("content"))
        if item["role"] == "developer" or (isinstance(text, str) and text.lstrip().startswith(INSERTED)):
            context.left.text("that the program inserts", text)
        else:
            folder = context.state.get("folder")
            found.messages += said(
                item, context, id=item.get("id"), at=at, metadata={"folder": folder} if folder else {}
            )
    elif isinstance(said_as, str) and (said_as in CALLS or said_as in ANSWERS or "call" in said_as):
        answers = said_as in ANSWERS or said_as.endswith("_output")
        context.left.text("in answers of tools" if answers else "of calls of tools", item)
    elif said_as == "reasoning":
        context.left.text("of reasoning", [item.get("summary"), item.get("content")])
    elif kind == "event_msg":
        event = mapping_of(payload).get("type")
        if event not in ("user_message", "agent_message", "agent_reasoning", "token_count"):
            context.left.text(f"in events of the type {shorten(event)}", payload)
    elif kind not in ("session_meta", "response_item", None):
        context.left.text(f"in lines of the type {shorten(kind)}", plain_text(mapping_of(payload).get("message")))
    yield found
