"""The fast half of vectors, for models that have one: computed at once, on the thread of the caller that needs it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from agentmem.embedding.batch import Answer, embed_batch

MOST_TEXTS = 64
"""In one run. Beyond, a run of the bundled model gains nothing, and other threads wait longer for their turn."""

MOST_CHARACTERS = 16_384
"""In one run, padding included: about 4,000 tokens, for which the bundled model takes 4 MB."""


class FastEncoder(Protocol):
    """A model, or an embedder that was given, with a fast half."""

    def fast(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


def fast_vectors(
    encoder: FastEncoder, texts: Sequence[str], dimension: int, length: float, ensure_open: Callable[[], None]
) -> list[Answer]:
    """The fast half of each text's vector, as float16 bytes of this length, or the error of the text.

    Runs texts of similar length together. An error that is not of the model (an interrupt) goes through.
    """
    answers: list[Answer] = [b""] * len(texts)
    for places in _batches(texts):
        ensure_open()
        batch = embed_batch(encoder.fast, [texts[place] for place in places], dimension, Exception, length)
        for place, answer in zip(places, batch, strict=True):
            answers[place] = answer
    return answers


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """The places of the texts, in groups of similar length."""
    group: list[int] = []
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        if group and (len(group) == MOST_TEXTS or (len(group) + 1) * len(texts[place]) > MOST_CHARACTERS):
            yield group
            group = []
        group.append(place)
    if group:
        yield group
