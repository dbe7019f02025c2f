"""Models from folders: every form in which they are published makes the vectors that it should."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from tokenizers import Tokenizer

from agentmem import Memory, ModelError, ModelMismatchError
from agentmem.embedding.catalog import find_model
from agentmem.embedding.model_card import ModelCard
from agentmem.embedding.onnx_model import load_model
from tests.tiny_models import CONFIG, Tiny, tokenizer_json, write_model

TEXTS = ["she likes window seats", "tea", "the cat sleeps where she likes tea and a long long flights"]


def vectors_of(name: str | Path | ModelCard, texts=TEXTS) -> np.ndarray:
    """Unit vectors as the engine makes them, all texts in one batch."""
    card = name if isinstance(name, ModelCard) else find_model(str(name))
    model = load_model(card, ["CPUExecutionProvider"])
    vectors = model.run([item for item, _ in model.prepare(texts)])
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), card.dimension)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def expected(pooling: str, texts=TEXTS, *, limit: int = 10, first: int = 0) -> np.ndarray:
    """The same from the graph's own words: a text at a time, without padding, pooled here."""
    tokenizer = Tokenizer.from_str(tokenizer_json(first=first))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    session = onnxruntime.InferenceSession(Tiny().build(), providers=["CPUExecutionProvider"])
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        [hidden] = session.run(None, fed)[0]
        row = {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(axis=0)}[pooling]
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("inside", ["", "onnx/"])
def test_a_folder_of_sentence_transformers_is_pooled_as_it_says(tmp_path, pooling, inside):
    folder = write_model(tmp_path, pooling=pooling, inside=inside)
    card = find_model(str(folder))
    assert (card.pooling, card.dimension, card.max_tokens) == (pooling, 16, 10)
    np.testing.assert_allclose(vectors_of(folder), expected(pooling), atol=1e-5)


def test_the_poolings_differ():
    assert (expected("cls") * expected("mean")).sum(axis=1).max() < 0.99
    assert (expected("last") * expected("mean")).sum(axis=1).max() < 0.99


@pytest.mark.parametrize(
    ("form", "tolerance"),
    [
        ({"integers": TensorProto.INT32}, 1e-5),
        ({"pooled": True, "output": "sentence_embedding"}, 1e-5),
        ({"pooled": True, "output": "embedding"}, 1e-5),
        ({"pooled": True, "output": "of_its_own"}, 1e-5),
        ({"output": "token_embeddings"}, 1e-5),
        ({"output": "of_its_own"}, 1e-5),
        ({"half": True}, 2e-3),
        ({"pooled": True, "output": "sentence_embedding", "half": True}, 2e-3),
        ({"position_ids": True}, 1e-5),
    ],
    ids=str,
)
def test_inputs_and_outputs_of_every_form_make_the_same_vectors(tmp_path, form, tolerance):
    np.testing.assert_allclose(vectors_of(write_model(tmp_path, **form)), expected("mean"), atol=tolerance)


