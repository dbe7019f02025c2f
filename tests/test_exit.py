"""How a process ends: whatever was not closed, hangs, or still works, it ends, and nothing acknowledged is lost."""

import gc
import threading

import pytest
from children import run_python
from conftest import our_threads

from agentmem import ClosedError, Memory
from agentmem.testing import HashEmbedder


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
    assert open_memory(model="all-MiniLM-L6-v2").count(user_id="ana") == 1


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
    assert open_memory(model="all-MiniLM-L6-v2").count(user_id="ana") == 81


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
    writes = memory._engine.store.writes
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
