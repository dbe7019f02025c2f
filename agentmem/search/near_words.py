"""Near words: English words that say nearly the same as a word of the query, from a table made once of `minilm-static`.

A question about pets finds the dog: a near word counts as a part of the query's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from agentmem.analyzer import ANALYSIS, stored_term
from agentmem.search.bm25 import Sought

NEAR_SHARE = 0.3
"""What a near word counts, times its cosine, of the query's own word (perf/README.md)."""

MOST_WORDS = 32
"""Of a query, up to which its words have near ones: a longer one has words enough."""

TABLE = Path(__file__).parents[1] / "models" / "minilm-static" / "near_words.npz"
FROM_CHECKOUT = Path(__file__).parents[2] / "models" / "minilm-static" / "near_words.npz"

_STEPS = 255  # Of a cosine in the table.


class NearWords:
    """The table. May be read from any thread."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files}
        self._words: bytes = columns["words"].tobytes()
        self._terms = columns["terms"]
        if columns["analysis"].tobytes().decode() != ANALYSIS:  # Other stems than when the table was made.
            self._terms = np.array([stored_term(word) for word in self._texts], np.uint32)
        self._keys, self._starts, self._near = columns["keys"], columns["starts"], columns["near"]
        self._factors = (columns["cosines"] * (NEAR_SHARE / _STEPS)).astype(np.float32)

    @cached_property
    def _texts(self) -> list[str]:
        return self._words.decode().split("\n")

    def of(self, term: int) -> Iterator[tuple[int, float]]:
        """Returns the terms near one, with what each counts of it."""
        at = int(np.searchsorted(self._keys, term))
        if at < len(self._keys) and self._keys[at] == term:
            here = slice(int(self._starts[at]), int(self._starts[at + 1]))
            yield from zip(self._terms[self._near[here]].tolist(), self._factors[here].tolist(), strict=True)

    def text(self, term: int) -> str:
        """Returns a word that has the term."""
        return self._texts[int(np.flatnonzero(self._terms == term)[0])]


@lru_cache(1)
def near_words() -> NearWords:
    """Returns the table that comes with the package, read once."""
    return NearWords(TABLE if TABLE.exists() else FROM_CHECKOUT)


def with_near_words(words: Mapping[int, str]) -> Sought:
    """Returns what a search looks for: the words of a query, and those near them."""
    if len(words) > MOST_WORDS:
        return Sought.of(words)
    links: Sequence[tuple[int, int, float]] = [
        (near, place, factor) for place, term in enumerate(words) for near, factor in near_words().of(term)
    ]
    return Sought.of(words, links)
