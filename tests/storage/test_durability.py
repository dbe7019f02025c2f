"""What survives a power cut, told by a disk that keeps only what was synced."""

import threading
from pathlib import Path

import pytest

from agentmem import Config, InvalidInputError, Memory
from agentmem.stats import Timings
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.group_commit import GroupCommit, Write
from agentmem.testing import HashEmbedder
from tests.children import run_python

CUT = """
    import sys
    from pathlib import Path
    import apsw

    path, disk, default, *levels = sys.argv[1:]

    class File(apsw.VFSFile):
        def __init__(self, inherit, filename, flags):
            self.name = Path(filename.filename() if isinstance(filename, apsw.URIFilename) else filename).name
            super().__init__(inherit, filename, flags)

        def xSync(self, flags):
            super().xSync(flags)
            (Path(disk) / self.name).write_bytes(super().xRead(super().xFileSize(), 0))

    class Disk(apsw.VFS):
        def __init__(self):
            super().__init__("disk", "unix", makedefault=True)

        def xOpen(self, name, flags):
            return File("unix", name, flags)

        def xDelete(self, name, sync):
            super().xDelete(name, sync)
            (Path(disk) / Path(name).name).unlink(missing_ok=True)

    vfs = Disk()
    from agentmem import Config, Memory
    from agentmem.testing import HashEmbedder

    memory = Memory(path, embedder=HashEmbedder(), config=Config(durability=default))
    memory.add_batch([f"first {number}" for number in range(3)], user_id="ana", durability="full")
    for level in levels:
        memory.add_batch([f"{level} {number}" for number in range(3)], user_id="ana",
                         durability=None if level == "default" else level)
    import os
    os._exit(0)
"""


def kept_after_a_cut(tmp_path: Path, default: str, *levels: str) -> list[str]:
    """The contents that the disk holds when the power goes just after the last of some batches."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run_python(CUT, tmp_path / "agent.db", disk, default, *levels)
    with Memory(disk / "agent.db", embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        return sorted({record.content.split()[0] for record in memory.get_all(user_id="ana")})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("default", "levels", "kept"),
    [
        ("full", ["default"], ["default", "first"]),
        ("process", ["default"], ["first"]),
        ("full", ["process"], ["first"]),
        ("process", ["full"], ["first", "full"]),
        ("full", ["process", "default"], ["default", "first", "process"]),
        ("process", ["full", "default"], ["first", "full"]),
    ],
)
def test_a_power_cut_takes_only_what_was_stored_without_a_sync(tmp_path, default, levels, kept):
    assert kept_after_a_cut(tmp_path, default, *levels) == kept


@pytest.mark.parametrize(
    ("default", "asked", "expected"),
    [
        ("full", [None, "process"], 2), ("full", ["process", "process"], 1), ("process", [None, "process"], 1),
        ("process", [None, "full"], 2), ("process", ["process", "full", None], 2), ("full", [None, None], 2),
    ],
)  # fmt: skip
def test_a_commit_is_as_durable_as_the_strongest_of_its_writes(store_path, default, asked, expected):
    database = Database(str(store_path), durability=default, busy_timeout=5)
    commits = GroupCommit(database, Timings())
    levels: list[int] = []

    def look(transaction):
        levels.append(transaction.connection.pragma("synchronous"))

    writes = [Write(look, level) for level in asked]
    commits.enqueue(writes)
    threads = [threading.Thread(target=commits.finish, args=(write, None)) for write in writes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert levels == [expected] * len(asked)
    commits.commit(look)
    assert levels[-1] == {"full": 2, "process": 1}[default]
    database.close()


@pytest.mark.parametrize("level", ["none", "FULL", 1, ""])
def test_an_unknown_level_is_refused(memory, level):
    with pytest.raises(InvalidInputError, match="durability is"):
        memory.add_batch(["tea"], user_id="ana", durability=level)
    with pytest.raises(InvalidInputError, match="durability is"):
        memory.scope(user_id="ana").add_batch(["tea"], durability=level)
    assert memory.count(user_id="ana") == 0


def test_a_scoped_view_takes_a_level_too(open_memory):
    memory = open_memory(config=Config(durability="process"))
    memory.scope(user_id="ana").add_batch(["tea"], durability="full")
    memory.scope(user_id="ana").add_batch(["coffee"], durability="process", defer=True)
    assert memory.count(user_id="ana") == 2
