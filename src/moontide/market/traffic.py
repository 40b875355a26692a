"""Shoppers at work: visits through the days, their requests, and what they do with the slates they get.

`run` plays a span of days against any number of policies (one makes a log, several make an A/B test) and
hands every finished batch to its caller. Visits of some hours run side by side: all their first requests
together, then all their second ones, so that everything is array work and a shopper's second request knows
what the first led to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moontide.foundation.seeds import seed_of, stream
from moontide.market.choice import ChoiceSettings, cart_chance
from moontide.market.matching import Matching
from moontide.market.needs import Needs
from moontide.market.policy import DAY_MS, Policy, Requests, Slates
from moontide.market.world import World

HOUR_MS = 3_600_000
SECOND_MS = 1_000
MOST_REQUESTS = 6  # of one visit
VISITS_TOGETHER = 160  # at least, unless a day has fewer: fewer make arrays too short to be fast
LONGEST_VISIT_MS = 40 * 60_000  # visits start this long before the end of the span, so that none is cut


@dataclass(frozen=True)
class Visits:
    """Planned visits by time: start (ms), shopper code, number of requests."""

    at: np.ndarray
    shopper: np.ndarray
    requests: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Requests that were answered, and what shoppers did.

    Arrays are (B,) or (B, K) with K places of a slate; times are ms, 0 where it did not happen.

    Args:
        arm: (B,) which policy answered. visit: (B,) numbers. facet: (B,) boxes ticked before, or -1.
        requests, slates: what was asked and shown.
        p_click: (B, K) true chances. click_at, cart_at, order_at: (B, K).
        charge_cents: (B, K) what the clicks cost. order_cents: (B, K) what was paid.
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
    charge_cents: np.ndarray
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
    at = np.minimum(at, start_ms + days * DAY_MS - LONGEST_VISIT_MS)
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
        policies: one for each arm; daily budgets are split between arms by their share of shoppers.
        arm_of: (shoppers,) arm of every shopper.
        num_requests: requests in all. days: how long the span is.
        seed, name: name the stream of chance.
    """
    visits = plan_visits(world, num_requests, start_ms, days, stream(seed, name, "visits"))
    matching = Matching(world, world.settings.num_candidates, seed_of(seed, name))
    share = np.bincount(arm_of, minlength=len(policies)) / len(arm_of)
    budget = world.shelf.budget[None] * share[:, None]  # (arms, products) cents a day
    spent = np.zeros_like(budget)
    today = num_asked = 0
    for number, (first, last) in enumerate(_side_by_side(visits.at, start_ms)):
        rng = stream(seed, name, "hours", number)
        day = int(visits.at[first] - start_ms) // DAY_MS
        for night in range(today, day):
            world.memory.fade()
            matching.shuffle(night + 1)
            spent[:] = 0
        today = day
        shopper, at = visits.shopper[first:last], visits.at[first:last].copy()
        needs = Needs(world, matching, shopper, at, rng)
        rows = np.arange(last - first)
        for turn in range(MOST_REQUESTS):
            arm = arm_of[shopper[rows]]
            query, facet = needs.ask(rows)
            ids = num_asked + np.arange(len(rows))
            found = matching.candidates(query, facet, at[rows], rng)
            is_open = spent[arm[:, None], found] < budget[arm[:, None], found]
            requests = _requests(world, at[rows], shopper[rows], query, found, is_open, ids)
            slates = _decide(policies, arm, requests, world.settings.slots)
            batch = _shop(world, arm, first + rows, facet, requests, slates, rng)
            _learn(world, policies, batch)
            shown = np.maximum(slates.product, 0)
            np.add.at(spent, (np.broadcast_to(arm[:, None], shown.shape), shown), batch.charge_cents)
            yield batch
            num_asked += len(rows)
            at[rows] = _next_request_at(batch, rng)
            goes_on = visits.requests[first + rows] > turn + 1
            rows, has_clicked = rows[goes_on], batch.click_at.max(1)[goes_on] > 0
            if not len(rows):
                break
            needs.go_on(rows, has_clicked, at[rows])


def _side_by_side(at: np.ndarray, start_ms: int) -> Iterator[tuple[int, int]]:
    """Spans of visits that run together: whole hours of one day, joined up to `VISITS_TOGETHER`."""
    hour = (at - start_ms) // HOUR_MS
    begins = np.flatnonzero(np.r_[True, hour[1:] != hour[:-1]]) if len(at) else np.zeros(0, np.int64)
    first = 0
    for begin in begins[1:].tolist():
        is_new_day = hour[begin] // 24 != hour[first] // 24
        if is_new_day or begin - first >= VISITS_TOGETHER:
            yield first, begin
            first = begin
    if len(at):
        yield first, len(at)


