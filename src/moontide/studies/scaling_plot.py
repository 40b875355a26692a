"""An axis of the scaling study as a picture: a panel a metric, points over log x, and both curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moontide.studies.ablation_plot import COLORS, DOTS_PER_INCH, WIDTH_INCHES
from moontide.studies.exchange_plot import as_files, file_style
from moontide.studies.fits import LogLine, PowerLaw
from moontide.studies.plots import INK, LINE, MUTED, SERIES

DASHED = (0, (5, 2.5))


def plot_axis(table: Mapping[str, Any], dataset: str) -> dict[str, bytes]:
    """The picture of one axis of scaling.json: {"png": ..., "svg": ...}; empty without two points."""
    lines = [line for line in table["metrics"] if len(line["points"]) > 1]
    if not lines:
        return {}
    with matplotlib.rc_context(file_style(f"scaling {table['axis']} {dataset}")):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
        for axes, line in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines, strict=True):
            _paint(axes, line)
            axes.set_xlabel(table["x"])
        figure.suptitle(f"Scaling of {table['axis']}, {dataset}", x=0.01, ha="left")
        figure.supxlabel(
            "Bars: 95 % intervals over seeds and queries. Hollow dots: single seeds. Colored: the reported "
            "curve; dashed: the other.",
            x=0.01, ha="left", fontsize=8.5, color=COLORS[MUTED],
        )  # fmt: skip
        return as_files(figure)


def _paint(axes: Axes, line: Mapping[str, Any]) -> None:
    points = line["points"]
    x = np.array([one["x"] for one in points])
    for one in points:
        axes.plot([one["x"]] * len(one["by_seed"]), one["by_seed"], "o", mfc="none", mec=COLORS[MUTED], ms=4)
        if one["error"] is not None:
            reach = 1.96 * one["error"]
            bounds = [one["value"] - reach, one["value"] + reach]
            axes.plot([one["x"]] * 2, bounds, color=COLORS[INK], lw=1.2)
    axes.plot(x, [one["value"] for one in points], "o", color=COLORS[INK], ms=5.5)
    fine = np.geomspace(x.min(), x.max(), 100)
    for name, curve in _curves(line).items():
        is_reported = name == line["chosen"]
        color, style = (COLORS[SERIES[0]], "-") if is_reported else (COLORS[MUTED], DASHED)
        label = {"power": "power law", "log": "line in log x"}[name]
        axes.plot(fine, curve.at(fine), color=color, ls=style, lw=2 if is_reported else 1.3, label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_xticks(x)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color=COLORS[LINE], lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title(line["metric"], fontsize=9.5, loc="left")
    axes.tick_params(labelsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _curves(line: Mapping[str, Any]) -> dict[str, PowerLaw | LogLine]:
    curves: dict[str, PowerLaw | LogLine] = {}
    if (power := line["power"]) is not None and power["b"] is not None:
        curves["power"] = PowerLaw(power["m_inf"], power["a"], power["b"])
    if (log := line["log"]) is not None:
        curves["log"] = LogLine(log["c"], log["d"])
    return curves


def _short(value: float) -> str:
    """A tick: 64, 1k, 2.1M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.4g}"
