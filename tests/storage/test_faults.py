"""A disk, a file or a limit that fails: what is told is true, nothing is torn, and the store goes on, or says why."""

import subprocess
from datetime import timedelta

import apsw
import pytest

from agentmem import (
    Config,
    EmbeddingError,
    Memory,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
)
from agentmem.records import Scope
from agentmem.storage.sqlite.row_codec import twin_of
from agentmem.testing import HashEmbedder
from tests.children import run_python
from tests.forgery import forge

PRELUDE = """
    import shutil, sys
    from pathlib import Path
    import pytest
    from agentmem import DuplicateIdError, Memory, OutcomeUnknownError, StoreError
    from agentmem.testing import HashEmbedder
    from tests.torture.faults import Faults, FaultyVFS

    path = Path(sys.argv[1])
    faults = Faults()
    vfs = FaultyVFS(faults)  # The default of this process.
    memory = Memory(path, embedder=HashEmbedder())
    memory.add("there before", user_id="ana")

    def contents(memory):
        return [record.content for record in memory.get_all(user_id="ana", order="oldest")]

    def after_a_crash():
        crash = path.with_name("crash")
        crash.mkdir()
        for name in (path.name, path.name + "-wal"):
            shutil.copy(path.with_name(name), crash / name)
        with Memory(crash / path.name, embedder=HashEmbedder()) as left:
            assert left.check() == []
            return contents(left)
"""


@pytest.mark.slow
def test_a_write_refused_for_a_failed_sync_stays_away_after_a_crash(store_path):
    """Its bytes were written to the log before the sync failed; read again after a crash, they would be a commit."""
    run_python(
        PRELUDE
        + """
    faults.arm(1, "fails once", "sync of db-wal")
    with pytest.raises(StoreError) as caught:
        memory.add("refused", user_id="ana")
    assert type(caught.value) is StoreError and faults.struck == ["sync of db-wal"]
    assert after_a_crash() == contents(memory) == ["there before"]
    memory.add("refused", user_id="ana")
    assert contents(memory) == ["there before", "refused"]
    memory.close()
    """,
        store_path,
    )


@pytest.mark.slow
def test_a_commit_that_cannot_be_asked_about_is_said_to_be_unknown_and_a_retry_with_its_id_is_safe(store_path):
    run_python(
        PRELUDE
        + """
    faults.arm(1, "fails from then on", "sync of db-wal")
    with pytest.raises(OutcomeUnknownError, match="stored whole or not at all"):
        memory.add("who knows", user_id="ana", id="mine")
    faults.disarm()
    try:
        memory.add("who knows", user_id="ana", id="mine")
    except DuplicateIdError:
        pass
    assert contents(memory) == ["there before", "who knows"]
    assert memory.check() == []
    memory.close()
    """,
        store_path,
    )


@pytest.mark.slow
def test_closing_on_a_disk_that_fails_ends_and_loses_nothing(store_path):
    run_python(
        PRELUDE
        + """
    contents(memory)
    faults.arm(1, "fails from then on")
    memory.close()
    assert faults.struck
    faults.disarm()
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        assert contents(memory) == ["there before"]
    """,
        store_path,
    )


@pytest.mark.slow
def test_a_store_that_is_empty_beside_its_log_is_not_taken_for_a_new_one(store_path):
    """SQLite would erase the log, and everything in it, with the first question."""
    run_python(
        PRELUDE
        + """
    from agentmem import StoreDamagedError
    crash = path.with_name("crash")
    crash.mkdir()
    shutil.copy(str(path) + "-wal", crash / (path.name + "-wal"))
    for make in (lambda: None, (crash / path.name).touch):
        make()
        with pytest.raises(StoreDamagedError, match="its log is there"):
            Memory(crash / path.name, embedder=HashEmbedder())
    shutil.copy(path, crash / path.name)
    with Memory(crash / path.name, embedder=HashEmbedder()) as left:
        assert contents(left) == ["there before"]
    memory.close()
    """,
        store_path,
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE memory SET content = CAST(x'41ff42' AS TEXT)",
        "UPDATE memory SET created_at = 9223372036854775807",
        "UPDATE memory SET metadata = x'ffff'",
        "UPDATE memory SET terms = x'414243'",
        "UPDATE vector SET data = x'4142'",
        "UPDATE history SET before = '{}'",
        "UPDATE history SET before = '[1'",
        "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'home_digest', 'home_bigest') "
        "WHERE name = 'vector'",
        "UPDATE meta SET value = CAST(x'41ff42' AS TEXT) WHERE name = 'model'",
        "UPDATE meta SET value = '{' WHERE name = 'model'",
    ],
)
def test_rows_that_make_no_sense_are_said_to_be_damage(store_path, statement):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        record = memory.add("prefers window seats", user_id="ana", metadata={"n": 1})
        memory.update(record.id, metadata={"n": 2})
    forge(store_path, statement)
    questions = [
        lambda memory: memory.check(),
        lambda memory: memory.get_all(user_id="ana").records,
        lambda memory: memory.search("seats", user_id="ana"),
        lambda memory: memory.search("seats", user_id="ana", as_of=record.created_at + timedelta(days=1)),
        lambda memory: memory.history(record.id),
        lambda memory: memory.update(record.id, metadata={"n": 3}),
        lambda memory: memory.stats(),
    ]
    said = []
    try:
        memory = Memory(store_path, embedder=HashEmbedder())
    except StoreDamagedError as error:
        said.append(str(error))
    else:
        with memory:
            said += memory.check()
            for question in questions:
                try:
                    question(memory)
                except StoreError as error:
                    said.append(str(error))
    assert said


