"""A move to another model among several processes: killed ones, and ones that have the store open."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from agentmem import Memory, ModelMismatchError
from agentmem.embedding.catalog import find_model
from agentmem.testing import HashEmbedder
from tests import failpoints
from tests.children import SECONDS, finish, start_python
from tests.torture.nursery import Nursery
from tests.turned import Turned

POINTS = [
    *(point for point in failpoints.POINTS if point.startswith("reembed") and "follows" not in point),
    "transaction: before COMMIT",
    "transaction: after COMMIT",
]

KILLS = [
    *((point, 0) for point in POINTS),
    *((point, 2) for point in POINTS if "kept" in point or "erased" in point or "transaction" in point),
]


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def move_store(nursery: Nursery, path: Path, point: str = "", after: int = 0) -> int | None:
    """What a process said that moved the store to Turned(96); None when it was killed at the point."""
    child = nursery.start("tests.movers:move_store", str(path), point, after)
    said = child.hear_all()
    if child.wait() == -signal.SIGKILL:
        assert said == b""
        return None
    return int(said)


def texts(count: int) -> list[str]:
    return [f"text number {number} of tea and seats" for number in range(count)]


def assert_whole(path: Path, *, moved: bool | None = None) -> bool:
    """The store is healthy and finds everything, with whichever model it is of; returns whether that is the new one."""
    with Memory(path, model=None) as memory:
        assert memory.check() == []
        is_moved = memory.stats().embedding.model == "Turned"
    assert moved in (None, is_moved)
    with Memory(path, embedder=Turned(96) if is_moved else HashEmbedder()) as memory:
        for content in texts(700)[::100]:
            [match] = memory.search(content, user_id="ana", mode="vector", limit=1)
            assert (match.record.content, match.score > 0.99) == (content, True)
        memory.restore(memory.add("deleted and restored", id="restored", user_id="ben").id)
        assert memory.delete("restored")
        memory.purge("restored")
        memory.flush()
        assert memory.check() == []
    return is_moved


def make_store(path: Path) -> None:
    with Memory(path, embedder=HashEmbedder()) as memory:
        records = memory.add_batch(texts(700), user_id="ana")
        changed = memory.add("changed", user_id="ana")
        memory.update(changed.id, "changed again")
        memory.add_batch([f"deleted {number}" for number in range(100)], user_id="ben")
        memory.delete_all(user_id="ben")
        assert len(records) == 700


@pytest.mark.slow
@pytest.mark.parametrize(("point", "after"), KILLS)
def test_a_mover_that_is_killed_leaves_a_whole_store_and_the_next_one_ends_its_work(nursery, store_path, point, after):
    make_store(store_path)
    embedded = move_store(nursery, store_path, point, after)
    if embedded is not None:
        assert after > 0, "the point was not reached"
        assert assert_whole(store_path, moved=True)
        return
    assert_whole(store_path)
    embedded = move_store(nursery, store_path)
    assert embedded is not None
    assert embedded <= 802
    if "after new vectors" in point and after == 2:
        assert embedded < 802  # The first two pages are there.
    assert_whole(store_path, moved=True)


@pytest.mark.slow
def test_kills_at_random_moments_amid_others_writes(nursery, store_path):
    """One process adds, updates and deletes all along, with the model that the store is of at the moment, while movers
    are killed."""
    make_store(store_path)
    writer = start_python(
        """
        import sys, threading
        from agentmem import Memory, ModelMismatchError
        from agentmem.testing import HashEmbedder
        from tests.turned import Turned

        number = added = 0
        stop = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
        while not stop.is_set():
            for embedder in (HashEmbedder(), Turned(96)):
                try:
                    with Memory(sys.argv[1], embedder=embedder) as memory:
                        while not stop.is_set():
                            number += 1
                            content = f"writer adds {number}"
                            record = memory.add(content, user_id="eve")
                            added += 1
                            if added == 12:
                                print("at work", flush=True)
                            if number % 3 == 0:
                                content = f"writer changed {number}"
                                memory.update(record.id, content)
                            if number % 5 == 0:
                                memory.delete(record.id)
                                memory.restore(record.id)
                            [match] = memory.search(content, user_id="eve", mode="vector", limit=1)
                            assert match.record.content == content, (content, match)
                            assert match.score > 0.99, match
                except ModelMismatchError:
                    pass
        print(added)
        """,
        store_path,
        stdin=subprocess.PIPE,
    )
    try:
        assert writer.stdout is not None
        assert writer.line() == "at work\n"
        for kill in range(8):
            move_store(nursery, store_path, "transaction: before COMMIT", 1 + 3 * kill)
        move_store(nursery, store_path)
    finally:
        output, errors = writer.communicate("", timeout=SECONDS)
    assert (writer.returncode, errors) == (0, "")
    assert_whole(store_path, moved=True)
    with Memory(store_path, embedder=Turned(96)) as memory:
        assert memory.count(user_id="eve") == int(output) > 10


FOLLOWER = """
    import sys
    from agentmem import Memory

    path, model = sys.argv[1:]
    arguments = {"model": model} if model else {}
    with Memory(path, **arguments) as memory:
        print(memory.stats().embedding.model, flush=True)
        for line in sys.stdin:
            command, text = line.rstrip("\\n").split(" ", 1)
            if command == "add":
                print(memory.add(text, user_id="ana").content, flush=True)
            else:
                [match] = memory.search(text, user_id="ana", mode="vector", limit=1)
                assert match.score > 0.99, match
                print(memory.stats().embedding.model, match.record.content, flush=True)
