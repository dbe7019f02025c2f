"""The short forms of `python -m tests.torture`: the same cases, fewer of them."""

from typing import Any

import pytest

from tests.torture import cuts, damage, faults, harms, kills, tenants
from tests.torture.nursery import Nursery
from tests.torture.scripts import script

pytestmark = [pytest.mark.slow, pytest.mark.torture]

SEED = 1


def assert_nothing_wrong(figures: dict[str, Any]) -> None:
    assert figures["failures"] == []


def test_forty_kills_lose_nothing_and_leave_nothing_half(tmp_path):
    figures = kills.run(tmp_path / "stores", 40, SEED)
    assert_nothing_wrong(figures)
    assert figures["kills"] >= 40
    assert figures["acknowledged"] > 400


def test_files_that_are_read_or_moved_away_while_four_processes_write_lose_nothing(tmp_path):
    figures = harms.run(tmp_path / "stores", 6, SEED, ["read", "moved away and back"])
    assert (figures["lost"], figures["half"]) == (0, 0)
    assert figures["acknowledged"] > 100


def test_sixty_power_cuts_lose_nothing_that_was_promised(tmp_path):
    figures = cuts.run(tmp_path / "stores", 60, SEED)
    assert_nothing_wrong(figures)
    assert figures["cuts, full"] >= 30
    assert figures["cuts, process"] >= 30
    assert figures["acknowledged, full"] > 100
    # The disk does lose what is not synced.
    assert figures["acknowledged but missing, process"] > 0


@pytest.mark.parametrize("variant", faults.VARIANTS)
def test_every_call_of_a_script_fails_and_what_was_told_is_true(tmp_path, variant):
    figures = faults.run(tmp_path / "stores", 1, SEED, [variant])
    assert_nothing_wrong(figures)
    assert figures[variant] > 50
    struck = {call.split()[0] for call in figures["calls that failed first"]}
    assert struck >= ({"write"} if variant.startswith("disk full") else {"open", "read", "write", "sync", "lock"})


def test_a_hundred_damaged_stores_crash_nobody_and_hang_nobody(tmp_path):
    figures = damage.run(tmp_path / "stores", 100, SEED)
    assert_nothing_wrong(figures)
    assert figures["an error said so"] > 5
    assert figures["unharmed"] > 5
    assert figures["unsaid"] == {}


def test_a_copy_that_fails_and_cannot_be_ended_either_is_one_clear_error(tmp_path):
    """The disk fails for good amid a backup: SQLite fails twice, and apsw has made a SystemError of that."""
    backups = next(number for number in range(20) if script(number).name == "backups")
    with Nursery() as nursery:
        arguments = (str(tmp_path), SEED, backups, 115, "fails from then on")
        status, cases = nursery.run("tests.torture.faults:some_cases", *arguments, seconds=300)
    assert cases, status
    assert any("unfinished" in call for case in cases for call in case["struck"][:1])
    assert [case["wrong"] + case["ghosts"] for case in cases] == [[]] * len(cases)


def test_a_hostile_tenant_holds_nobody_up(tmp_path):
    figures = tenants.run(tmp_path / "store", 15, 1)
    # How long others stand still is for the long form, on a machine with nothing else to do.
    assert [each for each in figures["failures"] if "stood still" not in each] == []


def test_strangers_and_filters_leave_nothing_behind(tmp_path):
    assert tenants.strangers(tmp_path / "store", 3000, 1)["failures"] == []
