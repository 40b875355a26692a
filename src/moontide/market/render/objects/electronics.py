"""Headphones, cameras and phones, seen from the front."""

from moontide.market.render.paint import Brush, box, darker, flat, lighter, line, mirrored, oval, star, tube

_STEEL = (200, 204, 210)
_DARK = (40, 41, 46)


def headphones(brush: Brush) -> str:
    """Headphones over the ears; shapes studio (large cups), slim, retro (thin band, foam pads)."""
    shape, detail = brush.look.shape, brush.look.detail
    width = {"studio": 9, "slim": 6, "retro": 3.4}[shape]
    arc = "M16 60C10 6 90 6 84 60"
    parts = []
    if detail == "cable":
        parts.append(line("M18 84C20 98 44 98 46 90S60 84 64 97", _DARK, 2.4))
    elif detail == "mic":
        parts.append(tube("M16 82C18 94 30 97 42 94", _DARK, 3.4) + brush.trim(oval(45, 93.5, 6, 4), _DARK))
    parts.append(tube(arc, _STEEL if shape == "retro" else brush.main, width))
    if shape == "studio":
        parts.append(line("M30 26C42 18 58 18 70 26", darker(brush.main, 0.4), 6))
    pad = (58, 58, 64) if sum(brush.main) > 200 else (150, 150, 156)
    cup = {
        "studio": brush.trim(box(21, 47, 14, 42, 7), pad)
        + brush.skin("M24 46C8 44 3 58 3 68C3 78 8 92 24 90Z", "ball"),
        "slim": brush.trim(box(19, 52, 10, 32, 5), pad)
        + brush.skin("M20 52C10 52 7 60 7 68C7 76 10 84 20 84Z", "ball"),
        "retro": brush.trim(oval(20, 68, 10, 16), pad) + brush.skin(oval(14, 68, 9.5, 15), "ball"),
    }[shape]
    x = {"studio": 14, "slim": 13.5, "retro": 14}[shape]
    if detail == "ring":
        cup += line(oval(x, 68, 5, 11), brush.second, 2.6)
    elif detail == "logo":
        cup += flat(star(x, 68, 6.5), brush.second)
    else:
        cup += line(f"M{x} 58V78", brush.second, 2.4)
    return "".join(parts) + cup + mirrored(cup)


def _lens(x: float, y: float, r: float) -> str:
    """A camera's lens with its rings and reflections."""
    rings = (
        flat(oval(x, y, r), (70, 72, 78))
        + flat(oval(x, y, r * 0.9), (28, 28, 32))
        + flat(oval(x, y, r * 0.72), (62, 64, 70))
    )
    glass = flat(oval(x, y, r * 0.6), (26, 36, 66)) + flat(oval(x, y, r * 0.36), (70, 60, 130))
    return (
        rings
        + glass
        + flat(oval(x - r * 0.22, y - r * 0.24, r * 0.16), (255, 255, 255), 0.9)
        + flat(oval(x + r * 0.2, y + r * 0.22, r * 0.08), (190, 220, 255), 0.9)
    )


def camera(brush: Brush) -> str:
    """A photo camera; shapes reflex (pentaprism), compact, instant (prints below)."""
    shape, detail = brush.look.shape, brush.look.detail
    parts = []
    if detail == "strap":
        parts.append(
            line("M10 40C-6 -4 106 -4 90 40", darker(brush.second, 0.5), 5)
            + line("M10 40C-6 -4 106 -4 90 40", brush.second, 3.6)
        )
    if shape == "instant":
        parts.append(
            brush.trim(box(26, 80, 48, 17, 1), (252, 252, 248)) + flat(box(31, 80, 38, 12), (150, 196, 220))
        )
        parts.append(brush.skin("M14 26Q14 18 24 18H76Q86 18 86 26L92 78Q92 86 84 86H16Q8 86 8 78Z", "soft"))
        parts.append(
            flat("M10 74H91L92 80Q92 86 84 86H16Q8 86 8 80Z", darker(brush.main, 0.3))
            + line("M24 79H76", (30, 30, 34), 3.4)
        )
        parts.append(
            brush.trim(box(20, 24, 16, 11, 2), (236, 240, 244))
            + brush.trim(box(66, 24, 13, 11, 2), (54, 56, 64))
            + brush.trim(oval(79, 44, 3.6), (214, 48, 44))
        )
        center = (49, 52, 20)
    else:
        top = 26 if shape == "reflex" else 30
        if shape == "reflex":
            parts.append(
                brush.skin("M34 28L40 11H60L66 28Z", "down", rgb=_DARK)
                + flat(box(43, 15, 14, 7, 1.5), (190, 200, 214))
            )
        parts.append(
            brush.trim(box(13, top - 6, 15, 8, 2), _STEEL) + brush.trim(box(72, top - 5, 12, 7, 2), _DARK)
        )
        upper = (
            _STEEL
            if brush.look.color in ("black", "brown", "navy", "burgundy", "red", "green", "teal")
            else _DARK
        )
        parts.append(brush.trim(box(4, top, 92, 62 if shape == "reflex" else 54, 8), upper))
        parts.append(brush.skin(box(4, top + 13, 92, 38 if shape == "reflex" else 31, 1), "soft"))
        if shape == "compact":
            parts.append(
                brush.trim(box(12, 33, 16, 8, 2), (240, 244, 248))
                + brush.trim(box(38, 33, 13, 8, 2), (60, 62, 70))
            )
        center = (52, top + 32, 25 if shape == "reflex" else 21)
    if detail == "stripe":
        y = 66 if shape == "instant" else 62
        parts.append(
            flat(box(9.5 if shape == "instant" else 4, y, 81 if shape == "instant" else 92, 6), brush.second)
        )
    elif detail == "badge":
        parts.append(brush.trim(oval(17, 58, 5.5)))
    return "".join(parts) + _lens(*center)


