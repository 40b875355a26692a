"""From what an importer has read to a samples folder: samples, marks, vectors, refused rows, facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from moontide.foundation.errors import DataError, StorageError
from moontide.foundation.storage import new_folder, storage_errors, write_json
from moontide.ranking.content import ContentTable
from moontide.ranking.counters import COUNTERS
from moontide.ranking.entities import LONG_AGO, PRODUCT_FIELDS, SHOPPER_FIELDS, Entities, Vocabulary
from moontide.ranking.importers.parts import LOGGED, TEST, TRAIN, Marks
from moontide.ranking.importers.tables import Rejected
from moontide.ranking.importers.timed import Past
from moontide.ranking.samples import Samples

MIN_SEEN = 3  # training impressions and behaviors that give a value an embedding of its own
RARE_IMPRESSIONS = 20


@dataclass(frozen=True)
class Shows:
    """Impressions as columns, in any order; codes of shopper and product.

    Args:
        event_id: text. at: ms, 0 where the log has no times. position: -1 unknown. label: clicked.
        behavior_end: how many of the shopper's behaviors came before.
        part: place in PARTS. policy: place in POLICIES, None: all logged.
        counters: (impressions, len(COUNTERS)), None: the log has no times to count by.
    """

    event_id: pa.Array
    at: np.ndarray
    shopper: np.ndarray
    product: np.ndarray
    position: np.ndarray
    label: np.ndarray
    behavior_end: np.ndarray
    part: np.ndarray
    policy: np.ndarray | None = None
    counters: np.ndarray | None = None


@dataclass
class Imported:
    """A public log, read: what `save` writes.

    Args:
        samples, marks: the impressions, and which of them are for what.
        vectors: content table aligned with the products, None where the source has no vectors.
        rejected: rows left out. facts: goes to import.json; `has_times` and `has_counters` are among them.
        lines: counts for people. notes: what a reader of numbers from this log must know.
    """

    samples: Samples
    marks: Marks
    vectors: ContentTable | None
    rejected: Rejected
    facts: dict[str, Any]
    lines: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, to: Path | str, replace: bool = False) -> None:
        """Write the samples folder; it appears when complete.

        Raises:
            StorageError: `to` is in use, or cannot be written.
        """
        to = Path(to)
        counts = dict(self.lines) | {f"rejected {name}": number for name, number in self.rejected.lines()}
        with new_folder(to, replace) as folder, storage_errors(to):
            self.samples.save(folder)
            self.marks.save(folder)
            if self.vectors is not None:
                self.vectors.save(folder / "vectors")
            if self.rejected.rows:
                self.rejected.save(folder / "rejected.parquet")
            write_json(folder / "import.json", self.facts | {"counts": counts, "notes": self.notes})


def check_target(to: Path, replace: bool) -> None:
    """Refuse before reading for hours, not after.

    Raises:
        StorageError: there is something at `to` and `replace` is False.
    """
    if not replace and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StorageError(f"{to} already exists: name another folder, or give --replace")


def samples_of(
    shows: Shows, past: Past, entities: Entities, least: int = MIN_SEEN, cutoff_ms: int = 0
) -> tuple[Samples, Marks]:
    """Samples in order of time, then of part (validation ends the training period), then of the source.

    A product is new if no training impression shows it, rare below RARE_IMPRESSIONS of them. A value has an
    embedding of its own if it was seen `least` times in training impressions and in the behaviors before
    them: histories name many products that are never shown.

    Raises:
        DataError: there is no impression.
    """
    num = len(shows.at)
    if not num:
        raise DataError("no impression is left to import: see the reasons of the refused rows")
    order = np.lexsort((np.arange(num), shows.part, shows.at))
    part = shows.part[order]
    policy = np.full(num, LOGGED, np.uint8) if shows.policy is None else shows.policy[order]
    columns = {
        name: getattr(shows, name)[order].astype(np.int32)
        for name in ("shopper", "product", "position", "behavior_end")
    }
    is_train = (part == TRAIN) & (policy == LOGGED)
    shown = np.bincount(columns["product"][is_train], minlength=len(entities.products))
    none = np.full(num, -1, np.int32)
    counters = np.zeros((num, len(COUNTERS)), np.int32) if shows.counters is None else shows.counters[order]
    samples = Samples(
        **columns,
        event_id=shows.event_id.take(pa.array(order)),
        at=shows.at[order],
        query=none,
        creative=none,
        label=shows.label[order].astype(bool),
        counters=counters,
        is_test=part == TEST,
        is_new=shown[columns["product"]] == 0,
        is_rare=shown[columns["product"]] < RARE_IMPRESSIONS,
        behavior_product=past.product.astype(np.int32, copy=False),
        behavior_query=np.full(len(past.product), -1, np.int32),
        behavior_at=past.at,
        behavior_kind=past.kind,
        behavior_start=past.start.astype(np.int64),
        cutoff_ms=cutoff_ms,
        entities=entities,
        vocabulary=_vocabulary(columns, is_train, shown, past, entities, least),
    )
    return samples, Marks(part, policy)


def entities_of(
    products: Mapping[str, Any],
    shoppers: Mapping[str, Any],
    log_price: np.ndarray | None = None,
    created_at: np.ndarray | None = None,
) -> Entities:
    """Entities of columns of text; published fields that are not given are null, prices and ages unknown."""
    num = len(products["product"])
    none = pa.array([], pa.string())
    return Entities(
        products=_filled(products, PRODUCT_FIELDS),
        shoppers=_filled(shoppers, SHOPPER_FIELDS),
        query_ids=none,
        creative_ids=none,
        created_at=np.full(num, LONG_AGO) if created_at is None else created_at,
        log_price=np.full(num, np.nan) if log_price is None else log_price,
    )


def price_bands(cents: np.ndarray) -> pa.Array:
    """Half-octave bands of prices, NaN as null, as `entities.py` makes them of a catalog's."""
    known = np.isfinite(cents)
    band = (2 * np.log2(np.maximum(np.where(known, cents, 1.0), 1.0))).astype(np.int64)
    return pa.array(band, mask=~known).cast(pa.string())


