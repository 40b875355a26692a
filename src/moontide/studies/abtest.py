"""What surrounds an A/B test: the lift it can see, planned before, and slices of the catalog after.

    past_traffic ─► least_lift       before: the smallest lift that so many requests find, from the log
    product_slices ─► slice_rows     after: new products, top categories, merchant tiers, with intervals
    ab_results                       all of one experiment, with the looks of `stopping.py`

In a slice the arms may show different products and unequally many, so its CTR moves with what is shown as
well as with how well it fits. "Clicks a request" of a slice is what the shop gets from it: over slices that
cover the catalog once it adds up to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.catalog.splits import cutoff
from moontide.foundation.errors import DataError
from moontide.foundation.statistics import (
    holm,
    resolvable_difference,
)
from moontide.market.policy import Policy
from moontide.market.world import World
from moontide.studies.experiment import (
    COUNTS,
    METRICS,
    ExperimentSettings,
    Outcome,
    comparison,
    outcome_results,
    run_experiment,
)
from moontide.studies.grid import as_markdown
from moontide.studies.stopping import decision, looks, planned_looks

SLICE_METRICS = ("CTR", "revenue (RPM)", "orders a click (CVR)")
PER_REQUEST = ("clicks", "requests")
LEAST_CLICKS = 30  # of an arm in a slice; under it the normal interval means nothing


# ---- before the test


@dataclass(frozen=True)
class Past:
    """A log summed by shopper: all arrays (shoppers,), in the order of the dataset's shoppers.

    Args:
        num_requests: in the log.
        impressions, clicks, revenue_cents, orders: sums.
        revenue_squares: sum of squared charges, for the variance of one impression's revenue.
    """

    num_requests: int
    impressions: np.ndarray
    clicks: np.ndarray
    revenue_cents: np.ndarray
    revenue_squares: np.ndarray
    orders: np.ndarray

    @property
    def covariates(self) -> tuple[np.ndarray, np.ndarray]:
        """(clicks, impressions): what `run_experiment` takes as the past."""
        return self.clicks, self.impressions


def past_traffic(dataset: Dataset) -> Past:
    """Sum up a dataset's log by shopper.

    Raises:
        DataError: no events, or none of a known shopper.
    """
    dataset.require("an A/B test", "events", "shoppers")
    ids = dataset.table("shoppers", ["shopper_id"]).column(0).combine_chunks()
    events = dataset.table("events", ["kind", "shopper_id", "charge_cents", "request_id"])
    code = pc.fill_null(pc.index_in(events.column("shopper_id"), value_set=ids), -1).to_numpy()
    charge = pc.fill_null(events.column("charge_cents"), 0).to_numpy().astype(float)
    kind, columns = events.column("kind"), {}
    for name in ("impression", "click", "order"):
        is_kind = pc.equal(kind, name).to_numpy() & (code >= 0)
        columns[name] = np.bincount(code[is_kind], minlength=len(ids)).astype(float)
        if name == "click":
            columns["paid"] = np.bincount(code[is_kind], charge[is_kind], len(ids))
            columns["paid^2"] = np.bincount(code[is_kind], charge[is_kind] ** 2, len(ids))
    if not columns["impression"].any():
        raise DataError(f"the log of {dataset.path} has no impression of a known shopper")
    shown = events.filter(pc.equal(kind, "impression")).column("request_id")
    return Past(
        pc.count_distinct(shown).as_py(), columns["impression"], columns["click"], columns["paid"],
        columns["paid^2"], columns["order"],
    )  # fmt: skip


def least_lift(
    past: Past, num_requests: int, metric: str = "CTR", alpha: float = 0.05, power: float = 0.8
) -> dict[str, float]:
    """The smallest lift that a test of two even arms finds with `power`, known from the log before it.

    Shoppers differ and come back, so noise does not fall as 1 / requests: with w the variance of one
    impression and tau that between shoppers' rates, y_i the impressions planned for shopper i and p_i those
    in the log,

        sum (x - r p)^2 = w sum p + tau sum p^2                    gives tau by moments
        u = w sum y + tau sum y^2,  uv = tau sum y p,  v = w sum p + tau sum p^2
        var(difference) = 4 (u - uv^2 / v) / (sum y)^2             the second part is what CUPED takes out

    Args:
        num_requests: of both arms together.
        metric: "CTR", "revenue (RPM)" or "orders a click (CVR)".

    Returns:
        value of the metric in the log, least_difference, least_lift, and without CUPED least_lift_plain.

    Example:
        >>> same = np.full(1000, 100.0)
        >>> past = Past(10_000, same, np.full(1000, 3.0), same, same, same)
        >>> round(least_lift(past, 10_000)["least_lift"], 3)  # no spread: 2 (1.96 + 0.84) sqrt(w / n) / r
        0.101
    """
    tops = {
        "CTR": (past.clicks, past.impressions, past.clicks),
        "revenue (RPM)": (past.revenue_cents, past.impressions, past.revenue_squares),
        "orders a click (CVR)": (past.orders, past.clicks, past.orders),
    }
    top, bottom, squares = tops[metric]
    if not top.sum() > 0:
        raise DataError(f"{metric} was 0 in the log: there is no variance to plan with")
    rate = top.sum() / bottom.sum()
    within = squares.sum() / bottom.sum() - rate**2
    spread = ((top - rate * bottom) ** 2).sum() - within * bottom.sum()
    between = max(float(spread / (bottom**2).sum()), 0.0)
    planned = bottom * (num_requests / past.num_requests)
    u = within * planned.sum() + between * (planned**2).sum()
    shared = between * (planned * bottom).sum()
    v = within * bottom.sum() + between * (bottom**2).sum()

    def least(variance: float) -> float:
        error = math.sqrt(4 * variance) / planned.sum()
        return resolvable_difference(error, 1 - alpha, power)

    adjusted = u - (shared**2 / v if v > 0 else 0.0)
    return {
        "value": float(rate),
        "least_difference": least(adjusted),
        "least_lift": least(adjusted) / float(rate),
        "least_lift_plain": least(u) / float(rate),
    }


# ---- slices


def product_slices(dataset: Dataset, new_since_ms: int | None = None) -> dict[str, np.ndarray]:
    """Slices of the catalog: name -> (products,) True where a product belongs.

    New products, each category of the highest level, and each tier of merchants where it is known.

    Args:
        new_since_ms: products created from this moment on are new; default the cutoff of the log, after
            which no click model has seen them in training.
    """
    products = dataset.products()
    if new_since_ms is None:
        new_since_ms = round(cutoff(dataset.table("events", ["kind", "at"])).timestamp() * 1000)
    created = [p.created_at.timestamp() * 1000 if p.created_at else -math.inf for p in products]
    is_new = np.array(created) >= new_since_ms
    slices = {"new products": is_new, "older products": ~is_new}
    top = np.array([p.category[0] if p.category else "none" for p in products])
    slices |= {f"category {name}": top == name for name in sorted(set(top.tolist()))}
    if dataset.has("merchants"):
        tiers = {row["merchant_id"]: row["tier"] for row in dataset.table("merchants").to_pylist()}
        tier = np.array([tiers.get(p.merchant_id) or "none" for p in products])
        slices |= {f"merchant tier {name}": tier == name for name in sorted(set(tier.tolist()))}
    return {name: members for name, members in slices.items() if members.any()}


def slice_rows(outcome: Outcome, before: int = 0, after: int = 1) -> list[dict[str, Any]]:
    """Every slice by every metric: the lift with its interval, its p-value as it is and adjusted.

    Intervals come from sums by shopper inside the slice and hold for one slice at a time; `p_adjusted` holds
    for all slices of its metric together. A slice in which an arm has too few clicks has its counts alone.
    """
    rows = []
    ratios = {name: METRICS[name] for name in SLICE_METRICS} | {"clicks a request": PER_REQUEST}
    for metric, (top, bottom) in ratios.items():
        own = []
        for name in outcome.sliced:
            part = outcome.within(name)
            row: dict[str, Any] = {"slice": name, "metric": metric}
            row |= {
                f"{count}_{when}": part.total(arm, count)
                for count in ("impressions", "clicks")
                for when, arm in (("before", before), ("after", after))
            }
            is_enough = min(part.total(arm, "clicks") for arm in (before, after)) >= LEAST_CLICKS
            if is_enough and part.has_ratio(before, after, top, bottom):
                row |= comparison(part, before, after, top, bottom)
            own.append(row)
        adjusted = holm(np.array([row.get("p_value", math.nan) for row in own])).tolist()
        rows += [row | {"p_adjusted": p} for row, p in zip(own, adjusted, strict=True)]
    return rows


# ---- one experiment


def ab_results(
    outcome: Outcome, settings: ExperimentSettings, past: Past | None = None, alpha: float = 0.05
) -> dict[str, Any]:
    """All of an experiment of two arms, as a run folder keeps it.

    Returns:
        `outcome_results`, "slices" (`slice_rows`), "stopping" (`decision` on CTR), and what was known before:
        "planned": {"looks": `planned_looks`, "least_lift": metric -> `least_lift`}.
    """
    results = outcome_results(outcome) | {"slices": slice_rows(outcome)}
    planned: dict[str, Any] = {"looks": planned_looks(settings.days, alpha)}
    if past is not None:
        planned["least_lift"] = {
            metric: least_lift(past, settings.num_requests, metric, alpha)
            for metric, top in zip(SLICE_METRICS, (past.clicks, past.revenue_cents, past.orders), strict=True)
            if top.any()
        }
    rows = looks(outcome, settings.num_requests, alpha=alpha)
    return results | {"planned": planned, "stopping": decision(rows, settings.days), "alpha": alpha}


def ab_test(
    dataset: Dataset, policies: Sequence[Policy], world: World, settings: ExperimentSettings, seed: int = 0
) -> dict[str, Any]:
    """Play two policies against each other after a market's log; see `ab_results`.

    Args:
        world: of the dataset, as the log left it; the policies may hold it.
    """
    past = past_traffic(dataset)
    outcome = run_experiment(world, policies, settings, seed, past.covariates, product_slices(dataset))
    return ab_results(outcome, settings, past)


def ab_markdown(results: Mapping[str, Any]) -> str:
    """The tables of `ab_results`: arms, lifts, slices, looks."""
    arms = [row | {count: f"{row[count]:,.0f}" for count in COUNTS} for row in results["arms"]]
    parts = [as_markdown(("arm", "shoppers", *COUNTS, "ctr", "rpm"), arms)]
    before = results["planned"].get("least_lift", {})
    rows = [
        {"metric": name, "before": row["before"], "after": row["after"], **_shown(row),
         "planned": _percent(before[name]["least_lift"]) if name in before else None}
        for name, row in results["compared"].items()
    ]  # fmt: skip
    columns = ("metric", "before", "after", "lift", "p-value", "least lift seen", "planned")
    parts.append(as_markdown(columns, rows))
    rows = [
        {
            "slice": row["slice"],
            "metric": row["metric"],
            "clicks": f"{row['clicks_before']:.0f}, {row['clicks_after']:.0f}",
        }
        | (_shown(row) | {"adjusted": row["p_adjusted"]} if "lift" in row else {})
        for row in results["slices"]
    ]
    parts.append(as_markdown(("slice", "metric", "clicks", "lift", "p-value", "adjusted"), rows))
    stopping = results["stopping"]
    rows = [
        row
        | {name: f"{row[name]:.2g}" for name in ("p_bound", "spent")}
        | {"lift": f"{row['lift']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%})"}
        for row in stopping["looks"]
    ]
    parts.append(as_markdown(("day", "share", "bound", "p_bound", "spent", "z", "lift"), rows))
    return "\n".join([*parts, f"{stopping['decision']}\n"])


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    lift = row["lift"]
    text = f"{lift['value']:+.1%} ({lift['low']:+.1%} to {lift['high']:+.1%})"
    return {"lift": text, "p-value": row["p_value"], "least lift seen": _percent(row["resolvable_lift"])}


def _percent(share: float) -> str:
    return f"{share:.1%}"
