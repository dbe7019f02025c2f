"""Reads texts and chat transcripts from a file or a pipe, on their way into a memory.

The input is UTF-8: JSON Lines, or one JSON array. An item is a text, a mapping with the fields of `Memory.add` (times
as ISO 8601 text with an offset), or a chat message in the OpenAI format (`role`, `content`, `name`). JSON Lines are
read as they come; an array is read whole.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from agentmem.errors import AgentMemError, EmbeddingError, InvalidInputError
from agentmem.messages import items_of_message
from agentmem.platform.signals import fails_apart
from agentmem.quoting import shorten, unquoted
from agentmem.records import Record
from agentmem.validation import moment_of as moment_of

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory

Line = tuple[int, dict[str, Any] | AgentMemError]
"""A line's number, from 1, and its item for `add_batch`, or its error."""

BOM = b"\xef\xbb\xbf"

_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


def read_lines(stream: IO[bytes], metadata: Mapping[str, Any] | None = None) -> Iterator[Line]:
    """Yields the items of a stream with the numbers of the lines on which they begin.

    Skips messages that hold no text: blank ones, only images, or only calls of tools. `metadata` is for items without
    their own.
    """
    begun = False
    for number, raw in enumerate(stream, 1):
        if number == 1:
            raw = raw.removeprefix(BOM)
        if not raw.strip():
            continue
        if not begun and raw.lstrip().startswith(b"["):
            yield from _array(number, raw + stream.read(), metadata)
            return
        begun = True
        try:
            value = _value(raw)
        except _Misread as error:
            yield number, InvalidInputError(str(error))
        else:
            with unquoted():
                items = list(_lines_of(number, value, metadata))
            yield from items


def read_texts(stream: IO[bytes]) -> Iterator[Line]:
    """Yields the lines of a stream that are not blank, each as one text, with their numbers."""
    for number, raw in enumerate(stream, 1):
        raw = raw.removeprefix(BOM) if number == 1 else raw
        if raw.strip():
            try:
                yield number, {"content": raw.decode().rstrip("\r\n")}
            except UnicodeDecodeError as error:
                yield number, InvalidInputError(_not_utf8(raw, error))


def read_text(stream: IO[bytes]) -> str:
    """Returns a stream as one text, without the end of its last line.

    Raises:
        InvalidInputError: It is not UTF-8.
    """
    raw = stream.read().removeprefix(BOM)
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = 1 + raw.count(b"\n", 0, error.start)
        raise InvalidInputError(f"Line {line}: {_not_utf8(raw, error)}") from None


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    return f"byte 0x{raw[error.start]:02x} is not UTF-8; convert the file."


def count_lines(path: str) -> int | None:
    """Returns the number of lines that are not blank; None for a pipe (which can be read only once) and for an
    array."""
    if path == "-" or not Path(path).is_file():
        return None
    with Path(path).open("rb") as stream:
        filled = (line for line in stream if line.strip())
        first = next(filled, b"")
        return None if first.lstrip().startswith(b"[") else bool(first) + sum(1 for _ in filled)


def _lines_of(number: int, value: Any, metadata: Mapping[str, Any] | None) -> Iterator[Line]:
    """Yields the lines of a decoded value; none for a message without text by design."""
    try:
        items = _items(value, metadata)
    except InvalidInputError as error:
        yield number, error
    else:
        yield from ((number, item) for item in items)


def _value(raw: bytes) -> Any:
    """Returns the value of a piece of JSON.

    Raises:
        InvalidInputError: It is no JSON; `_Misread.line` counts from the piece's first line.
    """
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise _Misread(_not_utf8(raw, error), 1 + raw.count(b"\n", 0, error.start)) from None
    except json.JSONDecodeError as error:
        reason = f"column {error.colno} is not JSON ({error.msg}); write one text in quotes or one object a line."
        raise _Misread(reason, error.lineno) from None
    except (ValueError, RecursionError) as error:  # A number of thousands of digits, or endless brackets.
        if not fails_apart(lambda: json.loads(raw.decode())):
            raise
        raise _Misread(f"this JSON cannot be read ({error}); simplify it.", 1) from None


