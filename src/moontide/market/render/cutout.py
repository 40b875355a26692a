"""Subjects cut out of photos whose border is nearly one color."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage


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

    @property
    def href(self) -> str:
        """The picture as a data address, PNG where it has holes and JPEG where it has none."""
        buffer = io.BytesIO()
        if self.is_cut:
            self.picture.save(buffer, "PNG", compress_level=1)
        else:
            self.picture.convert("RGB").save(buffer, "JPEG", quality=92)
        kind = "png" if self.is_cut else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def mirrored(self) -> "Cutout":
        """The same subject flipped left to right."""
        return Cutout(ImageOps.mirror(self.picture), self.is_cut)


def photo_of(jpeg: bytes) -> Image.Image:
    """The bytes as an RGB picture.

    Raises:
        ValueError: they are no picture Pillow can read.
    """
    try:
        return Image.open(io.BytesIO(jpeg)).convert("RGB")
    except OSError as error:
        raise ValueError(f"the photo's {len(jpeg)} bytes are no readable picture: {error}") from error


def cut_out(photo: Image.Image, max_side: int, max_spread: float = 14.0, distance: float = 26.0) -> Cutout:
    """The photo without its background, or the whole photo where the border is too varied.

    Args:
        max_side: the photo is first shrunk to this, pixels.
        max_spread: the border's standard deviation (of 255) above which the photo stays whole.
        distance: how far (RGB, of 441) from the border's color the subject begins.
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
    # Mean distance, not the deviation alone: a subject that touches the edge must not spoil an even ground.
    near_ground = np.linalg.norm(border - ground, axis=1) < max_spread * 2
    if near_ground.mean() < 0.82:
        return whole
    alike = np.linalg.norm(pixels - ground, axis=2) < distance
    labels, _ = ndimage.label(alike)
    edge_labels = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    subject = ~np.isin(labels, edge_labels[edge_labels > 0])
    rows, columns = np.flatnonzero(subject.any(axis=1)), np.flatnonzero(subject.any(axis=0))
    if not 0.03 < subject.mean() < 0.97:
        return whole
    alpha = Image.fromarray((subject * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    picture = photo.convert("RGBA")
    picture.putalpha(alpha)
    return Cutout(
        picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)), is_cut=True
    )
