"""What a shopper sees in a picture, computed from its pixels alone.

The subject is found by its difference from the picture's border, and described by color, size, place,
outline, texture and by how busy the rest of the picture is. Nothing here reads a title, an attribute or a
box; the same code sees rendered pictures and photographs. It is deliberately unlike an encoder: nothing
learned, no patches, 30 plain numbers of one picture alone. `Lens` brings them to the scale of one catalog.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from moontide.foundation.images import decode

SIDE = 64  # pixels a side of what is looked at
FEATURES = (
    "L", "a", "b",  # CIE Lab of the subject's larger color
    "second_L", "second_a", "second_b",  # of its smaller color; the same where it has one color
    "second_share",  # of the subject's pixels
    "share", "x", "y",  # the subject's share of the picture, its center from the middle (-0.5 to 0.5)
    "aspect", "elongation", "tilt", "extent", "outline", "skew_x", "skew_y",  # outline
    "texture_x1", "texture_y1", "texture_x2", "texture_y2", "texture_x4", "texture_y4",  # inside it, by scale
    "clutter", "ground_L", "ground_chroma",  # around it
    "brightness", "saturation", "sharpness", "colors_apart",
)  # fmt: skip
COLUMN = {name: number for number, name in enumerate(FEATURES)}
LAB, SECOND_LAB = slice(0, 3), slice(3, 6)
TEXTURE = slice(COLUMN["texture_x1"], COLUMN["texture_y4"] + 1)
SHAPE = slice(COLUMN["aspect"], COLUMN["skew_y"] + 1)
BATCH = 16  # pictures looked at together: small enough for the processor's cache

_LINEAR = np.where(
    np.arange(256) / 255 <= 0.04045,
    np.arange(256) / 255 / 12.92,
    ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4,
).astype(np.float32)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(1)
_ACROSS = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
_CENTRAL = np.exp(-(_ACROSS[:, None] ** 2 + _ACROSS[None] ** 2) / (2 * 0.25**2)).astype(np.float32)


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (white point D65) of sRGB colors.

    Args:
        rgb: (..., 3) integers from 0 to 255.

    Returns:
        (..., 3) float32: L from 0 to 100, a and b about -100 to 100.

    Example:
        >>> to_lab(np.array([255, 255, 255], np.uint8)).round(1).tolist()
        [100.0, 0.0, 0.0]
    """
    xyz = _LINEAR[rgb] @ (_TO_XYZ / _WHITE[:, None]).T.astype(np.float32)
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (841 / 108) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32, copy=False)


def perceive(jpegs: list[bytes]) -> np.ndarray:
    """What is seen in each picture.

    Args:
        jpegs: JPEG, PNG or WebP files.

    Returns:
        (pictures, len(FEATURES)) float32 in natural units (Lab, shares, logarithms of ratios and energies).

    Raises:
        ImageError: a picture is refused (see `foundation.images`).
    """
    rows = [np.empty((0, len(FEATURES)), np.float32)]
    for first in range(0, len(jpegs), BATCH):
        pixels = np.stack([np.asarray(decode(data, SIDE)) for data in jpegs[first : first + BATCH]])
        rows.append(_describe(to_lab(pixels)))
    return np.concatenate(rows)


def find_subject(lab: np.ndarray) -> np.ndarray:
    """Which pixels belong to the subject: the largest central region unlike the border, its holes filled.

    Args:
        lab: (pictures, SIDE, SIDE, 3) Lab colors.

    Returns:
        (pictures, SIDE, SIDE) True on the subject; the central half where nothing stands out.
    """
    num = len(lab)
    ring = np.concatenate([lab[:, 1, 2::7], lab[:, -2, 2::7], lab[:, 2::7, 1], lab[:, 2::7, -2]], axis=1)
    flat = lab.reshape(num, -1, 3)
    nearest = ((ring**2).sum(-1)[..., None] - 2 * ring @ flat.transpose(0, 2, 1)).min(1)
    apart = np.sqrt(np.maximum(nearest + (flat**2).sum(-1), 0))
    threshold = np.clip(0.35 * np.quantile(apart[:, ::4], 0.98, axis=1), 5, 22)
    stands_out = (apart > threshold[:, None]).reshape(num, SIDE, SIDE)
    subject = _largest(stands_out)
    subject = ~_touching_border(~subject)
    area = subject.mean((1, 2))
    subject[(area < 0.01) | (area > 0.97)] = (np.abs(_ACROSS[:, None]) < 0.35) & (
        np.abs(_ACROSS[None]) < 0.35
    )
    return subject


