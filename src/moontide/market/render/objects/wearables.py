"""Small things worn or carried: watches, sunglasses, umbrellas."""

import math
from itertools import pairwise

from moontide.market.render.paint import (
    Brush,
    box,
    darker,
    flat,
    lighter,
    line,
    mirrored,
    oval,
    ring_marks,
    tube,
)

_STEEL = (200, 204, 210)
_GOLD = (222, 186, 92)


_CASES = {
    "round": oval(50, 50, 26),
    "square": box(26, 25, 48, 50, 7),
    "octagon": "M39 24H61L76 39V61L61 76H39L24 61V39Z",
}


def wristwatch(brush: Brush) -> str:
    """A wristwatch with its strap open; shapes round, square, octagon."""
    shape, detail = brush.look.shape, brush.look.detail
    strap = "M34 34L37 2Q50 -1 63 2L66 34ZM34 66L37 98Q50 101 63 98L66 66Z"
    parts = [brush.skin(strap, "round")]
    if brush.look.material == "metal":
        parts.append(
            line(
                "M36 8H64M36 14H64M35.5 20H64.500M35 26H65M35 74H65M35.5 80H64.500"
                "M36 86H64M36 92H64M45 2V28M55 2V28M45 74V98M55 74V98",
                brush.edge,
                1,
            )
        )
    elif brush.look.material == "rubber":  # grooves across instead of stitches along
        grooves = "".join(f"M40 {y}H60" for y in (7, 13, 19, 79, 85, 91))
        parts.append(line(grooves, brush.seam, 2.2))
    else:
        parts.append(brush.stitch("M39 6L37 26M61 6L63 26M39 94L37 76M61 94L63 76", 0.9))
        parts.append(flat(oval(50, 82, 1.4) + oval(50, 88, 1.4) + oval(50, 94, 1.4), brush.edge))
    case = _GOLD if brush.look.color in ("brown", "burgundy", "beige", "navy", "green", "white") else _STEEL
    parts.append(brush.trim(box(75, 46, 6, 8, 2), case))
    parts.append(brush.skin(_CASES[shape], "diag", rgb=case, material="metal"))
    face = (30, 32, 40) if sum(brush.second) < 330 else (250, 249, 244)
    ink = (250, 249, 244) if face[0] < 100 else (34, 36, 44)
    dial = box(31, 30, 38, 40, 4) if shape == "square" else oval(50, 50, 20.5)
    parts.append(brush.trim(dial, face))
    parts.append(_dial(brush, detail, ink))
    parts.append(
        line("M50 50V36", ink, 2.4)
        + line("M50 50L60 55", ink, 2.4)
        + line("M50 54L50 33", brush.second if sum(brush.second) > 200 else (206, 38, 44), 0.8)
    )
    return "".join(parts) + flat(oval(50, 50, 2), ink)


def _dial(brush: Brush, detail: str, ink: tuple[int, int, int]) -> str:
    """Marks on the face of a watch."""
    marks = line(ring_marks(50, 50, 16, 18.8), ink, 1.3)
    if detail == "chrono":
        subs = oval(42, 52, 4.6) + oval(58, 52, 4.6) + oval(50, 60, 4.6)
        return marks + line(subs, ink, 1)
    if detail == "numbers":
        return line(ring_marks(50, 50, 14.5, 18.8, 12, 3), ink, 2.6) + flat(
            "".join(
                oval(50 + 17 * math.sin(a * math.pi / 6), 50 - 17 * math.cos(a * math.pi / 6), 1.1)
                for a in (1, 2, 4, 5, 7, 8, 10, 11)
            ),
            ink,
        )
    if detail == "date":
        window = brush.trim(
            box(55, 44.5, 12, 10, 1.5), (250, 249, 244) if ink[0] > 100 else (34, 36, 44), 1.4
        )
        return marks + window + line("M59 47v5M63 47h1.2v5", (206, 38, 44) if ink[0] > 100 else ink, 1.3)
    return marks


_LENSES = {
    "round": oval(27, 52, 18),
    "square": "M8 38Q8 35 12 35H42Q46 35 46 39L45 58Q44 68 34 68H20Q11 68 10 60Z",
    "aviator": "M7 38C16 33 36 33 46 38C48 52 42 70 28 71C14 71 6 56 7 38Z",
    "cateye": "M3 30C14 33 34 35 45 40C47 54 40 68 26 68C12 68 8 54 3 30Z",
}


