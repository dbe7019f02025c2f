"""minilm-mixed: both bundled models in one graph, each turned to its leading directions and joined.

A vector is [sqrt(.5) a; sqrt(.5) b]: `a` is MiniLM's, `b` the static model's, each in HALF numbers and of length one.
The halves are orthogonal, so that the fast vector [0; b], for which MiniLM need not run, compares with a whole vector
exactly as with its fast half. onnxruntime computes every output of a graph, whichever is asked for; so MiniLM stands
inside an `If` on the input `whole`.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

HALF = 192
SHARE = 0.5  # of a vector's squared length, in the fast half
SMALLEST = 4096  # bytes of a constant that is worth sharing

Part = tuple[str, int, int]


def leading(sets: list[np.ndarray]) -> np.ndarray:
    """float32 [width, HALF]: the leading directions of unit vectors, every set of them counting the same.

    Not of their deviations from the mean: cosines are taken without taking a mean off.
    """
    moments = sum(rows.T.astype(np.float64) @ rows.astype(np.float64) / len(rows) for rows in sets)
    _, directions = np.linalg.eigh(moments)
    directions = directions[:, ::-1][:, :HALF]
    largest = np.abs(directions).argmax(axis=0)  # the sign of a direction is free: its largest part is positive
    return (directions * np.sign(directions[largest, np.arange(HALF)])).astype(np.float32)


def write(deep: ModelProto, light: ModelProto, turns: tuple[np.ndarray, np.ndarray], note: str) -> ModelProto:
    """`deep` runs if `whole`; `light` always. Each ends with the three nodes of a normalisation, which goes."""
    _rename(light, "fast_")
    constants = [*deep.graph.initializer, *light.graph.initializer]

    def constant(name: str, value: object, dtype: type) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def turned(model: ModelProto, turn: np.ndarray, name: str) -> list:
        length, safe_length, _ = model.graph.node[-3:]
        total, axis = length.input
        turn_name = constant(f"{name}_turn", turn, np.float32)
        return [
            *model.graph.node[:-3],
            helper.make_node("MatMul", [total, turn_name], [f"{name}_turned"]),
            helper.make_node("ReduceL2", [f"{name}_turned", axis], [f"{name}_length"], keepdims=1),
            helper.make_node("Max", [f"{name}_length", safe_length.input[1]], [f"{name}_safe_length"]),
            helper.make_node("Div", [f"{name}_turned", f"{name}_safe_length"], [name]),
        ]

    before, root = constant("before", [0, HALF, 0, 0], np.int64), constant("root", SHARE**0.5, np.float32)
    whole = [
        *turned(deep, turns[0], "slow_half"),
        helper.make_node("Concat", ["slow_half", "fast_half"], ["joined"], axis=1),
        helper.make_node("Mul", ["joined", root], ["whole_vector"]),
    ]
    branches = {
        f"{branch}_branch": helper.make_graph(nodes, branch, [], [_vectors(output)])
        for branch, nodes, output in (
            ("then", whole, "whole_vector"),
            ("else", [helper.make_node("Identity", ["fast"], ["fast_vector"])], "fast_vector"),
        )
    }
    nodes = [
        *turned(light, turns[1], "fast_half"),
        helper.make_node("Pad", ["fast_half", before], ["fast"]),
        helper.make_node("If", ["whole"], ["embedding"], **branches),
    ]
    inputs = [*deep.graph.input, helper.make_tensor_value_info("whole", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "minilm-mixed", inputs, [_vectors("embedding"), _vectors("fast")], constants)
    return helper.make_model(
        graph,
        opset_imports=list(deep.opset_import),
        ir_version=deep.ir_version,
        producer_name="agentmem models/build.py",
        doc_string=note,
    )


def shared(whole: bytes, others: dict[str, tuple[ModelProto, bytes]]) -> tuple[list[Part], bytes]:
    """`whole` as parts, in order, of other files and of what is left of it, which is the second result. A part is a
    file's name ("" for what is left), where it starts there, and its bytes."""
    found: dict[int, Part] = {}  # By its start in `whole`.
    for name, (model, data) in others.items():
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            start, at = whole.find(raw), data.find(raw)
            if len(raw) < SMALLEST or start < 0 or any(old <= start < old + part[2] for old, part in found.items()):
                continue
            size = len(raw)
            while whole[start - 1] == data[at - 1]:
                start, at, size = start - 1, at - 1, size + 1
            while start + size < len(whole) and at + size < len(data) and whole[start + size] == data[at + size]:
                size += 1
            found[start] = (name, at, size)
    parts: list[Part] = []
    left, end = b"", 0
    for start, part in [*sorted(found.items()), (len(whole), ("", 0, 0))]:
        parts.append(("", len(left), start - end))
        left += whole[end:start]
        parts.append(part)
        end = start + part[2]
    return [part for part in parts if part[2]], left


def _rename(model: ModelProto, prefix: str) -> None:
    """Gives every value of the graph but its inputs another name."""
    kept = {given.name for given in model.graph.input}
    for tensor in model.graph.initializer:
        tensor.name = prefix + tensor.name
    for node in model.graph.node:
        node.name = prefix + node.name
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = name if name in kept else prefix + name


def _vectors(name: str):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2 * HALF])