def _regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected regions, numbered through the whole batch, never joined between pictures."""
    structure = np.zeros((3, 3, 3), int)
    structure[1] = ndimage.generate_binary_structure(2, 1)
    return ndimage.label(mask, structure)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest regions of each picture, pixels near the middle counting more."""
    label, num = _regions(mask)
    weight = np.bincount(label.ravel(), np.broadcast_to(_CENTRAL, mask.shape).ravel(), num + 1)
    weight[0] = 0
    best = weight[label].max((1, 2), keepdims=True)
    return (weight[label] >= 0.3 * np.maximum(best, 1e-6)) & mask


def _touching_border(mask: np.ndarray) -> np.ndarray:
    """The regions of each picture that reach its border."""
    label, num = _regions(mask)
    touches = np.zeros(num + 1, bool)
    for edge in (label[:, 0], label[:, -1], label[:, :, 0], label[:, :, -1]):
        touches[edge.ravel()] = True
    touches[0] = False
    return touches[label]


def _describe(lab: np.ndarray) -> np.ndarray:
    subject = find_subject(lab)
    columns = _colors(lab, subject) | _outline(subject) | _texture(lab, subject)
    return np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)


def _colors(lab: np.ndarray, subject: np.ndarray) -> dict[str, np.ndarray]:
    """The subject's two colors (2-means along its widest spread), and the picture's overall tone."""
    flat = lab[:, ::2, ::2].reshape(len(lab), -1, 3)
    real = subject[:, ::2, ::2].reshape(len(lab), -1, 1).astype(np.float32)
    count = np.maximum(real.sum(1), 1)
    mean = (flat * real).sum(1) / count
    spread = np.sqrt(((flat - mean[:, None]) ** 2 * real).sum(1) / count)
    axis = np.eye(3, dtype=np.float32)[spread.argmax(1)] * spread.max(1, keepdims=True)
    one, two = mean - axis, mean + axis
    for _ in range(5):
        nearer_one = ((flat - one[:, None]) ** 2).sum(-1) <= ((flat - two[:, None]) ** 2).sum(-1)
        in_one, in_two = real * nearer_one[..., None], real * ~nearer_one[..., None]
        one = np.where(in_one.sum(1) > 0, (flat * in_one).sum(1) / np.maximum(in_one.sum(1), 1), one)
        two = np.where(in_two.sum(1) > 0, (flat * in_two).sum(1) / np.maximum(in_two.sum(1), 1), two)
    share_two = (in_two.sum(1) / count)[:, 0]
    swap = (share_two > 0.5)[:, None]
    main, second = np.where(swap, two, one), np.where(swap, one, two)
    second_share = np.minimum(share_two, 1 - share_two)
    apart = np.linalg.norm(main - second, axis=1)
    is_single = (second_share < 0.04) | (apart < 8)
    main = np.where(is_single[:, None], mean, main)
    second = np.where(is_single[:, None], mean, second)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    return {
        **dict(zip(("L", "a", "b"), main.T, strict=True)),
        **dict(zip(("second_L", "second_a", "second_b"), second.T, strict=True)),
        "second_share": np.where(is_single, 0, second_share),
        "colors_apart": np.where(is_single, 0, apart),
        "brightness": lab[..., 0].mean((1, 2)),
        "saturation": chroma.mean((1, 2)),
    }


