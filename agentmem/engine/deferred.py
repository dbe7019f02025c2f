"""Gives pending memories their vectors, in the background, or at once when a call needs them.

What is pending stands in the store and nowhere else, so it survives any crash. Any process that has the store open can
do the work. This module only decides which process works when.

Memories that were deferred by a call are worked on at once. Those of a model with a fast half are refined when adds
pause, or at a bound of age and number. So a burst of adds has the processors for itself.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Iterator

from agentmem.embedding.embedder import Embedder
from agentmem.engine.document_batch import DocumentBatch
from agentmem.engine.runtime import ModelRuntime, ModelRuntimes
from agentmem.errors import AgentMemError, ClosedError, DeadlineError, EmbeddingError, OverloadedError
from agentmem.platform.forks import abandon, restart
from agentmem.platform.processes import claimant
from agentmem.platform.signals import Lock, condition, no_thread, started
from agentmem.records import Embedded, Scope
from agentmem.stats import BackgroundErrors
from agentmem.storage.interface import Store
from agentmem.storage.operations import SetVector
from agentmem.storage.types import Pending

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.03
"""Without an add, after which refinement begins."""

LATEST_SECONDS = 3.0
"""After the first add, at which it begins anyway."""

GRID_SECONDS = 0.01
"""To which adds that must wait are put off, so that they share a commit."""

FASTEST, SLOWEST = 3.0, 0.9
"""Times the rate of refinement, at which adds are admitted when the limit is half used, and when it is full."""

FIRST_RATE = 500.0
"""Memories a second that are taken to be refined, until it is known."""

CHUNK = 256
"""Memories that go to the model and into a commit together: large enough that neither waits for the other."""

LEASE = "backlog"
"""The lease to work through the pending memories of all owners."""

LEASE_SECONDS = 30.0
"""How long a process that died keeps the others from its background work; a chunk takes about a second."""

RECOUNT_SECONDS = 0.5
"""How often a deferred add that waits for room looks whether other processes have made some."""

FOR_EVER = 1e6

ASKED_KEPT = 100
"""Owners that are remembered to be refined first."""

EVERYBODY = Scope()


class _Chunk(DocumentBatch):
    """Some pending memories on their way through the model."""

    def __init__(
        self, embedder: Embedder, memories: list[Pending], *, urgent: bool, timeout: float, refine: bool = False
    ) -> None:
        texts, homes = [memory.content for memory in memories], [memory.home for memory in memories]
        super().__init__(embedder, texts, homes, urgent=urgent, timeout=timeout, refine=refine)
        self.memories = memories
        self.model = embedder.identity


class Backlog:
    """Every method may be called from any thread. The thread of the background starts with the first need; where the
    system gives none, the next deferred memory, search, flush or opening of the store tries again."""

    def __init__(
        self,
        store: Store,
        runtimes: ModelRuntimes,
        errors: BackgroundErrors,
        *,
        limit: int,
        patience: float,
        never_refines: bool = False,
    ) -> None:
        """`limit` memories may be pending.

        `patience` is the seconds that the background gives a chunk, and then each of its texts, before it gives them
        up. With `never_refines`, memories keep their fast halves.
        """
        self._errors = errors
        self._never_refines = never_refines
        self.rate = 0.0  # Memories a second that the background settled lately.
        self._patience = patience
        self._store = store
        self._runtimes = runtimes
        self._limit = limit
        self._start()
        if store.pending_count() or store.reembedding().has_old():
            self.wake(0)

    def _start(self) -> None:
        self._owner = claimant()
        # Guards: everything below. Taken alone: an interrupt that strikes as a condition is left leaves it locked.
        self._lock = Lock()
        self._changed = condition(self._lock)
        self._count: int | None = None  # Pending memories of all owners, as far as this process knows.
        self._awake = False  # There is something to do at once.
        self._stirred = False  # There is something to refine, when adds pause.
        self._first_at = self._last_at = self._next_turn = 0.0  # Adds, by the monotonic clock.
        self._asked: dict[tuple[str, str], None] = {}  # Owners that were searched while memories of them were pending.
        self._ended = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()  # Last, see Restartable.

    def admit(self, memories: int, timeout: float) -> None:
        """Waits until that many memories may be pending, before they are stored without vectors.

        Raises:
            OverloadedError: There was no room for `timeout` seconds.
        """
        self._ensure_process()
        deadline = time.monotonic() + timeout
        while not self._take_room(memories):
            works = self.wake(0)
            left = deadline - time.monotonic()
            if left <= 0:
                raise OverloadedError(
                    f"{self._count:,} deferred memories were waiting for their vectors during {timeout:g} seconds; "
                    "nothing was written, try again later or raise timeout or Config.pending_limit."
                )
            if not works:
                self.settle(EVERYBODY, left, urgent=False)
                continue
            with self._lock:
                # Other processes send no notification, so poll.
                self._changed.wait(min(left, RECOUNT_SECONDS))
            self._recount()

    def admit_refined(self, memories: int, timeout: float) -> None:
        """The same for memories that are refined later. From half of the limit on, adds take turns, the slower the
        fuller it is, so that none waits long.

        Raises:
            OverloadedError: it stayed full for `timeout` seconds.
        """
        self._ensure_process()
        with self._lock:
            if self._closed:
                raise ClosedError("The memory is closed; open a new Memory.")
            if self._count is None:
                self._count = self._store.pending_count()
            full = bool(self._count) and self._count + memories > self._limit and not self._never_refines
            wait = 0.0
            if not full:
                self._count += memories
                if self._count > self._limit / 2 and not self._never_refines:
                    wait = self._turn(memories)
        if full:
            self.admit(memories, timeout)
        elif wait:
            self._ended.wait(min(wait, timeout))

    def _turn(self, memories: int) -> float:
        """The seconds until these may be added. The caller holds the lock."""
        assert self._count is not None
        fill = min(1.0, 2 * self._count / self._limit - 1)
        rate = (self.rate or FIRST_RATE) * (FASTEST - (FASTEST - SLOWEST) * fill)
        now = time.monotonic()
        turn = max(now, self._next_turn)
        self._next_turn = turn + memories / rate
        return max(0.0, math.ceil(turn / GRID_SECONDS) * GRID_SECONDS - now)

    def _take_room(self, memories: int) -> bool:
        with self._lock:
            if self._closed:
                raise ClosedError("The memory is closed; open a new Memory.")
            if self._count is None:
                self._count = self._store.pending_count()
            # A batch larger than the whole limit may enter when nothing is pending, or it never could.
            if self._count and self._count + memories > self._limit:
                return False
            self._count += memories
            return True

    def wake(self, missed: int) -> bool:
        """There is something to do in the background; `missed` admitted memories were not stored after all. False when
        it needs a thread and the system gives none: the work stays, and the next call tries again."""
        self._ensure_process()
        with self._lock:
            if self._closed:
                return True
            if self._count is not None:
                self._count -= missed
            if self._runtimes.current.embedder.absent:
                self._changed.notify_all()
                return True
            self._awake = True
            if not self._has_thread():
                return False
            self._changed.notify_all()
            return True

    def stir(self, missed: int = 0) -> None:
        """Notes that there is something to refine when adds pause; `missed` as for `wake`.

        It costs an add next to nothing: the thread is woken once, and then looks at the clock.
        """
        self._ensure_process()
        now = time.monotonic()
        with self._lock:
            if self._count is not None:
                self._count -= missed
            self._last_at = now
            if self._stirred or self._closed or self._never_refines:
                return
            self._stirred, self._first_at = True, now
            if not self._has_thread():
                self._stirred = False
            self._changed.notify_all()

    def wake_for(self, owner: tuple[str, str] | None) -> None:
        """An owner was searched while memories waited for their vectors: those of it come first."""
        runtime = self._runtimes.current
        if not runtime.progressive:
            self.wake(0)
            return
        with self._lock:
            if owner is not None and len(self._asked) < ASKED_KEPT:
                self._asked[owner] = None
            stirred = self._stirred
        if not stirred:
            self.stir()

    def _has_thread(self) -> bool:
        """Starts the thread unless it runs; False when the system gives none. The caller holds the lock."""
        if self._thread is None or not self._thread.is_alive():
            thread = started(self._work, "agentmem-backlog")
            if thread is None:
                self._errors.note("starting the thread for deferred memories", no_thread(), logger)
                return False
            self._thread = thread
        return True

    def settle(self, scope: Scope, timeout: float, *, urgent: bool) -> None:
        """Embeds the pending memories of a scope, on this thread. On return each of them has its vector committed, or
        its failure.

        Raises:
            DeadlineError: That took longer than `timeout` seconds; finished parts are kept.
            OverloadedError: Likewise.
            EmbeddingError: The model fails on everything.
            ClosedError: Closed before or meanwhile.
        """
        deadline = time.monotonic() + timeout

        def settle(runtime: ModelRuntime) -> None:
            for chunk in self._chunks(runtime, scope, urgent=urgent, deadline=deadline):
                answers = chunk.answers(max(0.0, deadline - time.monotonic()))
                self._settle(chunk, answers)
                self._recount()

        self._runtimes.through(settle)

    def _chunks(
        self, runtime: ModelRuntime, scope: Scope, *, urgent: bool, deadline: float, refine: bool = False
    ) -> Iterator[_Chunk]:
        """Yields the chunks of a scope's present pending memories; memories deferred meanwhile do not hold this call
        up.

        Each is sent off before the one before it is waited for, so that the model works while the other is committed.
        """
        ahead: _Chunk | None = None
        after_key = 0
        last_key = self._store.last_pending(scope)
        if last_key is None:
            return
        try:
            while memories := self._store.pending(scope, after=after_key, until=last_key, limit=CHUNK):
                if memories[-1].key <= after_key:  # Out of order, in a damaged file: there would be no end to it.
                    break
                after_key = memories[-1].key
                left = max(0.0, deadline - time.monotonic())
                current, ahead = ahead, _Chunk(runtime.embedder, memories, urgent=urgent, timeout=left, refine=refine)
                if current is not None:
                    yield current
            if ahead is not None:
                current, ahead = ahead, None
                yield current
        finally:
            if ahead is not None:
                ahead.cancel()

    def _work(self) -> None:
        """The background's thread."""
        pause: float | None = None
        while True:
            with self._lock:
                # After another process's claim is over, it may have died with work undone: look again.
                self._changed.wait_for(lambda: self._awake or self._stirred or self._closed, pause)
                while self._stirred and not (self._awake or self._closed) and (rest := self._rest()) > 0:
                    self._changed.wait(rest)
                if self._closed:
                    return
                self._awake = self._stirred = False
            try:
                pause = self._drain()
            except BaseException as error:
                # The model fails, the disk is full, or this is the end. The work stays where it is; the next deferred
                # memory, search, flush or opening of the store tries again.
                if not (self._closed or self._runtimes.closing.is_set()):  # The models close before this does.
                    self._errors.note("embedding deferred memories", error, logger)
                pause = None

    def _rest(self) -> float:
        """The seconds until refinement begins. The caller holds the lock."""
        if self._count is not None and self._count > self._limit / 2:
            return 0.0
        return min(self._last_at + QUIET_SECONDS, self._first_at + LATEST_SECONDS) - time.monotonic()

    def _drain(self) -> float | None:
        """Works until nothing is pending. Returns the seconds after which to look again because another process is at
        work, or None."""
        before: int | None = None
        if self._never_refines and self._runtimes.current.progressive:
            return None
        while (last := self._store.last_pending(EVERYBODY)) not in (None, before) and not self._closed:
            before = last  # One that a whole pass did not settle (in a damaged file), no pass will.
            left = self._store.lease(LEASE, self._owner, self._patience + LEASE_SECONDS)
            if left:
                return left
            try:
                self._runtimes.through(self._work_through)
            finally:
                # Also when the model fails or this is the end: no process shall wait for a lease without work.
                self._store.release(LEASE, self._owner)
        self._recount()
        while not self._closed and self._store.reembedding().clear():
            pass  # A mover that was killed left old vectors behind.
        return None

    def _work_through(self, runtime: ModelRuntime) -> None:
        """Settles all pending memories; owners that were or are searched come first."""
        while True:
            for owner in self._take_asked():
                self._work_on(runtime, Scope(**dict([owner])))
            if self._work_on(runtime, EVERYBODY):
                return

    def _take_asked(self) -> list[tuple[str, str]]:
        with self._lock:
            asked, self._asked = list(self._asked), {}
        return asked

    def _work_on(self, runtime: ModelRuntime, scope: Scope) -> bool:
        """Settles the pending memories of a scope; returns False when it stopped early because an owner was
        searched."""
        leased = began = time.monotonic()
        until = time.monotonic() + FOR_EVER
        for chunk in self._chunks(runtime, scope, urgent=False, deadline=until, refine=runtime.progressive):
            try:
                answers = chunk.answers(self._patience)
            except DeadlineError as error:
                answers = [self._alone(runtime, memory, error) for memory in chunk.memories]
            self._settle(chunk, answers)
            now = time.monotonic()
            rate = len(answers) / max(now - began, 1e-6)
            self.rate, began = rate if not self.rate else 0.8 * self.rate + 0.2 * rate, now
            if now - leased > LEASE_SECONDS / 3:
                leased = now
                self._store.lease(LEASE, self._owner, self._patience + LEASE_SECONDS)
            self._recount()
            if self._asked and scope == EVERYBODY:
                return False
        return True

    def _settle(self, chunk: _Chunk, answers: list[Embedded | AgentMemError]) -> None:
        """Commits what became of a chunk."""
        vectors = [SetVector(*pair) for pair in zip(chunk.memories, answers, strict=True)]
        self._store.commit(vectors, model=chunk.model)

    def _alone(self, runtime: ModelRuntime, memory: Pending, slow: DeadlineError) -> Embedded | AgentMemError:
        """The vector of one memory of a chunk that did not come in time; one that hangs alone too is given up."""
        try:
            [answer] = _Chunk(runtime.embedder, [memory], urgent=False, timeout=self._patience).answers(self._patience)
        except DeadlineError:
            return EmbeddingError(f"The embedder did not answer on this text: {slow}")
        return answer

    def _recount(self) -> None:
        count = self._store.pending_count()
        with self._lock:
            self._count = count
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the background; pending memories stay in the store. Close the models before or meanwhile."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            self._ended.set()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _ensure_process(self) -> None:
        if self._pid != os.getpid():
            restart(self, self._restart)

    def _restart(self) -> None:
        abandon(self._lock, self._thread)
        self._start()
