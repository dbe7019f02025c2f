"""`from_config`: Mem0's dictionary is understood, or refused with the names of what is not."""

import copy

import pytest

from agentmem import InvalidInputError, ModelError
from agentmem.mem0 import Memory
from agentmem.mem0.llm import Endpoint
from agentmem.mem0.settings import read_settings
from agentmem.testing import HashEmbedder

USUAL = {
    "vector_store": {
        "provider": "qdrant",
        "config": {"collection_name": "mem0", "path": "/data/qdrant", "embedding_model_dims": 384, "on_disk": True},
    },
    "embedder": {
        "provider": "huggingface",
        "config": {"model": "sentence-transformers/all-MiniLM-L6-v2", "embedding_dims": 384},
    },
    "llm": {
        "provider": "openai",
        "config": {"model": "gpt-x", "api_key": "secret", "temperature": 0.1, "max_tokens": 2000, "top_p": None},
    },
    "history_db_path": "/data/history.db",
    "version": "v1.1",
    "reranker": None,
    "custom_instructions": "Only what concerns food.",
}


def read(config, **own):
    return read_settings(config, **({"own_embedder": False, "own_llm": False} | own))


def changed(path, value):
    """The usual configuration with one value in another way."""
    config = copy.deepcopy(USUAL)
    *outer, last = path.split(".")
    part = config
    for key in outer:
        part = part[key]
    part[last] = value
    return config


def test_the_usual_configuration_is_understood():
    settings = read(USUAL)
    assert settings.path == "/data/qdrant/agentmem.db"
    assert settings.model == "all-MiniLM-L6-v2"
    assert settings.instructions == "Only what concerns food."
    assert isinstance(settings.llm, Endpoint)
    assert repr(settings.llm) == "Endpoint('gpt-x', base_url=None)"
    assert "secret" not in repr(settings)


def test_nothing_said_means_the_defaults():
    for config in ({}, {"vector_store": None, "llm": None, "embedder": None}, {"vector_store": {"provider": "faiss"}}):
        settings = read(config)
        assert (settings.path, settings.model, settings.llm) == ("agentmem.db", None, None)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"vector_store": {"config": {"path": "/data"}}}, "/data/agentmem.db"),
        ({"vector_store": {"config": {"path": "/data", "collection_name": "notes"}}}, "/data/notes.agentmem.db"),
        ({"vector_store": {"config": {"collection_name": "notes"}}}, "notes.agentmem.db"),
        ({"history_db_path": "/data/history.db"}, "/data/agentmem.db"),
        ({"vector_store": {"config": {"path": "/a"}}, "history_db_path": "/b/history.db"}, "/a/agentmem.db"),
        ({"vector_store": {"config": {"path": ":memory:"}}}, ":memory:"),
        ({"history_db_path": ":memory:"}, ":memory:"),
    ],
)
def test_the_store_is_one_file_where_mem0_has_its_own(config, path):
    assert read(config).path == path


def test_two_collections_are_two_stores_in_a_folder_that_is_made(tmp_path):
    for name, text in (("mem0", "I like tea"), ("notes", "I like coffee")):
        config = {"vector_store": {"config": {"path": str(tmp_path / "new" / "qdrant"), "collection_name": name}}}
        with Memory.from_config(config, embedder=HashEmbedder()) as memory:
            memory.add(text, user_id="ana", infer=False)
            assert [item["memory"] for item in memory.get_all(user_id="ana")["results"]] == [text]
            assert memory.store.path.startswith(str(tmp_path))
    made = {path.name for path in (tmp_path / "new" / "qdrant").iterdir()}
    assert made == {"agentmem.db", "notes.agentmem.db"}


