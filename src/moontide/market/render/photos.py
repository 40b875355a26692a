"""Strong alterations of real photos, as a shopper's own camera would make them."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from moontide.market.render.cutout import cut_out
from moontide.market.render.placement import document
from moontide.market.render.raster import phone_photo, rasterize
from moontide.market.render.scenery import SCENES, pick


def _cropped(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Between half and nine tenths of the photo's width and height, anywhere."""
    width, height = photo.size
    keep_x, keep_y = rng.uniform(0.62, 0.92, 2)
    x0, y0 = rng.random() * (1 - keep_x) * width, rng.random() * (1 - keep_y) * height
    return photo.crop((int(x0), int(y0), int(x0 + keep_x * width), int(y0 + keep_y * height)))


def _regrounded(photo: Image.Image, rng: np.random.Generator, side: int) -> Image.Image | None:
    """The subject before another background, or None where it cannot be cut out."""
    cutout = cut_out(photo, max_side=2 * side)
    if not cutout.is_cut:
        return None
    scene = SCENES[pick(rng, tuple(SCENES))](rng)
    canvas = rasterize(document(scene.svg), side).convert("RGB")
    scale = side * float(rng.uniform(0.6, 0.9)) / max(cutout.width, cutout.height)
    size = (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale)))
    subject = cutout.picture.resize(size, Image.Resampling.BILINEAR)
    subject = subject.rotate(float(rng.uniform(-18, 18)), Image.Resampling.BILINEAR, expand=True)
    x, y = (int(rng.random() * max(0, side - edge)) for edge in subject.size)
    canvas.paste(subject, (x, y), subject)
    return canvas


def altered(photo: Image.Image, rng: np.random.Generator, side: int) -> Image.Image:
    """The photo cropped or put before another ground, mirrored, turned, recolored, blurred."""
    if rng.random() < 0.5:
        photo = ImageOps.mirror(photo)
    picture = _regrounded(photo, rng, side) if rng.random() < 0.5 else None
    if picture is None:
        photo.thumbnail((2 * side, 2 * side), reducing_gap=2.0)
        fill = tuple(int(value) for value in np.median(np.asarray(photo)[[0, -1]], axis=(0, 1)))
        photo = photo.rotate(float(rng.uniform(-16, 16)), Image.Resampling.BILINEAR, fillcolor=fill)
        picture = _cropped(photo, rng).resize((side, side), Image.Resampling.BILINEAR)
    picture = ImageEnhance.Color(picture).enhance(float(rng.uniform(0.6, 1.4)))
    picture = ImageEnhance.Contrast(picture).enhance(float(rng.uniform(0.75, 1.25)))
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.1)) * side / 112))
    return phone_photo(picture, rng)