def _outline(subject: np.ndarray) -> dict[str, np.ndarray]:
    """Size, place and shape of the subject from its moments, bounding box and perimeter."""
    real = subject.astype(np.float32)
    area = real.sum((1, 2))
    rows, cols = real.sum(2), real.sum(1)
    x, y = (cols @ _ACROSS) / area, (rows @ _ACROSS) / area
    dx, dy = _ACROSS - x[:, None], _ACROSS - y[:, None]
    xx, yy = (cols * dx**2).sum(1) / area, (rows * dy**2).sum(1) / area
    xy = np.einsum("nij,ni,nj->n", real, dy, dx) / area
    root = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    long, short = (xx + yy + root) / 2, (xx + yy - root) / 2
    width, height = (cols > 0).sum(1), (rows > 0).sum(1)
    perimeter = (subject[:, 1:] != subject[:, :-1]).sum((1, 2)) + (
        subject[:, :, 1:] != subject[:, :, :-1]
    ).sum((1, 2))
    return {
        "share": area / SIDE**2,
        "x": x,
        "y": y,
        "aspect": np.log(width / height),
        "elongation": 0.5 * np.log((long + 1e-4) / (short + 1e-4)),
        "tilt": 2 * xy / (xx + yy + 1e-4),
        "extent": area / (width * height),
        "outline": np.log(np.maximum(perimeter, 4) / (4 * np.sqrt(area))),
        "skew_x": np.cbrt((cols * dx**3).sum(1) / area) / np.sqrt(xx + 1e-4),
        "skew_y": np.cbrt((rows * dy**3).sum(1) / area) / np.sqrt(yy + 1e-4),
    }


def _texture(lab: np.ndarray, subject: np.ndarray) -> dict[str, np.ndarray]:
    """Energy of color changes across and down: inside the subject at three scales, and around it."""
    columns = {}
    inside = subject.copy()
    inside[:, 1:-1, 1:-1] &= (
        subject[:, :-2, 1:-1] & subject[:, 2:, 1:-1] & subject[:, 1:-1, :-2] & subject[:, 1:-1, 2:]
    )
    colors, weight = lab, inside.astype(np.float32)
    for scale in (1, 2, 4):
        for name, axis in (("x", 2), ("y", 1)):
            step = np.sqrt((np.diff(colors, axis=axis) ** 2).sum(-1))
            low, high = _both_sides(weight, axis)
            both = low * high
            energy = (step * both).sum((1, 2)) / (both.sum((1, 2)) + 1)
            columns[f"texture_{name}{scale}"] = np.log1p(energy)
            if scale == 1 and name == "x":
                low, high = _both_sides(1 - subject.astype(np.float32), axis)
                around = low * high
                columns["clutter"] = np.log1p((step * around).sum((1, 2)) / (around.sum((1, 2)) + 1))
                columns["sharpness"] = np.log1p((step**2).mean((1, 2)))
        colors, weight = _halve(colors), _halve(weight[..., None])[..., 0]
    ground = 1 - subject.astype(np.float32)
    count = ground.sum((1, 2)) + 1
    columns["ground_L"] = (lab[..., 0] * ground).sum((1, 2)) / count
    columns["ground_chroma"] = (np.hypot(lab[..., 1], lab[..., 2]) * ground).sum((1, 2)) / count
    return columns


def _both_sides(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return (weight[:, :-1], weight[:, 1:]) if axis == 1 else (weight[:, :, :-1], weight[:, :, 1:])


def _halve(grid: np.ndarray) -> np.ndarray:
    """(pictures, side, side, channels) at half the side, by averaging."""
    return (grid[:, ::2, ::2] + grid[:, 1::2, ::2] + grid[:, ::2, 1::2] + grid[:, 1::2, 1::2]) / 4


@dataclass(frozen=True)
class Lens:
    """The scale of one catalog: `perceive`'s numbers to mean 0, deviation 1 over its main pictures."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, seen: np.ndarray) -> Lens:
        """The lens of a catalog whose main pictures were seen as `seen` (pictures, features)."""
        return cls(seen.mean(0), seen.std(0) + 1e-3)

    def standardize(self, seen: np.ndarray) -> np.ndarray:
        """(pictures, features) in deviations, clipped to 3 either way."""
        return np.clip((seen - self.mean) / self.deviation, -3, 3).astype(np.float32)

    def look(self, seen: np.ndarray) -> np.ndarray:
        """Coordinates whose distance is how unlike two products look: color first, then outline, texture.

        Returns:
            (pictures, 21) float32; 1 is a difference most people would name.
        """
        scaled = self.standardize(seen)
        second = (seen[:, SECOND_LAB] / 45) * np.minimum(seen[:, [COLUMN["second_share"]]] * 4, 1)
        return np.concatenate(
            [seen[:, LAB] / 25, second, scaled[:, SHAPE] / 4, scaled[:, TEXTURE] / 5], axis=1
        ).astype(np.float32)
