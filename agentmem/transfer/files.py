"""Files as they are handed over: a path (compressed when it ends in .gz), or an open file of text or bytes."""

import gzip
import hashlib
import io
import os
import select
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import IO, Any

from agentmem.errors import AgentMemError, DeadlineError, InvalidInputError
from agentmem.platform.paths import absolute
from agentmem.quoting import shorten
from agentmem.storage.new_files import check_target, new_file

PIECE_BYTES = 1 << 20

GZIP_MARK = b"\x1f\x8b"

COMPRESSION = 6

UNPACKED_BYTES = 64 << 20
MOST_TIMES = 100
"""What a compressed file may unpack to: so many bytes, or so many times its own size. An export unpacks to five to
twenty times its size; gzip can pack a thousand equal bytes into one."""


class Source:
    """Bytes to read once, from the place where the file stands; and the digest of all of them, when somebody asks."""

    def __init__(self, stream: Any, *, seekable: bool, packed: "_Packed | None" = None) -> None:
        """`packed` is what the stream unpacks, where it does."""
        self._stream = stream
        self._packed = packed
        self._unpacked = 0
        self._seekable = seekable
        self._start = stream.tell() if seekable else 0
        self._passed = hashlib.blake2b(digest_size=16)  # What was read of a pipe, which cannot be read again.
        self._digest: bytes | None = None
        self._aside: IO[bytes] | None = None

    def close(self) -> None:
        """Lets go of what was put aside; the file itself is whoever's opened it."""
        if self._aside is not None:
            self._aside.close()

    def readline(self, limit: int) -> bytes:
        """The rest of the line, or the next `limit` bytes of it (a few more, of text); empty at the end.

        Raises:
            InvalidInputError: the file ends too early, is damaged, or is in another encoding.
        """
        return self._read(self._stream.readline, limit)

    def read(self, limit: int) -> bytes:
        """The next bytes, likewise; fewer than `limit` at the end."""
        return self._read(self._stream.read, limit)

    def _read(self, read: Callable[[int], Any], limit: int) -> bytes:
        try:
            found = read(limit)
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"what follows is not {error.encoding}; open the file as bytes.") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidInputError(
                f"the compressed file is damaged or ends too early ({error}); get a whole one. What stands before can "
                "be read."
            ) from error
        if not isinstance(found, str | bytes):
            raise InvalidInputError(f"reading gave {shorten(found)}; pass a path, or a file of text or bytes.")
        raw = found.encode("utf-8", "surrogatepass") if isinstance(found, str) else found
        if self._packed is not None:
            self._unpacked += len(raw)
            if self._unpacked > max(UNPACKED_BYTES, MOST_TIMES * self._packed.bytes):
                raise InvalidInputError(
                    f"the compressed file unpacks to more than {MOST_TIMES} times its size ({self._unpacked:,} bytes "
                    "so far); unpack it first (gunzip) if that is right, and import what it holds."
                )
        if not self._seekable and self._digest is None:
            self._passed.update(raw)
        return raw

    def digest(self) -> bytes:
        """16 bytes that stand for everything in the file. Reads it to its end; what comes from a pipe is put aside in a
        temporary file meanwhile."""
        if self._digest is None:
            self._digest = self._digest_of_file() if self._seekable else self._digest_of_pipe()
        return self._digest

    def _digest_of_file(self) -> bytes:
        place = self._stream.tell()
        self._stream.seek(self._start)
        digest = hashlib.blake2b(digest_size=16)
        with suppress(InvalidInputError):  # It is told when the reading gets there.
            while piece := self.read(PIECE_BYTES):
                digest.update(piece)
        self._stream.seek(place)
        return digest.digest()

    def _digest_of_pipe(self) -> bytes:
        aside = self._aside = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this.
        while piece := self.read(PIECE_BYTES):
            aside.write(piece)
        aside.seek(0)
        self._stream = aside
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
            # Of a pipe that never had a writer there is nothing to tell, whereas reading it would give an end.
            if not self._polled.poll(self._timeout * 1000):
                raise DeadlineError(
                    f"{shorten(os.fspath(self._path))} gave nothing for {self._timeout:g} seconds; see to who writes "
                    "it, or raise timeout. The chunks before are stored."
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
def source_of(file: Any, timeout: float) -> Iterator[Source]:
    """The bytes of a path or of an open file, which stays open. `timeout` bounds each wait for what a pipe at a path
    gives.

    Raises:
        InvalidInputError: the path cannot be read, or it is no file.
        DeadlineError: nobody wrote into the pipe.
    """
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "read") or not hasattr(file, "readline"):
            raise InvalidInputError(f"file is {shorten(file)}; pass a path, or a file of text or bytes.")
        with closing(Source(file, seekable=_is_seekable(file))) as source:
            yield source
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(_opened(file, timeout))
            seekable = stream.seekable()
            compressed = stream.peek(2)[:2] == GZIP_MARK
        except AgentMemError:
            raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInputError(f"{shorten(os.fspath(file))} cannot be read ({reason}); check the path.") from error
        packed = _Packed(stream) if compressed else None
        unpacked = stack.enter_context(gzip.GzipFile(fileobj=packed)) if packed else stream
        yield stack.enter_context(closing(Source(unpacked, seekable=seekable, packed=packed)))


class _Packed:
    """A compressed file that counts the bytes that were read of it, for `gzip`; those that are read again too."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        found = self._stream.read(size)
        self.bytes += len(found)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_seekable(file: Any) -> bool:
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
