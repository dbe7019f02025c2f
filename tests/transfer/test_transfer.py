"""Memories out to files and in again: the same memories, of one moment, once each, whatever breaks off."""

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import (
    ClosedError,
    Config,
    DeadlineError,
    DuplicateIdError,
    EmbeddingError,
    InvalidInputError,
    Memory,
    StoreBusyError,
    StoreOpenError,
)
from agentmem.testing import HashEmbedder, contents, metadata, owners
from agentmem.transfer import json_stream as values
from agentmem.transfer.reader import LARGEST_VALUE
from tests.children import SECONDS, start_python


class CountingEmbedder(HashEmbedder):
    """Counts the texts that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def embed(self, texts):
        self.texts += texts
        return super().embed(texts)


def exported(memory: Memory, **arguments) -> bytes:
    """What an export of everything writes."""
    file = io.BytesIO()
    memory.export(file, **({"all_scopes": True} | arguments))
    return file.getvalue()


def lines_of(raw: bytes) -> list[dict]:
    """The memories of an export, without its header."""
    return [json.loads(line) for line in raw.splitlines()[1:]]


def jsonl(*lines) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def contents_of(memory: Memory, **asked) -> list[str]:
    page = memory.get_all(**(asked or {"all_scopes": True}), order="oldest", limit=1_000_000)
    return [record.content for record in page.records]


@pytest.fixture
def other(open_memory, tmp_path) -> Memory:
    """A second, empty store."""
    return open_memory(tmp_path / "other.db")


# -- the way round --------------------------------------------------------------------------------------------------


moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))


@st.composite
def items(draw):
    fields = draw(owners()) | {"content": draw(contents())}
    if draw(st.booleans()):
        fields["metadata"] = draw(metadata())
    if draw(st.booleans()):
        fields["created_at"] = draw(moments)
    if draw(st.booleans()):
        fields["role"] = draw(st.sampled_from(["user", "assistant", "Rolle ü"]))
    if draw(st.booleans()):
        fields["expires_at"] = draw(st.datetimes(datetime(2200, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))
    return fields


@pytest.mark.slow
@given(st.lists(items(), max_size=6), st.booleans(), st.data())
def test_what_is_exported_imported_and_exported_again_is_the_same_bytes(drawn, vectors, data):
    with Memory(":memory:", embedder=HashEmbedder()) as memory, Memory(":memory:", embedder=HashEmbedder()) as other:
        records = memory.add_batch(drawn)
        for record in data.draw(st.lists(st.sampled_from(records), max_size=2)) if records else []:
            memory.update(record.id, data.draw(contents()), metadata=data.draw(metadata()))
        first = exported(memory, vectors=vectors)
        report = other.import_(io.BytesIO(first))
        assert (report.imported, report.skipped, report.failures, report.notes) == (len(drawn), 0, 0, ())
        assert exported(other, vectors=vectors) == first
        assert [other.get(record.id) for record in records] == [memory.get(record.id) for record in records]
        assert other.check() == []
        assert other.import_(io.BytesIO(first)).skipped == len(drawn)


def test_a_line_is_as_it_is_documented(memory):
    moment = datetime(2026, 3, 5, 18, 30, tzinfo=UTC)
    record = memory.add(
        "Grüße\u2028\r\n", user_id="ana", agent_id="a", run_id="r", role="user", metadata={"z": 1, "a": [None, 2.5]},
        created_at=moment, expires_at=moment + timedelta(days=36500), id="x-1",
    )  # fmt: skip
    header, line = exported(memory, vectors=True).splitlines()
    assert json.loads(header) == {
        "format": "agentmem",
        "version": 1,
        "model": {"identity": "agentmem.testing.HashEmbedder:1:64", "name": "HashEmbedder", "dimension": 64},
    }
    assert list(json.loads(line)) == [
        "id", "content", "user_id", "agent_id", "run_id", "role", "metadata", "created_at", "updated_at",
        "expires_at", "vector", "digest",
    ]  # fmt: skip
    assert json.loads(line)["created_at"] == "2026-03-05T18:30:00+00:00"
    assert json.loads(line)["metadata"] == record.metadata
    assert exported(memory).splitlines()[0] == b'{"format":"agentmem","version":1}'


def test_an_export_holds_what_a_listing_of_the_same_owner_and_filter_shows(memory):
    memory.add_batch([{"content": f"{n}", "metadata": {"n": n}} for n in range(9)], user_id="ana")
    memory.add("of ben", user_id="ben")
    deleted = memory.add("deleted", user_id="ana", metadata={"n": 1})
    memory.delete(deleted.id)
    memory.add("expired", user_id="ana", metadata={"n": 1}, ttl=1e-6)
    asked = {"user_id": "ana", "filters": {"n": {"lt": 5}}, "all_scopes": False}
    assert [line["content"] for line in lines_of(exported(memory, **asked))] == contents_of(
        memory, user_id="ana", filters={"n": {"lt": 5}}
    )
    assert "expired" in [line["content"] for line in lines_of(exported(memory, show_expired=True))]
    since = datetime(2020, 1, 1, tzinfo=UTC)
    assert len(lines_of(exported(memory, between=(None, since)))) == 0
    with pytest.raises(InvalidInputError, match="No owner"):
        memory.export(io.BytesIO())


def test_paths_text_files_and_compressed_files_hold_the_same(memory, tmp_path, other):
    memory.add_batch(["one", "zwei ü", "三"], user_id="ana")
    raw = exported(memory)
    assert memory.export(tmp_path / "a.jsonl", user_id="ana") == 3
    assert memory.export(str(tmp_path / "a.jsonl.gz"), user_id="ana") == 3
    text = io.StringIO()
    memory.export(text, user_id="ana")
    with (tmp_path / "t.jsonl").open("w", encoding="utf-8", newline="") as file:
        memory.export(file, user_id="ana")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes() == raw
    assert text.getvalue().encode() == gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == raw
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.jsonl", "a.jsonl.gz"]
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    memory.export(tmp_path / "a.jsonl.gz", user_id="ana", overwrite=True)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == packed  # No time in it.
    (tmp_path / "named-otherwise").write_bytes(packed)
    sources = [tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz", tmp_path / "named-otherwise", io.StringIO(raw.decode())]
    reports = [other.import_(source) for source in sources]
    with (tmp_path / "a.jsonl").open(encoding="utf-8") as file:
        reports.append(other.import_(file))
    assert [(report.imported, report.skipped) for report in reports] == [(3, 0)] + [(0, 3)] * 4


def test_a_file_that_is_there_and_the_store_itself_are_not_overwritten(open_memory, tmp_path):
    memory = open_memory()
    memory.add("a text", user_id="ana")
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(InvalidInputError, match="exists already"):
        memory.export(tmp_path / "taken", user_id="ana")
    with pytest.raises(InvalidInputError, match="the store itself"):
        memory.export(memory.path, user_id="ana", overwrite=True)
    with pytest.raises(StoreOpenError, match="does not exist"):
        memory.export(tmp_path / "nowhere" / "a.jsonl", user_id="ana")
    with pytest.raises(InvalidInputError, match="file is 5"):
        memory.export(5, user_id="ana")  # type: ignore[arg-type]
    assert (tmp_path / "taken").read_text() == "precious"
    assert memory.export(tmp_path / "taken", user_id="ana", overwrite=True) == 1
    assert memory.export("/dev/null", user_id="ana") == 1
    assert Path("/dev/null").is_char_device()
    assert not list(tmp_path.glob("*.unfinished"))


def test_an_export_that_fails_leaves_no_file(open_memory, tmp_path, monkeypatch):
    memory = open_memory()
    memory.add_batch(["a", "b"], user_id="ana")

    def fail(*arguments):
        raise RuntimeError("in the middle")

    monkeypatch.setattr("agentmem.transfer.exporter.line_of", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        memory.export(tmp_path / "a.jsonl", user_id="ana")
    assert not list(tmp_path.glob("a.jsonl*"))


@pytest.mark.slow
def test_a_full_disk_is_told_by_name(open_memory, tmp_path):
    memory = open_memory()
    memory.add_batch([f"{n} {'word ' * 50}" for n in range(500)], user_id="ana")
    code = """
        import resource, signal, sys
        from agentmem import Memory, StoreOpenError, StoreFullError
        from agentmem.testing import HashEmbedder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        memory = Memory(sys.argv[1], embedder=HashEmbedder())
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            memory.export(sys.argv[2], user_id="ana")
        except (StoreOpenError, StoreFullError) as error:
            print(type(error).__name__)
    """
    child = start_python(code, memory.path, tmp_path / "a.jsonl")
    assert child.communicate(timeout=SECONDS)[0].strip() in ("StoreOpenError", "StoreFullError")
    assert not list(tmp_path.glob("a.jsonl*"))


# -- one moment -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_is_of_the_moment_when_it_began(open_memory):
    """Between its pages everything is changed that can be."""
    memory = open_memory()
    records = memory.add_batch([f"text {number}" for number in range(2500)], user_id="ana", metadata={"v": 1})
    pending = memory.add("deferred", user_id="ana", defer=True)
    memory.flush()
    expected = exported(memory, vectors=True)
    pieces: list[bytes] = []

    class Slow(io.BytesIO):
        def write(self, piece):
            pieces.append(bytes(piece))
            if len(pieces) == 2:  # The header and the first page.
                memory.update(records[1500].id, "another text", metadata={"v": 2})
                memory.update(records[1500].id, "a third text")
                memory.update(records[2400].id, metadata={"v": 3})
                memory.delete(records[1600].id)
                memory.delete(records[10].id)
                memory.delete(records[1700].id)
                memory.restore(records[1700].id)
                memory.update(pending.id, "no longer deferred")
                memory.add("a new one", user_id="ana")
                assert memory.purge(records[1800].id) == 1
            return len(piece)

    assert memory.export(Slow(), user_id="ana", vectors=True) == 2500
    gone = json.dumps(records[1800].id).encode()
    assert b"".join(pieces) == b"".join(line for line in expected.splitlines(True) if gone not in line)


@pytest.mark.slow
def test_exports_beside_writers_hold_a_prefix_of_every_writer(open_memory):
    memory = open_memory()
    memory.add_batch([f"base {number}" for number in range(3000)], user_id="base")
    stop = threading.Event()
    acknowledged = {"a": 0, "b": 0}

    def write(owner: str) -> None:
        while not stop.is_set():
            record = memory.add(f"{owner} {acknowledged[owner]}", user_id=owner)
            memory.update(record.id, metadata={"done": True})
            acknowledged[owner] += 1

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, owner) for owner in acknowledged]
        try:
            for _ in range(5):
                before = dict(acknowledged)
                lines = lines_of(exported(memory))
                for owner in acknowledged:
                    own = [line for line in lines if line["user_id"] == owner]
                    assert [int(line["content"].split()[1]) for line in own] == list(range(len(own)))
                    assert before[owner] <= len(own) <= acknowledged[owner] + 1
                    assert all(line.get("metadata") == {"done": True} for line in own[: before[owner]])
                assert sum(line["user_id"] == "base" for line in lines) == 3000
        finally:
            stop.set()
        for writer in writers:
            writer.result(SECONDS)


def test_a_reader_that_stands_still_does_not_keep_the_log(open_memory):
    """The log is merged and cut while the consumer of an export holds it up for ever."""
    memory = open_memory()
    memory.add_batch([f"text {number}" for number in range(1500)], user_id="ana")
    calls = 0

    class Still(io.BytesIO):
        def write(self, piece):
            nonlocal calls
            calls += 1
            with memory._engine.store._database.between_transactions() as connection:
                assert memory._engine.store._database.cut_log(connection)
            assert os.stat(f"{memory.path}-wal").st_size == 0  # noqa: PTH116
            return super().write(piece)

    memory.export(Still(), user_id="ana")
    assert calls == 3


# -- vectors --------------------------------------------------------------------------------------------------------


def test_vectors_of_the_same_model_spare_the_embedding(open_memory, tmp_path):
    memory = open_memory()
    memory.add_batch(["one", "two", "three"], user_id="ana")
    raw = exported(memory, vectors=True)
    embedder = CountingEmbedder()
    other = open_memory(tmp_path / "other.db", embedder=embedder)
    assert other.import_(io.BytesIO(raw)).notes == ()
    assert embedder.texts == []
    assert [match.score for match in other.search("two", user_id="ana", mode="vector")] == [
        match.score for match in memory.search("two", user_id="ana", mode="vector")
    ]


def test_a_store_without_its_model_takes_what_brings_vectors(open_memory, tmp_path):
    memory = open_memory()
    memory.add("one", user_id="ana")
    raw = exported(memory, vectors=True)
    with Memory(tmp_path / "other.db", embedder=HashEmbedder()):
        pass
    other = open_memory(tmp_path / "other.db", model=None)
    assert exported(other, vectors=True) == raw.splitlines(True)[0]
    assert other.import_(io.BytesIO(raw)).imported == 1
    assert exported(other, vectors=True) == raw
    with pytest.raises(InvalidInputError, match="no vectors yet"):
        open_memory(tmp_path / "new.db", model=None).export(io.BytesIO(), all_scopes=True, vectors=True)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda header, line: ({**header, "model": {**header["model"], "identity": "x"}}, line), "another model"),
        (lambda header, line: ({"format": "agentmem", "version": 1}, line), "no header"),
        (lambda header, line: (header, {**line, "content": "edited by hand"}), "changed afterwards"),
    ],
)
def test_vectors_that_are_not_the_stores_own_are_left_aside_and_that_is_said(memory, other, change, note):
    memory.add("a text", user_id="ana")
    header, line = map(json.loads, exported(memory, vectors=True).splitlines())
    report = other.import_(jsonl(*change(header, line)))
    assert report.imported == 1
    assert len(report.notes) == 1
    assert note in report.notes[0]
    assert report.notes[0].endswith(": 1")
    [content] = contents_of(other)
    assert other.search(content, user_id="ana", mode="vector")[0].score > 0.99


@pytest.mark.parametrize(
    "vector", ["!!!", "AAAA", 5, None.__class__.__name__, "A" * 172, np.full(64, np.nan, "<f2").tobytes().hex()]
)
def test_a_vector_that_is_none_is_an_error_of_its_line(memory, other, vector):
    memory.add("a text", user_id="ana")
    header, line = map(json.loads, exported(memory, vectors=True).splitlines())
    with pytest.raises(InvalidInputError, match=r"^Line 2: vector"):
        other.import_(jsonl(header, {**line, "vector": vector}))
    assert other.count(all_scopes=True) == 0


def test_joined_files_keep_each_its_model(memory, other):
    memory.add("of this model", user_id="ana")
    mine = exported(memory, vectors=True)
    foreign = b'{"format":"agentmem","version":1,"model":{"identity":"x","name":"x","dimension":1}}\n'
    line = b'{"content":"of another","user_id":"ana","vector":"ADw="}\n'
    report = other.import_(io.BytesIO(foreign + line + mine))
    assert report.imported == 2
    assert [note.split(":")[0] for note in report.notes] == [
        "vectors left aside, because they are of another model than the store's"
    ]


# -- owners ---------------------------------------------------------------------------------------------------------


def test_owners_are_kept_renamed_or_replaced(memory, other):
    memory.add("one", user_id="ana", run_id="r1")
    memory.add("two", user_id="ben", agent_id="helper")
    raw = exported(memory)

    def owners_after(**arguments):
        with Memory(":memory:", embedder=HashEmbedder()) as store:
            store.import_(io.BytesIO(raw), **arguments)
            return [
                (record.content, record.user_id, record.agent_id, record.run_id)
                for record in store.get_all(all_scopes=True, order="oldest")
            ]

    assert owners_after() == [("one", "ana", None, "r1"), ("two", "ben", "helper", None)]
    assert owners_after(user_id={"ana": "anna"}) == [("one", "anna", None, "r1"), ("two", "ben", "helper", None)]
    assert owners_after(user_id="x", run_id={"r1": "r2"}) == [("one", "x", None, "r2"), ("two", "x", "helper", None)]
    for wrong in (5, {"ana": None}, {5: "ana"}, " x", {"ana": ""}):
        with pytest.raises(InvalidInputError, match="user_id"):
            other.import_(io.BytesIO(raw), user_id=wrong)
    with pytest.raises(InvalidInputError, match=r"^Line 1: No owner"):
        other.import_(jsonl("a text"))


def test_a_scoped_view_reads_and_writes_its_owner_only(memory, other):
    memory.add("of ana", user_id="ana", id="a")
    memory.add("of ben", user_id="ben", id="b")
    raw = exported(memory)
    assert [line["content"] for line in lines_of(exported(memory.scope(user_id="ana"), all_scopes=False))] == ["of ana"]
    with pytest.raises(InvalidInputError, match="cannot leave the scope"):
        memory.scope(user_id="ana").export(io.BytesIO(), all_scopes=True)
    with pytest.raises(InvalidInputError, match="outside this scope"):
        memory.scope(user_id="ana").export(io.BytesIO(), user_id="ben")
    ana = other.scope(user_id="ana")
    with pytest.raises(InvalidInputError, match=r"^Line 3: user_id='ben' is outside this scope"):
        ana.import_(io.BytesIO(raw))
    report = ana.import_(io.BytesIO(raw), on_error="skip")
    assert (report.imported, report.failures, report.failed[0][0]) == (1, 1, 3)
    assert contents_of(other) == ["of ana"]
    assert ana.import_(jsonl("without an owner")).imported == 1
    # The id of another owner's memory tells nothing and takes nothing.
    other.add("a secret of ben", user_id="ben", id="b2")
    assert ana.import_(jsonl({"id": "b2", "content": "mine"})).imported == 1
    other.add("a secret of a run", user_id="ana", run_id="r1", id="b3")
    for policy in ("error", "replace"):
        with pytest.raises(DuplicateIdError) as raised:
            other.import_(jsonl({"id": "b3", "content": "taken over"}), user_id="ana", run_id="r2", on_conflict=policy)
        assert "secret" not in str(raised.value)
    assert contents_of(other, user_id="ben") == ["a secret of ben"]
    assert ana.import_(io.BytesIO(raw), user_id="ana").skipped == 1


# -- ids that are taken ---------------------------------------------------------------------------------------------


def test_conflicts_are_decided_by_the_policy(memory):
    line = {"id": "x", "content": "new", "user_id": "ana", "metadata": {"v": 2}}
    old = memory.add("old", user_id="ana", id="x", metadata={"v": 1}, role="user")
    with pytest.raises(DuplicateIdError, match=r"^Line 1: id 'x' belongs to another memory"):
        memory.import_(jsonl(line))
    assert memory.import_(jsonl(line), on_conflict="skip").skipped == 1
    assert memory.get("x") == old
    assert memory.import_(jsonl(line), on_conflict="replace").replaced == 1
    new = memory.get("x")
    assert (new.content, new.metadata, new.role, new.created_at) == ("new", {"v": 2}, "user", old.created_at)
    assert [event.what for event in memory.history("x")] == ["add", "update"]
    assert memory.search("new", user_id="ana")[0].record.id == "x"
    assert memory.import_(jsonl(line), on_conflict="replace").skipped == 1
    assert len(memory.history("x")) == 2
    other_line = {**line, "content": "newest"}
    assert memory.import_(jsonl(other_line), on_conflict="new_id").imported == 1
    assert memory.import_(jsonl(other_line), on_conflict="new_id").skipped == 1
    assert sorted(contents_of(memory)) == ["new", "newest"]


def test_what_is_equal_to_python_is_not_equal_in_a_memory(memory):
    memory.add("text", user_id="ana", id="x", metadata={"v": 1})
    for value in (True, 1.0):
        with pytest.raises(DuplicateIdError):
            memory.import_(jsonl({"id": "x", "content": "text", "user_id": "ana", "metadata": {"v": value}}))
    assert memory.import_(jsonl({"id": "x", "content": "text", "user_id": "ana", "metadata": {"v": 1}})).skipped == 1


def test_a_deleted_memory_keeps_its_id_and_is_brought_back_by_replace(memory):
    memory.add("old", user_id="ana", id="x")
    raw = exported(memory)
    memory.delete("x")
    with pytest.raises(DuplicateIdError):
        memory.import_(io.BytesIO(raw))
    assert memory.import_(io.BytesIO(raw), on_conflict="skip").skipped == 1
    assert memory.get("x") is None
    assert memory.import_(io.BytesIO(raw), on_conflict="replace").replaced == 1
    assert [event.what for event in memory.history("x")] == ["add", "delete", "restore"]
    memory.delete("x")
    memory.import_(jsonl({"id": "x", "content": "new", "user_id": "ana"}), on_conflict="replace")
    assert [event.what for event in memory.history("x")][3:] == ["delete", "restore", "update"]
    assert contents_of(memory) == ["new"]


def test_an_expired_memory_is_the_same_memory(memory, clock):
    line = {"id": "x", "content": "text", "user_id": "ana", "expires_at": "2026-03-01T12:00:10+00:00"}
    assert memory.import_(jsonl(line)).imported == 1
    clock.wait(20)
    assert memory.import_(jsonl(line)).skipped == 1
    memory.add("anything", user_id="ben")  # The commit sweeps.
    assert memory.import_(jsonl(line)).skipped == 1
    later = {**line, "expires_at": "2026-03-01T13:00:00+00:00"}
    assert memory.import_(jsonl(later), on_conflict="replace").replaced == 1
    assert memory.get("x").expires_at == datetime(2026, 3, 1, 13, tzinfo=UTC)


def test_lines_of_one_file_that_share_an_id_are_decided_like_any_other(memory):
    first, second = ({"id": "x", "content": text, "user_id": "ana"} for text in ("first", "second"))
    assert memory.import_(jsonl(first, first)).skipped == 1
    memory.purge(user_id="ana")
    with pytest.raises(DuplicateIdError, match=r"^Line 2: "):
        memory.import_(jsonl(first, second))
    assert contents_of(memory) == []  # Nothing of its chunk.
    assert memory.import_(jsonl(first, second), on_error="skip").failed[0][0] == 2
    memory.purge(user_id="ana")
    report = memory.import_(jsonl(first, second), on_conflict="replace")
    assert (report.imported, report.replaced) == (1, 1)
    assert contents_of(memory) == ["second"]
    memory.purge(user_id="ana")
    assert memory.import_(jsonl(first, second), on_conflict="new_id").imported == 2
    assert memory.import_(jsonl(first, second), on_conflict="new_id").skipped == 2


def test_the_same_text_comes_in_once_when_that_is_asked(memory):
    memory.add("here already", user_id="ana")
    lines = [{"content": text, "user_id": "ana"} for text in ("here already", "new", "new")]
    report = memory.import_(jsonl(*lines), dedupe=True)
    assert (report.imported, report.skipped) == (1, 2)
    assert memory.import_(jsonl(*lines), dedupe=True).skipped == 3
    assert contents_of(memory) == ["here already", "new"]


def test_wrong_options_are_told_with_their_value(memory):
    for name, value in (("format", "csv"), ("on_conflict", "merge"), ("on_error", "return"), ("durability", "none")):
        with pytest.raises(InvalidInputError, match=f"{name} is '{value}'; use '"):
            memory.import_(jsonl("a"), user_id="ana", **{name: value})
    with pytest.raises(InvalidInputError, match=r"cannot be read .*No such file"):
        memory.import_("nowhere.jsonl", user_id="ana")
    with pytest.raises(InvalidInputError, match=r"cannot be read .*directory"):
        memory.import_("/", user_id="ana")
    with pytest.raises(InvalidInputError, match=r"cannot be read .*null"):
        memory.import_("a\0b", user_id="ana")
    with pytest.raises(InvalidInputError, match="file is 5"):
        memory.import_(5, user_id="ana")
    memory.close()
    with pytest.raises(ClosedError):
        memory.import_(jsonl("a"), user_id="ana")
    with pytest.raises(ClosedError):
        memory.export(io.BytesIO(), user_id="ana")


# -- bad lines ------------------------------------------------------------------------------------------------------

BAD = {
    b'{"content": 5, "user_id": "ana"}': "content is 5, a int",
    b'{"content": "", "user_id": "ana"}': "blank",
    b'{"user_id": "ana"}': "content is None",
    b'{"content": "a", "user_id": 5}': "user_id is 5",
    b'{"content": "a", "content": "b"}': "the key 'content' stands twice",
    b'{"content": "a", "metadata": {"n": NaN}}': "NaN is no JSON",
    b'{"content": "a", "metadata": {"n": -Infinity}}': "-Infinity is no JSON",
    b'{"content": "a", "metadata": {"n": 1e999}}': "which JSON does not have",
    b'{"content": "a", "metadata": {"n": ' + b"9" * 5000 + b"}}": "a number has 5,000 digits",
    b'{"content": "a", "metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}": "nested deeper",
    b"[" * 100_000 + b"]" * 100_000: "cannot be read",
    b'{"content": "a\xff"}': "byte 0xff is not UTF-8",
    b'{"content": "\\ud800"}': "lone surrogate",
    b'{"content": "a\\u0000b"}': "NUL",
    b'{"content": "a"': "is not JSON",
    b'{"content": "a"} {}': "Extra data",
    b"5": "neither a text nor an object",
    b'{"content": "a", "txt": "b"}': "unknown field 'txt'",
    b'{"content": "a", "ttl": 5}': "write expires_at",
    b'{"content": "a", "created_at": "yesterday"}': "created_at is a text of 9 characters",
    b'{"content": "a", "created_at": "2026-01-01T00:00:00"}': "with an offset",
    b'{"content": "a", "updated_at": 5}': "updated_at is 5",
    b'{"content": "a", "id": ""}': "id is empty",
    b'{"content": "a", "digest": "xyz"}': "digest is 'xyz'",
}


def test_a_key_that_stands_twice_among_very_many_is_found_in_time(memory):
    keys = ", ".join(f'"k{number}": 1' for number in range(100_000))
    line = f'{{"content": "a", "metadata": {{{keys}, "k99999": 2}}}}'
    began = time.thread_time()
    with pytest.raises(InvalidInputError, match="the key 'k99999' stands twice"):
        memory.import_(io.BytesIO(line.encode()), user_id="ana")
    assert time.thread_time() - began < 10  # 0.1; with a look through all keys for each it was a minute.


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:40].decode("latin-1"))
def test_a_bad_line_is_told_by_its_number_and_the_others_are_stored(memory, line):
    raw = b'\xef\xbb\xbf"first"\r\n\n  \n' + line + b'\r\n"last"'
    with pytest.raises(InvalidInputError) as raised:
        memory.import_(io.BytesIO(raw), user_id={"x": "y"} if b"user_id" in line else "ana", format="agentmem")
    assert contents_of(memory) == []
    report = memory.import_(io.BytesIO(raw), on_error="skip", **({} if b"user_id" in line else {"user_id": "ana"}))
    numbers = [number for number, _ in report.failed]
    if b"user_id" in line:
        assert numbers == [1, 4, 5]
        assert BAD[line] in str(report.failed[1][1])
    else:
        assert numbers == [4]
        assert report.imported == 2
        assert contents_of(memory) == ["first", "last"]
        assert str(raised.value).startswith("Line 4: ")
        assert BAD[line] in str(raised.value)


def test_a_line_that_is_too_long_is_passed_over_without_being_held(memory, monkeypatch):
    monkeypatch.setattr("agentmem.transfer.reader.LARGEST_VALUE", 1000)
    memory._engine.config = Config(max_content_bytes=100)
    monkeypatch.setattr(values, "FIRST_PIECE", 100)
    raw = b'"first"\n"' + b"x" * 100_000 + b'"\n"last"\n'
    report = memory.import_(io.BytesIO(raw), user_id="ana", on_error="skip")
    assert (report.imported, report.failed[0][0]) == (2, 2)
    assert "more than 1,000 bytes" in str(report.failed[0][1])
    assert contents_of(memory) == ["first", "last"]
    report = memory.import_(io.BytesIO(b'["' + b"x" * 100_000), user_id="ana", on_error="skip", format="agentmem")
    assert "more than 1,000 bytes" in str(report.failed[0][1])


@pytest.mark.parametrize("header", [{"version": 2}, {"version": "1.0"}, {}, {"version": 1, "model": 5}])
def test_a_version_that_is_not_known_is_refused_whatever_may_be_skipped(memory, header):
    with pytest.raises(InvalidInputError, match=r"^Line 1: the (file is in version|header names)"):
        memory.import_(jsonl({"format": "agentmem", **header}, "text"), user_id="ana", on_error="skip")
    assert contents_of(memory) == []


def test_an_unknown_kind_of_file_is_refused(memory, tmp_path):
    for raw in (b'{"title": "x"}\n', b'[{"title": "x"}]', b"[5]", b"7\n"):
        with pytest.raises(InvalidInputError, match=r"^Line 1: .* name it with format="):
            memory.import_(io.BytesIO(raw), user_id="ana", on_error="skip")
    for raw in (b"", b"\n \n", b"\xef\xbb\xbf", b"[]", b" [ ] "):
        assert memory.import_(io.BytesIO(raw), user_id="ana").imported == 0
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b'"a"\n' * 5 + os.urandom(10_000))[:-5000])
    with pytest.raises(InvalidInputError, match=r"^Line \d: "):
        memory.import_(tmp_path / "cut.gz", user_id="ana")
    with pytest.raises(InvalidInputError, match="not utf-8; open the file as bytes"):
        memory.import_(io.TextIOWrapper(io.BytesIO(b'"a"\n"\xff"\n'), "utf-8"), user_id="ana")


@pytest.mark.parametrize(
    ("raw", "line", "reason"),
    [
        (b'[\n"a",\n"b"', 3, "where ',' should be"),
        (b'[\n"a"\n"b"]', 3, "where ',' should be"),
        (b'[\n"a",\n]', 3, "a comma stands before the end"),
        (b'[\n"a"]\n"b"', 3, "more after the array"),
        (b'[\n"a",\n{"content":\n x}]' + b" " * 50, 3, "what stands on line 4 is not JSON"),
        (b'["a",\n\n"\xff"]', 3, "byte 0xff is not UTF-8"),
        (b'["a",\n{"content": "x", "content": "y"}]', 2, "stands twice"),
        (b'["a",\n5, "b"]', 2, "neither a text"),
        (b'["a",\n[], "b"]', 2, "neither a text"),
    ],
)
def test_an_array_is_read_member_by_member(memory, raw, line, reason):
    report = memory.import_(io.BytesIO(raw), user_id="ana", on_error="skip")
    assert [number for number, _ in report.failed] == [line]
    assert reason in str(report.failed[0][1])
    assert contents_of(memory)[0] == "a"


@given(st.lists(contents(max_size=60), max_size=8), st.sampled_from([None, 0, 2]), st.integers(1, 40), st.booleans())
def test_an_array_gives_the_same_however_it_is_laid_out_and_read(texts, indent, piece, text_mode):
    raw = json.dumps(texts, indent=indent, ensure_ascii=False).encode()
    before, values.FIRST_PIECE = values.FIRST_PIECE, piece
    try:
        with Memory(":memory:", embedder=HashEmbedder()) as memory:
            file = io.StringIO(raw.decode()) if text_mode else io.BytesIO(raw)
            assert memory.import_(file, user_id="ana").imported == len(texts)
            assert contents_of(memory) == texts
    finally:
        values.FIRST_PIECE = before


def test_the_failure_of_the_model_is_its_lines_own(open_memory):
    class Choosy(HashEmbedder):
        def embed(self, texts):
            if any("poison" in text for text in texts):
                raise RuntimeError("no")
            return super().embed(texts)

    memory = open_memory(embedder=Choosy())
    lines = ["good", "poison", "also good"]
    with pytest.raises(EmbeddingError, match=r"^Line 2: "):
        memory.import_(jsonl(*lines), user_id="ana")
    assert contents_of(memory) == []
    report = memory.import_(jsonl(*lines), user_id="ana", on_error="skip")
    assert (report.imported, report.failed[0][0]) == (2, 2)
    assert isinstance(report.failed[0][1], EmbeddingError)


def test_a_report_names_the_first_thousand_failures_and_counts_the_others(memory):
    report = memory.import_(io.BytesIO(b'"a"\n' + b"5\n" * 1500), user_id="ana", on_error="skip")
    assert (report.imported, report.failures, len(report.failed)) == (1, 1500, 1000)


def test_deferred_imports_are_durable_at_once_and_embedded_afterwards(memory):
    lines = [{"content": f"text {number}", "user_id": "ana"} for number in range(1500)]
    report = memory.import_(jsonl(*lines, lines[0]), defer=True)
    assert report.imported == 1501
    memory.flush()
    assert memory.stats().store.pending == 0
    assert memory.search("text 7", user_id="ana", mode="vector", limit=1)[0].record.content == "text 7"
    changed = [{"id": record.id, "content": "changed", "user_id": "ana"} for record in memory.get_all(user_id="ana")]
    assert memory.import_(jsonl(*changed), defer=True, on_conflict="replace").replaced == len(changed)
    memory.flush()
    assert memory.search("changed", user_id="ana", mode="vector", limit=1)[0].score > 0.99


# -- again ----------------------------------------------------------------------------------------------------------


def test_the_same_file_comes_in_once_and_equal_lines_are_each_a_memory(memory, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('"good morning"\n"good morning"\n"a"\n')
    assert memory.import_(path, user_id="ana").imported == 3
    assert memory.import_(path, user_id="ana").skipped == 3
    with path.open("rb") as file:
        assert memory.import_(file, user_id="ana").skipped == 3
    (tmp_path / "texts.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert memory.import_(tmp_path / "texts.gz", user_id="ana").skipped == 3
    assert memory.import_(path, user_id="ben").imported == 3
    path.write_text('"good morning"\n"another day"\n')  # Another file, however it begins.
    assert memory.import_(path, user_id="ana").imported == 2
    assert sorted(contents_of(memory, user_id="ana")) == ["a", "another day"] + ["good morning"] * 3


def test_what_comes_through_a_pipe_is_known_again(open_memory, tmp_path):
    memory = open_memory()
    lines = "".join(f'"text {number}"\n' for number in range(700)).encode()
    for expected in ((700, 0), (0, 700)):
        with subprocess.Popen(
            [sys.executable, "-c", f"print({lines.decode()!r}, end='')"], stdout=subprocess.PIPE
        ) as child:
            report = memory.import_(child.stdout, user_id="ana")
        assert (report.imported, report.skipped) == expected
    (tmp_path / "same").write_bytes(lines)
    assert memory.import_(tmp_path / "same", user_id="ana").skipped == 700


def test_progress_is_shown_on_standard_error_when_asked(memory, capsys):
    assert memory.import_(jsonl("a", "b"), user_id="ana").imported == 2
    assert memory.export(io.BytesIO(), user_id="ana") == 2
    assert capsys.readouterr() == ("", "")
    assert memory.import_(jsonl("c", "d"), user_id="ana", progress=True).imported == 2
    assert "2 memories" in capsys.readouterr().err
    assert memory.export(io.BytesIO(), user_id="ana", progress=True) == 4
    assert "memories" in capsys.readouterr().err


def test_a_line_that_was_changed_or_deleted_since_is_still_that_line(memory):
    memory.import_(jsonl("one", "two"), user_id="ana")
    one, two = memory.get_all(user_id="ana", order="oldest")
    memory.update(one.id, "one, changed")
    memory.delete(two.id)
    assert memory.import_(jsonl("one", "two"), user_id="ana", on_conflict="replace").skipped == 2
    assert contents_of(memory) == ["one, changed"]


IMPORTER = """
    import sys
    from agentmem import Memory
    from agentmem.testing import HashEmbedder

    class Telling:
        def __init__(self, file):
            self.file, self.lines, self.read, self.seek, self.tell = file, 0, file.read, file.seek, file.tell

        def readline(self, limit):
            self.lines += 1
            if self.lines % 50 == 0:
                print(self.lines, flush=True)
            return self.file.readline(limit)

    memory = Memory(sys.argv[1], embedder=HashEmbedder())
    options = {"defer": True} if sys.argv[3] == "defer" else {}
    with open(sys.argv[2], "rb") as file:
        report = memory.import_(Telling(file), user_id="ana", **options)
    print("done", report.imported, report.skipped, flush=True)
    memory.close()
