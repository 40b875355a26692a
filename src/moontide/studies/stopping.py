"""When an experiment may stop early: looks planned beforehand, each with a bound that pays for itself.

Who tests every day at 0.05 finds a difference that is not there far more often than once in twenty. Here
alpha is spent over the looks (Lan and DeMets, 1983), little at first and most of it at the end (after
O'Brien and Fleming, 1979):

    a(t) = 4 - 4 Phi(z_{alpha/4} / sqrt(t))           spent up to the share t of the planned requests
    P0(|Z_1| < c_1, ..., |Z_{k-1}| < c_{k-1}, |Z_k| >= c_k) = a(t_k) - a(t_{k-1})     gives c_k

with Z_k sqrt(t_k) a Brownian motion at t_k under "no difference"; the probability comes from its density on
the grid of all paths that have not crossed yet (Armitage, McPherson and Rowe, 1969).

Shoppers come back, so looks share more than their requests. With click rates that differ between shoppers
by variance tau and vary within them by w, the arms' difference has variance w / t + tau (after scaling) and
its covariance between two looks is the variance at the later one: still Brownian, in the information
I(t) = 1 / (w / t + tau). I(t) / t falls, so looks are correlated at least as much as under the planned t,
and bounds made for t cross less often, not more. `tests/studies/test_abtest.py` simulates it.

The estimate at an early stop leans away from 0; its repeated interval (value +- c_k standard errors, Jennison
and Turnbull, 1989) covers at every look all the same. Leaves out on purpose: stopping for futility.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from moontide.foundation.errors import SettingsError
from moontide.studies.experiment import Outcome

NODES = 401  # of the density's grid
LEAST_STEP = 0.01  # share of the requests between two looks, or the grid is too coarse
WIDEST = 9.0  # standard deviations beyond which no path is followed


@dataclass(frozen=True)
class Look:
    """One planned look at an experiment.

    Args:
        day: looks come at the end of a day, from 1.
        share: of the planned requests so far.
        bound: |z| from which the experiment stops. p_bound: the same as a two-sided p-value.
        spent: alpha spent up to here.
        z: difference over its standard error. lift, low, high: with the repeated interval of this look.
        is_crossed: |z| reached the bound.
    """

    day: int
    share: float
    bound: float
    p_bound: float
    spent: float
    z: float
    lift: float
    low: float
    high: float
    is_crossed: bool


def spending(share: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Alpha spent up to a share of the plan: a(t) of the module's text.

    Example:
        >>> spending(np.array([0.5, 1.0])).round(4).tolist()
        [0.0031, 0.05]
    """
    return 4 * norm.sf(norm.isf(alpha / 4) / np.sqrt(share))


