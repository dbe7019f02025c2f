"""The messages of one conversation, in order: what the session and history classes of frameworks stand on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from agentmem.errors import InvalidInputError
from agentmem.integrations import check_memory
from agentmem.integrations.upsert import NO_TEXT
from agentmem.quoting import shorten

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory
    from agentmem.records import Record

KEY = "message"
"""The metadata key under which a message stands as its framework wrote it."""

WORDLESS = "wordless"
"""The metadata key of a message without text, such as the call of a tool."""

TEXT = {WORDLESS: {"exists": False}}
"""A filter for what a model should read: all but messages without text."""

PAGE = 1000


class Transcript:
    """The messages of a run, oldest first. Each is a memory with the message's text, so that searches find it. A
    message is durable when `add` returns; its vector follows in the background. Any thread and process may add.

    Args:
        memory: A Memory, or a view of the owner whose conversation it is.
        run_id: The conversation.

    Raises:
        InvalidInputError: an argument cannot be used.
    """

    def __init__(self, memory: "Memory | ScopedMemory", run_id: str) -> None:
        if not isinstance(run_id, str):
            raise InvalidInputError(f"The session is {shorten(run_id)}; pass its name as text.")
        self._view = check_memory(memory).scope(run_id=run_id)

    def add(self, messages: Iterable[tuple[str, str | None, Any]]) -> None:
        """Appends messages, each its text (perhaps empty), its role, and the message as a value of JSON."""
        items = []
        for text, role, message in messages:
            blank = not text.strip()
            metadata = {KEY: message, WORDLESS: True} if blank else {KEY: message}
            items.append({"content": NO_TEXT if blank else text, "role": role, "metadata": metadata})
        self._view.add_batch(items, defer=True)

    def messages(self, limit: int | None = None) -> list[Any]:
        """Returns the messages, oldest first; with a limit, the newest of them."""
        newest = list(islice(self._newest(limit), limit))
        return [record.metadata[KEY] for record in reversed(newest)]

    def pop(self) -> Any:
        """Removes and returns the newest message, or None. Two callers never get the same one."""
        for record in self._newest(1):
            if self._view.delete(record.id):
                return record.metadata[KEY]
        return None

    def clear(self) -> None:
        """Removes every message; other memories of the run stay."""
        self._view.delete_all(filters={KEY: "*"})

    def _newest(self, limit: int | None) -> "Iterator[Record]":
        after = None
        size = PAGE if limit is None else max(1, min(limit, PAGE))
        while True:
            page = self._view.get_all(filters={KEY: "*"}, limit=size, after=after)
            yield from page
            after = page.next
            if after is None:
                return
