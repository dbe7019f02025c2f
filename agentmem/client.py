"""RemoteMemory: the calls of `Memory` over HTTP, against `agentmem serve`. The only importer of httpx in the library.

    from agentmem.client import RemoteMemory

    with RemoteMemory("http://127.0.0.1:8765", token) as memory:
        memory.add("Prefers window seats", user_id="ana")

It needs the extra `agentmem[server]`.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import EllipsisType, TracebackType
from typing import IO, Any, TypeVar

import httpx

from agentmem import errors
from agentmem.errors import AgentMemError, InvalidInputError, NotFoundError
from agentmem.quoting import shorten
from agentmem.records import Event, Match, Page, Record, Scope, Version, copy_json
from agentmem.validation import moment_of

Between = tuple[datetime | None, datetime | None] | None
T = TypeVar("T")


class RemoteError(AgentMemError):
    """The server cannot be reached, refuses the token, or answers with something that is not understood."""


class RemoteMemory:
    """The calls of `Memory` that make sense from afar, with its arguments, results and errors.

    May be used from any thread. A call raises what the same call of `Memory` raises, and `RemoteError` where the server
    cannot be reached or refuses the token. What was sent may have been stored when the connection breaks; `id=` or
    `dedupe=True` make a repeated add safe. Arguments mean what they mean there; `timeout` of a call is the server's.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 90.0) -> None:
        """Connects with the first call. `timeout` is in seconds, for each answer.

        Raises:
            InvalidInputError: the address is none.
        """
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInputError(f"url is {shorten(url)}; pass an address such as 'http://127.0.0.1:8765'.")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._bound = Scope()

    def scope(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> "RemoteMemory":
        """Returns a view bound to an owner. A token of that owner keeps others out; this only spares arguments.

        Raises:
            InvalidInputError: no owner was given, or one outside this view.
        """
        view = object.__new__(RemoteMemory)
        view._http = self._http
        view._bound = self._bound.narrowed(user_id, agent_id, run_id)
        return view

    # -- remembering ------------------------------------------------------------------------------------------------

    def add(self, content: str, **fields: Any) -> Record:
        """Remembers one text; see `Memory.add`. Raises as `Memory.add` does."""
        return _record(self._post("/v1/memories", {"content": content, **fields}))

    def add_batch(self, contents: Iterable[str | Mapping[str, Any]], **fields: Any) -> list[Record | AgentMemError]:
        """Remembers many texts, in one request; see `Memory.add_batch`. Raises as `Memory.add_batch` does."""
        answer = self._post("/v1/memories/batch", {"contents": list(contents), **fields})
        return [_error(each) if "error" in each else _record(each) for each in answer["results"]]

    def add_messages(self, messages: Iterable[Mapping[str, Any]], **fields: Any) -> list[Record]:
        """Remembers the messages of a chat; see `Memory.add_messages`. Raises as `Memory.add_messages` does."""
        answer = self._post("/v1/messages", {"messages": list(messages), **fields})
        return [_record(each) for each in answer["results"]]

    # -- finding and reading ----------------------------------------------------------------------------------------

    def search(self, query: str, **asked: Any) -> list[Match]:
        """Returns what is relevant, best first; see `Memory.search`. Raises as `Memory.search` does."""
        return [_match(each) for each in self._post("/v1/search", {"query": query, **asked})["matches"]]

    def search_batch(self, queries: Iterable[str], **asked: Any) -> list[list[Match]]:
        """Returns matches for each query; see `Memory.search_batch`. Raises as `Memory.search_batch` does."""
        answer = self._post("/v1/search/batch", {"queries": list(queries), **asked})
        return [[_match(each) for each in matches] for matches in answer["results"]]

    def get(self, id: str, **asked: Any) -> Record | None:
        """Returns the memory with an id, or None; see `Memory.get`. Raises as `Memory.get` does."""
        try:
            return _record(self._get("/v1/memory", {"id": id, **asked}))
        except NotFoundError:
            return None

    def get_all(self, **asked: Any) -> Page:
        """Returns a page of memories; see `Memory.get_all`. Raises as `Memory.get_all` does."""
        answer = self._get("/v1/memories", asked)
        return Page([_record(each) for each in answer["records"]], answer["next"])

    def count(self, **asked: Any) -> int:
        """Returns how many memories there are; see `Memory.count`. Raises as `Memory.count` does."""
        return int(self._get("/v1/count", asked)["count"])

    def scopes(self, **asked: Any) -> list[Scope]:
        """Returns whose memories there are; see `Memory.scopes`. Raises as `Memory.scopes` does."""
        return [Scope(**each) for each in self._get("/v1/scopes", asked)["scopes"]]

    def history(self, id: str, **owner: str | None) -> list[Event]:
        """Returns every event of a memory; see `Memory.history`. Raises as `Memory.history` does."""
        return [_event(each) for each in self._get("/v1/memory/history", {"id": id, **owner})["events"]]

    def export(self, file: IO[bytes], **asked: Any) -> int:
        """Writes memories into an open file of bytes as they arrive, and returns how many; see `Memory.export`. Raises
        as `Memory.export` does."""
        lines = 0
        try:
            with self._http.stream("GET", "/v1/export", params=self._query(asked)) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _problem(answer)
                for chunk in answer.iter_bytes():
                    file.write(chunk)
                    lines += chunk.count(b"\n")
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        return max(lines - 1, 0)  # The first line is the header.

    def stats(self) -> dict[str, Any]:
        """Returns what `Memory.stats` tells, as a mapping of its groups. Raises as `Memory.stats` does."""
        return dict(self._get("/v1/stats", {}, bound=False))

    def check(self) -> list[str]:
        """Returns what is wrong with the store; see `Memory.check`. Raises as `Memory.check` does."""
        return list(self._get("/v1/check", {}, bound=False)["problems"])

    # -- changing ---------------------------------------------------------------------------------------------------

    def update(
        self,
        id: str,
        content: str | None = None,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        expires_at: datetime | EllipsisType | None = ...,
        **change: Any,
    ) -> Record:
        """Gives a memory a new version; see `Memory.update`. Raises as `Memory.update` does. Without
        `expires_at` the end stays as it is."""
        body = {**change} if content is None else {"content": content, **change}
        if not isinstance(expires_at, EllipsisType):
            body["expires_at"] = expires_at
        query = self._query({"id": id, "user_id": user_id, "agent_id": agent_id, "run_id": run_id})
        return _record(self._ask("PATCH", "/v1/memory", params=query, json=_plain(body)))

    def delete(self, id: str, **owner: str | None) -> bool:
        """Hides a memory, and returns whether it was there; see `Memory.delete`. Raises as `Memory.delete` does."""
        return bool(self._ask("DELETE", "/v1/memory", params=self._query({"id": id, **owner}))["count"])

    def restore(self, id: str, **owner: str | None) -> Record:
        """Brings a memory back; see `Memory.restore`. Raises as `Memory.restore` does."""
        return _record(self._ask("POST", "/v1/memory/restore", params=self._query({"id": id, **owner})))

    def delete_all(self, **asked: Any) -> int:
        """Hides memories and returns how many; see `Memory.delete_all`. Raises as `Memory.delete_all` does."""
        return int(self._post("/v1/delete", asked)["count"])

    def purge(self, id: str | None = None, **owner: str | None) -> int:
        """Erases for good and returns how many; see `Memory.purge`. Raises as `Memory.purge` does."""
        return int(self._post("/v1/purge", {"id": id, **owner})["count"])

    def flush(self, timeout: float | None = None) -> None:
        """Waits until everything deferred is embedded; see `Memory.flush`. Raises as `Memory.flush` does."""
        self._post("/v1/flush", {} if timeout is None else {"timeout": timeout}, bound=False)

    def close(self) -> None:
        """Closes the connections; the server's store stays open. Raises nothing."""
        self._http.close()

    def __enter__(self) -> "RemoteMemory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- requests ---------------------------------------------------------------------------------------------------

    def _owned(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        asked = {name: fields.get(name) for name in ("user_id", "agent_id", "run_id")}
        rest = {name: value for name, value in fields.items() if name not in asked}
        if self._bound:
            asked = dict(self._bound.narrowed(**asked).owners())
        return {name: value for name, value in asked.items() if value is not None} | rest

    def _post(self, path: str, body: Mapping[str, Any], *, bound: bool = True) -> Any:
        return self._ask("POST", path, json=_plain(self._owned(body) if bound else dict(body)))

    def _get(self, path: str, asked: Mapping[str, Any], *, bound: bool = True) -> Any:
        return self._ask("GET", path, params=self._query(asked) if bound else {})

    def _query(self, asked: Mapping[str, Any]) -> dict[str, str]:
        fields = self._owned(asked)
        if (between := fields.pop("between", None)) is not None:
            fields["start"], fields["end"] = between
        query = {}
        for name, value in _plain(fields).items():
            if value is not None:
                query[name] = value if isinstance(value, str) else json.dumps(value)
        return query

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if not answer.is_success:
            raise _problem(answer)
        return answer.json()


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return copy_json(value)


def _unreachable(error: httpx.HTTPError) -> RemoteError:
    return RemoteError(f"The server cannot be reached ({type(error).__name__}); see that `agentmem serve` runs there.")


def _problem(answer: httpx.Response) -> AgentMemError:
    try:
        return _error(answer.json())
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"The server answered with status {answer.status_code} and no problem; see the address.")


def _error(told: Mapping[str, Any]) -> AgentMemError:
    kind = vars(errors).get(str(told["error"]))
    if isinstance(kind, type) and issubclass(kind, AgentMemError):
        return kind(str(told["detail"]))
    return RemoteError(str(told["detail"]))


def _moment(value: str | None) -> datetime | None:
    return None if value is None else moment_of("The time", value)


def _record(told: Mapping[str, Any]) -> Record:
    times = {name: _moment(told[name]) for name in ("created_at", "updated_at", "expires_at")}
    return Record(**{**told, **times})


def _match(told: Mapping[str, Any]) -> Match:
    return Match(_record(told["record"]), told["score"], told["explanation"])


def _event(told: Mapping[str, Any]) -> Event:
    versions = {
        name: None if told[name] is None else Version(
            **{**told[name], "expires_at": _moment(told[name]["expires_at"]),
               "updated_at": _moment(told[name]["updated_at"])}
        )
        for name in ("before", "after")
    }  # fmt: skip
    return Event(**{**told, **versions, "at": _moment(told["at"])})
