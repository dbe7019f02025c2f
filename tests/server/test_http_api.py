"""The HTTP API: every call, whose memories it reaches, and how errors are told."""

import io
import json
from datetime import UTC, datetime
from inspect import signature

import pytest

pytest.importorskip("fastapi", reason="the extra agentmem[server] is not installed")

from agentmem import DeadlineError, Memory, OverloadedError
from agentmem.server import http_api
from agentmem.server.problems import STATUSES
from agentmem.testing import HashEmbedder

ODD_IDS = ["a/b", "..", ".", "a b", "ü?&#%2F", "history", "//"]


def test_a_memory_is_added_found_changed_deleted_and_restored(serve, store):
    api = serve()
    made = api.post("/v1/memories", json={"content": "Prefers window seats", "user_id": "ana", "metadata": {"a": [1]}})
    assert made.status_code == 201
    record = made.json()
    assert store.get(record["id"], user_id="ana").to_dict() == record
    which = {"id": record["id"], "user_id": "ana"}
    [match] = api.post("/v1/search", json={"query": "window", "user_id": "ana", "explain": True}).json()["matches"]
    assert (match["record"], match["score"] > 0) == (record, True)
    assert match["explanation"]["mode"] == "hybrid"
    changed = api.patch("/v1/memory", params=which, json={"content": "Prefers aisle seats"}).json()
    assert api.get("/v1/memory", params=which).json() == changed
    assert api.delete("/v1/memory", params=which).json() == {"count": 1}
    assert api.get("/v1/memory", params=which).status_code == 404
    assert api.post("/v1/memory/restore", params=which).json()["content"] == "Prefers aisle seats"
    events = api.get("/v1/memory/history", params=which).json()["events"]
    assert [event["what"] for event in events] == ["add", "update", "delete", "restore"]
    assert events[1]["before"]["content"] == "Prefers window seats"


def test_many_are_added_and_a_bad_one_is_told_in_its_place(serve, store):
    api = serve()
    body = {"contents": ["Has a cat", {"content": " "}, {"content": "Has a dog", "role": "user"}], "user_id": "ana"}
    refused = api.post("/v1/memories/batch", json=body)
    assert refused.status_code == 400
    assert store.count(all_scopes=True) == 0
    results = api.post("/v1/memories/batch", json={**body, "on_error": "return"}).json()["results"]
    assert [each.get("error") for each in results] == [None, "InvalidInputError", None]
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ""}]
    assert len(api.post("/v1/messages", json={"messages": chat, "run_id": "r"}).json()["results"]) == 1
    lists = api.post("/v1/search/batch", json={"queries": ["cat", "dog"], "user_id": "ana", "limit": 1}).json()
    assert [matches[0]["record"]["content"] for matches in lists["results"]] == ["Has a cat", "Has a dog"]


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("add", http_api.Add), ("add_batch", http_api.AddBatch), ("add_messages", http_api.AddMessages),
        ("search", http_api.Search), ("search_batch", http_api.SearchBatch), ("delete_all", http_api.Delete),
        ("purge", http_api.Purge), ("get_all", http_api.Paged), ("count", http_api.Listed), ("get", http_api.Seen),
        ("scopes", http_api.Scoped),
    ],
)  # fmt: skip
def test_a_request_takes_every_argument_of_its_call(call, body):
    taken = set(body.model_fields)
    if "start" in taken:  # A query has two parameters in the place of one.
        taken |= {"between"}
    assert taken - {"start", "end"} == set(signature(getattr(Memory, call)).parameters) - {"self", "progress"}


def test_a_search_is_asked_as_of_a_day_by_one_half_and_for_what_is_relevant(serve, store):
    store.add("Went to the lake", user_id="ana", created_at=datetime(2024, 5, 6, tzinfo=UTC))
    store.add("Went to the lake", user_id="ana", created_at=datetime(2024, 8, 6, tzinfo=UTC))
    api = serve()
    for day, month in (("2024-05-07T12:00:00Z", 5), ("2024-08-07T12:00:00Z", 8)):
        body = {"query": "lake yesterday", "user_id": "ana", "reference_date": day, "relevant_only": True}
        first, *_ = api.post("/v1/search", json=body).json()["matches"]
        assert datetime.fromisoformat(first["record"]["created_at"]).month == month
    assert api.post("/v1/search", json={"query": "lake", "user_id": "ana", "effort": "half"}).status_code == 400
    assert api.post("/v1/search", json={"query": "lake", "user_id": "ana", "effort": "full"}).status_code == 200


