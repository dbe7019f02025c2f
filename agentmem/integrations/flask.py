"""A memory for Flask applications, opened at its first use in each process. The only importer of flask.

    from flask import Flask, request, session
    from agentmem.integrations.flask import AgentMem, current_memory

    app = Flask(__name__)
    AgentMem(app)

    @app.post("/notes")
    def note():
        return current_memory.scope(user_id=session["user"]).add(request.form["text"]).id

Loading the application opens nothing, so that a server may fork afterwards. Each worker opens the store for itself, and
all see each other's memories. The end of the process closes the store.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from agentmem.config import Config
from agentmem.errors import (
    AgentMemError,
    DeadlineError,
    DuplicateIdError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    StoreBusyError,
    StoreOpenError,
    TooLongError,
)
from agentmem.platform.forks import restart
from agentmem.quoting import shorten, unquoted

try:
    from flask import Flask, current_app
    from werkzeug.exceptions import (
        BadRequest,
        Conflict,
        HTTPException,
        NotFound,
        RequestEntityTooLarge,
        ServiceUnavailable,
    )
    from werkzeug.local import LocalProxy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"agentmem.integrations.flask needs Flask ({error}); pip install 'agentmem[flask]'."
    ) from error

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory

PREFIX = "AGENTMEM_"
SETTINGS = frozenset(field.name.upper() for field in fields(Config))
OWN = frozenset({"PATH", "MODEL", "EMBEDDER", "RETRY_AFTER", "ANSWER_ERRORS"})
DEFAULT_PATH = "agentmem.db"
DEFAULT_RETRY_SECONDS = 1
LONGEST_RETRY_SECONDS = 86_400
BUSY = (StoreBusyError, OverloadedError, DeadlineError)
"""After these errors nothing was written, and the same request may succeed a little later."""

ANSWERS: dict[type[AgentMemError], type[HTTPException]] = {
    TooLongError: RequestEntityTooLarge,
    DuplicateIdError: Conflict,
    InvalidInputError: BadRequest,
    NotFoundError: NotFound,
}
"""The HTTP error for an error that the request has caused; the first that fits counts."""

OwnerT = TypeVar("OwnerT", bound=Callable[[], Mapping[str, str | None]])


class AgentMem:
    """The extension: `AgentMem(app)`, or `AgentMem()` and later `init_app` for each application.

    Keys of `app.config` configure an application, all of them optional:

    - `AGENTMEM_PATH`: the store, "agentmem.db" by default. A relative path is one in the application's instance folder,
      which is created if need be. `":memory:"` is a store of this application in this process alone.
    - `AGENTMEM_MODEL`, `AGENTMEM_EMBEDDER`: as `model` and `embedder` of `Memory`.
    - `AGENTMEM_RETRY_AFTER`: seconds, 1 by default, for the header Retry-After; None for none.
    - `AGENTMEM_ANSWER_ERRORS`: False leaves all errors to the application.
    - every setting of `Config` in capitals: `AGENTMEM_TIMEOUT`, `AGENTMEM_DURABILITY` and so on.

    `init_app` checks them. The first use of `current_memory` reads them again and opens the store; later changes have
    no effect. Applications of one process with the same settings share one memory. Any thread may use it.

    Errors of a request become HTTP errors with their message as description: InvalidInputError 400, NotFoundError 404,
    DuplicateIdError 409, TooLongError 413. When the store or the model is too busy (StoreBusyError, OverloadedError,
    DeadlineError), the answer is 503 with Retry-After. The application's own pages for these codes are used. Its own
    handlers of AgentMemError, or of any of these, come first. All other errors are the application's: 500, and its log.

    Args:
        app: The application; without it, call `init_app`.

    Raises:
        InvalidInputError: A setting of the application cannot be used.
        RuntimeError: The application has a memory already.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._applications: WeakKeyDictionary[Flask, _Opening] = WeakKeyDictionary()
        self._owner: Callable[[], Mapping[str, str | None]] | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Gives the application its memory. Opens nothing and reads no file.

        Args:
            app: The application.

        Raises:
            InvalidInputError: One of its settings cannot be used.
            RuntimeError: It has a memory already.
        """
        if "agentmem" in app.extensions:
            raise RuntimeError(f"{app!r} has its memory already; call AgentMem(app) or init_app(app) once.")
        _arguments_of(app)
        app.extensions["agentmem"] = self
        self._applications[app] = _Opening()
        answered = app.config.get(f"{PREFIX}ANSWER_ERRORS", True)
        if answered and AgentMemError not in app.error_handler_spec[None][None]:
            app.register_error_handler(AgentMemError, _answer)

    def owner(self, function: OwnerT) -> OwnerT:
        """Decorates the function that names the owner of a request. `current_memory` is then bound to that owner.

        Code that uses `current_memory` can then reach no other owner's memories. Without such a function it is the
        whole `Memory`, of which every call names an owner. The function is called at each use of `current_memory`, so
        that one request never sees the owner of another. When no user is logged in, let it abort(401).

        Args:
            function: A function without arguments that returns a mapping such as `{"user_id": "ana"}`.

        Returns:
            The function.
        """
        self._owner = function
        return function

    @property
    def memory(self) -> "Memory":
        """The whole memory of the current application, for jobs, administration, `stats` and `backup`.

        Every request of the worker shares it. Neither the end of a `with` block nor `close` on it closes it; only
        `AgentMem.close` and the end of the process do.

        Raises:
            InvalidInputError: A setting cannot be used; otherwise as opening a `Memory`.
            RuntimeError: The application has no memory of this extension, or there is no application context.
        """
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        if app not in self._applications:
            raise RuntimeError(f"{app!r} has no memory of this extension; call init_app(app) first.")
        opening = self._applications[app]
        memory = opening.memory  # Read once: another thread may close it.
        if memory is None:
            with _blamed_on_application():
                memory = _open.memory_of(opening, app)
        return memory

    def close(self) -> None:
        """Closes the memories that this extension's applications opened in this process, unless others use them too.

        The next use opens them again. Meant for tests: the end of a process closes everything.
        """
        for opening in list(self._applications.values()):
            _open.close(opening)

    def _current(self) -> "Memory | ScopedMemory":
        if self._owner is None:
            return self.memory
        owner = self._owner()
        if not isinstance(owner, Mapping) or not set(owner) <= {"user_id", "agent_id", "run_id"}:
            raise _ApplicationError(
                f"The owner of this request is {shorten(owner)}; let the function return a mapping such as "
                '{"user_id": "ana"}, or abort(401).'
            )
        memory = self.memory
        with _blamed_on_application():
            return memory.scope(**owner)


class _Opening:
    """The memory that one application has open in this process: none until its first use."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.memory: Memory | None = None


