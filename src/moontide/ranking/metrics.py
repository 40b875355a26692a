"""How good click predictions are: exact AUC, grouped AUC, log loss, normalized entropy, calibration.

All metrics are exact and global: they sort whole columns, never bins of scores, and group over the whole
set, never over one batch. Row order, batch size and sharding therefore change nothing, not even the last bit:
wins are counted in whole numbers and sums are `exact_sum`. Ties count one half. A metric that is undefined
(one class, no rows) is NaN; scores that are not finite are refused. Rows that arrive in parts: `tally.py`.

Leaves out on purpose: thresholds, precision and top-N metrics (`encoder/benchmark.py` has recall).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moontide.foundation.errors import DataError
from moontide.foundation.statistics import exact_sum
from moontide.ranking.auc import GroupCounts, checked, count_groups, double_wins
from moontide.ranking.paired import (
    auc_difference,
    auc_interval,
    delong,
    delong_difference,
    gauc_difference,
    weighted_auc,
)

__all__ = [
    "WEIGHTINGS",
    "CalibrationBin",
    "GroupedAuc",
    "auc",
    "auc_difference",
    "auc_interval",
    "calibration_bins",
    "calibration_error",
    "click_metrics",
    "delong",
    "delong_difference",
    "gauc",
    "gauc_difference",
    "group_auc",
    "log_loss",
    "normalized_entropy",
    "pcoc",
    "weighted_auc",
]

WEIGHTINGS = ("impressions", "clicks", "equal")
TINY = 1e-7  # predictions are clipped to [TINY, 1 - TINY] before a logarithm
BINS = 10


@dataclass(frozen=True)
class GroupedAuc:
    """Grouped AUC, how it is weighted, and how many groups count or are skipped (one class only)."""

    value: float
    weighting: str
    num_groups: int
    num_skipped: int


@dataclass(frozen=True)
class CalibrationBin:
    """Rows of neighboring predictions: their range, number, clicks, and predicted over observed clicks."""

    low: float
    high: float
    impressions: int
    clicks: int
    predicted: float

    @property
    def pcoc(self) -> float:
        """Predicted over observed clicks; NaN without clicks."""
        return self.predicted / self.clicks if self.clicks else math.nan


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """P(score of a click > score of a non-click) + 0.5 P(equal), exact; NaN with one class only.

    The smaller class is looked up among the sorted scores of the larger: values are sorted, not indices.

    Paper: relatives of MIM (2502.00321) (analog MUSE); ties one half, no thresholds (ours).

    Example:
        >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
        0.875
    """
    score, label = checked(score, label)
    clicks, others = score[label], score[~label]
    if not len(clicks) or not len(others):
        return math.nan
    return double_wins(clicks, others) / (2 * len(clicks) * len(others))


def group_auc(
    group: np.ndarray, score: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact AUC inside each group.

    Returns:
        The distinct groups in ascending order, the AUC of each (NaN with one class only), its number of rows.
    """
    counts = count_groups(group, *checked(score, label))
    return counts.groups, counts.auc, counts.num_rows


def gauc(
    group: np.ndarray, score: np.ndarray, label: np.ndarray, weighting: str = "impressions"
) -> GroupedAuc:
    """Mean AUC over groups (shoppers) that have both classes in the whole set; the others are counted.

    Formula: sum_u w_u AUC_u / sum_u w_u, w_u = impressions (the usual one), clicks, or 1 ("equal").

    Raises:
        DataError: another weighting.
    """
    if weighting not in WEIGHTINGS:
        raise DataError(f"GAUC is weighted by {', '.join(WEIGHTINGS)}, got {weighting!r}")
    return _weighted_mean(count_groups(group, *checked(score, label)), weighting)


def log_loss(p_click: np.ndarray, label: np.ndarray) -> float:
    """Mean of -log p of what happened, in nats; NaN without rows."""
    p_click, label = checked(p_click, label)
    if not len(label):
        return math.nan
    p = np.clip(p_click.astype(np.float64, copy=False), TINY, 1 - TINY)
    return -(exact_sum(np.log(p[label])) + exact_sum(np.log1p(-p[~label]))) / len(label)


