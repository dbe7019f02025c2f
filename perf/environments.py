"""The peers' virtual environments, made on first use from the package index, outside the checkout."""

import fcntl
import json
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any

ENVIRONMENTS = {
    "mem0": ("mem0ai==2.2.1", "fastembed==0.9.1", "qdrant-client==1.20.0", "faiss-cpu==1.15.1"),
    "fastembed": ("fastembed==0.9.1",),
    "chroma": ("chromadb==1.5.9",),
}

RUN_SECONDS = 1800.0

QUIET = {
    "MEM0_TELEMETRY": "False", "ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1", "OPENAI_API_KEY": "not-used",
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip
"""Uses no network. It fixes the seed of `hash`, so that all engines see the same topics."""


def default_cache() -> Path:
    return Path(tempfile.gettempdir()) / "agentmem-peers"


def make_environment(folder: Path, packages: tuple[str, ...]) -> None:
    """Makes the environment unless it exists; one process at a time, the others wait for it."""
    wanted = "\n".join(packages) + "\n"
    mark = folder / "installed.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text("utf-8") == wanted:
            return
        print(f"Making {folder} for {', '.join(packages)}.", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        run(python_of(folder), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20", *packages)
        mark.write_text(wanted, "utf-8")


def python_of(folder: Path) -> str:
    return str(folder / "bin" / "python")


def run(*command: str) -> None:
    """Raises CalledProcessError when it fails, TimeoutExpired when it hangs."""
    subprocess.run(command, check=True, timeout=RUN_SECONDS)


def fastembed_folder(parent: Path, graph: Path, card: Any) -> Path:
    """Returns a model folder in the form that fastembed takes.

    The tokenizer's own padding (to 128 tokens) is removed, which would cost the peers a multiple of the time. `card` is
    the result of `find_model`.
    """
    parent.mkdir()
    shutil.copy(graph, parent / "model.onnx")
    tokenizer = json.loads((card.folder / "tokenizer.json").read_text("utf-8"))
    tokenizer |= {"padding": None, "truncation": None}
    (parent / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (parent / "config.json").write_text('{"pad_token_id": 0}', "utf-8")
    settings = {"model_max_length": card.max_tokens, "pad_token": "[PAD]"}
    (parent / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (parent / "special_tokens_map.json").write_text(json.dumps(special), "utf-8")
    return parent
