"""Bars of long work: what they are told, and that nothing is shown unasked."""

from contextlib import contextmanager
from itertools import pairwise

import pytest

from agentmem.progress import stages
from tests.conftest import our_threads

WORK = {
    "check": (lambda memory, progress: memory.check(progress=progress), "owners"),
    "repair": (lambda memory, progress: memory.repair(progress=progress), "histories"),
    "purge": (lambda memory, progress: memory.purge(user_id="ana", progress=progress), "writing the file anew"),
    "reset": (lambda memory, progress: memory.reset(confirm=True, progress=progress), "writing the file anew"),
}


@pytest.fixture
def filled(open_memory):
    memory = open_memory()
    memory.add_batch([f"fact {number}" for number in range(1200)], user_id="ana")
    return memory


@pytest.mark.parametrize("name", WORK)
def test_long_work_shows_a_bar_when_asked_and_nothing_otherwise(filled, capsys, name):
    work, last = WORK[name]
    work(filled, False)
    assert capsys.readouterr().err == ""
    filled.add("a fact more", user_id="ana")
    work(filled, True)
    shown = capsys.readouterr().err
    assert "\r" in shown
    assert last in shown
    assert not [name for name in our_threads() if "progress" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_a_bar_is_told_of_every_stage_and_how_much_of_it_is_done(filled, monkeypatch, name):
    told: list[tuple[str, int, int]] = []

    @contextmanager
    def recorded(*, shown):
        yield lambda *each: told.append(each)

    monkeypatch.setattr("agentmem.memory.stages", recorded)
    work, last = WORK[name]
    work(filled, True)
    assert told[-1][0] == last
    assert all(0 <= done <= total or (done, total) == (0, 0) for _, done, total in told)
    names = [what for what, _, _ in told]
    assert all(names.index(what) <= names.index(other) for what, other in pairwise(names))
    for what in set(names):
        done = [each for stage, each, _ in told if stage == what]
        assert done == sorted(done) or what == "pages"
    if name in ("check", "repair"):
        assert {(what, done) for what, done, total in told if done == total > 0} >= {
            ("vectors", 1200), ("histories", 1200)
        }  # fmt: skip
    else:
        assert [each for each in told if each[0] == "memories"] == [
            ("memories", done, 1200) for done in (0, 500, 1000)
        ]  # fmt: skip


def test_a_bar_shows_the_stage_that_was_told_last_and_goes_when_the_work_fails(capsys):
    def work():
        with stages(shown=True) as tell:
            tell("first", 1, 4)
            tell("second", 3, 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert our_threads() == []
    with stages(shown=True) as tell:
        tell("third", 3, 4)
    assert "third  75%|" in capsys.readouterr().err
