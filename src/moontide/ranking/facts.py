"""From raw events to facts with point-in-time counts, as table expressions that run on any ibis backend.

A fact is one impression, click or order with integer codes. Ranks by time give what was known at each
impression; events of the same millisecond see none of each other, whatever the order of rows. An order counts
when it happened, not when its impression did. Repeated clicks of one impression count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from ibis import _

from moontide.ranking.counters import COUNTED
from moontide.ranking.entities import Entities

SHOW, CLICK, ORDER = 0, 1, 2  # kinds of facts
KINDS = {"impression": SHOW, "click": CLICK, "order": ORDER}


def connect() -> ibis.BaseBackend:
    """DuckDB in memory, the default backend; any other ibis connection can stand in."""
    return ibis.duckdb.connect()


def read_events(connection: ibis.BaseBackend, files: Sequence[Path], entities: Entities) -> ir.Table:
    """Impressions, clicks and orders with codes for ids; rows of unknown products or shoppers are left out.

    Columns: kind, ms, request, event_id, shopper, query, product, leaf, creative, position. `request` is the
    event's own id where the log has none, so that such events pair with nothing.
    """
    events = ibis.union(*(connection.read_parquet(str(file)) for file in files))
    events = events.filter(events.kind.isin(list(KINDS)) & events["at"].notnull())
    events = events.select(
        kind=ibis.cases(*((events.kind == name, code) for name, code in KINDS.items())).cast("int8"),
        # Whole seconds and milliseconds: ibis has no epoch milliseconds, and DuckDB's epoch has fractions.
        ms=_.at.truncate("s").epoch_seconds().cast("int64") * 1000 + _.at.millisecond().cast("int64"),
        request=ibis.coalesce(events.request_id, events.event_id),
        **{
            name: events[name] for name in ("event_id", "shopper_id", "query_id", "product_id", "creative_id")
        },
        position=events.position.fill_null(-1),
    )
    products = _codes("product", entities.product_ids, leaf=entities.leaf_codes())
    events = events.inner_join(products, "product_id")
    events = events.inner_join(_codes("shopper", entities.shopper_ids), "shopper_id")
    events = events.left_join(_codes("query", entities.query_ids), "query_id")
    events = events.left_join(_codes("creative", entities.creative_ids), "creative_id")
    names = ("kind", "ms", "request", "event_id", "shopper", "product", "leaf", "position")
    return events.select(*names, query=_.query.fill_null(-1), creative=_.creative.fill_null(-1))


def facts_of(events: ir.Table) -> ir.Table:
    """Impressions with their label, first clicks and orders in one table: kind, ms, label, codes, event_id.

    A click takes the query of its request, which click rows of many logs leave out. The label of an
    impression is whether any click has its request, shopper and product.
    """
    key = ("request", "shopper", "product")
    asked = events.filter(events.kind == SHOW).group_by("request").aggregate(asked=_.query.max())
    clicks = events.filter(events.kind == CLICK).group_by(*key)
    clicks = clicks.aggregate(
        ms=_.ms.min(), leaf=_.leaf.max(), event_id=_.event_id.min(), query=_.query.max()
    )
    clicked = clicks.select(*key, was_clicked=ibis.literal(True))
    clicks = clicks.left_join(asked, "request").drop("request_right")
    clicks = clicks.mutate(query=ibis.coalesce(_.asked, _.query))
    shows = events.filter(events.kind == SHOW).left_join(clicked, key)
    shows = shows.mutate(label=_.was_clicked.fill_null(False))
    names = ("ms", "shopper", "product", "leaf", "query", "event_id")
    none = {"creative": ibis.literal(-1, "int64"), "position": ibis.literal(-1, "int32")}
    none["label"] = ibis.literal(False)
    orders = events.filter(events.kind == ORDER)
    parts = [
        shows.select(
            *names, "label", kind=ibis.literal(SHOW, "int8"), creative=_.creative, position=_.position
        ),
        clicks.select(*names, **none, kind=ibis.literal(CLICK, "int8")),
        orders.select(*names, **none, kind=ibis.literal(ORDER, "int8")),
    ]
    order = (*names, "label", "kind", "creative", "position")
    return ibis.union(*(part.select(*order) for part in parts))


def with_counters(facts: ir.Table) -> ir.Table:
    """The impressions among the facts, with counts of what happened strictly before each: see `counters.py`.

    A rank by time counts the rows strictly earlier, ties sharing it, and costs a fraction of a sum over a
    range window. So facts are ranked three times, each time without one kind more, and kinds are told by
    differences: orders = rank among all - rank among impressions and clicks; clicks = that - rank among
    impressions. Overall counts come later: sorted times give them at once, one window over all is slow.
    """
    with_orders = ("product", "shopper")
    ranked = facts.mutate(**{f"{name}_all": _earlier(name) for name in with_orders}).filter(_.kind != ORDER)
    ranked = ranked.mutate(**{f"{name}_two": _earlier(name) for name in COUNTED}).filter(_.kind == SHOW)
    ranked = ranked.mutate(**{f"{name}_shows": _earlier(name) for name in COUNTED})
    columns = {f"{name}_orders": _[f"{name}_all"] - _[f"{name}_two"] for name in with_orders}
    columns |= {f"{name}_clicks": _[f"{name}_two"] - _[f"{name}_shows"] for name in COUNTED}
    return ranked.mutate(**columns).order_by("ms", "event_id")


def _earlier(name: str) -> ir.IntegerValue:
    """How many rows of the same product (shopper, ...) are strictly earlier."""
    return ibis.rank().over(ibis.window(group_by=name, order_by="ms"))


def behaviors_of(facts: ir.Table) -> ir.Table:
    """Clicks and orders, the behaviors, shopper by shopper from the oldest to the newest."""
    return facts.filter(_.kind != SHOW).order_by("shopper", "ms", "kind", "event_id")


def _codes(name: str, ids: pa.Array, **columns: np.ndarray) -> ir.Table:
    """A table from ids to codes, to be joined."""
    known = pa.table({f"{name}_id": ids, name: np.arange(len(ids)), **columns})
    return ibis.memtable(known)
