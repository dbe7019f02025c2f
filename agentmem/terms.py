"""A text's words as terms: what keyword search compares. The only importer of Stemmer.

A term stands for a word whatever its case, accents and English ending; it is stored as a hash of 32 bits, beside the
memory, so that a search reads no text. Numbers and identifiers are kept whole and in their parts ("ERR-1042" is also
"err" and "1042"). Scripts without spaces between words give every character and every two neighbouring characters.
"""

import re
import struct
import threading
import unicodedata
from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache
from zlib import crc32

import Stemmer

ANALYSIS = f"1:{Stemmer.version()}"
"""Changes whenever the terms of some text could: a store that was written under another is analysed anew."""

_CACHED_WORDS = 65_536  # About 15 MB when full; a word that is not there costs 2 microseconds instead of 0.1.
_LONGEST_WORD = 64  # Characters; a longer one (a digest, a line of base64) is cut, in texts and queries alike.

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff"  # Thai, Lao, Burmese, Hangul letters, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED_LETTER = f"[{_UNSPACED}]"
_HAN = "[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
# Python's \w leaves out the vowel signs of the scripts of India, which are no marks upon letters but parts of words.
_LETTER = f"(?:[^\\W_{_UNSPACED}]|[\u0900-\u0963\u0966-\u0dff])"
_JOINT = "[-._@/:+&']"
# Patterns of many ranges take 5 milliseconds each to compile, and no text in plain English needs them.
_compiled = lru_cache(None)(re.compile)
_ASCII_WORDS = re.compile(r"[a-z0-9]+(?:[-._@/:+&'][a-z0-9]+)*(?:\+\+|#)?")
_ASCII_EDGES = ".,:;!?'\"()"  # Around a word they are no part of it.
_WORDS = f"[{_UNSPACED}]+|{_LETTER}+(?:{_JOINT}{_LETTER}+)*(?:\\+\\+|#)?"
_PARTS = re.compile(r"[-._@/:+&#]+")

# Accents and what else is written above or below Latin, Greek and Cyrillic letters; the points of Hebrew and Arabic.
_MARKS = "[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0640\u200b-\u200f\u00ad]"
_ALIKE = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}  # noqa: RUF001
)

STOP_WORDS = frozenset(
    """
    a about after again all am an and any are as at be because been before being both but by can could did do does doing
    down during each few for from further had has have having he her here hers herself him himself his how i if in into
    is it its itself just me more most my myself no nor not now of off on once only or other our ours ourselves out over
    own same she should so some such than that the their theirs them themselves then there these they this those through
    to too under until up very was we were what when where which while who whom whose why will with would you your yours
    yourself yourselves ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mustn't shan't
    shouldn't wasn't weren't won't wouldn't i'm i've i'll i'd you're you've you'll you'd we're we've we'll we'd they're
    they've they'll they'd he'll he'd she'll she'd it'll it'd that'll
    """.split()  # noqa: SIM905 - read as a text
)
"""English words that say nothing about what a question is after."""

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_local = threading.local()  # A Stemmer a thread: they keep state.


def stored_terms(content: str, created_at: datetime) -> bytes:
    """The terms of a memory, with repetitions, those of its day at the end: uint32, little-endian. Some 8 microseconds
    for 16 English words that were met before, 2 more for each new one; may be called from any thread."""
    terms = (*map(_hash, _words(content)), *_day_terms(created_at.toordinal()))
    return struct.pack(f"<{len(terms)}I", *terms)


@lru_cache(4096)
def _day_terms(ordinal: int) -> tuple[int, ...]:
    day = date.fromordinal(ordinal)
    words = (str(day.day), _MONTHS[day.month - 1], str(day.year), _DAYS[day.weekday()])
    return tuple(map(_hash, words))


def query_terms(query: str) -> dict[int, str]:
    """The different terms of a query, with the words that they stand for; stop words only when it has no others."""
    words = list(dict.fromkeys(_query_words(query)))
    telling = [word for word in words if not _is_stop_word(word)]
    return {_hash(word): word for word in telling or words}


def _is_stop_word(word: str) -> bool:
    return word in STOP_WORDS or word.removesuffix("'s") in STOP_WORDS


@lru_cache(_CACHED_WORDS)
def _hash(word: str) -> int:
    """CRC-32 of the stem: of two words of an owner's 50,000, one in 100,000 pairs with a given third falls together."""
    try:
        stem = _local.stemmer.stemWord
    except AttributeError:
        _local.stemmer = Stemmer.Stemmer("english", 0)
        stem = _local.stemmer.stemWord
    return crc32(stem(word[:_LONGEST_WORD]).encode("utf-8", "surrogatepass"))


def _folded(text: str) -> str:
    """Without case and accents, in one form of each character."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_ALIKE).casefold())
    return unicodedata.normalize("NFC", _compiled(_MARKS).sub("", decomposed)).casefold()


def _words(text: str) -> list[str]:
    """The words of a stored text, compounds also in their parts."""
    found: list[str] = []
    if text.isascii():
        parts: list[str] = []
        for run in text.lower().split():
            # The pattern finds the same, at twice the time.
            word = run if run.isalnum() else run.strip(_ASCII_EDGES)
            if word.isalnum():
                found.append(word)
            else:
                words = _ASCII_WORDS.findall(run)
                found += words
                parts += (part for word in words if not word.isalnum() for part in _parts_of(word))
        return found + parts
    for word in _compiled(_WORDS).findall(_folded(text)):
        found += (*word, *_pairs_of(word)) if _is_unspaced(word) else (word, *_parts_of(word))
    return found


def _query_words(query: str) -> Iterator[str]:
    """The same for a query; a single character of a script without spaces counts only where it means something."""
    for word in _ASCII_WORDS.findall(query.lower()) if query.isascii() else _compiled(_WORDS).findall(_folded(query)):
        if not _is_unspaced(word):
            yield word
            yield from _parts_of(word)
        elif len(word) == 1:
            yield word
        else:
            yield from _pairs_of(word)
            yield from _compiled(_HAN).findall(word)


def _is_unspaced(word: str) -> bool:
    return word[0] >= "\u0e00" and _compiled(_UNSPACED_LETTER).match(word) is not None


def _pairs_of(word: str) -> Iterator[str]:
    return (word[start : start + 2] for start in range(len(word) - 1))


@lru_cache(4096)
def _parts_of(word: str) -> tuple[str, ...]:
    parts = tuple(part for part in _PARTS.split(word) if part)
    return parts if len(parts) > 1 or parts[0] != word else ()
