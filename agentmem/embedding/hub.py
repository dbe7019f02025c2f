"""A hub of models, as huggingface_hub reaches it: what a repository holds, and the transfer of its files. The only
importer of that library, of which it takes the session, the addresses, the errors and the lock.

Each request is built here, and so says no more than it must: no token but one that was passed, and nothing about this
process, which the library's own headers would tell (and ask the hub how to tell).
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from agentmem.embedding.catalog import COMMIT
from agentmem.errors import DeadlineError, InvalidInputError, ModelError
from agentmem.quoting import split_credentials

SILENCE_SECONDS = 30
"""How long a hub may say nothing at all before it is given up."""
MOST_RESUMES = 5
"""How often a file whose transfer broke off is gone on with at once, as long as each attempt brought some of it."""


def usual_endpoint() -> str:
    """The address of the hub, where the environment names none."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it, with its checksum: sha256 where it is large, git's where not."""

    name: str
    size: int
    sha256: str | None
    git: str | None

    def matches(self, path: Path) -> bool:
        """Whether the file at the path is this one. Reads it whole."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
                git.update(block)
        return self.sha256 == sha256.hexdigest() if self.sha256 else self.git == git.hexdigest()


@dataclass(frozen=True, slots=True)
class Hub:
    """The address to ask, and the token that was passed or the user in the address. The user is never a part of
    `endpoint`, which is shown, kept, and in the errors and logs of the libraries below."""

    endpoint: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, address: str, token: str | None) -> "Hub":
        """Raises: InvalidInputError when the token is none."""
        endpoint, who = split_credentials(address)
        if token is not None and not (isinstance(token, str) and re.fullmatch(r"[!-~]*", token)):
            raise InvalidInputError("The token holds characters that no token has, such as spaces; pass it without.")
        return cls(endpoint, who or (f"Bearer {token}" if token else None))

    @property
    def name(self) -> str:
        """The endpoint as it may be shown and kept."""
        return self.endpoint

    @property
    def headers(self) -> dict[str, str]:
        headers = {"user-agent": "agentmem", "accept-encoding": "identity"}
        return headers | ({"authorization": self.authorization} if self.authorization else {})


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit."""

    commit: str
    license: str
    files: dict[str, RemoteFile]


def list_files(hub: Hub, repository: str, revision: str) -> Listing:
    """What a repository holds at a revision: a branch, a tag or a commit, of which it gives the commit.

    Raises:
        ModelError: the hub cannot be reached, refuses, or answers with nonsense.
    """
    where = f"{hub.endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}"
    with _asked(hub, where, {}, params={"blobs": "true"}) as response:
        try:
            answer = json.loads(b"".join(_chunks(response)))
            siblings = answer["siblings"]
            commit, card = str(answer["sha"]), answer.get("cardData") or {}
            files = {str(entry["rfilename"]): _remote_file(entry) for entry in siblings}
        except _BrokenOffError as error:
            raise _unreachable(hub, error) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{hub.name} does not answer like a hub ({error!r}); check HF_ENDPOINT.") from error
    if not COMMIT.fullmatch(commit) or (COMMIT.fullmatch(revision) and commit != revision):
        raise ModelError(f"{hub.name} gave the commit {commit[:80]!r} of {repository!r} for {revision!r}; try again.")
    terms = card.get("license") if isinstance(card, dict) else None
    return Listing(commit, terms if isinstance(terms, str) else "", files)


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    large = entry.get("lfs") or {}
    size = large.get("size", entry.get("size"))
    sha256, git = large.get("sha256"), None if large else entry.get("blobId")
    return RemoteFile(
        str(entry["rfilename"]),
        size if isinstance(size, int) and size >= 0 else -1,
        sha256 if isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) else None,
        git if isinstance(git, str) and COMMIT.fullmatch(git) else None,
    )


def _address(hub: Hub, repository: str, commit: str, name: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, name, revision=commit, endpoint=hub.endpoint)


def incomplete_path(folder: Path, file: RemoteFile) -> Path:
    """Where the file is while it comes."""
    return folder / f"{file.name}.incomplete"


def size_of(path: Path) -> int:
    """0 without a file."""
    return path.stat().st_size if path.is_file() else 0


