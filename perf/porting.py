"""Measures how many lines a second `import_` and `export` take, and the cost of a second run of an import.

One file of distinct texts for 100 users, with metadata, goes into an empty store. It goes in once more, when all of it
is there, and out again with and without vectors. With vectors it also goes into another store of the same model.

`--killed` measures the memory that an import takes, and whether it resumes after `kill -9`. One process imports the
file, deferred and without a model, so that reading and storing are measured. It is killed when half of it is stored,
and a second one imports it again to its end. With `--folder` the first call does the former and leaves file and store
there; the second call does the rest.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import measure

from agentmem import Memory

USERS = 100


IMPORT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import measure
from agentmem import Config, Memory
with Memory(sys.argv[2], model=None, config=Config(pending_limit=10**9)) as memory:
    before, began = measure.rss_bytes(), time.perf_counter()
    report = memory.import_(sys.argv[3], defer=True)
    seconds = time.perf_counter() - began
    print(json.dumps({
        "imported": report.imported, "there already": report.skipped, "seconds": seconds,
        "CPU seconds": time.process_time(), "lines a second": (report.imported + report.skipped) / seconds,
        "rss MiB before": before / 2**20, "rss MiB after": measure.rss_bytes() / 2**20,
        "rss MiB peak": measure.peak_bytes() / 2**20,
    }))
"""

LOOK_SECONDS = 1.0
"""Seconds between two looks at how much the process to be killed has stored."""


def killed(lines: Path, store: str, count: int) -> dict[str, float]:
    began = time.perf_counter()
    first = subprocess.Popen(command_of(lines, store), stdout=subprocess.DEVNULL)
    with Memory(store, model=None) as memory:
        stored = 0
        while stored < count // 2:
            if first.poll() is not None:
                raise SystemExit(f"The import ended with {first.returncode} before it could be killed.")
            time.sleep(LOOK_SECONDS)
            stored = memory.stats().store.memories
        peak = measure.peak_bytes(first.pid)
        spent = Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        first.send_signal(signal.SIGKILL)
        first.wait()
        stored, seconds = memory.stats().store.memories, time.perf_counter() - began
    return {
        "stored": stored, "seconds": seconds,
        "CPU seconds": sum(map(int, spent)) / os.sysconf("SC_CLK_TCK"), "lines a second": stored / seconds,
        "rss MiB peak": peak / 2**20,
    }  # fmt: skip


def gone_on(lines: Path, store: str, count: int) -> dict[str, float]:
    done = subprocess.run(command_of(lines, store), stdout=subprocess.PIPE, check=True)
    with Memory(store, model=None) as memory:
        assert memory.count(all_scopes=True) == count
    return dict(json.loads(done.stdout))


def command_of(lines: Path, store: str) -> list[str]:
    return [sys.executable, "-c", IMPORT, str(Path(__file__).parent), store, str(lines)]


def write_lines(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(measure.texts(count)):
            line = {"content": text, "user_id": f"user-{number % USERS}", "metadata": {"n": number}}
            file.write(json.dumps(line) + "\n")


def main() -> None:
    options = measure.arguments(
        __doc__,
        lines={"type": int},
        killed={"action": "store_true", "help": "kill an import and go on with it"},
        folder={"type": Path, "help": "where the two halves of that are two calls"},
    )
    count = options.lines or (100_000 if options.full else 5000)
    figures: dict[str, dict[str, float]] = {}
    if options.killed:
        with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
            lines, store = Path(folder) / "lines.jsonl", Path(folder) / "store.db"
            begun = store.exists()
            if not begun:
                write_lines(lines, count)
                figures["import, killed"] = killed(lines, str(store), count)
            if begun or not options.folder:
                figures["the same again"] = gone_on(lines, str(store), count)
        measure.report(f"A file of {count:,} lines, killed half-way", figures, options)
        return

    def clock(what: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        figures[what] = {"lines a second": count / seconds, "seconds": seconds, "rss MiB": measure.rss_bytes() / 2**20}

    with tempfile.TemporaryDirectory() as folder, measure.temporary_store() as path:
        lines, plain, vectors = (Path(folder) / name for name in ("lines.jsonl", "plain.jsonl", "vectors.jsonl"))
        write_lines(lines, count)
        with Memory(path, model=options.model) as memory:
            memory.add("the model is loaded", user_id="nobody")
            clock("import without vectors", lambda: memory.import_(lines))
            clock("the same again", lambda: memory.import_(lines))
            clock("export", lambda: memory.export(plain, all_scopes=True))
            clock("export, compressed", lambda: memory.export(f"{plain}.gz", all_scopes=True))
            clock("export with vectors", lambda: memory.export(vectors, all_scopes=True, vectors=True))
        with Memory(Path(folder) / "other.db", model=options.model) as memory:
            clock("import with vectors", lambda: memory.import_(vectors))
    measure.report(f"Files of {count:,} lines, {options.model}", figures, options)


if __name__ == "__main__":
    main()
