"""A shop's table and pictures, imported as a dataset.

No row stops an import: what cannot be used goes to `rejected.parquet` with a reason, and the report counts
it. The dataset appears when it is complete, or not at all. The same files give the same dataset, byte for
byte in its tables, whatever the number of cores and whether the pictures lie in a folder or a zip.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from moontide.catalog.dataset import DatasetWriter
from moontide.catalog.landing import Landed, Picture, Plan, land, with_pictures
from moontide.catalog.rowfiles import Row
from moontide.catalog.schema import SCHEMAS, conform
from moontide.catalog.splits import (
    HASH_DISTANCE,
    TEST_SHARE,
    check_share,
    near_duplicate_groups,
    split_by_group,
    split_rule,
)
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.progress import track

BATCH_ROWS = 1_024
PREVIEW_ROWS = 5
Sides = Mapping[str, str]


@dataclass
class ImportReport:
    """What an import did; `rejected` counts by (table, reason)."""

    path: Path
    rows: int = 0
    products: int = 0
    images: int = 0
    image_bytes: int = 0
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, int]]:
        """The counts for people, most frequent reasons first."""
        counts = [("rows read", self.rows), ("products", self.products), ("pictures", self.images)]
        counts += [(f"products for {split}", self.splits[split]) for split in ("train", "test")]
        reasons = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        return counts + [(f"rejected {table}: {reason}", number) for (table, reason), number in reasons]


Report = TypeVar("Report", bound=ImportReport)


def import_table(
    plan: Plan,
    to: Path | str,
    *,
    name: str | None = None,
    license: str = "unknown",
    test_share: float = TEST_SHARE,
    replace: bool = False,
) -> ImportReport:
    """Import a table with its pictures, as `landing.plan_import` laid it out.

    Args:
        test_share: share of groups of near-duplicates to hold out.
        replace: put the new dataset in the place of the one at `to`.

    Raises:
        DataError: no row can be used.
        SettingsError: `test_share` is not in [0, 1].
        StorageError: `to` is in use or cannot be written. Nothing is left behind.
    """
    check_share(test_share)  # before the long work, not after it
    facts = {"mapping": plan.mapping.model_dump(mode="json"), "split_rule": split_rule(test_share)}
    title = name or Path(to).absolute().name
    writer = DatasetWriter(to, title, license, plan.file.path.name, replace=replace, facts=facts)
    intake = Intake(writer, ImportReport(Path(to)), plan.file.path, needs_picture=bool(plan.mapping.images))
    with writer, track(plan.file.num_rows, "importing") as meter:
        for landed in with_pictures(_landed(plan, plan.file), plan.pictures, intake.pictures):
            intake.take(landed)
            meter.step()
        return intake.close(test_share, advice=": look at --dry-run, and check --map and --images")


def preview(plan: Plan, num_rows: int = PREVIEW_ROWS) -> list[Landed]:
    """The first rows as they would land, pictures read and checked, nothing written."""
    return list(with_pictures(_landed(plan, itertools.islice(plan.file, num_rows)), plan.pictures))


def _landed(plan: Plan, rows: Iterable[Row]) -> Iterator[Landed]:
    return (land(plan, row) for row in rows)


class Intake(Generic[Report]):
    """Takes landed rows in order: accepts, rejects, and writes what is accepted.

    Args:
        source: the file or folder, for errors.
        needs_picture: a product whose pictures are all refused is refused, too.

    Attributes:
        pictures: file -> its image id, or why it is refused.
    """

    def __init__(self, writer: DatasetWriter, report: Report, source: Path, needs_picture: bool):
        self._writer, self._report, self._source = writer, report, source
        self._needs_picture = needs_picture
        self.pictures: dict[str, str | ImageError] = {}
        self._ids: set[str] = set()
        self._facts: list[tuple[str, str, str]] = []
        self._batch: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []

    def take(self, landed: Landed) -> list[str] | None:
        """Accept or reject a row; gives the pictures of an accepted product, None for a rejected row."""
        self._report.rows += 1
        if landed.problem is None and landed.product_id in self._ids:
            landed.problem = ("duplicate_id", "an earlier row has this id")
        if landed.problem:
            return self._reject("products", landed, *landed.problem)
        image_ids = self._take_pictures(landed)
        if self._needs_picture and not image_ids:
            return self._reject("products", landed, *_first_refusal(landed, self.pictures))
        self._ids.add(landed.product["product_id"])
        self._batch.append({**landed.product, "image_ids": image_ids})
        if len(self._batch) >= BATCH_ROWS:
            self._flush()
        return image_ids

    def _take_pictures(self, landed: Landed) -> list[str]:
        """Image ids of the pictures that are good; one file is stored once, under its first product."""
        image_ids: list[str] = []
        for name, outcome in zip(landed.pictures, landed.outcomes, strict=True):
            if isinstance(name, str) and isinstance(outcome, Picture) and name not in self.pictures:
                image_id = f"{landed.product_id}-{len(image_ids)}"
                self._writer.add_image(image_id, outcome.data, outcome.facts)
                self._facts.append((image_id, outcome.facts.sha256, outcome.facts.dhash))
                self.pictures[name] = image_id
                self._report.images += 1
                self._report.image_bytes += len(outcome.data)
            elif isinstance(name, str) and isinstance(outcome, ImageError):
                self.pictures[name] = outcome
            known = self.pictures[name] if isinstance(name, str) else name
            if isinstance(known, str):
                image_ids.append(known)
            else:
                detail = str(known) if known is name else f"{name}: {known}"
                self._reject("images", landed, known.reason, detail)
        return image_ids

    def _reject(self, table: str, landed: Landed, reason: str, detail: str) -> None:
        self._writer.reject(table, landed.number, landed.product_id, reason, detail)
        self._report.rejected[table, reason] += 1

    def _flush(self) -> None:
        if self._batch:
            self._tables.append(conform("products", self._batch))
            self._batch = []

    def close(self, test_share: float, sides: Sides | None = None, advice: str = "") -> Report:
        """Write products and splits.

        Args:
            sides: product id -> "train" or "test", of a set that comes divided; None: by group.
            advice: what to do where no row could be used; ends the error.

        Raises:
            DataError: no row can be used.
        """
        self._flush()
        if not self._ids:
            counts = self._report.rejected.most_common()
            reasons = ", ".join(f"{number} {reason}" for (_, reason), number in counts) or "it has none"
            raise DataError(
                f"none of the {self._report.rows} rows of {self._source} can be used ({reasons}){advice}"
            )
        products = pa.concat_tables(self._tables)
        splits = self._splits(products, test_share, sides)
        self._writer.put("products", products)
        self._writer.put("splits", splits)
        self._report.products = len(products)
        self._report.splits.update(splits.column("split").to_pylist())
        return self._report

    def _splits(self, products: pa.Table, test_share: float, sides: Sides | None) -> pa.Table:
        ids = products.column("product_id").to_pylist()
        if sides is not None:  # published sides may divide near-duplicates: `moontide data check` warns
            return pa.table([ids, ids, [sides[one] for one in ids]], schema=SCHEMAS["splits"])
        names = ["image_id", "sha256", "dhash"]
        columns = [list(column) for column in zip(*self._facts, strict=True)] or [[], [], []]
        groups = near_duplicate_groups(products, pa.table(columns, names=names), HASH_DISTANCE)
        return split_by_group(ids, groups, test_share)


def _first_refusal(landed: Landed, known: dict[str, str | ImageError]) -> tuple[str, str]:
    refusals = [known[name] if isinstance(name, str) else name for name in landed.pictures]
    error = next(refusal for refusal in refusals if isinstance(refusal, ImageError))
    return error.reason, f"no picture is left: {error}"
