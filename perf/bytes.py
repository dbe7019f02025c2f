"""Measures how many bytes a memory takes, on the disk and in memory.

Texts of 100 characters with a user and two metadata keys, and made-up vectors of 384 values. The file is split by table
and index. For the bytes in memory, the indexes of all owners are loaded at once (`Config.index_bytes` bounds them
otherwise).
"""

import random
from collections.abc import Iterator
from typing import Any

import apsw
import measure
import numpy as np

from agentmem import Config, Memory
from agentmem.storage.sqlite.database.vfs import checked_vfs

CHARACTERS = 100
OWNERS_EACH = 100
"""Memories of each owner."""


class Numbers:
    """Returns vectors from a prepared array of made-up ones, without computing."""

    identity = "perf.bytes:1"
    dimension = 384

    def __init__(self) -> None:
        self._vectors = np.random.default_rng(1).standard_normal((4096, self.dimension)).astype(np.float32)
        self._next = 0

    def embed(self, texts: list[str]) -> np.ndarray:
        self._next += len(texts)
        return self._vectors[np.arange(self._next - len(texts), self._next) % len(self._vectors)]


def items(count: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    weights = [1 / rank for rank in range(1, len(measure.WORDS) + 1)]
    owners = max(1, count // OWNERS_EACH)
    for number in range(count):
        text = f"{number} {' '.join(draw.choices(measure.WORDS, weights, k=40))}"[:CHARACTERS]
        metadata = {"topic": measure.WORDS[number % 50], "stars": number % 6}
        yield {"content": text, "user_id": f"user-{draw.randrange(owners)}", "metadata": metadata}


def on_disk(path: str, count: int) -> dict[str, float]:
    """Returns bytes a memory: in all, beyond the text, and of each table and index that has some."""
    connection = apsw.Connection(path, vfs=checked_vfs())
    pages = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC").fetchall()
    [[texts]] = connection.execute("SELECT sum(octet_length(content)) FROM memory").fetchall()
    whole = connection.pragma("page_count") * connection.pragma("page_size")
    connection.close()
    figures = {"the file": whole / count, "beyond the text": (whole - texts) / count}
    return figures | {name: size / count for name, size in pages if size > count}


def main() -> None:
    options = measure.arguments(__doc__, memories={"type": int})
    count = options.memories or (100_000 if options.full else 10_000)
    config = Config(durability="process", index_bytes=2**40)
    figures: dict[str, Any] = {}
    with measure.temporary_store() as path, Memory(path, embedder=Numbers(), config=config) as memory:
        memory.add_batch(items(count))
        figures["on the disk"] = on_disk(str(path), count)
        for number in range(max(1, count // OWNERS_EACH)):
            memory.search("what?", user_id=f"user-{number}", mode="vector")
        figures["in memory, an index"] = {"bytes": memory.stats().search.index_bytes / count}
        figures["in memory, the cache of vectors"] = {"bytes": memory.stats().embedding.cache_bytes / count}
    measure.report(f"Bytes a memory, of {count:,}", figures, options)


if __name__ == "__main__":
    main()
