"""Products of a published data set, with the names of their pictures, written as a dataset folder.

An importer turns each row of its source into a `Landed` (a product, or why it is refused); from there on it
goes the way of a shop's own table, see `tables.Intake`. Unlike there, a product whose pictures are all
refused stays: published sets ship links that may be dead, so such products are counted instead.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moontide.catalog.dataset import DatasetWriter
from moontide.catalog.landing import MAX_PICTURES, Landed, with_pictures
from moontide.catalog.pictures import Pictures
from moontide.catalog.splits import TEST_SHARE, check_share, split_rule
from moontide.catalog.tables import PREVIEW_ROWS, ImportReport, Intake
from moontide.catalog.values import text_of, texts_of
from moontide.foundation.errors import CellError, ImageError
from moontide.foundation.progress import track

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


def preview_offers(offers: Offers) -> list[Landed]:
    """The first entries as they would land, pictures read and checked, nothing written."""
    offers.landed = itertools.islice(offers.landed, PREVIEW_ROWS)
    return list(with_pictures(offers.landed, offers.pictures))


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
    report = OfferReport(Path(to), noted=offers.noted)
    intake = Intake(writer, report, offers.path, needs_picture=False)
    with writer, track(offers.num_rows, "importing") as meter:
        for landed in with_pictures(offers.landed, offers.pictures, intake.pictures):
            report.noted[WITHOUT_PICTURE] += intake.take(landed) == []
            meter.step()
        return intake.close(test_share, offers.sides)
