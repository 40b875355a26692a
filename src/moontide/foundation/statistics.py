"""How sure a measured number is: intervals, paired differences, A/B comparisons, what a study can resolve.

Rows of one shopper are not independent, so everything here can be grouped: the group (a shopper), not the
row, is drawn again or summed up. All is vectorized and seeded; nothing knows of products, clicks or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream

CHUNK_CELLS = 4_000_000  # weights held at once: replicates x groups
UNIT_BITS = 62  # `exact_sum` counts in 2^-62
SUM_BLOCK = 1 << 16  # numbers at a time, which stay in the cache


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; `standard_error` is NaN under two groups."""

    value: float
    low: float
    high: float
    standard_error: float
    level: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the truth is 0", normal with this standard error; NaN where that is NaN."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * norm.sf(abs(self.value) / self.standard_error))

    def __str__(self) -> str:
        return f"{self.value:.5g} [{self.low:.5g}, {self.high:.5g}]"


@dataclass(frozen=True)
class Comparison:
    """Two arms of an experiment: the metric of each, b - a, b / a - 1, and the p-value of "no difference"."""

    value_a: float
    value_b: float
    difference: Interval
    lift: Interval
    p_value: float


def bootstrap_weights(
    num_groups: int, replicates: int, rng: np.random.Generator, kind: str = "poisson"
) -> np.ndarray:
    """How often each group is drawn in each replicate.

    `poisson` draws every count from Poisson(1): groups stay independent, as sharded data needs.
    `multinomial` draws exactly `num_groups` groups with replacement.

    Returns:
        (replicates, groups) float32.

    Raises:
        DataError: another kind.
    """
    if kind == "poisson":
        return rng.poisson(1.0, (replicates, num_groups)).astype(np.float32)
    if kind == "multinomial":
        share = np.full(num_groups, 1 / num_groups)
        return rng.multinomial(num_groups, share, size=replicates).astype(np.float32)
    raise DataError(f"bootstrap weights are 'poisson' or 'multinomial', got {kind!r}")


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], np.ndarray],
    num_groups: int,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    kind: str = "poisson",
) -> Interval:
    """The percentile interval of any statistic that can be computed from one weight per group.

    Args:
        statistic: takes weights (replicates, groups), gives one value a replicate, NaN where undefined.
        num_groups: how many groups there are.
        replicates: how often the groups are drawn again.
        level: coverage, between 0 and 1.
        seed: of the draws; the same seed gives the same interval, and pairs two statistics.
        kind: see `bootstrap_weights`.

    Raises:
        DataError: no group, or a level outside (0, 1).
    """
    if num_groups < 1:
        raise DataError("a bootstrap needs at least one group, got 0 rows")
    if not 0 < level < 1:
        raise DataError(f"the level of an interval must lie between 0 and 1, got {level}")
    rng = stream(seed, "bootstrap", kind)
    value = float(statistic(np.ones((1, num_groups), np.float32))[0])
    step = max(1, CHUNK_CELLS // num_groups)
    parts = []
    for start in range(0, replicates, step):
        parts.append(statistic(bootstrap_weights(num_groups, min(step, replicates - start), rng, kind)))
    drawn = np.concatenate(parts)
    drawn = drawn[np.isfinite(drawn)]
    if num_groups < 2 or len(drawn) < 2:
        return Interval(value, math.nan, math.nan, math.nan, level)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), float(drawn.std(ddof=1)), level)


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    kind: str = "poisson",
) -> Interval:
    """The bootstrap interval of a mean, rows drawn in groups.

    Args:
        values: one number for each row.
        groups: group of each row (a shopper); None makes every row its own group.
        replicates, level, seed, kind: as in `bootstrap_statistic`.

    Example:
        >>> interval = bootstrap_interval(np.arange(100.0))
        >>> round(interval.value, 1), interval.low < 49.5 < interval.high
        (49.5, True)
    """
    values = np.asarray(values, dtype=np.float64)
    total, count = _sums(values, groups), _sums(np.ones_like(values), groups)

    def mean(weight_RG: np.ndarray) -> np.ndarray:
        return _divide(weight_RG @ total, weight_RG @ count)

    return bootstrap_statistic(mean, len(total), replicates, level, seed, kind)


