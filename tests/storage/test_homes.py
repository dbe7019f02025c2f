"""Ids are unique, and vectors shared, within a home only: the user, else the run, else the agent."""

import io
import json
import os
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmem import Config, DuplicateIdError, InvalidInputError, Memory, NotFoundError
from agentmem.ids import bucket_in, bucket_of, new_id
from agentmem.mem0 import Memory as DropIn
from agentmem.records import Scope
from agentmem.storage.types import StoredModel
from agentmem.testing import HashEmbedder

HOMES = [{"user_id": "ana"}, {"user_id": "ben"}, {"run_id": "ana"}, {"agent_id": "ana"}, {"agent_id": "ben"}]
"""One name is no home: a user, a run and an agent may have the same."""


class CountingEmbedder(HashEmbedder):
    """Counts how often it embedded each text, and waits while it is `held`."""

    def __init__(self):
        super().__init__()
        self.asked = Counter()
        self.held = threading.Event()
        self.held.set()

    def embed(self, texts):
        self.asked.update(texts)
        self.held.wait(30)
        return super().embed(texts)


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["add", "batch", "dedupe", "defer", "import_"])
def test_an_id_that_one_home_has_is_free_in_every_other(memory, way):
    for number, home in enumerate(HOMES):
        item = {"content": f"Lives in {number}", "id": "profile", **home}
        if way == "batch":
            memory.add_batch([item])
        elif way == "import_":
            memory.import_(io.StringIO(json.dumps(item)))
        else:
            memory.add(**item, dedupe=way == "dedupe", defer=way == "defer")
    memory.delete("profile", user_id="ana")
    assert memory.add("Not squatted", id="other", user_id="ben").id == "other"
    for number, home in enumerate(HOMES[1:], start=1):
        assert memory.get("profile", **home).content == f"Lives in {number}"
    with pytest.raises(DuplicateIdError, match=r"'profile' is taken in user_id='ana' \(perhaps by a deleted"):
        memory.add("again", id="profile", user_id="ana")


def test_many_homes_bring_one_id_in_one_batch(memory):
    records = memory.add_batch([{"content": "tea", "id": "x", **home} for home in HOMES])
    assert [(Scope(each.user_id, each.agent_id, each.run_id).home, each.id) for each in records] == [
        (Scope(**home).home, "x") for home in HOMES
    ]
    with pytest.raises(
        DuplicateIdError, match=r"^Item 1: id 'y' is taken in user_id='ana', whatever the agent and run"
    ):
        memory.add_batch([{"content": "tea", "id": "y", "run_id": run} for run in ("r1", "r2")], user_id="ana")
    assert memory.count(all_scopes=True) == len(HOMES)


def test_within_a_home_an_id_is_taken_whatever_the_agent_and_the_run(memory):
    memory.add("of the first run", id="x", user_id="ana", run_id="r1")
    memory.add("of no user", id="x", agent_id="bot", run_id="r1")
    with pytest.raises(DuplicateIdError, match="whatever the agent and run"):
        memory.scope(user_id="ana", run_id="r2").add("of the second", id="x")
    with pytest.raises(DuplicateIdError, match="in run_id='r1', whatever the agent "):
        memory.add("of another agent", id="x", agent_id="other", run_id="r1")
    line = json.dumps({"content": "of the second", "id": "x", "user_id": "ana", "run_id": "r2"})
    for policy in ("error", "replace"):
        with pytest.raises(DuplicateIdError, match="'x' belongs to another memory"):
            memory.import_(io.StringIO(line), on_conflict=policy)
    assert memory.get("x", user_id="ana", run_id="r2") is None
    assert memory.get("x", user_id="ana").content == "of the first run"


def test_an_export_comes_back_although_another_home_has_taken_its_ids(memory):
    ana, eve = memory.scope(user_id="ana"), memory.scope(user_id="eve")
    ana.add_batch(["Lives in Rome", "Likes tea"])
    ana.add("Has a key", id="profile")
    exported, again = io.StringIO(), io.StringIO()
    ana.export(exported)
    ana.purge()
    eve.import_(io.StringIO(exported.getvalue().replace('"user_id":"ana"', '"user_id":"eve"')))
    report = ana.import_(io.StringIO(exported.getvalue()))
    assert (report.imported, report.skipped, report.failures) == (3, 0, 0)
    ana.export(again)
    assert again.getvalue() == exported.getvalue()
    assert ana.import_(io.StringIO(exported.getvalue())).skipped == eve.count() == 3


