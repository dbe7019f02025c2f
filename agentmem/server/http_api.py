"""The HTTP API under `/v1`: the calls of `Memory`, each an endpoint, with JSON in and out.

The endpoints are plain functions and run in threads, so that requests that come together share model runs and commits.
An owner is named in the body, or in the query where there is none; a token that is bound to an owner reaches that one
only. What pydantic does not say better, the library's own checks say.
"""

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from agentmem.errors import AgentMemError, InvalidInputError, NotFoundError
from agentmem.quoting import shorten
from agentmem.records import Event, Record
from agentmem.server.access import Access
from agentmem.server.problems import problem, status_of
from agentmem.server.tools import Moment
from agentmem.validation import moment_of

Owner = Annotated[str | None, Field(max_length=512, description="Whose.")]
Json = dict[str, Any]
Number = Annotated[float, Field(strict=True)]
Between = tuple[Moment | None, Moment | None] | None


class Body(BaseModel):
    """What a request brings. A name that is unknown is an error."""

    model_config = ConfigDict(extra="forbid")

    def given(self) -> Json:
        """Returns what was said, as keywords of a call."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Owned(Body):
    """Whose memories: at least one is named, unless the token names one."""

    user_id: Owner = None
    agent_id: Owner = None
    run_id: Owner = None


class Item(Owned):
    """One text to remember."""

    content: str
    role: str | None = None
    metadata: Json | None = None
    id: str | None = None
    created_at: Moment | None = None
    expires_at: Moment | None = None
    ttl: Number | None = None


class Add(Item):
    """As `Memory.add` takes it."""

    dedupe: StrictBool = False
    defer: StrictBool = False
    timeout: Number | None = None


class Defaults(Owned):
    """What all items of a request share."""

    metadata: Json | None = None
    created_at: Moment | None = None
    expires_at: Moment | None = None
    ttl: Number | None = None
    dedupe: StrictBool = False
    defer: StrictBool = False
    timeout: Number | None = None


class AddBatch(Defaults):
    """As `Memory.add_batch` takes it."""

    contents: list[str | Item]
    role: str | None = None
    on_error: Literal["raise", "return"] = "raise"
    durability: Literal["full", "process"] | None = None


class AddMessages(Defaults):
    """As `Memory.add_messages` takes it."""

    messages: list[Json]


class Asked(Owned):
    """What searches share."""

    filters: Json | None = None
    limit: StrictInt = 10
    threshold: Number | None = None
    mode: Literal["hybrid", "vector", "keyword"] = "hybrid"
    recency: Number | None = None
    importance: str | None = None
    collapse: StrictBool = False
    relevant_only: StrictBool = False
    between: Between = None
    show_expired: StrictBool = False
    as_of: Moment | None = None
    reference_date: Moment | None = None
    explain: StrictBool = False
    all_scopes: StrictBool = False
    effort: Literal["fast", "full"] | None = None
    timeout: Number | None = None


class Search(Asked):
    """As `Memory.search` takes it."""

    query: str


class SearchBatch(Asked):
    """As `Memory.search_batch` takes it."""

    queries: list[str]


class Change(Body):
    """As `Memory.update` takes it; `expires_at` null lets the memory live for ever."""

    content: str | None = None
    metadata: Json | None = None
    replace_metadata: StrictBool = False
    expires_at: Moment | None = None
    ttl: Number | None = None
    timeout: Number | None = None


class Delete(Owned):
    """As `Memory.delete_all` takes it."""

    filters: Json | None = None
    between: Between = None
    all_scopes: StrictBool = False
    dry_run: StrictBool = False
    timeout: Number | None = None


class Purge(Owned):
    """As `Memory.purge` takes it."""

    id: str | None = None


class Flush(Body):
    """As `Memory.flush` takes it."""

    timeout: Number | None = None


# -- answers ----------------------------------------------------------------------------------------------------------


class RecordOut(BaseModel):
    """A memory."""

    id: str
    content: str
    user_id: str | None
    agent_id: str | None
    run_id: str | None
    role: str | None
    metadata: Json
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class MatchOut(BaseModel):
    """A memory that was found."""

    score: float
    record: RecordOut
    explanation: Json | None


class MatchesOut(BaseModel):
    """What was found, best first."""

    matches: list[MatchOut]


class MatchListsOut(BaseModel):
    """What was found for each query."""

    results: list[list[MatchOut]]


class PageOut(BaseModel):
    """A page of memories; hand `next` to `after`."""

    records: list[RecordOut]
    next: str | None


class ResultsOut(BaseModel):
    """A memory, or a problem, for each item."""

    results: list[Json]


class CountOut(BaseModel):
    """How many."""

    count: int


class VersionOut(BaseModel):
    """A memory as it stood."""

    content: str
    metadata: Json
    expires_at: datetime | None
    updated_at: datetime


class EventOut(BaseModel):
    """One event of a history."""

    seq: int
    memory_id: str
    what: str
    before: VersionOut | None
    after: VersionOut | None
    at: datetime


class HistoryOut(BaseModel):
    """The events of a memory, oldest first."""

    events: list[EventOut]


class ScopeOut(BaseModel):
    """Whose memories there are."""

    user_id: str | None
    agent_id: str | None
    run_id: str | None


class ScopesOut(BaseModel):
    """Every scope that has memories."""

    scopes: list[ScopeOut]


class CheckOut(BaseModel):
    """What is wrong with the store; nothing where it is healthy."""

    problems: list[str]


class ProblemOut(BaseModel):
    """What went wrong, by RFC 9457."""

    title: str
    status: int
    detail: str
    error: Annotated[str, Field(description="The name of the error, such as InvalidInputError.")]
    request_id: str


def access_of(request: Request) -> Access:
    """The access that the doors gave to the request."""
    access = request.scope["agentmem.access"]
    assert isinstance(access, Access)
    return access


def writing(request: Request) -> Access:
    """The same, of a request that changes something. Raises ForbiddenError where it may not."""
    access = access_of(request)
    access.require_writes()
    return access


def _moment(name: str) -> Any:
    return BeforeValidator(lambda value: value if value is None else moment_of(name, value), json_schema_input_type=str)


def _filters(value: Any) -> Any:
    try:
        decoded = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise InvalidInputError(f"filters is {shorten(value)}; write a JSON object.") from None
    if decoded is not None and not isinstance(decoded, dict):
        raise InvalidInputError(f"filters is {shorten(value)}; write a JSON object.")
    return decoded


class Whose(BaseModel):
    """An owner in the query of a request."""

    model_config = ConfigDict(extra="forbid")
    user_id: Owner = None
    agent_id: Owner = None
    run_id: Owner = None

    def given(self) -> Json:
        """Returns what was said, as keywords of a call."""
        return {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}


class OneOf(Whose):
    """Which memory."""

    id: str


class Seen(OneOf):
    """Which memory, and how it is looked at."""

    show_expired: bool = False
    as_of: Annotated[datetime | None, _moment("as_of")] = None


class Listed(Whose):
    """Which memories."""

    filters: Annotated[Any, BeforeValidator(_filters, json_schema_input_type=str | None)] = None
    start: Annotated[datetime | None, _moment("start"), Field(description="Made from this moment on.")] = None
    end: Annotated[datetime | None, _moment("end"), Field(description="Made before this moment.")] = None
    show_expired: bool = False
    as_of: Annotated[datetime | None, _moment("as_of")] = None
    all_scopes: bool = False
    timeout: float | None = None

    def given(self) -> Json:
        """Returns what was said, as keywords of a call."""
        given = super().given()
        between = (given.pop("start", None), given.pop("end", None))
        return given if between == (None, None) else {**given, "between": between}


class Paged(Listed):
    """One page of them."""

    limit: int = 100
    after: str | None = None
    order: Literal["newest", "oldest"] = "newest"


class Exported(Whose):
    """What is exported."""

    filters: Annotated[Any, BeforeValidator(_filters, json_schema_input_type=str | None)] = None
    show_expired: bool = False
    all_scopes: bool = False
    vectors: bool = False


class Scoped(Whose):
    """Whose scopes."""

    filters: Annotated[Any, BeforeValidator(_filters, json_schema_input_type=str | None)] = None
    all_scopes: bool = False
    timeout: float | None = None


Reads = Annotated[Access, Depends(access_of)]
Writes = Annotated[Access, Depends(writing)]
PROBLEMS: dict[int | str, Any] = {
    "default": {
        "description": "A problem; `error` names it.",
        "content": {"application/problem+json": {"schema": ProblemOut.model_json_schema()}},
    }
}
router = APIRouter(prefix="/v1", responses=PROBLEMS)


def _record(record: Record, status: int = 200) -> JSONResponse:
    return JSONResponse(record.to_dict(), status)


def event_out(event: Event) -> Json:
    """Returns an event as values of JSON."""
    told = asdict(event)
    for version in (told, told["before"], told["after"]):
        for name in ("at", "expires_at", "updated_at"):
            if version is not None and version.get(name) is not None:
                version[name] = version[name].isoformat()
    return told


@router.post("/memories", status_code=201, response_model=RecordOut)
def add(asked: Add, access: Writes) -> Response:
    """Remembers one text. It is stored when the answer comes, and the next search finds it."""
    return _record(access.memory.add(**asked.given()), 201)


@router.post("/memories/batch", response_model=ResultsOut)
def add_batch(request: Request, asked: AddBatch, access: Writes) -> Response:
    """Remembers many texts, in order; with `on_error` "return" a problem stands in the place of a bad one."""
    given = asked.given()
    given["contents"] = [each if isinstance(each, str) else each.given() for each in asked.contents]
    results: Sequence[Record | AgentMemError] = access.memory.add_batch(**given)
    return JSONResponse({"results": [_result(request, each) for each in results]})


def _result(request: Request, result: Record | AgentMemError) -> Json:
    if isinstance(result, Record):
        return result.to_dict()
    name = type(result).__name__
    return problem(status_of(result), str(result), error=name, request_id=request.scope["agentmem.request_id"])


@router.post("/messages", response_model=ResultsOut)
def add_messages(asked: AddMessages, access: Writes) -> Response:
    """Remembers the messages of a chat, in order; those without text are left out."""
    records = access.memory.add_messages(**asked.given())
    return JSONResponse({"results": [record.to_dict() for record in records]})


@router.post("/search", response_model=MatchesOut)
def search(asked: Search, access: Reads) -> Response:
    """Finds what is relevant to a query, best first."""
    matches = access.memory.search(**asked.given())
    return JSONResponse({"matches": [match.to_dict() for match in matches]})


@router.post("/search/batch", response_model=MatchListsOut)
def search_batch(asked: SearchBatch, access: Reads) -> Response:
    """Finds what is relevant to each of many queries."""
    results = access.memory.search_batch(**asked.given())
    return JSONResponse({"results": [[match.to_dict() for match in matches] for matches in results]})


@router.get("/memories", response_model=PageOut)
def get_all(asked: Annotated[Paged, Query()], access: Reads) -> Response:
    """Lists memories by the time they were made, page by page."""
    page = access.memory.get_all(**asked.given())
    return JSONResponse({"records": [record.to_dict() for record in page], "next": page.next})


@router.get("/count", response_model=CountOut)
def count(asked: Annotated[Listed, Query()], access: Reads) -> Response:
    """Counts the memories that a listing has on all its pages."""
    return JSONResponse({"count": access.memory.count(**asked.given())})


@router.get("/scopes", response_model=ScopesOut)
def scopes(asked: Annotated[Scoped, Query()], access: Reads) -> Response:
    """Says whose memories there are."""
    found = access.memory.scopes(**asked.given())
    names = ("user_id", "agent_id", "run_id")
    return JSONResponse({"scopes": [{name: getattr(each, name) for name in names} for each in found]})


@router.get("/memory", response_model=RecordOut)
def get(asked: Annotated[Seen, Query()], access: Reads) -> Response:
    """Gets the memory with an id."""
    record = access.memory.get(**asked.given())
    if record is None:
        raise NotFoundError(f"There is no memory {shorten(asked.id)} here to see.")
    return _record(record)


@router.patch("/memory", response_model=RecordOut)
def update(which: Annotated[OneOf, Query()], asked: Change, access: Writes) -> Response:
    """Gives a memory a new version; the one before stays in its history."""
    return _record(access.memory.update(**which.given(), **asked.given()))


@router.delete("/memory", response_model=CountOut)
def delete(which: Annotated[OneOf, Query()], access: Writes) -> Response:
    """Hides a memory from every read; restoring undoes it."""
    return JSONResponse({"count": int(access.memory.delete(**which.given()))})


@router.post("/memory/restore", response_model=RecordOut)
def restore(which: Annotated[OneOf, Query()], access: Writes) -> Response:
    """Brings a deleted or expired memory back."""
    return _record(access.memory.restore(**which.given()))


@router.get("/memory/history", response_model=HistoryOut)
def history(which: Annotated[OneOf, Query()], access: Reads) -> Response:
    """Tells every event of a memory, oldest first."""
    return JSONResponse({"events": [event_out(event) for event in access.memory.history(**which.given())]})


@router.post("/delete", response_model=CountOut)
def delete_all(asked: Delete, access: Writes) -> Response:
    """Hides every memory that a listing has; with `dry_run` only counts them."""
    return JSONResponse({"count": access.memory.delete_all(**asked.given())})


@router.post("/purge", response_model=CountOut)
def purge(asked: Purge, access: Writes) -> Response:
    """Erases a memory, or an owner's, for good."""
    return JSONResponse({"count": access.memory.purge(**asked.given())})


