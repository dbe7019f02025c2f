"""Draws the comparison of a run as one SVG.

    python perf/plot.py FOLDER PICTURE.svg

FOLDER has the JSON files of `run.py`; missing files are left out of the picture. It shows rates a second on a
logarithmic scale, one dot a system, legible on light and on dark paper. Needs matplotlib (`pip install -e ".[dev]"`).
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INK = "#7d8590"
FAINT = "#7d859040"
COLOURS = {
    "agentmem": "#2f81f7", "mem0, Qdrant": "#d29922", "mem0, FAISS": "#bc6c25", "fastembed": "#2da44e",
    "chromadb": "#a371f7", "published": INK,
}  # fmt: skip
LABELS = {
    "fastembed": "fastembed (stores nothing)",
    "published": "published by the report: other language, model, machine",
}
PREFERRED = "int8"
"""Of systems that ran with two models, the one with agentmem's model file is drawn."""

Row = tuple[str, dict[str, float]]


def read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    figures: dict[str, Any] = json.loads(path.read_text("utf-8"))["figures"] if path.exists() else {}
    return figures


def rows_of_peers(figures: dict[str, Any], starts: tuple[str, ...]) -> list[Row]:
    """Returns the phases that begin like this, each with a rate for every system that has one."""
    rows: dict[str, dict[str, float]] = {}
    for key, figure in figures.items():
        phase, separator, name = key.partition(": ")
        if not separator or not phase.startswith(starts) or "a second" not in figure:
            continue
        system = next((known for known in COLOURS if name.startswith(known)), None)
        if system is not None and (("int8" not in name and "float32" not in name) or PREFERRED in name):
            rows.setdefault(phase, {})[system] = figure["a second"]
    return list(rows.items())


def rows_of_report(figures: dict[str, Any]) -> list[Row]:
    return [
        (name.partition(",")[0], {"agentmem": figure["median"], "published": figure["published"]})
        for name, figure in figures.items()
        if name.endswith("in a file") and "published" in figure
    ]


def panels(folder: Path) -> list[tuple[str, list[Row]]]:
    peers = read(folder, "peers")
    several = [
        ("Distinct texts of 18 tokens, same model", rows_of_peers(peers, ("add, ", "search, "))),
        ("The engines alone, vectors given", rows_of_peers(peers, ("add one", "add 500", "query"))),
        ("The report's tests, in a file", rows_of_report(read(folder, "report"))),
    ]
    return [(title, rows) for title, rows in several if rows]


@contextmanager
def drawing() -> Iterator[Any]:
    """Returns pyplot, with the settings that the pictures share."""
    import matplotlib as mpl  # Imported late: the other scripts do not need it.

    mpl.use("svg")
    from matplotlib import pyplot

    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "agentmem", "font.family": "sans-serif", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    }  # fmt: skip
    with pyplot.rc_context(settings):
        yield pyplot


def draw(folder: Path, picture: Path) -> None:
    several = panels(folder)
    if not several:
        raise SystemExit(f"{folder} has no peers.json and no report.json.")
    with drawing() as pyplot:
        heights = [len(rows) + 0.6 for _, rows in several]
        figure, axes = pyplot.subplots(
            len(several), 1, figsize=(8.4, 0.42 * sum(heights) + 1.1), sharex=True, squeeze=False,
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        drawn: dict[str, Any] = {}
        for axis, (title, rows) in zip(axes[:, 0], several, strict=True):
            drawn |= draw_panel(axis, title, rows)
        axes[-1, 0].set_xlabel("calls (texts, queries) a second")
        names = [name for name in COLOURS if name in drawn]
        figure.legend(
            [drawn[name] for name in names], [LABELS.get(name, name) for name in names],
            loc="lower center", ncols=3, frameon=False, handletextpad=0.2,
        )  # fmt: skip
        figure.tight_layout(rect=(0, 0.9 / figure.get_figheight() * 0.62, 1, 1))
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})


def draw_panel(axis: Any, title: str, rows: list[Row]) -> dict[str, Any]:
    """Draws one line a row and a dot a system. Ours, the leftmost and the rightmost have labels, because readers
    compare those."""
    drawn = {}
    axis.set_xscale("log")
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    for place, (_, rates) in enumerate(rows):
        least, most = min(rates.values()), max(rates.values())
        axis.plot([least, most], [place, place], color=FAINT, linewidth=3, solid_capstyle="round", zorder=1)
        for name, rate in rates.items():
            ours = name == "agentmem"
            drawn[name] = axis.scatter([rate], [place], color=COLOURS[name], s=34, zorder=2 + ours, linewidths=0)
            if ours and least < rate < most:
                axis.annotate(
                    f"{rate:,.0f}", (rate, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
                )
            elif rate in (least, most):
                left = rate == least and least != most
                axis.annotate(
                    f"{rate:,.0f}", (rate, place), xytext=(-7 if left else 7, 0), textcoords="offset points",
                    va="center", ha="right" if left else "left", fontsize=8,
                )  # fmt: skip
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(axis="x", which="major", color=FAINT, linewidth=0.6)
    axis.tick_params(length=0, which="both")
    for side in axis.spines.values():
        side.set_visible(False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    draw(options.folder, options.picture)


if __name__ == "__main__":
    main()
