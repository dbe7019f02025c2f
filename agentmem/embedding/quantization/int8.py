"""From floats to integers: how the weights and the values of a model become bytes, with constants found beforehand.

Static: a text's vector does not depend on its batch. Three things keep it close to float32:

- A few channels of the values are thirty times larger than the rest, and would take the whole range of a byte. Each
  channel is divided by a power of its peak, and its row of weights multiplied by the same (SmoothQuant,
  arXiv:2211.10438).
- Integer products are exact on every processor. AVX2 without VNNI adds two neighbouring products in 16 bits
  (`vpmaddubsw`) and cuts off what does not fit. Here nothing has to be cut: the weights of two neighbours in a column
  never exceed 128 together, and 255 * 128 = 32,640 fits. Weights of seven bits, the usual remedy, cost a whole bit;
  this costs about a third of one.
- What rounding shifts on average is given back through the biases.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PAIR = 128
"""Two neighbouring weights together: 255 * 128 < 2 ** 15."""

SMOOTHING = 0.7
"""The power of a channel's peak that moves into the weights: .3 to 1 measured, flat from .5."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a float value becomes uint8: `round(value * factor / step) + zero`, within 0 to 255. `factor` is [width], or
    None for all ones."""

    step: float
    zero: int
    factor: Array | None

    def stored(self, entered: Array) -> Array:
        """The bytes of values that are already multiplied by the factor, as floats."""
        bytes_of: Array = np.clip(np.rint(entered / np.float32(self.step)) + self.zero, 0, 255)
        return bytes_of


def entrance(entered: Array, factor: Array | None) -> Entrance:
    """For values like these, which are multiplied by the factor already: their whole range, and zero exactly."""
    low, high = min(float(entered.min()), 0.0), max(float(entered.max()), 0.0)
    step = float(coarse(np.float64(high - low) / 255)) or 1.0
    return Entrance(step, round(-low / step), factor)


def smoothing(entered: Array) -> Array:
    """What each channel of [tokens, width] is divided by, 1 or more."""
    peaks = np.abs(entered).max(axis=0)
    middle = np.median(peaks)
    if middle == 0:
        return np.ones_like(peaks)
    divisor: Array = coarse(np.maximum(peaks / middle, 1) ** SMOOTHING)
    return divisor


def pair_limited(weight: Array) -> tuple[Array, Array]:
    """int8 [in, out] and the steps [out]: as fine as `PAIR` allows, a column at a time."""
    rows = len(weight)
    weight = np.pad(weight, ((0, rows % 2), (0, 0)))
    pairs = np.abs(weight).reshape(-1, 2, weight.shape[1])
    steps = np.maximum(pairs.sum(axis=1).max(axis=0) / PAIR, pairs.max(axis=(0, 1)) / 127)
    steps = np.where(steps == 0, 1.0, steps)
    while True:
        rounded = np.rint(weight / steps)
        over = np.abs(rounded).reshape(pairs.shape).sum(axis=1).max(axis=0) > PAIR  # two roundings up: one more
        if not over.any():
            return rounded.astype(np.int8)[:rows], steps
        steps = np.where(over, steps * 1.002, steps)


def rows_of(table: Array) -> tuple[Array, Array]:
    """A table of float32 [rows, width] as int8 with a step a row, [rows, 1]."""
    steps = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    steps = np.where(steps == 0, np.float32(1), steps)
    return np.rint(table / steps).astype(np.int8), steps


def means(entered: Array, door: Entrance) -> tuple[Array, Array]:
    """The mean of each channel of [tokens, width], and of what is read back of it; float64."""
    read_back = (door.stored(entered).mean(axis=0, dtype=np.float64) - door.zero) * door.step
    return entered.mean(axis=0, dtype=np.float64), read_back


def mean_shift(of: tuple[Array, Array], exact: Array, rounded: Array) -> Array:
    """What products lose on average, given the `means` of what enters: mean @ exact - read back @ rounded."""
    shift: Array = of[0] @ exact - of[1] @ rounded
    return shift


def coarse(value: Any) -> Any:
    """Rounded to eight binary digits, so that the last bits of another processor's floats change nothing."""
    mantissa, exponent = np.frexp(value)
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)
