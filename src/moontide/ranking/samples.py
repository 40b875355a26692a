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

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from dataclasses import field as field_of
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
from moontide.foundation.seeds import hash_share
from moontide.foundation.settings import Settings
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_json
from moontide.ranking.counters import COUNTED, COUNTERS, DAY_MS, PLACE, count_past, order_of_codes
from moontide.ranking.entities import Entities, Vocabulary
from moontide.ranking.facts import CLICK, ORDER, SHOW, Facts, collect_facts, connect

log = logging.getLogger(__name__)
FORMAT = 2
OLD_FORMAT = 1  # behaviors in a Parquet file, and none of the facts that samples.json holds now
HOUR_MS = 3_600_000
MANY_STEPS = 200  # behaviors a row from which on copying row by row is faster
FILLERS = (-1, 0, 0, -1)  # of a history's columns
CODES = ("shopper", "query", "product", "creative", "position")
COLUMNS = ("at", "shopper", "query", "product", "creative", "position", "label", "behavior_end")
FLAGS = ("is_test", "is_new", "is_rare")
OPTIONAL = ("is_kept", "version_code")
FACTS = ("cutoff_ms", "negative_share", "versions", "left_out", "kept")
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
    negative_share: float = pydantic.Field(
        1.0, gt=0, le=1, description="impressions without a click that training keeps, share"
    )


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
        is_kept: which impressions training uses, None: all. Counters and histories saw the others as well.
        negative_share: of the training impressions without a click, how many `is_kept` has; predictions of a
            model trained on them are too high by it, see `calibration.py`.
        version_code: int16, the vector version an impression was logged with, -1 for none; None: none at all.
        versions: the versions by code.
        left_out: rows of the log that could not be used, by reason. kept: odd ones that were.
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
    is_kept: np.ndarray | None = None
    negative_share: float = 1.0
    version_code: np.ndarray | None = None
    versions: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field_of(default_factory=dict)
    kept: Mapping[str, int] = field_of(default_factory=dict)

    def __len__(self) -> int:
        return len(self.at)

    @property
    def train_rows(self) -> np.ndarray:
        """Row numbers before the cutoff that training uses, in order of time."""
        return np.flatnonzero(~self.is_test if self.is_kept is None else ~self.is_test & self.is_kept)

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

    def version_counts(self) -> dict[str, int]:
        """Impressions by the vector version they were logged with; "" for those that name none."""
        if self.version_code is None:
            return {"": len(self)} if len(self) else {}
        num = np.bincount(self.version_code + 1, minlength=len(self.versions) + 1).tolist()
        return {name: count for name, count in zip(("", *self.versions), num, strict=True) if count}

    def history(self, rows: np.ndarray, steps: int) -> History:
        """The latest `steps` behaviors before the impressions `rows`, newest first, padded at the end.

        Whole pieces of the stored behaviors are copied, without an index for each step: 10,000 steps cost
        the memory of what is returned and no more.
        """
        length = np.minimum(self.behavior_end[rows], steps)
        end = self.behavior_start[self.shopper[rows]] + self.behavior_end[rows]
        columns = (self.behavior_product, self.behavior_at, self.behavior_kind, self.behavior_query)
        latest = latest_by_row if length.sum() > MANY_STEPS * len(rows) else latest_by_index
        return History(*latest(columns, end, length, steps))

    def part(self, rows: np.ndarray) -> Samples:
        """Some of the impressions, by ascending row number; behaviors stay where they are."""
        names = (
            *COLUMNS,
            *FLAGS,
            "counters",
            *(name for name in OPTIONAL if getattr(self, name) is not None),
        )
        columns = {name: getattr(self, name)[rows] for name in names}
        return replace(self, event_id=self.event_id.take(pa.array(rows)), **columns)

    def join(self, table: pa.Table, column: str, key: str = "event_id") -> np.ndarray:
        """A column of another table with `event_id`s, such as truth/impressions, in the order of the samples.

        Returns:
            (impressions,) float64, NaN where the table has no such event.
        """
        place = pc.index_in(self.event_id, table.column(key).combine_chunks())
        values = table.column(column).cast(pa.float64()).take(place)
        return values.to_numpy(zero_copy_only=False)

    def save(self, path: Path | str) -> None:
        """Write the samples into a folder; when complete it appears, or replaces another.

        Impressions are Parquet, behaviors are arrays that `load` maps into memory: processes that train on
        the same samples share one copy of them.
        """
        path = Path(path)
        with new_folder(path, replace=True) as folder:
            columns: dict[str, Any] = {"event_id": self.event_id}
            columns |= {name: getattr(self, name) for name in (*COLUMNS, *FLAGS)}
            columns |= {name: self.counters[:, place] for name, place in PLACE.items()}
            columns |= {name: getattr(self, name) for name in OPTIONAL if getattr(self, name) is not None}
            with storage_errors(path):
                pq.write_table(pa.table(columns), folder / "impressions.parquet", compression="zstd")
                for name in (*BEHAVIORS, "start"):
                    np.save(folder / f"behavior_{name}.npy", getattr(self, f"behavior_{name}"))
            (folder / "entities").mkdir()
            self.entities.save(folder / "entities")
            self.vocabulary.save(folder / "vocabulary.json")
            write_json(
                folder / "samples.json", {"format": FORMAT} | {name: getattr(self, name) for name in FACTS}
            )

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
        if facts.get("format") not in (OLD_FORMAT, FORMAT):
            raise CheckpointError(f"{path} has samples of format {facts.get('format')}: build them again")
        table = pq.read_table(path / "impressions.parquet").combine_chunks()
        optional = [name for name in OPTIONAL if name in table.column_names]
        known: dict[str, Any] = {name: facts[name] for name in FACTS if name in facts}
        known |= {name: _array(table, name) for name in (*COLUMNS, *FLAGS, *optional)}
        known["versions"] = tuple(known.get("versions", ()))
        return cls(
            **known,
            event_id=table.column("event_id").combine_chunks(),
            counters=np.stack([_array(table, name) for name in COUNTERS], axis=1),
            **_load_behaviors(path, facts["format"]),
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
    facts = collect_facts(connection or connect(), dataset.files("events"), entities)
    for name, count in facts.left_out.items():
        log.warning("%s: %d rows of the log are left out: %s", dataset.path, count, name)
    if not (_array(facts.table, "kind") == SHOW).any():
        raise DataError(f"no impression of {dataset.path} shows a product of its catalog: check the ids")
    samples = _assemble(facts, entities, border, settings)
    clicks = int(samples.label[samples.train_rows].sum())
    if clicks in (0, len(samples.train_rows)):
        log.warning(
            "%s: %d of %d training impressions were clicked: a click model needs both kinds",
            dataset.path,
            clicks,
            len(samples.train_rows),
        )
    return samples


def empty_history(rows: int, steps: int) -> History:
    """A history of padding alone."""
    shape = (rows, steps)
    none = np.full(shape, -1, np.int32)
    return History(none, np.zeros(shape, np.int64), np.zeros(shape, np.uint8), none)


def latest_by_row(
    columns: Sequence[np.ndarray], end: np.ndarray, length: np.ndarray, steps: int
) -> list[np.ndarray]:
    """Of each column (rows, steps): `length` entries before each `end`, the last one first, then FILLERS."""
    latest = [np.empty((len(end), steps), column.dtype) for column in columns]
    for row, (stop, num) in enumerate(zip(end.tolist(), length.tolist(), strict=True)):
        for found, column, filler in zip(latest, columns, FILLERS, strict=True):
            found[row, :num] = column[stop - num : stop][::-1]
            found[row, num:] = filler
    return latest


def latest_by_index(
    columns: Sequence[np.ndarray], end: np.ndarray, length: np.ndarray, steps: int
) -> list[np.ndarray]:
    """What `latest_by_row` gives, all rows at once: faster where rows are short."""
    latest = [
        np.full((len(end), steps), filler, column.dtype)
        for column, filler in zip(columns, FILLERS, strict=True)
    ]
    longest = int(length.max(initial=0))
    if longest:
        step = np.arange(longest)
        is_real = step < length[:, None]
        place = np.where(is_real, end[:, None] - 1 - step, 0)
        for found, column in zip(latest, columns, strict=True):
            np.copyto(found[:, :longest], column[place], where=is_real)
    return latest


def _load_behaviors(path: Path, form: int) -> dict[str, np.ndarray]:
    if form == OLD_FORMAT:
        table = pq.read_table(path / "behaviors.parquet")
        columns = {f"behavior_{name}": _array(table, name) for name in BEHAVIORS}
        return columns | {"behavior_start": _array(pq.read_table(path / "starts.parquet"), "start")}
    names = [f"behavior_{name}" for name in (*BEHAVIORS, "start")]
    # A plain array over the map: numpy's memmap class slows every single look-up.
    return {name: np.asarray(np.load(path / f"{name}.npy", mmap_mode="r")) for name in names}


def _assemble(facts: Facts, entities: Entities, border: int, settings: SampleSettings) -> Samples:
    columns = {name: _array(facts.table, name) for name in facts.table.column_names if name != "event_id"}
    is_show = columns["kind"] == SHOW
    shows = {name: column[is_show] for name, column in columns.items()}
    event_id = facts.table.column("event_id").filter(pa.array(is_show)).cast(pa.string()).combine_chunks()
    codes = {name: shows[name].astype(np.int32) for name in CODES}
    at, is_test, product = shows["ms"], shows["ms"] >= border, codes["product"]
    counters = _counters(columns, is_show, entities.leaf_codes())
    is_kept = _kept_negatives(event_id, shows, shows["label"] | is_test, settings.negative_share)
    shown = np.bincount(product[~is_test], minlength=len(entities.products))
    created = entities.created_at[product]
    is_new = created >= border if settings.new_days is None else at - created < settings.new_days * DAY_MS
    is_train = ~is_test if is_kept is None else ~is_test & is_kept
    return Samples(
        **codes,
        **_behaviors(columns, is_show, len(entities.shoppers)),
        event_id=event_id,
        at=at,
        label=shows["label"],
        counters=counters,
        behavior_end=counters[:, PLACE["shopper_clicks"]] + counters[:, PLACE["shopper_orders"]],
        is_test=is_test,
        is_new=is_new,
        is_rare=shown[product] < settings.rare_impressions,
        cutoff_ms=border,
        entities=entities,
        vocabulary=_vocabulary(entities, codes, is_train, settings.min_impressions),
        is_kept=is_kept,
        negative_share=settings.negative_share,
        version_code=shows["version"].astype(np.int16) if facts.versions else None,
        versions=facts.versions,
        left_out=facts.left_out,
        kept=facts.kept,
    )


def _behaviors(
    columns: dict[str, np.ndarray], is_show: np.ndarray, num_shoppers: int
) -> dict[str, np.ndarray]:
    """Clicks and orders, shopper by shopper from the oldest to the newest; facts are in order of time."""
    place = np.flatnonzero(~is_show)
    place = place[order_of_codes(columns["shopper"][place])]
    start = np.searchsorted(columns["shopper"][place], np.arange(num_shoppers + 1)).astype(np.int64)
    return {
        "behavior_product": columns["product"][place].astype(np.int32),
        "behavior_query": columns["query"][place].astype(np.int32),
        "behavior_at": columns["ms"][place],
        "behavior_kind": columns["kind"][place].astype(np.uint8),
        "behavior_start": start,
    }


def _kept_negatives(
    event_id: pa.Array, shows: dict[str, np.ndarray], is_safe: np.ndarray, share: float
) -> np.ndarray | None:
    """Which impressions training keeps: all safe ones, and a share of the others by the hash of their id."""
    if share == 1:
        return None
    is_kept = is_safe.copy()
    rows = np.flatnonzero(~is_safe)
    codes = zip(*(shows[name][rows].tolist() for name in ("shopper", "product", "ms")), strict=True)
    ids = event_id.take(pa.array(rows)).to_pylist()
    names = (f"{code}" if name is None else name for name, code in zip(ids, codes, strict=True))
    is_kept[rows] = [hash_share(name, "negatives") < share for name in names]
    return is_kept


def _counters(columns: dict[str, np.ndarray], is_show: np.ndarray, leaf_of: np.ndarray) -> np.ndarray:
    """(impressions, len(COUNTERS)) of what was strictly earlier than each."""
    at, kind = columns["ms"], columns["kind"]
    codes = {name: columns[name] for name in ("product", "shopper", "query")}
    codes["leaf"] = leaf_of[columns["product"]].astype(np.int32)
    counters = np.empty((int(is_show.sum()), len(COUNTERS)), np.int32)
    for name in COUNTED:
        past = count_past(codes[name], at, kind)[is_show]
        # Requests without a query share nothing, nor do products without a category.
        past[codes[name][is_show] < 0] = 0
        for what, number in (("shows", SHOW), ("clicks", CLICK), ("orders", ORDER)):
            if (place := PLACE.get(f"{name}_{what}")) is not None:
                counters[:, place] = past[:, number]
    for what, number in (("shows", SHOW), ("clicks", CLICK)):
        counters[:, PLACE[f"all_{what}"]] = np.searchsorted(at[kind == number], at[is_show], side="left")
    return counters


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
