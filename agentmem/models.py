"""The models of this machine: which there are, what is known of them, and how to get others.

    from agentmem import models

    models.download("BAAI/bge-small-en-v1.5", revision="<40 digits of a commit>")
    with Memory("agent.db", model="BAAI/bge-small-en-v1.5") as memory:
        ...

Only `download` ever reaches the network.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from agentmem.embedding.catalog import (
    COMMIT,
    HUB_NAME,
    KNOWN,
    PIN,
    bundled_models,
    downloaded_models,
    find_model,
    models_folder,
    pin,
    pinned,
)
from agentmem.embedding.model_card import CARD, ModelCard, check_values, read_file
from agentmem.errors import InvalidInputError, ModelError
from agentmem.progress import progress as progress_bar
from agentmem.quoting import shorten

__all__ = ["ModelEntry", "ModelFile", "ModelInfo", "available", "download", "find", "info", "remove"]

Report = Callable[[str, int, int], object]
"""Told, again and again, of the file that is coming, the bytes that are here, and those of all files."""

find = find_model


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A line of the list of models. `name` is what `Memory(model=...)` takes; one that is only known has to be
    downloaded first. `about` says in a few words what it is."""

    name: str
    where: Literal["bundled", "downloaded", "known"]
    dimension: int
    license: str
    revision: str
    about: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model: its path inside the folder, its size, the sha256 that its card states, and whether it has
    it."""

    name: str
    bytes: int
    sha256: str
    whole: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model on this machine. `identity` is what a store remembers of it."""

    name: str
    folder: str
    files: tuple[ModelFile, ...]
    dimension: int
    max_tokens: int
    pooling: str
    query_prefix: str
    document_prefix: str
    license: str
    source: str
    revision: str
    identity: str


def available() -> list[ModelEntry]:
    """The bundled models, those downloaded, and those whose use is known and that can be. Reads cards only."""
    entries = [_entry(find_model(name), "bundled", name, "in the package") for name in bundled_models()]
    names = set()
    for repository, commit in downloaded_models():
        names.add(repository)
        name = repository if pinned(repository) == commit else f"{repository}@{commit}"
        try:
            entries.append(_entry(find_model(f"{repository}@{commit}"), "downloaded", name, "downloaded"))
        except ModelError:
            entries.append(ModelEntry(name, "downloaded", 0, "", commit, "damaged: download it again"))
    entries += [
        ModelEntry(name, "known", known.dimension, known.license, "", known.languages)
        for name, known in KNOWN.items()
        if name not in names
    ]
    return entries


def _entry(card: ModelCard, where: Literal["bundled", "downloaded"], name: str, about: str) -> ModelEntry:
    return ModelEntry(name, where, card.dimension, card.license, card.revision, about)


def info(name: str) -> ModelInfo:
    """What is known of a model: bundled, downloaded, or a folder. Reads its files, and says which are damaged.

    Raises:
        ModelError: it is not on this machine, or its card cannot be used.
    """
    card = find_model(name)
    return ModelInfo(
        name=card.name,
        folder=str(card.folder),
        files=tuple(_file(card, file) for file in card.files),
        dimension=card.dimension,
        max_tokens=card.max_tokens,
        pooling=card.pooling,
        query_prefix=card.query_prefix,
        document_prefix=card.document_prefix,
        license=card.license,
        source=card.source,
        revision=card.revision,
        identity=card.identity,
    )


def _file(card: ModelCard, name: str) -> ModelFile:
    try:
        data = read_file(card, name)
    except ModelError:
        return ModelFile(name, 0, card.files[name], whole=False)
    return ModelFile(name, len(data), card.files[name], hashlib.sha256(data).hexdigest() == card.files[name])


