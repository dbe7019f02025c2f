"""LangChain: messages as its histories and traces store them.

A message is `{"type": "human" | "ai" | "system" | "tool", "content": ...}`, the same with `data` around the content, or
a serialised class, `{"lc": 1, "type": "constructor", "id": [..., "HumanMessage"], "kwargs": {...}}`. Files hold an
array of them, one a line, or an object with `messages`.
"""

from agentmem.transfer.chats.openai import is_message as is_message
from agentmem.transfer.chats.openai import read as read

NAME = "langchain"
ABOUT = "messages of LangChain, as stored and as serialised"
SIGNS = (
    "type=human|ai|system|tool|function data.content", "type=human|ai|tool|function content",
    "lc type=constructor kwargs.content", "messages.[] messages.*.type=human|ai messages.*.content",
    "messages.[] messages.*.lc messages.*.kwargs.content",
    "messages.[] messages.*.type=human|ai messages.*.data.content",
)  # fmt: skip
