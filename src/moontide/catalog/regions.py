"""Where in a picture the product is: boxes that people or finders gave, and a finder without weights.

Where no box can be trusted, the crop is the whole picture. Boxes belong to a picture *and* a title, because
the title says which of several things is sold. The job that fills regions.parquet is in `region_search.py`,
finders that learn are in `encoder/regions.py`.

Paper: MOON 3.2 (box from picture and title paper reported; safety rules and the finder here ours).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image
from scipy import ndimage

from moontide.catalog.dataset import Dataset

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the picture's sides, 0 to 1."""

AREA = (0.01, 0.98)  # of the picture: a smaller box is a speck, a larger one the picture itself
ANNOTATION = "annotation"

SIDE = 96  # pixels of the picture that is searched
EDGE = 2  # pixels of it that count as its edge
ENOUGH = 150.0  # gray levels, summed over the colors, beyond which a pixel is not more different
NEAR, PART = 5, 0.1  # a piece belongs to the heaviest one: its middle this near, its weight this share
_MIDDLE = np.exp(-0.5 * (((np.arange(SIDE) + 0.5) / SIDE - 0.5) / 0.35) ** 2).astype(np.float32)


def checked_box(values: Sequence[float] | np.ndarray | None) -> Box | None:
    """A box clamped to the picture, or None where it cannot be used and the crop is the whole picture.

    None stands for: not four numbers, one that is not finite, an inverted or empty box, an area outside
    1 % to 98 % of the picture.

    Example:
        >>> checked_box([-0.2, 0.1, 0.5, 0.6])
        (0.0, 0.1, 0.5, 0.6)
        >>> checked_box([0.5, 0.1, 0.2, 0.6]) is None
        True
    """
    if values is None or len(values) != 4 or any(edge is None for edge in values):
        return None
    edges = [float(edge) for edge in values]
    if not np.isfinite(edges).all():
        return None
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in edges)
    if x1 <= x0 or y1 <= y0 or not AREA[0] <= (x1 - x0) * (y1 - y0) <= AREA[1]:
        return None
    return x0, y0, x1, y1


def overlap(boxes: np.ndarray | Box, others: np.ndarray | Box) -> np.ndarray:
    """Intersection over union of boxes (..., 4) with others, in 0..1; 0 where both are empty."""
    a, b = np.asarray(boxes, dtype=float), np.asarray(others, dtype=float)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = sides.clip(0).prod(-1)
    either = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def title_digest(title: str) -> str:
    """What a region remembers of the title it was found for."""
    return hashlib.sha256(title.encode()).hexdigest()


@dataclass(frozen=True)
class Region:
    """One row of regions.parquet, its box as shares; `box` is None where the crop is the whole picture."""

    image_id: str
    box: Box | None
    score: float | None
    source: str
    version: str


class Regions:
    """The boxes of a dataset, by picture and title.

    An annotation wins over what was found, a later row over an earlier one. A row without a title's hash
    stands for every title.
    """

    def __init__(self, regions: dict[tuple[str, str | None], Region]):
        self._regions = regions

    @classmethod
    def read(cls, dataset: Dataset) -> Regions:
        """The rows of regions.parquet; none where the dataset has no such file."""
        table = dataset.table("regions")
        if not len(table):
            return cls({})
        facts = dataset.images.facts(("width", "height")).to_pydict()
        size_of = dict(zip(facts["image_id"], zip(facts["width"], facts["height"], strict=True), strict=True))
        found: dict[tuple[str, str | None], Region] = {}
        for image_id, digest, *edges, score, source, version, status in zip(
            *table.to_pydict().values(), strict=True
        ):
            size = size_of.get(image_id, (None, None))
            if None in size:
                continue
            key = (image_id, digest)
            if source != ANNOTATION and key in found and found[key].source == ANNOTATION:
                continue
            box = None
            if status != "fallback" and None not in edges:
                box = checked_box(np.divide(edges, size * 2))
            found[key] = Region(image_id, box, score, source or "", version or "")
        return cls(found)

    def __len__(self) -> int:
        return len(self._regions)

    def region(self, image_id: str, title: str) -> Region | None:
        """What is known of a picture under a title, or None."""
        exact = self._regions.get((image_id, title_digest(title)))
        any_title = self._regions.get((image_id, None))
        if any_title is not None and (exact is None or exact.source != ANNOTATION == any_title.source):
            return any_title
        return exact

    def box(self, image_id: str, title: str) -> Box | None:
        """Where the product of that title is, or None: the crop is then the whole picture."""
        region = self.region(image_id, title)
        return None if region is None else region.box


