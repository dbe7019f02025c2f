"""kill -9: four processes of four threads write into one store, and one of them is killed at a random moment.

Some are killed at a named failure point. A new process takes its place, and a fresh one checks that every acknowledged
write is there, whole.
"""

import json
import pickle
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.failpoints import POINTS
from tests.torture.nursery import Child, Nursery

PROCESSES = 4

MEMORIES_A_STORE = 1500
"""After which a new store is begun, because looking through one takes longer the larger it is."""

POINT_SECONDS = 5.0
"""How long a process may take until it dies at its point."""

UNREACHED = {"commit: before it is asked what became of it"} | {point for point in POINTS if "reembed" in point}
"""Points that a process without other faults never reaches, or only one that moves the store to another model. Tests of
their own kill there."""

BIRTH = [point for point in POINTS if "migration" in point or "model is bound" in point]
"""Points that only the maker of a store reaches."""


class Ledger:
    """What the writers of one store said, and so what must be there."""

    def __init__(self, tolerated: Sequence[str] = ("ClosedError",)) -> None:
        self.tolerated = tolerated  # Errors that a call may be refused with.
        self.states: dict[str, list[Any]] = {}  # Of a token: None (not there), then each state that was begun.
        self.sure: dict[str, int] = {}  # How many of them are acknowledged to be over.
        self.groups: list[list[str]] = []
        self.ids: dict[str, str] = {}
        self.shared: dict[str, str] = {}
        self.acknowledged = self.unknown = self.refused = 0
        self.complaints: list[str] = []
        self._open: dict[tuple[str, int], list[str]] = {}

    def hear(self, name: str, lines: Sequence[bytes]) -> None:
        for line in lines:
            kind, thread, *words = json.loads(line)
            if kind == "i":
                tokens = []
                for token, state in words[0]:
                    known = self.states.setdefault(token, [None])
                    known.append(state and (*state[:3], tuple(state[3]), *state[4:]))
                    tokens.append(token)
                if len(tokens) > 1 and len(self.states[tokens[0]]) == 2:
                    self.groups.append(tokens)
                self._open[name, thread] = tokens
            elif kind == "a":
                tokens = self._open.pop((name, thread))
                self.acknowledged += 1
                for token in tokens:
                    self.sure[token] = len(self.states[token]) - 1
                if tokens:
                    self.ids |= dict(zip(tokens, words[0], strict=False))
                elif words[0]:
                    key, text = words[0]
                    if self.shared.setdefault(text, key) != key:
                        self.complaints.append(f"two memories of {text!r}")
            elif kind == "u":
                self.unknown += 1  # Both states stay allowed.
                self._open.pop((name, thread))
            elif kind == "r":
                for token in self._open.pop((name, thread)):
                    self.states[token].pop()
                self.refused += 1
                if not any(each in words[0] for each in self.tolerated):
                    self.complaints.append(f"refused: {words[0]}")
            else:
                self.complaints.append(f"{kind}: {words}")

    def compare(
        self, seen: dict[str, Any], sure: dict[str, int], shared: dict[str, str], settled: set[str]
    ) -> tuple[list[str], list[str]]:
        """Returns the lost and the half writes, of all that were acknowledged when `sure` was copied.

        The visible state decides what became of `settled` tokens, whose process is dead.
        """
        lost, half = [], []
        rows: dict[str, list[Any]] = {}
        for row in seen["rows"]:
            rows.setdefault(row[1].partition(" ")[0] if row[6] != "shared" else row[1], []).append(row)
        for text, key in shared.items():
            if [row[0] for row in rows.get(text, [])] != [key]:
                lost.append(f"{text!r} with {key}: {rows.get(text)}")
        at: dict[str, int] = {}
        for token, states in self.states.items():
            row = rows.get(token, [None])
            fits = [number for number, state in enumerate(states) if len(row) == 1 and fit(row[0], state)]
            at[token] = fits[-1] if fits else -1
            if not fits:
                half.append(f"{token}: {row} is none of {states}")
            elif fits[-1] < sure.get(token, 0):
                lost.append(f"{token}: {row} instead of {states[sure[token] :]}")
            elif row[0] and self.ids.get(token, row[0][0]) != row[0][0]:
                lost.append(f"{token}: {row} instead of {self.ids[token]}")
            elif token in settled:
                self.states[token], self.sure[token] = states[: at[token] + 1], at[token]
        half += [f"batch: {tokens}" for tokens in self.groups if len({at[token] for token in tokens}) > 1]
        unknown = set(rows) - set(self.states) - {text for text in rows if text.startswith(("shared", "and"))}
        half += [f"nobody wrote {rows[token]}" for token in unknown]
        return lost, half


