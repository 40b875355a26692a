"""What follows from versions x seeds: slopes, pairs, noise, and which intermediate metric can be trusted.

    slope(m) = sum_v (m_v - mean m) (AUC_v - mean AUC) / sum_v (m_v - mean m)^2        ordinary least squares

The slope is linear in the AUCs, and an AUC is a mean over shoppers (`ranking/influence.py`), so a slope is a
mean over seeds x shoppers, and its error is that of `paired.py`. A bootstrap of both is printed beside it: it
draws one seed fewer than there are, which makes its spread right on average, not its coverage with three
seeds. The metric is taken as it was measured: the slope says what a measured point bought here, and noise of
the metric pulls it towards 0.

A pair of versions has a rate only where the metric tells them apart: |delta m| > 2 SE(delta m), queries
paired; else the rate is undefined, whatever the AUCs do.

Letters: V versions, S seeds, U shoppers. Paper: MOON Embedding 3.7; the protocol is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from moontide.foundation.seeds import stream
from moontide.foundation.statistics import resolvable_difference
from moontide.studies.grid import as_markdown
from moontide.studies.outcomes import Outcomes
from moontide.studies.paired import Difference, difference_over_seeds

LEAST_CLICKS = 20  # a slice with fewer says nothing
APART = 2.0  # standard errors of the metric that a pair needs
REPLICATES = 1_000
CATEGORY = "category "


@dataclass(frozen=True)
class Asked:
    """One metric of one version: outcomes of all its queries, and of those of each top category."""

    all: Outcomes
    by_category: Mapping[str, Outcomes]

    def of(self, where: str) -> Outcomes | None:
        """Those of a slice; slices that are no category have no queries of their own and take all."""
        return self.by_category.get(where.removeprefix(CATEGORY)) if where.startswith(CATEGORY) else self.all


@dataclass(frozen=True)
class Versions:
    """All that was measured.

    Args:
        versions: names, in order. seeds: of the click models, the same for every version.
        metrics: version -> metric -> outcomes.
        values: (AUC or GAUC, slice) -> (V, S, U) pseudo-values of shoppers, whose mean is the figure.
        clicks: of each slice.
    """

    versions: Sequence[str]
    seeds: Sequence[int]
    metrics: Mapping[str, Mapping[str, Asked]]
    values: Mapping[tuple[str, str], np.ndarray]
    clicks: Mapping[str, int]

    def asked(self, metric: str, where: str) -> list[Outcomes] | None:
        """Outcomes of a metric by version; None where a version lacks them."""
        found = [
            self.metrics[name][metric].of(where) for name in self.versions if metric in self.metrics[name]
        ]
        kept = [one for one in found if one is not None and len(one.values)]
        return kept if kept and len(kept) == len(self.versions) else None


def exchange_rate(auc_change: float, metric_change: float, metric_error: float) -> float | None:
    """AUC points a metric point bought between two versions; None where the metric cannot tell them apart.

        ER = (AUC_w - AUC_v) / (m_w - m_v),   undefined unless |m_w - m_v| > 2 SE(m_w - m_v)

    Example:
        >>> exchange_rate(0.004, 0.1, 0.01), exchange_rate(0.004, 0.01, 0.01), exchange_rate(0.004, 0.0, 0.0)
        (0.04, None, None)
    """
    return auc_change / metric_change if abs(metric_change) > APART * metric_error else None


def slope_weights(metric_V: np.ndarray) -> np.ndarray:
    """The weights with which AUCs add up to the least-squares slope on a metric; NaN where it never moves.

    Example:
        >>> slope_weights(np.array([0.0, 1.0])).tolist()
        [-1.0, 1.0]
    """
    moved = metric_V - metric_V.mean()
    total = float(moved @ moved)
    return moved / total if total > 0 else np.full(len(moved), math.nan)


def slope_of(metric_V: np.ndarray, value_VSU: np.ndarray) -> Difference:
    """The slope of AUC on a metric over versions, its interval over shoppers and seeds."""
    return _over_seeds(np.tensordot(slope_weights(metric_V), value_VSU, 1))


def bootstrap_slope(
    metric_V: np.ndarray, value_VSU: np.ndarray, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the slope with shoppers and seeds drawn again; one seed is kept as it is."""
    row_SU = np.tensordot(slope_weights(metric_V), value_VSU, 1)
    num_seeds, num_shoppers = row_SU.shape
    rng = stream(seed, "exchange")
    drawn = np.empty(replicates)
    for number in range(replicates):
        weight_U = rng.poisson(1.0, num_shoppers)
        by_seed = row_SU @ weight_U / max(weight_U.sum(), 1)
        drawn[number] = by_seed[rng.integers(num_seeds, size=max(num_seeds - 1, 1))].mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def noise_floor(value_VSU: np.ndarray) -> float:
    """Standard deviation of AUC over seeds at a fixed table of vectors, pooled over tables; NaN for one."""
    auc_VS = value_VSU.mean(2)
    return float(np.sqrt(auc_VS.var(1, ddof=1).mean())) if auc_VS.shape[1] > 1 else math.nan