@pytest.mark.parametrize("durability", ["full", "process"])
def test_a_disk_that_is_full_is_said_to_be_and_with_room_again_the_store_goes_on(small_disk, durability):
    path = small_disk / "store.db"
    config = Config(durability=durability)
    with Memory(path, embedder=HashEmbedder(), config=config) as memory:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(300_000))
        stored, refused = [], 0
        for number in range(400):
            try:
                stored.append(memory.add(f"{number} {'x' * 2000}", user_id="ana").id)
            except StoreFullError:
                refused += 1
                if refused == 20:
                    break
        assert refused == 20
        assert {record.id for record in memory.get_all(user_id="ana", limit=1000)} == set(stored)
        assert memory.search("0", user_id="ana")
        ballast.unlink()
        stored.append(memory.add("there is room again", user_id="ana").id)
        assert memory.check() == []
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert {record.id for record in memory.get_all(user_id="ana", limit=1000)} == set(stored)


def test_on_a_read_only_file_system_reading_goes_on_and_writing_is_refused(small_disk):
    path = small_disk / "store.db"
    with Memory(path, embedder=HashEmbedder()) as memory:
        record = memory.add("there before", user_id="ana")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert memory.search("before", user_id="ana")[0].record == record
        assert memory.check() == []
        for write in (
            lambda: memory.add("new", user_id="ana"),
            lambda: memory.add("new", user_id="ana", defer=True),
            lambda: memory.update(record.id, "changed"),
            lambda: memory.delete(record.id),
        ):
            with pytest.raises(StoreReadOnlyError):
                write()
        assert memory.get_all(user_id="ana").records == [record]
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with Memory(path, embedder=HashEmbedder()) as memory:
        memory.add("new", user_id="ana")
        assert memory.count(user_id="ana") == 2


@pytest.mark.slow
def test_without_open_files_left_calls_fail_one_by_one_and_go_on_with_some(store_path):
    run_python(
        """
        import os, resource, sys, threading
        from agentmem import AgentMemError, Memory
        from agentmem.testing import HashEmbedder

        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        memory.add("there before", user_id="ana")
        memory.search("before", user_id="ana")
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        # What is open already serves on; other threads need connections of their own.
        told = []

        def use(number):
            started.wait(60)
            try:
                memory.add(f"text {number}", user_id="ana", id=f"id {number}")
                memory.search("text", user_id="ana")
            except AgentMemError as error:
                told.append(str(error))

        started = threading.Barrier(8)
        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        try:
            Memory(sys.argv[1], embedder=HashEmbedder())
            raise AssertionError("no file can be opened")
        except AgentMemError as error:
            assert "open files" in str(error) or "opened" in str(error), error
        for each in taken:
            os.close(each)
        stored = {record.id for record in memory.get_all(user_id="ana", limit=100)}
        for number in range(8):
            if f"id {number}" not in stored:
                memory.add(f"text {number}", user_id="ana", id=f"id {number}")
        assert memory.count(user_id="ana") == 9
        assert memory.check() == []
        memory.close()
        """,
        store_path,
    )


