"""Two handles and a second process on one file, in whatever order, against a dictionary and a scan over all vectors.

    python -m tests.torture.stateful --steps 200000

All limits are as small as they can be, so that every tier is crossed all the time: cached vectors, indexes, queues,
chunks, groups, the sweep, deferred memories. Each call goes to another holder of the file than the one before. The
second process is killed amid its work. That work is then there as a whole or not at all, and is done again where it is
not. The next step must not depend on that, or hypothesis could not repeat it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, multiple, rule, run_state_machine_as_test

from agentmem import InvalidInputError, Memory
from agentmem.analyzer import query_terms, stored_terms
from tests.storage.test_properties import OWNER_FIELDS, MemoryMachine, few_owners, sentences
from tests.torture.nursery import ROOT
from tests.torture.peer import Peer, open_tiny, tiny_limits

HERE_1, HERE_2, THERE = range(3)
"""The holders of the file."""

EXAMPLES_AT_ONCE = 50
"""Of one run of hypothesis."""

LAST_EXAMPLES_SECONDS = 600
"""What those that have begun may still take, shrinking included, before they count as hung."""

steps: Counter[str] = Counter()
"""What was done, for the figures of a long run."""


class Holders:
    """As a Memory; each call goes to the next holder of the file, in the order of `turns`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[Any] = [open_tiny(path), open_tiny(path), Peer(path)]
        self.turns = [HERE_1, THERE, HERE_2]
        self._turn = 0

    def __getattr__(self, name: str) -> Any:
        self._turn += 1
        steps[name] += 1
        return getattr(self.all[self.turns[self._turn % len(self.turns)]], name)

    def open_again(self, holder: int) -> None:
        self.all[holder].close()
        self.all[holder] = Peer(self.path) if holder == THERE else open_tiny(self.path)

    def close(self) -> None:
        for holder in self.all:
            holder.close()


class SharedFileMachine(MemoryMachine):
    """What one handle is asked, asked of three, and what only several can do."""

    ids = MemoryMachine.ids
    move_to_another_model = fail_to_move = None  # With embedders of their own, the other holders could not follow.
    memory: Any
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # No power is cut here.
    ran = 0
    """Rules that ran, over all examples."""

    def __init__(self) -> None:
        self.limits = tiny_limits()
        self.limits.__enter__()
        super().__init__()

    def _open(self) -> Memory:
        return Holders(Path(self.folder.name) / "store.db")  # type: ignore[return-value]

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.limits.__exit__(None, None, None)

    @invariant()
    def it_is_counted(self):
        SharedFileMachine.ran += 1

    # -- which holder is asked -----------------------------------------------------------------------------------------

    @rule(turns=st.lists(st.sampled_from([HERE_1, HERE_2, THERE]), min_size=1, max_size=5))
    def take_other_turns(self, turns):
        self.memory.turns = turns

    @rule(holder=st.sampled_from([HERE_1, HERE_2, THERE]))
    def open_one_again(self, holder):
        steps["open again"] += 1
        self.memory.open_again(holder)

    @rule()
    def kill(self):
        steps["kill"] += 1
        self.memory.all[THERE].kill()

    @rule(target=ids, content=sentences, owner=few_owners, defer=st.booleans(), spin=st.integers(0, 3000))
    def kill_during_an_add(self, content, owner, defer, spin):
        call = {"id": uuid.uuid4().hex, "defer": defer, **owner}
        self._kill_during(spin, "add", content, **call)
        record = self.memory.get(call["id"]) or self.memory.add(content, **call)
        return self._remember(record, content, owner)

    @rule(target=ids, contents=st.lists(sentences, min_size=4, max_size=7), owner=few_owners, defer=st.booleans(),
          spin=st.integers(0, 5000))  # fmt: skip
    def kill_during_a_batch(self, contents, owner, defer, spin):
        items = [{"content": content, "id": uuid.uuid4().hex} for content in contents]
        self._kill_during(spin, "add_batch", items, defer=defer, **owner)
        records = [self.memory.get(item["id"]) for item in items]
        stored = sum(record is not None for record in records)
        assert stored == len(items) or stored % (2 if defer else 3) == 0, "a chunk is stored whole or not at all"
        assert all(records[:stored]), "no chunk is stored before the one before it"
        records[stored:] = self.memory.add_batch(items[stored:], defer=defer, **owner)
        return multiple(*(self._remember(*pair, owner) for pair in zip(records, contents, strict=True)))

    @rule(key=ids, content=sentences, spin=st.integers(0, 3000))
    def kill_during_an_update(self, key, content, spin):
        known = self.expected[key]
        if not known.visible:
            return
        self._kill_during(spin, "update", key, content)
        if len(self.memory.history(key)) == len(known.events):
            assert self.memory.get(key) == known.record
            self.memory.update(key, content)
        record = self.memory.get(key)
        assert record == replace(known.record, content=content, updated_at=record.updated_at)
        known.record = replace(known.record, content=content, updated_at=record.updated_at)
        known.events.append("update")

    @rule(owner=few_owners, spin=st.integers(0, 3000))
    def kill_during_a_delete_all(self, owner, spin):
        doomed = self._visible(owner)
        self._kill_during(spin, "delete_all", **owner)
        assert self.memory.delete_all(**owner) in (0, len(doomed)), "all or nothing"
        for each in doomed:
            each.deleted = True
            each.events.append("delete")

    def _kill_during(self, spin: int, name: str, *arguments: Any, **options: Any) -> None:
        steps[f"kill during {name}"] += 1
        peer = self.memory.all[THERE]
        if spin:
            peer.count(all_scopes=True)  # It is up and has nothing else to do.
        peer.begin(name, *arguments, **options)
        for _ in range(spin):
            pass
        peer.kill()

    # -- more of what may be asked --------------------------------------------------------------------------------

    @rule(target=ids, content=sentences, owner=few_owners, defer=st.booleans())
    def add_unless_it_is_there(self, content, owner, defer):
        exactly = dict.fromkeys(OWNER_FIELDS) | owner
        there = [
            each for each in self._visible(owner)
            if each.record.content == content and {name: getattr(each.record, name) for name in OWNER_FIELDS} == exactly
        ]  # fmt: skip
        record = self.memory.add(content, **owner, dedupe=True, defer=defer)
        if not there:
            assert record.id not in self.expected
            return self._remember(record, content, owner)
        assert record == min(there, key=lambda each: each.order).record
        return multiple()

    @rule(target=ids, contents=st.lists(sentences, max_size=5), owner=few_owners)
    def add_a_batch_with_a_bad_item(self, contents, owner):
        middle = len(contents) // 2
        results = self.memory.add_batch([*contents[:middle], " ", *contents[middle:]], **owner, on_error="return")
        assert isinstance(results.pop(middle), InvalidInputError)
        return multiple(*(self._remember(*pair, owner) for pair in zip(results, contents, strict=True)))

    @rule(target=ids, content=sentences, owner=few_owners, ttl=st.sampled_from([1e6, 1e7]))
    def add_for_a_time(self, content, owner, ttl):
        record = self.memory.add(content, **owner, ttl=ttl)
        return self._remember(record, content, owner, expires_at=record.expires_at)

    @rule()
    def flush(self):
        self.memory.flush()
        assert self.memory.stats().store.pending == 0

    @rule(owner=few_owners, query=sentences, mode=st.sampled_from(["keyword", "hybrid"]),
          filters=st.sampled_from([None, {"topic": "*"}]))  # fmt: skip
    def search_by_words(self, owner, query, mode, filters):
        expected = [each.record for each in self._visible(owner) if not filters or "topic" in each.record.metadata]
        if mode == "keyword":
            asked = set(query_terms(query))
            expected = [record for record in expected if asked & set(_terms(record.content, record.created_at))]
        matches = self.memory.search(query, **owner, mode=mode, filters=filters, limit=1000)
        assert {match.record.id for match in matches} == {record.id for record in expected}
        assert all(match.record == self.expected[match.record.id].record for match in matches)
        assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)

    @rule()
    def check(self):
        assert self.memory.check() == []


