"""Several processes, each with several threads, doing everything at once on one file, for as long as one likes.

    python -m tests.torture.soak --seconds 1800 --processes 4 --threads 8

Prints figures as JSON: calls of each kind, errors, waits, and the memory of each process after a warm-up and at the
end. Every thread checks that it finds what it was told is stored, and what another process just told is stored.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agentmem import Config, Memory, NotFoundError
from agentmem.search.segments import builder as sealing
from agentmem.testing import HashEmbedder

OWN_MEMORIES = 60
"""That a thread keeps; beyond, it removes its oldest, so that the visible part of the store stays the same."""

WORDS = [
    "tea",
    "coffee",
    "window",
    "seat",
    "flight",
    "cello",
    "Lisbon",
    "Porto",
    "morning",
    "evening",
    "nuts",
    "rain",
    "book",
    "train",
    "dog",
    "garden",
]

STORED = ("memories", "deleted", "bytes", "pending", "segments")
"""What the report says of the store, from its `stats().store`."""

SEGMENT = 20
"""Memories of a segment, so that owners have several."""


class Worker:
    """One thread's work: its own memories, of which it knows everything, and those of all others."""

    def __init__(self, memory: Memory, number: int, shared: list[str]) -> None:
        self.memory = memory
        self.chance = random.Random(number)
        self.owner = {"user_id": f"user {number}", "agent_id": f"agent {number % 3}"}
        self.known: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.slowest = 0.0
        self.shared = shared
        self.purged = 0

    def text(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=4)) + f" {self.chance.randrange(10**6)}"

    def step(self) -> None:
        kind = self.chance.choices(
            ["add", "defer", "add_batch", "search", "words", "update", "delete", "restore", "listing", "others"],
            [20, 8, 3, 20, 8, 10, 6, 4, 4, 8],
        )[0]
        began = time.monotonic()
        getattr(self, kind)()
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.calls[kind] += 1
        while len(self.known) > OWN_MEMORIES:
            self.remove(next(iter(self.known)))

    def add(self) -> None:
        record = self.memory.add(self.text(), **self.owner, metadata={"n": self.chance.randrange(9)})
        self.known[record.id] = record.content

    def defer(self) -> None:
        record = self.memory.add(self.text(), **self.owner, defer=True)
        self.known[record.id] = record.content

    def add_batch(self) -> None:
        for record in self.memory.add_batch([self.text() for _ in range(10)], **self.owner):
            self.known[record.id] = record.content

    def search(self) -> None:
        if self.known:
            chosen = self.chance.choice(list(self.known))
            found = self.memory.search(self.known[chosen], **self.owner, limit=3, mode="vector")
            assert chosen in [match.record.id for match in found], f"{chosen} is not found by its own text"

    def words(self) -> None:
        if self.known:
            chosen = self.chance.choice(list(self.known))
            found = self.memory.search(self.known[chosen], **self.owner, limit=5)
            assert chosen in [match.record.id for match in found], f"{chosen} is not found by its own words"

    def update(self) -> None:
        if self.known:
            chosen = self.chance.choice(list(self.known))
            self.known[chosen] = self.memory.update(chosen, self.text()).content

    def delete(self) -> None:
        if self.known:
            self.remove(self.chance.choice(list(self.known)))

    def remove(self, chosen: str) -> None:
        del self.known[chosen]
        if self.chance.random() < 0.02:
            self.calls["purge"] += 1
            assert self.memory.purge(chosen) == 1
            assert self.memory.history(chosen) == []
        else:
            assert self.memory.delete(chosen)
        assert self.memory.get(chosen) is None

    def restore(self) -> None:
        if self.known:
            chosen = self.chance.choice(list(self.known))
            assert self.memory.delete(chosen)
            assert self.memory.restore(chosen).content == self.known[chosen]

    def listing(self) -> None:
        listed = {record.id for record in self.memory.get_all(**self.owner, limit=1000)}
        assert listed == set(self.known), "a listing is not what was told"
        assert self.memory.count(**self.owner) == len(self.known)

    def others(self) -> None:
        """What every process changes, deletes and brings back."""
        chosen = self.chance.choice(self.shared)
        try:
            self.memory.update(
                chosen, metadata={f"{os.getpid()} {threading.get_ident()}": self.chance.randrange(10**6)}
            )
        except NotFoundError:
            self.memory.restore(chosen)
        if self.chance.random() < 0.1:
            self.memory.delete(chosen)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_store(path: str) -> Memory:
    config = Config(cache_bytes=2_000_000, index_bytes=2_000_000, busy_timeout=30)
    with patch.object(sealing, "SEGMENT", SEGMENT):
        return Memory(path, embedder=HashEmbedder(), config=config)


