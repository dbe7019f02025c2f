"""The short forms of `python -m tests.torture`: the same cases, fewer of them."""

from typing import Any

from tests.torture import kills

SEED = 1


def assert_nothing_wrong(figures: dict[str, Any]) -> None:
    assert figures["failures"] == []


def test_forty_kills_lose_nothing_and_leave_nothing_half(tmp_path):
    figures = kills.run(tmp_path / "stores", 40, SEED)
    assert_nothing_wrong(figures)
    assert figures["kills"] >= 40
    assert figures["acknowledged"] > 400
