"""Measures how long a search takes beside its embedding, for owners of 1,000, 10,000 and 50,000 memories in one store.

The vectors are made up and the queries' vectors are cached, so that everything but the model is timed. With `--others
N` the store holds N memories of other owners as well. The matches are compared with those of a store of that owner
alone: nothing may differ.
"""

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import measure
import numpy as np

from agentmem import Config, Memory
from agentmem.search.searcher import Mode

SIZES = (1_000, 10_000, 50_000)
RUN = 20
"""Memories of one run."""
EACH_OTHER = 500
"""Memories of each of the other owners."""


class Drawn:
    """Returns vectors of 384 values drawn from a text's own seed: as long as the bundled model's, without computing."""

    identity = "perf.search:1"
    dimension = 384

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.random.default_rng(hash(text) & 0xFFFFFFFF).standard_normal(384) for text in texts])


def sentences(count: int, seed: int) -> list[str]:
    """Returns texts of common words drawn as in language: the n-th word of the list 1 / n as often as the first."""
    draw = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(measure.WORDS) + 1)]
    return [" ".join(draw.choices(measure.WORDS, weights, k=16)) + f" {draw.randrange(10_000)}" for _ in range(count)]


def fill(memory: Memory, owner: str, texts: list[str]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    memory.add_batch(
        [
            {"content": text, "run_id": f"{number // RUN}", "created_at": start + timedelta(minutes=number)}
            for number, text in enumerate(texts)
        ],
        user_id=owner,
    )


def queries(count: int) -> list[str]:
    """Six words each, none of the twenty most common."""
    draw = random.Random(99)
    return [" ".join(draw.sample(measure.WORDS[20:], 6)) for _ in range(count)]


def found(memory: Memory, owner: str, query: str, mode: Mode) -> list[tuple[str, float]]:
    matches = memory.search(query, user_id=owner, mode=mode)
    return [(match.record.content, match.score) for match in matches]


def main() -> None:
    options = measure.arguments(__doc__, others={"type": int, "default": 0})
    asked = queries(200 if options.full else 60)
    figures: dict[str, Any] = {}
    config = Config(durability="process")
    with measure.temporary_store() as path, Memory(path, embedder=Drawn(), config=config) as memory:
        for number in range(options.others // EACH_OTHER):
            fill(memory, f"other{number}", sentences(EACH_OTHER, 10_000 + number))
        for size in SIZES:
            fill(memory, f"owner{size}", sentences(size, size))
        memory.search_batch(asked, user_id="nobody")  # Their vectors are cached now.
        for size in SIZES:
            began = time.perf_counter()
            memory.search(asked[0], user_id=f"owner{size}")
            figures[f"{size:,}: first search"] = {"ms": (time.perf_counter() - began) * 1000}
            for mode in get_args(Mode):
                calls = []
                for query in asked:
                    began = time.perf_counter()
                    memory.search(query, user_id=f"owner{size}", mode=mode)
                    calls.append(time.perf_counter() - began)
                figures[f"{size:,}: {mode}"] = measure.percentiles(calls)
        size = SIZES[0]
        with measure.temporary_store() as other, Memory(other, embedder=Drawn(), config=config) as alone:
            fill(alone, f"owner{size}", sentences(size, size))
            differing = sum(
                found(memory, f"owner{size}", query, mode) != found(alone, f"owner{size}", query, mode)
                for query in asked
                for mode in get_args(Mode)
            )
        figures["searches that differ from a store of the owner alone"] = differing
    measure.report(f"Search without embedding, among {options.others:,} memories of others", figures, options)


if __name__ == "__main__":
    main()
