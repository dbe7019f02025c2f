"""The int8 form of models of BERT's shape: near the float32 one, whatever the batch, whatever the processor."""

import builtins
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from agentmem import InvalidInputError, Memory, ModelError, ModelMismatchError
from agentmem.embedding.catalog import find_model
from agentmem.embedding.onnx_model import load_model
from agentmem.embedding.quantization.int8 import PAIR, entrance, pair_limited, rows_of, smoothing
from agentmem.embedding.quantization.onnx_graph import Graph
from agentmem.quantize import quantize
from tests.tiny_models import VOCABULARY, Tiny, write_model

RANDOM = np.random.default_rng(3)
WORDS = VOCABULARY[4:]
TEXTS = [" ".join(RANDOM.choice(WORDS, size)) for size in RANDOM.integers(1, 9, 160)]


def vectors_of(folder: Path, texts: list[str], batch: int) -> np.ndarray:
    model = load_model(find_model(str(folder)), ["CPUExecutionProvider"])
    items = [item for item, _ in model.prepare(texts)]
    rows = np.concatenate([model.run(items[start : start + batch]) for start in range(0, len(items), batch)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory) -> Path:
    graph = Tiny(width=64, heads=4, layers=3).build()
    config = {"hidden_size": 64}
    return write_model(tmp_path_factory.mktemp("float"), pooling="cls", graph=graph, config=config)


@pytest.fixture(scope="module")
def quantized(float_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "model"
    return quantize(str(float_folder), folder, calibration=TEXTS)


@pytest.mark.slow
def test_the_result_says_how_good_it_is_and_it_is(float_folder, quantized):
    assert quantized.products == 3 * 6
    assert quantized.bytes_after < 0.4 * quantized.bytes_before
    assert quantized.cosine_mean > 0.99
    assert quantized.invariance > 0.99999
    assert quantized.speed_before > 0
    assert quantized.speed_after > 0
    fresh = [" ".join(RANDOM.choice(WORDS, size)) for size in RANDOM.integers(1, 9, 64)]
    exact, small = (vectors_of(Path(folder), fresh, 1) for folder in (float_folder, quantized.folder))
    assert (exact * small).sum(axis=1).mean() > 0.99


def test_a_vector_does_not_depend_on_its_batch(quantized):
    folder = Path(quantized.folder)
    assert (vectors_of(folder, TEXTS, 1) * vectors_of(folder, TEXTS, 16)).sum(axis=1).min() > 0.99999


def test_no_two_neighbouring_weights_can_overflow_sixteen_bits(quantized):
    graph = onnx.load(Path(quantized.folder) / "model.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == quantized.products
    for node in products:
        weight = np.abs(stored[node.input[1]].astype(int))
        assert (weight[0::2] + weight[1::2]).max() <= PAIR
        assert stored[node.input[4]].dtype == np.uint8
    assert not [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    assert max(array.size for array in stored.values() if array.dtype == np.float32) < 64 * 64


def test_an_int8_model_is_a_model_of_its_own(float_folder, quantized, tmp_path):
    with Memory(tmp_path / "agent.db", model=quantized.folder) as memory:
        memory.add("she likes tea", user_id="ana")
        assert memory.search("tea", user_id="ana", mode="vector")[0].score > 0.3
        assert memory.check() == []
    card = find_model(quantized.folder)
    source = find_model(str(float_folder))
    assert (card.pooling, card.max_tokens, card.dimension) == (source.pooling, source.max_tokens, source.dimension)
    assert card.name == f"{source.name}-int8"
    with pytest.raises(ModelMismatchError):
        Memory(tmp_path / "agent.db", model=str(float_folder))


@pytest.mark.slow
def test_the_same_texts_make_the_same_bytes(float_folder, quantized, tmp_path):
    again = quantize(str(float_folder), tmp_path / "again", calibration=TEXTS)
    assert (Path(again.folder) / "model.onnx").read_bytes() == (Path(quantized.folder) / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    "form",
    [{"pooled": True, "output": "sentence_embedding"}, {"types": False}, {"position_ids": True}, {"output": "mine"}],
    ids=str,
)
def test_every_form_of_a_graph_is_quantised(tmp_path, form):
    folder = write_model(tmp_path / "float", **form)
    result = quantize(str(folder), tmp_path / "int8", calibration=TEXTS)
    assert result.cosine_mean > 0.97
    assert result.invariance > 0.99999


def turned() -> bytes:
    """Weights that are stored the other way round and turned by a node, or kept in a node, as some exporters do."""
    model = onnx.load_from_string(Tiny().build())
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = []
    for number, node in enumerate(graph.node):
        if node.op_type == "MatMul" and node.input[1] in stored:
            tensor = stored[node.input[1]]
            weight = numpy_helper.to_array(tensor)
            name = tensor.name
            if number % 2:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), f"{name}_turned"))
                made.append(onnx.helper.make_node("Transpose", [f"{name}_turned"], [name], perm=[1, 0]))
            else:
                value = numpy_helper.from_array(weight)
                graph.initializer.remove(tensor)
                made.append(onnx.helper.make_node("Constant", [], [name], value=value))
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()


def test_weights_are_found_wherever_an_exporter_keeps_them(tmp_path):
    folder = write_model(tmp_path / "float", graph=turned())
    result = quantize(str(folder), tmp_path / "int8", calibration=TEXTS)
    assert result.products == 2 * 6
    plain = quantize(str(write_model(tmp_path / "plain")), tmp_path / "plain8", calibration=TEXTS)
    first, second = (vectors_of(Path(one.folder), TEXTS[:20], 1) for one in (result, plain))
    np.testing.assert_allclose(first, second, atol=1e-5)


def dynamic() -> bytes:
    """A product of the graph quantised as dynamic tools do it: by the range of the whole batch."""
    model = onnx.load_from_string(Tiny().build())
    graph = model.graph
    [last] = [node for node in graph.node if node.output[0] == "last_hidden_state"]
    inner = last.input[0]
    last.input[0] = "coarse"
    nodes = [
        onnx.helper.make_node("DynamicQuantizeLinear", [inner], ["bytes", "step", "zero"]),
        onnx.helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["fine"]),
        # So that the effect is large: the vectors are what rounding by the batch's range leaves.
        onnx.helper.make_node("Mul", ["fine", "step"], ["scaled"]),
        onnx.helper.make_node("Sub", ["fine", inner], ["rest"]),
        onnx.helper.make_node("Add", ["rest", "scaled"], ["coarse"]),
    ]
    place = list(graph.node).index(last)
    rest = [*list(graph.node)[:place], *nodes, *list(graph.node)[place:]]
    del graph.node[:]
    graph.node.extend(rest)
    return model.SerializeToString()


