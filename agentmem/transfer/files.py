"""Files as they are handed over: a path, compressed or not, or an open file of text or bytes."""

import codecs
import gzip
import hashlib
import io
import os
import select
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import IO, Any

from agentmem.errors import AgentMemError, DeadlineError, InvalidInputError
from agentmem.platform.paths import absolute
from agentmem.quoting import shorten
from agentmem.storage.new_files import check_target, new_file
from agentmem.transfer.compression import DAMAGED, unpacked

PIECE_BYTES = 1 << 20

HEAD_BYTES = 1 << 16

MARK_BYTES = 6
"""As many tell how a file is compressed."""


COMPRESSION = 6

UNPACKED_BYTES = 64 << 20
MOST_TIMES = 100
"""What a compressed file may unpack to: a number of bytes, or a multiple of its own size. An export unpacks to five to
twenty times its size; gzip can pack a thousand equal bytes into one."""


class Budget:
    """What was read of a packed file, and what that became, in bytes; one file or archive has one."""

    def __init__(self, packed: int = 0) -> None:
        self.packed = packed
        self.unpacked = 0

    def take(self, count: int) -> None:
        """Counts unpacked bytes.

        Raises:
            InvalidInputError: they are far more than what they were packed in.
        """
        self.unpacked += count
        if self.unpacked > max(UNPACKED_BYTES, MOST_TIMES * self.packed):
            raise InvalidInputError(
                f"the compressed file unpacks to more than {MOST_TIMES} times its size ({self.unpacked:,} bytes "
                "so far); unpack it first (gunzip) if that is right, and import what it holds."
            )


