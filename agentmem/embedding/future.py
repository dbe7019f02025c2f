"""Texts in flight: what a call holds while its texts are on their way to their vectors."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from agentmem.deadline import late
from agentmem.embedding.batch import Answer
from agentmem.errors import AgentMemError
from agentmem.records import Embedded


class EmbeddingFuture:
    """The answers of one call's texts: each gets a vector, an error, or ClosedError. Belongs to the thread that made
    it, which cancels it if it gives up."""

    __slots__ = ("_complete", "_then", "answers", "cancelled", "digests", "on_cancel", "remaining")

    def __init__(self, digests: Sequence[bytes], then: "Callable[[EmbeddingFuture], None] | None" = None) -> None:
        """
        Args:
            digests: Of the texts.
            then: Is called once with this, on the thread that has the last answer, unless it is cancelled before.
        """
        self.digests = digests
        self.answers: list[Answer] = [b""] * len(digests)
        self.remaining = len(digests)
        self.cancelled = False
        self._then = then
        self.on_cancel: Callable[[EmbeddingFuture], None] | None = None  # Is told by `cancel`.
        self._complete = threading.Lock()
        self._complete.acquire()

    def answer(self, index: int, answer: Answer) -> bool:
        """Notes an answer; True if it was the last, after which `complete` is to be called. Not thread-safe."""
        self.answers[index] = answer
        self.remaining -= 1
        return not self.remaining

    def complete(self) -> None:
        """Hands the answers over."""
        self.on_cancel = None  # Which leads back to this: a reference cycle costs 20 microseconds.
        if self._then is not None and not self.cancelled:
            self._then(self)
        with suppress(RuntimeError):  # It was called before, and an error struck.
            self._complete.release()

    def result(self, timeout: float) -> list[Answer]:
        """Waits for all the answers; cancels the rest when it raises.

        Raises:
            DeadlineError: They have not come within `timeout` seconds.
        """
        try:
            if not self._complete.acquire(timeout=timeout):
                raise late(timeout)
        except BaseException:
            self.cancel()
            raise
        self._complete.release()
        return self.answers

    def embedded(self, timeout: float) -> list[Embedded | AgentMemError]:
        """The answers for documents, as the store takes them. Waits and raises as `result` does."""
        return to_store(self.digests, self.result(timeout))

    def cancel(self) -> None:
        """Gives the texts up: what only this call wants and what has not begun is never run."""
        self.cancelled = True
        if self.on_cancel is not None:
            self.on_cancel(self)


def to_store(digests: Sequence[bytes], answers: Sequence[Answer]) -> list[Embedded | AgentMemError]:
    """Answers for documents as the store takes them."""
    return [
        Embedded(digest, answer) if isinstance(answer, bytes) else answer
        for digest, answer in zip(digests, answers, strict=True)
    ]


def failure_of(answers: Sequence[Answer]) -> AgentMemError | None:
    """The first error among answers."""
    return next((answer for answer in answers if isinstance(answer, AgentMemError)), None)
