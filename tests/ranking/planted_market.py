"""A small planted market: shoppers click what looks like what they like, so vectors must help a click model.

Products have a hidden style on a sphere, shoppers a taste there; vectors show the style with a little
noise. Ids say nothing of a new product's style, words and attributes say nothing at all. The last fifth of
the log has new products.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.ranking.samples import Samples

START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS, DIM, SLOTS = 20, 16, 5


@dataclass(frozen=True)
class Planted:
    """The planted market: its dataset, its samples, and the vectors of products and queries."""

    dataset: Dataset
    samples: Samples
    product_vectors: np.ndarray
    query_vectors: np.ndarray


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def write_planted(path, num_requests=6000, num_products=240, num_shoppers=120, seed=0, taste=3.0):
    """Write the planted market; gives its dataset and vectors."""
    rng = np.random.default_rng(seed)
    style, likes = unit(rng.normal(size=(num_products, DIM))), unit(rng.normal(size=(num_shoppers, DIM)))
    means = unit(rng.normal(size=(20, DIM)))
    born = np.where(np.arange(num_products) < num_products * 2 // 3, -1.0, rng.uniform(0, DAYS, num_products))
    kinds = rng.integers(0, 6, num_products)
    appeal = rng.normal(0, 0.4, num_products)
    events = []
    for number, day in enumerate(np.sort(rng.uniform(0, DAYS, num_requests))):
        shopper, query = rng.integers(num_shoppers), rng.integers(20)
        shown = rng.choice(np.flatnonzero(born <= day), SLOTS, replace=False)
        logit = -2.4 + taste * 1.5 * (style[shown] @ likes[shopper]) + 2.0 * (style[shown] @ means[query])
        clicked = rng.random(SLOTS) < 1 / (1 + np.exp(-(logit + appeal[shown] - 0.3 * np.arange(SLOTS))))
        at = START + timedelta(days=float(day))
        facts = {"request_id": f"r{number}", "shopper_id": f"u{shopper:04d}", "query_id": f"q{query:02d}"}
        for position, product in enumerate(shown):
            row = {**facts, "at": at, "product_id": f"p{product:04d}", "position": position}
            row["creative_id"] = f"c{product:04d}"
            events.append({**row, "kind": "impression", "event_id": f"e{number}-{position}"})
            if clicked[position]:
                row |= {"at": at + timedelta(seconds=20), "query_id": None}
                events.append({**row, "kind": "click", "event_id": f"k{number}-{position}"})
                if rng.random() < 0.2:
                    late = {**row, "at": at + timedelta(hours=float(rng.uniform(1, 48))), "kind": "order"}
                    events.append({**late, "event_id": f"o{number}-{position}"})
    events.sort(key=lambda row: (row["at"], row["event_id"]))
    products = [
        {
            "product_id": f"p{code:04d}",
            "title": f"thing {code}",
            "category": ["all", f"kind {kinds[code]}"],
            "brand": f"b{code % 9}",
            "merchant_id": f"m{code % 7}",
            "price_cents": int(rng.integers(200, 20_000)),
            "attributes": {"tone": [f"t{code % 4}"]},
            "created_at": START + timedelta(days=float(born[code])),
        }
        for code in range(num_products)
    ]
    with DatasetWriter(path, "planted") as writer:
        writer.put("products", products)
        writer.put("queries", [{"query_id": f"q{code:02d}", "text": f"query {code}"} for code in range(20)])
        writer.put("creatives", [{"creative_id": f"c{code:04d}"} for code in range(num_products)])
        writer.put(
            "shoppers",
            [
                {"shopper_id": f"u{c:04d}", "device": ("mobile", "desktop")[c % 2]}
                for c in range(num_shoppers)
            ],
        )
        writer.append("events", events)
    noise = rng.normal(0, 0.08, (num_products, DIM))
    return Dataset.open(path), unit(style + noise), means
