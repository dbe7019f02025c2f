"""Virtual file systems of SQLite: one with checksums of every page, and one with temporary files beside the store."""

import os
import threading
import uuid
from typing import Any

import apsw

from agentmem.storage.sqlite.database.errors import is_of_checksum
from agentmem.storage.sqlite.database.schema import (
    CHECKSUMS,
)
from agentmem.storage.sqlite.database.sql import Connection

CHECKED = "cksmvfs"
"""The name of the VFS that keeps a checksum of every page."""

CHECKSUM_BYTES = 8
"""Bytes that it needs at the end of each page; they tell it that a file has checksums."""


def checked_vfs() -> str | None:
    """Returns the name of the VFS with checksums, for `apsw.Connection`; None where apsw lacks the extension.

    The process's first call loads it (some 5 ms). It leaves everything else in the process as it was, except that SQL
    gets a function `verify_checksum`. It stands on the VFS that is the default by then.
    """
    global _vfs
    if _vfs is None:
        with _loading:
            if _vfs is None:
                _vfs = CHECKED if CHECKED in apsw.vfs_names() or _loaded() else ""
    return _vfs or None


def _loaded() -> bool:
    try:
        from apsw import sqlite_extra  # Imported here, so that `import agentmem` does not pay for it.
    except ImportError:
        return False
    default = apsw.vfs_names()[0]
    loader = apsw.Connection(":memory:")
    try:
        sqlite_extra.load(loader, "cksumvfs")
    except (apsw.Error, LookupError, OSError, sqlite_extra.NotAvailable):
        return False
    finally:
        apsw.set_default_vfs(default)  # It made itself the default.
        loader.close()
    return CHECKED in apsw.vfs_names()


def is_checked(connection: Connection) -> bool:
    """Whether the connection checks every page that it reads from the file."""
    return checked_vfs() is not None and connection.pragma("checksum_verification") == "1"


def has_checksums(connection: Connection) -> bool:
    """Whether the pages of the store had room for checksums when it was created; its header may be damaged."""
    return connection.execute("SELECT 1 FROM meta WHERE name = ?", (CHECKSUMS,)).fetchone() is not None


def checksum_is_wrong(connection: Connection, page: int, size: int) -> bool:
    """Whether a page in the file now differs from what was written. Asks the file, without lock, cache or log."""
    try:
        connection.read("main", 0, (page - 1) * size, size)
    except apsw.IOError as error:
        if is_of_checksum(error):
            return True
        raise
    return False


class Beside(apsw.VFS):
    """The usual VFS, but with temporary files beside a store.

    That folder has room for as much as the store, and may be the only writable one. Nothing of the process is changed.
    """

    def __init__(self, path: str) -> None:
        self.name = f"agentmem-{uuid.uuid4().hex}"
        self._base = checked_vfs() or ""
        self._path = f"{path}-vacuum-{uuid.uuid4().hex[:8]}"
        super().__init__(self.name, self._base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return apsw.VFSFile(self._base, self._path if name is None else name, flags)


_vfs: str | None = None
_loading = threading.Lock()  # Guards: loading the extension once; a second copy would stand on the first.


def _renew_lock() -> None:
    global _loading
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
