"""Every error that agentmem raises, one sentence each.

All of them derive from `AgentMemError`; where Python has a built-in of the same meaning they derive from that too, so
that `except ValueError` or `except TimeoutError` work as one expects. A message names the value and the next step.
"""

REPAIR_HINT = "run check() for where, then repair() (`agentmem repair` on the command line) or restore a backup"
"""The next step that errors of a damaged file name."""


class AgentMemError(Exception):
    """Anything that agentmem itself raises."""

    position: int | None = None
    """Which of the texts that were handed over together it is about, where there were several."""


class InvalidInputError(AgentMemError, ValueError):
    """An argument cannot be used as it is; nothing was queued or written."""


class TooLongError(InvalidInputError):
    """A text, or the JSON of its metadata, has more bytes than `Config` allows; nothing was queued or written."""


class DuplicateIdError(InvalidInputError):
    """The id given to `add` belongs to a memory that its home has already (perhaps deleted); nothing was written."""


class NotFoundError(AgentMemError, LookupError):
    """No memory with this id can be changed here: never stored, deleted, expired, or of another owner."""


class ClosedError(AgentMemError, RuntimeError):
    """The memory was closed, or belongs to the parent of this forked process; what was not answered was not written."""


class OverloadedError(AgentMemError, TimeoutError):
    """The queue of texts to embed stayed full for the whole timeout; nothing was written, a retry is safe."""


class DeadlineError(AgentMemError, TimeoutError):
    """The answer did not come within the timeout; nothing was written, unless the message says otherwise, and a retry
    is safe."""


class EmbeddingError(AgentMemError, RuntimeError):
    """The embedder failed on this text, or answered with something that is not a vector; nothing was written."""


class LanguageModelError(AgentMemError, RuntimeError):
    """The language model that was to extract facts failed or cannot be reached; nothing was written."""


class ModelError(AgentMemError):
    """A model is unknown, incomplete, damaged, or cannot be loaded."""


class ModelMismatchError(ModelError):
    """The store's vectors were made by another model than the one asked for, or by one that is not here."""


class StoreError(AgentMemError):
    """The database refused; the message says why."""


class StoreOpenError(StoreError):
    """The path cannot be opened as a store: a directory, unreadable, not a database, or of another application."""


class StoreBusyError(StoreError, TimeoutError):
    """Others kept a lock of the file longer than `Config.busy_timeout`; nothing was written, unless the message says
    otherwise, and a retry is safe."""


class StoreFullError(StoreError):
    """The disk, a quota or the allowed size of a file is full; the message says what takes the room, and what became of
    the call. Reading, deleting and erasing go on."""


class StoreLostError(StoreError):
    """The store is not at its path any more: deleted, moved, or another file has taken its place. Nothing was
    acknowledged; `backup` saves what the process still has."""


class OutcomeUnknownError(StoreError):
    """The disk failed in the commit and could not be asked afterwards: the write is stored whole, or not at all."""


class StoreReadOnlyError(StoreError):
    """The file or its folder cannot be written; reads go on working."""


class StoreDamagedError(StoreError):
    """The database file is damaged; `check()` says where, `repair()` mends it."""
