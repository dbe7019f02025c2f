"""A model's name -> its folder and what its `model.toml` says."""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmem.errors import ModelError
from agentmem.records import shorten

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model before it is loaded. `files` maps file names to sha256 in hexadecimal;
    `graph_optimization` is onnxruntime's level, "basic" for graphs that are written as they should run."""

    folder: Path
    name: str
    dimension: int
    max_tokens: int
    pooling: str
    normalize: bool
    query_prefix: str
    document_prefix: str
    graph_optimization: str
    files: dict[str, str]

    @property
    def looks_up(self) -> bool:
        """Whether the model only adds up what a table has of each token: next to no work beside the tokenizer's."""
        return self.pooling == "sum"

    @property
    def identity(self) -> str:
        """Changes whenever the vectors could: with the files, pooling, normalisation, prefixes or length."""
        parts = (
            self.files["model.onnx"], self.files["tokenizer.json"], self.pooling, self.normalize, self.query_prefix,
            self.document_prefix, self.max_tokens, self.dimension,
        )  # fmt: skip
        return f"{self.name}:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def find_model(name: str) -> ModelCard:
    """The card of a bundled model, or of a folder with `model.onnx`, `tokenizer.json` and `model.toml`. Reads only the
    card; `Model` verifies the files when it loads them.

    Raises:
        ModelError: there is no such model, or its card is damaged.
    """
    # os.path, because Path raises on names that no file can have: too long, with NUL or a lone surrogate.
    folders = [*(str(root / name) for root in _bundled_roots()), os.path.expanduser(name)]  # noqa: PTH111
    for folder in folders:
        if os.path.isfile(os.path.join(folder, "model.toml")):  # noqa: PTH113, PTH118
            return _read_card(Path(folder))
    raise ModelError(
        f"There is no model {shorten(name)}; choose one of {', '.join(bundled_models())}, or pass a folder with "
        "model.onnx, tokenizer.json and model.toml."
    )


def bundled_models() -> list[str]:
    return sorted({card.parent.name for root in _bundled_roots() for card in root.glob("*/model.toml")})


def _bundled_roots() -> tuple[Path, ...]:
    """Where the models are: inside an installed package, beside it in a checkout."""
    return (PACKAGE / "models", PACKAGE.parent / "models")


def _read_card(folder: Path) -> ModelCard:
    path = folder / "model.toml"
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        return ModelCard(
            folder=folder,
            name=str(values["name"]),
            dimension=_count(values["dimension"]),
            max_tokens=_count(values["max_tokens"]),
            pooling=str(values["pooling"]),
            normalize=bool(values["normalize"]),
            query_prefix=str(values["query_prefix"]),
            document_prefix=str(values["document_prefix"]),
            graph_optimization=str(values.get("graph_optimization", "all")),
            files={"model.onnx": str(values["files"]["model.onnx"]),
                   "tokenizer.json": str(values["files"]["tokenizer.json"])},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as a model card ({error!r}); reinstall the model.") from error


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_536:
        raise ValueError(f"{value!r} is not a whole number from 1 to 65,536")
    return value


def read_verified(card: ModelCard, file: str) -> bytes:
    """A file of the model, whole.

    Raises:
        ModelError: it is missing, or its sha256 is not the card's.
    """
    path = card.folder / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"The model file {str(path)!r} cannot be read ({error.strerror}); reinstall it.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.files[file]:
        raise ModelError(
            f"The model file {str(path)!r} is damaged: its sha256 is {digest}, not {card.files[file]}; reinstall it."
        )
    return data
