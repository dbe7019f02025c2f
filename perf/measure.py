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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LIBRARIES = ("agentmem", "onnxruntime", "tokenizers", "numpy", "numkong", "apsw")

WORDS = """
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
""".split()


def texts(count: int, *, words: int = 16, seed: int = 0) -> list[str]:
    """Distinct texts of common words, each one token in the bundled tokenizer; two more tokens stand around them."""
    random_words = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(random_words.choices(WORDS, k=words))] = None
    return list(made)


def machine() -> dict[str, Any]:
    """What a figure needs to be understood."""
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
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: installed(name) for name in LIBRARIES},
    }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def run_threads(count: int, work: Callable[[int], None]) -> float:
    """Runs `work(thread number)` on `count` threads that start together; seconds until the last has ended."""
    start = threading.Barrier(count + 1)
    failures: list[BaseException] = []

    def body(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds


def share(items: Sequence[Any], threads: int, number: int) -> Sequence[Any]:
    """The part of the items that falls to one of the threads."""
    return items[number::threads]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {
        f"p{percent}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000, 3)
        for percent in (50, 90, 99)
    }


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


@contextmanager
def temporary_store() -> Iterator[str]:
    """A path for a store on the disk, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-") as folder:
        yield str(Path(folder) / "store.db")


def arguments(description: str | None, **extra: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more texts and repetitions")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    for name, options in extra.items():
        parser.add_argument(name if options.pop("positional", False) else f"--{name}", **options)
    return parser.parse_args()


def report(title: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the machine and the figures, and writes them as JSON when asked to."""
    print(f"\n## {title}")
    for name, value in machine().items():
        print(f"{name}: {value}", end="; ")
    print()
    for name, value in figures.items():
        print(f"  {name:<44} {_shown(value)}")
    if options.json:
        options.json.write_text(json.dumps({"title": title, "machine": machine(), "figures": figures}, indent=1) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    return str(value)


def script(name: str, *words: str) -> None:
    """Runs a sibling script in a fresh process."""
    subprocess.run([sys.executable, str(ROOT / "perf" / name), *words], check=True)
