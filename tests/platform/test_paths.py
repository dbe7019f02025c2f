"""Working folders that are gone or are no UTF-8, folders that cannot be made: clear errors, and what can work works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentmem import InvalidInputError, Memory, StoreOpenError
from agentmem.cli.rescue import rescue
from agentmem.mem0 import Memory as Mem0
from agentmem.testing import HashEmbedder
from tests.children import ROOT, SECONDS
from tests.command_line import COMMAND

COMMANDS = {
    "add": "add x --user ana",
    "add to a path": "add x --user ana --db new.db",
    "count": "count --user ana",
    "check": "check agent.db",
    "repair": "repair agent.db",
    "backup": "backup agent.db copy.db",
    "backup to it": "backup {store} copy.db",
    "export": "export all.jsonl --user ana",
    "export to it": "export all.jsonl --user ana --db {store}",
    "import": "import all.jsonl",
    "reembed": "reembed ./model --db {store}",
    "vacuum": "vacuum agent.db",
}


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is not there any more."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere.db"
    with Memory(path, embedder=HashEmbedder()) as memory:
        memory.add("likes tea", user_id="ana")
    return path


def run_in(folder: bytes, line: str, store: Path, *, remove: bool) -> subprocess.CompletedProcess[str]:
    """A command in a working folder that is removed, or not, just before."""
    there = f"import os, sys; os.chdir({folder!r}); {f'os.rmdir({folder!r});' if remove else ''}"
    command = [each.format(store=store) for each in [*COMMAND, *line.split()]]
    environment = {name: value for name, value in os.environ.items() if name != "AGENTMEM_DB"}
    return subprocess.run(
        [sys.executable, "-c", f"{there} os.execvp(sys.argv[1], sys.argv[1:])", *command],
        env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


def assert_clear(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode in (2, 3, 4 if "model" in done.stderr else 3), done.stderr
    assert re.search(r"^Error: .*\.$", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    assert "None" not in done.stderr
    assert "reading or writing" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_in_a_folder_that_is_gone_says_so(tmp_path, store, name):
    (tmp_path / "gone").mkdir()
    done = run_in(bytes(tmp_path / "gone"), COMMANDS[name], store, remove=True)
    assert_clear(done)
    if name in ("add", "add to a path", "backup to it", "export to it"):
        assert "the working folder is gone" in done.stderr
        assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_in_a_folder_that_is_no_utf8_ends_well_or_says_why(tmp_path, store, name):
    folder = bytes(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 - a Path has no bytes.
    done = run_in(folder, COMMANDS[name], store, remove=False)
    if name == "export to it":
        assert done.returncode == 0, done.stderr
        assert os.listdir(folder) == [b"all.jsonl"]  # noqa: PTH208
        return
    assert_clear(done)
    if name in ("add", "add to a path", "backup to it"):
        assert done.returncode == 2
        assert "which is not UTF-8" in done.stderr
        assert "working folder" in done.stderr
        assert os.listdir(folder) == []  # noqa: PTH208


@pytest.mark.slow
@pytest.mark.parametrize("name", ["--help", "models list", "count --user ana --db {store}", "demo --limit 1"])
def test_what_needs_no_working_folder_works_without_one(tmp_path, store, name):
    (tmp_path / "gone").mkdir()
    done = run_in(bytes(tmp_path / "gone"), name, store, remove=True)
    assert done.returncode == 0, done.stderr


def test_the_library_says_that_the_working_folder_is_gone(gone, store):
    calls = [
        lambda: Memory("agent.db", embedder=HashEmbedder()),
        lambda: rescue("agent.db"),
        lambda: Mem0({"vector_store": {"config": {"path": "folder"}}}, embedder=HashEmbedder()),
    ]
    with Memory(store, embedder=HashEmbedder()) as memory:
        calls += [lambda: memory.backup("copy.db"), lambda: memory.export("all.jsonl", user_id="ana")]
        for call in calls:
            with pytest.raises(StoreOpenError):
                call()
        with pytest.raises(InvalidInputError, match="cannot be read"):
            memory.import_("all.jsonl")
        # And what is named from the root on goes on.
        memory.add("likes coffee", user_id="ana")
        assert memory.export(store.with_name("all.jsonl"), user_id="ana") == 2
        assert memory.backup(store.with_name("copy.db")) == str(store.with_name("copy.db"))
        assert memory.check() == []


def test_a_store_below_a_folder_that_is_no_utf8_is_refused_with_its_name(tmp_path, monkeypatch):
    folder = bytes(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102
    monkeypatch.chdir(os.fsdecode(folder))
    for path in ("agent.db", os.fsdecode(folder + b"/agent.db")):
        with pytest.raises(InvalidInputError, match="which is not UTF-8"):
            Memory(path, embedder=HashEmbedder())
    assert os.listdir(folder) == []  # noqa: PTH208


@pytest.mark.parametrize("in_the_way", ["file", "file/below"])
def test_a_folder_that_mem0_cannot_make_is_an_error_of_ours(tmp_path, in_the_way):
    (tmp_path / "file").touch()
    with pytest.raises(StoreOpenError, match="cannot be made"):
        Mem0({"vector_store": {"config": {"path": str(tmp_path / in_the_way)}}}, embedder=HashEmbedder())


def test_relative_paths_stay_what_they_were_when_the_working_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with Memory("agent.db", embedder=HashEmbedder()) as memory:
        monkeypatch.chdir(tmp_path / "other")
        memory.add("likes tea", user_id="ana")
        assert memory.check() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.db", "other"]
