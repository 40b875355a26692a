"""Lamps, armchairs and cushions."""

import math

from moontide.market.render.paint import Brush, box, darker, flat, lighter, line, mirrored, oval

_WOOD = (128, 82, 48)

_SHADES = {
    "cone": "M36 8H64L86 50Q50 57 14 50Z",
    "drum": "M22 10Q50 5 78 10L82 48Q50 55 18 48Z",
    "dome": "M16 50C16 22 30 8 50 8C70 8 84 22 84 50Q50 57 16 50Z",
}

_LIT = {"cone": 34, "drum": 30.5, "dome": 32}  # half the width of the light under a shade


def table_lamp(brush: Brush) -> str:
    """A lit table lamp; shapes (of the shade) cone, drum, dome."""
    shape, detail = brush.look.shape, brush.look.detail
    foot = brush.second
    parts = [
        line("M50 50V62", (90, 84, 76), 3.4),
        brush.trim(oval(50, 51, _LIT[shape], 5.5), (255, 238, 178), 0.6),  # the lit inside of the shade
    ]
    if detail == "ball":
        parts.append(brush.skin("M44 62H56C76 66 76 86 60 91H40C24 86 24 66 44 62Z", "ball", rgb=foot))
        parts.append(brush.trim(box(34, 90, 32, 5, 2), darker(foot, 0.3)))
    elif detail == "column":
        parts.append(brush.skin("M46 54H54L55 88H45Z", "round", rgb=foot))
        parts.append(brush.skin("M45 86H55C70 88 74 92 74 95H26C26 92 30 88 45 86Z", "round", rgb=foot))
    else:
        legs = "M47.5 60L25 96H19L44 60ZM52.5 60L75 96H81L56 60Z"
        parts.append(brush.skin("M47.6 60V96H52.4V60Z", "round", rgb=darker(foot, 0.2), rim=0.9))
        parts.append(brush.skin(legs, "round", rgb=foot))
        parts.append(brush.trim(box(44, 56, 12, 6, 2), darker(foot, 0.3)))
    parts.append(
        brush.skin(
            _SHADES[shape], "round", material="canvas" if brush.look.material != "glass" else "ceramic"
        )
    )
    glow = f'<path d="{_SHADES[shape]}" fill="url(#s-lamp)"/>'
    parts.append(glow)
    rims = {
        "cone": ("M36 9H64", "M14.5 49Q50 56 85.5 49"),
        "drum": ("M22 11Q50 6 78 11", "M18.5 47Q50 54 81.5 47"),
        "dome": ("", "M16.5 49Q50 56 83.5 49"),
    }[shape]
    parts.extend(line(d, darker(brush.main, 0.35), 2) for d in rims if d)
    if shape == "dome":
        parts.append(brush.trim(oval(50, 7, 3)))
    return (
        "".join(parts) + line("M64 53V66", (120, 112, 100), 0.9) + flat(oval(64, 67.5, 1.8), (190, 160, 90))
    )


_BACKS = {
    "wing": "M22 60V20C22 8 34 5 50 5C66 5 78 8 78 20V60Z",
    "tub": "M14 60V44C14 22 30 14 50 14C70 14 86 22 86 44V60Z",
    "club": "M18 62V28Q18 18 28 18H72Q82 18 82 28V62Z",
}
_ARMS = {
    "wing": "M22 22C12 26 14 40 17 48C8 48 6 56 8 62L10 84H24V58L25 40Z",
    "tub": "M14 42C4 46 5 58 7 66L10 84H26V62C26 52 22 44 14 42Z",
    "club": "M18 46C6 44 3 52 5 60L7 85H25V60C26 52 24 47 18 46Z",
}


def armchair(brush: Brush) -> str:
    """An upholstered armchair; shapes wing (high back), tub (round), club (square)."""
    shape, detail = brush.look.shape, brush.look.detail
    legs = "M13 82H20L18 96H14ZM80 82H87L86 96H82Z"
    parts = [brush.trim(legs, _WOOD), brush.skin(_BACKS[shape], "soft")]
    if detail == "buttons":
        spots = (
            [(38, 28), (50, 28), (62, 28), (44, 40), (56, 40)]
            if shape != "wing"
            else [(38, 18), (50, 18), (62, 18), (44, 30), (56, 30), (38, 42), (50, 42), (62, 42)]
        )
        parts.append(
            line(
                "".join(f"M{x} {y}l6 -6M{x} {y}l-6 -6M{x} {y}l6 6M{x} {y}l-6 6" for x, y in spots),
                brush.seam,
                0.7,
                0.7,
            )
        )
        parts.append(brush.trim("".join(oval(x, y, 1.7) for x, y in spots), rim=0.6))
    parts.append(brush.skin("M20 64H80V86H20Z", "down", pattern=False))
    parts.append(
        brush.skin("M24 52Q50 48 76 52Q80 53 80 58V66Q80 69 76 69H24Q20 69 20 66V58Q20 53 24 52Z", "down")
    )
    arm = brush.skin(_ARMS[shape], "soft")
    parts.append(arm + mirrored(arm))
    if detail == "piping":
        edge = {
            "wing": "M22 22C12 26 14 40 17 48M24 60L24 84",
            "tub": "M14 42C22 44 26 52 26 62V84",
            "club": "M18 46C24 47 26 52 25 60V85",
        }[shape]
        both = line(edge, brush.second, 1.8)
        parts.append(both + mirrored(both) + line("M22 69H78", brush.second, 1.8))
    elif detail == "pillow":
        cushion = "M38 30Q50 34 64 30Q60 42 64 54Q50 50 37 54Q41 42 38 30Z"
        parts.append(brush.trim(cushion) + line("M42 35Q50 38 58 35", lighter(brush.second, 0.5), 1.2))
    return "".join(parts)


