"""The doors of the server: everything that a request passes before anything of ours looks at it.

In this order: Host and Origin, the limit of requests at once, the token, the rate, and the body as a whole within its
limits of size and time. What does not pass is answered here, with a problem, and nothing was done.
"""

import asyncio
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from agentmem.server.access import Access
from agentmem.server.problems import MEDIA_TYPE, body_of, headers_of, problem

LOGGER = logging.getLogger("agentmem.server")

COOKIE = "agentmem_token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = re.compile(r"/(?:healthz|readyz|login|static/[\w.-]+)\Z")
"""What needs no token: it says nothing about any memory."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
CLIENTS = 10_000
"""Clients whose rates are remembered; the one that was longest away is forgotten first."""

AsgiScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[AsgiScope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all together, may ask of the server."""

    body_bytes: int = 16 * 1024 * 1024
    body_seconds: float = 30.0
    requests: int = 256
    """At once."""
    rate: float = 2_000.0
    """Requests a second of one token, or of one address where there is none."""
    burst: float = 4_000.0


class Doors:
    """An ASGI application around another one. `hosts` are the names of the server beside those of loopback, `origins`
    the other sites whose pages may call it (CORS). `access_of` says what a token (None: none) opens."""

    def __init__(
        self,
        app: App,
        access_of: Callable[[str | None], Access | None],
        *,
        hosts: frozenset[str] = frozenset(),
        origins: frozenset[str] = frozenset(),
        limits: Limits | None = None,
    ) -> None:
        self._app = app
        self._access_of = access_of
        self._hosts = hosts | LOOPBACK
        self._origins = origins
        self._limits = limits or Limits()
        self._running = 0  # Of the event loop's thread alone, as the rates.
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serves a request, or the life of the server."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send)
        began = time.perf_counter()
        if self._running >= self._limits.requests:
            await visit.refuse(503, "OverloadedError", "Too many requests at once; try again a little later.")
            return
        self._running += 1
        try:
            refusal = self._refusal(visit)
            if refusal is not None:
                await visit.refuse(*refusal)
            elif visit.is_preflight:
                await visit.answer(204, b"", {})
            else:
                whole = await self._body(visit, receive)
                if whole is not None:
                    await self._app(scope, whole, visit.send)
        finally:
            self._running -= 1
            seconds = time.perf_counter() - began
            LOGGER.info(
                "%s %s %s %.0f ms %s", scope["method"], _plain(scope["path"]), visit.status, seconds * 1e3, visit.id
            )

    def _refusal(self, visit: "_Visit") -> tuple[int, str, str] | None:
        headers, scope = visit.headers, visit.scope
        host = headers.get("host", "")
        if _name_of(host) not in self._hosts:
            return 421, "ForbiddenError", "This server has another name; start it with --allow-host NAME."
        origin = headers.get("origin")
        if origin is not None and origin in self._origins:
            visit.allow(origin)
        elif origin is not None and not (urlsplit(origin).netloc == host and _name_of(host) in self._hosts):
            return 403, "ForbiddenError", "Pages of other sites may not call this server (--allow-origin)."
        elif origin is None and scope["method"] not in SAFE:
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "ForbiddenError", "Pages of other sites may not call this server (--allow-origin)."
            form = headers.get("content-type", "").startswith(("application/x-www-form", "multipart/", "text/plain"))
            if form and "sec-fetch-site" not in headers:
                return 403, "ForbiddenError", "A form is only taken from a page of this server; send JSON instead."
        if visit.is_preflight:
            return None
        given = _token_in(headers)
        access = self._access_of(given)
        if access is not None:
            scope["agentmem.access"] = access
        elif not OPEN.match(scope["path"]):
            told = "The token is unknown or revoked." if given else "A token is needed: Authorization: Bearer ..."
            return 401, "UnauthorizedError", told
        client = access.name if access is not None and given else str((scope.get("client") or ("",))[0])
        if not self._within_rate(client):
            return 429, "OverloadedError", "Too many requests a second; try again a little later."
        return None

    def _within_rate(self, client: str) -> bool:
        moment, limits = time.monotonic(), self._limits
        left, seen = self._rates.pop(client, (limits.burst, moment))
        left = min(limits.burst, left + (moment - seen) * limits.rate)
        self._rates[client] = (max(left - 1, 0), moment)
        if len(self._rates) > CLIENTS:
            self._rates.popitem(last=False)
        return left >= 1

    async def _body(self, visit: "_Visit", receive: Receive) -> Receive | None:
        """The whole body, received, as what the application receives; None when it was refused."""
        limit = self._limits.body_bytes
        too_large = (413, "TooLongError", f"The body has more than {limit:,} bytes; send it in parts.")
        length = visit.headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > limit:
            await visit.refuse(*too_large)
            return None
        chunks: list[bytes] = []
        size = 0
        if visit.scope["method"] not in SAFE or visit.headers.get("transfer-encoding") or int(length):
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            return None
                        chunks.append(message.get("body", b""))
                        size += len(chunks[-1])
                        if size > limit:
                            await visit.refuse(*too_large)
                            return None
                        if not message.get("more_body", False):
                            break
            except TimeoutError:
                await visit.refuse(408, "DeadlineError", "The body did not come in time; nothing was done.")
                return None
        told = False

        async def whole() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        return whole


class _Visit:
    """One request on its way in, and its answer on its way out."""

    def __init__(self, scope: AsgiScope, send: Send) -> None:
        self.scope = scope
        self.id = uuid.uuid4().hex
        self.status = 0
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        scope["agentmem.request_id"] = self.id
        self._send = send
        self._cors: dict[str, str] = {}

    @property
    def is_preflight(self) -> bool:
        return bool(self._cors) and self.scope["method"] == "OPTIONS"

    def allow(self, origin: str) -> None:
        self._cors = {
            "Access-Control-Allow-Origin": origin, "Vary": "Origin",
            "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Mcp-Session-Id, Mcp-Protocol-Version",
            "Access-Control-Expose-Headers": "Mcp-Session-Id, X-Request-Id, Retry-After",
        }  # fmt: skip

    async def send(self, message: Message) -> None:
        """Sends a message of the application, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = list(message.get("headers", []))
            there = {name.lower() for name, _ in own}
            more = {**HEADERS, **self._cors, "X-Request-Id": self.id}
            if self._cors:
                more["Cross-Origin-Resource-Policy"] = "cross-origin"
            own += [
                (name.encode(), value.encode()) for name, value in more.items() if name.lower().encode() not in there
            ]
            message = {**message, "headers": own}
        await self._send(message)

    async def refuse(self, status: int, error: str, detail: str) -> None:
        if status == 401 and self.scope["method"] == "GET" and "text/html" in self.headers.get("accept", ""):
            await self.answer(303, b"", {"Location": "/login"})
            return
        told = problem(status, detail, error=error, request_id=self.id)
        more = {"Connection": "close"} if status in (408, 413) else {}
        await self.answer(status, body_of(told), {"Content-Type": MEDIA_TYPE, **headers_of(status), **more})

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        if status != 204:
            headers = {**headers, "Content-Length": str(len(body))}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})


def _name_of(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() and name else host).lower()


def _token_in(headers: Mapping[str, str]) -> str | None:
    """The token of a request; an empty one where something else is offered as one."""
    if "authorization" in headers:
        kind, _, token = headers["authorization"].partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _plain(path: str) -> str:
    """A path for the log: on one line, and not long."""
    return re.sub(r"[^!-~]", "?", path[:200])
