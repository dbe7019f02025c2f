"""Google's Agent Development Kit on a Memory: sessions that are remembered, and searched by their user.

    from agentmem import Memory
    from agentmem.integrations.google_adk import AgentMemMemoryService

    runner = Runner(..., memory_service=AgentMemMemoryService(Memory("agent.db")))

`register()` makes `agentmem:///path/of/agent.db` an address that `adk web --memory_service_uri` takes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from agentmem.errors import InvalidInputError
from agentmem.integrations import check_memory, framework
from agentmem.integrations.upsert import write
from agentmem.quoting import shorten

with framework("google-adk"):
    from google.adk.memory.base_memory_service import BaseMemoryService, SearchMemoryResponse
    from google.adk.memory.memory_entry import MemoryEntry
    from google.genai import types

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory

ROLES = {"user": "user"}


class AgentMemMemoryService(BaseMemoryService):
    """ADK's memory service. An event with text is a memory: its user is the `user_id`, its application the `agent_id`,
    its session the `run_id`, its id the id. Adding a session again stores what is new.

    Args:
        memory: A Memory; the caller closes it.
        limit: The largest number of memories that a search returns.

    Raises:
        InvalidInputError: an argument cannot be used.
    """

    def __init__(self, memory: "Memory | ScopedMemory", *, limit: int = 10) -> None:
        self._memory = check_memory(memory)
        self._limit = limit

    async def add_session_to_memory(self, session: Any) -> None:
        """Remembers the events of a session that are not remembered yet."""
        await self.add_events_to_memory(
            app_name=session.app_name, user_id=session.user_id, events=session.events, session_id=session.id
        )

    async def add_events_to_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        events: Sequence[Any],
        session_id: str | None = None,
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Remembers events, in one commit. One that was remembered, or deleted, before stays as it is."""
        items = [
            {
                "id": event.id,
                "content": text,
                "role": ROLES.get(event.author, "assistant"),
                "metadata": {**(custom_metadata or {}), "author": event.author},
                "created_at": datetime.fromtimestamp(event.timestamp, UTC),
            }
            for event in events
            if (text := _text(event.content))
        ]
        await asyncio.to_thread(self._add, app_name, user_id, session_id, items)

    def _add(self, app_name: str, user_id: str, session_id: str | None, items: list[dict[str, Any]]) -> None:
        owners = {"user_id": user_id, "agent_id": app_name} | ({} if session_id is None else {"run_id": session_id})
        new = [item for item in items if not self._memory.history(item["id"], user_id=user_id)]
        write(self._memory, [item | owners for item in new])

    async def add_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        memories: Sequence[Any],
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Remembers entries, in one commit."""
        items = [
            {"content": text, "metadata": {**(custom_metadata or {}), **entry.custom_metadata, "author": entry.author}}
            for entry in memories
            if (text := _text(entry.content))
        ]
        await asyncio.to_thread(self._memory.add_batch, items, user_id=user_id, agent_id=app_name)

    async def search_memory(self, *, app_name: str, user_id: str, query: str) -> Any:
        """Returns the memories of a user of an application that are relevant to a query, best first."""
        matches = await asyncio.to_thread(
            self._memory.search, query, user_id=user_id, agent_id=app_name, limit=self._limit
        )
        return SearchMemoryResponse(
            memories=[
                MemoryEntry(
                    id=match.record.id,
                    content=types.Content(parts=[types.Part(text=match.content)], role=match.record.role),
                    author=match.record.metadata.get("author"),
                    timestamp=match.record.created_at.isoformat(),
                )
                for match in matches
            ]
        )

    async def delete_memory(self, *, app_name: str, user_id: str, memory_id: str | None = None) -> None:
        """Hides a memory; its session does not bring it back.

        Raises:
            InvalidInputError: there is no id.
        """
        if memory_id is None:
            raise InvalidInputError("memory_id is None; pass the id of a memory that a search returned.")
        await asyncio.to_thread(self._memory.delete, memory_id, user_id=user_id, agent_id=app_name)


def register(scheme: str = "agentmem") -> None:
    """Makes addresses such as `agentmem:///var/lib/agent.db` known to ADK's registry. Without the third slash it is a
    file in the working folder. Call it in `services.py` of the agent's folder.

    Args:
        scheme: The beginning of the addresses.
    """
    from google.adk.cli.service_registry import get_service_registry

    def make(uri: str, **_: Any) -> AgentMemMemoryService:
        from agentmem.memory import Memory

        parts = urlparse(uri)
        path = unquote(parts.netloc + parts.path)
        if not path.strip("/"):
            raise InvalidInputError(f"The address is {shorten(uri)}; write {scheme}:///path/of/agent.db.")
        return AgentMemMemoryService(Memory(path))

    get_service_registry().register_memory_service(scheme, make)


def _text(content: Any) -> str:
    parts = (content.parts if content is not None else None) or []
    return "\n".join(part.text for part in parts if part.text and not part.thought).strip()
