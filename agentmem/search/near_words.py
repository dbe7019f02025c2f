"""Near words: English words that say nearly the same as a word of the query, from a table made once of `minilm-static`.

A question about pets finds the dog: a near word counts as a part of the query's own.
"""

from collections.abc import Iterable, Mapping
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

    def links(self, terms: Iterable[int]) -> list[tuple[int, int, float]]:
        """Returns the terms near those of a query, each with the number of the query's term and what it counts of it.

        All are looked up together: a few numpy calls a query, instead of some for each word.
        """
        wanted = np.fromiter(terms, np.uint32)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        places = np.flatnonzero(self._keys[at] == wanted)
        starts = self._starts[at[places]].astype(np.intp)
        counts = self._starts[at[places] + 1].astype(np.intp) - starts
        here = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        near, factors = self._terms[self._near[here]], self._factors[here]
        return list(zip(near.tolist(), np.repeat(places, counts).tolist(), factors.tolist(), strict=True))

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
    return Sought.of(words, near_words().links(words))
