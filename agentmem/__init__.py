"""Memory for AI agents that runs inside your Python process: synchronous, durable, offline, fast.

    from agentmem import Memory

    with Memory("agent.db") as memory:
        memory.add("Prefers window seats", user_id="ana")
        for match in memory.search("where does she like to sit?", user_id="ana"):
            print(match.score, match.record.content)

Names are loaded when first used, so that importing the package costs next to nothing.
"""

from importlib import import_module

TYPE_CHECKING = False
"""True for type checkers, which know the name. Importing `typing` for it would be most of what this import costs."""

if TYPE_CHECKING:
    from agentmem.config import Config
    from agentmem.context import Context, Template
    from agentmem.errors import (
        AgentMemError,
        ClosedError,
        DeadlineError,
        DuplicateIdError,
        EmbeddingError,
        InvalidInputError,
        LanguageModelError,
        ModelError,
        ModelMismatchError,
        NotFoundError,
        OutcomeUnknownError,
        OverloadedError,
        StoreBusyError,
        StoreDamagedError,
        StoreError,
        StoreFullError,
        StoreLostError,
        StoreOpenError,
        StoreReadOnlyError,
        TooLongError,
    )
    from agentmem.memory import Memory, ScopedMemory
    from agentmem.records import Event, Match, Page, Record, Scope, Version
    from agentmem.stats import Stats, VacuumReport
    from agentmem.transfer.importer import ImportReport

__version__ = "0.1.0"

_HOMES = {
    "config": ("Config",),
    "context": ("Context", "Template"),
    "errors": (
        "AgentMemError", "ClosedError", "DeadlineError", "DuplicateIdError", "EmbeddingError", "InvalidInputError",
        "LanguageModelError", "ModelError", "ModelMismatchError", "NotFoundError", "OutcomeUnknownError",
        "OverloadedError", "StoreBusyError", "StoreDamagedError", "StoreError", "StoreFullError", "StoreLostError",
        "StoreOpenError", "StoreReadOnlyError", "TooLongError",
    ),
    "memory": ("Memory", "ScopedMemory"),
    "transfer.importer": ("ImportReport",),
    "records": ("Event", "Match", "Page", "Record", "Scope", "Version"),
    "stats": ("Stats", "VacuumReport"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AgentMemError", "ClosedError", "Config", "Context", "DeadlineError", "DuplicateIdError", "EmbeddingError", "Event",
    "ImportReport", "InvalidInputError", "LanguageModelError", "Match", "Memory", "ModelError", "ModelMismatchError",
    "NotFoundError",
    "OutcomeUnknownError", "OverloadedError", "Page", "Record", "Scope", "ScopedMemory", "Stats", "StoreBusyError",
    "StoreDamagedError", "StoreError", "StoreFullError", "StoreLostError", "StoreOpenError", "StoreReadOnlyError",
    "Template", "TooLongError", "VacuumReport", "Version", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'agentmem' has no attribute {name!r}")
    value = getattr(import_module(f"agentmem.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