def pairs_of(held: Versions, metric: str, where: str = "all", kind: str = "AUC") -> list[dict[str, Any]]:
    """Every pair of versions, the earlier first: changes of metric and AUC, and the rate or None."""
    asked = held.asked(metric, where)
    if asked is None:
        return []
    auc_V = held.values[kind, where].mean((1, 2))
    pairs = []
    for v, w in combinations(range(len(held.versions)), 2):
        change = difference_over_seeds([asked[v]], [asked[w]]).interval
        error = change.standard_error if math.isfinite(change.standard_error) else math.inf
        gain = float(auc_V[w] - auc_V[v])
        pairs.append({
            "before": held.versions[v], "after": held.versions[w],
            "metric_change": change.value, "metric_error": _number(error),
            "auc_change": gain, "rate": exchange_rate(gain, change.value, error),
        })  # fmt: skip
    return pairs


def rank_agreement(pairs: Sequence[Mapping[str, Any]]) -> float:
    """Spearman's correlation of metric and AUC changes over pairs of versions; NaN under three pairs.

    A pair is taken both ways, so that the order in which versions are listed changes nothing.
    """
    if len(pairs) < 3:
        return math.nan
    changes = np.array([[pair["metric_change"], pair["auc_change"]] for pair in pairs])
    both = np.concatenate([changes, -changes])
    if np.ptp(both, axis=0).min() == 0:
        return math.nan
    return float(spearmanr(both[:, 0], both[:, 1]).statistic)


def slices_of(held: Versions, metric: str) -> list[dict[str, Any]]:
    """The slope in every slice; None where the metric tells no two versions apart there."""
    lines = []
    for kind, where in held.values:
        asked = held.asked(metric, where) if kind == "AUC" else None
        if asked is None:
            continue
        pairs = pairs_of(held, metric, where)
        counted = sum(pair["rate"] is not None for pair in pairs)
        line: dict[str, Any] = {"slice": where, "clicks": held.clicks[where], "queries": len(asked[0].values)}
        line |= {"counted": counted, "pairs": len(pairs), "slope": None}
        means = np.array([one.mean for one in asked])
        line["points"] = _points_of(held, asked, where)
        if counted:
            line["slope"] = _plain(slope_of(means, held.values["AUC", where]))
        lines.append(line)
    return lines


def _points_of(held: Versions, asked: Sequence[Outcomes], where: str) -> list[dict[str, Any]]:
    """What a picture shows: metric and AUC of every version, with the errors of what makes it differ.

    That is its difference to the mean of all versions: what all share, hard queries and odd shoppers, is no
    error of a line through them.
    """
    value_VSU = held.values["AUC", where]
    shared = np.mean([one.values for one in asked], axis=0)
    apart = [Outcomes(one.values - shared, one.queries) for one in asked]
    return [
        {
            "version": name, "metric": asked[v].mean, "metric_error": _error(apart[v]),
            "auc": float(value_VSU[v].mean()),
            "auc_error": _number(_over_seeds(value_VSU[v] - value_VSU.mean(0)).interval.standard_error),
        }
        for v, name in enumerate(held.versions)
    ]  # fmt: skip


