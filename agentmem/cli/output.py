"""How the command line prints: harmless contents, aligned columns, JSON."""

import io
import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentmem.records import Event, Match, Record, Version
    from agentmem.stats import Stats

GAP = "  "

MIN_TEXT = 24
"""Columns that the text, which comes last, should have. On a narrower terminal other columns are dropped for it."""

MAX_OWNER = 40

ERROR = "Error:"
"""The beginning of the message that ends a command."""

STYLES = {"good": "32", "bad": "1;31", "strong": "1", "faint": "2"}
"""Styles by their ECMA-48 numbers: green, bold red, bold, faint."""

MATCH_STYLES = {0: "strong", 1: "faint", 2: "faint"}
RECORD_STYLES = {0: "faint", 1: "faint"}

STORED = (
    "memories", "deleted", "vectors", "pending", "pending_seconds", "pending_failed", "users", "agents", "runs",
    "changes", "changed_at", "bytes", "log_bytes",
)  # fmt: skip
"""The figures of `Stats.store` that are the same in every process."""

PARTS = ("keyword", "vector", "neighbours", "prior", "window", "recency", "importance")
"""The parts of a score, as `Match.explanation` names them."""

# Characters on which a terminal, or a reader of lines, would act. Controls (C0, DEL, C1), Unicode's two separators,
# lone surrogates, and the marks that turn the direction of the following text. Joiners stay: emoji are made of them.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_WIDENED = "\ufe0f"  # Turns the character before it into an emoji.


