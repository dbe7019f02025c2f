"""Measures how each cost grows with the number of memories: 10,000 and 100,000 (--full: 1,000,000, and 5,000,000 if
there is room).

Owners have Zipf-distributed sizes, and their memories were added among all others'; `--one-owner` has all in one. The
world and its vectors are made up (see synthetic.py), so that everything but a model is timed. Queries are embedded
beforehand. `add_batch` builds the stores in a folder for temporary files, or in `--folder`, where `--keep` leaves them
for another run. An interrupted build resumes. The file is in the system's cache throughout.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import measure
import one_owner
from synthetic import Prepared, TopicEmbedder, World, name_of

from agentmem import Config, Memory

SIZES = [10_000, 100_000]
FULL_SIZES = [10_000, 100_000, 1_000_000, 5_000_000]
BYTES_A_MEMORY = 3200
"""Bytes a memory on the disk, with the copy that is added to."""
BUILT_TOGETHER = 2560
CALL = 256
"""Memories of a timed `add_batch`."""
MOST = 10_000
"""Most memories of an owner whose searches are timed."""
THREADS = 10
MIB = 1024 * 1024

FIRST_RESULT = """
import sys, time
began = time.perf_counter()
import agentmem
class Fixed:
    identity, dimension = sys.argv[4], int(sys.argv[5])
    def embed(self, texts):
        import numpy
        return numpy.repeat(numpy.fromfile(sys.argv[2], numpy.float32)[None], len(texts), 0)
memory = agentmem.Memory(sys.argv[1], embedder=Fixed())
assert memory.search("what is near?", user_id=sys.argv[3])
print(time.perf_counter() - began)
memory.close()
"""


def build(path: Path, world: World) -> float:
    """Fills the store up to the size of its world. Returns memories a second, 0 if the store was full."""
    # A build lost in a power cut is repeated; vectors that come once need no cache.
    with Memory(path, embedder=TopicEmbedder(), config=Config(durability="process", cache_bytes=0)) as memory:
        start = memory.count(all_scopes=True)
        items, done = world.items(start), start
        began = time.perf_counter()
        while chunk := list(islice(items, BUILT_TOGETHER)):
            memory.add_batch(chunk)
            done += len(chunk)
            if sys.stderr.isatty():
                print(f"\r{done:,} of {world.size:,}", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        return (done - start) / (time.perf_counter() - began)


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Yields a copy beside a store, to add to."""
    with tempfile.TemporaryDirectory(prefix="copy-", dir=path.parent) as folder:
        yield Path(shutil.copyfile(path, Path(folder) / "store.db"))


def timed(work: Callable[..., Any], *arguments: Any, **named: Any) -> float:
    began = time.perf_counter()
    work(*arguments, **named)
    return time.perf_counter() - began


def open_times(path: Path) -> list[float]:
    times, embedder = [], TopicEmbedder()
    for _ in range(20):
        began = time.perf_counter()
        memory = Memory(path, embedder=embedder)
        times.append(time.perf_counter() - began)
        memory.close()
    return times