def test_pages_counts_scopes_and_filters(serve, store):
    store.add_batch([{"content": f"Fact {n}", "metadata": {"n": n}} for n in range(5)], user_id="ana")
    store.add("Ben's", user_id="ben", run_id="r")
    api = serve()
    seen, after = [], {}
    while True:
        page = api.get("/v1/memories", params={"user_id": "ana", "limit": 2, "order": "oldest", **after}).json()
        seen += [record["content"] for record in page["records"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == [f"Fact {n}" for n in range(5)]
    few = {"user_id": "ana", "filters": json.dumps({"n": {"gte": 3}})}
    assert api.get("/v1/count", params=few).json() == {"count": 2}
    assert api.get("/v1/count", params={"all_scopes": True, "start": "2001-01-01T00:00:00Z"}).json() == {"count": 6}
    assert api.get("/v1/count", params={"all_scopes": True, "end": "2001-01-01T00:00:00Z"}).json() == {"count": 0}
    scopes = api.get("/v1/scopes", params={"all_scopes": True}).json()["scopes"]
    assert {"user_id": "ben", "agent_id": None, "run_id": "r"} in scopes
    tried = api.post("/v1/delete", json={"user_id": "ana", "filters": {"n": 1}, "dry_run": True})
    assert tried.json() == {"count": 1}
    assert api.post("/v1/delete", json={"user_id": "ana", "filters": {"n": 1}}).json() == {"count": 1}
    assert api.post("/v1/purge", json={"user_id": "ana"}).json() == {"count": 5}
    assert store.count(all_scopes=True) == 1


def test_an_export_is_what_an_import_reads(serve, store):
    store.add_batch([f"Fact {n}" for n in range(2_500)], user_id="ana")
    store.add("Ben's", user_id="ben")
    exported = serve().get("/v1/export", params={"user_id": "ana"})
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    with Memory(":memory:", embedder=HashEmbedder()) as other:
        other.import_(io.BytesIO(exported.content))
        assert (other.count(user_id="ana"), other.count(user_id="ben")) == (2_500, 0)
    assert serve().get("/v1/export").status_code == 400


def test_what_the_store_has_to_say(serve):
    api = serve()
    assert api.get("/v1/check").json() == {"problems": []}
    assert api.get("/v1/stats").json()["store"]["memories"] == 0
    assert "agentmem_store_memories 0.0" in api.get("/metrics").text
    assert "agentmem_store_commits_total" in api.get("/metrics").text
    assert (api.get("/healthz").text, api.get("/readyz").text) == ("ok\n", "ready\n")


@pytest.mark.parametrize("id", ODD_IDS)
def test_every_id_can_be_asked_for(serve, id):
    api = serve()
    assert api.post("/v1/memories", json={"content": "x", "user_id": "ana", "id": id}).json()["id"] == id
    assert api.get("/v1/memory", params={"id": id, "user_id": "ana"}).json()["id"] == id
    assert len(api.get("/v1/memory/history", params={"id": id, "user_id": "ana"}).json()["events"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error", "told"),
    [
        ("POST", "/v1/memories", {"content": "x"}, 400, "InvalidInputError", "No owner was given"),
        ("POST", "/v1/memories", {"content": 5, "user_id": "a"}, 400, "InvalidInputError", "content is 5"),
        ("POST", "/v1/memories", {"content": "x", "usr": "a"}, 400, "InvalidInputError", "usr is not known"),
        ("POST", "/v1/memories", {"user_id": "a"}, 400, "InvalidInputError", "content is missing"),
        ("POST", "/v1/memories", {"content": "x" * 1_000_001, "user_id": "a"}, 413, "TooLongError", "1,000,001"),
        ("POST", "/v1/search", {"query": "x", "user_id": "a", "limit": "5"}, 400, "InvalidInputError", "limit is '5'"),
        ("POST", "/v1/search", {"query": "x", "user_id": "a", "as_of": "now"}, 400, "InvalidInputError", "as_of is"),
        ("GET", "/v1/memories?user_id=a&after=newest:1:x", None, 400, "InvalidInputError", "after is"),
        ("GET", "/v1/memories?user_id=a&filters=[", None, 400, "InvalidInputError", "filters is '['"),
        ("GET", "/v1/memory?user_id=a&id=nope", None, 404, "NotFoundError", "'nope'"),
        ("GET", "/v2", None, 404, "NotFoundError", "/docs"),
        ("PUT", "/v1/memories", {}, 405, "NotFoundError", "/docs"),
    ],
)
def test_errors_are_problems_with_a_sentence(serve, method, path, body, status, error, told):
    answer = serve().request(method, path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["error"]) == (status, error)
    assert told in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_an_id_that_is_taken_is_a_conflict(serve):
    api = serve()
    body = {"content": "x", "user_id": "ana", "id": "m1"}
    assert [api.post("/v1/memories", json=body).status_code for _ in range(2)] == [201, 409]


def test_what_is_busy_says_when_to_come_back(serve, store, monkeypatch):
    for error, status, retry in ((OverloadedError, 503, "1"), (DeadlineError, 504, None)):

        def late(*_, error=error, **__):
            raise error("late")

        monkeypatch.setattr(type(store), "count", late)
        answer = serve().get("/v1/count", params={"user_id": "ana"})
        assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)


def test_a_defect_is_answered_without_its_details(serve, store, monkeypatch):
    monkeypatch.setattr(type(store), "count", lambda *_, **__: {}["secret"])
    answer = serve().get("/v1/count", params={"user_id": "ana"})
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_the_document_names_every_call_and_its_page_needs_no_other_host(serve):
    api = serve()
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    page = api.get("/docs").text
    assert all(path in page for path in document["paths"])
    assert "http://" not in page
    assert "https://" not in page


def test_every_error_of_a_request_has_a_status():
    assert len(set(STATUSES.values())) >= 7
