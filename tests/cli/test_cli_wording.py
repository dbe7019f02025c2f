"""Errors of the command line name its own options and commands, and no keywords of Python."""

import re
import shlex

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem.cli import main
from agentmem.cli.wording import in_options, words_of

PYTHON = re.compile(r"\b\w+_id\b|\b\w+=|\bas_of\b|\ball_scopes\b|\w\(\)")
"""What only a program can pass or call."""

REFUSED = {
    "add x --user ''": "--user is empty",
    "add x --agent ' a'": "--agent is ' a', with spaces around it",
    f"add x --run {'r' * 600}": "--run 'rrr",
    "add x --user ana --role ''": "--role is empty",
    "add x --user ana --id ''": "--id is empty",
    "add x --user ana --id m1": "--id 'm1' is taken",
    "add x --user ana --ttl 0": "--ttl is 0.0",
    "add x --user ana --ttl 5 --expires-at 2200-01-01T00:00:00Z": "Both --ttl 5.0 and --expires-at ",
    "add x --user ana --timeout -1": "--timeout is -1.0",
    """add x --user ana --metadata '{"a": 99999999999999999999}'""": "--metadata['a'] is ",
    "add ' ' --user ana": "TEXT is ' ', which is blank",
    "search ' ' --user ana": "QUERY is ' '",
    "search x --user ana --importance user_id": "--importance is 'user_id'",
    "search x --user ana --recency 0": "--recency is ",
    "search x --user ana --timeout nan": "--timeout is nan",
    """search x --user ana --filter '{"a": {"in": 3}}'""": "",
    """list --user ana --filter '{"user_id": {"above": 3}}'""": "The filter on 'user_id' has 'above'",
    f"""count --user ana --filter '{'{"NOT": ' * 40}{{}}{"}" * 40}'""": "--filter nests deeper",
    "list --user ana --after x": "--after is 'x'",
    "list --user ana --between 2026-02-01T00:00:00Z..2026-01-01T00:00:00Z": "--between ends before it starts",
    "update m1 ' '": "TEXT is ' '",
    "update m1": "Give a TEXT, --metadata",
    "update m1 x --ttl -3": "--ttl is -3.0",
    "restore ''": "",
    "get ''": "",
    "purge m1 --user ''": "--user is empty",
    "flush --timeout -1": "--timeout is -1.0",
    "export --user ana {db}": "",
    "backup {db} {db}": "",
}
"""Commands that the library refuses, and how the error begins."""


@pytest.mark.parametrize("line", REFUSED)
def test_what_the_library_refuses_is_told_in_options(filled, db, line):
    result = filled(*[each.replace("{db}", str(db)) for each in shlex.split(line)])
    assert result.exit_code == 2, result.output
    told = result.stderr.splitlines()[-1]
    assert told.startswith(f"Error: {REFUSED[line]}"), told
    unquoted = re.sub(r"'[^']*'", "", told)
    assert not PYTHON.search(unquoted.partition(" datetime.")[0]), told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--user", " a"], "Error: --user is ' a'"),
        (["--user", "a", "--role", ""], "Error: --role is empty"),
        (["--user", "a", "--ttl", "-1"], "Error: --ttl is -1.0"),
        (["--user", "a", "--timeout", "-1"], "Error: --timeout is -1.0"),
        (["--user", "a", "--metadata", '{"x": 99999999999999999999}'], "Error: --metadata['x'] is "),
    ],
)
def test_a_wrong_option_is_no_fault_of_a_line(run, options, said):
    result = run("add", "-", *options, stdin='"one"\n"two"\n')
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(said)


def test_what_a_line_of_a_file_says_wrong_is_told_in_its_fields(run):
    stdin = '{"content": "x", "user_id": " a"}\n{"content": "x", "ttl": 0}\n{"content": 3}\n{"mood": 1}\n"x"\n'
    result = run("add", "-", "--skip-bad", stdin=stdin)
    told = result.stderr.splitlines()
    assert told[0].startswith("Skipped line 1: user_id is ' a'")
    assert "ttl is 0" in told[1] or "pass --user, --agent or --run" in told[1]
    assert "the fields are agent_id, content" in told[3]
    assert told[4] == "Skipped line 5: No owner was given; pass --user, --agent or --run."


def test_a_damaged_store_names_commands(run, db):
    assert run("add", "x", "--user", "ana").exit_code == 0
    damaged = bytearray(db.read_bytes())
    damaged[:100] = bytes(100)
    db.write_bytes(damaged)
    told = run("count", "--user", "ana").stderr
    assert "run `agentmem check` for where, then `agentmem repair` or restore a backup" in told
    assert run("repair").exit_code == 1


def commands(group: click.Group, context: click.Context):
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, click.Context(command, parent=context))
        else:
            yield click.Context(command, info_name=name, parent=context)


COMMANDS = list(commands(main, click.Context(main)))


@pytest.mark.parametrize("context", COMMANDS, ids=lambda context: context.info_name)
def test_every_keyword_that_a_command_maps_is_told_as_its_option(context):
    words = words_of(context)
    for option in context.command.params:
        if isinstance(option, click.Option):
            name, written = option.name, option.opts[0]
            assert in_options(f"{name} is 'x'; pass another.", words) == f"{written} is 'x'; pass another."
            assert in_options(f"{name}['a'] is 3.", words) == f"{written}['a'] is 3."
            assert in_options(f"Pass {name}=True or {name}=, not {name}='x'.", words) == (
                f"Pass {written} or {written}, not {written} 'x'."
            )
            assert in_options(f"Item 3: {name} is 'x'.", words) == f"Item 3: {name} is 'x'."


@given(st.text(), st.sampled_from(COMMANDS))
def test_what_somebody_gave_is_quoted_as_it_was(text, context):
    words = words_of(context)
    for quoted in (repr(text), repr(f"user_id={text} check() all_scopes=True")):
        message = in_options(f"user_id is {quoted}; pass another.", words)
        assert quoted in message
