"""The backlog: deferred memories get their vectors in the background, or at once when somebody needs them.

What is pending stands in the database and nowhere else, so that it survives any crash and whoever has the file open
can do the work. This module only decides who works when.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator

from agentmem.embedding.embedder import Embedder
from agentmem.engine.parcel import Parcel
from agentmem.engine.runtime import Lens, Lenses
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

CHUNK = 512
"""Memories that go to the model and into a commit together: large enough that neither waits for the other."""

LEASE = "backlog"
"""The lease to work through everybody's pending memories."""

LEASE_SECONDS = 30.0
"""How long a process that died keeps the others from its background work; a chunk takes about a second."""

RECOUNT_SECONDS = 0.5
"""How often a deferred add that waits for room looks whether other processes have made some."""

FOR_EVER = 1e6

EVERYBODY = Scope()


class _Chunk(Parcel):
    """Some pending memories on their way through the model."""

    def __init__(self, embedder: Embedder, memories: list[Pending], *, urgent: bool, timeout: float) -> None:
        texts, homes = [memory.content for memory in memories], [memory.home for memory in memories]
        super().__init__(embedder, texts, homes, urgent=urgent, timeout=timeout)
        self.memories = memories
        self.model = embedder.identity


class Backlog:
    """Every method may be called from any thread. The thread of the background starts with the first need; where the
    system gives none, the next deferred memory, search, flush or opening of the store tries again."""

    def __init__(self, store: Store, lenses: Lenses, errors: BackgroundErrors, *, limit: int, patience: float) -> None:
        """`limit` memories may be pending; `patience` is the seconds that the background gives a chunk, and then each
        of its texts, before it takes them for hanging."""
        self._errors = errors
        self._patience = patience
        self._store = store
        self._lenses = lenses
        self._limit = limit
        self._start()
        if store.pending_count() or store.reembedding().has_old():
            self.wake(0)

    def _start(self) -> None:
        self._owner = claimant()
        # Guards: everything below. Taken by itself: an interrupt that strikes as a condition is left leaves it locked.
        self._lock = Lock()
        self._changed = condition(self._lock)
        self._count: int | None = None  # Pending memories of everybody, as far as this process knows.
        self._awake = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()  # Last, see Restartable.

    def admit(self, memories: int, timeout: float) -> None:
        """Before that many are stored without vectors: waits until the backlog has room for them.

        Raises:
            OverloadedError: it stayed full for `timeout` seconds.
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
                # The work of other processes is told by nobody; it is looked for now and then.
                self._changed.wait(min(left, RECOUNT_SECONDS))
            self._recount()

    def _take_room(self, memories: int) -> bool:
        with self._lock:
            if self._closed:
                raise ClosedError("The memory is closed; open a new Memory.")
            if self._count is None:
                self._count = self._store.pending_count()
            # A batch larger than the whole backlog may enter an empty one, or it never could.
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
            if self._lenses.current.embedder.absent:
                self._changed.notify_all()
                return True
            self._awake = True
            if self._thread is None or not self._thread.is_alive():
                thread = started(self._work, "agentmem-backlog")
                if thread is None:
                    self._errors.note("starting the thread for deferred memories", no_thread(), logger)
                    return False
                self._thread = thread
            self._changed.notify_all()
            return True

    def settle(self, scope: Scope, timeout: float, *, urgent: bool) -> None:
        """Has the pending memories of a scope embedded, on this thread. On return every one that was there has its
        vector committed, or its failure.

        Raises:
            DeadlineError, OverloadedError: that took longer than `timeout` seconds; what was done is kept.
            EmbeddingError: the model fails on everything.
            ClosedError: closed before or meanwhile.
        """
        deadline = time.monotonic() + timeout

        def settle(lens: Lens) -> None:
            for chunk in self._chunks(lens, scope, urgent=urgent, deadline=deadline):
                answers = chunk.answers(max(0.0, deadline - time.monotonic()))
                self._settle(chunk, answers)
                self._recount()

        self._lenses.through(settle)

    def _chunks(self, lens: Lens, scope: Scope, *, urgent: bool, deadline: float) -> Iterator[_Chunk]:
        """The chunks of a scope's memories that are pending now (what others go on deferring must not hold this call up
        for ever); each is sent off before the one before it is waited for, so that the model works while the other is
        committed."""
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
                current, ahead = ahead, _Chunk(lens.embedder, memories, urgent=urgent, timeout=left)
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
                self._changed.wait_for(lambda: self._awake or self._closed, pause)
                if self._closed:
                    return
                self._awake = False
            try:
                pause = self._drain()
            except BaseException as error:
                # The model fails, the disk is full, or this is the end. The work stays where it is; the next deferred
                # memory, search, flush or opening of the store tries again.
                if not (self._closed or self._lenses.closing.is_set()):  # The lenses close before this does.
                    self._errors.note("embedding deferred memories", error, logger)
                pause = None

    def _drain(self) -> float | None:
        """Works until nothing is pending. Returns the seconds after which to look again because another process is at
        work, or None."""
        before: int | None = None
        while (last := self._store.last_pending(EVERYBODY)) not in (None, before) and not self._closed:
            before = last  # One that a whole pass did not settle (in a damaged file), no pass will.
            left = self._store.lease(LEASE, self._owner, self._patience + LEASE_SECONDS)
            if left:
                return left
            try:
                self._lenses.through(self._work_through)
            finally:
                # Also when the model fails or this is the end: nobody shall wait for a claim that is not worked on.
                self._store.release(LEASE, self._owner)
        self._recount()
        while not self._closed and self._store.reembedding().clear():
            pass  # A mover that was killed left old vectors behind.
        return None

    def _work_through(self, lens: Lens) -> None:
        for chunk in self._chunks(lens, EVERYBODY, urgent=False, deadline=time.monotonic() + FOR_EVER):
            try:
                answers = chunk.answers(self._patience)
            except DeadlineError as error:
                answers = [self._alone(lens, memory, error) for memory in chunk.memories]
            self._settle(chunk, answers)
            self._store.lease(LEASE, self._owner, self._patience + LEASE_SECONDS)
            self._recount()

    def _settle(self, chunk: _Chunk, answers: list[Embedded | AgentMemError]) -> None:
        """Commits what became of a chunk."""
        vectors = [SetVector(*pair) for pair in zip(chunk.memories, answers, strict=True)]
        self._store.commit(vectors, model=chunk.model)

    def _alone(self, lens: Lens, memory: Pending, slow: DeadlineError) -> Embedded | AgentMemError:
        """The vector of one memory of a chunk that did not come in time; one that hangs alone too is given up."""
        try:
            [answer] = _Chunk(lens.embedder, [memory], urgent=False, timeout=self._patience).answers(self._patience)
        except DeadlineError:
            return EmbeddingError(f"The embedder did not answer on this text: {slow}")
        return answer

    def _recount(self) -> None:
        count = self._store.pending_count()
        with self._lock:
            self._count = count
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the background; what is pending stays in the store. The lenses must be closed before or meanwhile."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
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
