"""What an import is given: files, folders and zip archives, as one sequence of files that may hold memories.

Nothing is unpacked onto the disk: the members of an archive are read where they are.
"""

import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.platform.signals import fails_apart
from agentmem.quoting import shorten
from agentmem.transfer.chats.slack import names_of
from agentmem.transfer.files import Budget, Source, is_seekable, source_of, stream_of, with_head
from agentmem.transfer.json_stream import Values

READ = re.compile(r"\.(?:jsonl?|ndjson|md|markdown|mdx|txt|af|chat)(?:\.(?:gz|bz2|xz|zst))?$|^[^.]+$", re.I)
"""The names of files in folders and archives that may hold chats or memories."""

CHOSEN = re.compile(r"(?:^|/)(?:conversations(?:[-_ ]?\d+)?\.json|memories\.json|memories/[^/]+\.json)$")
"""The members of an archive that are read alone where there are any: the others of such an export hold no chats."""

PASSED = re.compile(
    r"(?:^|/)(?:__MACOSX|node_modules|\.[^/]*)(?:/|$)|(?:^|/)(?:users?|channels|groups|dms|mpims|integration_logs|"
    r"message_feedback|shared_conversations|model_comparisons|package(?:-lock)?|canvases|LICENSE(?:\.\w+)?)\.json$"
)
"""What is passed over: hidden files, and files of exports about something else."""

MEMBERS = 200_000
"""Files of a folder or an archive that are looked at."""

USERS_BYTES = 64 << 20

LEFT_OUT = "files in folders and archives that hold no chats or memories, left out"
UNKNOWN = "files in folders and archives in no format that is known, left out"


@dataclass(slots=True)
class File:
    """One file to read. `name` is its path in the folder or archive, or its own; `shown` is what errors call it, None
    for the only one. `alone` says that it was named itself, so that it must hold something."""

    source: Source
    name: str | None
    modified: datetime | None
    shown: str | None
    alone: bool
    folder: str | None = None
    """The name of the folder in which it is, or of the archive."""
    names: dict[str, str] = field(default_factory=dict)
    """Of the users of an archive or a folder, by their ids."""