@router.post("/flush", response_model=CountOut)
def flush(asked: Flush, access: Writes) -> Response:
    """Waits until everything deferred is embedded."""
    access.memory.flush(**asked.given())
    return JSONResponse({"count": 0})


@router.get("/export")
def export(asked: Annotated[Exported, Query()], access: Reads) -> Response:
    """Streams memories as JSON Lines, which `import_` reads."""
    lines = exported(access, asked.given())
    headers = {"Content-Disposition": 'attachment; filename="memories.jsonl"'}
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


@router.get("/stats")
def stats(access: Reads) -> Response:
    """Tells what the store holds, and what this process has done."""
    access.require_admin()
    told = asdict(access.store.stats())
    return Response(json.dumps(told, default=lambda each: each.isoformat()), media_type="application/json")


@router.get("/check", response_model=CheckOut)
def check(access: Reads) -> Response:
    """Reads the whole store and tells what is wrong with it."""
    access.require_admin()
    return JSONResponse({"problems": access.store.check()})


class _Pipe:
    """A file that an export writes into, and a response reads from. Guards itself: a queue of a few chunks."""

    def __init__(self) -> None:
        self.chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(4)
        self.left = threading.Event()

    def write(self, data: bytes) -> int:
        """Waits until the reader has taken earlier chunks. Raises ConnectionError when it has gone."""
        self.put(data)
        return len(data)

    def put(self, chunk: bytes | BaseException | None) -> None:
        while not self.left.is_set():
            try:
                return self.chunks.put(chunk, timeout=0.2)
            except queue.Full:
                continue
        raise ConnectionError("The reader of the export has gone.")


def exported(access: Access, asked: Json) -> Iterator[bytes]:
    """Returns the chunks of an export, once it has begun: what is wrong with the request is raised here."""
    pipe = _Pipe()

    def work() -> None:
        try:
            access.memory.export(pipe, **asked)  # type: ignore[arg-type]
        except BaseException as error:
            ended: BaseException | None = error
        else:
            ended = None
        with suppress(ConnectionError):
            pipe.put(ended)

    threading.Thread(target=work, name="agentmem-export", daemon=True).start()
    first = pipe.chunks.get()
    if isinstance(first, BaseException):
        raise first

    def chunks() -> Iterator[bytes]:
        chunk: bytes | BaseException | None = first
        try:
            while chunk is not None:
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk
                chunk = pipe.chunks.get()
        finally:
            pipe.left.set()

    return chunks()