_TOP = oval(50, 42, 44, 25)  # the upper face of a round cushion, seen from above and in front
_CUSHIONS = {
    "square": "M8 8Q50 18 92 8Q82 50 92 92Q50 82 8 92Q18 50 8 8Z",
    "lumbar": "M3 24Q50 32 97 24Q91 50 97 76Q50 68 3 76Q9 50 3 24Z",
}


def cushion(brush: Brush) -> str:
    """A throw pillow; shapes square, round (pleated, lying), lumbar (wide)."""
    shape, detail = brush.look.shape, brush.look.detail
    if shape == "round":
        return _round_cushion(brush)
    parts = []
    corners = {
        "square": ((8, 8), (92, 8), (8, 92), (92, 92)),
        "lumbar": ((3, 24), (97, 24), (3, 76), (97, 76)),
    }[shape]
    if detail == "tassels":
        for x, y in corners:
            dx, dy = (1 if x > 50 else -1), (1 if y > 50 else -1)
            d = (
                f"M{x} {y}l{7 * dx + 3 * dy} {7 * dy - 3 * dx}M{x} {y}l{8 * dx} {8 * dy}"
                f"M{x} {y}l{7 * dx - 3 * dy} {7 * dy + 3 * dx}"
            )
            parts.append(line(d, brush.second, 2.4) + flat(oval(x, y, 2.4), darker(brush.second, 0.3)))
    parts.append(brush.skin(_CUSHIONS[shape], "ball"))
    creases = "M14 14Q26 22 34 34M86 14Q74 22 66 34M14 86Q26 78 34 66M86 86Q74 78 66 66"
    if shape == "lumbar":
        creases = "M9 29Q18 34 26 42M91 29Q82 34 74 42M9 71Q18 66 26 58M91 71Q82 66 74 58"
    parts.append(line(creases, brush.seam, 1.4, 0.7))
    if detail == "piping":
        parts.append(
            line(_CUSHIONS[shape], darker(brush.second, 0.4), 3.8) + line(_CUSHIONS[shape], brush.second, 2.4)
        )
    elif detail == "button":
        pulls = line("M50 50L40 38M50 50L60 38M50 50L40 62M50 50L60 62", brush.seam, 1.2, 0.8)
        parts.append(pulls + brush.trim(oval(50, 50, 5)) + flat(oval(48.5, 48.5, 1.6), (255, 255, 255), 0.6))
    return "".join(parts)


def _round_cushion(brush: Brush) -> str:
    """A round floor cushion: a pleated side below a face gathered in the middle."""
    detail = brush.look.detail
    side = "M6 42C0 54 2 66 10 73C22 84 36 88 50 88C64 88 78 84 90 73C98 66 100 54 94 42Z"
    turns = [i * math.pi / 12 for i in range(-6, 7)]
    pleats = "".join(
        f"M{50 + 44 * math.sin(a):.1f} {42 + 25 * math.cos(a):.1f}"
        f"Q{50 + 50 * math.sin(a):.1f} {58 + 22 * math.cos(a):.1f} "
        f"{50 + 42 * math.sin(a):.1f} {68 + 17 * math.cos(a):.1f}"
        for a in turns
    )
    folds = "".join(
        f"M{50 + 8 * math.sin(a):.1f} {42 + 4 * math.cos(a):.1f}"
        f"L{50 + 38 * math.sin(a):.1f} {42 + 21.5 * math.cos(a):.1f}"
        for a in (i * math.pi / 6 for i in range(12))
    )
    parts = [brush.skin(side, "round"), flat(side, (0, 0, 0), 0.14), line(pleats, brush.seam, 1.1, 0.8)]
    parts += [brush.skin(_TOP, "ball"), line(folds, brush.seam, 1.3, 0.8)]
    if detail == "piping":
        for d in (_TOP, "M10 73C22 84 36 88 50 88C64 88 78 84 90 73"):
            parts.append(line(d, darker(brush.second, 0.4), 4) + line(d, brush.second, 2.6))
    elif detail == "button":
        parts.append(
            brush.trim(oval(50, 42, 6.5, 4.4)) + flat(oval(48.5, 40.8, 1.8, 1.2), (255, 255, 255), 0.6)
        )
    else:  # a fringe around the lower edge
        fringe = "".join(
            f"M{50 + 42 * math.sin(a):.1f} {68 + 17 * math.cos(a):.1f}v9" for a in (t * 0.94 for t in turns)
        )
        parts.insert(0, line(fringe, darker(brush.second, 0.35), 4.4) + line(fringe, brush.second, 3))
    return "".join(parts)
