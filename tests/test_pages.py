"""The pages are true: their code runs, their commands print what they say, their tables are those of the code."""

import ast
import inspect
import os
import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import agentmem
from agentmem import Config, Memory, errors, filters, models
from agentmem.cli import exit_codes as exits
from agentmem.cli import main
from agentmem.search import ranking
from tests import mem0_peer
from tests.command_line import every_command
from tests.frameworks import adapter_of
from tests.loopback_hub import serving
from tests.tiny_models import VOCABULARY, Tiny, write_model

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "agentmem/**/*.md", "perf/*.md", "tests/*.md", "models/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
    if not path.is_relative_to(ROOT / "agentmem" / "models")  # Links to the models' own folders.
)
PAGES = {str(path): (ROOT / path).read_text("utf-8") for path in PATHS}
README = PAGES["README.md"]
SNIPPETS = [
    (page, number, code)
    for page, text in PAGES.items()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S), 1)
    if adapter_of(code) is None  # Those run where the frameworks are: tests/integrations/test_recipes.py.
]
LARGEST = {
    "README.md": 12, "agentmem/README.md": 10, "agentmem/GUARANTEES.md": 8, "agentmem/SECURITY.md": 4,
    "agentmem/GUIDE.md": 12, "agentmem/integrations/README.md": 10,
}  # fmt: skip
"""Most KB of a page; a room's page has 7."""


