"""AUC and GAUC as means over shoppers: what each shopper moves the metric by.

A metric of pairs has no value of one shopper, but to first order it is the mean of pseudo-values

    v_g = AUC + G * psi_g,   psi_g = sum of (a_i - AUC) / P over the shopper's clicks i
                                   + sum of (b_j - AUC) / N over the shopper's non-clicks j

with a_i the share of non-clicks under click i, b_j the share of clicks above non-click j (ties one half), P
clicks, N non-clicks, G shoppers. Their mean is exactly the AUC, and their spread its standard error, so that
differences of models are paired shopper by shopper at the cost of one sort, without a bootstrap.

Also called: placement values, structural components (DeLong), Hajek projection, jackknife pseudo-values.
"""

from __future__ import annotations

import math

import numpy as np

from moontide.ranking.metrics import group_auc
from moontide.ranking.paired import shares


def auc_by_shopper(
    score: np.ndarray, label: np.ndarray, shopper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct shoppers in ascending order and the pseudo-value of each; their mean is the AUC.

    With one class only the pseudo-values are NaN.

    Example:
        >>> score, label = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])
        >>> shoppers, value = auc_by_shopper(score, label, np.array([7, 7, 9, 9]))
        >>> float(value.mean())
        0.875
    """
    score, label = np.asarray(score), np.asarray(label, dtype=bool)
    shoppers, owner = np.unique(np.asarray(shopper), return_inverse=True)
    num_clicks, num_others = int(label.sum()), int((~label).sum())
    if not num_clicks or not num_others:
        return shoppers, np.full(len(shoppers), math.nan)
    share = shares(score, label)
    auc = share[label].mean()
    moved = np.where(label, (share - auc) / num_clicks, (share - auc) / num_others)
    return shoppers, auc + len(shoppers) * np.bincount(owner, moved, len(shoppers))


def gauc_by_shopper(
    score: np.ndarray, label: np.ndarray, shopper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The shoppers with both classes and the pseudo-value of each; their mean is GAUC by impressions."""
    shoppers, value, num = group_auc(shopper, score, label)
    counts = np.isfinite(value)
    shoppers, value, num = shoppers[counts], value[counts], num[counts].astype(np.float64)
    if not len(value):
        return shoppers, value
    gauc = float(np.average(value, weights=num))
    return shoppers, gauc + len(value) * num * (value - gauc) / num.sum()
