"""Measures the reasons for the values of `batch_tokens`, the chunk and the number of workers.

The first two: a long `add_batch` of texts of all lengths runs while a thread searches, with one value after the other
in alternating rounds; medians. Larger batches and chunks must gain more than they cost a waiting search.

The workers: this machine has few cores, so more are simulated. An embedder that computes nothing sleeps as long as a
model run would take on a core of its own (`MILLISECONDS_A_TEXT`), without the GIL. That shows how many such cores the
collector and the store could feed.
"""

import random
import time
from dataclasses import replace
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
from batch import Searcher, add_batch

from agentmem import Config, Memory
from agentmem.engine import writer as batches

SETTINGS: dict[str, tuple[Any, ...]] = {
    "batch_tokens": (80, 160, 320, 640, 1280),
    "chunk": (64, 256, 1024),
}
WORKERS = (1, 2, 4, 8, 16, 32, 64)
MILLISECONDS_A_TEXT = 1.5


class Asleep:
    """A model on cores that this machine does not have."""

    identity = "asleep"
    dimension = 384

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        time.sleep(len(texts) * MILLISECONDS_A_TEXT / 1000)
        return np.full((len(texts), self.dimension), 0.05, np.float32)


def texts_of_all_lengths(count: int, seed: int) -> list[str]:
    """Texts of 3 to 100 words, most of them short."""
    numbers = random.Random(seed)
    lengths = [min(100, 3 + int(numbers.expovariate(1 / 15))) for _ in range(count)]
    return [
        text for n, words in enumerate(lengths) for text in measure.texts(1, words=words, seed=seed * 1_000_000 + n)
    ]


def long_batch(model: str, setting: str, value: Any, count: int, seed: int) -> tuple[float, list[float]]:
    """Returns texts a second, and the seconds of each search meanwhile."""
    config = Config() if setting == "chunk" else replace(Config(), **{setting: value})
    usual = batches.CHUNK
    if setting == "chunk":
        batches.CHUNK = value
    try:
        with measure.temporary_store() as path, Memory(path, model=model, config=config) as memory:
            memory.add_batch(measure.texts(200, seed=2), user_id="ana")
            memory.search("this owner is loaded before the clock starts", user_id="ana")
            with Searcher(memory, measure.texts(2000, words=8, seed=seed)) as searcher:
                rate = add_batch(memory, texts_of_all_lengths(count, seed), "ben")
            return rate, searcher.calls
    finally:
        batches.CHUNK = usual


def simulated(workers: int, count: int) -> dict[str, float]:
    """Returns texts a second through `add_batch`, and through `add` from 100 threads."""
    texts = measure.texts(2 * count, seed=workers)
    with (
        measure.temporary_store() as path,
        Memory(path, embedder=Asleep(), config=Config(workers=workers, batch_tokens=320)) as memory,
    ):
        batch = add_batch(memory, texts[:count], "ana")

        def work(number: int) -> None:
            for text in measure.share(texts[count:], 100, number):
                memory.add(text, user_id=f"user-{number}")

        return {"add_batch": batch, "add, 100 threads": count / measure.run_threads(100, work)}


def main() -> None:
    options = measure.arguments(__doc__)
    count, rounds = (1000, 5) if options.full else (300, 1)
    figures: dict[str, Any] = {}
    for setting, values in SETTINGS.items():
        results: dict[Any, list[tuple[float, list[float]]]] = {value: [] for value in values}
        for seed in range(rounds):
            for value in values:
                results[value].append(long_batch(options.model, setting, value, count, seed))
        for value, measured in results.items():
            calls = [call for _, each in measured for call in each]
            rate = measure.median([each for each, _ in measured])
            figures[f"{setting} = {value}"] = {"texts a second": rate, "searches": measure.percentiles(calls)}
    for workers in WORKERS:
        some = count * min(8, max(1, workers // 4)) // 2
        figures[f"{workers} simulated workers"] = {
            "could": workers * 1000 / MILLISECONDS_A_TEXT,
            **simulated(workers, some),
        }
    measure.report(f"What the settings do, {options.model}", figures, options)


if __name__ == "__main__":
    main()
