"""Page checksums: what is flipped anywhere in the file is never an answer, and check says which pages they are."""

import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from agentmem import Memory, StoreDamagedError, StoreOpenError
from agentmem.cli.rescue import rescue
from agentmem.storage.sqlite.database import vfs
from agentmem.storage.sqlite.database.connections import Database
from agentmem.storage.sqlite.database.page_reader import Pages
from agentmem.storage.sqlite.database.vfs import CHECKSUM_BYTES
from agentmem.storage.sqlite.snapshot import _states_of
from agentmem.testing import HashEmbedder
from tests.children import SECONDS, finish, start_python
from tests.forgery import forge

PAGE = 4096


def filled(path: Path, count: int = 200) -> list[str]:
    with Memory(path, embedder=HashEmbedder()) as memory:
        texts = [f"text number {number} " + "word " * 20 for number in range(count)]
        ids = [record.id for record in memory.add_batch(texts, user_id="ana", role="user", metadata={"n": 1})]
        memory.update(ids[1], "text number one", metadata={"n": 2})
    return ids


def flip(path: Path, page: int, offset: int = 2000) -> None:
    """One bit of a page, counted from 1."""
    with path.open("r+b") as file:
        place = (page - 1) * PAGE + offset
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def pages_of(path: Path, name: str) -> list[int]:
    connection = apsw.Connection(str(path))
    pages = [row[0] for row in connection.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (name,))]
    connection.close()
    return pages


def reserved(path: Path) -> int:
    return path.read_bytes()[20]


def all_sums_are_right(path: Path) -> bool:
    connection = apsw.Connection(str(path), vfs=vfs.checked_vfs())
    data = path.read_bytes()
    sums = [
        connection.execute("SELECT verify_checksum(?)", (data[start : start + PAGE],)).fetchone()[0]
        for start in range(0, len(data), PAGE)
    ]
    connection.close()
    return all(sums)


def test_a_new_store_its_copies_and_what_purge_leaves_have_checksums(tmp_path, store_path):
    ids = filled(store_path)
    assert reserved(store_path) == CHECKSUM_BYTES
    assert all_sums_are_right(store_path)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.backup(tmp_path / "copy.db")
        memory.purge(ids[0])
    for path in (store_path, tmp_path / "copy.db"):
        assert reserved(path) == CHECKSUM_BYTES
        assert all_sums_are_right(path)
        with Memory(path, embedder=HashEmbedder()) as memory:
            assert memory.check() == []


@pytest.mark.slow
def test_a_copy_of_a_store_in_ram_has_checksums(tmp_path, open_memory):
    memory = open_memory(":memory:")
    memory.add_batch([f"text number {number} " + "word " * 300 for number in range(2000)], user_id="ana")
    memory.backup(tmp_path / "copy.db")
    assert reserved(tmp_path / "copy.db") == CHECKSUM_BYTES
    assert all_sums_are_right(tmp_path / "copy.db")


@pytest.mark.slow
def test_the_applications_own_use_of_sqlite_stays_as_it_was(store_path):
    child = start_python(
        """
        import sys
        import apsw
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        before = apsw.vfs_names()[0]
        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.add("tea", user_id="ana")
            print(apsw.vfs_names()[0] == before, len(apsw.vfs_names()))
        """,
        store_path,
    )
    assert finish(child).startswith("True ")


