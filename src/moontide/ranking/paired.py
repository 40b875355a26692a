"""Whether one column of scores ranks clicks better than another: paired differences of AUC and GAUC.

Rows of one shopper are not independent, so shoppers are the unit: a bootstrap draws them again, and the
closed forms (`replicates=0`) add up what each of them contributes before they take a variance. Both columns
score the same rows, so what they share cancels. `Interval.p_value` tests "no difference".

Leaves out on purpose: corrections for many slices (`foundation/statistics.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from moontide.foundation.statistics import Interval, bootstrap_statistic, normal_interval, ratio_delta
from moontide.ranking.auc import checked, count_groups, group_codes, places

UNDEFINED = Interval(*[math.nan] * 4)


def auc_interval(
    score: np.ndarray, label: np.ndarray, shopper: np.ndarray, replicates: int = 200, seed: int = 0
) -> Interval:
    """AUC with its interval over shoppers: bootstrap, or `delong` for `replicates=0`."""
    if not replicates:
        return delong(score, label, shopper)
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
    """AUC(after) - AUC(before) on the same rows, with its paired interval over shoppers.

    Args:
        replicates: of the bootstrap; 0 takes the closed form, `delong_difference`.
    """
    if not replicates:
        return delong_difference(before, after, label, shopper)
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
    """GAUC(after) - GAUC(before), impressions as weights, with its paired interval over shoppers.

    Args:
        replicates: of the bootstrap; 0 takes the delta method of a ratio of sums over shoppers.
    """
    first = count_groups(shopper, *checked(before, label))
    second = count_groups(shopper, *checked(after, label))
    counts = first.has_both
    if not counts.any():
        return UNDEFINED
    weight = first.num_rows[counts].astype(np.float64)
    gain = (second.auc - first.auc)[counts] * weight
    if not replicates:
        return ratio_delta(gain, weight)

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
    score, label = checked(score, label)
    groups, code, _ = group_codes(group, len(score))
    order = np.argsort(score[~label], kind="stable")
    below, upto = places(score[label], score[~label][order])
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


def delong(score: np.ndarray, label: np.ndarray, group: np.ndarray | None = None) -> Interval:
    """AUC with the interval of DeLong's variance; with groups, their rows may depend on each other.

    Click i wins over a share V_i of the non-clicks, non-click j loses to a share V_j of the clicks (ties one
    half). Group g adds x_g = sum of V_i - A over its clicks and y_g, the same over its non-clicks:

        var(A) = G1/(G1-1) sum x^2 / m^2 + G0/(G0-1) sum y^2 / n^2 + 2 G/(G-1) sum x y / (m n)

    m clicks in G1 groups, n non-clicks in G0, G groups in all. One pass instead of a bootstrap's hundreds.

    Paper: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); grouped: Obuchowski, Biometrics 53 (1997).

    Args:
        group: the unit that is independent, a shopper; None: every row.
    """
    return _delong([score], [1.0], label, group)


def delong_difference(
    before: np.ndarray, after: np.ndarray, label: np.ndarray, group: np.ndarray | None = None
) -> Interval:
    """AUC(after) - AUC(before) on the same rows with the variance of `delong`, paired."""
    return _delong([before, after], [-1.0, 1.0], label, group)


def _delong(
    scores: list[np.ndarray], signs: list[float], label: np.ndarray, group: np.ndarray | None
) -> Interval:
    share = np.zeros(len(label))  # V of each row, of the difference
    for score, sign in zip(scores, signs, strict=True):
        share += sign * shares(*checked(score, label))
    is_click = checked(scores[0], label)[1]
    if is_click.all() or not is_click.any():
        return UNDEFINED
    value = float(share[is_click].mean())
    code, num_groups = np.arange(len(share)), len(share)
    if group is not None:
        groups, code, _ = group_codes(group, len(share))
        num_groups = len(groups)
    variance, parts = 0.0, []
    for kind in (is_click, ~is_click):
        part = np.bincount(code[kind], weights=share[kind] - value, minlength=num_groups) / kind.sum()
        num = int((np.bincount(code[kind], minlength=num_groups) > 0).sum())  # groups with this class
        variance += num / (num - 1) * float(part @ part) if num > 1 else math.nan
        parts.append(part)
    if num_groups > 1:
        variance += 2 * num_groups / (num_groups - 1) * float(parts[0] @ parts[1])
    return normal_interval(value, math.sqrt(variance) if not variance < 0 else 0.0)


def shares(score: np.ndarray, is_click: np.ndarray) -> np.ndarray:
    """Of a click: the share of non-clicks it wins over; of a non-click: of clicks it loses to."""
    clicks, others = np.sort(score[is_click]), np.sort(score[~is_click])
    share = np.full(len(score), math.nan)
    if len(clicks) and len(others):
        below, upto = places(score[is_click], others)
        share[is_click] = (below + upto) / (2 * len(others))
        below, upto = places(score[~is_click], clicks)
        share[~is_click] = 1 - (below + upto) / (2 * len(clicks))
    return share
