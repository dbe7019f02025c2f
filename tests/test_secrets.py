"""No message, log or traceback tells a secret: errors name places and kinds of values in configurations and files."""

import io
import json
import logging
import traceback

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentmem import AgentMemError, InvalidInputError, LanguageModelError, Memory, ModelError, StoreOpenError, models
from agentmem.cli import main
from agentmem.mem0 import Memory as Mem0
from agentmem.mem0.llm import Endpoint
from agentmem.mem0.settings import read_settings
from agentmem.quoting import shorten, unquoted
from agentmem.testing import HashEmbedder

SECRET = "hunter2S3CRET"


def chain(error):
    """Everything that an error can be asked to tell, with the errors behind it."""
    told, passed = "".join(traceback.format_exception(error)), set()
    while error is not None and id(error) not in passed:
        passed.add(id(error))
        told += f"\n{error}\n{error!r}"
        error = error.__cause__ or error.__context__
    return told


def assert_nothing_told(call, *, logs=""):
    """Calls, and looks at what it raises, if it does."""
    try:
        call()
    except Exception as error:
        told = chain(error)
        assert SECRET not in told
        if not isinstance(error, AgentMemError):
            raise
    assert SECRET not in logs


# -- configurations ---------------------------------------------------------------------------------------------------

SECRETS = st.sampled_from(
    [
        SECRET, f"postgresql://me:{SECRET}@db.example/mem", f"https://{SECRET}@host", f"{SECRET}\n", f"{SECRET}\0",
        {"password": SECRET}, [SECRET], (SECRET, 1), SECRET.encode(), {SECRET: SECRET}.values(), {"a": {"b": [SECRET]}},
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "vector_store", "embedder", "llm", "graph_store", "reranker", "version", "provider", "config",
        "dsn", "password", "url", "host", "api_key", "max_changes", "openai_base_url", "temperature", "collection_name",
    ]
)  # fmt: skip
CONFIGS = st.recursive(
    SECRETS | st.sampled_from(["openai", "qdrant", "pgvector", "gpt-4o", 1, None, True]),
    lambda inner: st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(config=CONFIGS, part=st.sampled_from(["vector_store", "llm", "embedder", "other"]), provider=CONFIGS)
@example({"password": SECRET}, "vector_store", "pgvector")
@example({"model": "m", "api_key": [SECRET]}, "llm", "openai")
@example({"path": f"postgresql://me:{SECRET}@db.example/mem"}, "vector_store", "qdrant")
def test_a_configuration_is_refused_by_its_keys_and_kinds(config, part, provider):
    for whole in (config, {part: config}, {part: {"provider": provider, "config": config}}):
        assert_nothing_told(lambda whole=whole: read_settings(whole, own_embedder=False, own_llm=False))


def test_a_refused_configuration_names_every_key_and_kind():
    config = {
        "vector_store": {"provider": "pgvector", "config": {}}, "graph_store": {"config": {"password": SECRET}},
        "reranker": SECRET, "max_changes": SECRET,
    }  # fmt: skip
    with pytest.raises(InvalidInputError) as raised:
        Mem0.from_config(config)
    for named in (
        "vector_store.provider = 'pgvector'",
        "graph_store, a dict of 1",
        "reranker, a text of 13",
        "max_changes",
    ):
        assert named in str(raised.value)
    assert SECRET not in chain(raised.value)


class Telling:
    """An embedder, of which something is missing, that tells its key when it is printed."""

    identity = "mine"

    def __repr__(self):
        return f"Telling(api_key={SECRET!r})"


def test_what_is_given_as_something_else_is_named_by_its_kind():
    for call in (
        lambda: Memory(f"postgresql://me:{SECRET}@db.example/mem"),
        lambda: Memory(":memory:", embedder=Telling()),
        lambda: Memory(":memory:", config={"api_key": SECRET}),
        lambda: Mem0({}, llm={"api_key": SECRET}),
        lambda: Mem0({}, llm=SECRET),
        lambda: Mem0([SECRET]),
        lambda: Endpoint("m", base_url={"password": SECRET}),
        lambda: Endpoint("m", api_key=f"{SECRET}\n"),
    ):
        with pytest.raises(InvalidInputError) as raised:
            call()
        assert SECRET not in chain(raised.value)


@pytest.mark.parametrize(
    "key", ["AGENTMEM_API_KEY", "AGENTMEM_PATHS", "AGENTMEM_TIMEOUT", "AGENTMEM_DURABILITY", "AGENTMEM_RETRY_AFTER"]
)
def test_a_setting_of_a_flask_application_is_not_quoted(key):
    flask = pytest.importorskip("flask")
    from agentmem.integrations.flask import AgentMem

    app = flask.Flask("app")
    app.config[key] = SECRET
    with pytest.raises(InvalidInputError, match=key) as raised:
        AgentMem(app)
    assert SECRET not in chain(raised.value)


# -- addresses and keys -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@127.0.0.1:9/v1", f"http://{SECRET}@127.0.0.1:9", f"http://me:{SECRET}@127.0.0.1:port/v1",
        f"http://me:a@{SECRET}@127.0.0.1:9/v1", f"nothing://me:{SECRET}@127.0.0.1:9/v1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["k", SECRET])
def test_an_endpoint_tells_neither_its_key_nor_who_asks(address, key, caplog, monkeypatch):
    pytest.importorskip("openai")
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    for endpoint in (
        Endpoint("m", base_url=address, api_key=key, retries=0), Endpoint("m", api_key=key, retries=0),
    ):  # fmt: skip
        with pytest.raises(LanguageModelError) as raised:
            endpoint([{"role": "user", "content": "hello"}])
        assert SECRET not in chain(raised.value)
        assert SECRET not in repr(endpoint)
        endpoint.close()
    assert SECRET not in caplog.text


def test_a_key_of_the_environment_that_no_header_can_hold_is_not_told(monkeypatch):
    pytest.importorskip("openai")
    for key in (f"{SECRET}\n", f"{SECRET}\u20ac"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        endpoint = Endpoint("m", base_url="http://127.0.0.1:9/v1", retries=0)
        with pytest.raises(LanguageModelError) as raised:
            endpoint([{"role": "user", "content": "hello"}])
        assert SECRET not in chain(raised.value)
        endpoint.close()


@pytest.mark.parametrize("token", [None, f"{SECRET}\n", f" {SECRET}", SECRET])
def test_a_hub_tells_neither_the_token_nor_who_asks(token, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AGENTMEM_MODELS", str(tmp_path))
    for address in (f"http://me:{SECRET}@127.0.0.1:9", f"http://{SECRET}@127.0.0.1:port"):
        with pytest.raises((ModelError, InvalidInputError)) as raised:
            models.download("some/model", endpoint=address, token=token)
        assert SECRET not in chain(raised.value)
    assert SECRET not in caplog.text


# -- files ------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.sampled_from([SECRET, f" {SECRET} ", SECRET * 60, f"{SECRET}\0", 12345678901, True, None, 1.5, "user", "tea"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                "content", "role", "user_id", "id", "metadata", "created_at", "vector", "digest", "messages", "mapping",
                "conversations", "from", "value", "timestamp", "format", "model", "version", "name", "author", "x",
            ]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=4), shape=st.sampled_from(["lines", "array", "broken", "indented"]))
