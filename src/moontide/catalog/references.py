"""Which column points into which table, and the rows that point nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

Load = Callable[[str, list[str]], pa.Table | None]  # a table's columns, or None if it is absent or unreadable

# table.column -> table.column; the first three targets must exist where something points at them, for others
# an absent table means that the shop does not tell (a log with campaign ids, but no list of campaigns).
NEEDED = ("products", "images", "queries")
REFERENCES: tuple[tuple[str, str, str, str], ...] = (
    ("products", "image_ids", "images", "image_id"),
    ("products", "merchant_id", "merchants", "merchant_id"),
    ("queries", "image_id", "images", "image_id"),
    ("events", "product_id", "products", "product_id"),
    ("events", "query_id", "queries", "query_id"),
    ("events", "shopper_id", "shoppers", "shopper_id"),
    ("events", "campaign_id", "campaigns", "campaign_id"),
    ("events", "creative_id", "creatives", "creative_id"),
    ("events", "selling_point_id", "selling_points", "selling_point_id"),
    ("campaigns", "product_id", "products", "product_id"),
    ("campaigns", "merchant_id", "merchants", "merchant_id"),
    ("creatives", "product_id", "products", "product_id"),
    ("creatives", "image_id", "images", "image_id"),
    ("product_selling_points", "product_id", "products", "product_id"),
    ("product_selling_points", "selling_point_id", "selling_points", "selling_point_id"),
    ("judgments", "query_id", "queries", "query_id"),
    ("judgments", "product_id", "products", "product_id"),
    ("splits", "product_id", "products", "product_id"),
    ("regions", "image_id", "images", "image_id"),
    ("augmented", "product_id", "products", "product_id"),
    ("augmented", "image_id", "images", "image_id"),
)
KEYS = {
    "products": "product_id", "images": "image_id", "queries": "query_id", "events": "event_id",
    "shoppers": "shopper_id", "merchants": "merchant_id", "campaigns": "campaign_id",
    "creatives": "creative_id", "selling_points": "selling_point_id", "splits": "product_id",
}  # fmt: skip


def broken_references(load: Load) -> Iterator[tuple[str, list[str]]]:
    """Each broken reference ("events.product_id", the ids that are not there)."""
    for table, column, target, key in REFERENCES:
        rows = load(table, [column])
        if rows is None or not len(rows):
            continue
        there = load(target, [key])
        if there is None and target not in NEEDED:
            continue
        used = rows.column(column)
        if pa.types.is_list(used.type):
            used = pc.list_flatten(used)
        used = pc.unique(used).drop_null()
        known = pa.array([], pa.string()) if there is None else pc.unique(there.column(key))
        missing = used.filter(pc.invert(pc.is_in(used, value_set=known)))
        if len(missing):
            yield f"{table}.{column}", missing.to_pylist()


def repeated_keys(load: Load) -> Iterator[tuple[str, list[str]]]:
    """Each table whose ids repeat ("products.product_id", the ids that do)."""
    for table, key in KEYS.items():
        rows = load(table, [key])
        if rows is None:
            continue
        counts = rows.column(key).drop_null().value_counts()
        again = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(again):
            yield f"{table}.{key}", again.to_pylist()


def without_impression(load: Load) -> list[str]:
    """Clicks, carts and orders whose request_id no impression has; null when the log has no impressions."""
    events = load("events", ["event_id", "kind", "request_id"])
    if events is None:
        return []
    kind = events.column("kind")
    shown = events.filter(pc.equal(kind, "impression")).column("request_id").drop_null()
    if not len(shown):
        return []
    after = events.filter(pc.is_in(kind, value_set=pa.array(["click", "cart", "order"])))
    lost = after.filter(pc.invert(pc.is_in(after.column("request_id"), value_set=pc.unique(shown))))
    return [str(event) for event in lost.column("event_id").to_pylist()]
