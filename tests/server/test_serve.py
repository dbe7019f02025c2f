"""`agentmem serve` and `agentmem token` as processes: MCP over HTTP with the SDK's client, workers, and their end."""

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest

pytest.importorskip("mcp", reason="the extra agentmem[server] is not installed")

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentmem import Memory
from tests.children import SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture
def serve(start):
    """Starts a server on a free port, with a small model, and returns its address once it answers."""

    def serve(*options: str) -> str:
        model = [] if "--demo" in options else ["--model", "minilm-static"]
        process = start("serve", "--json", "--port", 0, *model, *options, stderr=None, start_new_session=True)
        serve.process = process
        url = json.loads(process.stdout.readline())["url"].rstrip("/")
        httpx.get(f"{url}/healthz", timeout=SECONDS).raise_for_status()
        return url

    yield serve
    with suppress(ProcessLookupError, AttributeError):  # Workers too, whatever became of their parent.
        os.killpg(serve.process.pid, signal.SIGKILL)


def ended(process) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(SECONDS)


def test_each_token_has_its_own_memories_over_mcp(serve, run, db):
    run("add", "Ben's secret", "--user", "ben", "--model", "minilm-static")
    tokens = {name: run("token", "create", "--user", name).stdout.strip() for name in ("ana", "ben")}
    admin = run("token", "create", "--admin").stdout.strip()
    url = serve("--require-token", "--write")

    async def session(token: str, mode: str, *calls):
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=SECONDS) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
        ):
            return [await client.call_tool(*call) for call in calls]

    for mode in ("legacy", "auto"):
        kept, found = asyncio.run(
            session(
                tokens["ana"], mode, ("remember", {"content": f"Likes the sea, {mode}"}), ("recall", {"query": "sea"})
            )
        )
        assert not kept.is_error
        assert f"Likes the sea, {mode}" in found.content[0].text
        [listed] = asyncio.run(session(tokens["ana"], mode, ("list_memories", {})))
        assert "secret" not in listed.content[0].text
        [other] = asyncio.run(session(tokens["ben"], mode, ("recall", {"query": "sea"})))
        assert "Likes the sea" not in other.content[0].text
        [nobody] = asyncio.run(session(admin, mode, ("list_memories", {})))
        assert nobody.is_error
        assert "No owner is fixed" in nobody.content[0].text
    assert ended(serve.process) == 0


def test_a_session_of_one_token_is_of_no_use_to_another(serve, run):
    tokens = [run("token", "create", "--user", name, "--db", "x.db").exit_code for name in ("ana",)]
    assert tokens == [3]  # There is no store yet.
    run("add", "Ben's secret", "--user", "ben", "--model", "minilm-static")
    ana, ben = (run("token", "create", "--user", name).stdout.strip() for name in ("ana", "ben"))
    url = serve("--require-token")
    opening = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    accept = {"Accept": "application/json, text/event-stream"}
    begun = httpx.post(f"{url}/mcp", json=opening, headers=accept | {"Authorization": f"Bearer {ben}"})
    session = {"Mcp-Session-Id": begun.headers["mcp-session-id"], "Mcp-Protocol-Version": "2025-11-25"}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "list_memories", "arguments": {}}}
    answers = {
        token: httpx.post(f"{url}/mcp", json=call, headers=accept | session | {"Authorization": f"Bearer {token}"}).text
        for token in (ana, ben)
    }
    assert "Ben's secret" in answers[ben]
    assert "Ben's secret" not in answers[ana]


def test_what_was_acknowledged_is_there_after_the_end_of_two_workers(serve, db):
    url = serve("--write", "--workers", "2")
    acknowledged, ending = [], []

    def client(number: int) -> None:
        with httpx.Client(timeout=SECONDS) as session:
            for turn in range(10_000):
                body = {"content": f"Fact {number}-{turn}", "user_id": f"user {number}"}
                try:
                    answer = session.post(f"{url}/v1/memories", json=body)
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    acknowledged.append(body)
                if len(acknowledged) > 200 and not ending:
                    ending.append(serve.process.send_signal(signal.SIGTERM))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    assert serve.process.wait(SECONDS) == 0
    with Memory(db) as memory:
        for number in range(8):
            there = {record.content for record in memory.get_all(user_id=f"user {number}", limit=10_000)}
            mine = {body["content"] for body in acknowledged if body["user_id"] == f"user {number}"}
            assert mine <= there
        assert memory.check() == []


def test_hundred_megabytes_and_a_body_that_never_comes_take_nothing(serve):
    url = urlsplit(serve("--write"))
    with closing(http.client.HTTPConnection(url.hostname, url.port, timeout=SECONDS)) as connection:
        connection.putrequest("POST", "/v1/memories")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(100_000_000))
        connection.endheaders()
        assert connection.getresponse().status == 413
    with closing(socket.create_connection((url.hostname, url.port), SECONDS)) as idle:
        idle.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{")
        httpx.get(f"{url.geturl()}/readyz", timeout=SECONDS).raise_for_status()


def test_a_server_beyond_loopback_wants_tokens(run, db):
    run("add", "x", "--user", "ana", "--model", "minilm-static")
    for options in (["--host", "0.0.0.0"], ["--allow-host", "me.example"], ["--require-token"]):
        refused = run("serve", *options)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "agentmem token create" in refused.stderr


def test_a_port_that_is_taken_is_told(run):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        refused = run("serve", "--port", taken.getsockname()[1], "--model", "minilm-static")
    assert refused.exit_code == 2
    assert "--port" in refused.stderr


def test_the_demo_is_served_and_leaves_nothing(serve):
    began = time.monotonic()
    url = serve("--demo")
    found = httpx.post(f"{url}/v1/search", json={"query": "Which city do I live in?", "user_id": "demo", "limit": 1})
    assert "Porto" in found.text
    assert time.monotonic() - began < SECONDS
    assert ended(serve.process) == 0


def test_tokens_are_made_listed_and_revoked(run):
    run("add", "x", "--user", "ana", "--model", "minilm-static")
    made = json.loads(run("token", "create", "--user", "ana", "--read-only", "--json").stdout)
    run("token", "create", "--admin")
    lines = run("token", "list").stdout.splitlines()
    assert len(lines) == 2
    assert made["id"] in lines[0]
    assert "user_id='ana'" in lines[0]
    assert "reads" in lines[0]
    assert "administrator" in lines[1]
    assert made["token"] not in run("token", "list", "--json").stdout
    assert run("token", "revoke", made["id"]).exit_code == 0
    assert run("token", "revoke", made["id"]).exit_code == 2
    assert run("token", "create").exit_code == 2
    assert run("token", "create", "--admin", "--user", "ana").exit_code == 2
