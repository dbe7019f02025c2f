"""How messages name values: short, without passwords, and by type alone when they come from an unknown file."""

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
    """Returns a value as messages quote it: at most one line, and without the password of an address.

    Values that may hold anything, such as mappings, are named by type and size only.
    """
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
    """Returns the value as `shorten` quotes it, with its type."""
    shown = shorten(value)
    return shown if shown.startswith("a ") else f"{shown}, a {type(value).__name__}"


def quote(text: str) -> str:
    """Returns a name as messages quote it, whatever its source."""
    text = without_credentials(text)
    return repr(text) if len(text) <= 60 else f"{text[:50]!r}... ({len(text):,} characters)"


def _key(key: Any) -> str:
    return quote(key) if isinstance(key, str) else shorten(key)


_PLAIN = Number | str | bytes | date | timedelta | PurePath | None
_Unquoted = tuple[FrameType, "_Unquoted | None"]

_unquoted: ContextVar[_Unquoted | None] = ContextVar("unquoted", default=None)


class unquoted(ContextDecorator):
    """Makes messages name the types of values and quote only a few characters, for values read from an unknown file.

    Works as a `with` block and as a decorator. Where an error has torn a block before its end, the effect ends with the
    block's function.
    """

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
    """Whether a text is the address of a server, such as a database, and no path. It may hold a password. `Path` has
    already removed one of its two slashes."""
    return _ADDRESS.match(path) is not None


def without_credentials(text: str) -> str:
    """Returns a text with the credentials of its addresses (`//user:password@host`) replaced."""
    return _CREDENTIALS.sub("***@", text) if "@" in text else text


def shape(value: Any) -> str:
    """Returns how messages name a value that may be a secret or personal text: by its type and size."""
    kind = type(value).__name__
    if value is None:
        return kind
    if isinstance(value, str):
        return f"a text of {len(value):,} characters"
    size = f" of {len(value):,}" if isinstance(value, bytes | dict | list | tuple | set | frozenset) else ""
    return f"a {kind}{size}"


def split_credentials(address: str) -> tuple[str, str | None]:
    """Returns an address without its credentials, and the equivalent `Authorization` header."""
    who = credentials_of(address)
    header = f"Basic {base64.b64encode(who.encode()).decode()}" if who else None
    return _CREDENTIALS.sub("", address, count=1), header


def credentials_of(address: str) -> str:
    """Returns the part of an address before its host, such as `user:password`; an empty text without one."""
    found = _CREDENTIALS.search(address)
    return unquote(found[0][:-1]) if found else ""
