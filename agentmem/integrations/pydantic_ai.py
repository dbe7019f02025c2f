"""Pydantic AI on a Memory: tools by which an agent remembers and recalls for one owner.

from pydantic_ai import Agent
from agentmem import Memory
from agentmem.integrations.pydantic_ai import memory_tools

agent = Agent("openai:gpt-5", toolsets=[memory_tools(Memory("agent.db").scope(user_id="ana"))])
"""

from typing import TYPE_CHECKING

from agentmem.integrations import check_view, framework
from agentmem.integrations.transcript import TEXT

with framework("pydantic-ai"):
    from pydantic_ai import FunctionToolset

if TYPE_CHECKING:
    from agentmem.memory import ScopedMemory


def memory_tools(memory: "ScopedMemory", *, max_tokens: int = 500) -> FunctionToolset[None]:
    """Returns a toolset with `remember` and `recall`. The model names texts and queries, and no owner.

    Args:
        memory: A view of the owner, `memory.scope(...)`.
        max_tokens: The budget of what `recall` answers, as in `Memory.context`.

    Raises:
        InvalidInputError: the memory is no view.
    """
    view = check_view(memory)

    def remember(fact: str) -> str:
        """Remember a fact for later conversations.

        Args:
            fact: One fact, in a sentence that needs no other.
        """
        view.add(fact, dedupe=True)
        return "Remembered."

    def recall(query: str) -> str:
        """Search what is known from earlier conversations.

        Args:
            query: What to look for, in a few words or a question.
        """
        return str(view.context(query, max_tokens=max_tokens, filters=TEXT)) or "Nothing is known about that."

    return FunctionToolset([remember, recall])
