"""Things of the kitchen and the table, seen from slightly above."""

from moontide.market.render.paint import (
    RGB,
    Brush,
    box,
    darker,
    flat,
    flower,
    heart,
    lighter,
    line,
    mix,
    oval,
    star,
    tube,
)

_COFFEE = (92, 54, 30)
_WOOD = (150, 96, 54)
_STEEL = (196, 200, 206)


def _hollow(
    brush: Brush, x: float, y: float, rx: float, ry: float, inside: RGB, fill: RGB | None = None
) -> str:
    """The open mouth of a vessel, with a drink in it if `fill` is given."""
    mouth = brush.trim(oval(x, y, rx, ry), lighter(brush.main, 0.25), 1.1)
    mouth += flat(oval(x, y + 0.6, rx - 2, ry - 1.1), darker(inside, 0.3))
    return mouth + (flat(oval(x, y + 1.6, rx - 3.4, ry - 1.9), fill) if fill else "")


_MUGS = {
    "straight": ("M14 20V82Q14 92 26 92H56Q68 92 68 82V20Z", 41, 20, 27, 68, 30, 74),
    "tall": ("M20 8V84Q20 93 30 93H54Q64 93 64 84V8Z", 42, 8, 22, 64, 26, 74),
    "round": ("M16 22C8 44 8 70 22 88Q24 91 30 91H54Q60 91 62 88C76 70 76 44 68 22Z", 42, 22, 26, 71, 34, 72),
    "conical": ("M9 20L23 86Q25 92 32 92H52Q59 92 61 86L75 20Z", 42, 20, 33, 70, 30, 66),
}


def mug(brush: Brush) -> str:
    """A coffee mug with its handle at the right; shapes straight, tall, round, conical."""
    outline, x, top, rx, edge, high, low = _MUGS[brush.look.shape]
    detail = brush.look.detail
    tilt = 6 if brush.look.shape == "conical" else 0
    handle = f"M{edge - 3} {high}C{edge + 28} {high - 6} {edge + 26} {low + 4} {edge - 4 - tilt} {low}"
    parts = [tube(handle, brush.second if detail == "inside" else brush.main, 8)]
    parts.append(brush.skin(outline, "round"))
    if detail == "heart":
        parts.append(brush.trim(heart(x, 52, 12)))
    elif detail == "band":
        width = 26 if brush.look.shape == "tall" else 27
        left, right = x - width, x + width
        if brush.look.shape == "tall":
            left, right = 20, 64
        elif brush.look.shape == "straight":
            left, right = 14, 68
        elif brush.look.shape == "round":
            left, right = 11, 73
        else:
            left, right = 14, 70
        slope = 2 if brush.look.shape == "conical" else 0
        parts.append(
            flat(f"M{left} 44Q{x} 50 {right} 44L{right - slope} 58Q{x} 64 {left + slope} 58Z", brush.second)
        )
        parts.append(flat(f"M{left} 44h10v16h-10Z", (255, 255, 255), 0.18))
    inside = brush.second if detail == "inside" else brush.main
    parts.append(_hollow(brush, x, top, rx, 6, inside, _COFFEE))
    return "".join(parts)


_POTS = {
    "round": ("M22 46C10 56 10 78 26 88Q46 93 66 88C82 78 82 56 70 46Q46 38 22 46Z", 46, 44, 78),
    "tall": ("M28 34C20 54 18 76 26 90Q46 94 66 90C74 76 72 54 64 34Q46 28 28 34Z", 46, 32, 72),
    "squat": ("M20 56C8 64 10 82 26 88Q46 92 66 88C82 82 84 64 72 56Q46 48 20 56Z", 46, 54, 79),
}