def _terms(content: str, created_at: Any) -> list[int]:
    return np.frombuffer(stored_terms(content, created_at), "<u4").tolist()


def run(examples: int, steps_each: int) -> None:
    """In this process. Raises what a wrong answer raises, with the shortest way to it."""
    # One more, because the second that hypothesis tries always ends after a single step.
    run_state_machine_as_test(
        SharedFileMachine,
        settings=settings(
            deadline=None, max_examples=examples + 1, stateful_step_count=steps_each, derandomize=False,
            database=None, suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip


def run_all(examples: int, steps_each: int, *, jobs: int, seconds: float) -> dict[str, Any]:
    """Runs in as many processes as there are `jobs`, which share the examples.

    The result's `failures` are their reports of wrong answers. No example begins after this number of `seconds`.
    """
    command = [sys.executable, "-m", "tests.torture.stateful", "--each", str(steps_each), "--seconds", str(seconds)]
    shares = [examples // jobs + (job < examples % jobs) for job in range(jobs)]
    children = [
        subprocess.Popen(
            [*command, "--work", str(share)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for share in shares
    ]  # fmt: skip
    failures: list[str] = []
    calls: Counter[str] = Counter()
    ran = 0
    try:
        for child in children:
            output, complaint = child.communicate(timeout=seconds + LAST_EXAMPLES_SECONDS)
            if child.returncode:
                failures.append(complaint[-6000:])
            else:
                said = json.loads(output)
                ran += said["steps"]
                calls.update(said["calls"])
    finally:
        for child in children:
            child.kill()
            child.wait()
    return {"steps": ran, "calls": dict(calls.most_common()), "failures": failures}


def work(examples: int, steps_each: int, seconds: float) -> None:
    """One process of several; prints what it did."""
    end = time.monotonic() + seconds
    # Some examples end early, when they have drawn more than hypothesis allows one; others follow in their place.
    while (left := examples * steps_each - SharedFileMachine.ran) > 0 and time.monotonic() < end:
        run(min(EXAMPLES_AT_ONCE, -(-left // steps_each)), steps_each)
    print(json.dumps({"steps": SharedFileMachine.ran, "calls": steps}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200_000, help="rules to run at least")
    parser.add_argument("--each", type=int, default=200, help="rules an example")
    parser.add_argument("--seconds", type=float, default=3_600, help="after which no further examples begin")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes that share the work")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work, options.each, options.seconds)
        return
    began = time.monotonic()
    figures = run_all(-(-options.steps // options.each), options.each, jobs=options.jobs, seconds=options.seconds)
    print(json.dumps(figures | {"seconds": round(time.monotonic() - began)}, indent=1))
    sys.exit(bool(figures["failures"]))


if __name__ == "__main__":
    main()
