"""Measures the rate of deferred adds, and the rate at which the background embeds them.

50 threads add distinct texts with `defer=True`, durable in a file; one call adds as many with `add_batch(defer=True)`.
After each, `flush` waits for the vectors. The rate is the number pending at that moment over the seconds of `flush`, in
proportion to the ceiling E.
"""

import time
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import Memory

THREADS = 50


def add_and_flush(model: str, sentences: list[str], *, batch: bool) -> dict[str, Any]:
    """Returns adds a second, the seconds of each call, and embeddings a second afterwards."""
    calls: list[float] = []
    with measure.temporary_store() as path, Memory(path, model=model) as memory:
        memory.add("the model is loaded before the clock starts", user_id="nobody")

        def work(number: int) -> None:
            for text in measure.share(sentences, THREADS, number):
                began = time.perf_counter()
                memory.add(text, user_id=f"user-{number}", defer=True)
                calls.append(time.perf_counter() - began)

        if batch:
            began = time.perf_counter()
            memory.add_batch(sentences, user_id="ana", defer=True)
            seconds = time.perf_counter() - began
        else:
            seconds = measure.run_threads(THREADS, work)
        began = time.perf_counter()
        pending = memory.stats().store.pending
        memory.flush(timeout=3600)
        flushed = time.perf_counter() - began
        stats = memory.stats()
        assert stats.store.pending == stats.store.pending_failed == 0
        assert stats.store.memories == len(sentences) + 1
    return {"adds": len(sentences) / seconds, "calls": calls, "pending": pending, "embedded": pending / flushed}


def main() -> None:
    options = measure.arguments(__doc__, texts={"type": int})
    count = options.texts or (5000 if options.full else 1500)
    rounds = 5 if options.full else 1
    yardstick = Yardstick(options.model, full=options.full)
    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for batch, name in ((False, f"add(defer=True), {THREADS} threads"), (True, "add_batch(defer=True)")):
            sentences = measure.texts(count, seed=6000 + 2 * number + batch)
            run, e = yardstick.around(
                lambda sentences=sentences, batch=batch: add_and_flush(options.model, sentences, batch=batch)
            )
            runs.setdefault(name, []).append({**run, "ratio": run["embedded"] / e})
    figures: dict[str, Any] = {"E, texts a second": measure.median(yardstick.measured)}
    for name, several in runs.items():
        calls = [seconds for run in several for seconds in run["calls"]]
        figures[name] = {
            "a second": measure.median([run["adds"] for run in several]),
            **(measure.percentiles(calls) if calls else {}),
        }
        figures[f"{name}: the background afterwards"] = {
            "a second": measure.median([run["embedded"] for run in several]),
            "of E": measure.median([run["ratio"] for run in several]),
            "texts": measure.median([run["pending"] for run in several]),
        }
    measure.report(f"Deferring {count:,} distinct texts, {options.model}, full", figures, options)


if __name__ == "__main__":
    main()
