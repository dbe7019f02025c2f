"""The extension for Flask: three lines in an application, no other user's memories, real servers that fork and die."""

import gc
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from agentmem import (
    AgentMemError,
    DeadlineError,
    InvalidInputError,
    Memory,
    NotFoundError,
    OverloadedError,
    StoreBusyError,
    StoreOpenError,
)
from agentmem.integrations.flask import AgentMem, current_memory
from agentmem.testing import HashEmbedder
from tests import flask_app
from tests.children import ROOT, SECONDS, run_python, start_python
from tests.conftest import our_threads, wait_for_our_threads
from tests.servers import Server, gunicorn

EMBEDDER = HashEmbedder()


@pytest.fixture
def make_app(store_path):
    """Applications with the settings that are given, by default on `store_path` with a HashEmbedder."""
    everything = []  # An application without references is closed whenever the collector runs.

    def make(extension: AgentMem | None = None, **settings) -> SimpleNamespace:
        app = Flask("app", instance_path=str(store_path.parent / "instance"))
        app.testing = True
        app.config.from_mapping(AGENTMEM_PATH=store_path, AGENTMEM_EMBEDDER=EMBEDDER)
        app.config.from_mapping(settings)
        extension = extension or AgentMem()
        extension.init_app(app)
        everything.append(SimpleNamespace(app=app, agentmem=extension, client=app.test_client()))
        return everything[-1]

    yield make
    for made in everything:
        made.agentmem.close()
    assert our_threads() == []


@pytest.fixture
def notes(store_path):
    """The example application, and a way to call it as a user."""
    app = flask_app.create_app(AGENTMEM_PATH=store_path, AGENTMEM_EMBEDDER=EMBEDDER, TESTING=True)
    client = app.test_client()

    def call(method: str, path: str, user: str | None = None, **body):
        headers = {"X-User": user} if user else {}
        return client.open(path, method=method, headers=headers, json=body or None)

    yield SimpleNamespace(app=app, call=call)
    flask_app.agentmem.close()
    assert our_threads() == []


def memory_of(made: SimpleNamespace) -> Memory:
    with made.app.app_context():
        return made.agentmem.memory


# -- requests and owners --------------------------------------------------------------------------------------------


def test_three_lines_give_an_application_its_memory(make_app):
    made = make_app()

    @made.app.post("/")
    def add():
        return current_memory.scope(user_id="ana").add("Prefers window seats").id

    added = made.client.post("/").text
    with made.app.app_context():
        assert current_memory.get(added).content == "Prefers window seats"
        assert current_memory.count(user_id="ana") == 1
        assert current_memory.count(user_id="ben") == 0
        assert made.agentmem.memory.check() == []
        with pytest.raises(InvalidInputError, match="No owner was given"):
            current_memory.add("whose?")


def test_no_request_reaches_another_users_memories(notes):
    for user in ("ana", "ben"):
        assert notes.call("POST", "/notes", user, text=f"{user} likes the sea").status_code == 200
    for user, other in (("ana", "ben"), ("ben", "ana")):
        assert notes.call("GET", "/notes?q=sea", user).json["notes"] == [f"{user} likes the sea"]
        assert notes.call("GET", f"/notes?q={other}+likes", user).json["notes"] == [f"{user} likes the sea"]
    assert notes.call("DELETE", "/notes", "ana").json == {"deleted": 1}
    assert notes.call("GET", "/notes/count", "ana").json["count"] == 0
    assert notes.call("GET", "/notes/count", "ben").json["count"] == 1
    assert notes.call("GET", "/notes/count").status_code == 401
    with notes.app.test_request_context(headers={"X-User": "ana"}):
        assert current_memory.scope(run_id="chat-1").count() == 0
        for attempt in (
            lambda: current_memory.scope(user_id="ben"),
            lambda: current_memory.count(user_id="ben"),
            lambda: current_memory.count(all_scopes=True),
            lambda: current_memory.add("planted", user_id="ben"),
        ):
            with pytest.raises(InvalidInputError, match="scope"):
                attempt()
        assert not hasattr(current_memory, "stats")


