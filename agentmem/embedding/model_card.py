"""What is known of a model before it is loaded: its card, made of `model.toml` and what lies beside it."""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentmem.embedding.sentence_transformers import (
    MODEL_FILES,
    POOLINGS,
    TOKENIZER_FILE,
    USUAL_TOKENS,
    describe,
    is_inside,
)
from agentmem.errors import ModelError

CARD = "model.toml"

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the small text begins that Git LFS leaves in the place of a file."""
OWN = ".own"
"""Ends the name of a file that has what a model's file does not share with files of other models."""

Part = tuple[str, int, int]
"""Of a file: the file that has it (beside the model's folder; "": the model's own rest), where it starts, its bytes."""

_TEXTS = ("name", "source", "revision", "license", "pooling", "query_prefix", "document_prefix", "graph_optimization")
_COUNTS = ("dimension", "max_tokens")
_KEYS = {*_TEXTS, *_COUNTS, "position_offset", "normalize", "fast_share", "files", "parts"}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model before it is loaded.

    - `files`: the paths of the graph and of the tokenizer, relative to the folder, to their sha256 in hexadecimal.
    - `parts`: of files that share most of their bytes with those of other models, and are put together.
    - `graph_optimization`: onnxruntime's level; "basic" for graphs that are written as they should run.
    - `cut`: the graph may give more than `dimension` numbers, of which the first are taken ("matryoshka" models).
    - `named`: the folder has a name of its own. One without may be moved.
    - `fast_share`: the graph has an output `fast`, cheap where the input `whole` (bool) is false. It has length one and
      `dimension` numbers. A whole vector is the square root of the share times it, plus something orthogonal.
    """

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
    position_offset: int = 0
    fast_share: float = 0.0
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    cut: bool = False
    named: bool = True
    source: str = ""
    revision: str = ""
    license: str = ""

    @property
    def looks_up(self) -> bool:
        """Whether the model only adds up what a table has of each token: next to no work beside the tokenizer's."""
        return self.pooling == "sum"

    @property
    def graph(self) -> str:
        """The graph's path, relative to the folder."""
        return next(name for name in self.files if name.endswith(".onnx"))

    @property
    def identity(self) -> str:
        """Changes whenever the vectors could: with files, pooling, normalisation, prefixes, length, cut, fast half."""
        parts: tuple[object, ...] = (
            self.files[self.graph], self.files[TOKENIZER_FILE], self.pooling, self.normalize, self.query_prefix,
            self.document_prefix, self.max_tokens, self.dimension,
        )  # fmt: skip
        if self.position_offset:
            parts += (self.position_offset,)
        if self.fast_share:
            parts += ("fast_share", self.fast_share)
        return f"{self.name if self.named else 'folder'}:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def read_card(folder: Path, settings: Mapping[str, Any] | None = None) -> ModelCard:
    """The card of a folder: its `model.toml`, whose word counts most; the other files; the model itself. `settings` are
    keys of a `model.toml` that count more still.

    Raises:
        ModelError: what is there cannot be used.
    """
    stated: dict[str, Any] = {}
    path = folder / CARD
    try:
        if path.is_file():
            stated = tomllib.loads(path.read_text("utf-8"))
        stated |= settings or {}
        check_values(stated)
        files = _files(folder, stated)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{str(path)!r} cannot be read as a model card ({error}); correct it, or reinstall the model."
        ) from error
    return _complete(folder, stated, files)


def check_values(stated: Mapping[str, Any]) -> None:
    """Whether these can be the values of a card. Raises: ValueError, which names the one that cannot."""
    if unknown := sorted(set(stated) - _KEYS):
        raise ValueError(f"unknown keys {unknown}")
    for key in _TEXTS:
        if not isinstance(stated.get(key, ""), str):
            raise ValueError(f"{key} is {stated[key]!r}, not a text")
    for key in _COUNTS:
        count(stated.get(key, 1))
    if not isinstance(offset := stated.get("position_offset", 0), int) or not 0 <= offset <= 65_536:
        raise ValueError(f"position_offset is {offset!r}")
    if not isinstance(share := stated.get("fast_share", 0.0), int | float) or not 0 <= share < 1:
        raise ValueError(f"fast_share is {share!r}, not a share between 0 and 1")
    _check_parts(stated.get("parts", {}))
    if stated.get("pooling", "mean") not in POOLINGS:
        raise ValueError(f"pooling is {stated['pooling']!r}, not one of {', '.join(POOLINGS)}")


def _check_parts(parts: Any) -> None:
    if not isinstance(parts, dict):
        raise ValueError(f"parts is {parts!r}")
    for name, listed in parts.items():
        for file, start, size in listed:
            if file and not is_inside(file):
                raise ValueError(f"a part of {name} is in {file!r}, outside the models")
            if not (isinstance(start, int) and isinstance(size, int) and start >= 0 and size >= 0):
                raise ValueError(f"a part of {name} is {size!r} bytes from {start!r} on")


