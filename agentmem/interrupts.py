"""Blocks that an interrupt cannot tear.

Ctrl-C, and whatever else a signal handler raises, may strike the main thread after any call that it makes. One of those
moments is between a context manager's beginning and its `with` block: what `contextlib.contextmanager` makes is left
suspended then, a lock held and a transaction open, until the garbage collector comes by.
"""

import _thread
import functools
import inspect
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Block(Generic[T]):
    """A `with` block around a generator, whose `yield` is the block's body."""

    def __init__(self, generator: Generator[T, None, None]) -> None:
        self._generator = generator

    def __enter__(self) -> T:
        try:
            return next(self._generator)
        except BaseException as error:
            # The generator's own error has ended it; an interrupt after its `yield` has not.
            if inspect.getgeneratorstate(self._generator) == inspect.GEN_SUSPENDED:
                self._generator.throw(error)
            raise

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                next(self._generator)
            else:
                self._generator.throw(error)
        except StopIteration:
            pass  # An error of the block goes on by itself.
        except BaseException as raised:
            if raised is not error:
                raise

    def end(self) -> None:
        """Ends what an interrupt left open as it struck where `__exit__` begins; nothing where all is well."""
        self._generator.close()


def block(function: Callable[P, Generator[T, None, None]]) -> Callable[P, Block[T]]:
    """`contextlib.contextmanager` for what must end well even when an interrupt strikes as it begins."""

    @functools.wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        return Block(function(*args, **kwargs))

    return begin


def aside(work: Callable[[], T]) -> Callable[[], T]:
    """Begins the work on a thread of its own, and gives what waits for it and returns, or raises, what it did. A caller
    who is interrupted leaves it to end by itself."""
    results: list[T] = []
    errors: list[BaseException] = []
    ended = _thread.allocate_lock()
    ended.acquire()

    def do() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.release()

    def result() -> T:
        with ended:
            pass
        for error in errors:
            raise error
        return results[0]

    try:
        # Not threading.Thread: it is forgotten in a weak reference's callback, which swallows what a handler raises.
        _thread.start_new_thread(do, ())
    except RuntimeError:  # The interpreter is ending and starts no threads.
        do()
    return result


def off_main_thread(work: Callable[[], T]) -> T:
    """What the work returns, or raises. Where the caller is the main thread, which alone hears signals, another one
    does it: for libraries that hear them too, and swallow what a handler raises."""
    return aside(work)() if threading.current_thread() is threading.main_thread() else work()
