"""agentmem.mem0 beside mem0ai: the same calls, the same answers; recorded, and live where mem0ai can be installed."""

import json
import subprocess
from pathlib import Path

import pytest

from agentmem import Memory
from agentmem.mem0 import Memory as DropIn
from agentmem.mem0.migrate import Imported, import_mem0
from tests import mem0_peer
from tests.mem0_script import FACTS, QUESTIONS, shapes_of


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


@pytest.mark.slow
def test_the_record_is_what_the_installed_mem0ai_answers(peer, tmp_path):
    live = mem0_peer.ask("shapes", tmp_path / "qdrant", tmp_path / "home")
    assert live == mem0_peer.recorded(mem0_peer.SHAPES)


def check_migrated(memory: Memory, told: dict) -> None:
    """Whatever Mem0 said of a memory, this says too: every item and every history, dates included."""
    with DropIn(store=memory) as migrated:
        for name, item in told["items"].items():
            assert migrated.get(name) == item
            theirs = told["histories"][name]
            ours = migrated.history(name)
            assert [{**entry, "id": None} for entry in ours] == [{**entry, "id": None} for entry in theirs]
    [deleted] = told["histories"].keys() - told["items"].keys()
    assert memory.history(deleted) == []
    assert memory.check() == []


def test_a_recorded_store_comes_whole(open_memory, tmp_path):
    record = mem0_peer.recorded(mem0_peer.STORE)
    mem0_peer.write_rows(tmp_path / "qdrant", record["rows"])
    memory = open_memory()
    imported = import_mem0(memory, tmp_path / "qdrant", history=tmp_path / "qdrant" / "history.db")
    assert imported == Imported(stored=7)
    check_migrated(memory, record["told"])


@pytest.mark.slow
def test_a_store_that_the_installed_mem0ai_made_answers_the_same_questions_after_the_move(
    peer, model_memory, tmp_path: Path
):
    folder = tmp_path / "qdrant"
    told = mem0_peer.ask("store", folder, tmp_path / "home")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert import_mem0(model_memory, folder, history=folder / "history.db") == Imported(stored=7)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    check_migrated(model_memory, told)
    with DropIn(store=model_memory) as migrated:
        for question, user in QUESTIONS:
            best = migrated.search(question, filters={"user_id": user}, top_k=2)["results"]
            assert told["answers"][question] in [item["memory"] for item in best], question