def _files(folder: Path, stated: Mapping[str, Any]) -> dict[str, str] | None:
    """The checksums that the card has; None: it has none."""
    if "files" not in stated:
        return None
    files = stated["files"]
    if not isinstance(files, dict) or TOKENIZER_FILE not in files:
        raise ValueError(f"files must have {TOKENIZER_FILE}")
    graphs = [name for name in MODEL_FILES if name in files]
    if not graphs:
        raise ValueError(f"files must have one of {', '.join(MODEL_FILES)}")
    chosen = {name: files[name] for name in (graphs[0], TOKENIZER_FILE)}
    for name, digest in chosen.items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"the sha256 of {name} is {digest!r}")
    return chosen


def _complete(folder: Path, stated: dict[str, Any], files: dict[str, str] | None) -> ModelCard:
    # A card that says all this needs no other file.
    told = {} if {"dimension", "max_tokens", "pooling"} <= set(stated) else describe(folder)
    values = told | stated
    card = ModelCard(
        folder=folder,
        name=stated.get("name") or folder.resolve().name,
        named=bool(stated.get("name")),
        dimension=values.get("dimension", 0),
        cut="dimension" in stated,
        max_tokens=values.get("max_tokens", USUAL_TOKENS),
        pooling=values.get("pooling", "graph"),
        normalize=bool(values.get("normalize", True)),
        query_prefix=values.get("query_prefix", ""),
        document_prefix=values.get("document_prefix", ""),
        graph_optimization=values.get("graph_optimization", "all"),
        files=files or checksums(folder),
        position_offset=values.get("position_offset", 0),
        fast_share=float(values.get("fast_share", 0.0)),
        parts=values.get("parts", {}),
        source=values.get("source", ""),
        revision=values.get("revision", ""),
        license=values.get("license", ""),
    )
    if card.dimension:
        return card
    from agentmem.embedding.onnx_model import width_of  # Late: onnxruntime; and that module reads cards.

    return replace(card, dimension=width_of(card))


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of the folder's graph and tokenizer. Reads them whole.

    Raises:
        ModelError: one of them is missing or cannot be read.
    """
    graph = next((name for name in MODEL_FILES if (folder / name).is_file()), MODEL_FILES[0])
    return {name: hashlib.sha256(_bytes_of(folder / name)).hexdigest() for name in (graph, TOKENIZER_FILE)}


def write_card(card: ModelCard, about: str) -> None:
    """Writes the folder's `model.toml`, whole and in place of an older one. Raises: OSError, ModelError."""
    lines = [f"# {line}" for line in about.splitlines()]
    keys = sorted(_KEYS - {"files", "parts"}, key=list(ModelCard.__slots__).index)
    lines += [f"{key} = {_toml(getattr(card, key))}" for key in keys]
    lines += ["", "[files]", *(f"{_toml(name)} = {_toml(digest)}" for name, digest in card.files.items()), ""]
    write_whole(card.folder / CARD, "\n".join(lines))


def write_whole(path: Path, text: str) -> None:
    """Writes a small file that is there whole or not at all, also after a power cut. Raises: OSError, ModelError."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"{str(path)!r} would hold a text that is not Unicode ({error}).") from error
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _toml(value: str | float | bool) -> str:
    # JSON's literals are TOML's, but for one character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def count(value: Any) -> int:
    """The value, if it can be a number of dimensions or tokens. Raises: ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_536:
        raise ValueError(f"{value!r} is not a whole number from 1 to 65,536")
    return value


def read_verified(card: ModelCard, file: str) -> bytes:
    """A file of the model, whole.

    Raises:
        ModelError: it is missing, or its sha256 is not the card's.
    """
    data = read_file(card, file)
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.files[file]:
        raise ModelError(
            f"The model file {str(card.folder / file)!r} is damaged: its sha256 is {digest}, not {card.files[file]}; "
            "reinstall it."
        )
    return data


def read_file(card: ModelCard, file: str) -> bytes:
    """A file of the model, whole, put together where it is in parts, and not verified.

    Raises:
        ModelError: it is missing or cannot be read.
    """
    if file not in card.parts:
        return _bytes_of(card.folder / file)
    paths = {name: card.folder.parent / name if name else card.folder / (file + OWN) for name, _, _ in card.parts[file]}
    files = {name: memoryview(_bytes_of(path)) for name, path in paths.items()}
    return b"".join(files[name][start : start + size] for name, start, size in card.parts[file])


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"The model file {str(path)!r} cannot be read ({error.strerror}); reinstall it.") from error
    if data.startswith(LFS_POINTER):
        raise ModelError(f"The model file {str(path)!r} is a pointer of Git LFS; fetch the file itself (git lfs pull).")
    return data
