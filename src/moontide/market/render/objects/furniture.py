"""Lamps, armchairs and cushions."""

import math

from ..paint import Brush, box, darker, flat, lighter, line, mirrored, oval, ring_marks, tube

_WOOD = (128, 82, 48)

_SHADES = {
    "cone": "M36 8H64L86 50Q50 57 14 50Z",
    "drum": "M22 10Q50 5 78 10L82 48Q50 55 18 48Z",
    "dome": "M16 50C16 22 30 8 50 8C70 8 84 22 84 50Q50 57 16 50Z",
}


def table_lamp(brush: Brush) -> str:
    """A lit table lamp; shapes (of the shade) cone, drum, dome."""
    shape, detail = brush.look.shape, brush.look.detail
    foot = brush.second
    parts = [
        line("M50 50V62", (90, 84, 76), 3.4),
        flat("M20 51Q50 60 80 51L90 66Q50 74 10 66Z", (255, 236, 160), 0.28),
    ]
    if detail == "ball":
        parts.append(brush.skin("M44 62H56C76 66 76 86 60 91H40C24 86 24 66 44 62Z", "ball", rgb=foot))
        parts.append(brush.trim(box(34, 90, 32, 5, 2), darker(foot, 0.3)))
    elif detail == "column":
        parts.append(brush.skin("M46 54H54L55 88H45Z", "round", rgb=foot))
        parts.append(brush.skin("M45 86H55C70 88 74 92 74 95H26C26 92 30 88 45 86Z", "round", rgb=foot))
    else:
        parts.append(
            tube("M50 58L26 94", foot, 4.4)
            + tube("M50 58L74 94", foot, 4.4)
            + tube("M50 58V94", darker(foot, 0.2), 4.4)
        )
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


_PUFF = (
    "M50 10"
    + "".join(
        f"Q{50 + 50 * math.sin(a + 0.26):.1f} {50 - 47 * math.cos(a + 0.26):.1f} "
        f"{50 + 43 * math.sin(a + 0.52):.1f} {50 - 40 * math.cos(a + 0.52):.1f}"
        for a in (i * math.pi / 6 for i in range(12))
    )
    + "Z"
)  # twelve puffed wedges
_CUSHIONS = {
    "square": "M8 8Q50 18 92 8Q82 50 92 92Q50 82 8 92Q18 50 8 8Z",
    "round": _PUFF,
    "lumbar": "M3 24Q50 32 97 24Q91 50 97 76Q50 68 3 76Q9 50 3 24Z",
}


def cushion(brush: Brush) -> str:
    """A throw pillow; shapes square, round (pleated), lumbar (wide)."""
    shape, detail = brush.look.shape, brush.look.detail
    parts = []
    corners = {
        "square": ((8, 8), (92, 8), (8, 92), (92, 92)),
        "lumbar": ((3, 24), (97, 24), (3, 76), (97, 76)),
        "round": ((50, 10), (50, 90), (8, 50), (92, 50)),
    }[shape]
    if detail == "tassels":
        for x, y in corners:
            dx, dy = (0 if x == 50 else 1 if x > 50 else -1), (0 if y == 50 else 1 if y > 50 else -1)
            d = (
                f"M{x} {y}l{7 * dx + 3 * dy} {7 * dy - 3 * dx}M{x} {y}l{8 * dx} {8 * dy}"
                f"M{x} {y}l{7 * dx - 3 * dy} {7 * dy + 3 * dx}"
            )
            parts.append(line(d, brush.second, 2.4) + flat(oval(x, y, 2.4), darker(brush.second, 0.3)))
    parts.append(brush.skin(_CUSHIONS[shape], "ball"))
    if shape == "round":
        folds = ring_marks(50, 50, 6, 40)
        parts.append(line(folds, brush.seam, 1.2, 0.8))
    else:
        creases = "M14 14Q26 22 34 34M86 14Q74 22 66 34M14 86Q26 78 34 66M86 86Q74 78 66 66"
        if shape == "lumbar":
            creases = "M9 29Q18 34 26 42M91 29Q82 34 74 42M9 71Q18 66 26 58M91 71Q82 66 74 58"
        parts.append(line(creases, brush.seam, 1.4, 0.7))
    if detail == "piping":
        parts.append(
            line(_CUSHIONS[shape], darker(brush.second, 0.4), 3.8) + line(_CUSHIONS[shape], brush.second, 2.4)
        )
    elif detail == "button":
        pulls = (
            ""
            if shape == "round"
            else line("M50 50L40 38M50 50L60 38M50 50L40 62M50 50L60 62", brush.seam, 1.2, 0.8)
        )
        parts.append(pulls + brush.trim(oval(50, 50, 5)) + flat(oval(48.5, 48.5, 1.6), (255, 255, 255), 0.6))
    return "".join(parts)
