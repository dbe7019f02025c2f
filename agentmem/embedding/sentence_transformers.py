"""What the files beside a graph say about a model: the layout of sentence-transformers, where it is there."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from agentmem.errors import ModelError
from agentmem.platform.signals import fails_apart

MODEL_FILES = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx")
"""Where a folder or a repository may have its graph, in order of preference."""

TOKENIZER_FILE = "tokenizer.json"

DESCRIPTIONS = (
    "modules.json", "config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "tokenizer_config.json",
)  # fmt: skip
"""The further files that are read; beside them only the configuration of the pooling, which modules.json names."""

POOLINGS = ("mean", "cls", "last", "sum", "graph")
"""How the vectors of the tokens become one; "graph" and "sum": only the graph itself can do it."""

USUAL_TOKENS = 512
"""The longest text, in tokens, of a model that does not say."""

_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean",  # Differs by a factor, which the normalisation takes out.
    "pooling_mode_lasttoken": "last",
}
_POOLING_NAMES = {"cls": "cls", "mean": "mean", "mean_sqrt_len_tokens": "mean", "lasttoken": "last"}

_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm")
"""Their positions start behind the number of the padding token."""


def describe(folder: Path) -> dict[str, Any]:
    """What the folder's files say, as keys of a model card; what they do not say is left out.

    Raises:
        ModelError: a file cannot be read, or describes what is not supported.
    """
    described: dict[str, Any] = {}
    config = _read(folder, "config.json")
    limits = [_whole(_read(folder, "sentence_bert_config.json").get("max_seq_length"))]
    limits.append(_whole(_read(folder, "tokenizer_config.json").get("model_max_length")))
    positions, offset = _whole(config.get("max_position_embeddings")), 0
    if config.get("model_type") in _OFFSET_TYPES:
        offset = (_whole(config.get("pad_token_id")) or 0) + 1
        described["position_offset"] = offset
    limits.append(positions and positions - offset)
    known = [limit for limit in limits if limit]
    if known:
        described["max_tokens"] = min(known)

    pooling = _read(folder, pooling_file(folder)) if pooling_file(folder) else {}
    if pooling:
        described["pooling"] = _pooling(folder, pooling)
    width = _whole(pooling.get("word_embedding_dimension", pooling.get("embedding_dimension")))
    if width := width or _whole(config.get("hidden_size")):
        described["dimension"] = width

    prompts = _read(folder, "config_sentence_transformers.json").get("prompts")
    if isinstance(prompts, dict):
        for key, names in (("query_prefix", ("query",)), ("document_prefix", ("document", "passage"))):
            if found := [prompts[name] for name in names if isinstance(prompts.get(name), str)]:
                described[key] = found[0]
    return described


def pooling_file(folder: Path) -> str | None:
    """The file that configures the pooling, relative to the folder; None: there is no `modules.json`, or no pooling in
    it."""
    found = None
    for module in _modules(folder):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            found = f"{module.get('path', '')}/config.json"
        elif kind not in ("Transformer", "Normalize"):
            raise ModelError(
                f"The model in {str(folder)!r} has a part {kind!r} (modules.json), which is not supported; choose "
                "another model, or export it with that part in the graph and without modules.json."
            )
    if found is not None and not is_inside(found):
        raise ModelError(f"modules.json in {str(folder)!r} leads to {found!r}, outside the folder; mend it.")
    return found


def is_inside(name: str) -> bool:
    """Whether a relative path, as a repository or modules.json gives it, stays inside its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and "\\" not in name and "\0" not in name and ".." not in parts


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    modules = _load(folder, "modules.json", [])
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"modules.json in {str(folder)!r} is not a list of modules; correct or remove it.")
    return modules


def _pooling(folder: Path, config: Mapping[str, Any]) -> str:
    if config.get("include_prompt") is False:
        raise ModelError(
            f"The model in {str(folder)!r} leaves its prompts out of the pooling (include_prompt), which is not "
            "supported; choose another model."
        )
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    poolings = {_POOLING_KEYS.get(mode) for mode in modes}
    if not modes:
        poolings = {_POOLING_NAMES.get(str(config.get("pooling_mode")))}
    if len(poolings) != 1 or (pooling := poolings.pop()) is None:
        raise ModelError(
            f"The model in {str(folder)!r} pools by {modes or config.get('pooling_mode')!r}, which is not supported; "
            "cls, mean and last are."
        )
    return pooling


def _read(folder: Path, name: str | None) -> dict[str, Any]:
    """The file as an object; empty where there is no file."""
    values = _load(folder, name, {}) if name else {}
    if not isinstance(values, dict):
        raise ModelError(f"{name} in {str(folder)!r} is not a JSON object; correct or remove it.")
    return values


def _load(folder: Path, name: str, without: Any) -> Any:
    path = folder / name
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else without
    except (OSError, ValueError, RecursionError) as error:
        if not fails_apart(lambda: json.loads(path.read_text("utf-8"))):
            raise
        raise ModelError(f"{name} in {str(folder)!r} cannot be read ({error}); correct or remove it.") from error


def _whole(value: Any) -> int | None:
    """A sensible whole number, or None: the published files have 1e30 for an unknown one."""
    sensible = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_536
    return int(value) if sensible else None
