"""Makes the static int8 form of a model. Needs onnx (the extra `quantize`).

It has a quarter of the size and is faster. The vector of a text still does not depend on the texts beside it.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentmem.embedding.catalog import find_model
from agentmem.embedding.model_card import ModelCard, checksums, read_verified, write_card
from agentmem.embedding.quantization.int8 import Array, Entrance, entrance, mean_shift, means, pair_limited, smoothing
from agentmem.embedding.sentence_transformers import MODEL_FILES, TOKENIZER_FILE
from agentmem.errors import InvalidInputError, ModelError
from agentmem.progress import progress as progress_bar
from agentmem.quoting import shorten

if TYPE_CHECKING:
    from agentmem.embedding.onnx_model import Model
    from agentmem.embedding.quantization.onnx_graph import Graph, IntegerProduct, Product

HOLD_OUT = 8
"""Every eighth text is kept for the check."""

FEWEST_TEXTS = 2 * HOLD_OUT
BATCH = 16
ROUNDS = 3
MOST_BYTES = 200_000_000
"""Bytes of inner float32 values that are examined together; for the others, the texts run again."""

MOST_TOKENS = 500
"""Tokens that are enough to compare two ways of rounding."""

BETTER = 0.9
"""Dividing the channels of a value costs a multiplication in every run, so it must save a tenth of the error."""

CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True, slots=True)
class Quantized:
    """The result of `quantize`.

    The cosines compare new vectors with float32 ones, on texts that the calibration has not seen. `invariance` is the
    least cosine of a text alone with itself in a batch of mixed lengths: 1 if a vector does not depend on its batch.
    The speeds are texts a second on one core, in batches of 16 of like lengths, measured in turns just now.
    """

    folder: str
    products: int
    bytes_before: int
    bytes_after: int
    cosine_mean: float
    cosine_least: float
    invariance: float
    speed_before: float
    speed_after: float


def quantize(
    source: str,
    target: str | os.PathLike[str],
    *,
    calibration: Sequence[str] | None = None,
    progress: bool = False,
) -> Quantized:
    """Writes the static int8 form of a model into a new folder, which `Memory(model=...)` takes.

    On return it is on disk and was compared with its source. Takes about a minute for a small model, and memory of
    several times its size.

    Args:
        source: A model of this machine: its name, or a folder. Its graph must multiply with float32 weights, as every
            model of BERT's kind does.
        target: The path of the new folder.
        calibration: Some hundred texts like those it will embed, in their language. The ranges of the values are
            measured on them. Without it: English sentences that come with agentmem.
        progress: Whether to show a bar.

    Returns:
        Sizes, cosines to float32 and speeds.

    Raises:
        ModelError: No such model, or one without float32 products; onnx is not installed; the folder cannot be written;
            or the result would depend on its batch.
        InvalidInputError: The target exists, or the calibration is not texts, or too few.
    """
    card = find_model(source)
    folder = Path(target)
    if folder.exists():
        raise InvalidInputError(f"target {str(folder)!r} exists; pass the path of a new folder.")
    texts = _calibration(calibration)
    try:
        from agentmem.embedding.quantization.onnx_graph import Graph
    except ImportError as error:
        raise ModelError("quantize needs onnx; run: python -m pip install 'agentmem[quantize]'") from error
    from agentmem.embedding.onnx_model import load_model

    data = read_verified(card, card.graph)
    graph = Graph(data, card.name)
    products = graph.products()
    if not products:
        raise ModelError(f"The model {card.name!r} has no products with float32 weights; it may be quantised already.")
    model = load_model(card, CPU)
    seen = [text for number, text in enumerate(texts, 1) if number % HOLD_OUT]
    rewritten = _rewrite(card, model, graph, products, seen, progress)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        small = _write(card, rewritten, aside)
        result = _compare(model, load_model(small, CPU), texts[HOLD_OUT - 1 :: HOLD_OUT])
        if result["invariance"] < 0.999:
            raise ModelError(
                f"The vectors of {card.name!r} depend on their batch (cosine {result['invariance']:.3f}), as those of "
                "models do that were quantised dynamically; quantise its float32 export."
            )
        aside.rename(folder)
    except OSError as error:
        raise ModelError(f"{str(folder)!r} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Quantized(
        folder=str(folder), products=len(products), bytes_before=len(data), bytes_after=len(rewritten), **result
    )


def _calibration(given: Sequence[str] | None) -> list[str]:
    if given is None:
        lines = (Path(__file__).parent / "calibration.txt").read_text("utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]
    if isinstance(given, str) or not all(isinstance(text, str) for text in given):
        raise InvalidInputError(f"calibration is {shorten(given)}; pass a list of texts.")
    texts = [text for text in given if text.strip()]
    if len(texts) < FEWEST_TEXTS:
        raise InvalidInputError(
            f"calibration has {len(texts)} texts; pass {FEWEST_TEXTS} at least, better some hundred."
        )
    return texts


def _rewrite(
    card: ModelCard, model: "Model", graph: "Graph", products: "list[Product]", texts: list[str], progress: bool
) -> bytes:
    from agentmem.embedding.onnx_model import Model

    by_value: dict[str, list[Product]] = {}
    for product in products:
        by_value.setdefault(product.value, []).append(product)
    items = [item for item, _ in model.prepare(texts)]
    groups = list(_groups({name: len(found[0].weight) for name, found in by_value.items()}, sum(map(len, items))))
    doors: dict[str, Entrance] = {}
    integers: list[tuple[Product, IntegerProduct]] = []
    with progress_bar("texts", len(items) * len(groups), shown=progress) as update:
        for names in groups:
            tapped = Model(card, CPU, graph.with_taps(names), names)
            for name, entered in _values(tapped, items, names, update).items():
                doors[name], made = _integers(by_value[name], entered)
                integers += made
    return graph.rewritten(doors, integers)


def _groups(widths: dict[str, int], tokens: int) -> Iterator[list[str]]:
    """Yields the values, as many together as memory allows."""
    group: list[str] = []
    size = 0
    for name, width in widths.items():
        if group and size + width * tokens * 4 > MOST_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += width * tokens * 4
    yield group


def _values(model: "Model", items: list[Any], names: list[str], update: Callable[[int], object]) -> dict[str, Array]:
    """Returns the values of each name, float32 of shape [tokens, width]. One text at a time, so without padding."""
    collected: dict[str, list[Array]] = {name: [] for name in names}
    for item in items:
        for name, value in zip(names, model.values([item], names), strict=True):
            collected[name].append(value.reshape(-1, value.shape[-1]))
        update(1)
    return {name: np.concatenate(values) for name, values in collected.items()}


def _integers(products: "list[Product]", entered: Array) -> "tuple[Entrance, list[tuple[Product, IntegerProduct]]]":
    """Returns the products that read one value, with its channels divided if that is worth it."""
    sample = entered[:: max(1, len(entered) // MOST_TOKENS)]
    plain, divided = _Rounded(products, np.ones(entered.shape[1])), _Rounded(products, smoothing(entered))
    return (divided if divided.error(sample) < BETTER * plain.error(sample) else plain).finished(entered)


class _Rounded:
    """Returns the weights, in bytes, of the products that read one value, after dividing each of its channels."""

    def __init__(self, products: "list[Product]", divisor: Array) -> None:
        self._products = products
        self._factor = None if (divisor == 1).all() else (1 / divisor).astype(np.float32)
        self._exact = [product.weight * divisor[:, np.newaxis].astype(np.float64) for product in products]
        self._rounded = [pair_limited(exact) for exact in self._exact]

    def finished(self, entered: Array) -> "tuple[Entrance, list[tuple[Product, IntegerProduct]]]":
        from agentmem.embedding.quantization.onnx_graph import IntegerProduct

        if self._factor is not None:
            entered = entered * self._factor
        door = entrance(entered, self._factor)
        entering = means(entered, door)
        made = []
        for product, exact, (weight, steps) in zip(self._products, self._exact, self._rounded, strict=True):
            shift = mean_shift(entering, exact, weight * steps)
            bias = shift if product.bias is None else product.bias + shift
            made.append((product, IntegerProduct(weight, steps, bias)))
        return door, made

    def error(self, entered: Array) -> float:
        """Returns the sum of the squared errors of the products of these tokens."""
        door, made = self.finished(entered)
        divided = entered if door.factor is None else entered * door.factor
        read = ((door.stored(divided) - door.zero) * door.step).astype(np.float32)
        error = 0.0
        for product, integer in made:
            exact = entered @ product.weight + (0 if product.bias is None else product.bias)
            weight = (integer.weight * integer.steps).astype(np.float32)
            error += float(((read @ weight + integer.bias - exact) ** 2).sum())
        return error


def _write(card: ModelCard, graph: bytes, folder: Path) -> ModelCard:
    folder.mkdir(parents=True)
    (folder / MODEL_FILES[0]).write_bytes(graph)
    (folder / TOKENIZER_FILE).write_bytes(read_verified(card, TOKENIZER_FILE))
    for path in card.folder.glob("LICEN[CS]E*"):
        shutil.copy(path, folder)
    small = replace(card, folder=folder, name=f"{card.name}-int8", named=True, files=checksums(folder))
    write_card(small, f"Static int8, made of {card.name} by agentmem.quantize.")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return small


def _compare(before: "Model", after: "Model", texts: list[str]) -> dict[str, float]:
    items = [item for item, _ in before.prepare(texts)]
    alone = _units([after.run([item]) for item in items])
    agreement = (alone * _units([before.run([item]) for item in items])).sum(axis=1)
    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    together = (alone * _units([after.run(batch) for batch in batches])).sum(axis=1)
    batches = [sorted(items, key=len)[start : start + BATCH] for start in range(0, len(items), BATCH)]
    speeds: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(ROUNDS):
        for name, model in (("before", before), ("after", after)):
            began = time.thread_time()  # Processor time: other work on the machine does not count.
            for batch in batches:
                model.run(batch)
            speeds[name].append(len(items) / (time.thread_time() - began))
    return {
        "cosine_mean": float(agreement.mean()), "cosine_least": float(agreement.min()),
        "invariance": float(together.min()),
        "speed_before": float(np.median(speeds["before"])), "speed_after": float(np.median(speeds["after"])),
    }  # fmt: skip


def _units(rows: list[Array]) -> Array:
    vectors = np.concatenate(rows).astype(np.float64)
    units: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units
