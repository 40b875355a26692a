"""Which of two creatives was clicked more often, and how far that may be believed: rules on counts alone.

Rates are compared as whole numbers: a gap of exactly 60 % is never above 60 % by rounding.

Paper: Creative4U 3.1 (more than 1,000 impressions and a gap above 60 % are reported; base, confidence and
strict modes are ours).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
from scipy.special import betaln
from scipy.stats import norm

GapBase = Literal["lower", "higher", "mean"]


def compare_rates(clicks_a: int, impressions_a: int, clicks_b: int, impressions_b: int) -> int:
    """1 where A has the higher click-through rate, -1 where B has, 0 where they are equal; exact."""
    a, b = clicks_a * impressions_b, clicks_b * impressions_a
    return (a > b) - (a < b)


def has_gap(
    clicks_a: int,
    impressions_a: int,
    clicks_b: int,
    impressions_b: int,
    min_gap: float = 0.6,
    base: GapBase = "lower",
) -> bool:
    """Whether the relative gap of two click-through rates is above `min_gap`; exact, the same on swap.

        lower: (hi - lo) / lo > g      higher: (hi - lo) / hi > g      mean: (hi - lo) / ((hi + lo) / 2) > g

    Against a lower rate of 0 there is no relative gap: False with base "lower", and where both are 0.

    Example:
        >>> has_gap(16, 1000, 10, 1000), has_gap(161, 10000, 100, 10000)
        (False, True)
    """
    lo, hi = sorted((clicks_a * impressions_b, clicks_b * impressions_a))  # rates times both impressions
    gap = Fraction(str(min_gap))
    if hi == 0:
        return False
    if base == "lower":
        return lo > 0 and hi - lo > gap * lo
    return hi - lo > gap * (hi if base == "higher" else Fraction(hi + lo, 2))


def label_confidence(clicks_w: int, impressions_w: int, clicks_l: int, impressions_l: int) -> float:
    """P(rate of w > rate of l), rates independent Beta(1 + clicks, 1 + impressions - clicks).

    With w ~ Beta(a, b) and l ~ Beta(c, d), all whole:
        P(w > l) = sum_{i=0}^{a-1} B(c + i, b + d) / ((b + i) B(1 + i, b) B(c, d))

    Exact and deterministic; 0.5 for equal counts, and P(w > l) + P(l > w) = 1. The prior is flat: pairs that
    were chosen for a large observed gap are somewhat less sure than this says.

    Paper: Creative4U 3.1 (ours).

    Example:
        >>> round(label_confidence(32, 2000, 20, 2000), 3), label_confidence(20, 2000, 20, 2000)
        (0.952, 0.5)
    """
    if (clicks_w, impressions_w) == (clicks_l, impressions_l):
        return 0.5
    a, b = 1 + clicks_w, 1 + impressions_w - clicks_w
    c, d = 1 + clicks_l, 1 + impressions_l - clicks_l
    if a > c:  # the shorter sum, of the opposite event
        return 1.0 - _chance(c, d, a, b)
    return _chance(a, b, c, d)


def _chance(a: int, b: int, c: int, d: int) -> float:
    i = np.arange(a, dtype=np.float64)
    log_terms = betaln(c + i, b + d) - np.log(b + i) - betaln(1 + i, b) - betaln(c, d)
    return float(min(1.0, np.exp(log_terms).sum()))


def p_value(clicks_a: int, impressions_a: int, clicks_b: int, impressions_b: int) -> float:
    """Two-sided p-value of equal rates, two-proportion z-test with the pooled rate; 1 where both are 0 or 1.

    z = (p_a - p_b) / sqrt(p (1 - p) (1/n_a + 1/n_b)),   p = (k_a + k_b) / (n_a + n_b)
    """
    pooled = (clicks_a + clicks_b) / (impressions_a + impressions_b)
    variance = pooled * (1 - pooled) * (1 / impressions_a + 1 / impressions_b)
    if variance <= 0:
        return 1.0
    difference = clicks_a / impressions_a - clicks_b / impressions_b
    return float(2 * norm.sf(abs(difference) / math.sqrt(variance)))


def wrong_label_rate(p_a: float, impressions_a: int, p_b: float, impressions_b: int) -> float:
    """How often the truly worse of two creatives shows the higher rate, given the true rates.

        ~= Phi(-|p_b - p_a| / sqrt(p_a (1 - p_a) / n_a + p_b (1 - p_b) / n_b))

    Example:
        >>> round(wrong_label_rate(0.01, 1000, 0.016, 1000), 3)
        0.118
    """
    variance = p_a * (1 - p_a) / impressions_a + p_b * (1 - p_b) / impressions_b
    return float(norm.cdf(-abs(p_b - p_a) / math.sqrt(variance))) if variance > 0 else 0.5 * (p_a == p_b)


def impressions_needed(p_click: float, gap: float, wrong_rate: float = 0.05) -> int:
    """Impressions of each creative for at most `wrong_rate` wrong labels at rates p and (1 + gap) p.

    Example:
        >>> impressions_needed(0.02, 0.6)
        951
    """
    other = p_click * (1 + gap)
    variance = p_click * (1 - p_click) + other * (1 - other)
    return math.ceil(variance * (norm.ppf(wrong_rate) / (other - p_click)) ** 2)
