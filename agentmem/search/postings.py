"""Postings: which places of a sealed segment have a term, and how often. Sorted once, then only read, from a file."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from agentmem.search.keywords import Found

Columns = Mapping[str, npt.NDArray[np.generic]]

COLUMNS = ("terms", "term_starts", "places", "counts", "lengths")


def sorted_postings(
    terms: npt.NDArray[np.uint32], places: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of the postings of n places: of the terms (p,) that stand at these places (p,); `lengths` (n,) says
    how many each place has. `terms` uint32 (t,) ascending, `term_starts` int64 (t + 1,), `places` uint32 and `counts`
    uint16 (q,) by term and place, `lengths` uint32 (n,)."""
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
    """Looks terms up in such columns."""

    def __init__(self, columns: Columns) -> None:
        self._terms, self._starts, self._places, self._counts, lengths = (columns[name] for name in COLUMNS)
        self.lengths = lengths

    def found(self, sought: npt.NDArray[np.uint32]) -> Found:
        """Where the terms (t,) stand: for each hit the index of its term, its place, and how often it stands there."""
        at = np.minimum(np.searchsorted(self._terms, sought), max(0, len(self._terms) - 1))
        known = np.flatnonzero(self._terms[at] == sought) if len(self._terms) else np.empty(0, np.intp)
        slices = [slice(int(self._starts[at[word]]), int(self._starts[at[word] + 1])) for word in known.tolist()]
        if not slices:
            return Found(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.intp))
        return Found(
            np.repeat(known, [each.stop - each.start for each in slices]),
            np.concatenate([self._places[each] for each in slices]).astype(np.intp),
            np.concatenate([self._counts[each] for each in slices]).astype(np.intp),
        )
