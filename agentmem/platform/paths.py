"""Paths as they are handed over."""

from pathlib import Path

from agentmem.errors import StoreOpenError
from agentmem.quoting import shorten


def absolute(path: str) -> str:
    """The path from the root on, since a file may be opened again after a change of the working folder.

    Raises:
        StoreOpenError: it is relative, and the working folder is gone.
    """
    try:
        return str(Path(path).absolute())
    except OSError as error:
        raise StoreOpenError(
            f"{shorten(path)} is relative, and the working folder is gone ({error.strerror}); pass a path that begins "
            "with /, or change to a folder that exists."
        ) from error


def is_utf8(path: str) -> bool:
    """Whether the path has no bytes that are no UTF-8, which Python hands out as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in path)