def download(
    name: str,
    *,
    revision: str | None = None,
    pooling: str | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    max_tokens: int | None = None,
    dimension: int | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    timeout: float = 600,
    progress: bool | Report = False,
) -> ModelInfo:
    """Fetches `org/name` from the hub, once: on return it is on disk, verified, and `Memory(model="org/name")` means
    exactly this revision from now on, on this machine. One that is there already is only verified, without a request,
    unless a revision or a setting is given.

    `revision` is a commit of 40 digits (also as `org/name@commit`), which is what to write down for others, or a branch
    or tag, which is turned into the commit that it means now; without one, `main`. `pooling`, the prefixes,
    `max_tokens` and `dimension` (a smaller one keeps the first numbers) count more than what the repository says.

    The hub is `endpoint`, or `HF_ENDPOINT`, or the public one. It is asked anonymously unless a `token` is passed: one
    that lies in the environment or in a file stays there. `progress=True` shows a bar; a function is told instead.
    Waits up to `timeout` seconds for another process that downloads the same.

    Raises:
        ModelError: offline (`AGENTMEM_OFFLINE`, `HF_HUB_OFFLINE`), refused, not found, not a model, damaged on the way,
            or the disk is full; what came is kept, and the next call goes on from there.
        DeadlineError: the other process took longer than `timeout`.
        InvalidInputError: an argument cannot be used.
    """
    match = HUB_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise InvalidInputError(f"{shorten(name)} is not the name of a repository, such as {next(iter(KNOWN))}.")
    if revision is not None and match["revision"] not in (None, revision):
        raise InvalidInputError(f"{shorten(name)} names another revision than {shorten(revision)}; drop one of them.")
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise InvalidInputError(f"revision is {shorten(revision)}; pass a commit, a branch or a tag.")
    if not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise InvalidInputError(f"timeout is {shorten(timeout)}; pass seconds.")
    given = {
        "pooling": pooling, "query_prefix": query_prefix, "document_prefix": document_prefix,
        "max_tokens": max_tokens, "dimension": dimension,
    }  # fmt: skip
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        check_values(settings)
    except ValueError as error:
        raise InvalidInputError(f"The model cannot be used like this: {error}.") from error
    repository, revision = match["repository"], revision or match["revision"]

    from agentmem.embedding.download import download_model, is_whole  # Late: the hub's library.

    commit = revision or pinned(repository)
    if commit and COMMIT.fullmatch(commit) and not settings and is_whole(models_folder() / repository / commit):
        pin(repository, commit)
        return info(f"{repository}@{commit}")
    with _reporter(progress) as report:
        folder = download_model(
            repository,
            revision or commit or "main",
            settings=settings,
            endpoint=endpoint,
            token=token,
            timeout=timeout,
            report=report,
        )
    return info(f"{repository}@{folder.name}")


@contextmanager
def _reporter(progress: bool | Report) -> Iterator[Report]:
    if not isinstance(progress, bool):
        yield progress
        return
    had = 0
    with ExitStack() as stack:
        update: Callable[[int], object] | None = None

        def report(file: str, here: int, total: int) -> None:
            nonlocal had, update
            if update is None:  # Only now the total is known.
                update = stack.enter_context(progress_bar("B", total, shown=bool(progress)))
            update(here - had)
            had = here

        yield report


def remove(name: str) -> int:
    """Deletes a downloaded model, `org/name` with all its revisions or `org/name@commit`, and what was left of
    attempts. Returns the bytes that are free now. A memory that has it loaded goes on.

    Raises:
        ModelError: nothing of that name was downloaded, or it cannot be deleted.
    """
    match = HUB_NAME.fullmatch(name) if isinstance(name, str) else None
    repository = models_folder() / match["repository"] if match else None
    folder = repository / match["revision"] if repository and match and match["revision"] else repository
    if match is None or folder is None or repository is None or not folder.is_dir():
        raise ModelError(f"Nothing of the name {shorten(name)} was downloaded to {str(models_folder())!r}.")
    if match["revision"] and not (COMMIT.fullmatch(match["revision"]) and (folder / CARD).is_file()):
        raise ModelError(f"{shorten(name)} is not a downloaded revision; pass the 40 digits of its commit.")
    freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        shutil.rmtree(folder)
        if match["revision"] and pinned(match["repository"]) == match["revision"]:
            (repository / PIN).unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{error.filename!r} cannot be deleted ({error.strerror}).") from error
    return freed
