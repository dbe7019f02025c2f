"""Strands Agents on a Memory: a store for its memory manager.

from strands import Agent
from strands.memory import MemoryManager
from agentmem import Memory
from agentmem.integrations.strands import AgentMemStore

ana = Memory("agent.db").scope(user_id="ana")
agent = Agent(memory_manager=MemoryManager(stores=[AgentMemStore(ana)], add_tool_config=True))
"""

import asyncio
from typing import TYPE_CHECKING, Any

from agentmem.integrations import check_view, framework

with framework("strands"):
    from strands.memory import MemoryEntry, MemoryStore

if TYPE_CHECKING:
    from agentmem.memory import ScopedMemory


class AgentMemStore(MemoryStore):
    """Strands' `MemoryStore` on the memories of one owner. A text that is added twice is stored once.

    Args:
        memory: A view of an owner, `memory.scope(...)`.
        name: Names the store in the manager's tools.
        description: What the store holds, for the model.
        max_search_results: The largest number of entries that a search returns by default.
        writable: Whether the manager may add to it.
        extraction: As in the manager's configuration.

    Raises:
        InvalidInputError: the memory is no view.
    """

    def __init__(
        self,
        memory: "ScopedMemory",
        *,
        name: str = "agentmem",
        description: str | None = None,
        max_search_results: int | None = None,
        writable: bool = True,
        extraction: Any = None,
    ) -> None:
        self._memory = check_view(memory)
        self.name = name
        self.description = description
        self.max_search_results = max_search_results
        self.writable = writable
        self.extraction = extraction

    async def search(self, query: str, options: Any = None) -> "list[MemoryEntry]":
        """Returns the entries that are relevant to a query, best first, with their ids, scores and times."""
        most = (options or {}).get("max_search_results") or self.max_search_results or 3
        matches = await asyncio.to_thread(self._memory.search, query, limit=most)
        return [
            MemoryEntry(
                match.content,
                self.name,
                {
                    **match.record.metadata,
                    "id": match.record.id,
                    "score": match.score,
                    "created_at": match.record.created_at.isoformat(),
                },
            )
            for match in matches
        ]

    async def add(self, content: str, metadata: "dict[str, Any] | None" = None) -> str:
        """Stores a text and returns its id; on return it is durable and found."""
        record = await asyncio.to_thread(self._memory.add, content, metadata=metadata, dedupe=True)
        return record.id

    async def add_messages(self, messages: "list[Any]", context: Any = None) -> None:
        """Stores the texts of messages; tools and pictures are passed over."""
        items = []
        for message in messages:
            text = "\n".join(part["text"] for part in message["content"] if "text" in part).strip()
            if text:
                items.append({"content": text, "role": message["role"]})
        await asyncio.to_thread(self._memory.add_batch, items, dedupe=True)
