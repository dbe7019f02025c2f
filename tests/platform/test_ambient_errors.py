"""Errors that strike anywhere: a full stack, errors of a signal handler, a trace function or another thread.

The struck caller gets that very error, or its result. No other caller is held up, and a sound store is never called
damaged.
"""

import ctypes
import gc
import inspect
import io
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pytest

from agentmem import EmbeddingError, Memory, ModelError, ScopedMemory, StoreError
from agentmem.platform import signals
from agentmem.platform.signals import Lock

SECONDS = 30

FREE = (*range(1, 48), *range(48, 141, 13))
"""How many calls may still be nested when a call of ours begins. Up to some 30, not all of it fits in."""

STEP = 7
"""The suite strikes at every seventh line; with 1 it does at every one."""


class Case:
    """A store with something in it, and what each call is tried with."""

    def __init__(self, memory: Memory, folder: Any) -> None:
        self.memory = memory
        self._folder = folder
        self._number = 0
        memory.add_batch(["first one", "second two"], user_id="ana", run_id="r")
        memory.add("kept", user_id="ana", id="kept", metadata={"a": {"b": [1, 2, {"c": 1}]}})
        memory.update("kept", "kept again")

    def text(self) -> str:
        self._number += 1
        return f"text {self._number}"

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        m = self.memory
        return {
            "add": lambda: m.add(self.text(), user_id="ana", metadata={"x": [[1]]}),
            "add_batch": lambda: m.add_batch([self.text(), self.text()], user_id="ana"),
            "add_messages": lambda: m.add_messages([{"role": "user", "content": self.text()}], user_id="ana"),
            "search": lambda: m.search(self.text(), user_id="ana"),
            "search_batch": lambda: m.search_batch(["kept", self.text()], user_id="ana", as_of=datetime.now(UTC)),
            "context": lambda: m.context(self.text(), user_id="ana"),
            "flush": lambda: m.add(self.text(), user_id="ana", defer=True) and m.flush(SECONDS),
            "get": lambda: m.get("kept"),
            "get_all": lambda: m.get_all(user_id="ana"),
            "count": lambda: m.count(user_id="ana", filters={"a.b": {"exists": True}}),
            "scopes": lambda: m.scopes(user_id="ana"),
            "history": lambda: m.history("kept"),
            "update": lambda: m.update("kept", self.text(), metadata={"n": self._number}),
            "delete": lambda: m.delete("kept"),
            "restore": lambda: m.delete("kept") and m.restore("kept"),
            "delete_all": lambda: m.delete_all(user_id="carl"),
            "purge": lambda: m.purge(user_id="carl"),
            "export": lambda: m.export(io.StringIO(), user_id="ana"),
            "import_": lambda: m.import_(io.StringIO(f'{{"content": "{self.text()}", "user_id": "ana"}}\n')),
            "stats": lambda: m.stats(),
            "check": lambda: m.check(),
            "repair": lambda: m.repair(),
            "backup": lambda: m.backup(self._folder / "copy.db", overwrite=True),
            "vacuum": lambda: m.vacuum(),
            "reembed": lambda: m.reembed(None),
            "scope": lambda: m.scope(user_id="ana").get_all(),
        }

    def others_go_on(self, after: object) -> None:
        """A write of another thread is done within its timeout, and what is kept is there."""
        done: list[object] = []
        other = threading.Thread(
            target=lambda: done.append(self.memory.add(self.text(), user_id="ben", timeout=1)), daemon=True
        )
        other.start()
        other.join(SECONDS)
        assert done, f"a write of another thread fails or hangs after {after}"
        self.memory.restore("kept")


NAMES = (
    "add", "add_batch", "add_messages", "search", "search_batch", "context", "flush", "get", "get_all",
    "count", "scopes", "history", "update", "delete", "restore", "delete_all", "purge", "export", "import_",
    "stats", "check", "repair", "backup", "vacuum", "reembed", "scope",
)  # fmt: skip

ENDS = {"close", "reset"}
"""After which there is nothing left to try."""


