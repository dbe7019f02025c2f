"""JSON values out of a stream, one after the other, each with the number of the line on which it begins.

Three shapes are told apart by how they begin: one value a line (JSON Lines), one array, and objects that are spread
over lines. Only the first goes on after a line that is no JSON. However long the stream, no more is held of it than a
few times its largest value.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, NamedTuple

from agentmem.errors import InvalidInputError
from agentmem.platform.signals import fails_apart
from agentmem.transfer.files import Source

BOM = b"\xef\xbb\xbf"

FIRST_PIECE = 1 << 16

_SPACE = re.compile(r"[ \t\r\n]*")

MOST_VALUES = 1_000_000
"""Texts, numbers, lists and so on in one value, each of which may take 100 bytes in memory where it has three in the
file. Counted by what stands between them, so that commas within texts count too."""

MOST_EMPTY_LINES = 1_000_000
"""In a row: a compressed file of a few kilobytes can hold a hundred times as many, which would take minutes."""

LONGEST_NUMBER = 400
"""Digits; a float has 309 at most before its point. Python's time for an integer is the square of them, where the host
program has taken away Python's own limit."""


class Value(NamedTuple):
    """`line`, from 1; `number` among the values, from 0; `content` decoded, or what is wrong with it."""

    line: int
    number: int
    content: Any


class Values:
    """The values of a source. `is_array` says, once the first has come, whether they are the members of one array."""

    def __init__(self, source: Source, limit: int) -> None:
        """`limit`: bytes of the largest value."""
        self._source = source
        self._limit = limit
        self._reader = _Reader()
        self.is_array = False

    def __iter__(self) -> Iterator[Value]:
        line, piece = 0, b""
        try:
            piece = self._source.readline(FIRST_PIECE).removeprefix(BOM)
            line = 1
            while piece and not piece.strip():
                line += piece.endswith(b"\n")
                if line > MOST_EMPTY_LINES:
                    raise _too_empty()
                piece = self._source.readline(FIRST_PIECE)
        except InvalidInputError as error:
            yield Value(line or 1, 0, error)
            return
        self.is_array = piece.lstrip().startswith(b"[")
        if self.is_array or piece.strip() == b"{":
            yield from _Flow(self._source, self._reader, self._limit, piece, line, array=self.is_array)
        elif piece:
            yield from self._lines(piece, line)

    def _lines(self, piece: bytes, line: int) -> Iterator[Value]:
        number = empty = 0
        try:
            raw = piece if piece.endswith(b"\n") else piece + self._source.readline(self._limit)
            while raw:
                if len(raw) > self._limit:
                    yield Value(line, number, _too_long(self._limit))
                    while not raw.endswith(b"\n") and (raw := self._source.readline(FIRST_PIECE)):
                        pass
                    number += 1
                elif not raw.isspace():
                    yield Value(line, number, self._of_line(raw))
                    number += 1
                    empty = 0
                elif (empty := empty + 1) > MOST_EMPTY_LINES:
                    raise _too_empty()
                line += 1
                raw = self._source.readline(self._limit + 1)
        except InvalidInputError as error:
            yield Value(line, number, error)

    def _of_line(self, raw: bytes) -> Any:
        try:
            return self._reader.whole(raw.decode())
        except UnicodeDecodeError as error:
            return InvalidInputError(f"byte 0x{raw[error.start]:02x} is not UTF-8; convert the file.")
        except InvalidInputError as error:
            return error


