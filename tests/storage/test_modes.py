"""Readers of a store may read the files beside it, and no others may: modes, groups and owners."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from agentmem import Memory, StoreError
from agentmem.cli.rescue import rescue
from agentmem.mem0 import Memory as Mem0
from agentmem.platform.files import make_file
from agentmem.search.segments import builder as sealing
from agentmem.testing import HashEmbedder
from tests.forgery import forge

OTHER_USER, OTHER_GROUP = 12_345, 12_346

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")


class Who(NamedTuple):
    """A mode, and whose it is."""

    mode: int
    uid: int
    gid: int


def who(path: Path) -> Who:
    found = path.stat()
    return Who(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


@pytest.fixture(params=[0o022, 0o077, 0o000], ids=["umask 022", "umask 077", "umask 000"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[int]]:
    """Every mode that any file below the folder had whenever one was opened, linked, renamed or synced."""
    modes: set[int] = set()

    def look() -> None:
        for path in tmp_path.rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    modes.add(who(path).mode)

    for name in ("fsync", "link", "replace", "rename", "close"):
        real = getattr(os, name)

        def and_look(*arguments, real=real, **keywords):
            look()
            return real(*arguments, **keywords)

        monkeypatch.setattr(os, name, and_look)
    return lambda: modes


def store_of(path: Path) -> Memory:
    memory = Memory(path, embedder=HashEmbedder())
    memory.add_batch([f"text {number}" for number in range(300)], user_id="ana")
    return memory


def everything_made_beside(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Has each thing made that agentmem makes beside a store, and the store itself made anew by a repair."""
    monkeypatch.setattr(sealing, "SEGMENT", 100)
    folder = path.parent
    with Memory(path, embedder=HashEmbedder()) as memory:
        memory.add("more", user_id="ana")
        assert memory.search("text 7", user_id="ana")
        assert list(Path(f"{path}-segments").iterdir())
        memory.backup(folder / "copy.db")
        memory.export(folder / "all.jsonl", all_scopes=True)
        memory.export(folder / "all.jsonl.gz", all_scopes=True, vectors=True)
        modes = {who(Path(f"{path}{end}")) for end in ("", "-wal", "-shm")}
        assert modes == {who(path)}
    damaged = bytearray(path.read_bytes())
    damaged[:100] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(StoreError):
        Memory(path, embedder=HashEmbedder())
    done, problems = rescue(str(path))
    assert done
    assert problems == []
    assert list(folder.glob("store.db.damaged-*"))
    return [each for each in folder.rglob("*") if each != path]


def test_a_new_store_is_its_users_alone(store_path, umask, watched):
    with store_of(store_path):
        assert who(store_path).mode == 0o600
        assert {who(each).mode for each in store_path.parent.iterdir()} == {0o600}
    assert watched() <= {0o600}


def test_a_store_made_through_a_link_to_nothing_is_its_users_alone(tmp_path, umask):
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with store_of(tmp_path / "link.db") as memory:
        assert memory.check() == []
    assert who(tmp_path / "real.db").mode == 0o600


def test_mem0s_store_is_its_users_alone(tmp_path, umask):
    config = {"vector_store": {"config": {"path": str(tmp_path / "new" / "folder")}}}
    memory = Mem0(config, embedder=HashEmbedder())
    memory.add("likes tea", user_id="ana", infer=False)
    memory.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {who(path).mode for path in files} == {0o600}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o644, 0o604])
def test_what_is_made_beside_a_store_has_its_mode(store_path, umask, mode, monkeypatch, watched):
    store_of(store_path).close()
    store_path.chmod(mode)
    made = everything_made_beside(store_path, monkeypatch)
    assert {who(path).mode for path in made if path.is_file()} == {mode}
    assert {who(path).mode for path in made if path.is_dir()} == {mode | (mode & 0o444) >> 2}
    assert who(store_path).mode == mode
    assert watched() <= {0o600, mode}


@pytest.mark.slow
@as_root
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660])
def test_what_root_makes_beside_a_store_belongs_to_whom_the_store_does(store_path, umask, mode, monkeypatch):
    store_of(store_path).close()
    os.chown(store_path, OTHER_USER, OTHER_GROUP)
    store_path.chmod(mode)
    made = everything_made_beside(store_path, monkeypatch)
    assert {who(path) for path in made if path.is_file()} == {Who(mode, OTHER_USER, OTHER_GROUP)}
    assert {who(path)[1:] for path in made} == {(OTHER_USER, OTHER_GROUP)}
    assert who(store_path) == Who(mode, OTHER_USER, OTHER_GROUP)