class Source:
    """Bytes to read once, from the place where the file stands, and the digest of all of them, on request."""

    def __init__(self, stream: Any, *, seekable: bool, budget: Budget | None = None) -> None:
        """`budget` is that of a stream that unpacks."""
        self._stream = stream
        self._budget = budget
        self._seekable = seekable
        self._start = stream.tell() if seekable else 0
        self._passed = hashlib.blake2b(digest_size=16)  # What was read of a pipe, which cannot be read again.
        self._digest: bytes | None = None
        self._aside: IO[bytes] | None = None
        self._head = b""  # Read, and given back.
        self._utf16: codecs.IncrementalDecoder | None = None

    def close(self) -> None:
        """Closes what was put aside; the file itself stays with its opener."""
        if self._aside is not None:
            self._aside.close()

    def head(self) -> bytes:
        """Returns the first bytes, in UTF-8, which are read again afterwards.

        Raises:
            InvalidInputError: as `read` does.
        """
        first = self._read(self._stream.read, HEAD_BYTES)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self._utf16 = codecs.getincrementaldecoder("utf-16")()
            first = self._decoded(first)
        if self._seekable and self._utf16 is None:
            self._stream.seek(self._start)
        else:
            self._head = first
        return first.removeprefix(codecs.BOM_UTF8)

    def readline(self, limit: int) -> bytes:
        """Returns the rest of the line, or the next `limit` bytes of it (a few more, of text); nothing at the end.

        Raises:
            InvalidInputError: the file ends too early, is damaged, or is in another encoding.
        """
        if self._utf16 is not None:
            while b"\n" not in self._head and len(self._head) < limit and (more := self._more()):
                self._head += more
        if not self._head:
            return self._read(self._stream.readline, limit)
        end = self._head.find(b"\n", 0, limit) + 1 or min(limit, len(self._head))
        line, self._head = self._head[:end], self._head[end:]
        if not line.endswith(b"\n") and len(line) < limit and self._utf16 is None:
            line += self._read(self._stream.readline, limit - len(line))
        return line

    def read(self, limit: int) -> bytes:
        """Returns the next bytes, likewise; fewer than `limit` before the end only where a pipe gives them so."""
        if not self._head:
            return self._read(self._stream.read, limit) if self._utf16 is None else self._more()
        piece, self._head = self._head[:limit], self._head[limit:]
        return piece

    def unread(self, raw: bytes) -> None:
        """Gives back what was read last, to be read again."""
        self._head = raw + self._head

    def _more(self) -> bytes:
        """The next piece of a file in UTF-16, as UTF-8."""
        while raw := self._read(self._stream.read, PIECE_BYTES):
            if text := self._decoded(raw):
                return text
        return self._decoded(b"", final=True)

    def _decoded(self, raw: bytes, *, final: bool = False) -> bytes:
        assert self._utf16 is not None
        try:
            return self._utf16.decode(raw, final).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise InvalidInputError("what follows is not UTF-16, as the file began; convert the file.") from None

    def _read(self, read: Callable[[int], Any], limit: int) -> bytes:
        try:
            found = read(limit)
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"what follows is not {error.encoding}; open the file as bytes.") from None
        except DAMAGED as error:
            raise _damaged(error) from error
        if not isinstance(found, str | bytes):
            raise InvalidInputError(f"reading gave {shorten(found)}; pass a path, or a file of text or bytes.")
        raw = found.encode("utf-8", "surrogatepass") if isinstance(found, str) else found
        if self._budget is not None:
            self._budget.take(len(raw))
        if not self._seekable and self._digest is None:
            self._passed.update(raw)
        return raw

    def digest(self) -> bytes:
        """Returns 16 bytes that stand for everything in the file. Reads it to its end; the rest of a pipe is put
        aside in a temporary file meanwhile."""
        if self._digest is None:
            self._digest = self._digest_of_file() if self._seekable else self._digest_of_pipe()
        return self._digest

    def _digest_of_file(self) -> bytes:
        place = self._stream.tell()
        self._stream.seek(self._start)
        before = self._budget.unpacked if self._budget is not None else 0
        digest = hashlib.blake2b(digest_size=16)
        with suppress(InvalidInputError):  # It is told when the reading gets there.
            while piece := self._read(self._stream.read, PIECE_BYTES):
                digest.update(piece)
        if self._budget is not None:
            self._budget.unpacked = before
        self._stream.seek(place)
        return digest.digest()

    def _digest_of_pipe(self) -> bytes:
        aside = self._aside = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this.
        while piece := self._read(self._stream.read, PIECE_BYTES):
            aside.write(piece)
        aside.seek(0)
        self._stream = aside
        self._budget = None
        return self._passed.digest()


