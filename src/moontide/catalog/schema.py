"""The columns of every table in a dataset folder: the contract of importers, market, training and serving.

A missing optional column is filled with nulls when a table is written; an unknown one is an error. Times are
UTC milliseconds, money is integer cents, ids are strings.
"""

from __future__ import annotations

import pyarrow as pa

from moontide.foundation.errors import DataError

SCHEMA_VERSION = 1

_text, _int, _real = pa.string(), pa.int64(), pa.float64()
_time = pa.timestamp("ms", tz="UTC")
_texts = pa.list_(pa.string())
_map = pa.map_(pa.string(), pa.string())

ATTRIBUTES = pa.map_(pa.string(), _texts)
EVENT_KINDS = ("search", "facet", "impression", "click", "cart", "order", "opt_out")

SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema(list(fields.items()))
    for name, fields in {
        "products": {
            "product_id": _text, "spu_id": _text, "merchant_id": _text, "title": _text, "description": _text,
            "category": _texts, "brand": _text, "attributes": ATTRIBUTES, "price_cents": _int,
            "created_at": _time, "image_ids": _texts,
        },
        "images": {
            "image_id": _text, "bytes": pa.binary(), "width": pa.int32(), "height": pa.int32(),
            "sha256": _text, "dhash": _text,
        },
        "queries": {"query_id": _text, "text": _text, "image_id": _text},
        "events": {
            "event_id": _text, "request_id": _text, "visit_id": _text, "at": _time, "shopper_id": _text,
            "kind": _text, "query_id": _text, "product_id": _text, "campaign_id": _text,
            "creative_id": _text, "selling_point_id": _text, "scheme": _text, "facet_key": _text,
            "facet_value": _text, "position": pa.int32(), "bid_cents": _int, "charge_cents": _int,
            "order_cents": _int, "policy": _text, "p_slate": _real, "p_creative": _real,
            "p_selling_point": _real, "vector_version": _text, "model_version": _text,
        },
        "shoppers": {"shopper_id": _text, "segment": _text, "device": _text, "region": _text},
        "merchants": {
            "merchant_id": _text, "tier": _text, "allows_title_changes": pa.bool_(),
            "banned_selling_points": _texts,
        },
        "campaigns": {
            "campaign_id": _text, "merchant_id": _text, "product_id": _text, "bid_cents": _int,
            "daily_budget_cents": _int, "status": _text,
        },
        "creatives": {
            "creative_id": _text, "product_id": _text, "image_id": _text, "template": _text, "params": _map,
        },
        "selling_points": {"selling_point_id": _text, "text": _text, "type": _text},
        "product_selling_points": {"product_id": _text, "selling_point_id": _text, "evidence": _text},
        "judgments": {"query_id": _text, "product_id": _text, "grade": _real, "source": _text},
        "splits": {"product_id": _text, "group_id": _text, "split": _text},
        "regions": {
            "image_id": _text, "title_sha256": _text, "x0": _real, "y0": _real, "x1": _real, "y1": _real,
            "score": _real, "source": _text, "version": _text, "status": _text,
        },
        "augmented": {
            "product_id": _text, "title": _text, "image_id": _text, "kind": _text, "source": _text,
            "version": _text, "score": _real, "accepted": pa.bool_(), "reason": _text,
        },
        "reasoning": {
            "entity_kind": _text, "entity_id": _text, "model_version": _text, "content_hash": _text,
            "text": _text,
        },
        "vectors": {
            "entity_kind": _text, "entity_id": _text, "version": _text, "vector": pa.list_(pa.float32()),
        },
        "rejected": {"table": _text, "row": _int, "entity_id": _text, "reason": _text, "detail": _text},
    }.items()
}  # fmt: skip
SHARDED = ("images", "events", "vectors")
REQUIRED = {"products": ("product_id", "title"), "images": ("image_id", "bytes"), "queries": ("query_id",)}


def conform(name: str, rows: pa.Table | list[dict]) -> pa.Table:
    """Bring rows into the columns of table `name`: order and types fixed, missing columns null.

    Raises:
        DataError: an unknown table or column, a value of the wrong type, or a null in a required column.
    """
    if name not in SCHEMAS:
        raise DataError(f"no table is called {name!r}: the tables are {', '.join(SCHEMAS)}")
    schema = SCHEMAS[name]
    if not isinstance(rows, pa.Table):
        rows = _from_rows(name, rows, schema)
    unknown = [column for column in rows.column_names if column not in schema.names]
    if unknown:
        raise DataError(
            f"{name} has unknown columns {', '.join(unknown)}: it may have {', '.join(schema.names)}"
        )
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(len(rows), field.type))
            continue
        try:
            columns.append(rows.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{name}.{field.name} is not {field.type}: {error}") from None
    table = pa.Table.from_arrays(columns, schema=schema)
    for column in REQUIRED.get(name, ()):
        if table.column(column).null_count:
            raise DataError(
                f"{name}.{column} has {table.column(column).null_count} empty values: it must have none"
            )
    return table


def _from_rows(name: str, rows: list[dict], schema: pa.Schema) -> pa.Table:
    unknown = sorted({key for row in rows for key in row} - set(schema.names))
    if unknown:
        raise DataError(
            f"{name} has unknown columns {', '.join(unknown)}: it may have {', '.join(schema.names)}"
        )
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"a row of {name} does not fit its columns: {error}") from None