def metric_line(held: Versions, metric: str) -> dict[str, Any] | None:
    """All that speaks for or against one metric; None where the dataset cannot ask it."""
    asked = held.asked(metric, "all")
    if asked is None or len(held.versions) < 2:
        return None
    means = np.array([one.mean for one in asked])
    pairs, slices = pairs_of(held, metric), slices_of(held, metric)
    rates = [pair["rate"] for pair in pairs if pair["rate"] is not None]
    parts = [line["slope"]["value"] for line in slices if line["slope"] and line["slice"] != "all"]
    line: dict[str, Any] = {"metric": metric, "queries": len(asked[0].values), "values": means.tolist()}
    line |= {"counted": len(rates), "pairs": len(pairs), "slope": None, "gauc_slope": None}
    if rates:
        value_VSU = held.values["AUC", "all"]
        line["slope"] = _plain(slope_of(means, value_VSU))
        line["slope"]["bootstrap"] = bootstrap_slope(means, value_VSU)
        line["gauc_slope"] = _plain(slope_of(means, held.values["GAUC", "all"]))
    line |= {"spearman": _number(rank_agreement(pairs)), "rate_variation": _number(variation(rates))}
    line |= {"positive": sum(one > 0 for one in parts), "slices": len(parts)}
    line |= {"slice_variation": _number(variation(parts)), "by_pair": pairs, "by_slice": slices}
    line["is_trusted"] = bool(
        line["slope"] and line["slope"]["is_resolved"] and line["slope"]["value"] > 0
        and (not parts or 2 * line["positive"] > len(parts))
    )  # fmt: skip
    return line


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation, standard deviation over |mean|; NaN under two values or around 0.

    Example:
        >>> round(variation([1.0, 2.0, 3.0]), 3)
        0.5
    """
    if len(values) < 2 or not np.mean(values):
        return math.nan
    return float(np.std(values, ddof=1) / abs(np.mean(values)))


def exchange_table(held: Versions, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole study: versions, a line a metric, noise, what can be resolved, and the sentence."""
    table: dict[str, Any] = {**facts, "seeds": list(held.seeds), "versions": [], "metrics": []}
    table |= {"noise": None, "resolvable": None, "clicks": dict(held.clicks)}
    if held.versions:
        value_VSU, gauc_VSU = held.values["AUC", "all"], held.values["GAUC", "all"]
        for v, name in enumerate(held.versions):
            auc_S, own = value_VSU[v].mean(1), held.metrics[name]
            table["versions"].append({
                "version": name, "auc": float(auc_S.mean()), "gauc": float(gauc_VSU[v].mean()),
                "auc_by_seed": auc_S.tolist(),
                "spread": float(auc_S.std(ddof=1)) if len(auc_S) > 1 else None,
                "interval": _plain(_over_seeds(value_VSU[v])),
                "metrics": {metric: one.all.mean for metric, one in own.items()},
                "errors": {metric: _error(one.all) for metric, one in own.items()},
            })  # fmt: skip
        table["noise"] = _number(noise_floor(value_VSU))
        table["resolvable"] = _number(_resolvable(value_VSU))
        names = dict.fromkeys(metric for name in held.versions for metric in held.metrics[name])
        lines = [metric_line(held, metric) for metric in names]
        table["metrics"] = [line for line in lines if line is not None]
    table["chosen"] = chosen_metric(table["metrics"])
    table["sentence"] = sentence(table)
    return table


