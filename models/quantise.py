"""From float32 to integers: the constants of `bert.Integer`, computed once on calibration sentences.

`agentmem/embedding/quantization/int8.py` has the arithmetic and its reasons. A graph written for it allows one step
more: inside an attention, dividing the channels costs nothing, because the value's weights take it. Elsewhere it costs
one `Mul`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bert import READERS, SITES, Bert, Integer, IntegerLinear, Layer, Linear

from agentmem.embedding.quantization.int8 import (
    Entrance,
    coarse,
    entrance,
    mean_shift,
    means,
    pair_limited,
    rows_of,
    smoothing,
)

SMOOTHED = ("input", "middle")

Activations = dict[tuple[int, str], np.ndarray]  # The values at (layer, site): float32 [tokens, width].


def quantise(bert: Bert, activations: Activations) -> Integer:
    word_rows, word_steps = rows_of(bert.words)
    entrances: dict[tuple[int, str], Entrance] = {}
    linears: dict[tuple[int, str], IntegerLinear] = {}
    for number, layer in enumerate(bert.layers):
        entered = {site: activations[number, site] for site in SITES}
        layer, entered["context"] = _smooth_context(layer, entered["context"])
        for site in SITES:
            factor = None
            if site in SMOOTHED:
                divisor = smoothing(entered[site])
                factor = (1 / divisor).astype(np.float32)
                entered[site] = entered[site] * factor
                layer = _multiply_rows(layer, READERS[site], divisor)
            entrances[number, site] = door = entrance(entered[site], factor)
            entering = means(entered[site], door)
            for name in READERS[site]:
                linear = layer.linear[name]
                weight, steps = pair_limited(linear.weight)
                shift = mean_shift(entering, linear.weight, weight * steps)
                if name == "value":  # Has no bias of its own: it goes through the attention into the output's.
                    output = layer.linear["output"]
                    output = replace(output, bias=output.bias + shift @ output.weight)
                    layer = layer.with_linear(output=output)
                bias = None if linear.bias is None else (linear.bias + shift).astype(np.float32)
                linears[number, name] = IntegerLinear(weight, steps.astype(np.float32), bias)
    return Integer(word_rows, word_steps, entrances, linears)


def _smooth_context(layer: Layer, context: np.ndarray) -> tuple[Layer, np.ndarray]:
    peaks = np.quantile(np.abs(context), 0.999, axis=0).astype(np.float64)
    divisor = coarse(peaks / np.exp(np.log(peaks).mean()))
    value = layer.linear["value"]
    layer = layer.with_linear(value=Linear(value.weight / divisor, None))
    return _multiply_rows(layer, ("output",), divisor), context / divisor.astype(np.float32)


def _multiply_rows(layer: Layer, names: tuple[str, ...], factors: np.ndarray) -> Layer:
    changed = {name: layer.linear[name] for name in names}
    return layer.with_linear(
        **{name: replace(linear, weight=linear.weight * factors[:, None]) for name, linear in changed.items()}
    )
