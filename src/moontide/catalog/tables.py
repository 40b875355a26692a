"""A shop's table and pictures, imported as a dataset.

No row stops an import: what cannot be used goes to `rejected.parquet` with a reason, and the report counts
it. The dataset appears when it is complete, or not at all. The same files give the same dataset, byte for
byte in its tables, whatever the number of cores and whether the pictures lie in a folder or a zip.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from moontide.catalog.dataset import DatasetWriter
from moontide.catalog.landing import Landed, Picture, Plan, with_pictures
from moontide.catalog.schema import conform
from moontide.catalog.splits import (
    HASH_DISTANCE,
    TEST_SHARE,
    check_share,
    near_duplicate_groups,
    split_by_group,
    split_rule,
)
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.progress import Meter, track

BATCH_ROWS = 1_024
PREVIEW_ROWS = 5


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
    with writer, track(plan.file.num_rows, "importing") as meter:
        return _Intake(plan, writer, ImportReport(Path(to))).run(meter, test_share)


def preview(plan: Plan, num_rows: int = PREVIEW_ROWS) -> list[Landed]:
    """The first rows as they would land, pictures read and checked, nothing written."""
    return list(with_pictures(plan, itertools.islice(plan.file, num_rows)))


class _Intake:
    """Takes landed rows in order: accepts, rejects, and writes what is accepted."""

    def __init__(self, plan: Plan, writer: DatasetWriter, report: ImportReport):
        self._plan, self._writer, self._report = plan, writer, report
        self._ids: set[str] = set()
        self._pictures: dict[str, str | ImageError] = {}  # file -> its image id, or why it is refused
        self._facts: list[tuple[str, str, str]] = []
        self._batch: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []

    def run(self, meter: Meter, test_share: float) -> ImportReport:
        for landed in with_pictures(self._plan, self._plan.file, self._pictures):
            self._report.rows += 1
            self._take(landed)
            meter.step()
        self._flush()
        if not self._ids:
            reasons = ", ".join(
                f"{number} {reason}" for (_, reason), number in self._report.rejected.most_common()
            )
            raise DataError(
                f"none of the {self._report.rows} rows of {self._plan.file.path} can be used ({reasons}): "
                "look at --dry-run, and check --map and --images"
            )
        self._close(test_share)
        return self._report

    def _take(self, landed: Landed) -> None:
        if landed.problem is None and landed.product_id in self._ids:
            landed.problem = ("duplicate_id", "an earlier row has this id")
        if landed.problem:
            return self._reject("products", landed, *landed.problem)
        image_ids = self._take_pictures(landed)
        if self._plan.mapping.images and not image_ids:
            return self._reject("products", landed, *_first_refusal(landed, self._pictures))
        self._ids.add(landed.product["product_id"])
        self._batch.append({**landed.product, "image_ids": image_ids})
        if len(self._batch) >= BATCH_ROWS:
            self._flush()

    def _take_pictures(self, landed: Landed) -> list[str]:
        """Image ids of the pictures that are good; one file is stored once, under its first product."""
        image_ids: list[str] = []
        for name, outcome in zip(landed.pictures, landed.outcomes, strict=True):
            if isinstance(name, str) and isinstance(outcome, Picture) and name not in self._pictures:
                image_id = f"{landed.product_id}-{len(image_ids)}"
                self._writer.add_image(image_id, outcome.data, outcome.facts)
                self._facts.append((image_id, outcome.facts.sha256, outcome.facts.dhash))
                self._pictures[name] = image_id
                self._report.images += 1
                self._report.image_bytes += len(outcome.data)
            elif isinstance(name, str) and isinstance(outcome, ImageError):
                self._pictures[name] = outcome
            known = self._pictures[name] if isinstance(name, str) else name
            if isinstance(known, str):
                image_ids.append(known)
            else:
                self._reject(
                    "images", landed, known.reason, f"{name}: {known}" if known is not name else str(known)
                )
        return image_ids

    def _reject(self, table: str, landed: Landed, reason: str, detail: str) -> None:
        self._writer.reject(table, landed.number, landed.product_id, reason, detail)
        self._report.rejected[table, reason] += 1

    def _flush(self) -> None:
        if self._batch:
            self._tables.append(conform("products", self._batch))
            self._batch = []

    def _close(self, test_share: float) -> None:
        products = pa.concat_tables(self._tables)
        names = ["image_id", "sha256", "dhash"]
        images = pa.table(
            [list(column) for column in zip(*self._facts, strict=True)] or [[], [], []], names=names
        )
        groups = near_duplicate_groups(products, images, HASH_DISTANCE)
        splits = split_by_group(products.column("product_id").to_pylist(), groups, test_share)
        self._writer.put("products", products)
        self._writer.put("splits", splits)
        self._report.products = len(products)
        self._report.splits.update(splits.column("split").to_pylist())


def _first_refusal(landed: Landed, known: dict[str, str | ImageError]) -> tuple[str, str]:
    refusals = [known[name] if isinstance(name, str) else name for name in landed.pictures]
    error = next(refusal for refusal in refusals if isinstance(refusal, ImageError))
    return error.reason, f"no picture is left: {error}"