def fit(row: Any, state: Any) -> bool:
    """Whether a row is what the state says."""
    if row is None or state is None:
        return row is state
    _, content, metadata, deleted, events, vector, _ = row
    if state[5] and (deleted, events) == (True, (*state[3], "expire")):
        deleted, events = state[2], state[3]
    return (content, metadata, deleted, events) == state[:4] and (vector or state[4])


class Store:
    """One store with its writers."""

    tolerated: Sequence[str] = ("ClosedError",)

    def __init__(self, nursery: Nursery, path: Path, chance: random.Random) -> None:
        self._nursery = self.nursery = nursery
        self.path = path
        self._chance = chance
        self.writers: dict[str, Child] = {}
        self._lives = 0
        self.ledger = Ledger(self.tolerated)
        nursery.run("tests.torture.writers:look", str(path), [], True)  # Killed before it, there are no tables.

    def start(self, armed: tuple[str, int] | None = None, *, reads: bool = False) -> str:
        self._lives += 1
        name = f"p{self._lives}"
        durability = self._chance.choice(["full", "process"])
        closes = armed is not None and armed[0].startswith("close")
        seed = self._chance.randrange(2**32)
        self.writers[name] = self._nursery.start(
            "tests.torture.writers:write", str(self.path), name, seed, armed, durability, closes, reads
        )
        return name

    def hear(self, seconds: float = 0.0) -> None:
        for name, writer in self.writers.items():
            for _ in range(50):
                lines = writer.hear()
                if not lines:
                    break
                self.ledger.hear(name, lines)
        if seconds:
            time.sleep(min(seconds, 0.002))

    def go_on(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.hear(left)

    def kill_at_random(self) -> tuple[bool, list[str]]:
        """Kills one of four; returns True and the tokens that were its own."""
        while len(self.writers) < PROCESSES:
            self.start()
        self.go_on(self._chance.uniform(0.0, 0.06))
        name = self._chance.choice(list(self.writers))
        self.writers[name].kill()
        return True, self.bury(name)

    def kill_at(self, point: str) -> tuple[bool, list[str]]:
        """Lets a new one die at the point; returns whether it came there, and its tokens."""
        while len(self.writers) < PROCESSES - 1:
            self.start()
        name = self.start((point, self._chance.choice([0, 0, 1, 3, 10, 30]) if often(point) else 0))
        deadline = time.monotonic() + POINT_SECONDS
        while not self.writers[name].ended and time.monotonic() < deadline:
            self.hear(0.002)
        reached = self.writers[name].ended
        if not reached:
            self.writers[name].kill()
        return reached, self.bury(name)

    def bury(self, name: str) -> list[str]:
        """Hears a dead writer's last words; the tokens that were its own."""
        writer = self.writers.pop(name)
        while not writer.ended:
            self.ledger.hear(name, writer.hear(1.0))
        if (status := writer.wait()) != -9:
            self.ledger.complaints.append(f"{name} ended with {status}")
        return [token for token in self.ledger.states if token.startswith(f"{name}t")]

    def look(self, settled: list[str], *, finish: bool = False) -> dict[str, list[str]]:
        """What a fresh process finds wrong; the tokens that are settled are those of dead processes."""
        self.hear()
        sure, shared = dict(self.ledger.sure), dict(self.ledger.shared)
        recent = [states[-1] for token, states in list(self.ledger.states.items())[-40:] if len(states) == 2]
        texts = [("ana", state[0]) for state in recent if not state[5] and not state[2]][:2] if finish else []
        child = self._nursery.start(
            "tests.torture.nursery:say_result", "tests.torture.writers:look", (str(self.path), texts, finish)
        )
        try:
            seen = pickle.loads(child.hear_all())
        finally:
            child.wait()
        self.hear()
        lost, half = self.ledger.compare(seen, sure, shared, set(settled))
        problems = seen["problems"] + self.ledger.complaints
        self.ledger.complaints = []
        if finish and seen["pending"]:
            problems.append(f"{seen['pending']} memories never got their vectors")
        return {"lost": lost, "half": half, "problems": problems}

    def end(self) -> list[str]:
        return [token for name in list(self.writers) for token in (self.writers[name].kill(), self.bury(name))[1]]


def births(nursery: Nursery, folder: Path, chance: random.Random, points: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Kills processes that create a store, while others want to create the same one."""
    for number, point in enumerate(points):
        path = folder / f"born-{number}-{chance.randrange(10**9)}.db"
        armed = (point, chance.randrange(4) if "between" in point else 0)
        makers = [nursery.start("tests.torture.writers:open_only", str(path), armed) for _ in range(2)]
        reached = False
        for maker in makers:
            maker.hear_all()
            reached |= maker.wait() == -9
        status, seen = nursery.run("tests.torture.writers:look", str(path), [], True)
        problems = seen["problems"] if seen else [f"the next to open it ended with {status}"]
        yield {"kind": point, "reached": reached, "lost": [], "half": [], "problems": problems}


def run(folder: Path, cases: int, seed: int) -> dict[str, Any]:
    """`cases` kills: every named point by turns, and as many random moments between them."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    figures: Counter[str] = Counter()
    failures: list[str] = []
    unreached: Counter[str] = Counter()
    plan: list[str | None] = []
    while len(plan) < cases:
        random_moments = min(len(POINTS), max(0, cases - len(POINTS)))
        chapter: list[str | None] = [*(point for point in POINTS if point not in UNREACHED), *[None] * random_moments]
        chance.shuffle(chapter)
        plan += chapter
    plan = plan[:cases]

    def note(case: dict[str, Any]) -> None:
        figures["kills"] += 1
        figures["at named points" if case["kind"] else "at random moments"] += 1
        if case["kind"] and not case["reached"]:
            unreached[case["kind"]] += 1
        for name in ("lost", "half", "problems"):
            figures[name] += len(case[name])
            failures.extend(f"kill {figures['kills']} ({case['kind']}): {name}: {each}" for each in case[name][:5])

    with Nursery() as nursery:
        for case in births(nursery, folder, chance, [point for point in plan if point in BIRTH]):
            note(case)
        rest = [point for point in plan if point not in BIRTH]
        while rest:
            store = Store(nursery, folder / f"killed-{len(rest)}.db", chance)
            while rest and len(store.ledger.states) < MEMORIES_A_STORE:
                point = rest.pop()
                reached, dead = store.kill_at(point) if point else store.kill_at_random()
                note({"kind": point, "reached": reached, **store.look(dead)})
            figures["kills"] += len(store.writers) - 1
            dead = store.end()
            note({"kind": None, **store.look(dead, finish=True)})
            figures["acknowledged"] += store.ledger.acknowledged
            figures["memories"] += len(store.ledger.states)
            figures["stores"] += 1
            shutil.rmtree(f"{store.path}-segments", ignore_errors=True)
            for file in folder.glob(f"{store.path.name}*"):
                file.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    return {"seed": seed, **figures, "points not reached": dict(unreached), "failures": failures}


def often(point: str) -> bool:
    """Whether a writer comes by again and again."""
    return point.startswith(("transaction", "rows: before", "rows: after", "commit", "cache"))
