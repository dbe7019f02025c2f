"""python -m tests.torture [kills=1000] [--seed N] [--json FILE]: every torture, or those named, in its long form.

Prints what each did and found; the exit status is 1 when anything was lost, half or wrong. A seed repeats a case as far
as the scheduling of threads lets it: exactly, except for kills and cuts.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture import cuts, damage, faults, full, harms, kills, tenants

TORTURES: dict[str, tuple[Callable[[Path, int, int], dict[str, Any]], int]] = {
    "kills": (kills.run, 1000),
    "harms": (harms.run, 300),
    "cuts": (cuts.run, 1000),
    "faults": (faults.run, 20),
    "damage": (damage.run, 5000),
    "full": (full.run, 16),
    "tenants": (tenants.run, 2000),
    "strangers": (tenants.strangers, 100_000),
}
"""Each with the cases of its long form."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"any of {', '.join(TORTURES)}, with =cases if not the usual number")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--folder", type=Path, help="where the stores are made (default: a temporary folder)")
    options = parser.parse_args()
    chosen = [name.partition("=")[::2] for name in options.what or TORTURES]
    if unknown := [name for name, _ in chosen if name not in TORTURES]:
        parser.error(f"there is no torture {unknown[0]!r}; choose from {', '.join(TORTURES)}")
    report: dict[str, Any] = {}
    for name, cases in chosen:
        run, usual = TORTURES[name]
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
            figures = run(Path(folder) / name, int(cases or usual), options.seed)
        report[name] = figures | {"seconds": round(time.monotonic() - began, 1)}
        print(f"{name} ({report[name]['seconds']:g} s)")
        for what, value in figures.items():
            if what != "failures":
                print(f"  {what:<40} {value}")
        for failure in figures["failures"]:
            print(f"  FAILED with --seed {options.seed}: {failure}")
        sys.stdout.flush()
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(figures["failures"] for figures in report.values()))


if __name__ == "__main__":
    sys.exit(main())
