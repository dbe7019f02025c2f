"""Blocks, locks and waits that an asynchronous error cannot tear.

Ctrl-C, or any error that a signal handler raises, may strike the main thread after any of its calls. One such moment
lies between a context manager's entry and its `with` block. What `contextlib.contextmanager` makes is then suspended,
with a lock held and a transaction open, until the garbage collector runs.
"""

import _thread
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from types import CodeType, FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

LOOK_SECONDS = 0.05
"""How often a waiting thread checks that the other thread still runs the function that it waits for."""

TAKING_SECONDS = 0.5
"""Far more than it takes to take over an abandoned lock."""

BEGIN_SECONDS = 2.0
"""Far more than a new thread takes to begin."""

ROOM = 40
"""Nested calls that `require_room` asks for. Any call of a Memory takes fewer than 30, cleaning up included (measured
by entering each call with every number of free ones, Python 3.11)."""


def require_room() -> None:
    """Raises RecursionError unless ROOM further calls can be nested. Costs a microsecond.

    Call it before beginning what an error halfway would leave to others, cleaning up included.
    """
    _nest(ROOM)


def _nest(calls: int) -> None:
    if calls:
        _nest(calls - 1)


def has_ended(frame: FrameType) -> bool:
    """Whether a function's frame has ended, by any way. Drops the variables of an ended frame.

    An asynchronous error can skip any mark that the function itself sets at its end, but it cannot skip this.
    """
    try:
        frame.clear()
    except RuntimeError:  # The frame is being executed.
        return False
    return True


class Lock:
    """A lock for `with` blocks that an ended function does not keep.

    An asynchronous error may strike on the last line of a block, before the lock is released. Waiting threads check
    whether the function of the block has ended, and take the lock over. For a duration longer than a function, use
    `hold` or `acquire`.

    The lock is an entry of a dictionary. One call creates the entry and names its holder, so a held lock always has a
    known holder.
    """

    __slots__ = ("_freed", "_held")

    def __init__(self) -> None:
        self._held: dict[int, object] = {}  # At 0: the frame of the function, or any object, that holds the lock.
        # Waiters wait for this lock: a release unlocks it, the woken thread locks it again.
        self._freed = threading.Lock()

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
        """Takes the lock for the function of a frame. For a generator, that is the function whose block it is
        behind."""
        while frame.f_code.co_flags & inspect.CO_GENERATOR and frame.f_back and frame.f_back.f_back:
            frame = frame.f_back.f_back  # The frames between them are the block's own `__enter__`.
        if self._held.setdefault(0, frame) is not frame:
            self._wait(frame, -1)
        return frame

    def is_held_by(self, holder: object) -> bool:
        return self._held.get(0) is holder

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock until `release`, which any function may call."""
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
                self._wake()  # This thread may have been woken in another one's place.
                return False

    def _wake(self) -> None:
        """Wakes one waiting thread, or lets the next one try at once."""
        with suppress(RuntimeError):  # Another thread has unlocked it.
            self._freed.release()

    def _take_from_gone(self) -> None:
        """Releases the lock if its holder cannot: its function has ended, or an error struck at the release and the
        function now waits here."""
        holder = self._held.get(0)
        if isinstance(holder, FrameType) and (_is_on_this_stack(holder) or has_ended(holder)):
            global _taking
            taking = _taking  # One of several that check.
            if not taking.acquire(timeout=TAKING_SECONDS):
                if _taking is taking:
                    # An error has torn the thread that held it; the next check finds it free.
                    _taking = threading.Lock()
                return
            try:
                if self._held.get(0) is holder:
                    self._held.clear()
            finally:
                taking.release()


_holding: set[CodeType] = set()


def holds_locks(function: Callable[P, T]) -> Callable[P, T]:
    """Marks a function in which locks may be held, for `is_amid_locks`; returns the function itself."""
    _holding.add(function.__code__)
    return function


def is_amid_locks() -> bool:
    """Whether the caller is a signal handler that struck in a function marked by `holds_locks`.

    Python runs handlers on the main thread, between any two instructions. The stack itself is asked, because an error
    between two instructions would leave a counter wrong for good.
    """
    frame: FrameType | None = sys._getframe(1)
    if threading.current_thread() is not threading.main_thread():
        return False
    while frame is not None and frame.f_code not in _holding:
        frame = frame.f_back
    return frame is not None


def until_look(deadline: float | None) -> float:
    """Seconds to wait before the next check."""
    return LOOK_SECONDS if deadline is None else max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))


def _is_on_this_stack(frame: FrameType) -> bool:
    below: FrameType | None = sys._getframe(1)
    while below is not None and below is not frame:
        below = below.f_back
    return below is not None


def condition(lock: Lock) -> threading.Condition:
    """A condition for waiting with the lock held. Enter the lock itself and not the condition, whose own function ends
    at once."""
    return threading.Condition(cast(Any, lock))


class Hold:
    """A lock held for the function whose block a generator is behind.

    The generator itself is not being executed while the block is. A generator that was torn out of its block may end at
    any time later.
    """

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
        """Returns False when the lock was taken away meanwhile because the function had ended; another thread may hold
        it now."""
        return self._lock.is_held_by(self._holder)


_taking = threading.Lock()  # Guards: taking the lock from its holder once.


class Block(Generic[T]):
    """A `with` block around a generator whose `yield` is the block's body."""

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
            pass  # The block's own error propagates.
        except BaseException as raised:
            if raised is not error:
                raise

    def end(self) -> None:
        """Ends a generator that an interrupt left open where `__exit__` begins; does nothing to one that has ended."""
        self._generator.close()