class _Open:
    """The memories that the applications of this process have open.

    Applications with the same settings share one, except ":memory:". An application that ends takes its memory with it,
    unless another one shares it.
    """

    def __init__(self) -> None:
        self._openings: WeakSet[_Opening] = WeakSet()
        self._start()

    def _start(self) -> None:
        # Guards: `memory` and `arguments` of all openings. Reentrant, for a signal handler that closes.
        self._lock = threading.RLock()
        self._pid = os.getpid()  # Last, see Restartable.

    def memory_of(self, opening: _Opening, app: Flask) -> "Memory":
        """Returns the memory of the application. May wait while this or another thread opens it."""
        arguments = _arguments_of(app)
        self._follow_fork()
        with self._lock:
            if opening.memory is None:
                shared = (each.memory for each in self._openings if each.memory and each.arguments == arguments)
                memory = next(shared, None) if arguments["path"] != ":memory:" else None
                if memory is None:
                    _make_instance_folder(app, arguments["path"])
                    memory = _shared_memory()(**arguments)
                opening.arguments, opening.memory = arguments, memory
                self._openings.add(opening)
            return opening.memory

    def close(self, opening: _Opening) -> None:
        self._follow_fork()
        with self._lock:
            memory, opening.memory = opening.memory, None
            used = any(each.memory is memory for each in self._openings)
        if memory is not None and not used:
            from agentmem.memory import Memory

            Memory.close(memory)

    def _follow_fork(self) -> None:
        if self._pid != os.getpid():
            restart(self, self._start)


_open = _Open()


def _current() -> "Memory | ScopedMemory":
    extension = current_app.extensions.get("agentmem")
    if extension is None:
        raise RuntimeError(f"{current_app!r} has no memory; call AgentMem(app) or init_app(app) first.")
    current: Memory | ScopedMemory = extension._current()
    return current


current_memory: "Memory | ScopedMemory" = LocalProxy(_current)  # type: ignore[assignment]
"""The memory of the application that serves this request.

It is bound to the owner of the request if `AgentMem.owner` names one. Otherwise it is the whole `Memory`, which
`current_memory.scope(user_id=...)` binds. Its use raises RuntimeError outside of an application's context, and the
errors of opening a `Memory`.
"""


