"""`agentmem export` and `agentmem import`."""

import gzip
import json
import os
import re
import signal

import pytest

from agentmem.cli.exit_codes import DONE, INTERRUPTED
from agentmem.progress import end_bars, with_progress
from tests.command_line import finished, jsonl, lines_of
from tests.mem0.test_migrate import point, write


def without_times(run, *arguments: object) -> list[dict]:
    listed = lines_of(run("list", "--all-scopes", "--all", "--order", "oldest", "--json", *arguments))
    return [{**record, "updated_at": None} for record in listed]


def test_what_is_exported_can_be_imported(filled, tmp_path):
    before = without_times(filled)
    file, copy = tmp_path / "all.jsonl.gz", tmp_path / "copy.db"
    told = filled("export", file, "--all-scopes", "--vectors")
    assert (told.exit_code, told.stdout) == (0, f"{file}: 6 memories.\n")
    assert filled("export", file, "--all-scopes").exit_code == 2
    again = filled("export", file, "--all-scopes", "--vectors", "--overwrite", "--json")
    assert json.loads(again.stdout) == {"path": str(file), "exported": 6}
    assert len(gzip.decompress(file.read_bytes()).splitlines()) == 7
    told = filled("import", file, "--db", copy)
    assert (told.exit_code, told.stdout) == (0, "6 memories imported.\n")
    assert without_times(filled, "--db", copy) == before
    told = json.loads(filled("import", file, "--db", copy, "--json").stdout)
    assert (told["imported"], told["skipped"], told["failed"]) == (0, 6, [])
    assert filled("check", copy).stdout == "healthy\n"


@pytest.mark.slow
def test_it_goes_through_pipes(filled, start, tmp_path):
    code, exported, stderr = finished(start("export", "--user", "ana", "--filter", '{"day": {"gte": 3}}'))
    assert (code, stderr) == (0, "3 memories exported.\n")
    records = [json.loads(line) for line in exported.splitlines()]
    assert [record["id"] for record in records[1:]] == ["m3", "m4", "m5"]
    copy = tmp_path / "copy.db"
    code, stdout, stderr = finished(start("import", "-", "--db", copy, "--rename", "user:ana=anna"), exported)
    assert (code, stdout, stderr) == (0, "3 memories imported.\n", "")
    assert filled("count", "--user", "anna", "--db", copy).stdout == "3\n"
    reader = start("export", "--user", "ana")
    reader.stdout.close()
    assert reader.stderr.read() == b""
    assert reader.wait(timeout=60) == 141


def test_nothing_to_export_or_import_exits_with_1(filled, tmp_path):
    told = filled("export", "--user", "nobody")
    assert (told.exit_code, told.stderr) == (1, "0 memories exported.\n")
    assert filled("import", "-", "--user", "ana", "--db", tmp_path / "new.db", stdin="").exit_code == 1


def test_chats_become_runs(run):
    chat = {"messages": [{"role": "user", "content": "I moved to Porto"}, {"role": "assistant", "content": "How nice"}]}
    told = run("import", "-", "--format", "openai", "--user", "ana", stdin=jsonl(chat))
    assert (told.exit_code, told.stdout) == (0, "2 memories imported.\n")
    records = lines_of(run("list", "--user", "ana", "--json"))
    assert len({record["run_id"] for record in records}) == 1
    assert records[0]["run_id"]


def test_bad_lines_stop_it_or_are_reported(run):
    stdin = jsonl("first", {"content": ""}, "third")
    stopped = run("import", "-", "--user", "ana", stdin=stdin)
    assert (stopped.exit_code, stopped.stdout) == (2, "")
    assert stopped.stderr.startswith("Error: Line 2: ")
    skipping = run("import", "-", "--user", "ana", "--skip-bad", stdin=stdin)
    assert (skipping.exit_code, skipping.stdout) == (0, "2 memories imported, 1 lines skipped.\n")
    assert skipping.stderr.startswith("Skipped line 2: ")
    told = run("import", "-", "--user", "ana", "--skip-bad", "--json", stdin=stdin)
    [failed] = json.loads(told.stdout)["failed"]
    assert failed["line"] == 2
    assert "blank" in failed["error"]


