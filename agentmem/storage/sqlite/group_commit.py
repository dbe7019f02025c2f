"""Group commit: the writes of many threads share one transaction and one fsync, without a writer thread.

The first writer to arrive leads. It runs all waiting writes in one transaction, answers their callers, and passes the
lead to the next writer (LevelDB's way). A lone writer pays no hand-off, and an idle store has no thread. The load
decides how many writes share a commit.

An error may strike the leader anywhere and leave it no room to hand over, such as a full stack. Waiting threads check
whether the leader's function still runs, and lead in its place.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any, Generic, TypeVar

from agentmem.config import Durability
from agentmem.errors import (
    AgentMemError,
    DeadlineError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
)
from agentmem.platform.failpoints import reach
from agentmem.platform.forks import restart
from agentmem.platform.signals import LOOK_SECONDS, Lock, has_ended, until_look
from agentmem.stats import Timings
from agentmem.storage.retrying import (
    CHANGE_PAUSE_SECONDS,
    CHANGE_TRIES,
    Displaced,
    Outplanned,
    again,
    may_pass,
)
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.errors import ended_early
from agentmem.storage.sqlite.database.reserve import Kind
from agentmem.storage.sqlite.expiry import Sweeper
from agentmem.storage.sqlite.transaction import Transaction

T = TypeVar("T")

GROUP_LIMIT = 512
"""Most writes in one transaction. It bounds the wait of other processes, and is far beyond the number of waiting
threads."""


class Write(Generic[T]):
    """One caller's change in a commit.

    `apply` checks first and changes afterwards: when it raises an error of agentmem, it has changed nothing. It may run
    several times, in as many transactions, all but the last of them rolled back. Its `kind` says how much of a nearly
    full disk it may use.
    """

    __slots__ = (
        "alone", "apply", "attempt", "caller", "cancelled", "done", "durability", "epoch", "error", "kind", "lead",
        "queued", "result", "turn",
    )  # fmt: skip

    def __init__(
        self,
        apply: Callable[[Transaction], T],
        durability: Durability | None = None,
        kind: Kind = Kind.ADDS,
        epoch: int | None = None,
    ) -> None:
        self.apply = apply
        self.epoch = epoch  # The epoch of the snapshot that it was planned in; None where no keys were read before.
        self.kind = kind
        self.durability = durability  # None: as the store was opened.
        self.result: T | None = None
        self.error: BaseException | None = None
        self.done = False  # The result or the error is set.
        self.attempt: Transaction | None = None  # The transaction that was to commit it, while its outcome is in doubt.
        self.alone = False  # It shared a transaction that an error of no write's spoiled.
        self.caller: FrameType | None = None  # The function that waits for it, once known.
        self.queued = False
        self.cancelled = False
        self.lead = False  # Whether the turn means to lead; otherwise it is the answer.
        self.turn = threading.Lock()
        self.turn.acquire()


@dataclass(slots=True)
class CommitCounts:
    """Counts since this process opened the store."""

    commits: int = 0
    writes: int = 0


class GroupCommit:
    """Commits every change of the database. Any thread may call all methods."""

    def __init__(self, database: Database, timings: Timings) -> None:
        self._database = database
        self._timings = timings
        self._sweeper = Sweeper()
        self.counts = CommitCounts()
        self._start()

    def _start(self) -> None:
        self._lock = Lock()  # Guards: _queue, _leader, and each Write's queued, cancelled and lead.
        self._queue: deque[Write[Any]] = deque()
        self._leader: Write[Any] | None = None  # The write whose thread leads, or is about to.
        self._pid = os.getpid()  # Last, see Restartable.

    def commit(self, apply: Callable[[Transaction], T], kind: Kind = Kind.ADDS, *, epoch: int | None = None) -> T:
        """Runs `apply` in a transaction, which is committed when this returns. Waits for the commits before it.

        Raises the error of `apply`, or a StoreError. Outplanned means that another file has come to the store's path
        after `epoch`, the epoch of the snapshot in which `apply` was planned.
        """
        return self.run(Write(apply, kind=kind, epoch=epoch))

    def run(self, write: Write[T]) -> T:
        """Commits a write that is ready. Raises the error of its `apply`, or a StoreError."""
        write.caller = sys._getframe()
        try:
            self.enqueue([write])
            return self.finish(write, timeout=None)
        except BaseException:
            self.leave(write)
            raise

    def enqueue(self, writes: Sequence[Write[Any]]) -> None:
        """Puts the writes into the next commit, in this order, without cancelled ones. Never blocks; the threads that
        wait in `finish` do the work."""
        self._ensure_process()
        with self._lock:
            for write in writes:
                if not (write.cancelled or write.queued):
                    write.queued = True
                    self._queue.append(write)
            if self._leader is None:
                self._appoint()

    def _ensure_process(self) -> None:
        if self._pid != os.getpid():
            restart(self, self._start)  # In a forked child, where the parent's threads do not exist.

    def finish(self, write: Write[T], timeout: float | None, *, of: float = 0.0) -> T:
        """Waits until the write is committed, and leads the commit when it is this thread's turn.

        `timeout` is the rest of the `of` seconds that the caller allowed.

        Raises:
            DeadlineError: It was not queued within `timeout` seconds. It never will be, and nothing was written.
        """
        write.caller = write.caller or sys._getframe()
        deadline = None if timeout is None else time.monotonic() + timeout
        wait = LOOK_SECONDS if timeout is None else min(LOOK_SECONDS, timeout)
        try:
            while not write.turn.acquire(timeout=wait) and not (write.done or write.lead):
                if deadline is not None and time.monotonic() >= deadline:
                    if self._cancel(write):
                        raise DeadlineError(
                            f"No embedding within {of:g} seconds; nothing was written, try again or raise timeout."
                        )
                    deadline = None  # It is being committed.
                self._replace_leader()
                wait = until_look(deadline)
            if write.lead:
                self._lead(write)
        except BaseException:
            self.leave(write)
            raise
        write.caller = None
        if write.error is not None:
            raise write.error
        return write.result  # type: ignore[return-value]

    def _replace_leader(self) -> None:
        """Hands over for a leader that has ended without doing so."""
        leader = self._leader
        if leader is not None and leader.caller is not None and has_ended(leader.caller):
            leader.cancelled = True
            self._hand_over(leader)

    def _cancel(self, write: Write[Any]) -> bool:
        with self._lock:
            if not write.queued:
                write.cancelled = True
            return not write.queued

    def leave(self, write: Write[Any]) -> None:
        """Withdraws a write whose thread leaves (an interrupt, a deadline). If it was to lead, another one must."""
        write.cancelled = True  # First: the leader learns of a write that cannot leave the queue.
        self._ensure_process()
        with self._lock:
            if write in self._queue:
                self._queue.remove(write)
        if write.lead:
            self._hand_over(write)

    def _lead(self, own: Write[Any]) -> None:
        with self._lock:
            group = list(islice(self._queue, GROUP_LIMIT))  # They stay in the queue until they are answered.
        try:
            self._settle_doubts(group)
            taken = [own] if own.alone else group
            self._commit_together([write for write in taken if not (write.done or write.cancelled)])
        finally:
            self._hand_over(own)

    def _hand_over(self, own: Write[Any]) -> None:
        """Answers the finished writes, and lets the next one lead. An interrupt may strike after any call; repeating it
        from the start has the same result."""
        reach("commit: before the answers")
        with self._lock:
            for write in self._queue:
                if write.done and write is not own:
                    _wake(write)
                    reach("commit: between two answers")
            self._queue = deque(
                [write for write in self._queue if not (write.done or write.cancelled) and write is not own]
            )
            if self._leader in (own, None):
                self._leader = None
                self._appoint()
            own.lead = False

    def _appoint(self) -> None:
        """Makes the first in the queue lead. The caller holds the lock."""
        if self._queue:
            self._leader = first = self._queue[0]
            first.lead = True
            _wake(first)

    def _settle_doubts(self, group: Sequence[Write[Any]]) -> None:
        """A write whose leader was interrupted may be committed already."""
        for write in group:
            if write.attempt is not None:
                try:
                    write.done = self._went_through(write.attempt, in_log=True)
                except OutcomeUnknownError as error:
                    write.error, write.done = error, True
                write.attempt = None

    def _commit_together(self, group: Sequence[Write[Any]], refused: int = 0, displaced: int = 0) -> None:
        """Commits the writes and leaves each its result or its error.

        If an error spoils the transaction for all (a row that the database rejects, a full disk), each write runs
        alone. A disk that has `refused` them is given room first, as long as there is a way. After files were
        `displaced`, the same group begins again. A foreign error struck this thread: it is raised to its own caller,
        and the other threads run their writes, each alone.
        """
        if not group:
            return
        began = time.perf_counter()
        attempted = False  # Whether the transaction has reached its COMMIT.
        kind = next(each for each in Kind if any(write.kind is each for write in group))  # The greediest kind of all.
        try:
            with self._database.writing(self._strongest(group), kind) as connection:
                transaction = Transaction(connection)
                for write in group:
                    write.error = None
                    try:
                        if write.epoch not in (None, connection.epoch):
                            raise Outplanned("The files of the store were replaced just now; try again.")
                        write.result = write.apply(transaction)
                    except AgentMemError as error:
                        write.error = error
                reach("commit: before the sweep")
                self._sweeper.sweep(transaction)
                transaction.flush()
                attempted = True
                for write in group:  # Now, because this thread may not get far enough to say so later.
                    write.attempt = transaction
            self._timings.record("commit", time.perf_counter() - began)
            self._complete(group)
        except BaseException as error:
            ours = isinstance(error, AgentMemError)
            if not ours:
                for write in group:
                    write.alone = True
            self._database.end_torn_write()
            # The leader's error may not be the outcome. An interrupt may strike just after the commit, and a disk that
            # fails in the commit does not say whether it has failed. The log is merged first; then the reserve for such
            # a change is used.
            again = isinstance(error, StoreFullError) and refused < (1 if kind is Kind.ADDS else 2)
            if again:
                self._database.make_room(kind, spend=refused > 0)
            try:
                committed = attempted and self._went_through(transaction, in_log=_may_stand_in_log(error))
            except OutcomeUnknownError as unknown:
                for write in group:
                    write.error, write.done = write.error or unknown, True
                if not ours:
                    raise error from None
                return
            if committed:
                self._complete(group)
            for write in group:
                write.attempt = None
            if not ours:
                raise
            if committed:
                return
            if may_pass(error) and displaced < CHANGE_TRIES:  # It met files that are no longer the store's.
                threading.Event().wait(CHANGE_PAUSE_SECONDS)
                self._commit_together(group, refused, displaced + 1)
            elif not again and (len(group) == 1 or isinstance(error, StoreBusyError)):
                for write in group:
                    write.error = error
                    write.done = True
            else:
                for write in group:
                    self._commit_together([write], refused + again)

    def _strongest(self, group: Sequence[Write[Any]]) -> Durability | None:
        """Returns the durability for a common commit: no write gets less than it asked for because of the others."""
        asked = {write.durability for write in group}
        if len(asked) == 1:
            return asked.pop()
        return "full" if "full" in asked else None

    def _went_through(self, transaction: Transaction, *, in_log: bool) -> bool:
        """Whether a transaction that reached its COMMIT is in the store.

        A transaction that is not, but may stand `in_log`, is made sure never to be.

        Raises:
            OutcomeUnknownError: The disk cannot be asked.
        """
        reach("commit: before it is asked what became of it")
        try:
            if self._is_stored(transaction):
                return True
            if in_log:
                self._database.overwrite_log()
        except StoreError as failure:
            raise OutcomeUnknownError(
                f"{failure} It happened in the commit, and the disk could not be asked afterwards: the write is stored "
                "whole or not at all; look for it before you try again (with an id of your own, a second add is safe)."
            ) from failure
        return False

    @again
    def _is_stored(self, transaction: Transaction) -> bool:
        with self._database.reading() as connection:
            return transaction.went_through(connection)

    def _complete(self, group: Sequence[Write[Any]]) -> None:
        self.counts.commits += 1
        self.counts.writes += len(group)
        for write in group:
            write.done = True


def _wake(write: Write[Any]) -> None:
    """Lets the write's thread proceed; repeating it changes nothing."""
    with suppress(RuntimeError):  # It has not proceeded yet.
        write.turn.release()


def _may_stand_in_log(error: BaseException) -> bool:
    """Whether a COMMIT with this error may have written all of the transaction.

    A full disk had no room for its end, and a damaged page is met in reading. An interrupt struck before or after, not
    within.
    """
    return isinstance(error, StoreError) and not (
        isinstance(error, StoreDamagedError | Displaced) or ended_early(error)
    )
