"""The files of an open store are read, copied, removed, moved or replaced.

Acknowledged writes are in the file at its path, or nothing is acknowledged.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import Config, Memory, StoreBusyError, StoreError, StoreLostError, StoreOpenError
from agentmem.storage.retrying import Outplanned
from agentmem.storage.sqlite.database import open_files as files
from agentmem.storage.sqlite.snapshot import Snapshot
from agentmem.testing import HashEmbedder
from tests import failpoints
from tests.children import run_python

SIDES = ("-wal", "-shm")

LOOK = """
    import sys
    from agentmem import Memory
    from agentmem.testing import HashEmbedder
    with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
        print(sorted(record.content for record in memory.get_all(user_id="ana")), memory.check())
"""


def seen_by_another_process(path: Path) -> str:
    """It opens and closes the store; the last to close one removes its log."""
    return run_python(LOOK, path).strip()


@pytest.fixture
def memory(store_path: Path) -> Iterator[Memory]:
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("one", user_id="ana")
        yield memory


def read_with_sqlite(path: Path) -> None:
    for uri in (f"file:{path}?mode=ro", f"file:{path}"):
        connection = sqlite3.connect(uri, uri=True)
        connection.execute("SELECT count(*) FROM memory").fetchone()
        connection.close()


def read_bytes(path: Path) -> None:
    for end in ("", *SIDES):
        Path(f"{path}{end}").read_bytes()


def copy_folder(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.parent / "copied")
    shutil.rmtree(path.parent.parent / "copied")


def archive(path: Path) -> None:
    Path(shutil.make_archive(str(path.parent.parent / "archived"), "tar", path.parent)).unlink()


def open_again(path: Path) -> None:
    with Memory(path, embedder=HashEmbedder()) as other:
        other.count(user_id="ana")


def read_from_another_process(path: Path) -> None:
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM memory').fetchone()"
    subprocess.run([sys.executable, "-c", code, path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "read", [read_with_sqlite, read_bytes, copy_folder, archive, open_again, read_from_another_process]
)
def test_whatever_reads_the_files_takes_neither_locks_nor_log_from_those_who_write(memory, store_path, read):
    read(store_path)
    log = Path(f"{store_path}-wal").stat().st_ino
    assert seen_by_another_process(store_path) == "['one'] []"
    read_from_another_process(store_path)
    assert Path(f"{store_path}-wal").stat().st_ino == log
    memory.add("two", user_id="ana")
    read(store_path)
    assert seen_by_another_process(store_path) == "['one', 'two'] []"
    memory.add("three", user_id="ana")
    assert seen_by_another_process(store_path) == "['one', 'three', 'two'] []"


@pytest.mark.slow
def test_a_process_whose_locks_were_dropped_keeps_the_writers_of_others_out(memory, store_path):
    other = """
        import sys
        from agentmem import Config, Memory, StoreBusyError
        from agentmem.testing import HashEmbedder
        with Memory(sys.argv[1], embedder=HashEmbedder(), config=Config(busy_timeout=0.3)) as memory:
            try:
                memory.add("two at once", user_id="ana")
            except StoreBusyError:
                print("kept out")
    """

    def amid(transaction):
        read_bytes(store_path)
        return run_python(other, store_path)

    assert memory._engine.store._writes.commit(amid) == "kept out\n"
    memory.add("two", user_id="ana")
    assert seen_by_another_process(store_path) == "['one', 'two'] []"


@pytest.mark.slow
@pytest.mark.parametrize("removed", [("-wal",), ("-shm",), ("-wal", "-shm")])
@pytest.mark.parametrize("others", [0, 1])
def test_a_log_that_was_removed_is_lost_for_nobody(memory, store_path, removed, others):
    twins = [Memory(store_path, embedder=HashEmbedder()) for _ in range(others)]
    for twin in twins:
        twin.add("twin", user_id="ana")
    for end in removed:
        Path(f"{store_path}{end}").unlink()
    memory.add("two", user_id="ana")
    for twin in twins:
        twin.add("twin too", user_id="ana")
    memory.add("three", user_id="ana")
    expected = sorted(["one", "two", "three", *["twin", "twin too"] * others])
    assert seen_by_another_process(store_path) == f"{expected} []"
    assert sorted(record.content for record in memory.get_all(user_id="ana")) == expected
    for twin in twins:
        twin.close()
    memory.close()
    assert [path.name for path in store_path.parent.iterdir()] == [store_path.name]
    assert seen_by_another_process(store_path) == f"{expected} []"


@pytest.mark.slow
def test_a_log_that_was_removed_from_two_processes_is_mended_by_one_and_followed_by_the_other(memory, store_path):
    code = """
        import os, sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.add("two", user_id="ana")
            for end in ("-wal", "-shm"):
                os.unlink(sys.argv[1] + end)
            memory.add("three", user_id="ana")
            os._exit(0)  # As a crash.
    """
    run_python(code, store_path)
    assert memory.count(user_id="ana") == 3
    memory.add("four", user_id="ana")
    assert seen_by_another_process(store_path) == "['four', 'one', 'three', 'two'] []"


@pytest.mark.slow
def test_who_opens_a_store_whose_log_others_still_have_waits_for_them(memory, store_path):
    for end in SIDES:
        Path(f"{store_path}{end}").unlink()
    code = """
        import sys
        from agentmem import Config, Memory, StoreBusyError
        from agentmem.testing import HashEmbedder
        try:
            Memory(sys.argv[1], embedder=HashEmbedder(), config=Config(busy_timeout=0.3))
        except StoreBusyError as error:
            print("its log was removed" in str(error))
    """
    assert run_python(code, store_path) == "True\n"
    assert memory.count(user_id="ana") == 1
    assert seen_by_another_process(store_path) == "['one'] []"


@pytest.mark.slow
def test_a_log_that_was_replaced_by_an_older_one_is_not_read(memory, store_path):
    shutil.copy(f"{store_path}-wal", f"{store_path}-older")
    memory.add("two", user_id="ana")
    Path(f"{store_path}-older").replace(f"{store_path}-wal")
    memory.add("three", user_id="ana")
    assert seen_by_another_process(store_path) == "['one', 'three', 'two'] []"


def delete(path: Path) -> None:
    for end in ("", *SIDES):
        Path(f"{path}{end}").unlink(missing_ok=True)


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def move_folder_and_make_it_anew(path: Path) -> None:
    move_folder(path)
    path.parent.mkdir()


CALLS: list[Callable[[Memory], object]] = [
    lambda memory: memory.add("two", user_id="ana"),
    lambda memory: memory.add_batch(["two", "three"], user_id="ana"),
    lambda memory: memory.add("two", user_id="ana", defer=True),
    lambda memory: memory.delete_all(user_id="ana"),
    lambda memory: memory.search("one", user_id="ana"),
    lambda memory: memory.count(user_id="ana"),
    lambda memory: memory.vacuum(),
    lambda memory: memory.purge(user_id="ana"),
]


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """The path of a store in a folder of its own."""
    (tmp_path / "stores").mkdir()
    return tmp_path / "stores" / "store.db"


@pytest.mark.parametrize("harm", [delete, move_folder, move_folder_and_make_it_anew])
@pytest.mark.parametrize("call", CALLS)
def test_of_a_store_that_is_gone_nothing_is_acknowledged_and_no_file_is_made(own_folder, harm, call):
    with Memory(own_folder, embedder=HashEmbedder()) as memory:
        memory.add("one", user_id="ana")
        harm(own_folder)
        for _ in range(2):
            with pytest.raises(StoreLostError, match="is gone"):
                call(memory)
        assert memory.check() != []
        assert not own_folder.exists()
    assert not own_folder.exists()


@pytest.mark.parametrize("harm", [move_folder, move_folder_and_make_it_anew])
def test_a_store_that_is_put_back_goes_on(own_folder, harm):
    with Memory(own_folder, embedder=HashEmbedder()) as memory:
        memory.add("one", user_id="ana")
        harm(own_folder)
        with pytest.raises(StoreLostError):
            memory.add("two", user_id="ana")
        if own_folder.parent.exists():
            own_folder.parent.rmdir()
        own_folder.parent.with_name("moved").rename(own_folder.parent)
        memory.add("three", user_id="ana")
        assert {"one", "three"} <= {record.content for record in memory.get_all(user_id="ana")}
        assert memory.check() == []


@pytest.mark.slow
def test_what_a_process_still_has_of_a_deleted_store_can_be_saved(memory, store_path, tmp_path):
    memory.add("two", user_id="ana")
    delete(store_path)
    with pytest.raises(StoreLostError, match="backup"):
        memory.add("three", user_id="ana")
    memory.backup(tmp_path / "saved.db")
    assert seen_by_another_process(tmp_path / "saved.db") == "['one', 'two'] []"


@pytest.mark.slow
def test_a_copy_that_takes_the_place_of_the_open_file_is_written_to_instead(memory, store_path, tmp_path):
    memory.backup(tmp_path / "copy.db")
    memory.add("after the copy", user_id="ana")
    assert len(memory.search("after the copy", user_id="ana")) == 2
    (tmp_path / "copy.db").replace(store_path)
    memory.add("two", user_id="ana")
    assert seen_by_another_process(store_path) == "['one', 'two'] []"
    assert {match.record.content for match in memory.search("after the copy", user_id="ana")} == {"one", "two"}
    assert memory.check() == []


@pytest.mark.slow
def test_an_exact_copy_with_the_log_that_is_left_loses_nothing(memory, store_path, tmp_path):
    memory.add("in the log", user_id="ana")
    shutil.copy(store_path, tmp_path / "copy.db")
    (tmp_path / "copy.db").replace(store_path)
    memory.add("two", user_id="ana")
    assert seen_by_another_process(store_path) == "['in the log', 'one', 'two'] []"


@pytest.mark.slow
def test_a_folder_that_is_copied_over_itself_is_followed(own_folder):
    with Memory(own_folder, embedder=HashEmbedder()) as memory:
        memory.add("one", user_id="ana")
        move_folder(own_folder)
        shutil.copytree(own_folder.parent.with_name("moved"), own_folder.parent)
        memory.add("two", user_id="ana")
        assert seen_by_another_process(own_folder) == "['one', 'two'] []"


@pytest.mark.slow
def test_another_store_in_its_place_gets_nothing_and_keeps_what_it_has(memory, store_path, tmp_path):
    with Memory(tmp_path / "other.db", embedder=HashEmbedder()) as other:
        other.add("of another", user_id="ana")
    (tmp_path / "other.db").replace(store_path)
    for _ in range(2):
        with pytest.raises(StoreLostError, match="another file has taken its place"):
            memory.add("two", user_id="ana")
    memory.close()
    assert seen_by_another_process(store_path) == "['of another'] []"


@pytest.mark.slow
def test_what_replaces_the_file_between_a_commit_and_its_answer_gets_the_write_too(memory, store_path, tmp_path):
    memory.backup(tmp_path / "copy.db")
    copies = iter([tmp_path / "copy.db"])
    failpoints.arm("transaction: after COMMIT", lambda: [copy.replace(store_path) for copy in copies])
    try:
        record = memory.add("two", user_id="ana")
    finally:
        failpoints.disarm()
    assert not (tmp_path / "copy.db").exists()
    assert memory.get(record.id) == record
    assert seen_by_another_process(store_path) == "['one', 'two'] []"


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_store_with_two_names_is_refused_under_each_and_goes_on_under_the_one_it_has(memory, store_path, tmp_path):
    os.link(store_path, tmp_path / "second.db")
    memory.add("two", user_id="ana")
    for path in (store_path, tmp_path / "second.db"):
        with pytest.raises(StoreOpenError, match="2 names of the same file") as caught:
            Memory(path, embedder=HashEmbedder())
        assert "second.db" in str(caught.value)
        assert "store.db" in str(caught.value)
    (tmp_path / "second.db").unlink()
    assert seen_by_another_process(store_path) == "['one', 'two'] []"


@pytest.mark.slow
def test_a_store_that_was_moved_without_its_log_is_not_opened_beside_who_has_it(memory, store_path, tmp_path):
    store_path.rename(tmp_path / "moved.db")
    with pytest.raises(StoreBusyError, match="another process has it open"):
        Memory(tmp_path / "moved.db", embedder=HashEmbedder(), config=Config(busy_timeout=0.2))
    (tmp_path / "moved.db").rename(store_path)
    memory.add("two", user_id="ana")
    assert seen_by_another_process(store_path) == "['one', 'two'] []"


def test_a_store_has_one_path_whatever_links_lead_to_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "links" / "store.db").symlink_to("../real/store.db")
    real = os.path.realpath(tmp_path / "real" / "store.db")
    for path in (tmp_path / "links" / "store.db", tmp_path / "links" / "folder" / "store.db", real):
        with Memory(path, embedder=HashEmbedder()) as memory:
            memory.add("one", user_id="ana")
            assert memory.path == real
            assert memory.check() == []
    assert sorted(path.name for path in (tmp_path / "links").iterdir()) == ["folder", "store.db"]
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["store.db"]


# -- opening ------------------------------------------------------------------------------------------------------


def test_a_store_is_opened_and_read_while_another_process_writes(memory, store_path):
    writer = apsw.Connection(str(store_path))
    writer.execute("BEGIN IMMEDIATE")
    try:
        impatient = Config(busy_timeout=0.1)
        with Memory(store_path, embedder=HashEmbedder(), config=impatient) as other:
            assert other.count(user_id="ana") == 1
            assert [match.record.content for match in other.search("one", user_id="ana")] == ["one"]
            with pytest.raises(StoreBusyError):
                other.add("two", user_id="ana")
    finally:
        writer.execute("ROLLBACK")
        writer.close()


# -- forks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("used", [False, True])
def test_a_child_of_a_fork_forks_again_whether_it_used_the_store_or_not(store_path, used):
    """As a daemon does, and whatever starts processes in a worker."""
    code = """
        import os, signal, subprocess, sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        memory.add("one", user_id="ana")
        signal.alarm(60)

        def child(work):
            pid = os.fork()
            if not pid:
                signal.alarm(60)
                work()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

        def first():
            if sys.argv[2] == "True":
                memory.add("child", user_id="ana")
            child(second)
            subprocess.run([sys.executable, "-c", ""], preexec_fn=os.setpgrp, check=True)

        def second():
            memory.add("grandchild", user_id="ana")
            child(lambda: memory.add("and its child", user_id="ana"))

        child(first)
        memory.add("two", user_id="ana")
        print(memory.count(user_id="ana"), memory.check())
    """
    assert run_python(code, store_path, used) == f"{5 if used else 4} []\n"


# -- any order ----------------------------------------------------------------------------------------------------

HARMS: dict[str, Callable[[Path], object]] = {
    "read": read_bytes,
    "sqlite": read_with_sqlite,
    "log": lambda path: [Path(f"{path}{end}").unlink(missing_ok=True) for end in SIDES],
    "memory": lambda path: Path(f"{path}-shm").unlink(missing_ok=True),
    "copy": lambda path: (shutil.copy(path, f"{path}.x"), Path(f"{path}.x").replace(path)),
    "open": open_again,
}


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(sorted(HARMS)), st.integers(0, 1)), min_size=1, max_size=8))
def test_two_handles_lose_nothing_whatever_happens_to_the_files_between_their_calls(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("harms") / "store.db"
    memories = [Memory(path, embedder=HashEmbedder()) for _ in range(2)]
    try:
        expected = []
        for number, (harm, who) in enumerate(steps):
            if harm == "copy":  # What is in the log of a copied file is that of the copy.
                for memory in memories:
                    memory.count(user_id="ana")
            HARMS[harm](path)
            expected.append(memories[who].add(f"text {number}", user_id="ana").content)
        for memory in (*memories, Memory(path, embedder=HashEmbedder())):
            assert [record.content for record in memory.get_all(user_id="ana", order="oldest")] == expected
            assert memory.check() == []
            memories.append(memory)
    finally:
        for memory in memories:
            memory.close()


def test_locks_of_its_own_need_no_file(memory, store_path):
    assert {path.name for path in store_path.parent.iterdir()} <= {
        store_path.name + end for end in ("", "-reserve", *SIDES)
    }
    with pytest.raises(StoreError):
        Memory(store_path.parent, embedder=HashEmbedder())


def test_a_read_that_fails_as_files_are_replaced_is_done_again_and_one_of_files_at_rest_is_not(store_path, monkeypatch):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("kept", user_id="ana", id="kept")
        tries = []

        def fails_at_first(snapshot, scope, condition):
            tries.append(scope)
            if len(tries) < 3:
                raise apsw.IOError("disk I/O error")
            return 7

        monkeypatch.setattr(Snapshot, "count", fails_at_first)
        assert memory.count(user_id="ana") == 7
        assert len(tries) == 3
        tries.clear()
        monkeypatch.setattr(files, "SETTLED_NANOSECONDS", 0)
        with pytest.raises(StoreError, match="disk I/O error"):
            memory.count(user_id="ana")
        assert len(tries) == 1


def other_store(path: Path) -> Path:
    with Memory(path, embedder=HashEmbedder()) as other:
        other.add_batch([f"other {number}" for number in range(300)], user_id="ana")
    return path


def contents(path: Path) -> set[str]:
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        return {record.content for record in memory.get_all(user_id="ana", limit=1000)}


@pytest.mark.parametrize("wrote", [True, False])
def test_another_store_that_is_copied_over_an_open_one_takes_none_of_its_writes(store_path, tmp_path, wrote):
    other = other_store(tmp_path / "other.db")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("one", user_id="ana")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        if wrote:
            memory.add("two", user_id="ana")
        shutil.copyfile(other, store_path)
        for call in (lambda: memory.add("three", user_id="ana"), lambda: memory.count(user_id="ana")):
            with pytest.raises(StoreLostError, match="another file has taken its place"):
                call()
    assert contents(store_path) == contents(other)
    assert len(list(tmp_path.glob("store.db.aside-*-wal"))) == 1  # What was acknowledged last is kept.


@pytest.mark.parametrize("wrote", [True, False])
@pytest.mark.parametrize(("before", "later"), [(20, 20), (1500, 30), (20, 3000)])
def test_an_earlier_state_that_is_copied_over_an_open_store_is_what_it_goes_on_from(
    store_path, tmp_path, wrote, before, later
):
    copy = tmp_path / "copy.db"
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"before {number}" for number in range(before)], user_id="ana")
        memory.backup(copy)
        memory.add_batch([f"later {number}" for number in range(later)], user_id="ana")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.search("later 1", user_id="ana")
        if wrote:
            memory.add("lost by the copy", user_id="ana")
        shutil.copyfile(copy, store_path)
        assert memory.add("after", user_id="ana").content == "after"
        assert memory.count(user_id="ana") == before + 1
        assert {match.record.content.split()[0] for match in memory.search("later 1", user_id="ana")} <= {
            "before", "after",
        }  # fmt: skip
        assert memory.check() == []
    assert len(contents(store_path) & {"after", "lost by the copy"}) == 1


@pytest.mark.slow
def test_a_memory_of_the_log_that_is_cut_kills_nobody_and_loses_nothing(memory, store_path):
    os.truncate(f"{store_path}-shm", 0)
    memory.add("two", user_id="ana")
    assert "two" in seen_by_another_process(store_path)
    assert memory.count(user_id="ana") == 2


def test_a_pipe_in_the_place_of_a_store_keeps_nobody_waiting(memory, store_path):
    store_path.unlink()
    os.mkfifo(store_path)
    with pytest.raises(StoreLostError, match="another file has taken its place"):
        memory.add("two", user_id="ana")
    with pytest.raises(StoreOpenError, match="is not a file"):
        Memory(store_path, embedder=HashEmbedder())
    store_path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("end", SIDES)
def test_a_pipe_in_the_place_of_the_log_is_removed_and_keeps_nobody_waiting(memory, store_path, end):
    Path(f"{store_path}{end}").unlink()
    os.mkfifo(f"{store_path}{end}")
    memory.add("two", user_id="ana")
    assert "two" in seen_by_another_process(store_path)


def test_what_was_planned_of_other_files_is_planned_again(memory, store_path, tmp_path):
    with pytest.raises(Outplanned):
        memory._engine.store._writes.commit(lambda transaction: None, epoch=7)
    copy = tmp_path / "copy.db"
    memory.add_batch([f"text {number}" for number in range(50)], user_id="ana")
    memory.backup(copy)
    found = memory._engine.store._to_hide

    def replaced(*arguments):
        answer = found(*arguments)
        if copy.exists():
            copy.replace(store_path)
        return answer

    memory._engine.store._to_hide = replaced
    assert memory.delete_all(user_id="ana") == 51
    assert memory.count(user_id="ana") == 0
