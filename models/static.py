"""minilm-static: MiniLM without the network, one vector a word piece.

Every piece of the vocabulary goes through the float32 model alone, between [CLS] and [SEP]. Its vector is the output at
its own position. The mean and the 256 principal directions are those of running text: weighted by how often a piece
occurs. A text is the sum of the vectors of its pieces, each weighted by `RARE / (RARE + frequency)`
(Arora et al., "A simple but tough-to-beat baseline for sentence embeddings", 2017), with length one.
"""

from __future__ import annotations

import gzip
import json
import math

import bert
import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper
from tokenizers import Tokenizer

DIMENSION = 256
MAX_TOKENS = 512  # It has no positions that could run out; a limit only bounds the work.
RARE = 0.002  # A piece of this frequency counts half.
CLS, SEP = 101, 102
SILENT = (0, 100, 101, 102, 103)  # [PAD] [UNK] [CLS] [SEP] [MASK]
FAINT = 1e-4  # Length of the [CLS] row: a text without one known piece still gets a vector other than zero.


def with_hidden(weights: bert.Bert) -> tuple[ModelProto, str]:
    """Returns the float32 model, with its last layer's values at every position as another output, and that output's
    name."""
    model = bert.write(weights, bert.Float(weights))
    last = next(node.output[0] for node in reversed(model.graph.node) if node.op_type == "LayerNormalization")
    model.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    return model, last


def own_outputs(model: onnxruntime.InferenceSession, hidden: str, vocabulary: int) -> np.ndarray:
    """Returns float32 [vocabulary, width]: every piece alone, its own position's output."""
    rows = []
    for start in range(0, vocabulary, 128):
        pieces = np.arange(start, min(start + 128, vocabulary))
        ids = np.stack([np.full_like(pieces, CLS), pieces, np.full_like(pieces, SEP)], axis=1)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        rows.append(model.run([hidden], given)[0][1])  # [length, batch, width]
    return np.concatenate(rows)


def piece_frequencies(table: bytes, tokenizer: Tokenizer) -> np.ndarray:
    """Returns float64 [vocabulary], sum 1: the words of `table` (gzipped JSON, word to natural log) cut into pieces."""
    logarithms: dict[str, float] = json.loads(gzip.decompress(table))
    words = list(logarithms)
    frequencies = np.zeros(tokenizer.get_vocab_size())
    for start in range(0, len(words), 20_000):
        some = words[start : start + 20_000]
        for word, encoding in zip(some, tokenizer.encode_batch(some, add_special_tokens=False), strict=True):
            for piece in encoding.ids:
                frequencies[piece] += math.exp(logarithms[word])
    return frequencies / frequencies.sum()


def distil(outputs: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Returns float64 [vocabulary, DIMENSION]: the weighted vectors that are summed."""
    centred = outputs - frequencies @ outputs.astype(np.float64)
    _, directions = np.linalg.eigh((centred * frequencies[:, None]).T @ centred)
    directions = directions[:, ::-1][:, :DIMENSION]
    largest = np.abs(directions).argmax(axis=0)  # The sign of a direction is free: its largest part is positive.
    directions = directions * np.sign(directions[largest, np.arange(DIMENSION)])
    vectors = centred @ directions * (RARE / (RARE + frequencies))[:, None]
    faint = vectors[CLS] * FAINT / np.linalg.norm(vectors[CLS])
    vectors[list(SILENT)] = 0
    vectors[CLS] = faint
    return vectors


def write(vectors: np.ndarray, note: str) -> ModelProto:
    """Adds rows as int8 with a step each; the sum is a product of the steps, where there is a token, with the rows."""
    steps = np.maximum(np.abs(vectors).max(axis=1, keepdims=True) / 127, 1e-12)
    graph = bert.Graph()
    rows = graph.add("Gather", [graph.constant(np.rint(vectors / steps), np.int8), "input_ids"])
    rows = graph.add("Cast", [rows], to=TensorProto.FLOAT)  # [batch, length, DIMENSION]
    mask = graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    shares = graph.add("Gather", [graph.constant(steps[:, 0], np.float32), "input_ids"])
    shares = graph.add("Unsqueeze", [graph.add("Mul", [shares, mask]), graph.constant([1])])  # [batch, 1, length]
    total = graph.add("Squeeze", [graph.add("MatMul", [shares, rows]), graph.constant([1])])
    bert.normalise(graph, total)
    return graph.model("minilm-static", DIMENSION, note=note)
