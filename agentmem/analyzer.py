"""A text's words as terms: what keyword search compares. The only importer of Stemmer.

A term stands for a word whatever its case, accents and English ending; it is stored as a hash of 32 bits, beside the
memory, so that a search reads no text. Numbers and identifiers are kept whole and in their parts ("ERR-1042" is also
"err" and "1042"), and so are words with an apostrophe ("l'école" is also "école"), but for English endings. Scripts
without spaces between words give every character and every two neighbouring characters. Every emoji is a word.

Takes time linear in the text's length, whatever a stranger sends: texts are cut into short pieces first. No piece holds
the GIL for more than a few milliseconds, and no cache keeps a long word.
"""

import re
import struct
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from functools import lru_cache
from itertools import islice
from zlib import crc32

import Stemmer

from agentmem.deadline import Deadline, is_over
from agentmem.errors import DeadlineError

ANALYSIS = f"3:{Stemmer.version()}"
"""Changes whenever the terms of some text could: a store that was written under another is analysed anew."""

ASKS = 0
"""The term that marks a text that asks: the hash of the empty word, which no text has."""

_MOST_STATED = 20
"""Words that a text which asks may have outside its questions: a reply that merely ends with a question has more."""

_LONGEST_QUESTION = 2_000  # Characters; a longer text tells something, whatever it asks.
_PIECE = 512  # Characters. Normalising takes the square of a run of marks: 0.5 ms for one of this length.
_MOST_WORDS = 4096  # Different ones of a query that are looked for.
_CACHED_WORDS = 65_536  # About 15 MB when full; a word that is not there costs 2 microseconds instead of 0.1.
_CACHED_CHARACTERS = 65_536  # About 6 MB when full.
_LONGEST_WORD = 64  # Characters; a longer one (a digest, a line of base64) is cut, in texts and queries alike.

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff"  # Thai, Lao, Burmese, Hangul letters, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED_LETTER = f"[{_UNSPACED}]"
_HAN = "[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
# Python's \w leaves out the vowel signs of the scripts of India, of Tibet and the Maldives, which are no marks upon
# letters but parts of words.
_SIGNS = "\u07a6-\u07b0\u0900-\u0963\u0966-\u0dff\u0f71-\u0f84"
_LETTERS = f"(?:[^\\W_{_UNSPACED}]++|[{_SIGNS}]++)++"
_JOINT = "[-._@/:+&']"
_EMOJI = (
    "[\xa9\xae\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0"
    "\u25fb-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d"
    "\U0001f000-\U0001f1e5\U0001f200-\U0001faff]"
)
_TAGS = "[\U000e0020-\U000e007f]"  # Of flags such as Scotland's.
_FLAG = "[\U0001f1e6-\U0001f1ff]{1,2}"
# Patterns of many ranges take 5 milliseconds each to compile, and no text in plain English needs them.
_compiled = lru_cache(None)(re.compile)
_ASCII_WORDS = re.compile(r"[a-z0-9]+(?:[-._@/:+&'][a-z0-9]+)*(?:\+\+|#)?")
_ASCII_EDGES = ".,:;!?'\"()"  # Around a word they are no part of it.
_WORDS = (
    f"[{_UNSPACED}]+|{_LETTERS}(?:{_JOINT}{_LETTERS})*(?:\\+\\+|#|\u20e3)?|{_FLAG}|{_EMOJI}{_TAGS}{{0,16}}|[#*]\u20e3"
)
_PARTS = re.compile("[-._@/:+&#\u20e3]+")
_ENDINGS = frozenset({"s", "t", "re", "ve", "ll", "d", "m", "all"})
"""Behind an apostrophe: English ones, which are no words; also that of "y'all"."""

_AFTER_SPACE = re.compile(r"(?s:.*)\s")
_BETWEEN_WORDS = r"(?s:.*)[^-\w.@/:+&'#’]"  # noqa: RUF001
_HEBREW_QUOTES = "['\"](?<=[\u05d0-\u05ea].)(?=[\u05d0-\u05ea])"

