"""What ranking needs to know of each memory, beside its vector and its words."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.search.bm25 import Mask


class Columns(NamedTuple):
    """Of some memories (m,), each column one value a memory; `lengths` is the number of terms."""

    keys: npt.NDArray[np.int64]
    created_at: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int64]
    embedded: Mask
    asks: Mask
    lengths: npt.NDArray[Any]

    def at(self, places: npt.NDArray[Any]) -> "Columns":
        return Columns(*(column[places] for column in self))