def teapot(brush: Brush) -> str:
    """A teapot with the spout at the left; shapes round, tall, squat."""
    outline, x, top, edge = _POTS[brush.look.shape]
    detail = brush.look.detail
    grip = brush.second if detail == "handle" else brush.main
    mid = (top + 88) / 2
    handle = f"M{edge - 10} {top + 6}C{edge + 20} {top - 6} {edge + 24} {mid + 18} {edge - 8} {mid + 14}"
    parts = [tube(handle, grip, 6.5)]
    left = 2 * x - edge
    spout = (
        f"M{left + 8} {mid + 16}C{left - 8} {mid + 14} {left - 6} {mid - 8}"
        f" {left - 14} {top - 2}L{left - 6} {top - 6}C{left + 4} {mid - 10}"
        f" {left + 6} {mid - 6} {left + 14} {mid - 8}Z"
    )
    parts.append(brush.skin(spout, "soft", pattern=False))
    parts.append(brush.skin(outline, "ball" if brush.look.shape != "tall" else "round"))
    wide = 17 if brush.look.shape == "tall" else 20
    lid = (
        f"M{x - wide} {top}C{x - wide + 4} {top - 14} {x + wide - 4} {top - 14}"
        f" {x + wide} {top}Q{x} {top + 7} {x - wide} {top}Z"
    )
    parts.append(brush.skin(lid, "soft", pattern=False) + brush.trim(oval(x, top - 13.5, 5, 4.4), grip))
    parts.append(flat(oval(x - 1.5, top - 15, 1.4), (255, 255, 255), 0.7))
    if detail == "band":
        parts.append(line(f"M{left + 5} {mid + 4}Q{x} {mid + 12} {edge - 5} {mid + 4}", brush.second, 5))
    elif detail == "flower":
        parts.append(flower(x, mid + 4, 12, brush.second))
    return "".join(parts) + brush.trim(box(x - 14, 88.5, 28, 4, 1.5), darker(brush.main, 0.3))


def frying_pan(brush: Brush) -> str:
    """A frying pan from above, handle to the upper right; shapes round, square (grill), deep."""
    shape, detail = brush.look.shape, brush.look.detail
    grip = _WOOD if detail == "wood" else (44, 44, 48)
    bar = "M62 38L92 8"
    parts = [
        line(bar, darker(grip, 0.5), 10.5)
        + line(bar, grip, 8.5)
        + line("M66 32L90 8", lighter(grip, 0.4), 1.6)
    ]
    parts.append(line("M60 40L70 30", _STEEL, 6.5) + flat(oval(91.5, 8.5, 1.7), (245, 245, 245)))
    if detail == "helper":
        parts.append(tube("M8 62C-2 78 22 102 38 92", (60, 60, 66), 5))
    well = darker(mix(brush.main, (60, 60, 64), 0.35), 0.35)
    if shape == "square":
        parts.append(brush.skin(box(6, 28, 66, 66, 13), "diag") + brush.trim(box(12, 34, 54, 54, 8), well))
        parts.append(line("".join(f"M18 {y}H60" for y in range(42, 86, 8)), lighter(well, 0.22), 2.4))
    else:
        rim = 9 if shape == "deep" else 6
        parts.append(brush.skin(oval(40, 61, 36), "diag") + brush.trim(oval(40, 61, 36 - rim), well))
        if shape == "deep":
            parts.append(line("M17 52A26 26 0 0 1 34 36", lighter(well, 0.35), 2.4))
        parts.append(line(oval(40, 61, 20) + oval(40, 61, 12), lighter(well, 0.14), 0.9))
    parts.append(line("M20 50C24 44 28 41 34 39", (255, 255, 255), 2, 0.4))
    if detail == "rivets":
        parts.append(flat(oval(61, 45, 1.8) + oval(56, 40, 1.8), (226, 228, 232)))
    elif detail == "egg":
        white = "M28 56C26 46 40 42 46 48C56 46 62 58 54 66C54 76 40 78 36 72C26 74 22 62 28 56Z"
        parts.append(
            brush.trim(white, (252, 250, 244), 0.6)
            + flat(oval(41, 60, 8), (246, 178, 40))
            + flat(oval(38.5, 57, 2.2), (255, 236, 190))
        )
    return "".join(parts)


_BOTTLES = {
    "sport": "M32 32Q32 26 40 24H60Q68 26 68 32V48Q65 53 65 57Q65 61 68 66V90Q68"
    " 96 61 96H39Q32 96 32 90V66Q35 61 35 57Q35 53 32 48Z",
    "slim": "M34 38C34 28 42 28 42 20H58C58 28 66 28 66 38V90Q66 96 59 96H41Q34 96 34 90Z",
    "flask": "M29 34Q29 27 36 26H64Q71 27 71 34V89Q71 96 64 96H36Q29 96 29 89Z",
}


