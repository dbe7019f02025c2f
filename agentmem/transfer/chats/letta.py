"""Letta: agent files (`.af`).

`{agents: [{id, name, messages: [{id, role, content, created_at, tool_calls}]}], blocks: [{id, label, value}]}`; older
ones have the one agent at the top, with `core_memory` in the place of the blocks. The blocks are the agent's memories;
its messages are a run. A file may be JSON within a text of JSON. Agents that speak by the tool `send_message` are read.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    list_of,
    mapping_of,
    plain_text,
    text_or_none,
    time_of,
)

NAME = "letta"
ABOUT = "agent files of Letta (.af): their memory blocks and messages"
SIGNS = (
    "agents.*.messages blocks.[]", "agents.*.agent_type agents.*.name", "agent_type core_memory.[]",
    "agent_type messages.[] name", "agents.*.block_ids blocks.[] agents.*.messages",
)  # fmt: skip

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool", "approval": "tool"}
EVENTS = ("heartbeat", "login", "bootup", "system_alert", "package_message")

KNOWN_AGENT = frozenset(
    {"id", "name", "agent_type", "system", "block_ids", "in_context_message_ids", "messages", "core_memory", "blocks",
     "llm_config", "embedding_config", "tool_ids", "tool_rules", "tags", "source_ids", "folder_ids", "group_ids",
     "message_buffer_autoclear", "tools", "tool_exec_environment_variables", "created_at", "updated_at", "version",
     "metadata", "metadata_", "model", "embedding", "initial_message_sequence", "timezone", "project", "project_id",
     "template_id", "include_base_tools", "memory_variables", "multi_agent_group", "files_agents", "memory_blocks"}
)  # fmt: skip


def opened(value: Any) -> Any:
    """Returns the object within a text of JSON, where there is one; otherwise the value."""
    if isinstance(value, str) and value.lstrip().startswith("{") and '"agent_type"' in value:
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return inner if isinstance(inner, dict) else value
    return value


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories and the conversation of every agent."""
    file = mapping_of(opened(value))
    agents = list_of(file.get("agents")) or ([file] if "agent_type" in file else [])
    if not agents:
        raise InvalidInputError(f"{shorten(value)} is no agent file of Letta; it needs the key agents, a list.")
    blocks = {name: each for each in list_of(file.get("blocks")) if (name := text_or_none(mapping_of(each).get("id")))}
    used = set[str]()
    for agent in map(mapping_of, agents):
        name = text_or_none(agent.get("name")) or text_or_none(agent.get("id"))
        fields = {"agent_id": name} if name else {}
        own = [blocks[each] for each in list_of(agent.get("block_ids")) if isinstance(each, str) and each in blocks]
        used |= {str(each.get("id")) for each in own}
        own += [*list_of(agent.get("core_memory")), *(list_of(agent.get("blocks")) if agent is file else [])]
        yield Conversation(
            text_or_none(agent.get("id")) or name,
            messages=[_block(mapping_of(block), fields, context) for block in own], is_run=False,
        )  # fmt: skip
        yield _talk(agent, name, fields, context)
        context.left.text("of instructions", agent.get("system"))
        context.left.unknown(agent, KNOWN_AGENT, " of an agent")
    spare = [_block(mapping_of(block), {}, context) for name, block in blocks.items() if name not in used]
    if spare and file.get("agents"):
        yield Conversation("blocks", messages=list(spare), is_run=False)
    context.left.text("of files", [file.get("files"), file.get("sources")])


def _block(block: Mapping[str, Any], fields: dict[str, Any], context: Context) -> Message | InvalidInputError:
    label, about = plain_text(block.get("label")), plain_text(block.get("description"))
    metadata = {"kind": "block"} | ({"label": label} if label else {}) | ({"description": about} if about else {})
    value = block.get("value")
    if not isinstance(value, str):
        return InvalidInputError(f"the value of a block is {shorten(value)}, no text.")
    own = text_or_none(block.get("id")) or (f"block {label}" if label else None)
    return Message(None, plain_text(value), own, metadata=metadata, fields=dict(fields))


def _talk(agent: Mapping[str, Any], name: str | None, fields: dict[str, Any], context: Context) -> Conversation:
    found = Conversation(text_or_none(agent.get("id")) or name, name)
    for position, message in enumerate(list_of(agent.get("messages"))):
        try:
            found.messages += _messages(mapping_of(message), fields, context)
        except InvalidInputError as error:
            found.messages.append(InvalidInputError(f"message {position}: {error}"))
    return found


def _messages(message: Mapping[str, Any], fields: dict[str, Any], context: Context) -> Iterator[Message]:
    role = message.get("role")
    role = ROLES.get(role, role) if isinstance(role, str) else role
    content = message.get("content")
    content = text_of(content, context.left) if isinstance(content, list) else content
    content = plain_text(message.get("text")) if content is None else content
    own, at = text_or_none(message.get("id")), time_of(message.get("created_at"))
    spoken = []
    for call in map(mapping_of, list_of(message.get("tool_calls"))):
        function = mapping_of(call.get("function"))
        words = _spoken(function)
        spoken += [words] if words else []
        if not words:
            context.left.text("of calls of tools", function.get("arguments"))
    if spoken:  # What stands beside is its inner monologue.
        context.left.text("of reasoning", content)
        yield Message("assistant", "\n".join(spoken), own, at, fields=dict(fields))
        return
    text, event = _unwrapped(content)
    if event:
        context.left.text("of events", text)
        text = None
    yield Message(role, plain_text(text) if isinstance(text, str) else text, own, at, fields=dict(fields))


def _spoken(function: Mapping[str, Any]) -> str | None:
    if function.get("name") != "send_message":
        return None
    arguments = function.get("arguments")
    return plain_text(mapping_of(_decoded(arguments)).get("message"))


def _unwrapped(content: Any) -> tuple[Any, bool]:
    """The text of a message that is an object in a text, and whether it is an event of the program."""
    inner = _decoded(content)
    if isinstance(inner, dict) and isinstance(inner.get("type"), str):
        text = plain_text(inner.get("message"))
        return (text or content), inner["type"] in EVENTS
    if isinstance(inner, dict) and "status" in inner and plain_text(inner.get("message")):
        return inner["message"], inner["message"] == "None"
    return content, False


def _decoded(text: Any) -> Any:
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
