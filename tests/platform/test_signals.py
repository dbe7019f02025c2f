"""Ctrl-C at every moment of a call: an exception is raised at each point where Python looks for signals, one after the
other.

Afterwards everything must work as if the call had never been made, or had completed.
"""

import dis
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType
from typing import Any

import pytest

from agentmem import Memory
from agentmem.platform.signals import started
from agentmem.testing import HashEmbedder
from tests.conftest import our_threads, wait_for_our_threads

SECONDS = 30

LOOKS = {number for name, number in dis.opmap.items() if name.startswith(("CALL", "JUMP_BACKWARD"))}
"""After these instructions, and where a function begins, the interpreter runs what signals have asked for."""


STEP = 3
"""The suite takes every third point, to be done in half a minute; with 1 it takes every one."""


class Interrupt(BaseException):
    pass


class Interrupter:
    """Raises Interrupt at the k-th such point of what is called within its block on this thread."""

    def __init__(self, k: int) -> None:
        self._left = k
        self._last: dict[int, int] = {}
        self.struck: str | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = sys.gettrace()
        gc.disable()  # Calls of the garbage collector at any moment belong to no caller.
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)
            gc.enable()

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if self.struck is not None or frame.f_code is _EXIT or "agentmem" not in _callers(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "call" and not _goes_on(frame):
            self._look(frame)
        elif event == "opcode":
            last = self._last.get(id(frame))
            self._last[id(frame)] = frame.f_lasti
            if last is not None and frame.f_code.co_code[last] in LOOKS:
                self._look(frame)
        elif event == "return":
            self._last.pop(id(frame), None)
        return self._trace

    def _look(self, frame: FrameType) -> None:
        self._left -= 1
        if self._left == 0:
            self.struck = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
            raise Interrupt


_EXIT: CodeType = Interrupter.__call__.__wrapped__.__code__  # type: ignore[attr-defined]


def _callers(frame: FrameType | None) -> str:
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name.startswith("agentmem"):
            return "agentmem"
        frame = frame.f_back
    return ""


def _goes_on(frame: FrameType) -> bool:
    """Whether a generator goes on, which is no beginning of a function."""
    return frame.f_lasti > 0 and bool(frame.f_code.co_flags & 0x20)


Call = Callable[[Memory, int], object]

CALLS: dict[str, Call] = {
    "add": lambda memory, k: memory.add(f"text {k}", user_id="ana"),
    "add a known text": lambda memory, k: memory.add("known", user_id="ana"),
    "add, deferred": lambda memory, k: memory.add(f"text {k}", user_id="ana", defer=True),
    "add_batch": lambda memory, k: memory.add_batch([f"text {k}", f"other {k}"], user_id="ana"),
    "update": lambda memory, k: memory.update("kept", f"text {k}"),
    "delete": lambda memory, k: memory.delete("kept") and memory.restore("kept"),
    "search": lambda memory, k: memory.search(f"text {k}", user_id="ana"),
}


@pytest.mark.parametrize(
    ("name", "model"), [*((name, None) for name in CALLS), ("add", "minilm-static"), ("search", "minilm-static")]
)
def test_an_interrupt_at_any_moment_of_a_call_leaves_all_others_well(store_path, name, model):
    arguments: dict[str, Any] = {"embedder": HashEmbedder()} if model is None else {"model": model}
    with Memory(store_path, **arguments) as memory:
        memory.add("known", user_id="ana")
        memory.add("kept", user_id="ana", id="kept")
        CALLS[name](memory, 0)
        memory.flush(SECONDS)
        k = 0
        while True:
            k += STEP
            interrupter = Interrupter(k)
            error = None
            try:
                with interrupter():
                    CALLS[name](memory, k)
            except Interrupt as interrupt:
                error = interrupt  # Held, as a caller may: what is left open then is not freed.
            if interrupter.struck is None:
                break
            others = threading.Thread(target=memory.add, args=("from another thread",), kwargs={"user_id": "ben"})
            others.start()
            others.join(SECONDS)
            assert not others.is_alive(), f"a write hangs after an interrupt in {interrupter.struck}"
            if memory.get("kept") is None:
                memory.restore("kept")
            assert memory.search("from another thread", user_id="ben"), interrupter.struck
            del error
        assert k > 50
        assert memory.check() == []
    wait_for_our_threads()
    assert our_threads() == []  # An interrupt has started none that `close` does not know.


def test_a_look_at_a_thread_that_is_interrupted_leaves_it_alive():
    """Or another would be started beside it, and `close` would end only one of them."""
    end = threading.Event()
    thread = started(end.wait, "agentmem-test")
    assert thread is not None
    k = 0
    while True:
        k += 1
        interrupter = Interrupter(k)
        with suppress(Interrupt), interrupter():
            looked_at_from_agentmem(thread)
        assert thread.is_alive(), interrupter.struck
        if interrupter.struck is None:
            break
    assert k > 5
    end.set()
    thread.join(SECONDS)
    assert not thread.is_alive()


looked_at_from_agentmem: Callable[[threading.Thread], bool] = eval(
    "lambda thread: thread.is_alive()", {"__name__": "agentmem.look"}
)
"""Only what a module of agentmem calls is interrupted."""
