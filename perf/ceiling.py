"""Measures E, the ceiling: how many texts a second the model's session embeds alone.

Texts are tokenised, sorted by length and stacked beforehand. The best batch size counts, with one run a core at a time.
No add or search through the model can be faster.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import measure
import numpy as np

from agentmem import Config
from agentmem.embedding.catalog import find_model
from agentmem.embedding.onnx_model import Model
from agentmem.platform.cpu import usable_cores

BATCHES = (1, 2, 4, 8, 16, 32, 56)

FRESH_SECONDS = 1.0
"""An older measurement of E says nothing of the machine's present speed."""

Result = TypeVar("Result")


def ceiling(
    model: Model, sentences: list[str], workers: int, batches: tuple[int, ...] = BATCHES, seconds_each: float = 0.6
) -> dict[int, float]:
    """Returns texts a second for each size of batch, with `workers` runs at the same time."""
    rows = sorted((item for item, _ in model.prepare(sentences)), key=len)
    rates = {}
    with ThreadPoolExecutor(workers) as pool:
        for size in batches:
            stacks = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
            list(pool.map(model.run, stacks[: 2 * workers]))
            # As many stacks as take about the requested time, estimated from some of all lengths.
            few = stacks[:: max(1, len(stacks) // max(2 * workers, 64 // size))]
            seconds = _seconds(model, few, workers)
            # Whole rounds, because a partial one would have the shorter texts; a part if all are alike.
            wanted = max(len(few), int(len(few) * seconds_each / seconds))
            if len(rows[0]) != len(rows[-1]):
                wanted = max(1, round(wanted / len(stacks))) * len(stacks)
            many = (stacks * (1 + wanted // len(stacks)))[:wanted]
            seconds = _seconds(model, many, workers)
            rates[size] = len(many) * size / seconds
    return rates


def _seconds(model: Model, stacks: list[list[np.ndarray]], workers: int) -> float:
    """Returns the seconds that the workers take for all stacks. A free worker takes the next stack."""
    line = iter(stacks)

    def work(_: int) -> None:
        for stack in line:  # A list's iterator gives no two threads the same item.
            model.run(stack)

    return measure.run_threads(workers, work)


class Yardstick:
    """E, measured before and after each comparison, so that both see the same machine."""

    def __init__(self, name: str, sentences: list[str] | None = None, *, full: bool) -> None:
        """`sentences` are as long as the texts of the comparison; the common ones of `measure.texts` by default."""
        self._model = Model(find_model(name), Config().providers)
        self._sentences = sentences or measure.texts(400, seed=1)
        self._seconds = 1.0 if full else 0.4
        rates = ceiling(self._model, self._sentences, usable_cores(), BATCHES[2:], self._seconds / 2)
        self._sizes = tuple(sorted(rates, key=rates.__getitem__)[-2:])
        self._latest, self._moment = 0.0, 0.0
        self.measured: list[float] = []

    def measure(self) -> float:
        self._latest = max(ceiling(self._model, self._sentences, usable_cores(), self._sizes, self._seconds).values())
        self._moment = time.monotonic()
        self.measured.append(self._latest)
        return self._latest

    def around(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """Returns the result of the work, and the mean of E before and after it."""
        before = self._latest if time.monotonic() - self._moment < FRESH_SECONDS else self.measure()
        result = work()
        return result, (before + self.measure()) / 2


def main() -> None:
    options = measure.arguments(__doc__)
    model = Model(find_model(options.model), Config().providers)
    figures = {}
    for words in (4, 16) if not options.full else (4, 6, 16, 64, 200):
        sentences = measure.texts(2000 if words <= 16 else 200, words=words)
        for workers in sorted({1, usable_cores()}):
            rates = ceiling(model, sentences, workers, seconds_each=1.5 if options.full else 0.3)
            figures[f"{words + 2} tokens, {workers} at a time"] = {
                "E": max(rates.values()),
                **{f"batch {size}": rate for size, rate in rates.items()},
            }
    measure.report(f"Ceiling of {options.model}, texts a second", figures, options)


if __name__ == "__main__":
    main()
