"""Extensions for frameworks, one module each. A module imports its framework, and nothing else imports the module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory


@contextmanager
def framework(extra: str) -> Iterator[None]:
    """Surrounds the import of a framework, so that one which is missing names the extra that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"This integration needs {error.name}; install 'agentmem[{extra}]'.", name=error.name
        ) from error


def check_memory(memory: Any) -> "Memory | ScopedMemory":
    """Returns the memory that an adapter was given.

    Raises:
        InvalidInputError: it is neither a Memory nor a view of one.
    """
    from agentmem.memory import Memory, ScopedMemory

    if not isinstance(memory, Memory | ScopedMemory):
        raise InvalidInputError(f"memory is {shorten(memory)}; pass a Memory, or a view such as memory.scope(...).")
    return memory


def check_view(memory: Any) -> "ScopedMemory":
    """Returns the view that an adapter was given, whose owner all of its memories have.

    Raises:
        InvalidInputError: it is no view, so that nothing says whose the memories are.
    """
    from agentmem.memory import Memory, ScopedMemory

    if isinstance(memory, Memory) or not isinstance(memory, ScopedMemory):
        raise InvalidInputError(f"memory is {shorten(memory)}; pass a view of an owner: memory.scope(user_id='ana').")
    return memory
