"""Finished pictures on their way to disk, with the tables that belong to them: boxes, regions, creatives."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from moontide.catalog.dataset import IMAGE_ROWS, DatasetWriter
from moontide.foundation.seeds import hash_share
from moontide.market.pictures import Picture

REGION_VERSION = "market-1"


class Album:
    """Takes the pictures of product after product and writes them in that order.

    Args:
        titles: title of every product, for the regions.
        annotated_share: pictures whose box is given away in `regions`; 0 leaves the table alone.
    """

    def __init__(self, writer: DatasetWriter, titles: dict[str, str], annotated_share: float, seed: int):
        self.writer, self.titles = writer, titles
        self.annotated_share, self.salt = annotated_share, f"annotated{seed}"
        self.views: dict[str, list[str]] = {}  # product -> its own pictures
        self.creatives: list[dict[str, Any]] = []  # rows of the table
        self._rows: list[dict[str, Any]] = []
        self._facts: list[tuple[str, str, str]] = []
        self._boxes: list[tuple[Any, ...]] = []
        self._regions: list[dict[str, Any]] = []

    def add(self, product_id: str, pictures: list[Picture], main: str | None = None) -> None:
        """Write a product's pictures; `main` is its first picture when that is already on disk."""
        for picture in pictures:
            self._rows.append(picture.row())
            self._boxes.append((picture.image_id, product_id, *picture.box))
            if hash_share(picture.image_id, self.salt) < self.annotated_share:
                self._regions.append(_region(picture, self.titles[product_id]))
            if picture.template is None:
                self.views.setdefault(product_id, []).append(picture.image_id)
                self._facts.append((picture.image_id, picture.facts.sha256, picture.facts.dhash))
        self._advertise(product_id, pictures, main or self.views[product_id][0])
        while len(self._rows) >= IMAGE_ROWS:
            self.writer.append("images", self._rows[:IMAGE_ROWS])
            self._rows = self._rows[IMAGE_ROWS:]

    def _advertise(self, product_id: str, pictures: list[Picture], main: str) -> None:
        """The plain main picture is creative 0, the advertisements follow."""
        choices = [(main, "plain", {})]
        choices += [(p.image_id, p.template, p.params) for p in pictures if p.template is not None]
        for number, (image_id, template, params) in enumerate(choices):
            row = {"creative_id": f"k-{product_id}-{number}", "product_id": product_id, "image_id": image_id}
            self.creatives.append(row | {"template": template, "params": list(params.items())})

    def close(self) -> None:
        """Write what is left, the advertisements, the annotated regions and the true boxes."""
        if self._rows:
            self.writer.append("images", self._rows)
        self.writer.put("creatives", self.creatives)
        if self.annotated_share:
            self.writer.put("regions", self._regions)
        self.writer.put_truth("boxes", _table(self._boxes, "image_id product_id x0 y0 x1 y1"))

    def facts(self) -> pa.Table:
        """image_id, sha256 and dhash of the products' own pictures."""
        return _table(self._facts, "image_id sha256 dhash")


def _table(rows: list[tuple[Any, ...]], names: str) -> pa.Table:
    """Rows of one kind as a table: strings, and floats for x0 to y1."""
    types = {
        name: pa.float64() if name in ("x0", "y0", "x1", "y1") else pa.string() for name in names.split()
    }
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)]
    return pa.table(dict(zip(types, arrays, strict=True)))


def _region(picture: Picture, title: str) -> dict[str, Any]:
    """A row of the `regions` table."""
    x0, y0, x1, y1 = picture.box
    digest = hashlib.sha256(title.encode()).hexdigest()
    box = {"image_id": picture.image_id, "title_sha256": digest, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
    return box | {"score": 1.0, "source": "annotation", "version": REGION_VERSION, "status": "ok"}
