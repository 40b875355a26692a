"""Who gets the ads' places, at what price, and with which picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moontide.market.auction import gsp, rank_score
from moontide.serving.parts import Parts
from moontide.serving.retrieval import Candidates, Retrieval
from moontide.serving.stock import Creative, Past, Stock

PLAIN = "plain"  # the template of a picture without any advertising on it


@dataclass(frozen=True)
class Place:
    """One ad's place: the product row, its relevance, what a click will cost, and what it was ordered by."""

    row: int
    relevance: float
    charge_cents: int
    rank_score: float


def quality_of(relevance: np.ndarray, cut: float, margin: float) -> np.ndarray:
    """Relevance as a quality in [0, 1]: 0 at `cut`, 1 at the best candidate's relevance, `margin` above."""
    return np.clip((relevance - cut) / margin, 0.0, 1.0)


def hold_auction(
    ads: Candidates,
    stock: Stock,
    p_click: np.ndarray,
    quality: np.ndarray,
    num_places: int,
    alpha: float,
    reserve_cents: float,
) -> list[Place]:
    """Places by bid · p(click)^alpha · quality, each paying what would just have kept its place.

    Args:
        ads: the bidders, (n,).
        p_click, quality: of each bidder, (n,).
    """
    if not len(ads.rows) or not num_places:
        return []
    bid = stock.bid_cents[ads.rows].astype(float)
    score = rank_score(bid, p_click, quality, alpha)
    order, charge = gsp(score[None], bid[None], num_places, reserve_cents)
    return [
        Place(int(ads.rows[at]), float(ads.relevance[at]), int(cents), float(score[at]))
        for at, cents in zip(order[0], charge[0], strict=True)
        if at >= 0
    ]


class CreativeChoice:
    """Chooses an ad's picture: the one most like the shopper's past, else the plain one.

    First version: similarity alone, no exploration.
    """

    def __init__(self, stock: Stock, parts: Parts, retrieval: Retrieval):
        self._stock, self._shard, self._retrieval = stock, parts.creatives, retrieval

    def taste(self, past: Past) -> np.ndarray | None:
        """The mean direction of the products in a past, or None if none of them has a vector."""
        if self._shard is None or not len(past.rows):
            return None
        vectors = self._retrieval.vectors_of(past.rows)
        mean = vectors.mean(axis=0) if len(vectors) else np.zeros(1)
        length = float(np.linalg.norm(mean))
        return mean / length if length > 1e-6 else None

    def choose(self, row: int, taste: np.ndarray | None) -> Creative | None:
        """One of the product's creatives, None if it has none."""
        creatives = [creative for creative in self._stock.creatives.get(row, []) if creative.image_id]
        if not creatives:
            return None
        if taste is not None and self._shard is not None:
            places = [self._shard.row_of(creative.creative_id) for creative in creatives]
            known = [
                (place, creative)
                for place, creative in zip(places, creatives, strict=True)
                if place is not None
            ]
            if known:
                likeness = self._shard.vectors_of(np.array([place for place, _ in known])) @ taste
                return known[int(likeness.argmax())][1]
        return next((creative for creative in creatives if creative.template == PLAIN), creatives[0])
