"""Other Python processes that use the package, each with a limit on its time."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import agentmem

ROOT = Path(agentmem.__file__).parent.parent
PATHS = os.pathsep.join(map(str, (ROOT, Path(__file__).parent.parent)))
"""Where a child finds the package that is tested, and then the tests."""
SECONDS = 90
"""After which a child counts as hung; far more than any of them needs."""


class Child(subprocess.Popen[str]):
    """A child whose words are waited for, but not for ever."""

    def line(self) -> str:
        """Its next line. It is killed, with its own children, when none comes: the line is empty then."""
        hung = threading.Timer(SECONDS, os.killpg, (self.pid, signal.SIGKILL))
        hung.start()
        try:
            assert self.stdout is not None
            return self.stdout.readline()
        finally:
            hung.cancel()
            hung.join()


def start_python(code: str, *arguments: Any, **options: Any) -> Child:
    """A child that runs `code` with the arguments as text in `sys.argv[1:]`."""
    environment = os.environ | {"PYTHONPATH": PATHS, "PYTHONWARNINGS": "error"}
    return Child(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, **options,
    )  # fmt: skip


def finish(child: "subprocess.Popen[str]") -> str:
    """What the child printed, once it has ended well."""
    try:
        output, errors = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # With its own children, which would hold the pipes open.
        output, errors = child.communicate()
        raise AssertionError(f"the child hung after {output!r}; its errors were {errors}") from None
    assert child.returncode == 0, errors
    assert errors == "", errors
    return output


def run_python(code: str, *arguments: Any, **options: Any) -> str:
    return finish(start_python(code, *arguments, **options))
