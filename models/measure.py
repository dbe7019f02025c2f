"""How many texts a second the session alone computes, for several model files in turns.

    python models/measure.py models/all-MiniLM-L6-v2/model.onnx float32.onnx

Random token ids without padding, so tokenising and batching are left out: it is the ceiling of a store's rate.
There is one line for each length and number of workers (threads that share one session). The figure is the
median over rounds in which the models take turns, at the best batch of each model, in brackets.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime

from build import session

BATCHES = (1, 4, 8, 16, 32)
LENGTHS = (18, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one model in one round at one batch")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    options = parser.parse_args()

    print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}")
    sessions = {path: session(path.read_bytes()) for path in options.models}
    for length in options.lengths:
        for workers in (1, 2):
            rates: dict[tuple[Path, int], list[float]] = {}
            for _ in range(options.rounds):
                for batch in options.batches:
                    for path, model in sessions.items():
                        rate = texts_a_second(model, batch, length, workers, options.seconds)
                        rates.setdefault((path, batch), []).append(rate)
            medians = {key: statistics.median(found) for key, found in rates.items()}
            for path in sessions:
                best = max(options.batches, key=lambda batch: medians[path, batch])
                alone = f"; batch 1: {medians[path, 1]:.0f}" if 1 in options.batches else ""
                print(f"{length} tokens, {workers} workers, {path}: {medians[path, best]:.0f} [{best}]{alone}")


def texts_a_second(model: onnxruntime.InferenceSession, batch: int, length: int, workers: int, seconds: float) -> float:
    ids = np.random.default_rng(batch).integers(1000, 30000, (batch, length), dtype=np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    model.run(None, given)
    done = [0] * workers
    start = time.perf_counter()

    def work(worker: int) -> None:
        while time.perf_counter() - start < seconds:
            model.run(None, given)
            done[worker] += batch

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
