"""The exchange rate as a picture: AUC over one metric, a dot and its interval a version, and the line.

The large panel has all impressions; below, a small one for each of the largest top categories.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moontide.studies.ablation_plot import COLORS, DOTS_PER_INCH, PAPER, WIDTH_INCHES
from moontide.studies.plots import INK, LINE, MUTED, SERIES, STYLE

MOST_CATEGORIES = 8


def plot_exchange(table: Mapping[str, Any]) -> dict[str, bytes]:
    """The picture of an `exchange_rates.exchange_table`: {"png": ..., "svg": ...}; empty without rates."""
    line = shown_metric(table)
    if line is None:
        return {}
    parts = [one for one in line["by_slice"] if one["slice"] != "all" and one.get("points")]
    parts = sorted(parts, key=lambda one: -one["clicks"])[:MOST_CATEGORIES]
    with matplotlib.rc_context(file_style(f"exchange {table['dataset']}")):
        rows = 1 + (len(parts) + 3) // 4
        figure = Figure(figsize=(WIDTH_INCHES, 2.6 + 1.7 * rows), dpi=DOTS_PER_INCH, layout="constrained")
        grid = figure.add_gridspec(rows, 4, height_ratios=[2.2, *[1.0] * (rows - 1)])
        whole = next(one for one in line["by_slice"] if one["slice"] == "all")
        axes = figure.add_subplot(grid[0, :])
        _paint(axes, whole, is_large=True)
        axes.set_xlabel(line["metric"])
        axes.set_ylabel("AUC of the click model")
        for place, one in enumerate(parts):
            axes = figure.add_subplot(grid[1 + place // 4, place % 4])
            _paint(axes, one, is_large=False)
            axes.set_title(one["slice"].removeprefix("category "), fontsize=8.5, loc="left")
        figure.suptitle(f"AUC over {line['metric']}, {table['dataset']}", x=0.01, ha="left")
        figure.supxlabel(
            "Dots: frozen encoder versions, means over seeds. Bars: 95 % intervals of the difference to the "
            "mean of all versions.\nColored line: slope whose interval over shoppers and seeds excludes 0.",
            x=0.01, ha="left", fontsize=8.5, color=COLORS[MUTED],
        )  # fmt: skip
        return as_files(figure)


def shown_metric(table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The chosen metric's line, else that of the metric that tells most versions apart."""
    counted = [line for line in table["metrics"] if line["slope"]]
    if not counted:
        return None
    chosen = [line for line in counted if line["metric"] == table["chosen"]]
    return chosen[0] if chosen else max(counted, key=lambda line: line["counted"])


def file_style(name: str) -> dict[Any, Any]:
    """Matplotlib settings of a picture alone on a light ground; `name` makes its SVG repeatable."""
    style = {
        key: COLORS.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()
    }
    return style | {**PAPER, "svg.hashsalt": name}


def as_files(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG and SVG."""
    png, svg = io.BytesIO(), io.StringIO()
    FigureCanvasAgg(figure).print_png(png)
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return {"png": png.getvalue(), "svg": svg.getvalue().encode()}


def _paint(axes: Axes, part: Mapping[str, Any], is_large: bool) -> None:
    points = part["points"]
    x = np.array([one["metric"] for one in points])
    y = np.array([one["auc"] for one in points])
    ink, muted = COLORS[INK], COLORS[MUTED]
    for one in points:
        if one["auc_error"] is not None:
            reach = 1.96 * one["auc_error"]
            axes.plot([one["metric"]] * 2, [one["auc"] - reach, one["auc"] + reach], color=muted, lw=1.2)
        if one["metric_error"] is not None:
            reach = 1.96 * one["metric_error"]
            axes.plot([one["metric"] - reach, one["metric"] + reach], [one["auc"]] * 2, color=muted, lw=1.2)
        if is_large:
            axes.annotate(
                one["version"], (one["metric"], one["auc"]), xytext=(5, 5), textcoords="offset points",
                fontsize=8.5, color=ink,
            )  # fmt: skip
    axes.plot(x, y, "o", color=ink, ms=6 if is_large else 4)
    if (slope := part["slope"]) is not None:
        ends = np.array([x.min(), x.max()])
        color = COLORS[SERIES[0]] if slope["is_resolved"] else muted
        axes.plot(ends, y.mean() + slope["value"] * (ends - x.mean()), color=color, lw=2 if is_large else 1.4)
    axes.xaxis.set_major_locator(MaxNLocator(6 if is_large else 3))
    axes.yaxis.set_major_locator(MaxNLocator(5 if is_large else 3))
    axes.grid(color=COLORS[LINE], lw=0.6)
    axes.set_axisbelow(True)
    if not is_large:
        axes.tick_params(labelsize=7.5)
