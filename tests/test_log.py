"""The log beside the file: merged now and again, so that it neither grows for ever nor costs every commit a merge."""

import apsw
import pytest

from agentmem.storage import database


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
    monkeypatch.setattr(database, "MERGED_PAGES", 20)
    monkeypatch.setattr(database, "LOG_PAGES", 100)


def test_a_log_that_nobody_reads_begins_anew(open_memory, small):
    memory = open_memory()
    for number in range(100):
        memory.add(f"text {number}", user_id="ana")
    assert memory.stats().log_bytes < 60 * 4120  # All of these commits have written some 1,000 pages.


def test_beside_a_read_that_goes_on_the_log_is_merged_once_for_so_many_pages(small):
    connection, keep = Recorder(), database._keeper_of_log(1000)
    for pages in range(1, 100):
        keep(connection, "main", pages)
    assert connection.merges == [apsw.SQLITE_CHECKPOINT_PASSIVE] * 4  # At 20, 40, 60 and 80.
    keep(connection, "main", 100)
    assert connection.merges[4:] == [apsw.SQLITE_CHECKPOINT_RESTART]
    for pages in range(1, 21):  # It began anew.
        keep(connection, "main", pages)
    assert connection.merges[5:] == [apsw.SQLITE_CHECKPOINT_PASSIVE]


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
