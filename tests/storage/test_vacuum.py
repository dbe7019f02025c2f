"""Vacuum frees what no call needs, changes no answer, and may be ended at any moment."""

import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest

from agentmem import ClosedError, Config, InvalidInputError, Memory, NotFoundError, StoreBusyError, StoreFullError
from agentmem.storage.sqlite.database.vfs import checked_vfs
from agentmem.storage.sqlite.maintenance import purge
from agentmem.testing import HashEmbedder
from tests import failpoints
from tests.children import SECONDS, finish, start_python
from tests.storage.test_purge import SECRET, files_with

WIDE = 384
"""Dimensions of another model than that of the fixtures."""


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    failpoints.disarm()


def edit(path: Path | str, *statements: str) -> None:
    """Changes a store past agentmem, in its own form."""
    connection = apsw.Connection(str(path), vfs=checked_vfs())
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()


def pragma(path: Path | str, name: str) -> int:
    connection = apsw.Connection(str(path), vfs=checked_vfs())
    value = connection.pragma(name)
    connection.close()
    return value


def with_free_pages(memory: Memory, count: int = 600) -> None:
    """Fills a store and moves it to another model and back; the other's vectors leave their pages."""
    memory.add_batch([f"text number {number} " + "word " * 30 for number in range(count)], user_id="ana")
    memory.reembed(HashEmbedder(WIDE))
    memory.reembed(HashEmbedder())


def answers(memory: Memory, moment: datetime) -> list[object]:
    """What the calls say that read."""
    records = memory.get_all(user_id="ana", limit=1000).records
    return [
        records,
        [memory.history(record.id) for record in records],
        memory.search("number 7", user_id="ana", limit=50, mode="vector"),
        memory.search("number 7", user_id="ana", limit=50, as_of=moment, mode="vector"),
        memory.get_all(user_id="ana", limit=1000, as_of=moment).records,
    ]


def full_of_past(memory: Memory) -> tuple[datetime, list[str]]:
    """Memories with versions and deletions; a moment before these, and the ids of what is deleted."""
    records = memory.add_batch([f"text number {number}" for number in range(60)], user_id="ana")
    moment = memory.history(records[-1].id)[-1].at
    for number, record in enumerate(records):
        if number % 3 == 0:
            memory.update(record.id, f"changed {number}")
        if number % 4 == 0:
            memory.delete(record.id)
    return moment, [record.id for record in records[::4]]


def test_no_answer_changes_and_what_is_deleted_can_be_restored_and_found(memory):
    moment, deleted = full_of_past(memory)
    before = answers(memory, moment)
    vectors = memory.stats().store.vectors
    report = memory.vacuum()
    assert (report.vectors, report.purged, report.deleted) == (0, 0, len(deleted))
    assert memory.stats().store.vectors == vectors
    assert answers(memory, moment) == before
    restored = memory.restore(deleted[0])
    assert memory.search(restored.content, user_id="ana", limit=1, mode="vector")[0].record == restored


@pytest.mark.parametrize("full", [False, True])
def test_the_space_of_vectors_of_another_model_comes_back(open_memory, full):
    memory = open_memory()
    with_free_pages(memory)
    held = memory.get_all(user_id="ana", limit=1000).records
    report = memory.vacuum(full=full)
    assert report.bytes_after < 0.75 * report.bytes_before
    path = Path(memory.path)
    assert path.stat().st_size == report.bytes_after
    assert memory.stats().store.bytes == report.bytes_after
    assert pragma(path, "freelist_count") == 0
    assert memory.get_all(user_id="ana", limit=1000).records == held
    assert memory.vacuum().bytes_after == report.bytes_after


def test_a_store_in_ram_gives_space_back_too(open_memory):
    memory = open_memory(":memory:")
    with_free_pages(memory)
    report = memory.vacuum()
    assert report.bytes_after < 0.75 * report.bytes_before
    assert memory.stats().store.bytes == report.bytes_after


def test_vectors_of_no_text_are_dropped_and_the_newest_keeps_its_number(open_memory):
    memory = open_memory()
    memory.add_batch([f"text number {number}" for number in range(700)], user_id="ana")
    kept = memory.add_batch([f"kept number {number}" for number in range(10)], user_id="ben")
    memory.update(kept[0].id, "replaced")  # Its first text is still asked for by the past.
    last = memory.add("the last", user_id="cleo")
    memory.close()
    edit(
        memory.path,
        "DELETE FROM history WHERE memory_key IN (SELECT key FROM memory WHERE user_id IN ('ana', 'cleo'))",
        "DELETE FROM memory WHERE user_id IN ('ana', 'cleo')",
    )
    memory = open_memory()
    assert memory.stats().store.vectors == 712
    assert memory.vacuum().vectors == 700
    assert memory.stats().store.vectors == 12
    again = memory.add("the last", user_id="cleo")
    assert memory.stats().store.vectors == 12
    assert memory.search("the last", user_id="cleo", mode="vector")[0].record == again
    assert again.id != last.id


