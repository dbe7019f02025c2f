"""Memories from Mem0's files: whole, once, without ever running what stands in them."""

import base64
import copyreg
import functools
import json
import os
import pickle
import signal
import sqlite3
import sys
import threading
import types
from contextlib import closing
from datetime import UTC, datetime

import pytest

from agentmem import Config, DeadlineError, EmbeddingError, InvalidInputError, StoreOpenError
from agentmem.mem0.migrate import Imported, import_mem0
from agentmem.mem0.qdrant import collections, point_of
from agentmem.testing import HashEmbedder
from tests import mem0_peer
from tests.children import SECONDS, finish, start_python


class PointStruct:
    """Pickles as qdrant-client's class of this name does."""

    def __init__(self, id, payload):
        self.__dict__.update(id=id, vector={"": [0.5, 0.5]}, payload=payload)

    def __reduce_ex__(self, protocol):
        fields = dict(self.__dict__)
        state = {"__dict__": fields, "__pydantic_extra__": None, "__pydantic_fields_set__": set(fields)}
        return copyreg.__newobj__, (type(self),), state


def pickled(value):
    """With the class under its name in qdrant-client, which is not installed here."""
    name = "qdrant_client.http.models.models"
    parents = ("qdrant_client", "qdrant_client.http", "qdrant_client.http.models")
    modules = {part: types.ModuleType(part) for part in (*parents, name)}
    modules[name].PointStruct = PointStruct
    PointStruct.__module__ = name
    sys.modules.update(modules)
    try:
        return pickle.dumps(value, protocol=4)
    finally:
        PointStruct.__module__ = __name__
        for part in modules:
            del sys.modules[part]


def payload(text, **fields):
    moment = "2024-05-04T12:00:00+00:00"
    return {
        "data": text, "user_id": "ana", "hash": "x", "created_at": moment, "updated_at": moment, "text_lemmatized": "x",
    } | fields  # fmt: skip


def write(folder, *points, collection="mem0"):
    data = [pickled(point) if isinstance(point, PointStruct) else point for point in points]
    mem0_peer.write_points(folder, [(str(number), each) for number, each in enumerate(data)], collection=collection)


def point(name, text, **fields):
    return PointStruct(name, payload(text, **fields))


def numbered(count):
    return (point(str(number), f"tea {number}") for number in range(count))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "qdrant"


def texts(memory):
    return {record.content for record in memory.get_all(all_scopes=True, limit=10_000, show_expired=True)}


# -- safety -----------------------------------------------------------------------------------------------------------


def test_a_point_of_our_own_making_is_read_as_a_recorded_one_is():
    record = mem0_peer.recorded(mem0_peer.STORE)
    for _, data in record["rows"]["points"]:
        found = point_of(base64.b64decode(data))
        assert record["told"]["items"][found.id]["memory"] == found.payload["data"]
        assert b"qdrant_client.http.models.models" in base64.b64decode(data)
    assert point_of(pickled(point("a", "x"))).payload == payload("x")
    assert point_of(pickled(PointStruct(7, {}))).id == "7"


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(marker):
    """Pickles that would do something, each in another way."""
    make = f"open({str(marker)!r}, 'w').close()"
    yield "a call", pickle.dumps(Calls(exec, make))
    yield "a call by the system", pickle.dumps(Calls(os.system, f"touch {marker}"))
    yield "a partial", pickle.dumps(Calls(functools.partial, exec, make))
    yield "in the payload", pickled(point("a", "x", topic=Calls(exec, make)))
    yield "as the id", pickled(PointStruct(Calls(exec, make), payload("x")))
    yield "getattr", pickle.dumps(Calls(getattr, "x", "upper"))
    yield "protocol 0", b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    yield "an instance", b"(S'touch " + str(marker).encode() + b"'\nios\nsystem\n."
    yield "through the class", b"cqdrant_client\nx.__init__.__globals__\n."
    yield "a state of the class", b"cqdrant_client\nx\n}S'__new__'\nNsb."
    yield "a persistent id", b"Pevil\n."
    yield "an extension", b"\x80\x02\x82\x01."


