"""WhatsApp: the text file of an exported chat, `_chat.txt` or `WhatsApp Chat with <name>.txt`.

A message begins with its date, time and speaker, `[31/12/23, 21:15:03] Ana: ...` or `12/31/23, 9:15 PM - Ana: ...`; the
lines below, which begin with no date, go on with it. Whether the day or the month comes first, the dates of the whole
file decide; where all are both, the report says so. Times are those of this machine's time zone.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath

from agentmem.errors import InvalidInputError
from agentmem.transfer.chats.conversation import Context, Conversation, Message

NAME = "whatsapp"
ABOUT = "chats that WhatsApp exports as text"

_BEGIN = re.compile(
    r"^[\u200e\u200f\ufeff]*\[?(\d{1,4})[./-](\d{1,2})[./-](\d{1,4}),? "
    r"(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?(?: ?([APap])\.? ?[Mm]\.?)?(?:\] | - )[\u200e\u200f]*(.*)$"
)
FIRST = _BEGIN
_SPACES = re.compile("[\u202f\u00a0]")
_OMITTED = re.compile(
    r"^(?:<[^<>]{1,40}>|(?:image|video|audio|sticker|GIF|document|Contact card) omitted|null|.{1,200}\(file attached\)"
    r"|<attached: .{1,200}>|This message was deleted\.?|You deleted this message\.?)$", re.I
)  # fmt: skip


def read_text(text: str, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a file."""
    found = Conversation(_run_of(context), _title_of(context), in_order=True)
    begun: list[tuple[tuple[str | None, ...], str]] = []
    for line in text.splitlines():
        start = _BEGIN.match(_SPACES.sub(" ", line))
        if start:
            begun.append((start.groups()[:7], start[8]))
        elif begun:
            begun[-1] = begun[-1][0], f"{begun[-1][1]}\n{line}"
        elif line.strip():
            context.left.text("before the first message", line)
    day_first = _day_first(begun, context)
    for parts, said in begun:
        name, colon, words = said.partition(": ")
        words = words.replace("\u200e", "").replace("\u200f", "").strip()
        if not colon or "\n" in name:
            if said.endswith(":") and "\n" not in said:  # A message of nothing.
                found.messages.append(Message("user", None))
            else:
                context.left.text("of service messages", said)
            continue
        name = name.strip("\u200e\u200f\u202a\u202c~ ")
        try:
            at = _moment(parts, day_first=day_first)
        except InvalidInputError as error:
            found.messages.append(error)
            continue
        spoken = words if words and not _OMITTED.match(words) else None
        found.messages.append(Message("user", spoken, None, at, {"name": name} if name else {}))
    yield found


def _day_first(begun: list[tuple[tuple[str | None, ...], str]], context: Context) -> bool:
    dates = [parts for parts, _ in begun if len(parts[0] or "") <= 2]
    if any(int(parts[0] or 0) > 12 for parts in dates):
        return True
    if any(int(parts[1] or 0) > 12 for parts in dates):
        return False
    # Where nothing tells them apart: a clock of twelve hours means that the month comes first.
    guess = not any(parts[6] for parts in dates)
    if dates:
        order = "the day" if guess else "the month"
        context.notes[f"dates in which day and month could be either, read with {order} first"] += len(dates)
    return guess


def _moment(parts: tuple[str | None, ...], *, day_first: bool) -> datetime:
    first, second, third, hour, minute, second_of = (int(part or 0) for part in parts[:6])
    half = (parts[6] or "").lower()
    year, month, day = (first, second, third) if len(parts[0] or "") == 4 else (third, second, first)
    if len(parts[0] or "") != 4 and not day_first:
        month, day = day, month
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    with suppress(ValueError, OverflowError, OSError):
        return datetime(year + 2000 if year < 100 else year, month, day, hour, minute, second_of).astimezone(UTC)
    raise InvalidInputError(f"{'/'.join(str(part) for part in parts[:3])} is no date; correct the line.")


def _title_of(context: Context) -> str | None:
    path = PurePosixPath(context.name or "")
    name = (context.folder or "") if path.name == "_chat.txt" else path.stem
    name = re.sub(r"^WhatsApp Chat (?:with|-) |\.zip$", "", name).strip()
    return name or None


def _run_of(context: Context) -> str | None:
    title = _title_of(context)
    return f"whatsapp-{title}"[:200] if title else None