def test_requests_within_one_context_of_the_application_keep_their_owners(notes):
    """As in the tests of many applications: Flask then has one `g` for all the requests."""
    with notes.app.app_context():
        for user in ("ana", "ben"):
            notes.call("POST", "/notes", user, text=f"{user} was here")
        for user in ("ana", "ben"):
            assert notes.call("GET", "/notes?q=here", user).json["notes"] == [f"{user} was here"]


@pytest.mark.slow
def test_threads_that_serve_many_users_at_once_keep_them_apart(notes):
    def serve(number: int) -> None:
        user = f"user{number % 8}"
        notes.call("POST", "/notes", user, text=f"{user} note {number}", defer=bool(number % 3))
        found = notes.call("GET", f"/notes?q=note+{number}", user).json["notes"]
        assert f"{user} note {number}" in found
        assert all(each.startswith(f"{user} ") for each in found)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(serve, range(160)))
    assert notes.call("GET", "/notes/count", "user0").json["count"] == 20


@pytest.mark.parametrize(
    "owner", [None, "ana", {}, {"user_id": None}, {"user": "ana"}, {"all_scopes": True}, ["user_id"]]
)
def test_who_names_no_owner_gets_an_error_and_no_memory(make_app, owner):
    made = make_app()
    made.agentmem.owner(lambda: owner)
    memory_of(made).add("somebody's", user_id="ana")

    @made.app.get("/")
    def everything():
        return str(len(current_memory.get_all(all_scopes=True)))

    with pytest.raises(InvalidInputError, match="owner"):
        made.client.get("/")


def test_without_an_application_or_its_memory_the_error_says_what_to_do(make_app):
    with pytest.raises(RuntimeError, match="application context"):
        current_memory.count(user_id="ana")
    bare = Flask("bare")
    with bare.app_context(), pytest.raises(RuntimeError, match=r"AgentMem\(app\)"):
        current_memory.count(user_id="ana")
    made = make_app()
    with pytest.raises(RuntimeError, match="already"):
        AgentMem(made.app)
    with made.app.app_context(), pytest.raises(RuntimeError, match="init_app"):
        assert AgentMem().memory


# -- opening and closing --------------------------------------------------------------------------------------------


def test_loading_an_application_opens_nothing_and_loads_neither_numpy_nor_sqlite(tmp_path):
    run_python(
        """
        import sys
        from flask import Flask
        from agentmem.integrations.flask import AgentMem
        AgentMem(Flask("app"))
        heavy = {"numpy", "apsw", "onnxruntime", "tokenizers", "numkong"} & set(sys.modules)
        assert not heavy, heavy
        """,
        cwd=tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


def test_first_uses_in_many_threads_open_one_memory(make_app):
    made = make_app()
    start = threading.Barrier(8)

    def first(_: int) -> Memory:
        start.wait(SECONDS)
        return memory_of(made)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(first, range(8)))) == 1


def test_applications_with_the_same_settings_share_an_engine_until_the_last_one_closes(make_app, store_path):
    one, two = make_app(), make_app()
    other_config = make_app(AGENTMEM_TIMEOUT=5)
    other_path = make_app(AGENTMEM_PATH=store_path.with_name("other.db"))
    memory = memory_of(one)
    assert memory_of(two) is memory
    assert memory_of(other_config) is not memory
    assert memory_of(other_path) is not memory
    assert memory_of(other_path).path != memory.path
    one.agentmem.close()
    memory.add("still open", user_id="ana")
    two.agentmem.close()
    with pytest.raises(RuntimeError, match="closed"):
        memory.count(user_id="ana")
    assert memory_of(one) is not memory
    assert memory_of(one).count(user_id="ana") == memory_of(other_config).count(user_id="ana") == 1


