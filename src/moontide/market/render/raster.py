"""SVG to JPEG bytes, as a shop's picture or as a shopper's phone photo."""

import io

import numpy as np
import resvg_py
from PIL import Image, ImageFilter


def rasterize(svg: str, side: int) -> Image.Image:
    """The SVG as a square RGBA picture; system fonts are never read, so that machines agree."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(png))


def encode(picture: Image.Image, quality: int = 88) -> bytes:
    """The picture as JPEG bytes."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def render(svg: str, side: int = 112, quality: int = 88) -> bytes:
    """A shop's picture: the SVG rendered at its final size, as JPEG.

    Args:
        side: width and height, pixels.
        quality: JPEG quality, 1 to 95.
    """
    return encode(rasterize(svg, side), quality)


def phone_photo(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture as a phone would take it: tinted light that falls off, slight blur, noise."""
    side = picture.width
    photo = picture.convert("RGB")
    if rng.random() < 0.6:
        photo = photo.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.25, 0.75)) * side / 112))
    tint = 1 + rng.uniform(-0.09, 0.09, 3) + rng.uniform(-0.14, 0.1)
    slope_x, slope_y = rng.uniform(-0.2, 0.2, 2)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + slope_x * ramp[None, :, None] + slope_y * ramp[:, None, None]
    noise = rng.standard_normal((side, side, 1), dtype=np.float32) * float(rng.uniform(2, 6))
    pixels = np.asarray(photo, dtype=np.float32) * light * tint.astype(np.float32) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render_query(svg: str, rng: np.random.Generator, side: int = 112) -> bytes:
    """A shopper's phone photo of the SVG, as JPEG of middling quality."""
    return encode(phone_photo(rasterize(svg, side), rng), int(rng.integers(68, 86)))