class _Reader:
    """Decodes JSON as it is meant: no NaN, no key twice. What is wrong there is known after the value only, so that the
    reading can go on behind it."""

    def __init__(self) -> None:
        self._fault: str | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_int=self._integer
        )

    def whole(self, text: str) -> Any:
        """The value of a text that holds nothing else. Raises InvalidInputError."""
        _refuse_too_many(text)
        try:
            value = self._decoder.decode(text)
        except JSONDecodeError as error:
            raise InvalidInputError(
                f"column {error.colno} is not JSON ({error.msg}); write one text in quotes or one object a line."
            ) from None
        except (ValueError, RecursionError) as error:
            if not fails_apart(lambda: self._decoder.decode(text)):
                raise
            raise _unreadable(error) from None
        finally:
            fault, self._fault = self._fault, None
        if fault is not None:
            raise InvalidInputError(fault)
        return value

    def next(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at a place, or what is wrong with it, and where it ends. Raises JSONDecodeError."""
        try:
            value, end = self._decoder.raw_decode(text, at)
        finally:
            fault, self._fault = self._fault, None
        return (value if fault is None else InvalidInputError(fault)), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            self._fault = f"the key {twice[:60]!r} stands twice in one object; keep one of them."
        return found

    def _integer(self, digits: str) -> int:
        if len(digits) <= LONGEST_NUMBER:
            return int(digits)
        self._fault = f"a number has {len(digits):,} digits; write it as text."
        return 0

    def _constant(self, name: str) -> None:
        self._fault = f"{name} is no JSON; write null or leave the key out."


class _Flow:
    """Values that go on over lines: the members of an array, or objects one after the other. What is no JSON ends it,
    because nobody knows where the next value begins."""

    def __init__(self, source: Source, reader: _Reader, limit: int, first: bytes, line: int, *, array: bool) -> None:
        self._source = source
        self._reader = reader
        self._limit = limit
        self._array = array
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = line
        self._counted = 0  # Up to where the line ends are counted.
        self._first = first
        self._piece = FIRST_PIECE
        self._ended = False

    def __iter__(self) -> Iterator[Value]:
        number = 0
        try:
            self._take(self._first)
            if self._array:
                self._skip("[")
            while self._more(number):
                value = self._value()
                yield Value(self._line_of(self._at), number, value[0])
                self._at = value[1]
                number += 1
        except InvalidInputError as error:
            yield Value(self._line_of(self._at), number, error)

    def _more(self, number: int) -> bool:
        """Whether a value comes; stands at it then."""
        mark = self._mark()
        if not self._array:
            return mark != ""
        if mark == "]":
            self._skip("]")
            if self._mark():
                raise InvalidInputError("there is more after the array; write one array, or one value a line.")
            return False
        if number:
            self._skip(",")
            if self._mark() == "]":
                raise InvalidInputError("a comma stands before the end of the array; remove it.")
        return True

    def _value(self) -> tuple[Any, int]:
        while True:
            _refuse_too_many(self._text, self._at)
            try:
                value, end = self._reader.next(self._text, self._at)
            except JSONDecodeError as error:
                at_the_end = error.msg.startswith("Unterminated") or error.pos + 16 > len(self._text)
                if self._ended or not at_the_end:
                    line = self._line_of(self._at) + error.lineno - 1 - self._text.count("\n", 0, self._at)
                    raise InvalidInputError(f"what stands on line {line} is not JSON ({error.msg}); mend it.") from None
            except (ValueError, RecursionError) as error:
                if not fails_apart(lambda: self._reader.next(self._text, self._at)):
                    raise
                raise _unreadable(error) from None
            else:
                if end < len(self._text) or self._ended:  # Or a number might go on.
                    return value, end
            if len(self._text) - self._at > self._limit:
                raise _too_long(self._limit)
            self._fill()

    def _mark(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            rest = self._text[self._at : self._at + 1]
            if rest or self._ended:
                return rest
            self._fill()

    def _skip(self, mark: str) -> None:
        found = self._mark()
        if found != mark:
            what = f"{found!r} stands" if found else "the file ends"
            raise InvalidInputError(f"{what} where {mark!r} should be; mend the array.")
        self._at += 1

    def _fill(self) -> None:
        """Drops what was read and takes more, twice as much each time that a value was still not whole."""
        self._line_of(self._at)
        self._text, self._counted, self._at = self._text[self._at :], 0, 0
        self._piece = max(FIRST_PIECE, len(self._text))
        self._take(self._source.read(self._piece))

    def _take(self, raw: bytes) -> None:
        self._ended = not raw
        try:
            self._text += self._utf8.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            self._line = self._line_of(len(self._text)) + error.object.count(b"\n", 0, error.start)
            raise InvalidInputError(f"byte 0x{error.object[error.start]:02x} is not UTF-8; convert the file.") from None

    def _line_of(self, at: int) -> int:
        if at > self._counted:
            self._line += self._text.count("\n", self._counted, at)
            self._counted = at
        return self._line


def _too_empty() -> InvalidInputError:
    return InvalidInputError(f"more than {MOST_EMPTY_LINES:,} empty lines stand in a row; remove them.")


def _refuse_too_many(text: str, start: int = 0) -> None:
    """Raises InvalidInputError for a text, from a place on, that would be a value of very many."""
    if len(text) - start > MOST_VALUES and sum(text.count(mark, start) for mark in ",[{") > MOST_VALUES:
        raise InvalidInputError(f"it has more than {MOST_VALUES:,} values; split it.")


def _too_long(limit: int) -> InvalidInputError:
    return InvalidInputError(f"it has more than {limit:,} bytes; split it, or raise Config.max_content_bytes.")


def _unreadable(error: Exception) -> InvalidInputError:
    # A number of thousands of digits, brackets without end.
    return InvalidInputError(f"this JSON cannot be read ({error}); simplify it.")
