"""One run of the model: items in, answers out; a text that the model fails on does not harm those beside it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agentmem.errors import AgentMemError, EmbeddingError

Answer = bytes | AgentMemError
"""A vector as float16 bytes, or why there is none."""

Failures = type[BaseException] | tuple[type[BaseException], ...]

SHORTEST = 1e-12
"""A vector that is shorter counts as zero, which has no direction."""


def embed_batch(
    run: Callable[[list[Any]], npt.NDArray[np.float32]],
    items: Sequence[Any],
    dimension: int,
    failures: Failures,
    length: float = 1.0,
) -> list[Answer]:
    """Runs the items together; if that fails, halves them until the guilty one is alone.

    Args:
        failures: Errors of the model; they become answers. Others go through.
        length: Of the vectors.

    Returns:
        For each item its vector, or the error.
    """
    if not items:
        return []
    try:
        return _scaled(run(list(items)), len(items), dimension, length)
    except failures as error:
        if len(items) == 1:
            return [failure(error)]
    middle = len(items) // 2
    first = embed_batch(run, items[:middle], dimension, failures, length)
    return first + embed_batch(run, items[middle:], dimension, failures, length)


def _scaled(vectors: npt.NDArray[np.float32], count: int, dimension: int, length: float) -> list[Answer]:
    """The rows as float16 bytes of this length. Copies: a row must not keep the batch's buffer alive."""
    shape = np.shape(vectors)
    if shape != (count, dimension):
        raise EmbeddingError(
            f"The embedder answered with shape {shape} instead of {(count, dimension)}; check its embed()."
        )
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    good = np.isfinite(norms) & (norms > SHORTEST)
    if not good.all():
        # An error and no answer: one text's NaN may have come over its batch-mates, which are well when apart.
        raise EmbeddingError("The embedder answered with a vector that is zero or not finite; check its embed().")
    scaled = (vectors / (norms / length)[:, np.newaxis]).astype("<f2")
    return [row.tobytes() for row in scaled]


def failure(error: BaseException) -> AgentMemError:
    """What callers are told of an error of the embedder."""
    if isinstance(error, AgentMemError):
        return error
    told = EmbeddingError(
        f"The embedder failed on this text ({type(error).__name__}: {error}); see to the embedder or the text."
    )
    told.__cause__ = error
    return told
