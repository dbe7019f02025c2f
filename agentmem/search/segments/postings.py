"""Postings: which places of a sealed segment have a term, and how often. Sorted once, then only read from a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]

COLUMNS = ("terms", "term_starts", "places", "counts", "lengths")


def sorted_postings(
    terms: npt.NDArray[np.uint32], places: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    """Returns the columns of the postings of n places.

    The terms (p,) stand at these places (p,), and `lengths` (n,) says how many each place has. The columns are `terms`
    uint32 (t,) ascending, `term_starts` int64 (t + 1,), `places` uint32 and `counts` uint16 (q,) by term and place,
    `lengths` uint32 (n,).
    """
    pairs = terms.astype(np.uint64) << np.uint64(32) | places
    pairs.sort()
    firsts = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])) if len(pairs) else np.empty(0, np.intp)
    counts = np.diff(np.append(firsts, len(pairs)))
    pairs = pairs[firsts]
    by_term = (pairs >> np.uint64(32)).astype(np.uint32)
    starts = np.flatnonzero(np.append(True, by_term[1:] != by_term[:-1])) if len(pairs) else np.empty(0, np.intp)
    return {
        "terms": by_term[starts],
        "term_starts": np.append(starts, len(pairs)).astype(np.int64),
        "places": pairs.astype(np.uint32),
        "counts": np.minimum(counts, 65_535).astype(np.uint16),
        "lengths": lengths.astype(np.uint32),
    }


class Postings:
    """Looks terms up in such columns.

    Attributes:
        places, counts, lengths: the columns of these names.
    """

    def __init__(self, columns: Columns) -> None:
        self._terms, self._starts, self.places, self.counts, self.lengths = (columns[name] for name in COLUMNS)

    def spans(self, sought: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """Returns the spans (t, 2) of the terms (t,) in `places` and `counts`. The span of a missing term is empty."""
        spans = np.zeros((len(sought), 2), np.int64)
        if len(self._terms):
            at = np.minimum(np.searchsorted(self._terms, sought), len(self._terms) - 1)
            known = np.flatnonzero(self._terms[at] == sought)
            spans[known, 0], spans[known, 1] = self._starts[at[known]], self._starts[at[known] + 1]
        return spans
