"""`export`: the memories of one moment into a file."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from agentmem.deadline import Deadline
from agentmem.embedding.embedder import Embedder
from agentmem.engine.engine import Engine
from agentmem.errors import InvalidInputError
from agentmem.filters import Filter
from agentmem.progress import with_progress
from agentmem.records import Embedded, Record, Scope
from agentmem.transfer.files import target_of
from agentmem.transfer.jsonl import VectorModel, header_of, line_of

PAGE = 1000
"""Memories that are written together."""


def export(
    engine: Engine,
    scope: Scope,
    filters: Filter | None,
    file: Any,
    *,
    vectors: bool,
    show_expired: bool,
    overwrite: bool,
    progress: bool,
    timeout: float,
) -> int:
    """Writes them and returns how many it were; see `Memory.export`."""
    model = model_of(engine.embedder) if vectors else None
    if vectors and model is None:
        raise InvalidInputError("The store has no vectors yet, of no model; export without vectors.")
    count = 0
    with target_of(file, engine.store.path, overwrite=overwrite) as write:
        pages = engine.store.cursor(
            scope, filters, show_expired=show_expired, digest_of=engine.embedder.digest if vectors else None,
            deadline=Deadline(timeout),
        )  # fmt: skip
        write(header_of(model))
        lines: Iterator[bytes] = (_line(engine, *row) for page in pages for row in page)
        shown: Iterator[bytes] = iter(with_progress(lines, "memories")) if progress else lines
        while page := list(islice(shown, PAGE)):
            write(b"".join(page))
            count += len(page)
    return count


def _line(engine: Engine, record: Record, embedded: Embedded | None) -> bytes:
    if embedded is not None:  # The reader of the file may be of another home.
        embedded = replace(embedded, digest=engine.embedder.text_digest(record.content))
    return line_of(record, embedded)


def model_of(embedder: Embedder) -> VectorModel | None:
    """The model of the store's vectors; None when it is opened without a model and has none."""
    if embedder.absent and embedder.identity == "none":
        return None
    return VectorModel(embedder.identity, embedder.name, embedder.dimension)
