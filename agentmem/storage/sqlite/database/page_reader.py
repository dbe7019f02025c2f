"""Reads rows from a damaged file, page by page, without its tree: https://www.sqlite.org/fileformat2.html.

Only pages of rows are read, each on its own, so that a lost page takes only its own rows with it. That is safe for this
store because rows are only added and changed, never moved. Only `purge` deletes them, and leaves none behind. Of
several versions of a row, the one with the highest `seq` is the newest. Where pages have checksums, each row says
whether all its pages are as they were written.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from agentmem.progress import Tell, each, untold
from agentmem.storage.sqlite.database.schema import APPLICATION_ID

TABLE_LEAF, INDEX_LEAF = 13, 10
LOG_HEADER, FRAME_HEADER = 32, 24
WIDTHS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

CHECKSUM_BYTES = 8

SAMPLE = 64
"""Pages that are read to learn what a damaged header does not say."""

COLUMNS = {"vector": 3, "history": 5, "memory": 18}


class Text(bytes):
    """The bytes of a text."""


class Row(NamedTuple):
    """A row's key (0 in an index) and its columns, text as bytes in a `Text`, because it may be invalid.

    `sound` is False when a page of it has a wrong checksum.
    """

    key: int
    columns: list[Any]
    sound: bool


class File(Protocol):
    """A file as SQLite reads it."""

    def xRead(self, amount: int, offset: int) -> bytes: ...
    def xFileSize(self) -> int: ...


class Pages:
    """The pages of a database as of its last commit, those in its log first."""

    def __init__(self, file: File, log: File | None) -> None:
        self._file, self._log = file, log
        head = file.xRead(100, 0) if file.xFileSize() >= 100 else bytes(100)
        size = int.from_bytes(head[16:18], "big")
        self.size = 65536 if size == 1 else size if size in (512, 1024, 2048, 4096, 8192, 16384, 32768) else 4096
        self._in_log = self._frames() if log is not None else {}
        self.count = max([file.xFileSize() // self.size, *self._in_log])
        self._sound: dict[int, bool] = {}
        self.checked = (head[:6], head[20]) == (b"SQLite", CHECKSUM_BYTES) or self._mostly_sound()
        self.usable = self.size - CHECKSUM_BYTES if self.checked else self.size

    @property
    def schema(self) -> int:
        """The version of the tables, as far as the header can be believed."""
        return int.from_bytes(self.page(1)[60:64], "big")

    def page(self, number: int) -> bytes:
        """Zeros where the file has ended."""
        if number in self._in_log and self._log is not None:
            return self._log.xRead(self.size, self._in_log[number])
        offset = (number - 1) * self.size
        held = max(0, min(self.size, self._file.xFileSize() - offset))
        return (self._file.xRead(held, offset) if held else b"").ljust(self.size, b"\0")

    def is_sound(self, number: int) -> bool:
        """Whether the page is as it was written, as far as a checksum tells. A page gets its checksum when it is merged
        from the log, whose frames have their own."""
        return not self.checked or number in self._in_log or self._fits(number)

    def _fits(self, number: int) -> bool:
        if number not in self._sound:
            page = self.page(number)
            sums = _checksum(page[:-CHECKSUM_BYTES], (0, 0), "little")
            self._sound[number] = page[-CHECKSUM_BYTES:] == b"".join(each.to_bytes(4, "little") for each in sums)
        return self._sound[number]

    def _mostly_sound(self) -> bool:
        filled = [number for number in range(1, min(self.count, SAMPLE) + 1) if any(self.page(number))]
        return 2 * sum(map(self._fits, filled)) > len(filled)

    def is_merged(self, number: int, frames: int) -> bool:
        """Whether a page is final in the file once this number of frames of the log has been merged into it."""
        return (
            number not in self._in_log
            or self._in_log[number] <= LOG_HEADER + frames * (FRAME_HEADER + self.size) - self.size
        )

    def _frames(self) -> dict[int, int]:
        """Returns where the log has the pages of its committed transactions."""
        assert self._log is not None
        end = self._log.xFileSize()
        head = self._log.xRead(LOG_HEADER, 0) if end >= LOG_HEADER else b""
        if head[:3] != b"\x37\x7f\x06" or int.from_bytes(head[8:12], "big") != self.size:
            return {}
        order = "big" if head[3] & 1 else "little"
        found: dict[int, int] = {}
        pending: dict[int, int] = {}
        sums = _checksum(head[:24], (0, 0), order)
        at = LOG_HEADER
        while at + FRAME_HEADER + self.size <= end:
            frame = self._log.xRead(FRAME_HEADER + self.size, at)
            sums = _checksum(frame[FRAME_HEADER:], _checksum(frame[:8], sums, order), order)
            if frame[8:16] != head[16:24] or frame[16:24] != b"".join(each.to_bytes(4, "big") for each in sums):
                break  # Of an earlier round of the log, or torn.
            pending[int.from_bytes(frame[:4], "big")] = at + FRAME_HEADER
            if frame[4:8] != bytes(4):
                found |= pending
                pending = {}
            at += len(frame)
        return found


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = sums
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 4], order)  # type: ignore[arg-type]
        first = (first + word + second) & 0xFFFFFFFF
        word = int.from_bytes(data[at + 4 : at + 8], order)  # type: ignore[arg-type]
        second = (second + word + first) & 0xFFFFFFFF
    return first, second


FACTS = (b"model", b"store_id", b"analysis", b"backlog", b"unwiped", b"next_model", b"old_model", b"mover")
"""The names in `meta`."""


def rows_of(pages: Pages, tell: Tell = untold) -> Iterator[Row]:
    """Every row that can be read."""
    for number in each(range(1, pages.count + 1), tell, "pages of the damaged file", pages.count):
        data = pages.page(number)
        start = 100 if number == 1 else 0
        if data[start] not in (TABLE_LEAF, INDEX_LEAF):
            continue
        table = data[start] == TABLE_LEAF
        for cell in range(int.from_bytes(data[start + 3 : start + 5], "big")):
            place = start + 8 + 2 * cell
            try:
                yield _row(pages, number, data, int.from_bytes(data[place : place + 2], "big"), table=table)
            except (IndexError, ValueError, OverflowError):
                continue  # Not a row, or one whose end is lost.


def table_of(columns: list[Any]) -> str | None:
    """Returns the table of a row, by its columns, which no two tables share."""
    match columns:
        case [Text() as name, Text()] if name in FACTS:
            return "meta"
        case [Text() as name, int()] if name in (b"memory", b"history"):
            return "sqlite_sequence"
        case [None, bytes() as digest, bytes() as data] if not isinstance(digest, Text) and not isinstance(data, Text):
            return "vector"
        case [None, int(), Text(), int(), Text() | None]:
            return "history"
        case [None, Text(), *_] if len(columns) == COLUMNS["memory"]:
            return "memory"
    return None


def looks_like_ours(file: File) -> bool:
    """Whether a file that is no database any more, or not known as agentmem's, was a store: by its header, or a memory
    near its beginning."""
    size = file.xFileSize()
    if size >= 72 and file.xRead(4, 68) == APPLICATION_ID.to_bytes(4, "big"):
        return True
    pages = Pages(file, None)
    pages.count = min(max(pages.count, 1), SAMPLE)
    return any(table_of(row.columns) == "memory" for row in rows_of(pages))


def _row(pages: Pages, number: int, data: bytes, at: int, *, table: bool) -> Row:
    length, at = _varint(data, at)
    key = 0
    if table:
        key, at = _varint(data, at)
    payload, sound = _payload(pages, number, data, at, length, table=table)
    size, place = _varint(payload, 0)
    columns: list[Any] = []
    content = size
    while place < size:
        kind, place = _varint(payload, place)
        width = WIDTHS.get(kind, (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else 0)
        if content + width > len(payload) or kind in (7, 10, 11):
            raise ValueError("not a row of this store")
        value = payload[content : content + width]
        content += width
        if kind >= 12:
            columns.append(Text(value) if kind % 2 else value)
        else:
            columns.append(None if kind == 0 else kind - 8 if kind >= 8 else int.from_bytes(value, "big", signed=True))
    if content != len(payload):
        raise ValueError("not a row")
    return Row(key, columns, sound)


def _payload(pages: Pages, number: int, data: bytes, at: int, length: int, *, table: bool) -> tuple[bytes, bool]:
    """The bytes of a row, and whether all its pages are sound."""
    usable = pages.usable
    most = usable - 35 if table else (usable - 12) * 64 // 255 - 23
    if length <= most:
        if at + length > len(data):
            raise ValueError("beyond the page")
        return data[at : at + length], pages.is_sound(number)
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)
    local = local if local <= most else least
    if length > pages.count * pages.size:
        raise ValueError("longer than the file")
    parts, left = [data[at : at + local]], length - local
    following = int.from_bytes(data[at + local : at + local + 4], "big")
    sound = pages.is_sound(number)
    while left:
        if not 1 <= following <= pages.count:
            raise ValueError("the rest is lost")
        page = pages.page(following)
        sound = pages.is_sound(following) and sound
        following = int.from_bytes(page[:4], "big")
        parts.append(page[4 : 4 + min(left, usable - 4)])
        left -= len(parts[-1])
    return b"".join(parts), sound


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for offset in range(8):
        byte = data[at + offset]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + offset + 1
    return value << 8 | data[at + 8], at + 9
