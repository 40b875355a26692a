"""What follows from the points of an axis, and its page: figures with intervals, both curves, which holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moontide.studies.fits import compare_curves
from moontide.studies.grid import as_markdown
from moontide.studies.outcomes import Outcomes
from moontide.studies.paired import Difference, difference_over_seeds

TINY = 1e-9  # what rounding leaves of a line that does not rise
X_NAMES = {
    "pairs": "tokens trained on",
    "negatives": "vectors a query is told from",
    "history": "behaviors read at most",
}
FACT_NAMES = {
    "pairs": "pairs",
    "tokens_of_pair": "tokens of a pair",
    "queued": "in the queue, mean over steps",
    "longer": "test impressions with a longer history",
    "core_minutes": "core min a cell",
}


@dataclass(frozen=True)
class Measured:
    """One metric along one axis.

    Args:
        points: as set. seeds: the same for all.
        x: ascending; what the curves are fitted over.
        values: (points, seeds, queries) whose mean over queries is the figure.
        queries: code of each; those of one code (questions on one product) are drawn together.
        facts: of each point.
    """

    metric: str
    points: Sequence[int]
    seeds: Sequence[int]
    x: np.ndarray
    values: np.ndarray
    queries: np.ndarray
    facts: Sequence[Mapping[str, Any]]

    def by_query(self) -> np.ndarray:
        """(points, seeds, distinct queries): their plain mean is the figure still."""
        _, code, count = np.unique(self.queries, return_inverse=True, return_counts=True)
        mean = self.values.mean(2, keepdims=True)
        flat = (self.values - mean).reshape(-1, len(code))
        sums = np.stack([np.bincount(code, row, len(count)) for row in flat])
        return mean + sums.reshape(*self.values.shape[:2], -1) * len(count) / len(code)


def axis_table(axis: str, found: Sequence[Measured]) -> dict[str, Any]:
    """An axis as JSON: figures of every point, both curves, and the difference of last and first point."""
    return {"axis": axis, "x": X_NAMES[axis], "metrics": [_metric(one) for one in found]}


def _metric(one: Measured) -> dict[str, Any]:
    by_query = one.by_query()
    codes = np.arange(by_query.shape[2], dtype=np.uint32)

    def difference(value_SQ: np.ndarray) -> Difference:
        zero = Outcomes(np.zeros(len(codes)), codes)
        return difference_over_seeds([zero] * len(value_SQ), [Outcomes(row, codes) for row in value_SQ])

    points = []
    for place, point in enumerate(one.points):
        own = by_query[place]
        by_seed = own.mean(1)
        points.append({
            "point": point, "x": float(one.x[place]), "value": float(own.mean()), "by_seed": by_seed.tolist(),
            "spread": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
            "error": _known(difference(own).interval.standard_error), "facts": dict(one.facts[place]),
        })  # fmt: skip
    whole = difference(by_query[-1] - by_query[0])
    rise = {name: _known(getattr(whole.interval, name)) for name in ("value", "low", "high")}
    rise |= {"resolvable": _known(whole.resolvable), "is_resolved": whole.is_resolved}
    curves = compare_curves(one.x, by_query)
    line = {"metric": one.metric, "queries": len(codes), "seeds": list(one.seeds), "points": points}
    return {**line, "rise": rise, **curves, "sentence": _sentence(one, rise, curves)}


def _sentence(one: Measured, rise: Mapping[str, Any], curves: Mapping[str, Any]) -> str:
    """What the axis bought, and how it goes on."""
    if len(one.points) < 2:
        return f"{one.metric}: one point, nothing to compare."
    start = f"{one.metric}, {_number(one.points[0])} to {_number(one.points[-1])}: {_signed(rise, 'value')}"
    if rise["low"] is not None:
        start += f" ({_signed(rise, 'low')} to {_signed(rise, 'high')})"
    if curves["chosen"] is None:
        return f"{start}; {curves['why']}."
    if curves["chosen"] == "power":
        power = curves["power"]
        low, high = power["b_interval"]
        return (
            f"{start}; m_inf - a x^-b with m_inf {power['m_inf']:.4f} and b {power['b']:.2f} ({low:.2f} to "
            f"{high:.2f}): doubling x leaves {2 ** -power['b']:.0%} of the gap; {curves['why']}."
        )
    low, high = (math.log(2) * one for one in curves["log"]["d_interval"])
    gain = math.log(2) * curves["log"]["d"]
    moves = "" if low > TINY or high < -TINY else ", not told from 0"
    return f"{start}; a doubling brings {gain:+.4f} ({low:+.4f} to {high:+.4f}{moves}); {curves['why']}."


def scaling_markdown(table: Mapping[str, Any]) -> str:
    """The study as a page."""
    lines = [f"# Scaling: {table['dataset']}\n"]
    for axis in table["axes"].values():
        lines.append(f"## {axis['axis']}\n")
        if not axis["metrics"]:
            lines.append("No point is there yet.\n")
            continue
        lines.append("\n".join(f"- {line['sentence']}" for line in axis["metrics"]) + "\n")
        lines += [_points(axis), _curves(axis), _predictions(axis)]
    lines.append(
        "Intervals 95 %. Figures: mean over seeds ± standard error over seeds and queries (shoppers). Rise: "
        "last point less first, paired. Curves: least squares of the figures themselves; the power law is "
        "reported where AICc has it ahead by 2 and the interval of its b stays off 0. Held out: the largest "
        "point, predicted from the others; right where the interval of the error holds 0.\n"
    )
    if table["missing"]:
        parts = [f"- {cell}: {' '.join(reason.split())}" for cell, reason in table["missing"].items()]
        lines.append("## Cells without a result\n\n" + "\n".join(parts) + "\n")
    return "\n".join(lines)


def _points(axis: Mapping[str, Any]) -> str:
    rows = []
    for place, first in enumerate(axis["metrics"][0]["points"]):
        row: dict[str, Any] = {"point": _number(first["point"]), axis["x"]: _number(first["x"])}
        for line in axis["metrics"]:
            point = line["points"][place]
            error = "" if point["error"] is None else f" ± {point['error']:.4f}"
            row[line["metric"]] = f"{point['value']:.4f}{error}"
        rows.append(row | {FACT_NAMES[name]: _number(fact) for name, fact in first["facts"].items()})
    seeds = axis["metrics"][0]["seeds"]
    return f"Seeds {', '.join(map(str, seeds))}.\n\n" + as_markdown(list(rows[0]), rows)


def _curves(axis: Mapping[str, Any]) -> str:
    rows = []
    for line in axis["metrics"]:
        rise, power, log = line["rise"], line["power"], line["log"]
        row: dict[str, Any] = {"metric": line["metric"], "queries": line["queries"]}
        row |= {"rise": _signed(rise, "value"), "resolves": rise["resolvable"]}
        if log is not None:
            row |= {"d": _with(log, "d"), "AICc, line": _round(log["aicc"])}
        if power is not None:
            row |= {
                "m_inf": _with(power, "m_inf"),
                "b": _with(power, "b"),
                "AICc, power": _round(power["aicc"]),
            }
        rows.append(row | {"reported": line["chosen"], "because": line["why"]})
    columns = ("metric", "queries", "rise", "resolves", "d", "AICc, line", "m_inf", "b", "AICc, power")
    return as_markdown((*columns, "reported", "because"), rows)


def _predictions(axis: Mapping[str, Any]) -> str:
    rows = []
    for line in axis["metrics"]:
        if (held := line["held_out"]) is None:
            continue
        for name in ("power", "log"):
            found = held[name]
            low, high = found["interval"]
            rows.append({
                "metric": line["metric"], "held out": _number(held["x"]), "seen": held["seen"], "by": name,
                "predicted": f"{found['predicted']:.4f} ({low:.4f} to {high:.4f})",
                "error": f"{found['error']:+.4f} ({found['error_interval'][0]:+.4f} to "
                f"{found['error_interval'][1]:+.4f})",
                "right": "yes" if found["is_held"] else "no",
            })  # fmt: skip
    return (
        as_markdown(("metric", "held out", "seen", "by", "predicted", "error", "right"), rows) if rows else ""
    )


def _with(curve: Mapping[str, Any], name: str) -> str | None:
    if curve[name] is None:
        return None
    low, high = curve[f"{name}_interval"]
    return f"{curve[name]:.4f} ({low:.4f} to {high:.4f})"


def _signed(found: Mapping[str, Any], name: str) -> str:
    return "–" if found[name] is None else f"{found[name]:+.4f}"


def _round(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _number(value: float) -> str:
    """Whole numbers with commas; others with three figures."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1_000 else f"{value:.3g}"


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
