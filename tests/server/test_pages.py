"""The page: every screen, what may be done on it, and that what people store is inert there."""

import json
import re
from html import unescape
from urllib.parse import parse_qs, quote, urlsplit

import pytest

pytest.importorskip("fastapi", reason="the extra agentmem[server] is not installed")

from agentmem import Scope
from agentmem.analyzer import query_terms
from agentmem.server.doors import COOKIE
from agentmem.server.pages import marked, word_diff
from agentmem.server.tokens import TokenFile

SITE = {"Origin": "http://127.0.0.1:8765"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


@pytest.fixture
def filled(store):
    store.add("Lives in Porto", user_id="ana", run_id="r1", id="m1", metadata={"topic": "home"})
    store.add("Prefers window seats", user_id="ana", run_id="r1", id="m2", metadata={"topic": "travel"})
    store.add("Has a cat", user_id="ana", agent_id="bot", id="m3")
    store.add("Ben's secret", user_id="ben", id="b1")
    store.update("m1", "Lives in Lisbon", user_id="ana")
    return store


SCREENS = ["/", "/owners?prefix=a", "/memories", "/memories?user_id=ana&order=oldest", "/memory?id=m1&user_id=ana",
           "/recall", "/recall?query=where+does+she+live&user_id=ana&other=vector&recency=30", "/time?user_id=ana",
           "/time?user_id=ana&since=1000000000", "/now", "/health?check=1", "/login"]  # fmt: skip


@pytest.mark.parametrize("address", SCREENS)
def test_every_screen_is_there_and_needs_no_other_host(serve, filled, address):
    page = serve().get(address)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert not re.findall(r"""(?:src|href|action)=["'](?:https?:)?//""", page.text)
    assert not re.findall(r"<[^>]+ (?:style|on\w+)=|<script(?! type=\"module\" src)", page.text)


@pytest.mark.parametrize("address", [each for each in SCREENS if each not in ("/", "/login")])
def test_beside_every_screen_is_its_json(serve, filled, address):
    path, _, query = address.partition("?")
    answer = serve().get(f"{path}.json?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert isinstance(answer.json(), dict)


def test_the_screens_tell_what_is_remembered(serve, filled):
    api = serve()
    owners = api.get("/owners.json").json()["owners"]
    assert [(row["owner"], row["count"]) for row in owners] == [({"user_id": "ana"}, 3), ({"user_id": "ben"}, 1)]
    assert {"user_id": "ana", "run_id": "r1"} in [part["owner"] for part in owners[0]["parts"]]
    listed = api.get("/memories.json?user_id=ana").json()
    assert [record["id"] for record in listed["records"]] == ["m3", "m2", "m1"]
    [facet] = [each for each in listed["facets"] if each["value"] == "travel"]
    narrowed = api.get("/memories.json", params={"user_id": "ana", "filters": facet["filters"]}).json()
    assert [record["id"] for record in narrowed["records"]] == ["m2"]
    assert api.get("/count.json?user_id=ana").json() == {"count": 3}
    found = api.get("/recall.json?user_id=ana&query=lisbon").json()["sides"][0]["rows"]
    assert found[0]["match"]["record"]["id"] == "m1"
    assert [True, "Lisbon"] in found[0]["marked"]
    assert {bar["part"] for bar in found[0]["bars"]} >= {"keyword"}
    told = api.get("/memory?id=m1&user_id=ana").text
    assert "<del>Porto</del><ins>Lisbon</ins>" in told
    assert "Around it in its run" in told


def test_pages_of_a_listing_follow_each_other(serve, store):
    store.add_batch([f"Fact {n}" for n in range(120)], user_id="ana")
    api, address, seen = serve(), "/memories?user_id=ana", []
    while address:
        page = api.get(address).text
        seen += re.findall(r"Fact \d+(?=</a>)", page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        address = unescape(following[1]) if following else None
    assert seen == [f"Fact {n}" for n in reversed(range(120))]


def test_what_changed_between_two_moments(serve, store, clock):
    first = int(clock().timestamp())
    store.add("Lives in Porto", user_id="ana", id="m1")
    store.add("Has a cat", user_id="ana", id="m2")
    clock.wait(100)
    middle = int(clock().timestamp())
    clock.wait(100)
    store.update("m1", "Lives in Lisbon", user_id="ana")
    store.delete("m2", user_id="ana")
    store.add("Has a dog", user_id="ana", id="m3")
    clock.wait(100)
    api = serve()
    then = api.get(f"/time.json?user_id=ana&at={middle}").json()
    assert (then["known"], {record["content"] for record in then["records"]}) == (2, {"Lives in Porto", "Has a cat"})
    changes = api.get(f"/time.json?user_id=ana&since={middle}").json()["changes"]
    assert [record["id"] for record in changes["added"]] == ["m3"]
    assert [record["id"] for record in changes["gone"]] == ["m2"]
    assert [each["record"]["id"] for each in changes["changed"]] == ["m1"]
    assert api.get(f"/time.json?user_id=ana&at={first - 10}").json()["known"] == 0


def post(api, path, **fields):
    return api.post(path, data=fields, headers=SITE, follow_redirects=False)


def test_a_memory_is_edited_deleted_and_restored(serve, filled):
    api = serve()
    which = {"id": "m2", "user_id": "ana"}
    done = post(api, "/memory/edit", **which, content="Prefers aisle seats", metadata='{"sure": true}')
    assert done.status_code == 303
    assert parse_qs(urlsplit(done.headers["location"]).query) == {"id": ["m2"], "user_id": ["ana"]}
    record = filled.get("m2", user_id="ana")
    assert (record.content, record.metadata) == ("Prefers aisle seats", {"sure": True})
    post(api, "/memory/delete", **which, back="memory")
    assert filled.get("m2", user_id="ana") is None
    assert "This memory is deleted." in api.get("/memory", params=which).text
    post(api, "/memory/restore", **which)
    post(api, "/memories/delete", user_id="ana", id=["m1", "m3"])
    assert [record.id for record in filled.get_all(user_id="ana")] == ["m2"]
    refused = post(api, "/memory/edit", **which, content="x", metadata="{")
    assert refused.status_code == 400
    assert "metadata is not JSON" in refused.text


def test_an_owner_is_erased_after_it_was_tried_and_a_receipt_tells(serve, filled):
    api = serve()
    tried = post(api, "/owners/erase", user_id="ana")
    assert "3 memories" in tried.text
    post(api, "/owners/erase", user_id="ana", confirm="Ana")
    assert filled.count(user_id="ana") == 3
    assert "Receipt: 3 memories of ana" in post(api, "/owners/erase", user_id="ana", confirm="ana").text
    assert filled.count(user_id="ana") == 0
    assert filled.count(user_id="ben") == 1
    assert post(api, "/owners/erase", confirm="ben").status_code == 400


def test_a_form_is_taken_from_a_page_of_this_server_only(serve, filled):
    api = serve()
    for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/memory/delete", "/owners/erase", "/memories/delete", "/memory/edit"):
            fields = {"id": "m1", "user_id": "ana", "confirm": "ana", "content": "x"}
            assert api.post(path, data=fields, headers=headers).status_code == 403
    assert filled.count(user_id="ana") == 3
    assert filled.get("m1", user_id="ana").content == "Lives in Lisbon"


def test_who_only_reads_sees_no_form_that_changes(serve, filled):
    api = serve(write=False)
    for address in ("/", "/memories?user_id=ana", "/memory?id=m1&user_id=ana"):
        page = api.get(address).text
        assert 'method="post" action="/memory/' not in page
        assert '<button class="danger"' not in page
    for path in ("/memory/delete", "/owners/erase", "/memory/edit", "/memories/delete", "/memory/restore"):
        assert post(api, path, id="m1", user_id="ana", confirm="ana", content="x").status_code == 403
    assert filled.get("m1", user_id="ana").content == "Lives in Lisbon"


def test_an_owner_signs_in_and_sees_nobody_else(serve, filled, store_path):
    token, _ = TokenFile(str(store_path)).create(Scope("ana"), read_only=False)
    api = serve(tokens=True)
    sent_away = api.get("/memories", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (sent_away.status_code, sent_away.headers["location"]) == (303, "/login")
    signed = post(api, "/login", token=token)
    cookie = signed.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict"))
    api.cookies.set(COOKIE, token)
    seen = [api.get(address).text for address in (
        "/", "/memories", "/memories?user_id=ben", "/memory?id=b1", "/memory?id=b1&user_id=ben",
        "/recall?query=secret", "/time", "/time?user_id=ben", "/owners.json", "/now", "/health",
    )]  # fmt: skip
    assert "Ben's secret" not in unescape(" ".join(seen))
    assert not re.search(r">ben<", " ".join(seen[:1]))
    assert "Lives in Lisbon" in seen[1]
    assert post(api, "/memory/delete", id="b1", user_id="ben").status_code == 400
    assert filled.get("b1", user_id="ben") is not None


EVERYWHERE = [
    "/", "/memories?user_id={who}", "/memory?id={id}&user_id={who}", "/recall?user_id={who}&query={id}",
    "/time?user_id={who}&since=1000000000", "/memories?filters={id}", "/memory?id={id}{id}", "/owners?prefix={id}",
]  # fmt: skip


@pytest.mark.parametrize("address", EVERYWHERE)
def test_what_people_store_is_inert(serve, store, address):
    store.add(HOSTILE, user_id=HOSTILE, run_id=HOSTILE, role=HOSTILE, metadata={HOSTILE: HOSTILE}, id=HOSTILE)
    store.update(HOSTILE, f"{HOSTILE} changed", user_id=HOSTILE)
    page = serve().get(address.format(who=quote(HOSTILE), id=quote(HOSTILE))).text
    assert "<script>" not in page
    assert "<img" not in page
    assert "49" not in re.sub(r"[\d:.-]{5,}", "", page).replace("#49", "")


def test_a_case_has_the_query_and_what_answers_it(serve, filled):
    case = serve().get("/case.json?query=where&user_id=ana&id=m1&id=m2").json()
    assert case == {"query": "where", "relevant": ["m1", "m2"], "user_id": "ana"}


def test_a_diff_is_of_words_and_marks_are_of_terms():
    assert word_diff("a b c", "a x c") == [("same", "a "), ("removed", "b"), ("added", "x"), ("same", " c")]
    assert marked("Windows, seats.", set(query_terms("window"))) == [(True, "Windows"), (False, ", seats.")]


def test_the_memories_of_a_deleted_owner_can_be_found_again(serve, filled):
    filled.delete("m2", user_id="ana")
    told = serve().get("/memory.json?id=m2&user_id=ana").json()
    assert told["record"] is None
    assert json.dumps(told["timeline"]).count('"what"') == 2