class _Pipe(io.RawIOBase):
    """What comes through a named pipe or another path that is no regular file, waited for no longer than `timeout`
    seconds at a time. Opening it waits for no writer."""

    def __init__(self, path: Any, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._polled = select.poll()
        self._polled.register(self._descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            # A pipe that never had a writer gives nothing to poll, whereas reading it would give an end.
            if not self._polled.poll(self._timeout * 1000):
                raise DeadlineError(
                    f"{shorten(os.fspath(self._path))} gave nothing for {self._timeout:g} seconds; look at its writer, "
                    "or raise timeout. The chunks before are stored."
                )
            with suppress(BlockingIOError):  # Another reader was faster.
                return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _opened(path: Any, timeout: float) -> io.BufferedReader:
    if _is_special(os.fspath(path)):
        return io.BufferedReader(_Pipe(path, timeout))
    return open(path, "rb")  # noqa: PTH123 - Path raises on names that no file can have.


@contextmanager
def stream_of(file: Any, timeout: float) -> Iterator[Any]:
    """Opens a path for reading bytes; an open file comes back unchanged and stays open.

    `timeout` bounds each wait for the writer of a pipe at the path.

    Raises:
        InvalidInputError: The path cannot be read, or it is no file.
        DeadlineError: The pipe had no writer in time.
    """
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "read") or not hasattr(file, "readline"):
            raise InvalidInputError(f"file is {shorten(file)}; pass a path, or a file of text or bytes.")
        yield file
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(_opened(file, timeout))
            stream.peek(1)
        except AgentMemError:
            raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInputError(f"{shorten(os.fspath(file))} cannot be read ({reason}); check the path.") from error
        yield stream


@contextmanager
def source_of(stream: Any, budget: Budget | None = None) -> Iterator[Source]:
    """The contents of an open file, unpacked where it is compressed. `budget` is that of the archive that it is in."""
    seekable = is_seekable(stream)
    stream, head = with_head(stream, seekable=seekable)
    with ExitStack() as stack:
        contents = None
        if isinstance(head, bytes):
            budget = budget or Budget()
            packed = _Packed(stream, budget)
            contents = unpacked(packed, head)  # type: ignore[arg-type]
        if contents is not None:
            source = Source(stack.enter_context(contents), seekable=seekable, budget=budget)
        else:
            source = Source(stream, seekable=seekable, budget=budget if budget and budget.packed else None)
        yield stack.enter_context(closing(source))


def with_head(stream: Any, *, seekable: bool) -> tuple[Any, Any]:
    """Returns a stream and its first bytes (text, of a file of text), which it gives again."""
    if isinstance(stream, io.TextIOBase) or hasattr(stream, "encoding"):
        return stream, ""
    if seekable:
        start = stream.tell()
        try:
            head = stream.read(MARK_BYTES)
        except DAMAGED as error:
            raise _damaged(error) from error
        stream.seek(start)
        return stream, head
    if not isinstance(stream, io.BufferedReader):
        stream = io.BufferedReader(_Raw(stream))
    return stream, stream.peek(MARK_BYTES)[:MARK_BYTES]


def _damaged(error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"the compressed file is damaged or ends too early ({error}); get a whole one. What stands before can be read."
    )


class _Raw(io.RawIOBase):
    """Any object with a method `read`, as a raw file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._file.read(len(buffer))
        if not isinstance(found, bytes) or len(found) > len(buffer):
            raise InvalidInputError(f"reading gave {shorten(found)}; pass a path, or a file of text or bytes.")
        buffer[: len(found)] = found
        return len(found)


class _Packed:
    """A compressed file that counts the bytes that were read of it; those that are read again too."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, size: int = -1) -> bytes:
        found = self._stream.read(size)
        self._budget.packed += len(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_seekable(file: Any) -> bool:
    try:
        file.seek(file.tell())
    except (OSError, AttributeError, ValueError):
        return False
    return True


@contextmanager
def target_of(file: Any, store: str, *, overwrite: bool) -> Iterator[Callable[[bytes], object]]:
    """What writes bytes to a path or an open file, which stays open. A file at a path is complete, and on the disk,
    when it gets its name; when the block fails there is none. It has the mode and owner of the store, see `make_file`.

    Raises:
        InvalidInputError: the file is there already, or is the store itself.
        StoreOpenError: it cannot be made.
        StoreFullError: the disk is full.
    """
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "write"):
            raise InvalidInputError(f"file is {shorten(file)}; pass a path, or a file of text or bytes.")
        is_text = isinstance(file, io.TextIOBase) or hasattr(file, "encoding")
        yield (lambda piece: file.write(piece.decode())) if is_text else file.write
        return
    path = absolute(os.fsdecode(file))
    if _is_special(path):
        with open(path, "wb") as stream:  # noqa: PTH123 - a pipe, a terminal: nothing that gets a name.
            yield stream.write
        return
    check_target(store, path, overwrite=overwrite)
    with (
        new_file(path, like=store, overwrite=overwrite) as unfinished,
        open(unfinished, "wb") as stream,  # noqa: PTH123
        _packed(stream, path) as packed,
    ):
        yield packed.write


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _packed(stream: IO[bytes], path: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    if not path.endswith(".gz"):
        yield stream
        return
    # Neither name nor time in it, so that the same memories make the same bytes.
    with gzip.GzipFile("", "wb", COMPRESSION, stream, mtime=0) as packed:
        yield packed
