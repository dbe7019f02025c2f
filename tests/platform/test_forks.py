"""Servers fork, with Python's hooks and without, whatever the other threads are doing.

The child works, the parent continues, nothing hangs, and neither takes the other's locks or log away.
"""

import signal
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentmem import Memory
from agentmem.testing import HashEmbedder
from tests.children import run_python
from tests.servers import gunicorn

WITHOUT_HOOKS = """
    import ctypes, faulthandler, os, signal, sys, threading
    from agentmem import Memory, StoreError
    from agentmem.testing import HashEmbedder
    faulthandler.register(signal.SIGALRM, all_threads=False, chain=True)  # Who hangs tells where, and dies.
    signal.alarm(60)
    path, form = sys.argv[1:]

    def fork():
        # The C function, as servers written in C call it; the GIL is kept, or the child may wait for it for ever.
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            signal.alarm(45)
            if form == "told afterwards":
                ctypes.pythonapi.PyOS_AfterFork_Child()
        return pid

    with Memory(path, embedder=HashEmbedder()) as memory:
        memory.add("parent defers", user_id="ana", defer=True)
        memory.flush()
    memory = Memory(path, embedder=HashEmbedder())  # Nothing goes on in its background.
    memory.add("parent", user_id="ana")
    assert len(memory.search("parent", user_id="ana")) == 2
"""


def run_without_hooks(code: str, path: Path, form: str = "never told") -> str:
    return run_python(textwrap.dedent(WITHOUT_HOOKS) + textwrap.dedent(code), path, form)


TOLD_AFTERWARDS = pytest.param(
    "told afterwards",
    marks=pytest.mark.skipif(
        sys.version_info >= (3, 13),
        reason="since 3.13, Python aborts a child told of a fork that it did not prepare",
    ),
)


@pytest.fixture(params=["never told", TOLD_AFTERWARDS])
def form(request):
    """uWSGI tells Python of a fork in the child, afterwards, if asked to (`py-call-osafterfork`), else never."""
    return request.param


@pytest.mark.slow
def test_without_fork_hooks_the_child_works_the_parent_goes_on_and_each_sees_the_other(store_path, form):
    run_without_hooks(
        """
        here, there = os.pipe(), os.pipe()
        child = fork()
        if not child:
            assert memory.search("parent", user_id="ana", mode="vector", limit=1)[0].record.content == "parent"
            memory.add("child", user_id="ana")
            memory.add("child defers", user_id="ana", defer=True)
            os.write(here[1], b"x")
            os.read(there[0], 1)
            assert len(memory.search("parent child", user_id="ana")) == 5
            memory.close()
            sys.exit(3)
        os.read(here[0], 1)
        memory.add("parent again", user_id="ana")
        assert memory.count(user_id="ana") == 5
        os.write(there[1], b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        memory.add("and again", user_id="ana")
        assert len(memory.search("parent child", user_id="ana")) == 6
        assert memory.check() == []
        memory.close()
        """,
        store_path,
        form,
    )


@pytest.mark.slow
def test_without_fork_hooks_a_parent_that_closes_does_not_take_the_log_from_under_its_child(store_path, form):
    run_without_hooks(
        """
        here, there = os.pipe(), os.pipe()
        child = fork()
        if not child:
            memory.add("child", user_id="ana")
            os.write(here[1], b"x")
            os.read(there[0], 1)
            assert os.path.exists(path + "-wal")
            memory.add("child after the parent has closed", user_id="ana")
            os._exit(0)  # As a crash: only what is in the files is left.
        os.read(here[0], 1)
        memory.close()
        os.write(there[1], b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with Memory(path, embedder=HashEmbedder()) as memory:
            assert memory.count(user_id="ana") == 4
            assert memory.check() == []
        """,
        store_path,
        form,
    )


