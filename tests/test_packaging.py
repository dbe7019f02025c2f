"""The wheel and the source distribution: their contents and their metadata.

The wheel, installed into an empty environment, works without any network, and with each of its extras.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import agentmem

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {name.replace("_", "-") for name in PROJECT["optional-dependencies"]}
"""Names of extras are normalised in the metadata."""

OFFLINE_PROGRAM = """
import socket, sys

class Forbidden(socket.socket):
    def __init__(self, *arguments, **options):
        raise AssertionError("agentmem opened a socket")

socket.socket = Forbidden
socket.create_connection = socket.getaddrinfo = Forbidden
import agentmem
assert sys.argv[1] not in agentmem.__file__, agentmem.__file__
with agentmem.Memory("agent.db") as memory:
    memory.add("Prefers window seats", user_id="ana")
    memory.add("The invoice is due on Friday", user_id="ana")
    print(memory.search("where does she like to sit?", user_id="ana")[0].record.content)
    assert memory.check() == []
from agentmem import models
bundled = ("all-MiniLM-L6-v2", "minilm-static", "minilm-mixed")
assert all(file.whole for name in bundled for file in models.info(name).files)
"""


FLASK_PROGRAM = """
from flask import Flask
from agentmem.integrations.flask import AgentMem, current_memory
app = Flask("app")
app.config["AGENTMEM_PATH"] = ":memory:"
AgentMem(app)
with app.app_context():
    current_memory.scope(user_id="ana").add("Prefers window seats")
    print(current_memory.search("where does she sit?", user_id="ana")[0].record.content)
"""


TYPED_PROGRAM = """
from typing import assert_type

from agentmem import AgentMemError, Event, Match, Memory, Page, Record, ScopedMemory, Stats
from agentmem.testing import HashEmbedder


def use(memory: Memory) -> None:
    assert_type(memory.add("x", user_id="ana"), Record)
    assert_type(memory.add_batch(["x"], user_id="ana"), list[Record])
    assert_type(memory.add_batch(["x"], user_id="ana", on_error="raise"), list[Record])
    assert_type(memory.add_batch(["x"], user_id="ana", on_error="return"), list[Record | AgentMemError])
    assert_type(memory.add_messages([{"role": "user", "content": "x"}], user_id="ana"), list[Record])
    page = memory.get_all(user_id="ana")
    assert_type(page, Page)
    for record in page:
        assert_type(record, Record)
    assert_type([record.content for record in page], list[str])
    assert_type(memory.search("x", user_id="ana"), list[Match])
    assert_type(memory.search_batch(["x"], user_id="ana"), list[list[Match]])
    assert_type(memory.history(page.records[0].id), list[Event])
    assert_type(memory.get("x"), Record | None)
    assert_type(memory.scope(user_id="ana"), ScopedMemory)
    assert_type(memory.stats(), Stats)
    memory.add(5, user_id="ana")  # type: ignore[arg-type]
    memory.forget("x")  # type: ignore[attr-defined]


with Memory(":memory:", embedder=HashEmbedder()) as opened:
    use(opened)
