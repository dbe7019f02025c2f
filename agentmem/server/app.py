"""The application: the HTTP API, MCP over HTTP, health, metrics, and the doors around them."""

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from html import escape
from typing import Any

import anyio.to_thread
import uvicorn
import uvicorn.config
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

import agentmem
from agentmem.errors import AgentMemError
from agentmem.memory import Memory
from agentmem.quoting import shorten
from agentmem.records import Scope
from agentmem.server import pages
from agentmem.server.access import Access
from agentmem.server.doors import Doors, Limits
from agentmem.server.http_api import access_of, router
from agentmem.server.mcp import THREADS, http_routes, make_server
from agentmem.server.problems import MEDIA_TYPE, headers_of, problem, status_of
from agentmem.server.tokens import TokenFile

LOGGER = logging.getLogger("agentmem.server")
SETTINGS = "AGENTMEM_SERVER"
"""The environment variable that tells the worker processes their settings. There is no secret in it."""

HEAD_SECONDS = 10
"""For the first line and the headers of a connection's first request."""
GRACE_SECONDS = 20
"""For requests that are under way when the server is told to end."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server is started with."""

    path: str
    model: str = ""
    owner: dict[str, str] = field(default_factory=dict)
    write: bool = False
    tokens: bool = False
    """Whether requests need a token. Without one, every client of the port is the owner, or an administrator."""
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    connectors: bool = False


