"""Runs every script in turn, each in a fresh process, and writes the figures as JSON files into a folder.

    python perf/run.py                    about five minutes on two cores
    python perf/run.py --full             medians of five; more than an hour
    python perf/run.py --only add search

The peers take part if their environments are there, or with `--full`, or when named by `--only`; see peers.py.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import peers

from agentmem.embedding.catalog import bundled_models

STATIC = "minilm-static"

STEPS: dict[str, tuple[str, ...]] = {
    "ceiling": ("ceiling.py",),
    "burst": ("burst.py",),
    "add": ("add.py",),
    "add-known": ("add.py", "--known"),
    "search": ("search.py",),
    "mixed": ("mixed.py",),
    "report": ("report.py",),
    "defer": ("defer.py",),
    "batch": ("batch.py",),
    "latency": ("latency.py",),
    "imports": ("imports.py",),
    "add-static": ("add.py", "--model", STATIC),
    "search-static": ("search.py", "--model", STATIC),
    "porting-static": ("porting.py", "--model", STATIC),
    "scale": ("scale.py", "--sizes", "10000", "100000", "1000000"),
    "scale-one": ("scale.py", "--one-owner", "--sizes", "10000", "50000"),
    "tuning": ("tuning.py",),
    "bytes": ("bytes.py",),
    "memory": ("memory.py",),
    "memory-static": ("memory.py", "--model", STATIC),
    "peers": ("peers.py",),
}
"""The scripts in this order. The last two take the longest."""

ONLY_FULL = ("search-static", "scale", "scale-one", "tuning", "memory-static")


def chosen(options: argparse.Namespace) -> list[str]:
    if options.only:
        return [name for name in STEPS if name in options.only]
    names = [name for name in STEPS if options.full or name not in ONLY_FULL]
    if options.model != measure.MODEL or STATIC not in bundled_models():
        names = [name for name in names if not name.endswith("-static")]
    if "peers" in names and not options.full and not peers.is_prepared(peers.default_cache()):
        names.remove("peers")
        print("Without the peers, which are not installed; python perf/peers.py installs them outside the checkout.")
    return [name for name in names if name not in options.skip]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more texts and repetitions")
    parser.add_argument("--model", default=measure.MODEL, help="name or folder of a model (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=(), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--skip", nargs="+", choices=STEPS, default=(), metavar="STEP")
    parser.add_argument("--out", type=Path, help="folder for the JSON files (default: a new one for temporary files)")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="agentmem-perf-results-"))
    out.mkdir(parents=True, exist_ok=True)
    failed, seconds = [], {}
    for name in chosen(options):
        script, *words = STEPS[name]
        if "--model" not in words:
            words += ["--model", options.model]
        if options.full:
            words.append("--full")
        command = [sys.executable, str(measure.ROOT / "perf" / script), *words, "--json", str(out / f"{name}.json")]
        began = time.perf_counter()
        if subprocess.run(command).returncode:
            failed.append(name)
        seconds[name] = time.perf_counter() - began
    print(
        f"\n{sum(seconds.values()):.0f} seconds: " + ", ".join(f"{name} {each:.0f}" for name, each in seconds.items())
    )
    print(f"The figures are in {out}; python perf/plot.py {out} PICTURE.svg draws them.")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
