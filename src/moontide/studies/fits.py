"""How a figure grows: a saturating power law against a line in log x, and which of the two to report.

    power   m(x) = m_inf - a x^(-b),  a >= 0, b > 0      the gap to m_inf shrinks by 2^-b when x doubles
    log     m(x) = c + d log x                            the same gain for every doubling, no end in sight

Both are fitted to the figures themselves, never to their differences. For a given b the power law is
linear in m_inf and a, so only b is searched: least squares within bounds, from a grid of starts. Where b goes
to 0 the power law becomes the line, so that a small b and a far m_inf are not two findings but the line's.

The line is reported where it is as good by AICc, or where the interval of b touches 0. Beside that both must
predict the held-out largest point from the others.

Letters: P points, S seeds, Q queries (or shoppers). Paper: MOON Embedding 3.9 (axes paper, forms ours).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream

LEAST_B, MOST_B, STARTS = 1e-3, 5.0, 60
TOUCHES_0 = 0.01  # a b below it: a hundredfold x shrinks the gap by less than a twentieth, as the line does
AS_GOOD = 2.0  # of AICc; a common rule of thumb
LEVEL = 0.95
REPLICATES = 400


@dataclass(frozen=True)
class PowerLaw:
    """m(x) = m_inf - a x^(-b); with a = 0 (nothing rises) b is NaN."""

    m_inf: float
    a: float
    b: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """The curve."""
        return self.m_inf - self.gap(x)

    def gap(self, x: np.ndarray) -> np.ndarray:
        """What is missing to m_inf."""
        return self.a * np.asarray(x, float) ** -self.b if self.a else np.zeros(np.shape(x))


@dataclass(frozen=True)
class LogLine:
    """m(x) = c + d log x."""

    c: float
    d: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """The curve."""
        return self.c + self.d * np.log(np.asarray(x, float))


def fit_power(x: np.ndarray, m: np.ndarray) -> PowerLaw:
    """Least squares within a >= 0 and 0.001 <= b <= 5.

    Args:
        x: above 0; three distinct values at least, each as often as there are figures. m: the figures.

    Raises:
        DataError: fewer distinct points, or one that is not above 0.

    Example:
        >>> x = np.array([1.0, 2.0, 4.0, 8.0])
        >>> fitted = fit_power(x, 0.8 - 0.3 * x**-0.5)
        >>> round(fitted.m_inf, 4), round(fitted.a, 4), round(fitted.b, 4)
        (0.8, 0.3, 0.5)
    """
    x, m = _points(x, m, 3)
    unit = x / x.min()  # or large x would leave nothing of x^-b

    def solved(b: Any) -> tuple[Any, Any, Any]:
        """Squares, m_inf and a for one b, or for a column of them."""
        shape = unit**-b
        mean = shape.mean(-1)
        moved = shape - mean[..., None]
        a = np.maximum(-(moved @ m) / np.square(moved).sum(-1), 0.0)
        m_inf = m.mean() + a * mean
        return np.square(m_inf[..., None] - a[..., None] * shape - m).sum(-1), m_inf, a

    grid = np.geomspace(LEAST_B, MOST_B, STARTS)
    best = int(solved(grid[:, None])[0].argmin())
    ends = np.log(grid[max(best - 1, 0)]), np.log(grid[min(best + 1, STARTS - 1)])
    found = minimize_scalar(
        lambda log_b: solved(math.exp(log_b))[0], bounds=ends, method="bounded", options={"xatol": 1e-9}
    )
    b = min((math.exp(found.x), grid[best]), key=lambda one: solved(one)[0])
    _, m_inf, a = solved(b)
    if not a > 0:
        return PowerLaw(float(m_inf), 0.0, math.nan)
    return PowerLaw(float(m_inf), float(a) * float(x.min()) ** b, float(b))


def fit_log(x: np.ndarray, m: np.ndarray) -> LogLine:
    """Least squares.

    Raises:
        DataError: fewer than two distinct points, or one that is not above 0.
    """
    x, m = _points(x, m, 2)
    d, c = np.polyfit(np.log(x), m, 1)
    return LogLine(float(c), float(d))


def aicc(squares: float, num: int, parameters: int) -> float:
    """Akaike's criterion of a least-squares fit, corrected for few points; lower is better.

        n log(RSS / n) + 2 k + 2 k (k + 1) / (n - k - 1)

    Args:
        squares: sum of squared residuals. num: figures fitted.
        parameters: k, the variance of the residuals counted: 4 for the power law, 3 for the line.

    Returns:
        infinity where n - k - 1 is not above 0; minus infinity for a perfect fit.

    Example:
        >>> round(aicc(10.0, 10, 3), 6)
        10.0
    """
    rest = num - parameters - 1
    if rest <= 0:
        return math.inf
    likelihood = num * math.log(squares / num) if squares > 0 else -math.inf
    return likelihood + 2 * parameters + 2 * parameters * (parameters + 1) / rest


def compare_curves(
    x_P: np.ndarray, value_PSQ: np.ndarray, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Any]:
    """Both curves of one figure, with intervals over seeds and queries, and which one to report.

    A replicate draws the queries again, alike for all points and seeds, and moves every point by what another
    S seeds would: the spread of a seed, pooled over points, over sqrt(S), times Student's t with P (S - 1)
    degrees of freedom for the replicate. Three seeds themselves cannot be drawn again: they say too little of
    their own spread. Points are separate trainings and move independently; where equal seeds make them move
    together, the intervals are too wide, not too narrow.

    Args:
        x_P: ascending, above 0.
        value_PSQ: one number a query, whose mean over queries is the figure of a point and seed.

    Returns:
        `power` and `log`: parameters with intervals, AICc over all points and seeds; `held_out`: what either
        predicts for the largest x from the others; `chosen` and `why`. Without four points `power` is None;
        without three, so is all.
    """
    num_points = len(x_P)
    if num_points < 3:
        return {
            "power": None,
            "log": None,
            "held_out": None,
            "chosen": None,
            "why": "fewer than three points",
        }
    figure_PS = value_PSQ.mean(2)
    every_x, every_m = np.repeat(x_P, figure_PS.shape[1]), figure_PS.ravel()
    log = fit_log(every_x, every_m)
    line: dict[str, Any] = {"c": log.c, "d": log.d, "aicc": _aicc(log, every_x, every_m, 3)}
    drawn_RP = np.stack(list(_drawn(value_PSQ, replicates, seed)))
    logs = [fit_log(x_P, m) for m in drawn_RP]
    line |= {"d_interval": _interval([one.d for one in logs])}
    result: dict[str, Any] = {"power": None, "log": _plain(line), "held_out": None, "chosen": "log"}
    result["why"] = "three points cannot tell a power law from a line"
    if num_points > 3:
        power = fit_power(every_x, every_m)
        powers = [fit_power(x_P, m) for m in drawn_RP]
        curve: dict[str, Any] = {"m_inf": power.m_inf, "a": power.a, "b": power.b}
        curve |= {"aicc": _aicc(power, every_x, every_m, 4)}
        curve |= {"m_inf_interval": _interval([one.m_inf for one in powers])}
        curve |= {"a_interval": _interval([one.a for one in powers])}
        curve |= {"b_interval": _interval([_known_b(one) for one in powers])}
        result["power"] = _plain(curve)
        result["chosen"], result["why"] = _choice(curve, line)
        result["held_out"] = _held_out(x_P, figure_PS, drawn_RP)
    return result


def _choice(power: dict[str, Any], log: dict[str, Any]) -> tuple[str, str]:
    if not power["a"]:
        return "log", "nothing rises towards a limit"
    if power["b_interval"][0] <= TOUCHES_0:
        return "log", "the interval of b touches 0"
    gain = log["aicc"] - power["aicc"]
    if not gain > AS_GOOD:
        return "log", f"by AICc the line is as good (the power law is ahead by {gain:.1f})"
    return "power", f"by AICc the power law is ahead by {gain:.1f}, and the interval of b stays off 0"


def _held_out(x_P: np.ndarray, figure_PS: np.ndarray, drawn_RP: np.ndarray) -> dict[str, Any]:
    """The largest point predicted from the others, and the error, seen minus predicted, with intervals."""
    seeds = figure_PS.shape[1]
    rest_x, rest_m = np.repeat(x_P[:-1], seeds), figure_PS[:-1].ravel()
    seen = float(figure_PS[-1].mean())
    held: dict[str, Any] = {"x": float(x_P[-1]), "seen": seen}
    for name, fit in (("power", fit_power), ("log", fit_log)):
        predicted = float(fit(rest_x, rest_m).at(x_P[-1]))
        again = np.array([fit(x_P[:-1], m[:-1]).at(x_P[-1]) for m in drawn_RP])
        low, high = _interval(drawn_RP[:, -1] - again)
        held[name] = {
            "predicted": predicted, "interval": _interval(again), "error": seen - predicted,
            "error_interval": [low, high], "is_held": low <= 0 <= high,
        }  # fmt: skip
    return held


def _drawn(value_PSQ: np.ndarray, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Figures of the points with queries drawn again and seeds left to chance, see `compare_curves`."""
    num_points, num_seeds, num_queries = value_PSQ.shape
    mean_PQ, degrees = value_PSQ.mean(1), num_points * (num_seeds - 1)
    spread = math.sqrt(value_PSQ.mean(2).var(1, ddof=1).mean() / num_seeds) if degrees else 0.0
    rng = stream(seed, "scaling")
    for _ in range(replicates):
        weight_Q = rng.multinomial(num_queries, np.full(num_queries, 1 / num_queries)) / num_queries
        stretch = math.sqrt(degrees / rng.chisquare(degrees)) if degrees else 0.0
        yield mean_PQ @ weight_Q + spread * stretch * rng.normal(size=num_points)


def _aicc(curve: PowerLaw | LogLine, x: np.ndarray, m: np.ndarray, parameters: int) -> float:
    return aicc(float(((curve.at(x) - m) ** 2).sum()), len(m), parameters)


def _known_b(curve: PowerLaw) -> float:
    """b for an interval: where nothing rises, the least there is."""
    return curve.b if math.isfinite(curve.b) else LEAST_B


def _interval(values: Any) -> list[float]:
    return [float(one) for one in np.quantile(np.asarray(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """As JSON: a number that is not finite is None."""
    return {
        name: None if isinstance(one, float) and not math.isfinite(one) else one
        for name, one in found.items()
    }


def _points(x: np.ndarray, m: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    x, m = np.asarray(x, float), np.asarray(m, float)
    if not (x > 0).all() or not np.isfinite(m).all():
        raise DataError(f"a curve over log x needs x above 0 and finite figures, got x {x.tolist()}")
    if len(np.unique(x)) < least:
        raise DataError(f"the curve needs {least} distinct points, got {len(np.unique(x))}: measure more")
    return x, m
