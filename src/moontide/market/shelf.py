"""What is sold, as arrays by product code: categories, prices, dates, campaigns, creatives, facets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moontide.catalog.dataset import Dataset

UNLIMITED = 10**12  # cents a day of a campaign without a budget


@dataclass(frozen=True)
class Shelf:
    """What is sold, by product code.

    Args:
        product_ids, titles: as stored. merchant_id: of each product, may be None. category: (products, 3)
        codes of department, group, leaf; `leaves`: the path of each leaf code. price: (products,) cents;
        created_ms: when it could first be shown. campaign_ids: active campaigns; campaign: (products,)
        code or -1; bid, budget: (products,) cents, 0 if none. creative_ids, creative_images: by creative
        code; creatives: (products, most) codes, -1 padded. main_images: first picture of each product,
        None without one. facets: (key, value) of the attribute table by code; facet_rows: (pairs, 2)
        product and facet.
    """

    product_ids: list[str]
    titles: list[str]
    category: np.ndarray
    leaves: list[tuple[str, ...]]
    price: np.ndarray
    created_ms: np.ndarray
    campaign_ids: list[str]
    campaign: np.ndarray
    bid: np.ndarray
    budget: np.ndarray
    creative_ids: list[str]
    creative_images: list[str]
    creatives: np.ndarray
    main_images: list[str | None]
    facets: list[tuple[str, str]]
    facet_rows: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, start_ms: int) -> Shelf:
        """The catalog of a dataset; a missing date counts as long before the log."""
        products = dataset.products()
        code = {product.product_id: number for number, product in enumerate(products)}
        paths = [_three(product.category) for product in products]
        category, leaves = _category_codes(paths)
        created = [int(p.created_at.timestamp() * 1000) if p.created_at else start_ms - 1 for p in products]
        campaigns: dict[int, dict] = {}
        for row in dataset.table("campaigns").to_pylist():  # of several active ones, the highest bid
            product = code.get(row["product_id"])
            if product is None or row["status"] != "active" or not row["bid_cents"]:
                continue
            if product not in campaigns or row["bid_cents"] > campaigns[product]["bid_cents"]:
                campaigns[product] = row
        columns = {name: np.zeros(len(products), np.int64) for name in ("bid_cents", "daily_budget_cents")}
        campaign = np.full(len(products), -1)
        for number, (product, row) in enumerate(campaigns.items()):
            campaign[product] = number
            for name, column in columns.items():
                column[product] = UNLIMITED if row[name] is None else row[name]
        ids, images, creatives = _creatives(dataset, code)
        facets, facet_rows = _facets([product.attributes for product in products])
        prices = np.array([product.price_cents or 0 for product in products], np.float64)
        return cls(
            [p.product_id for p in products], [p.title for p in products], category, leaves,
            np.where(prices > 0, prices, np.median(prices[prices > 0]) if (prices > 0).any() else 1_000.0),
            np.array(created, np.int64), [row["campaign_id"] for row in campaigns.values()], campaign,
            columns["bid_cents"], columns["daily_budget_cents"], ids, images, creatives,
            [p.image_ids[0] if p.image_ids else None for p in products], facets, facet_rows,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.product_ids)

    @property
    def leaf(self) -> np.ndarray:
        """(products,) leaf category codes."""
        return self.category[:, 2]


def _three(path: tuple[str, ...]) -> tuple[str, str, str]:
    """Department, group and leaf of a category path of any length."""
    if not path:
        return "other", "other", "other"
    return path[0], path[min(1, len(path) - 1)], path[-1]


def _category_codes(paths: list[tuple[str, str, str]]) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """(products, 3) codes, and the path of every leaf code; equal names under other parents differ."""
    columns = []
    for depth in (1, 2, 3):
        names = sorted({path[:depth] for path in paths})
        code = {name: number for number, name in enumerate(names)}
        columns.append([code[path[:depth]] for path in paths])
    return np.array(columns, np.int64).T, names


def _creatives(dataset: Dataset, code: dict[str, int]) -> tuple[list[str], list[str], np.ndarray]:
    """Ids and pictures by creative code, and (products, most) codes, -1 padded."""
    table = dataset.table("creatives", ["creative_id", "product_id", "image_id"])
    rows = [row for row in table.to_pylist() if row["product_id"] in code]
    of_product: list[list[int]] = [[] for _ in code]
    for number, row in enumerate(rows):
        of_product[code[row["product_id"]]].append(number)
    width = max((len(own) for own in of_product), default=0) or 1
    padded = np.full((len(code), width), -1, np.int64)
    for product, own in enumerate(of_product):
        padded[product, : len(own)] = own
    return [row["creative_id"] for row in rows], [row["image_id"] for row in rows], padded


def _facets(attributes: list[dict[str, tuple[str, ...]]]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Every (key, value) of the attribute tables, and (pairs, 2) rows of product and facet code."""
    code: dict[tuple[str, str], int] = {}
    rows = []
    for product, values in enumerate(attributes):
        for key, names in values.items():
            for name in names:
                rows.append((product, code.setdefault((key, name), len(code))))
    return list(code), np.array(rows, np.int64).reshape(-1, 2)
