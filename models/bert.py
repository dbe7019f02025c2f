"""MiniLM as an ONNX graph, written node by node: in float32, or with integer products.

The layout is time-major, [length, batch, width]. `FusedMatMul` then reads the heads of query, key and value in place
(`transBatchA`, `transBatchB`), and three of the four transposes of an attention disappear.

Some constants are folded into the weights. The query takes 1/sqrt(head width). The key's bias is left out, because it
adds the same to every score of a row. The value's bias moves into the output's, because the weights of an attention sum
to one. The type row is added to every position. Pooling adds up instead of averaging: the normalisation after it
removes any factor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from agentmem.embedding.quantization.int8 import Entrance

WIDTH, HEADS, HEAD_WIDTH, LAYERS = 384, 12, 32, 6
EPSILON = 1e-12
MASKED = 10_000.0  # Subtracted from the score of a padding token: exp() of the rest is exactly 0.
MICROSOFT = "com.microsoft"

SITES = ("input", "context", "middle", "hidden")  # The inputs of a layer's products, in the order of the layer.
READERS = {"input": ("query", "key", "value"), "context": ("output",), "middle": ("up",), "hidden": ("down",)}


@dataclass(frozen=True)
class Linear:
    """`x @ weight + bias`; weight [in, out] and bias [out] in float64."""

    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Norm:
    scale: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Layer:
    linear: dict[str, Linear]  # By the names in READERS.
    attention_norm: Norm
    output_norm: Norm

    def with_linear(self, **changed: Linear) -> Layer:
        return replace(self, linear={**self.linear, **changed})


@dataclass(frozen=True)
class Bert:
    words: np.ndarray  # [vocabulary, width]
    positions: np.ndarray  # [512, width], with the type row added.
    norm: Norm
    layers: tuple[Layer, ...]


def read(tensors: dict[str, np.ndarray]) -> Bert:
    """Returns the weights from the tensors of the published `model.safetensors`."""

    def norm(name: str) -> Norm:
        return Norm(tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"])

    def linear(name: str) -> Linear:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return Linear(weight.T.astype(np.float64), bias.astype(np.float64))

    def layer(name: str) -> Layer:
        query = linear(f"{name}.attention.self.query")
        key = linear(f"{name}.attention.self.key")
        value = linear(f"{name}.attention.self.value")
        output = linear(f"{name}.attention.output.dense")
        shrink = HEAD_WIDTH**-0.5
        folded = {
            "query": Linear(query.weight * shrink, query.bias * shrink),
            "key": Linear(key.weight, None),
            "value": Linear(value.weight, None),
            "output": Linear(output.weight, output.bias + value.bias @ output.weight),
            "up": linear(f"{name}.intermediate.dense"),
            "down": linear(f"{name}.output.dense"),
        }
        return Layer(folded, norm(f"{name}.attention.output"), norm(f"{name}.output"))

    type_row = tensors["embeddings.token_type_embeddings.weight"][0]
    return Bert(
        words=tensors["embeddings.word_embeddings.weight"],
        positions=tensors["embeddings.position_embeddings.weight"] + type_row,
        norm=norm("embeddings"),
        layers=tuple(layer(f"encoder.layer.{number}") for number in range(LAYERS)),
    )


class Graph:
    """Nodes and constants in the order they were requested; equal constants are stored once."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[tuple, TensorProto] = {}

    def constant(self, value: np.ndarray | float | list[int], dtype: type | None = None) -> str:
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"constant_{len(self.constants)}")
        return self.constants[key].name

    def add(self, op: str, inputs: Iterable[str], output: str = "", domain: str = "", **attributes) -> str:
        output = output or f"{op}_{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def model(self, name: str, dimension: int, taps: Iterable[str] = (), note: str = "") -> ModelProto:
        """Returns the model from `input_ids` and `attention_mask` to `embedding`, with the named inner values as
        further outputs."""
        ids, mask = (
            helper.make_tensor_value_info(given, TensorProto.INT64, ["batch", "length"])
            for given in ("input_ids", "attention_mask")
        )
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimension])]
        outputs += [helper.make_tensor_value_info(tap, TensorProto.FLOAT, None) for tap in taps]
        graph = helper.make_graph(self.nodes, name, [ids, mask], outputs, list(self.constants.values()))
        # Opset 18 and IR 8 are read by every onnxruntime since 1.14.
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=8,
            producer_name="agentmem models/build.py",
            doc_string=note,
        )


