"""A process that has imported everything and opened nothing, from which children are forked in milliseconds.

    with Nursery() as nursery:
        child = nursery.start("tests.torture.writers:write", path, 7)
        for line in child.lines(): ...

The child runs the function with its arguments and a file descriptor for its words first. It dies with the nursery, the
nursery with its owner; `wait` is bounded.
"""

import gc
import importlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import agentmem

ROOT = Path(agentmem.__file__).parent.parent
SECONDS = 90.0
"""After which a child counts as hung."""

PIPE_BYTES = 4096
"""The smallest pipe there is: a writer without a reader soon stands still."""


class Child:
    """A forked process; its words come through a pipe of the smallest size."""

    def __init__(self, nursery: "Nursery", pid: int, words: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.words = words
        self._rest = b""
        self.ended = False  # It has closed its end of the pipe, or died.

    def hear(self, seconds: float = 0.0) -> list[bytes]:
        """The whole lines that have come; waits up to `seconds` for the first."""
        lines: list[bytes] = []
        while not self.ended and select.select([self.words], [], [], 0 if lines else seconds)[0]:
            read = os.read(self.words, 65536)
            self.ended = not read
            *whole, self._rest = (self._rest + read).split(b"\n")
            lines += whole
        return lines

    def hear_all(self, seconds: float = SECONDS) -> bytes:
        """Everything until the end. Raises TimeoutError, and kills the child, when that does not come."""
        deadline = time.monotonic() + seconds
        heard = [self._rest]
        while select.select([self.words], [], [], max(0.0, deadline - time.monotonic()))[0]:
            read = os.read(self.words, 65536)
            if not read:
                self.ended = True
                return b"".join(heard)
            heard.append(read)
        self.kill()
        raise TimeoutError(f"the child hung for {seconds:g} seconds after {b''.join(heard)[-500:]!r}")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # Not yet waited for, so that the number is still its own.

    def wait(self) -> int:
        """Its exit status (negative: the signal that ended it). It must be dying."""
        status = self._nursery.wait(self.pid)
        os.close(self.words)
        return status


class Nursery:
    """Belongs to one thread."""

    def __init__(self, *, stderr: Any = None) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
                stderr=stderr, cwd=ROOT,
            )  # fmt: skip
        self._socket = ours
        self._socket.settimeout(SECONDS)

    def ask(self, what: str, *arguments: Any, descriptors: tuple[int, ...] = ()) -> Any:
        socket.send_fds(self._socket, [pickle.dumps((what, arguments))], list(descriptors))
        return pickle.loads(self._socket.recv(65536))

    def start(self, function: str, *arguments: Any) -> Child:
        """Forks a child that runs `module:function`."""
        reads, writes = os.pipe()
        try:
            pid = self.fork(writes, function, *arguments)
        finally:
            os.close(writes)
        return Child(self, pid, reads)

    def fork(self, descriptor: int, function: str, *arguments: Any) -> int:
        """Forks a child whose first argument is (its copy of) the descriptor; the number of the process."""
        pid: int = self.ask("fork", function, arguments, descriptors=(descriptor,))
        return pid

    def wait(self, pid: int) -> int:
        """The exit status of a child (negative: the signal that ended it). It must be dying."""
        status: int = self.ask("wait", pid)
        return status

    def run(self, function: str, *arguments: Any, seconds: float = SECONDS) -> tuple[int, Any]:
        """Runs a function to its end: its exit status, and what it returned (None when it ended otherwise)."""
        child = self.start("tests.torture.nursery:say_result", function, arguments)
        try:
            said = child.hear_all(seconds)
        finally:
            status = child.wait()
        return status, pickle.loads(said) if status == 0 else None

    def close(self) -> None:
        self._socket.close()  # The nursery sees the end and kills what is left.
        self._process.wait(SECONDS)

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def say_result(words: int, function: str, arguments: tuple[Any, ...]) -> None:
    """Runs the function and says what it returned."""
    said = pickle.dumps(find(function)(*arguments))
    with os.fdopen(words, "wb") as stream:
        stream.write(said)


def find(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def serve(control: socket.socket) -> None:
    """Forks on demand until the owner is gone."""
    children: set[int] = set()
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 65536, 4)
            if not message:
                return
            what, arguments = pickle.loads(message)
            if what == "fork":
                prepare(*arguments)
                pid = os.fork()
                if pid == 0:
                    control.close()
                    be_born(descriptors[0], *arguments)
                children.add(pid)
                os.close(descriptors[0])
                control.send(pickle.dumps(pid))
            else:
                _, status = os.waitpid(arguments[0], 0)
                children.discard(arguments[0])
                control.send(pickle.dumps(os.waitstatus_to_exitcode(status)))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def prepare(function: str, arguments: tuple[Any, ...]) -> None:
    """Imports here, once, what the child would have to; nothing of it counts for the garbage collection of children,
    which would copy all of it."""
    function = arguments[0] if function.endswith(":say_result") else function
    if function.partition(":")[0] not in sys.modules:
        find(function)
        gc.collect()
        gc.freeze()


def be_born(words: int, function: str, arguments: tuple[Any, ...]) -> None:
    """What a child does; never returns."""
    status = 1
    try:
        find(function)(words, *arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # The children of a nursery leave the interpreter's end to others.


def main() -> None:
    for module in ("engine.deferred", "engine.writer", "memory", "testing"):
        importlib.import_module(f"agentmem.{module}")
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
