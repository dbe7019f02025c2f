"""What tries to come in: without a token, with another's, from other sites, too large, too often."""

import json
import logging
import os
import stat

import pytest

pytest.importorskip("fastapi", reason="the extra agentmem[server] is not installed")

from agentmem import NotFoundError, Scope, StoreOpenError
from agentmem.server.doors import COOKIE, Limits
from agentmem.server.tokens import TokenFile

EVERY_READ = ["/v1/memories?user_id=ana", "/v1/stats", "/v1/export?user_id=ana", "/metrics", "/openapi.json", "/docs",
              "/mcp", "/", "/memories", "/memory?id=m1"]  # fmt: skip


@pytest.fixture
def tokens(store_path):
    return TokenFile(str(store_path))


def bearing(token: str) -> dict:
    return {"Authorization": f"Bearer {token}"}


def test_without_a_token_nothing_is_told(serve, store, tokens):
    store.add("Ana's secret", user_id="ana", id="m1")
    tokens.create(Scope(), read_only=False)
    api = serve(tokens=True)
    for path in EVERY_READ:
        for headers in ({}, bearing("agentmem_00000000_x"), bearing(""), {"Authorization": "Basic eDp5"},
                        {"Cookie": f"{COOKIE}=agentmem_0_0"}, bearing("agentmem_é_x")):  # fmt: skip
            encoded = {name: value.encode() for name, value in headers.items()}
            answer = api.get(path, headers=encoded)
            assert answer.status_code == 401, path
            assert "secret" not in answer.text
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert api.get("/healthz").status_code == 200


def test_a_token_reaches_its_owner_only(serve, store, tokens):
    store.add("Ana's own", user_id="ana", id="a1")
    store.add("Ben's secret", user_id="ben", id="b1")
    ana, _ = tokens.create(Scope("ana"), read_only=False)
    api = serve(tokens=True)
    api.headers.update(bearing(ana))
    assert api.get("/v1/count").json() == {"count": 1}
    other = store.get_all(user_id="ben", limit=1)
    assert other.next is None
    tries = [
        api.get("/v1/memories?user_id=ben"), api.get("/v1/memories?all_scopes=true"), api.get("/v1/memory?id=b1"),
        api.get("/v1/memory?id=b1&user_id=ben"), api.get("/v1/export?user_id=ben"), api.get("/v1/export?all_scopes=1"),
        api.post("/v1/search", json={"query": "secret", "user_id": "ben"}),
        api.post("/v1/search", json={"query": "secret", "all_scopes": True}),
        api.post("/v1/search", json={"query": "secret"}),
        api.post("/v1/search", json={"query": "secret", "filters": {"user_id": "ben"}}),
        api.patch("/v1/memory?id=b1", json={"content": "x"}), api.delete("/v1/memory?id=b1&user_id=ben"),
        api.post("/v1/memories", json={"content": "planted", "user_id": "ben"}),
        api.post("/v1/memories/batch", json={"contents": [{"content": "planted", "user_id": "ben"}]}),
        api.post("/v1/purge", json={"user_id": "ben"}), api.post("/v1/purge", json={"id": "b1"}),
        api.post("/v1/delete", json={"all_scopes": True}), api.get("/v1/stats"), api.get("/v1/check"),
        api.get("/metrics"), api.get("/v1/memory/history?id=b1"), api.get("/v1/scopes?all_scopes=1"),
    ]  # fmt: skip
    assert not [answer.text for answer in tries if "Ben's secret" in answer.text]
    assert store.get("b1", user_id="ben").content == "Ben's secret"
    assert store.count(user_id="ben") == 1


def test_a_forged_cursor_shows_nobody_elses(serve, store, tokens):
    store.add_batch([f"Ben's {n}" for n in range(3)], user_id="ben")
    store.add("Ana's", user_id="ana")
    cursor = store.get_all(user_id="ben", limit=1).next
    token, _ = tokens.create(Scope("ana"), read_only=True)
    api = serve(tokens=True)
    for forged in (cursor, "newest:9223372036854775807:9223372036854775807", "newest:-1:-1", "newest:1:1' OR 1=1"):
        answer = api.get("/v1/memories", params={"after": forged}, headers=bearing(token))
        assert "Ben" not in answer.text


@pytest.mark.parametrize(("server_writes", "token_reads_only"), [(False, False), (True, True)])
def test_who_may_only_read_changes_nothing(serve, store, tokens, server_writes, token_reads_only):
    store.add("Has a cat", user_id="ana", id="m1")
    token, _ = tokens.create(Scope("ana"), read_only=token_reads_only)
    api = serve(tokens=True, write=server_writes)
    api.headers.update(bearing(token))
    before = store.stats().store.changes
    for method, path, body in (
        ("POST", "/v1/memories", {"content": "x"}), ("POST", "/v1/memories/batch", {"contents": ["x"]}),
        ("POST", "/v1/messages", {"messages": [{"role": "user", "content": "x"}]}),
        ("PATCH", "/v1/memory?id=m1", {"content": "x"}), ("DELETE", "/v1/memory?id=m1", None),
        ("POST", "/v1/memory/restore?id=m1", None), ("POST", "/v1/delete", {}), ("POST", "/v1/purge", {}),
        ("POST", "/v1/flush", {}),
    ):  # fmt: skip
        answer = api.request(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]) == (403, "ForbiddenError"), path
    assert store.stats().store.changes == before
    assert api.get("/v1/count").json() == {"count": 1}


