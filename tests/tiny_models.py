"""BERT-shaped models of a few kilobytes, with random weights, in the forms in which the big ones are published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = "a she likes window seats on long flights tea coffee the cat sleeps where does sit red green blue query passage"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split(), ":"]
POSITIONS = 40
CONFIG = {"hidden_size": 16, "max_position_embeddings": POSITIONS, "model_type": "bert", "pad_token_id": 0}


def tokenizer_json(padding: str = "[PAD]", first: int = 0) -> str:
    """A tokenizer whose padding has this name, and whose numbers begin with this one."""
    names = [padding if word == "[PAD]" else word for word in VOCABULARY]
    numbers = {word: number + first for number, word in enumerate(names)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    marks = [(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.enable_padding(length=12, pad_id=numbers[padding], pad_token=padding)  # As many published files do.
    tokenizer.enable_truncation(12)
    return tokenizer.to_str()


class Tiny:
    """Writes one graph; the same seed gives the same weights, whatever the form."""

    def __init__(
        self, *, width: int = 16, heads: int = 2, layers: int = 2, seed: int = 7, vocabulary: int = 64
    ) -> None:
        self.width, self.heads, self.layers = width, heads, layers
        self.random = np.random.default_rng(seed)
        self.vocabulary = vocabulary
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weights(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.random.standard_normal(shape) * scale / np.sqrt(shape[0]))

    def linear(self, value: str, rows: int, columns: int) -> str:
        product = self.add("MatMul", value, self.weights(rows, columns))
        return self.add("Add", self.weights(columns, scale=0.3), product)

    def norm(self, value: str) -> str:
        scale = self.constant(1 + 0.1 * self.random.standard_normal(self.width))
        return self.add("LayerNormalization", value, scale, self.weights(self.width), axis=-1, epsilon=1e-12)

    def heads_of(self, value: str, perm: list[int]) -> str:
        shape = self.constant([0, 0, self.heads, self.width // self.heads], np.int64)
        return self.add("Transpose", self.add("Reshape", value, shape), perm=perm)

    def layer(self, value: str, penalty: str) -> str:
        width = self.width
        query, key, values = (
            self.heads_of(self.linear(value, width, width), perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = self.add("Div", self.add("MatMul", query, key), self.constant(np.sqrt(width / self.heads)))
        shares = self.add("Softmax", self.add("Add", scores, penalty), axis=-1)
        context = self.add("Transpose", self.add("MatMul", shares, values), perm=[0, 2, 1, 3])
        context = self.add("Reshape", context, self.constant([0, 0, width], np.int64))
        value = self.norm(self.add("Add", self.linear(context, width, width), value))
        hidden = self.linear(value, width, 4 * width)
        error = self.add("Erf", self.add("Div", hidden, self.constant(np.sqrt(2))))
        hidden = self.add("Mul", self.add("Mul", hidden, self.add("Add", error, self.constant(1))), self.constant(0.5))
        return self.norm(self.add("Add", self.linear(hidden, 4 * width, width), value))

    def build(
        self,
        *,
        types: bool = True,
        position_ids: bool = False,
        integers: int = TensorProto.INT64,
        pooled: bool = False,
        output: str = "last_hidden_state",
        half: bool = False,
        fixed: bool = False,
    ) -> bytes:
        shape = [1, 12] if fixed else ["batch", "length"]
        names = ["input_ids", "attention_mask"] + ["token_type_ids"] * types + ["position_ids"] * position_ids
        inputs = [helper.make_tensor_value_info(name, integers, shape) for name in names]
        words = self.add("Gather", self.weights(self.vocabulary, self.width, scale=8), "input_ids")
        table = self.weights(POSITIONS, self.width, scale=4)
        types_table = self.weights(2, self.width)
        if position_ids:
            positions = self.add("Gather", table, "position_ids")
        else:
            length = self.add("Shape", "input_ids", start=1, end=2)
            zero = self.constant([0], np.int64)
            positions = self.add("Slice", table, zero, length, zero)
        value = self.add("Add", words, positions)
        if types:
            value = self.add("Add", value, self.add("Gather", types_table, "token_type_ids"))
        value = self.norm(value)
        mask = self.add("Cast", "attention_mask", to=TensorProto.FLOAT)
        penalty = self.add("Mul", self.add("Sub", mask, self.constant(1)), self.constant(1e4))
        penalty = self.add("Unsqueeze", penalty, self.constant([1, 2], np.int64))
        for _ in range(self.layers):
            value = self.layer(value, penalty)
        if pooled:
            weights = self.add("Unsqueeze", mask, self.constant([2], np.int64))
            axis = self.constant([1], np.int64)
            total = self.add("ReduceSum", self.add("Mul", value, weights), axis, keepdims=0)
            value = self.add("Div", total, self.add("ReduceSum", mask, axis, keepdims=1))
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.add("Cast", value, output=output, to=kind)
        dims = ["batch", self.width] if pooled else ["batch", "length", self.width]
        outputs = [helper.make_tensor_value_info(output, kind, dims)]
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def with_fast_half(share: float, *, whole: str = "whole", fast: str = "fast") -> bytes:
    """A graph whose vectors have a fast half, the last 8 of 16 numbers, with this share of their squared length."""
    tiny = Tiny()
    table = tiny.random.standard_normal((tiny.vocabulary, 16))
    mask = tiny.add("Unsqueeze", tiny.add("Cast", "attention_mask", to=TensorProto.FLOAT), tiny.constant([1], np.int64))

    def half(columns: slice, output: str) -> None:
        rows = np.zeros_like(table)
        rows[:, columns] = table[:, columns]
        total = tiny.add("MatMul", mask, tiny.add("Gather", tiny.constant(rows), "input_ids"))
        axis = tiny.constant([1], np.int64)
        total = tiny.add("Squeeze", total, axis)
        tiny.add("Div", total, tiny.add("ReduceL2", total, keepdims=1, axes=[1]), output=output)

    half(slice(8, 16), fast)
    outside = tiny.nodes[:]
    half(slice(0, 8), "slow")
    parts = [tiny.add("Mul", name, tiny.constant(part**0.5)) for name, part in ((fast, share), ("slow", 1 - share))]
    tiny.add("Sum", *parts, output="both")
    inside = tiny.nodes[len(outside) :]

    def vectors(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16])

    alone = helper.make_node("Identity", [fast], ["alone"])
    branches = {
        "then_branch": helper.make_graph(inside, "then", [], [vectors("both")]),
        "else_branch": helper.make_graph([alone], "else", [], [vectors("alone")]),
    }
    nodes = [*outside, helper.make_node("If", [whole], ["embedding"], **branches)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    inputs.append(helper.make_tensor_value_info(whole, TensorProto.BOOL, []))
    graph = helper.make_graph(nodes, "fast", inputs, [vectors("embedding"), vectors(fast)], tiny.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_model(
    folder: Path,
    *,
    pooling: str | None = "mean",
    card: str | None = None,
    config: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    tokenizer: str | None = None,
    inside: str = "",
    graph: bytes | None = None,
    **form: Any,
) -> Path:
    """A folder in the layout of sentence-transformers; without a `pooling`, only the graph and the tokenizer."""
    files = {f"{inside}model.onnx": Tiny().build(**form) if graph is None else graph}
    files["tokenizer.json"] = (tokenizer or tokenizer_json()).encode()
    if pooling is not None:
        modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
        modules = [
            {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]
        width = (CONFIG | (config or {}))["hidden_size"]
        described = {
            "modules.json": modules,
            "config.json": CONFIG | (config or {}),
            "1_Pooling/config.json": {key: mode == pooling for mode, key in modes.items()}
            | {"embedding_dimension": width},
            "sentence_bert_config.json": {"max_seq_length": 10},
        }
        if prompts is not None:
            described["config_sentence_transformers.json"] = {"prompts": prompts}
        files |= {name: json.dumps(value).encode() for name, value in described.items()}
    if card is not None:
        files["model.toml"] = card.encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
