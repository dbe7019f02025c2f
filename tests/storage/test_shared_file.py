"""One file in many hands, in the short form; `tests/torture/` has the long one."""

import pytest
from hypothesis import settings

from tests.torture.soak import soak
from tests.torture.stateful import run_all
from tests.torture.switching import switch

pytestmark = [pytest.mark.slow, pytest.mark.torture]


def test_two_handles_and_a_process_that_is_killed_answer_as_a_dictionary_would():
    long = settings.default.max_examples > 100
    figures = run_all(500 if long else 20, 200, jobs=2, seconds=3600)
    assert figures["failures"] == []
    assert figures["steps"] >= 4_000


def test_four_processes_of_eight_threads_do_everything_at_once(store_path):
    figures = soak(store_path, seconds=15, processes=4, threads=8)
    assert (figures["errors"], figures["problems"], figures["store"]["pending"]) == ([], [], 0)
    assert len(figures["rss_mb"]) == 4
    assert min(figures["calls"].values()) > 0


def test_sixteen_threads_that_change_places_all_the_time_answer_each_its_own(store_path):
    figures = switch(store_path, seconds=10)
    assert (figures["errors"], figures["problems"], figures["never_called"]) == ([], [], [])
