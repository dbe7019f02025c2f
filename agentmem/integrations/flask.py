"""A memory for Flask applications: one engine a process, opened when it is first used. The only importer of flask.

    from flask import Flask, request, session
    from agentmem.integrations.flask import AgentMem, current_memory

    app = Flask(__name__)
    AgentMem(app)

    @app.post("/notes")
    def note():
        return current_memory.scope(user_id=session["user"]).add(request.form["text"]).id

Nothing is opened while the application is loaded, so that a server may fork afterwards; each worker opens the store for
itself, and all see what any of them has stored. What is open closes when the process ends.
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
        f"agentmem.integrations.flask needs Flask ({error}); pip install 'agentmem[server]'."
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
"""After these nothing was written, and the same request may succeed a little later."""

ANSWERS: dict[type[AgentMemError], type[HTTPException]] = {
    TooLongError: RequestEntityTooLarge,
    DuplicateIdError: Conflict,
    InvalidInputError: BadRequest,
    NotFoundError: NotFound,
}
"""What a request is answered with that caused such an error; the first that fits counts."""

OwnerT = TypeVar("OwnerT", bound=Callable[[], Mapping[str, str | None]])


class AgentMem:
    """The extension: `AgentMem(app)`, or `AgentMem()` and later `init_app` for each application.

    An application is configured by keys of `app.config`, all of them optional:

    - `AGENTMEM_PATH`: the store, "agentmem.db" by default. A relative path is one in the application's instance folder,
      which is made if need be; `":memory:"` is a store of this application in this process alone.
    - `AGENTMEM_MODEL`, `AGENTMEM_EMBEDDER`: as `model` and `embedder` of `Memory`.
    - `AGENTMEM_RETRY_AFTER`: seconds, 1 by default, for the header Retry-After; None for none.
    - `AGENTMEM_ANSWER_ERRORS`: False leaves all errors to the application.
    - every setting of `Config` in capitals: `AGENTMEM_TIMEOUT`, `AGENTMEM_DURABILITY` and so on.

    They are checked in `init_app`, and read again when the store is opened, which is at the first use of
    `current_memory`; from then on they count for nothing. Applications of one process with the same settings share one
    engine. May be used from any thread.

    Errors that a request has caused are answered as such: InvalidInputError with 400, NotFoundError with 404,
    DuplicateIdError with 409, TooLongError with 413, each with its message as description. What the store or the model
    is too busy for (StoreBusyError, OverloadedError, DeadlineError) is answered with 503 and Retry-After. The pages are
    those that the application has for these codes. Its own handlers of AgentMemError, or of any of these, come first.
    All other errors are the application's: 500, and its log.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._applications: WeakKeyDictionary[Flask, _Opening] = WeakKeyDictionary()
        self._owner: Callable[[], Mapping[str, str | None]] | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Gives the application its memory; opens nothing and asks for no file.

        Raises:
            InvalidInputError: one of its settings cannot be used.
            RuntimeError: it has a memory already.
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
        """A decorator: from now on `current_memory` is bound to the owner that the function names, and cannot reach
        outside; without one it is the whole `Memory`, of which every call names an owner.

        The function is called without arguments at each use of `current_memory`, so that nothing of one request can be
        there in another, and returns a mapping such as `{"user_id": "ana"}`. When there is nobody, let it abort(401).
        """
        self._owner = function
        return function

    @property
    def memory(self) -> "Memory":
        """The whole memory of the current application, whoever asks: for jobs, administration, `stats`, `backup`.

        Every request of the worker has the same one: neither the end of a `with` block nor its `close` ends it, only
        `AgentMem.close` and the end of the process do. Raises what opening a `Memory` raises, and InvalidInputError for
        a setting that cannot be used.
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
        """Closes what the applications of this extension have open in this process, unless others use it too; the next
        use opens it again. For tests: at the end of a process everything is closed by itself."""
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
    """What one application has open in this process: nothing until its first use."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.memory: Memory | None = None


class _Open:
    """The memories that the applications of this process have open. Those with the same settings share one, but for
    ":memory:". An application that is gone takes its memory with it, unless another one has it too."""

    def __init__(self) -> None:
        self._openings: WeakSet[_Opening] = WeakSet()
        self._start()

    def _start(self) -> None:
        # Guards: `memory` and `arguments` of all openings. Reentrant, for a signal handler that closes.
        self._lock = threading.RLock()
        self._pid = os.getpid()  # Last, see Restartable.

    def memory_of(self, opening: _Opening, app: Flask) -> "Memory":
        """The memory of the application. May wait while it is opened, by this thread or by another one."""
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
"""The memory of the application that serves this request: bound to the owner of the request if `AgentMem.owner` names
one, else the whole `Memory`, which `current_memory.scope(user_id=...)` binds. Its use raises RuntimeError outside of an
application's context, and what opening a `Memory` raises."""


@cache
def _shared_memory() -> "type[Memory]":
    from agentmem.memory import Memory  # Here, so that an application loads without numpy and SQLite.

    class Shared(Memory):
        """One that belongs to everybody in the worker, so that no single user of it closes it."""

        def close(self) -> None:
            """Leaves it open; see `AgentMem.memory`."""

    return Shared


class _ApplicationError(InvalidInputError):
    """Something that the application has handed over, and no request."""


@contextmanager
def _blamed_on_application() -> Iterator[None]:
    try:
        yield
    except InvalidInputError as error:
        raise _ApplicationError(str(error)) from error


def _answer(error: AgentMemError) -> Any:
    """As if the view had aborted, so that a page which the application has for that is shown."""
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
    """What its configuration means for `Memory`. Raises: InvalidInputError, with the key and its value."""
    given = {key.removeprefix(PREFIX): value for key, value in app.config.items() if str(key).startswith(PREFIX)}
    if unknown := given.keys() - SETTINGS - OWN:
        name = min(unknown)
        with unquoted():  # It may be a key of whatever service.
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
    """Lists, which is what JSON, TOML and environment variables have, do for tuples."""
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
