"""RemoteMemory: what it answers is what the Memory behind the server answers."""

import io
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="the extra agentmem[server] is not installed")

import agentmem
from agentmem import DuplicateIdError, InvalidInputError, NotFoundError, Scope
from agentmem.client import RemoteError, RemoteMemory
from agentmem.server.tokens import TokenFile

PAST = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)


@pytest.fixture
def remote(serve):
    """A RemoteMemory whose requests go to a server within this process."""
    memory = RemoteMemory("http://127.0.0.1:8765")
    memory._http = serve()
    return memory


def test_every_call_answers_as_the_memory_itself(remote, store):
    added = remote.add("Lives in Porto", user_id="ana", id="m1", metadata={"n": 1}, created_at=PAST)
    assert added == store.get("m1", user_id="ana")
    batch = remote.add_batch(["Has a cat", {"content": "Has a dog", "role": "user"}], user_id="ana", run_id="r")
    assert batch == store.get_all(user_id="ana", run_id="r", order="oldest").records
    remote.add_messages([{"role": "user", "content": "Hello"}], user_id="ben")
    updated = remote.update("m1", "Lives in Lisbon", user_id="ana", metadata={"sure": True})
    assert updated == store.get("m1", user_id="ana")
    for call, arguments in (
        ("search", {"query": "where?", "user_id": "ana", "explain": True}),
        ("search", {"query": "cat", "all_scopes": True, "filters": {"user_id": "ana"}, "collapse": True}),
        ("search_batch", {"queries": ["cat", "dog"], "user_id": "ana"}),
        ("get", {"id": "m1", "user_id": "ana"}), ("get", {"id": "nope", "user_id": "ana"}),
        ("get_all", {"user_id": "ana", "limit": 2}), ("get_all", {"all_scopes": True, "order": "oldest"}),
        ("get_all", {"user_id": "ana", "filters": {"n": {"gte": 1}}, "between": (PAST, None)}),
        ("count", {"user_id": "ana", "as_of": PAST}), ("count", {"all_scopes": True, "between": (None, PAST)}),
        ("scopes", {"all_scopes": True}), ("history", {"id": "m1", "user_id": "ana"}), ("check", {}),
    ):  # fmt: skip
        assert getattr(remote, call)(**arguments) == getattr(store, call)(**arguments), call
    assert len(remote.search("cat", user_id="ana", recency=timedelta(days=3))) == 3  # Scores change with the time.
    assert remote.update("m1", user_id="ana", ttl=1000).expires_at is not None
    assert remote.update("m1", user_id="ana", expires_at=None).expires_at is None
    assert (remote.delete("m1", user_id="ana"), remote.delete("m1", user_id="ana")) == (True, False)
    assert remote.restore("m1", user_id="ana").content == "Lives in Lisbon"
    assert remote.delete_all(user_id="ana", run_id="r", dry_run=True) == 2
    there, here = io.BytesIO(), io.BytesIO()
    assert remote.export(there, user_id="ana") == store.export(here, user_id="ana") == 3
    assert there.getvalue() == here.getvalue()
    remote.flush()
    assert remote.stats()["store"]["memories"] == store.stats().store.memories
    assert remote.purge(user_id="ana") == 3
    assert store.count(all_scopes=True) == 1


def test_errors_are_those_of_the_memory(remote):
    remote.add("x", user_id="ana", id="m1")
    for error, call in (
        (InvalidInputError, lambda: remote.add("x")),
        (InvalidInputError, lambda: remote.add(" ", user_id="ana")),
        (InvalidInputError, lambda: remote.add("x", usr="ana")),
        (DuplicateIdError, lambda: remote.add("x", user_id="ana", id="m1")),
        (NotFoundError, lambda: remote.update("nope", "x", user_id="ana")),
    ):
        with pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error
    [good, bad] = remote.add_batch(["good", " "], user_id="ana", on_error="return")
    assert good.content == "good"
    assert isinstance(bad, InvalidInputError)


def test_a_view_reaches_its_owner_only(remote, store):
    ana = remote.scope(user_id="ana")
    ana.add("Has a cat")
    store.add("Ben's", user_id="ben")
    assert (ana.count(), ana.scope(run_id="r").count(), ana.scopes()) == (1, 0, [Scope("ana")])
    with pytest.raises(InvalidInputError, match="outside this scope"):
        ana.count(user_id="ben")


def test_a_server_that_refuses_or_is_not_there_is_told(serve, store_path, remote):
    TokenFile(str(store_path)).create(Scope("ana"), read_only=True)
    remote._http = serve(tokens=True)
    with pytest.raises(RemoteError, match="token"):
        remote.count(user_id="ana")
    with RemoteMemory("http://127.0.0.1:9", "secret") as nobody, pytest.raises(RemoteError) as raised:
        nobody.count(user_id="ana")
    assert "secret" not in str(raised.value)
    with pytest.raises(InvalidInputError):
        RemoteMemory("localhost:8765")


@pytest.mark.slow
def test_the_example_in_javascript_runs(start, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node on this machine")
    page = (Path(agentmem.__file__).parent / "server" / "JAVASCRIPT.md").read_text()
    [code] = re.findall(r"```js\n(.*?)```", page, re.S)
    (tmp_path / "client.mjs").write_text(code)
    server = start("serve", "--json", "--port", 0, "--write", "--model", "minilm-static", stderr=None)
    url = json.loads(server.stdout.readline())["url"]
    done = subprocess.run([node, tmp_path / "client.mjs", url], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "Prefers window seats" in done.stdout
