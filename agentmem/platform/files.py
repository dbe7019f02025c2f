"""Who may read the files that are made: a new store its user alone; what is made beside a store, whoever may read that.

Every file begins with mode 0600, whatever the umask, and then gets no more than its model has: at no moment can others
read it.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
"""Read and written by its owner, who is never denied either: a copy of a store that is read-only can be opened."""


def make_store(path: str) -> None:
    """Makes the empty file of a new store, mode 0600, unless there is one.

    Where it cannot be made, SQLite says why. No descriptor is opened: closing it would drop the POSIX locks of a thread
    that has opened the store meanwhile.
    """
    real = os.path.realpath(path)  # Of a link that points to nothing, SQLite makes the target.
    try:
        os.mknod(real, stat.S_IFREG | PRIVATE)
    except FileExistsError:
        pass
    except PermissionError:  # Some systems keep `mknod` to root.
        with suppress(OSError):
            os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    except (OSError, ValueError):
        pass


def make_file(path: str, *, like: str) -> int:
    """Makes a file with the mode, group and owner of the file `like`, and returns a descriptor to read and write it.

    Only root gives the owner, only root and its members the group; where it cannot be given, another group may do what
    everybody may. Where `like` is no file (a store in memory), the mode is 0600.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        _give(descriptor, like)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_folder(path: Path, *, like: str) -> None:
    """Makes a folder for the readers and writers of the file `like`, or has the one that is there be one."""
    path.mkdir(PRIVATE | stat.S_IXUSR, exist_ok=True)
    _give(os.fspath(path), like, enter=True)


def _give(place: int | str, like: str, *, enter: bool = False) -> None:
    try:
        model = None if like == ":memory:" else os.stat(like)  # noqa: PTH116
    except OSError:
        model = None
    mode = PRIVATE if model is None else stat.S_IMODE(model.st_mode) & 0o666 | PRIVATE
    # What a file system without owners or modes refuses leaves the file with less.
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