def escape(text: str) -> str:
    """Returns the text on one line, with every character on which a terminal would act escaped as Python does."""
    return _HARMFUL.sub(lambda found: _SHORT.get(found[0]) or _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def width(text: str) -> int:
    """Returns the columns of an escaped text: two for wide characters and emoji, none for combining ones.

    Joined emoji are counted one by one, as terminals show them that cannot join.
    """
    total = last = 0
    for character in text:
        if character == _WIDENED and last == 1:
            total += 1
            last = 2
        elif not _is_attached(character):
            last = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            total += last
    return total


def _is_attached(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def clip(text: str, columns: int) -> str:
    """Returns the text, cut to `columns` with an ellipsis when it is wider."""
    if len(text) * 2 <= columns or width(text) <= columns:
        return text
    kept, used = "", 0
    for character in text:
        used += width(character)
        if used + 1 > columns:
            break
        kept += character
    return f"{kept.rstrip(chr(0x200D))}…" if columns > 0 else ""


def table(
    rows: Sequence[Sequence[str]],
    columns: int | None,
    expendable: Sequence[int] = (),
    styles: Mapping[int, str] | None = None,
) -> Iterator[str]:
    """Returns lines of aligned cells that fit in `columns` (None: no limit).

    The last cell is cut as needed. Where it would get less than MIN_TEXT, the `expendable` cells are left out, in that
    order. `styles` has a style for the cells of some columns.
    """
    if not rows:
        return
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    shown = [index for index in range(len(widths)) if widths[index]]
    for index in (*expendable, None):
        room = None if columns is None else columns - sum(widths[at] + len(GAP) for at in shown[:-1])
        if room is None or room >= min(MIN_TEXT, widths[shown[-1]]) or index is None:
            break
        shown = [at for at in shown if at != index]
    for row in cells:
        padded = [row[at] + " " * (widths[at] - width(row[at])) for at in shown[:-1]]
        padded.append(row[shown[-1]] if room is None else clip(row[shown[-1]], max(room, 1)))
        line = GAP.join(padded).rstrip()
        if columns is not None and width(line) > columns:
            yield clip(line, columns)
        elif styles:
            yield GAP.join(styled(cell, styles.get(at)) for at, cell in zip(shown, padded, strict=True)).rstrip()
        else:
            yield line


def fitted(
    rows: Sequence[Sequence[str]],
    *,
    full: bool = False,
    expendable: Sequence[int] = (),
    indent: int = 0,
    styles: Mapping[int, str] | None = None,
) -> list[str]:
    """Returns `table` for the present terminal, with colours. Nothing is cut or coloured when the output goes
    elsewhere; `full` cuts nothing either."""
    limited = not full and (sys.stdout.isatty() or "COLUMNS" in os.environ)
    columns = shutil.get_terminal_size().columns - indent if limited else None
    shown = table(rows, columns, expendable, styles if is_coloured(sys.stdout) else None)
    return [" " * indent + line for line in shown]


def is_coloured(stream: IO[str]) -> bool:
    """Whether to write colours: to a terminal that knows them, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str | None) -> str:
    """Returns the text in one of STYLES."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style and text else text


def painted(text: str, style: str) -> str:
    """Returns the text in a style, where standard output takes colours."""
    return styled(text, style) if is_coloured(sys.stdout) else text


def counted(count: int, noun: str = "memory", nouns: str = "memories") -> str:
    """Returns a number and its noun, as in "1 memory" and "2 memories"."""
    return f"{count:,} {noun if count == 1 else nouns}"


def match_rows(matches: Sequence["Match"], *, ids: bool = True, owners: bool = False) -> list[list[str]]:
    """Returns score, id, day, owner and text; ids and owners are blank unless wanted."""
    return [[f"{match.score:.2f}", *_record_cells(match.record, ids=ids, owners=owners)] for match in matches]


def record_rows(records: Sequence["Record"], *, owners: bool) -> list[list[str]]:
    """Returns id, day, owner and text."""
    return [_record_cells(record, ids=True, owners=owners) for record in records]


def _record_cells(record: "Record", *, ids: bool, owners: bool) -> list[str]:
    named = (("user", record.user_id), ("agent", record.agent_id), ("run", record.run_id))
    owner = " ".join(f"{name}={value}" for name, value in named if value is not None) if owners else ""
    text = record.content if record.role is None else f"{record.role}: {record.content}"
    day = record.created_at.date().isoformat()
    return [record.id if ids else "", day, clip(escape(owner), MAX_OWNER), text]


def record_block(record: "Record") -> list[str]:
    """Returns every field that the record has, a line each."""
    named = {
        "id": record.id, "content": record.content, "user": record.user_id, "agent": record.agent_id,
        "run": record.run_id, "role": record.role,
        "metadata": json.dumps(record.metadata, ensure_ascii=False) if record.metadata else None,
        "created": record.created_at, "updated": record.updated_at, "expires": record.expires_at,
    }  # fmt: skip
    cells = [
        [name, f"{value:%Y-%m-%d %H:%M:%S}Z" if isinstance(value, datetime) else value]
        for name, value in named.items()
        if value is not None
    ]
    return fitted(cells, full=True, styles={0: "faint"})


def stored_fields(stats: "Stats") -> dict[str, Any]:
    """Returns the store's figures. The other figures count the work of this process, which has just begun."""
    return {name: getattr(stats.store, name) for name in STORED}


def stored_cells(told: Mapping[str, Any]) -> list[list[str]]:
    """Returns such figures, and the path, for people."""
    return [[name.replace("_", " "), readable(name, value)] for name, value in told.items() if value is not None]


def readable(name: str, value: Any) -> str:
    """Returns a figure for people; a missing one is blank."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if name.endswith("seconds"):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def event_rows(events: Sequence["Event"]) -> list[list[str]]:
    """Returns number, time, event, and the text afterwards."""
    return [[str(event.seq), f"{event.at:%Y-%m-%d %H:%M:%S}Z", event.what, _version(event.after)] for event in events]


def _version(version: "Version | None") -> str:
    if version is None:
        return ""
    metadata = f"  {json.dumps(version.metadata, ensure_ascii=False)}" if version.metadata else ""
    return f"{version.content}{metadata}"


def explain_line(match: "Match") -> str:
    """Returns the parts of a score, which add up to it, and how it was searched, on one line."""
    told = match.explanation or {}
    notes = {"keyword": f"words ({', '.join(told['terms'])})", "vector": f"vector (cosine {told['cosine']:.2f})"}
    notes["window"] = f"time ({', '.join(window['text'] for window in told['windows'])})"
    parts = [
        f"{'-' if told[part] < 0 else '+'} {abs(told[part]):.2f} {notes.get(part, part)}"
        for part in PARTS
        if told[part] or told["mode"] == part
    ]
    sum_ = " ".join(parts).removeprefix("+ ")
    return f"= {sum_ or '0.00'}; {told['mode']}, {told['plan']}, {told['candidates']:,} candidates"


def to_json(value: Any, *, ascii_only: bool = False) -> str:
    """Returns one line of JSON: records and the like as objects, times as ISO 8601 in UTC. Characters on which a
    terminal would act are escaped here too."""
    text = json.dumps(value, default=_plain, ensure_ascii=ascii_only)
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def prepare_output() -> None:
    """Prepares standard output before anything is printed.

    A closed one discards everything. One that is not UTF-8 shows what it can.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - as Python opens its own.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def standard_input() -> IO[bytes]:
    """Returns its bytes; none when it is closed."""
    return io.BytesIO() if sys.stdin is None else sys.stdin.buffer


def text_of(argument: str) -> str:
    """Returns an argument's text, or the contents of standard input when it is "-". Raises InvalidInputError."""
    if argument != "-":
        return argument
    from agentmem.cli.input import read_text

    return read_text(standard_input())


def print_lines(*lines: str, end: str = "\n") -> None:
    """Writes to standard output at once. Raises BrokenPipeError when its reader has gone."""
    sys.stdout.writelines(f"{line}{end}" for line in lines)
    sys.stdout.flush()


def print_json(*values: Any) -> None:
    """Writes each value as a line of JSON, in ASCII where standard output is not UTF-8."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print_lines(*(to_json(value, ascii_only=ascii_only) for value in values))


@contextmanager
def shown_cursor(*, hidden: bool) -> Iterator[None]:
    """Hides the cursor of the terminal for a while, or not."""
    if not hidden:
        yield
        return
    sys.stdout.write("\x1b[?25l")
    try:
        yield
    finally:
        with suppress(OSError):
            print_lines("\x1b[?25h", end="")


def rewrite_lines(lines: Sequence[str], *, above: bool) -> None:
    """Prints lines over the `above` lines printed before; at most as many as the terminal has room for."""
    columns, height = shutil.get_terminal_size()
    lines = [
        line if width(_COLOUR.sub("", line)) <= columns else clip(_COLOUR.sub("", line), columns) for line in lines
    ]
    lines = lines[: max(height - 1, 1)]
    up = f"\x1b[{len(lines)}A" if above else ""
    print_lines(up + "\n".join(f"\r{line}\x1b[K" for line in lines))


def complain(*messages: str) -> None:
    """Prints each on a line of standard error, which may be closed."""
    with suppress(OSError):
        for message in messages:
            line = escape(message)
            if line.startswith(ERROR) and is_coloured(sys.stderr):
                line = styled(ERROR, "bad") + line.removeprefix(ERROR)
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def stop_output() -> None:
    """Nothing reads the output any more: the rest of the buffer must not raise again when Python ends."""
    with suppress(OSError, ValueError):  # A standard output without a descriptor, as in tests.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
