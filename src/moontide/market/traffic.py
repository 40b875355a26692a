"""Shoppers at work: visits through the days, their requests, and what they do with the slates they get.

`run` plays a span of days against any number of policies (one makes a log, several make an A/B test) and hands every
finished batch to its caller. Visits of some hours run side by side: all their first requests together, then all their
second ones, so that everything is array work and a shopper's second request knows what the first led to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moontide.foundation.seeds import stream
from moontide.market import choice as truth
from moontide.market.matching import Matching
from moontide.market.needs import Needs
from moontide.market.policy import DAY_MS, Policy, Requests, Slates
from moontide.market.world import World

HOUR_MS = 3_600_000
MOST_REQUESTS = 6  # of one visit
VISITS_TOGETHER = 48  # at least, unless a day has fewer: fewer make arrays too short to be fast


@dataclass(frozen=True)
class Visits:
    """Planned visits by time: start (ms), shopper code, number of requests."""

    at: np.ndarray
    shopper: np.ndarray
    requests: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Requests that were answered, and what shoppers did; (B,) or (B, K) arrays, times in ms, 0 where it did not happen.

    Args:
        arm: (B,) which policy answered. visit: (B,) numbers. facet: (B,) boxes ticked before the request, or -1.
        p_click: true chances. charge: what the clicks cost, cents. order_cents: what was paid.
    """

    arm: np.ndarray
    visit: np.ndarray
    facet: np.ndarray
    requests: Requests
    slates: Slates
    p_click: np.ndarray
    click_at: np.ndarray
    cart_at: np.ndarray
    order_at: np.ndarray
    charge: np.ndarray
    order_cents: np.ndarray

    @property
    def clicks(self) -> np.ndarray:
        """(B, K) True where clicked."""
        return self.click_at > 0


def plan_visits(
    world: World, num_requests: int, start_ms: int, days: int, rng: np.random.Generator
) -> Visits:
    """Visits with exactly `num_requests` requests in all, by each shopper's activity, hours and curiosity."""
    people = world.shoppers
    share = people.activity / people.activity.sum()
    shopper = rng.choice(len(people), num_requests, p=share)
    more = rng.geometric(1 - people.curiosity[shopper]) - 1
    requests = 1 + np.minimum(more, MOST_REQUESTS - 1)
    total = np.cumsum(requests)
    num = int(np.searchsorted(total, num_requests)) + 1
    shopper, requests = shopper[:num], requests[:num]
    requests[-1] -= int(total[num - 1]) - num_requests
    weekday = (np.arange(days) + start_ms // DAY_MS + 3) % 7  # 0 is Monday
    weight = np.where(weekday >= 5, 1.3, 1.0)
    day = rng.choice(days, num, p=weight / weight.sum())
    hour = (people.hours[shopper].cumsum(1) < rng.random((num, 1))).sum(1).clip(0, 23)
    at = start_ms + day * DAY_MS + hour * HOUR_MS + (rng.random(num) * HOUR_MS).astype(np.int64)
    at = np.minimum(at, start_ms + days * DAY_MS - 20 * 60_000)
    order = np.argsort(at, kind="stable")
    return Visits(at[order], shopper[order], requests[order])


def run(
    world: World,
    policies: Sequence[Policy],
    arm_of: np.ndarray,
    num_requests: int,
    start_ms: int,
    days: int,
    seed: int,
    name: str,
) -> Iterator[Batch]:
    """Play visits against policies, each shopper with their own; the world's memory moves on.

    Args:
        policies: one for each arm; budgets are split between arms by their share of shoppers.
        arm_of: (shoppers,) arm of every shopper.
        num_requests: requests in all. days: how long the span is.
        seed, name: name the stream of chance.
    """
    visits = plan_visits(world, num_requests, start_ms, days, stream(seed, name, "visits"))
    matching = Matching(world, world.settings.num_candidates, seed)
    share = np.bincount(arm_of, minlength=len(policies)) / len(arm_of)
    budget = world.shelf.budget[None] * share[:, None]
    day = request = 0
    spent = np.zeros_like(budget)
    for number, (first, last) in enumerate(_together(visits, start_ms)):
        rng = stream(seed, name, "hours", number)
        today = int(visits.at[first] - start_ms) // DAY_MS
        if today != day:
            for missed in range(day + 1, today + 1):
                world.memory.fade()
                matching.shuffle(missed)
            day, spent = today, np.zeros_like(spent)
        rows = np.arange(last - first)
        shopper, at = visits.shopper[first:last], visits.at[first:last].copy()
        needs = Needs(world, matching, shopper, at, rng)
        left = visits.requests[first:last]
        while len(rows):
            arm = arm_of[shopper[rows]]
            query, facet = needs.ask(rows)
            is_open = spent[arm] < budget[arm]
            ids = request + np.arange(len(rows))
            requests = _requests(world, matching, at[rows], shopper[rows], query, facet, is_open, ids, rng)
            slates = _decide(policies, arm, requests, world.settings.slots)
            batch = _shop(world, arm, first + rows, facet, requests, slates, rng)
            _learn(world, policies, batch)
            np.add.at(
                spent, (np.broadcast_to(arm[:, None], batch.charge.shape), slates.product), batch.charge
            )
            yield batch
            request += len(rows)
            has_clicked = batch.clicks.any(1)
            left = left - 1 if len(left) == len(rows) else left
            at[rows] = _next_request_at(batch, rng)
            is_going_on = visits.requests[first + rows] > _asked(visits, first, rows, left)
            needs.go_on(rows[is_going_on], has_clicked[is_going_on], at[rows[is_going_on]])
            rows = rows[is_going_on]
