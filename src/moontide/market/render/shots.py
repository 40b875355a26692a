"""The photographs of a product: studio, cluttered scene, another view, and a shopper's own photo.

In every shot the product is the group with id "product", the last thing drawn but for overlays; the box is
that group's, without shadow.
"""

from dataclasses import dataclass

import numpy as np

from moontide.market.render.companions import companion
from moontide.market.render.looks import COLORS, Look
from moontide.market.render.paint import RGB, flat, luminance, mix
from moontide.market.render.placement import Box, Placed, document, place, shadow
from moontide.market.render.scenery import (
    BRIGHTS,
    SCENES,
    TINTS,
    WALLS,
    WOODS,
    Backdrop,
    blocks,
    pick,
    plain,
    prop,
)


@dataclass(frozen=True)
class Shot:
    """A picture and the true box of its product.

    Args:
        svg: a whole square document.
        box: x0, y0, x1, y1 as fractions of the side, tight around the product.
    """

    svg: str
    box: Box


def compose(behind: str, placed: Placed, after: str = "", is_grounded: bool = True) -> Shot:
    """A shot from what lies behind the product, the product, and what lies over it."""
    contact = shadow(placed.box) if is_grounded else ""
    return Shot(document(f'{behind}{contact}<g id="product">{placed.svg}</g>{after}'), placed.box)


def ground_for(look: Look, rng: np.random.Generator, choices: tuple[RGB, ...]) -> RGB:
    """A ground color on which the look can be seen."""
    brightness = luminance(COLORS[look.color])
    rgb = pick(rng, choices)
    for _ in range(4):
        if abs(luminance(rgb) - brightness) > 0.14:
            return rgb
        rgb = pick(rng, choices)
    return mix(rgb, (0, 0, 0) if brightness > 0.5 else (255, 255, 255), 0.2)


def studio_shot(look: Look, rng: np.random.Generator) -> Shot:
    """The clean shop picture: white or softly tinted ground, product large and centered, contact shadow."""
    ground = pick(rng, TINTS)
    if look.color in ("white", "silver") and ground[0] > 244:
        ground = (226, 232, 238)
    size = rng.uniform(0.74, 0.84)
    placed = place(look, size, (0.5 + rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.02, 0.02)))
    return compose(plain(ground), placed)


def _company(look: Look, rng: np.random.Generator, backdrop: Backdrop, x: float) -> str:
    """Things around the product: objects of other categories and props, all behind it."""
    parts = []
    for _ in range(int(rng.integers(1, 3))):
        at = (100 * x + pick(rng, (-1, 1)) * rng.uniform(26, 44)) % 100
        parts.append(prop(rng, at, backdrop.far + rng.uniform(-1, 1), rng.uniform(0.5, 0.8)))
    for side in rng.permutation([-1, 1])[: int(rng.integers(1, 3))]:
        at = 100 * float(np.clip(x + side * rng.uniform(0.34, 0.46), 0.12, 0.88))
        parts.append(companion(rng, look.category, at, backdrop.far + rng.uniform(0, 2)))
    return "".join(parts)


def scene_shot(look: Look, rng: np.random.Generator) -> Shot:
    """The product in a room, on a table, a shelf, in a street or a garden, off center among other things."""
    backdrop = SCENES[pick(rng, tuple(SCENES))](rng)
    x = pick(rng, (rng.uniform(0.32, 0.44), rng.uniform(0.56, 0.68)))
    company = _company(look, rng, backdrop, x)
    near = rng.uniform(max(backdrop.far + 2, backdrop.near - 14), backdrop.near) / 100
    size = rng.uniform(0.46, 0.58)
    placed = place(look, size, (x, near), rng.uniform(-4, 4), rng.random() < 0.5, floor=True)
    return compose(backdrop.svg + company, placed)


def other_shot(look: Look, rng: np.random.Generator) -> Shot:
    """Another view: mirrored, tilted, close, turned, or a pair, on a colored ground."""
    ground = ground_for(look, rng, BRIGHTS + WALLS)
    view = pick(rng, ("mirrored", "tilted", "close", "turned", "pair"))
    behind = plain(ground)
    if rng.random() < 0.3:
        behind = blocks(ground, ground_for(look, rng, WALLS), rng.uniform(-12, 12))
    if view == "pair":
        return _pair(look, rng, behind)
    size = {"tilted": 0.78, "close": 0.95, "turned": 0.74}.get(view, 0.8)
    angle = rng.uniform(8, 24) * pick(rng, (-1, 1)) if view == "tilted" else 0
    squash = rng.uniform(0.76, 0.88) if view == "turned" else 1
    placed = place(look, size, (0.5, 0.5), angle, view != "close" or rng.random() < 0.5, squash)
    return compose(behind, placed, is_grounded=view != "tilted")


def _pair(look: Look, rng: np.random.Generator, behind: str) -> Shot:
    """Two of the product, one behind the other; the box holds both."""
    drop = rng.uniform(0.05, 0.1)
    back = place(look, 0.54, (0.36, 0.5 - drop), mirror=True)
    front = place(look, 0.6, (0.62, 0.53 + drop))
    low, high = np.minimum(back.box, front.box), np.maximum(back.box, front.box)
    both = (float(low[0]), float(low[1]), float(high[2]), float(high[3]))
    return compose(
        behind + shadow(back.box) + shadow(front.box), Placed(back.svg + front.svg, both), is_grounded=False
    )


def _surface(rng: np.random.Generator) -> str:
    """What a shopper's photo is taken on: wood, a sheet, tiles, or a room."""
    kind = pick(rng, ("wood", "cloth", "tiles", "room", "table", "street", "garden"))
    if kind in SCENES:
        return SCENES[kind](rng).svg
    rgb = pick(rng, WOODS if kind == "wood" else WALLS)
    rows = {
        "wood": "M0 18h100M0 40h100M0 63h100M0 85h100M30 0v18M70 18v22M22 40v23M60 63v22",
        "cloth": "M0 20Q40 40 100 8M0 70Q50 50 100 84M20 100Q40 60 34 0",
    }
    d = rows.get(kind, "M0 30h100M0 70h100M25 0v100M75 0v100")
    dark = mix(rgb, (0, 0, 0), 0.18)
    width = 5 if kind == "cloth" else 0.9
    angle = rng.uniform(-30, 30)
    stripes = (
        f'<path d="{d}" fill="none" stroke="#%02x%02x%02x" stroke-width="{width}" stroke-opacity=".6"/>'
        % dark
    )
    return (
        plain(rgb) + f'<g transform="rotate({angle:.1f} 50 50) translate(-15 -15) scale(1.3)">{stripes}</g>'
    )


def query_shot(look: Look, rng: np.random.Generator) -> Shot:
    """A shopper's own photo of the product: any ground, tilt, size and side, uneven light."""
    size = rng.uniform(0.52, 0.82)
    slack = (1 - size) / 2 * 0.8
    center = (0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack))
    placed = place(look, size, center, rng.uniform(-22, 22), rng.random() < 0.5, rng.uniform(0.84, 1.0))
    after = ""
    if rng.random() < 0.5:
        x = rng.uniform(10, 60)
        shade = flat(
            f"M{x:.0f} 0h{rng.uniform(12, 36):.0f}L{x - 20:.0f} 100h-26Z",
            pick(rng, ((0, 0, 0), (255, 246, 220))),
            0.12,
        )
        after = shade
    return compose(_surface(rng), placed, after, is_grounded=True)