def test_rows_that_find_no_place_are_set_aside_with_the_stores_mode(store_path, umask):
    with store_of(store_path) as memory:
        [first] = memory.get_all(user_id="ana", limit=1, order="oldest").records
    store_path.chmod(0o640)
    forge(store_path, f"DELETE FROM memory WHERE id = '{first.id}'")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.repair()
        assert memory.check() == []
    [aside] = store_path.parent.glob("store.db.aside-*")
    assert who(aside).mode == 0o640


def test_a_copy_takes_the_place_of_another_with_the_stores_mode_and_not_with_its_own(store_path, tmp_path, umask):
    with store_of(store_path) as memory:
        for name in ("copy.db", "all.jsonl"):
            (tmp_path / name).write_text("older")
            (tmp_path / name).chmod(0o666)
        memory.backup(tmp_path / "copy.db", overwrite=True)
        memory.export(tmp_path / "all.jsonl", user_id="ana", overwrite=True)
        assert memory.check() == []
    assert {who(tmp_path / name).mode for name in ("copy.db", "all.jsonl")} == {0o600}


def test_a_store_in_memory_is_exported_and_backed_up_for_its_user_alone(memory, tmp_path, umask):
    memory.add("likes tea", user_id="ana")
    memory.backup(tmp_path / "copy.db")
    memory.export(tmp_path / "all.jsonl", user_id="ana")
    assert {who(tmp_path / name).mode for name in ("copy.db", "all.jsonl")} == {0o600}


def test_the_command_line_exports_and_backs_up_with_the_stores_mode(filled, db, tmp_path, umask):
    assert who(db).mode == 0o600
    db.chmod(0o640)
    for arguments in (("export", tmp_path / "all.jsonl", "--all-scopes"), ("backup", db, tmp_path / "copy.db")):
        assert filled(*arguments).exit_code == 0
    assert {who(tmp_path / name).mode for name in ("copy.db", "all.jsonl")} == {0o640}


def test_a_segments_folder_that_others_could_read_is_closed_to_them(store_path, monkeypatch, umask):
    monkeypatch.setattr(sealing, "SEGMENT", 100)
    folder = Path(f"{store_path}-segments")
    folder.mkdir(0o777)
    folder.chmod(0o777)
    with store_of(store_path) as memory:
        memory.search("text 7", user_id="ana")
        assert memory.check() == []
    assert list(folder.iterdir())
    assert who(folder).mode == 0o700


def test_threads_that_make_a_store_together_make_one_and_lose_nothing(store_path, umask):
    with ThreadPoolExecutor(8) as pool:

        def add(number: int) -> str:
            with Memory(store_path, embedder=HashEmbedder()) as memory:
                return memory.add(f"text {number}", user_id="ana").id

        ids = set(pool.map(add, range(24)))
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert {record.id for record in memory.get_all(user_id="ana")} == ids
        assert memory.check() == []
    assert who(store_path).mode == 0o600


@as_root
@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        (0o640, OTHER_GROUP, Who(0o640, OTHER_USER, OTHER_GROUP)),
        (0o660, OTHER_GROUP, Who(0o660, OTHER_USER, OTHER_GROUP)),
        (0o640, 0, Who(0o600, OTHER_USER, 77)),  # The group that it has instead reads nothing.
        (0o644, 0, Who(0o644, OTHER_USER, 77)),
        (0o606, 0, Who(0o666, OTHER_USER, 77)),
    ],
)
def test_who_is_no_root_gives_the_group_or_drops_its_bits(mode, group, expected, umask):
    # Not below pytest's folder, which only root may enter.
    with tempfile.TemporaryDirectory() as folder:
        store, made = Path(folder) / "store.db", Path(folder) / "made"
        store.touch()
        os.chown(store, 0, group)
        store.chmod(mode)
        Path(folder).chmod(0o777)
        as_another_user(lambda: os.close(make_file(str(made), like=str(store))))
        assert who(made) == expected


def as_another_user(do: Callable[[], None]) -> None:
    """In a child that is a member of two groups and nothing else."""
    if (child := os.fork()) == 0:
        try:
            os.setgroups([OTHER_GROUP])
            os.setgid(77)
            os.setuid(OTHER_USER)
            do()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_store_in_memory_makes_no_file(open_memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_memory(":memory:").add("likes tea", user_id="ana")
    assert list(tmp_path.iterdir()) == []
