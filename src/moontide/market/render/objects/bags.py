"""Bags, seen from the front."""

from moontide.market.render.paint import (
    Brush,
    bow,
    box,
    darker,
    flat,
    lighter,
    line,
    mirrored,
    oval,
    star,
    tube,
)

_METAL = (222, 190, 96)


def _studs(*spots: tuple[float, float]) -> str:
    """Small metal rivets."""
    return flat("".join(oval(x, y, 1.8) for x, y in spots), _METAL)


_BAGS = {
    "tote": "M16 40H84L90 90Q50 95 10 90Z",
    "trapeze": "M28 38H72C80 38 84 44 86 52L93 86Q94 92 87 92H13Q6 92 7 86L14 52C16 44 20 38 28 38Z",
    "saddle": "M14 44C14 38 86 38 86 44C94 66 86 92 62 92H38C14 92 6 66 14 44Z",
}


def handbag(brush: Brush) -> str:
    """A woman's bag; shapes tote (open top), trapeze, saddle (round with a flap)."""
    shape, detail = brush.look.shape, brush.look.detail
    dark = darker(brush.main, 0.3)
    handle = {
        "tote": "M30 46C30 0 70 0 70 46",
        "trapeze": "M34 40C34 6 66 6 66 40",
        "saddle": "M18 44C22 -8 78 -8 82 44",
    }[shape]
    parts = []
    if detail == "chain":
        parts.append(line(handle, darker(_METAL, 0.4), 4.6) + line(handle, _METAL, 3, dash="3.4 2.6"))
    else:
        parts.append(tube(handle, dark, 5.4))
    parts.append(brush.skin(_BAGS[shape], "soft"))
    if shape == "tote":
        parts.append(
            brush.trim("M16 40H84L85 48H15Z", dark) + tube("M30 47C30 4 70 4 70 47", dark, 5.4)
            if detail != "chain"
            else brush.trim("M16 40H84L85 48H15Z", dark)
        )
        parts.append(_studs((30, 52), (70, 52)) + brush.stitch("M14 84Q50 89 86 84"))
    elif shape == "trapeze":
        parts.append(
            brush.skin(
                "M24 39H76C82 46 84 56 82 62C70 68 30 68 18 62C16 56 18 46 24 39Z", "down", pattern=False
            )
        )
        parts.append(brush.stitch("M21 60C34 65 66 65 79 60M12 84H88") + _studs((34, 42), (66, 42)))
    else:
        parts.append(
            brush.skin(
                "M14 44C14 38 86 38 86 44C92 58 84 72 62 74H38C16 72 8 58 14 44Z", "down", pattern=False
            )
        )
        parts.append(brush.stitch("M16 52C16 66 28 71 40 71H60C72 71 84 66 84 52"))
    clasp_y = {"tote": 54, "trapeze": 64, "saddle": 72}[shape]
    if detail == "bow":
        parts.append(bow(brush, 50, clasp_y, 13))
    elif detail == "tassel":
        fringe = "".join(f"M{x} 66V86" for x in (66, 69, 72, 75, 78))
        parts.append(
            line("M72 46V60", brush.second, 2)
            + line(fringe, brush.second, 2.2)
            + brush.trim(box(66, 59, 12, 7, 2))
        )
    if detail in ("clasp", "chain", "tassel"):
        parts.append(
            brush.trim(box(44, clasp_y - 5, 12, 10, 2.5), _METAL) + flat(oval(50, clasp_y, 1.8), (90, 70, 30))
        )
    return "".join(parts)


_PACKS = {
    "round": "M20 92C14 92 13 88 13 82V44C13 22 28 10 50 10C72 10 87 22 87 44V82C87 88 86 92 80 92Z",
    "square": "M22 93C16 93 15 90 15 84V24C15 16 20 12 28 12H72C80 12 85 16 85 24V84C85 90 84 93 78 93Z",
    "rolltop": "M22 93C16 93 15 90 15 84V30L20 14H80L85 30V84C85 90 84 93 78 93Z",
}


def backpack(brush: Brush) -> str:
    """A rucksack; shapes round, square, rolltop."""
    shape, detail = brush.look.shape, brush.look.detail
    dark = darker(brush.main, 0.3)
    parts = [tube("M40 13C40 1 60 1 60 13", dark, 4.6)]
    side = "M15 50C4 54 4 82 14 86Z"
    parts.append(brush.trim(side, dark) + mirrored(brush.trim(side, dark)))
    parts.append(brush.skin(_PACKS[shape], "soft"))
    if shape == "rolltop":
        parts.append(brush.skin(box(17, 10, 66, 13, 5), "down", rgb=dark))
        parts.append(
            line("M32 10V48M68 10V48", brush.second, 4)
            + flat(box(29, 34, 6, 7, 1) + box(65, 34, 6, 7, 1), _METAL)
        )
    else:
        zip_d = (
            "M20 44C20 26 34 18 50 18C66 18 80 26 80 44"
            if shape == "round"
            else "M20 50V26Q20 18 28 18H72Q80 18 80 26V50"
        )
        parts.append(line(zip_d, (50, 50, 56), 2.6) + line(zip_d, (220, 220, 224), 1.1, dash="1.3 1.3"))
        parts.append(flat(box(78, 44, 4, 9, 1.5), _METAL))
    pocket = "M26 90V64Q26 56 34 56H66Q74 56 74 64V90Z"
    if detail == "twopockets":
        for x in (20, 53):
            parts.append(
                brush.trim(f"M{x} 88V66Q{x} 60 {x + 6} 60H{x + 21}Q{x + 27} 60 {x + 27} 66V88Z", brush.second)
            )
            parts.append(line(f"M{x + 2} 68H{x + 25}", darker(brush.second, 0.5), 1.6))
    else:
        parts.append(brush.skin(pocket, "soft", rgb=brush.second if detail == "pocket" else dark))
        parts.append(line("M29 65H71", (50, 50, 56), 2.4) + flat(box(66, 64, 3.6, 8, 1), _METAL))
    if detail == "patch":
        parts.append(brush.trim(oval(50, 40, 10), (246, 243, 236)) + flat(star(50, 41, 8), brush.mark))
    elif detail == "buckles":
        strap = (120, 78, 46)
        parts.append(
            line("M36 42V76M64 42V76", darker(strap, 0.4), 6) + line("M36 42V76M64 42V76", strap, 4.6)
        )
        parts.append(line(box(32.5, 58, 7, 7, 1) + box(60.5, 58, 7, 7, 1), _METAL, 1.8))
    return "".join(parts) + line("M19 70Q18 80 20 88", lighter(brush.main, 0.4), 1.2, 0.6)
