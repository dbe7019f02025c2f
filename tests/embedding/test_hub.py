"""Models from a hub, through huggingface_hub's own client, from a server on loopback that speaks its protocol."""

import hashlib
import json
import os
import re
import shutil
import signal
import threading
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest

from agentmem import DeadlineError, InvalidInputError, Memory, ModelError, ModelMismatchError, models
from agentmem.embedding.catalog import KNOWN
from tests.children import finish, run_python, start_python
from tests.loopback_hub import serving
from tests.tiny_models import Tiny, write_model

NAME = "org/tiny"
NEEDED = {
    "modules.json", "config.json", "sentence_bert_config.json", "1_Pooling/config.json", "tokenizer.json", "model.onnx",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where downloads go; there is no token and no other hub in the environment, unless a test sets one."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "AGENTMEM_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("AGENTMEM_MODELS", str(tmp_path / "downloaded"))
    return tmp_path / "downloaded"


@pytest.fixture
def hub(folder, monkeypatch):
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def source(tmp_path) -> Path:
    """A model as its authors have it."""
    return write_model(tmp_path / "source", pooling="cls")


@pytest.fixture
def commit(hub, source) -> str:
    return hub.publish(NAME, source)


def remember(path: Path, name: str = NAME) -> list[str]:
    with Memory(path, model=name) as memory:
        memory.add("she likes tea", user_id="ana")
        found = [match.record.content for match in memory.search("tea", user_id="ana", mode="vector")]
        assert memory.check() == []
    return found


def test_a_downloaded_model_embeds(hub, commit, folder, source, store_path):
    info = models.download(NAME)
    assert (info.name, info.revision, info.license, info.pooling) == (NAME, commit, "mit", "cls")
    assert all(file.whole for file in info.files)
    assert remember(store_path) == ["she likes tea"]
    assert not Path(os.environ["HF_HOME"]).exists(), "the library of the hub keeps nothing of its own"
    written = {str(path.relative_to(info.folder)) for path in Path(info.folder).rglob("*") if path.is_file()}
    assert written == NEEDED | {"model.toml"}
    assert set(hub.fetched()) == NEEDED, "only the files needed"
    assert {request.server for request in hub.requests if "model.onnx" in request.path} == {"hub", "elsewhere"}
    card = tomllib.loads((Path(info.folder) / "model.toml").read_text())
    assert card["files"] == {
        name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in ("model.onnx", "tokenizer.json")
    }
    with Memory(store_path, model=f"{NAME}@{commit}") as memory:
        assert memory.count(user_id="ana") == 1


def test_opening_never_downloads(hub, commit, store_path):
    for name in (NAME, f"{NAME}@{commit}", "BAAI/bge-small-en-v1.5"):
        with pytest.raises(ModelError, match=f"agentmem models download {name}"):
            Memory(store_path, model=name)
    with pytest.raises(ModelError, match="40 digits"):
        Memory(store_path, model=f"{NAME}@main")
    assert models.available()
    assert hub.requests == []
    assert not store_path.exists()


def test_a_downloaded_model_is_used_and_verified_without_the_hub(hub, commit, store_path):
    first = models.download(NAME)
    asked = len(hub.requests)
    assert models.download(NAME) == first
    assert models.download(f"{NAME}@{commit}") == models.download(NAME, revision=commit) == first
    remember(store_path)
    assert len(hub.requests) == asked


def test_what_a_name_means_does_not_move_until_it_is_asked_to(hub, commit, source, tmp_path, store_path):
    models.download(NAME)
    remember(store_path)
    (source / "model.onnx").write_bytes(Tiny(seed=8).build())
    later = hub.publish(NAME, source)
    assert models.download(NAME).revision == commit
    remember(store_path)
    assert models.download(NAME, revision="main").revision == later
    with pytest.raises(ModelMismatchError):
        Memory(store_path, model=NAME)
    remember(store_path, f"{NAME}@{commit}")
    remember(tmp_path / "other.db")
    assert models.download(NAME, revision=commit).revision == commit
    remember(store_path)
    assert [(entry.name, entry.where) for entry in models.available() if "tiny" in entry.name] in (
        [(NAME, "downloaded"), (f"{NAME}@{later}", "downloaded")],
        [(f"{NAME}@{later}", "downloaded"), (NAME, "downloaded")],
    )


def test_another_commit_than_the_one_asked_for_is_refused(hub, commit):
    hub.listing = {"sha": "0" * 40}
    with pytest.raises(ModelError, match="gave the commit"):
        models.download(NAME, revision=commit)
    hub.listing = {"sha": "../../../etc"}
    with pytest.raises(ModelError, match="gave the commit"):
        models.download(NAME)


@pytest.mark.slow
def test_no_token_is_sent_that_was_not_passed_and_nothing_else_is_told(hub, commit, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AI_AGENT", "somebody")
    (tmp_path / "hf-home").mkdir()
    (tmp_path / "hf-home" / "token").write_text("hf_secret_of_the_file")
    code = "from agentmem import models; print(models.download('org/tiny').revision)"
    assert run_python(code).strip() == commit
    for request in hub.requests:
        assert "authorization" not in request.headers
        assert "secret" not in str(request)
        assert request.headers["user-agent"] == "agentmem"
        assert request.path.startswith(("/api/models/org/tiny/revision/", "/org/tiny/"))


def test_a_token_that_was_passed_goes_to_the_hub_and_nowhere_else(hub, commit, folder):
    hub.token = "hf_secret"
    with pytest.raises(ModelError, match=r"refuses .*401.*token"):
        models.download(NAME)
    hub.requests.clear()
    info = models.download(NAME, token="hf_secret")
    for request in hub.requests:
        assert ("authorization" in request.headers) == (request.server == "hub")
    assert not [path for path in folder.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert info.revision == commit


def test_a_password_in_the_address_is_not_kept_or_shown(hub, commit, folder):
    address = hub.endpoint.replace("//", "//someone:hunter2@")
    assert "hunter2" not in str(models.download(NAME, endpoint=address))
    assert not [path for path in folder.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    with pytest.raises(ModelError) as caught:
        models.download("org/other", endpoint=address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "AGENTMEM_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_means_that_nobody_is_asked(hub, commit, monkeypatch, variable, store_path):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelError, match=f"while {variable} is set"):
        models.download(NAME)
    assert hub.requests == []
    monkeypatch.delenv(variable)
    models.download(NAME)
    hub.requests.clear()
    monkeypatch.setenv(variable, "1")
    assert models.download(NAME).revision == commit
    remember(store_path)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refuses"), (403, "refuses"), (404, "has no"), (500, "status 500"), (503, "try again later")],
)
@pytest.mark.parametrize("where", ["/revision/main", "/model.onnx"])
def test_a_refusal_is_told_in_one_sentence(hub, commit, status, told, where):
    hub.statuses[where] = status
    with pytest.raises(ModelError, match=told) as caught:
        models.download(NAME)
    assert hub.endpoint in str(caught.value)
    assert "\n" not in str(caught.value)
    hub.statuses.clear()
    assert models.download(NAME).revision == commit


def test_what_is_not_there_is_told(hub, commit):
    with pytest.raises(ModelError, match="check the name and the revision"):
        models.download("org/other")
    with pytest.raises(ModelError, match="check the name and the revision"):
        models.download(NAME, revision="no-such-branch")
    with pytest.raises(ModelError, match="cannot be reached"):
        models.download(NAME, endpoint="http://127.0.0.1:9")  # No server listens at discard's port here.


@pytest.mark.parametrize(
    "listing",
    [{"siblings": None}, {"siblings": [1]}, {"siblings": [{"size": 3}]}, {"sha": None}, {"cardData": [1]}],
    ids=str,
)
def test_nonsense_in_the_listing_is_an_error_of_ours_or_does_not_matter(hub, commit, listing):
    hub.listing = listing
    try:
        models.download(NAME)
    except ModelError:
        return
    assert listing == {"cardData": [1]}


@pytest.mark.parametrize(
    ("missing", "told"), [("model.onnx", "no ONNX model"), ("tokenizer.json", "no tokenizer.json")]
)
def test_a_repository_without_a_model_is_refused_before_anything_is_fetched(hub, source, missing, told):
    (source / missing).unlink()
    hub.publish(NAME, source)
    with pytest.raises(ModelError, match=told):
        models.download(NAME)
    assert hub.fetched() == []


def test_what_a_signal_handler_raises_reaches_its_own_code(hub, commit):
    class OutOfPatience(Exception):
        pass

    def handler(number, frame):
        raise OutOfPatience

    hub.stalls["model.onnx"] = 1000
    before = signal.signal(signal.SIGALRM, handler)

    def report(file, here, total):
        if file == "model.onnx":
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    try:
        with pytest.raises(OutOfPatience):
            models.download(NAME, progress=report)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    hub.stalls.clear()
    assert models.download(NAME).revision == commit


def test_a_listing_that_breaks_off_is_told_and_a_retry_succeeds(hub, commit):
    hub.cuts["listing"] = [100]
    with pytest.raises(ModelError, match="cannot be reached"):
        models.download(NAME)
    assert models.download(NAME).revision == commit


def test_weights_in_a_second_file_are_refused_before_anything_is_fetched(hub, source):
    (source / "model.onnx_data").write_bytes(b"weights")
    hub.publish(NAME, source)
    with pytest.raises(ModelError, match="second file"):
        models.download(NAME)
    assert hub.fetched() == []


@pytest.mark.parametrize("path", ["../../escaped", "/tmp/escaped", "1_Pooling/../../../escaped", "..\\escaped"])
def test_a_name_that_leads_out_of_the_folder_is_refused(hub, source, folder, path, tmp_path):
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": path}]
    (source / "modules.json").write_text(json.dumps(modules))
    commit = hub.publish(NAME, source)
    hub.repositories[NAME][commit][f"{path}/config.json"] = b'{"pooling_mode_cls_token": true}'
    with pytest.raises(ModelError, match="outside the folder"):
        models.download(NAME)
    assert not [path for path in tmp_path.rglob("*escaped*") if source not in path.parents]
    assert not Path("/tmp/escaped").exists()


def test_names_in_the_listing_that_nobody_needs_are_not_followed(hub, source, tmp_path):
    commit = hub.publish(NAME, source)
    hub.repositories[NAME][commit]["../../../../escaped"] = b"x" * 5000
    models.download(NAME)
    assert set(hub.fetched()) == NEEDED
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("lie", ["flipped", "cut", "longer", "empty"])
def test_a_file_that_is_not_the_one_listed_never_gets_its_name(hub, commit, source, folder, file, lie):
    true = (source / file).read_bytes()
    flipped = bytes([true[0] ^ 1]) + true[1:]
    hub.lies[file] = {"flipped": flipped, "cut": true[:-7], "longer": true + b"x" * 100, "empty": b""}[lie]
    with pytest.raises(ModelError, match=file):
        models.download(NAME)
    assert not [path for path in folder.rglob(file) if path.read_bytes() != true]
    assert not list(folder.rglob("model.toml"))
    hub.lies.clear()
    assert models.download(NAME).revision == commit


@pytest.mark.parametrize(
    "entry", [{"lfs": None, "blobId": None}, {"lfs": {"size": 5}}, {"size": None, "lfs": None}], ids=str
)
def test_a_file_without_a_checksum_is_refused(hub, commit, entry):
    hub.entries["model.onnx"] = entry
    with pytest.raises(ModelError, match="without size or checksum"):
        models.download(NAME)


def test_a_transfer_that_breaks_off_goes_on_where_it_was(hub, commit, source):
    size = len((source / "model.onnx").read_bytes())
    hub.cuts["model.onnx"] = [1000, 500, 2000]
    assert models.download(NAME).revision == commit
    ranges = [request.headers.get("range") for request in hub.requests if request.server == "elsewhere"]
    assert ranges == [None, "bytes=1000-", "bytes=1500-", "bytes=3500-"]
    assert size > 3500


def test_a_download_that_was_given_up_goes_on_where_it_was(hub, commit):
    hub.cuts["model.onnx"] = [1000, 0]
    with pytest.raises(ModelError, match=r"broke off at 1,000 of .*download again"):
        models.download(NAME)
    with pytest.raises(ModelError, match="models download"):
        Memory(":memory:", model=NAME)
    hub.requests.clear()
    assert models.download(NAME).revision == commit
    assert hub.fetched() == ["model.onnx"], "what had come whole is not fetched again"
    [request] = [request for request in hub.requests if request.server == "elsewhere"]
    assert request.headers["range"] == "bytes=1000-"


def test_a_hub_that_knows_no_ranges_sends_it_all_again(hub, commit):
    hub.ranges = False
    hub.cuts["model.onnx"] = [1000]
    assert models.download(NAME).revision == commit


@pytest.mark.parametrize("left", [b"rubbish" * 100, b"x" * 10**6, b""])
def test_rubbish_left_by_an_attempt_is_found_out(hub, commit, folder, left):
    begun = folder / NAME / f"{commit}.partial"
    begun.mkdir(parents=True)
    (begun / "model.onnx.incomplete").write_bytes(left)
    (begun / "config.json").write_bytes(b"{")
    try:
        models.download(NAME)
    except ModelError as error:
        assert "thrown away" in str(error)  # noqa: PT017
    assert models.download(NAME).revision == commit


def test_a_process_that_is_killed_leaves_what_the_next_one_goes_on_with(hub, commit, folder, store_path):
    code = """
        import sys
        from agentmem import models

        told = []

        def report(file, here, total):
            told.append(here)
            if file == "model.onnx" and here > told[-2]:
                print("coming", flush=True)

        models.download("org/tiny", progress=report)
    """
    hub.stalls["model.onnx"] = 4000
    child = start_python(code)
    assert child.line() == "coming\n"
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=30)
    hub.requests.clear()
    hub.stalls.clear()
    assert models.download(NAME).revision == commit
    [request] = [request for request in hub.requests if request.server == "elsewhere"]
    assert re.fullmatch("bytes=[1-9][0-9]*-", request.headers["range"])
    remember(store_path)
    assert [path.name for path in (folder / NAME).iterdir() if path.is_dir()] == [commit]


@pytest.mark.slow
def test_two_processes_that_download_the_same_fetch_it_once(hub, commit, store_path):
    hub.gate.clear()
    code = "from agentmem import models; print('here', flush=True); print(models.download('org/tiny').revision)"
    children = [start_python(code)]
    assert hub.arrived.wait(60)
    children += [start_python(code) for _ in range(2)]
    assert [child.line() for child in children] == ["here\n"] * 3
    hub.gate.set()
    assert [finish(child).strip() for child in children] == [commit] * 3
    assert sorted(hub.fetched()) == sorted(NEEDED)
    remember(store_path)


def test_whoever_waits_for_another_download_waits_as_long_as_it_said(hub, commit):
    hub.gate.clear()
    other = threading.Thread(target=models.download, args=(NAME,))
    other.start()
    try:
        assert hub.arrived.wait(60)
        with pytest.raises(DeadlineError, match="try again"):
            models.download(NAME, timeout=0.05)
    finally:
        hub.gate.set()
        other.join(60)
    asked = len(hub.requests)
    assert models.download(NAME).revision == commit
    assert len(hub.requests) == asked


def test_a_damaged_download_is_named_and_downloading_again_mends_it(hub, commit, source, store_path):
    info = models.download(NAME)
    graph = Path(info.folder) / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    assert [file.name for file in models.info(NAME).files if not file.whole] == ["model.onnx"]
    with pytest.raises(ModelError, match=r"damaged.*sha256"):
        remember(store_path)
    hub.requests.clear()
    assert models.download(NAME) == info
    assert hub.fetched() == ["model.onnx"]
    remember(store_path)


def test_a_tokenizer_that_does_not_parse_is_told_by_the_download(hub, source):
    (source / "tokenizer.json").write_text("{" + " " * 100)
    hub.publish(NAME, source)
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.download(NAME)
    with pytest.raises(ModelError, match="models download"):
        Memory(":memory:", model=NAME)


def test_a_disk_without_room_is_told_before_and_while_it_fills(hub, commit, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 10))
        with pytest.raises(ModelError, match=r"has 10 bytes left.*AGENTMEM_MODELS"):
            models.download(NAME)
    code = """
        import resource, signal
        from agentmem import ModelError, models

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
        try:
            models.download("org/tiny")
        except ModelError as error:
            print(error)
    """
    told = run_python(code)
    assert "cannot be written (File too large)" in told
    assert "download again" in told
    assert models.download(NAME).revision == commit


def test_a_folder_that_cannot_be_written_is_named(hub, commit, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AGENTMEM_MODELS", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"file.*cannot be written"):
        models.download(NAME)


def test_the_use_of_a_known_model_is_known(hub, tmp_path):
    """Its repository may say less, or something else, than its authors wrote."""
    graph = Tiny(width=384, heads=12, layers=1).build()
    config = {"hidden_size": 384, "max_position_embeddings": 600}
    hub.publish("intfloat/e5-small-v2", write_model(tmp_path / "e5", pooling="cls", graph=graph, config=config))
    info = models.download("intfloat/e5-small-v2")
    assert (info.query_prefix, info.document_prefix, info.pooling) == ("query: ", "passage: ", "mean")
    assert (info.dimension, info.max_tokens) == (384, 512)


def test_settings_count_more_than_the_repository(hub, commit, store_path, tmp_path):
    plain = models.download(NAME)
    info = models.download(NAME, pooling="mean", query_prefix="query : ", dimension=6, max_tokens=9)
    assert (info.pooling, info.query_prefix, info.dimension, info.max_tokens) == ("mean", "query : ", 6, 9)
    assert info.identity != plain.identity
    remember(store_path)
    assert models.download(NAME) == info
    with Memory(tmp_path / "cut.db", model=models.find(NAME, dimension=3)) as memory:
        memory.add("tea", user_id="ana")
        assert memory.check() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "tiny"}, "name of a repository"),
        ({"name": "../tiny"}, "name of a repository"),
        ({"name": "org/.."}, "name of a repository"),
        ({"name": "org/tiny/more"}, "name of a repository"),
        ({"name": 7}, "name of a repository"),
        ({"name": f"{NAME}@main", "revision": "other"}, "another revision"),
        ({"revision": ""}, "revision is"),
        ({"revision": 7}, "revision is"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"dimension": 0}, "whole number"),
        ({"max_tokens": "9"}, "whole number"),
        ({"query_prefix": 3}, "query_prefix"),
        ({"timeout": -1}, "timeout is"),
        ({"timeout": float("nan")}, "timeout is"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_reach_nobody(hub, arguments, told):
    with pytest.raises(InvalidInputError, match=told):
        models.download(**{"name": NAME} | arguments)
    assert hub.requests == []


def test_progress_is_told_and_ends_at_the_whole(hub, commit, source):
    told = []
    hub.cuts["model.onnx"] = [1000]
    models.download(NAME, progress=lambda *values: told.append(values))
    total = sum((source / name).stat().st_size for name in NEEDED)
    assert {value[2] for value in told} == {total}
    assert [value[1] for value in told] == sorted(value[1] for value in told)
    assert told[-1][:2] == ("model.onnx", total)


def test_a_bar_is_shown_when_it_is_asked_for(hub, commit, capfd):
    models.download(NAME)
    assert capfd.readouterr() == ("", "")
    models.remove(NAME)
    models.download(NAME, progress=True)
    out, err = capfd.readouterr()
    assert (out, "B/s" in err) == ("", True)


def test_models_are_listed_and_removed(hub, commit, folder):
    before = models.available()
    assert [entry.where for entry in before] == ["bundled", "bundled", "bundled", "known", "known", "known", "known"]
    assert {entry.name for entry in before} >= {"all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"}
    models.download(NAME)
    [entry] = [entry for entry in models.available() if entry.where == "downloaded"]
    assert (entry.name, entry.dimension, entry.license, entry.revision) == (NAME, 16, "mit", commit)
    assert models.remove(f"{NAME}@{commit}") > 5000
    assert models.available() == before
    with pytest.raises(ModelError, match="models download"):
        models.info(NAME)
    models.download(NAME)
    assert models.remove(NAME) > 5000
    assert not (folder / NAME).exists()
    for name in (NAME, f"{NAME}@{commit}", "all-MiniLM-L6-v2", "..", "org/..", 7):
        with pytest.raises(ModelError):
            models.remove(name)


def test_a_bundled_model_and_a_folder_have_their_information(folder, source):
    info = models.info("all-MiniLM-L6-v2")
    assert (info.dimension, info.license, info.source) == (384, "Apache-2.0", "sentence-transformers/all-MiniLM-L6-v2")
    assert [file.name for file in info.files if file.whole] == ["model.onnx", "tokenizer.json"]
    assert models.info(str(source)).pooling == "cls"


def test_neither_the_package_nor_its_models_module_loads_the_hub_or_the_model():
    code = """
        import sys
        import agentmem
        from agentmem import models

        models.available()
        models.info("all-MiniLM-L6-v2")
        print(sorted({"huggingface_hub", "onnxruntime", "tokenizers", "onnx", "httpx", "httpx2"} & set(sys.modules)))
    """
    assert run_python(code).strip() == "[]"


def test_the_table_of_the_readme_has_the_models_that_are_known(folder):
    text = (Path(models.__file__).parent / "embedding" / "README.md").read_text("utf-8")
    for entry in models.available():
        if entry.where != "downloaded":
            [row] = [line for line in text.splitlines() if line.startswith(f"| `{entry.name}` |")]
            assert f"| {entry.dimension} |" in row
            if entry.where == "known":
                known = KNOWN[entry.name]
                prefixes = {(True, True): "both", (True, False): "query"}[
                    bool(known.query_prefix), bool(known.document_prefix)
                ]
                assert row.endswith(f"| of the hub | {known.languages} | {known.dimension} | {prefixes} |")