def test_an_export_without_token_types_is_read(tmp_path):
    vectors = vectors_of(write_model(tmp_path, types=False))
    alone = np.concatenate([vectors_of(tmp_path, [text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_positions_begin_where_the_model_counts_from(tmp_path):
    """RoBERTa's begin behind the number of its padding; they are given only where the graph asks for them."""
    config = {"model_type": "xlm-roberta", "pad_token_id": 4, "max_position_embeddings": 12}
    plain = write_model(tmp_path / "plain", position_ids=True)
    shifted = write_model(tmp_path / "shifted", position_ids=True, config=config)
    card = find_model(str(shifted))
    assert (card.position_offset, card.max_tokens) == (5, 7)
    assert card.identity != find_model(str(plain)).identity
    assert np.abs(vectors_of(shifted, ["tea"]) - vectors_of(plain, ["tea"])).max() > 0.01


def test_padding_is_written_with_the_number_that_the_tokenizer_has_for_it(tmp_path):
    folder = write_model(tmp_path, tokenizer=tokenizer_json("<pad>", first=9))
    model = load_model(find_model(str(folder)), ["CPUExecutionProvider"])
    fed = model.feed([item for item, _ in model.prepare(["tea", "she likes tea"])])
    assert fed["input_ids"][0, -1] == 9
    assert fed["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_only_a_graph_and_a_tokenizer_are_enough_where_the_graph_pools(tmp_path):
    folder = write_model(tmp_path, pooling=None, pooled=True, output="sentence_embedding")
    card = find_model(str(folder))
    assert (card.pooling, card.dimension, card.max_tokens) == ("graph", 16, 512)
    np.testing.assert_allclose(vectors_of(folder, TEXTS[:2]), expected("mean", TEXTS[:2]), atol=1e-5)


def test_a_card_of_one_line_says_what_the_files_do_not(tmp_path):
    folder = write_model(tmp_path, pooling=None, card='pooling = "cls"\nmax_tokens = 10\n')
    np.testing.assert_allclose(vectors_of(folder), expected("cls"), atol=1e-5)


def test_prompts_become_prefixes_and_the_card_counts_more(open_memory, tmp_path):
    prompts = {"query": "query : ", "passage": "passage : "}
    folder = write_model(tmp_path / "model", prompts=prompts, card='document_prefix = "the "\n')
    card = find_model(str(folder))
    assert (card.query_prefix, card.document_prefix) == ("query : ", "the ")
    with open_memory(model=str(folder)) as memory:
        memory.add("cat sleeps", user_id="ana")
        [match] = memory.search("cat sleeps", user_id="ana", mode="vector")
        near = float(expected("mean", ["query : cat sleeps"])[0] @ expected("mean", ["the cat sleeps"])[0])
        assert match.score == pytest.approx(near, abs=5e-3)


def test_a_text_is_cut_at_the_smallest_limit_that_is_stated(tmp_path):
    folder = write_model(tmp_path, config={"max_position_embeddings": 6})
    assert find_model(str(folder)).max_tokens == 6
    np.testing.assert_allclose(vectors_of(folder), expected("mean", limit=6), atol=1e-5)


def test_a_cut_keeps_the_first_numbers(tmp_path):
    whole = expected("mean")[:, :6]
    cut = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    folder = write_model(tmp_path)
    card = find_model(str(folder), dimension=6)
    np.testing.assert_allclose(vectors_of(card), cut, atol=1e-5)
    (folder / "model.toml").write_text("dimension = 6\n")
    np.testing.assert_allclose(vectors_of(folder), cut, atol=1e-5)
    assert find_model(str(folder)).identity == card.identity
    for dimension in (0, 7, True, "6"):
        with pytest.raises(ModelError, match="dimension is "):
            find_model(str(folder), dimension=dimension)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.onnx").write_bytes(Tiny(seed=8).build()),
        lambda folder: (folder / "tokenizer.json").write_text(tokenizer_json(first=1)),
        lambda folder: (folder / "model.toml").write_text('pooling = "cls"'),
        lambda folder: (folder / "model.toml").write_text('query_prefix = "query : "'),
        lambda folder: (folder / "model.toml").write_text('document_prefix = "passage : "'),
        lambda folder: (folder / "model.toml").write_text("max_tokens = 9"),
        lambda folder: (folder / "model.toml").write_text("dimension = 15"),
        lambda folder: (folder / "model.toml").write_text('name = "another"'),
    ],
)
def test_a_store_knows_a_model_that_makes_other_vectors(tmp_path, change):
    folder = write_model(tmp_path / "model")
    with Memory(tmp_path / "agent.db", model=str(folder)) as memory:
        memory.add("tea", user_id="ana")
    shutil.move(folder, tmp_path / "elsewhere")  # The same model at another place is the same model.
    with Memory(tmp_path / "agent.db", model=str(tmp_path / "elsewhere")) as memory:
        assert memory.check() == []
    change(tmp_path / "elsewhere")
    with pytest.raises(ModelMismatchError):
        Memory(tmp_path / "agent.db", model=str(tmp_path / "elsewhere"))


def without_inputs(name: str) -> bytes:
    model = onnx.load_from_string(Tiny().build())
    for node in model.graph.node:
        node.input[:] = [f"other_{name}" if given == name else given for given in node.input]
    for given in model.graph.input:
        given.name = f"other_{name}" if given.name == name else given.name
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"graph": without_inputs("attention_mask")}, ["other_attention_mask", "token_type_ids"]),
        ({"graph": without_inputs("input_ids")}, ["other_input_ids"]),
        ({"fixed": True}, ["[1, 12]", "dynamic axes"]),
        ({"pooling": None}, ["last_hidden_state", 'pooling = "mean"']),
        ({"card": "dimension = 17"}, ["16", "17"]),
        ({"config": {"hidden_size": 15}, "card": 'pooling = "mean"\nmax_tokens = 5\ndimension = 20'}, ["16", "20"]),
        ({"graph": b"not a graph"}, ["cannot be loaded"]),
        ({"tokenizer": "{"}, ["cannot be loaded"]),
        ({"tokenizer": "[]"}, ["cannot be loaded"]),
    ],
    ids=lambda value: None,
)
def test_a_model_that_does_not_fit_is_told_with_what_was_found(tmp_path, form, told):
    folder = write_model(tmp_path / "model", **form)
    with pytest.raises(ModelError) as caught, Memory(":memory:", model=str(folder)) as memory:
        memory.add("tea", user_id="ana")
    assert all(part in str(caught.value) for part in [str(folder), *told]), caught.value


