"""What the scripts here share: the machine, the texts, the clock, and how figures are printed and kept."""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LIBRARIES = ("agentmem", "onnxruntime", "tokenizers", "numpy", "numkong", "apsw")

MODEL = "all-MiniLM-L6-v2"

WORDS_A_TEXT = 16
"""Of most texts here: 18 tokens with the two that stand around them, a common length for a fact or a chat turn."""

_COMMON = """
about after again against almost also always among another answer around asked away back before began behind being
below best better between black blood blue board book both boy bread break bring brother brought brown build business
call came cannot carry catch cause center certain change check child children church city class clear close coffee
cold color come common company complete cost could country course cover cross dark daughter dead deal death deep
dinner doctor door down draw dream drink drive drop during each early earth east easy eight else end enough even
evening every eye face fact fall family famous far farm father feel field fight figure final find fine fire first fish
five floor flower follow food foot force form found four free friend front full game garden gave girl give glass gold
gone good great green ground group grow guess hair half hand happy hard head hear heart heat heavy help here high hill
history hold home hope horse hot hotel hour house idea inside island job keep kept kind king kitchen knew know lady
lake land large last late laugh law lead learn least leave left less letter life light line list little live local
long look lost love low machine main make man many map march mark market may mean meet might mile milk mind minute
money month moon more morning mother mountain mouth move much music name near need never new next night nine north
note nothing number ocean off office often old once only open order other out over own page paper park part party pass
past pay people person phone piece place plan plane plant play please point poor power present press price problem
product public pull question quick quiet rain ran reach read ready real red remember rest rich ride right ring rise
river road rock room round rule run sad safe said salt same school science sea second seem seven ship shoe shop short
should show side sign silver simple since sing sister six size skin sleep slow small snow soft some song soon sound
south space speak special spring square stand star start state station stay still stone stop store story street
strong study such sugar summer sun sure table take talk teach team ten test than thank their then there these thing
think third those thought three through time today together told took top total toward town trade train travel tree
trip true try turn two uncle under until use usual very visit voice wait walk wall want war warm watch water way weather
week weight well west what wheel when where which while white whole wide wife wild will wind window winter wish with
woman wonder wood word work world write wrong year yellow young your
"""
WORDS = _COMMON.split()


def texts(count: int, *, words: int = WORDS_A_TEXT, seed: int = 0) -> list[str]:
    """Distinct texts of common words, each one token in the bundled tokenizer; two more tokens stand around them."""
    random_words = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(random_words.choices(WORDS, k=words))] = None
    return list(made)


@cache
def machine() -> dict[str, Any]:
    """What a figure needs to be understood, as it was when this was first asked."""
    cpu = platform.processor() or "unknown processor"
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                cpu = value.strip()
            if name.strip() == "flags":
                flags = value
    instructions = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f" {flag} " in flags + " "
    ]
    return {
        "processor": f"{cpu} ({', '.join(instructions)})",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "fsync_ms": round(fsync_seconds() * 1000, 3),
        "python": platform.python_version(),
        "system": platform.platform(),
        "revision": revision(),
        **{name: installed(name) for name in LIBRARIES},
    }


def fsync_seconds() -> float:
    """The median time that the disk of the temporary folder takes to make 4 KB safe; none at all if it is in memory."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(30):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times)


def revision() -> str:
    """Of the checkout; with a mark if files were changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no checkout"


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def run_threads(count: int, work: Callable[[int], None]) -> float:
    """Runs `work(thread number)` on `count` threads that start together. Returns the seconds until the last has
    ended."""
    start = threading.Barrier(count + 1)
    failures: list[BaseException] = []

    def body(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in started:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in started:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds


def threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def share(items: Sequence[Any], threads: int, number: int) -> Sequence[Any]:
    """Returns the part of the items for one of the threads."""
    return items[number::threads]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Returns p50, p90 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {
        f"p{percent}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000, 3)
        for percent in (50, 90, 99)
    }


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, quartiles and extremes."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "p25": low, "p75": high, "least": min(values), "most": max(values)}


def rss_bytes() -> int:
    """Returns this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(process: int | str = "self") -> int:
    """Returns a process's highest resident memory. (`getrusage` would begin with its parent's.)"""
    status = Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextmanager
def temporary_store() -> Iterator[str]:
    """Yields a path for a store on the disk, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-") as folder:
        yield str(Path(folder) / "store.db")


def arguments(description: str | None, *, model: bool = True, **extra: Any) -> argparse.Namespace:
    """Returns the options that every script has, and its own. Describes the machine before the script runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more texts and repetitions")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    if model:
        parser.add_argument("--model", default=MODEL, help=f"name or folder of a model (default: {MODEL})")
    for name, options in extra.items():
        parser.add_argument(name if options.pop("positional", False) else f"--{name}", **options)
    options = parser.parse_args()
    machine()
    return options


def report(title: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the machine and the figures, and writes them as JSON on request."""
    print(f"\n## {title}")
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    for name, value in figures.items():
        print(f"  {name:<44} {_shown(value)}")
    if options.json:
        kept = {"title": title, "full": options.full, "machine": machine(), "figures": figures}
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    return str(value)
