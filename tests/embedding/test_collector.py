"""The queue and the collector alone, with a made-up model: batches are cut, and every request is answered once."""

import gc
import math
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import AgentMemError, ClosedError, EmbeddingError, OverloadedError
from agentmem.embedding.collector import BULK_TURN, REFINE_NICENESS, Collector, Text
from agentmem.embedding.future import EmbeddingFuture
from agentmem.embedding.queue import WASTE, Queue, Request
from agentmem.stats import Timings
from tests.conftest import our_threads, wait_for_our_threads

SECONDS = 30
lengths = st.integers(1, 300)


def fits(tokens: list[int], budget: int) -> bool:
    padded = len(tokens) * max(tokens)
    return len(tokens) == 1 or (padded <= budget and padded <= WASTE * sum(tokens))


# -- the queue ----------------------------------------------------------------------------------------------------


@given(
    script=st.lists(st.one_of(lengths, st.tuples(st.integers(1, 20)), st.just("remove")), max_size=60),
    budget=st.integers(1, 2000),
)
def test_a_queue_gives_the_oldest_with_its_likes_within_budget_and_waste(script, budget):
    line, waiting = Queue(), deque[Request]()
    number = 0
    for step in [*script, *[(20,)] * 60]:
        if step == "remove":
            if waiting:
                request = waiting[len(waiting) // 2]
                waiting.remove(request)
                assert line.remove(request) is True
                assert line.remove(request) is False
        elif isinstance(step, int):
            request = Request(b"%d" % number, None, step, float(number))
            number += 1
            line.put(request)
            waiting.append(request)
        else:
            taken = line.take(most=step[0], budget_tokens=budget)
            if not waiting:
                assert taken == []
                continue
            assert taken[0] is waiting[0]
            assert len({id(request) for request in taken}) == len(taken) <= step[0]
            assert fits([request.tokens for request in taken], budget)
            for request in taken:
                waiting.remove(request)
        assert len(line) == len(waiting)
        assert line.oldest() is (waiting[0] if waiting else None)
    assert not waiting


@given(tokens=st.lists(lengths, min_size=1, max_size=40), taken=st.integers(0, 40))
def test_a_drained_queue_gives_all_that_are_left_in_order(tokens, taken):
    line = Queue()
    requests = [Request(b"%d" % n, None, length, float(n)) for n, length in enumerate(tokens)]
    for request in requests:
        line.put(request)
    gone = [line.take(most=1, budget_tokens=1) for _ in range(taken)]
    assert [request for batch in gone for request in batch] == requests[:taken]
    assert line.drain() == requests[taken:]
    assert len(line) == 0
    assert line.oldest() is None


@pytest.mark.parametrize("most", [1, 3])
def test_a_queue_keeps_nothing_of_what_it_gave_away(most):
    def alive() -> int:
        gc.collect()
        return sum(type(each) is Request for each in gc.get_objects())

    line, before = Queue(), alive()
    for number in range(200):
        for length in (7, number + 1):
            line.put(Request(b"%d-%d" % (number, length), "a long text", length, float(number)))
        while line.take(most=most, budget_tokens=1000):
            pass
    assert alive() == before


def test_like_lengths_share_a_batch_and_unlike_ones_do_not():
    line = Queue()
    for number, length in enumerate([10, 200, 11, 9, 210, 10]):
        line.put(Request(b"%d" % number, None, length, float(number)))
    batches = [line.take(most=10, budget_tokens=1000) for _ in range(2)]
    assert [sorted(request.tokens for request in batch) for batch in batches] == [[9, 10, 10, 11], [200, 210]]


# -- the collector ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    number: int
    tokens: int
    urgent: bool


def direction(number: int) -> tuple[float, float]:
    return math.cos(number / 1000), math.sin(number / 1000)


@dataclass
class FakeModel:
    """Holds every run until the gate opens; remembers the batches."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    batches: list[list[Item]] = field(default_factory=list)
    poison: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, items: list[Item]) -> np.ndarray:
        with self.lock:
            self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(SECONDS)
        if any(item.number in self.poison for item in items):
            raise ValueError("poison")
        return np.array([direction(item.number) for item in items], np.float32)


@dataclass
class Caller:
    """Puts texts and remembers how often and with what it was answered."""

    collector: Collector
    answered: threading.Event = field(default_factory=threading.Event)
    calls: list[list] = field(default_factory=list)

    def put(self, items: list[Item], *, urgent: bool, timeout: float = SECONDS) -> EmbeddingFuture:
        future, texts = self.texts(items)
        self.collector.submit(future, texts, urgent=urgent, timeout=timeout)
        return future

    def refine(self, items: list[Item]) -> EmbeddingFuture:
        future, texts = self.texts(items)
        self.collector.refine(future, texts)
        return future

    def texts(self, items: list[Item]) -> tuple[EmbeddingFuture, list[Text]]:
        digests = [b"%d" % item.number for item in items]
        texts = [Text(place, digests[place], item, item.tokens) for place, item in enumerate(items)]
        return EmbeddingFuture(digests, self._then), texts

    def _then(self, future: EmbeddingFuture) -> None:
        self.calls.append(future.answers)
        self.answered.set()

    def answer(self) -> list:
        assert self.answered.wait(SECONDS), "nobody answered"
        return self.calls[0]


Maker = Callable[..., Collector]


@pytest.fixture
def model() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.gate.set()


def collector_of(model: FakeModel, **settings) -> Collector:
    arguments = {
        "workers": 1,
        "own_model": False,
        "batch_tokens": 256,
        "queue_tokens": 10**9,
    } | settings
    return Collector(
        model.run, dimension=2, keep=lambda _digest, _vector: None, recall=lambda _digests: {}, timings=Timings(),
        **arguments,
    )  # fmt: skip


@pytest.fixture
def make(model: FakeModel) -> Iterator[Maker]:
    made: list[Collector] = []

    def make(**settings) -> Collector:
        made.append(collector_of(model, **settings))
        return made[-1]

    yield make
    model.gate.set()
    for collector in made:
        collector.close()
    wait_for_our_threads()  # `close` does not wait for runs that all their callers gave up.
    assert our_threads() == []


def is_right(item: Item, answer: object) -> bool:
    assert isinstance(answer, bytes), answer
    return bool(np.allclose(np.frombuffer(answer, "<f2"), direction(item.number), atol=2e-3))


@given(
    arrivals=st.lists(st.tuples(lengths, st.booleans(), st.integers(1, 3)), min_size=1, max_size=60),
    workers=st.integers(1, 3),
    budget=st.integers(50, 1500),
)
def test_everyone_is_answered_once_and_rightly_whatever_arrives(arrivals, workers, budget):
    model = FakeModel()
    collector = collector_of(model, workers=workers, batch_tokens=budget)
    callers, number = [], 0
    for tokens, urgent, size in arrivals:
        items = [Item(number + offset, tokens + offset, urgent) for offset in range(size)]
        number += size
        caller = Caller(collector)
        caller.put(items, urgent=urgent)
        callers.append((caller, items))
    model.gate.set()
    for caller, items in callers:
        assert all(is_right(item, answer) for item, answer in zip(items, caller.answer(), strict=True))
    collector.close()
    assert our_threads() == []
    assert all(len(caller.calls) == 1 for caller, _ in callers)
    assert Counter(item.number for batch in model.batches for item in batch) == Counter(range(number))
    for batch in model.batches:
        assert fits([item.tokens for item in batch], budget)
        assert len({item.urgent for item in batch}) == 1
    assert collector.depth()[:2] == (0, 0)
    counts = collector.counts
    assert (counts.texts, counts.batches, counts.failed, counts.dropped) == (number, len(model.batches), 0, 0)


@given(arrivals=st.lists(st.tuples(lengths, st.booleans()), min_size=1, max_size=80))
def test_the_oldest_goes_first_urgent_before_bulk_and_bulk_has_its_turn(arrivals):
    model = FakeModel()
    collector = collector_of(model)
    first = Caller(collector)
    first.put([Item(0, 1, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)  # The only worker is busy: all the others wait in line.
    items = [Item(number, tokens, urgent) for number, (tokens, urgent) in enumerate(arrivals, start=1)]
    callers = [Caller(collector) for _ in items]
    for caller, item in zip(callers, items, strict=True):
        caller.put([item], urgent=item.urgent)
    model.gate.set()
    for caller in callers:
        caller.answer()
    collector.close()
    waiting = {True: [item for item in items if item.urgent], False: [item for item in items if not item.urgent]}
    urgent_in_a_row = 1
    for batch in model.batches[1:]:
        urgent = batch[0].urgent
        assert batch[0] == waiting[urgent][0]
        if urgent:
            assert not waiting[False] or urgent_in_a_row < BULK_TURN
        else:
            assert not waiting[True] or urgent_in_a_row >= BULK_TURN
        urgent_in_a_row = urgent_in_a_row + 1 if urgent else 0
        for item in batch:
            waiting[urgent].remove(item)
    assert waiting == {True: [], False: []}


def test_a_lone_request_leaves_at_once_and_load_makes_batches(make, model):
    collector = make(workers=1)
    callers = [Caller(collector) for _ in range(9)]
    callers[0].put([Item(0, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)
    for number, caller in enumerate(callers[1:], start=1):
        caller.put([Item(number, 10, True)], urgent=True)
    model.gate.set()
    for caller in callers:
        caller.answer()
    assert [len(batch) for batch in model.batches] == [1, 8]


def test_what_waits_is_shared_among_the_workers_that_are_free(make, model):
    collector = make(workers=2)
    callers = [Caller(collector) for _ in range(2)]
    callers[0].put([Item(number, 10, True) for number in range(8)], urgent=True)
    for _ in range(2):
        assert model.entered.acquire(timeout=SECONDS)
    assert sorted(len(batch) for batch in model.batches) == [4, 4]


def test_urgent_starts_beside_bulk_where_runs_may_overlap_but_not_beside_itself(make, model):
    collector = make(workers=1, own_model=True)
    bulk, query, later, more = (Caller(collector) for _ in range(4))
    bulk.put([Item(1, 5, False)], urgent=False)
    assert model.entered.acquire(timeout=SECONDS)
    query.put([Item(2, 5, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS), "the query waits for the bulk run"
    later.put([Item(3, 5, True)], urgent=True)
    more.put([Item(4, 5, False)], urgent=False)
    assert [[item.number for item in batch] for batch in model.batches] == [[1], [2]]
    model.gate.set()
    for caller in (bulk, query, later, more):
        caller.answer()
    assert sorted(item.number for batch in model.batches for item in batch) == [1, 2, 3, 4]


def test_a_promised_number_of_runs_at_a_time_is_kept(make, model):
    collector = make(workers=1)
    bulk, query = Caller(collector), Caller(collector)
    bulk.put([Item(1, 5, False)], urgent=False)
    assert model.entered.acquire(timeout=SECONDS)
    query.put([Item(2, 5, True)], urgent=True)
    assert len(model.batches) == 1
    model.gate.set()
    bulk.answer()
    query.answer()


class Alarm(Exception):
    """What a signal handler raises in whatever its thread is doing."""


@dataclass
class LoneCaller(Caller):
    """Puts one text from a thread of its own, as a call does: whatever interrupts it, its future is cancelled."""

    thread: threading.Thread | None = None
    raised: BaseException | None = None

    def begin(self, item: Item) -> None:
        self.thread = threading.Thread(target=self._call, args=(item,))
        self.thread.start()

    def _call(self, item: Item) -> None:
        future, texts = self.texts([item])
        try:
            self.collector.submit(future, texts, urgent=True, timeout=SECONDS)
        except BaseException as error:
            self.raised = error
            future.cancel()

    def end(self) -> None:
        assert self.thread is not None
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


def test_a_lone_caller_counts_as_a_worker_and_who_has_come_meanwhile_is_served(make, model):
    collector = make(workers=1, own_model=True)
    alone, others = LoneCaller(collector), [LoneCaller(collector) for _ in range(3)]
    alone.begin(Item(1, 5, True))
    assert model.entered.acquire(timeout=SECONDS)
    for number, caller in enumerate(others, start=2):
        caller.begin(Item(number, 5, True))
        caller.end()
    assert [[item.number for item in batch] for batch in model.batches] == [[1]]
    model.gate.set()
    for number, caller in enumerate([alone, *others], start=1):
        assert is_right(Item(number, 5, True), caller.answer()[0])
    alone.end()
    assert [[item.number for item in batch] for batch in model.batches] == [[1], [2, 3, 4]]


def test_a_caller_who_is_alone_runs_its_text_itself_and_others_have_a_worker(make, model):
    collector = make(workers=2, own_model=True)
    threads = []
    run = collector._run
    collector._run = lambda items: (threads.append(threading.current_thread()), run(items))[1]
    alone, other, bulk = LoneCaller(collector), LoneCaller(collector), Caller(collector)
    alone.begin(Item(1, 5, True))
    assert model.entered.acquire(timeout=SECONDS)
    other.begin(Item(2, 5, True))
    assert model.entered.acquire(timeout=SECONDS), "the second caller waits for the first"
    bulk.put([Item(3, 5, False)], urgent=False)
    model.gate.set()
    for caller, number in ((alone, 1), (other, 2), (bulk, 3)):
        [answer] = caller.answer()
        assert is_right(Item(number, 5, True), answer)
    alone.end()
    other.end()
    assert threads[0] is alone.thread
    assert all(thread.name.startswith("agentmem-worker") for thread in threads[1:])
    assert collector.counts.batches == collector.counts.texts == 3


def test_what_fails_for_a_lone_caller_is_its_answer(make, model):
    def fail(_items):
        raise EmbeddingError("not this text")

    collector = make(own_model=True)
    collector._run = fail
    caller = LoneCaller(collector)
    caller.begin(Item(1, 5, True))
    caller.end()
    [error] = caller.answer()
    assert isinstance(error, EmbeddingError)
    assert "not this text" in str(error)


@pytest.mark.parametrize("error", [MemoryError("no room"), RecursionError("too deep")])
def test_what_a_lone_caller_has_no_room_for_comes_out_as_it_is(make, model, error):
    def fail(items):
        if threading.current_thread() is alone.thread:
            raise error
        return model.run(items)

    collector = make(own_model=True)
    collector._run = fail
    model.gate.set()
    alone, later = LoneCaller(collector), LoneCaller(collector)
    alone.begin(Item(1, 5, True))
    alone.end()
    assert alone.raised is error
    later.begin(Item(1, 5, True))
    assert is_right(Item(1, 5, True), later.answer()[0])


def test_an_interrupt_of_a_lone_caller_is_its_own_and_others_get_their_vector(make, model):
    def interrupted(items):
        vectors = model.run(items)
        if threading.current_thread() is alone.thread:
            raise Alarm
        return vectors

    collector = make(own_model=True)
    collector._run = interrupted
    alone, other, later = LoneCaller(collector), LoneCaller(collector), LoneCaller(collector)
    item = Item(1, 5, True)
    alone.begin(item)
    assert model.entered.acquire(timeout=SECONDS)
    other.begin(item)
    other.end()
    model.gate.set()
    assert is_right(item, other.answer()[0])
    alone.end()
    assert isinstance(alone.raised, Alarm)
    assert not alone.calls
    later.begin(item)
    assert is_right(item, later.answer()[0])
    assert collector.depth()[:2] == (0, 0)


def test_close_waits_for_the_run_of_a_lone_caller(make, model):
    collector = make(own_model=True)
    caller = LoneCaller(collector)
    caller.begin(Item(1, 5, True))
    assert model.entered.acquire(timeout=SECONDS)
    closer = threading.Thread(target=collector.close)
    closer.start()
    model.gate.set()
    closer.join(SECONDS)
    assert not closer.is_alive()
    assert is_right(Item(1, 5, True), caller.answer()[0])
    caller.end()


def test_the_same_text_in_flight_is_run_once_for_all_who_want_it(make, model):
    collector = make()
    item = Item(7, 10, True)
    callers = [Caller(collector) for _ in range(20)]
    for caller in callers:
        caller.put([item, item], urgent=True)
    model.gate.set()
    for caller in callers:
        assert all(is_right(item, answer) for answer in caller.answer())
    assert model.batches == [[item]]
    assert collector.counts.coalesced == 39


def test_a_query_takes_the_bulk_text_that_it_wants_along(make, model):
    collector = make()
    blocker, bulk, query = Caller(collector), Caller(collector), Caller(collector)
    blocker.put([Item(0, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)
    items = [Item(number, 10 * number, False) for number in range(1, 9)]
    bulk.put(items, urgent=False)
    query.put([items[7]], urgent=True)
    model.gate.set()
    assert is_right(items[7], query.answer()[0])
    assert all(is_right(item, answer) for item, answer in zip(items, bulk.answer(), strict=True))
    assert model.batches[1] == [items[7]]
    assert sum(item == items[7] for batch in model.batches for item in batch) == 1
    assert collector.depth()[:2] == (0, 0)


def test_poisonous_texts_harm_only_themselves(make, model):
    collector = make(batch_tokens=10_000)
    model.poison = {3, 40, 41, 99}
    model.gate.set()
    items = [Item(number, 10, False) for number in range(100)]
    caller = Caller(collector)
    caller.put(items, urgent=False)
    for item, answer in zip(items, caller.answer(), strict=True):
        if item.number in model.poison:
            assert type(answer) is EmbeddingError
            assert "poison" in str(answer)
        else:
            assert is_right(item, answer)
    assert collector.counts.failed == 4


def test_what_nobody_wants_any_more_is_never_run(make, model):
    collector = make()
    first, gone, also = Caller(collector), Caller(collector), Caller(collector)
    first.put([Item(0, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)
    ticket = gone.put([Item(1, 10, True), Item(2, 10, True)], urgent=True)
    also.put([Item(2, 10, True)], urgent=True)
    ticket.cancel()
    model.gate.set()
    assert is_right(Item(2, 10, True), also.answer()[0])
    assert not gone.calls
    assert Item(1, 10, True) not in [item for batch in model.batches for item in batch]
    assert collector.counts.dropped == 1


def test_a_run_without_end_does_not_keep_its_worker_once_its_callers_gave_up(make, model):
    collector = make(workers=1)
    hung, other = Caller(collector), Caller(collector)
    ticket = hung.put([Item(0, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)
    other.put([Item(1, 10, True)], urgent=True)
    ticket.cancel()
    assert model.entered.acquire(timeout=SECONDS), "the second run never began"
    model.gate.set()
    assert is_right(Item(1, 10, True), other.answer()[0])
    assert not hung.calls


def test_a_full_queue_refuses_after_the_timeout_and_lets_in_when_there_is_room(make, model):
    collector = make(queue_tokens=100)
    running, waiting, refused, later = (Caller(collector) for _ in range(4))
    running.put([Item(0, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)
    waiting.put([Item(1, 95, True)], urgent=True)
    with pytest.raises(OverloadedError, match="95 tokens"):
        refused.put([Item(2, 10, True)], urgent=True, timeout=0.01)
    blocked = threading.Thread(target=later.put, args=([Item(3, 10, True)],), kwargs={"urgent": True})
    blocked.start()
    model.gate.set()
    blocked.join(SECONDS)
    assert is_right(Item(3, 10, True), later.answer()[0])
    assert not refused.calls
    assert Item(2, 10, True) not in [item for batch in model.batches for item in batch]


def test_more_than_the_whole_line_may_enter_an_empty_one(make, model):
    collector = make(queue_tokens=10)
    model.gate.set()
    caller = Caller(collector)
    caller.put([Item(number, 100, False) for number in range(5)], urgent=False)
    assert len(caller.answer()) == 5


def test_close_answers_who_waits_and_lets_the_run_end(make, model):
    collector = make(queue_tokens=50)
    running, waiting, blocked = (Caller(collector) for _ in range(3))
    running.put([Item(0, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS)
    waiting.put([Item(1, 50, True)], urgent=True)
    outcome: list[AgentMemError] = []

    def push() -> None:
        try:
            blocked.put([Item(2, 10, True)], urgent=True)
        except AgentMemError as error:
            outcome.append(error)

    pushing = threading.Thread(target=push)
    pushing.start()
    closing = threading.Thread(target=collector.close)
    closing.start()
    assert [type(answer) for answer in waiting.answer()] == [ClosedError]
    pushing.join(SECONDS)
    assert [type(error) for error in outcome] == [ClosedError]
    assert not running.calls
    model.gate.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert is_right(Item(0, 10, True), running.answer()[0])
    assert len(model.batches) == 1
    with pytest.raises(ClosedError):
        Caller(collector).put([Item(3, 10, True)], urgent=True)


def test_callers_run_their_texts_themselves_when_no_thread_can_be_started(make, model, monkeypatch):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    collector = make()
    model.gate.set()
    model.poison.add(3)
    alone, served = Caller(collector), Caller(collector)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        alone.put([Item(number, 10, False) for number in (1, 3)], urgent=False)
        assert [type(answer) for answer in alone.calls[0]] == [bytes, EmbeddingError]
    served.put([Item(2, 10, True)], urgent=True)
    assert [type(answer) for answer in served.answer()] == [bytes]
    assert collector.depth()[:2] == (0, 0)


def test_an_interrupt_of_a_caller_in_a_workers_place_is_its_own_and_others_are_served(make, model, monkeypatch):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def interrupted(_items):
        raise KeyboardInterrupt

    collector = make()
    model.gate.set()
    gone, served = Caller(collector), Caller(collector)
    run = collector._run
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        collector._run = interrupted
        future, texts = gone.texts([Item(1, 10, True), Item(2, 10, True)])
        with pytest.raises(KeyboardInterrupt):
            collector.submit(future, texts, urgent=True, timeout=SECONDS)
        future.cancel()
        collector._run = run
        served.put([Item(2, 10, True)], urgent=True)
        assert [type(answer) for answer in served.answer()] == [bytes]
    assert gone.calls == []
    assert collector.depth()[:2] == (0, 0)


def test_an_interrupt_while_a_worker_starts_loses_neither_the_worker_nor_the_next_caller(make, model, monkeypatch):
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    collector = make()
    model.gate.set()
    gone, served = Caller(collector), Caller(collector)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gone.put([Item(1, 10, True)], urgent=True)
    served.put([Item(2, 10, True)], urgent=True)
    assert [type(answer) for answer in served.answer()] == [bytes]
    assert gone.calls == []
    collector.close()
    assert our_threads() == []


# -- refinement ---------------------------------------------------------------------------------------------------


def test_refinement_runs_in_small_batches_on_threads_of_low_priority_and_does_not_hold_up_callers(make, model):
    collector = make(own_model=True, batch_tokens=10_000)
    niceness = []
    run = collector._run

    def noted(items: list[Item]) -> np.ndarray:
        if threading.current_thread().name.startswith("agentmem-refine") and sys.platform == "linux":
            niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return run(items)

    collector._run = noted
    refined, caller = Caller(collector), Caller(collector)
    items = [Item(number, 10 + number % 3, False) for number in range(40)]
    refined.refine(items)
    assert model.entered.acquire(timeout=SECONDS)
    caller.put([Item(100, 10, True), Item(101, 10, True)], urgent=True)
    assert model.entered.acquire(timeout=SECONDS), "a caller waits for the refinement"
    model.gate.set()
    assert all(is_right(item, answer) for item, answer in zip(items, refined.answer(), strict=True))
    caller.answer()
    refining = [batch for batch in model.batches if batch[0].number < 100]
    assert [len(batch) for batch in refining] == [16, 16, 8]
    assert set(niceness) <= {min(19, os.getpriority(os.PRIO_PROCESS, 0) + REFINE_NICENESS)}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == os.getpriority(os.PRIO_PROCESS, 0)
    assert collector.counts.texts == 42


def test_refinement_that_is_given_up_does_not_begin(make, model):
    collector = make(own_model=True)
    gone = Caller(collector)
    future = gone.refine([Item(number, 10, False) for number in range(40)])
    assert model.entered.acquire(timeout=SECONDS)
    future.cancel()
    kept = Caller(collector)
    kept.refine([Item(100, 10, False)])
    model.gate.set()
    kept.answer()
    assert gone.calls == []
    assert len(model.batches) == 2
    assert collector.counts.dropped == 24


def test_close_refuses_refinement_that_has_not_begun_and_lets_the_rest_end(make, model):
    collector = make(own_model=True)
    refined, running = Caller(collector), Caller(collector)
    running.refine([Item(100, 10, False)])
    assert model.entered.acquire(timeout=SECONDS)
    refined.refine([Item(number, 10, False) for number in range(40)])
    closing = threading.Thread(target=collector.close)
    closing.start()
    assert {type(answer) for answer in refined.answer()} == {ClosedError}
    assert not running.calls
    model.gate.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert is_right(Item(100, 10, False), running.answer()[0])
    with pytest.raises(ClosedError):
        refined.refine([Item(1, 10, False)])


def test_a_caller_refines_itself_when_no_thread_can_be_started(make, model, monkeypatch):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    collector = make(own_model=True)
    model.gate.set()
    refined = Caller(collector)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        refined.refine([Item(number, 10, False) for number in range(20)])
        assert [type(answer) for answer in refined.calls[0]] == [bytes] * 20