def test_a_vector_that_somebody_comes_to_need_meanwhile_stays(open_memory):
    memory = open_memory()
    memory.add_batch(["tea", "milk", "water", "coffee"], user_id="ana")
    memory.close()
    edit(
        memory.path,
        "DELETE FROM history WHERE memory_key < 4",
        "DELETE FROM memory WHERE key < 4",
    )
    memory = open_memory()
    steps = memory._engine.store._space
    seen = steps._vectors

    def looked_at():
        """The vacuum has decided what to drop; now others write."""
        yield from seen()
        memory.add("tea", user_id="ana", run_id="new")
        changed = memory.add("milk", user_id="ana", run_id="new")
        memory.update(changed.id, "juice")

    steps._vectors = looked_at
    assert memory.vacuum().vectors == 1
    moment = memory.history(memory.get_all(user_id="ana", run_id="new").records[0].id)[0].at
    assert memory.search("tea", user_id="ana", run_id="new", mode="vector")[0].record.content == "tea"
    [match] = [
        m
        for m in memory.search("milk", user_id="ana", run_id="new", as_of=moment, mode="vector")
        if m.record.content == "milk"
    ]
    assert match.score > 0.99


def test_vectors_stay_when_the_store_moves_to_another_model_amid_it(open_memory):
    memory = open_memory()
    record = memory.add("tea", user_id="ana")
    memory.add("milk", user_id="ana")
    memory.update(record.id, "coffee")
    moment = memory.history(record.id)[0].at
    steps = memory._engine.store._space
    seen = steps._vectors

    def moved():
        memory.reembed(HashEmbedder(WIDE))
        yield from seen()

    steps._vectors = moved
    assert memory.vacuum().vectors == 0
    assert memory.search("tea", user_id="ana", as_of=moment, mode="vector")[0].score > 0.99


def test_what_was_deleted_long_ago_is_erased_when_asked_for(open_memory, clock):
    memory = open_memory()
    kept = memory.add("plain", user_id="ana")
    old = memory.add(f"{SECRET} old", user_id="ana")
    expired = memory.add(f"{SECRET} expired", user_id="ben", ttl=60)
    memory.delete(old.id)
    clock.wait(3600)
    new = memory.add("deleted just now", user_id="ana")
    later = memory.add("expires later", user_id="ana", ttl=5000)
    memory.delete(new.id)
    report = memory.vacuum(deleted_before=timedelta(minutes=30))
    assert (report.purged, report.deleted) == (2, 1)
    assert files_with(memory.path) == []
    for record in (old, expired):
        assert memory.history(record.id) == []
        with pytest.raises(NotFoundError):
            memory.restore(record.id)
    assert memory.restore(new.id) == new
    assert {record.id for record in memory.get_all(user_id="ana")} == {kept.id, new.id, later.id}
    assert memory.vacuum(deleted_before=clock.now).purged == 0


def test_what_is_restored_meanwhile_stays_with_its_vectors(open_memory, clock, monkeypatch):
    memory = open_memory()
    first = memory.add("tea", user_id="ana")
    moment = clock.now
    clock.wait(1)
    memory.update(first.id, "coffee")
    second = memory.add("tea", user_id="ben")
    third = memory.add("coffee", user_id="ben")
    for record in (first, second, third):
        memory.delete(record.id)
    clock.wait(60)
    plan = purge._plan

    def planned(*arguments):
        made = plan(*arguments)
        memory.restore(first.id)
        return made

    monkeypatch.setattr(purge, "_plan", planned)
    assert memory.vacuum(deleted_before=clock.now).purged == 2
    assert memory.search("coffee", user_id="ana", mode="vector")[0].score > 0.99
    assert memory.search("tea", user_id="ana", mode="vector", as_of=moment)[0].score > 0.99


@pytest.mark.parametrize(
    "moment",
    [datetime(2026, 1, 1), datetime(2200, 1, 1, tzinfo=UTC), "30d", 30, timedelta(days=-1), timedelta(days=10**6)],
    ids=repr,
)
def test_a_moment_that_has_not_passed_or_is_none_is_refused(memory, moment):
    record = memory.add("tea", user_id="ana")
    memory.delete(record.id)
    with pytest.raises(InvalidInputError, match="deleted_before is"):
        memory.vacuum(deleted_before=moment)
    assert memory.stats().store.deleted == 1


