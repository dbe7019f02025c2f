"""Lists of memories that an assistant prints and people paste: `[2025-05-02] - The user lives in Porto`, one a line."""

from collections.abc import Iterator

from agentmem.errors import InvalidInputError
from agentmem.transfer.chats.chatgpt import REMEMBERED, remembered
from agentmem.transfer.chats.conversation import Context, Conversation

NAME = "memory-list"
ABOUT = "pasted lists of memories, [2025-05-02] - text, one a line"
FIRST = REMEMBERED


def read_text(text: str, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories of a list."""
    yield Conversation("context", messages=list(remembered(text)), is_run=False)
