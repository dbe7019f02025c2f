"""Archives, folders, compressed files and several of them at once, in one reading."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile

import pytest

from agentmem import InvalidInputError
from agentmem.transfer import json_stream
from tests.transfer.test_formats import SLACK, chatgpt, claude, said_of, write

LINE = b'{"role": "user", "content": "tea"}\n'
MORE = b'{"role": "assistant", "content": "coffee"}\n'


def zstd(raw: bytes) -> bytes:
    try:
        from compression import zstd as module
    except ImportError:
        from backports import zstd as module
    return module.compress(raw)


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("ending", PACKED)
def test_a_compressed_file_of_several_members_is_read_from_a_path_a_file_and_a_pipe(memory, tmp_path, ending):
    raw = PACKED[ending](LINE) + PACKED[ending](MORE)
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(raw)
    assert memory.import_(path, user_id="ana").imported == 2
    assert said_of(memory) == [("user", "tea"), ("assistant", "coffee")]
    assert memory.import_(io.BytesIO(raw), user_id="ana").skipped == 2
    reading, writing = os.pipe()
    os.write(writing, raw)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert memory.import_(pipe, user_id="ana").skipped == 2
    path.write_bytes(raw[:-12])
    report = memory.import_(path, user_id="ben", on_error="skip")
    assert "damaged or ends too early" in str(report.failed[0][1])


def archive_of(members: dict[str, bytes | str]) -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    packed.seek(0)
    return packed


def test_of_an_export_the_members_that_hold_chats_are_read_where_they_are(memory, tmp_path):
    members = {
        "conversations-000.json": json.dumps(claude()), "conversations-001.json": json.dumps(claude(uuid="c2")),
        "memories.json": json.dumps([{"conversations_memory": "Likes tea"}]), "users.json": "[]", "chat.html": "<p>",
        "../../outside.json": "[]", "projects.json": '[{"name": "x", "prompt_template": "y"}]',
    }  # fmt: skip
    path = tmp_path / "export.zip"
    path.write_bytes(archive_of(members).getvalue())
    before = set(tmp_path.parent.iterdir())
    report = memory.import_(path, user_id="ana")
    assert report.imported == 5
    assert "files in folders and archives that hold no chats or memories, left out: 4" in report.notes
    assert sorted(run for run in {record.run_id for record in memory.get_all(user_id="ana")} if run) == ["c1", "c2"]
    assert set(tmp_path.parent.iterdir()) == before
    assert memory.import_(path, user_id="ana").skipped == 5

    class Pipe:
        def __init__(self, raw):
            self._raw = io.BytesIO(raw)
            self.read, self.readline = self._raw.read, self._raw.readline

    assert memory.import_(Pipe(path.read_bytes()), user_id="ana").skipped == 5


def test_a_folder_is_read_file_by_file_and_says_what_it_left_out(memory, tmp_path):
    folder = tmp_path / "slack"
    write(tmp_path, "slack/users.json", [{"id": "U1", "profile": {"display_name": "Ana"}}])
    write(folder, "general/2024-05-01.json", SLACK)
    write(
        folder, "general/2024-05-02.json", [{"type": "message", "user": "U1", "text": "bye", "ts": "1714640000.0001"}]
    )
    write(folder, "notes.json", {"nothing": "known"})
    write(folder, "picture.png", "x")
    (folder / ".git").mkdir()
    write(folder, ".git/config.json", [1])
    report = memory.import_(folder, user_id="ana")
    assert report.imported == 3
    assert report.notes[:2] == (
        "files in folders and archives that hold no chats or memories, left out: 2",
        "files in folders and archives in no format that is known, left out: 1",
    )
    first, *_ = records = memory.get_all(user_id="ana", order="oldest").records
    assert (first.metadata["name"], {record.run_id for record in records}) == ("Ana", {"slack-general"})
    assert records[1].content.endswith("@Ana?")


def test_several_files_make_one_report_whose_errors_name_their_file(memory, tmp_path):
    good = write(tmp_path, "a.json", [chatgpt(("user", "hi", {}))])
    bad = write(tmp_path, "b.json", [{"title": "broken"}, chatgpt(("user", "ho", {}), conversation_id="c-2")])
    report = memory.import_([good, str(bad)], user_id="ana", on_error="skip")
    assert (report.imported, report.failures) == (2, 1)
    assert "b.json" in str(report.failed[0][1])
    with pytest.raises(InvalidInputError, match="list of files is empty"):
        memory.import_([], user_id="ana")


def test_what_an_archive_unpacks_to_is_limited(memory, monkeypatch):
    monkeypatch.setattr("agentmem.transfer.files.UNPACKED_BYTES", 100_000)
    packed = archive_of({f"{number}.json": json.dumps(["word " * 10_000]) for number in range(40)})
    report = memory.import_(packed, user_id="ana", on_error="skip", dedupe=True)
    assert any("unpacks to more than 100 times its size" in str(error) for _, error in report.failed)


@pytest.mark.parametrize("harm", ["cut", "flipped", "encrypted", "empty"])
def test_a_damaged_archive_is_named_as_one(memory, harm):
    raw = bytearray(archive_of({"conversations.json": json.dumps(claude())}).getvalue())
    if harm == "cut":
        del raw[-30:]
    elif harm == "flipped":
        raw[80] ^= 0xFF
    elif harm == "encrypted":
        raw[6] |= 1
        raw[raw.index(b"PK\x01\x02") + 8] |= 1
    else:
        raw = bytearray(archive_of({"picture.png": b"x"}).getvalue())
    told = {"cut": "damaged archive", "flipped": "damaged", "encrypted": "encrypted", "empty": "holds no file of JSON"}
    with pytest.raises(InvalidInputError, match=told[harm]):
        memory.import_(io.BytesIO(bytes(raw)), user_id="ana")


def test_an_object_that_is_too_large_is_read_in_parts(memory, monkeypatch):
    monkeypatch.setattr("agentmem.transfer.reader.LARGEST_VALUE", 3000)
    monkeypatch.setattr(json_stream, "PART_BYTES", 500)
    monkeypatch.setattr(json_stream, "FIRST_PIECE", 256)
    memory._engine.config = type(memory._engine.config)(max_content_bytes=300)
    chat = {"name": "Bo", "type": "personal_chat", "id": 7, "messages": [
        {"id": number, "type": "message", "date_unixtime": str(1_714_557_600 + number), "date": "2024-05-01T10:00:00",
         "from": "Ana", "from_id": "user1", "text": f"text {number}"} for number in range(100)
    ]}  # fmt: skip
    for indent in (None, 1):
        raw = json.dumps({"about": "x", "chats": {"list": [{**chat, "id": 6, "messages": []}, chat]}}, indent=indent)
        report = memory.import_(io.BytesIO(raw.encode()), user_id="ana")
        assert (report.imported + report.skipped, report.failures) == (100, 0)
    records = memory.get_all(user_id="ana", order="oldest").records
    assert [record.content for record in records] == [f"text {number}" for number in range(100)]
    assert [record.metadata["position"] for record in records] == list(range(100))
    assert {record.run_id for record in records} == {"telegram-7"}
    cut = json.dumps(chat).encode()[:-200]
    report = memory.import_(io.BytesIO(cut), user_id="ben", format="telegram", on_error="skip")
    assert report.imported > 50
    assert report.failures == 1


def test_arrays_a_line_are_a_conversation_each(memory):
    raw = b'[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]\n\n[{"role": "user", "content": "c"}]'
    assert memory.import_(io.BytesIO(raw), user_id="ana").imported == 3
    assert len({record.run_id for record in memory.get_all(user_id="ana")}) == 2
