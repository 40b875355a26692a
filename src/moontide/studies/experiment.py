"""An A/B test in the market: shoppers split by hash, each arm with its own policy and its share of budgets.

Intervals cluster by shopper (delta method), because impressions of one shopper are not independent, and
each shopper's clicks in the log before are used to take out what the experiment did not cause (CUPED). Beside
the clicks that happened stands the mean true chance of a click, which the market knows and a shop does not:
the same quantity with less noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydantic

from moontide.foundation.progress import track
from moontide.foundation.seeds import hash_share
from moontide.foundation.settings import Settings
from moontide.foundation.statistics import Comparison, compare_ratios, cuped, resolvable_difference
from moontide.market.policy import Policy
from moontide.market.traffic import run
from moontide.market.world import World

COUNTS = ("requests", "impressions", "clicks", "expected_clicks", "revenue_cents", "orders")


class ExperimentSettings(Settings):
    """How long an experiment runs."""

    num_requests: int = pydantic.Field(10_000, ge=10, description="requests of all arms")
    days: int = pydantic.Field(5, ge=1, description="days after the end of the log")
    salt: str = pydantic.Field("experiment", description="another salt, another split of the shoppers")


@dataclass(frozen=True)
class Outcome:
    """What happened: counts by arm and shopper.

    Args:
        names: of the arms.
        arm_of: (shoppers,) arm of each.
        counts: name of `COUNTS` -> (shoppers,) sums.
        past_clicks, past_impressions: (shoppers,) before the experiment; they take noise out of comparisons.
    """

    names: tuple[str, ...]
    arm_of: np.ndarray
    counts: dict[str, np.ndarray]
    past_clicks: np.ndarray | None = None
    past_impressions: np.ndarray | None = None

    def total(self, arm: int, name: str) -> float:
        """Sum of a count over the shoppers of an arm."""
        return float(self.counts[name][self.arm_of == arm].sum())

    def compare(self, before: int, after: int, top: str, bottom: str = "impressions") -> Comparison:
        """The ratio top / bottom in two arms, with the interval of its difference and of its lift."""
        seen = self.counts[bottom] > 0
        numerator, denominator = self.counts[top], self.counts[bottom]
        if self.past_clicks is not None and self.past_impressions is not None:
            past = (self.past_clicks[seen], self.past_impressions[seen])
            numerator = numerator.copy()
            numerator[seen] = cuped(numerator[seen], denominator[seen], *past)
        columns = []
        for arm in (before, after):
            own = seen & (self.arm_of == arm)
            columns += [numerator[own], denominator[own]]
        return compare_ratios(*columns)


def split_shoppers(world: World, num_arms: int, salt: str) -> np.ndarray:
    """(shoppers,) the arm of each, by a hash of its id: the same in every run."""
    return np.array([int(hash_share(name, salt) * num_arms) for name in world.shopper_ids], np.int64)


def run_experiment(
    world: World,
    policies: Sequence[Policy],
    settings: ExperimentSettings,
    seed: int = 0,
    past: tuple[np.ndarray, np.ndarray] | None = None,
) -> Outcome:
    """Play the days after the log against the policies; the world's memory moves on.

    Args:
        policies: one for each arm; names are theirs.
        past: (shoppers,) clicks and impressions in the log, see `Outcome`.
    """
    arm_of = split_shoppers(world, len(policies), settings.salt)
    counts = {name: np.zeros(len(arm_of)) for name in COUNTS}
    with track(settings.num_requests, "experiment") as meter:
        for batch in run(
            world, policies, arm_of, settings.num_requests, world.end_ms, settings.days, seed, "experiment"
        ):
            shown = batch.slates.product >= 0
            for name, value in (
                ("requests", np.ones(len(shown))),
                ("impressions", shown.sum(1)),
                ("clicks", batch.clicks.sum(1)),
                ("expected_clicks", (batch.p_click * shown).sum(1)),
                ("revenue_cents", batch.charge_cents.sum(1)),
                ("orders", (batch.order_at > 0).sum(1)),
            ):
                np.add.at(counts[name], batch.requests.shopper, value)
            meter.step(len(shown))
    clicks, impressions = past or (None, None)
    return Outcome(tuple(policy.name for policy in policies), arm_of, counts, clicks, impressions)


def outcome_results(outcome: Outcome, before: int = 0, after: int = 1) -> dict:
    """An outcome as a run folder keeps it: a row an arm, and `after` against `before` by metric."""
    arms = []
    for arm, name in enumerate(outcome.names):
        total = {count: outcome.total(arm, count) for count in COUNTS}
        row = {"arm": name, "shoppers": int((outcome.arm_of == arm).sum()), **total}
        row["ctr"] = total["clicks"] / max(total["impressions"], 1)
        row["rpm"] = 10 * total["revenue_cents"] / max(total["impressions"], 1)
        arms.append(row)
    compared = {}
    for metric, top in (
        ("CTR", "clicks"),
        ("true chance of a click", "expected_clicks"),
        ("revenue (RPM)", "revenue_cents"),
    ):
        found = outcome.compare(before, after, top)
        compared[metric] = {
            "before": found.value_a,
            "after": found.value_b,
            "difference": vars(found.difference),
            "lift": vars(found.lift),
            "p_value": found.p_value,
            "resolvable_lift": _share(resolvable_difference(found.difference.standard_error), found.value_a),
        }
    return {"arms": arms, "compared": compared}


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
