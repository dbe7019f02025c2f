"""Several processes on one file: writers queue, every process sees every commit, dead and frozen ones hold up no
other."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from agentmem import Config, Memory, NotFoundError, StoreBusyError, StoreOpenError
from agentmem.engine.deferred import LEASE_SECONDS
from agentmem.storage.sqlite.database import connections, wal
from agentmem.testing import HashEmbedder
from tests.children import SECONDS, finish, start_python
from tests.torture.peer import Peer

HOLDER = """
    import os, sys, threading
    from agentmem import Memory
    from agentmem.testing import HashEmbedder

    memory = Memory(sys.argv[1], embedder=HashEmbedder())
    memory.add("acknowledged", user_id="ana")

    def hold(transaction):
        transaction.connection.execute("UPDATE memory SET role = 'half'")
        print("holds", flush=True)
        threading.Event().wait()

    if sys.argv[2:] == ["with a sibling"] and not os.fork():  # It has the same descriptors, and goes on living.
        sys.stdin.read()
        os._exit(0)
    memory._engine.store._writes.commit(hold)
"""


@pytest.fixture
def holder(store_path, request):
    """A process in the middle of a write transaction."""
    child = start_python(HOLDER, store_path, *getattr(request, "param", []), stdin=-1)
    assert child.line() == "holds\n"
    yield child
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


IMPATIENT = Config(busy_timeout=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_who_waits_too_long_for_another_process_is_told_and_nothing_is_written(open_memory, holder, stopped):
    if stopped:
        holder.send_signal(signal.SIGSTOP)
    memory = open_memory(config=IMPATIENT)  # Opening a store that lacks nothing only reads.
    assert [record.content for record in memory.get_all(user_id="ana")] == ["acknowledged"]
    with pytest.raises(StoreBusyError, match="try again"):
        memory.add("more", user_id="ana")
    holder.send_signal(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_holds_the_lock_keeps_writers_out_for_a_time_and_readers_not_at_all(
    store_path, open_memory, stopped
):
    memory = open_memory(config=IMPATIENT)
    child = start_python(HOLDER, store_path, stdin=-1)
    try:
        assert child.line() == "holds\n"
        if stopped:
            child.send_signal(signal.SIGSTOP)
        for write in (
            lambda: memory.add("refused", user_id="ana", id="retried"),
            lambda: memory.add_batch(["refused", "refused too"], user_id="ana"),
            lambda: memory.add("refused", user_id="ana", defer=True),
            lambda: memory.delete_all(user_id="ana"),
        ):
            with pytest.raises(StoreBusyError, match="try again"):
                write()
        [match] = memory.search("acknowledged", user_id="ana")
        assert (match.record.content, match.record.role) == ("acknowledged", None)
        answers: list[Any] = []

        def attempt(number: int) -> None:
            try:
                memory.add(f"thread {number}", user_id="ana")
            except StoreBusyError as error:
                answers.append(error)

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(answers) == 8
        assert memory.count(user_id="ana") == 1
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    assert memory.add("retried", user_id="ana", id="retried").id == "retried"
    assert {record.content for record in memory.get_all(user_id="ana")} == {"acknowledged", "retried"}
    memory.flush()


@pytest.mark.parametrize("holder", [["with a sibling"]], indirect=True)
def test_the_lock_of_a_dead_process_is_free_even_when_a_sibling_has_its_descriptors(open_memory, holder):
    holder.send_signal(signal.SIGKILL)  # The sibling lives on until the end of the test.
    holder.wait(SECONDS)
    memory = open_memory()
    [record] = memory.get_all(user_id="ana")
    assert (record.content, record.role) == ("acknowledged", None)
    memory.add("goes on", user_id="ana")


@pytest.mark.slow
def test_a_writer_in_line_goes_on_when_the_one_before_it_dies(open_memory, store_path):
    memory = open_memory(config=Config(busy_timeout=SECONDS))
    child = start_python(HOLDER, store_path, stdin=-1)
    assert child.line() == "holds\n"
    waiting = threading.Thread(target=memory.add, args=("waited",), kwargs={"user_id": "ana"})
    waiting.start()
    child.kill()
    child.communicate()
    waiting.join(SECONDS)
    assert {record.content for record in memory.get_all(user_id="ana")} == {"acknowledged", "waited"}


def test_who_waits_for_another_process_can_be_interrupted(holder, store_path):
    waiting = start_python(
        """
        import sys
        from agentmem import Config, Memory
        from tests import failpoints
        from agentmem.testing import HashEmbedder

        failpoints.arm("transaction: before BEGIN", lambda: print("waits", flush=True))
        try:
            Memory(sys.argv[1], embedder=HashEmbedder(), config=Config(busy_timeout=3600)).add("more", user_id="ana")
        except KeyboardInterrupt:
            print("heard")
        """,
        store_path,
    )
    assert waiting.line() == "waits\n"
    waiting.send_signal(signal.SIGINT)
    assert finish(waiting) == "heard\n"


# -- every process sees every commit -------------------------------------------------------------------------------


@pytest.fixture
def there(store_path, open_memory):
    """A handle in another process; after the handle of this one."""
    open_memory()
    peer = Peer(store_path)
    yield peer
    peer.close()


@pytest.mark.parametrize("mode", ["keyword", "vector", "hybrid"])
@pytest.mark.parametrize("defer", [False, True])
def test_every_process_sees_the_commits_of_the_others_at_once(open_memory, there, mode, defer):
    here = open_memory()

    def found(by: Any) -> list[str]:
        listed = [record.content for record in by.get_all(user_id="ana")]
        assert by.count(user_id="ana") == len(listed)
        matches = by.search("green tea lemon", user_id="ana", mode=mode, threshold=0.01)
        assert sorted(match.record.content for match in matches) == sorted(listed)
        return sorted(listed)

    for one, other in [(here, there), (there, here)] * 2:
        assert found(other) == found(one) == []
        first = one.add("green tea", user_id="ana", defer=defer)
        assert found(other) == ["green tea"]
        other.add_batch(["tea with lemon", "a green lemon"], user_id="ana", defer=defer)
        assert found(one) == ["a green lemon", "green tea", "tea with lemon"]
        other.update(first.id, "tea, no longer green")
        assert found(one) == ["a green lemon", "tea with lemon", "tea, no longer green"]
        assert one.delete(first.id)
        assert found(other) == ["a green lemon", "tea with lemon"]
        with pytest.raises(NotFoundError):
            other.update(first.id, "gone")
        assert other.restore(first.id) == one.get(first.id)
        assert found(one) == found(other) == ["a green lemon", "tea with lemon", "tea, no longer green"]
        assert [event.what for event in other.history(first.id)] == ["add", "update", "delete", "restore"]
        assert one.delete_all(user_id="ana") == 3


class Counting(HashEmbedder):
    """Remembers which texts it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def embed(self, texts):
        self.texts += texts
        return super().embed(texts)


