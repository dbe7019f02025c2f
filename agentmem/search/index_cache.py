"""Index cache: the owner indexes in memory, the least recently used evicted first."""

import os
from collections import OrderedDict
from collections.abc import Iterable

from agentmem.deadline import Deadline
from agentmem.platform.cpu import usable_cores
from agentmem.platform.forks import abandon, restart
from agentmem.platform.signals import Lock
from agentmem.search.index_view import IndexView
from agentmem.search.limiter import Limiter
from agentmem.search.owner_index import FastVectors, OwnerIndex
from agentmem.search.segments.builder import Sealer
from agentmem.storage.interface import Snapshot
from agentmem.storage.types import Owner


class IndexCache:
    """Keeps the indexes of the owners searched last, within a number of bytes. May be called from any thread."""

    def __init__(
        self,
        dimension: int,
        limit_bytes: int,
        sealer: Sealer | None = None,
        fast: FastVectors | None = None,
        *,
        in_int8: bool = False,
    ) -> None:
        """Without a sealer, it seals nothing and looks for no segment. Without `fast`, pending memories are found by
        their words only."""
        self._fast = fast
        self._dimension = dimension
        self._in_int8 = in_int8
        self._limit_bytes = limit_bytes
        self._sealer = sealer
        self._start()

    def _start(self) -> None:
        self._lock = Lock()  # Guards: _indexes and its order, bytes, evicted.
        self.one = Limiter(lambda: 1)  # For searches that compute one after the other.
        self.limiter = Limiter(usable_cores)  # For those in large owners.
        if self._sealer is not None:
            self._sealer.let_pass = self.limiter.let_pass
        self._indexes: OrderedDict[Owner, OwnerIndex] = OrderedDict()
        self._epoch = 0  # Of the snapshots that they were read from.
        self.bytes = 0
        self.evicted = 0
        self._pid = os.getpid()  # Last, see Restartable.

    def is_pending(self, owner: Owner) -> bool | None:
        """Returns whether memories of an owner were pending in its last search; None of an unknown one."""
        index = self._indexes.get(owner)
        view = None if index is None else index.last_view
        return None if view is None else view.is_pending

    def view(self, owner: Owner, snapshot: Snapshot, *, for_vectors: bool = True) -> IndexView:
        """Returns the view of an owner's index, loaded or brought up to date. Evicts the least recently used indexes.

        Raises:
            Unsealed: there is too much to load.
        """
        if self._pid != os.getpid():
            restart(self, self._restart)
        with self._lock:
            if snapshot.epoch > self._epoch:
                self._epoch, self.bytes = snapshot.epoch, 0
                self._indexes.clear()
            index = self._indexes.get(owner)
            if snapshot.epoch < self._epoch:  # A read that began earlier gets a temporary index.
                index = OwnerIndex(owner, self._dimension, None, self._fast, in_int8=self._in_int8)
            elif index is None:
                index = OwnerIndex(owner, self._dimension, self._sealer, self._fast, in_int8=self._in_int8)
                self._indexes[owner] = index
            else:
                self._indexes.move_to_end(owner)
        view = index.view(snapshot, for_vectors=for_vectors)
        if index.is_empty:
            # An owner without memories costs nothing: callers may ask about any number of them.
            self.drop([owner])
            return view
        if index.bytes != index.charged_bytes:
            self._charge(owner, index)
        if index.to_seal and self._sealer is not None:
            self._sealer.wake(owner)
        return view

    def _charge(self, owner: Owner, index: OwnerIndex) -> None:
        evicted = []  # Freed outside the lock.
        with self._lock:
            if self._indexes.get(owner) is index:
                self.bytes += index.bytes - index.charged_bytes
                index.charged_bytes = index.bytes
            while self.bytes > self._limit_bytes and len(self._indexes) > 1:
                _, unused = self._indexes.popitem(last=False)
                self.bytes -= unused.charged_bytes
                self.evicted += 1
                evicted.append(unused)

    def drop(self, owners: Iterable[Owner]) -> None:
        """Evicts the indexes of these owners. The next search loads them again."""
        with self._lock:
            for owner in owners:
                index = self._indexes.pop(owner, None)
                if index is not None:
                    self.bytes -= index.charged_bytes

    def seal_tail(self, owner: Owner, *, again: bool, deadline: Deadline | None = None) -> None:
        """Seals a tail that is too large to load, within the deadline. On a second call for the same owner, gives up
        sealing, so that the next search loads the tail."""
        if self._sealer is not None and again:
            self._sealer.give_up(owner, whether=True)
        elif self._sealer is not None:
            self._sealer.seal_tail(owner, deadline)

    def seal(self) -> None:
        """Waits until the sealer has done all that was asked of it."""
        if self._sealer is not None:
            self._sealer.wait()

    def close(self) -> None:
        """Ends background work and running searches, within seconds."""
        if self._sealer is not None:
            self._sealer.close()
        self.limiter.close()

    def _restart(self) -> None:
        # A thread of the parent may have been changing an index, or searching a graph, when the process forked.
        abandon(self._indexes)
        self._start()

    def __len__(self) -> int:
        return len(self._indexes)
