"""How many searches compute at once, and which ones wait."""

import threading
from collections.abc import Callable

import pytest

from agentmem import ClosedError
from agentmem.search import limiter as lanes
from agentmem.search.limiter import Limiter


class Inside:
    """A search that computes until the test ends it."""

    def __init__(self, among: Limiter) -> None:
        self.spare: bool | None = None
        self._entered, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=among.within, args=(self._compute,))
        self._thread.start()
        assert self._entered.wait(10)

    def _compute(self, spare: bool) -> None:
        self.spare = spare
        self._entered.set()
        assert self._end.wait(10)

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def waiting(work: Callable[..., None], *arguments: object) -> threading.Thread:
    """A thread that has begun the work, and waits."""
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    return thread


def assert_ended(thread: threading.Thread) -> None:
    thread.join(10)
    assert not thread.is_alive()


def test_as_many_are_inside_as_there_are_lanes_and_each_knows_of_a_free_one():
    among = Limiter(lambda: 2)
    first = Inside(among)
    second = Inside(among)
    assert (first.spare, second.spare) == (True, False)
    third = waiting(among.within, lambda spare: None)
    first.end()
    second.end()
    assert_ended(third)


def test_an_error_goes_through_and_leaves_the_lane_free():
    among = Limiter(lambda: 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            among.within(lambda spare: 1 // 0)
    assert among.within(lambda spare: spare) is False


def test_who_is_inside_may_enter_again():
    among = Limiter(lambda: 1)
    assert among.within(lambda spare: among.within(lambda spare: "within")) == "within"
    assert among.within(lambda spare: "afterwards") == "afterwards"


def test_what_can_wait_lets_searches_pass_a_moment_at_most(monkeypatch):
    among = Limiter(lambda: 2)
    among.let_pass()  # No search has come yet.
    someone = Inside(among)
    monkeypatch.setattr(lanes, "PATIENCE_SECONDS", 0.05)
    among.let_pass()
    monkeypatch.setattr(lanes, "PATIENCE_SECONDS", 60)
    patient = waiting(among.let_pass)
    someone.end()
    assert_ended(patient)


def test_the_end_waits_for_who_is_inside_and_lets_nobody_in(monkeypatch):
    among = Limiter(lambda: 1)
    someone = Inside(among)
    refused = []

    def late() -> None:
        with pytest.raises(ClosedError, match="was closed"):
            among.within(lambda spare: None)
        refused.append(True)

    refused_one, closing = waiting(late), waiting(among.close)
    someone.end()
    assert_ended(closing)
    assert_ended(refused_one)
    assert refused
    monkeypatch.setattr(lanes, "CLOSE_WAIT_SECONDS", 0.05)
    hanging = Limiter(lambda: 1)
    someone = Inside(hanging)
    hanging.close()
    someone.end()
