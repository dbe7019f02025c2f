"""For the tests of your application: an embedder that needs no model, and hypothesis strategies.

    from agentmem import Memory
    from agentmem.testing import HashEmbedder

    def test_the_agent_remembers_seats():
        with Memory(":memory:", embedder=HashEmbedder()) as memory:
            memory.add("Prefers window seats", user_id="ana")
            [match] = memory.search("which seats?", user_id="ana")
            assert match.record.content == "Prefers window seats"

The strategies draw any input that agentmem accepts, hostile cases included. They import hypothesis when called.
"""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agentmem.errors import InvalidInputError
from agentmem.fields import TEXT_FIELDS, TIME_FIELDS

if TYPE_CHECKING:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
else:

    class _LateStrategies:
        """`hypothesis.strategies`, imported at first use."""

        def __getattr__(self, name: str) -> Any:
            try:
                from hypothesis import strategies
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "The strategies of agentmem.testing need hypothesis; install it, or 'agentmem[test]'.",
                    name="hypothesis",
                ) from error
            return getattr(strategies, name)

    st = _LateStrategies()

Vector = npt.NDArray[np.float64]

TRIGRAM_WEIGHT = 0.25
"""Weight of a word's trigram beside the word itself: "seat" and "seats" are near, but less than two equal words."""

LONGEST_WORD = 100
"""Longest run of characters that counts as a word and gives trigrams."""

TEXT_WEIGHT = 0.1
"""Weight of the part that only this very text has, beside the rest of unit length: no two texts get the same vector."""

_WORD = re.compile(r"\w+")


class HashEmbedder:
    """An embedder that hashes words instead of running a model.

    It is deterministic in every process and on every machine, and takes some 50 microseconds a text. Texts that share
    words, in any case, are near; it knows nothing of meaning. Any thread may call it, several at once
    (`Config(workers=...)`).

    Args:
        dimension: The number of values in a vector.
        fast: Whether the vectors have a fast half, like those of `minilm-mixed`: the second half of the values.

    Raises:
        InvalidInputError: `dimension` is no whole number from 1 to 65,536, or 1 with `fast`.
    """

    def __init__(self, dimension: int = 64, *, fast: bool = False) -> None:
        if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 + fast <= dimension <= 65_536:
            raise InvalidInputError(f"dimension is {dimension!r}; pass a whole number from {1 + fast} to 65,536.")
        self.dimension = dimension
        self.identity = f"agentmem.testing.HashEmbedder:1:{dimension}" + ":fast" * fast
        self.fast_share = 0.5 if fast else 0.0

    def __repr__(self) -> str:
        return f"HashEmbedder(dimension={self.dimension}{', fast=True' if self.fast_share else ''})"

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Embeds texts. Deterministic; any thread may call it.

        Args:
            texts: The texts, each of any length.

        Returns:
            Unit vectors, float32 of shape (n, dimension), never zero, even for a text without a word.
        """
        vectors = np.empty((len(texts), self.dimension), np.float32)
        slow = self.dimension // 2 if self.fast_share else self.dimension
        for row, text in enumerate(texts):
            vectors[row, :slow] = _text_vector(text, slow)
            if self.fast_share:
                vectors[row, slow:] = _fast_vector(text, self.dimension - slow)
        return vectors / np.float32(2**0.5) if self.fast_share else vectors

    def embed_fast(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Returns the fast halves of texts' vectors. Only with `fast=True`.

        Args:
            texts: The texts, each of any length.

        Returns:
            float32 of shape (n, dimension); the first half of the values is zero.
        """
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        slow = self.dimension // 2
        for row, text in enumerate(texts):
            vectors[row, slow:] = _fast_vector(text, self.dimension - slow)
        return vectors


def _fast_vector(text: str, dimension: int) -> Vector:
    """Returns a vector in other directions than `_text_vector` with as many values, so that the halves can be told
    apart."""
    vector = _text_vector(text, 2 * dimension)[dimension:]
    return vector / np.linalg.norm(vector)