def test_every_public_call_is_tried(memory, tmp_path):
    public = {
        name
        for kind in (Memory, ScopedMemory)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    assert set(NAMES) | ENDS == public
    assert set(NAMES) == set(Case(memory, tmp_path).calls)


def nested(calls: int, call: Callable[[], object]) -> object:
    return nested(calls - 1, call) if calls > 0 else call()


def deepest(calls: int = 0) -> int:
    try:
        return deepest(calls + 1)
    except RecursionError:
        return calls


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_begins_with_any_number_of_free_frames_ends_and_harms_nobody(memory, tmp_path, name):
    case = Case(memory, tmp_path)
    call = case.calls[name]
    room = deepest()
    ended = 0
    for free in FREE:
        try:
            result = nested(room - free, call)
            ended += 1
            assert name not in ("check", "repair") or result == []
        except RecursionError:
            pass
        case.others_go_on(f"{name} with {free} free frames")
    assert 0 < ended < len(FREE)
    memory.flush(SECONDS)
    assert memory.check() == []


def _result_of(call: Callable[[], object]) -> Iterator[object]:
    """In a generator, which handles errors apart from its caller: where a trace function raises as an `except` block
    ends, Python goes on to handle its error for ever, and all that is raised later is chained to it."""
    yield call()


class Striker:
    """Raises an error at the k-th line of ours, or of what we call, on this thread."""

    def __init__(self, k: int, error: BaseException, among: Callable[[FrameType], bool]) -> None:
        self._left = k
        self._error = error
        self._among = among
        self.struck: str | None = None

    def __call__(self, call: Callable[[], object]) -> object:
        before = sys.gettrace()
        gc.disable()  # What the garbage collector calls at any moment belongs to no caller.
        sys.settrace(self._trace)
        try:
            return next(_result_of(call))
        finally:
            sys.settrace(before)
            gc.enable()

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if self.struck is not None:
            return None
        if event == "line" and self._among(frame):
            self._left -= 1
            if self._left == 0:
                self.struck = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self._error
        return self._trace


OF_A_COMMIT = (
    "agentmem.storage.sqlite.group_commit",
    "agentmem.storage.sqlite.database.connections",
    "agentmem.platform.signals",
)


def is_of_a_commit(frame: FrameType) -> bool:
    return frame.f_globals["__name__"] in OF_A_COMMIT


def is_ours(frame: FrameType | None) -> bool:
    """Whether the function is one of ours, or called by one. (Conditions of `threading` lose a wake-up when a trace
    function raises ValueError in them; what else may strike cannot do so there.)"""
    if frame is not None and frame.f_globals["__name__"] == "threading":
        return False
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("agentmem."):
            return True
        frame = frame.f_back
    return False


@pytest.mark.slow
@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("name", ["add", "update", "delete", "restore", "delete_all", "get"])
def test_an_error_at_any_line_of_a_commit_is_the_callers_and_nobody_else_is_held_up(memory, tmp_path, name, error):
    case = Case(memory, tmp_path)
    k = 1 + random.Random(f"{name} {error}").randrange(STEP)
    held: list[BaseException] = []  # As a caller may: what is left open is not freed then.
    while True:
        striker = Striker(k, error("struck"), is_of_a_commit)
        try:
            striker(case.calls[name])
        except error as raised:
            held = [raised]
        if striker.struck is None:
            break
        case.others_go_on(f"{error.__name__} at {striker.struck}")
        k += STEP
    del held
    assert k > 30
    memory.flush(SECONDS)
    assert memory.check() == []


class Struck(ValueError, TypeError, LookupError, AttributeError):
    """What is caught where something is decoded, and most of what is caught elsewhere."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("repair", "reembed", "scope")])
def test_what_a_handler_raises_is_never_told_as_a_fault_of_the_store_or_of_a_text(memory, tmp_path, name):
    case = Case(memory, tmp_path)
    case.calls[name]()
    k = 1 + random.Random(name).randrange(STEP)
    while True:
        striker = Striker(k, Struck("by a handler"), is_ours)
        outcome: object = None
        try:
            outcome = striker(case.calls[name])
        except BaseException as error:  # What checks an argument may take it for the argument's.
            outcome = error
        assert not isinstance(outcome, StoreError | EmbeddingError | ModelError), (outcome, striker.struck)
        assert name != "check" or outcome == [] or isinstance(outcome, Struck), (outcome, striker.struck)
        if striker.struck is None:
            break
        k += STEP * 3
    case.others_go_on(name)
    memory.flush(SECONDS)
    assert memory.check() == []


class Sent(Exception):
    """What another thread raises in one of ours."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # It strikes in weak references, too.
def test_what_other_threads_raise_in_writers_at_any_moment_holds_nobody_up(memory):
    ended, wrong = threading.Event(), []
    count = itertools.count()

    def write(number: int) -> None:
        while not ended.is_set():
            try:
                while not ended.is_set():
                    memory.add(f"text {number} {next(count)}", user_id="ana", timeout=SECONDS)
                    memory.delete("nothing")
                    memory.delete_all(user_id="carl")
            except Sent:
                pass
            except BaseException as error:
                wrong.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for turn in range(300):
        raised(ctypes.c_ulong(writers[turn % len(writers)].ident or 0), ctypes.py_object(Sent))
        ended.wait(0.003)
    ended.set()
    for writer in writers:
        writer.join(SECONDS)
        assert not writer.is_alive()
    assert wrong == []
    assert memory.add("after", user_id="ben", timeout=SECONDS).content == "after"
    assert memory.check() == []


def test_a_thread_that_ends_before_it_says_that_it_has_begun_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(signals, "BEGIN_SECONDS", 0.05)
    monkeypatch.setattr(threading.Thread, "_bootstrap", lambda thread: None)  # As what strikes there leaves it.
    assert signals.started(lambda: None, "agentmem-test") is None


def test_a_lock_is_taken_from_a_function_that_has_ended_and_from_no_other():
    lock, held, let_go = Lock(), threading.Event(), threading.Event()

    def torn() -> None:
        lock.__enter__()  # As an error leaves it that strikes at the end of the block.

    def alive() -> None:
        with lock:
            held.set()
            assert let_go.wait(SECONDS)

    torn()
    holder = threading.Thread(target=alive)
    holder.start()
    assert held.wait(SECONDS)
    assert not lock.acquire(timeout=0.5)
    let_go.set()
    assert lock.acquire(timeout=SECONDS)
    lock.release()
    holder.join(SECONDS)
    assert not lock.locked()
