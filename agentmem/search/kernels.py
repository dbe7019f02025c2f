"""Cosines: the only importer of the kernels that compare one vector with many."""

import numkong
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16]

Cosines = npt.NDArray[np.float64]

STEPS = 127
"""The largest value of a vector in int8."""


def cosines(query: Vectors, vectors: Vectors) -> Cosines:
    """Returns the cosines of a query's vector (dimension,) and each of the others (n, dimension), all of unit length:
    float64 (n,)."""
    if not len(vectors):
        return np.empty(0)
    found: Cosines = np.asarray(numkong.cdist(query[np.newaxis], vectors, "dot"), np.float64)
    return found.reshape(-1)


def in_steps(vectors: Vectors) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Returns vectors (n, dimension) in int8, each in steps of its own size, float32 (n,)."""
    wide = vectors.astype(np.float32)
    steps = np.abs(wide).max(axis=1, initial=0) / STEPS
    counts = np.rint(wide / np.where(steps > 0, steps, 1)[:, np.newaxis])
    return counts.astype(np.int8), steps.astype(np.float32)


def cosines_in_steps(query: Vectors, vectors: npt.NDArray[np.int8], steps: npt.NDArray[np.float32]) -> Cosines:
    """Returns the cosines with vectors that are `in_steps`; off by some thousandths."""
    if not len(vectors):
        return np.empty(0)
    counts, step = in_steps(query[np.newaxis])
    found: Cosines = np.asarray(numkong.cdist(counts, vectors, "dot"), np.float64)
    return found.reshape(-1) * (float(step[0]) * steps)
