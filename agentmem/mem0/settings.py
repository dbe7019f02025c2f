"""Translates Mem0's configuration.

Keys that decide the place and the model are used. Keys that only tune another store are ignored. Keys that ask for an
unsupported feature are refused, all of them in one error.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.mem0.extraction import MOST_CHANGES, check_model
from agentmem.mem0.llm import NO_KEY, Endpoint
from agentmem.quoting import is_address, quote, shape

FILE = "agentmem.db"
COLLECTION = "mem0"
"""Mem0's default collection, whose store is FILE. The file of another collection is named after it."""

_STORES = ("qdrant", "faiss", "chroma")
_STORE_KEYS = frozenset(
    {"path", "collection_name", "embedding_model_dims", "on_disk", "distance_strategy", "normalize_L2"}
)

_EMBEDDERS = ("huggingface", "fastembed")
_EMBEDDER_KEYS = frozenset({"model", "embedding_dims"})

_ENDPOINTS = {
    "openai": None, "openai_structured": None, "deepseek": "https://api.deepseek.com",
    "lmstudio": "http://localhost:1234/v1", "ollama": "http://localhost:11434", "vllm": "http://localhost:8000/v1",
}  # fmt: skip
"""Providers whose endpoints speak OpenAI's chat completions, with their default addresses."""
_LLM_KEYS = frozenset({"model", "api_key", "temperature", "max_tokens", "top_p"})

_PROVIDERS = frozenset(
    """
    anthropic aws_bedrock azure_ai_search azure_mysql azure_openai azure_openai_structured baidu cassandra chroma cohere
    databricks deepseek elasticsearch faiss fastembed gemini groq huggingface kuzu langchain litellm llm_reranker
    lmstudio memgraph milvus minimax mongodb neo4j neptune ollama openai openai_structured opensearch pgvector pinecone
    qdrant redis s3_vectors sarvam sentence_transformer supabase together turbopuffer upstash_vector valkey vertexai
    vertex_ai_vector_search vllm weaviate xai zero_entropy
    """.split()  # noqa: SIM905 - read as a text
)
"""Mem0's names for the choices of a configuration."""

