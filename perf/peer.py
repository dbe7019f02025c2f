"""One system under test, in its own environment; `peers.py` starts it and sends it commands.

    python peer.py SYSTEM MODEL_FOLDER DIMENSION

Reads one JSON object a line and answers with one. Imports nothing of agentmem unless that is the system.
"""

import importlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import measure

VECTOR_DIMENSION = 384
VECTOR_KINDS = 997
"""Different vectors where no model makes them; enough that no engine profits from equal ones side by side."""

TOPICS = 10


def vector_of(text: str) -> list[float]:
    """A made-up vector, so cheap that only the engine is measured."""
    return _vectors()[hash(text) % VECTOR_KINDS]


def _vectors(made: list[list[float]] = []) -> list[list[float]]:  # noqa: B006 - made once
    if not made:
        numpy = importlib.import_module("numpy")
        rows = numpy.random.default_rng(0).standard_normal((VECTOR_KINDS, VECTOR_DIMENSION)).astype("float32")
        made += (rows / numpy.linalg.norm(rows, axis=1, keepdims=True)).tolist()
    return made


class AgentMem:
    """This project with its defaults: a file, `durability="full"`."""

    distributions = ("agentmem", "onnxruntime")

    def __init__(self, model: Path, dimension: int) -> None:
        self._model: dict[str, Any] = {"model": str(model)}

    def open(self, folder: Path) -> None:
        self._memory = importlib.import_module("agentmem").Memory(folder / "store.db", **self._model)

    def close(self) -> None:
        self._memory.close()

    def add(self, text: str, user: str) -> None:
        self._memory.add(text, user_id=user)

    def search(self, query: str, user: str) -> int:
        return len(self._memory.search(query, user_id=user))

    def stored(self) -> int:
        return int(self._memory.count(all_scopes=True))


class AgentMemVectors(AgentMem):
    """The same with made-up vectors, metadata and filters: the engine alone."""

    identity, dimension = "made-up:1", VECTOR_DIMENSION

    def __init__(self, model: Path, dimension: int) -> None:
        self._model = {"embedder": self}
        self._numpy = importlib.import_module("numpy")
        self._rows = self._numpy.array(_vectors(), "float32")

    def embed(self, texts: list[str]) -> Any:
        return self._rows[[hash(text) % VECTOR_KINDS for text in texts]]

    def add(self, text: str, user: str) -> None:
        self._memory.add(text, user_id="ana", metadata={"topic": hash(text) % TOPICS})

    def add_many(self, texts: list[str]) -> None:
        self._memory.add_batch(
            [{"content": text, "metadata": {"topic": hash(text) % TOPICS}} for text in texts], user_id="ana"
        )

    def search(self, query: str, user: str) -> int:
        return len(self._memory.search(query, user_id="ana", filters={"topic": hash(query) % TOPICS}))


class Chroma:
    """chromadb, persistent, vectors given."""

    distributions = ("chromadb",)

    def __init__(self, model: Path, dimension: int) -> None:
        self._chromadb = importlib.import_module("chromadb")
        self._settings = importlib.import_module("chromadb.config").Settings(anonymized_telemetry=False)

    def open(self, folder: Path) -> None:
        client = self._chromadb.PersistentClient(path=str(folder), settings=self._settings)
        self._collection = client.create_collection("memories", embedding_function=None)

    def close(self) -> None:
        del self._collection

    def add(self, text: str, user: str) -> None:
        self.add_many([text])

    def add_many(self, texts: list[str]) -> None:
        self._collection.add(
            ids=[str(uuid.uuid4()) for _ in texts],
            documents=texts,
            embeddings=[vector_of(text) for text in texts],
            metadatas=[{"user": "ana", "topic": hash(text) % TOPICS} for text in texts],
        )

    def search(self, query: str, user: str) -> int:
        found = self._collection.query(
            query_embeddings=[vector_of(query)], n_results=10, where={"topic": hash(query) % TOPICS}
        )
        return len(found["ids"][0])

    def stored(self) -> int:
        return int(self._collection.count())


def given_to_fastembed(model: Path, dimension: int) -> None:
    """Makes the model known to fastembed under the name `given`. It pools and normalises within its graph."""
    description = importlib.import_module("fastembed.common.model_description")
    importlib.import_module("fastembed").TextEmbedding.add_custom_model(
        model="given", pooling=description.PoolingType.DISABLED, normalization=False,
        sources=description.ModelSource(hf="not/used"), dim=dimension, model_file="model.onnx",
    )  # fmt: skip


class FastEmbed:
    """fastembed: embeds, and stores nothing."""

    distributions = ("fastembed", "onnxruntime")

    def __init__(self, model: Path, dimension: int) -> None:
        given_to_fastembed(model, dimension)
        self._model = importlib.import_module("fastembed").TextEmbedding("given", specific_model_path=str(model))

    def open(self, folder: Path) -> None:
        self._count, self._lock = 0, Lock()

    def close(self) -> None:
        pass

    def add(self, text: str, user: str) -> None:
        [_] = self._model.embed(text)
        with self._lock:
            self._count += 1

    def add_many(self, texts: list[str]) -> None:
        for _ in self._model.embed(texts, batch_size=16):
            self._count += 1

    def stored(self) -> int:
        return self._count


