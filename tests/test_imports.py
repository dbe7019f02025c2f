"""Imports: next to nothing is loaded, nothing is asked of the network, written, started or set."""

import json

import pytest

import agentmem
from tests.children import run_python

WATCHED = """
    import json, os, sys
    done, names = [], ("socket", "subprocess", "os.mkdir", "os.rename", "os.remove",
        "os.system", "os.posix_spawn", "os.fork", "sqlite3", "shutil", "tempfile", "urllib", "_thread.start_new_thread")

    def audit(event, arguments):
        if event.startswith(names):
            done.append(event)
        elif event == "open" and arguments[2] and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            done.append(f"open {arguments[0]}")

    before, environment = set(sys.modules), dict(os.environ)
    sys.addaudithook(audit)
    exec(sys.argv[1])
    loaded = sorted({name.split(".")[0] for name in set(sys.modules) - before})
    outside = [name for name in loaded if name not in sys.stdlib_module_names and name != "agentmem"]
    changed = {name for name in environment.keys() | os.environ if environment.get(name) != os.environ.get(name)}
    print(json.dumps({"done": done, "loaded": loaded, "outside": outside, "changed": sorted(changed)}))
"""


def watch(code: str, folder) -> dict[str, list[str]]:
    """What a fresh process did while it ran the code, and the packages that it loaded."""
    return json.loads(run_python(WATCHED, code, cwd=folder))


def test_importing_the_package_loads_nothing_and_does_nothing(tmp_path):
    seen = watch("import agentmem; assert agentmem.__version__ and 'Memory' in dir(agentmem)", tmp_path)
    assert seen["outside"] == seen["done"] == seen["changed"] == []
    assert not {"asyncio", "dataclasses", "inspect", "logging", "re", "sqlite3", "typing"} & set(seen["loaded"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        f"from agentmem import {', '.join(agentmem.__all__)}",
        "import agentmem.cli, agentmem.cli.demo, agentmem.integrations.flask, agentmem.testing, agentmem.mem0",
    ],
    ids=["every name", "the faces"],
)
def test_importing_everything_writes_starts_asks_and_sets_nothing(tmp_path, code):
    seen = watch(code, tmp_path)
    assert seen["done"] == seen["changed"] == []
    assert not {"huggingface_hub", "hypothesis", "onnxruntime", "tokenizers", "usearch"} & set(seen["outside"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_model_and_its_libraries_are_loaded_by_the_first_text_and_no_thread_runs_before(tmp_path):
    run_python(
        """
        import sys, threading
        from agentmem import Memory
        late = {"onnxruntime", "tokenizers", "usearch", "hypothesis", "tqdm", "click", "huggingface_hub"}
        with Memory("store.db") as memory:
            memory.count(user_id="ana")
            assert not late & set(sys.modules)
            assert threading.active_count() == 1
            memory.add("tea", user_id="ana")
            memory.search("tea", user_id="ana")
            assert {"onnxruntime", "tokenizers"} == late & set(sys.modules)
        """,
        cwd=tmp_path,
    )


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import socket; socket.socket().close()", "done"),
        ("open('file', 'w').close()", "done"),
        ("import os; os.open('.', os.O_RDONLY)", None),
        ("import os; os.environ['X_Y'] = '1'", "changed"),
        ("import subprocess; subprocess.run(['true'])", "done"),
        ("import pytest", "outside"),
    ],
)
def test_what_is_watched_for_would_be_seen(tmp_path, code, seen):
    found = watch(code, tmp_path)
    assert {name for name in ("done", "changed", "outside") if found[name]} >= ({seen} if seen else set())
    assert seen or found["done"] == []