def test_a_text_that_one_process_has_embedded_for_a_home_no_other_embeds_again(open_memory, there):
    there.add_batch(["green tea", "black coffee"], user_id="ana")
    embedder = Counting()
    memory = open_memory(embedder=embedder)
    memory.add("green tea", user_id="ana", run_id="r")
    memory.add_batch(["black coffee", "water"], user_id="ana", run_id="r")
    assert [match.record.content for match in memory.search("green tea", user_id="ana", run_id="r", limit=1)] == [
        "green tea"
    ]
    assert embedder.texts == ["water"]


# -- the work that others left ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_backlog_of_a_process_that_was_killed_or_stopped_is_taken_over_at_once(open_memory, store_path, how):
    """Not when its claim has run out, which is far beyond the patience of a deferred add that waits for room."""
    child = start_python(
        """
        import sys, threading
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        class Stuck(HashEmbedder):
            def embed(self, texts):
                print("works", flush=True)
                threading.Event().wait()

        memory = Memory(sys.argv[1], embedder=Stuck())
        memory.add_batch(["one", "two", "three"], user_id="ana", defer=True)
        threading.Event().wait()
        """,
        store_path,
    )
    assert child.line() == "works\n"  # So it holds the lease of the deferred work.
    child.send_signal(how)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)  # The dead stays a zombie.
    memory = open_memory(config=Config(pending_limit=3))
    memory.add("there is room", user_id="ana", defer=True, timeout=LEASE_SECONDS / 2)
    child.kill()
    child.communicate()
    memory.flush()
    assert memory.count(user_id="ana") == 4