def test_a_revoked_token_is_refused_at_once(serve, tokens):
    token, made = tokens.create(Scope("ana"), read_only=True)
    api = serve(tokens=True)
    assert api.get("/v1/count", headers=bearing(token)).status_code == 200
    TokenFile(str(tokens.path).removesuffix(".tokens")).revoke(made.id)
    assert api.get("/v1/count", headers=bearing(token)).status_code == 401
    with pytest.raises(NotFoundError):
        tokens.revoke(made.id)


def test_the_file_of_tokens_has_no_secret_and_is_private(tokens):
    token, _ = tokens.create(Scope("ana"), read_only=True)
    assert token.split("_", 2)[2] not in tokens.path.read_text()
    assert stat.S_IMODE(os.stat(tokens.path).st_mode) == 0o600  # noqa: PTH116
    assert [each.scope for each in tokens.list()] == [Scope("ana")]
    tokens.path.write_text("{")
    with pytest.raises(StoreOpenError, match="damaged"):
        tokens.list()


def test_a_name_that_is_not_the_servers_is_refused(serve):
    for host in ("evil.example", "127.0.0.1.evil.example:8765", "", "localhost@evil.example", "evil.example:80:8765"):
        assert serve().get("/v1/stats", headers={"Host": host}).status_code == 421
    for host in ("localhost:1", "127.0.0.1", "[::1]:8765", "LOCALHOST"):
        assert serve().get("/v1/stats", headers={"Host": host}).status_code == 200
    assert serve(hosts=("me.example",)).get("/v1/stats", headers={"Host": "me.example"}).status_code == 200


def test_pages_of_other_sites_cannot_call(serve, store):
    api = serve()
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"},
    ):  # fmt: skip
        body = json.dumps({"content": "planted", "user_id": "ana"})
        sent = {"Content-Type": "application/json"} | headers
        assert api.post("/v1/memories", content=body, headers=sent).status_code == 403, headers
    assert store.count(all_scopes=True) == 0
    answer = api.get("/v1/stats", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_site_that_is_named_may_call(serve):
    api = serve(origins=("https://good.example",))
    origin = {"Origin": "https://good.example"}
    asked = api.options("/v1/memories", headers=origin | {"Access-Control-Request-Method": "POST"})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "https://good.example")
    assert api.post("/v1/memories", json={"content": "x", "user_id": "a"}, headers=origin).status_code == 201
    assert "access-control-allow-credentials" not in asked.headers


def test_what_is_too_large_is_refused_before_it_is_read(serve, store):
    api = serve(limits=Limits(body_bytes=1_000))
    large = {"content": "x" * 2_000, "user_id": "ana"}
    assert api.post("/v1/memories", json=large).status_code == 413
    assert api.post("/mcp", json=large).status_code == 413
    pieces = (json.dumps(large)[at : at + 100].encode() for at in range(0, 2_100, 100))
    assert api.post("/v1/memories", content=pieces, headers={"Content-Type": "application/json"}).status_code == 413
    for length in ("-1", "9" * 30, "x"):
        assert api.post("/v1/memories", content=b"{}", headers={"Content-Length": length}).status_code == 413
    assert store.count(all_scopes=True) == 0


def test_who_asks_too_often_is_told_to_wait(serve, tokens):
    api = serve(limits=Limits(rate=0.001, burst=3))
    assert [api.get("/healthz").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert api.get("/healthz").headers["retry-after"] == "1"
    assert serve(limits=Limits(requests=0)).get("/healthz").status_code == 503


def test_deep_json_and_odd_numbers_are_told(serve):
    api = serve()
    headers = {"Content-Type": "application/json"}
    for body in (b"[" * 100_000, b'{"content":"x","user_id":"a","ttl":1e999}',
                 b'{"content":"x","user_id":"a","ttl":NaN}',
                 b"\xff\xfe", b"", b'{"content":"\\ud800","user_id":"a"}', b'{"content":"\\u0000","user_id":"a"}',
                 b'{"content":"x","user_id":"a","ttl":' + b"9" * 10_000 + b"}"):  # fmt: skip
        answer = api.post("/v1/memories", content=body, headers=headers)
        assert answer.status_code in (400, 413), body[:50]
        assert answer.headers["content-type"] == "application/problem+json"


def test_paths_that_climb_are_not_found(serve):
    api = serve()
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/..%2f"):
        assert api.get(path).status_code in (404, 405), path


def test_every_answer_has_the_headers_of_a_careful_site(serve):
    api = serve()
    for path in ("/v1/stats", "/nope", "/healthz", "/docs"):
        headers = api.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_log_has_no_secret_and_no_text(serve, tokens, caplog):
    token, _ = tokens.create(Scope("ana"), read_only=False)
    api = serve(tokens=True)
    with caplog.at_level(logging.INFO):
        api.post("/v1/memories", json={"content": "Very private"}, headers=bearing(token))
        api.get("/v1/memory?id=private-id", headers=bearing(token))
        api.get("/v1/count", headers=bearing(f"{token}x"))
        api.get("/x%0aforged%20line", headers=bearing(token))
    told = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("agentmem"))
    assert "POST /v1/memories 201" in told
    for private in (token, token.split("_", 2)[2], "Very private", "private-id", "\nforged"):
        assert private not in told
