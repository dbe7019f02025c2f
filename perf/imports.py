"""Measures the cost of the beginning: importing the package, opening a store, the first search.

Every figure is of fresh processes, in turns, against an interpreter that does nothing. A first round, which does not
count, writes their bytecode. `--newcomer` also runs a newcomer's first minutes in one command: a clone, a virtual
environment, and the README's first command, which installs the checkout and runs `agentmem demo`. It uses pip's
configured package index, and none of pip's cache.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure

from agentmem import Memory

IMPORTS = {
    "the interpreter alone": "pass",
    "import agentmem": "import agentmem",
    "from agentmem import Memory": "from agentmem import Memory",
    "import agentmem.cli": "import agentmem.cli",
    "import agentmem.integrations.flask": "import agentmem.integrations.flask",
    "import flask": "import flask",
    "import numpy": "import numpy",
}

FIRST_SEARCH = """
import sys, time
times = [time.perf_counter()]
from agentmem import Memory
times.append(time.perf_counter())
memory = Memory(sys.argv[1], model=sys.argv[2])
times.append(time.perf_counter())
assert memory.search("who waits at the door of the old house?", user_id="ana")
times.append(time.perf_counter())
assert memory.search("what grows in the garden by the sea?", user_id="ana")
times.append(time.perf_counter())
memory.close()
print(*(after - before for before, after in zip(times, times[1:])))
"""
STEPS = ("from agentmem import Memory, within", "open", "first search after open", "second search")

NEWCOMER = """
git clone --quiet "$1" agentmem && cd agentmem && "$2" -m venv environment && . environment/bin/activate &&
"""
FIRST_COMMAND = re.compile(r"^```sh\n(.*)$", re.M)
"""Stands in the README; it runs `python -m pip install ... && agentmem demo`."""


def python(environment: Mapping[str, str], code: str, *arguments: str) -> tuple[float, str]:
    """Returns the seconds until the process has ended, and its output."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - began, done.stdout


def newcomer() -> float:
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-") as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        clean |= {"PIP_QUIET": "1", "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        [first] = FIRST_COMMAND.findall((measure.ROOT / "README.md").read_text("utf-8"))
        began = time.perf_counter()
        subprocess.run(
            ["sh", "-c", NEWCOMER + first, "sh", str(measure.ROOT), sys.executable], cwd=folder, env=clean, check=True
        )
        return time.perf_counter() - began


def main() -> None:
    options = measure.arguments(
        __doc__, newcomer={"action": "store_true", "help": "also install it as a newcomer would"}
    )
    rounds = 100 if options.full else 15
    imports: dict[str, list[float]] = {name: [] for name in IMPORTS}
    steps: dict[str, list[float]] = {name: [] for name in STEPS}
    with measure.temporary_store() as path:
        with Memory(path, model=options.model) as memory:
            memory.add_batch(measure.texts(1000), user_id="ana")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": str(Path(path).parent / "bytecode"), "PYTHONPATH": str(measure.ROOT)}
        for number in range(-1, rounds):
            for name, code in IMPORTS.items():
                seconds, _ = python(environment, code)
                if number >= 0:
                    imports[name].append(seconds)
            _, printed = python(environment, FIRST_SEARCH, path, options.model)
            if number >= 0:
                for name, each in zip(STEPS, printed.split(), strict=True):
                    steps[name].append(float(each))
    figures: dict[str, Any] = {name: measure.percentiles(each) for name, each in (imports | steps).items()}
    alone = measure.median(imports["the interpreter alone"])
    beyond = (measure.median(imports["import agentmem"]) - alone) * 1000
    figures["import agentmem beyond the interpreter, median"] = {"ms": round(beyond, 3)}
    if options.newcomer:
        figures["from clone to the first search results"] = {"seconds": round(newcomer(), 1)}
    measure.report(f"The beginning, {rounds} fresh processes each, milliseconds", figures, options)


if __name__ == "__main__":
    main()