class Float:
    """The arithmetic of the baseline: float32 throughout. Remembers the input of every product (`taps`)."""

    gelu = "Gelu"

    def __init__(self, bert: Bert) -> None:
        self.bert = bert
        self.taps: dict[tuple[int, str], str] = {}

    def words(self, graph: Graph, ids: str) -> str:
        return graph.add("Gather", [graph.constant(self.bert.words, np.float32), ids])

    def enter(self, graph: Graph, layer: int, site: str, value: str) -> str:
        self.taps[layer, site] = value
        return value

    def linear(self, graph: Graph, layer: int, name: str, value: str) -> str:
        linear = self.bert.layers[layer].linear[name]
        product = graph.add("MatMul", [value, graph.constant(linear.weight, np.float32)], f"{name}_{layer}")
        if linear.bias is None:
            return product
        return graph.add("Add", [product, graph.constant(linear.bias, np.float32)])


@dataclass(frozen=True)
class IntegerLinear:
    """`weight` int8 [in, out] times `steps` float32 [out]; bias float32 [out]."""

    weight: np.ndarray
    steps: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Integer:
    """The arithmetic of the shipped model: uint8 times int8 into int32, with constants computed beforehand."""

    gelu = "FastGelu"  # By tanh: a third cheaper than by erf, and off by less than a step of the uint8 after it.

    word_rows: np.ndarray  # int8 [vocabulary, width]
    word_steps: np.ndarray  # float32 [vocabulary, 1]
    entrances: dict[tuple[int, str], Entrance]
    linears: dict[tuple[int, str], IntegerLinear]

    def words(self, graph: Graph, ids: str) -> str:
        rows = graph.add("Gather", [graph.constant(self.word_rows), ids])
        rows = graph.add("Cast", [rows], to=TensorProto.FLOAT)
        return graph.add("Mul", [rows, graph.add("Gather", [graph.constant(self.word_steps), ids])])

    def enter(self, graph: Graph, layer: int, site: str, value: str) -> str:
        entrance = self.entrances[layer, site]
        if entrance.factor is not None:
            value = graph.add("Mul", [value, graph.constant(entrance.factor, np.float32)])
        step, zero = graph.constant(entrance.step, np.float32), graph.constant(entrance.zero, np.uint8)
        return graph.add("QuantizeLinear", [value, step, zero], f"{site}_uint8_{layer}")

    def linear(self, graph: Graph, layer: int, name: str, value: str) -> str:
        site = next(site for site in SITES if name in READERS[site])
        entrance, linear = self.entrances[layer, site], self.linears[layer, name]
        inputs = [
            value,
            graph.constant(linear.weight),
            graph.constant(entrance.step, np.float32),
            graph.constant(linear.steps, np.float32),
            graph.constant(entrance.zero, np.uint8),
            graph.constant(np.zeros(len(linear.steps), np.int8)),
        ]
        if linear.bias is not None:
            inputs.append(graph.constant(linear.bias, np.float32))
        return graph.add("MatMulIntegerToFloat", inputs, f"{name}_{layer}", MICROSOFT)


