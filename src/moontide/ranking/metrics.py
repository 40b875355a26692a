"""How good click predictions are: exact AUC, grouped AUC, log loss, calibration, and paired differences.

All metrics are exact and global: they sort whole columns, never bins of scores, and group over the whole
set, never over one batch. Row order, batch size and sharding therefore change nothing. Ties count one half.
A metric that is undefined (one class, no rows) is NaN; scores that are not finite are refused.

Leaves out on purpose: thresholds, precision and top-N metrics (`encoder/benchmark.py` has recall).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moontide.foundation.errors import DataError
from moontide.foundation.statistics import Interval, bootstrap_statistic

WEIGHTINGS = ("impressions", "clicks", "equal")
TINY = 1e-7  # predictions are clipped to [TINY, 1 - TINY] before a logarithm


@dataclass(frozen=True)
class GroupedAuc:
    """Grouped AUC, how it is weighted, and how many groups count or are skipped (one class only)."""

    value: float
    weighting: str
    num_groups: int
    num_skipped: int


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """P(score of a click > score of a non-click) + 0.5 P(equal), exact; NaN with one class only.

    Each click is looked up among the sorted scores of the non-clicks, so values are sorted, not indices.

    Paper: relatives of MIM (2502.00321) (analog MUSE); ties one half, no thresholds (ours).

    Example:
        >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
        0.875
    """
    score, label = _checked(score, label)
    below, upto, _, num_negatives = _places(score, label)
    if not len(below) or not num_negatives:
        return math.nan
    return float((below.sum() + upto.sum()) / 2 / len(below) / num_negatives)


def group_auc(
    group: np.ndarray, score: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact AUC inside each group.

    Returns:
        The distinct groups in ascending order, the AUC of each (NaN with one class only), its number of rows.
    """
    groups, value, num_rows, _ = _group_auc(group, *_checked(score, label))
    return groups, value, num_rows


def gauc(
    group: np.ndarray, score: np.ndarray, label: np.ndarray, weighting: str = "impressions"
) -> GroupedAuc:
    """Mean AUC over groups (shoppers) that have both classes in the whole set.

    Formula: sum_u w_u AUC_u / sum_u w_u, w_u = impressions (the usual one), clicks, or 1 ("equal").

    Raises:
        DataError: another weighting.
    """
    if weighting not in WEIGHTINGS:
        raise DataError(f"GAUC is weighted by {', '.join(WEIGHTINGS)}, got {weighting!r}")
    _, value, num_rows, num_clicks = _group_auc(group, *_checked(score, label))
    weight = {"impressions": num_rows, "clicks": num_clicks, "equal": np.ones(len(value))}[weighting]
    counts = np.isfinite(value)
    mean = float(np.average(value[counts], weights=weight[counts])) if counts.any() else math.nan
    return GroupedAuc(mean, weighting, int(counts.sum()), int((~counts).sum()))


def log_loss(p_click: np.ndarray, label: np.ndarray) -> float:
    """Mean of -log p of what happened, in nats; NaN without rows."""
    p_click, label = _checked(p_click, label)
    if not len(label):
        return math.nan
    p = np.clip(p_click.astype(np.float64), TINY, 1 - TINY)
    return float(-np.where(label, np.log(p), np.log1p(-p)).mean())


def normalized_entropy(p_click: np.ndarray, label: np.ndarray) -> float:
    """Log loss over that of always predicting the base rate: below 1 is better than knowing only the CTR."""
    label = np.asarray(label, dtype=bool)
    rate = label.mean() if len(label) else 0.0
    if not 0 < rate < 1:
        return math.nan
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    return log_loss(p_click, label) / entropy


def pcoc(p_click: np.ndarray, label: np.ndarray) -> float:
    """Predicted over observed clicks, sum(p) / sum(y): above 1 promises too much; NaN without clicks."""
    p_click, label = _checked(p_click, label)
    return float(p_click.sum(dtype=np.float64) / label.sum()) if label.any() else math.nan


def click_metrics(p_click: np.ndarray, label: np.ndarray, shopper: np.ndarray) -> dict[str, float]:
    """All metrics of one column of predictions, as run folders and reports keep them."""
    by_shopper = gauc(shopper, p_click, label)
    return {
        "auc": auc(p_click, label),
        "gauc": by_shopper.value,
        "gauc_equal": gauc(shopper, p_click, label, "equal").value,
        "gauc_shoppers": by_shopper.num_groups,
        "gauc_skipped": by_shopper.num_skipped,
        "log_loss": log_loss(p_click, label),
        "normalized_entropy": normalized_entropy(p_click, label),
        "pcoc": pcoc(p_click, label),
        "ctr": float(np.mean(label)) if len(label) else math.nan,
        "impressions": len(label),
    }


def auc_interval(
    score: np.ndarray, label: np.ndarray, shopper: np.ndarray, replicates: int = 200, seed: int = 0
) -> Interval:
    """AUC with its bootstrap interval over shoppers."""
    statistic, num_groups = weighted_auc(score, label, shopper)
    return bootstrap_statistic(statistic, num_groups, replicates, seed=seed)


