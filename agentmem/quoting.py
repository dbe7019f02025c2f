"""How values are named in messages: short, without passwords, and of an unknown file by their kind alone."""

import base64
import re
import sys
from contextlib import ContextDecorator
from contextvars import ContextVar
from datetime import date, timedelta
from numbers import Number
from pathlib import PurePath
from reprlib import Repr
from types import FrameType
from typing import Any
from urllib.parse import unquote

from agentmem.config import SHORT

_SHORT = Repr()
_SHORT.maxother = _SHORT.maxlong = 60
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CREDENTIALS = re.compile(r"(?<=//)[^/\s]*@")


def shorten(value: Any) -> str:
    """How a value is quoted in a message: never more than a line of it, no password of an address, and of what may hold
    anything, such as a mapping, only its kind and size."""
    if not isinstance(value, _PLAIN):
        return shape(value)
    if isinstance(value, str):
        return quote(value) if _quotes() or len(value) <= SHORT else shape(value)
    try:
        shown = _SHORT.repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits.
        return f"a huge {type(value).__name__}"
    return shown if _quotes() or len(shown) <= SHORT else shape(value)


def with_kind(value: Any) -> str:
    """The same, with the kind of the value."""
    shown = shorten(value)
    return shown if shown.startswith("a ") else f"{shown}, a {type(value).__name__}"


def quote(text: str) -> str:
    """How a name is quoted, wherever it comes from."""
    text = without_credentials(text)
    return repr(text) if len(text) <= 60 else f"{text[:50]!r}... ({len(text):,} characters)"


def _key(key: Any) -> str:
    return quote(key) if isinstance(key, str) else shorten(key)


_PLAIN = Number | str | bytes | date | timedelta | PurePath | None
_Unquoted = tuple[FrameType, "_Unquoted | None"]

_unquoted: ContextVar[_Unquoted | None] = ContextVar("unquoted", default=None)


class unquoted(ContextDecorator):
    """Within it, and within a function that it decorates, messages name the kinds of values and quote none of more
    than a few characters: they come from a file that may be any file. One that an error tore before its end is over
    with the function that it stood in."""

    def __enter__(self) -> None:
        _unquoted.set((sys._getframe(1), _unquoted.get()))

    def __exit__(self, *_: object) -> None:
        within = _unquoted.get()
        _unquoted.set(None if within is None else within[1])


def _quotes() -> bool:
    within = _unquoted.get()
    while within is not None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame is within[0]:
                return False
            frame = frame.f_back
        within = within[1]
    return True


def is_address(path: str) -> bool:
    """Whether a text is no path but the address of something, such as of a database, perhaps with a password in it.
    (What went through a Path has one stroke of its two.)"""
    return _ADDRESS.match(path) is not None


def without_credentials(text: str) -> str:
    """A text in which no address (`//user:password@host`) tells who asks."""
    return _CREDENTIALS.sub("***@", text) if "@" in text else text


def shape(value: Any) -> str:
    """How a value is named in a message that may be a secret, or somebody's text: its kind and size."""
    kind = type(value).__name__
    if value is None:
        return kind
    if isinstance(value, str):
        return f"a text of {len(value):,} characters"
    size = f" of {len(value):,}" if isinstance(value, bytes | dict | list | tuple | set | frozenset) else ""
    return f"a {kind}{size}"


def split_credentials(address: str) -> tuple[str, str | None]:
    """An address without user and password, and the header `Authorization` that says the same."""
    who = credentials_of(address)
    header = f"Basic {base64.b64encode(who.encode()).decode()}" if who else None
    return _CREDENTIALS.sub("", address, count=1), header


def credentials_of(address: str) -> str:
    """What stands in an address before its host, such as `user:password`; nothing where nothing does."""
    found = _CREDENTIALS.search(address)
    return unquote(found[0][:-1]) if found else ""