class RegionFinder(Protocol):
    """Finds what a title names in a picture.

    Args:
        version: changes with anything that changes a box; part of the key under which boxes are kept.
    """

    version: str

    def find(self, picture: np.ndarray, title: str) -> tuple[Box, float] | None:
        """Box and score in 0..1, or None where nothing can be told apart.

        Args:
            picture: (height, width, 3) uint8.

        Raises:
            ImageError: this picture cannot be searched; the job counts it and goes on.
        """
        ...


class Saliency:
    """Finds what differs in color from the picture's edge; the title plays no part.

    Every pixel is compared with the edge straight left, right, above and below it and keeps the least
    difference, so that layered grounds (wall, shelf, floor) count as ground. What is near the middle counts
    more. Otsu's threshold parts the picture, and the heaviest connected piece with what lies in its box is
    the product.

    Also called: boundary-prior saliency. Paper: MOON 3.2, the procedural default (ours).
    """

    version = "saliency-1"

    def find(self, picture: np.ndarray, title: str = "") -> tuple[Box, float] | None:
        """The box, and how much of all that stands out lies inside; None where nothing stands out."""
        weight = stands_out(picture)
        is_out = np.pad(weight > _threshold(weight), 1)
        pieces, num = ndimage.label(ndimage.binary_closing(is_out)[1:-1, 1:-1], np.ones((3, 3)))
        if not num:
            return None
        weights = np.bincount(pieces.ravel(), weight.ravel())[1:]
        spans = np.array([[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(pieces)])
        first = spans[weights.argmax()]
        middle = (spans[:, :2] + spans[:, 2:]) / 2
        is_part = ((middle > first[:2] - NEAR) & (middle < first[2:] + NEAR)).all(1)
        is_part &= weights > PART * weights.max()
        x0, y0 = spans[is_part, :2].min(0)
        x1, y1 = spans[is_part, 2:].max(0)
        inside = min(float(weight[y0:y1, x0:x1].sum() / weight.sum()), 1.0)  # rounding
        return (x0 / SIDE, y0 / SIDE, x1 / SIDE, y1 / SIDE), inside


def stands_out(picture: np.ndarray) -> np.ndarray:
    """How much each of SIDE x SIDE places differs from the picture's edge, less far from the middle."""
    small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float32)
    edges = (
        pixels[:, :EDGE].mean(1, keepdims=True),
        pixels[:, -EDGE:].mean(1, keepdims=True),
        pixels[:EDGE].mean(0, keepdims=True),
        pixels[-EDGE:].mean(0, keepdims=True),
    )
    least = np.minimum.reduce([np.abs(pixels - edge).sum(2) for edge in edges])
    return np.minimum(least, ENOUGH) * _MIDDLE[:, None] * _MIDDLE


def _threshold(weight: np.ndarray) -> float:
    """Otsu's: the split of values with the largest variance between the two sides."""
    highest = float(weight.max())
    counts, edges = np.histogram(weight, 64, (0.0, highest or 1.0))
    below, total = np.cumsum(counts)[:-1], weight.size
    lower = np.cumsum(counts * np.arange(64))
    gap = (lower[-1] * below / total - lower[:-1]) ** 2
    between = np.divide(gap, below * (total - below), out=np.zeros(63), where=(below > 0) & (below < total))
    return float(edges[1 + between.argmax()])
