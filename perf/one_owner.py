"""The measurements of `scale.py --one-owner`: recall and speed among all memories of one owner.

The right matches are computed here from the embedder's vectors, and not by the library. A fifth of the texts occur
several times, and vectors are stored in 16 bits. So a match counts as right if its vector is as near as the tenth
nearest of all.
"""

import json
import subprocess
import sys
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
"""A filter that keeps one memory in a hundred: a memory's `n` is its number modulo 100."""
BEST = 10
ROUNDING = 2e-3
"""The error of a cosine of vectors with 16 bits a value."""
TOGETHER = 8192
MODES = ("vector", "keyword", "hybrid")
MORE = 140_000
"""A number of memories that fills more than two segments."""


def nearest(world: World, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosine of the tenth nearest memory to each query, of all memories and of those that the filter
    keeps."""
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
    """Returns the mean share of the ten matches that are as near as the tenth nearest memory."""
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
    """Returns the seconds of searches while some threads add to the same owner, and the adds a second."""
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


def sealed_graphs(memory: Memory) -> tuple[int, int]:
    """Returns the number of segments with a graph, and of all segments."""
    with memory._engine.store.snapshot() as snapshot:
        listed = snapshot.listed_segments(("user_id", OWNER))
    return sum(bool(each.has_graph) for each in listed), len(listed)


def resident_kinds() -> dict[str, float]:
    """Returns MiB of this process: its own memory, and pages of mapped files, which the system may reclaim."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile") if name in fields}


def sealing(memory: Memory, texts: list[str]) -> dict[str, Any]:
    """Returns the times of an owner's first search, of searches until its graphs are there, and the rate of building
    them."""
    figures: dict[str, Any] = {}
    began = time.perf_counter()
    memory.search(texts[0], user_id=OWNER)
    figures["first search of all"] = {"ms": (time.perf_counter() - began) * 1000, **resident_kinds()}
    graphs, segments = sealed_graphs(memory)
    figures["segments"] = segments
    began, cpu = time.perf_counter(), time.process_time()
    if graphs < segments:
        for mode in MODES:
            figures[f"search, {mode}, no graphs yet"] = measure.percentiles(times(memory, texts, mode=mode))
        began, cpu, graphs = time.perf_counter(), time.process_time(), sealed_graphs(memory)[0]
    memory._engine.index_cache.seal()
    vectors = sum(len(part.segment.vectors) for part in memory._engine.index_cache._indexes["user_id", OWNER]._parts)
    share = (segments - graphs) / max(1, segments)
    figures["graphs, vectors a second"] = {
        "clock": vectors * share / (time.perf_counter() - began),
        "processor": vectors * share / (time.process_time() - cpu),
    }
    return figures


def first_of_process(path: Path, text: str) -> dict[str, float]:
    """Returns the time of a new process's first search in an owner that has segments."""
    code = (
        "import time, json; from agentmem import Memory; import one_owner; from synthetic import TopicEmbedder\n"
        f"memory = Memory({str(path)!r}, embedder=TopicEmbedder()); memory.search({text!r}, user_id='nobody')\n"
        f"began = time.perf_counter(); memory.search({text!r}, user_id=one_owner.OWNER)\n"
        "print(json.dumps({'ms': (time.perf_counter() - began) * 1000, **one_owner.resident_kinds()})); memory.close()"
    )
    environment = {"PYTHONPATH": f"{measure.ROOT}:{measure.ROOT / 'perf'}"}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
        for _ in range(3)
    ]
    return sorted((json.loads(run.stdout) for run in runs), key=lambda figures: figures["ms"])[1]


def figures_of(path: Path, world: World, full: bool) -> dict[str, Any]:
    """Returns the costs of one store. Some questions add to it, so they use a copy."""
    from scale import copied  # That module imports this one.

    texts = world.queries([0] * (200 if full else 50), 20)
    embedder = TopicEmbedder()
    all_nearest, kept_nearest = nearest(world, embedder.embed(texts))
    stored = [item["content"] for item in islice(world.items(), 0, world.size, max(1, world.size // (10 * len(texts))))]
    with copied(path) as copy:
        with Memory(copy, embedder=embedder) as memory:
            memory.search_batch(texts, user_id="nobody")  # Their vectors are cached now.
            figures = sealing(memory, texts)
        figures["first search of a process"] = first_of_process(copy, texts[0])
        with Memory(copy, embedder=embedder) as memory:
            memory.search_batch(texts, user_id="nobody")
            memory.search(texts[0], user_id=OWNER)
            for mode in MODES:
                figures[f"search, {mode}"] = measure.percentiles(times(memory, texts, mode=mode))
            began = time.perf_counter()
            memory.search(texts[0], user_id=OWNER, filters=ONE_PERCENT)
            figures["first search with a filter that keeps 1 %"] = {"ms": (time.perf_counter() - began) * 1000}
            figures["search, filter that keeps 1 %"] = measure.percentiles(times(memory, texts, filters=ONE_PERCENT))
            figures["R@10 against exact"] = recall(memory, texts, all_nearest, None)
            figures["R@10 against exact, with the filter"] = recall(memory, texts, kept_nearest, ONE_PERCENT)
            found = [memory.search(text, user_id=OWNER, mode="vector", limit=1) for text in stored]
            figures["find themselves"] = sum(bool(one) and one[0].score > 1 - ROUNDING for one in found) / len(found)
            # Two more segments, whose graphs are built while others add.
            more = world.fresh([0] * MORE, 19)
            memory.add_batch({"content": text, "user_id": OWNER, "run_id": "more"} for text in more)
            memory.search(texts[0], user_id=OWNER)
            spent, rate = times_while_adding(memory, world, texts * 2)  # More, because they differ more.
            graphs, segments = sealed_graphs(memory)
            figures["search, while 4 threads add and graphs are built"] = measure.percentiles(spent) | {
                "adds a second": rate, "graphs missing": segments - graphs,
            }  # fmt: skip
            figures["MiB of indexes"] = memory.stats().search.index_bytes / 2**20
    return figures
