"""The collector: texts of many threads become batches, executors run them, answers go back.

One thread owns the queues. It takes what has arrived, and cuts a batch as soon as a run may start. A pool of threads,
which share the model's session, runs it. There is no timer: a lone text leaves at once, and load makes batches. Urgent
batches do not wait for bulk ones: they start beside them and share the cores for as long as those take.

Callers put messages into an inbox and wait for their own future; no lock of the queues is theirs, so that an interrupt
tears nothing. A caller that is alone with the model runs its text itself, and so does every caller where the system
gives no threads.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.deadline import late
from agentmem.embedding.batch import Answer, Failures, embed_batch, failure
from agentmem.embedding.future import EmbeddingFuture
from agentmem.embedding.queue import Queue, Request
from agentmem.errors import AgentMemError, ClosedError, OverloadedError
from agentmem.platform.failpoints import reach
from agentmem.platform.signals import Lock, condition, no_thread, require_room, started
from agentmem.stats import Timings

logger = logging.getLogger(__name__)

Run = Callable[[list[Any]], npt.NDArray[np.float32]]
"""Prepared items in, vectors (n, dimension) out."""

BULK_TURN = 8
"""When urgent and bulk requests both wait, every eighth batch is bulk, so that bulk never starves. Counted in batches
and not in seconds: a test needs no clock, and a slow machine gives the same shares."""

MOST_LOST = 64
"""Runs that may hang without end (a remote embedder that never answers) before no further run begins. A run whose
callers have all given up does not count against the workers."""

CLOSE_WAIT_SECONDS = 30.0
"""How long `close` waits for runs that have begun."""

LOST_WAIT_SECONDS = 1.0
"""How long `close` waits for runs whose callers have all given up: several times what a batch takes."""

REFINE_TEXTS = 16
"""Most texts of a refining batch: larger ones gain nothing, and hold a core for longer."""

REFINE_NICENESS = 10
"""What threads that refine add to theirs, so that queries and commits go first. It cannot be taken back without
privilege, which is why these threads do nothing else."""

CLOSED = "The memory was closed while this call was waiting; nothing was written."


class Text(NamedTuple):
    """A text that a call brings: its place in the call, its digest, what the model takes of it, its tokens."""

    place: int
    digest: bytes
    item: Any
    tokens: int


@dataclass(slots=True)
class CollectorCounts:
    """Since the collector began."""

    batches: int = 0
    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    largest_batch: int = 0
    coalesced: int = 0
    recalled: int = 0
    failed: int = 0
    dropped: int = 0
    run_seconds: float = 0.0


class _Batch:
    """Requests that run together. Answered once, whether its run ends first or `close` gives it up."""

    __slots__ = ("requests", "thread", "urgent")

    def __init__(self, requests: list[Request], *, urgent: bool) -> None:
        self.requests = requests
        self.urgent = urgent
        self.thread: threading.Thread | None = None  # That runs it.

    def is_wanted(self) -> bool:
        return any(request.is_wanted() for request in self.requests)


class _Arrival(NamedTuple):
    """A call's texts on their way to the queues."""

    future: EmbeddingFuture
    texts: Sequence[Text]
    tokens: int
    urgent: bool
    at: float


