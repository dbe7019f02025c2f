"""A Memory for coroutines: the same calls, each to be awaited.

    from agentmem.aio import AsyncMemory

    async def main():
        async with AsyncMemory("agent.db") as memory:
            await memory.add("Prefers window seats", user_id="ana")
            matches = await memory.search("where does she like to sit?", user_id="ana")
            async for record in memory.records(user_id="ana"):
                print(record.content)

The calls are those of `Memory`, run in a pool of threads; there is no second implementation.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from types import TracebackType
from typing import Any

from agentmem.errors import ClosedError, InvalidInputError
from agentmem.memory import Memory, ScopedMemory
from agentmem.quoting import shorten
from agentmem.records import Record

THREADS = 50
"""Calls that run at the same time; others wait for a thread without holding one. Adds of 50 threads share commits and
batches well: perf/README.md."""


class _Pool:
    """The threads of one AsyncMemory, which its views share. Belongs to no event loop."""

    def __init__(self, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, "agentmem-aio")
        self.closed = False

    async def run(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self.closed:
            raise ClosedError("The memory is closed; open a new AsyncMemory.")
        run = partial(copy_context().run, call, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self.threads, run)


class _AsyncCalls:
    """What AsyncMemory and its views share."""

    _pool: _Pool

    async def _target(self) -> Any:
        raise NotImplementedError

    async def records(self, **arguments: Any) -> AsyncIterator[Record]:
        """Iterates over the records that `get_all` lists, page by page.

        Args:
            **arguments: Those of `get_all`; `limit` is the size of a page.

        Raises:
            InvalidInputError, DeadlineError: As in `get_all`.
        """
        target = await self._target()
        while True:
            page = await self._pool.run(target.get_all, **arguments)
            for record in page:
                yield record
            if page.next is None:
                return
            arguments["after"] = page.next

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Names of calls are found in the class; this is for type checkers, and for errors that say what is missing."""
        raise AttributeError(f"{type(self).__name__!r} has no call {name!r}; its calls are those of Memory.")


class AsyncScopedMemory(_AsyncCalls):
    """A view bound to an owner, as `ScopedMemory` is; made by `scope`. Its calls are those of ScopedMemory, awaited."""

    def __init__(self, pool: _Pool, find: Callable[[], Awaitable[Any]], owners: dict[str, str]) -> None:
        self._pool = pool
        self._find = find
        self._owners = owners

    async def _target(self) -> ScopedMemory:
        target = await self._find()
        view: ScopedMemory = target.scope(**self._owners)
        return view

    def scope(self, **owners: Any) -> "AsyncScopedMemory":
        """Returns a narrower view, at once; what is wrong with its owner is raised by its first call.

        Args:
            **owners: `user_id`, `agent_id`, `run_id`, as in `Memory.scope`.

        Returns:
            The view.
        """
        return AsyncScopedMemory(self._pool, self._target, owners)


class AsyncMemory(_AsyncCalls):
    """Memories in one file, for coroutines. Every call of `Memory` is there, with the same arguments, to be awaited.

    A call runs in one of the memory's own threads. Cancelling one that waits for a thread leaves it undone. One that
    runs already ends in its thread within its timeout, and may have written. Any number of event loops and threads may
    share an AsyncMemory. Use it as an asynchronous context manager, or await `close`.

    Args:
        path: As for `Memory`, and so are all other keywords.
        threads: The largest number of calls that run at the same time.

    Raises:
        InvalidInputError: the number of threads cannot be one. What opening raises, the first call does.
    """

    def __init__(self, path: Any = "agentmem.db", *, threads: int = THREADS, **arguments: Any) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1000:
            raise InvalidInputError(f"threads is {shorten(threads)}; pass a whole number from 1 to 1,000.")
        self._pool = _Pool(threads)
        self._open = partial(Memory, path, **arguments)
        self._opening = ThreadPoolExecutor(1, "agentmem-aio-open")
        self._memory: Memory | None = None

    async def _target(self) -> Memory:
        if self._memory is None:
            if self._pool.closed:
                raise ClosedError("The memory is closed; open a new AsyncMemory.")
            # One thread opens, so that no two callers do.
            await asyncio.get_running_loop().run_in_executor(self._opening, self._opened)
        assert self._memory is not None
        return self._memory

    def _opened(self) -> None:
        if self._memory is None:
            self._memory = self._open()

    def scope(self, **owners: Any) -> AsyncScopedMemory:
        """Returns a view bound to an owner, at once; what is wrong with the owner is raised by its first call.

        Args:
            **owners: `user_id`, `agent_id`, `run_id`, as in `Memory.scope`.

        Returns:
            The view.
        """
        return AsyncScopedMemory(self._pool, self._target, owners)

    async def close(self) -> None:
        """Closes the memory and ends its threads, as `Memory.close` does. Calls that wait for a thread are cancelled.

        Raises:
            Nothing: it may be called twice, and from any event loop.
        """
        if self._pool.closed:
            return
        self._pool.closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._opening, self._close)
        self._opening.shutdown()

    def _close(self) -> None:
        if self._memory is not None:
            self._memory.close()
        self._pool.threads.shutdown(cancel_futures=True)

    async def __aenter__(self) -> "AsyncMemory":
        await self._target()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _awaited(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    async def run(self: _AsyncCalls, *arguments: Any, **named: Any) -> Any:
        target = await self._target()
        return await self._pool.run(getattr(target, name), *arguments, **named)

    return run


def _give_calls(owner: type, source: type) -> None:
    for name, call in inspect.getmembers(source, inspect.isfunction):
        if not name.startswith("_") and name not in vars(owner):
            setattr(owner, name, _awaited(name, call))


_give_calls(AsyncScopedMemory, ScopedMemory)
_give_calls(AsyncMemory, Memory)
