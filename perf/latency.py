"""Measures how long a lone caller waits for one add and one search, beyond the embedding itself.

One thread makes one call at a time, for an owner of 1,000 memories. The session alone embeds the same texts in between.
"""

import time
from collections.abc import Callable
from typing import Any

import measure

from agentmem import Memory
from agentmem.embedding.catalog import find_model
from agentmem.embedding.onnx_model import Model


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    options = measure.arguments(__doc__)
    rounds = 2000 if options.full else 200
    model = Model(find_model(options.model), ("CPUExecutionProvider",))
    sentences = measure.texts(1000 + 3 * rounds, seed=7)
    owner, rest = sentences[:1000], iter(sentences[1000:])
    times: dict[str, list[float]] = {"embedding alone": [], "add": [], "search": [], "search, known query": []}
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        memory.add_batch(owner, user_id="ana")
        memory.search("the index is loaded before the clock starts", user_id="ana")
        for _ in range(rounds):
            text = next(rest)
            times["embedding alone"].append(timed(lambda text=text: model.run([model.prepare([text])[0][0]])))
            text = next(rest)
            times["add"].append(timed(lambda text=text: memory.add(text, user_id="ben")))
            text = next(rest)
            times["search"].append(timed(lambda text=text: memory.search(text, user_id="ana")))
            times["search, known query"].append(timed(lambda text=text: memory.search(text, user_id="ana")))
    figures: dict[str, Any] = {name: measure.percentiles(each) for name, each in times.items()}
    alone = measure.median(times["embedding alone"])
    for name in ("add", "search"):
        figures[f"{name} beyond embedding, median"] = {"ms": (measure.median(times[name]) - alone) * 1000}
    measure.report(f"A lone caller, {rounds:,} calls each, milliseconds", figures, options)


if __name__ == "__main__":
    main()
