"""Who decides what is shown: the protocol of every policy in the market, and three that need no model.

A policy gets a batch of requests with matched candidates and gives slates, with the probabilities it
showed them with. The logging policy and the click models of an A/B test implement `Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from moontide.foundation.seeds import stream
from moontide.market.auction import gsp, rank_score
from moontide.market.world import World

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Requests:
    """A batch of search requests, in codes of a `World`.

    Args:
        at: (B,) UTC milliseconds; shopper, query: (B,) codes; request_ids: (B,) numbers.
        candidates: (B, N) product codes, -1 padded, no product twice; not in any order of merit.
        bids: (B, N) cents a click, 0 where the product is not advertised now.
        creatives: (B, N, C) creative codes to choose from, -1 padded; none for products not advertised.
    """

    at: np.ndarray
    shopper: np.ndarray
    query: np.ndarray
    candidates: np.ndarray
    bids: np.ndarray
    creatives: np.ndarray
    request_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: np.ndarray) -> Requests:
        """The requests of some rows (codes or a mask)."""
        return Requests(*(getattr(self, one.name)[rows] for one in fields(self)))


@dataclass(frozen=True)
class Slates:
    """What is shown for a batch of requests; every array is (B, K), best place first.

    Args:
        product: product codes, -1 where a place stays empty.
        creative: creative codes, -1 for the main picture.
        bid_cents: the ad's bid, 0 where organic; charge_cents: what a click costs the advertiser.
        p_slate: the policy's chance of putting this product in this place for this request.
        p_creative: its chance of this creative, given the product is shown.
    """

    product: np.ndarray
    creative: np.ndarray
    bid_cents: np.ndarray
    charge_cents: np.ndarray
    p_slate: np.ndarray
    p_creative: np.ndarray

    def take(self, rows: np.ndarray) -> Slates:
        """The slates of some rows (codes or a mask)."""
        return Slates(*(getattr(self, one.name)[rows] for one in fields(self)))

    @classmethod
    def empty(cls, batch: int, slots: int) -> Slates:
        """Slates with nothing on them, to be filled."""
        none, zero, real = (
            np.full((batch, slots), -1),
            np.zeros((batch, slots), np.int64),
            np.zeros((batch, slots)),
        )
        return cls(none, none.copy(), zero, zero.copy(), real, real.copy())

    def put(self, rows: np.ndarray, other: Slates) -> None:
        """Write the slates of some rows; they may have fewer places than this batch."""
        width = min(other.product.shape[1], self.product.shape[1])
        for one in fields(self):
            getattr(self, one.name)[rows, :width] = getattr(other, one.name)[:, :width]


class Policy(Protocol):
    """Decides slates and learns from what happens to them; keeps its own online state."""

    name: str

    def decide(self, requests: Requests) -> Slates:
        """What to show for each request."""
        ...

    def observe(self, requests: Requests, slates: Slates, clicks: np.ndarray) -> None:
        """What happened: clicks (B, K) on the slates given for these requests."""
        ...


def auction_slates(
    requests: Requests,
    p_click: np.ndarray,
    quality: np.ndarray,
    slots: int,
    organic_cents: float = 30.0,
    alpha: float = 1.0,
    reserve: float = 5.0,
    creative: np.ndarray | None = None,
    p_creative: np.ndarray | None = None,
) -> Slates:
    """One list of ads and organic results, ranked by the auction's score; deterministic but for creatives
    given.

    Organic results take part with `organic_cents`, what a click on them is worth to the shop; they pay
    nothing.

    Args:
        p_click, quality: (B, N) for each candidate.
        creative, p_creative: (B, N) the creative to show and its chance; None shows the first creative.
    """
    is_real = requests.candidates >= 0
    is_ad = requests.bids >= max(reserve, 1)
    bid = np.where(is_ad, requests.bids, organic_cents).astype(float)
    score = np.where(
        is_real, rank_score(bid, np.maximum(p_click, 1e-9), np.maximum(quality, 1e-9), alpha), 0.0
    )
    order, charge = gsp(score, bid, slots, min(reserve, organic_cents))
    requests = replace(requests, bids=np.where(is_ad, requests.bids, 0))  # under the reserve: organic
    if creative is None:
        creative, p_creative = requests.creatives[:, :, 0], np.ones(score.shape)
    return _laid_out(requests, order, np.where(_at(is_ad, order), charge, 0), creative, p_creative)


def _laid_out(
    requests: Requests,
    order: np.ndarray,
    charge: np.ndarray,
    creative: np.ndarray,
    p_creative: np.ndarray | None,
) -> Slates:
    is_shown = order >= 0
    is_ad = is_shown & (_at(requests.bids, order) > 0)
    chance = np.ones(order.shape) if p_creative is None else _at(p_creative, order)
    return Slates(
        product=np.where(is_shown, _at(requests.candidates, order), -1),
        creative=np.where(is_ad, _at(creative, order), -1),
        bid_cents=np.where(is_ad, _at(requests.bids, order), 0),
        charge_cents=np.where(is_ad, charge, 0),
        p_slate=is_shown.astype(float),
        p_creative=np.where(is_ad, chance, 1.0),
    )


def _at(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.maximum(order, 0), axis=1)


def random_creatives(requests: Requests, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(B, N) one creative of each candidate at random, and its chance; -1 and 1 where it has none."""
    count = (requests.creatives >= 0).sum(2)
    pick = (rng.random(count.shape) * np.maximum(count, 1)).astype(np.int64)
    chosen = np.take_along_axis(requests.creatives, pick[:, :, None], axis=2)[:, :, 0]
    return chosen, 1 / np.maximum(count, 1)


