"""Failing system calls: the k-th call that SQLite makes of its VFS fails, for every k of a script; once, or from then
on.

The calls are write, sync, open, truncate, read, lock, delete and size. Afterwards acknowledged writes are there and
refused ones are not, also after a crash amid the script, and the store works.
"""

import os
import shutil
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw

from agentmem import AgentMemError
from agentmem.storage.sqlite import expiry
from agentmem.storage.sqlite.database import wal
from tests.torture.cuts import CHECKPOINT_PAGES
from tests.torture.disk import PLAIN
from tests.torture.kills import Ledger
from tests.torture.nursery import Nursery
from tests.torture.scripts import Play
from tests.torture.scripts import script as script_of
from tests.torture.writers import look

VARIANTS = ("fails once", "fails from then on", "disk full from then on")

CASES_A_CHILD = 40

CHILD_SECONDS = 300.0
"""After which they count as hung."""

_ERRORS: dict[str, tuple[type[apsw.Error], int]] = {
    "write": (apsw.IOError, apsw.SQLITE_IOERR_WRITE),
    "sync": (apsw.IOError, apsw.SQLITE_IOERR_FSYNC),
    "truncate": (apsw.IOError, apsw.SQLITE_IOERR_TRUNCATE),
    "read": (apsw.IOError, apsw.SQLITE_IOERR_READ),
    "size": (apsw.IOError, apsw.SQLITE_IOERR_FSTAT),
    "lock": (apsw.IOError, apsw.SQLITE_IOERR_LOCK),
    "delete": (apsw.IOError, apsw.SQLITE_IOERR_DELETE),
    "open": (apsw.CantOpenError, apsw.SQLITE_CANTOPEN),
    "full": (apsw.FullError, apsw.SQLITE_FULL),
}


class Faults:
    """Which calls fail."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # Guards: everything below, and copying the files while no thread writes.
        self._from = 0
        self._variant: str | None = None
        self._first = ""
        self.calls = 0
        self.struck: list[str] = []

    def arm(self, k: int, variant: str, first: str = "") -> None:
        """The k-th call fails, or the k-th of a kind, when its name (`sync of db-wal`) is given."""
        with self.lock:
            self._from, self._variant, self._first, self.calls, self.struck = k, variant, first, 0, []

    def disarm(self) -> None:
        with self.lock:
            self._variant = None

    def meet(self, kind: str, path: str) -> None:
        """Raises when this call is one of those."""
        with self.lock:
            if self._variant is None or (self._variant.startswith("disk full") and kind != "write"):
                return
            name = f"{kind} of {path.rpartition('.')[2]}"
            self.calls += not self._first or bool(self.struck) or self._first == name
            if self.calls < self._from or (self._variant == "fails once" and self.calls > self._from):
                return
            self.struck.append(name)
            error, code = _ERRORS["full" if self._variant.startswith("disk full") else kind]
        failure = error(f"the {kind} was made to fail")
        failure.extendedresult = code
        raise failure


class FaultyVFS(apsw.VFS):
    """The default VFS of this process."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        super().__init__("faulty", PLAIN, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary"
        self._faults.meet("open", path)
        return FaultyFile(name, flags, path, self._faults)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self._faults.lock:
            self._faults.meet("delete", filename)
            super().xDelete(filename, syncdir)


