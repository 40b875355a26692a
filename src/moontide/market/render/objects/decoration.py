"""Vases, clocks, candles and potted plants."""

import math

from moontide.market.render.paint import (
    RGB,
    Brush,
    box,
    darker,
    flat,
    flower,
    lighter,
    line,
    mirrored,
    mix,
    oval,
    ring_marks,
    tube,
)

_GREEN: RGB = (62, 128, 66)
_SOIL = (84, 58, 42)

_VASES = {
    "round": ("M42 48C42 54 24 58 24 76C24 90 36 95 50 95C64 95 76 90 76 76C76 58 58 54 58 48Z", 48, 8.5),
    "tall": ("M38 40C42 56 34 66 36 95H64C66 66 58 56 62 40Z", 40, 12),
    "amphora": ("M39 46C43 52 42 54 36 58C22 66 28 84 41 95H59C72 84 78 66 64 58C58 54 57 52 61 46Z", 46, 11),
}


def _bouquet(brush: Brush, kind: str, top: float) -> str:
    """Tulips, bare twigs with buds, or daisies in the mouth of a vase."""
    heads = ((50, 12), (33, 18), (67, 17), (24, 30), (76, 29))
    stems = "".join(f"M50 {top}Q{(x + 50) / 2:.0f} {y + 18} {x} {y}" for x, y in heads)
    if kind == "twigs":
        buds = "".join(oval(x + dx, y + dy, 2.3) for x, y in heads for dx, dy in ((0, 0), (4, 6), (-3, 9)))
        return line(stems, (110, 76, 50), 1.6) + brush.trim(buds, (246, 226, 214), 0.5)
    leaves = flat(
        f"M50 {top}Q30 {top - 14} 22 {top - 8}Q34 {top - 2} 50 {top}ZM50 {top}"
        f"Q70 {top - 14} 78 {top - 8}Q66 {top - 2} 50 {top}Z",
        _GREEN,
    )
    parts = [line(stems, darker(_GREEN, 0.2), 1.8), leaves]
    for x, y in heads[::-1]:
        if kind == "daisies":
            parts.append(flower(x, y, 8.5, (252, 250, 246)))
        else:
            parts.append(
                brush.trim(
                    f"M{x - 6} {y - 7}L{x - 2.5} {y - 3}L{x} {y - 9}L{x + 2.5} {y - 3}"
                    f"L{x + 6} {y - 7}Q{x + 7} {y + 6} {x} {y + 6}Q{x - 7} {y + 6} {x - 6}"
                    f" {y - 7}Z",
                    (226, 64, 90),
                )
            )
    return "".join(parts)


def vase(brush: Brush) -> str:
    """A vase of flowers; shapes round, tall, amphora (two handles)."""
    outline, top, rx = _VASES[brush.look.shape]
    parts = []
    if brush.look.shape == "amphora":
        parts.append(
            tube("M40 50C22 46 20 60 30 66", brush.main, 4) + tube("M60 50C78 46 80 60 70 66", brush.main, 4)
        )
    parts.append(_bouquet(brush, brush.look.detail, top + 4))
    if brush.look.material == "glass":
        parts.append(flat(outline, (226, 238, 244), 0.8))
    parts.append(brush.skin(outline, "ball" if brush.look.shape == "round" else "round"))
    lip = line(f"M{50 - rx} {top}Q50 {top + 5} {50 + rx} {top}", brush.edge, 3.6)
    return (
        "".join(parts)
        + lip
        + line(f"M{50 - rx} {top}Q50 {top + 5} {50 + rx} {top}", lighter(brush.main, 0.3), 2)
    )


def _hands(x: float, y: float, r: float) -> str:
    """Hour and minute hands at ten past ten."""
    d = f"M{x} {y}L{x - 0.42 * r:.1f} {y - 0.32 * r:.1f}M{x} {y}L{x + 0.5 * r:.1f} {y - 0.58 * r:.1f}"
    return (
        line(d, (36, 36, 42), 2.8)
        + line(f"M{x} {y + 0.2 * r:.1f}V{y - 0.72 * r:.1f}", (206, 38, 44), 0.9)
        + flat(oval(x, y, 2.2), (36, 36, 42))
    )