_ALIKE = {
    "’": "'", "‘": "'", "‛": "'", "ʼ": "'", "ʻ": "'", "´": "'", "′": "'", "׳": "'", "״": '"', "־": "-", "‐": "-",  # noqa: RUF001
    "٫": ".", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th",  # noqa: RUF001
}  # fmt: skip
_MARKS = (
    "[\u0300-\u07a5\u07b1-\u08ff\u180b-\u180f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20e2\u20e4-\u20ff\ufe00-\ufe2f"
    "\U000e0100-\U000e01ef]"
)
"""Where marks (Unicode's Mn and Me) are accents, points and choices of a shape, which make no other word."""
_UNSEEN = frozenset("\u0640\u115f\u1160\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
"""What else makes no other word: what stretches Arabic letters, fillers in Korean, the tones of skin."""

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

_QUESTION_MARKS = "?？؟"  # noqa: RUF001
_SPEAKER = re.compile(r"\s*[^\s:?？؟]{1,40}(?: [^\s:?？؟]{1,40}){0,2}:\s")  # noqa: RUF001
_SENTENCES = re.compile(r"([^.!?？؟。！…\n]+)([.!?？؟。！…\n]*)")  # noqa: RUF001

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_packed_mark = struct.pack("<I", ASKS)
_local = threading.local()  # A Stemmer a thread: they keep state.


def stored_terms(content: str, created_at: datetime, deadline: Deadline | None = None) -> bytes:
    """Returns the terms of a memory, with repetitions, as uint32, little-endian.

    Those of the text come first, then `ASKS` if it asks something, then those of its day. Takes some 8 microseconds for
    16 English words that were met before, and 2 more for each new one. May be called from any thread.

    Raises:
        DeadlineError: a long text took longer than the deadline allows.
    """
    packed = [_packed(_words(piece)) for piece in _pieces(content, deadline)]
    if asks(content):
        packed.append(_packed_mark)
    packed.append(_day_terms(created_at.toordinal()))
    return b"".join(packed)


def redated_terms(terms: bytes, created_at: datetime) -> bytes:
    """Stored terms with those of another day at the end."""
    day = _day_terms(created_at.toordinal())
    return terms[: -len(day)] + day


def asks(text: str) -> bool:
    """Returns whether a text asks something: it has a question mark, and at most 20 words in its other sentences.

    A leading `Name:` and a trailing `[caption]` do not count. Two characters of a script without spaces are a word.
    """
    if ("?" not in text and (text.isascii() or not _has_question(text))) or len(text) > _LONGEST_QUESTION:
        return False
    speaker = _SPEAKER.match(text)
    said = text[speaker.end() if speaker else 0 :].rstrip()
    if said.endswith("]"):
        said = said[: said.rfind("[")]
    stated = 0
    for sentence, end in _SENTENCES.findall(said):
        if end and end[-1] in _QUESTION_MARKS:
            continue
        stated += len(sentence.split()) + len(_compiled(_UNSPACED_LETTER).findall(sentence)) // 2
        if stated > _MOST_STATED:
            return False
    return _has_question(said)


def _has_question(text: str) -> bool:
    return any(mark in text for mark in _QUESTION_MARKS)


def _packed(words: Sequence[str]) -> bytes:
    return struct.pack(f"<{len(words)}I", *map(_hash, words))


@lru_cache(4096)
def _day_terms(ordinal: int) -> bytes:
    day = date.fromordinal(ordinal)
    words = (str(day.day), MONTHS[day.month - 1], str(day.year), DAYS[day.weekday()])
    return _packed(words)


def query_terms(query: str, deadline: Deadline | None = None) -> dict[int, str]:
    """The different terms of a query, with the words that they stand for; stop words only when it has no others. Of a
    query with more than 4,096 different words, these are the first.

    Raises:
        DeadlineError: a long query took longer than the deadline allows.
    """
    different: dict[str, None] = {}
    for piece in _pieces(query, deadline):
        different |= dict.fromkeys(_query_words(piece))
        if len(different) >= _MOST_WORDS:
            break
    words = list(islice(different, _MOST_WORDS))
    telling = [word for word in words if not _is_stop_word(word)]
    return {_hash(word): word for word in telling or words}


def stored_term(word: str) -> int:
    """Returns the term of a word as a text has it: lower case, without accents."""
    return _hash(word)


def _is_stop_word(word: str) -> bool:
    return word in STOP_WORDS or word.removesuffix("'s") in STOP_WORDS


@lru_cache(_CACHED_WORDS)
def _hash(word: str) -> int:
    """CRC-32 of the stem: of two words of an owner's 50,000, one in 100,000 pairs with a given third falls together."""
    if word[-1] > "\u024f":  # Behind the Latin letters: it has no English ending.
        return crc32(word.encode("utf-8", "surrogatepass"))
    try:
        stem = _local.stemmer.stemWord
    except AttributeError:
        _local.stemmer = Stemmer.Stemmer("english", 0)
        stem = _local.stemmer.stemWord
    return crc32(stem(word).encode("utf-8", "surrogatepass"))


def _pieces(text: str, deadline: Deadline | None) -> Iterable[str]:
    """The text in pieces of at most `_PIECE` characters, cut behind a space, else between words, else anywhere. Any two
    that follow each other have more than that, so that there are few."""
    return (text,) if len(text) <= _PIECE else _cut(text, deadline)


def _cut(text: str, deadline: Deadline | None) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE:
        if deadline is not None and is_over(deadline):
            raise DeadlineError(
                f"Finding the words of {len(text):,} characters took longer than the {deadline.seconds:g} seconds "
                "allowed; shorten the text, or raise timeout."
            )
        piece = text[start : start + _PIECE]
        cut = _AFTER_SPACE.match(piece) or _compiled(_BETWEEN_WORDS).match(piece)
        end = cut.end() if cut else _PIECE
        yield piece[:end]
        start += end
    yield text[start:]


class _Folds(dict[int, int | str]):
    """What each character becomes, for `str.translate`. Bounded, because there are a million of them."""

    def __missing__(self, code: int) -> int | str:
        if len(self) >= _CACHED_CHARACTERS:
            self.clear()
        folded = _folded_character(chr(code))
        return self.setdefault(code, code if folded == chr(code) else folded)


_folds = _Folds()


def _folded_character(character: str) -> str:
    """Without case, accents and what is not seen; digits of all scripts as ours."""
    alike = _ALIKE.get(character, character).casefold()
    kept = [each for each in unicodedata.normalize("NFKD", alike) if not _makes_no_other_word(each)]
    digits = [str(unicodedata.digit(each, each)) for each in kept]
    return unicodedata.normalize("NFC", "".join(_ALIKE.get(each, each) for each in digits)).casefold()


def _makes_no_other_word(character: str) -> bool:
    category = unicodedata.category(character)
    if category in ("Mn", "Me"):
        return _compiled(_MARKS).match(character) is not None
    return character in _UNSEEN or (category == "Cf" and not _compiled(_TAGS).match(character))


def folded(text: str) -> str:
    """Without case and accents, in one form of each character."""
    folded = unicodedata.normalize("NFC", text.translate(_folds))
    return _compiled(_HEBREW_QUOTES).sub("", folded)


def _words(text: str) -> list[str]:
    """The words of a stored text, compounds also in their parts."""
    found: list[str] = []
    if text.isascii():
        parts: list[str] = []
        for run in text.lower().split():
            # The pattern finds the same, at twice the time.
            word = run if run.isalnum() else run.strip(_ASCII_EDGES)
            if word.isalnum():
                found.append(word[:_LONGEST_WORD])
            else:
                for word in _ASCII_WORDS.findall(run):
                    found.append(word[:_LONGEST_WORD])
                    if not word.isalnum():
                        parts += _parts_of(word)
        return found + parts
    for word in _compiled(_WORDS).findall(folded(text)):
        if _is_unspaced(word):
            found += (*word, *_pairs_of(word))
        else:
            found.append(word[:_LONGEST_WORD])
            if not word.isalnum():
                found += _parts_of(word)
    return found


def _query_words(query: str) -> Iterator[str]:
    """The same for a query; a single character of a script without spaces counts only where it means something."""
    for word in _ASCII_WORDS.findall(query.lower()) if query.isascii() else _compiled(_WORDS).findall(folded(query)):
        if not _is_unspaced(word):
            yield word[:_LONGEST_WORD]
            if not word.isalnum():
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


def _parts_of(word: str) -> tuple[str, ...]:
    # Long ones are not kept.
    return _known_parts(word) if len(word) <= _LONGEST_WORD else _known_parts.__wrapped__(word)


@lru_cache(4096)
def _known_parts(word: str) -> tuple[str, ...]:
    parts = [part for part in _PARTS.split(word) if part]
    within = [each for part in parts for each in _around_apostrophes(part)]
    return tuple(part[:_LONGEST_WORD] for part in (*parts, *within) if part != word)


def _around_apostrophes(word: str) -> list[str]:
    """The words around the apostrophes of a word; not single letters, and nothing of "don't" or "John's"."""
    pieces = word.split("'")
    while pieces and pieces[-1] in _ENDINGS:
        pieces.pop()
    return [piece for piece in pieces if len(piece) > 1] if len(pieces) > 1 else []
