"""Who and what an event names, as integer codes: products, shoppers, queries, creatives and their fields.

A code is the row in the dataset's own table, so the codes of products and queries are those every room
uses; -1 is "none". A *row* is something else: the row of an embedding table, which a `Vocabulary` gives to
each value seen often enough in training. Row 0 is "unknown": what a new product has in common with every
other new product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import CheckpointError
from moontide.foundation.storage import read_json, storage_errors, write_json

ATTRIBUTE = "attribute:"  # prefix of a field made of one attribute
PRODUCT_FIELDS = ("product", "leaf", "top", "brand", "merchant", "price_band")
SHOPPER_FACT = "shopper:"  # prefix of a further field of shoppers
SHOPPER_FIELDS = ("shopper", "segment", "device", "region")
LONG_AGO = np.iinfo(np.int64).min // 4  # created_at of a product that has none, ms


@dataclass(frozen=True)
class Entities:
    """Ids and fields of everything that events name, in the order of the dataset's tables.

    Args:
        products: one row a product: PRODUCT_FIELDS and `attribute:KEY` columns, text, null where missing.
        shoppers: one row a shopper: SHOPPER_FIELDS. Those without a row in `shoppers` come last, sorted.
        query_ids, creative_ids: their ids.
        created_at: (products,) int64 ms, LONG_AGO where it is not known.
        log_price: (products,) float64, log of the price in cents, NaN where it is not known.
    """

    products: pa.Table
    shoppers: pa.Table
    query_ids: pa.Array
    creative_ids: pa.Array
    created_at: np.ndarray
    log_price: np.ndarray

    @classmethod
    def read(cls, dataset: Dataset, max_attributes: int = 8) -> Entities:
        """The entities of a dataset; `max_attributes` keeps the attribute keys most products have."""
        table = dataset.table("products")
        price = _numbers(table, "price_cents")
        created = table.column("created_at").cast(pa.int64()).fill_null(LONG_AGO).to_numpy()
        return cls(
            products=_product_fields(table, price, max_attributes),
            shoppers=_shopper_fields(dataset),
            query_ids=_ids(dataset.table("queries", ["query_id"]), "query_id"),
            creative_ids=_ids(dataset.table("creatives", ["creative_id"]), "creative_id"),
            created_at=created,
            log_price=np.log(np.maximum(price, 1.0)),
        )

    @property
    def product_ids(self) -> pa.Array:
        """Product ids by code."""
        return self.products.column("product").combine_chunks()

    @property
    def shopper_ids(self) -> pa.Array:
        """Shopper ids by code."""
        return self.shoppers.column("shopper").combine_chunks()

    @property
    def attributes(self) -> tuple[str, ...]:
        """The fields that are attributes."""
        return tuple(name for name in self.products.column_names if name.startswith(ATTRIBUTE))

    def leaf_codes(self) -> np.ndarray:
        """(products,) code of the leaf category, by first appearance; -1 where a product has none."""
        return codes_of(self.products.column("leaf").combine_chunks().dictionary_encode().indices)

    def save(self, folder: Path) -> None:
        """Write the entities into an existing folder."""
        numbers = {"created_at": pa.array(self.created_at), "log_price": pa.array(self.log_price)}
        products = self.products
        for name, column in numbers.items():
            products = products.append_column(name, column)
        with storage_errors(folder):
            pq.write_table(products, folder / "products.parquet")
            pq.write_table(self.shoppers, folder / "shoppers.parquet")
            pq.write_table(pa.table({"query": self.query_ids}), folder / "queries.parquet")
            pq.write_table(pa.table({"creative": self.creative_ids}), folder / "creatives.parquet")

    @classmethod
    def load(cls, folder: Path) -> Entities:
        """What `save` wrote."""
        products = pq.read_table(folder / "products.parquet")
        return cls(
            products=products.drop_columns(["created_at", "log_price"]),
            shoppers=pq.read_table(folder / "shoppers.parquet"),
            query_ids=pq.read_table(folder / "queries.parquet").column(0).combine_chunks(),
            creative_ids=pq.read_table(folder / "creatives.parquet").column(0).combine_chunks(),
            created_at=products.column("created_at").to_numpy(),
            log_price=products.column("log_price").to_numpy(),
        )


@dataclass(frozen=True)
class Vocabulary:
    """Which embedding row a value of a field has: 1, 2, ... in the order of `values`, 0 for the rest."""

    values: Mapping[str, list[str]]

    @classmethod
    def build(
        cls, columns: Mapping[str, pa.Array], counts: Mapping[str, np.ndarray], least: int
    ) -> Vocabulary:
        """Keep the values with at least `least` training impressions.

        Args:
            columns: field -> the value of each code.
            counts: field -> training impressions of each code.
            least: fewest impressions a value needs; values of the test period alone are always unknown.
        """
        kept = {}
        for field, column in columns.items():
            encoded = column.dictionary_encode()
            codes = codes_of(encoded.indices)
            known = codes >= 0
            totals = np.bincount(
                codes[known], weights=counts[field][known], minlength=len(encoded.dictionary)
            )
            often = encoded.dictionary.filter(pa.array(totals >= max(least, 1)))
            kept[field] = sorted(often.to_pylist())
        return cls(kept)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each field's embedding table, the unknown one included."""
        return {field: len(values) + 1 for field, values in self.values.items()}

    def rows(self, field: str, column: pa.Array) -> np.ndarray:
        """Embedding row of each value, int64; one more row at the end, 0, so that code -1 is unknown."""
        found = pc.index_in(column, pa.array(self.values[field], pa.string())).fill_null(-1)
        return np.append(found.to_numpy(zero_copy_only=False).astype(np.int64) + 1, 0)

    def table(self, entities: pa.Table, fields: tuple[str, ...]) -> np.ndarray:
        """(entities + 1, fields) int64 of embedding rows; a field the table lacks is unknown everywhere."""
        columns = []
        for field in fields:
            if field in entities.column_names:
                columns.append(self.rows(field, entities.column(field).combine_chunks()))
            else:
                columns.append(np.zeros(len(entities) + 1, np.int64))
        return np.stack(columns, axis=1)

    def save(self, file: Path) -> None:
        """Write the vocabulary as JSON."""
        write_json(file, self.values)

    @classmethod
    def load(cls, file: Path) -> Vocabulary:
        """What `save` wrote.

        Raises:
            CheckpointError: the file holds something else.
        """
        values = read_json(file)
        if not isinstance(values, dict) or "product" not in values:
            raise CheckpointError(f"{file} is no vocabulary: train the click model again")
        return cls(values)


