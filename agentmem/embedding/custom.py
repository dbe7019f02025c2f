"""Models that are not of the catalog: an embedder that the application gives, and the absence of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from agentmem.embedding.queue import CHARACTERS_A_TOKEN
from agentmem.errors import InvalidInputError, ModelError
from agentmem.quoting import shape, shorten


class GivenEmbedder(Protocol):
    """What `Memory(embedder=...)` takes. `identity` names the model and everything that changes its vectors. `embed`
    returns float32 (n, dimension), one row a text. One thread calls it at a time, unless `Config.workers` says more."""

    identity: str
    dimension: int

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]: ...


class FastEmbedder(GivenEmbedder, Protocol):
    """A given embedder with a fast half: a part f of every vector v that costs next to nothing, orthogonal to the rest
    of v. `fast_share` is the squared length of f for a v of length one, the same for every text. `embed_fast` returns f
    in all dimensions, at any length, as float32 (n, dimension). Several threads may call it at once."""

    fast_share: float

    def embed_fast(self, texts: list[str]) -> npt.NDArray[np.float32]: ...


class CustomModel:
    """A given embedder with the attributes of a model card and the methods of a loaded model."""

    query_prefix = document_prefix = ""

    def __init__(self, embedder: GivenEmbedder) -> None:
        """
        Raises:
            InvalidInputError: It lacks an attribute or method, or one of them cannot be used.
        """
        for attribute in ("identity", "dimension", "embed"):
            if not hasattr(embedder, attribute):
                raise InvalidInputError(
                    f"embedder is {shape(embedder)}, without {attribute!r}; see agentmem/GUIDE.md on embedder=."
                )
        identity, dimension = embedder.identity, embedder.dimension
        if not isinstance(identity, str) or not identity:
            raise InvalidInputError(f"embedder.identity is {shape(identity)}; it must name the model, as text.")
        if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= 65_536:
            raise InvalidInputError(
                f"embedder.dimension is {shorten(dimension)}; it must be a whole number from 1 to 65,536."
            )
        if not callable(embedder.embed):
            raise InvalidInputError(
                f"embedder, {shape(embedder)}, has no method embed(texts); see agentmem/GUIDE.md on embedder=."
            )
        share = getattr(embedder, "fast_share", 0.0)
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise InvalidInputError(
                f"embedder.fast_share is {shorten(share)}; it must be the share of the fast half, between 0 and 1."
            )
        if share and not callable(getattr(embedder, "embed_fast", None)):
            raise InvalidInputError(
                f"embedder, {shape(embedder)}, has fast_share and no method embed_fast(texts); add it."
            )
        self.identity, self.dimension, self.fast_share = identity, dimension, float(share)
        self.name = type(embedder).__name__
        self._embedder = embedder

    def prepare(self, texts: Sequence[str]) -> list[tuple[str, int]]:
        """Returns each text, and about how many tokens it has."""
        return [(text, 1 + len(text) // CHARACTERS_A_TOKEN) for text in texts]

    def run(self, items: Sequence[str]) -> npt.NDArray[np.float32]:
        return self._embedder.embed(list(items))

    def fast(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return cast(FastEmbedder, self._embedder).embed_fast(list(texts))


@dataclass(frozen=True, slots=True)
class AbsentModel:
    """The model of a store that is opened without one: what the store knows of it, by default nothing."""

    identity: str = "none"
    dimension: int = 1
    name: str = "none"
    document_prefix: str = ""
    query_prefix: str = ""
    fast_share: float = 0.0

    def error(self) -> ModelError:
        """Returns the error of calls that need a model."""
        return ModelError("This memory was opened without a model (model=None); open it with one to embed texts.")
