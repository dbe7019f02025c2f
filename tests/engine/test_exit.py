"""How a process ends: whatever was not closed, hangs, or still works, it ends, and nothing acknowledged is lost."""

import errno
import gc
import inspect
import signal
import sys
import threading
from typing import Any

import pytest

from agentmem import ClosedError, Memory
from agentmem.platform import signals
from agentmem.storage.sqlite.database import open_files
from agentmem.testing import HashEmbedder
from tests.children import SECONDS, run_python
from tests.conftest import our_threads, wait_for_our_threads


@pytest.mark.slow
def test_a_process_that_never_closes_ends_and_loses_nothing(open_memory, store_path):
    run_python(
        """
        import sys
        from agentmem import Memory

        memory = Memory(sys.argv[1])
        memory.add("kept", user_id="ana")
        """,
        store_path,
    )
    assert [path.name for path in store_path.parent.iterdir()] == ["store.db"]
    assert open_memory(model="minilm-mixed").count(user_id="ana") == 1


@pytest.mark.slow
def test_a_process_with_a_hanging_embedder_ends(store_path):
    run_python(
        """
        import sys, threading
        from agentmem import DeadlineError, Memory
        from agentmem.testing import HashEmbedder

        class Hanging(HashEmbedder):
            def embed(self, texts):
                if "hang" in texts:
                    threading.Event().wait()
                return super().embed(texts)

        memory = Memory(sys.argv[1], embedder=Hanging())
        try:
            memory.add("hang", user_id="ana", timeout=0.1)
        except DeadlineError:
            memory.add("goes on", user_id="ana")
        assert memory.count(user_id="ana") == 1
        """,
        store_path,
    )


@pytest.mark.slow
def test_threads_that_go_on_after_the_main_thread_are_answered(open_memory, store_path):
    run_python(
        """
        import sys, threading
        from agentmem import Memory

        memory = Memory(sys.argv[1])
        memory.add("the threads of the memory run", user_id="ana")

        def work():
            threading.main_thread().join()
            for i in range(20):
                memory.add(f"after the main thread {i}", user_id="ana")

        for _ in range(4):
            threading.Thread(target=work).start()
        """,
        store_path,
    )
    assert open_memory(model="minilm-mixed").count(user_id="ana") == 81


def test_a_memory_in_a_garbage_cycle_closes(store_path):
    memory = Memory(store_path, embedder=HashEmbedder())
    memory.add("tea", user_id="ana")
    scoped = memory.scope(user_id="ana")
    memory.itself = memory
    del memory
    gc.collect()
    assert scoped.count() == 1, "a view keeps its memory open"
    del scoped
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("agentmem"):
            thread.join(30)
    assert our_threads() == []


@pytest.mark.parametrize("look", [(open_files._Guard, "is_cut"), (open_files.OpenFiles, "is_overwritten")])
@pytest.mark.parametrize(
    "call",
    [lambda memory: memory.add("second", user_id="ana"), lambda memory: memory.count(user_id="ana")],
    ids=["add", "count"],
)
def test_a_call_that_looks_at_its_files_as_they_are_closed_is_told_that_the_memory_is(
    store_path, monkeypatch, call, look
):
    memory = Memory(store_path, embedder=HashEmbedder())
    memory.add("first", user_id="ana")

    original, caller = getattr(*look), threading.current_thread()

    def closed_meanwhile(files: Any) -> bool:
        if threading.current_thread() is not caller:
            return original(files)
        monkeypatch.undo()
        closing = threading.Thread(target=memory.close)
        closing.start()
        closing.join(SECONDS)
        raise OSError(errno.EBADF, "Bad file descriptor")  # The number that was read before.

    monkeypatch.setattr(*look, closed_meanwhile)
    with pytest.raises(ClosedError):
        call(memory)