@pytest.mark.slow
@pytest.mark.parametrize("end", ["sys.exit(0)", "memory.close()", "del memory; gc.collect()", "os._exit(0)"])
def test_without_fork_hooks_a_child_that_ends_takes_neither_locks_nor_log_from_its_parent(store_path, form, end):
    """Another process that opens and closes the file meanwhile would merge and delete the log, if the parent's locks
    were gone. The parent would then write into a file without a name."""
    run_without_hooks(
        f"""
        import gc, subprocess
        child = fork()
        if not child:
            {end}
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.path.exists(path + "-wal")
        code = (
            "import sys; from agentmem import Memory; from agentmem.testing import HashEmbedder;"
            "memory = Memory(sys.argv[1], embedder=HashEmbedder());"
            "memory.add('another process', user_id='ana'); memory.close()"
        )
        subprocess.run([sys.executable, "-c", code, path], check=True, timeout=60)
        assert os.path.exists(path + "-wal")
        memory.add("parent again", user_id="ana")
        assert memory.count(user_id="ana") == 4
        os._exit(0)
        """,
        store_path,
        form,
    )
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.count(user_id="ana") == 4
        assert memory.check() == []


@pytest.mark.slow
def test_without_fork_hooks_amid_a_transaction_the_child_is_told_and_the_parent_goes_on(store_path, form):
    run_without_hooks(
        """
        inside, go_on = threading.Event(), threading.Event()

        def hold(transaction):
            transaction.connection.execute("UPDATE memory SET role = 'changed'")
            inside.set()
            go_on.wait(30)

        thread = threading.Thread(target=memory._engine.store._writes.commit, args=(hold,))
        thread.start()
        inside.wait(30)
        child = fork()
        if not child:
            for attempt in (lambda: memory.count(user_id="ana"), lambda: memory.add("x", user_id="ana"),
                            lambda: Memory(path, embedder=HashEmbedder())):
                try:
                    attempt()
                except StoreError as error:
                    assert "forked in the middle of a transaction" in str(error)
                else:
                    raise AssertionError("went on")
            with Memory(path + ".other", embedder=HashEmbedder()) as other:
                other.add("other files are fine", user_id="ana")
            memory.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        go_on.set()
        thread.join(30)
        memory.add("parent again", user_id="ana")
        assert {record.role for record in memory.get_all(user_id="ana")} == {"changed", None}
        assert memory.check() == []
        """,
        store_path,
        form,
    )


BUSY = """
    import faulthandler, os, signal, sys, threading, traceback, warnings
    from concurrent.futures import ThreadPoolExecutor
    from agentmem import Memory
    from agentmem.testing import HashEmbedder
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(80)
    warnings.simplefilter("ignore", DeprecationWarning)
    memory = Memory(sys.argv[1], embedder=HashEmbedder())
    memory.add("here first", user_id="ana")
    stop, failures = threading.Event(), []

    def keep(work):
        number = 0
        while not stop.is_set():
            try:
                work(f"{threading.get_ident()} {number}")
            except BaseException as error:
                failures.append(traceback.format_exc())
            number += 1

    def child_works():
        signal.alarm(40)
        status = 1
        try:
            pid = os.getpid()
            memory.add(f"child {pid}", user_id="children")
            memory.add(f"child {pid} defers", user_id="children", defer=True)
            found = memory.search(f"child {pid}", user_id="children", limit=2, mode="vector")
            assert {match.record.content for match in found} == {f"child {pid}", f"child {pid} defers"}
            memory.flush()
            memory.close()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
"""


@pytest.mark.slow
def test_forks_go_through_while_many_threads_read_write_defer_and_close(store_path):
    """More readers than ever pause on their own: a fork must make a pause, or the child inherits their locks."""
    run_python(
        textwrap.dedent(BUSY)
        + textwrap.dedent(
            """
            def open_and_close(text):
                with Memory(sys.argv[1], embedder=HashEmbedder()) as another:
                    another.count(user_id="ana")

            works = [lambda text: memory.search("here first", user_id="ana", limit=1)] * 8
            works += [lambda text: memory.count(user_id="ana")] * 4
            works += [lambda text: memory.add(text, user_id="ben")] * 2
            works += [lambda text: memory.add(text, user_id="cleo", defer=True)] * 2
            works += [open_and_close]
            with ThreadPoolExecutor(len(works)) as pool:
                busy = [pool.submit(keep, work) for work in works]
                for _ in range(10):
                    pid = os.fork() or child_works()
                    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                stop.set()
            assert not failures, failures[0]
            memory.flush()
            assert memory.count(user_id="children") == 20
            assert memory.check() == []
            memory.close()
            """
        ),
        store_path,
    )