def test_each_application_has_its_own_memory_in_ram(make_app):
    one, two = (make_app(AGENTMEM_PATH=":memory:") for _ in range(2))
    memory_of(one).add("of one", user_id="ana")
    assert memory_of(two).count(user_id="ana") == 0


def test_one_extension_serves_the_applications_of_a_factory(make_app, store_path):
    extension = AgentMem()
    apps = [make_app(extension, AGENTMEM_PATH=store_path.with_name(f"{number}.db")) for number in range(3)]
    for number, made in enumerate(apps):
        memory_of(made).add(f"of {number}", user_id="ana")
    assert [memory_of(made).get_all(user_id="ana").records[0].content for made in apps] == ["of 0", "of 1", "of 2"]
    extension.close()
    assert our_threads() == []


def test_an_application_that_is_thrown_away_closes_its_memory(store_path):
    def use() -> weakref.ref[Memory]:
        app = Flask("app")
        app.config.update(AGENTMEM_PATH=store_path, AGENTMEM_EMBEDDER=EMBEDDER)
        extension = AgentMem(app)
        with app.app_context():
            current_memory.add("tea", user_id="ana", defer=True)
            return weakref.ref(extension.memory)

    memory = use()
    gc.collect()
    assert memory() is None
    wait_for_our_threads()
    assert [path.name for path in store_path.parent.iterdir()] == ["store.db"]


def test_a_relative_path_is_in_the_instance_folder_which_is_made(make_app, store_path):
    made = make_app(AGENTMEM_PATH="notes.db")
    assert not (store_path.parent / "instance").exists()
    assert memory_of(made).path == str(store_path.parent / "instance" / "notes.db")
    made = make_app()
    del made.app.config["AGENTMEM_PATH"]
    assert memory_of(made).path == str(store_path.parent / "instance" / "agentmem.db")
    (store_path.parent / "file").touch()
    nowhere = make_app(AGENTMEM_PATH="notes.db")
    nowhere.app.instance_path = str(store_path.parent / "file" / "instance")
    with pytest.raises(StoreOpenError, match=r"file/instance.*AGENTMEM_PATH"):
        memory_of(nowhere)


@pytest.mark.slow
def test_a_process_that_ends_without_closing_has_closed(store_path):
    run_python(
        """
        import sys
        from flask import Flask
        from agentmem.integrations.flask import AgentMem, current_memory
        app = Flask("app")
        app.config.update(AGENTMEM_PATH=sys.argv[1], AGENTMEM_MODEL="minilm-static")
        AgentMem(app)
        with app.app_context():
            current_memory.add("kept", user_id="ana")
            current_memory.add("kept and deferred", user_id="ana", defer=True)
        """,
        store_path,
    )
    assert [path.name for path in store_path.parent.iterdir()] == ["store.db"]
    with Memory(store_path, model="minilm-static") as memory:
        assert memory.count(user_id="ana") == 2


