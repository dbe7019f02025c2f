"""What `scale.py --one-owner` asks: is the right thing found among all memories of one owner, and how fast?

What is right is computed here from the vectors of the embedder, not by the library. As a fifth of the texts stand there
several times, and vectors are stored in 16 bits, a match counts as right if its vector is as near as the tenth nearest
of all.
"""

import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import measure
import numpy as np
from synthetic import TopicEmbedder, World, name_of

from agentmem import Memory

OWNER = name_of(0)
ONE_PERCENT = {"n": 7}
"""What a filter keeps of the world's memories, whose `n` is their number modulo 100."""
BEST = 10
ROUNDING = 2e-3
"""Of a cosine whose vectors have 16 bits a number."""
TOGETHER = 8192


def nearest(world: World, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cosine of the tenth nearest memory to each query, of all memories and of those that the filter keeps."""
    embedder, items = TopicEmbedder(), world.items()
    best = np.full((2, len(queries), BEST), -1.0, np.float32)
    while chunk := list(islice(items, TOGETHER)):
        cosines = queries @ embedder.embed([item["content"] for item in chunk]).T
        kept = np.array([item["metadata"]["n"] == ONE_PERCENT["n"] for item in chunk])
        for place, some in enumerate((cosines, cosines[:, kept])):
            both = np.concatenate((best[place], some), axis=1)
            best[place] = np.partition(both, both.shape[1] - BEST, axis=1)[:, -BEST:]
    return best[0].min(axis=1), best[1].min(axis=1)


def recall(memory: Memory, texts: list[str], least: np.ndarray, filters: dict[str, Any] | None) -> float:
    """The mean share of the ten matches that are as near as the tenth nearest memory."""
    shares = []
    for text, bar in zip(texts, least.tolist(), strict=True):
        matches = memory.search(text, user_id=OWNER, mode="vector", limit=BEST, filters=filters)
        shares.append(sum(match.score >= bar - ROUNDING for match in matches) / BEST)
    return sum(shares) / len(shares)


def times(memory: Memory, texts: list[str], **arguments: Any) -> list[float]:
    spent = []
    for text in texts:
        began = time.perf_counter()
        memory.search(text, user_id=OWNER, **arguments)
        spent.append(time.perf_counter() - began)
    return spent


def times_while_adding(memory: Memory, world: World, texts: list[str], threads: int = 4) -> tuple[list[float], float]:
    """Of searches while some threads add to the same owner, and how many they added a second."""
    end = threading.Event()
    added = [0] * threads

    def add(number: int) -> None:
        seed = 50 + number
        while not end.is_set():
            for text in world.fresh([0] * 100, seed):
                if end.is_set():
                    break
                memory.add(text, user_id=OWNER, run_id=f"added by {number}")
                added[number] += 1
            seed += threads

    adders = [threading.Thread(target=add, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for adder in adders:
        adder.start()
    try:
        spent = times(memory, texts)
    finally:
        end.set()
        for adder in adders:
            adder.join()
    return spent, sum(added) / (time.perf_counter() - began)


def figures_of(path: Path, world: World, full: bool) -> dict[str, Any]:
    """The costs of one store; the last question adds to it, and so it is asked of a copy."""
    from scale import copied  # It imports this module.

    texts = world.queries([0] * (200 if full else 50), 20)
    embedder = TopicEmbedder()
    all_nearest, kept_nearest = nearest(world, embedder.embed(texts))
    stored = [item["content"] for item in islice(world.items(), 0, world.size, max(1, world.size // (10 * len(texts))))]
    with copied(path) as copy, Memory(copy, embedder=embedder) as memory:
        memory.search_batch(texts, user_id="nobody")  # Now their vectors are cached.
        began = time.perf_counter()
        memory.search(texts[0], user_id=OWNER)
        figures: dict[str, Any] = {"first search": {"ms": (time.perf_counter() - began) * 1000}}
        for mode in ("vector", "hybrid"):
            figures[f"search, {mode}"] = measure.percentiles(times(memory, texts, mode=mode))
        figures["search, filter that keeps 1 %"] = measure.percentiles(times(memory, texts, filters=ONE_PERCENT))
        figures["R@10 against exact"] = recall(memory, texts, all_nearest, None)
        figures["R@10 against exact, with the filter"] = recall(memory, texts, kept_nearest, ONE_PERCENT)
        found = [memory.search(text, user_id=OWNER, mode="vector", limit=1) for text in stored]
        figures["find themselves"] = sum(bool(one) and one[0].score > 1 - ROUNDING for one in found) / len(found)
        spent, rate = times_while_adding(memory, world, texts)
        figures["search, while 4 threads add"] = measure.percentiles(spent) | {"adds a second": rate}
        figures["MiB of shelves"] = memory.stats().shelf_bytes / 2**20
    return figures
