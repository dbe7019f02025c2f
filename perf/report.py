"""The report this project began with: its five tests on its own texts.

It measured a memory system in Rust with bge-small-en-v1.5 on an unknown machine, once, and printed calls divided by
seconds. Those figures stand beside ours as "published", only for the order of magnitude. Each test runs many times, in
turns with the others, in memory and in a file. Each run has a new store with a loaded model and an empty cache. Threads
exist before the clock starts. Then the same is measured over a longer time: thousands of distinct texts of the same
form, in proportion to the ceiling E of these texts.
"""

import time
from collections.abc import Callable
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import Memory

PUBLISHED = {
    "concurrent add": 154.87, "concurrent search": 277.72, "batch": 186.94, "pool stress": 159.56, "mixed": 55.64,
}  # fmt: skip


def concurrent_add(memory: Memory) -> float:
    """10 threads, one add each."""

    def work(number: int) -> None:
        memory.add(f"Concurrent memory item {number}", user_id=f"user-{number % 3}")

    return 10 / measure.run_threads(10, work)


def concurrent_search(memory: Memory) -> float:
    """20 memories, then 10 threads, one search each; the searches are timed."""
    memory.add_batch([f"Search test memory {number}" for number in range(20)], user_id="ana")
    return 10 / measure.run_threads(10, lambda number: memory.search(f"test {number}", user_id="ana"))


def batch(memory: Memory) -> float:
    """50 threads, one add each, all for one user."""
    return 50 / measure.run_threads(50, lambda number: memory.add(f"Batch memory item {number}", user_id="ana"))


def pool_stress(memory: Memory) -> float:
    """50 threads, one add each, for five users."""
    return 50 / measure.run_threads(
        50, lambda number: memory.add(f"Stress test {number}", user_id=f"user-{number % 5}")
    )


def mixed(memory: Memory) -> float:
    """10 adds one after the other, a pause of 100 ms, then 15 threads: 5 add, 5 search and 5 list.

    The 15 count; the clock runs from the first add.
    """

    def work(number: int) -> None:
        if number < 5:
            memory.add(f"Mixed test {10 + number}", user_id="ana")
        elif number < 10:
            memory.search(f"test {number}", user_id="ana")
        else:
            memory.get_all(user_id="ana")

    began = time.perf_counter()
    for number in range(10):
        memory.add(f"Mixed test {number}", user_id="ana")
    time.sleep(0.1)
    measure.run_threads(15, work)
    return 15 / (time.perf_counter() - began)


TESTS: dict[str, Callable[[Memory], float]] = {
    "concurrent add": concurrent_add, "concurrent search": concurrent_search, "batch": batch,
    "pool stress": pool_stress, "mixed": mixed,
}  # fmt: skip


def run(test: Callable[[Memory], float], place: str, model: str) -> float:
    """Returns calls a second in a new store with a loaded model."""
    with measure.temporary_store() as path, Memory(path if place == "in a file" else ":memory:", model=model) as memory:
        memory.add("the model is loaded before the clock starts", user_id="nobody")
        return test(memory)


def sustained(model: str, count: int, rounds: int, *, full: bool) -> dict[str, Any]:
    sentences = [f"Batch memory item {number}" for number in range(count)]
    yardstick = Yardstick(model, sentences[:: max(1, count // 500)], full=full)
    rates: dict[int, list[float]] = {10: [], 50: []}
    ratios: dict[int, list[float]] = {10: [], 50: []}

    def add_all(threads: int) -> float:
        with measure.temporary_store() as path, Memory(path, model=model) as memory:
            memory.add("the model is loaded before the clock starts", user_id="nobody")

            def work(number: int) -> None:
                for text in measure.share(sentences, threads, number):
                    memory.add(text, user_id=f"user-{number % 3}")

            return measure.run_threads(threads, work)

    for _ in range(rounds):
        for threads in rates:
            seconds, e = yardstick.around(lambda threads=threads: add_all(threads))
            rates[threads].append(count / seconds)
            ratios[threads].append(count / seconds / e)
    figures: dict[str, Any] = {"E of these texts, a second": measure.median(yardstick.measured)}
    for threads in rates:
        figures[f"sustained, {count:,} adds, {threads} threads, in a file"] = {
            "a second": measure.median(rates[threads]),
            "of E": measure.median(ratios[threads]),
        }
    return figures


def main() -> None:
    options = measure.arguments(__doc__, repeats={"type": int}, texts={"type": int})
    repeats = options.repeats or (30 if options.full else 10)
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, test in TESTS.items():
            for place in ("in memory", "in a file"):
                rates.setdefault(f"{name}, {place}", []).append(run(test, place, options.model))
    figures: dict[str, Any] = {
        name: {**measure.spread(values), "published": PUBLISHED[name.partition(",")[0]]}
        for name, values in rates.items()
    }
    count = options.texts or (5000 if options.full else 1500)
    figures |= sustained(options.model, count, rounds=5 if options.full else 1, full=options.full)
    measure.report(f"The report's tests, {repeats} times each, calls a second, {options.model}", figures, options)


if __name__ == "__main__":
    main()