def chosen_metric(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Of the metrics that can be trusted the one whose rate varies least over slices, else over pairs."""

    def order(line: Mapping[str, Any]) -> float:
        for name in ("slice_variation", "rate_variation"):
            if line[name] is not None:
                return line[name]
        return math.inf

    trusted = [line for line in lines if line["is_trusted"]]
    return min(trusted, key=order)["metric"] if trusted else None


def sentence(table: Mapping[str, Any]) -> str:
    """Which metric to trust and what a point of it bought, or that none can be."""
    if len(table["versions"]) < 2:
        return "Fewer than two versions are there: nothing can be said yet."
    noise = table["noise"]
    around = "one seed" if noise is None else f"a noise of {100 * noise:.2f} AUC points between seeds"
    if table["chosen"] is None:
        best = [line for line in table["metrics"] if line["slope"]]
        why = "no metric tells two versions apart"
        if best:
            line = max(best, key=_sureness)
            why = f"the slope on {line['metric']}, the surest, is {_interval(line['slope'], '+.3f')}"
        return f"No intermediate metric can be trusted at {around}: {why}."
    line = next(one for one in table["metrics"] if one["metric"] == table["chosen"])
    return (
        f"Trust {line['metric']}: a point of it bought {_interval(line['slope'], '+.3f')} AUC points here, "
        f"more is better in {line['positive']} of {line['slices']} slices, at {around}."
    )


def _sureness(line: Mapping[str, Any]) -> float:
    """A slope over half its interval: above 1 it is told from 0."""
    value, high = line["slope"]["value"], line["slope"]["high"]
    return value / (high - value) if high is not None and high > value else -math.inf


# --- Markdown -----------------------------------------------------------------------------------------------


def exchange_markdown(table: Mapping[str, Any]) -> str:
    """The study as a page."""
    lines = [f"# Exchange rate: {table['dataset']}\n", f"{table['sentence']}\n"]
    if table["versions"]:
        lines.append(
            f"{len(table['versions'])} versions; click models of seeds "
            f"{', '.join(map(str, table['seeds']))}; "
            f"{table['clicks']['all']:,} clicks in the test period. AUC points are hundredths of AUC, metric "
            "points hundredths of the metric. Noise floor, standard deviation of AUC over seeds at a fixed "
            f"table: {_points(table['noise'])} points. Two versions are told apart from "
            f"{_points(table['resolvable'])} AUC points on (median over pairs).\n"
        )
        lines += ["## Versions\n", _version_lines(table), "## Metrics\n", _metric_lines(table)]
        lines.append(
            "Slope: AUC points a metric point, least squares over versions, 95 % interval over shoppers and "
            "seeds; bold where it excludes 0. Pairs: of versions, those the metric tells apart (2 standard "
            "errors). Positive: slices with a slope above 0, of those with one. Variation: standard "
            "deviation over mean, of the slopes of slices and of the rates of pairs.\n"
        )
        shown = table["chosen"] or _widest(table["metrics"])
        for line in table["metrics"]:
            if line["metric"] == shown:
                lines += [f"## {shown}, pair by pair\n", _pair_lines(line)]
                lines += [f"## {shown}, slice by slice\n", _slice_lines(line)]
    if table["missing"]:
        parts = [f"- {cell}: {' '.join(reason.split())}" for cell, reason in table["missing"].items()]
        lines.append("## Cells without a result\n\n" + "\n".join(parts) + "\n")
    return "\n".join(lines)


def _version_lines(table: Mapping[str, Any]) -> str:
    metrics = [line["metric"] for line in table["metrics"]]
    rows = [
        {
            "version": one["version"], "AUC": one["auc"], "sd over seeds": one["spread"], "GAUC": one["gauc"],
            **{metric: one["metrics"].get(metric) for metric in metrics},
        }
        for one in table["versions"]
    ]  # fmt: skip
    return as_markdown(("version", "AUC", "sd over seeds", "GAUC", *metrics), rows)


def _metric_lines(table: Mapping[str, Any]) -> str:
    rows = []
    for line in table["metrics"]:
        row: dict[str, Any] = {"metric": line["metric"], "queries": line["queries"]}
        row |= {"pairs": f"{line['counted']} of {line['pairs']}", "AUC slope": "undefined"}
        if line["slope"]:
            row |= {"AUC slope": _shown(line["slope"]), "GAUC slope": _shown(line["gauc_slope"])}
            low, high = line["slope"]["bootstrap"]
            row["bootstrap"] = f"{low:+.4f} to {high:+.4f}"
            row["resolves"] = line["slope"]["resolvable"]
        row |= {"Spearman": line["spearman"], "positive": f"{line['positive']} of {line['slices']}"}
        for name, found in (("slices", line["slice_variation"]), ("pairs", line["rate_variation"])):
            row[f"variation, {name}"] = None if found is None else f"{found:.1f}"
        rows.append(row | {"trusted": "yes" if line["is_trusted"] else "no"})
    columns = ("metric", "queries", "pairs", "AUC slope", "bootstrap", "resolves", "GAUC slope", "Spearman")
    return as_markdown((*columns, "positive", "variation, slices", "variation, pairs", "trusted"), rows)


def _pair_lines(line: Mapping[str, Any]) -> str:
    rows = [
        {
            "from": pair["before"], "to": pair["after"], "metric": f"{pair['metric_change']:+.4f}",
            "± 2 SE": None if pair["metric_error"] is None else APART * pair["metric_error"],
            "AUC": f"{pair['auc_change']:+.4f}",
            "rate": "undefined" if pair["rate"] is None else f"{pair['rate']:+.4f}",
        }
        for pair in line["by_pair"]
    ]  # fmt: skip
    return as_markdown(("from", "to", "metric", "± 2 SE", "AUC", "rate"), rows)


def _slice_lines(line: Mapping[str, Any]) -> str:
    rows = [
        {
            "slice": one["slice"], "clicks": one["clicks"], "queries": one["queries"],
            "pairs": f"{one['counted']} of {one['pairs']}",
            "AUC slope": _shown(one["slope"]) if one["slope"] else "undefined",
        }
        for one in line["by_slice"]
    ]  # fmt: skip
    return as_markdown(("slice", "clicks", "queries", "pairs", "AUC slope"), rows)


def _widest(lines: Sequence[Mapping[str, Any]]) -> str | None:
    counted = [line for line in lines if line["counted"]]
    return max(counted, key=lambda line: line["counted"])["metric"] if counted else None


def _shown(slope: Mapping[str, Any]) -> str:
    text = _interval(slope, "+.4f")
    return f"**{text}**" if slope["is_resolved"] else text


def _interval(slope: Mapping[str, Any], spec: str) -> str:
    value = format(slope["value"], spec)
    if slope["low"] is None:
        return value
    return f"{value} ({format(slope['low'], spec)} to {format(slope['high'], spec)})"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


# --- numbers ------------------------------------------------------------------------------------------------


def _over_seeds(value_SU: np.ndarray) -> Difference:
    codes = np.arange(value_SU.shape[1], dtype=np.uint32)
    zero = Outcomes(np.zeros(value_SU.shape[1]), codes)
    return difference_over_seeds([zero] * len(value_SU), [Outcomes(row, codes) for row in value_SU])


def _resolvable(value_VSU: np.ndarray) -> float:
    """The AUC difference two versions need to be told apart, median over pairs."""
    pairs = combinations(range(len(value_VSU)), 2)
    found = [_over_seeds(value_VSU[w] - value_VSU[v]).interval.standard_error for v, w in pairs]
    return resolvable_difference(float(np.median(found))) if found else math.nan


def _error(outcomes: Outcomes) -> float | None:
    zero = Outcomes(np.zeros(len(outcomes.values)), outcomes.queries)
    return _number(difference_over_seeds([zero], [outcomes]).interval.standard_error)


def _plain(found: Difference) -> dict[str, Any]:
    """As JSON: what is not known is None."""
    interval = found.interval
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    known = {name: _number(one) for name, one in {**numbers, "resolvable": found.resolvable}.items()}
    return {**known, "over": found.over, "is_resolved": found.is_resolved}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
