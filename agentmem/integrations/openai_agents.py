"""OpenAI's Agents SDK on a Memory: a session that stays, and a tool with which an agent recalls.

from agents import Agent, Runner
from agentmem import Memory
from agentmem.integrations.openai_agents import AgentMemSession, recall_tool

ana = Memory("agent.db").scope(user_id="ana")
agent = Agent("Helper", tools=[recall_tool(ana)])
Runner.run_sync(agent, "Where do I like to sit?", session=AgentMemSession(ana, "chat-1"))
"""

import asyncio
from typing import TYPE_CHECKING, Any

from agentmem.integrations import check_view, framework
from agentmem.integrations.transcript import TEXT, Transcript

with framework("openai-agents"):
    from agents import FunctionTool, function_tool
    from agents.memory import SessionABC, SessionSettings
    from agents.memory.session_settings import resolve_session_limit

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory


class AgentMemSession(SessionABC):
    """The history of one conversation, kept as memories of a run, which searches of its user find.

    Items come back as they were given, in order. Any thread, task and process may use the same session.

    Args:
        memory: A Memory, or a view of the user whose conversation it is.
        session_id: The conversation; it is the `run_id` of its memories.
        session_settings: As in the SDK; its `limit` holds where `get_items` has none.

    Raises:
        InvalidInputError: an argument cannot be used.
    """

    def __init__(
        self, memory: "Memory | ScopedMemory", session_id: str, session_settings: SessionSettings | None = None
    ) -> None:
        self._transcript = Transcript(memory, session_id)
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """Returns the items, oldest first; with a limit, the newest of them."""
        most = resolve_session_limit(limit, self.session_settings)
        return await asyncio.to_thread(self._transcript.messages, most)

    async def add_items(self, items: list[Any]) -> None:
        """Appends items, in one commit; on return they are durable."""
        messages = [(_text(item), item.get("role"), item) for item in items]
        await asyncio.to_thread(self._transcript.add, messages)

    async def pop_item(self) -> Any:
        """Removes and returns the newest item, or None. Two callers never get the same one."""
        return await asyncio.to_thread(self._transcript.pop)

    async def clear_session(self) -> None:
        """Removes every item of the conversation."""
        await asyncio.to_thread(self._transcript.clear)


def recall_tool(memory: "ScopedMemory", *, max_tokens: int = 500) -> FunctionTool:
    """Returns a tool by which an agent looks for memories of one owner. The model names a query, and no owner.

    Args:
        memory: A view of the owner, `memory.scope(...)`.
        max_tokens: The budget of an answer, as in `Memory.context`.

    Raises:
        InvalidInputError: the memory is no view.
    """
    view = check_view(memory)

    async def recall(query: str) -> str:
        """Search what is known from earlier conversations.

        Args:
            query: What to look for, in a few words or a question.
        """
        context = await asyncio.to_thread(view.context, query, max_tokens=max_tokens, filters=TEXT)
        return str(context) or "Nothing is known about that."

    tool: FunctionTool = function_tool(recall)
    return tool


def _text(item: Any) -> str:
    """The text of a message; nothing of calls, their results and reasoning."""
    content = item.get("content") if item.get("role") else None
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""