class Mem0:
    """mem0ai with fastembed and a local store, `infer=False`, so that no language model is asked."""

    distributions = ("mem0ai", "qdrant-client", "faiss-cpu", "fastembed", "onnxruntime")
    store = "qdrant"

    def __init__(self, model: Path, dimension: int) -> None:
        partial = importlib.import_module("functools").partial
        self._mem0 = importlib.import_module("mem0")
        given_to_fastembed(model, dimension)
        embeddings = importlib.import_module("mem0.embeddings.fastembed")
        embeddings.TextEmbedding = partial(embeddings.TextEmbedding, specific_model_path=str(model))
        self._dimension = dimension

    def open(self, folder: Path) -> None:
        store = {
            "collection_name": "memories",
            "path": str(folder / "vectors"),
            "embedding_model_dims": self._dimension,
        }
        self._memory = self._mem0.Memory.from_config({
            "embedder": {"provider": "fastembed", "config": {"model": "given", "embedding_dims": self._dimension}},
            "vector_store": {"provider": self.store, "config": store},
            "history_db_path": str(folder / "history.db"),
        })  # fmt: skip

    def close(self) -> None:
        with suppress(Exception):
            self._memory.close()
        client = getattr(self._memory.vector_store, "client", None)
        if client is not None:
            client.close()

    def add(self, text: str, user: str) -> None:
        self._memory.add(text, user_id=user, infer=False)

    def search(self, query: str, user: str) -> int:
        found = self._memory.search(query, filters={"user_id": user}, top_k=10, threshold=0.0)
        return len(found["results"])

    def stored(self) -> int:
        store = self._memory.vector_store
        if self.store == "qdrant":
            return int(store.client.count("memories").count)
        return int(store.index.ntotal)


class Mem0Faiss(Mem0):
    store = "faiss"


SYSTEMS: dict[str, Callable[[Path, int], Any]] = {
    "agentmem": AgentMem, "agentmem-vectors": AgentMemVectors, "chroma": Chroma, "fastembed": FastEmbed,
    "mem0-qdrant": Mem0, "mem0-faiss": Mem0Faiss,
}  # fmt: skip


class Worker:
    """Runs one phase: `threads` threads take texts from one queue until it is empty or time is over."""

    def __init__(self, system: Any) -> None:
        self._system = system
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stored = 0

    def open(self) -> dict[str, Any]:
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="agentmem-perf-", ignore_cleanup_errors=True)
        self._system.open(Path(self._folder.name))
        self._system.add("the model is loaded before the clock starts", "nobody")
        if hasattr(self._system, "search"):
            self._system.search("the model is loaded before the clock starts", "nobody")
        return {}

    def close(self) -> dict[str, Any]:
        if self._folder is not None:
            self._system.close()
            self._folder.cleanup()
            self._folder = None
        return {}

    def add(self, texts: list[str], threads: int, seconds: float) -> dict[str, Any]:
        before = self._system.stored()
        figures = self._phase(texts, threads, seconds, lambda text, number: self._system.add(text, f"user-{number}"))
        return figures | {"lost": before + figures["done"] - self._system.stored()}

    def add_many(self, texts: list[str], size: int, seconds: float) -> dict[str, Any]:
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        figures = self._phase(parts, 1, seconds, lambda part, _: self._system.add_many(part))
        return figures | {"rate": figures["rate"] * size, "done": figures["done"] * size}

    def fill(self, texts: list[str], seconds: float) -> dict[str, Any]:
        """Memories for one user, added by one thread."""
        many = getattr(self._system, "add_many", None)
        if many is None:
            return self._phase(texts, 1, seconds, lambda text, _: self._system.add(text, "ana"))
        return self.add_many(texts, 500, seconds)

    def search(self, texts: list[str], threads: int, seconds: float, user: str = "ana") -> dict[str, Any]:
        found = Counter[int]()

        def search(text: str, _: int) -> None:
            found[min(1, self._system.search(text, user))] += 1

        return self._phase(texts, threads, seconds, search) | {"empty": found[0]}

    def _phase(
        self, items: list[Any], threads: int, seconds: float, call: Callable[[Any, int], object]
    ) -> dict[str, Any]:
        line: Iterator[int] = count()
        calls: list[float] = []
        errors = Counter[str]()
        end = time.perf_counter() + seconds

        def work(number: int) -> None:
            # `next` of a count is one step of the interpreter: no two threads get the same item.
            while (place := next(line)) < len(items) and (began := time.perf_counter()) < end:
                try:
                    call(items[place], number)
                    calls.append(time.perf_counter() - began)
                except Exception as error:
                    errors[f"{type(error).__name__}: {str(error)[:100]}"] += 1

        taken = measure.run_threads(threads, work)
        return {
            "rate": len(calls) / taken, "done": len(calls), "errors": errors.total(),
            "error": errors.most_common(1)[0][0] if errors else None,
            **(measure.percentiles(calls) if calls else {}),
        }  # fmt: skip


def main() -> None:
    name, model, dimension = sys.argv[1:]
    # The libraries' output must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    system = SYSTEMS[name](Path(model), int(dimension))
    worker = Worker(system)
    versions = {name: measure.installed(name) for name in system.distributions}
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer = getattr(worker, task.pop("do"))(**task)
        except Exception as error:
            answer = {"failure": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)
    with suppress(Exception):
        worker.close()
    answers.flush()
    # Some of these libraries hang in their threads at the end; all answers have been sent.
    os._exit(0)


if __name__ == "__main__":
    main()
