"""What an error that may strike anywhere cannot tear: blocks, locks, and what waits for another thread.

Ctrl-C, and whatever else a signal handler raises, may strike the main thread after any call that it makes. One of those
moments is between a context manager's beginning and its `with` block: what `contextlib.contextmanager` makes is left
suspended then, a lock held and a transaction open, until the garbage collector comes by.
"""

import _thread
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

LOOK_SECONDS = 0.05
"""How often whoever waits for another thread looks whether that thread still runs what it is waited for."""

TAKING_SECONDS = 0.5
"""Far more than it takes to take a lock from whoever has gone."""

BEGIN_SECONDS = 2.0
"""Far more than a new thread takes to begin."""

ROOM = 40
"""Calls that `require_room` asks for. What any call of a Memory takes, cleaning up included, is below 30 (measured by
entering each with every number of free ones, on Python 3.11)."""


def require_room() -> None:
    """Raises RecursionError unless ROOM further calls can be nested: before anything is begun that an error halfway
    would leave to others, cleaning up included. Costs a microsecond."""
    _nest(ROOM)


def _nest(calls: int) -> None:
    if calls:
        _nest(calls - 1)


def has_ended(frame: FrameType) -> bool:
    """Whether a function's frame has ended, however it did. Unlike anything the function would do at its end, this
    cannot fail to be noted. Drops the variables of a frame that has ended."""
    try:
        frame.clear()
    except RuntimeError:  # It is being executed.
        return False
    return True


class Lock:
    """A lock that whoever has gone does not keep: for `with` blocks, in which an error may strike as late as the line
    that ends them, before the lock is released. Others look, while they wait, whether the function of the block has
    ended, and take the lock from it then. For what lasts longer than a function there are `hold` and `acquire`.

    The lock is an entry of a dictionary, which is made by one call that also says whose it is: there is no moment at
    which it is held and nobody knows by whom.
    """

    __slots__ = ("_freed", "_held")

    def __init__(self) -> None:
        self._held: dict[int, object] = {}  # At 0, the frame of the function, or any object, that holds the lock.
        self._freed = threading.Lock()  # What waiters wait for: unlocked by a release, locked by who is woken by it.

    def __enter__(self) -> None:
        frame = sys._getframe(1)
        if self._held.setdefault(0, frame) is not frame:
            self._wait(frame, -1)

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        if self._freed.locked():
            self._wake()

    def hold(self) -> "Hold":
        """A `with` block that holds the lock, for a generator behind another `with` block."""
        return Hold(self)

    def take(self, frame: FrameType) -> FrameType:
        """Takes the lock for the function of a frame; of a generator, for the function whose block it is behind."""
        while frame.f_code.co_flags & inspect.CO_GENERATOR and frame.f_back and frame.f_back.f_back:
            frame = frame.f_back.f_back  # Between them is the block's own `__enter__`.
        if self._held.setdefault(0, frame) is not frame:
            self._wait(frame, -1)
        return frame

    def is_held_by(self, holder: object) -> bool:
        return self._held.get(0) is holder

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock until `release`, in whatever function that is called."""
        holder = object()
        return self._held.setdefault(0, holder) is holder or (blocking and self._wait(holder, timeout))

    def release(self) -> None:
        self.__exit__()

    def locked(self) -> bool:
        return bool(self._held)

    def _wait(self, holder: object, timeout: float) -> bool:
        deadline = None if timeout < 0 else time.monotonic() + timeout
        while True:
            if not self._freed.acquire(timeout=until_look(deadline)):
                self._take_from_gone()
            if self._held.setdefault(0, holder) is holder:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                self._wake()  # In whose place this one may have been woken.
                return False

    def _wake(self) -> None:
        """Has one of those who wait, or the next to wait, try again."""
        with suppress(RuntimeError):  # Somebody else did.
            self._freed.release()

    def _take_from_gone(self) -> None:
        """Releases the lock if its holder cannot: its function has ended, or waits for it just here, after an error
        struck where it was to be released."""
        holder = self._held.get(0)
        if isinstance(holder, FrameType) and (_is_on_this_stack(holder) or has_ended(holder)):
            global _taking
            taking = _taking  # Of several that look, one.
            if not taking.acquire(timeout=TAKING_SECONDS):
                if _taking is taking:
                    _taking = threading.Lock()  # An error has torn whoever had it; the next look is free again.
                return
            try:
                if self._held.get(0) is holder:
                    self._held.clear()
            finally:
                taking.release()


def until_look(deadline: float | None) -> float:
    """Seconds to wait before the next look."""
    return LOOK_SECONDS if deadline is None else max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))


def _is_on_this_stack(frame: FrameType) -> bool:
    below: FrameType | None = sys._getframe(1)
    while below is not None and below is not frame:
        below = below.f_back
    return below is not None


def condition(lock: Lock) -> threading.Condition:
    """For waiting with the lock held. Enter the lock itself, not the condition, whose own function ends at once."""
    return threading.Condition(cast(Any, lock))


class Hold:
    """A lock that is held for the function whose block a generator is behind: the generator itself is not being
    executed while the block is, and one that was torn out of its block may end at any time later."""

    __slots__ = ("_holder", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._holder: object = self  # Until the lock is taken.

    def __enter__(self) -> "Hold":
        self._holder = self._lock.take(sys._getframe(1))
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.is_held_by(self._holder):
            self._lock.__exit__()

    @property
    def stands(self) -> bool:
        """False when the lock was taken away meanwhile, as that function had ended; it may be another's by now."""
        return self._lock.is_held_by(self._holder)


_taking = threading.Lock()  # Guards: that a lock is taken from its holder once.


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
                next(self._generator, None)
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


def started(work: Callable[[], object], name: str) -> threading.Thread | None:
    """A daemon thread that has begun the work; None when the system gives no thread, or no memory for one: set nothing
    before that is to be undone then."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    begun = thread._started = _Begun()  # type: ignore[attr-defined]
    try:
        thread.start()
    except RecursionError:
        raise
    except (RuntimeError, MemoryError):  # The number of threads is limited, or the interpreter is ending.
        return None
    if begun.is_set():
        return thread
    vars(threading).get("_limbo", {}).pop(thread, None)  # Or it is told of as alive for ever.
    return None


class _Begun(threading.Event):
    """What `Thread.start` waits for. What PyThreadState_SetAsyncExc raises in a thread that is just starting another
    may strike the new one instead (CPython gives it the same number at first), before it has said that it has begun;
    nobody would ever say so then."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(BEGIN_SECONDS if timeout is None else timeout)


def no_thread() -> RuntimeError:
    """Why `started` has returned None."""
    return RuntimeError("the system gives no thread, or the interpreter is ending")


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


def fails_apart(work: Callable[[], object]) -> bool:
    """Whether what has just failed here also fails on a thread of its own, where nothing strikes that is not of the
    work itself: no signal, no trace function, no stack that is nearly full. Ask before an error is told as a fault of
    what was read."""
    here = threading.get_ident()

    def fails() -> bool:
        try:
            work()
        except (MemoryError, TimeoutError):
            return False
        except RecursionError:
            return threading.get_ident() != here  # There was no thread to be had.
        except Exception:
            return True
        return False

    return aside(fails)()
