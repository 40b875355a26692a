"""From raw events to facts, as table expressions that run on any ibis backend: DuckDB here, Spark as well.

A fact is one impression, click or order with integer codes in place of ids. What takes joins of text is done
here; counting needs integers alone and is done by `counters.py`. An order counts when it happened, not when
its impression did. Repeated clicks of one impression count once.

A bad row never stops a log. These are left out, each counted under the first reason that fits: rows of an
unknown kind, without a time, without a known product, without a shopper; a second row of the same kind and
event id; a click earlier than its impression, which is no label and no behavior, for the log contradicts
itself. A click without any impression stays a behavior, and is counted too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis import _

from moontide.catalog.schema import EVENT_KINDS
from moontide.foundation.errors import SettingsError
from moontide.ranking.entities import Entities

SHOW, CLICK, ORDER = 0, 1, 2  # kinds of facts
KINDS = {"impression": SHOW, "click": CLICK, "order": ORDER}
BACKENDS = ("duckdb", "spark")
REASONS = ("unknown kind", "no time", "unknown product", "no shopper")
REPEATED, EARLY = "event id seen before", "click before its impression"
ALONE, NO_QUERY, NO_CREATIVE = "click without an impression", "unknown query", "unknown creative"
ODD = {"has_odd_query": NO_QUERY, "has_odd_creative": NO_CREATIVE}
KEY = ("request", "shopper", "product")  # what a click and its impression have in common
ORDERED = ("ms", "kind", "event_id", "shopper", "product", "position", "creative", "query")


@dataclass(frozen=True)
class Facts:
    """Impressions, first clicks and orders in order of time, and what became of the other rows.

    Args:
        table: kind, ms, shopper, query, product, creative, position, label, version, event_id; codes of -1
            are "none". The label of an impression is whether a click of its request, shopper and product
            came at its moment or later.
        versions: the vector versions that impressions were logged with, by code.
        left_out: rows by reason. kept: odd rows that stayed, by what is odd.
    """

    table: pa.Table
    versions: tuple[str, ...]
    left_out: dict[str, int]
    kept: dict[str, int]


def connect(backend: str = "duckdb") -> ibis.BaseBackend:
    """An ibis connection: DuckDB in memory, or Spark: the session there is, else one on this machine's cores.

    Raises:
        SettingsError: another name, or Spark without pyspark or Java.
    """
    if backend not in BACKENDS:
        raise SettingsError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "duckdb":
        return ibis.duckdb.connect()
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError:
        raise SettingsError(
            "backend 'spark' needs pyspark: install moontide with the extra spark, or use duckdb"
        ) from None
    try:
        session = SparkSession.getActiveSession() or _local_spark(SparkSession.builder)
    except (PySparkRuntimeError, OSError) as error:
        raise SettingsError(
            f"backend 'spark' needs Java, which did not start ({error}): install it, or use duckdb"
        ) from None
    session.conf.set("spark.sql.session.timeZone", "UTC")
    return ibis.pyspark.connect(session)


def _local_spark(builder):
    quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    quiet |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    for name, value in {**quiet, "spark.sql.shuffle.partitions": "8"}.items():
        builder = builder.config(name, value)
    return builder.appName("moontide").getOrCreate()


def collect_facts(connection: ibis.BaseBackend, files: Sequence[Path], entities: Entities) -> Facts:
    """Read event files and give their facts, sorted; the order of rows in the files does not matter."""
    raw = ibis.union(*(_columns(connection.read_parquet(str(file))) for file in files))
    versions = _versions(raw)
    coded = _coded(raw, entities, versions)
    coded.limit(0).to_pyarrow()  # Spark's cache() does not bring the tables of codes along, a query does
    coded = coded.cache()
    left_out, kept = _counted(coded)
    good, left_out[REPEATED] = _without_repeats(coded.filter(_.reason == 0).drop("reason", *ODD))
    clicks = _clicks(good).cache()
    found = clicks.aggregate(early=_.is_early.sum(), alone=_.is_alone.sum()).to_pyarrow().to_pylist()[0]
    left_out[EARLY], kept[ALONE] = found["early"] or 0, found["alone"] or 0
    table = _facts(good, clicks.filter(~_.is_early)).order_by(ORDERED).to_pyarrow()
    return Facts(table, versions, _above_zero(left_out), _above_zero(kept))


def _columns(events: ir.Table) -> ir.Table:
    """The columns that are read; null where a log lacks one."""
    texts = ("kind", "event_id", "request_id", "shopper_id", "query_id", "product_id", "creative_id")
    kinds = dict.fromkeys((*texts, "vector_version"), "string") | {"at": "timestamp", "position": "int32"}
    has = events.columns
    return events.select(
        **{name: events[name] if name in has else ibis.null(kind) for name, kind in kinds.items()}
    )


def _versions(events: ir.Table) -> tuple[str, ...]:
    """The vector versions that impressions name."""
    shown = events.filter((_.kind == "impression") & _.vector_version.notnull())
    return tuple(sorted(shown.select("vector_version").distinct().to_pyarrow().column(0).to_pylist()))


def _coded(events: ir.Table, entities: Entities, versions: tuple[str, ...]) -> ir.Table:
    """Events with codes for ids, and in `reason` why a row cannot be used, 0 for a good one.

    `request` stands for what a click and its impression share; where a log has none it is the event's own
    id, and without that its shopper, product and time, so that such events pair with nothing.
    """
    events = events.filter(~_.kind.fill_null("").isin([kind for kind in EVENT_KINDS if kind not in KINDS]))
    for name in ("product", "shopper", "query", "creative"):
        events = events.left_join(_codes(f"{name}_id", getattr(entities, f"{name}_ids"), name), f"{name}_id")
    events = events.left_join(
        _codes("vector_version", pa.array(versions, pa.string()), "version"), "vector_version"
    )
    # Whole seconds and milliseconds: ibis has no epoch milliseconds, and DuckDB's epoch has fractions.
    ms = _.at.truncate("s").epoch_seconds().cast("int64") * 1000 + _.at.millisecond().cast("int64")
    own = _.shopper_id.concat(" ", _.product_id, " ", _.at.epoch_seconds().cast("string"))
    wrong = (
        _.kind.fill_null("").notin(list(KINDS)),
        _.at.isnull(),
        _["product"].isnull(),
        _.shopper.isnull(),
    )
    codes = {
        name: _[name].fill_null(-1).cast("int32") for name in ("query", "creative", "position", "version")
    }
    return events.select(
        "event_id",
        "shopper",
        "product",
        reason=ibis.cases(*((is_wrong, code + 1) for code, is_wrong in enumerate(wrong)), else_=0).cast(
            "int32"
        ),
        kind=ibis.cases(*((_.kind == name, code) for name, code in KINDS.items()), else_=-1).cast("int32"),
        ms=ms,
        request=ibis.coalesce(_.request_id, _.event_id, own),
        has_odd_query=_.query_id.notnull() & _["query"].isnull(),
        has_odd_creative=_.creative_id.notnull() & _.creative.isnull(),
        **codes,
    )


def _counted(coded: ir.Table) -> tuple[dict[str, int], dict[str, int]]:
    """Rows left out by reason, and rows kept by what is odd about them."""
    sums = {name: _[name].sum() for name in ODD}
    rows = coded.group_by("reason").aggregate(rows=_.count(), **sums).to_pyarrow().to_pylist()
    left_out = {REASONS[row["reason"] - 1]: row["rows"] for row in rows if row["reason"]}
    good = [row for row in rows if not row["reason"]]
    return left_out, {reason: sum(row[name] or 0 for row in good) for name, reason in ODD.items()}


def _without_repeats(events: ir.Table) -> tuple[ir.Table, int]:
    """One row of each kind and event id, the earliest, and how many others there were."""
    key = ["kind", "event_id"]
    again = events.filter(_.event_id.notnull()).group_by(key).aggregate(times=_.count()).filter(_.times > 1)
    again = again.cache()
    found = again.aggregate(rows=_.times.sum(), ids=_.count()).to_pyarrow().to_pylist()[0]
    if not found["ids"]:
        return events, 0
    order = ["ms", "request", *(name for name in ORDERED if name not in (*key, "ms"))]
    twice = events.semi_join(again, key).mutate(nth=ibis.row_number().over(group_by=key, order_by=order))
    first = twice.filter(_.nth == 0).select(*events.columns)
    return events.anti_join(again, key).union(first).cache(), found["rows"] - found["ids"]


def _clicks(events: ir.Table) -> ir.Table:
    """Clicks, whether they came before the first impression of their key, and whether there is none."""
    clicks, shows = events.filter(_.kind == CLICK), events.filter(_.kind == SHOW)
    shown = shows.semi_join(clicks, KEY).group_by(KEY).aggregate(shown=_.ms.min())
    asked = shows.semi_join(clicks, "request").group_by("request").aggregate(asked=_["query"].max())
    clicks = clicks.left_join(shown, KEY).left_join(asked, "request")
    # A click takes the query of its request, which click rows of many logs leave out.
    query = ibis.ifelse(_.asked.fill_null(-1) >= 0, _.asked, _["query"])
    names = (*KEY, "ms", "event_id")
    return clicks.select(
        *names, query=query, is_alone=_.shown.isnull(), is_early=(_.ms < _.shown).fill_null(False)
    )


def _facts(events: ir.Table, clicks: ir.Table) -> ir.Table:
    """Impressions with their label, the first click of each key, and orders."""
    clicked = clicks.group_by(KEY).aggregate(
        ms=_.ms.min(), last=_.ms.max(), event_id=_.event_id.min(), query=_["query"].max()
    )
    shows = events.filter(_.kind == SHOW).left_join(clicked.select(*KEY, "last"), KEY)
    none = {name: ibis.literal(-1, "int32") for name in ("creative", "position", "version")}
    none |= {"label": ibis.literal(False)}
    names = ("ms", "shopper", "product", "query", "event_id")
    parts = [
        shows.select(
            *names, "creative", "position", "version", "kind", label=(_.last >= _.ms).fill_null(False)
        ),
        clicked.select(*names, **none, kind=ibis.literal(CLICK, "int32")),
        events.filter(_.kind == ORDER).select(*names, **none, kind=ibis.literal(ORDER, "int32")),
    ]
    return ibis.union(*(part.select(*parts[0].columns) for part in parts))


def _codes(key: str, ids: pa.Array, name: str) -> ir.Table:
    """A table from ids to codes, to be joined; of an id that stands twice, the first."""
    code = np.arange(len(ids), dtype=np.int32)
    is_first = pc.index_in(ids, ids).to_numpy(zero_copy_only=False) == code
    known = pa.table({key: ids.cast(pa.string()), name: pa.array(code)})
    return ibis.memtable(known.filter(pa.array(is_first)))


def _above_zero(counts: dict[str, int]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items() if count}
