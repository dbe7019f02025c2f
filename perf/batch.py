"""Measures the rate of a long `add_batch`, and how long the searches of another thread wait meanwhile.

First the batch runs alone, in proportion to the ceiling E. Then one thread searches for one new query after the other,
with a pause of 50 ms after each answer. Its latencies stand beside those of the same thread with nothing else at work.
"""

import threading
import time
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import Memory

PAUSE_SECONDS = 0.05
IDLE_SECONDS = 3.0


class Searcher:
    """Searches from a thread of its own, as long as the block lasts."""

    def __init__(self, memory: Memory, queries: list[str]) -> None:
        self._memory = memory
        self._queries = queries
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.calls: list[float] = []
        self._failure: BaseException | None = None

    def _work(self) -> None:
        try:
            for query in self._queries:
                if self._over.wait(PAUSE_SECONDS):
                    return
                began = time.perf_counter()
                self._memory.search(query, user_id="ana")
                self.calls.append(time.perf_counter() - began)
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> "Searcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def add_batch(memory: Memory, sentences: list[str], user: str) -> float:
    """Returns texts a second."""
    began = time.perf_counter()
    memory.add_batch(sentences, user_id=user)
    return len(sentences) / (time.perf_counter() - began)


def main() -> None:
    options = measure.arguments(__doc__, texts={"type": int})
    count = options.texts or (20_000 if options.full else 1500)
    rounds = 5 if options.full else 1
    yardstick = Yardstick(options.model, full=options.full)
    queries = iter(measure.texts(40_000, words=8, seed=7))
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        memory.add_batch(measure.texts(1000, seed=2), user_id="ana")
        memory.search("this owner is loaded before the clock starts", user_id="ana")

        def idle() -> list[float]:
            with Searcher(memory, [next(queries) for _ in range(10_000)]) as searcher:
                time.sleep(IDLE_SECONDS)
            return searcher.calls

        def together(sentences: list[str]) -> tuple[float, list[float]]:
            with Searcher(memory, [next(queries) for _ in range(10_000)]) as searcher:
                rate = add_batch(memory, sentences, "cid")
            return rate, searcher.calls

        calls = idle()
        rates, ratios = [], []
        for number in range(rounds):
            sentences = measure.texts(count // rounds, seed=80 + number)
            rate, e = yardstick.around(lambda sentences=sentences: add_batch(memory, sentences, "ben"))
            rates.append(rate)
            ratios.append(rate / e)
        (with_searches, meanwhile), e_then = yardstick.around(lambda: together(measure.texts(count, seed=9)))
        calls += idle()
        assert memory.check() == []
    figures: dict[str, Any] = {
        "E, texts a second": measure.median(yardstick.measured),
        "add_batch": {"a second": measure.median(rates), "of E": measure.median(ratios)},
        "add_batch, a thread searches meanwhile": {"a second": with_searches, "of E": with_searches / e_then},
        "search, nothing else at work": {**measure.percentiles(calls), "calls": len(calls)},
        "search, during the batch": {**measure.percentiles(meanwhile), "calls": len(meanwhile)},
    }
    measure.report(f"A batch of {count:,} distinct texts, {options.model}, full", figures, options)


if __name__ == "__main__":
    main()
