"""Measures how many calls a second ten threads get when some search and some add, all with distinct texts.

Each thread draws its calls: 90 searches and 10 adds in a hundred, or as many of each. Every call goes through the model
once, so the rate of both together is compared with the ceiling E, measured before and after.
"""

import random
import time
from itertools import count as numbers
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import Memory

OWNERS = 10
MEMORIES = 1000
SEARCHES = (90, 50)
"""Searches in a hundred calls."""


def call_all(memory: Memory, sentences: list[str], threads: int, searches: int) -> tuple[float, dict[str, list[float]]]:
    """Returns the seconds of all calls, and of each call by kind."""
    calls: dict[str, list[float]] = {"search": [], "add": []}

    def work(number: int) -> None:
        draw = random.Random(number)
        for text in measure.share(sentences, threads, number):
            owner = f"user-{draw.randrange(OWNERS)}"
            kind = "search" if draw.randrange(100) < searches else "add"
            began = time.perf_counter()
            if kind == "search":
                memory.search(text, user_id=owner)
            else:
                memory.add(text, user_id=owner)
            calls[kind].append(time.perf_counter() - began)

    return measure.run_threads(threads, work), calls


def main() -> None:
    options = measure.arguments(__doc__, threads={"type": int, "nargs": "+", "default": [10, 50]}, texts={"type": int})
    count = options.texts or (2000 if options.full else 500)
    rounds = 5 if options.full else 2
    yardstick = Yardstick(options.model, full=options.full)
    seeds = numbers(4000)
    rates: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    calls: dict[str, list[float]] = {}
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        texts = measure.texts(MEMORIES, seed=2)
        for owner in range(OWNERS):
            memory.add_batch(texts, user_id=f"user-{owner}")
            memory.search("this owner is loaded before the clock starts", user_id=f"user-{owner}")
        for _ in range(rounds):
            for searches in SEARCHES:
                for threads in options.threads:
                    name = f"{searches} searches in 100, {measure.threads(threads)}"
                    sentences = measure.texts(count, seed=next(seeds))
                    (seconds, each), e = yardstick.around(
                        lambda sentences=sentences, threads=threads, searches=searches: call_all(
                            memory, sentences, threads, searches
                        )
                    )
                    rates.setdefault(name, []).append(count / seconds)
                    ratios.setdefault(name, []).append(count / seconds / e)
                    for kind, times in each.items():
                        calls.setdefault(f"{name}: {kind}", []).extend(times)
        assert memory.check() == []
    figures: dict[str, Any] = {"E, texts a second": measure.median(yardstick.measured)}
    for name in rates:
        figures[name] = {"a second": measure.median(rates[name]), "of E": measure.median(ratios[name])}
        for kind in ("search", "add"):
            figures[f"{name}: {kind}"] = measure.percentiles(calls[f"{name}: {kind}"])
    measure.report(f"Searching and adding at the same time, {options.model}", figures, options)


if __name__ == "__main__":
    main()
