"""Paths as callers pass them."""

from pathlib import Path

from agentmem.errors import StoreOpenError
from agentmem.quoting import shorten


def absolute(path: str) -> str:
    """Returns the absolute path, because a file may be opened again after the working folder has changed.

    Raises:
        StoreOpenError: The path is relative, and the working folder no longer exists.
    """
    try:
        return str(Path(path).absolute())
    except OSError as error:
        raise StoreOpenError(
            f"{shorten(path)} is relative, and the working folder is gone ({error.strerror}); pass a path "
            "that begins with /, or change to a folder that exists."
        ) from error


def is_utf8(path: str) -> bool:
    """Whether every byte of the path is UTF-8. Python returns other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in path)
