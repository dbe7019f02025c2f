"""The bundled models as files: what is promised about them, checked with onnxruntime and tokenizers alone."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = ["all-MiniLM-L6-v2", "minilm-static", "minilm-mixed"]

GOLDEN = {
    "all-MiniLM-L6-v2": [-0.0308, 0.0355, 0.0096, 0.0355, -0.0431],
    "minilm-static": [-0.0293, -0.1303, -0.1109, 0.0897, 0.0999],
    "minilm-mixed": [0.3251, 0.0582, -0.0318, -0.0491, 0.0397],
}
"""Of "hello world", the first numbers. Integer products are the same everywhere, and what is float between them differs
by less than 1e-3."""

GOLDEN_FAST = [-0.268, -0.0097, 0.0313, 0.0243, -0.0932]
"""The first numbers of its fast half."""

TEXTS = [
    "hello world",
    "Prefers window seats on long flights.",
    "ok",
    "She adopted a three-legged cat called Biscuit two weeks ago, and has not slept properly since then.",
    "The deployment failed on Friday night because the disk was full of debug logs nobody had asked for.",
    "Elle préfère le train à l'avion.",
    "彼女は窓側の席が好きです。",
    "{'plan': 'pro', 'seats': 12}",
]


@dataclass
class Model:
    folder: Path
    description: dict[str, Any]
    tokenizer: Tokenizer
    session: onnxruntime.InferenceSession

    def embed(self, texts: list[str], output: str = "embedding") -> np.ndarray:
        token_ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        length = max(map(len, token_ids))
        ids = np.zeros((len(texts), length), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        given = {"input_ids": ids, "attention_mask": mask}
        if "fast_share" in self.description:
            given["whole"] = np.array(output == "embedding")
        return self.session.run([output], given)[0]


def read(folder: Path, description: dict[str, Any], file: str) -> bytes:
    """A file of a model, put together of its parts where it has some."""
    if file not in description.get("parts", {}):
        return (folder / file).read_bytes()
    data = b""
    for name, start, size in description["parts"][file]:
        source = folder.parent / name if name else folder / f"{file}.own"
        data += source.read_bytes()[start : start + size]
    return data


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    return load(request.param)


def load(name: str) -> Model:
    folder = MODELS / name
    description = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(read(folder, description, "tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(description["max_tokens"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    graph = read(folder, description, "model.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Model(folder, description, tokenizer, session)


def test_the_description_says_what_the_engine_needs(model: Model) -> None:
    described = {key: type(value) for key, value in model.description.items()}
    assert described == {
        "name": str,
        "source": str,
        "revision": str,
        "license": str,
        "dimension": int,
        "max_tokens": int,
        "pooling": str,
        "normalize": bool,
        "query_prefix": str,
        "document_prefix": str,
        "graph_optimization": str,
        "files": dict,
    } | ({"fast_share": float, "parts": dict} if model.folder.name == "minilm-mixed" else {})
    assert model.description["name"] == model.folder.name
    assert set(model.description["files"]) == {"model.onnx", "tokenizer.json"}
    assert (model.folder / "LICENSE").stat().st_size > 0


def test_the_checksums_are_those_of_the_files(model: Model) -> None:
    for name, expected in model.description["files"].items():
        assert hashlib.sha256(read(model.folder, model.description, name)).hexdigest() == expected


def test_ids_and_mask_give_unit_vectors(model: Model) -> None:
    assert [(given.name, given.type) for given in model.session.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
        *[("whole", "tensor(bool)")] * ("fast_share" in model.description),
    ]
    vectors = model.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), model.description["dimension"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(model: Model) -> None:
    together = model.embed(TEXTS)
    for text, among_others in zip(TEXTS, together, strict=True):
        alone = model.embed([text])[0]
        assert float(alone @ among_others) >= 0.9999


def test_the_vectors_are_those_that_stores_have(model: Model) -> None:
    np.testing.assert_allclose(model.embed(["hello world"])[0, :5], GOLDEN[model.folder.name], atol=1e-3)


@pytest.mark.parametrize("text", ["", "😀", "[UNK]", "[PAD]", "中国", "."])
def test_a_text_without_words_still_has_a_vector(model: Model, text: str) -> None:
    np.testing.assert_allclose(np.linalg.norm(model.embed([text])), 1, atol=1e-5)


def test_a_text_longer_than_the_limit_is_cut(model: Model) -> None:
    limit = model.description["max_tokens"]
    assert len(model.tokenizer.encode("word " * (limit + 50)).ids) == limit
    vectors = model.embed(["word " * (limit + 50), "word " * (limit - 2)])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "related", "unrelated"),
    [
        ("She adopted a kitten", "They have a new cat", "The invoice is overdue"),
        (
            "The server ran out of disk space",
            "No storage left on the machine",
            "He plays the cello in an orchestra",
        ),
        (
            "When is the flight to Lisbon?",
            "Her plane to Portugal leaves on Monday",
            "Boil the pasta for ten minutes",
        ),
        ("Allergic to peanuts", "Nuts make him ill", "The meeting starts at nine"),
    ],
)
def test_related_texts_are_nearer_than_unrelated_ones(model: Model, text: str, related: str, unrelated: str) -> None:
    vector, near, far = model.embed([text, related, unrelated])
    assert float(vector @ near) > float(vector @ far) + 0.1


def test_minilm_computes_the_published_model() -> None:
    folder = MODELS / "all-MiniLM-L6-v2"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    model = Model(folder, {}, tokenizer, onnxruntime.InferenceSession(str(folder / "model.onnx")))
    published = np.array([-0.034478, 0.03102, 0.00673, 0.02611, -0.039362])  # "hello world", float32, its start
    start = model.embed(["hello world"])[0, : len(published)].astype(float)
    assert start @ published / np.linalg.norm(start) / np.linalg.norm(published) >= 0.98


def test_the_fast_half_of_the_mixed_model_is_a_part_of_its_vectors() -> None:
    model = load("minilm-mixed")
    whole, fast = model.embed(TEXTS), model.embed(TEXTS, "fast")
    assert not fast[:, :192].any()
    np.testing.assert_allclose(np.linalg.norm(fast, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(whole[:, 192:], fast[:, 192:] * model.description["fast_share"] ** 0.5, atol=1e-6)
    np.testing.assert_allclose(fast[0, 192:197], GOLDEN_FAST, atol=1e-3)
    for text, among_others in zip(TEXTS, fast, strict=True):
        assert float(model.embed([text], "fast")[0] @ among_others) >= 0.9999


def test_the_halves_of_the_mixed_model_are_those_of_the_other_two() -> None:
    mixed, deep, light = (load(name) for name in ("minilm-mixed", "all-MiniLM-L6-v2", "minilm-static"))
    whole = mixed.embed(TEXTS) * 2**0.5
    for half, model in ((whole[:, :192], deep), (whole[:, 192:], light)):
        # A turn to the leading directions keeps most of every cosine.
        vectors = model.embed(TEXTS)
        np.testing.assert_allclose(half @ half.T, vectors @ vectors.T, atol=0.15)
