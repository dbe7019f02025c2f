"""Seals the memories of large owners in segments.

Only a search that meets a long unsealed tail asks for it, so adding to an owner that is not searched costs nothing. The
tail is written without graphs, so that it leaves the memory within a second a segment. The first search of an owner
does that itself. Graphs follow in the background. One process builds them at a time, and one seals tails. If that ends
early, nothing is lost: a segment counts once it is listed, and unsealed memories are scanned.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentmem.deadline import Deadline, is_over
from agentmem.errors import StoreError
from agentmem.platform.failpoints import reach
from agentmem.platform.forks import abandon, restart
from agentmem.platform.processes import claimant
from agentmem.platform.signals import Lock, block, no_thread, started
from agentmem.search.segments.compaction import Job, Range, next_job
from agentmem.search.segments.file import Content, Segment, Stopped, Unsound, content_of, open_segment, write_segment
from agentmem.search.segments.reader import Opened
from agentmem.stats import BackgroundErrors
from agentmem.storage.interface import Snapshot, Store
from agentmem.storage.types import Built, ListedSegment, Owner

logger = logging.getLogger(__name__)

SEGMENT = 65_536
"""Memories of a segment. Its graph takes ten seconds to a minute of one core to build, 60 MB on the disk and,
meanwhile, some 200 MB in memory. Scanning as many takes 2.5 milliseconds."""

WORK = "sealing"
TAILS = "sealing tails"
"""Two leases, each held by one process at a time: to rebuild listed segments, and to add to the list."""

LEASE_SECONDS = 60.0
"""How long a process that died keeps others from sealing. A segment takes about as long, and the lease is renewed."""

READY = 4
"""Segments that are kept open for the next search. They are mapped, and take hardly any memory."""

TAIL_WAIT_SECONDS = 30.0
"""How long a first search waits for another process that seals; then it loads the rest."""

CLOSE_WAIT_SECONDS = 10.0
"""How long the end waits for a search that seals; it stops after its present segment."""

TAIL_LOOK_SECONDS = 0.05
"""How often it checks for the end of that wait."""

RETRY_SECONDS = 10.0
"""Seconds after which an owner is looked at again when there was nothing to do, or it failed."""


class Sealer:
    """Builds segments. Any thread may call every method. Its thread starts with the first need and ends when nothing is
    left to do."""

    def __init__(self, store: Store, model: str, errors: BackgroundErrors) -> None:
        """For vectors of this model."""
        self._errors = errors
        self.files = store.segments
        self._store = store
        self._read = store.snapshot
        self._model = model
        self.size = SEGMENT
        self.let_pass: Callable[[], None] = lambda: None  # Called between steps of work that can wait for searches.
        self._start()

    def _start(self) -> None:
        self._owner = claimant()
        self._tails = Lock()  # Held by the one thread that may seal tails.
        self._lock = Lock()  # Guards: everything below.
        self._wanted: dict[Owner, None] = {}
        self._unusable: list[int] = []
        self._given_up: set[Owner] = set()  # Owners whose tails could not be sealed.
        self._not_before: dict[Owner, float] = {}
        self._ready: dict[str, Segment] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()  # Last, see Restartable.

    def wake(self, owner: Owner) -> None:
        """Notes that the owner may have something to seal. Returns at once."""
        if self._pid != os.getpid():
            restart(self, self._restart)
        if self._stopped.is_set() or not self.files.possible or owner in self._wanted:
            return
        with self._lock:
            if time.monotonic() < self._not_before.get(owner, 0.0):
                return
            self._wanted[owner] = None
            if self._thread is None or not self._thread.is_alive():
                self._thread = started(self._work, "agentmem-sealer")
            if self._thread is None:  # A later search of the same owner tries again.
                self._wanted.pop(owner)
                self._errors.note("starting the thread that builds segments", no_thread(), logger)

    def can_seal(self, owner: Owner) -> bool:
        """Whether `seal_tail` is worth a try."""
        return self.files.possible and owner not in self._given_up

    def seal_tail(self, owner: Owner, deadline: Deadline | None = None) -> None:
        """Seals further segments behind the owner's last one, part of a second each. Stops at the deadline.

        Waits (bounded) while another process does that. Do not call it amid a read: it writes, and others wait for
        reads to end.
        """
        if self._pid != os.getpid():
            restart(self, self._restart)
        patience = Deadline(TAIL_WAIT_SECONDS)
        # The disk is full, or the folder cannot be written: unsealed memories are loaded.
        try:
            while not self._sealed_all_of_tail(owner, deadline) and not (is_over(deadline) or is_over(patience)):
                if self._stopped.wait(TAIL_LOOK_SECONDS):  # Other processes send no notification.
                    break
        except (StoreError, OSError) as error:
            self._note(error)

    def give_up(self, owner: Owner, *, whether: bool) -> None:
        """Whether to load an owner's unsealed memories all the same, since they could not be sealed."""
        with self._lock:
            (self._given_up.add if whether else self._given_up.discard)(owner)

    def take_ready(self, listed: Sequence[ListedSegment]) -> list[Opened]:
        """Returns those of the segments that were opened when they had just been built, each once: no process needs to
        verify them again."""
        with self._lock:
            return [(each, self._ready.pop(each.file)) for each in listed if each.file in self._ready]

    def discard(self, unusable: Iterable[ListedSegment]) -> None:
        """Notes that these files cannot be used, and are to be rebuilt when their owner is worked on."""
        if self._pid != os.getpid():
            restart(self, self._restart)
        with self._lock:
            self._unusable += [listed.key for listed in unusable]

    def wait(self) -> None:
        """Works until nothing is left to do that this process knows of."""
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
            # The disk is full, the folder cannot be written, the store is busy or closed. Nothing is lost, and a later
            # search of the same owner tries again.
            try:
                pause = self._seal_all(owner)
            except BaseException as error:
                self._note(error)
            with self._lock:
                now = time.monotonic()
                self._not_before = {each: moment for each, moment in self._not_before.items() if moment > now}
                self._not_before[owner] = now + pause
                self._wanted.pop(owner, None)

    def _note(self, error: BaseException) -> None:
        if not self._stopped.is_set():
            self._errors.note("building a segment", error, logger)

    def _seal_all(self, owner: Owner) -> float:
        """Seals an owner's memories; returns the seconds after which to look again at the earliest."""
        files = self.files
        while not self._stopped.is_set():
            try:
                if left := self._store.lease(WORK, self._owner, LEASE_SECONDS):
                    return left  # Another process is at it.
                self._strike_unusable()
                files.forget_models()
                with self._right_to_tails() as granted:
                    if granted:
                        files.sweep()  # No file is being written.
                    if granted and self._seal_next_of_tail(owner, ready=True):
                        continue
                if not self._seal_next(owner):
                    break
            finally:
                self._store.release(WORK, self._owner)
        return RETRY_SECONDS

    def _strike_unusable(self) -> None:
        with self._lock:
            unusable, self._unusable = self._unusable, []
        if unusable:
            self.files.remove(unusable)

    @block
    def _right_to_tails(self) -> Generator[bool, None, None]:
        """Whether this thread has the lease, for the length of the block."""
        with self._tails.hold():
            granted = False
            try:
                granted = not self._store.lease(TAILS, self._owner, LEASE_SECONDS)
                yield granted
            finally:
                self._store.release(TAILS, self._owner)

    def _sealed_all_of_tail(self, owner: Owner, deadline: Deadline | None) -> bool:
        """Seals everything there is; returns False when another process has the lease."""
        with self._right_to_tails() as granted:
            if granted:
                self._strike_unusable()  # Of a copy without the folder: all of them.
            while granted and not self._stopped.is_set() and self._seal_next_of_tail(owner, ready=False):
                if is_over(deadline):
                    break
        return granted

    def _seal_next_of_tail(self, owner: Owner, *, ready: bool) -> bool:
        """Seals memories that fill a segment behind the owner's last one; returns False when too few are left."""
        with self._read() as snapshot:
            present = snapshot.listed_segments(owner)
            job = self._tail(snapshot, owner, present[-1].last if present else 0)
            gathered = job and _gathered(snapshot, owner, job)
        return bool(job and gathered and self._built(owner, job, gathered, TAILS, ready=ready))

    def _tail(self, snapshot: Snapshot, owner: Owner, after: int) -> Job | None:
        """Returns the range that fills a segment after a change, if there are enough memories."""
        end = snapshot.nth_change(owner, after, self.size)
        pending = snapshot.first_pending(owner)
        # A memory that waits for its vector will soon have another place.
        if snapshot.model != self._model or end is None or (pending is not None and pending <= end):
            return None
        return Job(after + 1, end, with_graph=False)

    def _seal_next(self, owner: Owner) -> bool:
        """Builds one segment with its graph; returns False when there is none to build."""
        with self._read() as snapshot:
            job = next_job(_ranges(snapshot, owner), self.size) if snapshot.model == self._model else None
            if job is None:
                return False
            gathered = _gathered(snapshot, owner, job)
        if not len(gathered.content.columns["keys"]):
            self.files.remove(listed.key for listed in job.replaced)
            return True
        return self._built(owner, job, gathered, WORK, ready=True) is not None

    def _built(
        self, owner: Owner, job: Job, gathered: "Gathered", right: str, *, ready: bool = False
    ) -> ListedSegment | None:
        """Writes a segment, opens it for the next search on request, and lists it; returns None when it was given
        up."""
        content, since, epoch = gathered
        path = self.files.new_file()
        listed = None
        try:
            reach("segments: before one is written")
            keys = content.columns["keys"]
            stop = self._question(right, lambda: self.files.have_been_purged(keys, since))
            checksum = write_segment(path, content, like=self.files.like, with_graph=job.with_graph, stop=stop)
            reach("segments: after one is written")
            if ready:
                self._keep_ready(path, checksum)
            built = Built(
                owner, job.first, job.last, path.name, path.stat().st_size, checksum, job.with_graph,
                content.columns["keys"], job.replaced, right,
            )  # fmt: skip
            listed = self.files.add(self._owner, self._model, built, since, epoch)
        except (Stopped, FileNotFoundError):
            pass  # Given up, or swept by a purge.
        except Unsound as error:
            self._note(error)
        finally:
            if listed is None:  # A memory of it may have been purged.
                path.unlink(missing_ok=True)
        return listed

    def _keep_ready(self, path: Path, checksum: bytes) -> None:
        segment = open_segment(path, checksum)
        with self._lock:
            if len(self._ready) >= READY:
                self._ready.clear()  # Their owners are no longer searched.
            self._ready[path.name] = segment

    def _question(self, right: str, is_forbidden: Callable[[], bool]) -> Callable[[], bool]:
        """Whether to stop. Renews the lease now and then, and stops when it is lost."""
        renewed = time.monotonic()

        def stop() -> bool:
            nonlocal renewed
            if right == WORK:
                self.let_pass()
            if time.monotonic() - renewed > LEASE_SECONDS / 3:
                renewed = time.monotonic()
                if self._store.lease(right, self._owner, LEASE_SECONDS):
                    return True
            return self._stopped.is_set() or is_forbidden()

        return stop

    def close(self) -> None:
        """Ends, within seconds; a segment that is being built is given up."""
        if self._pid != os.getpid():
            return
        self._stopped.set()
        # The lease of a search that is just sealing is given back while the store can be told.
        if self._tails.acquire(timeout=CLOSE_WAIT_SECONDS):
            self._tails.release()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _restart(self) -> None:
        abandon(self._lock, self._tails, self._thread, self._ready)
        self._start()


class Gathered(NamedTuple):
    """Returns a segment's memories, and the store's last change and its epoch, when they were read."""

    content: Content
    since: int
    epoch: int


def _gathered(snapshot: Snapshot, owner: Owner, job: Job) -> Gathered:
    erased, changed = snapshot.changed(owner, job.first - 1, job.last)
    live = [states for states in snapshot.states(owner, changed) if len(states.keys)]
    return Gathered(content_of(live, np.concatenate((erased, changed))), snapshot.seq, snapshot.epoch)


def _ranges(snapshot: Snapshot, owner: Owner) -> list[Range]:
    """Returns an owner's segments, and the memories that still exist between them and before."""
    ranges: list[Range] = []
    after = 0
    for listed in snapshot.listed_segments(owner):
        if listed.first > after + 1 and (live := snapshot.live_count(owner, after, listed.first - 1)):
            ranges.append(Range(after + 1, listed.first - 1, None, live))
        ranges.append(
            Range(listed.first, listed.last, listed, snapshot.live_count(owner, listed.first - 1, listed.last))
        )
        after = listed.last
    return ranges
