"""The report's three kinds of figure, drawn by matplotlib as inline SVG that follows the page's colors.

Matplotlib draws with placeholder colors; the SVG then names CSS variables instead (`--ink`, `--s1` ...
`--s6`), so that one picture is readable on a light and on a dark page. Nothing is interactive, on purpose.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moontide.foundation.statistics import Interval

WIDTH_INCHES = 5.0
MOST_POINTS = 240  # of one curve; more are averaged in groups, or the file grows by megabytes
INK, MUTED, LINE = "#010101", "#020202", "#030303"  # placeholders, see `_themed`
SERIES = tuple(f"#0a0a{number:02x}" for number in range(1, 7))
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {
    color: f"--s{number}" for number, color in enumerate(SERIES, 1)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "axes.unicode_minus": False,
}
DASHES = ("-", (0, (6, 2)), (0, (2, 1.6)), (0, (7, 2, 1.6, 2)), (0, (1, 1)), (0, (9, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis, for instance a loss over steps.

    Args:
        title: what is seen.
        series: name -> (x, y) points; points that are not finite are left out.
        x_label, y_label: with units.
        log_x, log_y: logarithmic axes.
        note: one sentence under the figure.
    """

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, grouped when there is more than one series.

    Args:
        title: what is seen.
        series: name -> {label of the bar: value}; a value that is None or not finite leaves a gap.
        x_label: with units.
        value_format: Python format of the figure at each bar's end.
        note: one sentence under the figure.
    """

    title: str
    series: Mapping[str, Mapping[str, float | None]]
    x_label: str = ""
    value_format: str = ".3g"
    note: str = ""


@dataclass(frozen=True)
class Intervals:
    """Estimates with their intervals, one row each, beside a line that means "no difference".

    Args:
        title: what is seen.
        rows: label -> interval.
        x_label: with units.
        reference: where the line stands; None draws none.
        value_format: Python format of the figures at the right.
        note: one sentence under the figure.
    """

    title: str
    rows: Mapping[str, Interval]
    x_label: str = ""
    reference: float | None = 0.0
    value_format: str = "+.4f"
    note: str = ""


Figure = Curves | Bars | Intervals


def draw(figure: Figure, name: str = "figure") -> str:
    """The figure as one `<svg>` element without any address in it.

    Args:
        name: keeps the ids of several figures on one page apart, and makes the SVG the same every time.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        canvas = Canvas(figsize=(WIDTH_INCHES, _height(figure)), layout="constrained")
        if isinstance(figure, Curves):
            _paint_curves(canvas.subplots(), figure)
        elif isinstance(figure, Bars):
            _paint_bars(canvas.subplots(), figure)
        else:
            _paint_intervals(canvas.subplots(), figure)
        file = io.StringIO()
        FigureCanvasSVG(canvas).print_svg(file, metadata={"Date": None})
    return _themed(file.getvalue(), figure.title)


def averaged(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Finite points, averaged in neighboring groups until at most `most` are left.

    Example:
        >>> averaged([(1, 2.0), (2, float("nan")), (3, 4.0), (5, 6.0)], most=2)
        [(2.0, 3.0), (5.0, 6.0)]
    """
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = max(1, math.ceil(len(finite) / most))
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _height(figure: Figure) -> float:
    """Inches: fixed for curves, one line of text a row for the others."""
    if isinstance(figure, Curves):
        return 2.7
    if isinstance(figure, Intervals):
        return 0.85 + 0.34 * max(len(figure.rows), 1)
    labels = {label for values in figure.series.values() for label in values}
    legend = 0.3 if len(figure.series) > 1 else 0.0
    return 0.8 + legend + max(len(labels), 1) * (0.14 + 0.22 * max(len(figure.series), 1))


def _paint_curves(axes: Axes, figure: Curves) -> None:
    drawn = 0
    for number, (name, points) in enumerate(figure.series.items()):
        kept = averaged(points)
        if not kept:
            continue
        color, dashes = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
        marker = MARKERS[number % len(MARKERS)] if len(kept) < 12 else None
        axes.plot(*zip(*kept, strict=True), color=color, ls=dashes, marker=marker, ms=4, label=name)
        drawn += 1
    if not drawn:
        return _paint_nothing(axes)
    if figure.log_x:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    if figure.log_y:
        axes.set_yscale("log")
    axes.grid(axis="y", color=LINE, lw=0.6)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    _legend(axes, drawn)


def _paint_bars(axes: Axes, figure: Bars) -> None:
    labels = list(dict.fromkeys(label for values in figure.series.values() for label in values))
    if not labels:
        return _paint_nothing(axes)
    height = 0.78 / len(figure.series)
    finite = [0.0]
    for number, (name, values) in enumerate(figure.series.items()):
        color = SERIES[number % len(SERIES)]
        places = [row + (number - (len(figure.series) - 1) / 2) * height for row in range(len(labels))]
        widths = [_finite(values.get(label)) for label in labels]
        bars = axes.barh(places, [width or 0.0 for width in widths], height * 0.86, color=color, label=name)
        texts = ["–" if width is None else format(width, figure.value_format) for width in widths]
        axes.bar_label(bars, texts, padding=4, color=MUTED, fontsize=8.5)
        finite += [width for width in widths if width is not None]
    span = (max(finite) - min(finite)) or 1.0
    axes.set_xlim(min(finite) - (0.16 * span if min(finite) < 0 else 0), max(finite) + 0.16 * span)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    _label_x(axes, figure)
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    _legend(axes, len(figure.series))


def _paint_intervals(axes: Axes, figure: Intervals) -> None:
    rows = {name: row for name, row in figure.rows.items() if _finite(row.value) is not None}
    if not rows:
        return _paint_nothing(axes)
    for place, row in enumerate(rows.values()):
        low, high = (edge if _finite(edge) is not None else row.value for edge in (row.low, row.high))
        is_apart = figure.reference is None or low > figure.reference or high < figure.reference
        color = SERIES[0] if is_apart else MUTED
        axes.plot([low, high], [place, place], color=color, lw=2.4, solid_capstyle="round")
        axes.plot([row.value], [place], "o", color=color, ms=6)
        text = format(row.value, figure.value_format)
        axes.annotate(
            text, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=9
        )
    if figure.reference is not None:
        axes.axvline(figure.reference, color=MUTED, lw=1, ls=(0, (3, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _label_x(axes, figure)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _label_x(axes: Axes, figure: Bars | Intervals) -> None:
    axes.set_xlabel(figure.x_label)
    if figure.value_format.endswith("%"):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))


def _paint_nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing was measured", ha="center", va="center", color=MUTED)


def _legend(axes: Axes, num: int) -> None:
    if num > 1:
        columns = num if num <= 3 else (num + 1) // 2
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.01), ncols=min(columns, 4), frameon=False,
            borderaxespad=0, handlelength=2.2, fontsize=9,
        )  # fmt: skip


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _themed(svg: str, title: str) -> str:
    """The `<svg>` element alone, without any address, its placeholder colors made CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
