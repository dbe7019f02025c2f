"""Many threads, interrupts, hanging and failing models, ends and beginnings."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from agentmem import (
    AgentMemError,
    ClosedError,
    Config,
    DeadlineError,
    EmbeddingError,
    Memory,
    OverloadedError,
    Record,
)
from agentmem.embedding import collector
from agentmem.embedding.catalog import find_model
from agentmem.embedding.onnx_model import Model
from agentmem.testing import HashEmbedder
from tests.children import run_python
from tests.conftest import our_threads, wait_for_our_threads

SECONDS = 30


class Scripted(HashEmbedder):
    """A HashEmbedder that counts, and does something else on texts with certain words."""

    def __init__(self, **tricks: Callable[[np.ndarray], Any]) -> None:
        super().__init__()
        self.tricks = tricks
        self.runs: list[list[str]] = []

    @property
    def texts(self) -> list[str]:
        return [text for run in self.runs for text in run]

    def embed(self, texts):
        self.runs.append(list(texts))
        vectors = super().embed(texts)
        for word, trick in self.tricks.items():
            if any(word in text for text in texts):
                vectors = trick(vectors)
        return vectors


class Gate:
    """As a trick: says that it was entered and holds the run until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, vectors):
        self.entered.release()
        assert self.open.wait(SECONDS)
        return vectors

    def wait_until_entered(self) -> None:
        assert self.entered.acquire(timeout=SECONDS), "the run never began"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def raising(error: BaseException) -> Callable[[np.ndarray], Any]:
    def trick(_vectors):
        raise error

    return trick


