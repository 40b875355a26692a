"""Added pictures of a product, drawn from one: cut out on plain ground, and before other backgrounds.

What is ground is found from the edge of the picture inwards: pixels of the ground's color that hang together
with it. A box narrows that down; before a busy ground the box itself, with a soft edge, is the subject.
Pillow and numpy, a few milliseconds a picture.

Paper: MOON2.0 3.3 (2), (4) (the editing model is reported; this substitute is ours).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import ImageError
from moontide.foundation.images import decode
from moontide.foundation.seeds import stream

if TYPE_CHECKING:
    from moontide.catalog.regions import Box

NEAR, FAR = 24.0, 64.0  # gray levels from the ground's color that may be ground: at least, at most
FEWEST = 0.05  # share of the box that a cut-out must fill, else the box is the subject
BACKDROPS = 64
BACKDROP_SIDE = 48  # blurred: more pixels would show no more
_SOFT = 0.006  # width of the edge, as a share of the picture's side


@dataclass(frozen=True)
class Cutout:
    """Pixels (height, width, 3), the share of each that is subject (height, width), the ground's color."""

    pixels: np.ndarray
    alpha: np.ndarray
    ground: np.ndarray


def cut_out(picture: np.ndarray, box: Box) -> Cutout:
    """Find the subject of a picture, which lies within `box`."""
    height, width = picture.shape[:2]
    inside = np.zeros((height, width), dtype=bool)
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    inside[top:bottom, left:right] = True
    edge = ~inside
    edge[[0, -1]] = edge[:, [0, -1]] = True
    near = np.zeros_like(inside)  # what stands beside the box tells its ground better than what is far away
    down, right_by = max(2, height // 12), max(2, width // 12)
    near[max(0, top - down) : bottom + down, max(0, left - right_by) : right + right_by] = True
    rim = edge & near
    ground = np.median(picture[rim], 0)
    distance = np.abs(picture.astype(np.int16) - ground.astype(np.int16)).max(2)
    spread = 2 * np.percentile(distance[rim], 75)
    limit = NEAR if spread > FAR else max(spread, NEAR)  # a busy ground has no one color
    labels, _ = ndimage.label((distance <= limit) | ~inside)
    is_ground = np.zeros(labels.max() + 1, dtype=bool)
    is_ground[labels[edge & (~inside | (distance <= limit))]] = True
    is_ground[0] = False
    subject = ~is_ground[labels]
    if subject.sum() < FEWEST * inside.sum():
        subject = inside
    soft = Image.fromarray(subject.astype(np.uint8) * 255)
    soft = soft.filter(ImageFilter.GaussianBlur(max(0.5, _SOFT * min(height, width))))
    # Soft to the inside alone, so that no ground shines through, and less so, for the sake of thin parts.
    alpha = np.where(subject, np.minimum(np.asarray(soft, dtype=np.float32) / 190, 1), np.float32(0))
    return Cutout(picture, alpha, ground)


class Composer:
    """Cut-outs, and the subject before gradients, noise and blurred pictures, seen a little differently.

    The same seed, picture and number give the same pixels, in whatever order they are asked for.

    Args:
        backdrops: pictures to put, blurred, behind subjects; without them there are gradients and noise only.
    """

    source = "composer"
    version = "1"

    def __init__(self, seed: int = 0, backdrops: Sequence[np.ndarray] = ()):
        self.seed, self._backdrops = seed, tuple(backdrops)

    @classmethod
    def of(cls, dataset: Dataset, seed: int = 0) -> Composer:
        """With backdrops from main pictures of train products; broken ones are left out."""
        rng = stream(seed, "backdrops")
        held_out = {
            row["product_id"] for row in dataset.table("splits").to_pylist() if row["split"] != "train"
        }
        mains = [
            one.image_ids[0] for one in dataset.products() if one.image_ids and one.product_id not in held_out
        ]
        image_ids = [one for one in dict.fromkeys(mains) if one in dataset.images]
        chosen = rng.permutation(len(image_ids))[:BACKDROPS]
        found = []
        for place in chosen.tolist():
            try:
                image = decode(dataset.images[image_ids[place]], BACKDROP_SIDE)
            except ImageError:
                continue
            found.append(np.asarray(image.filter(ImageFilter.GaussianBlur(BACKDROP_SIDE / 12))))
        return cls(seed, found)

    def main(self, picture: np.ndarray, box: Box, title: str = "") -> np.ndarray:
        """The subject where it was, on plain ground of the color around it."""
        cut = cut_out(picture, box)
        alpha = cut.alpha[..., None]
        return (cut.pixels * alpha + cut.ground * (1 - alpha)).round().astype(np.uint8)

    def context(self, picture: np.ndarray, box: Box, number: int, title: str = "") -> np.ndarray:
        """The subject before another background: nearer, tilted a little, in warmer or colder light."""
        digest = hashlib.blake2b(picture.tobytes(), digest_size=8).hexdigest()
        rng = stream(self.seed, "context", digest, number)
        cut = cut_out(picture, box)
        height, width = picture.shape[:2]
        layers = np.dstack([cut.pixels, (cut.alpha * 255).astype(np.uint8)])
        moved = Image.fromarray(layers).transform(
            (width, height),
            Image.Transform.PERSPECTIVE,
            _view(box, width, height, rng),
            Image.Resampling.BILINEAR,
        )
        moved = np.asarray(moved, dtype=np.float32)
        alpha = moved[..., 3:] / 255
        mixed = moved[..., :3] * alpha + self._background(height, width, number, rng) * (1 - alpha)
        warmth, light = 0.08 * (2 * rng.random(2) - 1)
        tint = (1 + light) * np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32)
        return (mixed * tint).clip(0, 255).round().astype(np.uint8)

    def _background(self, height: int, width: int, number: int, rng: np.random.Generator) -> np.ndarray:
        kinds = ("picture", "gradient", "noise") if self._backdrops else ("gradient", "noise")
        kind = kinds[(number - 1 + rng.integers(len(kinds))) % len(kinds)]
        if kind == "picture":
            small = self._backdrops[rng.integers(len(self._backdrops))]
        elif kind == "gradient":
            corners = _pale(rng) + 24 * (2 * rng.random((2, 2, 1)) - 1)
            small = corners.clip(0, 255).astype(np.uint8)
        else:
            spots = rng.normal(0, 18, (9, 9, 1)) + rng.normal(0, 6, (9, 9, 3))
            small = (_pale(rng) + spots).clip(0, 255).astype(np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(large, dtype=np.float32)


def _pale(rng: np.random.Generator) -> np.ndarray:
    """A color of 90 to 240, not far from gray."""
    return 90 + 150 * rng.random() + 24 * (2 * rng.random(3) - 1)


def _view(box: Box, width: int, height: int, rng: np.random.Generator) -> list[float]:
    """Coefficients that map the new picture onto a quadrilateral around the box, a little askew."""
    center = np.array([(box[0] + box[2]) / 2 * width, (box[1] + box[3]) / 2 * height])
    share = max(box[2] - box[0], box[3] - box[1])  # of both sides alike: the shape stays
    half = np.array([width, height]) * min(share * (1.05 + 0.25 * rng.random()), 1.15) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    seen = center + half * (corners + 0.08 * (2 * rng.random((4, 2)) - 1))
    return _perspective(np.array([[0, 0], [width, 0], [width, height], [0, height]]), seen)


def _perspective(target: np.ndarray, source: np.ndarray) -> list[float]:
    """a..h with x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1)."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return np.linalg.solve(np.array(rows, dtype=float), source.reshape(-1)).tolist()