def codes_of(indices: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Arrow indices as int64 codes, null as -1."""
    return np.asarray(indices.fill_null(-1)).astype(np.int64)


def find_codes(ids: pa.Array | list[str | None], known: pa.Array) -> np.ndarray:
    """Code of each id among the `known` ones, -1 where it is not there."""
    return codes_of(pc.index_in(pa.array(ids, pa.string()) if isinstance(ids, list) else ids, known))


def _product_fields(table: pa.Table, price: np.ndarray, max_attributes: int) -> pa.Table:
    paths = table.column("category").to_pylist()
    # Half-octave bands: fixed by the price alone, so that no other product's price moves a feature.
    bands = [None if np.isnan(one) else str(int(2 * np.log2(max(one, 1.0)))) for one in price]
    columns = {
        "product": table.column("product_id"),
        "leaf": pa.array([" > ".join(path) if path else None for path in paths], pa.string()),
        "top": pa.array([path[0] if path else None for path in paths], pa.string()),
        "brand": table.column("brand"),
        "merchant": table.column("merchant_id"),
        "price_band": pa.array(bands, pa.string()),
    }
    rows = [dict(row or ()) for row in table.column("attributes").to_pylist()]
    held: dict[str, int] = {}
    for row in rows:
        for key, values in row.items():
            held[key] = held.get(key, 0) + bool(values)
    for key in sorted(held, key=lambda key: (-held[key], key))[:max_attributes]:
        columns[ATTRIBUTE + key] = pa.array([(row.get(key) or [None])[0] for row in rows], pa.string())
    return pa.table(columns)


def _shopper_fields(dataset: Dataset) -> pa.Table:
    table = dataset.table("shoppers")
    named = pa.concat_arrays([_ids(table, "shopper_id")])
    seen = pc.unique(dataset.table("events", ["shopper_id"]).column(0)).drop_null()
    others = sorted(set(seen.to_pylist()) - set(named.to_pylist()))
    columns = {"shopper": pa.concat_arrays([named, pa.array(others, pa.string())])}
    for field in SHOPPER_FIELDS[1:]:
        columns[field] = pa.concat_arrays([_ids(table, field), pa.nulls(len(others), pa.string())])
    return pa.table(columns)


def _ids(table: pa.Table, column: str) -> pa.Array:
    return pa.array(table.column(column).to_pylist(), pa.string())


def _numbers(table: pa.Table, column: str) -> np.ndarray:
    return table.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
