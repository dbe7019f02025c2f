"""A repository of a hub becomes a model on this machine: only the files needed, verified, in a folder of their own."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentmem.embedding.catalog import KNOWN, models_folder, pin
from agentmem.embedding.hub import (
    Hub,
    Listing,
    RemoteFile,
    fetch,
    incomplete_path,
    list_files,
    size_of,
    usual_endpoint,
    waiting_lock,
)
from agentmem.embedding.model_card import CARD, read_card, read_verified, write_card
from agentmem.embedding.sentence_transformers import DESCRIPTIONS, MODEL_FILES, TOKENIZER_FILE, is_inside, pooling_file
from agentmem.errors import AgentMemError, ModelError

OFFLINE = ("AGENTMEM_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = ("1", "ON", "YES", "TRUE")

MOST_DESCRIPTION_BYTES = 100_000_000
"""Largest file that is fetched beside the graph; the largest tokenizers have a fifth of it."""

Report = Callable[[str, int, int], object]
"""Told of the file that is coming, the bytes that are here, and those of all files."""


def download_model(
    repository: str,
    revision: str,
    *,
    settings: Mapping[str, Any],
    endpoint: str | None,
    token: str | None,
    timeout: float,
    report: Report,
) -> Path:
    """The folder of a repository's model on this machine, fetched as far as it is not there. On return all files are on
    disk and verified, the model was run once, a card with the checksums stands beside it, and the repository's bare
    name means this revision. What an earlier attempt left is gone on with. `settings` are keys of the card that count
    more than what the repository says.

    Waits for the hub, and up to `timeout` seconds for another process that fetches the same repository.

    Raises:
        ModelError: offline, refused, not found, not a model, damaged, or the disk is full; a retry goes on from there.
        DeadlineError: the other process took longer.
    """
    if variable := next((name for name in OFFLINE if os.environ.get(name, "").upper() in TRUE), None):
        raise ModelError(f"{repository!r} cannot be downloaded while {variable} is set; unset it, or copy its folder.")
    hub = Hub.of((endpoint or os.environ.get("HF_ENDPOINT") or usual_endpoint()).rstrip("/"), token)
    folder = models_folder() / repository
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with waiting_lock(folder, timeout):
            listing = list_files(hub, repository, revision)
            final, begun = folder / listing.commit, folder / f"{listing.commit}.partial"
            if settings or not is_whole(final):
                if final.is_dir():
                    shutil.rmtree(begun, ignore_errors=True)
                    final.rename(begun)
                begun.mkdir(exist_ok=True)
                _fetch_needed(hub, repository, listing, begun, report)
                _finish(hub, repository, listing, begun, settings)
                begun.rename(final)
            pin(repository, listing.commit)
            for left in folder.glob("*.partial"):  # Of other commits, begun and given up.
                shutil.rmtree(left, ignore_errors=True)
            return final
    except AgentMemError:
        raise
    except OSError as error:
        raise ModelError(
            f"{error.filename or str(folder)!r} cannot be written ({error.strerror or error}); make room, or set "
            "AGENTMEM_MODELS to another folder, and download again: what is there is kept."
        ) from error


def is_whole(folder: Path) -> bool:
    """Whether a downloaded model is there and none of its files is damaged. Reads them."""
    if not (folder / CARD).is_file():
        return False
    try:
        card = read_card(folder)
        for file in card.files:
            read_verified(card, file)
    except ModelError:
        return False
    return True


def _fetch_needed(hub: Hub, repository: str, listing: Listing, folder: Path, report: Report) -> None:
    graph = next((name for name in MODEL_FILES if name in listing.files), None)
    if graph is None or TOKENIZER_FILE not in listing.files:
        lacking = f"ONNX model ({', '.join(MODEL_FILES)})" if graph is None else TOKENIZER_FILE
        raise ModelError(
            f"{repository!r} has no {lacking}; choose a repository that has, or export the model yourself (optimum-cli "
            "export onnx) and pass the folder."
        )
    if f"{graph}_data" in listing.files:
        raise ModelError(f"{repository!r} keeps its weights in a second file, which is not supported; choose another.")
    wanted = [listing.files[name] for name in DESCRIPTIONS if name in listing.files]
    _fetch_some(hub, repository, listing.commit, wanted, folder, lambda *_: None)  # They are small.
    pooling = pooling_file(folder)
    if pooling in listing.files:
        wanted.append(listing.files[pooling])
    wanted += [listing.files[TOKENIZER_FILE], listing.files[graph]]
    _fetch_some(hub, repository, listing.commit, wanted, folder, report)


def _fetch_some(
    hub: Hub, repository: str, commit: str, files: Sequence[RemoteFile], folder: Path, report: Report
) -> None:
    for file in files:
        if not is_inside(file.name) or file.size < 0 or not (file.sha256 or file.git):
            raise ModelError(f"{hub.name} lists {file.name!r} of {repository!r} without size or checksum; try again.")
        if not file.name.endswith(".onnx") and file.size > MOST_DESCRIPTION_BYTES:
            raise ModelError(f"{file.name!r} of {repository!r} has {file.size:,} bytes, far too many; choose another.")
    total = sum(file.size for file in files)
    missing = [file for file in files if not file.matches(folder / file.name)]
    done = total - sum(file.size for file in missing)
    needed = sum(file.size - size_of(incomplete_path(folder, file)) for file in missing)
    if needed > (free := shutil.disk_usage(folder).free):
        raise ModelError(
            f"The disk of {str(folder)!r} has {free:,} bytes left, and {repository!r} needs {needed:,}; make room, or "
            "set AGENTMEM_MODELS to a folder elsewhere."
        )
    for file in missing:
        fetch(hub, repository, commit, file, folder, partial(_report, report, file.name, done, total))
        done += file.size


def _report(report: Report, name: str, before: int, total: int, here: int) -> None:
    report(name, before + here, total)


def _finish(hub: Hub, repository: str, listing: Listing, folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the card, once the model has shown that it can be run."""
    from agentmem.embedding.onnx_model import width_of  # Late: onnxruntime.

    stated: dict[str, Any] = {"name": repository, "source": f"{hub.name}/{repository}", "revision": listing.commit}
    if known := KNOWN.get(repository):
        stated |= {"dimension": known.dimension, "max_tokens": known.max_tokens, "pooling": known.pooling,
                   "query_prefix": known.query_prefix, "document_prefix": known.document_prefix}  # fmt: skip
    stated["license"] = listing.license or (known.license if known else "")
    (folder / CARD).unlink(missing_ok=True)
    card = read_card(folder, stated | dict(settings))
    if (width := width_of(card)) != card.dimension:
        raise ModelError(f"{repository!r} gives {width} numbers a text, not {card.dimension}; state its dimension.")
    write_card(card, "Written when this model was downloaded; the checksums pin it.")
