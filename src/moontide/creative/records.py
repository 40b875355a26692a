"""The records of this room: counts of a creative, a labeled pair of creatives, a judge's verdict on a pair.

Paper: Creative4U 2 (fields of the records; names are ours).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Letter = Literal["A", "B"]
Order = Literal["ab", "ba"]
OTHER: dict[Letter, Letter] = {"A": "B", "B": "A"}


@dataclass(frozen=True)
class CreativeStat:
    """How often a creative of a product was shown and clicked.

    `propensity` is the probability with which it was chosen among the product's creatives; None: unknown.
    """

    creative_id: str
    product_id: str
    image_id: str
    impressions: int
    clicks: int
    propensity: float | None = None


@dataclass(frozen=True)
class CreativePair:
    """Two creatives of one product, and which of them shoppers clicked more often.

    `category` is the path from the root; `queries` are (text, clicks), most clicked first; `label_confidence`
    is the probability that the labeled one has the higher rate, given the counts.
    """

    pair_id: str
    product_id: str
    category: tuple[str, ...]
    title: str
    queries: tuple[tuple[str, int], ...]
    creative_a: str
    creative_b: str
    image_a: str
    image_b: str
    impressions_a: int
    clicks_a: int
    impressions_b: int
    clicks_b: int
    label: Letter
    label_confidence: float
    split: str

    def swapped(self) -> CreativePair:
        """The same pair in the other order; its label names the same picture."""
        return replace(
            self,
            creative_a=self.creative_b, creative_b=self.creative_a,
            image_a=self.image_b, image_b=self.image_a,
            impressions_a=self.impressions_b, impressions_b=self.impressions_a,
            clicks_a=self.clicks_b, clicks_b=self.clicks_a,
            label=OTHER[self.label],
        )  # fmt: skip

    @property
    def gap(self) -> float:
        """Higher over lower click-through rate, minus 1; infinite where the lower is 0."""
        rates = sorted((self.clicks_a / self.impressions_a, self.clicks_b / self.impressions_b))
        return rates[1] / rates[0] - 1 if rates[0] > 0 else float("inf")


@dataclass(frozen=True)
class Verdict:
    """What a judge said of a pair in one order.

    `letter` and `p_a` speak of the order shown: in order "ba", "A" is the pair's creative B. `letter`
    is the strictly parsed answer, else the leniently parsed one, else None; `answers` are by question.
    """

    pair_id: str
    order: Order
    letter: Letter | None
    p_a: float
    answers: dict[str, str | None]
    text: str
    parsed_strict: bool
    parsed_lenient: bool
    model_version: str
    note: str = ""
