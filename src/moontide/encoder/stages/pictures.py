"""Pictures of a dataset as the model sees them, decoded once and kept, and random variations of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

from moontide.encoder.model.inputs import Picture, PictureSource
from moontide.foundation.errors import DataError, ImageError

KEPT_BYTES = 1_000_000_000


class Pictures(Mapping[str, np.ndarray]):
    """Decoded pixels by image id; a picture that cannot be decoded counts as absent.

    Args:
        source: encoded pictures by id, for instance `dataset.images`.
        decode: to (height, width, 3) uint8, for instance `encoder.backbone.pixels`.
        kept_bytes: pictures beyond are decoded anew each time.
    """

    def __init__(
        self,
        source: PictureSource,
        decode: Callable[[Picture], np.ndarray],
        kept_bytes: int = KEPT_BYTES,
    ):
        self._source, self._decode, self._room = source, decode, kept_bytes
        self._kept: dict[str, np.ndarray] = {}
        self._sound: set[str] = set()  # decoded once, kept or not
        self.refused: dict[str, str] = {}

    def __contains__(self, image_id: object) -> bool:
        if image_id in self._sound:
            return True
        return isinstance(image_id, str) and image_id in self._source and self._try(image_id) is not None

    def __getitem__(self, image_id: str) -> np.ndarray:
        pixels = self._kept.get(image_id)
        pixels = self._try(image_id) if pixels is None else pixels
        if pixels is None:
            raise DataError(f"picture {image_id!r} cannot be used: {self.refused[image_id]}")
        return pixels

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)

    def _try(self, image_id: str) -> np.ndarray | None:
        if image_id in self.refused:
            return None
        try:
            pixels = self._decode(self._source[image_id])
        except ImageError as error:
            self.refused[image_id] = error.reason
            return None
        self._sound.add(image_id)
        if pixels.nbytes <= self._room:
            self._kept[image_id] = pixels
            self._room -= pixels.nbytes
        return pixels


def vary(pixels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A random variation of the same size: cropped, mirrored, lighter or darker. Strength 0 changes nothing.

    Args:
        strength: 1 crops down to 60 % of the area, shifts brightness and contrast by up to 30 %; any mirrors
            half.
    """
    if strength <= 0:
        return pixels
    height, width = pixels.shape[:2]
    scale = np.sqrt(1 - 0.4 * strength * rng.random())
    crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
    top = rng.integers(height - crop_height + 1)
    left = rng.integers(width - crop_width + 1)
    is_mirrored = rng.random() < 0.5
    gain, shift = 1 + 0.3 * strength * (2 * rng.random(2) - 1)
    box = (left, top, left + crop_width, top + crop_height)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box)
    table = np.clip((np.arange(256) - 128) * gain + 128 * shift, 0, 255).astype(np.uint8)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else image
    varied = image.tobytes().translate(table.tobytes())  # three times as fast as indexing the table
    return np.frombuffer(varied, np.uint8).reshape(pixels.shape)
