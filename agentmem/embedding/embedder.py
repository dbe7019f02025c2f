"""The one door between texts and vectors: cache, single flight, collector."""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from agentmem.config import Config
from agentmem.deadline import late
from agentmem.embedding.batch import Answer
from agentmem.embedding.cache import VectorCache
from agentmem.embedding.collector import Collector, Text
from agentmem.embedding.custom import AbsentModel, CustomModel, GivenEmbedder
from agentmem.embedding.fast_half import fast_vectors
from agentmem.embedding.future import EmbeddingFuture
from agentmem.embedding.model_card import ModelCard
from agentmem.errors import AgentMemError, ClosedError, ModelError
from agentmem.ids import DIGEST_BYTES, Home, at_home, digests_by
from agentmem.platform.cpu import usable_cores
from agentmem.platform.forks import abandon, restart
from agentmem.platform.signals import Lock, require_room, started
from agentmem.stats import Timings

logger = logging.getLogger(__name__)

Kind = Literal["query", "document"]


MOST_WORKERS = 16
"""On more cores, further runs earn little: what feeds them is Python, one thread at a time. With simulated runs of 1.5
ms a text (medians of 5 of perf/tuning.py; 1, 4, 8, 16, 32, 64 workers, the rest on 2 cores with AVX2), `add_batch`
reached 620, 2,180, 4,009, 4,571, 7,726, 5,144 texts a second, `add` from 100 threads 606, 2,191, 3,061, 2,719, 1,754,
1,162."""


PREPARED_TOGETHER = 32
"""Texts that are tokenised in one call, a few milliseconds at most, after which the deadline is looked at."""

FOR_EVER = 1e6

ASKED = b"?"
"""Stands behind the digests of queries on their way, whose vectors go into a cache of their own."""

QUERY_SHARE = 4
"""A quarter of `Config.cache_bytes` is for queries. They have no store to fall back on, and no number of adds evicts
them."""


