"""The exit codes, their meanings, and the code of each error."""

from agentmem.errors import (
    AgentMemError,
    DeadlineError,
    EmbeddingError,
    InvalidInputError,
    ModelError,
    NotFoundError,
    OverloadedError,
)

DONE, NOTHING, WRONG_INPUT, STORE_REFUSED, MODEL_FAILED, DEFECT, INTERRUPTED, UNREAD = 0, 1, 2, 3, 4, 5, 130, 141

MEANINGS = {
    DONE: "done",
    NOTHING: "nothing found, stored or deleted; an id that is missing; an unhealthy store; something `repair` lost",
    WRONG_INPUT: "wrong usage or input",
    STORE_REFUSED: "the store, or the system, refused",
    MODEL_FAILED: "the model failed, or was too busy",
    DEFECT: "a defect of agentmem; --debug shows where",
    INTERRUPTED: "interrupted; what was acknowledged is stored",
    UNREAD: "the reader of the output went away",
}


def code_of(error: AgentMemError) -> int:
    """Returns the exit code of an error."""
    if isinstance(error, InvalidInputError | NotFoundError):
        return WRONG_INPUT
    if isinstance(error, ModelError | EmbeddingError | OverloadedError | DeadlineError):
        return MODEL_FAILED
    return STORE_REFUSED
