"""Cosines: the only door to the kernels that compare one vector with many."""

import numkong
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16]


def cosines(query: Vectors, vectors: Vectors) -> npt.NDArray[np.float64]:
    """Of a query's vector (dimension,) and each of the others (n, dimension), all of unit length: float64 (n,)."""
    if not len(vectors):
        return np.empty(0)
    found: npt.NDArray[np.float64] = np.asarray(numkong.cdist(query[np.newaxis], vectors, "dot"), np.float64)
    return found.reshape(-1)
