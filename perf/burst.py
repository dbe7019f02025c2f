"""Measures a burst of adds with a model that has a fast half, and what follows it.

Each add is durable in a file, and found by words and by the fast half of its meaning, when it returns. After the burst
every text is sought by meaning, from another thread and from another process, before it is refined. Then the store is
left alone until all whole vectors are made. E is the ceiling of the whole model. Figures are medians over the rounds;
the latencies are of all calls.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import measure
from ceiling import Yardstick

from agentmem import Config, Memory

MODEL = "minilm-mixed"

FLUSH_SECONDS = 600.0


def missed(memory: Memory, sentences: list[str], threads: int) -> int:
    """Returns how many of the texts that the threads have added are not the first match of their own text."""
    lacking: list[str] = []

    def work(number: int) -> None:
        for text in measure.share(sentences, threads, number):
            found = memory.search(text, user_id=f"user-{number}", mode="vector", effort="fast", limit=1)
            if [match.content for match in found] != [text]:
                lacking.append(text)

    measure.run_threads(threads, work)
    return len(lacking)


def missed_elsewhere(path: str, options: argparse.Namespace, count: int, seed: int, threads: int) -> int:
    """Returns the same, from a process that opens the store and embeds nothing in the background."""
    command = [sys.executable, __file__, "--model", options.model, "--look", path]
    command += ["--texts", str(count), "--seed", str(seed), "--threads", str(threads)]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def burst(
    options: argparse.Namespace, count: int, seed: int, threads: int, *, look: bool
) -> tuple[dict[str, float], list[float]]:
    sentences = measure.texts(count, seed=seed)
    calls: list[float] = []
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        memory.add("the model is loaded before the clock starts", user_id="nobody")
        memory.flush(FLUSH_SECONDS)

        def work(number: int) -> None:
            for text in measure.share(sentences, threads, number):
                began = time.perf_counter()
                memory.add(text, user_id=f"user-{number}")
                calls.append(time.perf_counter() - began)

        used = time.process_time()
        seconds = measure.run_threads(threads, work)
        used = time.process_time() - used
        stats = memory.stats()
        figures = {
            "a second": count / seconds, "CPU us a call": used / count * 1e6,
            "rows/commit": stats.store.writes / stats.store.commits, "pending": float(stats.store.pending),
        }  # fmt: skip
        if look:
            figures["missed in another process"] = missed_elsewhere(path, options, count, seed, threads)
            figures["missed in other threads"] = missed(memory, sentences, threads)
            return figures, calls
        began = time.perf_counter()
        memory.flush(FLUSH_SECONDS)
        drained = time.perf_counter() - began
        figures |= {"refined a second, alone": stats.store.pending / drained, "seconds until all is refined": drained}
        return figures, calls


def main() -> None:
    measure.MODEL = MODEL
    options = measure.arguments(
        __doc__, texts={"type": int}, rounds={"type": int}, threads={"type": int, "nargs": "+"},
        look={"help": argparse.SUPPRESS},
        seed={"type": int, "help": argparse.SUPPRESS},
    )  # fmt: skip
    count = options.texts or (20_000 if options.full else 2_000)
    if options.look:
        with Memory(options.look, model=options.model, config=Config(refine="never")) as memory:
            print(missed(memory, measure.texts(count, seed=options.seed), options.threads[0]))
        return
    rounds = options.rounds or (5 if options.full else 2)
    yardstick = Yardstick(options.model, full=options.full)
    figures: dict[str, Any] = {"E, texts a second": 0.0}
    chosen = options.threads or [1, 10, 50]
    rows: dict[int, list[dict[str, float]]] = {threads: [] for threads in chosen}
    calls: dict[int, list[float]] = {threads: [] for threads in chosen}
    for number in range(rounds):
        for threads in chosen:
            yardstick.measure()
            row, each = burst(options, count, 1000 + number * 100 + threads, threads, look=False)
            rows[threads].append(row)
            calls[threads] += each
    figures["E, texts a second"] = measure.median(yardstick.measured)
    for threads in chosen:
        medians = {name: measure.median([row[name] for row in rows[threads]]) for name in rows[threads][0]}
        figures[measure.threads(threads)] = medians | measure.percentiles(calls[threads])
    for threads in chosen:
        looked, _ = burst(options, count, 1 + threads, threads, look=True)
        figures[f"sought, {measure.threads(threads)}"] = {k: v for k, v in looked.items() if k.startswith("missed")}
    measure.report(f"A burst of {count:,} adds, {options.model}", figures, options)


if __name__ == "__main__":
    main()
