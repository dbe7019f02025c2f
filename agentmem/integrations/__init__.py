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
