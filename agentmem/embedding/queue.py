"""Requests that wait for the model, and how a batch is cut from their queue."""

from bisect import bisect_left, insort
from collections import deque
from typing import Any

from agentmem.embedding.future import EmbeddingFuture

CHARACTERS_A_TOKEN = 4
"""What a token is taken to have where they are not counted beforehand; a common average for English."""


WASTE = 1.25
"""Padded tokens over real tokens of a batch. From 1.0 to 2.0, no difference in speed outlasts the noise."""


class Request:
    """A distinct text on its way to its vector. `waiting` lists the futures that want it, each with the text's
    place in it."""

    __slots__ = ("arrived", "digest", "item", "line", "taken", "tokens", "waiting")

    def __init__(self, digest: bytes, item: Any, tokens: int, arrived: float) -> None:
        self.digest = digest
        self.item = item
        self.tokens = tokens
        self.arrived = arrived
        self.taken = False
        self.line: Queue | None = None
        self.waiting: list[tuple[EmbeddingFuture, int]] = []

    def again(self) -> "Request":
        """The same text with the same callers, free to wait in another queue."""
        twin = Request(self.digest, self.item, self.tokens, self.arrived)
        twin.waiting = self.waiting
        return twin

    def is_wanted(self) -> bool:
        return any(not future.cancelled for future, _ in self.waiting)


class Queue:
    """Requests by length and by arrival. Not thread-safe: the collector's lock guards it."""

    def __init__(self) -> None:
        self._by_arrival: deque[Request] = deque()
        self._by_length: dict[int, deque[Request]] = {}
        self._lengths: list[int] = []  # Sorted; those of waiting requests.
        self._count = 0
        self.tokens = 0  # Of all that wait.

    def __len__(self) -> int:
        return self._count

    def put(self, request: Request) -> None:
        request.line = self
        self._by_arrival.append(request)
        same = self._by_length.get(request.tokens)
        if same is None:
            same = self._by_length[request.tokens] = deque()
            insort(self._lengths, request.tokens)
        same.append(request)
        self._count += 1
        self.tokens += request.tokens

    def remove(self, request: Request) -> bool:
        """Takes a request out of this queue; False when it is not in it (any more)."""
        if request.taken or request.line is not self:
            return False
        request.taken = True
        self._count -= 1
        self.tokens -= request.tokens
        self._forget_taken(request.tokens)
        return True

    def oldest(self) -> Request | None:
        while self._by_arrival and self._by_arrival[0].taken:
            self._by_arrival.popleft()
        return self._by_arrival[0] if self._by_arrival else None

    def take(self, *, most: int, budget_tokens: int) -> list[Request]:
        """Removes and returns the oldest request and those nearest to it in length, at most `most`. The batch's padded
        tokens stay within the budget and within WASTE times its real tokens. The oldest goes whatever its length."""
        first = self.oldest()
        if first is None:
            return []
        first.taken = True
        self._forget_taken(first.tokens)
        middle = bisect_left(self._lengths, first.tokens)
        shorter, longer = middle - 1, middle
        longest = total = first.tokens
        batch = [first]
        emptied = []
        while len(batch) < most and (shorter >= 0 or longer < len(self._lengths)):
            upwards = shorter < 0 or (
                longer < len(self._lengths)
                and self._lengths[longer] - first.tokens <= first.tokens - self._lengths[shorter]
            )
            length = self._lengths[longer if upwards else shorter]
            same = self._by_length[length]
            while same and same[0].taken:
                same.popleft()
            padded = (len(batch) + 1) * max(longest, length)
            fits = padded <= budget_tokens and padded <= WASTE * (total + length)
            if same and fits:
                request = same.popleft()
                request.taken = True
                batch.append(request)
                longest, total = max(longest, length), total + length
            else:
                if not same:
                    emptied.append(length)
                # A longer one that does not fit rules out all that are longer still; likewise shorter ones.
                if upwards:
                    longer = longer + 1 if not same else len(self._lengths)
                else:
                    shorter = shorter - 1 if not same else -1
        for length in emptied:
            if not self._by_length[length]:
                del self._by_length[length]
                self._lengths.remove(length)
        self._count -= len(batch)
        self.tokens -= total
        return batch

    def _forget_taken(self, length: int) -> None:
        """Lets go of the first ones of a length if they were taken: no call may ever look for that length again."""
        same = self._by_length.get(length)
        while same and same[0].taken:
            same.popleft()
        if same is not None and not same:
            del self._by_length[length]
            self._lengths.remove(length)

    def drain(self) -> list[Request]:
        """Removes and returns all waiting requests."""
        rest = [request for request in self._by_arrival if not request.taken]
        self.__init__()  # type: ignore[misc]
        return rest