def _numerals(x: float, y: float, r: float) -> str:
    """12, 3, 6 and 9 in strokes, with short ticks between."""
    a = 0.72 * r
    d = (
        f"M{x - 3:.1f} {y - a - 3:.1f}v6M{x:.1f} {y - a - 2:.1f}q3 -2.5 3.5 .5q0 2 -3.5 4.5h4"
        f"M{x + a - 2:.1f} {y - 3:.1f}q4 -1 3 1.5q-.5 1.3 -2 1.3q3 .3 2.3 2.3q-.8 2 -3.6 1"
        f"M{x + 1.5:.1f} {y + a - 3:.1f}q-4 2 -3 5q1.6 2 3 0q.8 -2.5 -3 -1.6"
        f"M{x - a - 1:.1f} {y + 3:.1f}q4 -2 3 -5q-1.6 -2 -3 0q-.8 2.5 3 1.6"
    )
    return line(d, (36, 36, 42), 1.3)


def clock(brush: Brush) -> str:
    """A clock; shapes round and square (on the wall), alarm (two bells), sunburst (rays)."""
    shape, detail = brush.look.shape, brush.look.detail
    y, r = (56, 28) if shape == "alarm" else (50, 24) if shape == "sunburst" else (50, 36)
    parts = []
    if shape == "alarm":
        bell = brush.trim("M14 28C12 14 28 6 38 16Z", darker(brush.main, 0.15)) + line(
            "M18 25Q20 16 28 14", lighter(brush.main, 0.6), 1.4
        )
        parts.append(
            tube("M30 78L22 93", darker(brush.main, 0.2), 5)
            + tube("M70 78L78 93", darker(brush.main, 0.2), 5)
        )
        parts.append(
            bell
            + mirrored(bell)
            + line("M44 16C44 6 56 6 56 16", brush.edge, 2.4)
            + line("M50 26V16", brush.edge, 2.4)
            + brush.trim(oval(50, 15, 3.4))
        )
    elif shape == "sunburst":
        parts.append(
            line(ring_marks(50, 50, 26, 46, 16), brush.edge, 4)
            + line(ring_marks(50, 50, 26, 46, 16), brush.main, 2.6)
        )
        parts.append(line(ring_marks(50, 50, 26, 39, 32), brush.second, 1.4))
    if shape == "square":
        parts.append(brush.skin(box(7, 7, 86, 86, 10), "diag"))
    else:
        parts.append(brush.skin(oval(50, y, r + (5 if shape == "sunburst" else 8)), "diag"))
    parts.append(brush.trim(oval(50, y, r), (252, 250, 244), 1))
    if detail == "numbers":
        marks = _numerals(50, y, r) + line(ring_marks(50, y, r * 0.84, r * 0.94), (36, 36, 42), 1)
    elif detail == "ticks":
        marks = line(ring_marks(50, y, r * 0.74, r * 0.9), (36, 36, 42), 1.5) + line(
            ring_marks(50, y, r * 0.7, r * 0.9, 12, 3), (36, 36, 42), 2.8
        )
    else:
        spots = [
            (50 + 0.8 * r * math.sin(i * math.pi / 6), y - 0.8 * r * math.cos(i * math.pi / 6))
            for i in range(12)
        ]
        marks = flat(
            "".join(
                oval(round(a, 1), round(b, 1), 2 if i % 3 == 0 else 1.2) for i, (a, b) in enumerate(spots)
            ),
            brush.second if sum(brush.second) < 560 else (36, 36, 42),
        )
    return "".join(parts) + marks + _hands(50, y, r)


def _flame(x: float, y: float) -> str:
    """A wick with its flame, the wick's foot at (x, y)."""
    outer = (
        f"M{x} {y - 26}C{x + 3} {y - 18} {x + 7} {y - 15} {x + 6} {y - 9}C{x + 5}"
        f" {y - 3} {x - 5} {y - 3} {x - 6} {y - 9}C{x - 7} {y - 14} {x - 2}"
        f" {y - 18} {x} {y - 26}Z"
    )
    inner = (
        f"M{x} {y - 18}C{x + 4} {y - 12} {x + 4} {y - 6} {x} {y - 5}C{x - 4}"
        f" {y - 6} {x - 4} {y - 12} {x} {y - 18}Z"
    )
    glow = flat(oval(x, y - 13, 14, 17), (255, 214, 110), 0.25)
    return (
        glow
        + f'<path d="{outer}" fill="#f79a22" stroke="#c65d10" stroke-width=".8"/>'
        + flat(inner, (255, 236, 130))
        + line(f"M{x} {y}V{y - 7}", (50, 40, 36), 1.4)
    )