def write(bert: Bert, arithmetic: Float | Integer, *, with_taps: bool = False, note: str = "") -> ModelProto:
    """Returns the whole model. With `with_taps`, the input of every product is an output too, in the order of
    `taps`."""
    graph = Graph()
    ids = graph.add("Transpose", ["input_ids"], perm=[1, 0])
    length = graph.add("Shape", ["input_ids"], start=1, end=2)
    mask = graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)  # [batch, length]
    penalty = _penalty(graph, mask, length)

    positions = graph.constant(bert.positions[:, None, :], np.float32)
    positions = graph.add("Slice", [positions, graph.constant([0]), length, graph.constant([0])])
    value = _norm(graph, graph.add("Add", [arithmetic.words(graph, ids), positions]), bert.norm)
    for number, layer in enumerate(bert.layers):
        value = _layer(graph, arithmetic, number, layer, value, penalty)

    mask = graph.add("Unsqueeze", [graph.add("Transpose", [mask], perm=[1, 0]), graph.constant([2])])
    total = graph.add("ReduceSum", [graph.add("Mul", [value, mask]), graph.constant([0])], keepdims=0)
    normalise(graph, total)
    taps = arithmetic.taps.values() if with_taps else ()
    return graph.model("minilm", WIDTH, taps, note)


def normalise(graph: Graph, value: str) -> None:
    """Adds `embedding`: the rows of `value` [batch, width] with length one. A row of zeros stays zero."""
    length = graph.add("ReduceL2", [value, graph.constant([1])], keepdims=1)
    graph.add("Div", [value, graph.add("Max", [length, graph.constant(1e-12, np.float32)])], "embedding")


def _penalty(graph: Graph, mask: str, length: str) -> str:
    """Adds [batch * heads, length, length]: 0 for a token, -MASKED for padding, in every row.

    Written out once in full: adding one row to all, in every layer, costs five times as much at 18 tokens.
    """
    penalty = graph.add("Sub", [mask, graph.constant(1, np.float32)])
    penalty = graph.add("Mul", [penalty, graph.constant(MASKED, np.float32)])
    penalty = graph.add("Unsqueeze", [penalty, graph.constant([1, 2])])
    full = graph.add("Concat", [graph.constant([1, HEADS]), length, graph.constant([1])], axis=0)
    penalty = graph.add("Expand", [penalty, full])
    return graph.add("Reshape", [penalty, graph.add("Concat", [graph.constant([-1]), length, length], axis=0)])


def _norm(graph: Graph, value: str, norm: Norm) -> str:
    inputs = [value, graph.constant(norm.scale, np.float32), graph.constant(norm.bias, np.float32)]
    return graph.add("LayerNormalization", inputs, axis=-1, epsilon=EPSILON)


def _layer(graph: Graph, arithmetic: Float | Integer, number: int, layer: Layer, value: str, penalty: str) -> str:
    entered = arithmetic.enter(graph, number, "input", value)
    by_head = graph.constant([0, -1, HEAD_WIDTH])  # [length, batch * heads, head width]
    query, key, values = (
        graph.add("Reshape", [arithmetic.linear(graph, number, name, entered), by_head]) for name in READERS["input"]
    )
    # [batch * heads, length, length]
    scores = graph.add("FusedMatMul", [query, key], "", MICROSOFT, transBatchA=1, transBatchB=1, transB=1)
    shares = graph.add("Softmax", [graph.add("Add", [scores, penalty])], axis=-1)
    context = graph.add("FusedMatMul", [shares, values], "", MICROSOFT, transBatchB=1)
    entered = arithmetic.enter(graph, number, "context", context)  # First: a transpose of bytes is cheaper.
    entered = graph.add("Transpose", [entered], perm=[1, 0, 2])
    entered = graph.add("Reshape", [entered, graph.constant([0, -1, WIDTH])])
    value = graph.add("Add", [arithmetic.linear(graph, number, "output", entered), value])
    value = _norm(graph, value, layer.attention_norm)

    entered = arithmetic.enter(graph, number, "middle", value)
    hidden = graph.add(arithmetic.gelu, [arithmetic.linear(graph, number, "up", entered)], "", MICROSOFT)
    entered = arithmetic.enter(graph, number, "hidden", hidden)
    value = graph.add("Add", [arithmetic.linear(graph, number, "down", entered), value])
    return _norm(graph, value, layer.output_norm)
