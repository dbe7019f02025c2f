"""Sixteen threads that change places a million times a second, each doing all that a Memory can do.

    python -m tests.torture.switching --seconds 600

Every public call is in the mix; each thread knows what its own memories must be, and all share some. Prints figures.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentmem import Config, Memory, NotFoundError, Record, StoreBusyError
from agentmem.testing import HashEmbedder
from tests.turned import Turned

WORDS = ["tea", "coffee", "window", "seat", "flight", "cello", "Lisbon", "Porto", "morning", "nuts", "rain", "book"]

OWN_MEMORIES = 25

MODELS = [HashEmbedder(), Turned(64), Turned(32), None]

NOT_IN_THE_MIX = {"close", "reset"}
"""One ends the run, and is called at its end; the other erases memories that all others look for."""


class Mix:
    """One thread. `known` is what its owner's memories must be, by chosen."""

    def __init__(self, memory: Memory, number: int, shared: str) -> None:
        self.memory = memory
        self.chance = random.Random(number)
        self.owner = {"user_id": f"user {number}"}
        self.view = memory.scope(**self.owner)
        self.known: dict[str, Record] = {}
        self.calls: Counter[str] = Counter()
        self.shared = shared
        self.mix = sorted(name.removeprefix("do_") for name in dir(self) if name.startswith("do_"))

    def step(self) -> None:
        name = self.chance.choice(self.mix)
        getattr(self, f"do_{name}")()
        self.calls[name] += 1
        while len(self.known) > OWN_MEMORIES:
            self.do_delete()

    def text(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=3)) + f" {self.chance.randrange(10**4)}"

    def some(self) -> str:
        if not self.known:
            self.do_add()
        return self.chance.choice(list(self.known))

    def keep(self, records: list[Record]) -> None:
        self.known |= {record.id: record for record in records}

    def do_add(self) -> None:
        text, defer, dedupe = self.text(), self.chance.random() < 0.3, self.chance.random() < 0.3
        self.keep([self.view.add(text, defer=defer, dedupe=dedupe, metadata={"n": self.chance.randrange(5)})])
        self.memory.add(text, run_id="everybody", ttl=self.chance.choice([0.01, 0.1]), dedupe=True)

    def do_add_batch(self) -> None:
        results = self.memory.add_batch(
            [self.text(), " ", self.text()], **self.owner, on_error="return", defer=self.chance.random() < 0.3
        )
        assert [isinstance(result, Record) for result in results] == [True, False, True]
        self.keep([results[0], results[2]])

    def do_add_messages(self) -> None:
        self.keep(self.view.add_messages([{"role": "user", "content": self.text()}], run_id="chat"))

    def do_search(self) -> None:
        chosen = self.some()
        matches = self.view.search(self.known[chosen].content, limit=100, mode=self.chance.choice(["hybrid", "vector"]))
        assert {match.record.id: match.record for match in matches} == self.known

    def do_search_batch(self) -> None:
        both = self.memory.search_batch([self.text(), self.text()], **self.owner, mode="vector", limit=100)
        assert [{match.record.id for match in matches} for matches in both] == [set(self.known)] * 2
        self.memory.search(self.text(), all_scopes=True, mode="keyword", explain=True)

    def do_get(self) -> None:
        chosen = self.some()
        assert self.memory.get(chosen) == self.known[chosen]

    def do_get_all(self) -> None:
        listed, after = [], None
        while True:
            page = self.view.get_all(limit=7, after=after)
            listed += page
            after = page.next
            if after is None:
                break
        assert {record.id: record for record in listed} == self.known
        assert len(listed) == len(self.known)

    def do_count(self) -> None:
        assert self.view.count() == len(self.known)
        assert self.view.count(as_of=datetime(2001, 1, 1, tzinfo=UTC)) == 0

    def do_context(self) -> None:
        context = self.view.context(self.text(), max_tokens=200)
        assert context.tokens <= 200, context

    def do_scopes(self) -> None:
        owners = {(scope.user_id, scope.run_id) for scope in self.view.scopes()}
        assert owners == {(record.user_id, record.run_id) for record in self.known.values()}

    def do_history(self) -> None:
        events = self.memory.history(self.some())
        assert events[0].what == "add"

    def do_update(self) -> None:
        chosen = self.some()
        self.known[chosen] = self.memory.update(chosen, self.text(), metadata={"n": self.chance.randrange(5)})
        with suppress(NotFoundError):
            self.memory.update(self.shared, metadata={"last": self.owner["user_id"]})

    def do_delete(self) -> None:
        chosen = self.some()
        assert self.memory.delete(chosen)
        del self.known[chosen]

    def do_restore(self) -> None:
        chosen = self.some()
        assert self.memory.delete(chosen)
        assert self.view.restore(chosen) == self.known[chosen]
        self.memory.delete(self.shared)
        self.memory.restore(self.shared)

    def do_delete_all(self) -> None:
        number = self.chance.randrange(5)
        doomed = [chosen for chosen, record in self.known.items() if record.metadata.get("n") == number]
        assert self.view.delete_all(filters={"n": number}) == len(doomed)
        for chosen in doomed:
            del self.known[chosen]

    def do_purge(self) -> None:
        chosen = self.some()
        assert self.memory.purge(chosen) == 1
        assert self.memory.history(chosen) == []
        del self.known[chosen]

    def do_scope(self) -> None:
        self.view = self.memory.scope(**self.owner)

    def do_flush(self) -> None:
        self.view.flush()

    def do_stats(self) -> None:
        assert self.memory.stats().store.memories >= len(self.known)

    def do_check(self) -> None:
        if self.chance.random() < 0.1:
            assert self.memory.check() == []

    def do_export(self) -> None:
        self.view.export(self.file(), overwrite=True, vectors=self.chance.random() < 0.5)

    def do_import_(self) -> None:
        self.do_export()
        report = self.view.import_(self.file())
        assert (report.imported, report.skipped, report.failures) == (0, len(self.known), 0)

    def file(self) -> Path:
        """Of this thread."""
        return Path(f"{self.memory.path}.{self.owner['user_id']}.jsonl")

    def do_repair(self) -> None:
        if self.chance.random() < 0.02:
            self.memory.repair()

    def do_vacuum(self) -> None:
        if self.chance.random() < 0.05:
            with suppress(StoreBusyError):  # Reads of others keep what an unfinished purge left in the log.
                self.memory.vacuum()

    def do_reembed(self) -> None:
        if self.chance.random() < 0.05:
            with suppress(StoreBusyError):  # Another thread moves the store elsewhere.
                self.memory.reembed(self.chance.choice(MODELS))

    def do_backup(self) -> None:
        if self.chance.random() < 0.05:
            with tempfile.TemporaryDirectory() as folder:
                self.memory.backup(Path(folder) / "copy.db")


