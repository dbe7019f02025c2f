"""The command line, through its real entry point."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from inspect import signature

import pytest
from click.testing import Result

from agentmem import Memory
from agentmem.cli.demo import QUESTIONS, conversation
from agentmem.cli.finding import search
from agentmem.cli.output import clip, escape, table, width
from agentmem.testing import HashEmbedder
from tests.command_line import ROOT, UUID, every_command, finished, jsonl, lines_of
from tests.forgery import forge

COMMANDS = [
    "add", "backup", "check", "completion", "count", "delete", "demo", "export", "flush", "get", "history",
    "import", "import-mem0", "list", "mcp", "models", "purge", "reembed", "repair", "reset", "restore",
    "search", "serve", "shell", "stats", "token", "update", "vacuum", "watch",
]  # fmt: skip


def contents(run) -> list[str]:
    return [
        record["content"] for record in lines_of(run("list", "--all-scopes", "--all", "--order", "oldest", "--json"))
    ]


def assert_one_sentence(result: Result, code: int) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert result.stderr.rstrip().endswith(".")


# -- add ----------------------------------------------------------------------------------------------------------


def test_an_added_text_is_found_and_its_id_is_printed(run):
    added = run("add", "Prefers window seats", "--user", "ana")
    assert added.exit_code == 0
    assert re.fullmatch(f"{UUID}\n", added.stdout)
    found = run("search", "where does she like to sit?", "--user", "ana")
    assert found.exit_code == 0
    assert re.fullmatch(rf"0\.\d\d  {UUID}  \d{{4}}-\d\d-\d\d  Prefers window seats\n", found.stdout)
    assert added.stdout.strip() in found.stdout


def test_every_field_of_a_text_can_be_given(run):
    result = run(
        "add", "Hates flying", "--user", "ana", "--agent", "desk", "--run", "r1", "--role", "user", "--id", "m1",
        "--metadata", '{"topic": "travel"}', "--created-at", "2020-01-02T03:04:05+01:00",
        "--expires-at", "2999-01-01T00:00:00Z", "--json",
    )  # fmt: skip
    [record] = lines_of(result)
    updated_at = datetime.fromisoformat(record.pop("updated_at"))
    assert datetime.now(UTC) - updated_at < timedelta(hours=1)
    assert record == {
        "id": "m1", "content": "Hates flying", "user_id": "ana", "agent_id": "desk", "run_id": "r1", "role": "user",
        "metadata": {"topic": "travel"}, "created_at": "2020-01-02T02:04:05+00:00",
        "expires_at": "2999-01-01T00:00:00+00:00",
    }  # fmt: skip
    assert run("list", "--agent", "desk", "--json").stdout.count("Hates flying") == 1


def test_the_same_text_is_stored_once_when_asked(run):
    first = run("add", "Is allergic to nuts", "--user", "ana", "--dedupe").stdout
    assert run("add", "Is allergic to nuts", "--user", "ana", "--dedupe").stdout == first
    several = run("add", "-", "--user", "ana", "--dedupe", stdin=jsonl("Is allergic to nuts", "Has a cat", "Has a cat"))
    assert several.stdout == "3 memories stored or there already.\n"
    assert contents(run) == ["Is allergic to nuts", "Has a cat"]


def test_json_lines_may_be_texts_items_and_messages(run):
    items = jsonl(
        "Drinks tea",
        {"content": "Drinks coffee", "user_id": "ben", "metadata": {"n": 1}, "created_at": "2020-01-01T00:00:00Z"},
        {"role": "user", "content": "I am Ana", "name": "Ana"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "image_url"}, {"type": "text", "text": "two"}],
        },
    )  # fmt: skip
    result = run("add", "-", "--user", "ana", "--metadata", '{"from": "file"}', "--json", stdin="\n" + items)
    assert [(each["content"], each["user_id"], each["role"], each["metadata"]) for each in lines_of(result)] == [
        ("Drinks tea", "ana", None, {"from": "file"}),
        ("Drinks coffee", "ben", None, {"n": 1}),
        ("I am Ana", "ana", "user", {"from": "file", "name": "Ana"}),
        ("one\ntwo", "ana", "user", {"from": "file"}),
    ]
    assert lines_of(result)[1]["created_at"] == "2020-01-01T00:00:00+00:00"


def test_a_transcript_is_an_array_of_messages(run, tmp_path):
    messages = [{"role": "user", "content": "I moved to Porto"}, {"role": "assistant", "content": "Congratulations!"}]
    file = tmp_path / "chat.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(messages, indent=2).encode())
    result = run("add", "--file", file, "--user", "ana")
    assert (result.exit_code, result.stdout) == (0, "2 memories stored.\n")
    assert contents(run) == ["I moved to Porto", "Congratulations!"]


def test_what_list_prints_is_what_add_reads(run, db):
    run("add", "-", "--user", "ana", stdin=jsonl("one", {"content": "two", "id": "m2", "role": "user", "run_id": "r"}))
    before = run("list", "--user", "ana", "--json").stdout
    db.rename(db.with_name("old.db"))
    assert run("add", "-", stdin=before).exit_code == 0
    without = [{**each, "updated_at": None} for each in lines_of(run("list", "--user", "ana", "--json"))]
    assert without == [{**json.loads(line), "updated_at": None} for line in before.splitlines()]


BAD_LINES = {
    b"not json": "column 1 is not JSON",
    b'"\xff"': "0xff is not UTF-8",
    b"[1]": "neither a text nor an object",
    b'{"content": "x", "colour": 1}': "unknown field 'colour'",
    b'{"content": " "}': "blank",
    b'{"content": "x", "created_at": "2020-01-01T00:00:00"}': "with an offset",
    b'{"content": "x", "expires_at": 17}': "with an offset",
    b'"\\ud800"': "lone surrogate",
    b'{"content": "x", "id": "taken"}': "is taken",
    b"[" * 100_000: "not",
    b'{"content": "x", "metadata": {"n": ' + b"9" * 5000 + b"}}": "cannot be read",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda bad: bad[:20].decode("latin-1"))
def test_a_bad_line_stops_with_its_number_and_what_stands_before_it_is_stored(run, bad):
    stdin = b'{"content": "first", "id": "taken"}\n\n"second"\n' + bad + b'\n"after"\n'
    result = run("add", "-", "--user", "ana", stdin=stdin)
    assert result.exit_code == 2
    assert "Error: Line 4: " in result.stderr
    assert BAD_LINES[bad] in result.stderr
    assert "Stored: 2 memories, up to line 3." in result.stderr
    assert result.stdout == ""
    assert contents(run) == ["first", "second"]


def test_skipped_lines_are_reported_and_the_others_are_stored(run):
    stdin = b'"first"\n' + b"\n".join(BAD_LINES) + b'\n"after"\n'
    stdin = stdin.replace(b'"first"', b'{"content": "first", "id": "taken"}')
    result = run("add", "-", "--user", "ana", "--skip-bad", stdin=stdin)
    assert result.exit_code == 0
    assert result.stdout == f"2 memories stored, {len(BAD_LINES)} lines skipped.\n"
    skipped = re.findall(r"^Skipped line (\d+): (.*)$", result.stderr, re.M)
    assert [int(number) for number, _ in skipped] == list(range(2, 2 + len(BAD_LINES)))
    assert all(said in message for (_, message), said in zip(skipped, BAD_LINES.values(), strict=True))
    assert contents(run) == ["first", "after"]


def test_a_bad_member_of_an_array_is_named_by_its_line(run):
    stdin = '[\n  {"role": "user", "content": "one"},\n\n  {"role": "user",\n   "content": 5},\n  "three"\n]\n'
    result = run("add", "-", "--user", "ana", stdin=stdin)
    assert result.exit_code == 2
    assert "Error: Line 4: content is 5" in result.stderr
    assert contents(run) == ["one"]


def test_an_array_that_is_not_json_is_refused_whole(run):
    result = run("add", "-", "--user", "ana", stdin='[\n  "one",\n  "two",\n  oops\n]\n')
    assert result.exit_code == 2
    assert "Error: Line 4: column 3 is not JSON" in result.stderr
    assert run("list", "--user", "ana").exit_code == 1


def test_a_bad_line_far_into_a_file_leaves_exactly_what_stands_before_it(run):
    texts = [f"memory {number % 7}" for number in range(600)]
    stdin = jsonl(*texts[:400], {"content": ""}, *texts[400:])
    result = run("add", "-", "--user", "ana", stdin=stdin)
    assert "Error: Line 401: " in result.stderr
    assert contents(run) == texts[:400]


def test_an_owner_that_neither_the_line_nor_the_options_name_is_a_bad_line(run):
    result = run("add", "-", stdin=jsonl({"content": "one", "user_id": "ana"}, "two"))
    assert result.exit_code == 2
    assert "Line 2: No owner was given" in result.stderr


def test_deferred_memories_are_found_by_the_next_search(run):
    assert (
        run(
            "add", "-", "--user", "ana", "--defer", stdin=jsonl("Prefers window seats", "Is allergic to nuts")
        ).exit_code
        == 0
    )
    assert run("add", "Plays the cello", "--user", "ana", "--defer").exit_code == 0
    assert len(run("search", "cello", "--user", "ana").stdout.splitlines()) == 3
    assert json.loads(run("stats", "--json").stdout)["pending"] == 0


def test_an_empty_input_stores_nothing_and_says_so(run):
    result = run("add", "-", "--user", "ana", stdin="\n\n")
    assert (result.exit_code, result.stdout) == (1, "0 memories stored.\n")


# -- search and list ----------------------------------------------------------------------------------------------


def test_a_search_takes_filters_limits_and_thresholds(filled):
    found = lines_of(filled("search", "fact", "--user", "ana", "--filter", '{"day": {"gte": 4}}', "--json"))
    assert sorted(match["record"]["id"] for match in found) == ["m4", "m5"]
    assert all(0 < match["score"] <= 1 and match["explanation"] is None for match in found)
    assert len(lines_of(filled("search", "fact", "--user", "ana", "--limit", "2", "--json"))) == 2
    assert len(lines_of(filled("search", "secret", "--all-scopes", "--json"))) == 6
    nothing = filled("search", "fact", "--user", "ana", "--threshold", "1")
    assert (nothing.exit_code, nothing.output) == (1, "")


def test_a_search_takes_every_argument_of_the_call(run):
    taken = {parameter.name for parameter in search.params}
    assert set(signature(Memory.search).parameters) - {"self"} <= taken


def test_a_search_leaves_out_what_is_hardly_an_answer_and_compares_one_half(run):
    run("add", "Prefers window seats", "--user", "ana")
    run("add", "The boiler was repaired", "--user", "ana")
    asked = ("search", "window seats", "--user", "ana", "--json")
    assert [match["record"]["content"] for match in lines_of(run(*asked, "--relevant-only"))] == [
        "Prefers window seats"
    ]
    for effort in ("fast", "full"):
        found = lines_of(run(*asked, "--explain", "--effort", effort))
        assert [match["explanation"]["half"] for match in found] == [effort, effort]
    assert run(*asked, "--effort", "half").exit_code == 2


def test_times_bound_searches_listings_and_deletions(filled):
    days = ["--between", "2026-01-02T12:00:00Z..2026-01-04T12:00:00Z", "--json"]
    assert sorted(match["record"]["id"] for match in lines_of(filled("search", "fact", "--user", "ana", *days))) == [
        "m2", "m3"
    ]  # fmt: skip
    assert [record["id"] for record in lines_of(filled("list", "--user", "ana", *days))] == ["m3", "m2"]
    from_the_fourth = ["--between", "2026-01-04T12:00:00Z.."]
    assert [record["id"] for record in lines_of(filled("list", "--user", "ana", *from_the_fourth, "--json"))] == [
        "m5", "m4"
    ]  # fmt: skip
    before_the_third = ["--between", "..2026-01-03T13:00:00+01:00"]
    assert filled("delete", "--all", "--user", "ana", *before_the_third, "--yes").stdout == "2 memories deleted.\n"


def test_what_expires_is_gone_and_shown_when_asked_for(filled, clock):
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    filled("add", "Parked on level 3", "--user", "ana", "--id", "p1", "--ttl", "90.5")
    filled("add", "-", "--user", "ana", "--ttl", "90", stdin=jsonl("In room 7", {"content": "At 8", "ttl": 3600}))
    assert filled("list", "--user", "ana", "--json").stdout.count("2026-03-01T00:01:30") == 2
    clock.wait(100)
    assert filled("list", "--user", "ana", "--filter", '{"id": "p1"}').exit_code == 1
    [shown] = lines_of(filled("list", "--user", "ana", "--filter", '{"id": "p1"}', "--show-expired", "--json"))
    assert shown["expires_at"] == "2026-03-01T00:01:30.500000+00:00"
    assert "Parked" not in filled("search", "parked on level 3", "--user", "ana").stdout
    assert "Parked" in filled("search", "parked on level 3", "--user", "ana", "--show-expired").stdout
    assert "At 8" in filled("list", "--user", "ana").stdout


def test_what_was_known_then_is_searched_and_listed(filled, clock):
    clock.now = datetime(2200, 1, 1, tzinfo=UTC)
    filled("delete", "m1")
    filled("add", "Fact number 6", "--user", "ana", "--id", "m6")
    then = ["--as-of", "2199-12-31T23:59:59Z", "--json"]
    listed = [record["id"] for record in lines_of(filled("list", "--user", "ana", *then))]
    assert listed == ["m5", "m4", "m3", "m2", "m1"]
    assert len(lines_of(filled("search", "fact", "--user", "ana", *then))) == 5
    then[1] = "2200-01-01T01:00:00Z"
    listed = [record["id"] for record in lines_of(filled("list", "--user", "ana", *then))]
    assert listed == ["m6", "m5", "m4", "m3", "m2"]
    assert filled("list", "--user", "ana", "--as-of", "2000-01-01T00:00:00Z").exit_code == 1


def test_a_search_explains_itself_when_asked(filled):
    result = filled("search", "fact number 3", "--user", "ana", "--limit", "1", "--explain")
    line, explanation = result.stdout.splitlines()
    assert line.endswith("Fact number 3")
    assert re.fullmatch(
        r"      = 0\.\d\d words \(fact, number, 3\) \+ 0\.40 vector \(cosine 1\.00\); hybrid, exact, 5 candidates",
        explanation,
    )
    [match] = lines_of(filled("search", "fact", "--user", "ana", "--limit", "1", "--explain", "--json"))
    parts = ("keyword", "vector", "neighbours", "prior", "window", "recency", "importance")
    assert sum(match["explanation"][part] for part in parts) == pytest.approx(match["score"])


def test_many_queries_are_asked_at_once(filled, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text("fact number 3\n\nsecret\r\n" + "number 5\n" * 300)
    told = lines_of(filled("search", "--file", file, "--user", "ana", "--limit", "1", "--json"))
    assert [each["query"] for each in told] == ["fact number 3", "secret", *["number 5"] * 300]
    one = lines_of(filled("search", "fact number 3", "--user", "ana", "--limit", "1", "--json"))
    assert told[0]["matches"] == one
    assert told[1]["matches"] == lines_of(filled("search", "secret", "--user", "ana", "--limit", "1", "--json"))
    assert {each["matches"][0]["record"]["id"] for each in told[2:]} == {"m5"}
    shown = filled(
        "search", "--file", "-", "--user", "ana", "--limit", "1", "--explain", stdin="fact number 3\nnumber 5"
    )
    lines = shown.stdout.splitlines()
    assert (lines[0], lines[3]) == ("fact number 3", "number 5")
    assert re.fullmatch(r"  [01]\.\d\d  m3  2026-01-03  Fact number 3", lines[1])
    assert lines[2].startswith("        = ")
    assert filled("search", "--file", "-", "--user", "nobody", stdin="fact\n").exit_code == 1
    bad = filled("search", "--file", "-", "--user", "ana", stdin=b"fact\n\xff\n")
    assert_one_sentence(bad, 2)
    assert "Line 2: " in bad.stderr


def test_a_search_never_shows_another_owner(filled):
    assert filled("search", "secret", "--user", "ana").stdout.count("secret") == 0
    assert filled("search", "secret", "--user", "ana", "--agent", "x").exit_code == 1


def test_a_listing_goes_page_by_page_in_order(filled):
    seen, after = [], []
    for _ in range(3):
        page = filled("list", "--user", "ana", "--limit", "2", "--json", *after)
        seen += [record["id"] for record in lines_of(page)]
        named = re.fullmatch(r"There are more: (--after) (\S+)\n", page.stderr)
        after = list(named.groups()) if named else []
    assert seen == ["m5", "m4", "m3", "m2", "m1"]
    assert after == []
    everything = filled("list", "--user", "ana", "--all", "--limit", "2", "--order", "oldest", "--json")
    assert [record["id"] for record in lines_of(everything)] == seen[::-1]
    assert everything.stderr == ""


def test_a_listing_names_the_owner_only_across_owners(filled):
    assert filled("list", "--user", "ana", "--filter", '{"day": 1}').stdout == "m1  2026-01-01  Fact number 1\n"
    everyone = filled("list", "--all-scopes", "--filter", '{"user_id": "ben"}').stdout
    assert re.fullmatch(r"b1  \d{4}-\d\d-\d\d  user=ben  Ben's own secret\n", everyone)


def test_a_listing_of_nothing_exits_with_1(filled):
    result = filled("list", "--user", "nobody")
    assert (result.exit_code, result.output) == (1, "")


# -- history, delete, stats, check --------------------------------------------------------------------------------


def test_the_history_tells_every_event(filled, db):
    with Memory(db) as memory:
        memory.update("m1", "Fact number one", metadata={"day": 8})
    filled("delete", "m1")
    lines = filled("history", "m1").stdout.splitlines()
    assert [re.sub(r"^\d+  \S+ \S+Z  ", "", line).split(maxsplit=1) for line in lines] == [
        ["add", 'Fact number 1  {"day": 1}'],
        ["update", 'Fact number one  {"day": 8}'],
        ["delete"],
    ]
    events = lines_of(filled("history", "m1", "--json"))
    assert [event["what"] for event in events] == ["add", "update", "delete"]
    assert events[1]["before"]["content"] == "Fact number 1"
    unknown = filled("history", "m99")
    assert (unknown.exit_code, unknown.stderr) == (1, "There never was a memory 'm99'.\n")


def test_deleting_by_id_names_what_is_missing(filled):
    assert filled("delete", "m1", "m2", "--dry-run").stdout == "2 memories would be deleted.\n"
    result = filled("delete", "m1", "m99", "m1")
    assert (result.exit_code, result.stdout) == (1, "1 memory deleted.\n")
    assert result.stderr == "There is no memory 'm99' to delete.\n"
    again = filled("delete", "m1", "m2", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (1, {"deleted": 1, "missing": ["m1"], "dry_run": False})
    assert filled("delete", "m3").exit_code == 0
    assert filled("delete", "m4", "--user", "ben").exit_code == 1
    assert filled("list", "--user", "ana", "--filter", '{"id": ["m1", "m2", "m3", "m4"]}').stdout.startswith("m4 ")


def test_deleting_all_of_an_owner_needs_a_yes_and_spares_the_others(filled):
    asked = filled("delete", "--all", "--user", "ana")
    assert asked.exit_code == 2
    assert "would delete 5 memories; pass --yes" in asked.stderr
    dry = filled("delete", "--all", "--user", "ana", "--filter", '{"day": {"lt": 3}}', "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"deleted": 2, "missing": [], "dry_run": True}
    assert len(contents(filled)) == 6
    assert filled("delete", "--all", "--user", "ana", "--yes").stdout == "5 memories deleted.\n"
    assert contents(filled) == ["Ben's own secret"]
    assert filled("delete", "--all", "--user", "ana", "--yes").exit_code == 1


@pytest.mark.slow
def test_a_terminal_is_asked_before_all_is_deleted(filled, start):
    for answer, left, code in (("n", 6, 1), ("y", 1, 0)):
        controller, terminal = pty.openpty()
        process = start("delete", "--all", "--user", "ana", stdin=terminal)
        os.write(controller, f"{answer}\n".encode())
        _, stderr = process.communicate(timeout=30)
        os.close(controller)
        os.close(terminal)
        assert b"Delete 5 memories? [y/N]" in stderr
        assert process.returncode == code
        assert len(contents(filled)) == left


def test_the_stats_count_what_is_stored(filled, db):
    filled("delete", "m1")
    told = json.loads(filled("stats", "--json").stdout)
    assert told.pop("bytes") > 10_000
    assert told.pop("log_bytes") >= 0
    assert datetime.now(UTC) - datetime.fromisoformat(told.pop("changed_at")) < timedelta(hours=1)
    assert told == {
        "path": str(db), "memories": 5, "deleted": 1, "vectors": 6, "pending": 0, "pending_seconds": 0.0,
        "pending_failed": 0, "users": 2, "agents": 0, "runs": 0, "changes": 7,
    }  # fmt: skip
    assert re.search(r"^memories +5$", filled("stats").stdout, re.M)


def test_a_healthy_store_is_called_healthy(filled):
    assert (filled("check").exit_code, filled("check").stdout) == (0, "healthy\n")
    assert json.loads(filled("check", "--json").stdout) == {"healthy": True, "problems": []}


def test_an_unhealthy_store_is_told_and_exits_with_1(filled, db):
    forge(db, "UPDATE memory SET content = replace(content, 'Fact', 'Lies') WHERE id = 'm3'")
    result = filled("check")
    assert result.exit_code == 1
    problems = [
        "memory 'm3' points to the vector of another text or owner.",
        "memory 'm3' is not found by its words: its terms are not those of its text.",
        "memory 'm3' is not found by its text: its twin is that of another text or scope.",
    ]
    assert result.stdout.splitlines() == problems
    assert json.loads(filled("check", "--json").stdout) == {"healthy": False, "problems": problems}
    forge(db, "UPDATE memory SET content = replace(content, 'Lies', 'Fact') WHERE id = 'm3'")


def test_the_store_of_any_embedder_is_checked_listed_and_copied(run, db, tmp_path):
    with Memory(db, embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana", id="m1")
        memory.add("coffee", user_id="ana", defer=True)
    assert run("check", db, "--db", "elsewhere.db").stdout == "healthy\n"
    assert "tea" in run("list", "--user", "ana").stdout
    assert run("history", "m1").exit_code == run("stats").exit_code == run("delete", "m1").exit_code == 0
    assert_one_sentence(run("search", "tea", "--user", "ana"), 4)
    copy = tmp_path / "copy.db"
    result = run("backup", db, copy)
    assert (result.exit_code, result.stdout) == (0, f"{copy}: {copy.stat().st_size:,} bytes.\n")
    assert_one_sentence(run("backup", db, copy), 2)
    assert_one_sentence(run("backup", db, db, "--overwrite"), 2)
    assert_one_sentence(run("backup", tmp_path / "no.db", copy), 3)
    told = json.loads(run("backup", db, copy, "--overwrite", "--json").stdout)
    assert told == {"path": str(copy), "bytes": copy.stat().st_size}
    assert run("check", copy).stdout == "healthy\n"
    db.unlink()


def test_what_is_purged_is_gone_and_nothing_is_without_a_yes(filled, db):
    filled("delete", "m2")
    for arguments in (["m1"], ["--all", "--user", "ana"], ["m1", "--json"]):
        assert_one_sentence(filled("purge", *arguments), 2)
    result = filled("purge", "m1", "m2", "m1", "no-such", "--yes")
    assert (result.exit_code, result.stdout) == (1, "2 memories erased.\n")
    assert "There is no memory 'no-such' to erase." in result.stderr
    assert filled("history", "m1").exit_code == 1
    assert b"Fact number 1" not in db.read_bytes()
    assert json.loads(filled("purge", "m3", "--user", "nobody", "--yes", "--json").stdout)["missing"] == ["m3"]
    assert filled("purge", "m3", "--yes").exit_code == 0
    told = json.loads(filled("purge", "--all", "--user", "ana", "--yes", "--json").stdout)
    assert told["missing"] == []
    assert told["purged"] >= 1
    assert filled("purge", "--all", "--user", "ana", "--yes").exit_code == 1
    assert filled("list", "--user", "ana").exit_code == 1
    assert b"Fact number" not in db.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["terms", "page", "header", "none"])
def test_a_damaged_store_is_repaired_by_its_path(run, db, tmp_path, damage):
    with Memory(db, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text number {number} " + "word " * 30 for number in range(300)], user_id="ana")
    whole = bytearray(db.read_bytes())
    page = whole.index(b"text number 150 ") // 4096 * 4096
    ranges = {"terms": (0, 0), "page": (page, page + 4096), "header": (0, 100), "none": (0, 0)}
    start, end = ranges[damage]
    whole[start:end] = os.urandom(end - start)
    db.write_bytes(whole)
    if damage == "terms":
        forge(db, "UPDATE memory SET content = replace(content, 'text', 'Text') WHERE key = 18")
    assert run("check", db).exit_code == (damage != "none")
    result = run("repair", db, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["healthy"]) == (damage in ("page", "header"), True)
    if damage == "terms":
        assert any("its text is not the one it was stored with" in each for each in told["done"])
    assert (told["done"] == []) == (damage == "none")
    count = len(run("list", "--user", "ana", "--all").stdout.splitlines())
    assert count < 300 if damage == "page" else count == 300
    assert count > 250
    kept = [each for each in tmp_path.glob("agent.db.damaged-*") if not each.name.endswith("-wal")]
    assert len(kept) == (damage in ("page", "header"))
    assert all(each.read_bytes() == whole for each in kept)
    assert not list(tmp_path.glob("*unfinished*")) + list(tmp_path.glob("*salvaged*"))
    assert run("repair", "--db", db).stdout == "healthy; nothing to mend\n"
    with Memory(db, embedder=HashEmbedder()) as memory:
        assert memory.search("text number 299", user_id="ana", mode="vector")[0].record.content.startswith(
            "text number 299 "
        )
        memory.flush()
        assert memory.check() == []
    db.unlink()


# -- get, count, update, restore, flush, reset -----------------------------------------------------------------------


def test_a_memory_is_shown_with_every_field_it_has(filled):
    told = filled("get", "m1").stdout
    assert re.fullmatch(
        r'id +m1\ncontent +Fact number 1\nuser +ana\nmetadata +\{"day": 1\}\ncreated +2026-01-01 12:00:00Z\n'
        r"updated +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\n",
        told,
    )
    several = filled("get", "m1", "m99", "b1", "--json")
    assert (several.exit_code, several.stderr) == (1, "There is no memory 'm99' to show.\n")
    assert [record["id"] for record in lines_of(several)] == ["m1", "b1"]
    assert filled("get", "b1", "--user", "ana").exit_code == 1
    filled("delete", "m1")
    assert filled("get", "m1").exit_code == 1
    assert filled("get", "m2", "--as-of", "2000-01-01T00:00:00Z").exit_code == 1


def test_memories_are_counted_as_they_are_listed(filled):
    assert filled("count", "--user", "ana").stdout == "5\n"
    assert json.loads(filled("count", "--all-scopes", "--json").stdout) == {"count": 6}
    assert filled("count", "--user", "ana", "--filter", '{"day": {"lt": 3}}').stdout == "2\n"
    assert filled("count", "--user", "ana", "--between", "2026-01-04T00:00:00Z..").stdout == "2\n"
    nothing = filled("count", "--user", "nobody")
    assert (nothing.exit_code, nothing.stdout) == (0, "0\n")


def test_a_memory_gets_a_new_version(filled):
    assert filled("update", "m1", "Fact number one", "--metadata", '{"sure": true}').stdout == "m1\n"
    [record] = lines_of(filled("get", "m1", "--json"))
    assert (record["content"], record["metadata"]) == ("Fact number one", {"day": 1, "sure": True})
    [record] = lines_of(filled("update", "m1", "--metadata", "{}", "--replace-metadata", "--json"))
    assert (record["content"], record["metadata"]) == ("Fact number one", {})
    piped = filled("update", "m1", "-", "--ttl", "3600", "--user", "ana", "--json", stdin="Fact one\nand two\n")
    [record] = lines_of(piped)
    assert record["content"] == "Fact one\nand two"
    assert record["expires_at"] is not None
    assert lines_of(filled("update", "m1", "--never-expires", "--json"))[0]["expires_at"] is None
    assert "Fact one" in filled("search", "one and two", "--user", "ana").stdout
    for wrong in (["m99", "x"], ["m1"], ["m1", "x", "--user", "ben"], ["m1", " "], ["m1", "--ttl", "0"]):
        assert_one_sentence(filled("update", *wrong), 2)
    assert filled("update", "m1", "--ttl", "3", "--never-expires").exit_code == 2


def test_what_was_deleted_comes_back(filled):
    filled("delete", "m1", "m2")
    assert filled("restore", "m1", "m99", "m1").stdout == "m1\n"
    assert filled("restore", "m99").stderr == "There is no memory 'm99' to restore.\n"
    [record] = lines_of(filled("restore", "m2", "--user", "ana", "--json"))
    assert record["content"] == "Fact number 2"
    assert filled("restore", "b1", "--user", "ana").exit_code == 1
    assert filled("count", "--user", "ana").stdout == "5\n"


def test_what_was_deferred_is_embedded_when_asked(run, db):
    with Memory(db, model=None) as memory:
        for number in range(3):
            memory.add(f"put off {number}", user_id="ana" if number else "ben", defer=True)
    with Memory(db, model=None) as memory:
        assert memory.stats().store.pending == 3
    told = run("flush", "--json")
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"embedded": 3, "pending": 0, "failed": 0})
    assert run("flush", db, "--user", "ana").stdout == "0 memories embedded.\n"


def test_everything_is_erased_after_a_yes(filled, db):
    filled("delete", "m1")
    refused = filled("reset")
    assert refused.exit_code == 2
    assert "This would erase all 6 memories" in refused.stderr
    told = filled("reset", db, "--yes", "--json")
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"purged": 6})
    assert b"Fact number" not in db.read_bytes()
    assert b"secret" not in db.read_bytes()
    assert filled("count", "--all-scopes").stdout == "0\n"
    again = filled("reset")
    assert (again.exit_code, again.stdout) == (1, "0 memories erased.\n")
    assert filled("add", "A new beginning", "--user", "ana").exit_code == 0


def test_lines_and_whole_inputs_may_be_texts(run):
    told = run("add", "-", "--format", "lines", "--user", "ana", stdin="\ufefffirst \n\n  \nsecond\r\n")
    assert (told.exit_code, told.stdout) == (0, "2 memories stored.\n")
    note = "A heading\n\nand a paragraph\n"
    assert run("add", "-", "--format", "text", "--user", "ana", "--id", "note", stdin=note).stdout == "note\n"
    assert contents(run) == ["first ", "second", "A heading\n\nand a paragraph"]
    bad = run("add", "-", "--format", "lines", "--user", "ana", stdin=b"good\n\xff\n")
    assert (bad.exit_code, "Line 2: byte 0xff is not UTF-8" in bad.stderr) == (2, True)
    whole = run("add", "-", "--format", "text", "--user", "ana", stdin=b"good\n\xff\n")
    assert_one_sentence(whole, 2)
    assert "Line 2: byte 0xff is not UTF-8" in whole.stderr
    assert "heading" in run("search", "-", "--user", "ana", "--limit", "1", stdin="heading, paragraph\n").stdout


# -- usage and errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["search", "q", "--user", "a"],
        ["list", "--user", "a"],
        ["history", "m"],
        ["delete", "m"],
        ["stats"],
        ["check"],
        ["repair"],
        ["get", "m"],
        ["count", "--user", "a"],
        ["update", "m", "x"],
        ["restore", "m"],
        ["purge", "m", "--yes"],
        ["reset", "--yes"],
        ["flush"],
        ["vacuum"],
        ["watch"],
        ["shell", "--user", "a"],
    ],
    ids=lambda command: command[0],
)
def test_reading_where_nothing_is_makes_no_store(run, db, command):
    result = run(*command)
    assert_one_sentence(result, 3)
    assert f"There is no store at {str(db)!r}" in result.stderr
    assert list(db.parent.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["add"], ["add", "x"], ["add", "x", "--file", __file__, "--user", "a"], ["add", "--file", "/no/file"],
        ["add", "-", "--id", "m", "--user", "a"],
        ["add", "x", "--user", "a", "--metadata", "{"], ["add", "x", "--user", "a", "--metadata", "[]"],
        ["add", "x", "--user", "a", "--created-at", "yesterday"],
        ["add", "x", "--user", "a", "--created-at", "2026-01-01T00:00:00"], ["add", "x", "--colour", "red"],
        ["add", "x", "--user", "a", "--ttl", "soon"],
        ["list", "--user", "a", "--between", "2026-01-01T00:00:00Z"], ["list", "--user", "a", "--between", "May..June"],
        ["search", "q", "--user", "a", "--between", "2026-01-01T00:00:00.."], ["delete", "m", "--between", ".."],
        ["list", "--user", "a", "--as-of", "then"],
        ["search", "q"], ["search", "--user", "a"], ["search", "q", "--user", "a", "--all-scopes"],
        ["search", "q", "--file", "-", "--user", "a"], ["search", "q", "--user", "a", "--limit", "0"],
        ["search", "q", "--user", "a", "--threshold", "2"], ["search", "q", "--user", "a", "--filter", "3"],
        ["list"], ["list", "--user", "a", "--order", "random"], ["delete"], ["delete", "--all"],
        ["delete", "m", "--all", "--user", "a"], ["delete", "m", "--filter", '{"a": 1}'], ["history"],
        ["backup"], ["backup", "a.db"],
        ["purge"], ["purge", "--all"], ["purge", "m", "--all", "--user", "a"],
        ["stats", "--db", ":memory:"], ["remember"], [], ["get"], ["count"], ["update"], ["restore"], ["shell"],
        ["watch", "--interval", "0"], ["watch", "--count", "0"], ["completion"], ["flush", "--timeout", "soon"],
        ["vacuum", "--deleted-before", "soon"], ["vacuum", "--deleted-before", "30y"], ["vacuum", "--db", ":memory:"],
        ["reset", "--db", ":memory:", "--yes"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_exits_with_2_and_makes_no_store(run, db, command):
    result = run(*command)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not db.exists()


@pytest.mark.parametrize(
    "command",
    [["search", "q", "--user", "ana", "--filter", '{"day": {"above": 1}}'], ["list", "--user", "ana", "--after", "x"],
     ["add", "x", "--user", "ana", "--id", "m1"], ["search", " ", "--user", "ana"], ["add", "x", "--user", ""],
     ["add", " ", "--user", "ana"], ["add", "x", "--user", "ana", "--ttl", "0"],
     ["add", "x", "--user", "ana", "--ttl", "5", "--expires-at", "2200-01-01T00:00:00Z"],
     ["list", "--user", "ana", "--between", "2026-02-01T00:00:00Z..2026-01-01T00:00:00Z"]],
    ids=" ".join,
)  # fmt: skip
def test_input_that_the_memory_refuses_exits_with_2_and_one_sentence(filled, command):
    assert_one_sentence(filled(*command), 2)


def test_a_store_that_cannot_be_opened_exits_with_3(run, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at as one " * 20)
    assert_one_sentence(run("list", "--user", "ana", "--db", text), 3)
    assert_one_sentence(run("check", "--db", tmp_path), 3)
    assert_one_sentence(run("add", "x", "--user", "ana", "--db", tmp_path / "no" / "agent.db"), 3)


def test_a_model_that_is_not_there_exits_with_4(filled):
    assert_one_sentence(filled("search", "q", "--user", "ana", "--model", "no-such-model"), 4)


def test_the_help_names_every_command_and_option(run):
    told = run("--help").stdout
    assert [line.split()[0] for line in told.partition("Commands:\n")[2].splitlines()] == COMMANDS
    for name in every_command():
        assert run(*name.split(), "--help").exit_code == 0
    assert re.fullmatch(r"agentmem, version \d+\.\d+\.\d+\n", run("--version").stdout)


def test_the_help_imports_neither_the_database_nor_the_model():
    program = (
        "import sys; from agentmem.cli import main\n"
        "try: main(['--help'])\n"
        "finally: heavy = {'numpy', 'apsw', 'onnxruntime', 'tokenizers', 'tqdm', 'numkong'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- the terminal -------------------------------------------------------------------------------------------------


def test_contents_cannot_play_with_the_terminal(run):
    nasty = "red \x1b[31m bell \x07 back \x08 csi \x9b2J line\nturned \u202eright\u2066 nel \x85 sep \u2028 end"
    run("add", "-", "--user", "\x1b[2Jana", stdin=jsonl({"content": nasty, "id": "\x1b]0;x\x07m"}))
    for command in (["list"], ["search", "red"]):
        for options in ([], ["--json"]):
            shown = run(*command, "--all-scopes", *options).stdout
            assert len(shown.splitlines()) == 1
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\u2066]", shown), shown
    assert "line\\nturned \\u202eright\\u2066 nel \\x85 sep \\u2028" in run("list", "--all-scopes").stdout
    assert contents(run) == [nasty]
    deleted = run("delete", "\x1b[2J")
    assert "\x1b" not in deleted.stderr


@pytest.mark.parametrize("columns", [10, 40, 60, 80, 200])
def test_lines_fit_the_terminal(run, columns):
    texts = ["A plain text " * 12, "日本語の長い文章です。" * 12, "family 👩‍👩‍👧 and flags 🇵🇹 " * 12, "short"]
    run("add", "-", "--user", "日本の利用者", stdin=jsonl(*texts))
    for command in (["list"], ["search", "text"]):
        lines = run(*command, "--all-scopes", columns=columns).stdout.splitlines()
        assert len(lines) == 4
        assert all(width(line) <= columns for line in lines)
        assert sum("…" in line for line in lines) >= 3
        assert all(
            "…" not in line for line in run(*command, "--all-scopes", "--full", columns=columns).stdout.splitlines()
        )
    assert "…" not in run("list", "--user", "日本の利用者").stdout


def test_columns_stand_below_each_other_whatever_is_in_them():
    lines = list(table([["a", "x", "one"], ["日本", "é", "two"], ["👍", "yes", "three"]], None))
    assert lines == ["a     x    one", "日本  é    two", "👍    yes  three"]
    assert [width(line[: line.index(word)]) for line, word in zip(lines, ["one", "two", "three"], strict=True)] == [
        11
    ] * 3


def test_widths_are_those_of_the_terminal():
    assert [width(text) for text in ("abc", "日本", "e\u0301", "👍", "❤\ufe0f", "")] == [3, 4, 1, 2, 2, 0]
    assert clip("日本語", 6) == "日本語"
    assert clip("日本語", 5) == "日本…"
    assert clip("日本語", 4) == "日…"
    assert clip("abc", 1) == "…"
    assert clip("abc", 0) == ""
    assert escape("tab\there \x7f") == "tab\\there \\x7f"


@pytest.mark.slow
def test_an_output_that_is_not_utf_8_still_gets_everything(filled, start):
    filled("add", "Grüße 👍 aus 北京", "--user", "ana", "--created-at", "2030-01-01T00:00:00Z")
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    stdout, stderr = start("list", "--user", "ana", "--limit", "1", env=plain).communicate(timeout=30)
    assert stdout.decode("ascii").strip().endswith(r"Gr\xfc\xdfe \U0001f44d aus \u5317\u4eac")
    stdout, _ = start("list", "--user", "ana", "--limit", "1", "--json", env=plain).communicate(timeout=30)
    assert json.loads(stdout.decode("ascii"))["content"] == "Grüße 👍 aus 北京"
    assert b"Traceback" not in stderr


# -- terminals ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_colours_are_for_terminals_that_want_them(filled, terminal, start):
    search = ["search", "fact", "--user", "ana", "--limit", "1", "--full"]
    assert "\x1b[1m0." in terminal(*search).until("Fact number")
    for setting in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = terminal(*search, **setting)
        assert shown.code() == 0
        assert "\x1b" not in shown.shown
    assert b"\x1b" not in start(*search).communicate(timeout=60)[0]
    wrong = terminal("get", "m1", "--db", "nowhere.db")
    assert wrong.code() == 3
    assert wrong.shown.startswith("\x1b[1;31mError:\x1b[0m There is no store")
    assert "\x1b[32mhealthy\x1b[0m" in terminal("check").until("healthy\\S*")


@pytest.mark.slow
def test_an_erasure_is_asked_for_at_a_terminal_and_ctrl_c_is_no(filled, terminal):
    shown = terminal("reset")
    shown.until(r"Erase all 6 memories of .* for good\? \[y/N\]: ")
    shown.type("\x03\n")  # The line, because Python misses an interrupt between the prompt and the reading until then.
    assert shown.code() == 130
    shown = terminal("reset")
    shown.until(r"\[y/N\]: ")
    shown.type("n\n")
    assert shown.code() == 1
    assert filled("count", "--all-scopes").stdout == "6\n"


@pytest.mark.slow
def test_long_work_shows_how_far_it_is_where_it_is_asked_to(filled, start, tmp_path):
    copy = ["backup", tmp_path / "agent.db", tmp_path / "copy.db", "--overwrite"]
    for command in (copy, ["flush"], ["check"], ["repair"], ["purge", "b1", "--yes"], ["reset", "--yes"]):
        code, stdout, stderr = finished(start(*command, "--progress"))
        assert code == 0
        assert stdout
        assert "\r" in stderr
        assert "\r" not in finished(start(*command, "--no-progress"))[2]


@pytest.mark.slow
def test_a_bar_of_long_work_is_shown_at_a_terminal_and_gone_when_it_ends(filled, terminal):
    shown = terminal("check")
    assert "\rowners " in shown.until("healthy")
    assert shown.code() == 0
    shown = terminal("purge", "b1", "--yes")
    assert "\rwriting the file anew " in shown.until(r"\r +\r1 memory erased\.")
    assert shown.code() == 0
    quiet = terminal("check", "--json")
    assert quiet.until("}").strip() == '{"healthy": true, "problems": []}'


# -- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupt_ends_cleanly_and_loses_nothing_acknowledged(run, start):
    process = start("add", "-", "--user", "ana", "--json")
    process.stdin.write(jsonl(*[f"memory {number % 5}" for number in range(256)]).encode())
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    acknowledged = [process.stdout.readline() for _ in range(255)]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr.decode().splitlines() == ["Stored: at least 256 memories, up to line 256.", "Interrupted."]
    stored = lines_of(run("list", "--user", "ana", "--all", "--order", "oldest", "--json"))
    assert stored == [first, *map(json.loads, acknowledged)]


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(filled, start):
    filled("add", "-", "--user", "ana", stdin=jsonl(*[f"fact {number % 3} {'x' * 500}" for number in range(500)]))
    process = start("list", "--user", "ana", "--all")
    assert process.stdout.readline().startswith(b"0")
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=30) == 141
    assert stderr == b""


@pytest.mark.slow
def test_an_output_that_is_closed_takes_everything(filled, db):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AGENTMEM_DB": str(db)}
    command = f'"{sys.executable}" -m agentmem.cli list --user ana'
    closed = subprocess.run(["bash", "-c", f"{command} >&-"], env=environment, capture_output=True)
    assert (closed.returncode, closed.stderr) == (0, b"")
    full = subprocess.run(["bash", "-c", f"{command} >/dev/full"], env=environment, capture_output=True)
    assert (full.returncode, full.stderr) == (3, b"Error: reading or writing: No space left on device.\n")


@pytest.mark.slow
def test_the_progress_bar_is_for_terminals_only(start):
    stdin = jsonl(*[f"memory {number}" for number in range(5)]).encode()
    process = start("add", "-", "--user", "ana")
    assert process.communicate(stdin, timeout=30) == (b"5 memories stored.\n", b"")
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = start("add", "-", "--user", "ana", stderr=terminal)
    stdout, _ = process.communicate(stdin, timeout=30)
    shown = b""
    while select.select([controller], [], [], 0)[0]:
        shown += os.read(controller, 4096)
    os.close(terminal)
    os.close(controller)
    assert stdout == b"5 memories stored.\n"
    assert b"memory" in shown
    assert b"\r" in shown


# -- the demonstration --------------------------------------------------------------------------------------------


ANSWERS = {
    QUESTIONS[0]: "I live in Porto",
    QUESTIONS[1]: "nothing with a shell",
    QUESTIONS[2]: "pine cones",
    QUESTIONS[3]: "on the back of the thermostat",
    QUESTIONS[4]: "Moss, who fears thunder",
}


def test_the_conversation_is_long_dated_and_of_two(run):
    turns = conversation()
    assert len(turns) >= 60
    assert {turn["role"] for turn in turns} == {"user", "assistant"}
    times = [turn["created_at"] for turn in turns]
    assert times == sorted(times)
    assert len({time.date() for time in times}) >= 5
    assert len({turn["content"] for turn in turns}) == len(turns)


def test_the_demo_finds_what_it_asks_for_and_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    result = run("demo")
    assert result.exit_code == 0, result.output
    assert re.match(r"80 turns in \d+\.\d\d s: [\d,]+ memories a second", result.stdout)
    for question, answer in ANSWERS.items():
        first = result.stdout.partition(f"{question}\n")[2].splitlines()[0]
        assert answer in first
    assert list(tmp_path.iterdir()) == []


def test_a_kept_demo_is_a_store_like_any_other(run, db):
    told = json.loads(run("demo", "--keep", db, "--json").stdout)
    assert told["kept"] == str(db)
    assert told["turns"] == 80
    assert told["memories_per_second"] == pytest.approx(80 / told["seconds"])
    assert [answer["question"] for answer in told["answers"]] == list(ANSWERS)
    assert len(contents(run)) == 80
    again = run("demo", "--keep", db)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