def make_app(memory: Memory, settings: Settings, limits: Limits | None = None, *, close: bool = False) -> Doors:
    """Returns the ASGI application over a memory, which closes with the application if `close`."""
    tokens = TokenFile(settings.path)
    local = Access(memory, Scope(**settings.owner), settings.write)

    def access_for(given: str | None) -> Access | None:
        if given is None:
            return None if settings.tokens else local
        token = tokens.find(given)
        if token is None:
            return None
        return Access(memory, token.scope, settings.write and not token.read_only, token.id)

    mcp = make_server(lambda request: request.scope["agentmem.access"], connectors=settings.connectors)
    routes, sessions = http_routes(mcp)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        async with sessions():
            yield
        if close:
            await anyio.to_thread.run_sync(memory.close)

    app = FastAPI(
        title="agentmem",
        version=agentmem.__version__,
        description="Memory for AI agents: what was added is searched by meaning and by words, for one owner.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(router)
    app.include_router(pages.router)
    app.router.routes.extend(routes)
    _add_health(app, memory)
    _add_errors(app)
    hosts, origins = frozenset(settings.hosts), frozenset(settings.origins)
    return Doors(app, access_for, hosts=hosts, origins=origins, limits=limits)


def from_environment() -> Doors:
    """Returns the application that a worker process serves: its own memory, on the shared file."""
    told = json.loads(os.environ[SETTINGS])
    settings = Settings(**{each.name: _frozen(told[each.name]) for each in fields(Settings)})
    memory = Memory(settings.path, model=settings.model) if settings.model else Memory(settings.path)
    return make_app(memory, settings, close=True)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def serve(settings: Settings, listening: socket.socket, *, workers: int = 1) -> None:
    """Serves on a socket that is bound, until the process is told to end. Requests under way are answered first."""
    os.environ[SETTINGS] = json.dumps(asdict(settings))
    config = uvicorn.Config(
        "agentmem.server.app:from_environment",
        factory=True,
        workers=workers,
        log_config=_logging(),
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=_Connection,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    if workers == 1:
        uvicorn.Server(config).run(sockets=[listening])
    else:
        Multiprocess(config, [listening]).run()


def _logging() -> dict[str, Any]:
    told = deepcopy(uvicorn.config.LOGGING_CONFIG)
    told["loggers"]["agentmem"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return told


class _Connection(H11Protocol):
    """A connection that is closed when its first request does not come in time: uvicorn itself waits for ever."""

    def connection_made(self, transport: Any) -> None:
        """Begins to wait."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.close()


def _add_health(app: FastAPI, memory: Memory) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> Response:
        memory.count(all_scopes=True, filters={"id": "-"})
        return PlainTextResponse("ready\n")

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        access_of(request).require_admin()
        registry = CollectorRegistry()
        registry.register(_Figures(memory))
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(_docs_of(app.openapi()))


class _Figures:
    """`stats()` as metrics of Prometheus: counters count since the process opened the store, the others are gauges."""

    COUNTERS = frozenset(
        {"commits", "writes", "cache_hits", "store_hits", "coalesced", "texts", "tokens", "padded_tokens", "batches",
         "failed", "dropped", "run_seconds"}
    )  # fmt: skip

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def collect(self) -> Iterable[Metric]:
        """Returns every figure that is a number."""
        told = asdict(self._memory.stats())
        for group in ("store", "embedding", "search"):
            for name, value in told[group].items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    kind = "counter" if name in self.COUNTERS else "gauge"
                    metric = Metric(f"agentmem_{group}_{name}", f"`{group}.{name}` of Memory.stats()", kind)
                    suffix = "_total" if kind == "counter" else ""
                    metric.add_sample(f"agentmem_{group}_{name}{suffix}", {}, value)
                    yield metric
        timings = Metric("agentmem_seconds", "Percentiles of the latest durations", "gauge")
        for step, percentiles in told["process"]["timings"].items():
            for percentile, seconds in percentiles.items():
                timings.add_sample("agentmem_seconds", {"step": step, "percentile": percentile}, seconds)
        yield timings


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, status: int, error: str, detail: str) -> JSONResponse:
        told = problem(status, detail, error=error, request_id=request.scope["agentmem.request_id"])
        return JSONResponse(told, status, headers_of(status), media_type=MEDIA_TYPE)

    @app.exception_handler(AgentMemError)
    async def refused(request: Request, error: AgentMemError) -> Response:
        return answer(request, status_of(error), type(error).__name__, str(error))

    @app.exception_handler(RequestValidationError)
    async def unusable(request: Request, error: RequestValidationError) -> Response:
        told = " ".join(_sentence(each) for each in error.errors()[:5])
        return answer(request, 400, "InvalidInputError", told)

    @app.exception_handler(HTTPException)
    async def missed(request: Request, error: HTTPException) -> Response:
        return answer(request, error.status_code, "NotFoundError", f"{error.detail}; /docs names what there is.")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        LOGGER.error("A request failed: %s", request.scope["agentmem.request_id"], exc_info=error)
        return answer(request, 500, "Error", "The server failed; its log says where, under the request's id.")


def _sentence(error: Any) -> str:
    place = [str(part) for part in error["loc"][1:]]
    name = ".".join(place) or "The body"
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, AgentMemError):
        return str(cause).replace("The time", name, 1)
    if error["type"] == "extra_forbidden":
        return f"{name} is not known here; /docs names what is."
    if error["type"] == "missing":
        return f"{name} is missing."
    if error["type"] == "json_invalid":
        return "The body is not JSON."
    return f"{name} is {shorten(error['input'])}; {error['msg'][:1].lower()}{error['msg'][1:]}."


def _docs_of(document: dict[str, Any]) -> str:
    """A page of the OpenAPI document that needs no script and no other host."""
    parts = []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            names = [each["name"] + ("" if each.get("required") else "?") for each in told.get("parameters", [])]
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = document["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {})
            needed = schema.get("required", [])
            named = [name + ("" if name in needed else "?") for name in schema.get("properties", {})]
            parts.append(
                f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(told['description'])}</p>"
                + (f"<p>Query: {escape(', '.join(names))}</p>" if names else "")
                + (f"<p>Body: {escape(', '.join(named))}</p>" if named else "")
                + "</section>"
            )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>agentmem: HTTP API</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/style.css"></head>'
        '<body><main><h1>HTTP API</h1><p>The document is <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{''.join(parts)}</main></body></html>"
    )
