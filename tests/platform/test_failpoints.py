"""Failure points: each has one place in the code, does what a test armed there, and nothing otherwise."""

import re
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

import agentmem
from agentmem import StoreError
from tests import failpoints
from tests.children import finish, start_python

REACHED = re.compile(r'reach\("([^"]+)"\)')


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    failpoints.disarm()


def test_every_point_stands_at_exactly_one_place_in_the_code():
    files = [path for path in Path(agentmem.__file__).parent.rglob("*.py") if path.name != "failpoints.py"]
    places = Counter(name for path in files for name in REACHED.findall(path.read_text("utf-8")))
    assert places == Counter(failpoints.POINTS)


def test_a_point_raises_what_it_was_armed_with_and_the_store_goes_on(open_memory):
    memory = open_memory()

    def full() -> None:
        raise StoreError("armed")

    failpoints.arm("rows: before the memories", full)
    with pytest.raises(StoreError, match="armed"):
        memory.add("refused", user_id="ana")
    failpoints.disarm()
    memory.add("taken", user_id="ana")
    assert [record.content for record in memory.get_all(user_id="ana")] == ["taken"]


def test_a_point_may_let_some_pass(open_memory):
    memory = open_memory()
    failpoints.arm("transaction: before COMMIT", failpoints.fail, after=2)
    memory.add("one", user_id="ana")
    memory.add("two", user_id="ana")
    with pytest.raises(OSError, match="armed"):
        memory.add("three", user_id="ana")


def test_whoever_comes_to_a_paused_point_waits_there(open_memory):
    memory = open_memory()
    pause = failpoints.Pause()
    failpoints.arm("transaction: before COMMIT", pause)
    adding = threading.Thread(target=memory.add, args=("slow",), kwargs={"user_id": "ana"})
    adding.start()
    assert pause.reached.wait(60)
    assert memory.count(user_id="ana") == 0
    pause.release()
    adding.join(60)
    assert memory.count(user_id="ana") == 1


def test_nothing_in_the_package_arms_a_point_and_no_environment_does(store_path):
    files = [path for path in Path(agentmem.__file__).parent.rglob("*.py") if path.name != "failpoints.py"]
    assert not [path for path in files if re.search(r"failpoints(?! import reach\b)", path.read_text("utf-8"))]
    for variable in ("AGENTMEM_FAILPOINTS", "FAILPOINTS"):
        code = f"""
            import os
            os.environ["{variable}"] = "transaction: before COMMIT=kill"
            from agentmem import Memory
            from agentmem.testing import HashEmbedder
            with Memory(":memory:", embedder=HashEmbedder()) as memory:
                print(memory.add("lives", user_id="ana").content)
        """
        assert finish(start_python(code)) == "lives\n"


def test_a_text_arms_a_child(store_path):
    code = """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        from tests import failpoints
        failpoints.arm_all(sys.argv[2])
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        for number in range(9):
            print(memory.add(f"text {number}", user_id="ana").content, flush=True)
    """
    # Opening commits three times: tables, model, terms.
    child = start_python(code, store_path, "backlog: before a claim=raise;transaction: before COMMIT=kill@5")
    output, errors = child.communicate(timeout=90)
    assert (child.returncode, output, errors) == (-signal.SIGKILL, "text 0\ntext 1\n", "")
    assert len(finish(start_python(code, store_path, "")).split()) == 18


@pytest.mark.parametrize("text", ["no such point=kill", "transaction: before COMMIT=explode", "x", "cache=kill@-1"])
def test_what_cannot_be_armed_is_named(text):
    with pytest.raises(ValueError, match=re.escape(text.partition("=")[0])):
        failpoints.arm_all(text)
