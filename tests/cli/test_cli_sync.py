"""`agentmem import --watch` and `--dry-run`: a folder in step with a store, and a look before."""

import json
import os

from agentmem import Memory
from tests.command_line import lines_of
from tests.transfer.test_formats import CLAUDE_CODE, TALK, in_lines, write


def texts_of(run) -> list[str]:
    return sorted(record["content"] for record in lines_of(run("list", "--user", "ana", "--json")))


def watched(run, folder, *more):
    result = run("import", "--watch", folder, "--user", "ana", "--count", 1, *more)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_changed_files_replace_their_memories_and_removed_ones_delete_them(run, tmp_path):
    folder = tmp_path / "notes"
    write(folder, "MEMORY.md", "- Likes tea\n- Bikes\n")
    write(folder, "s1.jsonl", in_lines(*CLAUDE_CODE))
    assert watched(run, folder) == "4 memories imported, 0 replaced, 0 deleted.\n"
    assert watched(run, folder) == ""
    write(folder, "MEMORY.md", "- Likes coffee\n- Bikes\n")
    assert watched(run, folder) == "1 memory imported, 0 replaced, 1 deleted.\n"
    assert texts_of(run) == sorted(["Likes coffee", "Bikes", *(text for _, text in TALK)])
    (folder / "MEMORY.md").unlink()
    assert json.loads(watched(run, folder, "--json"))["deleted"] == 2
    assert texts_of(run) == sorted(text for _, text in TALK)


def test_what_is_put_back_into_a_file_comes_back(db, tmp_path):
    from agentmem.cli.syncing import FolderSync

    folder = tmp_path / "notes"
    path = write(folder, "MEMORY.md", "- Likes tea\n- Bikes\n")
    write(folder, "broken.jsonl", '{"role": "user", "content": "hi"}\n{"role"\n')
    with Memory(db) as memory:
        sync = FolderSync(
            memory, str(folder), {"user_id": "ana"}, format=None, owners=("ana", None, None), on_conflict="error",
            on_error="skip", dedupe=False, defer=True, durability=None, progress=False, timeout=60.0,
        )  # fmt: skip
        first = sync.step()
        assert (first.imported, len(first.failed)) == (3, 1)
        assert "broken.jsonl, line 2" in first.failed[0]
        for text, imported, deleted in (("- Bikes\n", 0, 1), ("- Bikes\n- Likes tea\n", 1, 0)):
            path.write_text(text)
            os.utime(path, ns=(0, imported))
            step = sync.step()
            assert (step.imported, step.deleted) == (imported, deleted)
        assert memory.count(user_id="ana") == 3


def test_a_look_before_shows_what_would_be_stored_and_makes_no_store(run, db, tmp_path):
    path = write(tmp_path, "s1.jsonl", in_lines(*CLAUDE_CODE))
    told = run("import", path, "--user", "ana", "--dry-run")
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[:3] == [
        "Format: claude-code (1 file).", "Conversations: 1.", "Would be stored: 2 memories (assistant 1, user 1).",
    ]  # fmt: skip
    assert lines[3] == "Times: 2024-05-01 10:00:00 to 2024-05-01 10:00:02 UTC."
    assert any(line == "Note: texts of sub-agents, left out: 1." for line in lines)
    assert "  2024-05-01 10:00  user  I moved to Porto" in lines
    assert not db.exists()
    assert (
        json.loads(run("import", path, "--user", "ana", "--dry-run", "--json").stdout)["preview"]["conversations"] == 1
    )
    assert "sillytavern" in run("import", "--list-formats").stdout


def test_a_folder_is_watched_for_an_owner_alone(run, tmp_path):
    for arguments in (["--watch", tmp_path], ["--watch", tmp_path, "--user", "ana", "--dry-run"], []):
        assert run("import", *arguments).exit_code == 2


def test_a_bad_line_names_the_option_that_passes_over_it_and_an_unknown_file_does_not(run, tmp_path):
    bad = write(tmp_path, "bad.json", [{"messages": [{"role": "user", "content": "hi"}]}, {"messages": 5}])
    unknown = write(tmp_path, "unknown.json", {"a": 1})
    assert "--skip-bad" in run("import", bad, "--user", "ana").stderr
    told = run("import", unknown, "--user", "ana")
    assert told.exit_code == 2
    assert "name it with --format" in told.stderr
    assert "--skip-bad" not in told.stderr