"""


def result_of(child: "subprocess.Popen[str]") -> tuple[int, int]:
    """How many memories an importer has imported and skipped, once it has ended well."""
    output, errors = child.communicate(timeout=SECONDS)
    assert errors == ""
    [(imported, skipped)] = [line.split()[1:] for line in output.splitlines() if line.startswith("done")]
    return int(imported), int(skipped)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "chat", "defer"])
def test_an_import_that_is_killed_again_and_again_stores_every_line_once(tmp_path, open_memory, store_path, kind):
    chance = random.Random(kind)
    texts = [f"line {number % 900} {number}" if number % 3 else "the same" for number in range(2600)]
    path = tmp_path / "lines"
    lines = [json.dumps(text) for text in texts]
    if kind == "chat":
        turns = [{"role": "user", "content": text} for text in texts]
        lines = [json.dumps({"messages": turns[at : at + 2]}) for at in range(0, 2600, 2)]
    path.write_text("".join(f"{line}\n" for line in lines))
    marks = len(lines) // 50 - 1
    for mark in [*(chance.randint(1, marks) for _ in range(3)), marks]:
        child = start_python(IMPORTER, store_path, path, kind)
        assert child.stdout is not None
        for _ in range(mark):
            assert child.line() != ""
        child.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
        child.communicate(timeout=SECONDS)
    imported, skipped = result_of(start_python(IMPORTER, store_path, path, kind))
    assert imported + skipped == 2600
    assert skipped > 0
    memory = open_memory()
    memory.flush()
    assert sorted(contents_of(memory)) == sorted(texts)
    if kind == "chat":
        assert contents_of(memory) == texts


def test_an_interrupt_leaves_whole_chunks(open_memory, tmp_path):
    memory = open_memory()

    class Interrupting(io.BytesIO):
        def readline(self, limit=-1):
            line = super().readline(limit)
            if b"text 1000" in line:
                raise KeyboardInterrupt
            return line

    raw = b"".join(b'{"content":"text %d","id":"%d"}\n' % (number, number) for number in range(1500))
    with pytest.raises(KeyboardInterrupt):
        memory.import_(Interrupting(raw), user_id="ana")
    assert memory.count(user_id="ana") == 768
    assert memory.import_(io.BytesIO(raw), user_id="ana").skipped == 768
    assert contents_of(memory) == [f"text {number}" for number in range(1500)]


@pytest.mark.slow
def test_importers_beside_each_other_store_every_line_once(open_memory, store_path, tmp_path):
    path = tmp_path / "lines"
    path.write_text("".join(f'"text {number}"\n' for number in range(1200)))
    memory = open_memory()
    children = [start_python(IMPORTER, store_path, path, "texts") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: memory.import_(path, user_id="ana"), range(2)))
    counts = [(report.imported, report.skipped) for report in reports]
    counts += [result_of(child) for child in children]
    assert sum(imported for imported, _ in counts) == 1200
    assert all(imported + skipped == 1200 for imported, skipped in counts)
    # In any order: each importer dates its lines when it reads them, and any may be the one that stores them.
    assert sorted(contents_of(memory)) == sorted(f"text {number}" for number in range(1200))


# -- size -----------------------------------------------------------------------------------------------------------


class Generated(io.RawIOBase):
    """A file that is never whole anywhere."""

    def __init__(self, lines):
        self._lines, self._rest = iter(lines), b""

    def readable(self):
        return True

    def readline(self, limit=-1):
        return next(self._lines, b"")

    def read(self, limit=-1):
        return next(self._lines, b"")


class Instant(HashEmbedder):
    """Gives all texts one vector."""

    def embed(self, texts):
        return np.tile(np.float32([1] + [0] * 63), (len(texts), 1))


@pytest.mark.slow
def test_memory_stays_flat_however_many_lines_there_are(open_memory):
    memory = open_memory(embedder=Instant(), config=Config(cache_bytes=100_000))
    line = b'{"id":"%d","content":"a text of the usual length, the like of which are %d","user_id":"ana"}\n'

    def peak_of(start: int, count: int) -> int:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        report = memory.import_(Generated(line % (number, number % 500) for number in range(start, start + count)))
        assert report.imported == count
        return tracemalloc.get_traced_memory()[1] - before

    class Sink(io.RawIOBase):
        def write(self, piece):
            return len(piece)

    tracemalloc.start()
    try:
        peak_of(0, 1000)
        small, large = peak_of(1000, 1000), peak_of(2000, 5000)
        assert large < small + 1_000_000  # All of it would be ten times that.
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert memory.export(Sink(), all_scopes=True) == 7000
        assert tracemalloc.get_traced_memory()[1] - before < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_line_or_an_array_of_very_many_values_is_refused_before_it_is_read(memory):
    many = b"[" + b"[]," * 600_000 + b"[]]"
    for raw in (b'"first"\n' + many + b'\n"last"\n', b'["first",' + many + b"]"):
        report = memory.import_(io.BytesIO(raw), user_id="ana", on_error="skip", format="agentmem")
        assert report.failures == 1
        assert "more than 1,000,000 values; split it" in str(report.failed[0][1])
    assert contents_of(memory) == ["first", "last", "first"]


@pytest.mark.slow
def test_a_text_of_many_commas_is_a_text(memory):
    text = "a," * 400_000
    assert memory.import_(jsonl(text), user_id="ana").imported == 1
    assert contents_of(memory) == [text]


def test_a_line_of_sixty_megabytes_is_refused_in_little_memory(memory):
    raw = b"[" + b"[]," * 20_000_000 + b"[]]\n" + b'"last"\n'
    tracemalloc.start()
    try:
        report = memory.import_(io.BytesIO(b'"first"\n' + raw), user_id="ana", on_error="skip")
        assert tracemalloc.get_traced_memory()[1] < 4 * LARGEST_VALUE + len(raw)
    finally:
        tracemalloc.stop()
    assert (report.imported, report.failed[0][0]) == (2, 2)
    assert "more than 16,777,216 bytes" in str(report.failed[0][1])


@pytest.mark.parametrize("limited", [True, False])
def test_a_number_of_very_many_digits_is_refused_without_being_computed(memory, limited):
    line = b'{"content": "a", "metadata": {"n": ' + b"9" * 3_000_000 + b"}}\n"
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit if limited else 0)
    try:
        report = memory.import_(io.BytesIO(line + b'"last"\n'), user_id="ana", on_error="skip")
    finally:
        sys.set_int_max_str_digits(limit)
    assert (report.imported, report.failures) == (1, 1)
    assert "3,000,000 digits; write it as text" in str(report.failed[0][1])


@pytest.mark.slow
def test_a_compressed_file_that_unpacks_to_very_much_is_refused(memory, tmp_path, monkeypatch):
    line = json.dumps("word " * 10_000).encode() + b"\n"
    bomb, small = tmp_path / "bomb.jsonl.gz", tmp_path / "small.jsonl.gz"
    bomb.write_bytes(gzip.compress(line * 2_000))  # A hundred megabytes in 0.2.
    small.write_bytes(gzip.compress(line * 10))
    with pytest.raises(
        InvalidInputError, match=r"Line \d+: the compressed file unpacks to more than 100 times its size"
    ):
        memory.import_(bomb, user_id="ana", dedupe=True)
    memory.delete_all(user_id="ana")
    assert memory.import_(small, user_id="ana", dedupe=True).imported == 1
    memory.delete_all(user_id="ana")
    monkeypatch.setattr("agentmem.transfer.files.UNPACKED_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="unpack it first"):
        memory.import_(small, user_id="ana")
    monkeypatch.setattr("agentmem.transfer.files.MOST_TIMES", 1000)
    assert memory.import_(small, user_id="ana", dedupe=True).imported == 1


# -- pipes at a path ----------------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_that_nobody_writes_into_is_waited_for_as_long_as_was_said(memory, pipe):
    with pytest.raises(DeadlineError, match=r"gave nothing for 0\.2 seconds"):
        memory.import_(pipe, user_id="ana", timeout=0.2)
    assert memory.count(user_id="ana") == 0


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["closes", "stays"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_pipe_is_read_to_its_end_or_until_its_writer_falls_silent(memory, pipe, ending, compressed):
    lines = b"".join(b'"text %d"\n' % number for number in range(3000))
    with ThreadPoolExecutor(1) as pool:
        imported = pool.submit(memory.import_, pipe, user_id="ana", defer=True, timeout=60 if ending == "closes" else 1)
        with pipe.open("wb") as writer:
            writer.write(gzip.compress(lines) if compressed else lines)
            writer.flush()
            if ending == "stays":
                with pytest.raises(DeadlineError):
                    imported.result(60)
        if ending == "closes":
            assert imported.result(60).imported == 3000
    memory.flush()
    stored = {record.content for record in memory.get_all(user_id="ana", limit=5000)}
    assert stored <= {f"text {number}" for number in range(3000)}
    assert len(stored) % 1000 == 0  # Whole chunks.
    assert memory.check() == []


def test_the_command_line_waits_for_a_pipe_as_long_as_was_said(run, pipe):
    result = run("import", pipe, "--user", "ana", "--timeout", "0.2")
    assert result.exit_code == 4
    assert "gave nothing for 0.2 seconds; look at its writer, or raise --timeout" in result.stderr


def test_what_goes_wrong_in_an_export_comes_as_it_is(open_memory, tmp_path, monkeypatch):
    """Some errors of ours are OSErrors too, and are none of the file's."""
    memory = open_memory()
    memory.add("likes tea", user_id="ana")

    def busy(*arguments, **keywords):
        raise StoreBusyError("held.")

    monkeypatch.setattr(memory._engine.store, "cursor", busy)
    with pytest.raises(StoreBusyError, match="held"):
        memory.export(tmp_path / "all.jsonl", user_id="ana")
    assert [path.name for path in tmp_path.iterdir() if "jsonl" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize(("before", "what"), [(b"", b"\n"), (b'"a"\n', b" \n"), (b"[", b" " * 30 + b"\n")])
def test_a_file_of_next_to_nothing_but_empty_lines_ends_soon(memory, before, what):
    file = io.BytesIO(before + what * 1_500_000 + (b'"b"]' if before == b"[" else b""))
    if before == b"[":
        assert memory.import_(file, user_id="ana").imported == 1
        return
    with pytest.raises(InvalidInputError, match=r"Line 1,?00000\d: more than 1,000,000 empty lines"):
        memory.import_(file, user_id="ana")
