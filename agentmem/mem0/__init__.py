"""Mem0's interface over an agentmem store: `from agentmem.mem0 import Memory` instead of `from mem0 import Memory`.

Signatures, return shapes and the filter language are Mem0's. Threads, processes, durability and the meaning of a filter
are agentmem's. `Memory.store` is the underlying `agentmem.Memory`, for calls that Mem0 does not have.
"""

from agentmem.mem0.memory import Memory, UnknownMemoryError
from agentmem.mem0.types import (
    Added,
    AddedMemory,
    ChatMessage,
    Confirmation,
    Found,
    FoundMemory,
    HistoryEntry,
    ListedMemory,
    Listing,
    ScoreDetails,
    StoredMemory,
)

__all__ = [
    "Added", "AddedMemory", "ChatMessage", "Confirmation", "Found", "FoundMemory", "HistoryEntry", "ListedMemory",
    "Listing", "Memory", "ScoreDetails", "StoredMemory", "UnknownMemoryError",
]  # fmt: skip
