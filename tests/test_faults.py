"""A disk, a file or a limit that fails: what is told is true, nothing is torn, and the store goes on, or says why."""

from datetime import timedelta

import apsw
import pytest

from agentmem import Memory, StoreDamagedError, StoreError
from agentmem.testing import HashEmbedder
from tests.children import run_python

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
        "UPDATE meta SET value = CAST(x'41ff42' AS TEXT) WHERE name = 'model'",
        "UPDATE meta SET value = '{' WHERE name = 'model'",
    ],
)
def test_rows_that_make_no_sense_are_said_to_be_damage(store_path, statement):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        record = memory.add("prefers window seats", user_id="ana", metadata={"n": 1})
        memory.update(record.id, metadata={"n": 2})
    connection = apsw.Connection(str(store_path))
    connection.execute(statement)
    connection.close()
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
