"""Counts of impressions and clicks of each creative: from a dataset's log, or from a file.

A file may be Parquet, CSV or JSON lines with the columns creative_id, product_id, image_id, impressions,
clicks, and propensity where it is known.

Paper: Creative4U 2 (CreativeStat). The paper's counts are of its own traffic; slot, time and audience of that
are not described. Ours carry the propensity of the log, so that a reader can tell randomized traffic.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.catalog.rowfiles import RowFile
from moontide.creative.records import CreativeStat
from moontide.foundation.errors import DataError
from moontide.foundation.storage import storage_errors

log = logging.getLogger(__name__)
SCHEMA = pa.schema(
    [
        ("creative_id", pa.string()), ("product_id", pa.string()), ("image_id", pa.string()),
        ("impressions", pa.int64()), ("clicks", pa.int64()), ("propensity", pa.float64()),
    ]
)  # fmt: skip
_MARK = "\x1f"


def stats_from_events(dataset: Dataset) -> list[CreativeStat]:
    """The counts of every creative that the log showed, by creative id; impressions of none are left out.

    A click counts once for a request and a creative, and only where that request showed the creative.

    Raises:
        DataError: there is no log, no creatives, or the log names none; the text says what to do.
    """
    dataset.require("creative statistics", "events", "creatives")
    columns = ["kind", "event_id", "request_id", "product_id", "creative_id", "p_creative"]
    events = dataset.table("events", columns)
    events = events.filter(pc.is_valid(events.column("creative_id")))
    shown = events.filter(pc.equal(events.column("kind"), "impression"))
    if not len(shown):
        raise DataError(
            f"the log of {dataset.path} has no impression that names a creative: give counts by --stats FILE "
            "or log creative_id with every impression (a simulated market does: `moontide market open`)"
        )
    impressions = Counter(shown.column("creative_id").to_pylist())
    clicks = _clicks(events, shown)
    propensity = _propensities(shown)
    found, num_unknown = [], 0
    known = {row["creative_id"]: row for row in _creatives(dataset)}
    for creative_id in sorted(impressions):
        row = known.get(creative_id)
        if row is None:
            num_unknown += 1
            continue
        num = impressions[creative_id]
        counted = min(clicks[creative_id], num)
        found.append(
            CreativeStat(
                creative_id, row["product_id"] or "", row["image_id"] or "", num, counted,
                propensity.get(creative_id),
            )
        )  # fmt: skip
    if num_unknown:
        log.warning("%d creatives of the log of %s are not in its creatives", num_unknown, dataset.path)
    return found


def _creatives(dataset: Dataset) -> list[dict[str, Any]]:
    return dataset.table("creatives", ["creative_id", "product_id", "image_id"]).to_pylist()


def _clicks(events: pa.Table, shown: pa.Table) -> Counter[str]:
    """Clicked impressions by creative; a click without a request stands for itself."""
    clicked = events.filter(pc.equal(events.column("kind"), "click"))
    names = clicked.column("request_id").is_valid()
    alone = clicked.filter(pc.invert(names))
    clicked = clicked.filter(names)
    keys = _keys(clicked)
    is_shown = pc.is_in(keys, value_set=pc.unique(_keys(shown)))
    num_lost = len(keys) - (pc.sum(is_shown).as_py() or 0)
    if num_lost:
        log.warning("%d clicks are of creatives their request did not show: not counted", num_lost)
    unique = pc.unique(keys.filter(is_shown)).to_pylist()
    return Counter(key.split(_MARK, 1)[1] for key in unique) + Counter(
        alone.column("creative_id").to_pylist()
    )


def _keys(events: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(events.column("request_id"), events.column("creative_id"), _MARK)


def _propensities(shown: pa.Table) -> dict[str, float]:
    """The mean logged propensity of each creative; of those alone that have one at every impression."""
    known = shown.filter(pc.is_valid(shown.column("p_creative")))
    means = known.group_by("creative_id").aggregate([("p_creative", "mean"), ("p_creative", "count")])
    total = Counter(shown.column("creative_id").to_pylist())
    return {
        row["creative_id"]: row["p_creative_mean"]
        for row in means.to_pylist()
        if row["p_creative_count"] == total[row["creative_id"]]
    }


def write_stats(path: Path | str, stats: Sequence[CreativeStat]) -> None:
    """Write counts as Parquet.

    Raises:
        StorageError: the place cannot be written.
    """
    path = Path(path)
    table = pa.Table.from_pylist([vars(stat) for stat in stats], schema=SCHEMA)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")


def read_stats(path: Path | str) -> list[CreativeStat]:
    """Counts from a file, in its order.

    Raises:
        DataError: a column is missing, a creative comes twice, or a count cannot be: the text names the row.
        StorageError: the file is missing.
    """
    rows = RowFile(path)
    missing = [name for name in SCHEMA.names if name != "propensity" and name not in rows.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}: counts of creatives need {', '.join(SCHEMA.names)}"
        )
    found: dict[str, CreativeStat] = {}
    for row in rows:
        where = f"row {row.number} of {path}"
        if row.problem:
            raise DataError(f"{where} cannot be read: {row.problem[1]}")
        stat = _stat(row.cells, where)
        if stat.creative_id in found:
            raise DataError(f"{where}: creative {stat.creative_id!r} comes a second time: add its counts up")
        found[stat.creative_id] = stat
    if not found:
        raise DataError(f"{path} has no rows: give counts of at least two creatives of one product")
    return list(found.values())


def _stat(cells: dict[str, Any], where: str) -> CreativeStat:
    names = [str(cells[name] if cells[name] is not None else "") for name in SCHEMA.names[:3]]
    if not (names[0] and names[1]):
        raise DataError(f"{where} has no creative_id or product_id: fill both")
    impressions, clicks = (_count(cells[name], name, where) for name in ("impressions", "clicks"))
    if clicks > impressions:
        raise DataError(
            f"{where}: creative {names[0]!r} has {clicks:,} clicks of {impressions:,} impressions: "
            "count clicked impressions"
        )
    propensity = _propensity(cells.get("propensity"), where)
    return CreativeStat(names[0], names[1], names[2], impressions, clicks, propensity)


def _count(value: Any, name: str, where: str) -> int:
    try:
        number = int(value)
        if number < 0 or number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: {name} must be a whole number from 0 on, got {value!r}") from None
    return number


def _propensity(value: Any, where: str) -> float | None:
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 1:
        raise DataError(f"{where}: propensity must be above 0 and at most 1, got {value!r}")
    return number
