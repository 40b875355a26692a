"""The supply side of a market on disk: products, pictures, merchants, campaigns, creatives, splits, truth.

`write_supply` invents a catalog and draws it; `write_open_supply` lays merchants, prices and advertisements
over a catalog of real photos. Shoppers and clicks are added by `build.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.schema import SCHEMAS, conform
from moontide.catalog.splits import near_duplicate_groups, split_by_group
from moontide.foundation.device import num_cores
from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.foundation.seeds import stream
from moontide.foundation.workers import in_order
from moontide.market.album import Album
from moontide.market.campaigns import merchant_rows, sample_campaigns
from moontide.market.pictures import LookTask, PhotoTask, draw_look, draw_photo
from moontide.market.products import (
    MarketProduct,
    Merchant,
    round_price,
    sample_catalog,
    sample_created,
    sample_merchants,
)
from moontide.market.query_pictures import LOOK_FIELDS, QueryPictures, looks_of, query_picture
from moontide.market.render.looks import CATEGORIES, Look
from moontide.market.settings import MarketSettings
from moontide.market.words import HIDDEN

__all__ = ["QueryPictures", "looks_of", "query_picture", "write_open_supply", "write_supply"]
FEW = 200  # products below which starting worker processes costs more than it saves


def write_supply(
    writer: DatasetWriter, settings: MarketSettings, seed: int, workers: int | None = None
) -> dict[str, Look]:
    """Invent a catalog, draw it, and write everything but shoppers and clicks.

    Writes products, images, merchants, campaigns, creatives, regions, splits, truth/boxes and truth/looks.
    The first creative of every product is its plain main picture.

    Args:
        workers: processes that draw; None takes all cores (one below `FEW` products). It changes no file.

    Returns:
        The look of every product, by id: what `QueryPictures` draws from.
    """
    products = list(sample_catalog(settings, seed))
    merchants = sample_merchants(settings.num_merchants, seed)
    counts = {"num_views": settings.images_per_product, "num_creatives": settings.creatives_per_product}
    tasks = (LookTask(p.product_id, p.look, side=settings.image_side, seed=seed, **counts) for p in products)
    titles = {product.product_id: product.listing.title for product in products}
    album = Album(writer, titles, settings.annotated_share, seed)
    with track(len(products), "drawing products") as meter:
        drawn = in_order(draw_look, tasks, _workers(workers, len(products)))
        for product, pictures in zip(products, drawn, strict=True):
            album.add(product.product_id, pictures)
            meter.step()
    album.close()
    rows = [_product_row(product, album.views[product.product_id]) for product in products]
    writer.put("products", rows)
    writer.put("merchants", merchant_rows(merchants))
    sold = [(p.product_id, p.merchant_id, p.price_cents) for p in products]
    writer.put("campaigns", sample_campaigns(sold, merchants, settings.advertised_share, seed))
    groups = near_duplicate_groups(conform("products", rows), album.facts())
    writer.put("splits", split_by_group([p.product_id for p in products], groups))
    writer.put_truth("looks", _looks_table(products))
    return {product.product_id: product.look for product in products}


def write_open_supply(
    writer: DatasetWriter, base: Dataset, settings: MarketSettings, seed: int, workers: int | None = None
) -> None:
    """Lay a market over a catalog of real photos; what the catalog has is kept, what it lacks is added.

    Fills merchant_id, price_cents and created_at where they are empty; adds merchants, campaigns, creatives
    (made from a product's first photo) and splits where the catalog has no such table; truth/boxes says where
    the photo lies in an advertisement. `writer` must be opened over `base`.

    Raises:
        DataError: the catalog has no products.
    """
    products = base.table("products")
    if not len(products):
        raise DataError(f"{base.path} has no products: import a catalog first")
    products, merchants = _filled(products, base, settings, seed)
    writer.put("products", products)
    if not base.has("merchants"):
        writer.put("merchants", merchant_rows(merchants))
    columns = ("product_id", "merchant_id", "price_cents")
    sold = list(zip(*(products.column(name).to_pylist() for name in columns), strict=True))
    if not base.has("campaigns"):
        writer.put("campaigns", sample_campaigns(sold, merchants, settings.advertised_share, seed))
    if not base.has("creatives"):
        _open_creatives(writer, base, products, settings, seed, workers)
    if not base.has("splits"):
        groups = near_duplicate_groups(products, base.images.facts() if base.has("images") else None)
        writer.put("splits", split_by_group(products.column("product_id").to_pylist(), groups))


def _product_row(product: MarketProduct, image_ids: list[str]) -> dict[str, Any]:
    kind = CATEGORIES[product.look.category]
    return {
        "product_id": product.product_id,
        "spu_id": product.spu_id,
        "merchant_id": product.merchant_id,
        "title": product.listing.title,
        "description": product.listing.description,
        "category": [kind.department, kind.group, kind.name],
        "brand": product.facts.brand,
        "attributes": list(product.listing.attributes.items()),
        "price_cents": product.price_cents,
        "created_at": product.created_at,
        "image_ids": image_ids,
    }


def _looks_table(products: list[MarketProduct]) -> pa.Table:
    """truth/looks: the true look and the true hidden attributes (lists) of every product."""
    columns: dict[str, list] = {"product_id": [product.product_id for product in products]}
    columns |= {name: [getattr(product.look, name) for product in products] for name in LOOK_FIELDS}
    columns |= {name: [list(product.facts.hidden[name]) for product in products] for name in HIDDEN}
    return pa.table(columns)


def _workers(workers: int | None, num_products: int) -> int:
    return workers or (num_cores() if num_products >= FEW else 1)


def _filled(
    products: pa.Table, base: Dataset, settings: MarketSettings, seed: int
) -> tuple[pa.Table, list[Merchant]]:
    """The products with empty merchants, prices and dates filled in, and the merchants."""
    wanted = ("product_id", "spu_id", "category", "merchant_id", "price_cents", "created_at")
    columns = {name: products.column(name).to_pylist() for name in wanted}
    merchants = _open_merchants(base, columns["merchant_id"], settings, seed)
    weights = np.array([merchant.weight for merchant in merchants])
    for row, product_id in enumerate(columns["product_id"]):
        rng = stream(seed, "open product", columns["spu_id"][row] or product_id)
        merchant = rng.choice(len(merchants), p=weights / weights.sum())
        is_new = bool(rng.random() < settings.new_share)
        if columns["merchant_id"][row] is None:
            columns["merchant_id"][row] = merchants[int(merchant)].merchant_id
        rng = stream(seed, "product", product_id)
        if columns["price_cents"][row] is None:
            columns["price_cents"][row] = _open_price(columns["category"][row], seed, rng)
        if columns["created_at"][row] is None:
            columns["created_at"][row] = sample_created(is_new, settings, rng)
    for name in ("merchant_id", "price_cents", "created_at"):
        field = SCHEMAS["products"].field(name)
        place = products.schema.get_field_index(name)
        products = products.set_column(place, field, pa.array(columns[name], field.type))
    return products, merchants


def _open_merchants(
    base: Dataset, known: list[str | None], settings: MarketSettings, seed: int
) -> list[Merchant]:
    """The catalog's own merchants by falling size, or invented ones when it names none."""
    counts = Counter(merchant_id for merchant_id in known if merchant_id is not None)
    tiers = {row["merchant_id"]: row["tier"] for row in base.table("merchants").to_pylist()}
    ids = sorted({*counts, *tiers}, key=lambda one: (-counts[one], one))
    if not ids:
        return sample_merchants(min(settings.num_merchants, len(known)), seed)
    invented = sample_merchants(len(ids), seed)
    return [
        replace(merchant, merchant_id=one, tier=tiers.get(one) or merchant.tier)
        for one, merchant in zip(ids, invented, strict=True)
    ]


def _open_price(category: list[str] | None, seed: int, rng: np.random.Generator) -> int:
    """A price where the catalog has none: lognormal around a level of its leaf category."""
    level = stream(seed, "price level", (category or ["?"])[-1]).normal(np.log(3_500), 0.6)
    return round_price(float(np.exp(rng.normal(level, 0.4))), 99, 10_000_000, rng)


def _open_creatives(
    writer: DatasetWriter,
    base: Dataset,
    products: pa.Table,
    settings: MarketSettings,
    seed: int,
    workers: int | None,
) -> None:
    """Creatives of every product with a photo: the first photo as it is, and advertisements made from it."""
    ids, titles = products.column("product_id").to_pylist(), products.column("title").to_pylist()
    photos: dict[str, str] = {}
    for product_id, names in zip(ids, products.column("image_ids").to_pylist(), strict=True):
        stored = [name for name in names or () if name in base.images]
        photos |= {product_id: stored[0]} if stored else {}

    def tasks() -> Iterator[PhotoTask]:
        for product_id, image_id in photos.items():
            photo = base.images[image_id]
            yield PhotoTask(product_id, photo, settings.creatives_per_product, settings.image_side, seed)

    album = Album(writer, dict(zip(ids, titles, strict=True)), 0.0, seed)
    with track(len(photos), "making advertisements from photos") as meter:
        drawn = in_order(draw_photo, tasks(), _workers(workers, len(photos)))
        for (product_id, image_id), pictures in zip(photos.items(), drawn, strict=True):
            album.add(product_id, pictures, main=image_id)
            meter.step()
    album.close()
