"""Compressed files, unpacked as they are read: gzip, bzip2, xz and Zstandard, of one member or of several."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from agentmem.errors import InvalidInputError

MEMORY_BYTES = 256 << 20
"""What unpacking a file may need in memory: xz lets a file ask for more than a gigabyte."""

PIECE_BYTES = 1 << 17

DAMAGED: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
"""What a damaged file raises; the others raise OSError and ValueError, which `unpacked` turns into the first."""


def unpacked(stream: IO[bytes], head: bytes) -> io.BufferedReader | None:
    """Returns the contents of a compressed file, which can be sought where the file can; None where it is not
    compressed, as its first six bytes tell.

    Raises:
        InvalidInputError: it is compressed by Zstandard, and what unpacks that is not installed.
    """
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return io.BufferedReader(_Unpacked(stream, bz2.BZ2Decompressor), PIECE_BYTES)
    if head.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(_Unpacked(stream, lambda: lzma.LZMADecompressor(memlimit=MEMORY_BYTES)), PIECE_BYTES)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_Unpacked(stream, _zstd()), PIECE_BYTES)
    return None


def _zstd() -> Callable[[], Any]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # From Python 3.14 on.
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef,import-untyped,import-not-found,unused-ignore]
        except ImportError:
            raise InvalidInputError(
                "the file is compressed by Zstandard; pip install 'agentmem[zstd]', or unpack it first (unzstd)."
            ) from None

    def decompressor() -> Any:
        return _Foreign(zstd.ZstdDecompressor(), zstd.ZstdError)

    return decompressor


class _Foreign:
    """A decompressor whose errors are those of a damaged file."""

    def __init__(self, decompressor: Any, error: type[Exception]) -> None:
        self._decompressor, self._error = decompressor, error

    def decompress(self, data: bytes, size: int) -> bytes:
        try:
            found: bytes = self._decompressor.decompress(data, size)
        except self._error as error:
            raise EOFError(str(error)) from error
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decompressor, name)


class _Unpacked(io.RawIOBase):
    """Reads what a stream holds compressed, member after member; seeking back begins anew."""

    def __init__(self, stream: IO[bytes], new: Callable[[], Any]) -> None:
        self._stream, self._new = stream, new
        self._start = stream.tell() if stream.seekable() else 0
        self._decompressor = new()
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer)) if len(buffer) else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _next(self, size: int) -> bytes:
        while True:
            decompressor = self._decompressor
            if decompressor.eof:
                rest = decompressor.unused_data or self._stream.read(PIECE_BYTES)
                if not rest.strip(b"\0"):  # Padding.
                    return b""
                self._decompressor = decompressor = self._new()
            else:
                rest = self._stream.read(PIECE_BYTES) if decompressor.needs_input else b""
                if decompressor.needs_input and not rest:
                    raise EOFError("it ends within a member")
            try:
                data: bytes = decompressor.decompress(rest, size)
            except (OSError, ValueError) as error:
                raise EOFError(str(error)) from error
            if data:
                return data

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._place
        elif whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a compressed file is not known")
        if offset < self._place:
            self._stream.seek(self._start)
            self._decompressor, self._place = self._new(), 0
        while self._place < offset and (data := self._next(min(PIECE_BYTES, offset - self._place))):
            self._place += len(data)
        return self._place
