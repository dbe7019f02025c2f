"""A volume without room: every acknowledged write is there, deleting works, and erasing makes room again.

The errors say what is so. Limits on the size of a file, and no folder for temporary files, are tested likewise.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from agentmem import Memory, StoreFullError
from agentmem.storage.sqlite.database import errors, wal
from agentmem.storage.sqlite.database.reserve import Kind, Reserve
from agentmem.testing import HashEmbedder
from tests.children import run_python
from tests.torture import full
from tests.torture.full import fill_up

EMBEDDER = HashEmbedder(64)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of twelve megabytes."""
    try:
        with full.volume(tmp_path / "volume", 12) as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


LONG = ("z" * 99 + " ") * 9
"""Of words that are short enough for the embedder to know them again: what is tested is the volume."""


def until_full(memory: Memory) -> list[str]:
    """The ids of what was added until there was no room."""
    ids: list[str] = []

    def add_for_ever(together: int) -> None:
        while True:
            texts = [f"text {len(ids)} {number} {LONG}" for number in range(together)]
            ids.extend(record.id for record in memory.add_batch(texts, user_id="ana"))

    for together in (200, 1):
        with pytest.raises(StoreFullError, match=r"the disk is full; nothing was written; 0\.\d MB of 12\.6 MB"):
            add_for_ever(together)
    return ids


def contents(memory: Memory) -> set[str]:
    return {record.id for record in full.records_of(memory, "ana")}


@pytest.mark.slow
def test_a_store_fills_its_volume_and_not_its_log(volume):
    with Memory(volume / "store.db", embedder=EMBEDDER) as memory:
        ids = until_full(memory)
        assert contents(memory) == set(ids)
        stats = memory.stats()
        assert stats.store.bytes > 10_000_000
        assert stats.store.log_bytes < 1_000_000
        assert memory.check() == []


@pytest.mark.slow
def test_on_a_full_volume_deleting_works_and_erasing_brings_adds_back(volume):
    with Memory(volume / "store.db", embedder=EMBEDDER) as memory:
        ids = until_full(memory)
        for each in ids[:2000]:
            assert memory.delete(each)
        assert memory.delete_all(user_id="ana", filters={"id": {"in": ids[2000:2010]}}) == 10
        with pytest.raises(StoreFullError):
            memory.add("z" * 5000, user_id="ana")
        with suppress(StoreFullError):
            memory.vacuum(deleted_before=timedelta(microseconds=1))
        assert memory.stats().store.deleted == 0
        assert contents(memory) == set(ids[2010:])
        assert memory.purge(user_id="ana") == len(ids) - 2010
        assert memory.vacuum(full=True).bytes_after < 2_000_000
        memory.add("there is room again", user_id="ana")
        assert memory.check() == []


@pytest.mark.slow
def test_a_purge_without_room_to_write_the_file_anew_says_that_the_memories_are_erased(volume):
    with Memory(volume / "store.db", embedder=EMBEDDER) as memory:
        ids = until_full(memory)
        fill_up(volume / "ballast")
        said = (
            r"The memories are erased, but bytes of them may stay in the file.* the store is whole.* Then purge again"
        )
        with pytest.raises(StoreFullError, match=said) as caught:
            memory.purge(ids[0])
        assert "nothing was written" not in str(caught.value)
        assert memory.get(ids[0]) is None
        with pytest.raises(StoreFullError, match=said):  # It gives back what it can, and says what is left.
            memory.vacuum()
        (volume / "ballast").unlink()
        assert memory.purge(user_id="ana") == len(ids) - 1
        assert memory.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("added", [0, 10, 3000])