@pytest.mark.parametrize("seed", range(12))
def test_a_bit_that_flips_in_any_page_is_said_by_check_and_never_answered(store_path, seed):
    filled(store_path)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        right = memory.get_all(user_id="ana", limit=1000).records
        scores = {each.record.id: each.score for each in memory.search("number 7", user_id="ana", limit=100)}
    chance = random.Random(seed)
    page = chance.randrange(2, store_path.stat().st_size // PAGE + 1)
    flip(store_path, page, chance.randrange(PAGE))
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert any(f"page {page} (" in problem for problem in memory.check())
        for question, truth in (
            (lambda: memory.get_all(user_id="ana", limit=1000).records, right),
            (lambda: {each.record.id: each.score for each in memory.search("number 7", user_id="ana", limit=100)},
             scores),
        ):  # fmt: skip
            try:
                assert question() == truth
            except StoreDamagedError as error:
                assert "repair" in str(error)  # noqa: PT017 - it may also be none of its pages.


def test_the_first_page_is_said_to_be_damaged_and_repaired_by_its_path(store_path):
    ids = filled(store_path)
    flip(store_path, 1)
    with pytest.raises(StoreDamagedError, match="repair"):
        Memory(store_path, embedder=HashEmbedder())
    done, problems = rescue(str(store_path))
    assert done
    assert problems == []
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert {record.id for record in memory.get_all(user_id="ana", limit=1000)} == set(ids)
        assert memory.check() == []
    assert all_sums_are_right(store_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zeroed header", "zeroed page", "application_id", "short", "no room for checksums"])
def test_a_store_whose_beginning_is_damaged_is_not_called_something_else(store_path, kind):
    filled(store_path)
    data = bytearray(store_path.read_bytes())
    match kind:
        case "zeroed header":
            data[:100] = bytes(100)
        case "zeroed page":
            data[:PAGE] = bytes(PAGE)
        case "application_id":
            data[70] ^= 8
        case "short":
            data = data[:300]
        case "no room for checksums":
            data[20] = 0
    store_path.write_bytes(data)
    with pytest.raises(StoreDamagedError, match="repair"):
        Memory(store_path, embedder=HashEmbedder())
    assert store_path.read_bytes() == data
    if kind != "short":
        done, problems = rescue(str(store_path))
        assert done
        assert problems == []
        assert all_sums_are_right(store_path)
        with Memory(store_path, embedder=HashEmbedder()) as memory:
            assert memory.count(user_id="ana") == 200


def test_a_write_that_meets_a_damaged_page_is_refused_whole(store_path):
    ids = filled(store_path)
    [root, *_] = pages_of(store_path, "memory_vector")
    flip(store_path, root)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        with pytest.raises(StoreDamagedError, match="checksum"):
            memory.add("new", user_id="ben", id="new")
        with pytest.raises(StoreDamagedError, match="checksum"):
            memory.update(ids[5], "new")
        assert memory.get("new") is None
        assert memory.get(ids[5]).content != "new"
        with pytest.raises(StoreDamagedError, match=r"was not copied.*checksum"):
            memory.backup(store_path.with_name("copy.db"))
        assert not store_path.with_name("copy.db").exists()
        assert any("(memory_vector)" in problem for problem in memory.check())
        memory.repair()
        assert memory.check() == []
        assert memory.count(user_id="ana") == len(ids)
        memory.add("new", user_id="ben", id="new")


def test_a_page_that_holds_nothing_is_looked_at_too(store_path):
    filled(store_path)
    forge(store_path, "CREATE TABLE much (x)", "INSERT INTO much SELECT zeroblob(3000) FROM memory", "DROP TABLE much")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
    flip(store_path, store_path.stat().st_size // PAGE)
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        [problem] = memory.check()
        assert "of no table" in problem
        assert memory.repair() != []
        assert memory.check() == []


def test_of_damaged_pages_only_what_is_proven_comes_back_and_all_of_it_is_said(store_path):
    ids = filled(store_path)
    data = store_path.read_bytes()
    connection = apsw.Connection(str(store_path))
    leaves = {
        name: [
            row[0]
            for row in connection.execute(
                "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (name,)
            )
        ]
        for name in ("memory", "vector", "history")
    }
    connection.close()
    page = leaves["memory"][2]
    where = data.index(b"word", (page - 1) * PAGE) - (page - 1) * PAGE
    flip(store_path, page, where)  # In the text of one memory.
    flip(store_path, leaves["vector"][1])
    flip(store_path, leaves["history"][0])
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert any("3 pages (" in problem for problem in memory.check())
        told = memory.repair()
        memory.flush(60)
        assert memory.check() == []
        kept = {record.id: record for record in memory.get_all(user_id="ana", limit=1000)}
        [lost] = set(ids) - set(kept)  # The one whose text is not the one that it had.
        assert all(record.content.endswith("word ") or "one" in record.content for record in kept.values())
        said = [each for each in told if "are kept as they read" in each and "memory" in each]
        assert said
        assert all(repr(lost) not in each for each in said)
        assert any("vectors that stood on a damaged page are made anew" in each for each in told)
        assert any("events of the history" in each for each in told)
        match = memory.search("text number 150 " + "word " * 20, user_id="ana", mode="vector", limit=1)[0]
        assert match.record.content.startswith("text number 150")
    assert any(lost in aside.read_text() for aside in store_path.parent.glob("store.db.aside-*.jsonl"))
    assert all_sums_are_right(store_path)


@pytest.mark.slow
def test_check_raises_no_false_alarm_while_other_processes_write_and_merge(store_path):
    filled(store_path)
    child = start_python(
        """
        import os, sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder

        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            database = memory._engine.store._database
            number = 0
            while not os.path.exists(sys.argv[2]):
                memory.add(f"child {number} " + "word " * 200, user_id="child")
                if number % 3 == 0:
                    with database.between_transactions() as connection:
                        connection.pragma("wal_checkpoint", "PASSIVE")
                number += 1
                if number == 10:
                    print("writing", flush=True)
            print(number)
        """,
        store_path,
        store_path.with_name("stop"),
    )
    assert child.line() == "writing\n"
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            memory.add(f"own {number}", user_id="own")
            number += 1

    with Memory(store_path, embedder=HashEmbedder()) as memory, ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            for _ in range(12):
                assert memory.check() == []
        finally:
            stop.set()
            store_path.with_name("stop").touch()
            writer.result(SECONDS)
        finish(child)
        assert memory.check() == []


def test_a_page_that_the_log_heals_is_no_damage(tmp_path, store_path):
    """As after a power cut amid a checkpoint: the page is torn in the file, and whole in the log."""
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text number {number}" for number in range(50)], user_id="ana")
        with memory._engine.store._database.between_transactions() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        memory.add("one more", user_id="ana")
        (tmp_path / "crash").mkdir()
        crashed = tmp_path / "crash" / "store.db"
        for end in ("", "-wal"):
            shutil.copy(f"{store_path}{end}", f"{crashed}{end}")
    with Pages_of(crashed) as pages:
        torn = sorted(pages)
    assert torn
    for page in torn:
        flip(crashed, page)
    with Memory(crashed, embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        assert memory.count(user_id="ana") == 51
    assert all_sums_are_right(crashed)


class Pages_of:
    """The numbers of the pages in the log of a store, but the first, which is read before the log."""

    def __init__(self, path: Path) -> None:
        self._file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        self._log = apsw.VFSFile("", f"{path}-wal", [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])

    def __enter__(self) -> set[int]:
        return set(Pages(self._file, self._log)._in_log) - {1}

    def __exit__(self, *_: object) -> None:
        self._file.xClose()
        self._log.xClose()


def test_processes_that_make_a_store_together_all_write_checksums(store_path):
    """One that opened the file while it was empty would not know that its pages have them."""
    first = True

    class Late(Database):
        def _use_log(self, connection):
            nonlocal first
            if first:
                first = False
                filled(store_path, 3)  # Another, faster one.
            return super()._use_log(connection)

    database = Late(str(store_path), durability="full", busy_timeout=5)
    with database.writing() as connection:
        connection.execute("UPDATE memory SET role = 'changed'")
    database.close()
    assert all_sums_are_right(store_path)


def test_without_the_extension_stores_are_made_without_and_those_that_have_checksums_are_refused(
    tmp_path, store_path, monkeypatch
):
    filled(store_path)
    whole = store_path.read_bytes()
    monkeypatch.setattr(vfs, "_vfs", "")
    with pytest.raises(StoreOpenError, match="install apsw from a wheel"):
        Memory(store_path, embedder=HashEmbedder())
    assert store_path.read_bytes() == whole
    plain = tmp_path / "plain.db"
    filled(plain)
    assert reserved(plain) == 0
    monkeypatch.undo()
    with Memory(plain, embedder=HashEmbedder()) as memory:
        memory.add("later", user_id="ana")
        assert memory.check() == []
        memory.backup(tmp_path / "copy.db")
        assert memory.repair() == []
    assert reserved(plain) == 0
    with Memory(tmp_path / "copy.db", embedder=HashEmbedder()) as memory:
        assert memory.check() == []
        assert memory.count(user_id="ana") == 201


def test_an_index_that_lists_what_does_not_belong_there_is_named_and_made_anew(store_path):
    filled(store_path, 3)
    forge(
        store_path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX memory_pending ON memory (key)' WHERE name = 'memory_pending'",
        "PRAGMA writable_schema = RESET",
        "REINDEX memory_pending",
    )
    forge(
        store_path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX memory_pending ON memory (key) WHERE vector_key IS NULL "
        "AND vector_error IS NULL AND deleted_at IS NULL' WHERE name = 'memory_pending'",
    )
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert any("memory_pending" in problem for problem in memory.check())
        memory.repair()
        assert memory.check() == []


def test_a_mistake_of_our_own_is_not_called_damage(open_memory):
    memory = open_memory()
    with pytest.raises(TypeError), memory._engine.store._database.writing():
        None + 1  # type: ignore[operator]  # noqa: B018
    with pytest.raises(ValueError, match="invalid literal"), memory._engine.store._database.reading():
        int("x")


SOUND = ("1,2", "5,6", "7,8", "1,1", bytes(8), 4, 4, bytes(12), "1,2", '["ana", null]', '[null, "run"]')
"""Two memories as an index reads them, each column as one value."""


@pytest.mark.parametrize(("column", "value"), [(1, "5"), (2, None), (3, "1"), (7, bytes(8)), (8, "3"), (10, "[null]")])
def test_rows_that_lack_a_value_are_damage(column, value):
    """As a page makes them that was written in the place of another, and whose checksum is right."""
    assert _states_of(SOUND).keys.tolist() == [1, 2]
    with pytest.raises(StoreDamagedError):
        _states_of((*SOUND[:column], value, *SOUND[column + 1 :]))
