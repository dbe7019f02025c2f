"""The formats that files of chats and memories have: one module each, and how one is told from another."""

import re
from typing import Any, Protocol

from agentmem.messages import LeftOut
from agentmem.transfer.chats import (
    chatgpt,
    claude,
    claude_code,
    claude_memories,
    codex,
    deepseek,
    discord,
    gemini,
    grok,
    langchain,
    langgraph,
    letta,
    librechat,
    markdown,
    mcp,
    mem0,
    openai,
    openwebui,
    pasted,
    sharegpt,
    sillytavern,
    slack,
    telegram,
    whatsapp,
)
from agentmem.transfer.chats.conversation import has


class Format(Protocol):
    """A module of a format."""

    NAME: str
    ABOUT: str


JSON_FORMATS: tuple[Any, ...] = (
    openai, sharegpt, chatgpt, claude, claude_memories, mem0, openwebui, librechat, gemini, claude_code, codex,
    deepseek, grok, sillytavern, letta, langchain, langgraph, mcp, telegram, slack, discord,
)  # fmt: skip
"""Those whose files hold JSON: each has SIGNS, groups of paths of which one must be there whole."""

TEXT_FORMATS: tuple[Any, ...] = (markdown, whatsapp, pasted)
"""Those whose files are read as text."""

MEMORY_KEYS = frozenset({"id", "user_id", "agent_id", "run_id", "metadata", "updated_at", "expires_at"})
"""What memories of agentmem have beside role and content, and messages do not."""

AGENTMEM = "agentmem"

FORMATS: dict[str, str] = {
    AGENTMEM: "what export writes, JSON Lines of memories, texts alone",
    **{each.NAME: each.ABOUT for each in (*JSON_FORMATS, *TEXT_FORMATS)},
}
"""Every format that can be named, and what it is."""

BY_NAME: dict[str, Any] = {each.NAME: each for each in (*JSON_FORMATS, *TEXT_FORMATS)}


def format_of(value: Any) -> str | None:
    """Returns the name of the format of a file's first value; None when it is no chat. Of several formats whose signs
    are there, the one with the most signs counts."""
    if isinstance(value, list):  # An array of messages without more.
        return format_of(value[0]) if value and isinstance(value[0], dict) else None
    value = letta.opened(value)
    if not isinstance(value, dict):
        return None
    best, name = 0, ""
    for each in JSON_FORMATS:
        for group in each.SIGNS:
            signs = group.split()
            if len(signs) > best and all(has(value, sign) for sign in signs):
                best, name = len(signs), str(each.NAME)
    if name:
        return name
    # A message alone; a memory that has a role has one of these keys too.
    if {"role", "content"} <= value.keys() and (not value.keys() & MEMORY_KEYS or isinstance(value["content"], list)):
        return openai.NAME
    return None


def signs_in(value: Any) -> list[str]:
    """Returns the signs of known formats that are in a value, with the formats that have them, for the message that it
    is of none."""
    found = []
    for each in JSON_FORMATS:
        signs = {sign.partition("=")[0] for group in each.SIGNS for sign in group.split() if has(value, sign)}
        if signs:
            found.append((len(signs), f"{', '.join(sorted(signs))} (of {each.NAME})"))
    found.sort(key=lambda pair: -pair[0])
    return [shown for _, shown in found[:3]]


def format_of_text(name: str | None, text: str) -> str | None:
    """Returns the name of the format of a text that is no JSON; None when it is of none."""
    if name is not None and markdown.NAMES.search(name):
        return markdown.NAME
    lines = [line for line in text.splitlines()[:200] if line.strip()]
    for each in (whatsapp, pasted):
        if lines and any(each.FIRST.match(re.sub("[\u202f\u00a0]", " ", line)) for line in lines[:3]):
            return str(each.NAME)
    if text.lstrip().startswith(("{", "[")):
        return None
    looks = re.compile(r"^(?:#{1,6} \S|---$|[-*+] \S)")
    return markdown.NAME if lines and (looks.match(lines[0]) or (name or "").lower().endswith(".txt")) else None


__all__ = ["FORMATS", "LeftOut", "format_of", "format_of_text", "signs_in"]
