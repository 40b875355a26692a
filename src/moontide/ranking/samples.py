"""Ranking samples: one row an impression, with only what was known before it.

    impression ──► label, codes, position, hour               what was asked and shown, was it clicked
              └──► counters (COUNTERS)                         counts of everything strictly earlier
              └──► behavior_end ──► the shopper's behaviors    clicks and orders strictly earlier

Behaviors are stored once per shopper, in order of time; a sample holds the number of those before it, so
that a history costs four bytes a sample and is cut out of the shopper's row when a batch is made.

Leaves out on purpose: carts and facets (no behavior yet), and the hidden truth, which nothing that trains
may read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from moontide.catalog.dataset import Dataset
from moontide.catalog.splits import cutoff
from moontide.foundation.errors import CheckpointError, DataError, StorageError
from moontide.foundation.settings import Settings
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_json
from moontide.ranking.counters import COUNTERS, DAY_MS, PLACE
from moontide.ranking.entities import Entities, Vocabulary
from moontide.ranking.facts import CLICK, behaviors_of, connect, facts_of, read_events, with_counters

FORMAT = 1
HOUR_MS = 3_600_000
COLUMNS = ("at", "shopper", "query", "product", "creative", "position", "label", "behavior_end")
FLAGS = ("is_test", "is_new", "is_rare")
BEHAVIORS = ("product", "query", "at", "kind")


class SampleSettings(Settings):
    """How a log becomes samples."""

    test_share: float = pydantic.Field(
        0.2, gt=0, lt=1, description="last impressions that are for test, share"
    )
    new_days: float | None = pydantic.Field(
        None, gt=0, description="a product is new under this age, days; None: if it came after the cutoff"
    )
    rare_impressions: int = pydantic.Field(20, ge=0, description="a product with fewer in training is rare")
    min_impressions: int = pydantic.Field(3, ge=1, description="fewest in training for an own embedding")
    max_attributes: int = pydantic.Field(8, ge=0, description="attribute keys kept as id fields")


@dataclass(frozen=True)
class History:
    """The latest behaviors before some impressions, newest first; a product of -1 is padding.

    Args:
        product: (rows, steps) int32 product codes.
        at: (rows, steps) int64 ms.
        kind: (rows, steps) uint8, CLICK or ORDER of `facts.py`.
        query: (rows, steps) int32 query codes, -1 where none is known.
    """

    product: np.ndarray
    at: np.ndarray
    kind: np.ndarray
    query: np.ndarray


@dataclass(frozen=True)
class Samples:
    """Impressions in order of time, as columns; codes are rows of the dataset's tables, -1 for none.

    Args:
        event_id: text, to join other tables by (`join`).
        at: int64 ms. shopper, query, product, creative, position: int32. label: bool, was clicked.
        counters: (impressions, len(COUNTERS)) int32, what was known before.
        behavior_end: int32, the shopper's number of behaviors before.
        is_test: from the cutoff on. is_new, is_rare: of the product, see `SampleSettings`.
        behavior_product, _query, _at, _kind: all behaviors, shopper by shopper, oldest first.
        behavior_start: (shoppers + 1,) where each shopper's behaviors begin.
        cutoff_ms: the moment the test period begins.
    """

    event_id: pa.Array
    at: np.ndarray
    shopper: np.ndarray
    query: np.ndarray
    product: np.ndarray
    creative: np.ndarray
    position: np.ndarray
    label: np.ndarray
    behavior_end: np.ndarray
    counters: np.ndarray
    is_test: np.ndarray
    is_new: np.ndarray
    is_rare: np.ndarray
    behavior_product: np.ndarray
    behavior_query: np.ndarray
    behavior_at: np.ndarray
    behavior_kind: np.ndarray
    behavior_start: np.ndarray
    cutoff_ms: int
    entities: Entities
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.at)

    @property
    def train_rows(self) -> np.ndarray:
        """Row numbers before the cutoff, in order of time."""
        return np.flatnonzero(~self.is_test)

    @property
    def test_rows(self) -> np.ndarray:
        """Row numbers from the cutoff on, in order of time."""
        return np.flatnonzero(self.is_test)

    @property
    def hour(self) -> np.ndarray:
        """Hour of the day (UTC), 0 to 23."""
        return (self.at // HOUR_MS % 24).astype(np.int32)

    @property
    def history_length(self) -> np.ndarray:
        """How many behaviors each shopper had before each impression."""
        return self.behavior_end

    def history(self, rows: np.ndarray, steps: int) -> History:
        """The latest `steps` behaviors before the impressions `rows`, newest first, padded at the end."""
        start = self.behavior_start[self.shopper[rows]]
        end = start + self.behavior_end[rows]
        place = end[:, None] - 1 - np.arange(steps)
        is_real = place >= start[:, None]
        if not len(self.behavior_product):
            return empty_history(len(rows), steps)
        place = np.where(is_real, place, 0)
        product = np.where(is_real, self.behavior_product[place], -1)
        query = np.where(is_real, self.behavior_query[place], -1)
        return History(product, self.behavior_at[place], self.behavior_kind[place], query)

    def join(self, table: pa.Table, column: str, key: str = "event_id") -> np.ndarray:
        """A column of another table with `event_id`s, such as truth/impressions, in the order of the samples.

        Returns:
            (impressions,) float64, NaN where the table has no such event.
        """
        place = pc.index_in(self.event_id, table.column(key).combine_chunks())
        values = table.column(column).cast(pa.float64()).take(place)
        return values.to_numpy(zero_copy_only=False)

    def save(self, path: Path | str) -> None:
        """Write the samples into a folder of Parquet files; when complete it appears, or replaces another."""
        path = Path(path)
        with new_folder(path, replace=True) as folder:
            columns: dict[str, Any] = {"event_id": self.event_id}
            columns |= {name: getattr(self, name) for name in (*COLUMNS, *FLAGS)}
            columns |= {name: self.counters[:, place] for name, place in PLACE.items()}
            behaviors = {name: getattr(self, f"behavior_{name}") for name in BEHAVIORS}
            with storage_errors(path):
                pq.write_table(pa.table(columns), folder / "impressions.parquet", compression="zstd")
                pq.write_table(pa.table(behaviors), folder / "behaviors.parquet", compression="zstd")
                pq.write_table(pa.table({"start": self.behavior_start}), folder / "starts.parquet")
            (folder / "entities").mkdir()
            self.entities.save(folder / "entities")
            self.vocabulary.save(folder / "vocabulary.json")
            write_json(folder / "samples.json", {"format": FORMAT, "cutoff_ms": self.cutoff_ms})

    @classmethod
    def load(cls, path: Path | str) -> Samples:
        """What `save` wrote.

        Raises:
            CheckpointError: there are no samples at `path`, or of another format.
        """
        path = Path(path)
        try:
            facts = read_json(path / "samples.json")
        except StorageError:
            raise CheckpointError(f"no ranking samples at {path}: build them first") from None
        if facts.get("format") != FORMAT:
            raise CheckpointError(f"{path} has samples of format {facts.get('format')}: build them again")
        table = pq.read_table(path / "impressions.parquet").combine_chunks()
        behaviors = pq.read_table(path / "behaviors.parquet")
        columns = {name: _array(table, name) for name in (*COLUMNS, *FLAGS)}
        columns |= {f"behavior_{name}": _array(behaviors, name) for name in BEHAVIORS}
        return cls(
            **columns,
            event_id=table.column("event_id").combine_chunks(),
            counters=np.stack([_array(table, name) for name in COUNTERS], axis=1),
            behavior_start=_array(pq.read_table(path / "starts.parquet"), "start"),
            cutoff_ms=facts["cutoff_ms"],
            entities=Entities.load(path / "entities"),
            vocabulary=Vocabulary.load(path / "vocabulary.json"),
        )


def build_samples(
    dataset: Dataset, settings: SampleSettings | None = None, connection: ibis.BaseBackend | None = None
) -> Samples:
    """Make the ranking samples of a dataset's event log.

    Args:
        dataset: needs products and events with impressions.
        settings: see `SampleSettings`.
        connection: an ibis backend that reads Parquet files; default DuckDB in memory.

    Raises:
        DataError: the dataset has no impressions of known products.
    """
    settings = settings or SampleSettings()
    dataset.require("ranking", "events")
    border = _milliseconds(cutoff(dataset.table("events", ["kind", "at"]), settings.test_share))
    entities = Entities.read(dataset, settings.max_attributes)
    connection = connection or connect()
    facts = facts_of(read_events(connection, dataset.files("events"), entities)).cache()
    shows = with_counters(facts).to_pyarrow()
    behaviors = behaviors_of(facts).to_pyarrow()
    if not len(shows):
        raise DataError(f"no impression of {dataset.path} shows a product of its catalog: check the ids")
    return _assemble(shows, behaviors, entities, border, settings)


def empty_history(rows: int, steps: int) -> History:
    """A history of padding alone."""
    shape = (rows, steps)
    none = np.full(shape, -1, np.int32)
    return History(none, np.zeros(shape, np.int64), np.zeros(shape, np.uint8), none)


def _assemble(
    shows: pa.Table, behaviors: pa.Table, entities: Entities, border: int, settings: SampleSettings
) -> Samples:
    at, kinds = _array(shows, "ms"), _array(behaviors, "kind")
    codes = {
        name: _array(shows, name).astype(np.int32)
        for name in ("shopper", "query", "product", "creative", "position")
    }
    leaf = entities.leaf_codes()[codes["product"]]
    counters = _counters(shows, codes["query"], leaf, at, np.sort(_array(behaviors, "ms")[kinds == CLICK]))
    is_test = at >= border
    shown = np.bincount(codes["product"][~is_test], minlength=len(entities.products))
    created = entities.created_at[codes["product"]]
    is_new = created >= border if settings.new_days is None else at - created < settings.new_days * DAY_MS
    owner = _array(behaviors, "shopper")
    return Samples(
        **codes,
        event_id=shows.column("event_id").combine_chunks(),
        at=at,
        label=_array(shows, "label"),
        counters=counters,
        behavior_end=counters[:, PLACE["shopper_clicks"]] + counters[:, PLACE["shopper_orders"]],
        is_test=is_test,
        is_new=is_new,
        is_rare=shown[codes["product"]] < settings.rare_impressions,
        behavior_product=_array(behaviors, "product").astype(np.int32),
        behavior_query=_array(behaviors, "query").astype(np.int32),
        behavior_at=_array(behaviors, "ms"),
        behavior_kind=kinds.astype(np.uint8),
        behavior_start=np.searchsorted(owner, np.arange(len(entities.shoppers) + 1)).astype(np.int64),
        cutoff_ms=border,
        entities=entities,
        vocabulary=_vocabulary(entities, codes, ~is_test, settings.min_impressions),
    )


def _counters(
    shows: pa.Table, query: np.ndarray, leaf: np.ndarray, at: np.ndarray, click_at: np.ndarray
) -> np.ndarray:
    columns = {name: _array(shows, name) for name in COUNTERS if name in shows.column_names}
    columns["all_shows"] = np.searchsorted(at, at, side="left")  # impressions are in order of time
    columns["all_clicks"] = np.searchsorted(click_at, at, side="left")
    for name in ("query_shows", "query_clicks"):
        columns[name] = np.where(query >= 0, columns[name], 0)  # requests without a query share nothing
    for name in ("leaf_shows", "leaf_clicks"):
        columns[name] = np.where(leaf >= 0, columns[name], 0)  # nor do products without a category
    return np.stack([columns[name].astype(np.int32) for name in COUNTERS], axis=1)


def _vocabulary(
    entities: Entities, codes: dict[str, np.ndarray], is_train: np.ndarray, least: int
) -> Vocabulary:
    def shown(name: str, num: int) -> np.ndarray:
        code = codes[name][is_train]
        return np.bincount(code[code >= 0], minlength=num)

    tables = {"product": entities.products, "shopper": entities.shoppers}
    tables["query"] = pa.table({"query": entities.query_ids})
    columns, counts = {}, {}
    for name, table in tables.items():
        for field in table.column_names:
            columns[field] = table.column(field).combine_chunks()
            counts[field] = shown(name, len(table))
    return Vocabulary.build(columns, counts, least)


def _milliseconds(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)


def _array(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy()


assert {field.name for field in fields(Samples)} >= {*COLUMNS, *FLAGS}