class _Misread(InvalidInputError):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def _array(number: int, raw: bytes, metadata: Mapping[str, Any] | None) -> Iterator[Line]:
    """Yields the members of a JSON array that begins on line `number`; none when it is not JSON from end to end."""
    try:
        _value(raw)
    except _Misread as error:
        yield number - 1 + error.line, InvalidInputError(str(error))
        return
    text = raw.decode()
    at = _after_space(text, text.index("[") + 1)
    counted = 0
    while text[at] != "]":
        number += text.count("\n", counted, at)
        counted = at
        value, end = _DECODER.raw_decode(text, at)
        yield from _lines_of(number, value, metadata)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _items(value: Any, metadata: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns a decoded value as items of `add_batch`; none for a message without text by design."""
    if isinstance(value, str):
        return [{"content": value}]
    if not isinstance(value, dict):
        raise InvalidInputError(f"{shorten(value)} is neither a text nor an object; write one of them.")
    # Fields that `agentmem list --json` prints, except the time of the last change.
    item = {name: part for name, part in value.items() if name != "updated_at"}
    items = items_of_message(item, metadata) if "role" in value or "type" in value else [item]
    for item in items:
        for field in ("created_at", "expires_at"):
            if item.get(field) is not None:
                item[field] = moment_of(field, item[field])
    return items


def remember(
    memory: "Memory | ScopedMemory", lines: Iterable[Line], *, skip_bad: bool, **defaults: Any
) -> Iterator[tuple[int, Record | AgentMemError]]:
    """Adds the items in order and yields each line's record once it is committed. With `skip_bad` a bad line yields its
    error.

    Raises:
        AgentMemError: A line is bad and `skip_bad` is off. Every item before that line is stored and was yielded; that
            line and the rest are not. The message begins with the line's number.
    """
    from agentmem.engine.writer import CHUNK  # Imported late, as `memory` is: numpy and the database come with it.

    lines = iter(lines)
    while chunk := list(islice(lines, CHUNK)):
        yield from _skipping(memory, chunk, defaults) if skip_bad else _stopping(memory, chunk, defaults)


def _skipping(
    memory: "Memory | ScopedMemory", chunk: list[Line], defaults: dict[str, Any]
) -> Iterator[tuple[int, Record | AgentMemError]]:
    items = [item for _, item in chunk if isinstance(item, dict)]
    with unquoted():
        outcomes = iter(memory.add_batch(items, on_error="return", **defaults))
    for number, item in chunk:
        outcome = next(outcomes) if isinstance(item, dict) else item
        yield number, outcome if isinstance(outcome, Record) else _reason(outcome)


def _stopping(
    memory: "Memory | ScopedMemory", chunk: list[Line], defaults: dict[str, Any]
) -> Iterator[tuple[int, Record]]:
    good: list[tuple[int, dict[str, Any]]] = []
    bad: tuple[int, AgentMemError] | None = None
    for number, item in chunk:
        if isinstance(item, AgentMemError):
            bad = number, item
            break
        good.append((number, item))
    try:
        with unquoted():
            records = memory.add_batch([item for _, item in good], **defaults)
    except (InvalidInputError, EmbeddingError):
        # Nothing of the chunk is stored. Adding the lines one by one finds the bad one.
        for number, item in good:
            try:
                with unquoted():
                    [record] = memory.add_batch([item], **defaults)
            except AgentMemError as error:
                raise _placed(number, error) from error
            yield number, record
    else:
        yield from zip((number for number, _ in good), records, strict=True)
    if bad is not None:
        raise _placed(*bad)


def _placed(number: int, error: AgentMemError) -> AgentMemError:
    return type(error)(f"Line {number}: {_reason(error)}")


def _reason(error: AgentMemError) -> AgentMemError:
    """Returns the error without its position in the chunk, which means nothing to the reader of the file."""
    return type(error)(re.sub(r"^Item \d+: ", "", str(error)))
