"""Texts that go to the model together, and the text at fault when it fails."""

import uuid
from collections.abc import Mapping, Sequence

from agentmem.embedding.batch import Answer
from agentmem.embedding.embedder import Embedder
from agentmem.embedding.future import to_store
from agentmem.errors import AgentMemError, EmbeddingError
from agentmem.ids import Home
from agentmem.records import Embedded


class DocumentBatch:
    """Some texts on their way through the model, as documents; belongs to the thread that sends them. Making one blocks
    and raises as `Embedder.send` does."""

    def __init__(
        self,
        embedder: Embedder,
        texts: Sequence[str],
        homes: Sequence[Home],
        *,
        urgent: bool,
        timeout: float,
        refine: bool = False,
    ) -> None:
        """With `refine`, threads of low priority work on the texts, and everything else goes first."""
        self.texts = texts
        self._homes = homes
        self._embedder = embedder
        if refine:
            self._sent = embedder.refine(texts, homes)
        else:
            self._sent = embedder.send(texts, homes, "document", urgent=urgent, timeout=timeout)
        self.cancel = self._sent.cancel

    def answers(self, timeout: float) -> list[Embedded | AgentMemError]:
        """A vector for each text, or the fault of the text.

        Raises:
            DeadlineError: they do not come in time.
            EmbeddingError: the fault is the model's, which fails on a harmless text too.
            ClosedError: they will never come.
        """
        answers = dict(enumerate(self._sent.result(timeout)))
        if failed := _failures(answers):
            if not self._model_works(timeout):
                raise failed[min(failed)]
            # Once more: the model may have come back only after it had failed on them.
            texts, homes = [self.texts[place] for place in failed], [self._homes[place] for place in failed]
            again = self._embedder.embed(texts, homes, "document", urgent=False, timeout=timeout)
            answers |= zip(failed, again, strict=True)
            _failures(answers)
        return to_store(self._sent.digests, list(answers.values()))

    def _model_works(self, timeout: float) -> bool:
        """Asks with a text that no cache can know.

        Otherwise an hour without the model would condemn its deferred texts, and a text that no model takes would be
        tried for ever.
        """
        [answer] = self._embedder.embed([f"hello {uuid.uuid4().hex}"], [None], "document", urgent=True, timeout=timeout)
        return isinstance(answer, bytes)


def _failures(answers: Mapping[int, Answer]) -> dict[int, EmbeddingError]:
    """The places of the texts that the embedder failed on; any other error (the end, a full line) is raised."""
    failed = {}
    for place, answer in answers.items():
        if isinstance(answer, EmbeddingError):
            failed[place] = answer
        elif isinstance(answer, AgentMemError):
            raise answer
    return failed