def outcomes(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returned or raised, all of them begun at the same time by a thread each."""
    start = threading.Barrier(len(calls))

    def attempt(call: Callable[[], Any]) -> Any:
        start.wait(SECONDS)
        try:
            return call()
        except AgentMemError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(attempt, calls))


# -- the model ----------------------------------------------------------------------------------------------------


def test_other_threads_run_python_while_the_model_runs(model_memory, monkeypatch):
    """While a run is inside the session, another thread counts to a number that it cannot reach if the run holds the
    GIL: with an endless switch interval a thread is never asked to let go of it, so that only the run itself can."""
    began = threading.Lock()
    began.acquire()
    goal, progress, seen = 100_000, [0], []
    original = Model.run

    def instrumented(self: Model, items: Any) -> Any:
        session = self._session
        if len(items[0]) < 100:
            return original(self, items)

        class Watched:
            def run(self, *arguments: Any) -> Any:
                began.release()
                outputs = session.run(*arguments)
                seen.append(progress[0])
                return outputs

        monkeypatch.setattr(self, "_session", Watched())
        try:
            return original(self, items)
        finally:
            monkeypatch.setattr(self, "_session", session)

    monkeypatch.setattr(Model, "run", instrumented)
    model_memory.add("load the model", user_id="ana")

    def count() -> None:
        assert began.acquire(timeout=SECONDS)
        while progress[0] < goal:
            progress[0] += 1

    counting = threading.Thread(target=count)
    counting.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        model_memory.add("a long text about nothing in particular " * 60, user_id="ana")
        counting.join(SECONDS)
    finally:
        sys.setswitchinterval(interval)
    assert seen == [goal]


@pytest.mark.slow
def test_64_threads_never_get_one_anothers_vectors(store_path):
    with Memory(store_path) as memory:

        def work(thread: int) -> None:
            for number in range(4):
                text = f"thread {thread} remembers the number {number} " + "and goes on " * (thread % 7)
                memory.add(text, user_id="ana", agent_id=f"agent-{thread % 5}")
                [match] = memory.search(text, user_id="ana", limit=1, mode="vector")
                assert match.record.content == text
                assert match.score == pytest.approx(1, abs=5e-3)

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(work, range(64)))
        assert memory.count(user_id="ana") == 256
        memory.flush()
        assert memory.check() == []
        assert memory.stats().embedding.batches < memory.stats().embedding.texts
    assert our_threads() == []
    expect_own_vectors(store_path, "minilm-mixed", 256)


@pytest.mark.slow
def test_a_model_that_reads_whole_batches_gives_every_text_its_own_vector(store_path):
    with Memory(store_path, model="minilm-static") as memory:

        def work(thread: int) -> None:
            for number in range(8):
                memory.add(f"thread {thread} says {number} " + "and so on " * (number * thread), user_id="ana")

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(work, range(32)))
        assert memory.check() == []
        assert memory.stats().embedding.batches < memory.stats().embedding.texts
        assert memory.stats().embedding.workers == 1
    expect_own_vectors(store_path, "minilm-static", 256)


def expect_own_vectors(path: Path, name: str, count: int) -> None:
    """The store holds that many texts, each with the vector that it gets when it is tokenised and run alone."""
    model = Model(find_model(name), ["CPUExecutionProvider"])
    connection = apsw.Connection(str(path))
    rows = connection.execute("SELECT content, data FROM memory JOIN vector ON vector.key = vector_key").fetchall()
    connection.close()
    assert len(rows) == count
    for content, data in rows:
        [(item, _)] = model.prepare([content])
        [alone] = model.run([item])
        stored = np.frombuffer(data, "<f2").astype(np.float32)
        assert float(stored @ alone / np.linalg.norm(alone)) > 0.999


@pytest.mark.slow
def test_64_threads_add_and_search_several_owners_at_once(memory):
    def work(thread: int) -> None:
        owner = f"user-{thread % 8}"
        for number in range(10):
            text = f"{owner} thread {thread} fact {number}"
            record = memory.add(text, user_id=owner)
            assert memory.get(record.id) == record
            [match] = memory.search(text, user_id=owner, limit=1, mode="vector")
            assert match.record == record
            if number % 3 == 0:
                assert memory.delete(record.id)
                assert all(match.record != record for match in memory.search(text, user_id=owner))

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(work, range(64)))
    for owner in range(8):
        assert memory.count(user_id=f"user-{owner}") == 48
        assert all(match.record.user_id == f"user-{owner}" for match in memory.search("fact", user_id=f"user-{owner}"))


# -- a failing embedder -------------------------------------------------------------------------------------------


def wide(vectors):
    return np.hstack([vectors, vectors])


@pytest.mark.parametrize(
    ("trick", "named"),
    [
        (raising(ValueError("no such word")), "ValueError: no such word"),
        (raising(MemoryError()), "MemoryError"),
        (lambda vectors: vectors * np.nan, "not finite"),
        (lambda vectors: vectors * 0, "zero"),
        (lambda vectors: vectors + np.inf, "not finite"),
        (wide, "shape"),
        (lambda vectors: vectors[:-1], "shape"),
        (lambda _vectors: None, "shape"),
        (lambda vectors: [[str(vectors)]], "shape"),
        (lambda vectors: vectors.astype(object).astype(str).astype(object) + "x", "ValueError"),
    ],
)
def test_a_poisonous_text_among_a_hundred_harms_only_itself(open_memory, trick, named):
    memory = open_memory(embedder=Scripted(poison=trick))
    texts = [f"good text {number}" for number in range(99)]
    texts.insert(57, "poison")
    results = memory.add_batch(texts, user_id="ana", on_error="return")
    assert [type(result) for result in results] == [Record] * 57 + [EmbeddingError] + [Record] * 42
    assert named in str(results[57])
    answers = outcomes([lambda text=text: memory.add(text, user_id="ben") for text in ("poison", *texts[:20])])
    assert [type(answer) for answer in answers] == [EmbeddingError] + [Record] * 20
    assert memory.count(all_scopes=True) == 119
    assert memory.stats().store.vectors == 99 + 20  # Of ana and ben, without a common memory.
    assert memory.search("good text 7", user_id="ana")[0].record.content == "good text 7"


@pytest.mark.parametrize(
    "trick", [lambda vectors: vectors.astype(np.float64), lambda vectors: vectors.astype(np.float16),
              lambda vectors: vectors.tolist(),
              lambda vectors: vectors * 1e3, lambda vectors: np.asfortranarray(vectors)]
)  # fmt: skip
def test_another_kind_of_numbers_is_taken_as_long_as_they_are_numbers(open_memory, trick):
    memory = open_memory(embedder=Scripted(odd=trick))
    memory.add_batch(["odd one", "odd two", "even"], user_id="ana")
    assert memory.search("odd two", user_id="ana")[0].record.content == "odd two"
    assert memory.search("odd two", user_id="ana", mode="vector")[0].score == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("raw")])
def test_a_worker_hit_by_what_ends_programs_goes_on(open_memory, error):
    memory = open_memory(embedder=Scripted(poison=raising(error)))
    for number in range(3):
        with pytest.raises(EmbeddingError, match=type(error).__name__):
            memory.add(f"poison {number}", user_id="ana")
        assert memory.add(f"good {number}", user_id="ana").user_id == "ana"
    assert memory.count(user_id="ana") == 3


def test_a_failure_is_not_remembered(open_memory):
    embedder = Scripted(flaky=raising(OSError("network down")))
    memory = open_memory(embedder=embedder)
    with pytest.raises(EmbeddingError, match="network down"):
        memory.add("flaky", user_id="ana")
    embedder.tricks.clear()
    assert memory.add("flaky", user_id="ana").content == "flaky"


# -- waiting ------------------------------------------------------------------------------------------------------


def test_who_waits_too_long_is_told_and_others_go_on(open_memory, gate):
    memory = open_memory(embedder=Scripted(hang=gate))
    memory.add("stored", user_id="ana")
    for call in (
        lambda: memory.add("hang 1", user_id="ana", timeout=0.02),
        lambda: memory.add_batch(["hang 2", "hang 3"], user_id="ana", timeout=0.02),
        lambda: memory.search("hang 4", user_id="ana", timeout=0.02),
        lambda: memory.add("hang 5", user_id="ana", timeout=0),
    ):
        with pytest.raises(DeadlineError, match=r"0(\.02)? seconds"):
            call()
    assert memory.add("goes on", user_id="ana").content == "goes on"
    assert memory.search("goes on", user_id="ana")[0].record.content == "goes on"
    assert memory.count(user_id="ana") == 2
    gate.open.set()
    assert memory.add("hang 1", user_id="ana").content == "hang 1"
    assert memory.count(user_id="ana") == 3
    assert memory.check() == []
    memory.close()
    wait_for_our_threads()


def test_the_timeout_of_the_configuration_holds_where_the_call_names_none(store_path, gate):
    memory = Memory(store_path, embedder=Scripted(hang=gate), config=Config(timeout=0.02))
    with pytest.raises(DeadlineError):
        memory.add("hang", user_id="ana")
    assert memory.count(user_id="ana") == 0
    gate.open.set()
    memory.close()
    wait_for_our_threads()


def test_a_full_queue_refuses_after_the_timeout(open_memory, gate):
    memory = open_memory(embedder=Scripted(hang=gate), config=Config(queue_tokens=5))
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(memory.add, "hang", user_id="ana")
        gate.wait_until_entered()
        waiting = pool.submit(memory.add, "waits in line now", user_id="ana")
        while memory.stats().embedding.waiting_texts == 0:
            assert not waiting.done()
        with pytest.raises(OverloadedError, match=r"Config\.queue_tokens"):
            memory.add("one more than fits", user_id="ana", timeout=0.02)
        assert memory.stats().embedding.waiting_texts == 1
        gate.open.set()
        assert [running.result(SECONDS).content, waiting.result(SECONDS).content] == ["hang", "waits in line now"]
    assert memory.count(user_id="ana") == 2
    assert memory.add("one more than fits", user_id="ana").user_id == "ana"


def test_a_store_whose_first_memories_still_wait_for_their_vectors_is_healthy(open_memory, gate):
    memory = open_memory(embedder=Scripted(hang=gate))
    memory.add("hang", user_id="ana", defer=True)
    gate.wait_until_entered()
    assert memory.check() == []
    gate.open.set()
    memory.flush()
    assert memory.check() == []


def test_close_during_a_run_answers_everyone_truly(store_path, gate):
    memory = Memory(store_path, embedder=Scripted(hang=gate))
    stored = memory.add("stored", user_id="ana")

    def attempt(text: str) -> Record | AgentMemError:
        try:
            return memory.add(text, user_id="ana")
        except AgentMemError as error:
            return error

    with ThreadPoolExecutor(12) as pool:
        running = pool.submit(attempt, "hang")
        gate.wait_until_entered()
        waiting = [pool.submit(attempt, f"waits {number}") for number in range(10)]
        while memory.stats().embedding.waiting_texts < 10:
            pass
        closing = pool.submit(memory.close)
        assert {type(each.result(SECONDS)) for each in waiting} == {ClosedError}
        gate.open.set()
        closing.result(SECONDS)
        outcome = running.result(SECONDS)
    assert our_threads() == []
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        kept = {record.id for record in memory.get_all(user_id="ana")}
        assert kept == {stored.id} | ({outcome.id} if isinstance(outcome, Record) else set())
        assert isinstance(outcome, Record | ClosedError)
        assert memory.check() == []


def test_close_does_not_wait_for_ever_for_a_run_that_hangs(store_path, gate, monkeypatch):
    monkeypatch.setattr(collector, "CLOSE_WAIT_SECONDS", 0.02)
    memory = Memory(store_path, embedder=Scripted(hang=gate))
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(memory.add, "hang", user_id="ana")
        gate.wait_until_entered()
        memory.close()
        assert isinstance(hanging.exception(SECONDS), ClosedError)
    gate.open.set()
    wait_for_our_threads()
    assert our_threads() == []
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.count(user_id="ana") == 0


@pytest.mark.slow
def test_an_interrupt_ends_the_waiting_call_and_nothing_else(tmp_path):
    run_python(
        """
        import os, signal, sys, threading
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        entered, release = threading.Event(), threading.Event()

        class Slow(HashEmbedder):
            def embed(self, texts):
                if any("slow" in text for text in texts):
                    entered.set()
                    assert release.wait(30)
                return super().embed(texts)

        armed = [False]

        def strike(*_):
            if armed[0]:
                armed[0] = False
                raise KeyboardInterrupt

        def interrupt():
            assert entered.wait(30)
            entered.clear()
            while armed[0]:  # One that comes just before a thread goes to sleep is only seen when it wakes up.
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait(0.02)

        signal.signal(signal.SIGINT, strike)

        memory = Memory(sys.argv[1], embedder=Slow())
        for call in (
            lambda: memory.add("slow one", user_id="ana"),
            lambda: memory.add_batch(["slow two", "fast"], user_id="ana"),
            lambda: memory.search("slow three", user_id="ana"),
        ):
            armed[0] = True
            thread = threading.Thread(target=interrupt)
            thread.start()
            try:
                call()
            except KeyboardInterrupt:
                thread.join()
            else:
                raise SystemExit("not interrupted")
            assert memory.count(user_id="ana") == 0
        release.set()
        assert memory.add("fast again", user_id="ana").content == "fast again"
        assert memory.count(user_id="ana") == 1
        assert memory.check() == []
        memory.close()
        """,
        tmp_path / "store.db",
    )


@pytest.mark.slow
def test_interrupts_of_one_thread_at_any_moment_harm_no_other(tmp_path):
    run_python(
        """
        import os, random, signal, sys, threading
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        acknowledged, failures = [], []
        stop = threading.Event()
        recovered = [False]  # Not an Event, whose lock an interrupt may leave locked.

        def work(thread):
            chance = random.Random(thread)
            for number in range(1_000_000):
                if stop.is_set():
                    return
                try:
                    acknowledged.append(memory.add(f"thread {thread} number {number}", user_id="ana", timeout=20).id)
                except BaseException as error:
                    failures.append(error)
                    stop.set()
                if recovered[0] and chance.random() < 0.1:
                    recovered[0] = False
                    os.kill(os.getpid(), signal.SIGINT)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()
        interrupts = number = 0
        while interrupts < 150 and not stop.is_set():
            try:
                while not stop.is_set():
                    number += 1
                    acknowledged.append(memory.add(f"main {number}", user_id="ana", timeout=20).id)
                    recovered[0] = True
            except KeyboardInterrupt:
                interrupts += 1
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures, failures
        stored = {record.id for record in memory.get_all(user_id="ana", limit=1_000_000)}
        assert set(acknowledged) <= stored
        assert len(stored) <= len(acknowledged) + interrupts
        assert memory.check() == []
        memory.close()
        """,
        tmp_path / "store.db",
    )


# -- nothing twice ------------------------------------------------------------------------------------------------


def test_a_text_that_twenty_threads_add_at_once_is_embedded_once(open_memory, gate):
    embedder = Scripted(same=gate)
    memory = open_memory(embedder=embedder, config=Config(workers=4))
    with ThreadPoolExecutor(20) as pool:
        adding = [pool.submit(memory.add, "the same text", user_id="ana") for _ in range(20)]
        gate.wait_until_entered()
        while memory.stats().embedding.coalesced < 19:  # One that came after the commit would be embedded anew.
            assert not any(each.done() for each in adding)
        gate.open.set()
        records = [each.result(SECONDS) for each in adding]
    assert len({record.id for record in records}) == 20
    assert embedder.texts == ["the same text"]
    assert memory.stats().store.vectors == 1


def test_a_text_seen_before_is_not_embedded_again_not_even_by_another_memory(open_memory):
    first, second, third = Scripted(), Scripted(), Scripted()
    memory = open_memory(embedder=first)
    memory.add("tea", user_id="ana")
    memory.add_batch(["tea", "tea", "coffee"], user_id="ana")
    memory.search("tea", user_id="ana")
    assert first.texts == ["tea", "coffee"]
    other = open_memory(embedder=second)
    other.add("tea", user_id="ana")
    assert other.search("coffee", user_id="ana")[0].record.content == "coffee"
    assert second.texts == []
    memory.close()
    other.close()
    again = open_memory(embedder=third)
    again.add_batch(["coffee", "tea", "water"], user_id="ana")
    assert third.texts == ["water"]
    assert again.stats().embedding.store_hits == 2


# -- beginnings and ends ------------------------------------------------------------------------------------------


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_thousand_memories_opened_used_and_closed_leave_nothing_behind():
    threads, files, used = threading.active_count(), 0, 0
    for number in range(1000):
        with Memory(":memory:", embedder=HashEmbedder()) as memory:
            memory.add(f"text {number}", user_id="ana")
            assert len(memory.search("text", user_id="ana")) == 1
        assert our_threads() == []
        if number == 200:
            gc.collect()
            files, used = len(os.listdir("/proc/self/fd")), rss_bytes()  # noqa: PTH208
    gc.collect()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= files  # noqa: PTH208
    assert rss_bytes() - used < 30_000_000


def test_memories_that_nobody_closes_are_closed_when_they_are_thrown_away(tmp_path):
    for number in range(20):
        Memory(tmp_path / f"{number}.db", embedder=HashEmbedder()).add("text", user_id="ana")
    gc.collect()
    wait_for_our_threads()  # They close aside: a memory may be collected on any thread, amid anything.
    assert our_threads() == []
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".db"] * 20


@pytest.mark.slow
def test_threads_that_outlive_the_main_thread_go_on_remembering(tmp_path):
    output = run_python(
        """
        import sys, threading
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        memory = Memory(sys.argv[1], embedder=HashEmbedder())

        def work():
            threading.main_thread().join()
            for number in range(20):
                memory.add(f"text {number}", user_id="ana", timeout=20)
                assert memory.search(f"text {number}", user_id="ana", timeout=20)
            print(memory.count(user_id="ana"))

        threading.Thread(target=work).start()
        """,
        tmp_path / "store.db",
    )
    assert output == "20\n"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "memory.close()", "del memory", "os._exit(0)"])
def test_a_process_may_end_in_any_way_and_its_memories_stay(tmp_path, end):
    run_python(
        f"""
        import os, sys
        from agentmem import Memory
        memory = Memory(sys.argv[1])
        memory.add("stays", user_id="ana")
        memory.add("stays too", user_id="ana", defer=True)
        {end}
        """,
        tmp_path / "store.db",
    )
    with Memory(tmp_path / "store.db") as memory:
        assert {match.record.content for match in memory.search("stays", user_id="ana")} == {"stays", "stays too"}
        assert memory.check() == []


# -- forks --------------------------------------------------------------------------------------------------------

FORKS = """
    import faulthandler, os, signal, sys, threading, traceback, warnings
    from concurrent.futures import ThreadPoolExecutor
    from agentmem import ClosedError, Memory
    from agentmem.testing import HashEmbedder
    faulthandler.register(signal.SIGALRM, chain=True)  # Who hangs tells where, and dies.
    signal.alarm(60)
    warnings.simplefilter("ignore", DeprecationWarning)  # Newer Pythons warn of forks; this is about surviving them.
    path, model = sys.argv[1:]
    source = {"model": "all-MiniLM-L6-v2"} if model == "model" else {"embedder": HashEmbedder()}

    def in_child(work):
        pid = os.fork()
        if pid:
            return pid
        signal.alarm(45)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def await_child(pid):
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    memory = Memory(path, **source)
    memory.add("the parent was here first", user_id="ana")
    memory.search("parent", user_id="ana")
"""


def run_forks(code: str, path: Path, model: str) -> None:
    import textwrap

    run_python(textwrap.dedent(FORKS) + textwrap.dedent(code), path, model)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hash", "model"])
def test_parent_and_children_of_a_fork_go_on_with_the_same_memory(tmp_path, model):
    run_forks(
        """
        def work():
            assert memory.search("the parent was here first", user_id="ana", mode="vector")[0].score > 0.99
            memory.add(f"child {os.getpid()} adds", user_id="ana")
            memory.add(f"child {os.getpid()} defers", user_id="ana", defer=True)
            assert len(memory.search(f"child {os.getpid()} adds", user_id="ana", limit=100)) >= 3
            grandchild = in_child(lambda: memory.add(f"grandchild {os.getpid()}", user_id="ana"))
            await_child(grandchild)
            memory.close()
            try:
                memory.count(user_id="ana")
            except ClosedError:
                return
            raise AssertionError("not closed")

        children = [in_child(work) for _ in range(3)]
        memory.add("the parent goes on", user_id="ana")
        for child in children:
            await_child(child)
        memory.add("the parent saw them", user_id="ana")
        assert memory.count(user_id="ana") == 3 + 3 * 3
        assert len(memory.search("child", user_id="ana", limit=100)) == 12
        assert memory.check() == []
        memory.close()
        """,
        tmp_path / "store.db",
        model,
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hash", "model"])
def test_a_fork_in_the_middle_of_everything_hangs_nobody(tmp_path, model):
    run_forks(
        """
        stop = threading.Event()

        def keep_busy(thread):
            number = 0
            while not stop.is_set():
                record = memory.add(f"thread {thread} number {number}", user_id=f"user {thread}")
                assert memory.search(f"thread {thread}", user_id=f"user {thread}", limit=1)
                number += 1
                if number % 5 == 0:
                    memory.delete(record.id)

        def work():
            with ThreadPoolExecutor(6) as pool:  # All at once: the first use in the child is a race of its threads.
                texts = [f"child {os.getpid()} thread {number}" for number in range(6)]
                records = list(pool.map(lambda text: memory.add(text, user_id="children"), texts))
                assert len({record.id for record in records}) == 6
            for text in texts:
                assert memory.search(text, user_id="children", limit=1)[0].record.content == text

        with ThreadPoolExecutor(6) as pool:
            busy = [pool.submit(keep_busy, thread) for thread in range(6)]
            for _ in range(8):
                await_child(in_child(work))
            stop.set()
            for each in busy:
                each.result(30)
        assert memory.count(user_id="children") == 48
        assert memory.check() == []
        memory.close()
        """,
        tmp_path / "store.db",
        model,
    )


@pytest.mark.slow
def test_the_first_use_in_a_child_may_come_from_many_threads_at_once(tmp_path):
    run_forks(
        """
        def work():
            sys.setswitchinterval(1e-6)
            together = threading.Barrier(8)

            def use(number):
                together.wait(30)
                record = memory.add(f"child {os.getpid()} thread {number}", user_id="ana")
                assert memory.get(record.id) == record
                assert memory.search(record.content, user_id="ana", limit=1)[0].record == record

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(use, range(8)))

        for number in range(25):
            await_child(in_child(work))
            assert memory.count(user_id="ana") == 1 + 8 * (number + 1)
        assert memory.check() == []
        """,
        tmp_path / "store.db",
        "hash",
    )


@pytest.mark.slow
def test_several_threads_may_fork_at_the_same_time(tmp_path):
    run_forks(
        """
        other = Memory(path + ".other", embedder=HashEmbedder())

        sys.setswitchinterval(1e-6)

        def fork_often(thread):
            for number in range(30):
                await_child(in_child(lambda: None if number % 10 else memory.add(f"child of {thread}", user_id="ana")))
                if number % 10 == 0:
                    memory.add(f"thread {thread} number {number}", user_id="ana")
                    other.add(f"thread {thread} number {number}", user_id="ana")

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(fork_often, range(6)))
        assert memory.count(user_id="ana") == 1 + 6 * 3 * 2
        assert other.count(user_id="ana") == 18
        assert memory.check() == other.check() == []
        """,
        tmp_path / "store.db",
        "hash",
    )


@pytest.mark.slow
def test_a_memory_in_ram_stays_with_its_process(tmp_path):
    run_forks(
        """
        ram = Memory(":memory:", embedder=HashEmbedder())
        ram.add("tea", user_id="ana")

        def work():
            for call in (lambda: ram.add("x", user_id="ana"), lambda: ram.search("tea", user_id="ana"), ram.check):
                try:
                    call()
                except ClosedError as error:
                    assert "open a new Memory" in str(error)
                else:
                    raise AssertionError("went on")
            ram.close()
            with Memory(":memory:", embedder=HashEmbedder()) as fresh:
                fresh.add("coffee", user_id="ana")
                assert fresh.count(user_id="ana") == 1

        await_child(in_child(work))
        ram.add("more tea", user_id="ana")
        assert ram.count(user_id="ana") == 2
        """,
        tmp_path / "store.db",
        "hash",
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_processes_of_multiprocessing_share_a_store(tmp_path, method):
    script = tmp_path / "pooled.py"
    script.write_text(
        """
import faulthandler, multiprocessing, signal, sys, warnings
from agentmem import Memory
from agentmem.testing import HashEmbedder

faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(60)
warnings.simplefilter("ignore", DeprecationWarning)

def work(number):
    with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
        memory.add(f"process says {number}", user_id="ana")
        return memory.search(f"process says {number}", user_id="ana")[0].record.content

if __name__ == "__main__":
    memory = Memory(sys.argv[1], embedder=HashEmbedder())
    memory.add("parent", user_id="ana")
    with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
        assert pool.map(work, range(8)) == [f"process says {number}" for number in range(8)]
        pool.close()
        pool.join()
    assert memory.count(user_id="ana") == 9
    memory.add("parent again", user_id="ana")
    memory.close()
"""
    )
    run_python("import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
               script, tmp_path / "store.db", method)  # fmt: skip