def random_order(requests: Requests, slots: int, rng: np.random.Generator) -> np.ndarray:
    """(B, slots) columns of candidates in an order drawn uniformly, -1 where there are too few."""
    draw = np.where(requests.candidates >= 0, rng.random(requests.candidates.shape), 2.0)
    order = np.argsort(draw, axis=1)[:, :slots]
    order = np.where(_at(draw, order) < 2, order, -1)
    return np.pad(order, ((0, 0), (0, max(slots - order.shape[1], 0))), constant_values=-1)


def word_relevance(world: World, requests: Requests) -> np.ndarray:
    """(B, N) how well title and category fit the query, 0 to 1; pictures are not looked at."""
    shown = np.maximum(requests.candidates, 0)
    queries, shelf = world.queries, world.shelf
    path = world.leaf_path[queries.leaf[requests.query]][:, None]
    same = path == shelf.category[shown]
    fit = np.select([same[..., 2], same[..., 1] & same[..., 0]], [1.0, 0.4], 0.1)
    color, word = queries.part["color"][requests.query], queries.part["word"][requests.query]
    said = world.vocabulary.color[shown, np.maximum(color, 0)[:, None]]
    fit = fit * np.where(color[:, None] >= 0, 0.6 + 0.4 * said, 1.0)
    rows = np.flatnonzero(word >= 0)
    has = (world.vocabulary.title[shown[rows]] == word[rows, None, None]).any(2)
    fit[rows] *= 0.6 + 0.4 * has
    return fit


class RandomPolicy:
    """Shows candidates in random order, with random creatives: every product gets its chance."""

    name = "random"

    def __init__(self, slots: int, seed: int = 0):
        self.slots, self._rng = slots, stream(seed, "random policy")

    def decide(self, requests: Requests) -> Slates:
        """Uniformly random slates with their probabilities."""
        order = random_order(requests, self.slots, self._rng)
        creative, chance = random_creatives(requests, self._rng)
        slates = _laid_out(requests, order, np.zeros(order.shape, np.int64), creative, chance)
        num = np.maximum((requests.candidates >= 0).sum(1, keepdims=True), 1)
        slates.p_slate[:] = np.where(order >= 0, 1 / num, 0.0)
        return slates

    def observe(self, requests: Requests, slates: Slates, clicks: np.ndarray) -> None:
        """Learns nothing."""


