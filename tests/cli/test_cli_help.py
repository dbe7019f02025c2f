"""What the command line says of itself: help with examples, completion, errors."""

import json
import os
import re
import shlex
import subprocess
import sys

import click
import pytest

from agentmem.cli import main
from agentmem.memory import DEFAULT_MODEL
from tests.command_line import SECONDS, environment, every_command, finished

COMMANDS = every_command()


def examples(command: click.Command) -> list[str]:
    """The lines of examples that a help shows."""
    _, _, told = (command.help or "").partition("Examples:\n")
    return [line.strip() for line in told.splitlines() if line.strip()]


def calls(line: str) -> list[list[str]]:
    """The arguments of each `agentmem` in a line of a shell."""
    lexer = shlex.shlex(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line), posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    found, call = [], None
    for word in lexer:
        if word == "agentmem":
            found.append(call := [])
        elif set(word) <= set("|;&<>"):
            call = None
        elif call is not None:
            call.append(word)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_that_the_command_understands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[name]
    shown = examples(command)
    assert len(shown) >= 2
    assert any(line.split("agentmem ", 1)[1].startswith(name) for line in shown if "agentmem " in line)
    for line in shown:
        for arguments in calls(line):
            context = click.Context(main, info_name="agentmem")
            group, rest = main, arguments
            while isinstance(group, click.Group):
                _, group, rest = group.resolve_command(context, rest)
            for parameter in group.params:  # Files of the examples are not there.
                if isinstance(parameter.type, click.Path):
                    monkeypatch.setattr(parameter.type, "exists", False)
            group.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does_and_every_command_has_json(name):
    options = [each for each in COMMANDS[name].params if isinstance(each, click.Option)]
    assert [option.name for option in options if not option.help] == []
    flags = {flag for option in options for flag in option.opts}
    assert {"--json", "--debug"} <= flags
    owners = flags & {"--user", "--agent", "--run"}
    assert len(owners) in (0, 3)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_option_is_called_means_the_same_everywhere(name):
    for option in COMMANDS[name].params:
        for other_name, other in COMMANDS.items():
            for same in other.params:
                if isinstance(option, click.Option) and isinstance(same, click.Option) and option.opts == same.opts:
                    assert option.is_flag == same.is_flag, (other_name, option.opts)
                    assert option.metavar == same.metavar, (other_name, option.opts)
                    assert option.envvar == same.envvar, (other_name, option.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listing_shows_the_first_sentence_whole(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert not COMMANDS[name].get_short_help_str(62).endswith("..."), COMMANDS[name].get_short_help_str(200)


def test_the_model_that_options_name_is_that_of_the_library():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.name == "model":
                assert f"{DEFAULT_MODEL}]" in parameter.help, name


def test_a_mistyped_command_is_told_which_was_meant(run):
    result = run("serach", "q")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "There is no command 'serach'; did you mean 'search'?" in result.stderr
    assert "did you mean" not in run("xyzzy").stderr


def test_the_traceback_of_an_error_is_shown_when_asked_for(run, monkeypatch):
    plain = run("list", "--user", "ana")
    assert (plain.exit_code, plain.stdout, len(plain.stderr.splitlines())) == (3, "", 1)
    for arguments in (["--debug", "list", "--user", "ana"], ["list", "--user", "ana", "--debug"]):
        debugged = run(*arguments)
        assert debugged.exit_code == 3
        assert debugged.stderr.startswith("Traceback (most recent call last):")
        assert debugged.stderr.endswith(plain.stderr)
    monkeypatch.setattr("agentmem.cli.finding.open_memory", lambda *_: 1 // 0)
    broken = run("list", "--user", "ana")
    assert (broken.exit_code, broken.stdout, len(broken.stderr.splitlines())) == (5, "", 1)
    assert "ZeroDivisionError" in broken.stderr
    assert "--debug" in broken.stderr
    assert "Traceback" in run("list", "--user", "ana", "--debug").stderr


@pytest.mark.slow
def test_bash_completes_commands_options_and_choices(db, tmp_path, start):
    shim = tmp_path / "bin" / "agentmem"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m agentmem.cli "$@"\n')
    shim.chmod(0o755)
    program = """
        eval "$(agentmem completion bash)"
        complete -p agentmem >/dev/null || exit 9
        COMP_WORDS=(agentmem "$@") COMP_CWORD=$#
        _agentmem_completion agentmem
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    for typed, offered in (
        (["wat"], ["watch"]),
        (["search", "q", "--mo"], ["--mode", "--model"]),
        (["search", "q", "--mode", "ve"], ["vector"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["search", "q", "--model", "minilm"], ["minilm-mixed", "minilm-static"]),
        (["models", "download", "intfloat/e"], ["intfloat/e5-small-v2"]),
        (["reembed", "all"], ["all-MiniLM-L6-v2"]),
    ):
        told = subprocess.run(
            ["bash", "-c", program, "bash", *typed], capture_output=True, text=True, timeout=SECONDS,
            env=environment(db, PATH=f"{shim.parent}:{os.environ['PATH']}"),
        )  # fmt: skip
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.split() == offered


def test_other_shells_get_their_scripts(run):
    assert "#compdef agentmem" in run("completion", "zsh").stdout
    assert "complete --no-files --command agentmem" in run("completion", "fish").stdout
    told = json.loads(run("completion", "fish", "--json").stdout)
    assert told["shell"] == "fish"
    assert "_AGENTMEM_COMPLETE=fish_complete" in told["script"]
    assert run("completion", "tcsh").exit_code == 2


def test_the_version_and_the_help_are_asked_of_a_process(start):
    code, stdout, stderr = finished(start("--version"))
    assert (code, stderr) == (0, "")
    assert re.fullmatch(r"agentmem, version \d+\.\d+\.\d+\n", stdout)
    code, stdout, stderr = finished(start("search", "-h"))
    assert (code, stderr) == (0, "")
    assert "Examples:" in stdout