def paired_difference(
    before: np.ndarray,
    after: np.ndarray,
    groups: np.ndarray | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    kind: str = "poisson",
) -> Interval:
    """The bootstrap interval of mean(after - before) over the same rows: positive means `after` is larger.

    Both columns are drawn with the same weights, so what they share cancels. Args as `bootstrap_interval`.

    Raises:
        DataError: columns of different length.
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before.shape != after.shape:
        raise DataError(
            f"a paired difference needs equal rows, got {before.shape} and {after.shape}: score the same rows"
        )
    return bootstrap_interval(after - before, groups, replicates, level, seed, kind)


def ratio_delta(
    numerator: np.ndarray, denominator: np.ndarray, groups: np.ndarray | None = None, level: float = 0.95
) -> Interval:
    """The interval of sum(numerator) / sum(denominator), such as clicks per impression; groups independent.

    Delta method over G groups with sums x, y and r = sum x / sum y:
    var(r) = G/(G-1) * sum (x - r y)^2 / (sum y)^2.
    """
    value, variance, _ = _ratio(numerator, denominator, groups)
    return normal_interval(value, math.sqrt(variance), level)


def compare_ratios(
    numerator_a: np.ndarray,
    denominator_a: np.ndarray,
    numerator_b: np.ndarray,
    denominator_b: np.ndarray,
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare a ratio metric (CTR, RPM) between two independent arms, rows clustered by shopper.

    The difference and its two-sided p-value come from the delta method of `ratio_delta`; the lift b / a - 1
    from the delta method on the log of the quotient, so its interval is not symmetric.
    """
    a, var_a, _ = _ratio(numerator_a, denominator_a, groups_a)
    b, var_b, _ = _ratio(numerator_b, denominator_b, groups_b)
    error = math.sqrt(var_a + var_b)
    difference = normal_interval(b - a, error, level)
    p_value = float(2 * norm.sf(abs(b - a) / error)) if error > 0 else (1.0 if a == b else 0.0)
    if not (a > 0 and b > 0):
        return Comparison(a, b, difference, Interval(*[math.nan] * 4, level), p_value)
    log_error = math.sqrt(var_a / a**2 + var_b / b**2)
    reach = _reach(level) * log_error
    lift = b / a - 1
    bounds = (b / a * math.exp(-reach) - 1, b / a * math.exp(reach) - 1)
    return Comparison(a, b, difference, Interval(lift, *bounds, b / a * log_error, level), p_value)


def cuped(
    numerator: np.ndarray, denominator: np.ndarray, past_numerator: np.ndarray, past_denominator: np.ndarray
) -> np.ndarray:
    """Numerators of a ratio metric with what each group's own past explains taken out: same mean, less noise.

        u = x - r y,   v = x_past - r_past y_past,   x' = x - theta (v - mean v),   theta = cov(u, v) / var(v)

    The past must lie before the experiment: then both arms lose the same on average, and ratios of x' over y
    compare as ratios of x do. Also called: CUPED, regression adjustment.

    Args:
        numerator, denominator: (groups,) of all arms together, such as clicks and impressions.
        past_numerator, past_denominator: (groups,) the same before the experiment; 0 where there was none.

    Returns:
        (groups,) adjusted numerators; unchanged where the past is the same for all.
    """
    now = numerator - numerator.sum() / max(denominator.sum(), 1e-12) * denominator
    past = past_numerator - past_numerator.sum() / max(past_denominator.sum(), 1e-12) * past_denominator
    past = past - past.mean()
    spread = float(past @ past)
    return numerator - (float(past @ now) / spread if spread > 0 else 0.0) * past