@pytest.mark.parametrize("reopened", [False, True])
def test_when_another_program_fills_the_volume_the_log_can_be_merged_and_deleting_works(volume, added, reopened):
    """Whatever the log holds by then, its pages have a place kept for them."""
    path = volume / "store.db"
    memory = Memory(path, embedder=EMBEDDER)
    ids = [memory.add("the first", user_id="ana").id]
    ids += [record.id for record in memory.add_batch([f"{n} {LONG[:500]}" for n in range(added)], user_id="ana")]
    if reopened:
        fill_up(volume / "ballast")
        memory.close()
        memory = Memory(path, embedder=EMBEDDER)
    fill_up(volume / "ballast")
    for each in ids[:100]:
        assert memory.delete(each)
    with pytest.raises(StoreFullError):
        memory.add_batch(["z" * 9000] * 1000, user_id="ben")
    assert contents(memory) == set(ids[100:])
    assert memory.search("z", user_id="ana") or not ids[100:]
    (volume / "ballast").unlink()
    memory.add("there is room again", user_id="ben")
    assert memory.check() == []
    memory.close()


@pytest.mark.slow
def test_a_full_volume_beside_a_read_that_goes_on_still_takes_a_deletion(volume):
    with Memory(volume / "store.db", embedder=EMBEDDER) as memory:
        ids = until_full(memory)
        with memory._engine.store.snapshot():  # The log cannot begin anew.
            assert memory.delete(ids[0])
        assert memory.delete(ids[1])
        assert memory.check() == []


@pytest.mark.slow
def test_what_deletions_may_not_use_is_left_for_what_erases(volume):
    with Memory(volume / "store.db", embedder=EMBEDDER) as memory:
        ids = until_full(memory)
        fill_up(volume / "ballast")
        with suppress(StoreFullError):
            for each in ids:
                memory.delete(each)
                memory.restore(each)
        with suppress(StoreFullError):
            memory.purge(user_id="ana")
        assert memory.count(user_id="ana") == 0
        memory.add("there is room again", user_id="ana")
        assert memory.check() == []


@pytest.mark.slow
def test_a_volume_filled_by_several_processes_and_threads_loses_nothing(tmp_path):
    try:
        figures = full.run(tmp_path / "volumes", 1, 7)
    except PermissionError as error:
        pytest.skip(str(error))
    assert figures["failures"] == []
    assert figures["acknowledged"] > 1000


@pytest.mark.slow
def test_the_log_takes_a_quarter_of_what_is_free_at_most(open_memory, monkeypatch):
    room = [1 << 40]
    monkeypatch.setattr(wal, "free_bytes", lambda path: room[0])
    memory = open_memory()
    texts = [f"{number} {'x' * 2000}" for number in range(1000)]
    memory.add_batch(texts, user_id="ana")
    memory.add("the log is merged at the next commit", user_id="ana")
    assert memory.stats().store.log_bytes > 2_000_000
    room[0] = 4_000_000
    for number in range(200):
        memory.add(f"text {number}", user_id="ana")
    assert memory.stats().store.log_bytes < 1_500_000


def test_the_reserve_is_gone_after_closing_where_there_is_room(open_memory, store_path):
    memory = open_memory()
    memory.add("text", user_id="ana")
    reserve = store_path.with_name("store.db-reserve")
    assert reserve.stat().st_mode & 0o777 == store_path.stat().st_mode & 0o777
    with open_memory():
        pass
    assert reserve.exists()  # Another has the store open.
    memory.close()
    assert not reserve.exists()


def test_a_store_without_a_reserve_can_be_used_where_none_can_be_made(open_memory, store_path):
    store_path.with_name("store.db-reserve").mkdir()
    memory = open_memory()
    memory.add("text", user_id="ana")
    assert memory.check() == []


