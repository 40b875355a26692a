"""An ablation's differences as a picture: one panel a column, a dot and its interval a row.

Unlike the report's figures (`plots.py`) it is a file that stands alone, on a light ground, as PNG and SVG.
"""

from __future__ import annotations

import io
import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moontide.studies.ablation_text import against, row_state
from moontide.studies.plots import INK, LINE, MUTED, SERIES, STYLE

PAPER = {"figure.facecolor": "#ffffff", "axes.facecolor": "#ffffff"}
COLORS = {INK: "#11181f", MUTED: "#586470", LINE: "#dbe2e8", SERIES[0]: "#0b7289"}  # light page of report.css
WIDTH_INCHES, DOTS_PER_INCH = 9.0, 200  # shown at 900 pixels, sharp on a dense screen
MOST_PANELS = 4  # in one line


def plot_ablation(table: dict[str, Any]) -> dict[str, bytes]:
    """The picture of a table (see `ablation.ablation_table`): {"png": ..., "svg": ...}."""
    rows = [row for row in table["rows"] if row["reference"] is not None]
    columns = table["columns"]
    per_line = math.ceil(len(columns) / math.ceil(len(columns) / MOST_PANELS))
    num_lines = math.ceil(len(columns) / per_line)
    style = {
        key: COLORS.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()
    }
    style |= {**PAPER, "svg.hashsalt": table["ablation"]}
    with matplotlib.rc_context(style):
        height = 0.7 + num_lines * (0.75 + 0.3 * max(len(rows), 1))
        figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
        grid = figure.subplots(num_lines, per_line, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(columns):
                axes.set_axis_off()
                continue
            _paint(axes, columns[place], rows)
            first = table["rows"][0]
            if (value := first["values"][columns[place]]) is not None:
                axes.set_title(f"{first['row']} {value:.3f}", fontsize=8.5, loc="right", color=COLORS[MUTED])
            axes.set_yticks(range(len(rows)), [row["row"] for row in rows] if place % per_line == 0 else [])
        figure.suptitle(f"{table['ablation']}: difference to {against(table)}", x=0.01, ha="left")
        figure.supxlabel(
            "Bars: 95 % intervals, paired by seed and query. Colored: excludes 0. Hollow: one seed.",
            x=0.01, ha="left", fontsize=8.5, color=COLORS[MUTED],
        )  # fmt: skip
        png, svg = io.BytesIO(), io.StringIO()
        FigureCanvasAgg(figure).print_png(png)
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return {"png": png.getvalue(), "svg": svg.getvalue().encode()}


def _paint(axes: Axes, column: str, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        found = row["differences"][column]
        if found is None:
            axes.text(
                0, place, row_state(row), ha="center", va="center", color=COLORS[MUTED], fontsize=8.5,
                bbox={"facecolor": PAPER["axes.facecolor"], "edgecolor": "none", "pad": 1},
            )  # fmt: skip
            continue
        color = COLORS[SERIES[0] if found["is_resolved"] else MUTED]
        if found["low"] is not None:
            bounds = [found["low"], found["high"]]
            axes.plot(bounds, [place, place], color=color, lw=2.2, solid_capstyle="round")
        fill = color if "seeds" in found["over"] else PAPER["axes.facecolor"]
        axes.plot([found["value"]], [place], "o", color=color, mfc=fill, ms=5.5)
    axes.axvline(0, color=COLORS[MUTED], lw=1, ls=(0, (3, 3)), zorder=0)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_title(column, fontsize=9.5, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="x", color=COLORS[LINE], lw=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=COLORS[INK])
