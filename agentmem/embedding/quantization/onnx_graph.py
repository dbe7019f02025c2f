"""The products with weights in an ONNX graph: where they are, and how they become products of integers. The only
importer of onnx."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agentmem.embedding.quantization.int8 import Array, Entrance, rows_of
from agentmem.errors import ModelError

MICROSOFT = "com.microsoft"
OLDEST_OPSET = 10
"""The first with QuantizeLinear."""


@dataclass(frozen=True, slots=True)
class Product:
    """`value @ weight + bias`: weight float32 [in, out], bias [out] or None. `nodes` are what computes it, by number;
    `result` is the name of what comes out."""

    value: str
    weight: Array
    bias: Array | None
    nodes: tuple[int, ...]
    result: str


@dataclass(frozen=True, slots=True)
class IntegerProduct:
    """What becomes of a product: weight int8 [in, out] times `steps` [out], bias float32 [out]."""

    weight: Array
    steps: Array
    bias: Array


class Graph:
    """An ONNX graph that is looked at and rewritten.

    Raises:
        ModelError: it cannot be read, or is of a form that cannot be rewritten.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        try:
            self.model = onnx.load_from_string(data)
        except Exception as error:  # Of protobuf, which has several of its own.
            raise ModelError(f"The graph of {name!r} cannot be read ({error}).") from error
        opsets = {entry.domain: entry.version for entry in self.model.opset_import}
        if opsets.get("", opsets.get("ai.onnx", 0)) < OLDEST_OPSET:
            raise ModelError(f"The graph of {name!r} is of an old opset, {opsets}; export it with opset 14 or later.")
        self.nodes: list[Any] = list(self.model.graph.node)
        self._stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {output: node for node in self.nodes for output in node.output}
        self._outputs = {output.name for output in self.model.graph.output}
        self._readers: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for given in node.input:
                self._readers.setdefault(given, []).append(number)
        self._count = 0

    def constant(self, name: str) -> Array | None:
        """The value of a name that is always the same: stored, or made of such by turning or copying; else None."""
        if name in self._stored:
            return numpy_helper.to_array(self._stored[name])
        node = self._makers.get(name)
        if node is None:
            return None
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            return numpy_helper.to_array(attributes["value"])
        if node.op_type not in ("Identity", "Transpose") or (inner := self.constant(node.input[0])) is None:
            return None
        return inner if node.op_type == "Identity" else inner.transpose(attributes.get("perm"))

    def products(self) -> list[Product]:
        """Every product of a value with float32 weights, with its bias where one is added at once; in their order."""
        found = []
        for number, node in enumerate(self.nodes):
            if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
                continue
            weight = self.constant(node.input[1])
            if weight is None or weight.ndim != 2 or self.constant(node.input[0]) is not None:
                continue
            if weight.dtype != np.float32:
                raise ModelError(f"The weights of {self.name!r} are {weight.dtype}; quantise its float32 export.")
            bias, last = self._bias_after(node.output[0], weight.shape[1])
            nodes = (number,) if last is None else (number, last)
            found.append(Product(node.input[0], weight, bias, nodes, self.nodes[nodes[-1]].output[0]))
        return found

    def _bias_after(self, result: str, width: int) -> tuple[Array | None, int | None]:
        readers = self._readers.get(result, [])
        if len(readers) != 1 or result in self._outputs or self.nodes[readers[0]].op_type != "Add":
            return None, None
        others = [given for given in self.nodes[readers[0]].input if given != result]
        bias = self.constant(others[0]) if len(others) == 1 else None
        if bias is None or bias.shape != (width,) or bias.dtype != np.float32:
            return None, None
        return bias, readers[0]

    def with_taps(self, names: Iterable[str]) -> bytes:
        """The graph with inner values as further outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        missing = [name for name in names if name not in self._outputs]
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in missing)
        data: bytes = model.SerializeToString()
        return data

    def rewritten(self, doors: Mapping[str, Entrance], integers: Sequence[tuple[Product, IntegerProduct]]) -> bytes:
        """The graph with these products in integers, behind the doors by which their values become bytes, and its word
        table in bytes."""
        by_node = {product.nodes[0]: (product, integer) for product, integer in integers}
        gone = {number for product, _ in integers for number in product.nodes}
        nodes: list[Any] = []
        entered: dict[str, str] = {}
        for number, node in enumerate(self.nodes):
            if number in by_node:
                product, integer = by_node[number]
                door = doors[product.value]
                if product.value not in entered:
                    entered[product.value] = self._enter(nodes, product.value, door)
                given = [
                    entered[product.value], self._keep(integer.weight), self._keep(np.float32(door.step)),
                    self._keep(integer.steps.astype(np.float32)), self._keep(np.uint8(door.zero)),
                    self._keep(np.zeros(len(integer.steps), np.int8)), self._keep(integer.bias.astype(np.float32)),
                ]  # fmt: skip
                nodes.append(helper.make_node("MatMulIntegerToFloat", given, [product.result], domain=MICROSOFT))
            elif number not in gone and not self._read_words(nodes, node):
                nodes.append(node)
        return self._finished(nodes)

    def _enter(self, nodes: list[Any], value: str, door: Entrance) -> str:
        if door.factor is not None:
            value = self._add(nodes, "Mul", value, self._keep(door.factor.astype(np.float32)))
        return self._add(
            nodes, "QuantizeLinear", value, self._keep(np.float32(door.step)), self._keep(np.uint8(door.zero))
        )

    def _read_words(self, nodes: list[Any], node: Any) -> bool:
        """Whether the node reads the word table, which is then read from bytes."""
        if node.op_type != "Gather" or node.input[1] != "input_ids":
            return False
        table = self.constant(node.input[0])
        axis = next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "axis"), 0)
        if table is None or table.ndim != 2 or table.dtype != np.float32 or axis != 0:
            return False
        rows, steps = rows_of(table)
        words = self._add(nodes, "Gather", self._keep(rows), "input_ids")
        words = self._add(nodes, "Cast", words, to=TensorProto.FLOAT)
        steps_name = self._add(nodes, "Gather", self._keep(steps), "input_ids")
        nodes.append(helper.make_node("Mul", [words, steps_name], [node.output[0]]))
        return True

    def _add(self, nodes: list[Any], op: str, *inputs: str, **attributes: Any) -> str:
        self._count += 1
        output = f"int8_{op}_{self._count}"
        nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _keep(self, value: Any) -> str:
        self._count += 1
        name = f"int8_constant_{self._count}"
        self._stored[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _finished(self, nodes: list[Any]) -> bytes:
        needed, kept = set(self._outputs), []
        for node in reversed(nodes):  # What no node reads any more is left out, the float weights above all.
            if any(output in needed for output in node.output):
                needed |= set(node.input)
                kept.append(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        for part in (graph.node, graph.initializer, graph.value_info):
            del part[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(tensor for name, tensor in self._stored.items() if name in needed)
        if MICROSOFT not in {entry.domain for entry in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        data: bytes = model.SerializeToString()
        return data
