"""Sealing: the memories of large owners go into segments, in the background.

A search that meets an unsealed tail that is long calls for it; nothing else does, so that adding to an owner nobody
searches costs nothing. One process works at a time. Whatever ends it, nothing is lost: a segment counts once it is
listed, and what is not sealed is scanned.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from agentmem.failpoints import reach
from agentmem.forks import abandon, restart
from agentmem.search.segments import Stopped, content_of, write_segment
from agentmem.storage.claims import claimant
from agentmem.storage.segments import CLAIM_SECONDS, Built, Segments
from agentmem.storage.snapshot import ListedSegment, Owner, Snapshot

SEGMENT = 65_536
"""Memories of a segment: its graph takes about a minute of one core to build, 60 MB on the disk and, meanwhile, some
200 MB in memory; a scan of as many takes 2.5 milliseconds."""

DEAD_SHARE = 0.2
"""Of a segment, at which it is built anew."""

SMALL_SHARE = 0.5
"""Of SEGMENT; two neighbours that are both smaller are made one."""


class Job(NamedTuple):
    """A segment to be built: of the changes from `first` to `last`, in the place of others."""

    first: int
    last: int
    replaced: tuple[ListedSegment, ...]


RETRY_SECONDS = 10.0
"""After which an owner is looked at again when there was nothing to do, or it failed."""


class Range(NamedTuple):
    """A listed segment (or, without one, a range that none covers) and how many of its memories are still there."""

    first: int
    last: int
    listed: ListedSegment | None
    live: int

    @property
    def is_sound(self) -> bool:
        return self.listed is not None and self.listed.places - self.live <= DEAD_SHARE * self.listed.places


def next_job(ranges: Sequence[Range], size: int) -> Job | None:
    """What to build next, of ranges that follow each other: holes first, then what is dead for a good part, then what
    is small; None when all is well. Segments grow to `size` memories at most."""

    def joined(several: Sequence[Range]) -> Job:
        return Job(several[0].first, several[-1].last, tuple(each.listed for each in several if each.listed))

    for at, each in enumerate(ranges):
        if each.is_sound:
            continue
        # With its neighbours, as far as they go together into one.
        group = [each]
        for following in ranges[at + 1 :]:
            if sum(member.live for member in group) + following.live > size * SMALL_SHARE:
                break
            group.append(following)
        return joined(group)
    for pair in pairwise(ranges):
        if sum(each.live for each in pair) <= size * SMALL_SHARE:
            return joined(pair)
    return None


class Sealer:
    """Every method may be called from any thread. Its thread starts with the first need and ends when nothing is left
    to do."""

    def __init__(self, files: Segments, read: Callable[[], AbstractContextManager[Snapshot]], model: str) -> None:
        """For vectors of this model; `read` opens a snapshot of the store."""
        self.files = files
        self._read = read
        self._model = model
        self.size = SEGMENT
        self._start()

    def _start(self) -> None:
        self._owner = claimant()
        self._lock = threading.Lock()  # Guards: everything below.
        self._wanted: dict[Owner, None] = {}
        self._unusable: list[int] = []
        self._not_before: dict[Owner, float] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()  # Last, see Restartable.

    def wake(self, owner: Owner) -> None:
        """The owner may have something to seal. Returns at once."""
        if self._pid != os.getpid():
            restart(self, self._restart)
        if self._stopped.is_set() or not self.files.possible or owner in self._wanted:
            return
        with self._lock:
            if time.monotonic() < self._not_before.get(owner, 0.0):
                return
            self._wanted[owner] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="agentmem-sealer", daemon=True)
                self._thread.start()

    def discard(self, unusable: Iterable[ListedSegment]) -> None:
        """These files cannot be used; they are to be made anew when their owner is worked on."""
        if self._pid != os.getpid():
            restart(self, self._restart)
        with self._lock:
            self._unusable += [listed.key for listed in unusable]

    def wait(self) -> None:
        """Until nothing is left to do that this process knows of."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._stopped.is_set() or not self._wanted:
                    self._thread = None
                    return
                owner = next(iter(self._wanted))
            pause = RETRY_SECONDS
            # The disk is full, the folder cannot be written, the store is busy or closed: nothing is lost, and a later
            # search that meets the same tries again.
            with suppress(Exception):
                pause = self._seal_all(owner)
            with self._lock:
                self._not_before[owner] = time.monotonic() + pause
                self._wanted.pop(owner, None)

    def _seal_all(self, owner: Owner) -> float:
        """Seals what an owner has to seal; the seconds after which to look again at the earliest."""
        files = self.files
        while not self._stopped.is_set():
            if left := files.claim(self._owner):
                return left  # Another process is at it.
            try:
                with self._lock:
                    unusable, self._unusable = self._unusable, []
                if unusable:
                    files.strike(unusable)
                files.forget_models()
                files.sweep()
                if not self._seal_next(owner):
                    break
            finally:
                files.release(self._owner)
        return RETRY_SECONDS

    def _seal_next(self, owner: Owner) -> bool:
        """Builds one segment; False when there is none to build."""
        with self._read() as snapshot:
            job = self._next_job(snapshot, owner) if snapshot.model == self._model else None
            if job is None:
                return False
            since = snapshot.seq
            erased, changed = snapshot.changed(owner, job.first - 1, job.last)
            live = [states for states in snapshot.states(owner, changed) if len(states.keys)]
        keys = np.concatenate([changed[:0], *(states.keys for states in live)])
        if not len(keys):
            self.files.strike(listed.key for listed in job.replaced)
            return True
        content = content_of(live, np.setdiff1d(np.concatenate((erased, changed)), keys))
        del live  # Some 100 MB.
        path = self.files.new_file()
        reach("segments: before one is written")
        try:
            checksum = write_segment(path, content, stop=self._question())
        except Stopped:
            return False
        reach("segments: after one is written")
        built = Built(owner, job.first, job.last, path.name, path.stat().st_size, checksum, keys, job.replaced)
        return self.files.list(self._owner, self._model, built, since)

    def _question(self) -> Callable[[], bool]:
        """Whether to stop; renews the claim now and then, and stops when it is lost."""
        renewed = time.monotonic()

        def stop() -> bool:
            nonlocal renewed
            if time.monotonic() - renewed > CLAIM_SECONDS / 3:
                renewed = time.monotonic()
                if self.files.claim(self._owner):
                    return True
            return self._stopped.is_set()

        return stop

    def _next_job(self, snapshot: Snapshot, owner: Owner) -> Job | None:
        ranges: list[Range] = []
        after = 0
        for listed in snapshot.listed_segments(owner):
            if listed.first > after + 1:
                ranges.append(
                    Range(after + 1, listed.first - 1, None, snapshot.live_count(owner, after, listed.first - 1))
                )
            live = snapshot.live_count(owner, listed.first - 1, listed.last)
            ranges.append(Range(listed.first, listed.last, listed, live))
            after = listed.last
        job = next_job([each for each in ranges if each.listed or each.live], self.size)
        if job is not None:
            return job
        end = snapshot.nth_change(owner, after, self.size)
        pending = snapshot.first_pending(owner)
        if end is None or (pending is not None and pending <= end):  # These will soon stand somewhere else.
            return None
        return Job(after + 1, end, ())

    def close(self) -> None:
        """Ends, within seconds; a segment that is being built is given up."""
        if self._pid != os.getpid():
            return
        self._stopped.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _restart(self) -> None:
        abandon(self._lock, self._thread)
        self._start()
