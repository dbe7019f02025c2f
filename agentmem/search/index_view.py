"""A view: an index as it stands between two changes of its owner's memories."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.filters import Filter
from agentmem.records import Scope
from agentmem.search.bm25 import Mask, Places, TermsView
from agentmem.search.columns import Columns
from agentmem.search.kernels import cosines, cosines_in_steps
from agentmem.search.segments.reader import Parts
from agentmem.storage.interface import Snapshot
from agentmem.storage.types import NEVER, Keys

FILTERS_KEPT = 8
"""Filters whose answers an index keeps: the same few come again and again, with other queries."""


class Answer(NamedTuple):
    """Which places satisfied a filter at a moment, by the change `seq`: the first ones of an index, and those of its
    parts."""

    seq: int
    moment: int
    masks: list[Mask]


class Answers:
    """What the database answered of the filters that were asked last, by their digests: a filter may be large. Shared
    by the views of an index for as long as its places only become more; may be used from any thread."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Answer] = {}

    def get(self, asked: bytes, snapshot: Snapshot) -> Answer | None:
        answer = self._kept.get(asked)
        # When a later moment was asked about, more had expired.
        if answer is None or answer.moment > snapshot.moment or answer.seq > snapshot.seq:
            return None
        return answer

    def keep(self, asked: bytes, answer: Answer) -> None:
        if len(self._kept) >= FILTERS_KEPT:
            self._kept.clear()
        self._kept[asked] = answer


class IndexView:
    """An index as it stands between two changes: n places. Shared by all threads that search meanwhile; what several
    searches need is worked out by the first (threads that come together find the same).

    Attributes:
        live: False where the memory has changed or gone away.
        is_pending: whether a memory waits for its vector; then all are compared by the fast half, which all have.
        created_at, expires_at: in microseconds.
        columns: what ranking needs of each place; `lengths` is the number of its terms.
        parts: what is sealed, beside these places.
    """

    def __init__(
        self, seq: int, columns: Mapping[str, npt.NDArray[Any]], terms: TermsView, parts: Parts, answers: Answers
    ) -> None:
        self._seq = seq  # A snapshot before it may see less than this view.
        self.keys: Keys = columns["keys"]
        self._vectors: npt.NDArray[Any] = columns["vectors"]
        self._steps: npt.NDArray[np.float32] | None = columns.get("steps")
        self.embedded: Mask = columns["embedded"]
        self._whole: Mask = columns["whole"]
        # The only column that changes in place: a memory whose old place dies has its new one beyond this view.
        self.live: Mask = columns["live"].copy()
        self.created_at: Keys = columns["created_at"]
        self.expires_at: Keys = columns["expires_at"]
        self.terms = terms
        self.lengths = terms.lengths()
        self.columns = Columns(
            self.keys, self.created_at, columns["runs"], self.embedded, columns["asks"], self.lengths
        )  # fmt: skip
        self.parts = parts
        self._answers = answers
        self.is_pending = bool((self.live & ~self._whole).any())
        self._first_expiry = int(self.expires_at.min(initial=NEVER))
        self._in_order: Places | None = None
        self._searchable: Places | None = None

    def passing(self, snapshot: Snapshot, scope: Scope, filters: Filter | None) -> list[Mask]:
        """Which of the places that a snapshot sees are of a scope and satisfy a filter: those of the index, and then
        those of each part. Not to be changed. The database is asked once for all searches with the same filter, and
        afterwards only about what has changed."""
        if snapshot.seq < self._seq:
            return self._at(snapshot.keys(scope, filters))
        count = len(self.keys)
        asked = blake2b(repr((scope, filters)).encode(), digest_size=16).digest()
        answer = self._answers.get(asked, snapshot)
        if answer is None:
            answer = Answer(snapshot.seq, snapshot.moment, self._at(snapshot.keys(scope, filters)))
            self._answers.keep(asked, answer)
        elif (known := len(answer.masks[0])) < count:
            more = self.keys[known:]
            found = np.isin(more, snapshot.keys(scope, filters, more))
            answer = Answer(
                snapshot.seq, snapshot.moment, [np.concatenate((answer.masks[0], found)), *answer.masks[1:]]
            )
            self._answers.keep(asked, answer)
        return [answer.masks[0][:count], *answer.masks[1:]]

    def _at(self, keys: Keys) -> list[Mask]:
        keys = np.sort(keys) if len(self.parts) else keys
        return [np.isin(self.keys, keys), *(part.holding(keys) for part in self.parts)]

    def visible(self, moment: int) -> Mask:
        """Which of the places are neither gone nor expired at a moment. Not to be changed."""
        return self.live if moment < self._first_expiry else self.live & (self.expires_at > moment)

    def with_vectors(self, passing: Mask) -> Places:
        """Those of the passing places (n,) that have a vector."""
        if passing is not self.live:
            return np.flatnonzero(passing & self.embedded)
        if self._searchable is None:
            self._searchable = np.flatnonzero(self.live & self.embedded)
        return self._searchable

    def in_order(self, passing: Mask) -> Places:
        """The passing places (n,) by run and age."""
        if self._in_order is None:
            order = np.lexsort((self.keys, self.columns.runs))
            self._in_order = order[self.live[order]]
        return self._in_order if passing is self.live else self._in_order[passing[self._in_order]]

    def scores(self, query: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        """The cosine of each place's vector and the query's (dimension,), both of unit length."""
        return (
            cosines(query, self._vectors)
            if self._steps is None
            else cosines_in_steps(query, self._vectors, self._steps)
        )
