"""An A/B test in the market: shoppers split by hash, each arm with its own policy and its share of budgets.

Intervals cluster by shopper (delta method), because impressions of one shopper are not independent, and
each shopper's clicks in the log before are used to take out what the experiment did not cause (CUPED). Beside
the clicks that happened stands the mean true chance of a click, which the market knows and a shop does not:
the same quantity with less noise.

Counts are kept by arm and shopper, by day for a stopping rule (`stopping.py`) and by slice of the catalog
(`abtest.py`): sums, never single impressions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pydantic

from moontide.foundation.progress import track
from moontide.foundation.seeds import hash_share
from moontide.foundation.settings import Settings
from moontide.foundation.statistics import Comparison, compare_ratios, cuped, resolvable_difference
from moontide.market.policy import DAY_MS, Policy
from moontide.market.traffic import Batch, run
from moontide.market.world import World

COUNTS = ("requests", "impressions", "clicks", "expected_clicks", "revenue_cents", "orders")
METRICS = {  # top / bottom of each ratio
    "CTR": ("clicks", "impressions"),
    "true chance of a click": ("expected_clicks", "impressions"),
    "revenue (RPM)": ("revenue_cents", "impressions"),
    "orders a click (CVR)": ("orders", "clicks"),
}


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
        daily: name of `COUNTS` -> (days, shoppers) sums of each day; empty where not kept.
        sliced: slice of the catalog -> name of `COUNTS` -> (shoppers,) sums; its requests are all requests.
    """

    names: tuple[str, ...]
    arm_of: np.ndarray
    counts: dict[str, np.ndarray]
    past_clicks: np.ndarray | None = None
    past_impressions: np.ndarray | None = None
    daily: Mapping[str, np.ndarray] = field(default_factory=dict)
    sliced: Mapping[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def total(self, arm: int, name: str) -> float:
        """Sum of a count over the shoppers of an arm."""
        return float(self.counts[name][self.arm_of == arm].sum())

    def until(self, days: int) -> Outcome:
        """The outcome as it stood at the end of the first `days` days."""
        counts = {name: each[:days].sum(0) for name, each in self.daily.items()}
        daily = {name: each[:days] for name, each in self.daily.items()}
        return replace(self, counts=counts, daily=daily, sliced={})

    def within(self, slice_name: str) -> Outcome:
        """The outcome on one slice of the catalog; the past stays that of the whole catalog."""
        return replace(self, counts=self.sliced[slice_name], daily={}, sliced={})

    def has_ratio(self, before: int, after: int, top: str, bottom: str = "impressions") -> bool:
        """Whether both arms have counts enough for an interval of top / bottom."""
        return all(
            self.total(arm, top) > 0 and ((self.counts[bottom] > 0) & (self.arm_of == arm)).sum() > 1
            for arm in (before, after)
        )

    def compare(
        self, before: int, after: int, top: str, bottom: str = "impressions", level: float = 0.95
    ) -> Comparison:
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
        return compare_ratios(*columns, level=level)


def split_shoppers(world: World, num_arms: int, salt: str) -> np.ndarray:
    """(shoppers,) the arm of each, by a hash of its id: the same in every run."""
    return np.array([int(hash_share(name, salt) * num_arms) for name in world.shopper_ids], np.int64)


def run_experiment(
    world: World,
    policies: Sequence[Policy],
    settings: ExperimentSettings,
    seed: int = 0,
    past: tuple[np.ndarray, np.ndarray] | None = None,
    slices: Mapping[str, np.ndarray] | None = None,
) -> Outcome:
    """Play the days after the log against the policies; the world's memory moves on.

    Args:
        policies: one for each arm; names are theirs.
        past: (shoppers,) clicks and impressions in the log, see `Outcome`.
        slices: name -> (products,) True where a product belongs to it, see `abtest.product_slices`.
    """
    arm_of = split_shoppers(world, len(policies), settings.salt)
    daily_DCS = np.zeros((settings.days, len(COUNTS), len(arm_of)))
    members = np.stack(list((slices or {}).values()), axis=1).astype(float) if slices else None
    num_slices = 0 if members is None else members.shape[1]
    sliced_SNC = np.zeros((len(arm_of), num_slices, len(COUNTS)))
    with track(settings.num_requests, "experiment") as meter:
        for batch in run(
            world, policies, arm_of, settings.num_requests, world.end_ms, settings.days, seed, "experiment"
        ):
            cells_BKC, shopper = _cells(batch), batch.requests.shopper
            day = np.clip((batch.requests.at - world.end_ms) // DAY_MS, 0, settings.days - 1)
            sums_BC = cells_BKC.sum(1)
            sums_BC[:, 0] = 1  # a request, whatever it showed
            for number in range(len(COUNTS)):
                np.add.at(daily_DCS[:, number], (day, shopper), sums_BC[:, number])
            if members is not None:
                of_BKN = members[np.maximum(batch.slates.product, 0)]
                sums_BNC = np.einsum("bkn,bkc->bnc", of_BKN, cells_BKC)
                sums_BNC[:, :, 0] = 1
                np.add.at(sliced_SNC, shopper, sums_BNC)
            meter.step(len(shopper))
    daily = {name: daily_DCS[:, number] for number, name in enumerate(COUNTS)}
    sliced = {
        name: {count: sliced_SNC[:, place, number] for number, count in enumerate(COUNTS)}
        for place, name in enumerate(slices or {})
    }
    counts = {name: each.sum(0) for name, each in daily.items()}
    clicks, impressions = past or (None, None)
    names = tuple(policy.name for policy in policies)
    return Outcome(names, arm_of, counts, clicks, impressions, daily, sliced)


def _cells(batch: Batch) -> np.ndarray:
    """(B, K, counts) what each place of each slate adds to `COUNTS`; the column of requests is 0."""
    shown = batch.slates.product >= 0
    columns = (
        np.zeros(shown.shape), shown, batch.clicks & shown, batch.p_click * shown, batch.charge_cents * shown,
        (batch.order_at > 0) & shown,
    )  # fmt: skip
    return np.stack(columns, axis=2).astype(float)


def outcome_results(outcome: Outcome, before: int = 0, after: int = 1) -> dict[str, Any]:
    """An outcome as a run folder keeps it: a row an arm, and `after` against `before` by metric."""
    arms = []
    for arm, name in enumerate(outcome.names):
        total = {count: outcome.total(arm, count) for count in COUNTS}
        row = {"arm": name, "shoppers": int((outcome.arm_of == arm).sum()), **total}
        row["ctr"] = total["clicks"] / max(total["impressions"], 1)
        row["rpm"] = 10 * total["revenue_cents"] / max(total["impressions"], 1)
        arms.append(row)
    compared = {
        metric: comparison(outcome, before, after, *ratio)
        for metric, ratio in METRICS.items()
        if ratio[1] == "impressions" or outcome.has_ratio(before, after, *ratio)
    }
    return {"arms": arms, "compared": compared}


def comparison(
    outcome: Outcome, before: int, after: int, top: str, bottom: str = "impressions"
) -> dict[str, Any]:
    """`Outcome.compare` as a run folder keeps it, with the smallest lift it could have resolved."""
    found = outcome.compare(before, after, top, bottom)
    return {
        "before": found.value_a,
        "after": found.value_b,
        "difference": vars(found.difference),
        "lift": vars(found.lift),
        "p_value": found.p_value,
        "resolvable_lift": _share(resolvable_difference(found.difference.standard_error), found.value_a),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