"""


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, which stays clean, with the links that it has."""
    copy = tmp_path_factory.mktemp("source") / "agentmem"
    ignored = shutil.ignore_patterns(".git", "*.egg-info", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    return copy


@pytest.fixture(scope="module")
def distributions(source, tmp_path_factory) -> dict[str, Path]:
    """A wheel and a source distribution."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(target), str(source))
    return {"wheel": next(target.glob("*.whl")), "sdist": next(target.glob("*.tar.gz"))}


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """The Python of an environment that has the wheel and what it needs, nothing else."""
    python = empty_environment(tmp_path_factory.mktemp("installed"))
    install(python, str(distributions["wheel"]))
    return python


@pytest.fixture(scope="module")
def editable(source, tmp_path_factory) -> Path:
    """The Python of an environment in which the copy of the checkout is installed to be edited, and nothing else."""
    python = empty_environment(tmp_path_factory.mktemp("editable"))
    install(python, "--no-deps", "-e", str(source))
    return python


def empty_environment(folder: Path) -> Path:
    """The Python of an environment with nothing in it: the pip of the tests installs into it, which saves one of its
    own."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder / "environment"))
    return folder / "environment" / "bin" / "python"


def install(python: Path, *arguments: str) -> None:
    """As pip does it. What is used is compiled when it is imported, and the rest never."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    run(*pip, *arguments, env=clean_environment())


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_both_distributions_pass_the_check_of_the_index(distributions):
    checked = run(sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions.values()))
    assert checked.count("PASSED") == 2


def test_the_metadata_names_the_extras_and_the_pythons(distributions):
    told = metadata_of(distributions["wheel"])
    assert set(told.get_all("Provides-Extra", [])) == EXTRAS
    assert told["Requires-Python"] == ">=3.11"
    assert told["Version"] == agentmem.__version__
    minor = re.findall(r"Python :: 3\.(\d+)", "\n".join(told.get_all("Classifier", [])))
    assert minor == ["11", "12", "13"], "the oldest is the one that is required"


def test_the_wheel_and_the_source_distribution_carry_the_models_and_every_module(distributions):
    wheel = set(zipfile.ZipFile(distributions["wheel"]).namelist())
    with tarfile.open(distributions["sdist"]) as archive:
        sdist = {name.split("/", 1)[-1] for name in archive.getnames()}
    for folder in (path.parent for path in (ROOT / "models").glob("*/model.toml")):
        for file in folder.iterdir():
            assert f"agentmem/models/{folder.name}/{file.name}" in wheel
            assert f"agentmem/models/{folder.name}/{file.name}" in sdist
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "agentmem").rglob("*.md") if "models" not in path.parts}
    assert {"agentmem/GUIDE.md", "agentmem/storage/README.md"} <= pages <= wheel & sdist
    assert {"agentmem/py.typed", "agentmem/cli/demo.jsonl", "agentmem/calibration.txt"} <= wheel
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "agentmem").rglob("*.py")}
    assert modules <= wheel, "a package that setup.cfg does not name"
    assert modules <= sdist
    assert not [name for name in wheel if name.startswith(("tests/", "perf/", "models/"))]


def test_the_installed_wheel_remembers_and_finds_with_the_network_forbidden(installed, tmp_path):
    program = [str(installed), "-c", OFFLINE_PROGRAM, str(ROOT)]
    # A namespace without any interface, where the system lets us make one, forbids native code the network as well.
    isolated = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") and subprocess.run([*isolated, "true"], capture_output=True).returncode == 0:
        program = isolated + program
    environment = clean_environment() | {"AGENTMEM_MODELS": str(tmp_path / "models")}
    printed = run(*program, cwd=tmp_path, env=environment)
    assert printed.strip() == "Prefers window seats"
    assert [path.name for path in tmp_path.iterdir()] == ["agent.db"]
    told = run(str(installed.with_name("agentmem")), "search", "sit", "--db=agent.db", "--user=ana", cwd=tmp_path)
    assert "Prefers window seats" in told


def test_each_extra_can_be_installed(distributions):
    """Resolved as for a real installation, without what is large being copied, beside what this environment has of it.
    `dev` contains `test`, and that the others, but for the frameworks, which `.ci/run` installs."""
    install(Path(sys.executable), "--dry-run", f"{distributions['wheel']}[dev]")


def test_the_extra_for_flask_is_asked_for_by_name_and_is_all_that_flask_needs(installed, distributions, tmp_path):
    without = [str(installed), "-c", "import agentmem.integrations.flask"]
    done = subprocess.run(without, capture_output=True, text=True, timeout=600, env=clean_environment(), cwd=tmp_path)
    assert "pip install 'agentmem[flask]'" in done.stderr
    wheel = f"{distributions['wheel']}[flask]"
    install(installed, wheel)
    assert run(str(installed), "-c", FLASK_PROGRAM, cwd=tmp_path, env=clean_environment()) == "Prefers window seats\n"
    assert run(str(installed), "-m", "gunicorn", "--version").startswith("gunicorn")


@pytest.mark.parametrize("how", ["installed", "editable"])
def test_type_checkers_see_the_types_of_every_installation(request, how, tmp_path):
    """An ignored error that is none, as where the package is unknown, is an error too."""
    python = request.getfixturevalue(how)
    (tmp_path / "program.py").write_text(TYPED_PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}", "--cache-dir=/dev/null"]
    assert "Success" in run(*mypy, "program.py", cwd=tmp_path, env=clean_environment())


@pytest.mark.parametrize("how", ["installed", "editable"])
def test_a_folder_of_the_same_name_hides_no_installation(request, how, tmp_path):
    """Such as a checkout, seen from the folder that it is in."""
    python = request.getfixturevalue(how)
    (tmp_path / "agentmem" / "models").mkdir(parents=True)
    program = "from agentmem import Config, __version__; from agentmem import errors, models; print(__version__)"
    for command in (["-c", program], ["-m", "program"]):
        (tmp_path / "program.py").write_text(program)
        assert run(str(python), *command, cwd=tmp_path, env=clean_environment()).strip() == agentmem.__version__