def at_first(memory, owner):
    return memory.history("here", **owner)[0].at


CALLS = {
    "get": lambda memory, name, owner: memory.get(name, **owner),
    "get with as_of": lambda memory, name, owner: memory.get(
        name, **owner, as_of=memory.history("here", **owner)[0].at
    ),
    "history": lambda memory, name, owner: memory.history(name, **owner),
    "update": lambda memory, name, owner: memory.update(name, "changed", **owner),
    "update of metadata": lambda memory, name, owner: memory.update(name, metadata={"n": 1}, **owner),
    "delete": lambda memory, name, owner: memory.delete(name, **owner),
    "restore": lambda memory, name, owner: memory.restore(name, **owner),
    "purge": lambda memory, name, owner: memory.purge(name, **owner),
}


def told_by(call, *arguments):
    try:
        return call(*arguments)
    except (InvalidInputError, NotFoundError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_by_id_tells_nothing_of_other_homes_and_changes_nothing_there(memory, name):
    for home in HOMES:
        memory.add("mine", id="here", **home)
    memory.add("a secret", id="elsewhere", user_id="ben", agent_id="bot", run_id="r1")
    memory.add("a secret", id="deleted elsewhere", user_id="ben")
    memory.delete("deleted elsewhere", user_id="ben")
    before = memory.get_all(user_id="ben", limit=10).records, memory.history("elsewhere", user_id="ben")
    for owner in ({"user_id": "ana"}, {"run_id": "ana"}, {"agent_id": "ana"}, {"user_id": "ana", "run_id": "r1"}):
        if "with as_of" in name and len(owner) > 1:
            continue
        for view, named in ((memory, owner), (memory.scope(**owner), {})):
            told = [
                told_by(CALLS[name], view, each, named) for each in ("elsewhere", "deleted elsewhere", "nowhere here")
            ]
            texts = [str(each).replace("deleted elsewhere", "ID").replace("nowhere here", "ID") for each in told]
            assert len({each.replace("elsewhere", "ID") for each in texts}) == 1
    assert (memory.get_all(user_id="ben", limit=10).records, memory.history("elsewhere", user_id="ben")) == before


@pytest.mark.parametrize("name", [name for name in CALLS if "as_of" not in name])
def test_without_an_owner_an_id_of_several_homes_is_an_error_that_names_them(memory, name):
    for home in HOMES[:2]:
        memory.add("mine", id="here", **home)
    memory.delete("here", user_id="ben")  # A hidden memory has its id as well.
    with pytest.raises(InvalidInputError, match=r"'here' is that of several memories.*user_id='ana'.*pass the owner"):
        CALLS[name](memory, "here", {})
    CALLS[name](memory, "here", {"user_id": "ana"})
    assert memory.restore("here", user_id="ben").content == "mine"
    alone = memory.add("alone", id="alone", agent_id="bot")
    assert memory.get("alone") == alone


def test_a_view_of_an_agent_names_the_user_where_several_have_the_id(memory):
    for user in ("ana", "ben"):
        memory.add(f"of {user}", id="x", user_id=user, agent_id="bot")
    memory.add("of another bot", id="x", user_id="cleo", agent_id="other")
    bot = memory.scope(agent_id="bot")
    with pytest.raises(InvalidInputError, match="several memories") as raised:
        bot.get("x")
    assert "cleo" not in str(raised.value)
    assert bot.get("x", user_id="ana").content == "of ana"
    assert bot.get("x", user_id="cleo") is None
    assert memory.scope(agent_id="other").update("x", "changed").user_id == "cleo"
    memory.add("of the bot alone", id="x", agent_id="bot")
    assert bot.get("x").content == "of the bot alone"
    assert bot.get("x", user_id="ana").content == "of ana"
    with pytest.raises(InvalidInputError, match="outside this scope"):
        bot.get("x", agent_id="other")


OWNERS = [
    {"user_id": "ana"}, {"user_id": "ben"}, {"user_id": "ana", "run_id": "r"}, {"user_id": "ben", "agent_id": "bot"},
    {"agent_id": "bot"}, {"run_id": "r"}, {"agent_id": "bot", "run_id": "r"}, {"user_id": "r"}, {"agent_id": "ana"},
]  # fmt: skip
STEPS = ["add", "add", "get", "update", "delete", "restore", "history", "purge", "import"]


@pytest.mark.slow
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from(["x", "y"]), st.sampled_from([*OWNERS, {}]), st.booleans()),
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_store_is_a_dictionary_by_home_and_id(steps):
    """Each memory of the dictionary: its owners, its text, and whether it is deleted."""
    known = {}
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        for number, (step, name, owner, through_view) in enumerate(steps):
            view, named = (memory.scope(**owner), {}) if owner and through_view else (memory, owner)
            if step in ("add", "import"):
                if not owner:
                    continue
                place = Scope(**owner).home, name
                if step == "add":
                    call = lambda text=f"{number}": view.add(text, id=name, **named)  # noqa: B023, E731
                else:
                    line = json.dumps({"content": f"{number}", "id": name, **owner})
                    call = lambda line=line: view.import_(io.StringIO(line))  # noqa: B023, E731
                if place in known:
                    with pytest.raises(DuplicateIdError):
                        call()
                else:
                    call()
                    known[place] = [owner, f"{number}", False]
                continue
            fitting = [
                place for place, (whose, *_) in known.items() if place[1] == name and owner.items() <= whose.items()
            ]
            call = {
                "get": lambda: view.get(name, **named),  # noqa: B023
                "update": lambda: view.update(name, f"{number}", **named),  # noqa: B023
                "delete": lambda: view.delete(name, **named),  # noqa: B023
                "restore": lambda: view.restore(name, **named),  # noqa: B023
                "history": lambda: view.history(name, **named),  # noqa: B023
                "purge": lambda: view.purge(name, **named),  # noqa: B023
            }[step]
            at_home = [place for place in fitting if place[0] == Scope(**owner).home]
            fitting = at_home or fitting
            if len(fitting) > 1:
                with pytest.raises(InvalidInputError, match="several memories"):
                    call()
                continue
            state = known[fitting[0]] if fitting else None
            visible = state is not None and not state[2]
            if step == "get":
                assert (call() and call().content) == (state[1] if visible else None)
            elif step == "history":
                assert bool(call()) == (state is not None)
            elif step == "purge":
                assert call() == len(fitting)
                known = {place: value for place, value in known.items() if place not in fitting}
            elif step == "delete":
                assert call() == visible
                if state:
                    state[2] = True
            elif (step == "update" and not visible) or state is None:
                with pytest.raises(NotFoundError):
                    call()
            else:
                assert call().content == (f"{number}" if step == "update" else state[1])
                state[1:] = [f"{number}" if step == "update" else state[1], False]
        for (_, name), (owner, text, deleted) in known.items():
            found = memory.get(name, **owner)
            assert (found and found.content) == (None if deleted else text)
        assert memory.count(all_scopes=True) == sum(not deleted for *_, deleted in known.values())
        assert memory.check() == []