@cache
def _shared_memory() -> "type[Memory]":
    from agentmem.memory import Memory  # Imported here, so that an application loads without numpy and SQLite.

    class Shared(Memory):
        """A memory that all requests of the worker share, so that no single user closes it."""

        def close(self) -> None:
            """Leaves it open; see `AgentMem.memory`."""

    return Shared


class _ApplicationError(InvalidInputError):
    """The application passed a bad value, and not the request."""


@contextmanager
def _blamed_on_application() -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise _ApplicationError(str(error)) from error


def _answer(error: AgentMemError) -> Any:
    """Answers as if the view had aborted, so that the application's own page for that code is shown."""
    answer: HTTPException | None = None
    if isinstance(error, BUSY):
        answer = ServiceUnavailable(retry_after=current_app.config.get(f"{PREFIX}RETRY_AFTER", DEFAULT_RETRY_SECONDS))
    elif not isinstance(error, _ApplicationError):
        kinds = (answer for kind, answer in ANSWERS.items() if isinstance(error, kind))
        answer = next((kind(str(error)) for kind in kinds), None)
    if answer is None:
        raise error
    return current_app.handle_http_exception(answer)


# -- settings -----------------------------------------------------------------------------------------------------


def _arguments_of(app: Flask) -> dict[str, Any]:
    """Returns the arguments for `Memory` from the configuration. Raises InvalidInputError, with the key and its
    value."""
    given = {key.removeprefix(PREFIX): value for key, value in app.config.items() if str(key).startswith(PREFIX)}
    if unknown := given.keys() - SETTINGS - OWN:
        name = min(unknown)
        with unquoted():  # The value may be a key of any service.
            shown = shorten(given[name])
        raise InvalidInputError(
            f"{PREFIX}{name} ({shown}) is no setting; the settings are "
            f"{', '.join(PREFIX + known for known in sorted(SETTINGS | OWN))}."
        )
    _check_retry_after(given.get("RETRY_AFTER"))
    if not isinstance(answered := given.get("ANSWER_ERRORS", True), bool):
        raise InvalidInputError(f"{PREFIX}ANSWER_ERRORS is {shorten(answered)}; give True or False.")
    arguments: dict[str, Any] = {"path": _path_of(app, given.get("PATH", DEFAULT_PATH)), "config": _config_of(given)}
    if "MODEL" in given:
        model = arguments["model"] = given["MODEL"]
        if model is not None and (not isinstance(model, str) or not model):
            raise InvalidInputError(
                f"{PREFIX}MODEL is {shorten(model)}; give the name of a model or its folder, or None."
            )
    if given.get("EMBEDDER") is not None:
        arguments["embedder"] = given["EMBEDDER"]
    return arguments


def _path_of(app: Flask, path: Any) -> str:
    if not isinstance(path, str | os.PathLike) or not isinstance(text := os.fspath(path), str) or not text:
        raise InvalidInputError(f"{PREFIX}PATH is {shorten(path)}; give the path of a file, or ':memory:'.")
    return text if text == ":memory:" else os.path.join(app.instance_path, text)  # noqa: PTH118 - as Flask does


def _make_instance_folder(app: Flask, path: str) -> None:
    if Path(path).parent == Path(app.instance_path):
        try:
            Path(app.instance_path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreOpenError(
                f"The instance folder {app.instance_path!r} cannot be made ({error.strerror}); make it, or set "
                f"{PREFIX}PATH to a path that begins with /."
            ) from error


def _config_of(given: Mapping[str, Any]) -> Config:
    """Returns tuples for lists, because JSON, TOML and environment variables have lists only."""
    values: dict[str, Any] = {
        name.lower(): tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name in SETTINGS
    }
    try:
        return Config(**values)
    except InvalidInputError as error:
        told = re.sub(r"Config\.(\w+)", lambda found: PREFIX + found[1].upper(), str(error))
        raise InvalidInputError(told) from None


def _check_retry_after(seconds: Any) -> None:
    whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    with unquoted():
        shown = shorten(seconds)
    if seconds is not None and not (whole and 0 <= seconds <= LONGEST_RETRY_SECONDS):
        raise InvalidInputError(
            f"{PREFIX}RETRY_AFTER is {shown}; give whole seconds up to {LONGEST_RETRY_SECONDS:,}, or None."
        )
