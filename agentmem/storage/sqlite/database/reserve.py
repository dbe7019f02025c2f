"""Room on the disk that a store reserves, so that a store on a full disk can always be shrunk.

Merging the log needs room in the file for pages that only the log has. The file `...-reserve` beside the store takes
that much, and some more. On a full disk it is cut, and the merge gets its room. Each kind of change leaves some of it.
Adds are refused before they would use any. Deletions grow the store by an event, and leave enough for erasing. The file
exists while the store is open. On a disk that is short of room it stays afterwards, because the store could not be
opened without it.
"""

import errno
import os
import resource
import time
from contextlib import suppress
from enum import Enum

from agentmem.platform.files import make_file

STEP_BYTES = 256 * 1024
"""A change writes some 25 pages of 4 KB to the log, and opening a store takes 32 KB of shared memory."""

SHARE = 24
"""A deletion takes some 60 bytes for good, the memory that it hides some 1,500. With a 24th of the file, nearly all can
be deleted before any must be erased."""

MOST_STEPS = 32
"""8 MB, for 100,000 deletions, are enough for any store."""

OPENING_BYTES = 64 * 1024
"""Opening a store on a full disk takes this much of the reserve: shared memory, and the beginning of a log."""

LOOK_SECONDS = 0.05
"""How long a look at the files of the store is valid. It takes 6 microseconds, and other processes cut the reserve on a
full disk only."""

SLACK_BYTES = 16 * STEP_BYTES
"""How much longer than needed the reserve may stay, so that it is not cut and lengthened with each merge of the log."""

SHORT_BYTES = 64 * STEP_BYTES
"""With less room than this (16 MB), the reserve stays beside a closed store."""

NO_LIMIT = 1 << 62


class Kind(Enum):
    """The effect of a change on the room on the disk."""

    ADDS = "adds"
    HIDES = "hides"
    ERASES = "erases"


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """The reserve of the store at a path; any process may lengthen and empty it at any time. No descriptor is kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = f"{path}-reserve"
        self._believed = Kind.ERASES, 0, 0.0  # The latest look: its kind, the file's length, and its end.

    def hold(self, file_bytes: int, kind: Kind) -> int:
        """Reserves room for a file of `file_bytes`, and what a change of this kind must leave.

        Returns 0, or the errno of the missing resource. A store in memory needs no room.
        """
        looked_for, enough_for, until = self._believed
        if self._path == ":memory:" or (kind is looked_for and file_bytes <= enough_for and time.monotonic() < until):
            return 0
        left = _left_by(kind, file_bytes)
        if file_bytes + left > file_limit():
            return errno.EFBIG
        merged = size_of(self._path)
        wanted = max(0, file_bytes - merged) + left
        held = size_of(self._file)
        if held > wanted + SLACK_BYTES:
            self._cut(held := wanted)
        if held < wanted:
            held = wanted + wanted // 4
            if lack := self._lengthen(held) and self._lengthen(held := wanted):
                return lack
        enough_for = min(merged + held, file_limit()) - left
        self._believed = kind, enough_for, time.monotonic() + LOOK_SECONDS
        return 0

    def spend(self, file_bytes: int, kind: Kind) -> None:
        """Releases the part that a change of this kind may use."""
        self._cut(max(0, file_bytes - size_of(self._path)) + _left_by(kind, file_bytes))

    def give_up(self, size: int | None = None) -> bool:
        """Releases this number of bytes, or all; returns False when there are none."""
        held = size_of(self._file)
        self._cut(0 if size is None else max(0, held - size))
        return held > 0

    def leave(self) -> None:
        """Removes the reserve after the last process has closed the store, and so removed the log, unless the disk is
        short of room."""
        with suppress(OSError):
            if not os.path.exists(f"{self._path}-wal") and free_bytes(self._path) >= SHORT_BYTES:  # noqa: PTH110
                os.unlink(self._file)  # noqa: PTH108

    def _lengthen(self, size: int) -> int:
        try:
            file = self._open()
        except OSError as error:
            return _lack_in(error)
        held = os.fstat(file).st_size
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, size)
            else:
                os.pwrite(file, bytes(size - held), held)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(file, held)
            return _lack_in(error)
        finally:
            os.close(file)
        return 0

    def _open(self) -> int:
        try:
            return make_file(self._file, like=self._path)
        except FileExistsError:
            return os.open(self._file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _cut(self, size: int) -> None:
        self._believed = Kind.ERASES, 0, 0.0
        with suppress(OSError):
            file = os.open(self._file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(file).st_size > size:
                    os.ftruncate(file, size)
            finally:
                os.close(file)


def _lack_in(error: OSError) -> int:
    return error.errno if error.errno in _NO_ROOM else 0  # Where no reserve can be made, there is none.


def _left_by(kind: Kind, file_bytes: int) -> int:
    if kind is Kind.ADDS:
        return STEP_BYTES * (1 + min(file_bytes // (SHARE * STEP_BYTES), MOST_STEPS - 1))
    return STEP_BYTES // 2 if kind is Kind.HIDES else 0


def free_bytes(path: str) -> int:
    """Returns what this process may still write to the file system of a file; 0 when it cannot be asked."""
    try:
        room = os.statvfs(path)
    except OSError:
        return 0
    return room.f_bavail * room.f_frsize


def file_limit() -> int:
    """Returns how many bytes a file of this process may have (`ulimit -f`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return NO_LIMIT if limit == resource.RLIM_INFINITY else limit


def size_of(path: str) -> int:
    """Bytes; 0 for a file that is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def what_fills(path: str) -> str:
    """Returns the free room of the disk and the store's share of it, for a message."""
    try:
        room = os.statvfs(path)
        names = os.listdir(os.path.dirname(path))  # noqa: PTH120, PTH208
    except OSError:
        return ""
    parts = dict.fromkeys(("file", "log", "reserve", "segments", "others beside it"), 0)
    kinds = {"": "file", "-wal": "log", "-shm": "log", "-reserve": "reserve", "-segments": "segments"}
    folder, name = os.path.split(path)
    for each in names:
        if each.startswith(name) and each[len(name) :][:1] in ("", "-", "."):
            kind = kinds.get(each[len(name) :], "others beside it")
            parts[kind] += _taken(os.path.join(folder, each))  # noqa: PTH118
    told = ", ".join(f"{part} {_megabytes(size)}" for part, size in parts.items() if size)
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    return f"{_megabytes(free)} of {_megabytes(total)} are free, and the store takes {told}"


def _taken(place: str) -> int:
    try:
        with os.scandir(place) as entries:
            return sum(size_of(entry.path) for entry in entries)
    except OSError:
        return size_of(place)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
