"""Writes that share a commit: each is answered for itself, whatever happens to the others."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import apsw
import pytest

from agentmem import (
    AgentMemError,
    Config,
    DuplicateIdError,
    InvalidInputError,
    Memory,
    Record,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from agentmem.stats import Timings
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.group_commit import GroupCommit, Write
from agentmem.testing import HashEmbedder
from tests import failpoints
from tests.children import finish, start_python

SECONDS = 30


class StepDatabase:
    """A database whose transactions wait for permission, so that writes gather meanwhile."""

    def __init__(self, path) -> None:
        self.database = Database(str(path), durability="full", busy_timeout=5)
        with self.database.writing() as connection:
            connection.execute("CREATE TABLE note (text TEXT NOT NULL CHECK (text != 'bad')) STRICT")
        self.began = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.failure: BaseException | None = None
        self.failure_after_commit: BaseException | None = None

    @contextmanager
    def writing(self, *how) -> Iterator[apsw.Connection]:
        with self.database.writing(*how) as connection:
            self.began.release()
            assert self.allowed.acquire(timeout=SECONDS)
            yield connection
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
        if self.failure_after_commit is not None:
            failure, self.failure_after_commit = self.failure_after_commit, None
            raise failure

    def reading(self):
        return self.database.reading()

    def end_torn_write(self) -> None:
        self.database.end_torn_write()

    def overwrite_log(self) -> None:
        self.database.overwrite_log()

    def notes(self) -> list[str]:
        with self.database.reading() as connection:
            return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY rowid")]


@pytest.fixture
def steps(store_path) -> Iterator[StepDatabase]:
    steps = StepDatabase(store_path)
    yield steps
    steps.database.close()


def note(text: str):
    def apply(transaction):
        if text == "refused":
            raise InvalidInputError("not this one; try another.")
        transaction.connection.execute("INSERT INTO note VALUES (?)", (text,))
        transaction.record_event(0, "note", None, transaction.moment)
        return text

    return apply


def attempt(commits: GroupCommit, text: str):
    try:
        return commits.commit(note(text))
    except Exception as error:
        return type(error)


def test_writes_that_wait_share_one_commit_in_their_order(steps):
    commits = GroupCommit(steps, Timings())
    writes = [Write(note(f"note {number}")) for number in range(10)]
    with ThreadPoolExecutor(12) as pool:
        leader = pool.submit(commits.commit, note("leader"))
        assert steps.began.acquire(timeout=SECONDS)
        commits.enqueue(writes)
        waiting = [pool.submit(commits.finish, write, None) for write in writes]
        steps.allowed.release(2)
        assert leader.result(SECONDS) == "leader"
        assert [each.result(SECONDS) for each in waiting] == [f"note {number}" for number in range(10)]
    assert steps.notes() == ["leader", *(f"note {number}" for number in range(10))]
    assert (commits.counts.commits, commits.counts.writes) == (2, 11)


@pytest.mark.parametrize("bad", ["refused", "bad"])
def test_a_bad_write_fails_alone_among_those_that_share_its_commit(steps, bad):
    commits = GroupCommit(steps, Timings())
    texts = ["a", "b", bad, "c", "d"]
    writes = [Write(note(text)) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        leader = pool.submit(commits.commit, note("leader"))
        assert steps.began.acquire(timeout=SECONDS)
        commits.enqueue(writes)
        waiting = [pool.submit(commits.finish, write, None) for write in writes]
        steps.allowed.release(20)
        leader.result(SECONDS)
        outcomes = [each.exception(SECONDS) or each.result() for each in waiting]
    assert [outcome for outcome in outcomes if isinstance(outcome, str)] == ["a", "b", "c", "d"]
    assert isinstance(outcomes[2], InvalidInputError if bad == "refused" else StoreError)
    assert steps.notes() == ["leader", "a", "b", "c", "d"]


def test_a_leader_that_is_interrupted_hands_over_and_takes_only_its_own_write_away(steps):
    commits = GroupCommit(steps, Timings())
    steps.failure = KeyboardInterrupt()
    writes = [Write(note(f"note {number}")) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        leader = pool.submit(commits.commit, note("leader"))
        assert steps.began.acquire(timeout=SECONDS)
        commits.enqueue(writes)
        waiting = [pool.submit(commits.finish, write, None) for write in writes]
        steps.allowed.release(20)
        assert isinstance(leader.exception(SECONDS), KeyboardInterrupt)
        assert [each.result(SECONDS) for each in waiting] == [f"note {number}" for number in range(4)]
        assert pool.submit(commits.commit, note("later")).result(SECONDS) == "later"
    assert steps.notes() == ["note 0", "note 1", "note 2", "note 3", "later"]


def four_in_one_commit(steps, commits, pool):
    """The threads that wait for four writes of one transaction, led by the first of them."""
    writes = [Write(note(f"note {number}")) for number in range(4)]
    first = pool.submit(commits.commit, note("first"))
    assert steps.began.acquire(timeout=SECONDS)
    commits.enqueue(writes)
    waiting = [pool.submit(commits.finish, write, None) for write in writes]
    steps.allowed.release()
    assert first.result(SECONDS) == "first"
    assert steps.began.acquire(timeout=SECONDS)
    return waiting


def test_a_group_whose_leader_is_interrupted_loses_only_the_leaders_write(steps):
    commits = GroupCommit(steps, Timings())
    with ThreadPoolExecutor(8) as pool:
        waiting = four_in_one_commit(steps, commits, pool)
        steps.failure = KeyboardInterrupt()
        steps.allowed.release(20)
        assert isinstance(waiting[0].exception(SECONDS), KeyboardInterrupt)
        assert [each.result(SECONDS) for each in waiting[1:]] == ["note 1", "note 2", "note 3"]
    assert steps.notes() == ["first", "note 1", "note 2", "note 3"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), StoreError("an fsync failed; ask the disk.")], ids=["interrupt", "fsync"]
)
def test_a_commit_that_went_through_is_not_done_again_whatever_its_leader_is_told(steps, error):
    commits = GroupCommit(steps, Timings())
    with ThreadPoolExecutor(8) as pool:
        waiting = four_in_one_commit(steps, commits, pool)
        steps.failure_after_commit = error
        steps.allowed.release(20)
        for each in waiting[1:]:
            each.exception(SECONDS)
    assert steps.notes() == ["first", "note 0", "note 1", "note 2", "note 3"]


def test_a_second_interrupt_while_it_is_asked_what_became_of_the_commit_tells_nobody_an_error(steps):
    """The first interrupt strikes just after the commit, the second in the recovery from it. The write is stored once,
    and the next leader reports that to the waiting threads."""

    def interrupt() -> None:
        failpoints.disarm()
        raise KeyboardInterrupt

    commits = GroupCommit(steps, Timings())
    with ThreadPoolExecutor(8) as pool:
        waiting = four_in_one_commit(steps, commits, pool)
        steps.failure_after_commit = KeyboardInterrupt()
        failpoints.arm("commit: before it is asked what became of it", interrupt)
        steps.allowed.release(20)
        assert isinstance(waiting[0].exception(SECONDS), KeyboardInterrupt)
        assert [each.result(SECONDS) for each in waiting[1:]] == ["note 1", "note 2", "note 3"]
        assert pool.submit(commits.commit, note("later")).result(SECONDS) == "later"
    assert steps.notes() == ["first", "note 0", "note 1", "note 2", "note 3", "later"]


def test_everyone_is_answered_under_load_with_bad_writes_among_them(store_path):
    database = Database(str(store_path), durability="process", busy_timeout=5)
    with database.writing() as connection:
        connection.execute("CREATE TABLE note (text TEXT NOT NULL CHECK (text != 'bad')) STRICT")
    commits = GroupCommit(database, Timings())
    texts = [("bad", "refused", f"note {number}")[0 if number % 50 == 7 else 1 if number % 11 == 3 else 2]
             for number in range(600)]  # fmt: skip
    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(lambda text: attempt(commits, text), texts))
    kinds = {"bad": StoreError, "refused": InvalidInputError}
    assert outcomes == [kinds.get(text, text) for text in texts]
    with database.reading() as connection:
        stored = [row[0] for row in connection.execute("SELECT text FROM note")]
    assert sorted(stored) == sorted(text for text in texts if text.startswith("note"))
    assert commits.counts.writes >= len(stored)
    database.close()


def test_the_same_id_given_by_many_threads_is_stored_once(memory):
    def add(number: int) -> Record | AgentMemError:
        try:
            return memory.add(f"text {number}", user_id="ana", id="the one")
        except AgentMemError as error:
            return error

    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(add, range(64)))
    [stored] = [outcome for outcome in outcomes if isinstance(outcome, Record)]
    assert {type(outcome) for outcome in outcomes if outcome is not stored} == {DuplicateIdError}
    assert memory.get_all(all_scopes=True).records == [stored]


def test_many_threads_that_change_one_memory_leave_a_history_without_gaps(memory):
    record = memory.add("start", user_id="ana", metadata={"start": True})

    def change(number: int) -> None:
        memory.update(record.id, f"version {number}", metadata={f"n{number}": number})

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(change, range(100)))
    final = memory.get(record.id)
    assert final.metadata == {"start": True} | {f"n{number}": number for number in range(100)}
    events = memory.history(record.id)
    assert len(events) == 101
    for earlier, later in pairwise(events):
        assert later.before == earlier.after
    assert events[-1].after.content == final.content
    [match] = memory.search(final.content, user_id="ana", mode="vector")
    assert match.score == pytest.approx(1, abs=5e-3)


# -- a full disk, a busy file -------------------------------------------------------------------------------------


@contextmanager
def room_for(memory: Memory, pages: int) -> Iterator[None]:
    """Simulates a disk with room for this number of pages."""
    database = memory._engine.store._database
    with database.writing() as connection:
        used = connection.pragma("page_count")
    writer = database._writer
    writer.pragma("max_page_count", used + pages)
    try:
        yield
    finally:
        if database._writer is writer:
            writer.pragma("max_page_count", 2**32 - 2)


def test_a_full_disk_is_said_nothing_is_half_written_and_the_store_stays_usable(open_memory):
    memory = open_memory()
    kept = memory.add_batch([f"text {number}" for number in range(20)], user_id="ana")
    with room_for(memory, 10):
        for number in range(1000):
            try:
                kept.append(memory.add(f"filling the disk {number} " + "x" * 2000, user_id="ana"))
            except StoreFullError:
                break
        else:
            raise AssertionError("the disk was never full")
        with pytest.raises(StoreFullError, match="the disk is full; nothing was written"):
            memory.add_batch([f"more {number} " + "x" * 2000 for number in range(50)], user_id="ana")
        assert memory.search("text 7", user_id="ana")[0].record.content == "text 7"
        assert memory.get_all(user_id="ana", limit=1000, order="oldest").records == kept
        assert memory.check() == []
    kept.append(memory.add("there is room again " + "x" * 2000, user_id="ana"))
    assert memory.get_all(user_id="ana", limit=1000, order="oldest").records == kept


def test_threads_that_meet_a_full_disk_are_all_told_the_truth(open_memory):
    memory = open_memory()
    memory.add("text", user_id="ana")

    def add(number: int) -> Record | AgentMemError:
        try:
            return memory.add(f"thread text {number} " + "x" * 3000, user_id="ana")
        except AgentMemError as error:
            return error

    with room_for(memory, 30), ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(add, range(100)))
    stored = {outcome.id for outcome in outcomes if isinstance(outcome, Record)}
    assert {type(outcome) for outcome in outcomes} == {Record, StoreFullError}
    assert {record.id for record in memory.get_all(user_id="ana", limit=1000)} >= stored
    assert memory.count(user_id="ana") == 1 + len(stored)


def test_another_process_in_the_way_is_waited_for_and_then_named(open_memory, store_path):
    memory = open_memory(config=Config(busy_timeout=0.05))
    memory.add("text", user_id="ana")
    child = start_python(
        """
        import sys, apsw
        connection = apsw.Connection(sys.argv[1])
        connection.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        sys.stdin.readline()
        connection.execute("ROLLBACK")
        """,
        store_path, stdin=-1,
    )  # fmt: skip
    assert child.line() == "locked\n"
    for call in (
        lambda: memory.add("more", user_id="ana"),
        lambda: memory.add_batch(["more", "and more"], user_id="ana"),
        lambda: memory.delete_all(user_id="ana"),
    ):
        with pytest.raises(StoreBusyError, match="try again"):
            call()
    assert memory.count(user_id="ana") == 1
    assert memory.search("text", user_id="ana")
    child.stdin.write("go\n")
    child.stdin.flush()
    finish(child)
    assert memory.add("more", user_id="ana").content == "more"


def test_opening_does_not_fail_while_others_write(open_memory, store_path):
    memory = open_memory()
    stop = threading.Event()

    def write() -> None:
        for number in range(100_000):
            memory.add(f"text {number % 50}", user_id="ana")
            if stop.is_set():
                return

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write) for _ in range(2)]
        try:
            for _ in range(30):
                with Memory(store_path, embedder=HashEmbedder()) as other:
                    other.count(user_id="ana")
        finally:
            stop.set()
        for each in writing:
            each.result(SECONDS)
