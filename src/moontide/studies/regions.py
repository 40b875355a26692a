"""Do finders find the product? Overlap of their boxes with the true ones of a market, by finder.

Measured on held-out products, on pictures nobody annotated: a trained finder saw neither. The whole picture,
which every finder falls back on, is the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.regions import ANNOTATION, Box, RegionFinder, Regions, checked_box, overlap
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.errors import DataError
from moontide.foundation.images import decode
from moontide.foundation.progress import track
from moontide.foundation.statistics import ratio_delta
from moontide.studies.maps import SMALL, true_boxes

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
GOOD = 0.5  # overlap from which a box counts as found, as in PASCAL VOC


@dataclass(frozen=True)
class Shot:
    """A picture of a held-out product that nobody annotated, and its true box in shares."""

    product_id: str
    image_id: str
    title: str
    box: Box


def region_table(dataset: Dataset, finders: Mapping[str, RegionFinder]) -> list[dict[str, Any]]:
    """Overlap (IoU) of found and true boxes on pictures of held-out products without annotation.

    Args:
        dataset: a simulated market.
        finders: by the name to print.

    Returns:
        rows: finder, boxes (all; small: true box under `SMALL` of the picture), pictures, overlap (mean, its
        interval with products independent), good (share of pictures with an overlap of 0.5 or more), whole
        (share that fell back on the whole picture). The first rows are those of the whole picture.

    Raises:
        DataError: the dataset has no true boxes, or no such picture.
    """
    shots = unseen_shots(dataset)
    rows = _rows("none: whole picture", shots, [None] * len(shots))
    with track(len(finders) * len(shots), "regions") as meter:
        for name, finder in finders.items():
            found = []
            for shot in shots:
                one = finder.find(np.asarray(decode(dataset.images[shot.image_id])), shot.title)
                found.append(None if one is None else checked_box(one[0]))
                meter.step()
            rows += _rows(name, shots, found)
    return rows


def unseen_shots(dataset: Dataset) -> list[Shot]:
    """The pictures of held-out products whose true box is known and not given away.

    Raises:
        DataError: there is none.
    """
    boxes, regions, products = true_boxes(dataset), Regions.read(dataset), dataset.products()
    _, is_train = groups_and_split(dataset, [product.product_id for product in products])
    shots = []
    for product, train in zip(products, is_train, strict=True):
        for image_id in () if train else product.image_ids:
            known = regions.region(image_id, product.title)
            if image_id in boxes and (known is None or known.source != ANNOTATION):
                shots.append(Shot(product.product_id, image_id, product.title, boxes[image_id]))
    if not shots:
        raise DataError(
            f"{dataset.path} has no held-out product with a picture and a true box not given away"
        )
    return shots


def _rows(name: str, shots: Sequence[Shot], found: Sequence[Box | None]) -> list[dict[str, Any]]:
    true = np.array([shot.box for shot in shots])
    overlaps = overlap(np.array([box or WHOLE for box in found]), true)
    is_whole = np.array([box is None for box in found])
    products = np.array([shot.product_id for shot in shots])
    is_small = (true[:, 2:] - true[:, :2]).prod(1) < SMALL
    rows = []
    for boxes, chosen in (("all", np.ones(len(shots), dtype=bool)), ("small", is_small)):
        if chosen.any():
            mean = ratio_delta(overlaps[chosen], np.ones(int(chosen.sum())), products[chosen])
            shares = {
                "good": float((overlaps[chosen] >= GOOD).mean()),
                "whole": float(is_whole[chosen].mean()),
            }
            facts = {"finder": name, "boxes": boxes, "pictures": int(chosen.sum())}
            rows.append({**facts, "overlap": mean, **shares})
    return rows
