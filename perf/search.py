"""Measures how many searches a second ten threads get, over owners of 1,000 memories each.

Distinct queries go through the model: in proportion to the ceiling E, measured before and after. Repeated queries come
from the cache. Every mode is measured. The owners hold the same texts, so that the store is soon made; each has vectors
of its own in memory all the same.
"""

import time
from itertools import cycle, islice
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import InvalidInputError, Memory

MODES = ("vector", "hybrid", "keyword")
OWNERS = 10
MEMORIES = 1000
REPEATED = 100


def modes_of(memory: Memory) -> list[str]:
    known = []
    for mode in MODES:
        try:
            memory.search("is this mode known?", user_id="nobody", mode=mode)  # type: ignore[arg-type]
        except InvalidInputError:
            continue
        known.append(mode)
    return known


def search_all(memory: Memory, queries: list[str], threads: int, mode: str) -> tuple[float, list[float]]:
    """Returns the seconds of all calls, and of each call."""
    calls: list[float] = []

    def work(number: int) -> None:
        for position, query in enumerate(measure.share(queries, threads, number)):
            began = time.perf_counter()
            matches = memory.search(query, user_id=f"user-{(number + position) % OWNERS}", mode=mode)  # type: ignore[arg-type]
            calls.append(time.perf_counter() - began)
            assert len(matches) == 10 or mode == "keyword"

    return measure.run_threads(threads, work), calls


def main() -> None:
    options = measure.arguments(__doc__, threads={"type": int, "default": 10}, texts={"type": int})
    count = options.texts or (2000 if options.full else 800)
    rounds = 5 if options.full else 2
    memories = MEMORIES
    yardstick = Yardstick(options.model, full=options.full)
    rates: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    calls: dict[str, list[float]] = {}
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        texts = measure.texts(memories, seed=2)
        for owner in range(OWNERS):
            memory.add_batch(texts, user_id=f"user-{owner}")
            memory.search("this owner is loaded before the clock starts", user_id=f"user-{owner}")
        modes = modes_of(memory)
        for number in range(rounds):
            for mode in modes:
                name = f"{mode}, distinct queries"
                queries = measure.texts(count, seed=3000 + number * 10 + MODES.index(mode))
                (seconds, each), e = yardstick.around(
                    lambda queries=queries, mode=mode: search_all(memory, queries, options.threads, mode)
                )
                rates.setdefault(name, []).append(count / seconds)
                ratios.setdefault(name, []).append(count / seconds / e)
                calls.setdefault(name, []).extend(each)
                name = f"{mode}, repeated queries"
                many = list(islice(cycle(queries[:REPEATED]), 5 * count))
                seconds, each = search_all(memory, many, options.threads, mode)
                rates.setdefault(name, []).append(len(many) / seconds)
                calls.setdefault(name, []).extend(each)
    figures: dict[str, Any] = {"E, texts a second": measure.median(yardstick.measured)}
    for name in sorted(rates, key=lambda name: ("repeated" in name, name)):
        of_e = {"of E": measure.median(ratios[name])} if name in ratios else {}
        figures[name] = {"a second": measure.median(rates[name]), **of_e, **measure.percentiles(calls[name])}
    measure.report(
        f"Searching with {options.threads} threads, {OWNERS} owners of {memories:,} memories, {options.model}",
        figures,
        options,
    )


if __name__ == "__main__":
    main()
