"""Measures the cost and recall of one full segment: building it, searching its graph, looking up vectors, comparing
all.

The constants of the planner (candidates.py, in agentmem/search/segments) and of the graph (file.py) come from here. The
vectors are made up (see synthetic.py). One thread; medians of the queries.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from synthetic import TopicEmbedder, World, name_of

from agentmem import Config, Memory
from agentmem.search.kernels import cosines
from agentmem.search.segments import file as segments
from agentmem.search.segments.builder import SEGMENT

QUERIES = 200
BEST = 10
GRAPH_FORMS = ((16, 48), (16, 96), (16, 128), (24, 128), (32, 128))
EXPANSIONS = (16, 32, 64, 128)
AMOUNTS = (16, 64, 256, 1024, 4096, 16384)


def microseconds(work: Callable[[Any], Any], arguments: list[Any]) -> float:
    spent = []
    for argument in arguments:
        began = time.perf_counter()
        work(argument)
        spent.append(time.perf_counter() - began)
    return measure.median(spent) * 1e6


def graphs(vectors: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Returns builds a second, microseconds a search and the share of the ten nearest that is found, by the graph's
    form."""
    nearest = [np.argpartition(-cosines(query, vectors), BEST)[:BEST] for query in queries]
    found: dict[str, Any] = {}
    for connectivity, expansion_add in GRAPH_FORMS:
        segments.CONNECTIVITY, segments.EXPANSION_ADD = connectivity, expansion_add
        graph = segments._graph(vectors.shape[1])
        began = time.perf_counter()
        graph.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)
        row = {"vectors a second": len(vectors) / (time.perf_counter() - began), "MiB": graph.memory_usage / 2**20}
        for expansion in EXPANSIONS:
            graph.expansion_search = expansion
            keys: list[np.ndarray] = []

            def ask(query: np.ndarray, graph: Any = graph, keys: list[np.ndarray] = keys) -> None:
                keys.append(graph.search(query, BEST, threads=1).keys)

            row[f"us at {expansion}"] = microseconds(ask, list(queries))
            hits = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(nearest, keys, strict=True)]
            row[f"R@10 at {expansion}"] = sum(hits) / BEST / len(queries)
        found[f"connectivity {connectivity}, expansion {expansion_add}"] = row
    return found


def costs(segment: segments.Segment, queries: np.ndarray) -> dict[str, Any]:
    """Returns microseconds of the ways to a segment's nearest vectors, by the number searched or looked up."""
    draw = np.random.default_rng(4)
    rows: dict[str, Any] = {"graph": {}, "looked up": {}}
    for amount in AMOUNTS:
        places = [np.sort(draw.permutation(len(segment))[:amount]) for _ in queries]
        rows["graph"][f"{amount}:"] = microseconds(lambda query, k=amount: segment.nearest(query, k), list(queries))
        rows["looked up"][f"{amount}:"] = microseconds(
            lambda both: segment.cosines_at(*both), list(zip(queries, places, strict=True))
        )
    rows["all"] = {f"{len(segment.vectors)}:": microseconds(lambda query: segment.scan(query)(BEST), list(queries))}
    return rows


def main() -> None:
    options = measure.arguments(__doc__)
    world = World(SEGMENT, one_owner=True)
    queries = TopicEmbedder().embed(world.queries([0] * QUERIES, 20)).astype(np.float16)
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-") as folder:
        path = Path(folder) / "one.db"
        with Memory(path, embedder=TopicEmbedder(), config=Config(durability="process", cache_bytes=0)) as memory:
            memory.add_batch(world.items())
            for _ in range(2):  # The second search reuses the segments that the first one sealed.
                memory.search("what is near?", user_id=name_of(0))
                memory._engine.index_cache.seal()
            memory.search("what is near?", user_id=name_of(0))
            [part] = memory._engine.index_cache._indexes["user_id", name_of(0)]._parts
            rows = costs(part.segment, queries)
            rows |= graphs(np.array(part.segment.vectors), queries)
    measure.report("One segment; times in microseconds", rows, options)


if __name__ == "__main__":
    main()
