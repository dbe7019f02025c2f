"""A made-up world for `scale.py`: owners, their memories, and an embedder that understands them, all from seeds.

Words are drawn as in language: the n-th 1 / n as often as the first. Some are common words, the others those of a
topic; every owner has topics of its own. The vector of a text is the sum of its words' vectors. Each of those is the
centre of its topic plus a part of its own. So texts lie in clusters, and near ones share topics and words. Two of a
topic have a cosine of about 0.5, two others of about 0.
"""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import measure
import numpy as np

COMMON = measure.WORDS
TOPICS = 256
WORDS_A_TOPIC = 30
DIMENSION = 384
WORDS_A_TEXT = 16
WORDS_A_QUERY = 6
BLOCK = 4096
"""Texts that are drawn at once. A text depends on its number only, so that an interrupted build can resume."""
MEMORIES_AN_OWNER = 100
"""Memories of an owner on average."""
MEMORIES_A_RUN = 20
COMMON_SHARE = 0.4
COMMON_WEIGHT = 0.2
OWN_WEIGHT = 3.0


def _made_up(count: int) -> list[str]:
    """Made-up words of three syllables."""
    syllables = [consonant + vowel for consonant, vowel in product("bdfghklmnprstvz", "aeiou")]
    return ["".join(each) for each in random.Random(5).sample(list(product(syllables, repeat=3)), count)]


def _zipf(count: int) -> np.ndarray:
    """The cumulative share of each rank, up to 1."""
    ends: np.ndarray = np.cumsum(1 / np.arange(1, count + 1))
    return ends / ends[-1]


class World:
    """`size` memories of one owner, or of many owners with Zipf-distributed sizes in random order."""

    def __init__(self, size: int, *, one_owner: bool = False, duplicates: float = 0.0) -> None:
        self.size = size
        self._duplicates = duplicates
        self.owners = 1 if one_owner else max(1, size // MEMORIES_AN_OWNER)
        shares = 1 / np.arange(1, self.owners + 1)
        ends = np.round(np.cumsum(shares) / shares.sum() * size).astype(np.int64)
        self.sizes = np.diff(ends, prepend=0)
        """Memories of each owner, the largest first."""
        self._owner_of = np.random.default_rng(3).permutation(np.repeat(np.arange(self.owners), self.sizes))
        self._run_of = np.empty(size, np.int64)
        self._run_of[np.argsort(self._owner_of, kind="stable")] = np.arange(size) // MEMORIES_A_RUN
        self._words = [*COMMON, *_made_up(TOPICS * WORDS_A_TOPIC)]

    def items(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Returns the items for `add_batch`, from the start-th memory on."""
        for block in range(start // BLOCK, -(-self.size // BLOCK)):
            first = block * BLOCK
            owners = self._owner_of[first : first + BLOCK]
            for offset, (text, owner) in enumerate(zip(self._texts(block, owners), owners.tolist(), strict=True)):
                if (number := first + offset) >= start:
                    run = f"{owner}-{self._run_of[number]}"
                    yield {"content": text, "user_id": name_of(owner), "run_id": run, "metadata": {"n": number % 100}}

    def _texts(self, block: int, owners: np.ndarray) -> list[str]:
        draw = np.random.default_rng((1, block))
        texts = self._drawn(draw, owners, WORDS_A_TEXT)
        repeated = np.flatnonzero(draw.random(len(texts)) < self._duplicates)
        for place, other in zip(repeated.tolist(), draw.integers(0, len(texts), len(repeated)).tolist(), strict=True):
            texts[place] = texts[other]
        return texts

    def fresh(self, owners: list[int], seed: int) -> list[str]:
        """Texts for owners that no memory has."""
        return self._drawn(np.random.default_rng((2, seed)), np.array(owners), WORDS_A_TEXT)

    def queries(self, owners: list[int], seed: int) -> list[str]:
        """A question for each of the owners."""
        return self._drawn(np.random.default_rng((4, seed)), np.array(owners), WORDS_A_QUERY)

    def _drawn(self, draw: np.random.Generator, owners: np.ndarray, words: int) -> list[str]:
        count = len(owners)
        # An owner's first topic comes most often.
        topics = (owners * 37 + np.searchsorted(_zipf(TOPICS), draw.random(count))) % TOPICS
        own = len(COMMON) + topics[:, None] * WORDS_A_TOPIC
        own = own + np.searchsorted(_zipf(WORDS_A_TOPIC), draw.random((count, words)))
        common = np.searchsorted(_zipf(len(COMMON)), draw.random((count, words)))
        numbers = np.where(draw.random((count, words)) < COMMON_SHARE, common, own)
        known = self._words
        return [" ".join([known[number] for number in row]) for row in numbers.tolist()]

    def owners_of(self, least: int, most: int, count: int, seed: int) -> list[int]:
        """Returns different owners with this number of memories."""
        fitting = np.flatnonzero((self.sizes >= least) & (self.sizes <= most))
        chosen = np.random.default_rng((6, seed)).permutation(fitting)[:count]
        return [int(owner) for owner in chosen]

    def rememberers(self, count: int, seed: int) -> list[int]:
        """Returns owners in the order of adding, the larger ones more often."""
        return [int(owner) for owner in np.random.default_rng((8, seed)).choice(self._owner_of, count)]


def name_of(owner: int) -> str:
    return f"owner-{owner:05}"


class TopicEmbedder:
    """The embedder of that world; some 10 microseconds a text."""

    identity = "perf.synthetic:1"
    dimension = DIMENSION

    def __init__(self) -> None:
        draw = np.random.default_rng(7)
        made_up = _made_up(TOPICS * WORDS_A_TOPIC)
        self._numbers = {word: number for number, word in enumerate([*COMMON, *made_up])}
        table = draw.standard_normal((len(self._numbers), DIMENSION), np.float32)
        table[: len(COMMON)] *= COMMON_WEIGHT * OWN_WEIGHT
        table[len(COMMON) :] *= OWN_WEIGHT
        table[len(COMMON) :] += draw.standard_normal((TOPICS, DIMENSION), np.float32).repeat(WORDS_A_TOPIC, 0)
        self._table = table

    def embed(self, texts: list[str]) -> np.ndarray:
        total = np.empty((len(texts), DIMENSION), np.float32)
        for place, text in enumerate(texts):
            numbers = [self._numbers[word] for word in text.split() if word in self._numbers]
            self._table.take(numbers or [0], axis=0).sum(axis=0, out=total[place])
        unit: np.ndarray = total / np.linalg.norm(total, axis=1, keepdims=True)
        return unit


class Prepared(TopicEmbedder):
    """The embedder with the vectors of some texts made beforehand."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._made = dict(zip(texts, super().embed(texts), strict=True))

    def embed(self, texts: list[str]) -> np.ndarray:
        if any(text not in self._made for text in texts):
            return super().embed(texts)
        return np.stack([self._made[text] for text in texts])
