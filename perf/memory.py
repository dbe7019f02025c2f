"""Measures whether the process's memory grows while it adds.

One process adds distinct texts of 3 to 40 words with ten threads, and searches now and then. Its resident memory is
read on the way. The level after the first twentieth, when the model has seen its shapes, stands against the end. The
cache of vectors grows by design until it is full (`Config.cache_bytes`), so its part is given apart.
"""

import random
from typing import Any

import measure

from agentmem import Memory

THREADS = 10
SHORTEST, LONGEST = 3, 40
STEPS = 20
MIB = 1024 * 1024


def random_lengths(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(draw.choices(measure.WORDS, k=draw.randint(SHORTEST, LONGEST)))] = None
    return list(made)


def main() -> None:
    options = measure.arguments(__doc__, texts={"type": int})
    count = options.texts or (100_000 if options.full else 4000)
    start = measure.rss_bytes()
    levels: list[dict[str, float]] = []
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        memory.add("the model is loaded", user_id="nobody")
        loaded = measure.rss_bytes()
        for step in range(STEPS):
            sentences = random_lengths(count // STEPS, seed=step)

            def work(number: int, sentences: list[str] = sentences) -> None:
                for position, text in enumerate(measure.share(sentences, THREADS, number)):
                    memory.add(text, user_id=f"user-{number}-{position % 100}")
                    if position % 100 == 0:
                        memory.search(text, user_id=f"user-{number}-0")

            measure.run_threads(THREADS, work)
            del sentences
            stats = memory.stats()
            levels.append({
                "adds": (step + 1) * (count // STEPS), "rss MiB": measure.rss_bytes() / MIB,
                "cache MiB": stats.embedding.cache_bytes / MIB, "indexes MiB": stats.search.index_bytes / MIB,
            })  # fmt: skip
    first, last = levels[0], levels[-1]
    growth = {name: last[name] - first[name] for name in ("rss MiB", "cache MiB", "indexes MiB")}
    rest = growth["rss MiB"] - growth["cache MiB"] - growth["indexes MiB"]
    figures: dict[str, Any] = {
        "before the first store": {"rss MiB": start / MIB},
        "with the model loaded": {"rss MiB": loaded / MIB},
        **{f"after {level.pop('adds'):,.0f} adds": level for level in levels},
        "growth from the first level to the last": growth,
        "the same without cache and indexes": {"MiB": rest},
    }
    measure.report(f"Memory over {count:,} adds of {SHORTEST} to {LONGEST} words, {options.model}", figures, options)


if __name__ == "__main__":
    main()