def _text_vector(text: str, dimension: int) -> Vector:
    total = np.zeros(dimension)
    for found in _WORD.finditer(text.casefold()):
        word = found.group()
        total += (_known_vector if len(word) <= LONGEST_WORD else _word_vector)(word, dimension)
    length = float(np.linalg.norm(total))
    if length:
        total /= length
    total += TEXT_WEIGHT / dimension**0.5 * _signs(f"text:{text}", dimension)
    vector: Vector = total / np.linalg.norm(total)
    return vector


def _word_vector(word: str, dimension: int) -> Vector:
    vector = _signs(f"word:{word}", dimension)
    padded = f"^{word[:LONGEST_WORD]}$"
    for start in range(len(padded) - 2):
        vector += TRIGRAM_WEIGHT * _signs(f"part:{padded[start : start + 3]}", dimension)
    vector.flags.writeable = False  # All callers share it.
    return vector


_known_vector = lru_cache(maxsize=4096)(_word_vector)


def _signs(feature: str, dimension: int) -> Vector:
    """Returns a direction of -1 and 1 for each feature, by the bits of its digest.

    Two of them are nearly orthogonal: their cosine has mean 0 and deviation dimension ** -0.5.
    """
    digest = hashlib.shake_128(feature.encode("utf-8", "surrogatepass")).digest(-(-dimension // 8))
    bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=dimension)
    return bits.astype(np.float64) * 2 - 1


# -- strategies ---------------------------------------------------------------------------------------------------

WORDS = [
    "prefers", "window", "seats", "hates", "flying", "tea", "coffee", "every", "morning", "works", "from", "Lisbon",
    "on", "Tuesdays", "allergic", "to", "nuts", "sister", "Ana", "plays", "cello", "in", "Straße", "café", "北京",
    "東京", "서울", "мир", "שלום", "مرحبا", "👩‍🚀", "don't", "C++", "3.14", "50%", "a_b",
]  # fmt: skip
"""The words of the sentences that `contents` draws; few, so that texts often share some."""

NAMES = ("ana", "Ana", "ben", "ana%", "a_a", "*", "аna", "ana'; --", "日本", "👩‍🚀")  # noqa: RUF001 - a Cyrillic "a" is the point.
"""Owners that are easily mistaken for one another."""

LABELS = ("topic", "stars", "tags", "seen", "nested", "role", "a.b", "OR", "", "ключ", 'quo"te')
"""Keys of `metadata` and `filters`; few, so that a filter often meets its key."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def contents(max_size: int = 200) -> "SearchStrategy[str]":
    """Returns a strategy of texts that `add` stores and `search` takes as a query: sentences, and any characters at
    all.

    Args:
        max_size: The most characters of a text.

    Returns:
        A hypothesis strategy of `str`.

    Raises:
        ImportError: hypothesis is not installed.
    """
    sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
    anything = _texts(min_size=1, max_size=max_size).filter(lambda text: not text.isspace())
    return st.one_of(sentences.map(lambda text: text[:max_size].strip()), anything)


def owners() -> "SearchStrategy[dict[str, str]]":
    """Returns a strategy of owners for one call: at least one of `user_id`, `agent_id` and `run_id`.

    Use them as keywords: `memory.add(text, **owner)`.

    Returns:
        A hypothesis strategy of `dict`.

    Raises:
        ImportError: hypothesis is not installed.
    """
    name = st.one_of(st.sampled_from(NAMES), _texts(min_size=1, max_size=40).filter(lambda text: text == text.strip()))
    whole = st.fixed_dictionaries({}, optional={"user_id": name, "agent_id": name, "run_id": name})
    return whole.filter(bool)


def metadata(max_leaves: int = 8) -> "SearchStrategy[dict[str, Any]]":
    """Returns a strategy of metadata that `add` accepts: nested JSON objects of all types, integers up to 64 bits.

    Args:
        max_leaves: The most values in one object.

    Returns:
        A hypothesis strategy of `dict`.

    Raises:
        ImportError: hypothesis is not installed.
    """
    values = st.recursive(
        _scalars(),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_labels(), inner, max_size=4)),
        max_leaves=max_leaves,
    )
    return st.dictionaries(_labels(), values, max_size=4)


def filters(max_leaves: int = 6) -> "SearchStrategy[dict[str, Any]]":
    """Returns a strategy of filters in the language of `agentmem.filters`: every operator, connective and kind of key.

    Args:
        max_leaves: The most comparisons in one filter.

    Returns:
        A hypothesis strategy of `dict`.

    Raises:
        ImportError: hypothesis is not installed.
    """
    return st.recursive(_entries(), _connected, max_leaves=max_leaves)


def _entries() -> "SearchStrategy[dict[str, Any]]":
    text_field = st.sampled_from(sorted(TEXT_FIELDS))
    time_field = st.sampled_from(sorted(TIME_FIELDS))
    return st.one_of(
        _entry(_metadata_keys(), _scalars(), contains=True),
        _entry(text_field, st.one_of(st.none(), st.sampled_from(NAMES), _texts(max_size=10)), contains=True),
        _entry(time_field, st.one_of(st.none(), _times()), contains=False),
    )


def _entry(key: "SearchStrategy[str]", value: "SearchStrategy[Any]", *, contains: bool) -> "SearchStrategy[Any]":
    ordered = value.filter(lambda bound: bound is not None and not isinstance(bound, bool))
    several = st.lists(value, max_size=4)
    operators: dict[str, SearchStrategy[Any]] = {
        "eq": value, "ne": value, "gt": ordered, "gte": ordered, "lt": ordered, "lte": ordered,
        "in": several, "nin": several, "exists": st.booleans(),
    }  # fmt: skip
    if contains:
        operators |= {"contains": value, "icontains": st.one_of(st.sampled_from(WORDS), _texts(max_size=5))}
    by_operator = st.fixed_dictionaries({}, optional=operators).filter(bool)
    operand = st.one_of(value, several, st.just("*"), by_operator)
    return st.dictionaries(key, operand, min_size=1, max_size=1)


def _connected(inner: "SearchStrategy[dict[str, Any]]") -> "SearchStrategy[dict[str, Any]]":
    members = st.lists(inner, min_size=1, max_size=3)
    siblings = st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1])
    return st.one_of(
        st.fixed_dictionaries({"AND": members}),
        st.fixed_dictionaries({"OR": members}),
        st.fixed_dictionaries({"NOT": st.one_of(members, inner)}),
        siblings,
    )


def _metadata_keys() -> "SearchStrategy[str]":
    """Paths of one or two labels, quoted as JSON where a bare label would mean a connective or a field."""
    common = st.sampled_from(["topic", "stars", "tags", "seen", "nested.topic", "nested.stars"])
    paths = st.lists(_labels(), min_size=1, max_size=2)
    return st.one_of(common, paths.map(lambda labels: "metadata." + ".".join(map(json.dumps, labels))))


def _labels() -> "SearchStrategy[str]":
    return st.one_of(st.sampled_from(LABELS), _texts(max_size=6))


def _scalars() -> "SearchStrategy[Any]":
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers(_INT64_MIN, _INT64_MAX),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([*WORDS[:8], "1", "true", "*"]),
        _texts(max_size=10),
    )


def _times() -> "SearchStrategy[Any]":
    """Aware moments, as datetime and as text."""
    zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))])
    moments = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1), timezones=zones)
    return st.one_of(moments, moments.map(datetime.isoformat))


def _texts(min_size: int = 0, max_size: int | None = None) -> "SearchStrategy[str]":
    """Any Unicode except lone surrogates and NUL, which agentmem refuses everywhere."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(characters, min_size=min_size, max_size=max_size)