def test_nothing_that_a_pickle_names_is_ever_called_and_its_memory_is_told(open_memory, folder, tmp_path):
    marker = tmp_path / "marker"
    cases = dict(hostile(marker))
    write(folder, *cases.values(), point("good", "I like tea"))
    memory = open_memory()
    imported = import_mem0(memory, folder)
    assert imported.stored == 1
    assert len(imported.failed) == len(cases)
    assert all(isinstance(error, InvalidInputError) for error in imported.failed.values())
    assert not marker.exists()
    assert texts(memory) == {"I like tea"}


NO_POINTS = [
    None, 5, "text", b"", b"x", b"\x80\x04", b"\x80\xff.", pickle.dumps(5), pickle.dumps([]), pickle.dumps({"id": 1}),
    b"\x80\x05\x96" + b"\xff" * 8, b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f", b"]" + b"(" * 100_000 + b".",
    pickled(PointStruct("a", None)), pickled(PointStruct(True, {})), pickled(PointStruct(None, {})),
    pickled(PointStruct([], {})),
]  # fmt: skip


@pytest.mark.parametrize("data", NO_POINTS, ids=map(str, range(len(NO_POINTS))))
def test_what_is_no_point_is_an_error(data):
    with pytest.raises(InvalidInputError, match="no point"):
        point_of(data)


def test_bytes_that_flip_in_a_point_never_do_more_than_fail():
    good = pickled(point("a", "I like tea", tags=["x"], stars=5))
    for place in range(len(good)):
        for value in (0, 255, good[place] ^ 1, good[place] ^ 0x40):
            damaged = good[:place] + bytes([value]) + good[place + 1 :]
            try:
                found = point_of(damaged)
            except InvalidInputError:
                continue
            assert isinstance(found.payload, dict)


# -- what comes -------------------------------------------------------------------------------------------------------


def test_ids_owners_metadata_and_dates_are_kept(open_memory, folder):
    write(
        folder,
        point(
            "1", "I like tea", agent_id="bot", run_id=7, role="user", actor_id="Ana", attributed_to="user",
            created_at="2024-05-04T05:00:00-07:00", updated_at="2024-05-05T00:00:00", expiration_date="2124-06-30",
            topic="drinks", deep={"a": [1, None]}, memory_type="x",
        ),
    )  # fmt: skip
    memory = open_memory()
    assert import_mem0(memory, folder) == Imported(stored=1)
    record = memory.get("1")
    assert (record.content, record.user_id, record.agent_id, record.run_id) == ("I like tea", "ana", "bot", "7")
    assert record.role == "user"
    assert record.metadata == {
        "actor_id": "Ana", "attributed_to": "user", "topic": "drinks", "deep": {"a": [1, None]}, "memory_type": "x",
    }  # fmt: skip
    assert record.created_at == datetime(2024, 5, 4, 12, tzinfo=UTC)
    assert record.updated_at == datetime(2024, 5, 5, tzinfo=UTC)
    assert record.expires_at == datetime(2124, 7, 1, tzinfo=UTC)


def test_they_come_oldest_first_whatever_the_order_of_the_rows(open_memory, folder):
    days = [5, 2, 9, 1, 7]
    write(folder, *(point(str(day), f"day {day}", created_at=f"2024-05-0{day}T00:00:00Z") for day in days))
    memory = open_memory()
    import_mem0(memory, folder)
    events = sorted((memory.history(str(day))[0].seq, day) for day in days)
    assert [day for _, day in events] == sorted(days)