def fetch(
    hub: Hub, repository: str, commit: str, file: RemoteFile, folder: Path, report: Callable[[int], object]
) -> None:
    """One file, from where an earlier attempt stopped; on return it is on disk, verified, and has its name. `report` is
    told how many bytes are here.

    Raises:
        ModelError: the transfer broke off (what came is kept), or brought something else (it is thrown away).
        OSError: it cannot be written.
    """
    where = _address(hub, repository, commit, file.name)
    path, incomplete = folder / file.name, incomplete_path(folder, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(MOST_RESUMES + 1):
        had = size_of(incomplete)
        if had == file.size and had:
            break
        try:
            _transfer(hub, where, file, incomplete, report)
            break
        except _BrokenOffError as error:
            if attempt == MOST_RESUMES or size_of(incomplete) <= had:
                raise ModelError(
                    f"The transfer of {file.name!r} from {hub.name} broke off at {size_of(incomplete):,} of "
                    f"{file.size:,} bytes ({error}); download again: it goes on from there."
                ) from error
    if not file.matches(incomplete):
        size = size_of(incomplete)
        incomplete.unlink(missing_ok=True)
        raise ModelError(
            f"{hub.name} sent another {file.name!r} than it lists: {size:,} bytes of {file.size:,}, or another "
            f"checksum than {file.sha256 or file.git}; it was thrown away, download again."
        )
    incomplete.replace(path)


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


def _transfer(hub: Hub, where: str, file: RemoteFile, incomplete: Path, report: Callable[[int], object]) -> None:
    had = size_of(incomplete)
    if had > file.size:
        incomplete.unlink()
        had = 0
    with _asked(hub, where, {"range": f"bytes={had}-"} if had else {}) as response:
        if had and (response.status_code != 206 or not _starts_at(response, had)):
            had = 0  # The hub, or what stands in between, does not go on in the middle.
        with incomplete.open("r+b" if had else "wb") as target:
            target.seek(had)
            target.truncate()
            report(had)
            for chunk in _chunks(response):
                had += len(chunk)
                if had > file.size:
                    break  # More than was announced is no use; the checksum will say so.
                target.write(chunk)
                target.flush()  # A process that is killed leaves what has come.
                report(had)
            _settle(target)
    if had < file.size:
        raise _BrokenOffError("the hub ended it")


def _starts_at(response: Any, position: int) -> bool:
    return str(response.headers.get("content-range", "")).startswith(f"bytes {position}-")


def _settle(target: BinaryIO) -> None:
    target.flush()
    os.fsync(target.fileno())


def _chunks(response: Any) -> Iterator[bytes]:
    """The body as it comes. What its library raises when it ends early is its own."""
    chunks = response.iter_bytes()
    while True:
        try:
            chunk = next(chunks, None)
        except Exception as error:
            if not _is_of_the_network(error):
                raise
            raise _BrokenOffError(str(error) or type(error).__name__) from error
        if chunk is None:
            return
        yield chunk


@contextmanager
def _asked(hub: Hub, where: str, headers: Mapping[str, str], **options: Any) -> Iterator[Any]:
    """The hub's answer to a GET, good or an error; its body is not read yet. A redirection is followed, without the
    token where it leads to another host."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session, hf_raise_for_status

    try:
        stream = get_session().stream(
            "GET", where, headers=hub.headers | dict(headers), timeout=SILENCE_SECONDS, follow_redirects=True, **options
        )
        response = stream.__enter__()
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        raise _unreachable(hub, error) from error
    try:
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            raise _refusal(hub, where, error) from error
        yield response
    finally:
        stream.__exit__(None, None, None)


def _is_of_the_network(error: Exception) -> bool:
    """Whether the HTTP library or the system raised it: its library changes with the version of huggingface_hub. A
    signal handler may raise in here as well, and means it for its own code."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | ValueError) or library.startswith(("http", "h11", "huggingface"))


def _unreachable(hub: Hub, error: Exception) -> ModelError:
    return ModelError(
        f"{hub.name} cannot be reached ({str(error) or type(error).__name__}); check the network or HF_ENDPOINT."
    )


def _refusal(hub: Hub, where: str, error: Any) -> ModelError:
    status = error.response.status_code
    what = where.removeprefix(hub.endpoint)
    if status in (401, 403):
        return ModelError(
            f"{hub.name} refuses {what} (status {status}): no such repository, or one that asks for a token; "
            "check the name, or pass the token of an account that may read it."
        )
    if status == 404:
        return ModelError(f"{hub.name} has no {what} (status 404); check the name and the revision.")
    return ModelError(f"{hub.name} cannot give {what} now (status {status}); try again later: what is here is kept.")


@contextmanager
def waiting_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Held by one process at a time, over a folder; set free when its holder dies.

    Raises:
        DeadlineError: another one kept it for longer than `timeout` seconds.
    """
    from huggingface_hub.utils import WeakFileLock

    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(folder / ".lock", timeout=timeout))
        except TimeoutError as error:
            raise DeadlineError(
                f"Another process has been downloading to {str(folder)!r} for {timeout:g} seconds; try again later."
            ) from error
        yield