def test_a_conflict_is_decided(filled):
    other = jsonl({"id": "m1", "content": "Another text", "user_id": "ana"})
    assert filled("import", "-", stdin=other).exit_code == 2
    assert (
        filled("import", "-", "--on-conflict", "skip", stdin=other).stdout == "0 memories imported, 1 there already.\n"
    )
    assert filled("import", "-", "--on-conflict", "replace", stdin=other).stdout == "0 memories imported, 1 replaced.\n"
    assert lines_of(filled("get", "m1", "--json"))[0]["content"] == "Another text"


@pytest.mark.parametrize(
    "arguments",
    [["--rename", "ana=anna"], ["--rename", "user:ana"], ["--rename", "user:=anna"], ["--rename", "team:a=b"],
     ["--rename", "user:ana=anna", "--user", "ben"], ["--format", "pdf"], ["--on-conflict", "fight"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_makes_no_store(run, db, arguments):
    result = run("import", "-", *arguments, stdin='"text"\n')
    assert (result.exit_code, result.stdout) == (2, "")
    assert not db.exists()


@pytest.mark.slow
def test_an_interrupted_import_goes_on_where_it_was(run, start, tmp_path):
    texts = [f"text number {number}" for number in range(600)]
    file = tmp_path / "texts.jsonl"
    file.write_text(jsonl(*texts))
    process = start("import", file, "--user", "ana", "--progress")
    shown = b""
    while not re.search(rb"[1-9]\d* memories", shown):  # The first of them are on their way.
        shown += (read := os.read(process.stderr.fileno(), 4096))
        assert read, shown
    process.send_signal(signal.SIGINT)
    code, _, stderr = finished(process)
    assert code == 130
    assert stderr.endswith("Interrupted.\n")
    assert "Traceback" not in stderr
    told = json.loads(run("import", file, "--user", "ana", "--json").stdout)
    assert told["imported"] + told["skipped"] == 600
    assert told["imported"] > 0
    assert run("count", "--user", "ana").stdout == "600\n"


def test_what_mem0_stored_is_brought_once(run, tmp_path):
    folder, db = tmp_path / "qdrant", tmp_path / "brought.db"
    write(folder, point("00000000-0000-0000-0000-000000000001", "I drink tea"), b"no point")
    told = run("import-mem0", folder, "--db", db, "--json")
    said = json.loads(told.stdout)
    assert (told.exit_code, said["stored"], said["present"], len(said["failed"])) == (1, 1, 0, 1)
    assert run("search", "what do I drink?", "--user", "ana", "--db", db).stdout.count("I drink tea") == 1
    again = run("import-mem0", folder, "--db", db)
    assert again.stdout == "0 memories imported, 1 there already.\n"
    assert "was not imported" in again.stderr
    assert run("import-mem0", tmp_path / "nowhere").exit_code == 2


def test_a_bar_that_an_interrupt_tore_out_of_its_block_is_ended(capfd):
    from tqdm import tqdm

    left_open = with_progress(iter([1, 2, 3]), "memories")
    next(iter(left_open))
    end_bars()
    shown = capfd.readouterr().err
    assert "memories" in shown
    assert shown.endswith("\n")
    assert not list(tqdm._instances)


@pytest.mark.slow
def test_an_interrupt_never_aborts_the_process_that_it_ends(start, tmp_path):
    """A model run that no caller waits for any more ends before the process does."""
    file = tmp_path / "texts.jsonl"
    file.write_text(jsonl(*(f"text number {number}" for number in range(600))))
    for attempt in range(6):
        process = start("import", file, "--user", "ana", "--progress", "--db", tmp_path / f"{attempt}.db")
        shown = b""
        while not re.search(rb"[1-9]\d* memories", shown):
            shown += (read := os.read(process.stderr.fileno(), 4096))
            assert read, shown
        process.send_signal(signal.SIGINT)
        code, _, stderr = finished(process)
        assert code in (INTERRUPTED, -signal.SIGINT, DONE), stderr