_KEYS = frozenset({
    "vector_store", "embedder", "llm", "history_db_path", "version", "custom_instructions",
    "custom_fact_extraction_prompt", "max_changes",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration's settings: the store's file, the embedding model (None: not given), the language model and its
    instructions, and how many memories one of its answers may change."""

    path: str
    model: str | None
    llm: Callable[[list[dict[str, str]]], str] | None
    instructions: str | None
    max_changes: int


def read_settings(config: Any, *, own_embedder: bool, own_llm: bool) -> Settings:
    """Returns the settings of a configuration. The parts `embedder` and `llm` are ignored where arguments replace them.

    Raises:
        InvalidInputError: It is no mapping, or asks for an unsupported feature; the message names every such key.
    """
    if not isinstance(config, Mapping):
        raise InvalidInputError(f"The configuration is {shape(config)}; pass Mem0's mapping.")
    reading = _Reading()
    for key, value in config.items():
        if key not in _KEYS and value is not None:
            reading.refuse(_key(key), value)
    if config.get("version", "v1.1") in ("v1.0", None):
        reading.refuse("version", config.get("version"))
    path = reading.path(config)
    model = None if own_embedder else reading.model(config.get("embedder"))
    llm = None if own_llm else reading.llm(config.get("llm"))
    instructions = [config.get(key) for key in ("custom_instructions", "custom_fact_extraction_prompt")]
    told = "\n".join(text for text in instructions if isinstance(text, str)) or None
    max_changes = config.get("max_changes")
    if max_changes is None:
        max_changes = MOST_CHANGES
    elif isinstance(max_changes, bool) or not isinstance(max_changes, int) or max_changes < 0:
        reading.refuse("max_changes", max_changes, "a whole number from 0")
        max_changes = 0
    reading.finish()
    return Settings(path, model, llm, told, max_changes)


def _key(key: Any) -> str:
    return quote(key)[1:-1] if isinstance(key, str) else shape(key)


class _Reading:
    """Reads one configuration and gathers its unsupported keys."""

    def __init__(self) -> None:
        self._refused: list[str] = []

    def refuse(self, key: str, value: Any, advice: str = "") -> None:
        """Quotes a value. Any value may be a secret, such as a password or an address that has one. So only the names
        of Mem0's own providers are shown, and of other values the type."""
        is_name = key.endswith("provider") and isinstance(value, str) and value in _PROVIDERS
        shown = f" = {value!r}" if is_name else f", {shape(value)}"
        self._refused.append(f"{key}{shown}{f' ({advice})' if advice else ''}")

    def finish(self) -> None:
        if self._refused:
            raise InvalidInputError(
                f"The configuration has what agentmem.mem0 does not support: {'; '.join(self._refused)}. Remove it."
            )

    def path(self, config: Mapping[str, Any]) -> str:
        """Returns one file: in the folder of the vector store, else of the history, else in the working folder."""
        inner = self._part("vector_store", config.get("vector_store"), _STORES, _STORE_KEYS)
        collection, folder, history = inner.get("collection_name"), inner.get("path"), config.get("history_db_path")
        collection = COLLECTION if collection is None else collection
        if not isinstance(collection, str) or not collection or set(collection) & set("/\\\0") or collection == "..":
            self.refuse("vector_store.config.collection_name", collection)
        if ":memory:" in (folder, history):
            return ":memory:"
        if folder is not None:
            parent = self._folder("vector_store.config.path", folder)
        else:
            parent = Path() if history is None else self._folder("history_db_path", history).parent
        return str(parent / (FILE if collection == COLLECTION else f"{collection}.agentmem.db"))

    def _folder(self, key: str, value: Any) -> Path:
        is_path = isinstance(value, str | Path) and str(value) != "" and "\0" not in str(value)
        if is_path and not is_address(str(value)):
            with suppress(RuntimeError):  # The home of an unknown user.
                return Path(value).expanduser()
        self.refuse(key, value, "the path of a folder")
        return Path()

    def model(self, part: Any) -> str | None:
        inner = self._part("embedder", part, _EMBEDDERS, _EMBEDDER_KEYS, "leave it out, or pass embedder=")
        model = inner.get("model")
        if model is None:
            return None
        if not isinstance(model, str) or not model:
            self.refuse("embedder.config.model", model)
            return None
        return model.removeprefix("sentence-transformers/")

    def llm(self, part: Any) -> Callable[[list[dict[str, str]]], str] | None:
        if part is None:
            return None
        if callable(part):
            check_model("llm", part)
            own: Callable[[list[dict[str, str]]], str] = part
            return own
        provider = part.get("provider", "openai") if isinstance(part, Mapping) else None
        address = f"{str(provider).removesuffix('_structured')}_base_url"
        inner = self._part("llm", part, tuple(_ENDPOINTS), _LLM_KEYS | {address}, "pass llm=, any callable")
        if not isinstance(provider, str) or provider not in _ENDPOINTS:
            return None
        if not isinstance(inner.get("model"), str) or not inner["model"]:
            self.refuse("llm.config.model", inner.get("model"), "name a model")
            return None
        for key in (address, "api_key"):
            if not isinstance(inner.get(key), str | None):
                self.refuse(f"llm.config.{key}", inner[key], "text")
                return None
        base_url, api_key = inner.get(address) or _ENDPOINTS[provider], inner.get("api_key")
        if provider == "ollama" and not str(base_url).rstrip("/").endswith("/v1"):
            base_url = f"{str(base_url).rstrip('/')}/v1"
        if api_key is None and provider in ("lmstudio", "ollama", "vllm"):
            api_key = NO_KEY  # These providers want no key, but the package does.
        parameters = {key: inner[key] for key in ("temperature", "max_tokens", "top_p") if inner.get(key) is not None}
        return Endpoint(inner["model"], base_url=base_url, api_key=api_key, **parameters)

    def _part(
        self, name: str, part: Any, providers: tuple[str, ...], keys: frozenset[str], advice: str = ""
    ) -> Mapping[str, Any]:
        """Returns the `config` of a part of the configuration, empty when it is missing."""
        if part is None:
            return {}
        if not isinstance(part, Mapping):
            self.refuse(name, part, "a mapping with provider and config")
            return {}
        inner = part.get("config") or {}
        if part.get("provider") is not None and part["provider"] not in providers:
            self.refuse(f"{name}.provider", part["provider"], advice or f"known are {', '.join(providers)}")
            return {}
        for key in part:
            if key not in ("provider", "config"):
                self.refuse(f"{name}.{_key(key)}", part[key])
        if not isinstance(inner, Mapping):
            self.refuse(f"{name}.config", inner, "a mapping")
            return {}
        for key, value in inner.items():
            if key not in keys and value is not None and value is not False:
                self.refuse(f"{name}.config.{_key(key)}", value)
        return inner