def resolvable_difference(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a test finds with probability `power`: 2.80 standard errors.

    Example:
        >>> round(resolvable_difference(1.0), 2)
        2.8
    """
    return float((_reach(level) + norm.ppf(power)) * standard_error)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """The Wilson score interval of a share; stays inside [0, 1] and is honest at 0 and at few trials.

    Raises:
        DataError: more successes than trials, or a negative count.
    """
    if not 0 <= successes <= trials:
        raise DataError(f"a share needs 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0, math.nan, level)
    reach, share = _reach(level), successes / trials
    center = (share + reach**2 / (2 * trials)) / (1 + reach**2 / trials)
    half = math.sqrt(share * (1 - share) / trials + reach**2 / (4 * trials**2)) * reach
    half /= 1 + reach**2 / trials
    error = math.sqrt(share * (1 - share) / trials)
    return Interval(share, max(center - half, 0.0), min(center + half, 1.0), error, level)


def normal_interval(value: float, standard_error: float, level: float = 0.95) -> Interval:
    """The interval of an estimate with normal errors: value -+ z times its standard error."""
    return Interval(
        value, *(value + side * _reach(level) * standard_error for side in (-1, 1)), standard_error, level
    )


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values of many tests, raised so that one below 0.05 is a chance of 5 % that *any* of them is false.

    Sorted p_1 <= ... <= p_m become max over i <= k of (m - i + 1) p_i, at most 1; whatever the dependence.
    NaN is no test: it stays NaN and is not counted. Also called: Holm-Bonferroni, family-wise error.

    Raises:
        DataError: a p-value outside [0, 1].

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03, np.nan])).tolist()
        [0.03, 0.06, 0.06, nan]
    """
    return _adjusted(p_values, lambda p, num: np.maximum.accumulate((num - np.arange(num)) * p))


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """p-values of many tests, raised so that of those below 0.05 about 5 % are false.

    Sorted p_1 <= ... <= p_m become min over i >= k of m / i p_i, at most 1; for tests that are independent or
    depend positively. NaN stays NaN and is not counted. Also called: false discovery rate, q-values.

    Raises:
        DataError: a p-value outside [0, 1].

    Example:
        >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, np.nan])).tolist()
        [0.03, 0.04, 0.04, nan]
    """

    def raised(p: np.ndarray, num: int) -> np.ndarray:
        return np.minimum.accumulate((num / np.arange(1, num + 1) * p)[::-1])[::-1]

    return _adjusted(p_values, raised)


def exact_sum(values: np.ndarray) -> float:
    """The sum of finite numbers, the same to the last bit in any order and any grouping.

    Each number is cut to a whole number of 2^-62, those are added as integers, and the sum is rounded once.
    Numbers far below 2^-62 are therefore lost; probabilities and losses are not.

    Raises:
        DataError: a number that is not finite.

    Example:
        >>> sum([0.1, 0.2, 0.3]) == sum([0.3, 0.2, 0.1])
        False
        >>> exact_sum(np.array([0.1, 0.2, 0.3])) == exact_sum(np.array([0.3, 0.2, 0.1]))
        True
    """
    values, total = np.asarray(values), 0
    for start in range(0, len(values), SUM_BLOCK):
        block = values[start : start + SUM_BLOCK].astype(np.float64, copy=False)
        whole = np.floor(block)
        if not np.isfinite(whole).all():
            raise DataError("only finite numbers have a sum: look for where NaN or infinity came from")
        units = ((block - whole) * 2.0**UNIT_BITS).astype(np.int64)
        low = units & ((1 << UNIT_BITS // 2) - 1)  # in two halves, as a sum of whole units would overflow
        total += (int((units >> UNIT_BITS // 2).sum()) << UNIT_BITS // 2) + int(low.sum())
        is_small = np.abs(whole).max() < 1 << 31
        total += (int(whole.sum()) if is_small else sum(map(int, whole.tolist()))) << UNIT_BITS
    return total / (1 << UNIT_BITS)


def _adjusted(p_values: np.ndarray, raised: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p_values))
    if ((p_values[tested] < 0) | (p_values[tested] > 1)).any():
        raise DataError(f"p-values lie between 0 and 1, got {p_values[tested].tolist()}")
    order = tested[np.argsort(p_values[tested], kind="stable")]
    adjusted = np.full(len(p_values), math.nan)
    adjusted[order] = np.minimum(raised(p_values[order], len(order)), 1.0)
    return adjusted


def _reach(level: float) -> float:
    return float(norm.ppf((1 + level) / 2))


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _sums(values: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    if groups is None:
        return values
    if len(groups) != len(values):
        raise DataError(f"every row needs a group: {len(values)} rows, {len(groups)} groups")
    _, code = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(code, weights=values)


def _ratio(
    numerator: np.ndarray, denominator: np.ndarray, groups: np.ndarray | None
) -> tuple[float, float, int]:
    top = _sums(np.asarray(numerator, dtype=np.float64), groups)
    bottom = _sums(np.asarray(denominator, dtype=np.float64), groups)
    if not bottom.sum() > 0:
        raise DataError("a ratio needs a positive denominator: the arm has no impressions")
    value, num = float(top.sum() / bottom.sum()), len(top)
    if num < 2:
        return value, math.nan, num
    variance = num / (num - 1) * float(((top - value * bottom) ** 2).sum()) / float(bottom.sum()) ** 2
    return value, variance, num
