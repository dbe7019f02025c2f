"""LlamaIndex on a Memory: a block of long-term memory, which takes what leaves the short-term one.

from llama_index.core.memory import Memory as ChatMemory
from agentmem import Memory
from agentmem.integrations.llama_index import AgentMemBlock

ana = Memory("agent.db").scope(user_id="ana")
chat = ChatMemory.from_defaults(session_id="1", memory_blocks=[AgentMemBlock(memory=ana)])
"""

import asyncio
from typing import Any

from agentmem.integrations import check_view, framework

with framework("llama-index"):
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.bridge.pydantic import Field, field_validator
    from llama_index.core.memory import BaseMemoryBlock

SPOKEN = ("user", "assistant")


class AgentMemBlock(BaseMemoryBlock[str]):
    """A block whose content is the best memories for the latest message of the user.

    Messages that leave the short-term memory are remembered under their session as the `run_id`.

    Args:
        memory: A view of an owner, `memory.scope(...)`.
        max_tokens: The budget of its content, as in `Memory.context`.
    """

    name: str = "agentmem"
    memory: Any = Field(exclude=True)
    max_tokens: int = 500

    @field_validator("memory")
    @classmethod
    def _is_view(cls, memory: Any) -> Any:
        return check_view(memory)

    async def _aget(self, messages: "list[ChatMessage] | None" = None, **block_kwargs: Any) -> str:
        asked = [each.content for each in messages or [] if each.role == MessageRole.USER and each.content]
        if not asked or not asked[-1].strip():
            return ""
        return str(await asyncio.to_thread(self.memory.context, asked[-1], max_tokens=self.max_tokens))

    async def _aput(self, messages: "list[ChatMessage]") -> None:
        items = []
        for message in messages:
            if message.role.value in SPOKEN and message.content and message.content.strip():
                item = {"content": message.content, "role": message.role.value}
                session = message.additional_kwargs.get("session_id")
                items.append(item | ({"run_id": session} if session else {}))
        await asyncio.to_thread(self.memory.add_batch, items, defer=True)

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """Returns nothing: a context that is cut is not quoted any more. Lower `max_tokens` instead."""
        return None