@pytest.mark.slow
def test_a_child_forked_while_its_parent_closes_ends_by_itself(store_path):
    """The child does not wait for locks of threads that it does not have: the closing lock, and the one of the
    indexes."""
    run_python(
        """
        import os, signal, sys, threading, warnings
        from agentmem import ClosedError, Memory
        from agentmem.testing import HashEmbedder
        warnings.simplefilter("ignore", DeprecationWarning)
        signal.alarm(60)
        entered, go_on = threading.Event(), threading.Event()

        class Slow(HashEmbedder):
            def embed(self, texts):
                if "slow" in texts:
                    entered.set()
                    go_on.wait(30)
                return super().embed(texts)

        memory = Memory(sys.argv[1], embedder=Slow())
        memory.add("first", user_id="ana")
        def add():
            try:
                memory.add("slow", user_id="ana")
            except ClosedError:
                pass
        adding = threading.Thread(target=add)
        adding.start()
        entered.wait(30)
        closing = threading.Thread(target=memory.close)
        closing.start()
        while not memory._engine._closing.locked():
            pass
        with memory._engine.index_cache._lock:
            pid = os.fork()
            if not pid:
                signal.alarm(30)
                threading.Thread(target=lambda: None).start()
                sys.exit(0)  # Closes what is open, too.
        status = os.waitpid(pid, 0)[1]
        go_on.set()
        adding.join(30)
        closing.join(30)
        assert os.waitstatus_to_exitcode(status) == 0
        """,
        store_path,
    )


# -- servers ------------------------------------------------------------------------------------------------------

APPLICATION = """
import os, sys
from agentmem import Memory
from agentmem.testing import HashEmbedder
from flask import Flask, request

application = Flask(__name__)
memory = Memory(os.environ["STORE"], embedder=HashEmbedder())
memory.add(f"application loaded by {os.getpid()}", user_id="loads")
memory.search("application", user_id="loads")

@application.post("/add")
def add():
    text = request.get_data(as_text=True)
    memory.add(text, user_id="ana", defer="defer" in request.args)
    found = memory.search(text, user_id="ana", limit=1, mode="vector")[0].record.content
    assert found == text, (found, text)
    return str(os.getpid())

@application.get("/count")
def count():
    return str(memory.count(user_id="ana"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("preload", [False, True])
def test_the_workers_of_gunicorn_share_a_store(tmp_path, preload):
    (tmp_path / "served.py").write_text(APPLICATION)
    store = tmp_path / "store.db"
    options = ["--preload"] if preload else []
    with gunicorn("served:application", tmp_path, *options, STORE=str(store)) as server:
        served: set[str] = set()
        number = 0
        with ThreadPoolExecutor(8) as pool:
            while len(served) < 2 or number < 80:
                assert number < 4000, "only one worker ever served"
                texts = range(number, number + 40)
                served |= set(
                    pool.map(lambda each: server.ask("POST", f"/add?{['', 'defer'][each % 2]}", f"text {each}"), texts)
                )
                number += 40
        assert {server.ask("GET", "/count") for _ in range(8)} == {str(number)}
        server.process.send_signal(signal.SIGHUP)  # The master starts new workers and lets the old ones go.
        assert server.ask("GET", "/count") == str(number)
    with Memory(store, embedder=HashEmbedder()) as memory:
        memory.flush()
        assert memory.count(user_id="ana") == number
        assert memory.check() == []