def test_of_several_rows_of_one_point_the_latest_counts(open_memory, folder):
    write(folder, point("1", "old"), point("2", "other"), point("1", "new"))
    memory = open_memory()
    assert import_mem0(memory, folder) == Imported(stored=2)
    assert texts(memory) == {"new", "other"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"user_id": None}, "owner"), ({"user_id": ["x"]}, "user_id"), ({"data": None}, "content"),
        ({"data": " "}, "content"), ({"data": "x\0"}, "NUL"), ({"data": "x" * 2_000_000}, "bytes"),
        ({"role": 5}, "role"), ({"created_at": "soon"}, "created_at"), ({"expiration_date": "soon"}, "expiration_date"),
        ({"huge": 2**70}, "huge"), ({"odd": {1: 2}}, "odd"),
    ],
)  # fmt: skip
def test_a_memory_that_cannot_come_is_told_by_its_id_and_keeps_no_other_back(open_memory, folder, fields, named):
    good = [point(f"good {number}", f"tea {number}") for number in range(3)]
    write(folder, good[0], point("bad", "x", **fields), *good[1:])
    memory = open_memory()
    imported = import_mem0(memory, folder)
    assert (imported.stored, imported.present, list(imported.failed)) == (3, 0, ["bad"])
    assert named in str(imported.failed["bad"])
    assert memory.count(user_id="ana") == 3


def test_a_text_on_which_the_model_fails_is_told_by_its_id(open_memory, folder):
    class Refuses(HashEmbedder):
        def embed(self, texts):
            if "bad" in texts:
                raise ValueError("no")
            return super().embed(texts)

    write(folder, *(point(str(number), "bad" if number == 4 else f"tea {number}") for number in range(9)))
    memory = open_memory(embedder=Refuses())
    imported = import_mem0(memory, folder)
    assert (imported.stored, list(imported.failed)) == (8, ["4"])
    assert isinstance(imported.failed["4"], EmbeddingError)


HISTORY = (
    ("h1", "1", None, "a", "ADD", "2024-05-01T00:00:00Z", "2024-05-01T00:00:00Z", 0, None, None),
    ("h2", "1", "a", "b", "UPDATE", "2024-05-01T00:00:00Z", "2024-05-02T00:00:00Z", 0, None, None),
    ("h3", "1", "b", "c", "UPDATE", "2024-05-01T00:00:00Z", "2024-05-03T00:00:00Z", 0, None, None),
    ("h4", "2", "before", "after", "UPDATE", None, None, 0, None, None),
    ("h5", "3", "x", None, "DELETE", None, None, 1, None, None),
    ("h6", "4", None, "", "ADD", "soon", "soon", 0, None, None),
    ("h7", "4", 5, b"x", "ODD", 7, 7.5, 0, None, None),
)


def write_history(path, rows=HISTORY):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(mem0_peer.HISTORY)
        connection.executemany(f"INSERT INTO history VALUES ({', '.join('?' * 10)})", rows)


def test_earlier_texts_come_with_their_dates_and_the_point_has_the_last_word(open_memory, folder, tmp_path):
    dates = {"created_at": "2024-05-01T00:00:00Z", "updated_at": "2024-05-03T00:00:00Z"}
    write(
        folder,
        point("1", "c", expiration_date="2020-01-01", topic="x", **dates),
        point("2", "something else", **dates),
        point("4", "tea", created_at=None, updated_at=None),
    )
    write_history(tmp_path / "history.db")
    memory = open_memory()
    assert import_mem0(memory, folder, history=tmp_path / "history.db") == Imported(stored=3)

    def versions(name):
        events = [event for event in memory.history(name) if event.after is not None]
        return [(event.what, event.after.content, event.after.updated_at.day) for event in events]

    assert versions("1") == [("add", "a", 1), ("update", "b", 2), ("update", "c", 3)]
    assert versions("2") == [("add", "before", 1), ("update", "after", 1), ("update", "something else", 3)]
    assert [event.what for event in memory.history("4")] == ["add"]
    record = memory.get("1", show_expired=True)
    assert (record.metadata, record.expires_at) == ({"topic": "x"}, datetime(2020, 1, 2, tzinfo=UTC))
    assert memory.get("1") is None
    assert memory.history("3") == []