def candle(brush: Brush) -> str:
    """A burning candle; shapes pillar, jar (in a glass), taper (in a holder)."""
    shape, detail = brush.look.shape, brush.look.detail
    left, right, top, low = {"pillar": (31, 69, 36, 94), "jar": (25, 75, 50, 94), "taper": (43, 57, 28, 80)}[
        shape
    ]
    rx, ry = (right - left) / 2, 5 if shape != "taper" else 2.2
    body = f"M{left} {top}V{low - ry}Q50 {low + ry} {right} {low - ry}V{top}Z"
    parts = []
    if shape == "taper":
        gold = (206, 170, 84)
        parts.append(tube("M62 84C78 76 82 92 68 91", gold, 3.4))
        parts.append(
            brush.trim("M20 86Q50 82 80 86Q76 96 50 96Q24 96 20 86Z", gold)
            + brush.trim(box(39, 74, 22, 13, 2), darker(gold, 0.15))
        )
    parts.append(brush.skin(body, "round", pattern=shape != "taper"))
    parts.append(
        brush.trim(oval(50, top, rx, ry), lighter(brush.main, 0.35), 1)
        + flat(oval(50, top + 0.5, rx * 0.6, ry * 0.55), lighter(brush.main, 0.65))
    )
    if detail == "drips":
        d = (
            f"M{left} {top}Q{left + 1} {top + 16} {left + 4} {top + 16}Q{left + 6}"
            f" {top + 14} {left + 5.5} {top + 5}Q{left + rx} {top + 6} {right - 5}"
            f" {top + 4}Q{right - 6} {top + 24} {right - 3} {top + 24}Q{right}"
            f" {top + 20} {right} {top}Z"
        )
        parts.append(brush.trim(d, lighter(brush.main, 0.35), 0.7))
    elif detail == "band":
        parts.append(
            line(
                f"M{left + 1} {top + 22}Q50 {top + 22 + 2 * ry} {right - 1} {top + 22}",
                brush.second,
                6 if shape != "taper" else 4,
            )
        )
    elif shape != "taper":
        parts.append(
            brush.trim(box(left + 7, top + 16, right - left - 14, 17, 1.5), (250, 246, 236))
            + line(
                f"M{left + 12} {top + 22}H{right - 12}M{left + 14} {top + 27}H{right - 14}",
                brush.second if sum(brush.second) < 600 else (90, 80, 70),
                1.6,
            )
        )
    else:
        parts.append(line("M43 60L57 54M43 68L57 62M43 52L57 46", brush.second, 2))
    if shape == "jar":
        rim = "M24 42V90Q24 95 30 96H70Q76 95 76 90V42"
        parts.append(
            line(rim, (120, 140, 150), 2)
            + line("M28 46V86", (255, 255, 255), 2, 0.8)
            + line(oval(50, 42, 26, 5), (130, 148, 158), 1.6)
        )
    return "".join(parts) + _flame(50, top + 1)


def _cactus() -> str:
    """A cactus with two arms."""
    body = tube("M36 52H30Q24 52 24 44V36", _GREEN, 9) + tube("M62 44H68Q75 44 75 36V28", _GREEN, 9)
    body += (
        '<path d="M38 66V20Q38 6 50 6Q62 6 62 20V66Z" fill="#3e8042" stroke="#1d4422" stroke-width="1.2"/>'
    )
    spines = "".join(f"M{x} {y}l2 -1.5" for x in (42, 49, 56) for y in range(16, 62, 8))
    return (
        body
        + line("M44 12V64M50 8V64M56 12V64", (32, 92, 48), 0.9)
        + line(spines, (240, 240, 210), 0.8)
        + flower(50, 7, 6.5, (240, 110, 150))
    )


