"""The shape of the package: imports go down, each outside library has one door."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentmem
from tests.frameworks import ADAPTERS

ROOT = Path(agentmem.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

GROUND = {
    "analyzer", "config", "context", "deadline", "errors", "fields", "filters", "ids", "messages", "platform",
    "progress", "quoting", "records", "stats", "timestamps", "validation",
}  # fmt: skip
"""What every room may stand on."""

ROOMS = {"cli", "embedding", "engine", "search", "storage", "transfer"}

MAY_IMPORT = {
    "ground": {"ground"},
    "embedding": {"embedding", "ground"},
    "storage": {"storage", "ground"},
    "search": {"search", "storage", "ground"},
    "engine": {"engine", "search", "storage", "embedding", "ground"},
    "transfer": {"transfer", "engine", "search", "storage", "embedding", "ground"},
    "memory": {"memory", "transfer", "engine", "search", "storage", "embedding", "ground"},
    "faces": {"faces", "memory", "transfer", "engine", "embedding", "ground"},
    "cli": {"cli", "faces", "memory", "transfer", "engine", "ground"},
}

IMPORTERS = {
    "Stemmer": {"analyzer"},
    "anyio": {"server.*"},
    "apsw": {"storage.sqlite.database.*"},
    "backports": {"transfer.compression"},
    "click": {"cli.*"},
    "compression": {"transfer.compression"},
    "fastapi": {"server.*"},
    "flask": {"integrations.flask"},
    "httpx": {"client"},
    "huggingface_hub": {"embedding.hub"},
    "hypothesis": {"testing"},
    "jinja2": {"server.pages"},
    "mcp": {"server.mcp"},
    "numkong": {"search.kernels"},
    "onnx": {"embedding.quantization.onnx_graph"},
    "onnxruntime": {"embedding.onnx_model", "search.segments.file"},
    "openai": {"mem0.llm"},
    "prometheus_client": {"server.app"},
    "pydantic": {"server.*"},
    "starlette": {"server.*"},
    "tokenizers": {"embedding.onnx_model"},
    "tqdm": {"progress"},
    "uvicorn": {"server.app"},
    "usearch": {"search.segments.file"},
    "werkzeug": {"integrations.flask"},
} | {module.partition(".")[0]: {f"integrations.{adapter}"} for adapter, module in ADAPTERS.items()}


def name_of(path: Path) -> str:
    """ "storage.store" for agentmem/storage/sqlite/store.py, "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path) for path in FILES}


def room_of(name: str) -> str:
    first = name.split(".")[0]
    if first in ROOMS:
        return first
    if first in GROUND:
        return "ground"
    return "memory" if first in ("memory", "models", "quantize") else "faces"


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Every absolute name that the file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text("utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("agentmem.") in NAMES else node.module, id(node) not in late


def inside(imported: str) -> str | None:
    """The module of this package that an import means, or None."""
    if imported.split(".")[0] != "agentmem":
        return None
    name = imported.removeprefix("agentmem").removeprefix(".")
    return name if name in NAMES else None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_go_down(path):
    name = name_of(path)
    if name == "":
        assert all(inside(imported) is None or not early for imported, early in imports_of(path))
        return
    for imported, _ in imports_of(path):
        target = inside(imported)
        if target:
            assert room_of(target) in MAY_IMPORT[room_of(name)], f"{name} imports {target}"


def test_only_the_module_that_opens_a_store_imports_an_engine():
    for path in FILES:
        if not name_of(path).startswith("storage.sqlite"):
            engines = {
                target
                for imported, _ in imports_of(path)
                if (target := inside(imported) or "").startswith("storage.sqlite")
            }
            assert not engines or name_of(path) == "storage.open", f"{name_of(path)} imports {engines}"


@pytest.mark.slow
def test_there_is_no_circle_of_imports():
    graph = {
        name_of(path): {target for imported, early in imports_of(path) if early and (target := inside(imported))}
        for path in FILES
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.slow
def test_each_outside_library_has_its_own_importer():
    outside: dict[str, set[str]] = {}
    for path in FILES:
        for imported, _ in imports_of(path):
            library = imported.split(".")[0]
            if library not in sys.stdlib_module_names and library not in ("agentmem", "numpy"):
                outside.setdefault(library, set()).add(name_of(path))
    for library, importers in outside.items():
        allowed = IMPORTERS.get(library, set())
        rooms = {room.removesuffix(".*") for room in allowed if room.endswith(".*")}
        importers = {name for name in importers if not {name, name.rpartition(".")[0]} & rooms}
        assert importers <= allowed, f"{library} is imported by {sorted(importers)}"
    assert {"apsw", "numkong", "onnxruntime", "tokenizers", "hypothesis"} <= set(outside)


SPEAK_SQL = {"mem0.migrate", "mem0.qdrant"}
"""They read the files of other products."""


def test_nothing_above_storage_speaks_sql():
    statement = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|DELETE FROM|UPDATE \w+ SET|PRAGMA)\b")
    for path in FILES:
        room = room_of(name_of(path))
        if room != "storage" and name_of(path) not in SPEAK_SQL:
            assert not statement.search(path.read_text("utf-8")), path


def test_no_module_has_a_name_that_says_nothing():
    for path in FILES:
        assert not {"utils", "util", "common", "base", "helpers", "helper", "manager", "handler", "core", "misc"} & set(
            name_of(path).split(".")
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_prints_or_sleeps(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "time.sleep", "sleep", "pprint"), f"{path}:{node.lineno} calls {called}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_module_class_and_function_of_the_door_says_what_it_is(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (node.name == "_Calls" or not node.name.startswith("_")):
            assert ast.get_docstring(node), f"{path}: class {node.name}"
            if node.name in ("_Calls", "Memory", "ScopedMemory"):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        overloaded = "overload" in map(ast.unparse, method.decorator_list)
                        assert overloaded or ast.get_docstring(method), f"{node.name}.{method.name}"


@pytest.mark.slow
def test_a_command_imports_nothing_heavy_before_it_is_run():
    heavy = {"numpy", "apsw", "onnxruntime", "tokenizers", "tqdm", "numkong", "Stemmer"}
    graph = {name_of(path): [imported for imported, early in imports_of(path) if early] for path in FILES}
    for name in graph:
        if room_of(name) == "cli":
            seen: set[str] = set()
            waiting = [name]
            while waiting:
                module = waiting.pop()
                if module not in seen:
                    seen.add(module)
                    waiting += [target for imported in graph[module] if (target := inside(imported))]
            outside = {imported.split(".")[0] for module in seen for imported in graph[module]}
            assert not outside & heavy, f"{name} brings {outside & heavy}"
