"""The job that finds the product in every picture of a dataset and keeps the boxes in regions.parquet.

Boxes are kept by picture, title and version of the finder: asked again, a finder looks only at what is new.

Paper: MOON 3.2: run offline once, cached (ours).
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from moontide.catalog.additions import copy_of, replace_table
from moontide.catalog.dataset import Dataset
from moontide.catalog.regions import ANNOTATION, RegionFinder, checked_box, title_digest
from moontide.catalog.schema import conform
from moontide.foundation.device import num_cores
from moontide.foundation.errors import ImageError
from moontide.foundation.images import decode
from moontide.foundation.progress import track

LONGEST_SIDE = 1_024  # pixels; a larger picture is shrunk before it is searched
BATCH = 32  # pictures opened ahead: some 100 MB at most
SAVE_SECONDS = 30.0


@dataclass
class RegionCounts:
    """What a finding job did: usable boxes, fallbacks to the whole picture, what was known, what failed."""

    ok: int = 0
    fallback: int = 0
    known: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, int]]:
        """The counts as rows of a table."""
        named = [("found", self.ok), ("whole picture", self.fallback), ("known before", self.known)]
        return named + [(f"failed: {reason}", count) for reason, count in sorted(self.failed.items())]


def find_regions(dataset: Dataset, finder: RegionFinder, to: Path | str | None = None) -> RegionCounts:
    """Look at every product picture that has neither an annotation nor a row of this finder's version.

    Interrupted, it keeps what it found; called again, it goes on. Only regions.parquet and dataset.json
    change, each replaced whole, and no row is lost. A picture that cannot be read is counted and gets no row.

    Args:
        to: a folder for a copy that shares the dataset's files; None adds to the dataset itself.

    Raises:
        DataError: the dataset has no products or pictures. StorageError: the folder cannot be written.
    """
    dataset.require("finding regions", "products", "images")
    home = copy_of(dataset, to)
    search = _Search(home, finder)
    tasks = search.tasks()
    try:
        with track(len(tasks), "regions") as meter, ThreadPoolExecutor(min(num_cores(), 8)) as pool:
            for start in range(0, len(tasks), BATCH):
                batch = tasks[start : start + BATCH]
                opened = pool.map(partial(_open, home), [image_id for image_id, _ in batch])
                for (image_id, title), picture in zip(batch, opened, strict=True):
                    search.look(image_id, title, picture)
                    meter.step()
                if time.monotonic() - search.saved_at > SAVE_SECONDS:
                    search.save()
    finally:
        search.save()
    return search.counts


class _Search:
    """One finder on its way through a dataset."""

    def __init__(self, home: Dataset, finder: RegionFinder):
        self.home, self.finder, self.counts = home, finder, RegionCounts()
        self._kept = home.table("regions")
        self._rows: list[dict[str, Any]] = []
        self._saved = 0
        self.saved_at = time.monotonic()

    def tasks(self) -> list[tuple[str, str]]:
        """Pictures and titles to look at, each pair once."""
        names = ("image_id", "title_sha256", "source", "version")
        rows = zip(*(self._kept.column(name).to_pylist() for name in names), strict=True)
        done = {
            (image_id, digest)
            for image_id, digest, source, version in rows
            if source == ANNOTATION or version == self.finder.version
        }
        tasks: dict[tuple[str, str], str] = {}
        for product in self.home.products():
            digest = title_digest(product.title)
            for image_id in product.image_ids:
                key = (image_id, digest)
                if image_id not in self.home.images:
                    self.counts.failed["not_there"] += 1
                elif key in done or (image_id, None) in done:
                    self.counts.known += 1
                else:
                    tasks[key] = product.title
        return [(image_id, title) for (image_id, _), title in tasks.items()]

    def look(self, image_id: str, title: str, opened: Opened | ImageError) -> None:
        """Find the product in one picture; what fails gets no row, so that it is tried again another time."""
        try:
            if isinstance(opened, ImageError):
                raise opened
            found = self.finder.find(opened.pixels, title)
        except ImageError as error:
            self.counts.failed[error.reason] += 1
            return
        box = None if found is None else checked_box(found[0])
        self.counts.ok += box is not None
        self.counts.fallback += box is None
        x0, y0, x1, y1 = box or (0.0, 0.0, 1.0, 1.0)
        width, height = opened.width, opened.height
        self._rows.append(
            {
                "image_id": image_id,
                "title_sha256": title_digest(title),
                **{"x0": x0 * width, "y0": y0 * height, "x1": x1 * width, "y1": y1 * height},
                "score": None if found is None else float(found[1]),
                "source": "finder",
                "version": self.finder.version,
                "status": "fallback" if box is None else "ok",
            }
        )

    def save(self) -> None:
        """Write what was found since the last time behind what was there."""
        if len(self._rows) > self._saved:
            found = conform("regions", self._rows)
            replace_table(self.home, "regions", pa.concat_tables([self._kept, found]))
        self._saved, self.saved_at = len(self._rows), time.monotonic()


@dataclass(frozen=True)
class Opened:
    """Pixels no larger than a finder needs; width and height of the stored picture."""

    pixels: np.ndarray
    width: int
    height: int


def _open(dataset: Dataset, image_id: str) -> Opened | ImageError:
    try:
        image = decode(dataset.images[image_id])
    except ImageError as error:
        return error
    width, height = image.size
    if max(width, height) > LONGEST_SIDE:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    return Opened(np.asarray(image), width, height)
