"""agentmem.mem0 beside mem0ai: the same calls, the same answers; recorded, and live where mem0ai can be installed."""

import json
import subprocess

import pytest

from agentmem.mem0 import Memory as DropIn
from tests import mem0_peer
from tests.mem0_script import FACTS, shapes_of


@pytest.fixture(scope="module")
def peer() -> str:
    try:
        return mem0_peer.python()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"mem0ai cannot be installed here: {error}")


def test_every_call_answers_in_the_shape_that_was_recorded_of_mem0ai():
    with DropIn({"vector_store": {"config": {"path": ":memory:"}}}, llm=lambda messages: FACTS) as memory:
        ours = json.loads(json.dumps(shapes_of(memory)))
    theirs = mem0_peer.recorded(mem0_peer.SHAPES)["shapes"]
    assert list(ours) == list(theirs)
    assert len(ours) > 90
    for call, shape in theirs.items():
        assert ours[call] == shape, call


def test_the_record_is_what_the_installed_mem0ai_answers(peer, tmp_path):
    live = mem0_peer.ask("shapes", tmp_path / "qdrant", tmp_path / "home")
    assert live == mem0_peer.recorded(mem0_peer.SHAPES)