def _requests(
    world: World,
    at: np.ndarray,
    shopper: np.ndarray,
    query: np.ndarray,
    found: np.ndarray,
    is_open: np.ndarray,
    ids: np.ndarray,
) -> Requests:
    """Requests with their candidates; a product is an ad while its campaign has budget left today."""
    shelf, product = world.shelf, np.maximum(found, 0)
    is_ad = (found >= 0) & (shelf.campaign[product] >= 0) & is_open
    bids = np.where(is_ad, shelf.bid[product], 0)
    creatives = np.where(is_ad[:, :, None], shelf.creatives[product], -1)
    return Requests(at, shopper, query, found, bids, creatives, ids)


def _decide(policies: Sequence[Policy], arm: np.ndarray, requests: Requests, slots: int) -> Slates:
    slates = Slates.empty(len(requests), slots)
    for number, policy in enumerate(policies):
        rows = np.flatnonzero(arm == number)
        if len(rows):
            slates.put(rows, policy.decide(requests.take(rows)))
    return slates


def _learn(world: World, policies: Sequence[Policy], batch: Batch) -> None:
    """Tell each policy what its slates led to, and shoppers' memory what was clicked, in order of time."""
    clicks = batch.clicks
    for number, policy in enumerate(policies):
        rows = np.flatnonzero(batch.arm == number)
        if len(rows):
            policy.observe(batch.requests.take(rows), batch.slates.take(rows), clicks[rows])
    row, place = np.nonzero(clicks)
    order = np.argsort(batch.click_at[row, place], kind="stable")
    row, place = row[order], place[order]
    world.memory.remember(batch.requests.shopper[row], batch.slates.product[row, place])


def _shop(
    world: World,
    arm: np.ndarray,
    visit: np.ndarray,
    facet: np.ndarray,
    requests: Requests,
    slates: Slates,
    rng: np.random.Generator,
) -> Batch:
    """What shoppers do with the slates: look, click, put into the cart, order later."""
    shape = slates.product.shape
    rows = [np.repeat(part, shape[1]) for part in (requests.at, requests.shopper, requests.query)]
    position = np.tile(np.arange(shape[1]), shape[0])
    product, creative = slates.product.ravel(), slates.creative.ravel()
    p_click = world.p_click(*rows, product, creative, position).reshape(shape)
    clicked = rng.random(shape) < p_click
    pause = 4 * (1 + np.arange(shape[1])) + 6 * rng.random(shape)  # seconds from the request to the click
    click_at = np.where(clicked, requests.at[:, None] + (pause * SECOND_MS).astype(np.int64), 0)
    cart_at, order_at = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    at = np.nonzero(clicked)
    liked = p_click[at] / world.examination(requests.shopper[at[0]], at[1])
    cart_at[at], order_at[at] = _buy(click_at[at], liked, world.choice, rng)
    price = world.shelf.price[np.maximum(slates.product, 0)].astype(np.int64)
    charge = np.where(clicked, slates.charge_cents, 0)
    paid = np.where(order_at > 0, price, 0)
    return Batch(
        arm, visit, facet, requests, slates, p_click, click_at, cart_at, order_at, charge, paid
    )  # fmt: skip


def _buy(
    click_at: np.ndarray, attraction: np.ndarray, choice: ChoiceSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """When clicks (rows,) led to a cart and to an order, ms, 0 for never."""
    num = len(click_at)
    draw, look, wait = rng.random((2, num)), rng.random(num), rng.lognormal(0, 1.0, num)
    in_cart = draw[0] < cart_chance(attraction, choice)
    is_bought = in_cart & (draw[1] < choice.p_order)
    cart_at = click_at + ((15 + 90 * look) * SECOND_MS).astype(np.int64)
    order_at = cart_at + (wait * choice.order_delay_hours * HOUR_MS).astype(np.int64)
    return np.where(in_cart, cart_at, 0), np.where(is_bought, order_at, 0)


def _next_request_at(batch: Batch, rng: np.random.Generator) -> np.ndarray:
    """(B,) when a shopper asks again: after the last click and a look at it, or after reading the slate."""
    last = batch.click_at.max(1)
    rest = (20 + 70 * rng.random(len(last))) * SECOND_MS
    return np.where(last > 0, last, batch.requests.at) + rest.astype(np.int64)
