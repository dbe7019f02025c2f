"""The log beside the file: merged now and again, so that it neither grows for ever nor costs every commit a merge."""

import threading
from pathlib import Path

import apsw
import pytest

from agentmem.errors import StoreFullError
from agentmem.storage.sqlite.database import connections, wal


class Recorder:
    """In the place of a connection, for the rule alone."""

    def __init__(self):
        self.merges = []

    def wal_checkpoint(self, name, mode):
        self.merges.append(mode)

    def set_busy_timeout(self, milliseconds):
        pass


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(wal, "MERGED_PAGES", 20)
    for module in (connections, wal):
        monkeypatch.setattr(module, "LOG_PAGES", 100)


def test_a_log_that_nobody_reads_begins_anew(open_memory, small):
    memory = open_memory()
    for number in range(100):
        memory.add(f"text {number}", user_id="ana")
    assert memory.stats().store.log_bytes < 110 * 4120  # All of these commits have written some 1,000 pages.


def test_a_log_is_merged_beside_the_commits_and_leaves_no_thread(open_memory, small, monkeypatch):
    merged = []
    merge = connections.Database._merge

    def noting(self):
        merge(self)
        merged.append(threading.current_thread().name)

    monkeypatch.setattr(connections.Database, "_merge", noting)
    memory = open_memory()
    for number in range(60):
        memory.add(f"text {number}", user_id="ana")
    memory.close()
    assert set(merged) == {"agentmem-merger"}
    assert not any(thread.name == "agentmem-merger" for thread in threading.enumerate())
    assert not Path(f"{memory.path}-wal").exists()  # Closing waits for it, and merges the rest.
    assert open_memory().count(user_id="ana") == 60


def test_a_merge_that_fails_costs_no_commit_anything(open_memory, small, monkeypatch):
    tries = []

    def failing(self, **_):
        if threading.current_thread().name == "agentmem-merger":
            tries.append(1)
            raise StoreFullError("no room")
        return reading(self, **_)

    reading = connections.Database.reading
    monkeypatch.setattr(connections.Database, "reading", failing)
    memory = open_memory()
    for number in range(60):
        memory.add(f"text {number}", user_id="ana")
    assert tries
    assert memory.count(user_id="ana") == 60


def test_beside_a_read_that_goes_on_the_log_is_merged_once_for_so_many_pages(small, tmp_path):
    begun, busy = [], []
    connection = Recorder()

    def merge_aside():
        begun.append(1)
        return not busy

    keep = wal.keeper_of_log(1000, merge_aside, str(tmp_path), lambda merge: merge())
    for pages in range(1, 100):
        keep(connection, "main", pages)
    assert len(begun) == 4  # At 20, 40, 60 and 80.
    keep(connection, "main", 100)
    assert connection.merges == [apsw.SQLITE_CHECKPOINT_RESTART]
    for pages in range(1, 21):  # It began anew.
        keep(connection, "main", pages)
    assert len(begun) == 5
    busy.append(True)
    for pages in range(40, 45):  # What is still going on is asked for until it has ended.
        keep(connection, "main", pages)
    assert len(begun) == 10


def test_what_is_in_the_log_beside_a_read_is_whole_afterwards(open_memory, small, store_path):
    memory, other = open_memory(), open_memory()
    memory.add("the first", user_id="ana")
    with memory._engine.store.snapshot() as snapshot:
        assert snapshot.seq == 1
        for number in range(60):
            other.add(f"text {number}", user_id="ana")
    other.close()
    assert memory.count(user_id="ana") == 61
    assert memory.check() == []