def other_output() -> bytes:
    model = onnx.load_from_string(Tiny().build(output="one"))
    second = onnx.helper.make_tensor_value_info("two", TensorProto.FLOAT, ["batch", "length", 16])
    model.graph.node.append(onnx.helper.make_node("Identity", ["one"], ["two"]))
    model.graph.output.append(second)
    return model.SerializeToString()


def test_two_outputs_with_names_of_their_own_are_not_guessed_at(tmp_path):
    folder = write_model(tmp_path, graph=other_output())
    with pytest.raises(ModelError, match=r"outputs .*one.*two.*sentence_embedding"):
        load_model(find_model(str(folder)), ["CPUExecutionProvider"])


def test_weights_in_a_second_file_are_refused(tmp_path):
    folder = write_model(tmp_path)
    (folder / "model.onnx_data").write_bytes(b"weights")
    with pytest.raises(ModelError, match="second file"):
        load_model(find_model(str(folder)), ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", "{", "config.json"),
        ("config.json", "[]", "not a JSON object"),
        ("modules.json", "{}", "not a list"),
        ("modules.json", "[1]", "not a list"),
        ("modules.json", json.dumps([{"type": "x.Dense", "path": "2_Dense"}]), "Dense"),
        ("modules.json", json.dumps([{"type": "x.Pooling", "path": "../1_Pooling"}]), "outside the folder"),
        ("modules.json", json.dumps([{"type": "x.Pooling", "path": "/etc"}]), "outside the folder"),
        ("1_Pooling/config.json", json.dumps({"pooling_mode_max_tokens": True}), "pooling_mode_max_tokens"),
        (
            "1_Pooling/config.json",
            json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}),
            "cls",
        ),
        ("1_Pooling/config.json", json.dumps({"other": 1}), "which is not supported"),
        ("model.toml", "poling = 'mean'", "poling"),
        ("model.toml", "pooling = 'max'", "not one of"),
        ("model.toml", "pooling = 7", "not a text"),
        ("model.toml", "max_tokens = true", "whole number"),
        ("model.toml", "position_offset = -1", "position_offset"),
        ("model.toml", "fast_share = 1.5", "fast_share is 1.5"),
        ("model.toml", "fast_share = 'half'", "fast_share is 'half'"),
        ("model.toml", "parts = 3", "parts is 3"),
        ("model.toml", "[parts]\n'model.onnx' = [['../../secret', 0, 9]]", "secret"),
        ("model.toml", "[parts]\n'model.onnx' = [['', -1, 9]]", "from -1"),
        ("model.toml", "[parts]\n'model.onnx' = [['', 0]]", "model.toml"),
        ("model.toml", "[files]\n'model.onnx' = 'abc'\n'tokenizer.json' = 'abc'", "sha256"),
    ],
)
def test_a_description_that_cannot_be_used_is_named_with_its_value(tmp_path, name, content, told):
    folder = write_model(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=told):
        find_model(str(folder))


def test_later_forms_of_the_descriptions_are_read(tmp_path):
    folder = write_model(tmp_path)
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "lasttoken", "embedding_dimension": 16}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert find_model(str(folder)).pooling == "last"
    assert find_model(str(folder)).max_tokens == 10
    assert CONFIG["max_position_embeddings"] > 10


def test_a_model_that_changes_between_opening_and_loading_is_found_out(tmp_path):
    folder = write_model(tmp_path / "model")
    with Memory(":memory:", model=str(folder)) as memory:
        (folder / "model.onnx").write_bytes(Tiny(seed=8).build())
        with pytest.raises(ModelError, match="sha256"):
            memory.add("tea", user_id="ana")