class Collector:
    """Between the callers' threads and the model. Its threads start with the first text that needs them."""

    def __init__(
        self,
        run: Run,
        *,
        dimension: int,
        workers: int,
        own_model: bool,
        batch_tokens: int,
        queue_tokens: int,
        keep: Callable[[bytes, bytes], None],
        recall: Callable[[Sequence[bytes]], dict[bytes, bytes]],
        timings: Timings,
    ) -> None:
        """
        Args:
            run: The model. At most `workers` bulk runs overlap, and as many urgent ones if it is an `own_model`.
            own_model: The runs end soon, may overlap, and raise only AgentMemError or MemoryError. They share a pool of
                threads, and a lone caller may run its own text. Otherwise a run may hang for ever: it has a daemon
                thread of its own, so that the process can end.
            batch_tokens: Most padded tokens of a batch.
            queue_tokens: Most tokens that wait, before callers block.
            keep: Is told every new vector.
            recall: Knows vectors of earlier; is asked once a batch.
        """
        self._run = run
        self._dimension = dimension
        self._own_model = own_model
        self._batch_tokens = batch_tokens
        self._queue_tokens = queue_tokens
        self._keep = keep
        self._recall = recall
        self._timings = timings
        self.workers = workers
        self.counts = CollectorCounts()
        # Arrivals of callers, batches that refine; None: look again.
        self._inbox: queue.SimpleQueue[_Arrival | list[_Batch] | None] = queue.SimpleQueue()
        self._arriving: dict[EmbeddingFuture, _Arrival] = {}  # In the inbox, and not given up.
        self._lock = Lock()  # Guards: the callers of each request, and everything below.
        self._changed = condition(self._lock)  # Tokens left the queues, a run ended, or the end.
        self._urgent, self._bulk = Queue(), Queue()
        self._urgent_in_a_row = 0
        self._flying: dict[bytes, Request] = {}
        self._running: set[_Batch] = set()  # The runs for callers; those that refine are in `_refining`.
        self._refining: set[_Batch] = set()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._daemons: list[threading.Thread] = []  # That run batches of an embedder which was given.
        self._pool = ThreadPoolExecutor(2 * workers, "agentmem-worker")
        self._refiners = ThreadPoolExecutor(workers, "agentmem-refine", initializer=_step_back)

    # -- the callers' side ----------------------------------------------------------------------------------------

    def submit(self, future: EmbeddingFuture, texts: Sequence[Text], *, urgent: bool, timeout: float) -> None:
        """Has texts of a future embedded; its owner cancels it if this raises. Blocks while the queues are full. A text
        that is alone with the model is run on this thread instead, and answered on return. So are all texts where no
        thread can be started.

        Raises:
            OverloadedError: The queues stayed full for `timeout` seconds.
            DeadlineError: There were no threads, and this one did not get its turn in time.
            ClosedError: The collector is closed.
        """
        tokens = sum(text.tokens for text in texts)
        deadline = time.monotonic() + timeout
        lone = None
        with self._lock:
            has_room = self._changed.wait_for(lambda: self._closed or self._has_room(tokens), timeout)
            if self._closed:
                raise ClosedError(CLOSED)
            if not has_room:
                raise OverloadedError(
                    f"{self._waiting_tokens():,} tokens were waiting for the model during {timeout:g} seconds; "
                    "nothing was written, try again later or raise timeout or Config.queue_tokens."
                )
            if len(texts) == 1 and urgent and self._own_model and not self._running and not self._waiting_texts():
                lone = _Batch([_request(future, texts[0])], urgent=True)
                self._run_soon(future, lone)
        has_thread = self._has_thread()  # Also for a lone call: others may come while it runs.
        if lone is not None:
            self._run_here(lone)
        elif has_thread:
            arrival = _Arrival(future, texts, tokens, urgent, time.monotonic())
            future.on_cancel = self._leave
            self._arriving[future] = arrival
            self._inbox.put(arrival)
            if self._closed:  # Perhaps the collector's thread had looked into the inbox for the last time.
                raise ClosedError(CLOSED)
        else:
            self._run_all_here(future, texts, deadline, timeout)

    def refine(self, future: EmbeddingFuture, texts: Sequence[Text]) -> None:
        """Has texts of a future embedded by threads of low priority, in batches of similar length, behind what they
        have begun. Never blocks, unless no thread can be started: then this one works.

        Raises:
            ClosedError: The collector is closed.
        """
        waiting = Queue()
        for text in texts:
            waiting.put(_request(future, text))
        batches = []
        while requests := waiting.take(most=REFINE_TEXTS, budget_tokens=self._batch_tokens):
            batches.append(_Batch(requests, urgent=False))
        with self._lock:
            if self._closed:
                raise ClosedError(CLOSED)
            self._refining.update(batches)
        if self._has_thread():
            self._inbox.put(batches)
        else:
            for batch in batches:
                self._work(batch)

    def _leave(self, future: EmbeddingFuture) -> None:
        """The caller gave up."""
        self._arriving.pop(future, None)
        self._inbox.put(None)

    def _has_room(self, tokens: int) -> bool:
        waiting = self._waiting_tokens()
        # A call larger than the whole queue may enter an empty one, or it never could.
        return not waiting or waiting + tokens <= self._queue_tokens

    def _waiting_tokens(self) -> int:
        return self._urgent.tokens + self._bulk.tokens + sum(each.tokens for each in list(self._arriving.values()))

    def _waiting_texts(self) -> int:
        return len(self._urgent) + len(self._bulk) + sum(len(each.texts) for each in list(self._arriving.values()))

    def depth(self) -> tuple[int, int, float]:
        """Texts and tokens that wait now, and the seconds that the oldest has waited."""
        with self._lock:
            arrived = [request.arrived for line in (self._urgent, self._bulk) if (request := line.oldest())]
            arrived += [arrival.at for arrival in list(self._arriving.values())]
            age = time.monotonic() - min(arrived) if arrived else 0.0
            return self._waiting_texts(), self._waiting_tokens(), age

    # -- a caller's thread in the place of others -------------------------------------------------------------------

    def _run_all_here(self, future: EmbeddingFuture, texts: Sequence[Text], deadline: float, timeout: float) -> None:
        """Runs a call's texts on this thread, a turn at a time among others that do the same."""
        waiting = Queue()
        for text in texts:
            waiting.put(_request(future, text))
        while requests := waiting.take(most=len(texts), budget_tokens=self._batch_tokens):
            batch = _Batch(requests, urgent=False)
            with self._lock:
                has_turn = self._changed.wait_for(
                    lambda: self._closed or self._busy() < self.workers, deadline - time.monotonic()
                )
                if self._closed:
                    raise ClosedError(CLOSED)
                if not has_turn:
                    raise late(timeout)
                self._run_soon(future, batch)
            self._run_here(batch)

    def _run_soon(self, future: EmbeddingFuture, batch: _Batch) -> None:
        """Counts a batch that its caller is going to run; an error on the way cancels the future. The caller holds the
        lock."""
        future.on_cancel = partial(self._forget, batch)
        self._running.add(batch)

    def _forget(self, batch: _Batch, _: EmbeddingFuture) -> None:
        with self._lock:
            self._end(batch)

    def _run_here(self, batch: _Batch) -> None:
        """Runs a batch of this caller. An interrupt, or what a signal handler raises, is the caller's own and goes
        through. So does what its stack or its memory has no room for."""
        batch.thread = threading.current_thread()
        began = time.perf_counter()
        answers = self._answers(batch, (AgentMemError, MemoryError) if self._own_model else Exception)
        for answer in answers:
            if isinstance(answer, AgentMemError) and isinstance(answer.__cause__, RecursionError | MemoryError):
                raise answer.__cause__
        for future in self._finish(batch, answers, time.perf_counter() - began):
            future.complete()

    # -- the collector's thread -----------------------------------------------------------------------------------

    def _has_thread(self) -> bool:
        """Whether the collector's thread runs, which is started if need be."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            require_room()
            thread = started(self._collect, "agentmem-collector")
            if thread is None:
                self._timings.errors.note("starting a thread for the model", no_thread(), logger)
        return thread is not None

    def _collect(self) -> None:
        """The collector's thread: forms batches until the end."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():  # Two callers have started one.
                return
            self._thread = threading.current_thread()
        while not self._closed:
            try:
                self._take_in(self._inbox.get())
                with suppress(queue.Empty):  # The more there is to choose from, the better the batch.
                    while True:
                        self._take_in(self._inbox.get_nowait())
                while not self._closed and (batch := self._cut()) is not None:
                    self._start(batch)
            except BaseException as error:
                self._timings.errors.note("forming batches for the model", error, logger)
        self._refuse_all()

    def _take_in(self, arrival: _Arrival | list[_Batch] | None) -> None:
        if arrival is None:
            return
        if isinstance(arrival, list):
            for batch in arrival:
                self._submit(self._refiners, batch)
            return
        line = self._urgent if arrival.urgent else self._bulk
        with self._lock:
            for text in arrival.texts:
                request = self._flying.get(text.digest)
                if request is None:
                    request = self._flying[text.digest] = _request(arrival.future, text, arrival.at)
                    line.put(request)
                    continue
                self.counts.coalesced += 1
                request.waiting.append((arrival.future, text.place))
                if arrival.urgent and self._bulk.remove(request):
                    # Otherwise a query would wait behind the bulk work that happens to hold the same text.
                    request = self._flying[text.digest] = request.again()
                    line.put(request)
            self._arriving.pop(arrival.future, None)

    def _next_line(self) -> Queue | None:
        """The queue that the next batch comes from, or None while nothing may start.

        Bulk takes a free worker. Urgent, where runs may overlap, needs only that not all workers are urgent already.
        The extra runs share the cores with bulk runs, which end soon and are not followed by bulk. So a query beside a
        long `add_batch` waits for half a core instead of for a whole bulk batch.
        """
        busy, urgent_runs = self._busy(), self._busy(urgent=True)
        bulk = len(self._bulk) and busy < self.workers
        urgent = len(self._urgent) and (urgent_runs if self._own_model else busy) < self.workers
        if len(self._running) >= self.workers + MOST_LOST:
            return None
        if bulk and (not urgent or self._urgent_in_a_row >= BULK_TURN):
            return self._bulk
        return self._urgent if urgent else None

    def _busy(self, *, urgent: bool = False) -> int:
        """Returns the number of workers that are busy, with urgent runs or with any, for a caller that still waits."""
        return sum((batch.urgent or not urgent) and batch.is_wanted() for batch in list(self._running))

    def _cut(self) -> _Batch | None:
        """The next batch, counted as running, or None when nothing may start."""
        while True:
            with self._lock:
                line = self._next_line()
                if line is None:
                    return None
                urgent = line is self._urgent
                self._urgent_in_a_row = self._urgent_in_a_row + 1 if urgent else 0
                free = self.workers - self._busy(urgent=urgent and self._own_model)
                requests = line.take(
                    most=-(-len(line) // free),  # Leave the other free workers their share.
                    budget_tokens=self._batch_tokens,
                )
                for request in requests:
                    if not request.is_wanted():
                        del self._flying[request.digest]
                        self.counts.dropped += 1
                batch = _Batch([request for request in requests if request.is_wanted()], urgent=urgent)
                if batch.requests:
                    self._running.add(batch)
                self._changed.notify_all()
            self._timings.record("wait", time.monotonic() - min(request.arrived for request in requests))
            if batch.requests:
                return batch

    def _start(self, batch: _Batch) -> None:
        """Has a batch run on another thread, or on this one if there is none."""
        if self._own_model:
            self._submit(self._pool, batch)
            return
        thread = started(partial(self._work, batch), "agentmem-worker")
        if thread is None:
            self._work(batch)
        else:
            self._daemons = [*(daemon for daemon in self._daemons if daemon.is_alive()), thread]

    def _submit(self, pool: ThreadPoolExecutor, batch: _Batch) -> None:
        try:
            pool.submit(self._work, batch)
        except RuntimeError:  # The number of threads is limited, or the interpreter is ending.
            if not self._closed:
                self._work(batch)

    # -- the runs -------------------------------------------------------------------------------------------------

    def _work(self, batch: _Batch) -> None:
        """Runs a batch on a thread of ours. Such a thread never dies of a batch: the callers are told."""
        batch.thread = threading.current_thread()
        began = time.perf_counter()
        try:
            if self._is_dropped(batch):
                return
            answers = self._answers(batch, BaseException)
        except BaseException as error:
            answers = [failure(error)] * len(batch.requests)
        try:
            for future in self._finish(batch, answers, time.perf_counter() - began):
                future.complete()
        except BaseException as error:
            self._timings.errors.note("answering for the model", error, logger)

    def _is_dropped(self, batch: _Batch) -> bool:
        """Forgets a batch that no caller wants any more. The next caller with such a text does not wait for it then."""
        with self._lock:
            if batch.is_wanted():
                return False
            self._end(batch)
            self.counts.dropped += len(batch.requests)
        return True

    def _end(self, batch: _Batch) -> None:
        """The caller holds the lock."""
        for request in batch.requests:
            if self._flying.get(request.digest) is request:
                del self._flying[request.digest]
        self._running.discard(batch)
        self._refining.discard(batch)
        self._changed.notify_all()
        if len(self._urgent) or len(self._bulk):
            self._inbox.put(None)

    def _answers(self, batch: _Batch, failures: Failures) -> list[Answer]:
        """From the store what it has seen before, from the model the rest; these failures of the model as answers."""
        requests = batch.requests
        known = self._recall([request.digest for request in requests]) if batch not in self._refining else {}
        unknown = [request for request in requests if request.digest not in known]
        embedded = iter(embed_batch(self._run, [request.item for request in unknown], self._dimension, failures))
        answers = [known.get(request.digest) or next(embedded) for request in requests]
        with self._lock:
            self.counts.recalled += len(known)
        return answers

    def _finish(self, batch: _Batch, answers: list[Answer], seconds: float) -> list[EmbeddingFuture]:
        """Counts a run that took these seconds and notes its answers. Returns the futures that have all of theirs."""
        if batch not in self._refining:
            self._timings.record("embed", seconds)
            for request, answer in zip(batch.requests, answers, strict=True):
                if isinstance(answer, bytes):
                    reach("cache: before a vector is kept")
                    self._keep(request.digest, answer)
        with self._lock:  # First, so that statistics include every delivered answer.
            self._count(batch.requests, answers, seconds)
        return self._answer(batch, answers)

    def _answer(self, batch: _Batch, answers: Iterable[Answer]) -> list[EmbeddingFuture]:
        complete = []
        with self._lock:
            if batch not in self._running and batch not in self._refining:  # `close` has answered in its place.
                return []
            for request, answer in zip(batch.requests, answers, strict=True):
                complete += [future for future, index in request.waiting if future.answer(index, answer)]
            self._end(batch)
        return complete

    def _count(self, requests: list[Request], answers: list[Answer], seconds: float) -> None:
        counts = self.counts
        counts.batches += 1
        counts.texts += len(requests)
        counts.tokens += sum(request.tokens for request in requests)
        counts.padded_tokens += len(requests) * max(request.tokens for request in requests)
        counts.largest_batch = max(counts.largest_batch, len(requests))
        counts.failed += sum(not isinstance(answer, bytes) for answer in answers)
        counts.run_seconds += seconds

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Answers all that waits with ClosedError, lets running batches end (bounded), stops the threads."""
        here = threading.current_thread()  # A run that closes its own memory must not wait for itself.
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        self._inbox.put(None)
        self._refiners.shutdown(wait=False, cancel_futures=True)
        if thread is None or thread is here:
            self._refuse_all()
        else:
            thread.join(CLOSE_WAIT_SECONDS)
        with self._lock:
            cancelled = [batch for batch in self._refining if batch.thread is None]
        self._refuse(cancelled)
        with self._lock:
            ended = self._changed.wait_for(
                lambda: not any(batch.is_wanted() for batch in self._others(here)), CLOSE_WAIT_SECONDS
            )
            # No caller wants these, and one may never end. But a run that the end of the process overtakes aborts it.
            self._changed.wait_for(lambda: not self._others(here), LOST_WAIT_SECONDS)
            left = self._others(here)
            lost = {batch.thread for batch in left}
        self._refuse(left)
        with suppress(RuntimeError):  # This is a thread of theirs, in which the garbage collector has met the memory.
            for pool in (self._pool, self._refiners):
                pool.shutdown(wait=not left)
        if ended:
            for daemon in self._daemons:
                if daemon not in lost and daemon is not here:
                    daemon.join(CLOSE_WAIT_SECONDS)

    def _others(self, thread: threading.Thread) -> list[_Batch]:
        """The batches that run on other threads. The caller holds the lock."""
        return [batch for batch in (*self._running, *self._refining) if batch.thread is not thread]

    def _refuse_all(self) -> None:
        """Answers everything in the inbox and the queues with ClosedError."""
        with suppress(queue.Empty):
            while True:
                self._take_in(self._inbox.get_nowait())
        with self._lock:
            batch = _Batch(self._urgent.drain() + self._bulk.drain(), urgent=False)
            self._running.add(batch)
        self._refuse([batch])

    def _refuse(self, batches: Iterable[_Batch]) -> None:
        error = ClosedError(CLOSED)
        for batch in batches:
            for future in self._answer(batch, [error] * len(batch.requests)):
                future.complete()


def _request(future: EmbeddingFuture, text: Text, arrived: float | None = None) -> Request:
    request = Request(text.digest, text.item, text.tokens, time.monotonic() if arrived is None else arrived)
    request.waiting.append((future, text.place))
    return request


def _step_back() -> None:
    """Lowers the priority of this thread, where the system has one for each."""
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + REFINE_NICENESS)
