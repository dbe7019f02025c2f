"""The models of this machine: lists them, describes them, and downloads others.

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
"""A callback that gets the file in progress, the bytes that are here, and the bytes of all files."""

find = find_model


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """An entry of the list of models.

    `name` is what `Memory(model=...)` takes. A model that is only "known" must be downloaded first. `about` describes
    it in a few words.
    """

    name: str
    where: Literal["bundled", "downloaded", "known"]
    dimension: int
    license: str
    revision: str
    about: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model: its path inside the folder, its size, and the sha256 that its card states. `whole` says
    whether the file has that checksum."""

    name: str
    bytes: int
    sha256: str
    whole: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The description of a model on this machine. `identity` is the text by which a store remembers it."""

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
    """Lists the bundled, the downloaded and the known models. Reads cards only, and never the network.

    Returns:
        The entries: bundled models, then downloaded ones, then models of the catalog that can be downloaded.
    """
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
    """Describes a model of this machine. Reads its files, and never the network.

    Args:
        name: A bundled or downloaded model, or a folder.

    Returns:
        Its use, licence, identity and files. A file with `whole=False` is damaged or missing.

    Raises:
        ModelError: It is not on this machine, or its card cannot be used.
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
    """Downloads `org/name` from the hub, once. On return it is on disk and verified.

    From then on, `Memory(model="org/name")` means exactly this revision on this machine. A model that is already here
    is only verified, without a request, unless a revision or a setting is given.

    Args:
        name: The repository, `org/name`, or `org/name@commit`.
        revision: A commit of 40 digits, which is what to write down for others. A branch or tag is resolved to its
            present commit. Without one: `main`.
        pooling: "cls", "mean" or "last", in place of the repository's own.
        query_prefix: The text put before queries, likewise.
        document_prefix: The text put before stored texts, likewise.
        max_tokens: The most tokens that the model reads of a text, likewise.
        dimension: The number of values kept of a vector, the first ones.
        endpoint: The hub; `HF_ENDPOINT` or the public hub without one.
        token: A token for the hub. Without one the request is anonymous: tokens in the environment or in files are not
            sent.
        timeout: Seconds to wait for another process that downloads the same.
        progress: `True` shows a bar. A function is called with the file, its bytes and the total bytes.

    Returns:
        The description of the model.

    Raises:
        ModelError: Offline (`AGENTMEM_OFFLINE`, `HF_HUB_OFFLINE`), refused, not found, not a model, damaged on the way,
            or the disk is full. Finished parts are kept, and the next call resumes.
        DeadlineError: The other process took longer than `timeout`.
        InvalidInputError: An argument cannot be used.
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

    from agentmem.embedding.download import download_model, is_whole  # Imported late, because it is the hub's library.

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
            if update is None:  # The total is known only now.
                update = stack.enter_context(progress_bar("B", total, shown=bool(progress)))
            update(here - had)
            had = here

        yield report


def remove(name: str) -> int:
    """Deletes a downloaded model and the remains of failed downloads. A memory that has it loaded keeps it.

    Args:
        name: `org/name` for all its revisions, or `org/name@commit` for one.

    Returns:
        The bytes freed.

    Raises:
        ModelError: No such model was downloaded, or it cannot be deleted.
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
