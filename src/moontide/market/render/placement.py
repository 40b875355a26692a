"""Where a drawn product stands in a picture, and the true box of its pixels.

The silhouette of a look depends on its category, shape and detail alone. It is traced once from a plain
rendering and then moved like the drawing itself: boxes stay tight under any tilt without rendering again.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moontide.market.render.looks import CATEGORIES, Look
from moontide.market.render.objects import draw
from moontide.market.render.raster import rasterize
from moontide.market.render.surface import definitions

_TRACE_SIDE = 256  # pixels; one pixel is 0.56 units of the 100-unit box, which fills 0.7 of the frame
ONE_SIDED = frozenset(("clock", "wristwatch"))  # read backwards in a mirror

Box = tuple[float, float, float, float]


def document(body: str) -> str:
    """A whole SVG picture, 100 units a side, with the definitions its body refers to."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100" viewBox="0 0 100 100">'
    return head + definitions(body) + body + "</svg>"


@lru_cache(maxsize=2048)
def _traced(category: str, shape: str, detail: str) -> np.ndarray:
    """Points around the silhouette, (number of points, 2), in units of the 100-unit box.

    Drawn a little smaller than the frame, because some outlines leave it.
    """
    kind = CATEGORIES[category]
    look = Look(category, "red", "navy", "plain", kind.materials[0], shape, detail)
    opaque = re.sub(
        r'"url\(#[gbpt]-[^"]*"', '"#000"', draw(look)
    )  # gradients cost time and change no outline
    inner = f'<g transform="translate(15 15) scale(.7)">{opaque}</g>'
    alpha = np.asarray(rasterize(document(inner), _TRACE_SIDE))[:, :, 3] > 60
    rows = np.flatnonzero(alpha.any(axis=1))
    left = alpha[rows].argmax(axis=1)
    right = _TRACE_SIDE - alpha[rows][:, ::-1].argmax(axis=1)
    corners = [(left, rows), (left, rows + 1), (right, rows), (right, rows + 1)]
    points = np.concatenate([np.stack(pair, axis=1) for pair in corners]).astype(float)
    return (points * 100 / _TRACE_SIDE - 15) / 0.7


@dataclass(frozen=True)
class Placed:
    """A product put into a picture: its SVG group and the box of its pixels, as fractions of the side."""

    svg: str
    box: Box


def place(
    look: Look,
    size: float,
    center: tuple[float, float],
    angle: float = 0,
    mirror: bool = False,
    squash: float = 1,
    floor: bool = False,
) -> Placed:
    """The product `size` large (longer side of its box, fraction of the picture) around `center`.

    Args:
        center: fractions of the side; with `floor`, the middle of the box's lower edge.
        angle: tilt in degrees, clockwise.
        mirror: flip left to right first; what carries numerals (`ONE_SIDED`) stays as it is.
        squash: width over natural width, as seen from the side.
    """
    mirror = mirror and look.category not in ONE_SIDED
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.diag([-squash if mirror else squash, 1.0])
    points = _traced(look.category, look.shape, look.detail) @ matrix.T
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 100 * size / float((high - low).max())
    low, high, matrix = low * scale, high * scale, matrix * scale
    anchor = np.array([(low[0] + high[0]) / 2, high[1] if floor else (low[1] + high[1]) / 2])
    shift = np.array(center) * 100 - anchor
    x0, y0, x1, y1 = np.clip(np.concatenate([low + shift, high + shift]) / 100, 0, 1)
    terms = " ".join(f"{value:.4g}" for value in (*matrix.T.ravel(), *shift))
    svg = f'<g transform="matrix({terms})">{draw(look)}</g>'
    return Placed(svg, (float(x0), float(y0), float(x1), float(y1)))


def shadow(box: Box, strength: float = 1) -> str:
    """A soft contact shadow under a box, as one ellipse."""
    x0, _, x1, y1 = (100 * edge for edge in box)
    rx, ry = (x1 - x0) * 0.52 * strength, max(1.8, (x1 - x0) * 0.07)
    return (
        f'<ellipse cx="{(x0 + x1) / 2:.1f}" cy="{y1:.1f}" rx="{rx:.1f}" ry="{ry:.1f}" fill="url(#s-shadow)"/>'
    )
