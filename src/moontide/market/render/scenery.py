"""Backgrounds and props of pictures: plain grounds, rooms, tables, shelves, streets, gardens.

Everything is flat color, because a gradient over a whole picture costs more time than the product itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moontide.market.render.paint import RGB, box, darker, flat, lighter, line, mix, oval

WALLS: tuple[RGB, ...] = (
    (236, 230, 220), (214, 224, 228), (226, 214, 206), (206, 216, 200), (240, 224, 196), (198, 206, 220),
    (230, 208, 212), (178, 194, 190), (244, 242, 238), (196, 176, 158),
)  # fmt: skip
WOODS: tuple[RGB, ...] = ((176, 124, 78), (206, 164, 114), (122, 82, 54), (226, 198, 158), (92, 66, 52))
TINTS: tuple[RGB, ...] = (
    (255, 255, 255), (250, 250, 250), (246, 244, 240), (240, 243, 247), (248, 240, 236), (238, 244, 238),
)  # fmt: skip
BRIGHTS: tuple[RGB, ...] = (
    (250, 218, 94), (255, 158, 128), (152, 216, 200), (160, 196, 240), (244, 176, 204), (190, 170, 230),
    (60, 76, 110), (232, 92, 80), (70, 140, 130), (228, 220, 206), (54, 54, 60), (176, 206, 120),
)  # fmt: skip


def pick(rng: np.random.Generator, values):
    """One of `values`, each as likely."""
    return values[int(rng.integers(len(values)))]


@dataclass(frozen=True)
class Backdrop:
    """An empty scene: its SVG and the heights (percent of the side) between which things stand."""

    svg: str
    far: float
    near: float


def plain(rgb: RGB) -> str:
    """The whole picture in one color."""
    return flat(box(0, 0, 100, 100), rgb)


def blocks(first: RGB, second: RGB, slant: float) -> str:
    """Two color fields parted by a slanted line."""
    return plain(first) + flat(f"M0 {50 + slant:g}L100 {50 - slant:g}V100H0Z", second)


def gradient(first: RGB, second: RGB) -> str:
    """The whole picture from one color down to another, in twelve flat bands."""
    bands = (flat(box(0, i * 100 / 12, 100, 8.5), mix(first, second, i / 11)) for i in range(12))
    return "".join(bands)


def _books(rng: np.random.Generator) -> str:
    """Standing books, 24 wide, base at y 0."""
    parts, x = [], -12.0
    while x < 10:
        width, height = rng.uniform(3, 6), rng.uniform(18, 30)
        rgb = pick(rng, BRIGHTS)
        parts.append(
            flat(box(x, -height, width, height), rgb) + flat(box(x, 4 - height, width, 2), lighter(rgb, 0.5))
        )
        x += width + 0.4
    return "".join(parts)


def _carton(rng: np.random.Generator) -> str:
    """A cardboard box, base at y 0."""
    w, h = rng.uniform(18, 28), rng.uniform(12, 22)
    rgb = pick(rng, ((198, 158, 112), (180, 140, 98), *BRIGHTS[:4]))
    lid = f"M{-w / 2:g} {-h:g}l4 -5h{w:g}l-4 5Z"
    return (
        flat(box(-w / 2, -h, w, h), rgb)
        + flat(lid, lighter(rgb, 0.25))
        + flat(box(-2, -h, 4, h), darker(rgb, 0.15))
    )


def _leaves(rng: np.random.Generator) -> str:
    """A tuft of long leaves, base at y 0."""
    d = ""
    for angle in np.linspace(-1.1, 1.1, 6):
        x, y = 20 * np.sin(angle), -30 * np.cos(angle) * rng.uniform(0.7, 1)
        d += f"M0 0Q{x * 0.2 - 3:.1f} {y * 0.7:.1f} {x:.1f} {y:.1f}Q{x * 0.6 + 3:.1f} {y * 0.4:.1f} 0 0Z"
    return flat(d, mix((48, 112, 62), (120, 160, 80), rng.random()))


def _jar(rng: np.random.Generator) -> str:
    """A small pot with a lid, base at y 0."""
    rgb = pick(rng, BRIGHTS)
    return (
        flat(box(-6, -13, 12, 13, 2), rgb)
        + flat(box(-6.5, -16, 13, 4, 1), darker(rgb, 0.3))
        + flat(box(-4, -12, 2, 10, 1), lighter(rgb, 0.5))
    )


def _balls(rng: np.random.Generator) -> str:
    """Three fruits, base at y 0."""
    rgb = pick(rng, ((220, 60, 50), (240, 160, 40), (150, 190, 60)))
    return (
        flat(oval(-6, -5, 5) + oval(5, -5, 5), rgb)
        + flat(oval(0, -11, 5), lighter(rgb, 0.15))
        + flat(oval(-2, -13, 1.3), (255, 255, 255), 0.6)
    )


PROPS: tuple[Callable[[np.random.Generator], str], ...] = (_books, _carton, _leaves, _jar, _balls)


def prop(rng: np.random.Generator, x: float, y: float, scale: float) -> str:
    """A simple object of no category standing at (x, y), in percent of the side."""
    return f'<g transform="translate({x:.1f} {y:.1f}) scale({scale:.2f})">{pick(rng, PROPS)(rng)}</g>'


def _picture(rng: np.random.Generator, x: float, y: float) -> str:
    """A framed picture on a wall."""
    w, h = rng.uniform(12, 22), rng.uniform(14, 22)
    art = flat(oval(x + w / 2, y + h / 2, w / 4), pick(rng, BRIGHTS))
    return (
        flat(box(x, y, w, h), darker(pick(rng, WOODS), 0.3))
        + flat(box(x + 1.5, y + 1.5, w - 3, h - 3), pick(rng, BRIGHTS))
        + art
    )


def _window(rng: np.random.Generator, x: float) -> str:
    """A window with sky and curtains."""
    cloth = pick(rng, BRIGHTS)
    glass = flat(box(x, 4, 30, 38), (250, 250, 250)) + flat(
        box(x + 2, 6, 12, 34) + box(x + 16, 6, 12, 34), (190, 220, 240)
    )
    return glass + flat(f"M{x - 4:g} 2h9q-1 26-8 44Z M{x + 34:g} 2h-9q1 26 8 44Z", cloth)


def room(rng: np.random.Generator) -> Backdrop:
    """A wall and a floor with skirting, a picture, a window or a rug."""
    wall, wood = pick(rng, WALLS), pick(rng, WOODS)
    level = rng.uniform(52, 66)
    parts = [
        plain(wall),
        flat(box(0, level, 100, 100 - level), wood),
        flat(box(0, level - 2.5, 100, 2.5), lighter(wall, 0.6)),
    ]
    planks = "".join(f"M0 {level + step:.1f}h100" for step in (7, 16, 28))
    parts.append(line(planks, darker(wood, 0.22), 0.5))
    if rng.random() < 0.5:
        parts.append(_window(rng, rng.uniform(4, 64)))
    else:
        parts.extend(_picture(rng, x, rng.uniform(6, 20)) for x in (rng.uniform(2, 30), rng.uniform(56, 78)))
    if rng.random() < 0.5:
        parts.append(flat(oval(rng.uniform(30, 70), 90, 46, 12), pick(rng, BRIGHTS)))
    return Backdrop("".join(parts), level + 3, 95)


def table(rng: np.random.Generator) -> Backdrop:
    """A table top before a blurred wall."""
    wall, wood = pick(rng, WALLS), pick(rng, WOODS)
    level = rng.uniform(58, 70)
    parts = [
        plain(wall),
        flat(box(0, level, 100, 100 - level), wood),
        flat(box(0, level, 100, 1.5), lighter(wood, 0.35)),
    ]
    parts.append(
        line(
            f"M0 {level + 9:.1f}C30 {level + 6:.1f} 60 {level + 13:.1f} 100 {level + 8:.1f}"
            f"M0 {level + 20:.1f}Q50 {level + 15:.1f} 100 {level + 22:.1f}",
            darker(wood, 0.2),
            0.6,
        )
    )
    tiles = "".join(f"M0 {y}h100" for y in (14, 28, 42)) + "".join(
        f"M{x} 0v{level:.0f}" for x in (16, 38, 60, 82)
    )
    parts.insert(1, line(tiles, lighter(wall, 0.6) if rng.random() < 0.5 else wall, 0.8))
    return Backdrop("".join(parts), level + 4, 95)


def shelf(rng: np.random.Generator) -> Backdrop:
    """A board with things above it and another board near the top."""
    wall, wood = pick(rng, WALLS), pick(rng, WOODS)
    parts = [plain(wall), flat(box(0, 88, 100, 12), darker(wall, 0.25)), flat(box(0, 84, 100, 7), wood)]
    parts.append(flat(box(0, 84, 100, 1.4), lighter(wood, 0.35)) + flat(box(0, 15, 100, 4), wood))
    parts.append(flat(box(0, 19, 100, 2), darker(wall, 0.2)))
    parts.extend(prop(rng, x + rng.uniform(-8, 8), 15, 0.6) for x in (18, 50, 82))
    return Backdrop("".join(parts), 85, 88)


def street(rng: np.random.Generator) -> Backdrop:
    """Houses, a pavement and a road."""
    sky = pick(rng, ((196, 222, 240), (232, 222, 214), (176, 204, 228)))
    parts, x = [plain(sky)], -4.0
    while x < 100:
        width, height = rng.uniform(18, 32), rng.uniform(30, 56)
        rgb = mix(pick(rng, BRIGHTS), (200, 190, 180), 0.55)
        panes = "".join(
            box(x + 3 + i * 7, 66 - height + 4 + j * 10, 4, 6)
            for i in range(int(width / 8))
            for j in range(int(height / 12))
        )
        parts.append(flat(box(x, 64 - height, width, height + 2), rgb) + flat(panes, lighter(sky, 0.3)))
        x += width
    parts.append(flat(box(0, 64, 100, 36), (178, 176, 172)) + flat(box(0, 64, 100, 3), (206, 204, 200)))
    parts.append(line("M0 76h100M0 90h100M20 67L8 100M50 67V100M80 67L92 100", (150, 148, 144), 0.7))
    return Backdrop("".join(parts), 69, 95)


def garden(rng: np.random.Generator) -> Backdrop:
    """Sky, hills, trees and grass."""
    sky, grass = (176, 214, 240), mix((110, 166, 84), (168, 188, 96), rng.random())
    level = rng.uniform(54, 64)
    hill = (
        f"M0 {level:.0f}C20 {level - 18:.0f} 40 {level - 4:.0f} 60 {level - 12:.0f}S90"
        f" {level - 16:.0f} 100 {level - 4:.0f}V{level + 2:.0f}H0Z"
    )
    parts = [
        plain(sky),
        flat(oval(20, 14, 12, 4) + oval(30, 12, 10, 5) + oval(76, 20, 13, 4), (255, 255, 255)),
        flat(hill, darker(grass, 0.25)),
    ]
    parts.append(flat(box(0, level, 100, 100 - level), grass))
    for x in (rng.uniform(4, 30), rng.uniform(66, 96)):
        parts.append(
            flat(box(x - 1.5, level - 14, 3, 16), (112, 78, 52))
            + flat(oval(x, level - 22, 10, 13), darker(grass, 0.4))
        )
    tufts = "".join(
        f"M{x:.0f} {y:.0f}l1.5 -4l1.5 4"
        for x, y in zip(rng.uniform(0, 98, 12), rng.uniform(level + 5, 98, 12), strict=True)
    )
    parts.append(line(tufts, darker(grass, 0.3), 0.7))
    return Backdrop("".join(parts), level + 4, 95)


SCENES: dict[str, Callable[[np.random.Generator], Backdrop]] = {
    "room": room,
    "table": table,
    "shelf": shelf,
    "street": street,
    "garden": garden,
}
