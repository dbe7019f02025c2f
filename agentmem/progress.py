"""Progress bars on standard error. The only importer of tqdm, and only when a bar is shown."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def with_progress(items: Iterable[Any], unit: str) -> Iterable[Any]:
    """The items, with a bar that follows how many were taken."""
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, unit=f" {unit}")
    return bar


@contextmanager
def progress(unit: str, total: int | None, *, hidden: bool = False) -> Iterator[Callable[[int], object]]:
    """A progress bar, on a standard error that is a terminal; what it yields is told of every few units done."""
    if hidden or not sys.stderr.isatty():
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", leave=False, dynamic_ncols=True) as bar:
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
