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
"""Is told what is being done, how much of it is done, and of how much (0: nobody knows)."""

LOOK_SECONDS = 0.2
LOOK_SHARE = 10
"""A bar that has to look for itself looks so often, and no more than one part in so many of the time."""


def with_progress(items: Iterable[Any], unit: str) -> Iterable[Any]:
    """The items, with a bar that follows how many were taken."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, unit=f" {unit}")
    return bar


def end_bars() -> None:
    """Ends the bars that an interrupt tore out of their blocks, before anything else is said."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def is_shown(shown: bool | None) -> bool:
    """Whether to show a bar: as it was said, or else where standard error is a terminal."""
    return sys.stderr.isatty() if shown is None else shown


@contextmanager
def progress(unit: str, total: int | None, *, shown: bool | None = None) -> Iterator[Callable[[int], object]]:
    """A progress bar; what it yields is told of every few units done. `shown` of None: where standard error is a
    terminal."""
    if not is_shown(shown):
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=unit == "B", leave=False, dynamic_ncols=True) as bar:
        yield bar.update


@contextmanager
def moving_bar(unit: str) -> Iterator[Callable[[int, int], object]]:
    """A progress bar on standard error whose end may move too; what it yields is told how many units are done, and of
    how many."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", dynamic_ncols=True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


@contextmanager
def following(unit: str, total: int, done: Callable[[], int], *, shown: bool | None = None) -> Iterator[None]:
    """The same for work that tells nothing by itself: `done` is asked now and then, on a thread of its own, how many
    units are done."""
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
    """Where nobody wants to know."""


def each(items: Iterable[T], tell: Tell, what: str, total: int) -> Iterator[T]:
    """The items, of which it is told how many are done with."""
    tell(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        tell(what, done, total)


@contextmanager
def stages(*, shown: bool | None = None) -> Iterator[Tell]:
    """A progress bar on standard error for work of several stages, one after the other. It is drawn by a thread of its
    own: what it yields costs next to nothing and never fails, and the clock goes on while nothing is told."""
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
    """Calls it so often as LOOK_SECONDS and LOOK_SHARE say, on a thread of its own."""
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
