"""New files beside a store, or anywhere: complete and on the disk when they get their name."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentmem.errors import AgentMemError, InvalidInputError, StoreFullError, StoreOpenError
from agentmem.platform.files import is_folder, make_file

SIDE_FILES = ("-wal", "-shm", "-journal")
"""Ends of the names of SQLite's files beside a database."""


def check_target(store: str, path: str, *, overwrite: bool) -> None:
    """Checks a path before a database is put there.

    Raises:
        InvalidInputError: It is the store's own, a file is there already, or it seems to be in use.
        StoreOpenError: It has no folder, or is one.
    """
    # os.path, because Path raises on names that no file can have, such as too long ones.
    if path == ":memory:":
        raise InvalidInputError("A copy in ':memory:' would be gone at once; pass the path of a file.")
    if not is_folder(os.path.dirname(path)):  # noqa: PTH120
        raise StoreOpenError(f"The folder of {path!r} does not exist; make it first.")
    if is_folder(path):
        raise StoreOpenError(f"{path!r} is a directory; pass the path of a file in it.")
    own = {os.path.realpath(store + end) for end in ("", *SIDE_FILES)}
    if store != ":memory:" and (os.path.realpath(path) in own or _is_same_file(store, path)):
        raise InvalidInputError(f"{path!r} is the store itself; pass another path.")
    if os.path.lexists(path) and not overwrite:
        raise InvalidInputError(f"{path!r} exists already; pass another path, or overwrite=True.")
    for end in SIDE_FILES:
        # SQLite would take such a log for the new file's, and write its contents there.
        if os.path.lexists(path + end):
            raise InvalidInputError(
                f"{path + end!r} exists, so that {path!r} is open or was not closed; close it, or pass another path."
            )


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False


@contextmanager
def new_file(path: str, *, like: str, overwrite: bool) -> Iterator[str]:
    """Yields the path of a new empty file beside `path` to fill; afterwards it has the name `path` and is on the disk.

    When the block fails, the file is removed. Its mode, group and owner are those of the file `like`, see `make_file`,
    whatever an older file of that name had.

    Raises:
        StoreOpenError: It cannot be created, or cannot get its name.
        StoreFullError: The disk is full.
        InvalidInputError: A file of that name was created meanwhile.
    """
    unfinished = f"{path}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        os.close(make_file(unfinished, like=like))
        yield unfinished
        sync(unfinished)
        if overwrite:
            os.replace(unfinished, path)  # noqa: PTH105
        else:
            _give_name(unfinished, path)
        sync(os.path.dirname(path))  # noqa: PTH120
    except FileExistsError:
        raise InvalidInputError(f"{path!r} exists already; pass another path, or overwrite=True.") from None
    except AgentMemError:  # Some of these are OSErrors too.
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(f"{path!r}: the disk is full; nothing was kept, free some space.") from error
        raise StoreOpenError(f"{path!r} cannot be made ({error.strerror}); check its folder.") from error
    finally:
        for end in ("", *SIDE_FILES):
            with suppress(OSError):
                Path(unfinished + end).unlink(missing_ok=True)


def _give_name(file: str, name: str) -> None:
    try:
        os.link(file, name)  # Unlike a rename, it never replaces another file.
    except FileExistsError:
        raise
    except OSError:  # A file system without links.
        if os.path.lexists(name):
            raise
        os.rename(file, name)  # noqa: PTH104


def sync(path: str) -> None:
    """Makes a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