def water_bottle(brush: Brush) -> str:
    """A drinking bottle with a cap; shapes sport (with a spout), slim, flask (wide, with a carrying lid)."""
    shape, detail = brush.look.shape, brush.look.detail
    lid = (52, 54, 60) if brush.look.color not in ("black", "navy") else (226, 228, 232)
    parts = []
    if shape == "sport":
        parts.append(
            brush.trim(box(45, 3, 10, 10, 3), brush.second)
            + brush.trim("M36 25Q37 13 44 12H56Q63 13 64 25Z", lid)
        )
    elif shape == "slim":
        parts.append(
            brush.trim(box(40, 6, 20, 15, 2.5), lid)
            + line("M44 8V19M48 8V19M52 8V19M56 8V19", lighter(lid, 0.3), 0.9)
        )
    else:
        parts.append(tube("M38 17C38 0 62 0 62 17", lid, 5) + brush.trim(box(32, 14, 36, 13, 3), lid))
    if detail == "loop":
        parts.append(
            tube(
                "M64 18C82 16 84 38 74 46" if shape != "slim" else "M60 14C78 14 80 34 70 42",
                brush.second,
                3.6,
            )
        )
    if brush.look.material == "glass":
        parts.append(flat(_BOTTLES[shape], (226, 238, 244)))
    parts.append(brush.skin(_BOTTLES[shape], "round"))
    left = {"sport": 32, "slim": 34, "flask": 29}[shape]
    if brush.look.material == "glass":
        parts.append(flat(box(left + 2, 52, 96 - 2 * left, 42, 4), (150, 200, 230), 0.45))
    if detail == "label":
        parts.append(
            brush.trim(box(left + 6, 66, 88 - 2 * left, 18, 2), (248, 246, 240))
            + flat(star(50, 75.5, 6), brush.mark)
        )
    elif detail == "band":
        parts.append(
            flat(box(left + 0.5, 72, 99 - 2 * left, 8), brush.second)
            + flat(box(left + 4, 72, 5, 8), (255, 255, 255), 0.4)
        )
    return "".join(parts)


_BOWLS = {
    "bowl": ("M26 8C18 30 24 54 50 56C76 54 82 30 74 8Z", 8, 24, 56),
    "tulip": ("M32 6C24 20 26 48 50 54C74 48 76 20 68 6Z", 6, 18, 54),
    "flute": ("M38 4C34 26 36 54 50 60C64 54 66 26 62 4Z", 4, 12, 60),
}
_WINE = {
    "bowl": "M22.5 30C24 46 34 54 50 54C66 54 76 46 77.5 30Q50 36 22.5 30Z",
    "tulip": "M27.5 28C29 42 38 50 50 52C62 50 71 42 72.5 28Q50 34 27.5 28Z",
    "flute": "M36.5 22C36.5 40 40 54 50 58C60 54 63.5 40 63.5 22Q50 26 36.5 22Z",
}


def wine_glass(brush: Brush) -> str:
    """A stemmed glass; shapes bowl, tulip, flute. The color tints stem and foot, and bowls left empty."""
    shape, detail = brush.look.shape, brush.look.detail
    outline, top, rx, low = _BOWLS[shape]
    tint = mix(brush.main, (236, 244, 248), 0.35)
    stem = (
        f"M48 {low - 2}L48.5 86C46 90 36 91 30 93Q28 96 32 96H68Q72 96 70 93"
        f"C64 91 54 90 51.5 86L52 {low - 2}Z"
    )
    parts = [
        brush.trim(stem, tint, 1.1),
        line("M49 64V86", (255, 255, 255), 1, 0.8),
        line("M36 94H62", (255, 255, 255), 0.9, 0.7),
    ]
    parts.append(flat(outline, mix(tint, (240, 246, 250), 0.45)))
    if brush.look.pattern != "plain":
        parts.append(
            f'<path d="{outline}" fill="url(#p-{brush.look.pattern}-%02x%02x%02x)" fill-opacity=".5"/>'
            % brush.second
        )
    drinks = {"red": (126, 16, 44), "white": (240, 216, 130)}
    if detail in drinks:
        rgb = drinks[detail]
        y = {"bowl": 30, "tulip": 28, "flute": 22}[shape]
        wide = {"bowl": 27.5, "tulip": 22.5, "flute": 13.5}[shape]
        parts.append(flat(_WINE[shape], rgb) + flat(oval(50, y, wide, 3), lighter(rgb, 0.25)))
    parts.append(line(outline, darker(mix(brush.main, (120, 136, 150), 0.6), 0.3), 1.3))
    parts.append(flat(oval(50, top, rx, 2.6), (255, 255, 255), 0.55))
    ring = (222, 180, 76) if detail == "rim" else darker(mix(brush.main, (120, 136, 150), 0.6), 0.2)
    parts.append(line(oval(50, top, rx, 2.6), ring, 2.4 if detail == "rim" else 1.1))
    left = 50 - rx
    return "".join(parts) + line(
        f"M{left + 4} {top + 8}Q{left + 1} {top + 24} {left + 9} {top + 36}", (255, 255, 255), 2.4, 0.8
    )
