"""Every error that agentmem raises, one sentence each.

All of them derive from `AgentMemError`. Where Python has a built-in error of the same meaning, they derive from that
too, so that `except ValueError` or `except TimeoutError` work. A message names the value and the next step.
"""

REPAIR_HINT = "run check() for where, then repair() (`agentmem repair` on the command line) or restore a backup"
"""The next step that errors of a damaged file name."""


class AgentMemError(Exception):
    """Any error of agentmem."""

    position: int | None = None
    """The index of the text at fault, where several were passed together."""


class InvalidInputError(AgentMemError, ValueError):
    """An argument cannot be used; nothing was written."""


class TooLongError(InvalidInputError):
    """A text, or the JSON of its metadata, has more bytes than `Config` allows; nothing was written."""


class DuplicateIdError(InvalidInputError):
    """The home has a memory of this id already, perhaps a deleted one; nothing was written."""


class NotFoundError(AgentMemError, LookupError):
    """No memory with this id can be changed here: never stored, deleted, expired, or of another owner."""


class ClosedError(AgentMemError, RuntimeError):
    """The memory was closed, or belongs to the parent of this forked process; unanswered calls wrote nothing."""


class OverloadedError(AgentMemError, TimeoutError):
    """The queue of texts to embed stayed full for the whole timeout; nothing was written, a retry is safe."""


class DeadlineError(AgentMemError, TimeoutError):
    """No answer came in time. Unless the message says otherwise, nothing was written; a retry is safe."""


class EmbeddingError(AgentMemError, RuntimeError):
    """The embedder failed on this text, or returned no usable vector; nothing was written."""


class LanguageModelError(AgentMemError, RuntimeError):
    """The language model that extracts facts failed or cannot be reached; nothing was written."""


class ModelError(AgentMemError):
    """A model is unknown, incomplete, damaged, or cannot be loaded."""


class ModelMismatchError(ModelError):
    """Another model made the store's vectors, or the store's model is not on this machine."""


class StoreError(AgentMemError):
    """The database refused; the message says why."""


class StoreOpenError(StoreError):
    """The path cannot be opened as a store: a directory, unreadable, or no database of agentmem."""


class StoreBusyError(StoreError, TimeoutError):
    """Another process kept a lock longer than `Config.busy_timeout`. Unless the message says otherwise, nothing was
    written; a retry is safe."""


class StoreFullError(StoreError):
    """The disk, a quota or a size limit is full; the message says what became of the call. Reading, deleting and
    erasing still work."""


class StoreLostError(StoreError):
    """The store is no longer at its path: deleted, moved or replaced. Nothing was acknowledged; `backup` saves what the
    process still has."""


class OutcomeUnknownError(StoreError):
    """The disk failed in the commit and could not be asked afterwards: the write is stored whole, or not at all."""


class StoreReadOnlyError(StoreError):
    """The file or its folder cannot be written; reads still work."""


class StoreDamagedError(StoreError):
    """The database file is damaged; `check()` says where, `repair()` repairs it."""
