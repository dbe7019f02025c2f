"""Real servers, on a port of loopback that the system chooses, with a limit on every wait."""

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from tests.children import ROOT, SECONDS


class Server:
    """One that runs in a session of its own and says on standard error where it listens."""

    def __init__(self, *command: str, folder: Path, **environment: str) -> None:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command], cwd=folder, env=environment, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._ended = False
        self._told = threading.Condition()  # Guards: _lines, _ended.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @cached_property
    def port(self) -> int:
        return int(self.wait_for(r"http://127\.0\.0\.1:(\d+)")[1])

    @property
    def log(self) -> str:
        with self._told:
            return "".join(self._lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place where the log says so."""
        found: list[re.Match[str] | None] = []

        def said() -> bool:
            found.append(re.search(pattern, "".join(self._lines)))
            return bool(found[-1]) or self._ended

        with self._told:
            self._told.wait_for(said, SECONDS)
        assert found[-1], f"the server never said {pattern}: {self.log}"
        return found[-1]

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> str:
        """The text of a good answer. Raises what http.client raises when there is none."""
        status, text = self.answer(method, path, body, **headers)
        assert status == 200, f"{status} {text}"
        return text

    def answer(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        """The status and the text of any answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends it with SIGTERM, well."""
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end: {self.log}") from None
        finally:
            self.kill()
        assert self.process.returncode == 0, self.log
        assert "Traceback" not in self.log, self.log

    def kill(self) -> None:
        """Ends it and whatever it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._told:
                    self._lines.append(line)
                    self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()


@contextmanager
def gunicorn(application: str, folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """Two workers of four threads, which serve until the block ends, and then must end well."""
    server = Server(
        "gunicorn", application, "--workers=2", "--worker-class=gthread", "--threads=4", "--bind=127.0.0.1:0",
        "--graceful-timeout=20", f"--worker-tmp-dir={folder}", *options, folder=folder, **environment,
    )  # fmt: skip
    try:
        yield server
    finally:
        server.stop()
