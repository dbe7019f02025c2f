"""From float32 to integers: the constants of `bert.Integer`, found once, on calibration sentences.

Static: a text's vector does not depend on its batch. Three things keep it close to float32:

- A few channels of the normalised values are thirty times larger than the rest, and would take the whole
  range of a byte. Each channel is divided by a power of its peak, and its row of weights multiplied by the
  same (SmoothQuant, arXiv:2211.10438). Inside an attention this costs nothing (the value's weights take
  it), elsewhere one `Mul`.
- Integer products are exact on every processor. AVX2 without VNNI adds two neighbouring products in 16 bits
  (`vpmaddubsw`) and cuts off what does not fit. Here nothing has to be cut: the weights of two neighbours
  in a column never exceed 128 together, and 255 * 128 = 32,640 fits. Weights of seven bits, the usual
  remedy, cost a whole bit; this costs about a third of one.
- What rounding shifts on average is given back through the biases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bert import READERS, SITES, Bert, Entrance, Integer, IntegerLinear, Layer, Linear

PAIR = 128  # two neighbouring weights together: 255 * 128 < 2 ** 15
SMOOTHING = 0.7  # the power of a channel's peak that moves into the weights: .3 to 1 measured, flat from .5
SMOOTHED = ("input", "middle")

Activations = dict[tuple[int, str], np.ndarray]  # what entered at (layer, site): float32 [tokens, width]


def quantise(bert: Bert, activations: Activations) -> Integer:
    word_steps = np.abs(bert.words).max(axis=1, keepdims=True) / np.float32(127)
    word_rows = np.rint(bert.words / word_steps).astype(np.int8)
    entrances: dict[tuple[int, str], Entrance] = {}
    linears: dict[tuple[int, str], IntegerLinear] = {}
    for number, layer in enumerate(bert.layers):
        entered = {site: activations[number, site] for site in SITES}
        layer, entered["context"] = _smooth_context(layer, entered["context"])
        for site in SITES:
            factor = None
            if site in SMOOTHED:
                peaks = np.abs(entered[site]).max(axis=0)
                divisor = _coarse(np.maximum(peaks / np.median(peaks), 1) ** SMOOTHING)
                factor = (1 / divisor).astype(np.float32)
                entered[site] = entered[site] * factor
                layer = _multiply_rows(layer, READERS[site], divisor)
            entrances[number, site] = entrance = _entrance(entered[site], factor)
            for name in READERS[site]:
                linear = layer.linear[name]
                weight, steps = pair_limited(linear.weight)
                shift = _mean_shift(entered[site], entrance, linear.weight, weight * steps)
                if name == "value":  # has no bias of its own: through the attention into the output's
                    output = layer.linear["output"]
                    output = replace(output, bias=output.bias + shift @ output.weight)
                    layer = layer.with_linear(output=output)
                bias = None if linear.bias is None else (linear.bias + shift).astype(np.float32)
                linears[number, name] = IntegerLinear(weight, steps.astype(np.float32), bias)
    return Integer(word_rows, word_steps, entrances, linears)


def pair_limited(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [in, out] and the steps [out]: as fine as `PAIR` allows, a column at a time."""
    pairs = np.abs(weight).reshape(-1, 2, weight.shape[1])
    steps = np.maximum(pairs.sum(axis=1).max(axis=0) / PAIR, pairs.max(axis=(0, 1)) / 127)
    while True:
        rounded = np.rint(weight / steps)
        over = np.abs(rounded).reshape(pairs.shape).sum(axis=1).max(axis=0) > PAIR  # two roundings up: one more
        if not over.any():
            return rounded.astype(np.int8), steps
        steps = np.where(over, steps * 1.002, steps)


def _smooth_context(layer: Layer, context: np.ndarray) -> tuple[Layer, np.ndarray]:
    peaks = np.quantile(np.abs(context), 0.999, axis=0).astype(np.float64)
    divisor = _coarse(peaks / np.exp(np.log(peaks).mean()))
    value = layer.linear["value"]
    layer = layer.with_linear(value=Linear(value.weight / divisor, None))
    return _multiply_rows(layer, ("output",), divisor), context / divisor.astype(np.float32)


def _multiply_rows(layer: Layer, names: tuple[str, ...], factors: np.ndarray) -> Layer:
    changed = {name: layer.linear[name] for name in names}
    return layer.with_linear(
        **{name: replace(linear, weight=linear.weight * factors[:, None]) for name, linear in changed.items()}
    )


def _entrance(entered: np.ndarray, factor: np.ndarray | None) -> Entrance:
    low, high = min(float(entered.min()), 0.0), max(float(entered.max()), 0.0)
    step = float(_coarse(np.float64(high - low) / 255))
    return Entrance(step, round(-low / step), factor)


def _mean_shift(entered: np.ndarray, entrance: Entrance, exact: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """What the products lose on average: mean(entered) @ exact - mean(what is read back) @ rounded."""
    stored = np.clip(np.rint(entered / np.float32(entrance.step)) + entrance.zero, 0, 255)
    read_back = (stored.mean(axis=0, dtype=np.float64) - entrance.zero) * entrance.step
    return entered.mean(axis=0, dtype=np.float64) @ exact - read_back @ rounded


def _coarse(value: np.ndarray) -> np.ndarray:
    """Rounded to eight binary digits, so that the last bits of another processor's floats change nothing."""
    mantissa, exponent = np.frexp(value)
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)