def normalized_entropy(p_click: np.ndarray, label: np.ndarray) -> float:
    """Log loss over that of always predicting the base rate: below 1 is better than knowing only the CTR."""
    return _normalized(log_loss(p_click, label), label)


def pcoc(p_click: np.ndarray, label: np.ndarray) -> float:
    """Predicted over observed clicks, sum(p) / sum(y): above 1 promises too much; NaN without clicks."""
    p_click, label = checked(p_click, label)
    return exact_sum(p_click) / int(label.sum()) if label.any() else math.nan


def calibration_bins(p_click: np.ndarray, label: np.ndarray, bins: int = BINS) -> list[CalibrationBin]:
    """Predictions in bins of equal rows, lowest first: deciles for 10 bins. Equal predictions share a bin.

    Many equal predictions make fewer bins of unequal rows; without rows there is none.

    Raises:
        DataError: fewer than one bin.
    """
    if bins < 1:
        raise DataError(f"calibration needs at least 1 bin, got {bins}")
    p_click, label = checked(p_click, label)
    if not len(label):
        return []
    ordered, clicks = np.sort(p_click), np.sort(p_click[label])
    highs = np.unique(ordered[-(-len(ordered) * np.arange(1, bins + 1) // bins) - 1])
    ends, clicked = (np.searchsorted(column, highs, side="right") for column in (ordered, clicks))
    found, start = [], 0
    for end, num_clicks in zip(ends.tolist(), np.diff(clicked, prepend=0).tolist(), strict=True):
        rows = ordered[start:end]
        predicted = float(rows.sum(dtype=np.float64))
        found.append(CalibrationBin(float(rows[0]), float(rows[-1]), end - start, num_clicks, predicted))
        start = end
    return found


def calibration_error(p_click: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
    """How far predictions are from the share of clicks in their bin of `calibration_bins`; NaN without rows.

    Formula: sum_b n_b / n |mean p_b - clicks_b / n_b|. 0 is perfect, and unlike PCOC it does not forgive high
    predictions that promise too much for low ones that promise too little.
    Also called: expected calibration error, ECE, here with bins of equal rows.
    """
    found = calibration_bins(p_click, label, bins)
    if not found:
        return math.nan
    missed = math.fsum(abs(one.predicted - one.clicks) for one in found)
    return missed / sum(one.impressions for one in found)


def click_metrics(
    p_click: np.ndarray, label: np.ndarray, shopper: np.ndarray | None = None
) -> dict[str, float]:
    """All metrics of one column of predictions, as run folders and reports keep them.

    Args:
        shopper: group of each row for GAUC; None leaves the keys that begin with `gauc` out.
    """
    p_click, label = checked(p_click, label)
    metrics: dict[str, float] = {"auc": auc(p_click, label)}
    if shopper is not None:
        counts = count_groups(shopper, p_click, label)
        by_shopper = _weighted_mean(counts, "impressions")
        metrics |= {"gauc": by_shopper.value}
        metrics |= {f"gauc_{name}": _weighted_mean(counts, name).value for name in ("equal", "clicks")}
        metrics |= {"gauc_shoppers": by_shopper.num_groups, "gauc_skipped": by_shopper.num_skipped}
    loss = log_loss(p_click, label)
    return metrics | {
        "log_loss": loss,
        "normalized_entropy": _normalized(loss, label),
        "pcoc": pcoc(p_click, label),
        "ece": calibration_error(p_click, label),
        "ctr": float(np.mean(label)) if len(label) else math.nan,
        "impressions": len(label),
    }


def _weighted_mean(counts: GroupCounts, weighting: str) -> GroupedAuc:
    has_both = counts.has_both
    num, value = int(has_both.sum()), math.nan
    if num:
        weights = {"impressions": counts.num_rows, "clicks": counts.num_clicks}
        weight = weights.get(weighting, np.ones_like(counts.num_rows))[has_both]
        value = math.fsum(counts.auc[has_both] * weight) / int(weight.sum())
    return GroupedAuc(value, weighting, num, len(has_both) - num)


def _normalized(loss: float, label: np.ndarray) -> float:
    rate = float(np.mean(label)) if len(label) else 0.0
    if not 0 < rate < 1:
        return math.nan
    return loss / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
