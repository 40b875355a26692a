"""Subjects cut out of photos whose border is nearly one color."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

_DISTANCE = 26.0  # RGB, of 441: how far from the ground's color the subject begins
_PURE_DISTANCE = 9.0  # the same where the ground is one color to the last bit
_HOLE_DISTANCE = 3.0  # RGB; a hole shows the ground itself, while even a white subject is shaded
_HOLE_SHARE = 0.004  # of the photo's pixels; smaller holes are glints


@dataclass(frozen=True)
class Cutout:
    """A subject as an RGBA picture cropped to its pixels; `is_cut` is False for a photo kept whole."""

    picture: Image.Image
    is_cut: bool

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.picture.width

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.picture.height

    def turned(self, angle: float) -> "Cutout":
        """The same subject turned clockwise by `angle` degrees and cropped to its pixels again."""
        if not angle:
            return self
        picture = self.picture.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
        seen = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 60)).getbbox()
        return Cutout(picture.crop(seen), self.is_cut)

    def sized(self, longer_side: int) -> "Cutout":
        """The same subject with its longer side that many pixels long."""
        scale = longer_side / max(self.width, self.height)
        size = (max(1, round(self.width * scale)), max(1, round(self.height * scale)))
        return Cutout(self.picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0), self.is_cut)


def photo_of(jpeg: bytes) -> Image.Image:
    """The bytes as an RGB picture.

    Raises:
        ValueError: they are no picture Pillow can read.
    """
    try:
        return Image.open(io.BytesIO(jpeg)).convert("RGB")
    except OSError as error:
        raise ValueError(f"the photo's {len(jpeg)} bytes are no readable picture: {error}") from error


def cut_out(photo: Image.Image, max_side: int, max_spread: float = 28.0) -> Cutout:
    """The photo without its background, or the whole photo where the border is too varied.

    Args:
        max_side: the photo is first shrunk to this, pixels.
        max_spread: how far (RGB, of 441) a color may lie from the border's usual one and still be ground; the
            photo stays whole if more than 18 % of its border lies farther.
    """
    photo = photo.copy()
    photo.thumbnail((max_side, max_side), reducing_gap=2.0)
    pixels = np.asarray(photo, dtype=np.float32)
    border = np.concatenate(
        [
            pixels[:2].reshape(-1, 3),
            pixels[-2:].reshape(-1, 3),
            pixels[:, :2].reshape(-1, 3),
            pixels[:, -2:].reshape(-1, 3),
        ]
    )
    ground = np.median(border, axis=0)
    whole = Cutout(photo.convert("RGBA"), is_cut=False)
    # A share, not the deviation alone: a subject that touches the edge must not spoil an even ground.
    spread = np.linalg.norm(border - ground, axis=1)
    if (spread < max_spread).mean() < 0.82:
        return whole
    away = np.sqrt(np.square(pixels - ground) @ np.ones(3, np.float32))
    # a flawless ground lets a nearly white subject on white be told from it
    distance = _PURE_DISTANCE if np.quantile(spread, 0.75) < 2 else _DISTANCE
    subject = _subject(away, distance)
    rows, columns = np.flatnonzero(subject.any(axis=1)), np.flatnonzero(subject.any(axis=0))
    if not 0.03 < subject.mean() < 0.97:
        return whole
    picture = _matted(pixels, subject, away, ground)
    edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Cutout(picture.crop(edges), is_cut=True)


def _subject(away: np.ndarray, distance: float) -> np.ndarray:
    """True where the subject is: not joined to the picture's edge by ground, nor a hole that shows ground.

    Args:
        away: how far each pixel's color is from the ground's, (height, width).
    """
    labels, count = ndimage.label(away < distance)
    edge_labels = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    means = np.bincount(labels.ravel(), away.ravel(), minlength=count + 1) / np.maximum(sizes, 1)
    is_ground = (means < _HOLE_DISTANCE) & (sizes > _HOLE_SHARE * away.size)
    is_ground[edge_labels] = True
    is_ground[0] = False  # label 0 is all that differs from the ground
    return ~is_ground[labels]


def _matted(pixels: np.ndarray, subject: np.ndarray, away: np.ndarray, ground: np.ndarray) -> Image.Image:
    """The photo with its ground clear; along the outline the ground's share is taken out of the colors."""
    outline = subject & ndimage.binary_dilation(~subject, iterations=3)
    layers = np.empty((*subject.shape, 4), np.uint8)
    layers[:, :, :3] = pixels
    layers[:, :, 3] = 255 * subject
    alpha = np.clip((away[outline] - _PURE_DISTANCE) / 110, 0, 1)[:, None]
    unmixed = (pixels[outline] - (1 - alpha) * ground) / np.maximum(alpha, 0.1)
    layers[outline] = np.concatenate([np.clip(unmixed, 0, 255), 255 * alpha], axis=1).astype(np.uint8)
    return Image.fromarray(layers, "RGBA")