def work(path: str, seconds: float, threads: int, number: int, shared: list[str]) -> None:
    """One process; prints what it did."""
    sealing.RETRY_SECONDS = 0.5
    end = time.monotonic() + seconds
    errors: list[str] = []
    samples: list[int] = []
    with open_store(path) as memory:
        workers = [Worker(memory, number * threads + each, shared) for each in range(threads)]

        def go_on(worker: Worker) -> None:
            while time.monotonic() < end and len(errors) < 20:
                try:
                    worker.step()
                except BaseException:
                    errors.append(traceback.format_exc())

        running = [threading.Thread(target=go_on, args=(worker,)) for worker in workers]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            running[0].join(max(0.2, seconds / 100))
            samples.append(rss_bytes())
            if not running[0].is_alive():
                for thread in running:
                    thread.join()
        for worker in workers:
            worker.listing()
        commits = memory.stats().store
    calls = sum((worker.calls for worker in workers), Counter())
    warm = samples[len(samples) // 5 :]
    print(
        json.dumps(
            {
                "calls": calls, "errors": errors, "commits": commits.commits, "writes": commits.writes,
                "slowest_call_seconds": round(max(worker.slowest for worker in workers), 3),
                "rss_warm_mb": round(warm[0] / 1e6, 1), "rss_end_mb": round(warm[-1] / 1e6, 1),
                "rss_peak_mb": round(max(warm) / 1e6, 1),
            }
        )
    )  # fmt: skip


def soak(path: Path, seconds: float, processes: int, threads: int) -> dict[str, Any]:
    """Runs it all. The result's `errors` and `problems` are empty when everything went well."""
    with open_store(str(path)) as memory:
        shared = [memory.add(f"everybody's {word}", run_id="everybody").id for word in WORDS[:4]]
        command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.torture.soak", "--work"]
        children = [
            subprocess.Popen(
                [*command, json.dumps([str(path), seconds, threads, number, shared])], stdout=subprocess.PIPE, text=True
            )
            for number in range(processes)
        ]
        reports: list[dict[str, Any]] = []
        errors: list[str] = []
        try:
            for child in children:
                output, _ = child.communicate(timeout=seconds + 120)
                if child.returncode:
                    errors.append(f"a process ended with {child.returncode}")
                else:
                    reports.append(json.loads(output))
        finally:
            for child in children:
                child.kill()
                child.wait()
        memory.flush()
        return {
            "seconds": seconds, "processes": processes, "threads": threads,
            "calls": dict(sum((Counter(report["calls"]) for report in reports), Counter())),
            "commits": sum(report["commits"] for report in reports),
            "writes": sum(report["writes"] for report in reports),
            "slowest_call_seconds": max((report["slowest_call_seconds"] for report in reports), default=0),
            "rss_mb": [[report[f"rss_{when}_mb"] for when in ("warm", "peak", "end")] for report in reports],
            "errors": errors + [error for report in reports for error in report["errors"]],
            "problems": memory.check(),
            "store": {name: getattr(memory.stats().store, name) for name in STORED},
            "log_bytes": Path(f"{path}-wal").stat().st_size,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*json.loads(options.work))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder) / "store.db", options.seconds, options.processes, options.threads)
    print(json.dumps(figures, indent=1))
    sys.exit(bool(figures["errors"] or figures["problems"]))


if __name__ == "__main__":
    main()
