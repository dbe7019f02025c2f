"""A disk that loses its power: a SQLite VFS that knows which writes were synced.

Everything is passed on to real files, so that the running store sees its writes. Beside them, each file has the bytes
that the last sync made safe, and the changes since. `cut` makes the files that a power cut at this moment could leave.
Of the changes since the last sync some are there, some are not, some in part (sectors of 512 bytes), in any order.
Names created or deleted without a sync may or may not be so. The shared memory (-shm) is gone.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

PLAIN = "unix"
"""The VFS below."""

SECTOR = 512

Change = tuple[int, bytes | None]
"""A write at an offset; with None a truncation to it."""


class Inode:
    """The safe bytes of a file, and what was done since."""

    def __init__(self, safe: bytes, *, named: bool) -> None:
        self.safe = bytearray(safe)
        self.changes: list[Change] = []
        self.named = named  # Whether it was ever synced.

    def sync(self) -> None:
        for change in self.changes:
            apply(self.safe, change)
        self.changes = []
        self.named = True

    def after_cut(self, chance: random.Random) -> bytes:
        left = bytearray(self.safe)
        mood = chance.random()  # Of a disk that had written nearly nothing, to one that had written nearly all.
        survivors = [change for change in self.changes if chance.random() < mood]
        if chance.random() < 0.5:
            chance.shuffle(survivors)
        for offset, data in survivors:
            if data is None or chance.random() < 0.7:
                apply(left, (offset, data))
            else:
                for start in range(0, len(data), SECTOR):
                    if chance.random() < 0.5:
                        apply(left, (offset + start, data[start : start + SECTOR]))
        return bytes(left)


def apply(content: bytearray, change: Change) -> None:
    offset, data = change
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """All files of one folder; `before` is called before each change, from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # Guards: everything here.
        self.files: dict[str, list[Inode | None]] = {}  # Of a name: what it may still be, the latest last.
        self.before: Callable[[], None] = lambda: None

    def open(self, name: str) -> None:
        with self.lock:
            here = self.files.setdefault(name, [None])
            if here[-1] is None:
                here.append(Inode(b"", named=False))  # No file is older than the disk.

    def change(self, name: str, change: Change) -> None:
        with self.lock:
            self.before()
            inode = self.files[name][-1]
            assert inode is not None
            inode.changes.append(change)

    def sync(self, name: str) -> None:
        with self.lock:
            self.before()
            inode = self.files[name][-1]
            assert inode is not None
            if not inode.named and name.endswith(("-wal", "-journal")):
                # With the first sync of a log that it made, SQLite syncs the folder, and so every name in it.
                self.files = {each: candidates[-1:] for each, candidates in self.files.items()}
            inode.sync()

    def delete(self, name: str, *, synced: bool) -> None:
        with self.lock:
            self.before()
            here = self.files.setdefault(name, [None])
            if synced:
                here.clear()
            here.append(None)

    def cut(self, folder: Path, chance: random.Random) -> None:
        """Writes the files as a power cut at this moment may leave them."""
        with self.lock:
            for name, candidates in self.files.items():
                inode = chance.choice(candidates) if len(candidates) > 1 else candidates[0]
                if inode is not None:
                    (folder / Path(name).name).write_bytes(inode.after_cut(chance))


class PowerVFS(apsw.VFS):
    """The default VFS of this process, on top of the usual one."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__("power", PLAIN, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return apsw.VFSFile(PLAIN, None, flags)
        file = PowerFile(name, flags, path, self._disk)
        self._disk.open(path)
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.delete(filename, synced=syncdir)
        super().xDelete(filename, syncdir)


class PowerFile(apsw.VFSFile):
    """A file whose changes are kept aside too."""

    def __init__(self, name: Any, flags: list[int], path: str, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        super().__init__(PLAIN, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.change(self._path, (offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.change(self._path, (newsize, None))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._disk.sync(self._path)  # The real disk need not; this is what decides here.