def test_a_model_that_depends_on_its_batch_is_not_passed_on(tmp_path):
    folder = write_model(tmp_path / "float", graph=dynamic())
    with pytest.raises(ModelError, match="depend on their batch"):
        quantize(str(folder), tmp_path / "int8", calibration=TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["float"]


def of_opset(version: int) -> bytes:
    model = onnx.load_from_string(Tiny().build())
    model.opset_import[0].version = version
    return model.SerializeToString()


def with_half_weights() -> bytes:
    model = onnx.load_from_string(Tiny().build())
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model.SerializeToString()


def test_graphs_that_cannot_be_rewritten_are_told():
    with pytest.raises(ModelError, match="cannot be read"):
        Graph(b"not a graph", "one")
    with pytest.raises(ModelError, match="opset"):
        Graph(of_opset(9), "one")
    with pytest.raises(ModelError, match=r"float16.*float32 export"):
        Graph(with_half_weights(), "one").products()


def test_what_is_quantised_already_is_told(quantized, tmp_path):
    for source in (quantized.folder, "all-MiniLM-L6-v2"):
        with pytest.raises(ModelError, match="quantised already"):
            quantize(source, tmp_path / "twice", calibration=TEXTS)


@pytest.mark.slow
def test_arguments_that_cannot_be_used_are_refused(float_folder, tmp_path):
    with pytest.raises(InvalidInputError, match="exists"):
        quantize(str(float_folder), tmp_path)
    for texts in (["tea"] * 15, ["tea"] * 20 + [" "] * -5 + [3], "tea" * 30, [""] * 30):
        with pytest.raises(InvalidInputError, match="calibration"):
            quantize(str(float_folder), tmp_path / "new", calibration=texts)
    with pytest.raises(ModelError, match="no model"):
        quantize("no-such-model", tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        quantize(str(float_folder), tmp_path / "file" / "new", calibration=TEXTS)


def test_without_onnx_the_extra_is_named(float_folder, tmp_path, monkeypatch):
    true_import = builtins.__import__

    def without(name, *arguments, **options):
        if name in ("onnx", "agentmem.embedding.quantization.onnx_graph"):
            raise ImportError(name)
        return true_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"agentmem\[quantize\]"):
        quantize(str(float_folder), tmp_path / "new", calibration=TEXTS)


def test_there_are_texts_to_calibrate_on():
    from agentmem.quantize import _calibration

    assert len(_calibration(None)) > 400


# -- rounding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 5), (7, 3), (1, 1), (64, 1)])
def test_pairs_of_weights_stay_within_their_bound_and_close(shape):
    weight = RANDOM.standard_normal(shape) * 10.0 ** RANDOM.integers(-6, 6, shape[1])
    rounded, steps = pair_limited(weight)
    assert rounded.dtype == np.int8
    assert rounded.shape == shape
    padded = np.pad(np.abs(rounded.astype(int)), ((0, shape[0] % 2), (0, 0)))
    assert (padded[0::2] + padded[1::2]).max() <= PAIR
    assert np.abs(rounded * steps - weight).max(axis=0).max() <= 0.5001 * steps.max()


def test_rows_and_columns_of_zeros_are_rounded_to_zeros():
    weight = RANDOM.standard_normal((6, 3))
    weight[:, 1] = 0
    rounded, steps = pair_limited(weight)
    assert np.isfinite(steps).all()
    assert not rounded[:, 1].any()
    rows, row_steps = rows_of(weight.T.astype(np.float32))
    assert np.isfinite(row_steps).all()
    assert not rows[1].any()


def test_a_door_holds_the_whole_range_and_zero_exactly():
    for entered in (
        RANDOM.standard_normal((50, 4)),
        RANDOM.random((50, 4)) + 3,
        -RANDOM.random((5, 4)),
        np.zeros((2, 2)),
    ):
        door = entrance(entered.astype(np.float32), None)
        stored = door.stored(entered.astype(np.float32))
        assert stored.min() >= 0
        assert stored.max() <= 255
        assert np.abs((stored - door.zero) * door.step - entered).max() <= 1.01 * door.step
        assert door.stored(np.zeros(1, np.float32)) == door.zero


def test_only_channels_above_the_middle_are_divided():
    entered = np.ones((10, 5), np.float32)
    entered[:, 2] = 100
    assert smoothing(entered).tolist()[:2] == [1, 1]
    assert smoothing(entered)[2] > 20
    assert smoothing(np.zeros((3, 4), np.float32)).tolist() == [1] * 4
