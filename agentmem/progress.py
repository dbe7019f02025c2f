"""Progress bars on standard error. The only importer of tqdm, and only when a bar is shown."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from agentmem.platform.signals import started

T = TypeVar("T")

Tell = Callable[[str, int, int], object]
"""A callback that gets the stage, the units done and the total (0 when unknown)."""

LOOK_SECONDS = 0.2
LOOK_SHARE = 10
"""The longest interval between two polls of a bar, in seconds, and the largest share of time that polling may take."""


def with_progress(items: Iterable[Any], unit: str) -> Iterable[Any]:
    """Yields the items, with a bar that follows how many were taken."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, unit=f" {unit}")
    return bar


def end_bars() -> None:
    """Ends the bars that an interrupt tore out of their blocks. Call it before printing anything else."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def is_shown(shown: bool | None) -> bool:
    """Whether to show a bar: as requested, and otherwise where standard error is a terminal."""
    return sys.stderr.isatty() if shown is None else shown


@contextmanager
def progress(unit: str, total: int | None, *, shown: bool | None = None) -> Iterator[Callable[[int], object]]:
    """Shows a progress bar, and yields a function to report every few finished units to.

    `shown` of None shows it where standard error is a terminal.
    """
    if not is_shown(shown):
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=unit == "B", leave=False, dynamic_ncols=True) as bar:
        yield bar.update


@contextmanager
def moving_bar(unit: str) -> Iterator[Callable[[int, int], object]]:
    """Shows a progress bar whose total may change, and yields a function that takes the units done and the total."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", dynamic_ncols=True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


@contextmanager
def following(unit: str, total: int, done: Callable[[], int], *, shown: bool | None = None) -> Iterator[None]:
    """Shows a progress bar for work that reports nothing. A thread polls `done` for the number of units done."""
    if not is_shown(shown):
        yield
        return
    with progress(unit, total, shown=True) as advance:
        before = 0

        def look() -> None:
            nonlocal before
            now = done()
            advance(now - before)
            before = now

        with _every_now_and_then(look):
            yield


def untold(what: str, done: int, total: int) -> None:
    """The callback of work without a bar."""


def each(items: Iterable[T], tell: Tell, what: str, total: int) -> Iterator[T]:
    """Yields the items, and reports how many were processed."""
    tell(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        tell(what, done, total)


@contextmanager
def stages(*, shown: bool | None = None) -> Iterator[Tell]:
    """Shows a progress bar for work of several stages in turn.

    A thread of its own draws it. Reporting costs next to nothing and never fails, and the clock runs on between
    reports.
    """
    if not is_shown(shown):
        yield untold
        return
    from tqdm import tqdm

    told = ("", 0, 0)

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        told = (what, done, total)

    with tqdm(bar_format="", leave=False, dynamic_ncols=True) as bar:

        def draw() -> None:
            what, done, total = told
            if bar.desc != what:
                bar.reset()
            bar.desc, bar.n, bar.total = what, done, total or None
            bar.bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if total else "{desc} {elapsed}"
            with suppress(OSError):
                bar.refresh()

        with _every_now_and_then(draw):
            yield tell
        draw()


@contextmanager
def _every_now_and_then(look: Callable[[], object]) -> Iterator[None]:
    """Calls it on a thread of its own, as often as LOOK_SECONDS and LOOK_SHARE allow."""
    ended = threading.Event()

    def repeat() -> None:
        pause = LOOK_SECONDS
        while not ended.wait(pause):
            began = time.monotonic()
            look()
            pause = max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - began))

    looking = started(repeat, "agentmem-progress")  # Without a thread, the bar stands still.
    try:
        yield
    finally:
        ended.set()
        if looking is not None:
            looking.join()
