"""Commands as people and other programs run them: as processes, in pipes, at a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
from click.testing import Result

from agentmem.cli import main

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60
"""After which a command counts as hung."""

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"

COMMAND = [sys.executable, "-W", "error", "-m", "agentmem.cli"]


def every_command(group: click.Group = main, prefix: str = "") -> dict[str, click.Command]:
    """Commands, those of groups too, by what is typed."""
    found = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        more = isinstance(command, click.Group)
        found |= every_command(command, f"{prefix}{name} ") if more else {prefix + name: command}
    return found


def environment(db: Path, **more: str) -> dict[str, str]:
    """That of a command on the store `db`."""
    mine = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
    return mine | {"PYTHONPATH": str(ROOT), "AGENTMEM_DB": str(db), "TERM": "xterm"} | more


def lines_of(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def jsonl(*items: object) -> str:
    return "".join(f"{json.dumps(item)}\n" for item in items)


class Terminal:
    """A command at a terminal of its own, which controls it: Ctrl-C and Ctrl-D are typed."""

    def __init__(self, *arguments: object, db: Path, columns: int = 100, rows: int = 40, **more: str) -> None:
        self._pid, self._controller = pty.fork()
        if self._pid == 0:
            os.execve(sys.executable, [*COMMAND, *map(str, arguments)], environment(db, **more))
        fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.shown = ""
        self._read = 0
        self._ended = False

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def until(self, pattern: str) -> str:
        """What is shown up to the end of a pattern, from where the last call ended."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.compile(pattern).search(self.shown, self._read)):
            assert not self._ended, f"it ended without {pattern!r}: {self.shown!r}"
            assert self._more(deadline), f"there was no {pattern!r}: {self.shown!r}"
        start, self._read = self._read, found.end()
        return self.shown[start : found.end()]

    def code(self) -> int:
        """Returns its exit code, once it has ended."""
        deadline = time.monotonic() + SECONDS
        while not self._ended:
            assert self._more(deadline), f"it did not end: {self.shown!r}"
        pid, self._pid = self._pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _more(self, deadline: float) -> bool:
        if not select.select([self._controller], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            read = os.read(self._controller, 65536)
        except OSError:  # Linux reports so that the other end is closed.
            read = b""
        self._ended = not read
        self.shown += read.decode(errors="replace")
        return True

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._controller)


def finished(process: subprocess.Popen, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process that ends."""
    stdout, stderr = process.communicate(None if stdin is None else stdin.encode(), timeout=SECONDS)
    return process.returncode, stdout.decode(), stderr.decode()
