"""`agentmem models`, against a hub on loopback."""

import json
import re
from pathlib import Path

import pytest

from agentmem import Memory
from tests.command_line import lines_of
from tests.loopback_hub import serving
from tests.tiny_models import WORDS, write_model

NAME = "org/tiny"


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> Path:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "AGENTMEM_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("AGENTMEM_MODELS", str(tmp_path / "downloaded"))
    return tmp_path / "downloaded"


@pytest.fixture
def hub(downloads, tmp_path, monkeypatch):
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.publish(NAME, write_model(tmp_path / "source", pooling="cls"))
        yield hub


def test_the_list_names_what_model_takes(run, downloads):
    entries = {entry["name"]: entry for entry in lines_of(run("models", "list", "--json"))}
    assert entries["all-MiniLM-L6-v2"]["where"] == "bundled"
    assert entries["BAAI/bge-small-en-v1.5"]["where"] == "known"
    lines = run("models", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(entries)


def test_a_model_is_downloaded_described_used_and_removed(run, hub, db):
    assert run("models", "info", NAME).exit_code == 4
    told = run("models", "download", NAME)
    assert told.exit_code == 0, told.stderr
    assert re.search(f"^name +{NAME}$", told.stdout, re.M)
    [described] = lines_of(run("models", "info", NAME, "--json"))
    assert described == lines_of(run("models", "download", NAME, "--json"))[0]
    assert len(described["revision"]) == 40
    assert all(file["whole"] for file in described["files"])
    assert "downloaded" in run("models", "list").stdout
    run("add", "she likes tea", "--user", "ana", "--model", NAME)
    assert run("search", "tea", "--user", "ana", "--model", NAME).exit_code == 0
    file = Path(described["folder"]) / described["files"][0]["name"]
    file.write_bytes(b"damaged")
    damaged = run("models", "info", NAME)
    assert damaged.exit_code == 1
    assert "missing or damaged; download it again." in damaged.stderr
    freed = json.loads(run("models", "remove", NAME, "--json").stdout)
    assert freed["bytes"] > 0
    assert run("models", "remove", NAME).exit_code == 4
    with Memory(db, model=None) as memory:
        assert memory.check() == []
    db.unlink()


def test_a_bar_is_shown_when_asked_for(run, hub):
    told = run("models", "download", NAME, "--progress")
    assert "%|" in told.stderr
    assert run("models", "download", "org/nothing").exit_code == 4
    assert run("models", "download", "no name").exit_code == 2


def test_a_hub_that_is_not_to_be_asked_is_not(run, downloads, monkeypatch):
    monkeypatch.setenv("AGENTMEM_OFFLINE", "1")
    refused = run("models", "download", NAME)
    assert (refused.exit_code, refused.stdout) == (4, "")
    assert len(refused.stderr.splitlines()) == 1


def test_a_model_is_quantized_into_a_folder_that_model_takes(run, downloads, tmp_path):
    source = write_model(tmp_path / "source")
    texts, words = tmp_path / "texts.txt", WORDS.split()
    texts.write_text("".join(f"she likes {first} and the {second} cat\n" for first in words for second in words))
    told = run("models", "quantize", source, tmp_path / "small", "--calibration", texts, "--json")
    assert told.exit_code == 0, told.stderr
    result = json.loads(told.stdout)
    assert result["folder"] == str(tmp_path / "small")
    assert result["invariance"] > 0.999
    assert run("models", "info", tmp_path / "small").exit_code == 0
    assert run("models", "quantize", source, tmp_path / "small").exit_code == 2
    assert run("models", "quantize", tmp_path / "nowhere", tmp_path / "other").exit_code == 4


def test_a_store_is_moved_to_another_model_and_used_with_it(filled, db):
    assert filled("reembed").exit_code == filled("reembed", "minilm-static", "--give-up").exit_code == 2
    before = lines_of(filled("list", "--all-scopes", "--json"))
    told = filled("reembed", "minilm-static", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["model"] == "minilm-static"
    assert json.loads(told.stdout)["embedded"] >= len(before)
    with Memory(db) as memory:
        assert memory.stats().embedding.model == "minilm-static"
        assert memory.search("Fact number 3", user_id="ana")
    assert lines_of(filled("list", "--all-scopes", "--json")) == before
    assert filled("reembed", "minilm-static").stdout == "The store is of minilm-static; 0 texts were embedded.\n"
    assert filled("reembed", "--give-up").exit_code == 0
    assert filled("reembed", "no-such-model").exit_code != 0
    assert filled("check").stdout == "healthy\n"
    filled("reembed", "all-MiniLM-L6-v2")  # Kept as it was, for a later look.
