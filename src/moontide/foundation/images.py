"""Pictures from outside, decoded within bounds.

One function decodes for training, embedding and serving, so that all three see the same pixels (`draft`,
which scales a JPEG while decoding, moves them by half a gray level). A picture over the limits is refused
from its header, before its pixels are unpacked.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from moontide.foundation.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP")
# Our limit is lower, and an error. Set once: a filter set around each picture is not safe among threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # read as not rotated
ORIENTATION = 0x0112  # the EXIF tag; values 5 to 8 exchange width and height


@dataclass(frozen=True)
class ImageLimits:
    """Bounds on one picture: size of the file in bytes, pixels after unpacking, shortest side in pixels."""

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 40_000_000
    min_side: int = 4


@dataclass(frozen=True)
class ImageFacts:
    """What an `images` row stores beside the bytes.

    Width and height are in pixels as `decode` gives them, after camera rotation; `dhash` is a 64-bit
    difference hash in hex.
    """

    width: int
    height: int
    sha256: str
    dhash: str


LIMITS = ImageLimits()


def open_image(data: bytes, limits: ImageLimits = LIMITS) -> Image.Image:
    """Open a picture without unpacking its pixels.

    Raises:
        ImageError: empty, too many bytes or pixels, a format other than JPEG, PNG or WebP, or not a picture.
    """
    if not data:
        raise ImageError("empty", "the picture is empty (0 bytes): give a JPEG, PNG or WebP file")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "too_many_bytes",
            f"the picture has {len(data):,} bytes, more than {limits.max_bytes:,}: shrink it",
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            "too_many_pixels", f"the picture has more than {limits.max_pixels:,} pixels"
        ) from None
    except Exception:
        raise ImageError("not_an_image", "the file is not a readable JPEG, PNG or WebP picture") from None
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the picture has {width * height:,} pixels, more than {limits.max_pixels:,}: shrink it",
        )
    if min(width, height) < limits.min_side:
        raise ImageError(
            "too_small", f"the picture is {width}x{height} pixels, under {limits.min_side} on a side"
        )
    return image


def decode(data: bytes, side: int | None = None, limits: ImageLimits = LIMITS) -> Image.Image:
    """Decode to RGB; with `side`, resized to a square of that many pixels (bicubic).

    Transparent pictures are laid on white and camera rotation (EXIF) is applied.

    Raises:
        ImageError: as `open_image`, or the pixels are truncated or broken.
    """
    image = open_image(data, limits)
    try:
        if side:
            image.draft("RGB", (side, side))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit gray: conversion would cut off at 255, not scale
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB")
        return image.resize((side, side), Image.Resampling.BICUBIC) if side else image
    except Exception as error:
        raise ImageError("broken_pixels", f"the picture cannot be decoded ({error}): save it again") from None


def image_facts(data: bytes, limits: ImageLimits = LIMITS) -> ImageFacts:
    """Check a picture by decoding it, and give what an `images` row stores of it.

    Raises:
        ImageError: as `decode`.
    """
    image = open_image(data, limits)
    gray = np.asarray(
        decode(data, 64, limits).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16
    )
    bits = np.packbits((gray[:, 1:] > gray[:, :-1]).ravel())
    width, height = image.size[::-1] if image.getexif().get(ORIENTATION) in (5, 6, 7, 8) else image.size
    return ImageFacts(width, height, hashlib.sha256(data).hexdigest(), bits.tobytes().hex())
