"""One model: its tokenizer and its session. The only importer of onnxruntime and tokenizers."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Set before the tokenizers are first used, and only if it is not set. The library's warning about forks would reach the
# users of every forking server.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# onnxruntime reports its use over the network, and keeps a database of it in the user's folder. Its threads for that
# make a forked child hang when it exits. It listens to this variable only while it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
import tokenizers

from agentmem.embedding.model_card import ModelCard, read_verified
from agentmem.embedding.queue import CHARACTERS_A_TOKEN
from agentmem.embedding.sentence_transformers import TOKENIZER_FILE
from agentmem.errors import EmbeddingError, ModelError

Tokens = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

POOLED = ("embedding", "sentence_embedding", "embeddings")
"""Outputs with a vector a text, in order of preference. Not `pooler_output`, which was trained for something else."""

UNPOOLED = ("last_hidden_state", "token_embeddings", "hidden_states")
"""Outputs with a vector a token."""

FED_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")

FAST, WHOLE = "fast", "whole"
"""The output with the fast half of a vector, and the input that tells whether more than that is wanted."""

INPUT_TYPES: dict[str, Any] = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(bool)": np.bool_,
}  # fmt: skip

MOST_CHARACTERS_A_TOKEN = 100
"""A word piece model reads at most 100 characters as one word. So no more than this many a token can matter, but for
long runs of spaces. Cutting the text there spares the tokenizer a megabyte of which the model sees a page."""

SHORT = 400
"""Characters of a text that is tokenised with the GIL held: 30 microseconds or so."""

INTRA_OP_THREADS = INTER_OP_THREADS = 1
"""Of a session. Parallelism comes from runs side by side: two of one thread each beat one of two threads in every case
measured. A lone text gains only from threads that spin while there is nothing to do."""

DISABLED_OPTIMIZERS = ["SkipLayerNormFusion", "EmbedLayerNormFusion"]
"""Fusions whose kernels are slower on a CPU than what they replace (8 times at 256 tokens)."""


class Model:
    """A model of the catalog, loaded: texts become rows of tokens, rows of tokens become vectors.

    Both methods may be called from any thread; `run` computes on the caller's thread with one core and releases the
    GIL while it does.

    Raises:
        ModelError: a file is missing or damaged, or the model does not have the form that its card says.
    """

    def __init__(
        self, card: ModelCard, providers: Sequence[str], graph: bytes | None = None, taps: Sequence[str] = ()
    ) -> None:
        """`graph` is used in the place of the card's own; `taps` are outputs of it that only `values` reads."""
        self.dimension = card.dimension
        self._card = card
        self._max_tokens = card.max_tokens
        self._longest = card.max_tokens * MOST_CHARACTERS_A_TOKEN
        if graph is None:
            graph = read_verified(card, card.graph)
        _refuse_second_file(card)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(read_verified(card, TOKENIZER_FILE))
            self._padding_id = _padding_id(self._tokenizer)
            # The published file pads everything to 128 and cuts there. Set once, here: other threads use it later.
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(card.max_tokens)
            self._session = onnxruntime.InferenceSession(
                graph,
                _session_options(card),
                providers=list(providers),
                disabled_optimizers=DISABLED_OPTIMIZERS,
            )
        except ModelError:
            raise
        except Exception as error:  # Both libraries raise plain Exceptions of many kinds.
            raise ModelError(f"The model in {str(card.folder)!r} cannot be loaded ({error}).") from error
        # Otherwise a failing run would build a new session, under the feet of other threads.
        self._session.disable_fallback()
        self._inputs = _input_types(card, self._session.get_inputs())
        outputs = [entry for entry in self._session.get_outputs() if entry.name not in (*taps, FAST)]
        if card.fast_share:
            _check_fast(card, self._inputs, self._session.get_outputs())
        self._output, self._pooled = _choose_output(card, outputs)

    def prepare(self, texts: Sequence[str]) -> list[tuple[Any, int]]:
        """What `run` takes of each text (its token ids, int64 (length,)), and how many tokens it has, at most the
        card's `max_tokens`."""
        return [(ids, len(ids)) for ids in self._tokens([text[: self._longest] for text in texts])]

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, to its end, without the marks that the model wants around it."""
        return [
            sum(len(part.ids) - sum(part.special_tokens_mask) for part in (encoding, *encoding.overflowing))
            for encoding in self._tokenizer.encode_batch(list(texts))
        ]

    def run(self, items: Sequence[Any]) -> Vectors:
        """Vectors, float32 (n, dimension), of prepared texts; padded to the longest of them."""
        return self._vectors(items)

    def fast(self, texts: Sequence[str]) -> Vectors:
        """The fast halves of the texts' vectors, float32 (n, dimension), each of length one; of a card with `fast`.
        Tokenises the texts together. Any thread; releases the GIL."""
        items = self._tokens([text[: self._longest] for text in texts])
        [vectors] = self._outputs([FAST], self.feed(items, whole=False))
        return vectors

    def values(self, items: Sequence[Tokens], names: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Other outputs of the graph, of prepared texts."""
        return self._outputs(list(names), self.feed(items))

    def feed(self, items: Sequence[Tokens], *, whole: bool = True) -> dict[str, npt.NDArray[Any]]:
        """What the session takes for the tokens of some texts."""
        longest = max(len(ids) for ids in items)
        input_ids = np.full((len(items), longest), self._padding_id, np.int64)
        mask = np.zeros((len(items), longest), np.int64)
        for row, ids in enumerate(items):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        values: dict[str, npt.NDArray[Any]] = {"input_ids": input_ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            values["token_type_ids"] = np.zeros_like(input_ids)
        if "position_ids" in self._inputs:
            positions = np.arange(longest, dtype=np.int64) + self._card.position_offset
            values["position_ids"] = np.broadcast_to(positions, input_ids.shape)
        if WHOLE in self._inputs:
            values[WHOLE] = np.array(whole)
        return {name: values[name].astype(dtype, copy=False) for name, dtype in self._inputs.items()}

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        # encode_batch releases the GIL and encode does not: for a short text, waiting to have it again takes longer.
        if len(texts) == 1 and len(texts[0]) <= SHORT:
            encodings = [self._tokenizer.encode(texts[0])]
        else:
            encodings = self._tokenizer.encode_batch_fast(texts)
        # A tokenizer without marks of its own may find nothing.
        return [np.array(encoding.ids or [self._padding_id], np.int64) for encoding in encodings]

    def _vectors(self, items: Sequence[Tokens]) -> Vectors:
        fed = self.feed(items)
        [vectors] = self._outputs([self._output], fed)
        if vectors.dtype != np.float32:
            vectors = vectors.astype(np.float32)
        if not self._pooled:
            vectors = _pool(vectors, [len(ids) for ids in items], fed["attention_mask"], self._card.pooling)
        if self._card.cut and vectors.shape[-1] > self.dimension:
            vectors = vectors[:, : self.dimension]
        return vectors

    def _outputs(self, names: list[str], fed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(names, fed)
        except MemoryError:
            raise
        except Exception as error:
            # Only what the library raised: a signal handler may raise in here as well, and means it for its own code.
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise EmbeddingError(f"The model failed on this text ({error}); see to the text or the memory.") from error
        return outputs


class LookupModel(Model):
    """A model that looks its tokens up in a table and adds them, which is less work than finding the tokens. A worker
    tokenises a batch of texts together. That takes 30 microseconds a text instead of 80, and spares every caller a wait
    for the GIL."""

    def prepare(self, texts: Sequence[str]) -> list[tuple[Any, int]]:
        """Each text as far as it can matter, and about how many tokens it has."""
        return [(text[: self._longest], min(self._max_tokens, 2 + len(text) // CHARACTERS_A_TOKEN)) for text in texts]

    def run(self, items: Sequence[Any]) -> Vectors:
        return self._vectors(self._tokens(items))


def load_model(card: ModelCard, providers: Sequence[str]) -> Model:
    """Raises: ModelError as `Model` does."""
    return (LookupModel if card.looks_up else Model)(card, providers)


def width_of(card: ModelCard) -> int:
    """How many numbers the model of a card without a dimension gives, found out by running it once.

    Raises:
        ModelError: it cannot be loaded or run.
    """
    model = Model(card, ["CPUExecutionProvider"])
    try:
        [(item, _)] = model.prepare(["a"])
        return int(model.run([item]).shape[-1])
    except EmbeddingError as error:
        raise ModelError(f"The model in {str(card.folder)!r} cannot be run ({error}).") from error


def _input_types(card: ModelCard, inputs: Sequence[Any]) -> dict[str, Any]:
    """The inputs by name, with their element types."""
    found = {entry.name: f"{entry.type} {entry.shape}" for entry in inputs}
    fit = {"input_ids", "attention_mask"} <= set(found) <= {*FED_INPUTS, WHOLE}
    if not fit or any(entry.type not in INPUT_TYPES for entry in inputs):
        raise ModelError(
            f"The model in {str(card.folder)!r} has the inputs {found}; it must have input_ids and attention_mask, and "
            "may have token_type_ids, position_ids and whole: export it for embedding (feature extraction)."
        )
    if any(isinstance(length, int) for entry in inputs for length in entry.shape):
        raise ModelError(
            f"The model in {str(card.folder)!r} has inputs of a fixed shape, {found}; export it with dynamic axes for "
            "batch and length."
        )
    return {entry.name: INPUT_TYPES[entry.type] for entry in inputs}


def _check_fast(card: ModelCard, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
    found = {entry.name: f"{entry.type} {entry.shape}" for entry in outputs}
    fits = any(entry.name == FAST and entry.shape[1:] == [card.dimension] for entry in outputs)
    if not fits or inputs.get(WHOLE) is not np.bool_:
        raise ModelError(
            f"The model in {str(card.folder)!r} has the inputs {sorted(inputs)} and the outputs {found}; fast_share = "
            f"{card.fast_share} asks for a bool input {WHOLE!r} and an output {FAST!r} of {card.dimension} numbers."
        )


def _choose_output(card: ModelCard, outputs: Sequence[Any]) -> tuple[str, bool]:
    """The output to read, and whether it has a vector a text (and not a vector a token)."""
    ranks = {entry.name: len(entry.shape) for entry in outputs}
    pooled = [name for name in POOLED if ranks.get(name) == 2]
    unpooled = [name for name in UNPOOLED if ranks.get(name) == 3]
    if not pooled and not unpooled and len(outputs) == 1:
        [(name, rank)] = ranks.items()
        pooled, unpooled = [name] * (rank == 2), [name] * (rank == 3)
    if not pooled and not unpooled:
        found = {entry.name: f"{entry.type} {entry.shape}" for entry in outputs}
        raise ModelError(
            f"The model in {str(card.folder)!r} has the outputs {found}; it must have one of {', '.join(POOLED)} with "
            f"a vector a text, or one of {', '.join(UNPOOLED)} with a vector a token."
        )
    if not pooled and card.pooling not in ("cls", "mean", "last"):
        raise ModelError(
            f"The model in {str(card.folder)!r} gives a vector a token ({unpooled[0]}), and nothing says how they "
            'become one: write a model.toml beside it with pooling = "mean" (or "cls", or "last"), as its authors say.'
        )
    name = (pooled or unpooled)[0]
    width = next(entry.shape[-1] for entry in outputs if entry.name == name)
    wrong = isinstance(width, int) and (width < card.dimension if card.cut else width != card.dimension)
    if wrong and card.dimension:
        raise ModelError(
            f"The model in {str(card.folder)!r} gives {width} numbers a text, not {card.dimension} as its card says; "
            "correct dimension in model.toml."
        )
    return name, bool(pooled)


def _pool(hidden: Vectors, lengths: Sequence[int], mask: npt.NDArray[Any], pooling: str) -> Vectors:
    """float32 (n, width) of float32 (n, length, width); padding, which is on the right, does not count."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last: Vectors = hidden[np.arange(len(hidden)), np.array(lengths) - 1]
        return last
    sums = np.matmul(mask[:, np.newaxis, :].astype(np.float32), hidden)[:, 0]
    means: Vectors = sums / np.array(lengths, np.float32)[:, np.newaxis]
    return means


def _padding_id(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    known = [tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>")]
    return next((number for number in known if number is not None), 0)


def _refuse_second_file(card: ModelCard) -> None:
    beside = card.folder / f"{card.graph}_data"
    if beside.exists():
        raise ModelError(
            f"The model keeps its weights in a second file, {str(beside)!r}, which is not supported; save it as one "
            "file (onnx.save does), or choose a smaller model."
        )


def _session_options(card: ModelCard) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = INTRA_OP_THREADS
    options.inter_op_num_threads = INTER_OP_THREADS
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    basic = card.graph_optimization == "basic"
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if basic else levels.ORT_ENABLE_ALL
    # A memory pattern is kept for every new shape of batch, and shapes are many.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
