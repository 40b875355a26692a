"""A click model as a policy of the market: what an experiment puts against another."""

from __future__ import annotations

import numpy as np

from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream
from moontide.market.policy import (
    Requests,
    Slates,
    auction_slates,
    random_creatives,
    word_relevance,
)
from moontide.market.world import World
from moontide.ranking.score import ClickScorer

FLOOR = 0.2  # of `word_relevance`: the same group


class ClickPolicy:
    """Ranks by bid and p(click) of a model what fits the query's words; creatives are drawn at random.

    Everything but the model is the same for every arm, so that a difference between arms is the model's. The
    model's memory starts where the log ends and takes in what is shown and clicked in its own arm alone;
    orders come later than an experiment lasts and are left out.

    Args:
        name: of the arm.
        scorer: the click model; its codes must be the world's.
        world: of the market, asked for what is public alone: titles, categories, query texts.
        seed: of the creatives; arms of one seed draw alike.

    Raises:
        DataError: the model was trained on another dataset.
    """

    def __init__(self, name: str, scorer: ClickScorer, world: World, seed: int = 0):
        self.name, self.scorer, self.world = name, scorer, world
        self._rng = stream(seed, "creatives of arms")
        entities = scorer.entities
        for known, here in (
            (entities.product_ids, world.product_ids),
            (entities.query_ids, world.query_ids),
            (entities.shopper_ids, world.shopper_ids),
        ):
            if known.to_pylist() != here:
                raise DataError(
                    "the click model and the market are of different datasets: train it on this one"
                )

    def decide(self, requests: Requests) -> Slates:
        """The slates of an auction with the model's click chances."""
        p_click = self.scorer.score(requests.shopper, requests.query, requests.candidates, requests.at)
        creative, chance = random_creatives(requests, self._rng)
        # Of another group than what was asked for: last, whatever it bids. A factor in place of this floor
        # would count relevance twice, for p(click) is of this query.
        quality = np.where(word_relevance(self.world, requests) >= FLOOR, 1.0, 1e-3)
        return auction_slates(
            requests, p_click, quality, self.world.settings.slots, creative=creative, p_creative=chance
        )

    def observe(self, requests: Requests, slates: Slates, clicks: np.ndarray) -> None:
        """Remember what was shown and clicked: it counts from the next request on."""
        self.scorer.observe(requests.shopper, requests.query, slates.product, clicks, requests.at)
