"""How many distinct texts a second can threads add, durable in a file and findable when `add` returns?

For each round and number of threads a new store takes the texts; the ceiling E is measured in the same rounds, between
them, so that both see the same machine. Figures are medians over the rounds.
"""

import time

import measure
from ceiling import ceiling

from agentmem import Config, Memory
from agentmem.embedding.catalog import find_model
from agentmem.embedding.cores import usable_cores
from agentmem.embedding.model import Model

WORDS = 16


def add_all(
    model: str, sentences: list[str], threads: int, config: Config
) -> tuple[float, list[float], dict[str, float]]:
    """Seconds for all, seconds of each call, and what the collector and the commits did."""
    with measure.temporary_store() as path, Memory(path, model=model, config=config) as memory:
        memory.add("the model is loaded before the clock starts", user_id="nobody")
        calls: list[float] = []

        def work(number: int) -> None:
            for text in measure.share(sentences, threads, number):
                began = time.perf_counter()
                memory.add(text, user_id=f"user-{number}")
                calls.append(time.perf_counter() - began)

        seconds = measure.run_threads(threads, work)
        assert memory.count(all_scopes=True) == len(sentences) + 1
        stats = memory.stats()
        shape = {
            "texts/batch": stats.texts / stats.batches,
            "padding": stats.padded_tokens / stats.tokens,
            "rows/commit": stats.writes / stats.commits,
            "busy": stats.run_seconds / seconds / stats.workers,
        }
        return seconds, calls, shape


def main() -> None:
    options = measure.arguments(
        __doc__, model={"default": "all-MiniLM-L6-v2"}, texts={"type": int}, rounds={"type": int},
        threads={"type": int, "nargs": "+", "default": [1, 10, 50]}, durability={"default": "full"},
    )  # fmt: skip
    count = options.texts or (5000 if options.full else 1000)
    rounds = options.rounds or (5 if options.full else 3)
    config = Config(durability=options.durability)
    model = Model(find_model(options.model), config.providers)
    ceilings: list[float] = []
    rates: dict[int, list[float]] = {threads: [] for threads in options.threads}
    ratios: dict[int, list[float]] = {threads: [] for threads in options.threads}
    calls: dict[int, list[float]] = {threads: [] for threads in options.threads}
    shapes: dict[int, dict[str, float]] = {}
    for number in range(rounds):
        for threads in options.threads:
            some = measure.texts(400, words=WORDS, seed=1000 + number)
            before = max(ceiling(model, some, usable_cores(), (8, 16, 32)).values())
            sentences = measure.texts(count, words=WORDS, seed=number * 100 + threads)
            seconds, each, shapes[threads] = add_all(options.model, sentences, threads, config)
            after = max(ceiling(model, some, usable_cores(), (8, 16, 32)).values())
            ceilings += [before, after]
            rates[threads].append(count / seconds)
            ratios[threads].append(count / seconds / ((before + after) / 2))
            calls[threads] += each
    figures: dict[str, object] = {"E, texts a second": measure.median(ceilings)}
    for threads in options.threads:
        figures[f"{threads} threads"] = {
            "a second": measure.median(rates[threads]), "of E": measure.median(ratios[threads]),
            **measure.percentiles(calls[threads]), **shapes[threads],
        }  # fmt: skip
    measure.report(
        f"Adding {count:,} distinct texts of {WORDS + 2} tokens, {options.model}, {options.durability}",
        figures,
        options,
    )


if __name__ == "__main__":
    main()
