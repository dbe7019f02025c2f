"""Claude Code: its sessions, `~/.claude/projects/<project>/<session>.jsonl`, a line an event.

A line is `{type, uuid, parentUuid, sessionId, timestamp, cwd, isSidechain?, isMeta?, message: {role, content}}`. What
user and assistant say is read; the answers of tools, what the program inserts and the work of sub-agents are reported.
"""

from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import ANSWERS
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import Context, Conversation, list_of, mapping_of, said, text_or_none, time_of

NAME = "claude-code"
ABOUT = "sessions of Claude Code, ~/.claude/projects/*/*.jsonl"
SIGNS = (
    "sessionId type message.role", "sessionId uuid parentUuid type", "type=summary leafUuid",
    "type=file-history-snapshot snapshot", "sessionId type=queue-operation", "sessionId uuid message.content cwd type",
)  # fmt: skip

INSERTED = ("<command-name>", "<command-message>", "<local-command-stdout>", "<system-reminder>", "Caveat: ")
"""How the texts begin that the program writes in the user's name."""


def is_message(value: Any) -> bool:
    """Returns whether a value is one line of a session, as all are."""
    return isinstance(value, dict)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the part of the session that a line is."""
    if not isinstance(value, dict):
        raise InvalidInputError(f"{shorten(value)} is no line of a session; it needs the keys type and sessionId.")
    kind, message = value.get("type"), value.get("message")
    found = Conversation(text_or_none(value.get("sessionId")), continues=True, in_order=True)
    if kind not in ("user", "assistant") or not isinstance(message, dict):
        texts = {key: part for key, part in value.items() if key not in ("cwd", "gitBranch", "version", "slug")}
        context.left.text(f"in lines of the type {shorten(kind)}", texts)
    elif value.get("isMeta") or value.get("isCompactSummary") or _is_inserted(message.get("content")):
        context.left.text("that the program inserts", message.get("content"))
    elif value.get("isSidechain"):
        context.left.text("of sub-agents", _spoken(message.get("content")))
    else:
        content = message.get("content")
        spoken = _spoken(content)
        if isinstance(content, list):
            context.left.text("in answers of tools", [part for part in content if _is_answer(part)])
        if spoken or not isinstance(content, list):
            where = text_or_none(value.get("cwd"))
            found.messages += said(
                {"role": message.get("role", kind), "content": spoken}, context, id=value.get("uuid"),
                at=time_of(value.get("timestamp")), metadata={"folder": where} if where else {},
            )  # fmt: skip
    yield found


def _spoken(content: Any) -> Any:
    return [part for part in content if not _is_answer(part)] if isinstance(content, list) else content


def _is_answer(part: Any) -> bool:
    kind = mapping_of(part).get("type")
    return isinstance(kind, str) and kind in ANSWERS


def _is_inserted(content: Any) -> bool:
    text = content if isinstance(content, str) else mapping_of(next(iter(list_of(content)), None)).get("text")
    return isinstance(text, str) and text.lstrip().startswith(INSERTED)
