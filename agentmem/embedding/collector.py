"""The collector: requests of many threads become batches, workers run them, answers go back.

A batch is cut only by a worker that is free, from whatever waits at that moment. There is no timer: a lone request
leaves at once, and load makes batches by itself. Urgent batches do not wait for bulk ones: they start beside them and
share the cores for as long as those take. A caller who is alone with the model runs its text itself: waking another
thread, and being woken by it, would cost a lone `add` or `search` half a millisecond. Where the system gives no
threads, the callers' own do the work. Everyone who waits gets a vector, an error, or ClosedError.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agentmem.embedding.batch import Answer, Failures, embed_batch, failure
from agentmem.embedding.queue import Line, Request
from agentmem.errors import AgentMemError, ClosedError, OverloadedError
from agentmem.platform.failpoints import reach
from agentmem.platform.signals import Lock, condition, no_thread, started
from agentmem.stats import Timings

logger = logging.getLogger(__name__)

Run = Callable[[list[Any]], npt.NDArray[np.float32]]
"""Prepared items in, vectors (n, dimension) out; called from several threads at once, one call a worker, or with
`overlap` up to two."""

BULK_TURN = 8
"""When urgent and bulk requests both wait, every eighth batch is bulk, so that bulk never starves. Counted in batches
and not in seconds: a test needs no clock, and a slow machine gives the same shares."""

LOST_WORKERS = 64
"""Runs that may hang without end (a remote embedder that never answers) before no worker is left. A run whose callers
have all given up no longer counts against the workers."""

LOST_WAIT_SECONDS = 1.0
"""How long the end waits for runs whose callers have all given up: several times what a batch takes."""

CLOSE_WAIT_SECONDS = 30.0
"""How long `close` waits for runs that have begun."""


class Ticket:
    """One call's texts on their way, by their digests. `answers` has one entry a text once `then` has been called,
    which happens on a worker's thread or on a caller's, unless the ticket is cancelled before. It happens once; again
    only when an error struck amid it."""

    __slots__ = ("alone", "answers", "cancelled", "digests", "entering", "remaining", "then")

    def __init__(self, size: int, then: Callable[[list[Answer]], None]) -> None:
        self.digests: list[bytes] = []
        self.answers: list[Any] = [None] * size
        self.remaining = size
        self.cancelled = False
        self.entering = False  # Its texts are about to stand in line.
        self.alone: _Batch | None = None  # That the caller runs itself, latest.
        self.then = then


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
    __slots__ = ("counted", "lost", "requests", "thread", "urgent")

    def __init__(self, requests: list[Request], *, urgent: bool) -> None:
        self.requests = requests
        self.urgent = urgent
        self.counted = False  # Among the busy workers.
        self.lost = False  # All its callers gave up while it ran; its place among the workers was given away.
        self.thread: threading.Thread | None = None  # That runs it.


class Collector:
    """Between the callers' threads and the model. Starts its workers when there is something to do for them: threads
    that cut batches by themselves, and sleep while there is nothing. They are daemons, so that a run which never
    returns lets the process end."""

    def __init__(
        self,
        run: Run,
        *,
        dimension: int,
        workers: int,
        overlap: bool,
        lone_on_caller: bool,
        batch_tokens: int,
        queue_tokens: int,
        keep: Callable[[bytes, bytes], None],
        recall: Callable[[Sequence[bytes]], dict[bytes, bytes]],
        timings: Timings,
    ) -> None:
        """`lone_on_caller` is for a model whose runs end soon and raise only AgentMemError or MemoryError: the deadline
        of a caller who runs it cannot strike meanwhile. (Without any thread, a caller runs every model.)"""
        self._run = run
        self._dimension = dimension
        self._overlap = overlap
        self._lone_on_caller = lone_on_caller
        self._batch_tokens = batch_tokens
        self._queue_tokens = queue_tokens
        self._keep = keep
        self._recall = recall
        self._timings = timings
        self._lock = Lock()  # Guards: everything below, every Request and every Ticket.
        self._arrived = condition(self._lock)  # A batch may start, or the end.
        self._room = condition(self._lock)  # Tokens left the line.
        self._urgent, self._bulk = Line(), Line()
        self._flying: dict[bytes, Request] = {}
        self._running: set[_Batch] = set()
        self._waiting_tokens = 0
        self._busy_urgent = self._busy_bulk = 0  # Workers on a batch that is not lost.
        self._alone: _Batch | None = None  # The latest that its caller runs itself; while it is running, a worker less.
        self._urgent_in_a_row = 0
        self._closed = False
        self._threads: set[threading.Thread] = set()  # The workers, those on lost batches included.
        self._untold: deque[Ticket] = deque()  # That have all their answers.
        self._telling = Lock()  # Guards: who takes from `_untold`. Taken without the other.
        self._sleeping = 0  # Workers that wait for `_arrived`, or were told and have not looked yet.
        self._idle = condition(self._lock)  # A run ended.
        self.workers = workers
        self.counts = CollectorCounts()

    # -- the callers' side ----------------------------------------------------------------------------------------

    def join_flying(
        self, ticket: Ticket, digests: Sequence[tuple[int, bytes]], *, urgent: bool
    ) -> list[tuple[int, bytes]]:
        """Lets the ticket wait for texts that are already on their way for others; returns those that are not."""
        with self._lock:
            ticket.entering = True
            missing = [pair for pair in digests if not self._join(ticket, *pair, urgent)]
            ticket.entering = False
            return missing

    def _join(self, ticket: Ticket, index: int, digest: bytes, urgent: bool) -> bool:
        request = self._flying.get(digest)
        if request is None:
            return False
        if urgent and self._bulk.remove(request):
            # Otherwise a query would wait behind the bulk work that happens to hold the same text.
            request = self._flying[digest] = request.again()
            self._urgent.put(request)
        request.waiting.append((ticket, index))
        self.counts.coalesced += 1
        return True

    def put(
        self, ticket: Ticket, texts: Sequence[tuple[int, bytes, Any, int]], *, urgent: bool, timeout: float
    ) -> None:
        """Lines up texts (index in the ticket, digest, prepared item, tokens). Blocks while the line is full. A text
        that is alone with the model is run on this thread instead, and answered on return.

        Raises:
            OverloadedError: the line stayed full for `timeout` seconds; the ticket is cancelled.
            ClosedError: the collector is closed.
        """
        tokens = sum(text[3] for text in texts)
        deadline = time.monotonic() + timeout
        with self._lock:
            # A ticket larger than the whole line may enter an empty one, or it never could.
            has_room = self._room.wait_for(
                lambda: self._closed or not self._waiting_tokens or self._waiting_tokens + tokens <= self._queue_tokens,
                timeout,
            )
            if self._closed:
                raise ClosedError("The memory was closed while this call was waiting; nothing was written.")
            if not has_room:
                ticket.cancelled = True
                raise OverloadedError(
                    f"{self._waiting_tokens:,} tokens were waiting for the model during {timeout:g} seconds; "
                    "nothing was written, try again later or raise timeout or Config.queue_tokens."
                )
            if len(texts) == 1 and urgent and self._is_idle():
                self._take_alone(ticket, *texts[0])
            else:
                self._line_up(ticket, texts, self._urgent if urgent else self._bulk)
        if ticket.alone is not None:
            self._run_alone(ticket.alone)
        if not self._threads:
            self._stand_in(ticket, deadline)

    def _line_up(self, ticket: Ticket, texts: Sequence[tuple[int, bytes, Any, int]], line: Line) -> None:
        """The caller holds the lock."""
        arrived = time.monotonic()
        ticket.entering = True
        for index, digest, item, length in texts:
            if not self._join(ticket, index, digest, line is self._urgent):
                request = self._flying[digest] = Request(digest, item, length, arrived)
                request.waiting.append((ticket, index))
                line.put(request)
                self._waiting_tokens += length
        try:
            self._call_worker()
        except BaseException:
            ticket.cancelled = True
            raise
        ticket.entering = False

    # -- a caller who is alone ------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        """Whether a caller who brings one text may run it itself. The caller holds the lock."""
        return self._lone_on_caller and not self._running and not len(self._urgent) and not len(self._bulk)

    def _take_alone(self, ticket: Ticket, index: int, digest: bytes, item: Any, tokens: int) -> None:
        """Makes a batch for its caller to run, in a worker's place. The caller holds the lock. Each such call starts a
        worker as long as there are not all: who brings many texts next shall not have to wait for them."""
        if len(self._threads) < self.workers:
            self._start_worker()
        request = Request(digest, item, tokens, time.monotonic())
        request.waiting.append((ticket, index))
        ticket.alone = self._alone = batch = _Batch([request], urgent=True)
        batch.thread = threading.current_thread()
        self._running.add(batch)
        self._flying[digest] = request

    def _run_alone(self, batch: _Batch) -> None:
        """Runs a batch on its caller's thread. An interrupt, or what a signal handler raises, is the caller's own and
        goes through; the caller cancels its ticket then."""
        began = time.perf_counter()
        answers = self._answers(batch.requests, (AgentMemError, MemoryError), on_caller=True)
        self._finish(batch, answers, time.perf_counter() - began)
        with self._lock:
            self._call_worker()  # For who has come meanwhile.

    def _stand_in(self, ticket: Ticket, deadline: float) -> None:
        """Does a worker's work on its caller's thread, because there is no other, until nothing is left to do, for
        others too, or until the caller's time is over. What is an interrupt is as in `_run_alone`."""
        while time.monotonic() < deadline:
            with self._lock:
                batch = None if self._closed or self._threads else self._cut()
                if batch is None:
                    return
                batch.thread = threading.current_thread()
                ticket.alone = batch
            began = time.perf_counter()
            answers = self._answers(batch.requests, Exception, on_caller=True)
            self._finish(batch, answers, time.perf_counter() - began)
            with self._lock:
                self._leave(batch)
                self._call_worker()  # Perhaps there is a thread by now.

    def _leave_alone(self, batch: _Batch) -> None:
        """A caller was interrupted while it ran this; others who wait for the same texts need a worker now. The caller
        holds the lock."""
        self._running.discard(batch)
        self._leave(batch)
        for request in batch.requests:
            if self._flying.get(request.digest) is request:  # Otherwise it was answered before.
                del self._flying[request.digest]
                if _is_wanted(request):
                    again = self._flying[request.digest] = request.again()
                    self._urgent.put(again)
                    self._waiting_tokens += again.tokens
        self._call_worker()

    def settle(self, ticket: Ticket, answers: Sequence[tuple[int, Answer]]) -> None:
        """Gives a ticket answers that needed no run; calls its `then` if these were the last."""
        with self._lock:
            for index, answer in answers:
                ticket.answers[index] = answer
            ticket.remaining -= len(answers)
            complete = not ticket.remaining
        if complete:
            ticket.then(ticket.answers)

    def cancel(self, ticket: Ticket) -> None:
        """The caller gave up. What only it wanted and what has not begun is never run."""
        with self._lock:
            ticket.cancelled = True
            if ticket.alone is not None:
                self._leave_alone(ticket.alone)
            if ticket.entering:
                self._mend()
            for batch in self._running:
                if not batch.lost and not any(map(_is_wanted, batch.requests)):
                    batch.lost = True
                    self._leave(batch)
                    self._call_worker()
        self._tell()  # What the caller was interrupted in.

    def _mend(self) -> None:
        """An interrupt struck while a ticket's texts were put in line, perhaps with others' in hand. The caller holds
        the lock."""
        for line in (self._urgent, self._bulk):
            line.mend()
        running = {request for batch in self._running for request in batch.requests}
        for digest, request in list(self._flying.items()):
            if request not in running and (request.line is None or request.taken):
                again = self._flying[digest] = request.again()
                self._urgent.put(again)
        self._waiting_tokens = self._urgent.tokens() + self._bulk.tokens()
        self._call_worker()

    # -- cutting batches ------------------------------------------------------------------------------------------

    def _call_worker(self) -> None:
        """If a batch may start, wakes a worker for it, or starts one. The caller holds the lock.

        One is enough: it calls the next one when it has cut its batch and there is more. So does a worker that was told
        before and has not looked yet.
        """
        if self._next_line() is None:
            return
        if self._sleeping:
            self._arrived.notify()
        elif len(self._threads) < self.workers + LOST_WORKERS:
            self._start_worker()

    def _start_worker(self) -> None:
        """The caller holds the lock."""
        thread = started(self._work, "agentmem-worker")
        if thread is not None:
            self._threads.add(thread)  # One that runs without, because an interrupt struck just here, adds itself.
        elif not self._threads:
            self._timings.errors.note("starting a thread for the model", no_thread(), logger)

    def _next_line(self) -> Line | None:
        """The line that the next batch comes from, or None while nothing may start. The caller holds the lock.

        Bulk takes a free worker; urgent, where runs may overlap, needs only that not all workers are urgent already.
        The extra runs share the cores with the bulk runs in their way, which end soon and are not followed by bulk: a
        query beside a long `add_batch` waits for half a core instead of for a whole bulk batch.
        """
        urgent_runs = self._urgent_runs()
        busy = urgent_runs + self._busy_bulk
        bulk = len(self._bulk) and busy < self.workers
        urgent = len(self._urgent) and (urgent_runs if self._overlap else busy) < self.workers
        if bulk and (not urgent or self._urgent_in_a_row >= BULK_TURN):
            return self._bulk
        return self._urgent if urgent else None

    def _urgent_runs(self) -> int:
        """The workers' urgent batches, and that of a caller who is alone."""
        return self._busy_urgent + (self._alone in self._running)

    def _cut(self) -> _Batch | None:
        """The next batch, its worker counted as busy, or None when nothing may start. The caller holds the lock."""
        while (line := self._next_line()) is not None:
            urgent = line is self._urgent
            self._urgent_in_a_row = self._urgent_in_a_row + 1 if urgent else 0
            free = self.workers - self._urgent_runs() - (0 if urgent and self._overlap else self._busy_bulk)
            requests = line.take(
                most=-(-len(line) // free),  # Leave the other free workers their share.
                budget_tokens=self._batch_tokens,
            )
            self._waiting_tokens -= sum(request.tokens for request in requests)
            self._room.notify_all()
            self._timings.record("wait", time.monotonic() - min(request.arrived for request in requests))
            wanted = []
            for request in requests:
                if _is_wanted(request):
                    wanted.append(request)
                else:
                    del self._flying[request.digest]
                    self.counts.dropped += 1
            if wanted:
                batch = _Batch(wanted, urgent=urgent)
                self._running.add(batch)
                batch.counted = True
                if urgent:
                    self._busy_urgent += 1
                else:
                    self._busy_bulk += 1
                return batch
        return None

    def _leave(self, batch: _Batch) -> None:
        """The batch's worker counts as free again. The caller holds the lock."""
        if not batch.counted:
            return
        batch.counted = False
        if batch.urgent:
            self._busy_urgent -= 1
        else:
            self._busy_bulk -= 1

    # -- the workers' side ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        """A worker's thread: cuts a batch, runs it, answers, and goes on until the end, or until somebody else works in
        its place."""
        with self._lock:
            self._threads.add(threading.current_thread())
        try:
            while (batch := self._next_batch()) is not None:
                began = time.perf_counter()
                try:
                    answers = self._answers(batch.requests, BaseException)
                except BaseException as error:  # A worker never dies of a batch: its callers are told and it goes on.
                    answers = [failure(error)] * len(batch.requests)
                try:
                    self._finish(batch, answers, time.perf_counter() - began)
                except BaseException as error:
                    self._timings.errors.note("answering for the model", error, logger)
                with self._lock:
                    if batch.lost:
                        break
                    self._leave(batch)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _finish(self, batch: _Batch, answers: list[Answer], seconds: float) -> None:
        """Counts a run that took these seconds and gives its answers."""
        self._timings.record("embed", seconds)
        with self._lock:  # Before the answers: who has his is counted.
            self._count(batch.requests, answers, seconds)
        self._answer(batch, answers)
        with self._lock:
            if self._closed:
                self._idle.notify_all()

    def _next_batch(self) -> _Batch | None:
        """Waits until a batch may start and cuts it; None at the end."""
        with self._lock:
            while not self._closed:
                batch = self._cut()
                if batch is not None:
                    batch.thread = threading.current_thread()
                    self._call_worker()
                    return batch
                self._sleeping += 1
                self._arrived.wait()
                self._sleeping -= 1
        return None

    def _answer(self, batch: _Batch, answers: list[Answer]) -> None:
        """Gives the answers to whoever waits for them, once."""
        for request, answer in zip(batch.requests, answers, strict=True):
            if isinstance(answer, bytes):
                reach("cache: before a vector is kept")
                self._keep(request.digest, answer)
        with self._lock:
            if batch not in self._running:  # `close` has answered in this run's place.
                return
            self._running.remove(batch)
            for request, answer in zip(batch.requests, answers, strict=True):
                del self._flying[request.digest]
                for ticket, index in request.waiting:
                    ticket.answers[index] = answer
                    ticket.remaining -= 1
                    if not ticket.remaining:
                        self._untold.append(ticket)
        self._tell()

    def _tell(self) -> None:
        """Calls `then` for every ticket that has all its answers. An error in it is of this thread; what is left then,
        whoever comes next tells."""
        if not self._untold:
            return
        with self._telling:
            while self._untold:
                ticket = self._untold[0]  # It stays there until it is told, whatever strikes meanwhile.
                if not ticket.cancelled:
                    ticket.then(ticket.answers)
                self._untold.popleft()

    def _count(self, requests: list[Request], answers: list[Answer], seconds: float) -> None:
        counts = self.counts
        counts.batches += 1
        counts.texts += len(requests)
        counts.tokens += sum(request.tokens for request in requests)
        counts.padded_tokens += len(requests) * max(request.tokens for request in requests)
        counts.largest_batch = max(counts.largest_batch, len(requests))
        counts.failed += sum(not isinstance(answer, bytes) for answer in answers)
        counts.run_seconds += seconds

    def _answers(self, requests: Sequence[Request], failures: Failures, *, on_caller: bool = False) -> list[Answer]:
        """From the store what it has seen before, from the model the rest; these failures of the model as answers.
        `on_caller`: this is the thread of one who waits, whose stack or memory may be what is at its end."""
        known = self._recall([request.digest for request in requests])
        if not known:
            return self._embed(requests, failures, on_caller)
        with self._lock:
            self.counts.recalled += len(known)
        unknown = [request for request in requests if request.digest not in known]
        embedded = iter(self._embed(unknown, failures, on_caller) if unknown else ())
        return [known.get(request.digest) or next(embedded) for request in requests]

    def _embed(self, requests: Sequence[Request], failures: Failures, on_caller: bool) -> list[Answer]:
        items = [request.item for request in requests]
        answers = embed_batch(self._run, items, self._dimension, failures)
        if on_caller:
            for answer in answers:
                if isinstance(answer, AgentMemError) and isinstance(answer.__cause__, RecursionError | MemoryError):
                    raise answer.__cause__
        return answers

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Answers all that waits with ClosedError, lets running batches end (bounded), stops the threads."""
        error = ClosedError("The memory was closed while this call was waiting; nothing was written.")
        with self._lock:
            self._closed = True
            orphans = _Batch(self._urgent.drain() + self._bulk.drain(), urgent=False)
            self._running.add(orphans)
            self._waiting_tokens = 0
            self._arrived.notify_all()
            self._room.notify_all()
        self._answer(orphans, [error] * len(orphans.requests))
        here = threading.current_thread()  # A run that closes its own memory must not wait for itself.
        with self._lock:
            ended = self._idle.wait_for(
                lambda: all(batch.lost or batch.thread is here for batch in self._running), CLOSE_WAIT_SECONDS
            )
            # Nobody wants these, and one may never end; but a run that the end of the process overtakes aborts it.
            self._idle.wait_for(lambda: all(batch.thread is here for batch in self._running), LOST_WAIT_SECONDS)
            left_behind = list(self._running)
            lost = {batch.thread for batch in left_behind}
            workers = [thread for thread in self._threads if thread not in lost and thread is not here]
        for batch in left_behind:
            self._answer(batch, [error] * len(batch.requests))
        if ended:
            for thread in workers:
                thread.join(CLOSE_WAIT_SECONDS)

    def depth(self) -> tuple[int, int, float]:
        """Texts and tokens in line now, and the seconds that the oldest has waited."""
        with self._lock:
            oldest = [request.arrived for line in (self._urgent, self._bulk) if (request := line.oldest())]
            age = time.monotonic() - min(oldest) if oldest else 0.0
            return len(self._urgent) + len(self._bulk), self._waiting_tokens, age


def _is_wanted(request: Request) -> bool:
    return any(not ticket.cancelled for ticket, _ in request.waiting)
