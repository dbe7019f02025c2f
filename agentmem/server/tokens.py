"""Tokens: the right to use the server from outside, in a file beside the store that holds digests only.

A token is `agentmem_ID_SECRET`. The secret has 256 random bits, so that its SHA-256 is as good as a slow hash of it and
costs nothing at each request. The file is read again when it has changed: a token that is revoked is refused by every
process from its next request on.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentmem.errors import InvalidInputError, NotFoundError, StoreOpenError
from agentmem.quoting import shorten
from agentmem.records import Scope
from agentmem.timestamps import now

PREFIX = "agentmem"
PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Token:
    """What the file knows of a token: never its secret."""

    id: str
    digest: str
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    read_only: bool
    created_at: str

    @property
    def scope(self) -> Scope:
        """Whose memories it reaches; an empty scope is an administrator's."""
        return Scope(self.user_id, self.agent_id, self.run_id)


class TokenFile:
    """The tokens of the store at `path`, in the file `path` + `.tokens`. May be used from any thread and process."""

    def __init__(self, path: str) -> None:
        self.path = Path(f"{os.path.realpath(path)}.tokens")
        self._seen: tuple[tuple[int, int, int] | None, dict[str, Token]] = (None, {})

    def create(self, scope: Scope, *, read_only: bool) -> tuple[str, Token]:
        """Makes a token and returns it, the only time that its secret is told, with what the file keeps."""
        secret = secrets.token_urlsafe(32)
        with self._changing() as tokens:
            name = next(each for each in iter(lambda: secrets.token_hex(4), None) if each not in tokens)
            moment = now().isoformat(timespec="seconds")
            owners = (scope.user_id, scope.agent_id, scope.run_id)
            token = Token(name, _digest(secret), *owners, read_only=read_only, created_at=moment)
            tokens[name] = token
        return f"{PREFIX}_{name}_{secret}", token

    def list(self) -> list[Token]:
        """Returns the tokens, oldest first."""
        return list(self._read().values())

    def revoke(self, id: str) -> Token:
        """Removes a token and returns what was known of it.

        Raises:
            NotFoundError: there is none with this id.
        """
        with self._changing() as tokens:
            if id not in tokens:
                raise NotFoundError(f"There is no token {shorten(id)}; `agentmem token list` names those there are.")
            return tokens.pop(id)

    def find(self, given: str) -> Token | None:
        """Returns the token that was given, or None. The secret is compared in constant time."""
        prefix, _, rest = given.partition("_")
        name, _, secret = rest.partition("_")
        if prefix != PREFIX or not secret:
            return None
        token = self._read().get(name)
        known = "" if token is None else token.digest
        return token if hmac.compare_digest(_digest(secret).encode(), known.encode()) else None

    def _read(self) -> dict[str, Token]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._seen[0] != version:
            self._seen = (version, self._parsed(self.path.read_text("utf-8")))
        return dict(self._seen[1])

    def _parsed(self, text: str) -> dict[str, Token]:
        try:
            return {(token := Token(**json.loads(line))).id: token for line in text.splitlines()}
        except (ValueError, TypeError):
            raise StoreOpenError(f"{str(self.path)!r} is damaged; remove it, and make new tokens.") from None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Token]]:
        """The tokens, to be changed while no other process changes them, and then written in one step."""
        try:
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            raise StoreOpenError(f"{str(self.path)!r} cannot be written ({error.strerror}).") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self._read()
            yield tokens
            unfinished = self.path.with_name(f"{self.path.name}.unfinished")
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.writelines(f"{json.dumps(asdict(token))}\n" for token in tokens.values())
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.path)
        finally:
            os.close(lock)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def scope_of(owner: dict[str, Any], *, admin: bool) -> Scope:
    """The scope of a new token.

    Raises:
        InvalidInputError: neither an owner nor `admin` is given, or both are.
    """
    scope = Scope(**owner)
    if bool(scope) == admin:
        raise InvalidInputError("A token is of an owner (--user, --agent, --run) or of an administrator (--admin).")
    return scope