def switch(path: Path, seconds: float, threads: int = 16) -> dict[str, Any]:
    """Runs the mix. In the result `errors`, `problems` and `never_called` are empty when everything went well."""
    errors: list[str] = []
    interval = sys.getswitchinterval()
    config = Config(durability="process", cache_bytes=100_000, index_bytes=500_000, queue_tokens=500, pending_limit=20)
    with Memory(path, embedder=HashEmbedder(), config=config) as memory:
        shared = memory.add("everybody's", agent_id="everybody").id
        mixes = [Mix(memory, number, shared) for number in range(threads)]
        end = time.monotonic() + seconds

        def go_on(mix: Mix) -> None:
            while time.monotonic() < end and len(errors) < 20:
                try:
                    mix.step()
                except BaseException:
                    errors.append(traceback.format_exc())

        running = [threading.Thread(target=go_on, args=(mix,)) for mix in mixes]
        sys.setswitchinterval(1e-6)
        try:
            for thread in running:
                thread.start()
            for thread in running:
                thread.join(seconds + 120)
        finally:
            sys.setswitchinterval(interval)
        assert not any(thread.is_alive() for thread in running), "a thread hangs"
        calls = sum((mix.calls for mix in mixes), Counter())
        public = {name for name in dir(memory) if not name.startswith("_") and callable(getattr(memory, name))}
        return {
            "seconds": seconds, "threads": threads, "calls": dict(calls), "errors": errors,
            "never_called": sorted(public - set(calls) - NOT_IN_THE_MIX), "problems": memory.check(),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = switch(Path(folder) / "store.db", options.seconds, options.threads)
    print(json.dumps(figures, indent=1))
    sys.exit(bool(figures["errors"] or figures["problems"] or figures["never_called"]))


if __name__ == "__main__":
    main()