def section(title: str) -> str:
    """What stands under a heading, which only one page has."""
    found = [
        text
        for page in PAGES.values()
        for text in re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    ]
    assert len(found) == 1, title
    return found[0]


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table below a header row."""
    [table] = re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", cell)


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def test_there_are_two_commands_to_set_up():
    to_work_on, to_use = re.findall(r"```sh\n(.*?)```", section("Set up"), re.S)
    assert [line.split()[:2] for line in to_use.splitlines()] == [["pip", "install"]] * 2
    assert to_work_on.splitlines() == ["python -m pip install -e '.[test]' && agentmem demo", "python -m pytest"]


def test_the_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    told = [name for cell, _ in rows(section("Set up"), "| extra | for |") for name in names(cell)]
    assert told == [f"agentmem[{extra}]" for extra in project["optional-dependencies"]]
    for minor in re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"])):
        assert minor in section("Set up")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number", "code"), SNIPPETS, ids=[f"{page} {number}" for page, number, _ in SNIPPETS])
def test_the_code_runs(page, number, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import_mem0" in code:
        mem0_peer.write_rows(tmp_path / "qdrant", mem0_peer.recorded(mem0_peer.STORE)["rows"])
    exec(compile(code, f"{page}, snippet {number}", "exec"), {"__name__": "readme"})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("agentmem")]


ON_A_HUB = [
    (page, number, code)
    for page, text in PAGES.items()
    for number, code in enumerate(re.findall(r"^```py\n(.*?)^```", text, re.M | re.S), 1)
]


@pytest.mark.parametrize(("page", "number", "code"), ON_A_HUB, ids=[f"{page} {at}" for page, at, _ in ON_A_HUB])
def test_the_code_that_needs_a_hub_runs_against_one_on_this_machine(page, number, code, tmp_path, monkeypatch, capsys):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "AGENTMEM_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("AGENTMEM_MODELS", str(tmp_path / "downloaded"))
    monkeypatch.chdir(tmp_path)
    texts = [" ".join(VOCABULARY[4 + (start + word) % 9] for word in range(1 + start % 7)) for start in range(160)]
    graph = Tiny(width=384, heads=4, layers=1).build()
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        source = write_model(tmp_path / "source", pooling="cls", graph=graph, config={"hidden_size": 384})
        for repository in re.findall(r'"([\w-]+/[\w.-]+)"', code):
            hub.publish(repository, source)
            if "download(" not in code:
                models.download(repository)
        namespace = {"__name__": "readme", "some_hundred_texts": texts}
        exec(compile(code, f"{page}, snippet {number}", "exec"), namespace)
        if "memory" in namespace:
            namespace["memory"].close()


@pytest.mark.parametrize("page", PAGES)
def test_no_code_stands_outside_a_snippet(page):
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.M | re.S)
    assert "```" not in prose
    assert re.findall(r"^(?:from \S+ import|(?:with|def|class) .*:$|    ).*", prose, re.M) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_and_page_that_is_named_is_there(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target
    for named in re.findall(r"(?:agentmem|perf|tests|models|\.github)/[\w./-]*\.(?:md|py)\b", PAGES[page]):
        assert (ROOT / named).exists(), named


ROOMS = [page for page in PAGES if re.fullmatch(r"agentmem/\w+/README\.md", page)]


@pytest.mark.parametrize("page", [*LARGEST, *ROOMS])
def test_a_page_is_short(page):
    assert len(PAGES[page].encode()) <= LARGEST.get(page, 7) * 1024


def test_every_room_has_a_page_that_names_its_files_and_what_it_may_import():
    rooms = {path.parent for path in (ROOT / "agentmem").glob("*/__init__.py")}
    assert {str(room.relative_to(ROOT) / "README.md") for room in rooms} == set(ROOMS)
    for room in rooms:
        page = PAGES[str(room.relative_to(ROOT) / "README.md")]
        assert "It may import" in page, room
        named = set(re.findall(r"(\w+)\.py\b", page))
        assert {path.stem for path in room.glob("*.py")} - {"__init__"} <= named, room


def test_the_readme_has_no_links_that_only_a_checkout_can_follow():
    """It is shown on the package index too, where pages and pictures of the checkout are not."""
    assert [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("https://")] == []


def test_the_readme_leads_to_every_page():
    told = {name for cell, _ in rows(section("Read on"), "| page | holds |") for name in names(cell)}
    rooms = {f"agentmem/{room}/README.md" for room in ("storage", "engine", "platform")}  # For their developers.
    pages = {page for page in PAGES if "ISSUE_TEMPLATE" not in page and page != "README.md"}
    assert told == pages - rooms


def test_no_file_is_told_of_twice():
    guide = [name for cell, _ in rows(section("How it works"), "| folder or file | holds |") for name in names(cell)]
    assert len(guide) == len(set(guide))


def test_the_first_code_is_ten_lines_and_prints_what_she_likes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = section("Ten lines").partition("```python\n")[2].partition("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    exec(code, {"__name__": "readme"})
    assert re.fullmatch(r"0\.\d\d Prefers window seats\n", capsys.readouterr().out)


@pytest.mark.slow
def test_the_commands_print_what_is_written_below_them(tmp_path):
    shim = tmp_path / "bin" / "agentmem"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m agentmem.cli "$@"\n')
    shim.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTMEM_", "COLUMNS"))}
    environment |= {"PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    examples = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", section("Command line"), re.M)
    assert len(examples) >= 5
    for command, expected in examples:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stderr == "", command
        assert done.returncode == 0, command
        assert as_pattern(done.stdout) == as_pattern(expected), command


def as_pattern(output: str) -> str:
    """The output with what differs from run to run replaced."""
    output = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", output)
    output = re.sub(r"\d{4}-\d\d-\d\d", "<day>", output)
    return re.sub(r"^0\.\d\d", "<score>", output, flags=re.M)


def test_the_calls_are_those_of_a_memory():
    told = [name for cell, _ in rows(README, "| call | does |") for name in names(cell)]
    assert sorted(told) == [name for name in dir(Memory) if not name.startswith("_")]


def test_the_weights_of_a_score_are_those_of_the_ranking():
    told = one_line(section("Scores"))
    assert f"{ranking.KEYWORD_WEIGHT} K + {ranking.VECTOR_WEIGHT} V" in told
    near, far = ranking.KEYWORD_NEIGHBOURS
    assert f"A neighbour's word counts {near} of an own one ({far} from the one beyond)" in told
    near, far = ranking.VECTOR_NEIGHBOURS
    assert f"its cosine {near} ({far})" in told
    assert f"| `recency=` | up to {ranking.RECENCY_WEIGHT} of it" in told
    assert f"| `importance=` | {ranking.IMPORTANCE_WEIGHT} of it" in told
    assert [names(mode) for mode, _ in rows(section("Scores"), "| `mode` | `score` |")] == [
        [f'"{mode}"'] for mode in ("vector", "keyword", "hybrid")
    ]


def test_the_filters_are_described_as_in_their_module():
    told = one_line(section("Filters"))
    described = inspect.getdoc(filters).split("\n\n")[1:-1]
    assert len(described) >= 6
    for paragraph in described:
        assert one_line(paragraph) in told


def test_the_settings_are_those_of_config():
    table = rows(section("Settings"), "| setting | default | meaning and price |")
    assert [names(setting) for setting, _, _ in table] == [[field.name] for field in fields(Config)]
    source = inspect.getsource(Config)
    for (setting, default, meaning), field in zip(table, fields(Config), strict=True):
        assert ast.literal_eval(default.strip("`")) == field.default, setting
        [documented] = re.findall(rf'^    {field.name}: [^\n]*\n    """(.*?)"""', source, re.M | re.S)
        assert meaning == one_line(documented), setting


def test_the_errors_are_those_of_the_package():
    table = rows(section("Errors"), "| error | is also | when |")
    raised = [
        value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert [names(name) for name, _, _ in table] == [[error.__name__] for error in raised[1:]]
    assert raised[0] is errors.AgentMemError
    for (_, parents, when), error in zip(table, raised[1:], strict=True):
        assert names(parents) == [base.__name__ for base in error.__bases__ if base is not errors.AgentMemError]
        assert when == one_line(error.__doc__), error


COMMANDS = every_command()


def test_the_exit_codes_are_those_of_the_command_line():
    told = rows(section("Command line"), "| exit code | means |")
    assert [(int(code), meaning) for code, meaning in told] == list(exits.MEANINGS.items())


def test_the_commands_are_those_of_the_command_line():
    told = rows(section("Command line"), "| command | does |")
    assert [names(name) for name, _ in told] == [[name] for name in COMMANDS]
    for (_, does), (name, command) in zip(told, COMMANDS.items(), strict=True):
        assert does == command.get_short_help_str(200).removesuffix("."), name


def test_the_options_of_the_commands_exist():
    options = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    options |= {option for parameter in main.params for option in parameter.opts}
    mentioned = {
        word for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", section("Command line")) for word in name.split()
    }
    assert mentioned - {"--help"} <= options


def test_the_guide_names_what_is_there():
    for cell, _ in rows(section("How it works"), "| folder or file | holds |"):
        first, *others = names(cell)
        assert (ROOT / first).exists(), first
        assert all(((ROOT / first).parent / other).exists() for other in others), cell
    packages = {path.parent.name for path in (ROOT / "agentmem").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"agentmem/(\w+)/", section("How it works")))


def test_the_changes_begin_with_this_version():
    assert re.findall(r"^### (\S+)", PAGES["agentmem/CHANGELOG.md"], re.M)[0] == agentmem.__version__