@example([{"type": "service_account", "private_key": SECRET}], "lines")
@example([{"content": {"password": SECRET}}], "lines")
@example([{"content": "tea", "created_at": SECRET}], "lines")
@example([{"format": "agentmem", "version": SECRET}], "lines")
@example([SECRET], "broken")
def test_a_file_that_is_none_is_told_by_its_lines_and_not_by_what_stands_there(memory, values, shape):
    texts = [json.dumps(value) for value in values]
    whole = {"lines": "\n".join(texts), "array": f"[{','.join(texts)}]", "broken": f"{SECRET}={texts[0]}"}
    raw = whole.get(shape, json.dumps(values, indent=1)).encode()
    for name in (None, "agentmem", "openai", "sharegpt", "chatgpt"):
        for on_error in ("raise", "skip"):
            reports = []

            def call(name=name, on_error=on_error, reports=reports):
                reports.append(
                    memory.import_(io.BytesIO(raw), user_id="ana", format=name, on_error=on_error, defer=True)
                )

            assert_nothing_told(call)
            for report in reports:
                assert not any(SECRET in chain(error) for _, error in report.failed)


def test_a_file_in_no_encoding_is_told_by_its_place():
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        for raw in (f'{{"content": "{SECRET}'.encode() + b'\xff"}', b"\x1f\x8b" + SECRET.encode()):
            report = memory.import_(io.BytesIO(raw), user_id="ana", format="agentmem", on_error="skip")
            assert report.failures == 1
            assert not any(SECRET in f"{error}" for _, error in report.failed)


def test_the_command_line_tells_no_content_of_a_file(tmp_path):
    file = tmp_path / "credentials.json"
    for content in (
        {"type": "service_account", "private_key": SECRET}, {"content": {"password": SECRET}}, [[SECRET]],
        {"content": "tea", "role": SECRET * 60}, {"content": "tea", "created_at": SECRET},
    ):  # fmt: skip
        file.write_text(json.dumps(content))
        for command in (["import", str(file), "--user", "ana"], ["add", "--file", str(file), "--user", "ana"]):
            result = CliRunner().invoke(main, [*command, "--db", str(tmp_path / "a.db"), "--debug"])
            assert SECRET not in result.output
            assert result.exit_code in (0, 1, 2)


# -- what language models say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [SECRET, f'{{"facts": ["{SECRET}\\u0000"]}}', "", [SECRET], f"<think>{SECRET}"])
def test_what_a_language_model_says_stands_in_no_log_and_no_error(memory, answer, caplog):
    caplog.set_level(logging.DEBUG)
    dropin = Mem0(store=memory, llm=lambda messages: answer)
    dropin.add("hello", user_id="ana")
    if not isinstance(answer, str) or "think" in answer or not answer:
        with pytest.raises(LanguageModelError) as raised:
            dropin.add("hello", agent_id="bot", memory_type="procedural_memory")
        assert SECRET not in chain(raised.value)
    with pytest.raises(InvalidInputError) as raised:
        dropin.add([{"role": "user", "content": {"key": SECRET}}], user_id="ana")
    assert SECRET not in chain(raised.value)
    assert dropin.add([{"role": "", "content": SECRET}], user_id="ana", skip_invalid=True) == {"results": []}
    assert SECRET not in caplog.text


def test_a_store_that_is_an_address_is_refused_by_the_command_line_too():
    from agentmem.cli.opening import open_memory

    with pytest.raises((StoreOpenError, InvalidInputError)) as raised, open_memory(f"mysql://me:{SECRET}@h/db", ""):
        pass
    assert SECRET not in chain(raised.value)


def test_what_is_not_quoted_within_a_function_is_quoted_after_an_error_has_torn_it():
    """As an error does that strikes where the block would end."""

    def tear():
        unquoted().__enter__()
        return shorten("a text of somebody")

    assert "somebody" not in tear()
    assert shorten("a text of somebody") == "'a text of somebody'"