def of_old(path: Path) -> None:
    """Makes the file one whose pages cannot be moved, as all were before."""
    edit(path, "PRAGMA auto_vacuum = 0", "VACUUM")
    assert pragma(path, "auto_vacuum") == 0


@pytest.mark.slow
def test_a_file_whose_pages_cannot_be_moved_is_written_anew_once_while_others_use_it(open_memory, store_path):
    memory = open_memory()
    memory.add("tea", user_id="ana")
    memory.close()
    of_old(store_path)
    memory = open_memory()
    memory.vacuum()
    assert pragma(store_path, "auto_vacuum") == 0  # Nothing was free.
    with_free_pages(memory)
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            for number in range(200):
                memory.add(f"from elsewhere {number} " + "word " * 500, user_id="ben")
                print(number, flush=True)
                if number == 100:
                    sys.stdin.readline()
            print(memory.check(), memory.count(user_id="ben"))
    """
    child = start_python(code, store_path, stdin=-1)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.line() == "0\n"
    report = memory.vacuum()
    assert report.bytes_after < report.bytes_before
    child.stdin.write("\n")
    child.stdin.flush()
    assert finish(child).endswith("[] 200\n")
    assert pragma(store_path, "auto_vacuum") == 2
    memory.reset(confirm=True)
    with_free_pages(memory)
    memory.vacuum()
    assert pragma(store_path, "freelist_count") == 0


def test_others_read_and_write_between_the_steps(open_memory, monkeypatch):
    monkeypatch.setattr(purge, "PAGES_A_STEP", 1)
    memory = open_memory()
    with_free_pages(memory)
    other = open_memory()
    pause = failpoints.Pause()
    failpoints.arm("vacuum: after pages are moved", pause, after=3)
    reports = []
    working = threading.Thread(target=lambda: reports.append(memory.vacuum()))
    working.start()
    assert pause.reached.wait(60)
    assert other.count(user_id="ana") == 600
    adding = threading.Thread(target=other.add, args=("meanwhile",), kwargs={"user_id": "ben"})
    adding.start()
    pause.release()
    adding.join(60)
    working.join(60)
    assert other.search("meanwhile", user_id="ben")[0].record.content == "meanwhile"
    assert reports[0].bytes_after < reports[0].bytes_before


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in failpoints.POINTS if "vacuum" in point])
@pytest.mark.parametrize("how", ["kill", "raise"])
def test_ended_anywhere_it_leaves_everything_whole_and_is_gone_on_with(open_memory, store_path, point, how):
    memory = open_memory()
    with_free_pages(memory, 400)
    held = memory.get_all(user_id="ana", limit=1000).records
    memory.add_batch([f"gone {number}" for number in range(20)], user_id="ben")
    memory.add("the newest", user_id="ana", id="newest")
    memory.close()
    edit(
        store_path,
        "DELETE FROM history WHERE memory_key IN (SELECT key FROM memory WHERE user_id = 'ben')",
        "DELETE FROM memory WHERE user_id = 'ben'",
    )
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        from tests import failpoints

        failpoints.arm_all(sys.argv[3])
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        try:
            memory.vacuum(full=sys.argv[2] == "True")
        except OSError as error:
            assert "armed" in str(error), error
            memory.add("it goes on", user_id="cleo")
            memory.close()
            raise SystemExit(3) from None
    """
    child = start_python(code, store_path, "anew" in point, f"{point}={how}")
    _, errors = child.communicate(timeout=SECONDS)
    assert child.returncode == (-signal.SIGKILL if how == "kill" else 3), errors
    memory = open_memory()
    assert memory.check() == []
    assert memory.get_all(user_id="ana", limit=1000, order="newest").records[1:] == held
    memory.vacuum()
    assert memory.stats().store.vectors <= 402
    assert pragma(store_path, "freelist_count") == 0
    assert memory.get_all(user_id="ana", limit=1000).records[1:] == held


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_gets_its_free_pages_back_and_what_has_no_room_leaves_the_store_as_it_was(small_disk, full):
    with Memory(small_disk / "store.db", embedder=HashEmbedder()) as memory:
        with_free_pages(memory, 80)
        held = memory.get_all(user_id="ana", limit=1000).records
        memory.vacuum(full=full)
        memory.reembed(HashEmbedder(WIDE))
        memory.reembed(HashEmbedder())
        memory._engine.store._space.cut_log()
        ballast = small_disk / "ballast"
        room = os.statvfs(small_disk)
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize))
        size = memory.stats().store.bytes
        if full:
            with pytest.raises(StoreFullError, match=r"the disk is full; the store is whole; 0\.0 MB of 1\.0 MB"):
                memory.vacuum(full=True)
            assert memory.stats().store.bytes == size
        else:
            assert memory.vacuum().bytes_after < size
        assert memory.get_all(user_id="ana", limit=1000).records == held
        assert memory.check() == []
        ballast.unlink()
        memory.add("it goes on", user_id="ben")
        assert memory.vacuum(full=full).bytes_after < size
        assert memory.check() == []