def texts(ids: np.ndarray, missing: int | None = 0) -> pa.Array:
    """Whole numbers as text, null where they are `missing`."""
    mask = None if missing is None else ids == missing
    return pa.array(ids, mask=mask).cast(pa.string())


def coverage(samples: Samples, vectors: ContentTable) -> dict[str, float]:
    """Share of impressions and of behaviors whose product has a vector, and of the products themselves."""
    has = vectors.product.present
    return {
        "products": float(has[:-1].mean()) if len(has) > 1 else 0.0,
        "targets": float(has[samples.product].mean()),
        "behaviors": float(has[samples.behavior_product].mean()) if len(samples.behavior_product) else 0.0,
    }


def _filled(columns: Mapping[str, Any], fields: tuple[str, ...]) -> pa.Table:
    num = len(columns[fields[0]])
    every = {name: columns.get(name, pa.nulls(num, pa.string())) for name in fields}
    every |= {name: column for name, column in columns.items() if name not in fields}
    return pa.table(every)


def _vocabulary(
    columns: Mapping[str, np.ndarray],
    is_train: np.ndarray,
    shown: np.ndarray,
    past: Past,
    entities: Entities,
    least: int,
) -> Vocabulary:
    shopper = columns["shopper"][is_train]
    seen_until = np.zeros(len(entities.shoppers), np.int64)
    np.maximum.at(seen_until, shopper, columns["behavior_end"][is_train])
    # +1 where a piece of seen behaviors begins, -1 where it ends: one byte a behavior, not an index.
    edges = np.zeros(len(past.product) + 1, np.int8)
    some = seen_until > 0
    edges[past.start[:-1][some]] += 1
    edges[past.start[:-1][some] + seen_until[some]] -= 1
    is_seen = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    seen = shown + np.bincount(past.product[is_seen], minlength=len(entities.products))
    shoppers = np.bincount(shopper, minlength=len(entities.shoppers))
    fields, counts = {}, {}
    for table, number in ((entities.products, seen), (entities.shoppers, shoppers)):
        for name in table.column_names:
            fields[name], counts[name] = table.column(name).combine_chunks(), number
    fields["query"], counts["query"] = entities.query_ids, np.zeros(0)
    return Vocabulary.build(fields, counts, least)
