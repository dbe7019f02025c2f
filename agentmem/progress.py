"""Progress bars on standard error. The only importer of tqdm, and only when a bar is shown."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LOOK_SECONDS = 0.2
LOOK_SHARE = 10
"""A bar that has to look for itself looks so often, and no more than one part in so many of the time."""


def with_progress(items: Iterable[Any], unit: str) -> Iterable[Any]:
    """The items, with a bar that follows how many were taken."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, unit=f" {unit}")
    return bar


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
        ended = threading.Event()
        looking = threading.Thread(target=_look, args=(advance, done, ended), name="agentmem-progress", daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()


def _look(advance: Callable[[int], object], done: Callable[[], int], ended: threading.Event) -> None:
    before, pause = 0, LOOK_SECONDS
    while not ended.wait(pause):
        began = time.monotonic()
        now = done()
        advance(now - before)
        before, pause = now, max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - began))