class _Encoder(Protocol):
    def prepare(self, texts: Sequence[str]) -> list[tuple[Any, int]]: ...
    def run(self, items: Sequence[Any]) -> npt.NDArray[np.float32]: ...
    def fast(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


class Embedder:
    """Texts to vectors. Every method may be called from any thread. The model is loaded by the first text that is not
    cached, once, by the thread that brings it.

    Each text comes for a home, and its vector in the cache, in the store or in flight spares a run to that home only.
    Otherwise the time that a call takes would tell what others store and ask.
    """

    def __init__(
        self,
        source: ModelCard | AbsentModel | GivenEmbedder,
        config: Config,
        recall: Callable[[Sequence[bytes]], dict[bytes, bytes]],
        timings: Timings,
    ) -> None:
        """`recall` looks vectors up by digest in the store, which remembers every text that a home has ever held. The
        collector asks it once a batch, which spares every caller a question of its own."""
        self._source = source if isinstance(source, ModelCard | AbsentModel) else CustomModel(source)
        self._config = config
        self._recall = recall
        self._timings = timings
        model = self._source
        self.absent = isinstance(model, AbsentModel)
        self.name, self.identity, self.dimension = model.name, model.identity, model.dimension
        self._prefixes: dict[Kind, str] = {"query": model.query_prefix, "document": model.document_prefix}
        self.document_prefix = model.document_prefix
        self.has_fast = bool(model.fast_share)
        """Whether a vector has a half that costs next to nothing: `fast_documents`, `fast_query`."""
        self._fast_length = math.sqrt(model.fast_share)
        self._digest = digests_by(self.identity)
        self.hits = 0
        self._start()

    def _start(self, *, closed: bool = False) -> None:
        self._closed = closed
        for_queries = self._config.cache_bytes // QUERY_SHARE
        self._caches: dict[Kind, VectorCache] = {
            "query": VectorCache(for_queries), "document": VectorCache(self._config.cache_bytes - for_queries),
        }  # fmt: skip
        self._load_lock = Lock()  # Guards: _encoder, _collector. Held while the model loads.
        self._encoder: _Encoder | None = None
        self._collector: Collector | None = None
        self._warming: threading.Thread | None = None  # That loads the model, or has tried to.
        self._pid = os.getpid()  # Last, see Restartable.

    def text_digest(self, text: str) -> bytes:
        """What ties a vector to the model and the text of a document, whosever it is."""
        return self._digest(self.document_prefix + text)

    def digest(self, home: Home, text: str, kind: Kind = "document") -> bytes:
        """The key of the text's vector. A home's query and document share it where the model reads both alike."""
        return at_home(self._digest(self._prefixes[kind] + text), home)

    def embed(
        self, texts: Sequence[str], homes: Sequence[Home], kind: Kind, *, urgent: bool, timeout: float
    ) -> list[Answer]:
        """The vectors of the texts, each as float16 bytes of unit length, or the error of each that has none. Each text
        comes for the home at its place.

        Waits for the model behind what was there before.

        Raises:
            DeadlineError, OverloadedError: the timeout is over.
            ClosedError: closed before or meanwhile.
        """
        return self.send(texts, homes, kind, urgent=urgent, timeout=timeout).result(timeout)

    def send(
        self,
        texts: Sequence[str],
        homes: Sequence[Home],
        kind: Kind,
        *,
        urgent: bool,
        timeout: float,
        then: Callable[[EmbeddingFuture], None] | None = None,
    ) -> EmbeddingFuture:
        """Starts embedding and returns a future, so that the caller can work while it waits.

        Blocks only while the queues are full, and for the model to load the first time. A text that is alone with the
        model is run on this thread before this returns. Raises as `embed` does.

        Args:
            then: See `EmbeddingFuture`; it may be called before this returns.
        """
        self._ensure_open()
        future = EmbeddingFuture([self.digest(home, text, kind) for home, text in zip(homes, texts, strict=True)], then)
        missing = self._look_up(future, kind)
        if not missing:
            future.complete()
            return future
        try:
            require_room()
            encoder, collector = self._load()
            prepared = self._prepared(encoder, future, texts, missing, kind, timeout)
            collector.submit(future, prepared, urgent=urgent, timeout=timeout)
        except BaseException:
            future.cancel()
            raise
        return future

    def refine(self, texts: Sequence[str], homes: Sequence[Home]) -> EmbeddingFuture:
        """Starts embedding documents at low priority, and returns a future. Threads of their own do it, so that
        everything else goes first. Neither asks nor fills a cache, and does not ask the store for vectors it may have.

        Blocks for the model to load the first time, and where the system gives no thread. An embedder that was given
        embeds the texts as bulk work, since it is promised no more runs at a time.

        Raises:
            ClosedError: closed before or meanwhile.
            ModelError: the model cannot be loaded.
        """
        self._ensure_open()
        future = EmbeddingFuture([self.digest(home, text) for home, text in zip(homes, texts, strict=True)])
        if not texts:
            future.complete()
            return future
        try:
            encoder, collector = self._load()
            prepared = self._prepared(encoder, future, texts, range(len(texts)), "document", FOR_EVER)
            if isinstance(self._source, ModelCard):
                collector.refine(future, prepared)
            else:
                collector.submit(future, prepared, urgent=False, timeout=FOR_EVER)
        except BaseException:
            future.cancel()
            raise
        return future

    def _prepared(
        self,
        encoder: _Encoder,
        future: EmbeddingFuture,
        texts: Sequence[str],
        places: Sequence[int],
        kind: Kind,
        timeout: float,
    ) -> list[Text]:
        """The texts at these places as the model takes them."""
        prefix, began = self._prefixes[kind], time.perf_counter()
        asked = ASKED if kind == "query" else b""
        prepared: list[Text] = []
        for start in range(0, len(places), PREPARED_TOGETHER):
            if prepared and time.perf_counter() - began > timeout:
                raise late(timeout)
            some = places[start : start + PREPARED_TOGETHER]
            items = encoder.prepare([prefix + texts[place] for place in some])
            prepared += [
                Text(place, future.digests[place] + asked, *item) for place, item in zip(some, items, strict=True)
            ]
        self._timings.record("tokenise", time.perf_counter() - began)
        return prepared

    def _look_up(self, future: EmbeddingFuture, kind: Kind) -> list[int]:
        """Answers what the caches have; the places of what they have not."""
        missing = []
        first, second = self._caches[kind], self._caches["document" if kind == "query" else "query"]
        for index, digest in enumerate(future.digests):
            vector = first.get(digest) or second.get(digest)
            if vector is None:
                missing.append(index)
            else:
                future.answer(index, vector)
        self.hits += len(future.digests) - len(missing)
        return missing

    def _keep(self, digest: bytes, vector: bytes) -> None:
        if digest[DIGEST_BYTES:] == ASKED:
            self._caches["query"].put(digest[:DIGEST_BYTES], vector)
        else:
            self._caches["document"].put(digest, vector)

    def _recalled(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        known = self._recall([digest[:DIGEST_BYTES] for digest in digests])
        if not known:
            return known
        return {digest: known[digest[:DIGEST_BYTES]] for digest in digests if digest[:DIGEST_BYTES] in known}

    def forget(self, digests: Iterable[bytes]) -> None:
        """Drops vectors from the caches."""
        for digest in digests:
            for cache in self._caches.values():
                cache.discard(digest)

    def fast_documents(self, texts: Sequence[str]) -> list[Answer]:
        """The part of each document's vector that costs next to nothing, as float16 bytes in all dimensions, or the
        error of the text. Its dot product with `fast_query` is right, and so is that of a whole vector.

        Works at once on this thread, in batches outside the GIL, for any number of texts. Waits only for the model to
        load, and for no other text. Neither asks nor fills a cache.

        Raises:
            ClosedError: closed before or meanwhile.
            ModelError: the model cannot be loaded.
        """
        return self._fast_vectors(texts, "document", self._fast_length)

    def fast_query(self, text: str) -> bytes:
        """The vector of a query for an owner of which a memory has no more than the fast half, as float16 bytes. Its
        direction is that of a document's. It is so long that an equal text scores 1, known whole or not.

        Works as `fast_documents` does. Raises what it raises, and the error of the text.
        """
        [answer] = self._fast_vectors([text], "query", 1 / self._fast_length)
        if isinstance(answer, AgentMemError):
            raise answer
        return answer

    def _fast_vectors(self, texts: Sequence[str], kind: Kind, length: float) -> list[Answer]:
        self._ensure_open()
        encoder, _ = self._load()
        prefixed = [self._prefixes[kind] + text for text in texts] if self._prefixes[kind] else texts
        return fast_vectors(encoder, prefixed, self.dimension, length, self._ensure_open)

    def warm(self) -> None:
        """Begins to load the model on a thread of its own, unless it is loaded, and returns at once. Where that failed
        before, loads it here and now, so that its callers are told for as long as it is damaged.

        Raises:
            ClosedError: closed.
            ModelError: the model cannot be loaded.
        """
        self._ensure_open()
        if self._collector is not None or (self._warming is not None and self._warming.is_alive()):
            return
        if self._warming is None and not self.absent:
            self._warming = started(self._warm, "agentmem-load")
        else:
            self._load()

    def _warm(self) -> None:
        try:
            self._load()
        except ClosedError:
            pass
        except Exception as error:
            self._timings.errors.note("loading the model", error, logger)

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Returns the number of tokens of each text, to its end; None of a given embedder, which has no tokenizer. May
        load the model."""
        if not isinstance(self._source, ModelCard):
            return None
        encoder, _ = self._load()
        counts: list[int] = cast(Any, encoder).count(texts)
        return counts

    def _load(self) -> tuple[_Encoder, Collector]:
        if self._encoder is not None and self._collector is not None:
            return self._encoder, self._collector
        with self._load_lock:
            if self._closed:
                raise ClosedError("The memory is closed; open a new Memory.")
            if self._collector is None:
                config = self._config
                self._encoder = self._make_encoder()
                self._collector = Collector(
                    self._encoder.run,
                    dimension=self.dimension,
                    workers=self._workers(),
                    own_model=isinstance(self._source, ModelCard),
                    batch_tokens=config.batch_tokens,
                    queue_tokens=config.queue_tokens,
                    keep=self._keep,
                    recall=self._recalled,
                    timings=self._timings,
                )
            assert self._encoder is not None
            return self._encoder, self._collector

    def _make_encoder(self) -> _Encoder:
        if isinstance(self._source, AbsentModel):
            raise self._source.error()
        if not isinstance(self._source, ModelCard):
            return self._source
        if "usearch" in sys.modules and "onnxruntime" not in sys.modules:
            raise ModelError(
                "usearch was imported before onnxruntime, which could only crash this process now; "
                "write 'import onnxruntime' before the first 'import usearch' and start again."
            )
        from agentmem.embedding.onnx_model import load_model  # Late: onnxruntime and tokenizers cost 0.2 s to import.

        return load_model(self._source, self._config.providers)

    def _workers(self) -> int:
        if self._config.workers is not None:
            return self._config.workers
        # For one that only looks up, a second worker makes batches smaller, and more threads that want the GIL.
        if not isinstance(self._source, ModelCard) or self._source.looks_up:
            return 1
        return min(usable_cores(), MOST_WORKERS)

    def stats(self) -> dict[str, Any]:
        """What happened since the start of this process."""
        collector = self._collector
        stats: dict[str, Any] = {
            "cache_hits": self.hits,
            "cache_entries": sum(map(len, self._caches.values())),
            "cache_bytes": sum(cache.bytes for cache in self._caches.values()),
        }  # fmt: skip
        if collector is not None:
            counts = collector.counts
            texts, tokens, age = collector.depth()
            stats |= {
                "texts": counts.texts, "tokens": counts.tokens, "padded_tokens": counts.padded_tokens,
                "batches": counts.batches, "largest_batch": counts.largest_batch, "coalesced": counts.coalesced,
                "store_hits": counts.recalled,
                "failed": counts.failed, "dropped": counts.dropped, "run_seconds": counts.run_seconds,
                "waiting_texts": texts, "waiting_tokens": tokens, "oldest_wait_seconds": age,
                "workers": collector.workers,
            }  # fmt: skip
        return stats

    def close(self) -> None:
        """Answers all waiting calls; waits (bounded) for runs that have begun."""
        if self._pid != os.getpid():
            self._closed = True
            return
        with self._load_lock:
            self._closed = True
            collector, warming = self._collector, self._warming
        if warming is not None and warming is not threading.current_thread():
            warming.join()
        if collector is not None:
            collector.close()

    def _ensure_open(self) -> None:
        if self._pid != os.getpid():
            restart(self, self._restart)
        if self._closed:
            raise ClosedError("The memory is closed; open a new Memory.")

    def _restart(self) -> None:
        # The child of a fork has none of the threads, and a session must not even be destroyed there.
        abandon(self._encoder, self._collector)
        self._start(closed=self._closed)