def test_the_bundled_model_is_found_by_the_name_that_others_give_it(tmp_path):
    config = changed("vector_store.config.path", str(tmp_path))
    with Memory.from_config(config) as memory:
        memory.add("Prefers window seats", user_id="ana", infer=False)
        assert memory.search("where does she like to sit?", user_id="ana")["results"]
    with pytest.raises(ModelError, match=r"^embedder\.config\.model: There is no model 'unheard-of'"):
        Memory.from_config(
            {"embedder": {"provider": "fastembed", "config": {"model": "unheard-of"}},
             "vector_store": {"config": {"path": str(tmp_path)}}}
        )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("graph_store", {"provider": "neo4j"}, "graph_store"),
        ("reranker", {"provider": "cohere"}, "reranker"),
        ("colour", "red", "colour"),
        ("version", "v1.0", "version"),
        ("custom_update_memory_prompt", "x", "custom_update_memory_prompt"),
        ("vector_store", "qdrant", "vector_store"),
        ("vector_store.provider", "pgvector", "vector_store.provider = 'pgvector'"),
        ("vector_store.extra", 1, "vector_store.extra"),
        ("vector_store.config", [1], "vector_store.config"),
        ("vector_store.config.host", "localhost", "vector_store.config.host"),
        ("vector_store.config.url", "http://x", "vector_store.config.url"),
        ("vector_store.config.path", 5, "vector_store.config.path"),
        ("vector_store.config.collection_name", "../x", "vector_store.config.collection_name"),
        ("vector_store.config.collection_name", 5, "vector_store.config.collection_name"),
        ("embedder.provider", "openai", "embedder.provider = 'openai'"),
        ("embedder.config.model", 5, "embedder.config.model"),
        ("embedder.config.huggingface_base_url", "http://x", "embedder.config.huggingface_base_url"),
        ("llm.provider", "anthropic", "llm.provider = 'anthropic'"),
        ("llm.config.model", None, "llm.config.model"),
        ("llm.config.enable_vision", True, "llm.config.enable_vision"),
        ("llm.config.ollama_base_url", "http://x", "llm.config.ollama_base_url"),
        ("llm", "gpt", "llm"),
    ],
)
def test_what_is_not_supported_is_named(path, value, named):
    with pytest.raises(InvalidInputError, match=r"does not support: ") as raised:
        read(changed(path, value))
    assert named in str(raised.value)
    assert "secret" not in str(raised.value)


def test_all_that_is_not_supported_is_named_at_once_and_no_secret_is():
    config = changed("vector_store.config.api_key", "s3cret") | {"graph_store": {}, "reranker": {"provider": "cohere"}}
    with pytest.raises(InvalidInputError) as raised:
        Memory.from_config(config)
    for named in ("graph_store", "reranker", "vector_store.config.api_key"):
        assert named in str(raised.value)
    assert "s3cret" not in str(raised.value)
    with pytest.raises(InvalidInputError, match="mapping"):
        Memory.from_config([1])


@pytest.mark.parametrize(
    ("config", "base_url"),
    [
        ({"provider": "openai", "config": {"model": "m", "openai_base_url": "http://x/v1"}}, "http://x/v1"),
        ({"provider": "openai_structured", "config": {"model": "m", "openai_base_url": "http://x/v1"}}, "http://x/v1"),
        ({"config": {"model": "m"}}, None),
        ({"provider": "ollama", "config": {"model": "m"}}, "http://localhost:11434/v1"),
        ({"provider": "ollama", "config": {"model": "m", "ollama_base_url": "http://x:1/"}}, "http://x:1/v1"),
        ({"provider": "lmstudio", "config": {"model": "m", "lmstudio_base_url": "http://x/v1"}}, "http://x/v1"),
        ({"provider": "vllm", "config": {"model": "m"}}, "http://localhost:8000/v1"),
        ({"provider": "deepseek", "config": {"model": "m", "api_key": "k"}}, "https://api.deepseek.com"),
    ],
)
def test_language_models_behind_openais_protocol_are_understood(config, base_url):
    assert repr(read({"llm": config}).llm) == f"Endpoint('m', base_url={base_url!r})"


def test_a_language_model_and_an_embedder_of_ones_own_take_the_place_of_the_configured_ones():
    config = changed("llm.provider", "anthropic") | {"embedder": {"provider": "openai"}}
    settings = read(config, own_embedder=True, own_llm=True)
    assert (settings.llm, settings.path) == (None, "/data/qdrant/agentmem.db")
    assert read({"llm": len}).llm is len
    with pytest.raises(InvalidInputError, match="callable"):
        Memory({}, llm="gpt")