def files_of(given: Any, timeout: float, notes: Counter[str]) -> Generator[File, None, None]:
    """Yields the files of a path, an open file, or a list of such; each is closed when the next is asked for.

    Raises:
        InvalidInputError: one cannot be read, or a folder or an archive holds nothing that could.
        DeadlineError: no process wrote into a pipe.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview)
    listed = given if several else [given]
    if not listed:
        raise InvalidInputError("The list of files is empty; pass a path, or a file of text or bytes.")
    for each in listed:
        if isinstance(each, str | os.PathLike) and _is_folder(each):
            yield from _in_folder(Path(os.fsdecode(each)), timeout, notes)
        else:
            yield from _in_file(each, timeout, notes, several=len(listed) > 1)


def _is_folder(path: Any) -> bool:
    try:
        return os.path.isdir(path)  # noqa: PTH112 - Path raises on names that no file can have.
    except ValueError:
        return False


def _in_file(given: Any, timeout: float, notes: Counter[str], *, several: bool) -> Iterator[File]:
    path = os.fsdecode(given) if isinstance(given, str | os.PathLike) else getattr(given, "name", None)
    name = path if isinstance(path, str) and not path.startswith("<") else None
    with ExitStack() as stack:
        stream = stack.enter_context(stream_of(given, timeout))
        stream, head = with_head(stream, seekable=is_seekable(stream))
        if isinstance(head, bytes) and head.startswith(b"PK\x03\x04"):
            if not is_seekable(stream):
                stream = stack.enter_context(_put_aside(stream))
            yield from _in_archive(stream, name, notes)
            return
        source = stack.enter_context(source_of(stream))
        own = None if name is None else _unpacked_name(PurePosixPath(name).name)
        folder = None if name is None else Path(name).absolute().parent.name
        shown = shorten(PurePosixPath(name).name) if several and name else None
        yield File(source, own, _modified(given), shown, alone=True, folder=folder)


def _in_folder(folder: Path, timeout: float, notes: Counter[str]) -> Iterator[File]:
    paths = {path.relative_to(folder).as_posix(): path for path in paths_in(folder)}
    chosen = _chosen(list(paths), notes)
    if not chosen:
        raise InvalidInputError(
            f"The folder {shorten(str(folder))} holds no file of JSON, JSON Lines, Markdown or text; pass another."
        )
    names: dict[str, str] = {}
    for name, path in paths.items():
        if PurePosixPath(name).name == "users.json":
            with stream_of(path, timeout) as stream, source_of(stream) as source:
                names |= _users(source)
    for name in chosen:
        path = paths[name]
        shown = shorten(name)
        if path.suffix.lower() == ".zip":
            yield from _in_file(path, timeout, notes, several=True)
            continue
        with stream_of(path, timeout) as stream, source_of(stream) as source:
            parent = path.absolute().parent.name
            yield File(source, _unpacked_name(name), _modified(path), shown, alone=False, folder=parent, names=names)


def paths_in(folder: Path) -> list[Path]:
    """Returns the files of a folder and those below it, by name; links are not followed.

    Raises:
        InvalidInputError: they are too many, or the folder is that of the whole machine.
    """
    if folder.resolve() == Path(folder.anchor or "/"):
        raise InvalidInputError(
            f"{shorten(str(folder))} cannot be read (it is the root directory); pass a folder in it."
        )
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not PASSED.search(f"{name}/"))
        found += [path for name in sorted(files) if not (path := Path(root, name)).is_symlink() and path.is_file()]
        if len(found) > MEMBERS:
            raise InvalidInputError(f"{shorten(str(folder))} holds more than {MEMBERS:,} files; pass some of them.")
    return found


def is_read(path: Path) -> bool:
    """Returns whether a file of a folder may hold chats or memories, as its name tells."""
    return READ.search(path.name) is not None and not PASSED.search(f"/{path.name}")


def _chosen(listed: list[str], notes: Counter[str]) -> list[str]:
    passed = [name for name in listed if not PASSED.search(name)]
    chosen = [name for name in passed if CHOSEN.search(name)]
    chosen = chosen or [name for name in passed if READ.search(PurePosixPath(name).name) or name.endswith(".zip")]
    hidden = sum(1 for name in listed if re.search(r"(?:^|/)(?:\.[^./]|__MACOSX/)", name))
    if left := len(listed) - len(chosen) - hidden:
        notes[LEFT_OUT] += left
    return chosen


@contextmanager
def _put_aside(stream: Any) -> Iterator[Any]:
    """A stream that cannot be sought, in a temporary file, as reading an archive needs it."""
    with tempfile.TemporaryFile() as aside:
        while piece := stream.read(1 << 20):
            aside.write(piece)
        aside.seek(0)
        yield aside


def _in_archive(stream: Any, path: str | None, notes: Counter[str]) -> Iterator[File]:
    shown = shorten(PurePosixPath(path).name) if path else "the archive"
    size = _size_of(stream)
    try:
        archive = zipfile.ZipFile(stream)
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except Exception as error:
        if not fails_apart(lambda: zipfile.ZipFile(stream)):
            raise
        raise InvalidInputError(f"{shown} is a damaged archive ({error}); get a whole one.") from error
    with archive:
        if len(members) > MEMBERS:
            raise InvalidInputError(f"{shown} holds more than {MEMBERS:,} files; unpack it, and pass some of them.")
        chosen = [name for name in _chosen(list(members), notes) if not name.endswith(".zip")]
        if not chosen:
            raise InvalidInputError(
                f"{shown} holds no file of JSON, JSON Lines, Markdown or text that could be read; pass another."
            )
        budget = Budget(size)
        names: dict[str, str] = {}
        for name, info in members.items():
            if PurePosixPath(name).name == "users.json":
                with _member(archive, info, shown) as member, source_of(member, budget) as source:
                    names |= _users(source)
        for name in chosen:
            with _member(archive, members[name], shown) as member, source_of(member, budget) as source:
                parent = PurePosixPath(name).parent.name or (PurePosixPath(path).stem if path else None)
                yield File(
                    source, _unpacked_name(name), _stamp(members[name]), f"{shorten(name)} in {shown}", alone=False,
                    folder=parent, names=names,
                )  # fmt: skip


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shown: str) -> Any:
    try:
        return _Member(archive.open(info))
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise InvalidInputError(
            f"{shorten(info.filename)} in {shown} cannot be read ({error}); unpack the archive and pass what it holds."
        ) from error


class _Member:
    """A member of an archive, whose damage is told like that of a compressed file."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __enter__(self) -> "_Member":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int = -1) -> bytes:
        return self._told(self._stream.read, size)

    def readline(self, size: int = -1) -> bytes:
        return self._told(self._stream.readline, size)

    def _told(self, read: Any, size: int) -> bytes:
        try:
            found: bytes = read(size)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise EOFError(str(error)) from error
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _users(source: Source) -> dict[str, str]:
    """The names in a file `users.json`; none where it is something else."""
    values = [value.content for value in Values(source, USERS_BYTES)]
    users = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return names_of([user for user in users if isinstance(user, dict)])


def _size_of(stream: Any) -> int:
    place = stream.tell()
    size: int = stream.seek(0, os.SEEK_END)
    stream.seek(place)
    return size


def _stamp(info: zipfile.ZipInfo) -> datetime | None:
    """When a member was changed; archives do not say in which time zone."""
    try:
        return datetime(*info.date_time, tzinfo=UTC) if info.date_time[0] > 1980 else None
    except ValueError:
        return None


def _modified(given: Any) -> datetime | None:
    try:
        seconds = os.stat(given).st_mtime if isinstance(given, str | os.PathLike) else None  # noqa: PTH116
        return None if not seconds else datetime.fromtimestamp(seconds, UTC)
    except (OSError, ValueError, OverflowError):
        return None


def _unpacked_name(name: str) -> str:
    return re.sub(r"\.(?:gz|bz2|xz|zst)$", "", name)
