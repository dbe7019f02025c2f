"""File modes: only its user may read a new store, and only the store's readers may read the files beside it.

Every file begins with mode 0600, whatever the umask, and then gets at most the permissions of its model. At no moment
can others read it.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
"""Read and write permission for the file's user, which is never removed. A copy of a read-only store can therefore be
opened."""


def make_store(path: str) -> None:
    """Creates the empty file of a new store with mode 0600, unless the file exists.

    Does nothing where the file cannot be created: SQLite then reports the reason. Opens no descriptor, because closing
    one would drop the POSIX locks of a thread that has opened the store meanwhile.
    """
    real = os.path.realpath(path)  # SQLite creates the target of a dangling link.
    try:
        os.mknod(real, stat.S_IFREG | PRIVATE)
    except FileExistsError:
        pass
    except PermissionError:  # Some systems allow `mknod` to root only.
        with suppress(OSError):
            os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    except (OSError, ValueError):
        pass


def make_file(path: str, *, like: str) -> int:
    """Creates a file with the mode, group and owner of the file `like`, and returns a descriptor to read and write it.

    Only root can change the owner, only root and members can change the group. Where the group cannot be set, the
    file's own group gets the permissions of all others. Where `like` is no file (a store in memory), the mode is
    0600.

    Raises:
        FileExistsError: The file exists.
        OSError: The file cannot be created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        _give(descriptor, like)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_folder(path: Path, *, like: str) -> None:
    """Creates a folder for the readers and writers of the file `like`, or adapts an existing folder."""
    path.mkdir(PRIVATE | stat.S_IXUSR, exist_ok=True)
    _give(os.fspath(path), like, enter=True)


def _give(place: int | str, like: str, *, enter: bool = False) -> None:
    try:
        model = None if like == ":memory:" else os.stat(like)  # noqa: PTH116
    except OSError:
        model = None
    mode = PRIVATE if model is None else stat.S_IMODE(model.st_mode) & 0o666 | PRIVATE
    # A file system without owners or modes leaves the file with fewer permissions.
    if model is not None and not _has_group(place, model):
        with suppress(OSError):
            os.chown(place, -1, model.st_gid)
        if not _has_group(place, model):
            mode = mode & ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    if model is not None and os.geteuid() == 0:
        with suppress(OSError):
            os.chown(place, model.st_uid, -1)
    with suppress(OSError):
        os.chmod(place, mode | (mode & 0o444) >> 2 if enter else mode)  # noqa: PTH101 - Path takes no descriptor.


def _has_group(place: int | str, model: os.stat_result) -> bool:
    return os.stat(place).st_gid == model.st_gid  # noqa: PTH116


def is_folder(path: str) -> bool:
    """Unlike os.path.isdir, this does not take a ValueError that a handler raises for an answer."""
    return stat.S_ISDIR(_mode_at(path))


def _mode_at(path: str) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except OSError:
        return 0