"""


class Follower:
    """Another process with the store open, that does what it is told."""

    def __init__(self, path: Path, model: str) -> None:
        self.child = start_python(FOLLOWER, path, model, stdin=subprocess.PIPE)
        self.model = self._heard()

    def _heard(self) -> str:
        assert self.child.stdout is not None
        return self.child.line().rstrip("\n")

    def ask(self, command: str, text: str) -> str:
        assert self.child.stdin is not None
        self.child.stdin.write(f"{command} {text}\n")
        self.child.stdin.flush()
        return self._heard()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["", "minilm-mixed"], ids=["default", "named"])
def test_other_processes_follow_to_the_new_model_with_their_next_call(store_path, model):
    facts = [f"{name} prefers {what}" for name in ("Ana", "Ben", "Eve", "Zoe") for what in WHATS]
    with Memory(store_path) as memory:
        memory.add_batch(facts, user_id="ana")
        memory.flush()
        searcher, adder = Follower(store_path, model), Follower(store_path, model)
        try:
            assert searcher.ask("find", facts[7]) == f"minilm-mixed {facts[7]}"
            assert adder.ask("add", "a fact of another process") == "a fact of another process"
            memory.flush()
            assert memory.reembed("minilm-static") == len(facts) + 1
            assert adder.ask("add", "a fact that came afterwards") == "a fact that came afterwards"
            assert searcher.ask("find", "a fact that came afterwards") == "minilm-static a fact that came afterwards"
            for fact in facts[::30]:
                assert searcher.ask("find", fact) == f"minilm-static {fact}"
            assert memory.check() == []
        finally:
            for follower in (searcher, adder):
                finish(follower.child)
    with Memory(store_path) as memory:  # A process that names no model gets the store's.
        assert memory.stats().embedding.model == "minilm-static"
        assert memory.search(facts[7], user_id="ana", mode="vector")[0].score > 0.99
    with pytest.raises(ModelMismatchError, match=r"made by 'minilm-static'.*reembed\('minilm-mixed'\)"):
        Memory(store_path, model="minilm-mixed")


WHATS = [
    f"{what} {when}" for what in ("window seats", "green tea", "short films", "old maps", "cold soup", "tall ships")
    for when in ("in winter", "on Mondays", "at night", "with friends", "after work")
]  # fmt: skip


@pytest.mark.slow
def test_others_search_and_add_all_along_while_the_real_models_change_places(store_path):
    worker = start_python(
        """
        import sys, threading
        from agentmem import Memory

        stop = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
        models, number = [], 0
        with Memory(sys.argv[1]) as memory:
            while not stop.is_set():
                number += 1
                content = f"the worker's note {number} on ships"
                memory.add(content, user_id="eve")
                for each, user in ((content, "eve"), (f"Ana wrote {number % 300} letters to Lisbon", "ana")):
                    [match] = memory.search(each, user_id=user, mode="vector", limit=1)
                    assert match.record.content == each, (each, match)
                    assert match.score > 0.99, match
                if memory.stats().embedding.model not in models:
                    models.append(memory.stats().embedding.model)
                    print(models[-1], flush=True)
        print(number)
        """,
        store_path,
        stdin=subprocess.PIPE,
    )
    with Memory(store_path) as memory:
        memory.add_batch([f"Ana wrote {number} letters to Lisbon" for number in range(300)], user_id="ana")
        try:
            assert worker.stdout is not None
            assert worker.line() == "minilm-mixed\n"
            memory.flush()
            assert memory.reembed("minilm-static") >= 300
            assert worker.line() == "minilm-static\n"
            assert memory.reembed("minilm-mixed") >= 300
        finally:
            number = int(finish(worker))
        assert memory.count(user_id="eve") == number
        memory.flush()
        assert memory.check() == []


@pytest.mark.slow
def test_others_follow_to_a_model_in_a_folder_as_long_as_it_is_there(store_path, tmp_path):
    folder = tmp_path / "a model"
    shutil.copytree(find_model("minilm-static").folder, folder)
    card = (folder / "model.toml").read_text("utf-8")
    # Under the name of a bundled one, which it is not.
    (folder / "model.toml").write_text(card.replace('_prefix = ""', '_prefix = "text: "'), "utf-8")
    with Memory(store_path, model="minilm-static") as memory:
        memory.add_batch([f"Ana wrote {number} letters" for number in range(40)], user_id="ana")
        follower = Follower(store_path, "")
        try:
            memory.reembed(os.path.relpath(folder))
            assert follower.ask("find", "Ana wrote 7 letters") == "minilm-static Ana wrote 7 letters"
            assert follower.ask("add", "a new fact") == "a new fact"
        finally:
            finish(follower.child)
        assert memory.search("a new fact", user_id="ana", mode="vector")[0].score > 0.99
        assert memory.check() == []
    with Memory(store_path) as memory:
        assert memory.search("a new fact", user_id="ana", mode="vector")[0].score > 0.99
    with Memory(store_path, model=None) as memory:
        assert memory.check() == []
    shutil.rmtree(folder)
    with pytest.raises(ModelMismatchError, match=r"are of 'minilm-static'.*name its folder with model="):
        Memory(store_path)


def test_a_process_with_an_embedder_of_its_own_is_told_what_to_do(nursery, store_path):
    make_store(store_path)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        record = memory.search(texts(1)[0], user_id="ana", mode="vector")[0].record
        move_store(nursery, store_path)
        for call in (
            lambda: memory.search("tea", user_id="ana"),
            lambda: memory.add("tea", user_id="ana"),
            lambda: memory.add_batch(["tea"], user_id="ana"),
            lambda: memory.update(record.id, "tea"),
        ):
            with pytest.raises(ModelMismatchError, match=r"was moved to 'Turned' \(tests.turned:7:96, 96 dim.*open it"):
                call()
        assert memory.get(record.id) == record
        assert memory.update(record.id, metadata={"seen": True}).metadata == {"seen": True}
        assert memory.add("tea", user_id="ana", defer=True).content == "tea"
        assert memory.check() == []
    assert_whole(store_path, moved=True)


def test_a_process_without_a_model_goes_on_without_one(nursery, store_path):
    make_store(store_path)
    with Memory(store_path, model=None) as memory:
        assert memory.search("number 7", user_id="ana", mode="keyword", limit=1)[0].record.content == texts(8)[7]
        move_store(nursery, store_path)
        assert memory.search("number 9", user_id="ana", mode="keyword", limit=1)[0].record.content == texts(10)[9]
        assert memory.check() == []


def test_old_vectors_that_a_killed_mover_left_are_erased_by_whoever_opens_the_store(nursery, store_path):
    make_store(store_path)
    assert move_store(nursery, store_path, "reembed: before old vectors are erased", 3) is None
    with Memory(store_path, embedder=Turned(96)) as memory:
        moves = memory._engine.store.reembedding()
        thread = memory._engine.backlog._thread
        assert thread is not None
        for _ in range(1000):
            if not moves.has_old():
                break
            thread.join(0.05)
        assert not moves.has_old()
        assert memory.check() == []


@pytest.mark.slow
def test_the_child_of_a_fork_follows_by_itself(store_path):
    with Memory(store_path) as memory:
        memory.add_batch([f"Ana wrote {number} letters" for number in range(40)], user_id="ana")
        memory.search("letters", user_id="ana")
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.read(reads, 1)
                [match] = memory.search("Ana wrote 7 letters", user_id="ana", mode="vector", limit=1)
                status = 0 if match.score > 0.99 and memory.stats().embedding.model == "minilm-static" else 2
            finally:
                os._exit(status)
        memory.reembed("minilm-static")
        os.write(writes, b"!")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(reads)
        os.close(writes)