# -- again, and interrupted -------------------------------------------------------------------------------------------


def test_a_second_import_brings_only_what_is_new_and_revives_nothing(open_memory, folder):
    write(folder, *numbered(600))
    memory = open_memory()
    assert import_mem0(memory, folder) == Imported(stored=600)
    memory.delete("3")
    memory.update("4", "coffee")
    write(folder, *numbered(602))
    assert import_mem0(memory, folder) == Imported(stored=2, present=600)
    assert memory.get("3") is None
    assert memory.get("4").content == "coffee"
    assert memory.count(user_id="ana") == 601


def test_ids_that_another_home_has_keep_nothing_out(open_memory, folder):
    write(folder, point("a", "tea"), point("b", "milk", user_id=None, run_id="r"), point("c", "water"))
    memory = open_memory()
    for name in "abc":
        memory.add("squatted", id=name, user_id="eve")
    memory.add("there already", id="c", user_id="ana", run_id="r")
    assert import_mem0(memory, folder) == Imported(stored=2, present=1)
    assert memory.get("a", user_id="ana").content == "tea"
    assert memory.get("b", run_id="r").content == "milk"


def test_an_import_that_fails_amid_goes_on_where_it_was(open_memory, folder):
    goes_on = threading.Event()

    class Stalls(HashEmbedder):
        texts = 0

        def embed(self, texts):
            self.texts += len(texts)
            if self.texts > 300:
                goes_on.wait(60)
            return super().embed(texts)

    write(folder, *numbered(600))
    memory = open_memory(embedder=Stalls(), config=Config(timeout=2.0))
    with pytest.raises(DeadlineError):
        import_mem0(memory, folder)
    assert memory.count(user_id="ana") == 256
    goes_on.set()
    assert import_mem0(memory, folder) == Imported(stored=344, present=256)


IMPORT = """
import os, signal, sys
from agentmem import Memory
from agentmem.mem0.migrate import import_mem0
from agentmem.testing import HashEmbedder

store, folder, limit = sys.argv[1:]

class Dies(HashEmbedder):
    texts = 0

    def embed(self, texts):
        self.texts += len(texts)
        if self.texts > int(limit):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(texts)

with Memory(store, embedder=Dies()) as memory:
    imported = import_mem0(memory, folder, history=folder + "/history.db")
    print(imported.stored, imported.present, len(imported.failed))
"""


@pytest.mark.slow
def test_a_process_killed_amid_its_import_leaves_a_store_in_which_the_next_one_goes_on(open_memory, store_path, folder):
    write(folder, *numbered(700))
    history = []
    for number in range(700):
        history.append((f"a{number}", str(number), None, "old", "ADD", None, None, 0, None, None))
        history.append((f"u{number}", str(number), "old", f"tea {number}", "UPDATE", None, None, 0, None, None))
    write_history(folder / "history.db", history)
    child = start_python(IMPORT, store_path, folder, 400)
    child.communicate(timeout=SECONDS)
    assert child.returncode == -signal.SIGKILL
    memory = open_memory()
    assert memory.count(user_id="ana") == 256
    assert memory.check() == []
    assert finish(start_python(IMPORT, store_path, folder, 10_000)).split() == ["444", "256", "0"]
    assert memory.count(user_id="ana") == 700
    for name in ("0", "699"):
        assert [event.after.content for event in memory.history(name)] == ["old", f"tea {name}"]


@pytest.mark.slow
def test_two_imports_at_once_bring_each_memory_once(open_memory, store_path, folder):
    write(folder, *numbered(600))
    write_history(folder / "history.db")
    children = [start_python(IMPORT, store_path, folder, 10_000) for _ in range(3)]
    told = [tuple(map(int, finish(child).split())) for child in children]
    assert sum(stored for stored, _, _ in told) == 600
    assert all(stored + present == 600 and failed == 0 for stored, present, failed in told)
    assert open_memory().count(user_id="ana") == 600