def test_closing_twice_and_from_many_threads_is_closing_once(store_path):
    memory = Memory(store_path, embedder=HashEmbedder())
    memory.add("tea", user_id="ana")
    threads = [threading.Thread(target=memory.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    memory.close()
    with pytest.raises(ClosedError):
        memory.count(user_id="ana")
    assert our_threads() == []


def test_an_embedder_that_closes_its_own_memory_does_not_deadlock(store_path):
    class Closing(HashEmbedder):
        def embed(self, texts):
            memory.close()
            return super().embed(texts)

    memory = Memory(store_path, embedder=Closing())
    with pytest.raises(ClosedError):
        memory.add("tea", user_id="ana")
    for thread in threading.enumerate():
        if thread.name.startswith("agentmem"):
            thread.join(30)
    assert our_threads() == []


@pytest.mark.slow
def test_the_real_model_asks_no_network_writes_nothing_aside_and_lets_forked_children_exit(store_path, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    printed = run_python(
        """
        import os, socket, sys
        os.environ["HOME"] = sys.argv[2]
        os.environ.pop("XDG_CACHE_HOME", None)

        def refuse(*arguments, **options):
            raise AssertionError("the network was asked")

        socket.socket.connect = socket.getaddrinfo = refuse
        from agentmem import Memory

        memory = Memory(sys.argv[1])
        memory.add("Prefers window seats", user_id="ana")
        child = os.fork()
        if not child:
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        memory.close()
        """,
        store_path,
        home,
    )
    assert printed == "3\n"
    assert list(home.rglob("*")) == []


def test_an_interrupt_between_queueing_and_waiting_leaves_nobody_behind(open_memory):
    memory = open_memory()
    writes = memory._engine.store._writes
    enqueue = writes.enqueue

    def interrupted(batch):
        enqueue(batch)
        writes.enqueue = enqueue
        raise KeyboardInterrupt

    writes.enqueue = interrupted
    with pytest.raises(KeyboardInterrupt):
        memory.delete("nobody")
    answered = []
    thread = threading.Thread(target=lambda: answered.append(memory.add("next", user_id="ana")))
    thread.start()
    thread.join(60)
    assert [record.content for record in answered] == ["next"]


class Busy:
    """Threads that do everything over and over; each ends with the first ClosedError and keeps every other error."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.errors: list[BaseException] = []
        self.stored: set[str] = set()
        self.going = threading.Semaphore(0)
        works = [self.add, self.defer, self.add_batch, self.search, self.flush, self.change, self.list]
        self.threads = [threading.Thread(target=self.go_on, args=(work,)) for work in works * 2]
        for thread in self.threads:
            thread.start()
        for _ in self.threads:
            assert self.going.acquire(timeout=SECONDS)

    def go_on(self, work) -> None:
        number = 0
        try:
            while True:
                work(f"{threading.get_ident()} {number}")
                number += 1
                if number == 2:
                    self.going.release()
        except ClosedError:
            pass
        except BaseException as error:
            self.errors.append(error)
        self.going.release()

    def add(self, text: str) -> None:
        self.stored.add(self.memory.add(text, user_id="ana").id)

    def defer(self, text: str) -> None:
        self.stored.add(self.memory.add(text, user_id="ben", defer=True).id)

    def add_batch(self, text: str) -> None:
        self.stored.update(each.id for each in self.memory.add_batch([text, text + " too"] * 200, user_id="cleo"))

    def search(self, text: str) -> None:
        self.memory.search(text, user_id="ben", limit=1)

    def flush(self, text: str) -> None:
        self.memory.flush()

    def change(self, text: str) -> None:
        record = self.memory.update(self.memory.add(text, user_id="dora").id, text + " changed")
        self.memory.delete(record.id)
        self.memory.restore(record.id)
        self.stored.add(record.id)

    def list(self, text: str) -> None:
        self.memory.get_all(user_id="ana")
        self.memory.check()

    def assert_everyone_was_answered(self, path) -> None:
        for thread in self.threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.errors == []
        wait_for_our_threads()
        assert our_threads() == []
        with Memory(path, embedder=HashEmbedder()) as memory:
            stored = {record.id for record in memory.get_all(all_scopes=True, limit=1_000_000)}
            assert self.stored <= stored
            assert memory.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("closers", [1, 8])
def test_a_memory_closed_amid_all_kinds_of_work_answers_everyone(store_path, closers):
    busy = Busy(Memory(store_path, embedder=HashEmbedder()))
    closing = [threading.Thread(target=busy.memory.close) for _ in range(closers)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in closing)
    busy.assert_everyone_was_answered(store_path)


@pytest.mark.slow
def test_a_signal_handler_may_close_the_memory_that_its_thread_is_using(store_path):
    """Python runs handlers in the main thread between two instructions of whatever it is doing, locks in hand."""
    printed = run_python(
        """
        import os, signal, sys, threading
        from agentmem import ClosedError, Memory
        from agentmem.testing import HashEmbedder

        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        signal.signal(signal.SIGTERM, lambda *_: memory.close())
        stored = [memory.add("first", user_id="ana").id]
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        try:
            while True:
                stored.append(memory.add(f"text {len(stored)}", user_id="ana").id)
                memory.search("text", user_id="ana", limit=1)
        except ClosedError:
            pass
        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            assert set(stored) <= {record.id for record in memory.get_all(user_id="ana", limit=10**6)}
            assert memory.check() == []
        print("closed")
        """,
        store_path,
    )
    assert printed == "closed\n"


@pytest.mark.slow
def test_a_signal_handler_may_close_a_memory_whose_locks_its_thread_holds(store_path):
    run_python(
        """
        import os, signal, sys, threading
        from agentmem import ClosedError, Memory
        from agentmem.testing import HashEmbedder

        signal.alarm(60)
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        memory.add("first", user_id="ana")
        signal.signal(signal.SIGTERM, lambda *_: memory.close())

        class Interrupted(dict):
            def values(self):
                signal.raise_signal(signal.SIGTERM)  # Under the lock of the collector, which closing takes.
                return super().values()

        memory._engine.embedder._collector._arriving = Interrupted()
        try:
            memory.add("second", user_id="ana")
        except ClosedError:
            pass
        for thread in threading.enumerate():
            if thread.name == "agentmem-closer":
                thread.join(30)
        try:
            memory.count(user_id="ana")
        except ClosedError:
            print("closed")
        """,
        store_path,
    )
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []


def test_a_signal_handler_that_strikes_outside_of_a_call_has_closed_when_it_returns(store_path):
    memory = Memory(store_path, embedder=HashEmbedder())
    memory.add("tea", user_id="ana")
    before = signal.signal(signal.SIGUSR1, lambda *_: memory.close())
    try:
        signal.raise_signal(signal.SIGUSR1)
        assert our_threads() == []
        with pytest.raises(ClosedError):
            memory.count(user_id="ana")
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_every_public_call_is_known_as_one_that_holds_locks():
    for name, call in inspect.getmembers(Memory, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            assert call.__code__ in signals._holding, name


def test_whether_a_handler_strikes_amid_a_call_is_right_after_an_error_between_any_two_instructions(memory):
    """A counter would stay too high, and later closes would return before they have closed."""
    left = 0
    amid: set[bool] = set()

    def trace(frame, event, _):
        nonlocal left
        frame.f_trace_opcodes = frame.f_code.co_filename.endswith(("memory.py", "reader.py", "engine.py", "signals.py"))
        if event == "opcode":
            left -= 1
            if left == 0:
                sys.settrace(None)
                amid.add(signals.is_amid_locks())
                raise KeyboardInterrupt
        return trace

    struck, step = 0, 23
    while True:
        struck += step
        left = struck
        sys.settrace(trace)
        try:
            memory.count(user_id="ana")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert not signals.is_amid_locks()
        if left > 0:
            break
    assert struck >= 10 * step
    assert amid == {True}


@pytest.mark.slow
def test_closing_in_an_exit_handler_of_the_application_ends_what_its_threads_still_do(store_path):
    run_python(
        """
        import atexit, sys, threading
        from agentmem import ClosedError, Memory
        from agentmem.testing import HashEmbedder

        memory = Memory(sys.argv[1], embedder=HashEmbedder())

        def work():
            number = 0
            while True:
                try:
                    memory.add(f"text {number}", user_id="ana", defer=bool(number % 2))
                except ClosedError:
                    return
                number += 1

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        atexit.register(lambda: [thread.join(30) for thread in threads])
        atexit.register(memory.close)
        for thread in threads:
            thread.start()
        memory.add("main", user_id="ana")
        """,
        store_path,
    )
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
