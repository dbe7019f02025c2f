"""E, the ceiling: how many texts a second the model's session embeds by itself.

Texts are tokenised and stacked beforehand, all of one length, best size of batch, one run a core at a time. Nothing that
adds or searches through the model can be faster.
"""

from concurrent.futures import ThreadPoolExecutor

import measure
import numpy as np

from agentmem.embedding.catalog import find_model
from agentmem.embedding.cores import usable_cores
from agentmem.embedding.model import Model

BATCHES = (1, 2, 4, 8, 16, 32, 56)


def ceiling(
    model: Model, sentences: list[str], workers: int, batches: tuple[int, ...] = BATCHES, seconds_each: float = 0.6
) -> dict[int, float]:
    """Texts a second for each size of batch, with `workers` runs at the same time."""
    rows = [model.prepare(text)[0] for text in sentences]
    lengths = {len(row) for row in rows}
    assert len(lengths) == 1, f"texts of several lengths: {sorted(lengths)}"
    rates = {}
    with ThreadPoolExecutor(workers) as pool:
        for size in batches:
            stacks = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
            list(pool.map(model.run, stacks[: 2 * workers]))
            # As many stacks as take about the time asked for, going by the first few.
            few = stacks[: max(2 * workers, 64 // size)]
            seconds = measure.run_threads(workers, lambda number: _run_all(model, measure.share(few, workers, number)))
            wanted = max(len(few), int(len(few) * seconds_each / seconds))
            many = (stacks * (1 + wanted // len(stacks)))[:wanted]
            seconds = measure.run_threads(workers, lambda number: _run_all(model, measure.share(many, workers, number)))
            rates[size] = len(many) * size / seconds
    return rates


def _run_all(model: Model, stacks: list[list[np.ndarray]]) -> None:
    for stack in stacks:
        model.run(stack)


def main() -> None:
    options = measure.arguments(__doc__, model={"default": "all-MiniLM-L6-v2"})
    model = Model(find_model(options.model), ("CPUExecutionProvider",))
    figures = {}
    for words in (4, 16) if not options.full else (4, 6, 16, 64, 200):
        sentences = measure.texts(2000, words=words)
        for workers in sorted({1, usable_cores()}):
            rates = ceiling(model, sentences, workers)
            figures[f"{words + 2} tokens, {workers} at a time"] = {
                "E": max(rates.values()),
                **{f"batch {size}": rate for size, rate in rates.items()},
            }
    measure.report(f"Ceiling of {options.model}, texts a second", figures, options)


if __name__ == "__main__":
    main()