def test_generated_ids_carry_the_bucket_of_their_home_and_sort_by_time(memory):
    ids = [memory.add(f"{number}", **HOMES[number % len(HOMES)]).id for number in range(40)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 40
    for number, each in enumerate(ids):
        assert bucket_in(each) == bucket_of(Scope(**HOMES[number % len(HOMES)]).home)
    brought = memory.add_batch(["a", "b"], user_id="ana", agent_id="bot", run_id="r")
    assert {bucket_in(each.id) for each in brought} == {bucket_of(("user_id", "ana"))}
    # They are stored: another value would route ids of old to another place.
    assert [bucket_of(Scope(**home).home) for home in HOMES] == [1606, 2214, 1871, 67, 3922]


def test_a_forked_child_draws_ids_of_its_own(open_memory):
    memory = open_memory(":memory:")
    memory.add("the parent has drawn before", user_id="ana")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, json.dumps([new_id(("user_id", "ana"))[19:] for _ in range(600)]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = set(json.load(pipe))
    os.waitpid(child, 0)
    ours = {memory.add(f"{number}", user_id="ana").id[19:] for number in range(600)}
    assert len(theirs) == len(ours) == 600
    assert not theirs & ours


# -- vectors ----------------------------------------------------------------------------------------------------------


def shared_vectors(memory):
    """Vectors that memories of more than one home point to."""
    with memory._engine.store._database.reading() as connection:
        rows = connection.execute("SELECT vector_key, user_id, agent_id, run_id FROM memory").fetchall()
    homes = {(vector, Scope(*owners).home) for vector, *owners in rows if vector is not None}
    return len(homes) - len({vector for vector, _ in homes})


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("way", ["add", "batch", "defer", "update", "import_", "changes"])
def test_a_text_is_embedded_anew_for_each_home_and_once_within(open_memory, way, fresh):
    def bring(memory, home):
        if way == "batch":
            memory.add_batch(["a secret", "another"], **home)
        elif way == "update":
            memory.update(memory.add("something", **home).id, "a secret", **home)
        elif way == "import_":
            memory.import_(io.StringIO('"a secret"'), **home)
        elif way == "changes":
            changes = memory._changes()
            changes.add("a secret", **home)
            changes.commit()
        else:
            memory.add("a secret", **home, defer=way == "defer")
        memory.flush()

    embedder = CountingEmbedder()
    memory = open_memory(embedder=embedder)
    for number, home in enumerate(HOMES, start=1):
        bring(memory, home)
        if fresh:  # Only the store knows the texts.
            memory.close()
            memory = open_memory(embedder=embedder)
        assert embedder.asked["a secret"] == number
        memory.add("a secret", **home, run_id="another") if "run_id" not in home else memory.add("a secret", **home)
        if "agent_id" not in home:  # An agent's memory of a run lives with the run.
            assert embedder.asked["a secret"] == number
        else:
            memory.purge(run_id="another", agent_id=home["agent_id"])
            embedder.asked["a secret"] = number
    assert shared_vectors(memory) == 0


def test_a_home_is_not_told_what_others_ask(open_memory):
    embedder = CountingEmbedder()
    memory = open_memory(":memory:", embedder=embedder)
    memory.add("something to be found", user_id="ben")
    for number, home in enumerate([*HOMES, {"all_scopes": True}], start=1):
        for _ in range(2):
            memory.search("what do others ask?", **home)
        assert embedder.asked["what do others ask?"] == number
    memory.add("what do others ask?", user_id="ana")  # As in a chat, whose turns are asked for and then remembered.
    memory.search("something to be found", user_id="ben")
    assert (embedder.asked["what do others ask?"], embedder.asked["something to be found"]) == (number, 1)
    memory.search("something to be found", user_id="ana")
    assert embedder.asked["something to be found"] == 2


@pytest.mark.parametrize("verb", ["add", "search"])
def test_texts_of_several_homes_on_their_way_at_once_are_each_embedded(open_memory, verb):
    embedder = CountingEmbedder()
    memory = open_memory(":memory:", embedder=embedder, config=Config(workers=4))
    embedder.held.clear()
    threads = [
        threading.Thread(target=getattr(memory, verb), args=["the same"], kwargs=home) for home in (*HOMES, *HOMES)
    ]
    try:
        for thread in threads:
            thread.start()
        until(lambda: memory.stats().embedding.coalesced == len(HOMES))
    finally:
        embedder.held.set()
        for thread in threads:
            thread.join(30)
    assert embedder.asked["the same"] == len(HOMES)


def test_no_number_of_adds_drives_the_queries_out_of_the_cache(open_memory):
    embedder = CountingEmbedder()
    memory = open_memory(":memory:", embedder=embedder, config=Config(cache_bytes=40_000))
    memory.search("what is asked often?", user_id="ana")
    memory.add_batch([f"text {number}" for number in range(300)], user_id="ana")
    memory.search("what is asked often?", user_id="ana")
    assert embedder.asked["what is asked often?"] == 1
    assert memory.stats().embedding.cache_bytes <= 40_000


def test_a_purge_takes_the_vector_of_its_home_and_leaves_those_of_others(open_memory):
    memory = open_memory()
    for home in HOMES:
        memory.add("a secret", **home)
        memory.update(memory.add("once a secret", **home).id, "now another", **home)
    assert memory.stats().store.vectors == 3 * len(HOMES)
    for left, home in zip(range(len(HOMES) - 1, -1, -1), HOMES, strict=True):
        assert memory.purge(**home) == 2
        assert memory.stats().store.vectors == 3 * left
        assert memory.check() == []


def test_an_export_with_vectors_gives_them_to_whatever_home_reads_it(open_memory, tmp_path):
    embedder = CountingEmbedder()
    memory = open_memory(tmp_path / "one.db", embedder=embedder)
    memory.add_batch(["Lives in Rome", "Likes tea"], user_id="ana")
    exported = io.StringIO()
    memory.export(exported, user_id="ana", vectors=True)
    other = open_memory(tmp_path / "two.db", embedder=embedder)
    for target in (memory, other):
        assert target.import_(io.StringIO(exported.getvalue()), user_id="ben").imported == 2
        assert target.search("tea", user_id="ben", mode="vector")[0].record.content == "Likes tea"
    assert embedder.asked["Likes tea"] == 1
    assert shared_vectors(memory) == 0


def test_dedupe_and_reembedding_keep_to_the_home(open_memory):
    class Other(CountingEmbedder):
        def __init__(self):
            super().__init__()
            self.identity = "another model"

        def embed(self, texts):
            return -super().embed(texts)

    memory = open_memory()
    for home in HOMES:
        memory.add("the same", **home, dedupe=True)
        memory.update(memory.add("of before", **home).id, "of now", **home)
    target = Other()
    memory.reembed(target)
    assert target.asked["the same"] == target.asked["of before"] == len(HOMES)
    for home in HOMES:
        first = memory.search("the same", **home, mode="vector")[0].record
        assert memory.add("the same", **home, dedupe=True) == first
    assert target.asked["the same"] == len(HOMES)
    assert shared_vectors(memory) == 0
    assert memory.stats().store.vectors == 3 * len(HOMES)


def test_no_two_homes_share_a_digest():
    homes = [None, ("user_id", "a"), ("run_id", "a"), ("agent_id", "a"), ("user_id", "run_id"), ("user_id", "b")]
    digest_of = StoredModel("model", "model", 8).digests()
    assert len({digest_of(home, "text") for home in homes}) == len(homes)


# -- other doors ------------------------------------------------------------------------------------------------------


def test_the_command_line_takes_the_owner_of_an_id(run):
    for owner in ("ana", "ben"):
        assert run("add", f"of {owner}", "--user", owner, "--id", "x", "--defer").exit_code == 0
    for command in ("get", "delete", "restore", "history", "update"):
        told = run(command, "x", *(["changed"] if command == "update" else []))
        assert (told.exit_code, "several memories" in told.stderr) == (2, True)
    assert "of ben" in run("get", "x", "--user", "ben").stdout
    assert run("update", "x", "--metadata", '{"n": 1}', "--user", "ben").exit_code == 0
    assert run("delete", "x", "--user", "ben").exit_code == 0
    assert run("get", "x", "--user", "ben").exit_code == 1
    assert run("restore", "x", "--user", "ben").exit_code == 0
    assert len(run("history", "x", "--user", "ben", "--json").stdout.splitlines()) == 4
    assert run("purge", "x", "--yes").exit_code == 2
    assert run("purge", "x", "--user", "ben", "--yes").exit_code == 0
    assert "of ana" in run("get", "x").stdout


def test_the_drop_in_for_mem0_finds_by_id_what_one_home_has_and_refuses_the_rest(memory):
    with DropIn(store=memory) as drop_in:
        [added] = drop_in.add("of ana", user_id="ana", infer=False)["results"]
        memory.add("of ben", id=added["id"], user_id="ben")
        only = drop_in.add("of cleo", agent_id="cleo", infer=False)["results"][0]["id"]
        for call in (drop_in.get, drop_in.history, lambda each: drop_in.update(each, "changed"), drop_in.delete):
            with pytest.raises(InvalidInputError, match="several memories"):
                call(added["id"])
            assert call(only)
        drop_in.delete_all(user_id="ben")
        assert [each["memory"] for each in drop_in.get_all(user_id="ana")["results"]] == ["of ana"]


def test_expired_memories_of_one_owner_are_deleted_although_another_has_their_ids(memory):
    with DropIn(store=memory) as drop_in:
        for user in ("ana", "ben"):
            memory.add("passes", id="x", user_id=user, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
        drop_in.delete_all(user_id="ana")
        assert memory.get("x", user_id="ana", show_expired=True) is None
        assert memory.get("x", user_id="ben", show_expired=True).content == "passes"
