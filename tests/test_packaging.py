"""The wheel, built from this tree and installed into an empty environment, works without any network."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

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
assert all(file.whole for name in ("all-MiniLM-L6-v2", "minilm-static") for file in models.info(name).files)
try:
    models.download("org/name")
except agentmem.ModelError:
    pass
else:
    raise AssertionError("downloaded without a network")
"""


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, Path]:
    """A wheel and a source distribution, built from a copy so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source") / "agentmem"
    ignored = shutil.ignore_patterns(".git", "*.egg-info", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignored)
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(target), str(copy))
    return {"wheel": next(target.glob("*.whl")), "sdist": next(target.glob("*.tar.gz"))}


def test_the_wheel_and_the_source_distribution_carry_the_models(distributions):
    wheel = set(zipfile.ZipFile(distributions["wheel"]).namelist())
    with tarfile.open(distributions["sdist"]) as archive:
        sdist = {name.split("/", 1)[-1] for name in archive.getnames()}
    for folder in (path.parent for path in (ROOT / "models").glob("*/model.toml")):
        for file in folder.iterdir():
            assert f"agentmem/models/{folder.name}/{file.name}" in wheel
            assert f"models/{folder.name}/{file.name}" in sdist
    assert {"agentmem/py.typed", "agentmem/demo.jsonl", "agentmem/calibration.txt", "agentmem/memory.py"} <= wheel
    assert not [name for name in wheel if name.startswith(("tests/", "perf/", "models/"))]


def test_the_installed_wheel_remembers_and_finds_with_the_network_forbidden(distributions, tmp_path):
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", str(environment))
    python = str(environment / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(distributions["wheel"]))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    program = [python, "-c", OFFLINE_PROGRAM, str(ROOT)]
    # A namespace without any interface, where the system lets us make one, forbids native code the network as well.
    clean |= {"AGENTMEM_MODELS": str(tmp_path / "environment" / "models")}
    isolated = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") and subprocess.run([*isolated, "true"], capture_output=True).returncode == 0:
        program = isolated + program
    printed = run(*program, cwd=tmp_path, env=clean)
    assert printed.strip() == "Prefers window seats"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.db", "environment"]
    assert (environment / "bin" / "agentmem").exists()