def test_a_lock_that_another_process_keeps_is_named(open_memory):
    memory = open_memory(config=Config(busy_timeout=0.2))
    with_free_pages(memory)
    other = apsw.Connection(memory.path, vfs=checked_vfs())
    other.execute("BEGIN IMMEDIATE")
    for full in (False, True):
        with pytest.raises(StoreBusyError, match="try again"):
            memory.vacuum(full=full)
    other.execute("ROLLBACK")
    other.close()
    assert memory.vacuum().bytes_after > 0


def test_a_read_that_goes_on_keeps_the_log_and_nothing_else(open_memory):
    memory = open_memory()
    with_free_pages(memory)
    other = apsw.Connection(memory.path, vfs=checked_vfs())
    other.execute("BEGIN")
    count = other.execute("SELECT count(*) FROM memory").fetchone()
    memory.vacuum()
    assert other.execute("SELECT count(*) FROM memory").fetchone() == count
    other.close()
    report = memory.vacuum()
    assert report.bytes_after < report.bytes_before
    assert Path(f"{memory.path}-wal").stat().st_size == 0


def test_closing_ends_it(open_memory, monkeypatch):
    monkeypatch.setattr(purge, "PAGES_A_STEP", 1)
    memory = open_memory()
    with_free_pages(memory)
    pause = failpoints.Pause()
    failpoints.arm("vacuum: after pages are moved", pause)
    raised = []

    def vacuum() -> None:
        with pytest.raises(ClosedError):
            memory.vacuum()
        raised.append(True)

    working = threading.Thread(target=vacuum)
    working.start()
    assert pause.reached.wait(60)
    closing = threading.Thread(target=memory.close)
    closing.start()
    assert memory._engine.runtimes.closing.wait(60)
    pause.release()
    for thread in (working, closing):
        thread.join(60)
    assert raised == [True]


def test_an_unfinished_purge_is_finished(open_memory):
    memory = open_memory(config=Config(busy_timeout=0.2))
    record = memory.add(f"{SECRET} tea", user_id="ana")
    memory.add("milk", user_id="ana")
    reader = apsw.Connection(memory.path, vfs=checked_vfs())
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM memory").fetchone() == (2,)
    with pytest.raises(StoreBusyError):
        memory.purge(record.id)
    reader.close()
    assert files_with(memory.path) != []
    memory.vacuum()
    assert files_with(memory.path) == []


def test_new_stores_copies_and_what_purge_leaves_can_be_made_smaller(open_memory, tmp_path):
    memory = open_memory()
    record = memory.add("tea", user_id="ana")
    assert pragma(memory.path, "auto_vacuum") == 2
    memory.backup(tmp_path / "copy.db")
    assert pragma(tmp_path / "copy.db", "auto_vacuum") == 2
    memory.close()
    of_old(Path(memory.path))
    memory = open_memory()
    memory.purge(record.id)
    assert pragma(memory.path, "auto_vacuum") == 2


def test_the_command_gives_space_back_and_asks_before_it_erases(filled, db):
    assert filled("delete", "m1").exit_code == 0
    told = filled("vacuum")
    assert told.exit_code == 0
    assert "1 deleted memory stays" in told.stdout
    assert filled("vacuum", "--deleted-before", "0s").exit_code == 2  # There is no terminal to ask at.
    assert "1 erased" not in filled("vacuum", "--deleted-before", "1h", "--yes").stdout
    told = filled("vacuum", db, "--deleted-before", "0s", "--yes", "--full", "--json")
    assert '"purged": 1' in told.stdout
    assert '"deleted": 0' in told.stdout
    assert filled("restore", "m1").exit_code == 1
    assert filled("vacuum", "--deleted-before", "2200-01-01T00:00:00Z", "--yes").exit_code == 2