@pytest.mark.parametrize("end", ["close", "failure"])
def test_the_backlog_of_a_handle_that_cannot_go_on_is_free_for_the_next_one(open_memory, end):
    entered, go_on = threading.Event(), threading.Event()

    class Away(HashEmbedder):
        def embed(self, texts):
            entered.set()
            assert go_on.wait(SECONDS)
            raise ConnectionError("the model is away")

    first, second = open_memory(embedder=Away()), open_memory(config=Config(pending_limit=3, timeout=LEASE_SECONDS / 2))
    first.add_batch(["one", "two", "three"], user_id="ana", defer=True)
    assert entered.wait(SECONDS)
    if end == "close":
        closing = threading.Thread(target=first.close)
        closing.start()
        go_on.set()
        closing.join(SECONDS)
    else:
        go_on.set()
    second.add("there is room", user_id="ana", defer=True)
    second.flush()
    assert second.stats().store.pending == 0


# -- migrations ---------------------------------------------------------------------------------------------------

NEWER = """
    import sys
    import agentmem.storage.sqlite.database.connections as database
    from agentmem import Memory
    from agentmem.testing import HashEmbedder

    database.MIGRATIONS.append([
        "ALTER TABLE memory ADD COLUMN mood TEXT",
        "CREATE INDEX memory_mood ON memory (mood)",
        "INSERT INTO meta VALUES ('migrated', 'once')",
    ])
    print("ready", flush=True)
    sys.stdin.readline()
    with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
        for number in range(20):
            memory.add(f"newer {sys.argv[2]} {number}", user_id="ana")
        assert memory.search("older", user_id="ana")
        assert memory.check() == []
"""


def start_together(code, store_path, count):
    """Processes that have all started before the first goes on: they say "ready", and read a line."""
    children = [start_python(code, store_path, number, stdin=-1) for number in range(count)]
    for child in children:
        assert child.line() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    return children


@pytest.mark.slow
def test_processes_that_migrate_an_older_store_together_do_it_once_while_an_older_one_goes_on(open_memory, store_path):
    memory = open_memory()
    memory.add("older before", user_id="ana")
    children = start_together(NEWER, store_path, 3)
    older = 0
    while any(child.poll() is None for child in children) or older < 5:
        memory.add(f"older {older}", user_id="ana")
        assert memory.search(f"older {older}", user_id="ana")
        older += 1
    for child in children:
        finish(child)
    memory.update(memory.add("to change", user_id="ana").id, "changed")
    assert memory.count(user_id="ana") == 1 + 3 * 20 + older + 1
    assert memory.check() == []
    with pytest.raises(StoreOpenError, match="newer"):
        open_memory()


@pytest.mark.slow
def test_a_store_made_by_many_processes_together_is_one_store(store_path):
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        print("ready", flush=True)
        sys.stdin.readline()
        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.add(f"by {sys.argv[2]}", user_id="ana")
    """
    for child in start_together(code, store_path, 6):
        finish(child)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.count(user_id="ana") == 6
        assert memory.check() == []


def test_the_log_stays_short_while_reads_overlap_all_the_time(open_memory, store_path, monkeypatch):
    for module in (connections, wal):
        monkeypatch.setattr(module, "LOG_PAGES", 300)
    memory = open_memory(config=Config(durability="process"))
    over = threading.Event()
    turns = [threading.Semaphore(0), threading.Semaphore(0)]

    def read(own: int) -> None:
        if own:
            turns[0].acquire(timeout=SECONDS)
        while not over.is_set():
            with memory._engine.store.snapshot() as snapshot:
                assert snapshot.seq >= 0
                turns[own].release()
                turns[1 - own].acquire(timeout=SECONDS)  # Until the other's next read has begun.

    readers = [threading.Thread(target=read, args=(own,)) for own in (0, 1)]
    for reader in readers:
        reader.start()
    try:
        for number in range(40):  # 50 pages each.
            memory.add("x" * 200_000, user_id="ana", metadata={"n": number}, defer=True)
    finally:
        over.set()
        for turn in turns:
            turn.release()
        for reader in readers:
            reader.join()
    assert Path(f"{store_path}-wal").stat().st_size < 1000 * 4096
