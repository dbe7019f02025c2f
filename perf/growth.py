"""Draws how costs grow with the number of memories, as one SVG.

    python perf/growth.py MANY.json ONE.json PICTURE.svg

`scale.py --json` writes the files, with many owners and with `--one-owner`. The picture has medians in milliseconds
against the number of memories, both logarithmic. It is legible on light and on dark paper. Needs matplotlib
(`pip install -e ".[dev]"`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from plot import FAINT, drawing

COLOURS = ("#2f81f7", "#d29922", "#2da44e", "#a371f7", "#bc6c25", "#e5534b")
PANELS = (
    (
        "Many owners (100 memories each on average)",
        {
            "import to first result": "import to first result",
            "first search, large owner": "first search, largest owner",
            "search, warm, large owner": "search, largest owner",
            "search, warm": "search",
            "open": "open",
        },
    ),
    (
        "All memories of one owner",
        {
            "first search of a process": "first search of a process", "search, hybrid": "search",
            "search, filter that keeps 1 %": "with a filter that keeps 1 %", "search, vector": "by meaning alone",
            "search, keyword": "by words alone",
        },
    ),
)  # fmt: skip
"""The figures to draw, by their names in `scale.py`, and their labels."""


def curve(rows: dict[str, Any], name: str) -> tuple[list[int], list[float]]:
    """Returns sizes and milliseconds."""
    points = sorted(
        (int(size.rstrip(":").replace(",", "")), float(figures.get("p50_ms", figures.get("ms"))))
        for size, figures in rows.get(name, {}).items()
    )
    return [size for size, _ in points], [value for _, value in points]


def draw_panel(axis: Any, title: str, rows: dict[str, Any], names: dict[str, str]) -> None:
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axis.set_xscale("log")
    axis.set_yscale("log")
    drawn = [(curve(rows, name), label) for name, label in names.items() if name in rows]
    lowest = 0.0  # Labels of lines that end close together are moved apart.
    placed: list[tuple[float, int]] = []
    for number, ((sizes, values), _) in enumerate(drawn):
        axis.plot(sizes, values, color=COLOURS[number], linewidth=1.6, marker="o", markersize=4)
        placed.append((values[-1], number))
    for value, number in sorted(placed):
        lowest = max(value, lowest * 1.45)
        (sizes, values), label = drawn[number]
        axis.annotate(
            f"{label} {values[-1]:,.{0 if values[-1] >= 20 else 1}f}", (sizes[-1], lowest), xytext=(8, 0),
            textcoords="offset points", va="center", fontsize=8, color=COLOURS[number],
        )  # fmt: skip
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.yaxis.set_minor_formatter("")
    axis.grid(which="major", color=FAINT, linewidth=0.6)
    axis.tick_params(length=0, which="both")
    for side in axis.spines.values():
        side.set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("many", type=Path)
    parser.add_argument("one", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    with drawing() as pyplot:
        figure, axes = pyplot.subplots(1, 2, figsize=(10.4, 3.6))
        for axis, path, (title, names) in zip(axes, (options.many, options.one), PANELS, strict=True):
            draw_panel(axis, title, json.loads(path.read_text("utf-8"))["figures"], names)
        axes[0].set_ylabel("milliseconds")
        figure.supxlabel("memories", fontsize=9)
        figure.tight_layout(rect=(0, 0, 0.92, 1), w_pad=10)
        figure.savefig(options.picture, format="svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