def test_the_reserve_holds_what_merging_the_log_may_need(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(bytes(1_000_000))
    reserve = Reserve(str(path))
    held = tmp_path / "store.db-reserve"
    assert reserve.hold(1_000_000, Kind.ADDS) == 0
    least = held.stat().st_size
    assert least >= 256 * 1024
    assert reserve.hold(21_000_000, Kind.ADDS) == 0
    assert held.stat().st_size >= 20_000_000 + least
    assert held.stat().st_blocks * 512 >= 20_000_000
    path.write_bytes(bytes(21_000_000))  # Merged.
    os.truncate(held, held.stat().st_size + 1)
    reserve._believed = Kind.ADDS, 0, 0.0
    assert reserve.hold(21_000_000, Kind.ADDS) == 0
    assert held.stat().st_size < 5_000_000


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_named_and_deleting_and_erasing_go_on(store_path):
    run_python(
        """
        import resource, sys
        from agentmem import Memory, StoreFullError
        from agentmem.testing import HashEmbedder

        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        memory = Memory(sys.argv[1], embedder=HashEmbedder(64))
        ids, long = [], ("z" * 99 + " ") * 9
        try:
            while True:
                ids.append(memory.add(f"text {len(ids)} {long}", user_id="ana").id)
        except StoreFullError as error:
            assert "no file may be larger than the limit of this process, 3,000,000 bytes (`ulimit -f`)" in str(error)
            assert "nothing was written" in str(error), error
        assert memory.count(user_id="ana") == len(ids) > 1000
        assert all(memory.delete(each) for each in ids[:100])
        assert memory.purge(ids[0]) == 1
        memory.vacuum()
        assert memory.purge(user_id="ana") == len(ids) - 1
        memory.add("there is room again", user_id="ana")
        assert memory.check() == []
        memory.close()
        """,
        store_path,
    )


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EFBIG, "no file may be larger than its file system allows"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.ENOSPC, "the disk is full"),
    ],
)
def test_what_there_is_no_room_in_is_named_by_what_the_system_said(number, said):
    error = apsw.IOError("disk I/O error")
    error.errno = number
    assert isinstance(errors.explained("store.db", error), StoreFullError)
    assert said in str(errors.explained("store.db", error))


@pytest.mark.parametrize("path", ["store.db", "/no/such/folder/store.db"])
def test_no_error_says_what_has_become_of_a_write_unless_it_knows(path):
    for kind in (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.SQLError):
        assert "written" not in str(errors.explained(path, kind("reason")))


@pytest.mark.slow
def test_nothing_needs_a_folder_for_temporary_files(store_path):
    run_python(
        """
        import sys, tempfile
        from pathlib import Path
        from datetime import timedelta
        import apsw
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        class Folderless(apsw.VFS):
            def __init__(self):
                super().__init__("folderless", "unix", makedefault=True)

            def xOpen(self, name, flags):
                if name is None:
                    raise apsw.CantOpenError("no folder for temporary files")
                return apsw.VFSFile("unix", name, flags)

        vfs = Folderless()
        tempfile.tempdir = "/no/such/folder"
        path = sys.argv[1]
        with Memory(path, embedder=HashEmbedder(64)) as memory:
            ids = [record.id for record in memory.add_batch([f"{n} {'x' * 300}" for n in range(1000)], user_id="ana")]
            memory.add_batch([f"SECRET{n}" for n in range(50)], user_id="ben")
            assert memory.purge(user_id="ben") == 50
            assert memory.delete_all(user_id="ana", filters={"id": {"in": ids[:100]}}) == 100
            memory.vacuum(deleted_before=timedelta(0))
            memory.vacuum(full=True)
            memory.reembed(HashEmbedder(32))
            memory.backup(path + ".copy")
            memory.export(path + ".jsonl", user_id="ana")
            assert memory.repair() == []
            assert memory.count(user_id="ana") == 900
            assert memory.check() == []
        for end in ("", "-reserve", "-wal"):
            try:
                assert b"SECRET" not in Path(path + end).read_bytes()
            except FileNotFoundError:
                pass
        """,
        store_path,
    )


@pytest.mark.slow
def test_writing_the_file_anew_goes_on_in_another_folder_when_there_is_no_room_beside_it(volume, monkeypatch):
    """As far as the volume has room for the log."""
    with Memory(volume / "store.db", embedder=EMBEDDER) as memory:
        memory.add_batch([f"{n} {LONG}" for n in range(1800)], user_id="ana")
        memory.add("SECRET", user_id="ben")
        memory.vacuum()
        room = os.statvfs(volume)
        free = room.f_bavail * room.f_frsize
        size = (volume / "store.db").stat().st_size
        assert free < 3 * size
        (volume / "ballast").write_bytes(bytes(free - size - size // 2))
        assert memory.purge(user_id="ben") == 1
        assert memory.check() == []
