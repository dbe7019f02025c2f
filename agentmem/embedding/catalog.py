"""A model's name -> its card: bundled, a folder, or downloaded from a hub. Nothing here reaches the network."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agentmem.embedding.model_card import CARD, ModelCard, read_card, write_whole
from agentmem.embedding.sentence_transformers import MODEL_FILES
from agentmem.errors import ModelError
from agentmem.quoting import shorten

PACKAGE = Path(__file__).resolve().parent.parent
PIN = "revision"
"""The file in a downloaded repository's folder that says which of its revisions the bare name means."""

HUB_NAME = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@\s]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A repository of the hub whose use is known. What its own files do not say (prefixes), or might not."""

    dimension: int
    pooling: str
    query_prefix: str
    document_prefix: str
    max_tokens: int
    license: str
    languages: str


KNOWN = {
    "BAAI/bge-small-en-v1.5": KnownModel(
        384, "cls", "Represent this sentence for searching relevant passages: ", "", 512, "mit", "English"
    ),
    "intfloat/e5-small-v2": KnownModel(384, "mean", "query: ", "passage: ", 512, "mit", "English"),
    "intfloat/multilingual-e5-small": KnownModel(
        384, "mean", "query: ", "passage: ", 512, "mit", "some hundred languages"
    ),
    "BAAI/bge-small-zh-v1.5": KnownModel(
        512, "cls", "为这个句子生成表示以用于检索相关文章：", "", 512, "mit", "Chinese"  # noqa: RUF001
    ),
}  # fmt: skip


def find_model(name: str, *, dimension: int | None = None) -> ModelCard:
    """Returns the card of a model on this machine. Never reaches the network.

    A bundled name comes before a folder, and a folder before the hub. A folder has the graph (`model.onnx` or
    `onnx/model.onnx`) and `tokenizer.json`. What neither its `model.toml` nor the files of sentence-transformers state
    is found by hashing and running the model, which takes a moment.

    Args:
        name: A bundled model, a folder, or a downloaded repository. `org/name` is the revision downloaded last,
            `org/name@` with the 40 digits of a commit is that one.
        dimension: The number of values kept of a vector, the first ones; all by default.

    Returns:
        The card.

    Raises:
        ModelError: There is no such model here (the message says how to download it), or its card is damaged.
    """
    folder = _folder_of(name)
    if folder is None:
        raise _unknown(name)
    card = read_card(folder)
    if dimension is None:
        return card
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= card.dimension:
        raise ModelError(f"dimension is {shorten(dimension)}; {card.name!r} has 1 to {card.dimension}.")
    if dimension == card.dimension:
        return card
    return replace(card, dimension=dimension, cut=True, fast_share=0.0)  # The first numbers may not be the fast half.


def _folder_of(name: str) -> Path | None:
    # os.path, because Path raises on names that no file can have: too long, with NUL or a lone surrogate.
    for root in _bundled_roots():
        if os.path.isfile(os.path.join(root, name, CARD)):  # noqa: PTH113, PTH118
            return root / name
    folder = os.path.expanduser(name)  # noqa: PTH111
    for file in (CARD, *MODEL_FILES):
        if os.path.isfile(os.path.join(folder, file)):  # noqa: PTH113, PTH118
            return Path(folder)
    match = HUB_NAME.fullmatch(name)
    if match and (revision := match["revision"] or pinned(match["repository"])) and COMMIT.fullmatch(revision):
        folder = os.path.join(models_folder(), match["repository"], revision)  # noqa: PTH118
        if os.path.isfile(os.path.join(folder, CARD)):  # noqa: PTH113, PTH118
            return Path(folder)
    return None


def _unknown(name: str) -> ModelError:
    match = HUB_NAME.fullmatch(name)
    if match and match["revision"] and not COMMIT.fullmatch(match["revision"]):
        return ModelError(
            f"The revision {shorten(match['revision'])} of {match['repository']!r} could move; give the 40 digits of "
            f"its commit, or download it (agentmem models download {name}) and name it {match['repository']!r} alone."
        )
    if match:
        return ModelError(
            f"There is no model {shorten(name)} on this machine, and nothing is fetched unasked; run once: agentmem "
            f"models download {name}"
        )
    same = [known for known in KNOWN if known.partition("/")[2] == name]
    meant = f"perhaps {same[0]!r} is meant; " if same else ""
    return ModelError(
        f"There is no model {shorten(name)}; {meant}choose one of {', '.join(bundled_models())}, a repository of the "
        f"hub such as {next(iter(KNOWN))}, or pass a folder with model.onnx and tokenizer.json."
    )


def bundled_models() -> list[str]:
    return sorted({card.parent.name for root in _bundled_roots() for card in root.glob(f"*/{CARD}")})


def models_folder() -> Path:
    """Where downloaded models are kept: `AGENTMEM_MODELS`, else `agentmem/models` in the user's cache folder."""
    if given := os.environ.get("AGENTMEM_MODELS"):
        return Path(os.path.expanduser(given))  # noqa: PTH111
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return Path(cache) / "agentmem" / "models"


def pinned(repository: str) -> str | None:
    """The commit that the bare name of a repository means here; None: nothing of it was downloaded."""
    try:
        commit = (models_folder() / repository / PIN).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def pin(repository: str, commit: str) -> None:
    """From now on, on this machine, the bare name of the repository means this commit. Raises: ModelError."""
    if pinned(repository) == commit:
        return
    path = models_folder() / repository / PIN
    try:
        write_whole(path, commit + "\n")
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be written ({error.strerror}).") from error


def downloaded_models() -> Iterator[tuple[str, str]]:
    """Every repository and revision that was downloaded, in order."""
    for path in sorted(models_folder().glob(f"*/*/*/{CARD}")):
        if COMMIT.fullmatch(path.parent.name):
            yield f"{path.parts[-4]}/{path.parts[-3]}", path.parent.name


def _bundled_roots() -> tuple[Path, ...]:
    """Where the models are: inside the package, and beside it in a checkout whose links to there were lost."""
    return (PACKAGE / "models", PACKAGE.parent / "models")
