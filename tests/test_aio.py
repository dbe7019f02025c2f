"""The calls for coroutines: none is missing, cancelling leaves nothing behind, and every loop may share a memory."""

import asyncio
import inspect
import threading

import pytest

from agentmem import ClosedError, InvalidInputError, Memory, ScopedMemory, StoreOpenError
from agentmem.aio import AsyncMemory, AsyncScopedMemory
from agentmem.testing import HashEmbedder
from tests.conftest import our_threads


@pytest.fixture
def run():
    """Runs a coroutine function with an AsyncMemory, which is healthy and closed at the end."""

    def run(work, **arguments):
        async def main():
            async with AsyncMemory(":memory:", embedder=HashEmbedder(), **arguments) as memory:
                result = await work(memory)
                assert await memory.check() == []
                return result

        return asyncio.run(main())

    yield run
    assert our_threads() == []


@pytest.mark.parametrize(("owner", "source"), [(AsyncMemory, Memory), (AsyncScopedMemory, ScopedMemory)])
def test_no_call_is_missing_and_each_has_the_signature_and_text_of_its_original(owner, source):
    calls = {name for name, _ in inspect.getmembers(source, inspect.isfunction) if not name.startswith("_")}
    assert len(calls) > 15
    for name in calls - {"scope", "close"}:
        call = getattr(owner, name)
        assert inspect.iscoroutinefunction(call)
        assert inspect.signature(call) == inspect.signature(getattr(source, name))
        assert call.__doc__ == getattr(source, name).__doc__
    assert {name for name in dir(owner) if not name.startswith("_")} == calls | {"records"}


def test_calls_are_awaited_and_views_cannot_reach_outside(run):
    async def work(memory):
        await memory.add("Prefers window seats", user_id="ana")
        ana = memory.scope(user_id="ana")
        await ana.add_batch([f"fact {number}" for number in range(25)])
        await ana.scope(run_id="1").add("of a run")
        assert [match.content for match in await ana.search("window seats", limit=1)] == ["Prefers window seats"]
        assert str(await ana.context("window"))
        assert [record.content async for record in ana.records(limit=10, run_id="1")] == ["of a run"]
        assert len([record async for record in memory.records(user_id="ana", limit=10)]) == 27
        with pytest.raises(InvalidInputError, match="outside this scope"):
            await ana.count(user_id="ben")
        with pytest.raises(InvalidInputError, match="No owner"):
            await memory.search("x")
        with pytest.raises(AttributeError, match="no call 'find'"):
            memory.find  # noqa: B018
        return await memory.count(user_id="ana")

    assert run(work) == 27


def test_a_thousand_adds_at_once_share_commits(run):
    async def work(memory):
        await asyncio.gather(*(memory.add(f"fact {number}", user_id="ana") for number in range(1000)))
        assert len([name for name in our_threads() if name.startswith("agentmem-aio")]) <= 9
        return await memory.count(user_id="ana")

    assert run(work, threads=8) == 1000


def test_a_cancelled_call_that_waits_for_a_thread_is_never_made(run):
    async def work(memory):
        blocked, go = threading.Event(), threading.Event()

        def block():
            blocked.set()
            go.wait(30)

        running = asyncio.ensure_future(memory._pool.run(block))
        while not blocked.is_set():
            await asyncio.sleep(0)
        adds = [asyncio.ensure_future(memory.add(f"fact {number}", user_id="ana")) for number in range(20)]
        await asyncio.sleep(0)
        for add in adds:
            add.cancel()
        # A call leaves the pool's queue when the loop next runs, before its coroutine goes on.
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*adds, return_exceptions=True)
        )
        go.set()
        await running
        return await memory.count(user_id="ana")

    assert run(work, threads=1) == 0


def test_several_loops_share_a_memory_and_a_closed_one_refuses(store_path):
    memory = AsyncMemory(store_path, embedder=HashEmbedder())
    loops = [threading.Thread(target=lambda: asyncio.run(memory.add("tea", user_id="ana"))) for _ in range(4)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert asyncio.run(memory.count(user_id="ana")) == 4
    asyncio.run(memory.close())
    asyncio.run(memory.close())
    for call in (lambda: memory.count(user_id="ana"), lambda: memory.scope(user_id="ana").count()):
        with pytest.raises(ClosedError):
            asyncio.run(call())
    assert our_threads() == []


def test_what_opening_raises_the_first_call_does(tmp_path):
    memory = AsyncMemory(tmp_path)
    with pytest.raises(StoreOpenError):
        asyncio.run(memory.count(user_id="ana"))
    asyncio.run(memory.close())
    for threads in (0, True, 1.5):
        with pytest.raises(InvalidInputError, match="threads"):
            AsyncMemory(":memory:", threads=threads)
    assert our_threads() == []