def sunglasses(brush: Brush) -> str:
    """Sunglasses from the front, temples folded back; shapes round, square, aviator, cateye."""
    shape, detail = brush.look.shape, brush.look.detail
    lens = _LENSES[shape]
    glass = {"dark": (34, 36, 44), "mirror": lighter(brush.second, 0.15), "fade": (90, 72, 60)}[detail]
    temple = tube("M8 40C4 30 10 24 20 22L34 20", darker(brush.main, 0.25), 4)
    material = brush.look.material
    width = 2.8 if material == "metal" else 5.2 if material == "wood" else 4.6
    half = flat(lens, glass)
    if detail == "fade":
        half += flat(lens, (250, 240, 226), 0.12) + f'<path d="{lens}" fill="url(#d-down-2a2622-c8a888)"/>'
    else:
        half += f'<path d="{lens}" fill="url(#g-diag-{"gloss" if detail == "mirror" else "satin"})"/>'
    half += flat("M16 60L30 40L36 40L20 63Z", (255, 255, 255), 0.4 if detail != "mirror" else 0.65)
    half += line(lens, brush.edge, width + 1.6) + line(lens, brush.main, width)
    if material == "wood":  # grain along the frame
        half += line(lens, darker(brush.main, 0.45), 1.6, dash="9 3") + line(
            lens, lighter(brush.main, 0.5), 0.9, dash="3 5"
        )
    if brush.look.pattern != "plain":
        pattern = f'stroke="#%02x%02x%02x" stroke-width="{width - 1}" stroke-dasharray="%s"' % (
            *brush.second,
            "3 3" if brush.look.pattern == "stripes" else "1 4",
        )
        half += f'<path d="{lens}" fill="none" {pattern}/>'
    if material == "metal":
        half += line(lens, (255, 255, 255), 1, 0.75, dash="10 6")
    elif material == "plastic":
        half += line(lens, lighter(brush.main, 0.55), 1.4, 0.9, dash="14 90")
    bridge = tube("M45 46Q50 40 55 46", brush.main, width + 0.6)
    if material == "metal":  # nose pads
        bridge += flat(oval(45.5, 53, 1.5, 3) + oval(54.5, 53, 1.5, 3), (236, 232, 224))
    if shape == "aviator":
        bridge += tube("M40 36H60", brush.main, 3)
    return temple + mirrored(temple) + half + mirrored(half) + bridge


_CANOPIES = {"dome": (46, 8), "wide": (50, 16), "deep": (60, 4)}


def umbrella(brush: Brush) -> str:
    """An open umbrella; shapes dome, wide, deep."""
    shape, detail = brush.look.shape, brush.look.detail
    low, top = _CANOPIES[shape]
    left = 10 if shape == "deep" else 3
    edges = [left + (100 - 2 * left) * i / 4 for i in range(5)]
    scallops = "".join(
        f"Q{(a + b) / 2:.1f} {low - 7} {a:.1f} {low}"
        for a, b in zip(edges[-2::-1], edges[:0:-1], strict=True)
    )
    dome = (
        f"M{left} {low}C{left + 2} {low - 26} {left + 18} {top} 50 {top}C{82 - left}"
        f" {top} {98 - left} {low - 26} {100 - left} {low}{scallops}Z"
    )
    wood = (132, 84, 48)
    parts = [line("M50 12V60", (110, 112, 118), 2.6)]
    if detail == "straight":
        parts.append(tube("M50 56V94", wood, 3.4) + tube("M50 82V95", wood, 6.5))
    else:
        parts.append(tube("M50 50V86C50 99 34 99 34 87", wood, 5))
    parts.append(brush.skin(dome, "ball"))
    if detail == "panels":
        for a, b in ((0, 1), (2, 3)):
            parts.append(
                flat(
                    f"M50 {top}Q{edges[a] + (8 if a == 0 else 2)} {(top + low) / 2 - 8}"
                    f" {edges[a]:.1f} {low}Q{(edges[a] + edges[b]) / 2:.1f} {low - 7} {edges[b]:.1f}"
                    f" {low}Q{(edges[b] + 50) / 2 - 3:.1f} {(top + low) / 2 - 8} 50 {top}Z",
                    brush.second,
                    0.85,
                )
            )
    ribs = (
        f"M50 {top}Q{edges[1] + 1:.1f} {(top + low) / 2 - 4} {edges[1]:.1f}"
        f" {low}M50 {top}V{low}M50 {top}Q{edges[3] - 1:.1f} {(top + low) / 2 - 4}"
        f" {edges[3]:.1f} {low}"
    )
    parts.append(line(ribs, brush.edge, 1.1))
    if detail == "ruffle":
        waves = "".join(
            f"M{a:.1f} {low}Q{(a + b) / 2:.1f} {low - 7} {b:.1f} {low}" for a, b in pairwise(edges)
        )
        parts.append(
            line(waves, darker(brush.second, 0.5), 5.4)
            + line(waves, brush.second, 4.2)
            + line(waves, lighter(brush.second, 0.5), 1, dash="2 2")
        )
    return "".join(parts) + line(f"M50 {top + 1}V{top - 5}", (90, 92, 98), 2.6)
