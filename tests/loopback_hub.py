"""A hub on loopback that speaks the protocol of the real one: listings, files, redirections of large files to another
server, ranges. It can be told to fail, and remembers what it was asked."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 3_000
"""Files from here on are kept like large ones: listed with their sha256, and given by the second server."""


@dataclass
class Request:
    server: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What the two servers give, and how they fail."""

    endpoint: str = ""
    elsewhere: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository, commit, file name, content."""
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    """Answers to paths that end so."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """After how many bytes the next transfers of a file break off."""
    lies: dict[str, bytes] = field(default_factory=dict)
    """What is sent in the place of a file."""
    ranges: bool = True
    listing: dict[str, Any] = field(default_factory=dict)
    """Overrides of the listing."""
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides of the entries of files."""
    token: str | None = None
    """Required of every request to the first server."""
    stalls: dict[str, int] = field(default_factory=dict)
    """After how many bytes the transfer of a file stalls, while the entry is here and the client waits."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Files wait for it; it is open at first."""
    arrived: threading.Event = field(default_factory=threading.Event)
    """A client has requested a file."""

    def __post_init__(self) -> None:
        self.gate.set()

    def publish(self, repository: str, folder: Path, branch: str = "main", seed: str = "") -> str:
        """The folder becomes the branch's newest commit."""
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        files |= {"README.md": b"# A model", "pytorch_model.bin": b"weights" * 1000}
        commit = hashlib.sha1(repr((repository, files, seed)).encode()).hexdigest()
        self.repositories.setdefault(repository, {})[commit] = files
        self.branches[repository, branch] = commit
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get((repository, revision), revision)
        files = self.repositories.get(repository, {}).get(commit)
        return None if files is None else (commit, files)

    def fetched(self) -> list[str]:
        """The files asked for, in order."""
        return [
            unquote(request.path.split("/resolve/")[1].split("/", 1)[1])
            for request in self.requests
            if "/resolve/" in request.path
        ]

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if len(content) >= LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return entry | self.entries.get(name, {})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    server_name: str

    def do_GET(self) -> None:
        hub, where = self.hub, urlsplit(self.path)
        hub.requests.append(Request(self.server_name, self.path, {k.lower(): v for k, v in self.headers.items()}))
        for ending, status in hub.statuses.items():
            if where.path.endswith(ending):
                return self.say(status, b'{"error": "as told"}')
        parts = [unquote(part) for part in where.path.strip("/").split("/")]
        if self.server_name == "elsewhere":
            return self.send_file(unquote(parse_qs(where.query)["name"][0]), self.content_of(parts))
        if hub.token is not None and self.headers.get("authorization") != f"Bearer {hub.token}":
            return self.say(401, b'{"error": "Invalid username or password."}')
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            return self.send_listing("/".join(parts[2:4]), parts[5], "blobs" in where.query)
        if len(parts) > 4 and parts[2] == "resolve":
            found = hub.find("/".join(parts[:2]), parts[3])
            name = "/".join(parts[4:])
            if found and name in found[1]:
                return self.resolve("/".join(parts[:2]), *found, name)
        return self.say(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def content_of(self, parts: list[str]) -> bytes:
        return self.hub.repositories[f"{parts[0]}/{parts[1]}"][parts[2]]["/".join(parts[3:])]

    def send_listing(self, repository: str, revision: str, blobs: bool) -> None:
        found = self.hub.find(repository, revision)
        if found is None or not blobs:
            return self.say(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        commit, files = found
        listing = {
            "id": repository,
            "sha": commit,
            "cardData": {"license": "mit"},
            "siblings": [self.hub.entry(name, content) for name, content in files.items()],
        }
        cuts = self.hub.cuts.get("listing")
        return self.say(200, json.dumps(listing | self.hub.listing).encode(), cut=cuts.pop(0) if cuts else None)

    def resolve(self, repository: str, commit: str, files: dict[str, bytes], name: str) -> None:
        content = files[name]
        if len(content) < LARGE:
            return self.send_file(name, content, {"X-Repo-Commit": commit})
        location = f"{self.hub.elsewhere}/{repository}/{commit}/{name}?name={name}"
        linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        return self.say(302, b"", linked | {"Location": location, "X-Repo-Commit": commit})

    def send_file(self, name: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        hub = self.hub
        hub.arrived.set()
        hub.gate.wait(60)
        content = hub.lies.get(name, content)
        start, status = 0, 200
        asked = self.headers.get("range", "")
        if hub.ranges and asked.startswith("bytes="):
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            headers = (headers or {}) | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cut = hub.cuts[name].pop(0) if hub.cuts.get(name) else hub.stalls.get(name)
        self.say(status, content[start:], headers, cut)
        if name in hub.stalls:
            self.connection.settimeout(60)
            with suppress(OSError):
                self.connection.recv(1)  # Until the client hangs up.

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """The hub, while the block runs."""
    hub = Hub()
    handlers = [type("Handler", (_Handler,), {"hub": hub, "server_name": name}) for name in ("hub", "elsewhere")]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    hub.endpoint, hub.elsewhere = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join(30)
            server.server_close()
