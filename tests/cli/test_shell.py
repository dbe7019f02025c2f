"""`agentmem shell`: questions and answers, line by line."""

import json
import re
import signal

import pytest

from tests.command_line import UUID, finished


def session(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def test_texts_are_remembered_and_questions_answered(filled):
    told = filled("shell", "--user", "ana", stdin=session("+Keeps a tortoise", "which pets does she keep?"))
    assert told.exit_code == 0
    added, *matches = told.stdout.splitlines()
    assert re.fullmatch(UUID, added)
    assert len(matches) == 5
    assert re.fullmatch(r"1  0\.\d\d  \d{4}-\d\d-\d\d  Keeps a tortoise", matches[0])
    assert [line[0] for line in matches] == list("12345")


def test_an_answer_is_json_when_asked_for(filled):
    told = filled("shell", "--user", "ana", "--json", "--limit", "2", stdin=session("fact 3", "/get m1", "/history m1"))
    documents = [json.loads(line) for line in told.stdout.splitlines()]
    assert documents[0]["record"]["id"] == "m3"
    assert documents[2]["id"] == "m1"
    assert documents[3]["what"] == "add"


def test_a_number_stands_for_a_memory_of_the_last_answer(filled):
    told = filled(
        "shell", "--user", "ana",
        stdin=session("/list", "/delete 2", "/history 2", "/restore 2", "/update 1 Fact number five", "/get 1"),
    )  # fmt: skip
    assert told.exit_code == 0
    assert "m4 deleted." in told.stdout
    assert re.search(r"^\d+ .* delete$", told.stdout, re.M)
    assert re.search(r"^content +Fact number five$", told.stdout, re.M)
    assert json.loads(filled("get", "m4", "--json").stdout)["id"] == "m4"


def test_settings_hold_until_they_are_changed(filled):
    told = filled(
        "shell", "--user", "ana",
        stdin=session('/filters {"day": {"lt": 3}}', "/count", "/limit 1", "/list", "/explain", "/mode keyword")
        + session("fact 1", "/filters", "/count"),
    )  # fmt: skip
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0] == "2 memories"
    assert lines[1].endswith("Fact number 2")
    assert lines[2].endswith("Fact number 1")
    assert "words (fact, 1)" in lines[3]
    assert "keyword" in lines[3]
    assert lines[4] == "5 memories"
    assert told.stderr.splitlines() == [
        'filters: {"day": {"lt": 3}}', "limit: 1", "explain: true", 'mode: "keyword"', "filters: null",
    ]  # fmt: skip


WRONG = {
    "/no": "There is no /no",
    "/get m99": "no memory 'm99'",
    "/get": "id",
    "/delete m99": "no memory 'm99'",
    "/delete b1": "no memory 'b1'",
    "/history m99": "never was",
    "/restore m99": "m99",
    "/update m1": "blank",
    "+": "blank",
    "/filters {": "not JSON",
    '/filters {"day": {"above": 1}}': "above",
    "/filters 3": "filters",
    "/limit 0": "'0'",
    "/limit many": "'many'",
    "/mode fast": "'fast'",
}


@pytest.mark.parametrize("line", WRONG)
def test_an_error_is_told_and_does_not_end_it(filled, line):
    told = filled("shell", "--user", "ana", stdin=session(line, "/count"))
    assert told.exit_code == 1
    assert told.stderr.startswith("Error: ")
    assert WRONG[line] in told.stderr
    assert told.stderr.count("\n") == 1
    assert told.stdout == "5 memories\n"


def test_everybodys_memories_can_be_asked_but_not_added_to(filled):
    told = filled("shell", "--all-scopes", stdin=session("Ben's secret", "+Nobody's", "/count", "/quit", "/count"))
    assert told.exit_code == 1
    assert re.search(r"^1  0\.\d\d  \S+  user=ben  Ben's own secret$", told.stdout, re.M)
    assert "No owner was given" in told.stderr
    assert told.stdout.count("6 memories") == 1


def test_it_needs_an_owner_and_a_store(filled, tmp_path):
    assert filled("shell").exit_code == 2
    assert filled("shell", tmp_path / "no.db", "--user", "ana").exit_code == 3
    assert not (tmp_path / "no.db").exists()


def test_the_help_names_every_command(filled):
    from agentmem.cli.shell import COMMANDS

    told = filled("shell", "--user", "ana", stdin=session("/help")).stdout
    assert re.findall(r"^/(\w+)", told, re.M) == [*COMMANDS, "quit"]
    assert all(len(line.split("  ")) > 1 for line in told.splitlines()[:-1])


@pytest.mark.slow
def test_an_answer_comes_before_the_next_line_is_written(filled, start):
    process = start("shell", "--user", "ana")
    for number in (1, 2):
        process.stdin.write(b"/count\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"5 memories\n", number
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = finished(process)
    assert (code, stdout, stderr) == (130, "", "Interrupted.\n")


def test_a_line_that_is_no_utf_8_does_not_end_it(filled):
    told = filled("shell", "--user", "ana", stdin=b"+caf\xe9 au lait\n/count\n")
    assert told.stdout.endswith("6 memories\n")


@pytest.mark.slow
def test_at_a_terminal_it_prompts_edits_and_survives_ctrl_c(filled, terminal):
    shown = terminal("shell", "--user", "ana", INPUTRC="/dev/null")
    shown.until(r"ana> ")
    shown.type("/cou\t\n")
    shown.until(r"5 memories")
    shown.until(r"ana> ")
    shown.type("something that is not meant\x03\n")
    shown.until(r"ana> ")
    shown.type("+Plays the cello\n")
    shown.until(UUID)
    shown.until(r"ana> ")
    shown.type("/nonsense\n")
    assert "\x1b[1;31mError:\x1b[0m" in shown.until(r"There is no /nonsense")
    shown.until(r"ana> ")
    shown.type("\x1b[A\x1b[A\n")  # The line before the last once more.
    shown.until(UUID)
    shown.until(r"ana> ")
    shown.type("cello\n")
    assert "\x1b[1m" in shown.until("Plays the cello")
    shown.until(r"ana> ")
    shown.type("\x04")
    assert shown.code() == 0
    assert "Traceback" not in shown.shown
    assert json.loads(filled("count", "--user", "ana", "--json").stdout) == {"count": 7}