_ICONS = ((236, 92, 80), (250, 190, 60), (90, 190, 110), (70, 150, 240), (160, 110, 220), (250, 250, 250))


def _screen(x: float, y: float, w: float, h: float, r: float, wall: tuple[int, int, int]) -> str:
    """A phone's screen: clock, rows of app icons, a dock."""
    parts = [
        flat(box(x, y, w, h, r), wall),
        flat(
            f"M{x} {y + h * 0.62:g}L{x + w} {y + h * 0.4:g}V{y + h - r}a{r} {r}"
            f" 0 0 1 -{r} {r}H{x + r}a{r} {r} 0 0 1 -{r} -{r}Z",
            lighter(wall, 0.28),
        ),
    ]
    for i in range(9):
        at = (x + w * (0.13 + 0.28 * (i % 3)), y + h * (0.3 + 0.15 * (i // 3)))
        parts.append(
            flat(
                box(round(at[0], 1), round(at[1], 1), round(w * 0.18, 1), round(w * 0.18, 1), 1.6),
                _ICONS[i % 6],
            )
        )
    parts.append(flat(box(x + 3, y + h - 12, w - 6, 9, 3), (255, 255, 255), 0.5))
    parts.append(
        flat(box(x + w / 2 - 7, y + h * 0.13, 14, 5, 1.5), (255, 255, 255))
        + flat(box(x + w / 2 - 6, y + 2.4, 12, 3, 1.5), (12, 12, 14))
    )
    return "".join(parts)


def phone(brush: Brush) -> str:
    """A smartphone, its colored back with lenses behind its screen; shapes slim, squared, rounded."""
    shape, detail = brush.look.shape, brush.look.detail
    w, r = {"slim": (38, 6), "squared": (43, 2.5), "rounded": (43, 10)}[shape]
    back = brush.skin(box(14, 4, w, 84, r), "diag")
    bump = (
        ""
        if detail == "ring"
        else brush.trim(box(18, 8, 15, 15 if detail == "dual" else 24, 4), darker(brush.main, 0.25))
    )
    spots = {
        "dual": ((22.5, 12.5), (28.5, 18.5)),
        "triple": ((22.5, 13), (28.5, 19.5), (22.5, 26)),
        "ring": ((26, 18),),
    }[detail]
    radius = 8 if detail == "ring" else 3.6
    lenses = "".join(
        flat(oval(x, y, radius), (30, 30, 34))
        + flat(oval(x, y, radius * 0.5), (60, 70, 130))
        + flat(oval(x - 1, y - 1, 0.9), (255, 255, 255))
        for x, y in spots
    )
    frame = brush.trim(box(42, 12, w, 84, r), darker(brush.main, 0.2), 1.2) + flat(
        box(43.2, 13.2, w - 2.4, 81.6, max(1.5, r - 1.2)), (16, 16, 20)
    )
    wall = brush.second if sum(brush.second) > 180 else (40, 70, 140)
    shine = flat(f"M{42 + w * 0.55:.1f} 15H{40 + w}V40Z", (255, 255, 255), 0.16)
    return back + bump + lenses + frame + _screen(45, 15, w - 6, 78, max(1.5, r - 3), wall) + shine
