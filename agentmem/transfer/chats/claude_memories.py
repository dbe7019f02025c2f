"""Claude's memories: `memories.json` of its export, or one file an account.

An object has any of `conversations_memory` (Markdown), `project_memories` (Markdown by the project's id), and
`memory_files` (`{path, content, updated_at}`). Every paragraph and bullet becomes a memory, with the headings above it.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    list_of,
    mapping_of,
    plain_text,
    text_or_none,
    time_or_none,
)
from agentmem.transfer.chats.markdown import blocks

NAME = "claude-memories"
ABOUT = "memories.json of Claude's export"
SIGNS = ("conversations_memory", "project_memories.{}", "memory_files.[] account_uuid", "memory_files.*.content")

KNOWN = frozenset(
    {"conversations_memory", "project_memories", "memory_files", "account_uuid", "updated_at", "created_at"}
)


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories of an account."""
    if not isinstance(value, dict) or not value.keys() & {"conversations_memory", "project_memories", "memory_files"}:
        raise InvalidInputError(
            f"{shorten(value)} holds no memories of Claude; it needs conversations_memory, project_memories or "
            "memory_files."
        )
    account = text_or_none(value.get("account_uuid"))
    found = Conversation(account or "memories", at=time_or_none(value.get("updated_at")), is_run=False)
    found.messages += _memories(value.get("conversations_memory"), {})
    for project, text in mapping_of(value.get("project_memories")).items():
        found.messages += _memories(text, {"project": project})
    for file in map(mapping_of, list_of(value.get("memory_files"))):
        path = plain_text(file.get("path"))
        at = time_or_none(file.get("updated_at"))
        for memory in _memories(file.get("content"), {"file": path} if path else {}):
            memory.at = at
            found.messages.append(memory)
    context.left.unknown(value, KNOWN, " beside memories")
    yield found


def _memories(text: Any, metadata: dict[str, Any]) -> Iterator[Message]:
    for block in blocks(plain_text(text) or ""):
        more = metadata | {"kind": "remembered"} | ({"headings": block.headings} if block.headings else {})
        named = "\0".join([*map(str, metadata.values()), block.text])
        yield Message(
            None, block.text, blake2b(named.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(), None, more
        )
