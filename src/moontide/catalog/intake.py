"""Products of a published data set, with the names of their pictures, written as a dataset folder.

An importer turns each row of its source into a `Landed` (a product, or why it is refused); here pictures are
read ahead by threads, checked and stored once each, and what is refused goes to `rejected.parquet`. Unlike a
shop's own table, a product whose pictures are all refused stays: published sets ship links that may be dead,
so such products are counted instead.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from moontide.catalog.dataset import DatasetWriter
from moontide.catalog.landing import MAX_PICTURES, WINDOW_PICTURES, WINDOW_ROWS, Landed, Picture
from moontide.catalog.pictures import Pictures
from moontide.catalog.schema import SCHEMAS, conform
from moontide.catalog.splits import (
    TEST_SHARE,
    check_share,
    near_duplicate_groups,
    split_by_group,
    split_rule,
)
from moontide.catalog.tables import BATCH_ROWS, PREVIEW_ROWS, ImportReport
from moontide.catalog.values import text_of, texts_of
from moontide.foundation.device import num_cores
from moontide.foundation.errors import CellError, DataError, ImageError
from moontide.foundation.images import image_facts
from moontide.foundation.progress import track

Seen = Picture | ImageError
WITHOUT_PICTURE = "products without a picture"


@dataclass
class OfferReport(ImportReport):
    """What an import did; `noted` counts what was kept but is worth knowing."""

    noted: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, int]]:
        """The counts for people."""
        return super().lines() + [(what, number) for what, number in sorted(self.noted.items()) if number]


@dataclass
class Offers:
    """A published data set, read: its products in order, and where their pictures are.

    Args:
        path: the file or folder; its name goes to dataset.json as the source.
        license: of the data as published.
        landed: one entry a product, or a refused row.
        noted: counts that grow while `landed` is read.
        num_rows: about how many entries; None where that is not known.
        sides: product id -> "train" or "test", where the set comes divided.
    """

    path: Path
    license: str
    landed: Iterable[Landed]
    pictures: Pictures
    noted: Counter[str] = field(default_factory=Counter)
    num_rows: int | None = None
    sides: Mapping[str, str] | None = None


def product_of(product_id: Any, title: Any, **fields: Any) -> dict[str, Any]:
    """A `products` row.

    Raises:
        CellError: `missing_id` or `empty_title`.
    """
    known, named = text_of(product_id), text_of(title)
    if known is None:
        raise CellError("missing_id", "the row has no id")
    if named is None:
        raise CellError("empty_title", "the row has no title")
    return {"product_id": known, "title": named, **fields}


def found(pictures: Pictures, cell: Any) -> list[str | ImageError]:
    """The pictures a cell names (one, or a list), each as the name it is read under or why it is refused."""
    names: dict[str | ImageError, None] = {}
    for path in texts_of(cell)[:MAX_PICTURES]:
        try:
            names[pictures.find(path)] = None
        except ImageError as error:
            names[error] = None
    return list(names)


def read_pictures(pool: ThreadPoolExecutor, pictures: Pictures, names: Iterable[str]) -> dict[str, Seen]:
    """What became of each picture: its bytes and facts, or why it is refused."""

    def seen(name: str) -> Seen:
        try:
            data = pictures.read(name)
            return Picture(data, image_facts(data))
        except ImageError as error:
            return error

    names = list(dict.fromkeys(names))
    return dict(zip(names, pool.map(seen, names), strict=True))


def picture_pool() -> ThreadPoolExecutor:
    """Threads that read pictures; decoding releases the interpreter."""
    return ThreadPoolExecutor(max_workers=min(num_cores(), 8))


def with_outcomes(offers: Offers, known: Container[str] = ()) -> Iterator[Landed]:
    """Entries with what became of their pictures, in order, a bounded number in memory.

    Args:
        known: names not to read again; it may grow meanwhile. Their outcome is None.
    """
    with picture_pool() as pool:
        for piece in _pieces(offers.landed):
            wanted = (name for landed in piece if not landed.problem for name in landed.pictures)
            names = (name for name in wanted if isinstance(name, str) and name not in known)
            seen = read_pictures(pool, offers.pictures, names)
            for landed in piece:
                landed.outcomes = [
                    seen.get(name) if isinstance(name, str) else name for name in landed.pictures
                ]
                yield landed


def _pieces(landed: Iterable[Landed]) -> Iterator[list[Landed]]:
    piece: list[Landed] = []
    for one in landed:
        piece.append(one)
        if len(piece) >= WINDOW_ROWS or sum(len(each.pictures) for each in piece) >= WINDOW_PICTURES:
            yield piece
            piece = []
    if piece:
        yield piece


def preview_offers(offers: Offers) -> list[Landed]:
    """The first entries as they would land, pictures read and checked, nothing written."""
    offers.landed = itertools.islice(offers.landed, PREVIEW_ROWS)
    return list(with_outcomes(offers))


def import_offers(
    offers: Offers,
    to: Path | str,
    *,
    name: str | None = None,
    license: str | None = None,
    test_share: float = TEST_SHARE,
    replace: bool = False,
) -> OfferReport:
    """Write the dataset folder.

    Args:
        license: None: as published.
        test_share: share of groups of near-duplicates to hold out; a set that comes divided keeps its sides.
        replace: put the new dataset in the place of the one at `to`.

    Raises:
        DataError: no row can be used.
        SettingsError: `test_share` is not in [0, 1].
        StorageError: `to` is in use or cannot be written. Nothing is left behind.
    """
    check_share(test_share)
    rule = {"by": "as published"} if offers.sides else split_rule(test_share)
    title = name or Path(to).absolute().name
    writer = DatasetWriter(
        to, title, license or offers.license, offers.path.name, replace=replace, facts={"split_rule": rule}
    )
    intake = _Intake(offers, writer, OfferReport(Path(to), noted=offers.noted))
    with writer, track(offers.num_rows, "importing") as meter:
        for landed in with_outcomes(offers, intake.pictures):
            intake.take(landed)
            meter.step()
        return intake.close(test_share)


class _Intake:
    """Takes entries in order: accepts, rejects, and writes what is accepted."""

    def __init__(self, offers: Offers, writer: DatasetWriter, report: OfferReport):
        self._offers, self._writer, self._report = offers, writer, report
        self.pictures: dict[str, str | ImageError] = {}  # name -> its image id, or why it is refused
        self._ids: set[str] = set()
        self._facts: list[dict[str, str]] = []
        self._batch: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []

    def take(self, landed: Landed) -> None:
        self._report.rows += 1
        if landed.problem is None and landed.product_id in self._ids:
            landed.problem = ("duplicate_id", "an earlier row has this id")
        if landed.problem:
            return self._reject("products", landed, *landed.problem)
        image_ids = self._take_pictures(landed)
        self._report.noted[WITHOUT_PICTURE] += not image_ids
        self._ids.add(landed.product["product_id"])
        self._batch.append({**landed.product, "image_ids": image_ids})
        if len(self._batch) >= BATCH_ROWS:
            self._flush()

    def _take_pictures(self, landed: Landed) -> list[str]:
        """Image ids of the pictures that are good; one file is stored once, under its first product."""
        image_ids: list[str] = []
        for name, outcome in zip(landed.pictures, landed.outcomes, strict=True):
            if isinstance(name, str) and name not in self.pictures:
                assert outcome is not None
                self.pictures[name] = outcome if isinstance(outcome, ImageError) else self._store(
                    f"{landed.product_id}-{len(image_ids)}", outcome
                )  # fmt: skip
            known = self.pictures[name] if isinstance(name, str) else name
            if isinstance(known, str):
                image_ids.append(known)
            else:
                detail = str(known) if known is name else f"{name}: {known}"
                self._reject("images", landed, known.reason, detail)
        return image_ids

    def _store(self, image_id: str, picture: Picture) -> str:
        self._writer.add_image(image_id, picture.data, picture.facts)
        facts = {"image_id": image_id, "sha256": picture.facts.sha256, "dhash": picture.facts.dhash}
        self._facts.append(facts)
        self._report.images += 1
        self._report.image_bytes += len(picture.data)
        return image_id

    def _reject(self, table: str, landed: Landed, reason: str, detail: str) -> None:
        self._writer.reject(table, landed.number, landed.product_id, reason, detail)
        self._report.rejected[table, reason] += 1

    def _flush(self) -> None:
        if self._batch:
            self._tables.append(conform("products", self._batch))
            self._batch = []

    def close(self, test_share: float) -> OfferReport:
        self._flush()
        if not self._ids:
            counts = self._report.rejected.most_common()
            reasons = ", ".join(f"{number} {reason}" for (_, reason), number in counts) or "it has none"
            raise DataError(f"none of the rows of {self._offers.path} can be used ({reasons})")
        products = pa.concat_tables(self._tables)
        splits = self._splits(products, test_share)
        self._writer.put("products", products)
        self._writer.put("splits", splits)
        self._report.products = len(products)
        self._report.splits.update(splits.column("split").to_pylist())
        return self._report

    def _splits(self, products: pa.Table, test_share: float) -> pa.Table:
        ids, sides = products.column("product_id").to_pylist(), self._offers.sides
        if sides is not None:  # published sides may divide near-duplicates: `moontide data check` warns
            return pa.table([ids, ids, [sides[one] for one in ids]], schema=SCHEMAS["splits"])
        facts = pa.Table.from_pylist(self._facts, schema=SCHEMAS["images"]).select(
            ["image_id", "sha256", "dhash"]
        )
        return split_by_group(ids, near_duplicate_groups(products, facts), test_share)