def test_an_embedder_without_memory_fails_its_text_and_nobody_elses(open_memory):
    class Starved(HashEmbedder):
        starving = True

        def embed(self, texts):
            if self.starving and any("large" in text for text in texts):
                raise MemoryError
            return super().embed(texts)

    embedder = Starved()
    memory = open_memory(embedder=embedder)
    stored = memory.add_batch(["small", "large", "smaller"], user_id="ana", on_error="return")
    assert [type(each).__name__ for each in stored] == ["Record", "EmbeddingError", "Record"]
    with pytest.raises(EmbeddingError, match="MemoryError"):
        memory.add("large too", user_id="ana")
    embedder.starving = False
    memory.add("large too", user_id="ana")
    assert memory.count(user_id="ana") == 3


def test_a_clock_that_goes_back_keeps_order_claims_and_expiry_in_hand(open_memory, clock):
    """Later writes come later in the history, whatever the clock says.

    Nothing stays hidden or leased longer than under the later clock, and no expired memory comes back to life unseen.
    """
    memory = open_memory()
    first = memory.add("before the change", user_id="ana")
    short = memory.add("for an hour", user_id="ana", ttl=3600)
    waiting = memory.add("deferred before", user_id="ana", defer=True)
    memory.flush(60)
    clock.wait(-7200)
    assert memory.stats().store.pending_seconds >= 0
    second = memory.add("after the change", user_id="ana")
    changed = memory.update(first.id, "changed after the change")
    assert changed.updated_at < first.created_at
    assert [event.what for event in memory.history(first.id)] == ["add", "update"]
    seqs = [memory.history(record.id)[-1].seq for record in (short, waiting, second, changed)]
    assert seqs == sorted(seqs)
    assert {match.record.id for match in memory.search("change", user_id="ana")} >= {first.id, second.id}
    late = memory.add("deferred after", user_id="ana", defer=True)
    memory.flush(60)  # No claim of the future keeps the background waiting.
    assert memory.stats().store.pending == 0
    assert memory.search("deferred after", user_id="ana", mode="vector", limit=1)[0].record == late
    clock.wait(7200 + 3601)
    memory.add("its commit sweeps", user_id="ana")
    assert [event.what for event in memory.history(short.id)] == ["add", "expire"]
    clock.wait(-7200)
    memory.add("and this one leaves it at that", user_id="ana")
    assert memory.count(user_id="ana") == 6


def test_what_is_deferred_and_cannot_get_its_vector_for_a_full_or_sealed_disk_is_found_by_its_words(small_disk):
    class Broken(HashEmbedder):
        def embed(self, texts):
            raise RuntimeError("no vectors today")

    path = small_disk / "store with ?#%.db"  # Nothing that an URI would misread.
    with Memory(path, embedder=Broken()) as memory:
        record = memory.add("waits for its vector", user_id="ana", defer=True)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with Memory(path, embedder=HashEmbedder()) as memory:
        for mode in ("hybrid", "keyword"):
            assert [match.record for match in memory.search("vector", user_id="ana", mode=mode)] == [record]
        with pytest.raises(StoreReadOnlyError):
            memory.flush(60)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    (small_disk / "ballast").write_bytes(bytes(300_000))
    with Memory(path, embedder=Broken()) as memory:
        texts = [f"{number} {'x' * 2000}" for number in range(2000)]
        with pytest.raises(StoreFullError):
            memory.add_batch(texts, user_id="ben", defer=True)
    with Memory(path, embedder=HashEmbedder()) as memory:
        assert [match.record for match in memory.search("vector", user_id="ana")] == [record]
        (small_disk / "ballast").unlink()
        memory.flush(60)
        assert memory.stats().store.pending == 0
        assert memory.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("other", ["memory_sole", "memory_seq"])
def test_an_index_that_lists_pending_memories_which_are_none_keeps_nobody_busy_for_ever(store_path, other):
    """The background once went round and round, and `close` waited for it."""
    user = next(f"user {number}" for number in range(100) if twin_of(Scope(f"user {number}"), "a text") < 0)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        record = memory.add("a text", user_id=user, dedupe=True)
        for number in range(3):
            memory.update(record.id, metadata={"n": number})
    connection = apsw.Connection(str(store_path))
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    connection.close()
    content = bytearray(store_path.read_bytes())
    target, source = ((roots[name] - 1) * 4096 for name in ("memory_pending", other))
    content[target : target + 4096] = content[source : source + 4096]
    store_path.write_bytes(content)
    run_python(
        """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        memory.flush(60)
        assert len(memory.search("a text", all_scopes=True)) == 1
        memory.close()
        """,
        store_path,
    )
