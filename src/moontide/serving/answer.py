"""What a request gets back: ads, organic products, and a trace of how each step came to its part."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shown:
    """An organic product of an answer.

    Args:
        relevance: cosine of query and product (share of the query's words if words were matched instead).
        p_click: the click model's probability; None when it is missing.
    """

    product_id: str
    title: str
    brand: str | None
    category: tuple[str, ...]
    price_cents: int | None
    image_id: str | None
    relevance: float
    p_click: float | None


@dataclass(frozen=True)
class Ad(Shown):
    """A product shown because its merchant bid for the place; `image_id` is the creative's picture.

    Args:
        creative_id: None when the product's own picture is shown.
        bid_cents, charge_cents: offered and due, for one click.
        rank_score: what the auction ordered by.
    """

    campaign_id: str
    creative_id: str | None
    template: str | None
    bid_cents: int
    charge_cents: int
    rank_score: float


@dataclass
class Step:
    """One step of a request: what happened, how long it took (ms), and whether it had to do with less."""

    name: str
    ms: float = 0.0
    text: str = ""
    is_degraded: bool = False

    def degrade(self, text: str) -> None:
        """Say what is missing and what was done instead."""
        self.is_degraded = True
        self.text = f"{self.text}; {text}" if self.text else text


@dataclass
class Trace:
    """The steps of one request in order."""

    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Generator[Step]:
        """Time the block as one step."""
        step = Step(name)
        self.steps.append(step)
        start = time.perf_counter()
        try:
            yield step
        finally:
            step.ms = (time.perf_counter() - start) * 1000

    @property
    def total_ms(self) -> float:
        """Milliseconds of all steps together."""
        return sum(step.ms for step in self.steps)

    @property
    def degraded(self) -> list[Step]:
        """The steps that had to do with less."""
        return [step for step in self.steps if step.is_degraded]


@dataclass(frozen=True)
class Answer:
    """Everything a search gives: the request as understood, ads, products, versions and the trace."""

    text: str | None
    has_image: bool
    shopper_id: str | None
    ads: list[Ad]
    products: list[Shown]
    versions: dict[str, str | None]
    trace: Trace

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON-able values."""
        return {
            "text": self.text,
            "has_image": self.has_image,
            "shopper_id": self.shopper_id,
            "ads": [_rounded(asdict(ad)) for ad in self.ads],
            "products": [_rounded(asdict(product)) for product in self.products],
            "versions": self.versions,
            "trace": [_rounded(asdict(step)) for step in self.trace.steps],
            "total_ms": round(self.trace.total_ms, 3),
        }


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
