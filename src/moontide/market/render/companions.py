"""Small objects of other categories that stand around a product in a cluttered scene.

They come from a fixed pool of looks and are rasterized once each: a picture of 32 pixels in a scene costs a
tenth of drawing the object again. They are a little hazy, as things behind the product are.
"""

import base64
import io
from functools import lru_cache

import numpy as np
from PIL import Image

from moontide.market.render.looks import CATEGORIES, sample_look
from moontide.market.render.paint import flat, oval
from moontide.market.render.placement import document, place
from moontide.market.render.raster import rasterize

_LOOKS_EACH = 6  # looks of each category in the pool
_SPRITE = 32  # pixels; drawn one to one in a picture of 112
_UNIT = 100 / 112  # one pixel of such a picture, in units of the document


@lru_cache(maxsize=1024)
def sprite(category: str, number: int) -> str:
    """The pool's look as a data address: PNG, the object standing on the middle of the lower edge."""
    rng = np.random.default_rng([number, list(CATEGORIES).index(category)])
    size = rng.uniform(0.7, 0.98)
    placed = place(sample_look(rng, category), size, (0.5, 0.99), mirror=rng.random() < 0.5, floor=True)
    pixels = np.asarray(rasterize(document(placed.svg), _SPRITE)).copy()
    pixels[:, :, :3] = pixels[:, :, :3] * 0.8 + 225 * 0.2
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def companion(rng: np.random.Generator, besides: str, x: float, y: float) -> str:
    """An object of another category than `besides`, standing at (x, y) in percent of the side."""
    names = [name for name in CATEGORIES if name != besides]
    href = sprite(names[int(rng.integers(len(names)))], int(rng.integers(_LOOKS_EACH)))
    left = round((x / _UNIT) - _SPRITE / 2) * _UNIT
    top = round((y / _UNIT) - _SPRITE) * _UNIT
    side = f"{_SPRITE * _UNIT:.5f}"
    under = flat(oval(round(x, 1), round(y, 1), 9, 1.6), (0, 0, 0), 0.15)
    return (
        f'{under}<image x="{left:.5f}" y="{top:.5f}" width="{side}" height="{side}" '
        f'image-rendering="optimizeSpeed" href="{href}"/>'
    )