def boundary(shares: Sequence[float], alpha: float = 0.05) -> np.ndarray:
    """|z| from which to stop at each look, two-sided.

    Args:
        shares: of the planned requests at each look, rising, at most 1; looks may be left out or moved as
            long as that does not depend on the difference seen.
        alpha: chance to stop at any look if there is no difference.

    Raises:
        SettingsError: alpha outside (0, 1), shares that do not rise by 0.01 at least, or above 1.

    Example:
        >>> boundary([0.2, 0.4, 0.6, 0.8, 1.0]).round(3).tolist()
        [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    t = np.asarray(shares, float)
    if not 0 < alpha < 1:
        raise SettingsError(f"alpha must lie between 0 and 1, got {alpha}")
    steps = np.diff(np.r_[0.0, t])
    if not len(t) or (steps < LEAST_STEP * (1 - 1e-9)).any() or t[-1] > 1 + 1e-9:
        raise SettingsError(
            f"looks must rise by {LEAST_STEP} of the plan at least and end by 1, got {t.round(4).tolist()}"
        )
    pays = np.diff(np.r_[0.0, spending(np.minimum(t, 1.0), alpha)])
    node, weight = np.polynomial.legendre.leggauss(NODES)
    bounds = np.zeros(len(t))
    at, mass = np.zeros(1), np.ones(1)  # where paths are before a look, and how many
    for look, (step, pay) in enumerate(zip(steps, pays, strict=True)):
        deviation, root = math.sqrt(step), math.sqrt(t[look])
        paths = (at, mass, deviation, root, pay)
        # A path that crosses here at all has |Z| >= c: c is at most that of `pay` alone.
        most = min(float(norm.isf(pay / 2)), 38.0) if pay > 0 else 38.0
        is_first = look == 0 or _excess(most, *paths) >= 0
        bounds[look] = most if is_first else brentq(_excess, 0.0, most, paths, xtol=1e-10)
        edge = min(bounds[look], WIDEST) * root
        inside = edge * node
        density = norm.pdf((inside[:, None] - at) / deviation) / deviation @ mass
        at, mass = inside, density * weight * edge
    return bounds


def _excess(
    bound: float, at: np.ndarray, mass: np.ndarray, deviation: float, root: float, pay: float
) -> float:
    """Chance to cross `bound` at this look, first of all, less what may be paid for it."""
    out = norm.sf((bound * root - at) / deviation) + norm.cdf((-bound * root - at) / deviation)
    return float(mass @ out) - pay


def planned_looks(days: int, alpha: float = 0.05) -> list[dict[str, float]]:
    """The looks of an experiment before it begins, after each day, if all days bring equally many requests.

    Returns:
        a row a look: day, share, bound, p_bound, spent. Looks under 1 % of the plan apart are joined.
    """
    every = max(1, math.ceil(days * LEAST_STEP))
    day = sorted({*range(every, days, every), days})
    if len(day) > 1 and day[-1] - day[-2] < every:
        del day[-2]
    shares = np.array(day) / days
    bounds, spent = boundary(shares.tolist(), alpha), spending(shares, alpha)
    return [
        {"day": d, "share": float(t), "bound": float(c), "p_bound": float(2 * norm.sf(c)), "spent": float(a)}
        for d, t, c, a in zip(day, shares, bounds, spent, strict=True)
    ]


def looks(
    outcome: Outcome,
    num_requests: int,
    before: int = 0,
    after: int = 1,
    top: str = "clicks",
    bottom: str = "impressions",
    alpha: float = 0.05,
) -> list[Look]:
    """The looks at the end of each day of an experiment, up to the one that stops it or the last.

    Args:
        outcome: with its daily counts.
        num_requests: planned for the whole experiment; the share of a look is what came of them.
        top, bottom: of the ratio the experiment is decided by.
        alpha: see `boundary`.
    """
    days = len(outcome.daily["requests"])
    came = outcome.daily["requests"].sum(1).cumsum() / num_requests
    kept: list[int] = []
    for day in range(1, days + 1):
        last = came[kept[-1] - 1] if kept else 0.0
        if came[day - 1] - last >= LEAST_STEP and outcome.until(day).has_ratio(before, after, top, bottom):
            kept.append(day)
    if not kept:
        return []
    shares = np.minimum([came[day - 1] for day in kept], 1.0)
    bounds, spent, rows = boundary(shares.tolist(), alpha), spending(shares, alpha), []
    for day, share, bound, paid in zip(kept, shares, bounds, spent, strict=True):
        found = outcome.until(day).compare(before, after, top, bottom)
        error = found.difference.standard_error
        z = found.difference.value / error if error > 0 else 0.0
        ratio = 1 + found.lift.value
        reach = bound * found.lift.standard_error / ratio
        low, high = ratio * math.exp(-reach) - 1, ratio * math.exp(min(reach, 50.0)) - 1
        is_crossed = bool(abs(z) >= bound)
        rows.append(
            Look(
                day, float(share), float(bound), float(2 * norm.sf(bound)), float(paid), float(z),
                found.lift.value, low, high, is_crossed,
            )
        )  # fmt: skip
        if is_crossed:
            break
    return rows


def decision(rows: Sequence[Look], days: int) -> dict[str, Any]:
    """What the looks decided: {"looks", "stopped" (day or None), "decision"}."""
    crossed = next((row for row in rows if row.is_crossed), None)
    if not rows:
        text = "no look had enough counts"
    elif crossed is None:
        text = f"no difference found by day {rows[-1].day}: {rows[-1].lift:+.1%} lies inside the bounds"
    else:
        moved = "raised" if crossed.z > 0 else "lowered"
        text = (
            f"stop after day {crossed.day} of {days}: {moved}, by {crossed.lift:+.1%} "
            f"({crossed.low:+.1%} to {crossed.high:+.1%})"
        )
    return {
        "looks": [asdict(row) for row in rows],
        "stopped": crossed.day if crossed else None,
        "decision": text,
    }