def _fan(kind: str) -> str:
    """Monstera leaves, upright snake-plant blades or palm fronds out of a pot."""
    if kind == "snake":
        blades = (
            "M44 66Q30 40 34 14Q46 36 50 66ZM52 66Q48 30 56 4Q64 36 58 66ZM58"
            " 66Q66 42 78 22Q76 48 64 66ZM42 66Q28 52 20 32Q38 44 48 66Z"
        )
        return f'<path d="{blades}" fill="#5a9a55" stroke="#1d4a26" stroke-width="1.2"/>' + line(
            "M47 62Q38 40 35 20M55 62Q53 30 56 10M60 64Q68 44 76 28M45 64Q34 52 23 37", (214, 220, 120), 1.3
        )
    if kind == "palm":
        tips = ((8, 40), (18, 14), (40, 4), (62, 4), (84, 14), (93, 40))
        d = "".join(
            f"M50 66Q{50 + (x - 50) * 0.35:.0f} {y - 2} {x} {y}Q{50 + (x - 50) * 0.6:.0f} {y + 14} 50 66Z"
            for x, y in tips
        )
        ribs = "".join(f"M50 64Q{50 + (x - 50) * 0.4:.0f} {y + 5} {x} {y}" for x, y in tips)
        return f'<path d="{d}" fill="#4c9a58" stroke="#1d4a26" stroke-width="1.1"/>' + line(
            ribs, (30, 96, 52), 1
        )
    parts = []
    for x, y, r in ((24, 36, 15), (76, 34, 15), (50, 18, 17), (36, 50, 11), (66, 52, 11)):
        parts.append(line(f"M50 68Q{(x + 50) / 2} {y + 16} {x} {y + r * 0.6:.0f}", (44, 104, 54), 2))
        leaf = (
            f"M{x} {y + r}C{x - 1.5 * r} {y + 0.4 * r:.1f} {x - r} {y - r} {x}"
            f" {y - 0.7 * r:.1f}C{x + r} {y - r} {x + 1.5 * r} {y + 0.4 * r:.1f}"
            f" {x} {y + r}Z"
        )
        parts.append(
            f'<path d="{leaf}" fill="#%02x%02x%02x" stroke="#1d4a26" stroke-width="1.1"/>'
            % mix(_GREEN, (120, 180, 90), 0.3 * (y < 40))
        )
        cuts = (
            f"M{x} {y + r}V{y - 0.6 * r:.1f}M{x} {y + 0.4 * r:.1f}l{-0.7 * r:.1f}"
            f" {-0.5 * r:.1f}M{x} {y + 0.4 * r:.1f}l{0.7 * r:.1f} {-0.5 * r:.1f}"
            f"M{x} {y - 0.1 * r:.1f}l{-0.6 * r:.1f} {-0.4 * r:.1f}M{x} {y - 0.1 * r:.1f}"
            f"l{0.6 * r:.1f} {-0.4 * r:.1f}"
        )
        parts.append(line(cuts, (190, 224, 160), 1))
    return "".join(parts)


def potted_plant(brush: Brush) -> str:
    """A houseplant in a pot; shapes (of the plant) cactus, monstera, snake, palm. The pot has the color."""
    detail = brush.look.detail
    plant = _cactus() if brush.look.shape == "cactus" else _fan(brush.look.shape)
    low = 86 if detail == "legs" else 95
    parts = []
    if detail == "legs":
        parts.append(tube("M36 84L32 97", (176, 124, 78), 3.4) + tube("M64 84L68 97", (176, 124, 78), 3.4))
    elif detail == "saucer":
        low = 92
        parts.append(brush.trim("M26 90H74L71 96H29Z", darker(brush.main, 0.2)))
    parts.append(flat(oval(50, 66, 23, 4), _SOIL) + plant)
    parts.append(brush.skin(f"M26 66Q50 72 74 66L67 {low - 3}Q50 {low + 3} 33 {low - 3}Z", "round"))
    if detail == "rim":
        parts.append(brush.trim("M24 63Q50 69 76 63L76 71Q50 78 24 71Z"))
    return "".join(parts)
