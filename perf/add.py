"""Measures how many texts a second threads add, durable in a file and findable when `add` returns.

The texts are distinct: for each round and number of threads a new store takes them. The ceiling E is measured before
and after. `--known` measures texts that the store has seen before: from the cache in memory, and in a process that has
just opened the store. Figures are medians over the rounds; the latencies are of all calls.
"""

import argparse
import shutil
import time
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import Config, Memory

REPEATS = 10
"""How often each known text is added: such adds are fast, and a run should last a while."""


def add_all(memory: Memory, sentences: list[str], threads: int) -> tuple[float, list[float]]:
    """Returns the seconds of all calls, and of each call."""
    calls: list[float] = []

    def work(number: int) -> None:
        for text in measure.share(sentences, threads, number):
            began = time.perf_counter()
            memory.add(text, user_id=f"user-{number}")
            calls.append(time.perf_counter() - began)

    before = memory.count(all_scopes=True)
    seconds = measure.run_threads(threads, work)
    assert memory.count(all_scopes=True) == before + len(sentences)
    return seconds, calls


def add_distinct(
    options: argparse.Namespace, sentences: list[str], threads: int
) -> tuple[float, list[float], dict[str, float]]:
    """Returns the result of `add_all` in a new store, and the work of the collector and the commits."""
    config = Config(durability=options.durability)
    with measure.temporary_store() as path, Memory(path, model=options.model, config=config) as memory:
        memory.add("the model is loaded before the clock starts", user_id="nobody")
        before = memory.stats()
        seconds, calls = add_all(memory, sentences, threads)
        after = memory.stats()
    embedded, earlier = after.embedding, before.embedding
    return seconds, calls, {
        "texts/batch": (embedded.texts - earlier.texts) / (embedded.batches - earlier.batches),
        "padding": embedded.padded_tokens / embedded.tokens,
        "rows/commit": (after.store.writes - before.store.writes) / (after.store.commits - before.store.commits),
        "busy": (embedded.run_seconds - earlier.run_seconds) / seconds / embedded.workers,
    }  # fmt: skip


def distinct(options: argparse.Namespace, count: int, rounds: int) -> dict[str, Any]:
    yardstick = Yardstick(options.model, full=options.full)
    rates: dict[int, list[float]] = {threads: [] for threads in options.threads}
    ratios: dict[int, list[float]] = {threads: [] for threads in options.threads}
    calls: dict[int, list[float]] = {threads: [] for threads in options.threads}
    shapes: dict[int, dict[str, float]] = {}
    for number in range(rounds):
        for threads in options.threads:
            sentences = measure.texts(count, seed=1000 + number * 100 + threads)
            (seconds, each, shapes[threads]), e = yardstick.around(
                lambda sentences=sentences, threads=threads: add_distinct(options, sentences, threads)
            )
            rates[threads].append(count / seconds)
            ratios[threads].append(count / seconds / e)
            calls[threads] += each
    figures: dict[str, Any] = {"E, texts a second": measure.median(yardstick.measured)}
    for threads in options.threads:
        figures[measure.threads(threads)] = {
            "a second": measure.median(rates[threads]), "of E": measure.median(ratios[threads]),
            **measure.percentiles(calls[threads]), **shapes[threads],
        }  # fmt: skip
    return figures


def known(options: argparse.Namespace, count: int, rounds: int) -> dict[str, Any]:
    sentences = measure.texts(count, seed=5)
    config = Config(durability=options.durability)
    rates: dict[str, list[float]] = {}
    calls: dict[str, list[float]] = {}

    def kept(name: str, texts: int, measured: tuple[float, list[float]]) -> None:
        rates.setdefault(name, []).append(texts / measured[0])
        calls.setdefault(name, []).extend(measured[1])

    with measure.temporary_store() as seen:
        with Memory(seen, model=options.model) as memory:
            memory.add_batch(sentences, user_id="somebody")
        for _ in range(rounds):
            for threads in options.threads:
                with measure.temporary_store() as path:
                    shutil.copy(seen, path)
                    with Memory(path, model=options.model, config=config) as memory:
                        memory.add("the model is loaded before the clock starts", user_id="nobody")
                        kept(
                            f"known to the store, {measure.threads(threads)}",
                            count,
                            add_all(memory, sentences, threads),
                        )
                        many = sentences * REPEATS
                        kept(f"known in memory, {measure.threads(threads)}", len(many), add_all(memory, many, threads))
                        stats = memory.stats().embedding
                        assert stats.texts - stats.store_hits < count / 10, "known texts went to the model"
    return {name: {"a second": measure.median(rates[name]), **measure.percentiles(calls[name])} for name in rates}


def main() -> None:
    options = measure.arguments(
        __doc__, texts={"type": int}, rounds={"type": int}, known={"action": "store_true"},
        threads={"type": int, "nargs": "+", "default": [1, 10, 50]}, durability={"default": "full"},
    )  # fmt: skip
    count = options.texts or (
        2000 if options.full and options.known else 5000 if options.full else 500 if options.known else 1000
    )
    rounds = options.rounds or (5 if options.full else 2)
    kind = "known" if options.known else "distinct"
    figures = (known if options.known else distinct)(options, count, rounds)
    measure.report(
        f"Adding {count:,} {kind} texts of {measure.WORDS_A_TEXT + 2} tokens, {options.model}, {options.durability}",
        figures,
        options,
    )


if __name__ == "__main__":
    main()
