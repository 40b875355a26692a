"""The records the code passes around: a product and a query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa


@dataclass(frozen=True)
class Product:
    """One thing that is sold. `category` runs from coarse to fine; the first image is the main one."""

    product_id: str
    title: str
    category: tuple[str, ...] = ()
    brand: str | None = None
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    description: str | None = None
    image_ids: tuple[str, ...] = ()
    price_cents: int | None = None
    created_at: datetime | None = None
    spu_id: str | None = None
    merchant_id: str | None = None


@dataclass(frozen=True)
class Query:
    """What a shopper asked: a text, a picture, or both."""

    query_id: str
    text: str | None = None
    image_id: str | None = None


def products_of(table: pa.Table) -> Iterator[Product]:
    """The rows of a `products` table as records."""
    for row in table.to_pylist():
        row["category"] = tuple(row["category"] or ())
        row["image_ids"] = tuple(row["image_ids"] or ())
        row["attributes"] = {key: tuple(values or ()) for key, values in row["attributes"] or ()}
        row["title"] = row["title"] or ""
        yield Product(**row)


def queries_of(table: pa.Table) -> Iterator[Query]:
    """The rows of a `queries` table as records."""
    for row in table.to_pylist():
        yield Query(**row)
