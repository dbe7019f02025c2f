"""`watch`: observes a running store from outside."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE
from agentmem.cli.opening import open_memory
from agentmem.cli.output import (
    escape,
    fitted,
    painted,
    print_json,
    print_lines,
    readable,
    rewrite_lines,
    shown_cursor,
    stored_fields,
)
from agentmem.errors import StoreOpenError
from agentmem.timestamps import now

LOOK_SHARE = 10
"""Looking takes at most one part in LOOK_SHARE of the time: in a larger store, looks are rarer."""

RATES = ("memories", "deleted", "vectors", "pending", "changes", "bytes")
"""Figures that are shown as a rate a second, too."""

ON_A_LINE = ("memories", "pending", "vectors", "changes", "bytes", "log_bytes")
"""Figures on a line where there is no terminal to draw on."""


@dataclass(frozen=True, slots=True)
class Look:
    """The figures of a moment (of `time.monotonic`), and their growth a second since the last look."""

    moment: float
    seen: dict[str, Any]
    rates: dict[str, float]

    def after(self, before: "Look | None") -> "Look":
        """Returns the same figures, compared with an earlier look."""
        if before is None:
            return self
        seconds = max(self.moment - before.moment, 1e-3)
        return Look(self.moment, self.seen, {name: (self.seen[name] - before.seen[name]) / seconds for name in RATES})


@click.command()
@options.path
@click.option(
    "--interval", type=click.FloatRange(0.1, 86_400), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--count", type=click.IntRange(1), metavar="LOOKS", help="End after this many looks.")
@options.db
@options.output
def watch(path: str | None, interval: float, count: int | None, db: str, as_json: bool) -> int:
    """Show what happens in a store while others use it.

    The store is PATH, or --db; Ctrl-C ends it. It shows what the file holds: memories, owners, pending vectors and
    their age, changes, sizes, and how fast they grow. The caches, batches and timings of a process are in its own
    `Memory.stats()`. A look takes a short read, no lock and no model; a very large store is looked at less often.

    On a terminal the figures stay in their place. Elsewhere, and with --json, every look is a line.

    \b
    Examples:
      agentmem watch agent.db
      agentmem watch agent.db --interval 10 >> agent.log
      agentmem watch --json --count 2 | tail -1 | jq .per_second
    """
    path = path or db
    with open_memory(path) as memory:
        same = _identity(memory.path)
        drawn = sys.stdout.isatty() and not as_json and os.environ.get("TERM") != "dumb"
        before: Look | None = None
        with suppress(KeyboardInterrupt), shown_cursor(hidden=drawn):
            for left in _looks(count):
                if _identity(memory.path) != same:
                    raise StoreOpenError(f"{memory.path!r} was removed or replaced; watch it again.")
                began = time.monotonic()
                look = Look(began, stored_fields(memory.stats()), {}).after(before)
                if as_json:
                    print_json({"at": now(), "path": memory.path, **look.seen, "per_second": look.rates or None})
                elif drawn:
                    rewrite_lines(_frame(memory.path, look), above=before is not None)
                else:
                    print_lines(_line(look))
                before = look
                if left:
                    # An event, and not a sleep. The interval grows so that looking never keeps a core busy.
                    threading.Event().wait(max(interval, LOOK_SHARE * (time.monotonic() - began)))
    return DONE


def _looks(count: int | None) -> Iterator[bool]:
    """Yields whether another look follows, as often as there is to be one."""
    done = 0
    while count is None or done < count:
        done += 1
        yield done != count


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - Path raises on names that no file can have.
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _frame(path: str, look: Look) -> list[str]:
    rows = [[name.replace("_", " "), readable(name, look.seen[name]), _rate(look, name)] for name in look.seen]
    title = painted(escape(f"{path}  {now():%H:%M:%S}Z  (Ctrl-C ends)"), "strong")
    return [title, *fitted([row for row in rows if row[1]], full=True, styles={0: "faint"})]


def _line(look: Look) -> str:
    told = [
        f"{name.replace('_', ' ')} {readable(name, look.seen[name])}{_rate(look, name, ' ({})')}" for name in ON_A_LINE
    ]
    return f"{now():%Y-%m-%dT%H:%M:%S}Z  {'  '.join(told)}"


def _rate(look: Look, name: str, shape: str = "{}") -> str:
    """Returns a rate such as "+12.0/s"; nothing where nothing changed."""
    rate = look.rates.get(name, 0.0)
    return shape.format(f"{rate:+,.1f}/s") if rate else ""
