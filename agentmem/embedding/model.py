"""One model: its tokenizer and its session. The only importer of onnxruntime and tokenizers."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Set before the tokenizers are first used, and only if nobody else has decided: its warning about forks would reach
# the users of every forking server.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# onnxruntime reports its use over the network, keeps a database of it in the user's folder, and starts threads for it
# that make a forked child hang when it exits. It listens to this variable only while it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
import tokenizers

from agentmem.embedding.catalog import ModelCard, read_verified
from agentmem.embedding.line import CHARACTERS_A_TOKEN
from agentmem.errors import EmbeddingError, ModelError

Tokens = npt.NDArray[np.int64]

MOST_CHARACTERS_A_TOKEN = 100
"""A word piece model reads at most 100 characters as one word, so that no more than this many a token can matter, but
for long runs of spaces. Cutting the text there spares the tokenizer a megabyte of which the model sees a page."""

DISABLED_OPTIMIZERS = ["SkipLayerNormFusion", "EmbedLayerNormFusion"]
"""Fusions whose kernels are slower on a CPU than what they replace (8 times at 256 tokens)."""


class Model:
    """A model of the catalog, loaded: texts become rows of tokens, rows of tokens become vectors.

    Both methods may be called from any thread; `run` computes on the caller's thread with one core and releases the
    GIL while it does.

    Raises:
        ModelError: a file is missing or damaged, or the model does not have the form that its card says.
    """

    def __init__(self, card: ModelCard, providers: Sequence[str]) -> None:
        self.dimension = card.dimension
        self._max_tokens = card.max_tokens
        self._longest = card.max_tokens * MOST_CHARACTERS_A_TOKEN
        graph = read_verified(card, "model.onnx")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(read_verified(card, "tokenizer.json"))
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
        # Otherwise a failing run would build a new session by itself, under the feet of other threads.
        self._session.disable_fallback()
        names = [entry.name for entry in self._session.get_inputs()]
        if names[:2] != ["input_ids", "attention_mask"] or len(names) > 2:
            raise ModelError(
                f"The model in {str(card.folder)!r} has the inputs {names}, not input_ids, attention_mask."
            )

    def prepare(self, text: str) -> tuple[Any, int]:
        """What `run` takes of the text, and its number of tokens, at most the card's `max_tokens`: its token ids, int64
        (length,)."""
        [ids] = self._tokens([text[: self._longest]])
        return ids, len(ids)

    def run(self, items: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Vectors, float32 (n, dimension), of prepared texts; padded to the longest of them."""
        return self._vectors(items)

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        # encode_batch releases the GIL and encode does not.
        return [np.array(encoding.ids, np.int64) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def _vectors(self, items: Sequence[Tokens]) -> npt.NDArray[np.float32]:
        longest = max(len(ids) for ids in items)
        input_ids = np.zeros((len(items), longest), np.int64)
        mask = np.zeros((len(items), longest), np.int64)
        for row, ids in enumerate(items):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        try:
            outputs: list[Any] = self._session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        except MemoryError:
            raise
        except Exception as error:
            # Only what the library raised: a signal handler may raise in here as well, and means it for its own code.
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise EmbeddingError(f"The model failed on this text ({error}); see to the text or the memory.") from error
        vectors: npt.NDArray[np.float32] = outputs[0]
        return vectors


class LookupModel(Model):
    """A model that looks its tokens up in a table and adds them, which is less work than finding the tokens: a batch
    of texts is tokenised together, on the worker's thread. That takes 30 microseconds a text instead of 80, and spares
    every caller a moment without the GIL, after which it would have to wait for it."""

    def prepare(self, text: str) -> tuple[Any, int]:
        """The text as far as it can matter, and about how many tokens it has."""
        return text[: self._longest], min(self._max_tokens, 2 + len(text) // CHARACTERS_A_TOKEN)

    def run(self, items: Sequence[Any]) -> npt.NDArray[np.float32]:
        return self._vectors(self._tokens(items))


def load_model(card: ModelCard, providers: Sequence[str]) -> Model:
    """Raises: ModelError as `Model` does."""
    return (LookupModel if card.looks_up else Model)(card, providers)


def _session_options(card: ModelCard) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # Parallelism comes from the workers: two runs of one thread each beat one of two threads in every case measured.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    basic = card.graph_optimization == "basic"
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if basic else levels.ORT_ENABLE_ALL
    # A memory pattern is kept for every new shape of batch, and shapes are many.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
