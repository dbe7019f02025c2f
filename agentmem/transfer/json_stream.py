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


PART_BYTES = 4 << 20
PART_MEMBERS = 50_000
"""Of a value that comes in parts: what a part may have."""

LARGEST_PARTS = 8
"""Times the largest value that is held whole: what may stand around the lists of a value that comes in parts."""


class Value(NamedTuple):
    """`line`, from 1; `number` among the values, from 0; `content` decoded, or what is wrong with it. A value that is
    too large to be held comes in parts: `part` counts them from 0, and each has what surrounds its share."""

    line: int
    number: int
    content: Any
    part: int = 0


class Values:
    """The values of a source. `is_array` says, once the first has come, whether they are the members of one array."""

    def __init__(self, source: Source, limit: int) -> None:
        """`limit`: bytes of the largest value that is held whole."""
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
            mark = piece.lstrip()[:1]
            flows = False
            if mark in (b"{", b"["):
                piece, flows = self._begin(piece, mark)
        except InvalidInputError as error:
            yield Value(line or 1, 0, error)
            return
        self.is_array = flows and mark == b"["
        if flows:
            yield from _Flow(self._source, self._reader, self._limit, piece, line, array=self.is_array)
        elif piece:
            yield from self._lines(piece, line)

    def _begin(self, piece: bytes, mark: bytes) -> tuple[bytes, bool]:
        """More of a first line, and whether its value continues on further lines (or is an array alone)."""
        most = FIRST_PIECE if mark == b"[" else self._limit
        if not piece.endswith(b"\n") and len(piece) < most:
            piece += self._source.readline(most - len(piece))
        if len(piece) >= most and not piece.endswith(b"\n"):
            return piece, True
        try:
            text = piece.decode()
            _refuse_too_many(text)
            self._reader.whole(text)
        except UnicodeDecodeError:
            return piece, mark == b"["
        except _Cut:
            return piece, True
        except InvalidInputError:
            return piece, mark == b"["
        if mark == b"{":
            return piece, False
        # An array alone is one of members; where others follow, each of them is a value.
        passed, rest = b"", self._source.readline(FIRST_PIECE)
        while rest.isspace() and len(passed) < FIRST_PIECE:
            passed += rest
            rest = self._source.readline(FIRST_PIECE)
        self._source.unread(passed + rest)
        return piece, not rest.startswith((b"[", b"{"))

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


class _Cut(InvalidInputError):
    """The text ends within a value."""


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
            is_cut = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())
            raise (_Cut if is_cut else InvalidInputError)(
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
    """Yields values over several lines: the members of an array, or objects one after the other. A part that is no JSON
    ends it, because the next value's beginning is unknown."""

    def __init__(self, source: Source, reader: _Reader, limit: int, first: bytes, line: int, *, array: bool) -> None:
        self._source = source
        self._reader = reader
        self._limit = limit
        self._array = array
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._passed = 0  # Characters before the text.
        self._depth = 0  # Of the objects and arrays that are open.
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
                line = self._line_of(self._at)
                found = self._value(self._limit, opens=True)
                if found is None:
                    yield from self._opened(line, number)
                else:
                    yield Value(line, number, found[0])
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

    def _value(self, limit: int, *, opens: bool) -> tuple[Any] | None:
        """The value that stands here, behind which the reading then is; None, where it still is, for an object (or
        within one an array) that `opens` and has more than `limit` bytes or too many values."""
        opens = opens and self._text.startswith(("{", "["), self._at)
        opens = opens and (self._depth > 0 or self._text.startswith("{", self._at))
        while True:
            if opens and _has_too_many(self._text, self._at):
                return None
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
                    self._at = end
                    return (value,)
            if len(self._text) - self._at > limit:
                if opens:
                    return None
                raise _too_long(limit)
            self._fill()

    def _opened(self, line: int, number: int) -> Iterator[Value]:
        """The parts of an object that is too large to be held: each has everything around the list that is read, and of
        that list the next members."""
        root: dict[str, Any] = {}
        frames: list[Any] = [root]
        self._skip("{")
        is_first = True
        taken = held = part = 0
        while frames:
            frame, self._depth = frames[-1], len(frames)
            closes = "}" if isinstance(frame, dict) else "]"
            if self._mark() == closes:
                self._skip(closes)
                frames.pop()
                is_first = False
                continue
            if not is_first:
                self._skip(",")
                if self._mark() == closes:
                    raise InvalidInputError(f"a comma stands before {closes!r}; remove it.")
            key = None
            if isinstance(frame, dict):
                key = self._key_of(frame)
            before = self._passed + self._at
            found = self._value(PART_BYTES, opens=True)
            is_first = found is None
            child: Any = found[0] if found is not None else {} if self._mark() == "{" else []
            if isinstance(child, InvalidInputError):
                raise child
            if key is None:
                frame.append(child)
            else:
                frame[key] = child
            if found is None:
                self._skip(self._mark())
                frames.append(child)
                continue
            taken += self._passed + self._at - before
            held += self._passed + self._at - before
            if key is None and (taken >= PART_BYTES or len(frame) >= PART_MEMBERS):
                yield Value(line, number, root, part)
                for each in frames:
                    if isinstance(each, list):
                        del each[: len(each) - (each is not frame)]
                taken, held, part = 0, held - taken, part + 1
            if held > LARGEST_PARTS * self._limit:
                raise _too_long(LARGEST_PARTS * self._limit)
        self._depth = 0
        yield Value(line, number, root, part)

    def _key_of(self, frame: dict[str, Any]) -> str:
        found = self._value(PART_BYTES, opens=False) if self._mark() == '"' else None
        if found is None or not isinstance(found[0], str):
            raise InvalidInputError("a key of an object is no text in quotes; correct the file.")
        if found[0] in frame:
            raise InvalidInputError(f"the key {found[0][:60]!r} stands twice in one object; keep one of them.")
        self._skip(":")
        self._mark()
        return found[0]

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
            raise InvalidInputError(f"{what} where {mark!r} should be; correct the file.")
        self._at += 1

    def _fill(self) -> None:
        """Drops what was read and takes more, twice as much each time that a value was still not whole."""
        self._line_of(self._at)
        self._passed += self._at
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


def _has_too_many(text: str, start: int = 0) -> bool:
    """Whether a text, from a place on, would be a value of very many."""
    return len(text) - start > MOST_VALUES and sum(text.count(mark, start) for mark in ",[{") > MOST_VALUES


def _refuse_too_many(text: str, start: int = 0) -> None:
    """Raises InvalidInputError for such a text."""
    if _has_too_many(text, start):
        raise InvalidInputError(f"it has more than {MOST_VALUES:,} values; split it.")


def _too_long(limit: int) -> InvalidInputError:
    return InvalidInputError(f"it has more than {limit:,} bytes; split it, or raise Config.max_content_bytes.")


def _unreadable(error: Exception) -> InvalidInputError:
    # A number of thousands of digits, brackets without end.
    return InvalidInputError(f"this JSON cannot be read ({error}); simplify it.")
