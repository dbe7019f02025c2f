"""The installed mem0ai, and what was recorded of it.

    python -m tests.mem0_peer

records anew: the shapes of what it answers, and a store of it as rows. Its environment is the one that perf/ uses, made
on first use from the package index and kept outside the checkout.
"""

import base64
import importlib.util
import json
import os
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from agentmem.embedding.catalog import find_model

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "mem0_script.py"
SHAPES = ROOT / "tests" / "data" / "mem0_shapes.json"
STORE = ROOT / "tests" / "data" / "mem0_store.json"
SECONDS = 300


def _environments() -> Any:
    spec = importlib.util.spec_from_file_location("peers_environments", ROOT / "perf" / "environments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python() -> str:
    """The interpreter of mem0ai's environment. Raises OSError or CalledProcessError when it cannot be made."""
    environments = _environments()
    folder = environments.default_cache() / "mem0"
    environments.make_environment(folder, environments.ENVIRONMENTS["mem0"])
    return environments.python_of(folder)


def ask(task: str, folder: Path, home: Path, *, with_model: bool = True) -> dict[str, Any]:
    """What the script says, run in that environment without any network."""
    environments = _environments()
    home.mkdir(parents=True)
    model, dimension = "", 4
    if with_model:
        card = find_model("all-MiniLM-L6-v2")
        model = str(environments.fastembed_folder(home / "model", card.folder / "model.onnx", card))
        dimension = card.dimension
    environment = os.environ | environments.QUIET | {"HOME": str(home), "MEM0_DIR": str(home / "mem0")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python(), str(SCRIPT), task, model, str(dimension), str(folder)],
        env=environment, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def recorded(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


# -- a store as rows --------------------------------------------------------------------------------------------------

HISTORY = (
    "CREATE TABLE history (id TEXT PRIMARY KEY, memory_id TEXT, old_memory TEXT, new_memory TEXT, event TEXT, "
    "created_at DATETIME, updated_at DATETIME, is_deleted INTEGER, actor_id TEXT, role TEXT)"
)


def rows_of(folder: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(folder / "collection" / "mem0" / "storage.sqlite")) as connection:
        points = connection.execute("SELECT id, point FROM points ORDER BY rowid").fetchall()
    with closing(sqlite3.connect(folder / "history.db")) as connection:
        history = connection.execute("SELECT * FROM history ORDER BY rowid").fetchall()
    return {
        "meta": json.loads((folder / "meta.json").read_text("utf-8")),
        "points": [[key, base64.b64encode(point).decode()] for key, point in points],
        "history": history,
    }


def write_rows(folder: Path, rows: dict[str, Any]) -> None:
    """The folder and the history, as mem0ai and qdrant-client leave them."""
    write_points(folder, [(key, base64.b64decode(point)) for key, point in rows["points"]], rows["meta"])
    with closing(sqlite3.connect(folder / "history.db")) as connection, connection:
        connection.execute(HISTORY)
        connection.executemany(f"INSERT INTO history VALUES ({', '.join('?' * 10)})", rows["history"])


def write_points(
    folder: Path, points: list[tuple[str, bytes]], meta: dict[str, Any] | None = None, collection: str = "mem0"
) -> None:
    inner = folder / "collection" / collection
    inner.mkdir(parents=True, exist_ok=True)
    names = meta or {"collections": {collection: {}}, "aliases": {}}
    (folder / "meta.json").write_text(json.dumps(names), "utf-8")
    with closing(sqlite3.connect(inner / "storage.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS points (id TEXT PRIMARY KEY, point BLOB)")
        connection.executemany("INSERT OR REPLACE INTO points VALUES (?, ?)", points)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        shapes = ask("shapes", home / "shapes", home / "first")
        told = ask("store", home / "store", home / "second", with_model=False)
        record = {"told": told, "rows": rows_of(home / "store")}
    SHAPES.parent.mkdir(exist_ok=True)
    SHAPES.write_text(json.dumps(shapes, indent=1) + "\n", "utf-8")
    STORE.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
