"""Embedders that stand for different models: what one makes of a text is nothing to what another makes of it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from agentmem.testing import HashEmbedder


class Turned(HashEmbedder):
    """A HashEmbedder whose space is turned: as good as it among its own, at random among others'. `before` is called
    with the texts of each batch, on the thread that embeds it."""

    def __init__(self, dimension: int = 64, turn: int = 7, before: Callable[[list[str]], object] = len) -> None:
        super().__init__(dimension)
        self.identity = f"tests.turned:{turn}:{dimension}"
        self.turn = turn
        self.before = before
        self.texts = 0

    def __repr__(self) -> str:
        return f"Turned({self.dimension}, turn={self.turn})"

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        self.before(texts)
        self.texts += len(texts)
        return np.roll(super().embed(texts), self.turn, axis=1)
