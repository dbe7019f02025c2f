"""Copies made while others write: each is the store of one moment, verified, and whole or not there."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from agentmem import AgentMemError, InvalidInputError, Memory, StoreDamagedError, StoreError, StoreOpenError
from agentmem.testing import HashEmbedder
from tests.children import SECONDS, finish, start_python

WRITER = """
    import itertools, os, sys
    from agentmem import Memory
    from agentmem.testing import HashEmbedder

    with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
        for number in itertools.count():
            memory.add(f"child {number}", user_id="child")
            os.write(1, b"x" * 15 + b"\\n")
            if os.path.exists(sys.argv[2]):
                break
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(path: Path, owner: str) -> list[int]:
    """The numbers of an owner's memories in a store that must be healthy, in the order of their adding."""
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        records = memory.get_all(user_id=owner, limit=1_000_000, order="oldest")
    return [int(record.content.split()[-1]) for record in records]


@pytest.mark.slow
def test_copies_under_concurrent_writers_hold_a_prefix_of_what_was_acknowledged(tmp_path, open_memory):
    memory = open_memory()
    memory.add_batch([f"large {number} " + "word " * 300 for number in range(2000)], user_id="base")
    stop = threading.Event()
    acknowledged = dict.fromkeys(("a", "b"), 0)

    def write(owner: str) -> None:
        while not stop.is_set():
            memory.add(f"{owner} {acknowledged[owner]}", user_id=owner)
            acknowledged[owner] += 1

    child = start_python(WRITER, memory.path, tmp_path / "stop")
    assert child.stdout is not None
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, owner) for owner in acknowledged]
        try:
            copies = []
            for number in range(6):
                child.line()
                before = dict(acknowledged, child=number + 1)
                path = tmp_path / f"copy-{number}.db"
                assert memory.backup(path) == str(path)
                copies.append((path, before, {owner: count + 1 for owner, count in acknowledged.items()}))
        finally:
            stop.set()
            (tmp_path / "stop").touch()
        for writer in writers:
            writer.result(SECONDS)
    finish(child)
    for path, before, after in copies:
        assert not [name for name in names_in(tmp_path) if name.startswith(path.name + "-")]
        for owner in ("a", "b", "child"):
            found = numbers(path, owner)
            assert found == list(range(len(found)))
            assert before[owner] <= len(found) <= after.get(owner, 1 << 60)
    assert not list(tmp_path.glob("*.unfinished*"))


def test_a_copy_is_a_store_like_the_other(tmp_path, memory):
    tea = memory.add("tea", user_id="ana", metadata={"a": 1})
    later = memory.add("coffee", user_id="ana", defer=True)
    memory.update(tea.id, "green tea")
    memory.delete(later.id)
    path = memory.backup(tmp_path / "copy.db")
    memory.add("after the copy", user_id="ana")
    assert names_in(tmp_path)[0] == "copy.db"
    with Memory(path, embedder=HashEmbedder()) as copy:
        assert copy.check() == []
        assert [record.content for record in copy.get_all(user_id="ana")] == ["green tea"]
        assert copy.history(tea.id) == memory.history(tea.id)
        assert copy.restore(later.id) == later
        assert copy.search("coffee", user_id="ana", mode="vector")[0].record == later
        assert copy.add("new", user_id="ana").content == "new"


def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path, open_memory):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(InvalidInputError, match=r"exists already.*overwrite=True"):
        memory.backup(target)
    assert target.read_text() == "precious"
    memory.backup(target, overwrite=True)
    assert numbers_of_contents(target) == ["tea"]
    memory.add("coffee", user_id="ana")
    memory.backup(target, overwrite=True)
    assert numbers_of_contents(target) == ["coffee", "tea"]


def numbers_of_contents(path: Path) -> list[str]:
    with Memory(path, embedder=HashEmbedder()) as memory:
        return [record.content for record in memory.get_all(user_id="ana")]


