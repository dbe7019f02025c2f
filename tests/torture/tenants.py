"""A hostile tenant against all others, with any input within the limits.

Its calls end by their timeout, no other thread stands still, and the memory kept for it does not grow.

A case is one call with a timeout of a second: texts, metadata and filters made to take long, on memories of the same
kind. Beside it a thread looks at the clock every few milliseconds, and another tenant reads and writes. How long a
thread stands still depends on the machine's other work too: a case has failed when it does so in each of three tries.
"""

import gc
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agentmem import AgentMemError, Memory
from agentmem.testing import HashEmbedder

TIMEOUT = 1.0
MOST_SECONDS = 3.0
MOST_STILL = 0.1
TRIES = 3
MOST_GROWTH = 5.0
"""Megabytes."""

PIECES = (
    "a", "word ", "e\u0301\u0323", "\u0301", "\u0130", "\ufdfa", "l'eau d'", "\u05d0\u05be", "\u0661",
    "\U0001f469\u200d\U0001f680", "\u5317", "\n", '\\"', "0123456789", "a.b-c_", "x1 y2 z3 ",
)  # fmt: skip
KEYS = ("list", "text", "deep.a.b", "many", "k7", '"no"', "id")


def texts(most: int) -> st.SearchStrategy[str]:
    """Returns a text of at most this number of bytes: a piece again and again, many different words, or a few pieces in
    turn."""
    size = st.sampled_from([10, 1_000, most // 10, most])
    repeated = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join)
    different = st.integers(0, 9).map(lambda first: " ".join(f"{number:x}q{first}" for number in range(most // 8)))
    return st.builds(lambda text, size: ("w" + text * (size // len(text) + 1)).encode()[:size].decode(errors="ignore"),
                     st.one_of(repeated, different), size)  # fmt: skip


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    """Of up to 100 KB."""
    return st.one_of(
        st.builds(lambda piece, size: {"list": [f"{piece}{number}" for number in range(size)]},
                  st.sampled_from(PIECES[:8]), st.sampled_from([10, 4_000])),
        st.builds(lambda text: {"text": text}, texts(40_000)),
        st.just({f"k{number}": number for number in range(6_000)}),
        st.just({"deep": {"a": {"b": [[1] * 100] * 200}}}),
    )  # fmt: skip


def filters() -> st.SearchStrategy[dict[str, Any]]:
    """As costly as the language allows."""
    operand = st.one_of(texts(2_000), texts(50_000), st.integers(), st.booleans())
    term = st.one_of(
        st.builds(lambda key, word, value: ({key: {word: value}}, 10), st.sampled_from(KEYS),
                  st.sampled_from(["contains", "icontains"]), texts(20_000)),
        st.builds(lambda key, word, value: ({key: {word: value}}, 1), st.sampled_from(KEYS),
                  st.sampled_from(["eq", "ne"]), operand),
        st.builds(lambda key, piece, size: ({key: [f"{piece}{number}" for number in range(size)]}, 1),
                  st.sampled_from(KEYS), st.sampled_from(PIECES[:6]), st.sampled_from([3, 300])),
    )  # fmt: skip
    word = st.sampled_from(["AND", "OR", "NOT"])
    return st.builds(
        lambda terms, word, room: {word: (terms * room)[: max(1, 990 // max(cost for _, cost in terms))]},
        st.lists(term, min_size=1, max_size=4), word, st.sampled_from([1, 10, 400]),
    ).map(lambda found: {name: [each for each, _ in members] for name, members in found.items()})  # fmt: skip


CALLS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "add": st.fixed_dictionaries({"content": texts(1_000_000), "metadata": metadata()}),
    "add_batch": st.fixed_dictionaries({"contents": st.lists(texts(100_000), min_size=1, max_size=3)}),
    "search": st.fixed_dictionaries({"query": texts(1_000_000), "filters": st.none() | filters(),
                                     "mode": st.sampled_from(["hybrid", "keyword"])}),
    "search_batch": st.fixed_dictionaries({"queries": st.lists(texts(10_000), min_size=1, max_size=20),
                                           "filters": filters()}),
    "get_all": st.fixed_dictionaries({"filters": filters(), "limit": st.sampled_from([1, 1_000])}),
    "count": st.fixed_dictionaries({"filters": filters()}),
    "delete_all": st.fixed_dictionaries({"filters": filters(), "dry_run": st.booleans()}),
    "export": st.fixed_dictionaries({"filters": filters()}),
    "import_": st.fixed_dictionaries({"content": texts(1_000_000), "metadata": metadata()}),
}  # fmt: skip

CASES = st.sampled_from(sorted(CALLS)).flatmap(lambda name: st.tuples(st.just(name), CALLS[name]))


class Watch:
    """Looks at the clock every few milliseconds, on a thread of its own; `still` is the longest that it could not."""

    PAUSE = 0.005

    def __init__(self) -> None:
        self.still = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        before = time.monotonic()
        while not self._ended.is_set():
            time.sleep(self.PAUSE)
            now = time.monotonic()
            self.still = max(self.still, now - before - self.PAUSE)
            before = now

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def _call(memory: Memory, name: str, arguments: dict[str, Any]) -> None:
    """One call of eve's. What is too much of something is refused, which is an answer too."""
    eve = memory.scope(user_id="eve")
    call: Callable[..., Any] = getattr(eve, name)
    if name == "export":
        arguments = {"file": io.BytesIO(), **arguments}
    if name == "import_":
        arguments = {"file": io.BytesIO(json.dumps(arguments).encode() + b"\n"), "format": "agentmem"}
    call(**arguments, timeout=TIMEOUT)


def _lade(memory: Memory) -> list[str]:
    """Gives eve memories over which a filter takes long, and ben a few; the ids of eve's."""
    heavy: list[dict[str, Any]] = [
        {"list": [f"x{number}" for number in range(9_000)]}, {"text": "a" * 99_000}, {"text": "\u0130" * 45_000},
        {"text": '\\"\n' * 15_000}, {f"k{number}": number for number in range(6_000)},
        {"deep": {"a": {"b": ["e\u0301" * 40] * 700}}},
    ]  # fmt: skip
    memory.add_batch([f"a text of ben, number {number}" for number in range(100)], user_id="ben")
    return [
        memory.add(f"a heavy text {number}", user_id="eve", metadata=heavy[number % len(heavy)]).id
        for number in range(60)
    ]


def run(folder: Path, cases: int, number: int) -> dict[str, Any]:
    """Runs this number of cases and returns their findings."""
    folder.mkdir(parents=True)
    failures: list[str] = []
    answers: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    stillest: dict[str, float] = {}
    bens: list[float] = []
    with Memory(folder / "store.db", model="all-MiniLM-L6-v2") as memory:
        kept = _lade(memory)
        memory.search("a text", user_id="eve")
        ended = threading.Event()

        def be_ben() -> None:
            view = memory.scope(user_id="ben")
            while not ended.wait(0.02):
                began = time.monotonic()
                view.delete(view.add("a text of ben's", defer=True, timeout=TIMEOUT).id)
                view.count(filters={"id": {"ne": "x"}}, timeout=TIMEOUT)
                bens.append(time.monotonic() - began)

        def one(name: str, arguments: dict[str, Any]) -> tuple[float, float]:
            watch, began = Watch(), time.monotonic()
            try:
                _call(memory, name, arguments)
                answers["answered"] += 1
            except AgentMemError as error:
                answers[type(error).__name__] += 1
            finally:
                seconds = time.monotonic() - began
                watch.end()
            return seconds, watch.still

        @seed(number)
        @settings(max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(CASES)
        def case(drawn: tuple[str, dict[str, Any]]) -> None:
            name, arguments = drawn
            seconds, still = one(name, arguments)
            for _ in range(TRIES - 1):
                if still > MOST_STILL or seconds > MOST_SECONDS:
                    again = one(name, arguments)
                    seconds, still = min(seconds, again[0]), min(still, again[1])
            slowest[name] = max(slowest.get(name, 0.0), seconds)
            stillest[name] = max(stillest.get(name, 0.0), still)
            if seconds > MOST_SECONDS:
                failures.append(f"{name} took {seconds:.2f} s: {_told(arguments)}")
            if still > MOST_STILL:
                failures.append(f"others stood still for {still:.3f} s beside {name}: {_told(arguments)}")
            # What it has added goes, and what it has deleted comes back, or the cases would become others.
            memory.delete_all(user_id="eve", filters={"id": {"nin": kept}})
            for each in kept if name == "delete_all" and memory.count(user_id="eve") < len(kept) else ():
                memory.restore(each, user_id="eve")

        ben = threading.Thread(target=be_ben)
        ben.start()
        try:
            case()
        finally:
            ended.set()
            ben.join()
        failures += memory.check()
    bens.sort()
    return {
        "cases": cases,
        **{f"answers: {name}": count for name, count in answers.most_common()},
        **{f"longest {name}, s": round(seconds, 2) for name, seconds in sorted(slowest.items())},
        **{f"longest standstill beside {name}, s": round(still, 3) for name, still in sorted(stillest.items())},
        "add, delete and count of another, p50 and longest, s": f"{bens[len(bens) // 2]:.3f} {bens[-1]:.3f}",
        "failures": failures,
    }  # fmt: skip


def _told(arguments: dict[str, Any]) -> str:
    told = repr(arguments)
    return told if len(told) <= 300 else f"{told[:300]}... ({len(told):,} characters)"


def _megabytes() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024


def strangers(folder: Path, cases: int, _number: int) -> dict[str, Any]:
    """Searches for this number of owners without memories, and a hundredth as many different filters. Returns the
    growth of the process in each."""
    folder.mkdir(parents=True)
    growth = {}
    with Memory(folder / "store.db", embedder=HashEmbedder()) as memory:
        memory.add("a text", user_id="ana", metadata={"k": 1})

        def stranger(number: int) -> None:
            memory.search("a text", user_id=f"stranger {number}", mode="keyword")

        def filtered(number: int) -> None:
            shape = {f"key {number}-{part}": {"ne": "x" * (number % 50)} for part in range(number % 40)}
            large = {"k": [1, *(f"{number} {part}" for part in range(20_000 if number % 10 == 0 else 3))]}
            assert len(memory.search("a text", user_id="ana", mode="keyword", filters=shape | large)) == 1

        for name, work, count in (("owners that have nothing", stranger, cases), ("filters", filtered, cases // 100)):
            for number in range(count // 10):
                work(number)
            before = _megabytes()
            for number in range(count // 10, count // 10 + count):
                work(number)
            growth[f"{count:,} {name}, MB"] = round(_megabytes() - before, 1)
        failures = [f"{name}: {grown}" for name, grown in growth.items() if grown > MOST_GROWTH]
        failures += memory.check()
    return {**growth, "failures": failures}