def first_results(path: Path, world: World, rounds: int) -> list[float]:
    """Returns times of fresh processes, in an owner of the middle. The first one, which writes bytecode, does not
    count."""
    [query] = world.queries([world.owners // 2], 1)
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-") as folder:
        vector = Path(folder) / "vector"
        TopicEmbedder().embed([query]).tofile(vector)
        facts = [path, vector, name_of(world.owners // 2), TopicEmbedder.identity, TopicEmbedder.dimension]
        command = [sys.executable, "-c", FIRST_RESULT, *map(str, facts)]
        paths = {"PYTHONPATH": str(measure.ROOT), "PYTHONPYCACHEPREFIX": folder}
        runs = [subprocess.run(command, env=paths, stdout=subprocess.PIPE, check=True) for _ in range(rounds + 1)]
        return [float(run.stdout) for run in runs[1:]]


def search_times(path: Path, world: World, owners: list[int], each: int) -> tuple[list[float], list[float]]:
    """Returns the times of the first search in each owner, and of further ones."""
    asked = {owner: world.queries([owner] * each, owner) for owner in owners}
    cold, warm = [], []
    with Memory(path, embedder=TopicEmbedder()) as memory:
        for owner, queries in asked.items():
            memory.search_batch(queries, user_id="nobody")  # Their vectors are cached now.
            cold.append(timed(memory.search, queries[0], user_id=name_of(owner)))
            warm += [timed(memory.search, query, user_id=name_of(owner)) for query in queries[1:]]
    return cold, warm


def alternating(path: Path, world: World, owner: int, rounds: int) -> list[float]:
    """Returns the times of searches in an owner that gained one memory since the search before."""
    queries, fresh = world.queries([owner] * rounds, 8), world.fresh([owner] * rounds, 9)
    times = []
    with copied(path) as copy, Memory(copy, embedder=TopicEmbedder()) as memory:
        memory.search_batch(queries, user_id=name_of(owner))
        for query, text in zip(queries, fresh, strict=True):
            memory.add(text, user_id=name_of(owner))
            times.append(timed(memory.search, query, user_id=name_of(owner)))
    return times


def resident(path: str, size: int, most: int) -> None:
    """Prints, as JSON, the MiB of this process after 1,000 searches over 500 owners, and on the way through all owners.

    `most` bounds the number of those owners.
    """
    world = World(size)
    embedder = TopicEmbedder()
    levels = {"before": measure.rss_bytes() / MIB}
    with Memory(path, embedder=embedder) as memory:
        some = world.owners_of(1, MOST, 500, 2)
        for number in range(1000):
            memory.search(f"{number}", user_id=name_of(some[number % len(some)]))
        levels["500 owners"] = measure.rss_bytes() / MIB
        every = world.owners_of(1, size, most, 3)
        for number, owner in enumerate(every, 1):
            memory.search(f"again {number}", user_id=name_of(owner))
            if number % max(1, len(every) // 4) == 0:
                levels[f"{number} more"] = measure.rss_bytes() / MIB
        stats = memory.stats()
    levels |= {
        "indexes": stats.search.index_bytes / MIB,
        "cache": stats.embedding.cache_bytes / MIB,
        "evicted": stats.search.indexes_evicted,
    }
    print(json.dumps(levels))


def resident_of_process(path: Path, world: World, most: int) -> dict[str, float]:
    code = f"import scale; scale.resident({str(path)!r}, {world.size}, {most})"
    environment = {"PYTHONPATH": f"{measure.ROOT}:{measure.ROOT / 'perf'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
    levels: dict[str, float] = json.loads(done.stdout)
    return levels


def add_rates(path: Path, world: World, count: int, rounds: int) -> dict[str, Any]:
    """Returns memories a second into a copy of the store, and their share of the rate into an empty one."""
    figures = {}
    with copied(path) as copy, tempfile.TemporaryDirectory(prefix="empty-", dir=path.parent) as folder:
        for place, way in enumerate(WAYS):
            rates, shares = [], []
            for number in range(rounds):
                seed = 1000 * place + number
                empty = rate(Path(folder) / f"{seed}.db", world, way, count, seed)
                rates.append(rate(copy, world, way, count, seed))
                shares.append(rates[-1] / empty)
            figures[way] = {"a second": measure.median(rates), "of an empty store's": measure.median(shares)}
    return figures


WAYS = (f"add, {THREADS} threads", "add_batch, owners mixed", "add_batch, an owner a call")


def rate(path: Path, world: World, way: str, count: int, seed: int) -> float:
    """Returns memories a second for one way of adding, their vectors made beforehand."""
    owners = world.rememberers(count, seed)
    if way == WAYS[2]:
        owners = [owners[place // CALL * CALL] for place in range(count)]
    texts = world.fresh(owners, seed)
    items = [{"content": text, "user_id": name_of(owner)} for text, owner in zip(texts, owners, strict=True)]
    with Memory(path, embedder=Prepared(texts)) as memory:
        memory.add("the connection is open", user_id="nobody")

        def work(number: int) -> None:
            for item in measure.share(items, THREADS, number):
                memory.add(item["content"], user_id=item["user_id"])

        if way == WAYS[0]:
            return count / measure.run_threads(THREADS, work)
        began = time.perf_counter()
        for start in range(0, count, CALL):
            memory.add_batch(items[start : start + CALL])
        return count / (time.perf_counter() - began)


def figures_of(path: Path, world: World, full: bool) -> dict[str, Any]:
    """Returns the costs of one store by their names."""
    few = world.owners_of(1, MOST, 200, 1)
    cold, warm = search_times(path, world, few, 6)
    largest = int((world.sizes > MOST).sum())  # The first that is not larger.
    figures: dict[str, Any] = {
        "open": measure.percentiles(open_times(path)),
        "import to first result": measure.percentiles(first_results(path, world, 15 if full else 5)),
        "search, warm": measure.percentiles(warm),
        "first search of an owner": measure.percentiles(cold),
    }
    firsts, further = [], []
    for _ in range(5):
        first, rest = search_times(path, world, [largest], 20)
        firsts, further = firsts + first, further + rest
    figures["memories of the large owner"] = int(world.sizes[largest])
    figures["search, warm, large owner"] = measure.percentiles(further)
    figures["first search, large owner"] = measure.percentiles(firsts)
    figures["search after an add, large owner"] = measure.percentiles(alternating(path, world, largest, 60))
    figures["MiB in memory"] = resident_of_process(path, world, world.owners if full else 2000)
    figures |= add_rates(path, world, 8192 if full else 2048, 5 if full else 3)
    with Memory(path, embedder=TopicEmbedder()) as memory:
        stats = memory.stats()
        figures["stats()"] = {"ms": measure.median([timed(memory.stats) for _ in range(3)]) * 1000}
    text = sum(len(item["content"]) for item in islice(world.items(), 10_000)) / min(world.size, 10_000)
    figures["bytes a memory beyond its text"] = round(stats.store.bytes / stats.store.memories - text)
    return figures


def stores(options: Any, worlds: list[World]) -> Iterator[tuple[World, Path, float]]:
    """Yields each world with its store and the rate of its build."""
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for world in worlds:
            path = folder / f"{'one' if options.one_owner else 'many'}-{world.size}.db"
            if shutil.disk_usage(folder).free < BYTES_A_MEMORY * world.size:
                print(f"No room for {world.size:,} memories in {folder}.", file=sys.stderr)
                continue
            rate = build(path, world)
            yield world, path, rate
            if not options.keep:
                path.unlink()


def main() -> None:
    options = measure.arguments(
        __doc__,
        sizes={"type": int, "nargs": "+", "help": "numbers of memories"},
        folder={"type": Path, "help": "where the stores are built"},
        keep={"action": "store_true", "help": "leave them there"},
        **{"one-owner": {"action": "store_true", "help": "all memories of one owner"}},
    )
    sizes = options.sizes or (FULL_SIZES if options.full else SIZES)
    worlds = [World(size, one_owner=options.one_owner, duplicates=0.2 * options.one_owner) for size in sizes]
    rows: dict[str, dict[str, Any]] = {}
    for world, path, rate_of_build in stores(options, worlds):
        measured = {"built, a second": rate_of_build}
        measured |= (one_owner.figures_of if options.one_owner else figures_of)(path, world, options.full)
        for name, value in measured.items():
            rows.setdefault(name, {})[f"{world.size:,}:"] = value
            print(f"{world.size:,}: {name}: {value}", file=sys.stderr)
    title = "One owner" if options.one_owner else "Owners of Zipf-distributed sizes, 100 memories each on average"
    measure.report(f"{title}; times in milliseconds", rows, options)


if __name__ == "__main__":
    main()
