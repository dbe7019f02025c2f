"""Models whose vectors have a half that costs next to nothing: what the halves promise, and that they do not wait."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from agentmem import Config
from agentmem.embedding import fast_half
from agentmem.embedding.catalog import find_model
from agentmem.embedding.custom import GivenEmbedder
from agentmem.embedding.embedder import Embedder
from agentmem.embedding.model_card import ModelCard, read_card
from agentmem.errors import ClosedError, EmbeddingError, InvalidInputError, ModelError
from agentmem.stats import Timings
from agentmem.testing import HashEmbedder
from tests.conftest import our_threads
from tests.tiny_models import with_fast_half, write_model

TEXTS = ["a cat sleeps", "she likes window seats on long flights", "tea", "where does the cat sleep", "coffee : red"]
CARD = 'name = "tiny-fast"\nfast_share = 0.3\ndimension = 16\nmax_tokens = 20\n'


def embedder_of(source: ModelCard | GivenEmbedder, **settings) -> Embedder:
    return Embedder(source, Config(**settings), lambda digests: {}, Timings())


def vector(answer: object) -> np.ndarray:
    assert isinstance(answer, bytes), answer
    return np.frombuffer(answer, "<f2").astype(np.float64)


def whole(embedder: Embedder, texts: list[str]) -> list[np.ndarray]:
    return [vector(a) for a in embedder.embed(texts, [None] * len(texts), "document", urgent=True, timeout=30)]


@pytest.fixture(params=["minilm-mixed", "a folder", "HashEmbedder"])
def embedder(request, tmp_path):
    if request.param == "minilm-mixed":
        made = embedder_of(find_model("minilm-mixed"))
    elif request.param == "a folder":
        made = embedder_of(read_card(write_model(tmp_path, pooling=None, graph=with_fast_half(0.3), card=CARD)))
    else:
        made = embedder_of(HashEmbedder(fast=True))
    yield made
    made.close()
    assert our_threads() == []


def test_a_text_scores_one_against_itself_whole_or_by_its_fast_half(embedder):
    assert embedder.has_fast
    for text, fast, known in zip(TEXTS, embedder.fast_documents(TEXTS), whole(embedder, TEXTS), strict=True):
        query = vector(embedder.fast_query(text))
        assert query @ vector(fast) == pytest.approx(1, abs=2e-3)
        assert query @ known == pytest.approx(1, abs=2e-3)


def test_a_fast_query_scores_a_memory_alike_whether_it_is_whole(embedder):
    query = vector(embedder.fast_query("where do cats sleep"))
    for fast, known in zip(embedder.fast_documents(TEXTS), whole(embedder, TEXTS), strict=True):
        assert query @ known == pytest.approx(query @ vector(fast), abs=2e-3)


def test_a_fast_vector_is_not_the_whole_one(embedder):
    queries = [vector(embedder.fast_query(text)) for text in TEXTS]
    known = whole(embedder, TEXTS)
    assert max(abs(q @ b - a @ b) for q, a in zip(queries, known, strict=True) for b in known) > 0.05


def test_a_fast_vector_does_not_depend_on_the_texts_beside_it(embedder, monkeypatch):
    together = embedder.fast_documents(TEXTS)
    monkeypatch.setattr(fast_half, "MOST_TEXTS", 2)
    for text, pair, among_others in zip(TEXTS, embedder.fast_documents(TEXTS), together, strict=True):
        [alone] = embedder.fast_documents([text])
        np.testing.assert_allclose(vector(alone), vector(among_others), atol=2e-3)
        np.testing.assert_allclose(vector(pair), vector(among_others), atol=2e-3)


def test_no_texts_have_no_vectors(embedder):
    assert embedder.fast_documents([]) == []


def test_prefixes_are_read_by_the_fast_half_too(tmp_path):
    card = CARD + 'query_prefix = "red green "\ndocument_prefix = "tea coffee "\n'
    write_model(tmp_path / "plain", pooling=None, graph=with_fast_half(0.3), card=CARD)
    write_model(tmp_path / "prefixed", pooling=None, graph=with_fast_half(0.3), card=card)
    plain, prefixed = (embedder_of(read_card(tmp_path / name)) for name in ("plain", "prefixed"))
    assert plain.fast_documents(["tea coffee cat"]) == prefixed.fast_documents(["cat"])
    assert plain.fast_query("red green cat") == prefixed.fast_query("cat")
    plain.close()
    prefixed.close()


@pytest.mark.parametrize("change", [{"card": CARD.replace("0.3", "0.4")}, {"graph": with_fast_half(0.4)}])
def test_the_fast_half_belongs_to_the_identity_of_a_model(tmp_path, change):
    form = {"pooling": None, "graph": with_fast_half(0.3), "card": CARD}
    cards = [
        read_card(write_model(tmp_path / name, **some))
        for name, some in (("a", form), ("b", form | change), ("c", form))
    ]
    assert cards[0].identity == cards[2].identity != cards[1].identity


@pytest.mark.parametrize("names", [{"whole": "deep"}, {"fast": "quick"}])
def test_a_graph_without_the_fast_half_of_its_card_is_told(tmp_path, names):
    made = embedder_of(read_card(write_model(tmp_path, pooling=None, graph=with_fast_half(0.3, **names), card=CARD)))
    with pytest.raises(ModelError, match="deep" if "whole" in names else "quick"):
        made.fast_query("tea")


def test_models_without_a_fast_half_say_so():
    for source in (find_model("all-MiniLM-L6-v2"), find_model("minilm-mixed", dimension=128), HashEmbedder()):
        assert not embedder_of(source).has_fast
    assert find_model("minilm-mixed", dimension=384) == find_model("minilm-mixed")


class Blocked(HashEmbedder):
    """Its model hangs until it is told, its fast half does not; it fails on one text."""

    def __init__(self) -> None:
        super().__init__(fast=True)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def embed(self, texts):
        self.begun.set()
        self.go_on.wait(30)
        return super().embed(texts)

    def embed_fast(self, texts):
        if "guilty" in texts:
            raise ValueError("no such text")
        return super().embed_fast(texts)


def test_fast_vectors_do_not_wait_for_the_model():
    given = Blocked()
    made = embedder_of(given)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(whole, made, ["tea"])
        assert given.begun.wait(30)
        expected = HashEmbedder(fast=True).embed_fast(TEXTS)[:, 32:]
        for answer, row in zip(made.fast_documents(TEXTS), expected, strict=True):
            np.testing.assert_allclose(vector(answer)[32:], row * 0.5**0.5, atol=1e-3)
        made.fast_query("tea")
        assert not slow.done()
        given.go_on.set()
        slow.result(30)
    made.close()


def test_a_text_that_the_fast_half_fails_on_does_not_harm_the_others():
    made = embedder_of(Blocked())
    answers = made.fast_documents([*TEXTS, "guilty", "tea"])
    assert [isinstance(answer, EmbeddingError) for answer in answers] == [*[False] * len(TEXTS), True, False]
    assert "no such text" in str(answers[len(TEXTS)])
    with pytest.raises(EmbeddingError, match="no such text"):
        made.fast_query("guilty")
    made.close()


def test_many_threads_get_the_vectors_of_their_own_texts():
    made = embedder_of(find_model("minilm-mixed"))
    texts = [[f"{text} {number}" for text in TEXTS] for number in range(8)]
    expected = [made.fast_documents(some) for some in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(made.fast_documents, texts * 4)) == expected * 4
    made.close()


def test_a_closed_embedder_makes_no_fast_vectors(embedder):
    embedder.close()
    for call in (lambda: embedder.fast_documents(["tea"]), lambda: embedder.fast_query("tea"), embedder.warm):
        with pytest.raises(ClosedError):
            call()


def test_a_model_is_loaded_in_the_background(embedder):
    embedder.warm()
    embedder.warm()
    embedder.fast_query("tea")
    embedder.warm()
    assert len(our_threads()) <= 1


def test_a_damaged_model_is_told_by_the_second_call_at_the_latest_and_until_it_is_mended(tmp_path):
    write_model(tmp_path, pooling=None, graph=with_fast_half(0.3), card=CARD)
    card = read_card(tmp_path)
    shutil.copy(tmp_path / "model.onnx", tmp_path / "good")
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    timings = Timings()
    made = Embedder(card, Config(), lambda digests: {}, timings)
    made.warm()
    made._warming.join(30)
    for _ in range(2):
        with pytest.raises(ModelError, match="damaged"):
            made.warm()
    [cause] = timings.errors.latest()
    assert cause == "loading the model: ModelError"
    shutil.copy(tmp_path / "good", tmp_path / "model.onnx")
    made.warm()
    made.fast_query("tea")
    made.close()


@pytest.mark.parametrize("share", [1, -0.1, 2, "half"])
def test_an_embedder_with_an_impossible_share_is_refused_with_it(share):
    given = HashEmbedder()
    given.fast_share = share
    with pytest.raises(InvalidInputError, match=str(share)):
        embedder_of(given)


def test_an_embedder_with_a_share_and_no_method_for_it_is_refused():
    class Half:
        identity, dimension, fast_share = "half", 2, 0.5

        def embed(self, texts: list[str]) -> np.ndarray:
            return np.ones((len(texts), 2), np.float32)

    with pytest.raises(InvalidInputError, match="embed_fast"):
        embedder_of(Half())


def test_a_model_in_parts_is_whole_only_with_all_of_them(tmp_path):
    for name in ("all-MiniLM-L6-v2", "minilm-static", "minilm-mixed"):
        shutil.copytree(find_model(name).folder, tmp_path / name, copy_function=lambda a, b: Path(b).symlink_to(a))
    made = embedder_of(read_card(tmp_path / "minilm-mixed"))
    assert made.identity == find_model("minilm-mixed").identity
    (tmp_path / "minilm-static" / "model.onnx").unlink()
    with pytest.raises(ModelError, match="minilm-static"):
        made.fast_query("tea")
    (tmp_path / "minilm-static" / "model.onnx").write_bytes(b"x" * 8_000_000)
    with pytest.raises(ModelError, match=r"minilm-mixed.*model\.onnx.*damaged"):
        made.fast_query("tea")