def block(function: Callable[P, Generator[T, None, None]]) -> Callable[P, Block[T]]:
    """`contextlib.contextmanager` for blocks that must end properly even when an interrupt strikes as they begin."""

    @functools.wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        return Block(function(*args, **kwargs))

    return begin


def started(work: Callable[[], object], name: str) -> threading.Thread | None:
    """Returns a daemon thread that has begun the work, or None when the system gives no thread or no memory for one.

    Before the call, set no state that would then have to be undone.
    """
    thread = _Thread(target=work, name=name, daemon=True)
    begun = thread._started
    try:
        thread.start()
    except RecursionError:
        raise
    except (RuntimeError, MemoryError):  # The number of threads is limited, or the interpreter is ending.
        return None
    if begun.is_set():
        return thread
    vars(threading).get("_limbo", {}).pop(thread, None)  # Otherwise `threading` would list it as alive for ever.
    return None


class _Thread(threading.Thread):
    """A thread that an interrupted look at it leaves alive.

    CPython 3.11 takes a thread that runs for one that has ended, for ever, when an exception interrupts `is_alive` or
    `join`. A second thread would then be started beside it. This one asks the lists that the thread itself keeps.
    """

    def __init__(self, *, target: Callable[[], object], name: str, daemon: bool) -> None:
        super().__init__(target=target, name=name, daemon=daemon)
        self._started = _Begun()

    def is_alive(self) -> bool:
        lists = vars(threading)
        # A thread leaves the first list for the second, in this order. A fork empties both in the child.
        return self._started.is_set() and (
            self in lists.get("_limbo", {}) or lists.get("_active", {}).get(self.ident) is self
        )


class _Begun(threading.Event):
    """The event that `Thread.start` waits for.

    An error that PyThreadState_SetAsyncExc raises in the starting thread may strike the new thread instead. CPython
    gives both the same number at first. The new thread would then never report that it has begun.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(BEGIN_SECONDS if timeout is None else timeout)


def no_thread() -> RuntimeError:
    """Returns the error to raise when `started` has returned None."""
    return RuntimeError("the system gives no thread, or the interpreter is ending")


def aside(work: Callable[[], T]) -> Callable[[], T]:
    """Begins the work on a new thread. Returns a function that waits for it and returns, or raises, its outcome.

    A caller that is interrupted leaves the thread to end.
    """
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
        # Not threading.Thread, whose weak reference's callback swallows what a signal handler raises.
        _thread.start_new_thread(do, ())
    except RuntimeError:  # The interpreter is ending and starts no threads.
        do()
    return result


def off_main_thread(work: Callable[[], T]) -> T:
    """Returns or raises the outcome of the work, which never runs on the main thread.

    The main thread alone receives signals, and some libraries swallow what a signal handler raises.
    """
    return aside(work)() if threading.current_thread() is threading.main_thread() else work()


def fails_apart(work: Callable[[], object]) -> bool:
    """Whether a call that has just failed here also fails on a new thread.

    On a new thread only the work itself can fail: no signal, no trace function and no nearly full stack interferes. Ask
    before reporting an error as damage of the data.
    """
    here = threading.get_ident()

    def fails() -> bool:
        try:
            work()
        except (MemoryError, TimeoutError):
            return False
        except RecursionError:
            return threading.get_ident() != here  # The system gave no thread.
        except Exception:
            return True
        return False

    return aside(fails)()