def auc_difference(
    before: np.ndarray,
    after: np.ndarray,
    label: np.ndarray,
    shopper: np.ndarray,
    replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """AUC(after) - AUC(before) on the same rows, with its paired bootstrap interval over shoppers."""
    first, num_groups = weighted_auc(before, label, shopper)
    second, _ = weighted_auc(after, label, shopper)
    return bootstrap_statistic(lambda w_RG: second(w_RG) - first(w_RG), num_groups, replicates, seed=seed)


def gauc_difference(
    before: np.ndarray,
    after: np.ndarray,
    label: np.ndarray,
    shopper: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """GAUC(after) - GAUC(before), impressions as weights, with its paired bootstrap interval."""
    _, first, num_rows, _ = _group_auc(shopper, *_checked(before, label))
    _, second, _, _ = _group_auc(shopper, *_checked(after, label))
    counts = np.isfinite(first)
    if not counts.any():
        return Interval(*[math.nan] * 4)
    gain, weight = ((second - first) * num_rows)[counts], num_rows[counts].astype(np.float64)

    def difference(weight_RG: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weight_RG @ gain) / (weight_RG @ weight)

    return bootstrap_statistic(difference, len(gain), replicates, seed=seed)


def weighted_auc(
    score: np.ndarray, label: np.ndarray, group: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """AUC as a function of one weight per group, for bootstraps: sorted once, then one pass a replicate.

    A click with weight w beats the summed weight of the non-clicks below it, and half of those at its score.

    Returns:
        The function from weights (replicates, groups) to AUCs (replicates,), NaN where a class has no weight;
        and the number of groups, which are the distinct values of `group` in ascending order.
    """
    score, label = _checked(score, label)
    groups, code = np.unique(np.asarray(group), return_inverse=True)
    below, upto, order, _ = _places(score, label, with_order=True)
    positive_group, negative_group = code[label], code[~label][order]

    def statistic(weight_RG: np.ndarray) -> np.ndarray:
        values = np.full(len(weight_RG), math.nan)
        total = np.zeros(len(negative_group) + 1)
        for row, weight_G in enumerate(weight_RG):
            np.cumsum(weight_G[negative_group], dtype=np.float64, out=total[1:])
            weight = weight_G[positive_group].astype(np.float64)
            pairs = weight.sum() * total[-1]
            if pairs > 0:
                values[row] = weight @ (total[below] + total[upto]) / 2 / pairs
        return values

    return statistic, len(groups)


def _places(score: np.ndarray, label: np.ndarray, with_order: bool = False):
    """For each click: how many non-clicks score below it, and at most it; the order of the non-clicks."""
    positives, negatives = score[label], score[~label]
    order = np.argsort(negatives, kind="stable") if with_order else None
    negatives = negatives[order] if with_order else np.sort(negatives)
    if not with_order:
        positives = np.sort(positives)  # neighbors in the search share cache lines
    below = np.searchsorted(negatives, positives, side="left")
    upto = np.searchsorted(negatives, positives, side="right")
    return below, upto, order, len(negatives)


def _group_auc(group: np.ndarray, score: np.ndarray, label: np.ndarray):
    """Groups, AUC, rows and clicks of each: one sort of 64-bit keys made of group, score and label."""
    group = np.asarray(group)
    if len(group) != len(score):
        raise DataError(f"every row needs a group: {len(score)} rows, {len(group)} groups")
    if not len(group):
        return group, np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    groups, code = _codes(group)
    key = np.sort((code.astype(np.uint64) << 33) | (_ordered_bits(score) << 1) | label.astype(np.uint64))
    is_click, place, owner = (key & 1).astype(np.float64), key >> 1, (key >> 33).astype(np.int64)
    edge = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])  # first row of each (group, score)
    positive = np.add.reduceat(is_click, edge)
    negative = np.diff(np.r_[edge, len(key)]) - positive
    owner = owner[edge]
    first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])  # first edge of each group
    below = np.cumsum(negative) - negative
    below -= np.repeat(
        below[first], np.diff(np.r_[first, len(edge)])
    )  # non-clicks of the group under this score
    wins, p, n = (
        np.add.reduceat(value, first) for value in (positive * (below + negative / 2), positive, negative)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(p * n > 0, wins / (p * n), np.nan)
    return groups, value, (p + n).astype(np.int64), p.astype(np.int64)


def _codes(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct groups and the code of each row; small non-negative integers are looked up, not sorted."""
    if np.issubdtype(group.dtype, np.integer) and group.min() >= 0 and group.max() < 8 * len(group) + 1024:
        seen = np.zeros(int(group.max()) + 1, dtype=bool)
        seen[group] = True
        return np.flatnonzero(seen).astype(group.dtype), (np.cumsum(seen) - 1)[group]
    return np.unique(group, return_inverse=True)


def _ordered_bits(score: np.ndarray) -> np.ndarray:
    """32-bit integers in the order of the scores, equal where the scores are equal."""
    if score.dtype != np.float32:
        narrow = score.astype(np.float32)
        if not (narrow == score).all():  # more digits than float32 has: use ranks, nothing may become a tie
            _, rank = np.unique(score, return_inverse=True)
            return rank.astype(np.uint64)
        score = narrow
    bits = (score + np.float32(0)).view(np.uint32)  # + 0 makes -0.0 equal 0.0
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)


def _checked(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score, label = np.asarray(score), np.asarray(label)
    if score.shape != label.shape or score.ndim != 1:
        raise DataError(
            f"scores and labels must be columns of equal length, got {score.shape}, {label.shape}"
        )
    if not np.issubdtype(score.dtype, np.floating):
        score = score.astype(np.float64)
    if not np.isfinite(score).all():
        bad = int((~np.isfinite(score)).sum())
        raise DataError(
            f"{bad:,} of {len(score):,} scores are not finite: the model diverged or a join failed"
        )
    return score, label.astype(bool)