# -- the files --------------------------------------------------------------------------------------------------------


def test_the_collection_is_the_one_of_mem0_or_the_only_one_or_named(open_memory, folder):
    memory = open_memory()
    write(folder, point("1", "one"), collection="notes")
    (folder / "meta.json").write_text(
        json.dumps({"collections": {"notes": {}, "notes_entities": {}, "mem0migrations": {}}})
    )
    assert collections(folder) == ["mem0migrations", "notes", "notes_entities"]
    assert import_mem0(memory, folder) == Imported(stored=1)
    write(folder, point("2", "two"), collection="other")
    (folder / "meta.json").write_text(json.dumps({"collections": {"notes": {}, "other": {}}}))
    with pytest.raises(InvalidInputError, match="notes, other"):
        import_mem0(memory, folder)
    assert import_mem0(memory, folder, collection="other") == Imported(stored=1)
    with pytest.raises(InvalidInputError, match="no collection 'third'"):
        import_mem0(memory, folder, collection="third")


def test_a_collection_never_leads_outside_the_folder(open_memory, folder, tmp_path):
    write(tmp_path / "elsewhere", point("1", "secret"))
    write(folder, point("2", "tea"))
    outside = "../../elsewhere/collection/mem0"
    (folder / "collection" / "link").symlink_to(tmp_path / "elsewhere" / "collection" / "mem0")
    (folder / "meta.json").write_text(json.dumps({"collections": {outside: {}, "link": {}, "mem0": {}}}))
    memory = open_memory()
    for name in (outside, "link"):
        with pytest.raises(InvalidInputError, match="outside"):
            import_mem0(memory, folder, collection=name)
    assert import_mem0(memory, folder) == Imported(stored=1)


@pytest.mark.parametrize("meta", [None, b"", b"[]", b"5", b'{"collections": 5}', b"{" * 99_999, b"\xff"])
def test_what_is_no_folder_of_qdrant_is_said(open_memory, folder, meta):
    folder.mkdir()
    if meta is not None:
        (folder / "meta.json").write_bytes(meta)
    with pytest.raises(StoreOpenError, match="no folder of a local Qdrant"):
        import_mem0(open_memory(), folder)


@pytest.mark.parametrize("damage", ["missing", "text", "empty", "no table", "folder"])
def test_what_is_no_collection_or_history_is_said(open_memory, folder, tmp_path, damage):
    memory = open_memory()
    write(folder, point("1", "tea"))
    for path, arguments in (
        (tmp_path / "history.db", {"history": tmp_path / "history.db"}),
        (folder / "collection" / "mem0" / "storage.sqlite", {}),
    ):
        path.unlink(missing_ok=True)
        if damage == "text":
            path.write_text("no database, only text, and some more of it" * 100)
        elif damage == "empty":
            path.touch()
        elif damage == "folder":
            path.mkdir()
        elif damage == "no table":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE history (id TEXT)")
        with pytest.raises(StoreOpenError):
            import_mem0(memory, folder, **arguments)
    assert memory.count(user_id="ana") == 0


def test_nothing_is_written_to_the_folder_also_when_it_cannot_be(open_memory, folder):
    write(folder, point("1", "tea"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    for path in [*files, *(path.parent for path in files)]:
        path.chmod(path.stat().st_mode & 0o555)
    try:
        assert import_mem0(open_memory(), folder) == Imported(stored=1)
        assert {path for path in folder.rglob("*") if path.is_file()} == set(before)
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    finally:
        for path in [*files, *(path.parent for path in files)]:
            path.chmod(path.stat().st_mode | 0o700)


def test_a_scoped_view_takes_only_what_is_its_owners(open_memory, folder):
    write(folder, point("1", "tea"), point("2", "coffee", user_id="ben"))
    memory = open_memory()
    imported = import_mem0(memory.scope(user_id="ana"), folder)
    assert (imported.stored, list(imported.failed)) == (1, ["2"])
    assert texts(memory) == {"tea"}