def test_the_store_itself_and_what_is_in_use_are_refused(tmp_path, open_memory):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    (tmp_path / "link.db").symlink_to(memory.path)
    os.link(memory.path, tmp_path / "second.db")
    for path in (memory.path, memory.path + "-wal", tmp_path / "link.db", tmp_path / "second.db"):
        for overwrite in (False, True):
            with pytest.raises(InvalidInputError, match="is the store itself"):
                memory.backup(path, overwrite=overwrite)
    other = open_memory(tmp_path / "other.db")
    other.add("coffee", user_id="ana")
    with pytest.raises(InvalidInputError, match="is open or was not closed"):
        memory.backup(other.path, overwrite=True)
    assert other.count(user_id="ana") == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [(":memory:", InvalidInputError), ("", InvalidInputError), (3, InvalidInputError),
     ("/no/such/copy.db", StoreOpenError), ("/", StoreOpenError), ("x" * 300, StoreError)],
)  # fmt: skip
def test_a_path_that_cannot_hold_a_copy_is_refused(tmp_path, monkeypatch, memory, path, kind):
    monkeypatch.chdir(tmp_path)
    memory.add("tea", user_id="ana")
    with pytest.raises(kind):
        memory.backup(path)
    assert memory.count(user_id="ana") == 1
    assert not list(tmp_path.glob("*unfinished*"))


def test_a_damaged_store_is_not_copied(tmp_path, store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text {number} " + "word " * 50 for number in range(500)], user_id="ana")
    data = bytearray(store_path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9000] = os.urandom(9000)
    store_path.write_bytes(data)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        with pytest.raises(StoreDamagedError):
            memory.backup(tmp_path / "copy.db")
        assert memory.check() != []
    assert names_in(tmp_path) == ["store.db"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, open_memory, monkeypatch):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    target = tmp_path / "copy.db"
    from agentmem.storage import new_files

    real = new_files.sync
    monkeypatch.setattr(new_files, "sync", lambda path: (real(path), target.write_text("precious")))
    with pytest.raises(InvalidInputError, match="exists already"):
        memory.backup(target)
    assert target.read_text() == "precious"
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text {number} " + "word " * 100 for number in range(1000)], user_id="ana")
    code = """
        import resource, signal, sys
        from agentmem import Memory, StoreError
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
            try:
                memory.backup(sys.argv[2])
            except StoreError as error:
                print(type(error).__name__)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert memory.check() == []
    """
    assert finish(start_python(code, store_path, tmp_path / "copy.db")).startswith("Store")
    assert names_in(tmp_path) == ["store.db"]


@pytest.mark.slow
def test_a_process_killed_while_it_copies_leaves_no_copy_that_is_not_whole(tmp_path, store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text {number} " + "word " * 300 for number in range(3000)], user_id="ana")
    code = """
        import os, sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            os.write(1, b"ready\\n")
            while True:
                memory.backup(sys.argv[2], overwrite=True)
    """
    copy = tmp_path / "copy.db"
    for number in range(8):
        child = start_python(code, store_path, copy)
        assert child.stdout is not None
        assert child.line() == "ready\n"
        threading.Event().wait(0.05 * number)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=SECONDS)
        if copy.exists():
            assert len(numbers_of_all(copy)) == 3000
            for end in ("-wal", "-shm"):
                assert not Path(f"{copy}{end}").exists()
    assert len(numbers_of_all(store_path)) == 3000


def numbers_of_all(path: Path) -> list[str]:
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        return [record.id for record in memory.get_all(user_id="ana", limit=10_000)]


def test_a_memory_that_is_opened_without_a_model_does_all_that_needs_none(tmp_path, open_memory):
    first = open_memory()
    tea = first.add("tea with lemon", user_id="ana")
    with Memory(first.path, model=None) as memory:
        assert memory.check() == []
        assert memory.get(tea.id) == tea
        assert memory.search("lemon", user_id="ana", mode="keyword")[0].record == tea
        waiting = memory.add("coffee", user_id="ana", defer=True)
        assert memory.update(tea.id, metadata={"a": 1}).metadata == {"a": 1}
        calls = [
            lambda: memory.add("milk", user_id="ana"),
            lambda: memory.search("tea", user_id="ana"),
            lambda: memory.update(tea.id, "green tea"),
            memory.flush,
        ]
        for call in calls:
            with pytest.raises(AgentMemError, match="opened without a model"):
                call()
        assert memory.stats().store.pending == 1
        memory.backup(tmp_path / "copy.db")
    assert first.search("coffee", user_id="ana", mode="vector")[0].record == waiting


def test_the_first_model_binds_a_store_that_was_made_without_one(store_path):
    with Memory(store_path, model=None) as memory:
        memory.add("tea", user_id="ana", defer=True)
        assert memory.check() == []
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.search("tea", user_id="ana", mode="vector")[0].score > 0.9
        assert memory.check() == []
    connection = apsw.Connection(str(store_path))
    assert "HashEmbedder" in connection.execute("SELECT value FROM meta WHERE name = 'model'").fetchone()[0]
    connection.close()