@pytest.mark.slow
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_worker_has_its_own_engine_and_sees_what_its_parent_stored(store_path, used):
    run_python(
        f"""
        import os, sys
        from flask import Flask
        from agentmem.integrations.flask import AgentMem, current_memory
        from agentmem.testing import HashEmbedder
        app = Flask("app")
        app.config.update(AGENTMEM_PATH=sys.argv[1], AGENTMEM_EMBEDDER=HashEmbedder())
        AgentMem(app)
        with app.app_context():
            if {used}:
                current_memory.add("parent", user_id="ana")
            child = os.fork()
            current_memory.add("child" if not child else "parent again", user_id="ana")
            if not child:
                sys.exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
            found = {{match.record.content for match in current_memory.search("child parent", user_id="ana")}}
            assert found == {{"child", "parent again"}} | ({{"parent"}} if {used} else set()), found
        """,
        store_path,
    )


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("AGENTMEM_PATH", 3, r"AGENTMEM_PATH is 3; give the path"),
        ("AGENTMEM_PATH", "", r"AGENTMEM_PATH is ''; give the path"),
        ("AGENTMEM_PATH", b"store.db", r"AGENTMEM_PATH is b'store.db'; give the path"),
        ("AGENTMEM_MODEL", 3, r"AGENTMEM_MODEL is 3; give the name"),
        ("AGENTMEM_MODEL", "", r"AGENTMEM_MODEL is ''; give the name"),
        ("AGENTMEM_TIMEOUT", "soon", r"AGENTMEM_TIMEOUT is 'soon'; give seconds"),
        ("AGENTMEM_WORKERS", 0, r"AGENTMEM_WORKERS is 0; give 1 or more"),
        ("AGENTMEM_DURABILITY", "none", r"AGENTMEM_DURABILITY is 'none'; use 'full'"),
        ("AGENTMEM_INDEXED_METADATA", ["a b"], r"AGENTMEM_INDEXED_METADATA is .*'a b'"),
        ("AGENTMEM_RETRY_AFTER", "5", r"AGENTMEM_RETRY_AFTER is '5'; give whole seconds"),
        ("AGENTMEM_RETRY_AFTER", True, r"AGENTMEM_RETRY_AFTER is True"),
        ("AGENTMEM_RETRY_AFTER", -1, r"AGENTMEM_RETRY_AFTER is -1"),
        ("AGENTMEM_ANSWER_ERRORS", "no", r"AGENTMEM_ANSWER_ERRORS is 'no'; give True or False"),
        ("AGENTMEM_TIMOUT", 3, r"AGENTMEM_TIMOUT \(3\) is no setting; the settings are .*AGENTMEM_TIMEOUT"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_with_its_value(make_app, key, value, told):
    with pytest.raises(InvalidInputError, match=told):
        make_app(**{key: value})
    made = make_app()
    made.app.config[key] = value
    with pytest.raises(InvalidInputError, match=told):
        memory_of(made)


def test_settings_are_those_of_the_first_use(make_app, store_path):
    made = make_app()
    made.app.config["AGENTMEM_PATH"] = store_path.with_name("test.db")  # As the tests of an application do.
    made.app.config["AGENTMEM_MAX_CONTENT_BYTES"] = 10
    assert memory_of(made).path == str(store_path.with_name("test.db"))
    with pytest.raises(InvalidInputError, match="10"):
        memory_of(made).add("more than ten bytes", user_id="ana")


def test_settings_may_come_from_the_environment(store_path, monkeypatch):
    monkeypatch.setenv("FLASK_AGENTMEM_PATH", str(store_path))
    monkeypatch.setenv("FLASK_AGENTMEM_MODEL", "minilm-static")
    monkeypatch.setenv("FLASK_AGENTMEM_TIMEOUT", "7.5")
    monkeypatch.setenv("FLASK_AGENTMEM_WORKERS", "null")
    monkeypatch.setenv("FLASK_AGENTMEM_INDEXED_METADATA", '["topic"]')
    app = Flask("app")
    app.config.from_prefixed_env()
    extension = AgentMem(app)
    with app.app_context():
        config = extension.memory._engine.config
        assert (config.timeout, config.workers, config.indexed_metadata) == (7.5, None, ("topic",))
        assert "minilm-static" in repr(extension.memory)
    extension.close()


# -- a busy store ---------------------------------------------------------------------------------------------------

HOLDER = """
    import sys, apsw
    connection = apsw.Connection(sys.argv[1])
    connection.execute("BEGIN IMMEDIATE")
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_busy_store_is_answered_with_503_and_retry_after(make_app, store_path):
    patient = make_app()
    default, asking, own_page, silent, own = (make_app(AGENTMEM_BUSY_TIMEOUT=0.01, **more) for more in (
        {}, {"AGENTMEM_RETRY_AFTER": 7}, {"AGENTMEM_RETRY_AFTER": 0}, {"AGENTMEM_RETRY_AFTER": None},
        {"AGENTMEM_ANSWER_ERRORS": False},
    ))  # fmt: skip
    own_page.app.register_error_handler(503, lambda error: (f"later: {error.code}", 503))
    for made in (patient, default, asking, own_page, silent, own):
        made.app.testing = False
        made.app.add_url_rule("/", view_func=lambda: current_memory.add("x", user_id="ana").id, methods=["POST"])
    assert patient.client.post("/").status_code == 200
    child = start_python(HOLDER, store_path, stdin=subprocess.PIPE)
    try:
        assert child.line() == "holds\n"
        for made, seconds in ((default, "1"), (asking, "7"), (silent, None)):
            refused = made.client.post("/")
            assert (refused.status_code, refused.headers.get("Retry-After")) == (503, seconds)
            assert str(store_path) not in refused.text
        assert own_page.client.post("/").text == "later: 503"
        assert own.client.post("/").status_code == 500
        own.app.testing = True
        with pytest.raises(StoreBusyError):
            own.client.post("/")
    finally:
        child.communicate("", timeout=SECONDS)
    assert patient.client.post("/").status_code == 200
    # Its patience is so short that it may need another try, which the answer asks for.
    assert any(default.client.post("/").status_code == 200 for _ in range(1000))


# -- errors that requests cause -------------------------------------------------------------------------------------

STATUSES = {
    "blank": 400, "long": 413, "metadata": 413, "query": 413, "taken": 409, "unknown": 404, "filter": 400, "batch": 413,
    "late": 503, "queue": 503, "owner": 400,
}  # fmt: skip
"""What each of these mistakes is answered with."""


def make_mistake(mistake: str) -> str:
    memory = current_memory.scope(user_id="ana") if mistake != "owner" else current_memory
    long = "word " * 100
    calls: dict[str, Callable[[], object]] = {
        "blank": lambda: memory.add(" "),
        "long": lambda: memory.add(long),
        "metadata": lambda: memory.add("x", metadata={"long": "word " * 20_000}),
        "query": lambda: memory.search(long),
        "taken": lambda: [memory.add("x", id="x") for _ in range(2)],
        "unknown": lambda: memory.update("nothing", "x"),
        "filter": lambda: memory.search("x", filters={"AND": 3}),
        "batch": lambda: memory.add_batch(["x", long]),
        "late": lambda: raise_(DeadlineError("late")),
        "queue": lambda: raise_(OverloadedError("full")),
        "owner": lambda: memory.add("x"),
    }
    return str(calls[mistake]())


def raise_(error: Exception) -> None:
    raise error


@pytest.fixture
def mistaken(make_app):
    def make(**settings):
        made = make_app(AGENTMEM_MAX_CONTENT_BYTES=100, **settings)
        made.app.testing = False
        made.app.add_url_rule("/<mistake>", view_func=make_mistake)
        return made

    return make


@pytest.mark.parametrize("mistake", STATUSES)
def test_what_a_request_did_wrong_is_answered_as_such_and_serves_the_next(mistaken, mistake):
    made = mistaken()
    memory_of(made).add("x", user_id="ana", id="x")
    answer = made.client.get(f"/{mistake}")
    assert answer.status_code == STATUSES[mistake]
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
    made.app.testing = True  # As with any error that has an answer.
    assert made.client.get(f"/{mistake}").status_code == STATUSES[mistake]
    memory_of(made).add("and on it goes", user_id="ana")
    assert memory_of(made).check() == []


def test_the_answer_names_what_is_wrong_and_harms_no_page(mistaken):
    made = mistaken()
    made.app.add_url_rule("/add/<text>", view_func=lambda text: current_memory.scope(user_id=text).add("x").id)
    answer = made.client.get("/add/<b>bold%20")
    assert answer.status_code == 400
    assert "with spaces around it" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize("kind", [InvalidInputError, AgentMemError])
@pytest.mark.parametrize("before", [False, True])
def test_handlers_of_the_application_come_first(make_app, kind, before):
    extension = AgentMem()
    app = Flask("own")
    app.config.from_mapping(AGENTMEM_PATH=":memory:", AGENTMEM_EMBEDDER=EMBEDDER, AGENTMEM_MAX_CONTENT_BYTES=100)
    register = partial(app.register_error_handler, kind, lambda error: (f"own: {error}", 418))
    if before:
        register()
    extension.init_app(app)
    if not before:
        register()
    app.add_url_rule("/<mistake>", view_func=make_mistake)
    with closing(extension):
        answer = app.test_client().get("/blank")
        assert (answer.status_code, answer.text[:4]) == (418, "own:")
        assert app.test_client().get("/unknown").status_code == (404 if kind is InvalidInputError else 418)


def test_pages_of_the_application_are_shown_for_the_codes(mistaken):
    made = mistaken()
    made.app.register_error_handler(400, lambda error: {"wrong": error.description})
    assert "blank" in made.client.get("/blank").json["wrong"]


def test_an_application_that_wants_its_errors_itself_gets_them(mistaken):
    made = mistaken(AGENTMEM_ANSWER_ERRORS=False)
    assert {made.client.get(f"/{mistake}").status_code for mistake in STATUSES} == {500}
    made.app.testing = True
    with pytest.raises(NotFoundError):
        made.client.get("/unknown")


@pytest.mark.parametrize("settings", [{"AGENTMEM_TIMEOUT": "soon"}, {"AGENTMEM_PATH": "/nowhere/at/all.db"}])
def test_what_the_application_did_wrong_is_no_fault_of_the_request(mistaken, settings):
    made = mistaken()
    made.app.config.update(settings)
    assert made.client.get("/blank").status_code == 500
    made.app.testing = True
    with pytest.raises(AgentMemError):
        made.client.get("/blank")


# -- one memory for all requests ------------------------------------------------------------------------------------


def enter(memory: Memory) -> None:
    with memory:
        pass


def enter_closing(memory: Memory) -> None:
    with closing(memory):
        pass


@pytest.mark.parametrize("ending", [enter, enter_closing, lambda memory: memory.close()])
@pytest.mark.parametrize("through", ["extension", "proxy"])
def test_no_request_ends_the_memory_of_the_others(make_app, ending, through):
    made = make_app()
    made.app.testing = False

    @made.app.post("/")
    def add():
        memory = made.agentmem.memory if through == "extension" else current_memory
        record = memory.add("tea", user_id="ana")
        ending(memory)
        return record.id

    def serve(_: int) -> int:
        return made.client.post("/").status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(serve, range(40))) == {200}
    memory = memory_of(made)
    assert memory.count(user_id="ana") == 40
    assert memory.check() == []
    made.agentmem.close()
    with pytest.raises(RuntimeError, match="closed"):
        memory.count(user_id="ana")


# -- the README ----------------------------------------------------------------------------------------------------


def test_the_application_of_the_readme_keeps_its_users_apart(tmp_path, monkeypatch):
    [code] = re.findall(
        r"^```python\n(from flask import .*?)^```",
        (ROOT / "agentmem/integrations/README.md").read_text("utf-8"),
        re.M | re.S,
    )
    monkeypatch.chdir(tmp_path)
    readme: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "integrations/README.md", "exec"), readme)
    app = readme["app"]
    app.config.update(AGENTMEM_EMBEDDER=EMBEDDER, SECRET_KEY="test", TESTING=True)
    try:
        clients = {user: app.test_client() for user in ("ana", "ben")}
        for user, client in clients.items():
            with client.session_transaction() as session:
                session["user"] = user
            assert client.post("/notes", data={"text": f"{user} likes the sea"}).status_code == 200
        for user, client in clients.items():
            assert client.get("/notes?q=sea").json == {"notes": [f"{user} likes the sea"]}
        assert app.test_client().get("/notes?q=sea").status_code == 401
        assert (tmp_path / "instance" / "notes.db").exists()
    finally:
        readme["agentmem"].close()


# -- servers --------------------------------------------------------------------------------------------------------

UNANSWERED = (ConnectionError, http.client.HTTPException)
"""What a client of a server that restarts or dies may get instead of an answer."""


def post(server: Server, user: str, text: str, defer: bool = False) -> dict:
    body = json.dumps({"text": text, "defer": defer})
    return json.loads(server.ask("POST", "/notes", body, X_User=user, Content_Type="application/json"))


def find(server: Server, user: str, text: str) -> dict:
    return json.loads(server.ask("GET", f"/notes?q={text.replace(' ', '+')}", X_User=user))


@pytest.fixture(params=[False, True], ids=["each loads", "preload"])
def serve(request, tmp_path, store_path):
    folder = tmp_path / "server"
    folder.mkdir()
    options = ["--preload"] if request.param else []
    environment = {"FLASK_AGENTMEM_PATH": str(store_path), "FLASK_AGENTMEM_MODEL": "minilm-static"}
    return lambda: gunicorn("tests.flask_app:create_app()", folder, *options, **environment)


class Clients:
    """Threads that add notes one after the other and keep the ids of those that were answered."""

    def __init__(self, server: Server, count: int = 6) -> None:
        self.server = server
        self.acknowledged: set[str] = set()
        self.workers: set[int] = set()
        self.errors: list[BaseException] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._go_on, args=(f"user{number}",)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def wait_until(self, true: Callable[[set[int]], bool]) -> None:
        """Until the workers that have answered since now are such, and some answers came."""
        self.workers, before = set(), len(self.acknowledged)
        for number in range(20_000):
            if self.errors or (true(self.workers) and len(self.acknowledged) > before + 20):
                break
            assert number < 19_999, f"only {self.workers} answered"
            self.workers.add(find_worker(self.server))

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.errors == []

    def _go_on(self, user: str) -> None:
        number = 0
        try:
            while not self.stopping.is_set():
                try:
                    answer = post(self.server, user, f"{user} note {number}", defer=bool(number % 2))
                    self.acknowledged.add(answer["id"])
                    self.workers.add(answer["worker"])
                except ConnectionRefusedError:
                    return
                except UNANSWERED:
                    pass
                number += 1
        except BaseException as error:
            self.errors.append(error)


def find_worker(server: Server) -> int:
    try:
        return json.loads(server.ask("GET", "/notes/count", X_User="nobody"))["worker"]
    except UNANSWERED:
        return 0


def assert_stored(store_path: Path, acknowledged: set[str]) -> None:
    with Memory(store_path, model="minilm-static") as memory:
        assert acknowledged <= {record.id for record in memory.get_all(all_scopes=True, limit=1_000_000)}
        memory.flush()
        assert memory.check() == []
    assert files_of(store_path) == ["store.db"], "a worker still has it open"


def files_of(store_path: Path) -> list[str]:
    return [path.name for path in store_path.parent.glob("store.db*")]


@pytest.mark.slow
def test_each_worker_of_gunicorn_finds_at_once_what_another_has_stored(serve, store_path):
    crossed: set[tuple[int, int]] = set()
    acknowledged: set[str] = set()
    with serve() as server:

        def add_and_find(number: int) -> None:
            user, text = f"user{number % 5}", f"user{number % 5} note {number}"
            added = post(server, user, text, defer=bool(number % 3))
            acknowledged.add(added["id"])
            found = find(server, user, text)
            assert found["notes"][0] == text
            assert all(note.startswith(f"{user} ") for note in found["notes"])
            crossed.add((added["worker"], found["worker"]))

        number = 0
        with ThreadPoolExecutor(8) as pool:
            while number < 160 or not both_ways(crossed):
                assert number < 4000, f"no two workers served in turns: {crossed}"
                list(pool.map(add_and_find, range(number, number + 40)))
                number += 40
        workers = {worker for pair in crossed for worker in pair}
        assert len(workers) == 2
        assert server.process.pid not in workers
        retire_one(server, workers)
    assert len(acknowledged) == number
    assert files_of(store_path) == ["store.db"], "the last worker merged the log"
    assert_stored(store_path, acknowledged)


@pytest.mark.slow
def test_requests_of_gunicorn_that_do_wrong_or_close_the_memory_disturb_no_other(serve, store_path):
    acknowledged: set[str] = set()
    headers = {"X_User": "ana", "Content_Type": "application/json"}
    with serve() as server:

        def ask(number: int) -> None:
            added = post(server, "ana", f"note {number}", defer=bool(number % 2))
            acknowledged.add(added["id"])
            shown = json.loads(server.ask("GET", f"/notes/{added['id']}", **headers))
            assert shown["text"] == f"note {number}"
            assert server.answer("GET", "/notes/nothing", **headers)[0] == 404
            assert server.answer("PATCH", "/notes/nothing", '{"text": "x"}', **headers)[0] == 404
            assert server.answer("POST", "/notes", '{"text": " "}', **headers)[0] == 400
            assert server.answer("POST", "/notes", json.dumps({"text": "x" * 1_100_000}), **headers)[0] == 413

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(48)))
        assert "Traceback" not in server.log
    assert_stored(store_path, acknowledged)


def retire_one(server: Server, workers: set[int]) -> None:
    """Ends one worker before the others: of two that close at the same moment, each may expect the other to merge the
    log."""
    server.process.send_signal(signal.SIGTTOU)
    deadline = time.monotonic() + SECONDS
    while all(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "no worker ended"
        time.sleep(0.02)


def both_ways(crossed: set[tuple[int, int]]) -> bool:
    return any(writer != reader and (reader, writer) in crossed for writer, reader in crossed)


@pytest.mark.slow
def test_a_graceful_restart_and_the_end_under_load_lose_nothing(serve, store_path):
    with serve() as server:
        clients = Clients(server)
        try:
            clients.wait_until(lambda workers: len(workers - {0}) >= 2)
            first = clients.workers - {0}
            server.process.send_signal(signal.SIGHUP)
            clients.wait_until(lambda workers: len(workers - first - {0}) >= 2)
            server.stop()  # While the clients go on.
        finally:
            clients.stop()
    assert_stored(store_path, clients.acknowledged)


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing_acknowledged_and_is_replaced(serve, store_path):
    with serve() as server:
        clients = Clients(server)
        try:
            for _ in range(3):
                clients.wait_until(lambda workers: len(workers - {0}) >= 2)
                victim = min(clients.workers - {0})
                os.kill(victim, signal.SIGKILL)
                clients.wait_until(lambda workers, victim=victim: len(workers - {0, victim}) >= 2)
        finally:
            clients.stop()
    assert_stored(store_path, clients.acknowledged)


VERSIONED = """
from tests.flask_app import create_app
app = create_app()
app.add_url_rule("/version", view_func=lambda: {version!r})
"""


def test_the_reloader_of_the_development_server_starts_afresh_and_finds_what_was_stored(tmp_path, store_path):
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "versioned.py").write_text(VERSIONED.format(version="first"))
    server = Server(
        "flask", "--app=versioned", "run", "--port=0", "--reload", folder=folder, FLASK_DEBUG="1",
        FLASK_AGENTMEM_PATH=str(store_path), FLASK_AGENTMEM_MODEL="minilm-static",
    )  # fmt: skip
    try:
        before = post(server, "ana", "stored before")
        assert server.ask("GET", "/version") == "first"
        (folder / "versioned.py").write_text(VERSIONED.format(version="second"))
        assert any(version_of(server) == "second" for _ in range(20_000)), server.log
        found = find(server, "ana", "stored before")
        assert found["notes"] == ["stored before"]
        assert found["worker"] != before["worker"]
        assert "Traceback" not in server.log, server.log
    finally:
        server.kill()
    with Memory(store_path, model="minilm-static") as memory:
        assert memory.count(user_id="ana") == 1
        assert memory.check() == []


def version_of(server: Server) -> str:
    try:
        return server.ask("GET", "/version")
    except UNANSWERED:
        return ""
