"""What the server keeps of a dataset in memory: products, their campaigns and creatives, shoppers' pasts.

Rows are product numbers in the order of `products.parquet`. Pictures stay on disk until asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.foundation.errors import DataError

HISTORY_KINDS = ("click", "cart", "order")
HISTORY_STEPS = 50  # latest products kept of one shopper


@dataclass(frozen=True)
class Creative:
    """One ad picture of a product."""

    creative_id: str
    image_id: str | None
    template: str | None


@dataclass(frozen=True)
class Campaign:
    """One merchant's standing offer for clicks on a product."""

    campaign_id: str
    bid_cents: int


@dataclass(frozen=True)
class Past:
    """A shopper's latest products, newest first, without repeats; `at_ms` are UTC milliseconds."""

    rows: np.ndarray
    at_ms: np.ndarray


NO_PAST = Past(np.zeros(0, np.int64), np.zeros(0, np.int64))


class Stock:
    """Products with their campaigns, creatives and the shoppers' pasts.

    Args:
        campaigns: product row -> its active campaign; of several, the one with the highest bid.
        creatives: product row -> its ad pictures.
        pasts: shopper id -> latest products.
    """

    def __init__(
        self,
        products: Sequence[Product],
        campaigns: dict[int, Campaign],
        creatives: dict[int, list[Creative]],
        pasts: dict[str, Past],
    ):
        self.products = list(products)
        self.campaigns, self.creatives, self.pasts = campaigns, creatives, pasts
        self.row_of = {product.product_id: row for row, product in enumerate(self.products)}
        self.bid_cents = np.zeros(len(self.products), np.int64)
        for row, campaign in campaigns.items():
            self.bid_cents[row] = campaign.bid_cents

    @classmethod
    def load(cls, dataset: Dataset) -> Stock:
        """Read what is shown from a dataset; campaigns, creatives and events may be absent.

        Raises:
            DataError: the dataset has no products, or a table cannot be read.
        """
        dataset.require("serve", "products")
        products = dataset.products()
        row_of = {product.product_id: row for row, product in enumerate(products)}
        return cls(
            products, _campaigns(dataset, row_of), _creatives(dataset, row_of), _pasts(dataset, row_of)
        )

    @property
    def is_advertised(self) -> np.ndarray:
        """Which products have an active campaign, (products,) bool."""
        return self.bid_cents > 0

    def past(self, shopper_id: str | None) -> Past:
        """A shopper's latest products; empty for a stranger."""
        return self.pasts.get(shopper_id or "", NO_PAST)

    def tastes(self, shopper_id: str, num: int = 2) -> list[str]:
        """The finest categories a shopper's past is mostly about, most frequent first."""
        rows = self.past(shopper_id).rows
        kinds = Counter(self.products[row].category[-1] for row in rows if self.products[row].category)
        return [kind for kind, _ in kinds.most_common(num)]

    def sample_shoppers(self, num: int = 12, least: int = 6) -> list[str]:
        """Shoppers to try the page with, spread evenly over those with `least` or more products in the past.

        Those with the longest pasts when too few have that many.
        """
        rich = sorted(shopper for shopper, past in self.pasts.items() if len(past.rows) >= least)
        if len(rich) < num:
            rich = sorted(self.pasts, key=lambda shopper: (-len(self.pasts[shopper].rows), shopper))[:num]
        step = max(1, len(rich) // num)
        return rich[::step][:num]


def _campaigns(dataset: Dataset, row_of: dict[str, int]) -> dict[int, Campaign]:
    best: dict[int, Campaign] = {}
    for row in dataset.table("campaigns").to_pylist():
        place = row_of.get(row["product_id"])
        budget, bid = row["daily_budget_cents"], row["bid_cents"] or 0
        if place is None or row["status"] != "active" or bid <= 0 or (budget is not None and budget <= 0):
            continue
        if place not in best or bid > best[place].bid_cents:
            best[place] = Campaign(row["campaign_id"], bid)
    return best


def _creatives(dataset: Dataset, row_of: dict[str, int]) -> dict[int, list[Creative]]:
    found: dict[int, list[Creative]] = {}
    for row in dataset.table("creatives", ["creative_id", "product_id", "image_id", "template"]).to_pylist():
        place = row_of.get(row["product_id"])
        if place is not None:
            found.setdefault(place, []).append(Creative(row["creative_id"], row["image_id"], row["template"]))
    return found


def _pasts(dataset: Dataset, row_of: dict[str, int]) -> dict[str, Past]:
    """Only events that show liking are read: impressions, the bulk of a log, stay on disk."""
    columns = ["shopper_id", "product_id", "at"]
    try:
        parts = [
            pq.read_table(file, columns=columns, filters=[("kind", "in", HISTORY_KINDS)])
            for file in dataset.files("events")
        ]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"events of {dataset.path} cannot be read ({error}): import them again") from None
    if not parts:
        return {}
    events = pa.concat_tables(parts).sort_by([("at", "descending")])
    at_ms = pc.cast(events["at"], pa.int64()).to_numpy()
    collected: dict[str, dict[int, int]] = {}
    for shopper, product, at in zip(
        events["shopper_id"].to_pylist(), events["product_id"].to_pylist(), at_ms, strict=True
    ):
        row = row_of.get(product)
        if shopper is None or row is None:
            continue
        past = collected.setdefault(shopper, {})
        if len(past) < HISTORY_STEPS:
            past.setdefault(row, int(at))
    return {
        shopper: Past(np.array(list(past), np.int64), np.array(list(past.values()), np.int64))
        for shopper, past in collected.items()
    }
