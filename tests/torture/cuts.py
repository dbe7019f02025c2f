"""Power cuts: a store on a disk that keeps unsynced writes aside.

At random moments the files are made as a cut would leave them, and a fresh process opens them. With durability "full"
every acknowledged write must be there. With "process" the last commits may be missing, but the rest must be what a
shorter run would have left.
"""

import json
import random
import shutil
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentmem import Config, Memory
from agentmem.storage.sqlite.database import wal
from agentmem.testing import HashEmbedder
from tests.torture.disk import Disk, PowerVFS
from tests.torture.kills import Ledger
from tests.torture.nursery import Nursery
from tests.torture.writers import Writer, look, tiny_segments

THREADS = 4
OPERATIONS = 10
"""Of a thread, between the opening of a store and its end."""

SESSIONS = 2
"""How often a store is opened."""

CHECKPOINT_PAGES = 40
"""Instead of SQLite's 1,000, so that a short run has many checkpoints."""

CUTS_A_RUN = 20


def write_and_cut(folder: str, seed: int, durability: Any) -> dict[str, Any]:
    """Writes into a store, with cuts on the way.

    `spoken` has the writers' reports. Each of `cuts` is a folder, and the number of reports by then.
    """
    chance = random.Random(seed)
    disk = Disk()
    spoken: list[bytes] = []
    cuts: list[tuple[str, int]] = []
    rate = chance.choice([0.01, 0.02, 0.05])

    def before() -> None:
        if chance.random() < rate and len(cuts) < CUTS_A_RUN:
            place = Path(folder) / f"cut-{len(cuts)}"
            place.mkdir()
            said = len(spoken)
            disk.cut(place, chance)
            # What is listed by then was synced before; others are as far as they have come.
            with suppress(OSError, shutil.Error):
                shutil.copytree(Path(folder) / "store.db-segments", place / "store.db-segments")
            cuts.append((str(place), said))

    disk.before = before
    vfs = PowerVFS(disk)
    wal.MERGED_PAGES = CHECKPOINT_PAGES
    tiny_segments()
    writers: list[Writer] = []
    for _ in range(SESSIONS):
        memory = Memory(Path(folder) / "store.db", embedder=HashEmbedder(), config=Config(durability=durability))
        writers = writers or [Writer(memory, spoken.append, thread, "p", seed) for thread in range(THREADS)]
        for writer in writers:
            writer.memory = memory
        threads = [threading.Thread(target=writer.work, args=(OPERATIONS,)) for writer in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if chance.random() < 0.5:
            memory.flush(60)
        memory.close()
    vfs.unregister()
    return {"spoken": spoken, "cuts": cuts}


def look_all(folders: list[str]) -> list[dict[str, Any]]:
    """What is found in each store; how it looked is told as a problem when it could not be looked at."""
    found = []
    for folder in folders:
        try:
            found.append(look(str(Path(folder) / "store.db"), [], True))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"})
    return found


def compare(spoken: list[bytes], seen: dict[str, Any], durability: str) -> dict[str, list[str]]:
    """What is wrong after a cut by which this was spoken."""
    if "error" in seen:
        return {"problems": [seen["error"]]}
    ledger = Ledger()
    ledger.hear("p", spoken)
    full = durability == "full"
    lost, half = ledger.compare(seen, ledger.sure, ledger.shared, set())
    missing = [] if full else lost  # Allowed, if the rest is a shorter run.
    if seen["seqs"] != list(range(1, len(seen["seqs"]) + 1)):
        half.append("the history has holes")
    return {
        "missing": missing,
        "lost": lost if full else [],
        "half": half,
        "problems": seen["problems"] + ledger.complaints,
    }


def run(folder: Path, cases: int, seed: int) -> dict[str, Any]:
    """At least `cases` cuts, half of them with each durability."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: Counter[str] = Counter()
    failures: list[str] = []
    chance = random.Random(seed)
    with Nursery() as nursery:
        for durability in ("full", "process"):
            while figures[f"cuts, {durability}"] < cases / 2:
                number = chance.randrange(2**32)
                place = folder / str(number)
                place.mkdir()
                status, said = nursery.run("tests.torture.cuts:write_and_cut", str(place), number, durability)
                if said is None:
                    failures.append(f"the writer of run {number} ended with {status}")
                    break
                _, found = nursery.run("tests.torture.cuts:look_all", [cut for cut, _ in said["cuts"]])
                for (cut, spoken), seen in zip(said["cuts"], found, strict=True):
                    figures[f"cuts, {durability}"] += 1
                    acknowledged = [line for line in said["spoken"][:spoken] if json.loads(line)[0] == "a"]
                    figures[f"acknowledged, {durability}"] += len(acknowledged)
                    figures[f"events found, {durability}"] += len(seen.get("seqs", ()))
                    wrongs = compare(said["spoken"][:spoken], seen, durability)
                    figures["acknowledged but missing, process"] += len(wrongs.pop("missing", ()))
                    for name, wrong in wrongs.items():
                        figures[name] += len(wrong)
                        failures += [f"run {number}, {durability}, {cut}: {name}: {each}" for each in wrong[:3]]
                shutil.rmtree(place)
    return {"seed": seed, **figures, "failures": failures}