class FaultyFile(apsw.VFSFile):
    """A file some of whose calls fail."""

    def __init__(self, name: Any, flags: list[int], path: str, faults: Faults) -> None:
        self._path = path
        self._faults = faults
        super().__init__(PLAIN, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._faults.meet("read", self._path)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._faults.lock:
            self._faults.meet("write", self._path)
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        with self._faults.lock:
            self._faults.meet("truncate", self._path)
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._faults.meet("sync", self._path)

    def xFileSize(self) -> int:
        self._faults.meet("size", self._path)
        return super().xFileSize()

    def xLock(self, level: int) -> None:
        self._faults.meet("lock", self._path)
        super().xLock(level)


def one_case(faults: Faults, path: Path, seed: int, k: int, variant: str, number: int) -> dict[str, Any]:
    """Runs a script with its k-th call failing; what is wrong afterwards, and what was hit."""
    script = script_of(number)
    play = Play(path, seed)
    limits = expiry.SWEEP_PAUSE, wal.MERGED_PAGES
    if script.prepare is not None:
        script.prepare(play)
    elif seed % 2:  # A store that is there already.
        play.prepare()
    crash = path.with_name("crash")
    crash.mkdir()
    faults.arm(k, variant)
    try:
        script.run(play)
        with faults.lock:  # The background may be at work.
            for name in (path.name, f"{path.name}-wal"):
                if path.with_name(name).exists():
                    shutil.copy(path.with_name(name), crash / name)
    except Exception:
        play.wrong.append(f"not one of our errors: {traceback.format_exc()[-1500:]}")
    struck = faults.struck
    faults.disarm()
    expiry.SWEEP_PAUSE, wal.MERGED_PAGES = limits
    apsw.connection_hooks.clear()
    wrong = play.wrong
    for memory in filter(None, (play.memory, play.other)):
        try:
            memory.add("and this is taken", user_id="ben")
            wrong += memory.check()
        except AgentMemError as error:
            wrong.append(f"not usable afterwards: {type(error).__name__}: {error}")
        memory.close()
    wrong += _compare(play.spoken, path)
    for copy, spoken in play.copies:
        wrong += [f"in a copy: {each}" for each in _compare(play.spoken[:spoken], copy)]
    ghosts = _compare(play.spoken, crash / path.name)
    return {"wrong": wrong, "struck": struck, "spoken": play.spoken, "refused": play.refused, "ghosts": ghosts}


def _compare(spoken: list[bytes], path: Path) -> list[str]:
    """What is not as the writer was told."""
    seen = look(str(path), [], True)
    ledger = Ledger()
    ledger.hear("p", spoken)
    lost, half = ledger.compare(seen, ledger.sure, ledger.shared, set())
    return [*(f"lost: {each}" for each in lost), *(f"not as told: {each}" for each in half), *seen["problems"]]


def some_cases(folder: str, seed: int, number: int, first: int, variant: str) -> list[dict[str, Any]]:
    """The cases from the `first` k on; they end early when no call was left to fail."""
    faults = Faults()
    vfs = FaultyVFS(faults)
    wal.MERGED_PAGES = CHECKPOINT_PAGES
    cases = []
    for k in range(first, first + CASES_A_CHILD):
        place = Path(folder) / f"{variant}-{k}"
        place.mkdir(parents=True)
        cases.append(one_case(faults, place / "store.db", seed, k, variant, number) | {"k": k})
        shutil.rmtree(place)
        if not cases[-1]["struck"]:
            break
    vfs.unregister()
    return cases


def run(folder: Path, cases: int, seed: int, variants: Sequence[str] = VARIANTS) -> dict[str, Any]:
    """Every k of `cases` scripts (see `scripts`), as many at a time as there are cores."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: Counter[str] = Counter({"scripts": cases})
    struck: Counter[str] = Counter()
    failures: list[str] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for counted, first_struck, wrong in pool.map(
            lambda number: every_call(folder, seed, number, variants), range(cases)
        ):
            figures += counted
            struck += first_struck
            failures += wrong
    return {"seed": seed, **figures, "calls that failed first": dict(struck), "failures": failures}


def every_call(
    folder: Path, seed: int, number: int, variants: Sequence[str]
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Every k of one script: figures, which calls failed first, and what was wrong."""
    figures: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    failures: list[str] = []
    script = f"script {number} ({script_of(number).name})"
    with Nursery() as nursery:
        for variant in variants:
            first, more = 1, True
            while more:
                place = folder / f"{number}-{first}"
                arguments = (str(place), seed + number, number, first, variant)
                status, done = nursery.run("tests.torture.faults:some_cases", *arguments, seconds=CHILD_SECONDS)
                if done is None:
                    failures.append(f"{script}, {variant}, from call {first}: the process ended: {status}")
                    break
                for case in done:
                    figures["told that the outcome is unknown"] += sum(b'["u",' in line for line in case["spoken"])
                    figures["refused"] += sum(b'["r",' in line for line in case["spoken"]) + len(case["refused"])
                    figures["cases"] += bool(case["struck"])
                    figures[variant] += bool(case["struck"])
                    struck.update(case["struck"][:1])
                    figures["wrong"] += len(case["wrong"])
                    figures["told refused, there after a crash"] += len(case["ghosts"])
                    what = f"{script}, {variant}, call {case['k']} ({case['struck'][:2]})"
                    failures += [f"{what}, crashed: {each}" for each in case["ghosts"][:3]]
                    failures += [f"{what}: {each}" for each in case["wrong"][:3]]
                more = bool(done[-1]["struck"])
                first += len(done)
    return figures, struck, failures