class PopularityPolicy:
    """The shop's earlier system, which made the log: words, counted clicks and bids; one request in ten is
    random.

    Every night it takes over what was clicked, so its next day follows from its own past choices. Clicks
    count per expected look, with the chance of a look at each place estimated from its random slates. It
    knows neither pictures nor shoppers.

        p(product in place k) = (1 - epsilon) [ranked k] + epsilon / candidates
    """

    name = "popularity"

    def __init__(self, world: World, seed: int = 0, epsilon: float = 0.1, slots: int | None = None):
        self.world, self.epsilon, self.slots = world, epsilon, slots or world.settings.slots
        self._rng = stream(seed, "popularity policy")
        self._clicks, self._looks = np.zeros(len(world.shelf)), np.zeros(len(world.shelf))
        self._random_clicks, self._random_shown = np.zeros(self.slots), np.zeros(self.slots)
        self._day = -1
        self.version: str | None = None
        self._refresh(0)

    def decide(self, requests: Requests) -> Slates:
        """Slates by relevance, popularity and bid, or random ones, with their probabilities."""
        if len(requests) and (day := int(requests.at.min() // DAY_MS)) > self._day:
            self._refresh(day)
        p_click = self._rate[np.maximum(requests.candidates, 0)]
        creative, chance = random_creatives(requests, self._rng)
        slates = auction_slates(
            requests,
            p_click,
            word_relevance(self.world, requests),
            self.slots,
            creative=creative,
            p_creative=chance,
        )
        order = random_order(requests, self.slots, self._rng)
        explored = _laid_out(requests, order, np.zeros(order.shape, np.int64), creative, chance)
        num = np.maximum((requests.candidates >= 0).sum(1, keepdims=True), 1)
        is_random = self._rng.random(len(requests)) < self.epsilon
        same = explored.product == slates.product
        explored.p_slate[:] = (1 - self.epsilon) * same + self.epsilon / num
        slates.p_slate[:] = (1 - self.epsilon) + self.epsilon / num
        slates.put(is_random, explored.take(is_random))
        slates.p_slate[slates.product < 0] = 0
        self._is_random = (requests.request_ids, is_random)
        return slates

    def observe(self, requests: Requests, slates: Slates, clicks: np.ndarray) -> None:
        """Count clicks and expected looks; used from the next day on."""
        shown = slates.product >= 0
        looks = np.broadcast_to(self._curve[: shown.shape[1]], shown.shape)
        np.add.at(self._looks, slates.product[shown], looks[shown])
        np.add.at(self._clicks, slates.product[clicks & shown], 1)
        ids, is_random = self._is_random
        if np.array_equal(ids, requests.request_ids):
            self._random_shown += shown[is_random].sum(0)
            self._random_clicks += (clicks & shown)[is_random].sum(0)

    def _refresh(self, day: int) -> None:
        """Take over what was counted: the looks of each place first, then the rate of each product."""
        prior = 1 / (1 + np.arange(self.slots)) ** 0.5
        shown = self._random_shown + 4_000
        curve = (self._random_clicks + 4_000 * 0.04 * prior) / shown
        self._curve = curve / curve[0]
        clicks, looks = self._clicks, self._looks
        mean = (clicks.sum() + 5) / (looks.sum() + 100)
        leaf = self.world.shelf.leaf
        num = len(self.world.shelf.leaves)
        by_leaf = (np.bincount(leaf, clicks, num) + 20 * mean) / (np.bincount(leaf, looks, num) + 20)
        self._rate = (clicks + 25 * by_leaf[leaf]) / (looks + 25)
        self._day = day
        self.version = f"popularity-{np.datetime64(day, 'D')}" if day else None


class OraclePolicy:
    """Ranks by the market's true chance of a click and shows the truly best creative: the ceiling of any
    policy.

    Args:
        uses_bids: rank by the auction with true chances, instead of by the chance alone.
    """

    name = "truth"

    def __init__(self, world: World, uses_bids: bool = False, slots: int | None = None):
        self.world, self.uses_bids, self.slots = world, uses_bids, slots or world.settings.slots

    def decide(self, requests: Requests) -> Slates:
        """The best slates, by the truth."""
        batch, num, most = requests.creatives.shape
        options = np.concatenate([np.full((batch, num, 1), -1), requests.creatives], axis=2)
        rows = [np.repeat(part, num * (most + 1)) for part in (requests.at, requests.shopper, requests.query)]
        product = np.repeat(requests.candidates.ravel(), most + 1)
        chance = self.world.attraction(*rows, product, options.ravel()).reshape(options.shape)
        is_ad = requests.creatives.max(2) >= 0
        is_open = np.concatenate([~is_ad[:, :, None], requests.creatives >= 0], axis=2)
        chance = np.where(is_open, chance, -1.0)
        best = chance.argmax(2)[:, :, None]
        creative = np.take_along_axis(options, best, axis=2)[:, :, 0]
        p_click = np.take_along_axis(chance, best, axis=2)[:, :, 0]
        if self.uses_bids:
            return auction_slates(requests, p_click, np.ones((batch, num)), self.slots, creative=creative)
        order = np.argsort(-np.where(requests.candidates >= 0, p_click, -1), axis=1, kind="stable")[
            :, : self.slots
        ]
        order = np.where(_at(requests.candidates, order) >= 0, order, -1)
        return _laid_out(requests, order, np.zeros(order.shape, np.int64), creative, None)

    def observe(self, requests: Requests, slates: Slates, clicks: np.ndarray) -> None:
        """Needs to learn nothing."""
