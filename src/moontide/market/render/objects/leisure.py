"""Guitars, balls, teddy bears, bicycles and skateboards."""

import math

from moontide.market.render.paint import (
    Brush,
    bow,
    box,
    darker,
    flat,
    heart,
    lighter,
    line,
    mirrored,
    mix,
    oval,
    star,
    tube,
)

_WOOD = (132, 84, 48)
_METAL = (206, 208, 214)

_BODIES = {
    "acoustic": "M50 50C42 50 33 53 33 61C33 66 36 68 34 72C28 76 26 81 26 86C26 95"
    " 38 99 50 99C62 99 74 95 74 86C74 81 72 76 66 72C64 68 67 66 67 61"
    "C67 53 58 50 50 50Z",
    "electric": "M44 58C40 56 38 48 32 50C26 53 30 64 32 70C26 78 28 98 48 98C68 100"
    " 76 90 70 78C66 70 68 66 70 58C72 50 64 48 60 56C58 60 48 60 44 58Z",
    "flyingv": "M46 56H54L76 94Q78 99 72 99L66 98L50 76L34 98L28 99Q22 99 24 94Z",
}


def guitar(brush: Brush) -> str:
    """A guitar, tilted; shapes acoustic (sound hole), electric, flyingv."""
    shape, detail = brush.look.shape, brush.look.detail
    neck = (92, 60, 40)
    parts = [brush.skin(_BODIES[shape], "ball")]
    if shape == "acoustic":
        if detail == "stripe":
            parts.append(line(_BODIES[shape], brush.second, 2))
        parts.append(flat(oval(50, 68, 8.4), (36, 26, 22)) + line(oval(50, 68, 9.2), brush.second, 1.6))
        if detail == "pickguard":
            parts.append(brush.trim("M58 62C66 66 66 78 58 80C60 74 60 68 58 62Z"))
        parts.append(brush.trim(box(41, 85, 18, 4, 1), neck))
    else:
        if detail == "pickguard":
            guard = (
                "M44 62H58C60 68 62 76 60 84C54 90 44 88 42 80Z"
                if shape == "electric"
                else "M46 60H54L60 72L50 80L40 72Z"
            )
            parts.append(brush.trim(guard, (248, 246, 240)))
        elif detail == "stripe":
            parts.append(
                flat(
                    "M36 70L66 66L68 72L33 77Z" if shape == "electric" else "M37 72L63 72L66 78L34 78Z",
                    brush.second,
                )
            )
        pickups = box(44, 66, 12, 4, 1) + box(44, 74, 12, 4, 1)
        parts.append(flat(pickups, (30, 30, 34)) + brush.trim(box(43, 82, 14, 4, 1), _METAL))
        if shape == "electric":
            parts.append(flat(oval(63, 86, 2) + oval(66, 80, 2), (240, 240, 240)))
    parts.append(brush.trim(box(46.6, 15, 6.8, 48 if shape != "acoustic" else 46, 1), neck))
    parts.append(line("".join(f"M47 {y}H53" for y in range(20, 60, 5)), (226, 220, 200), 0.8))
    parts.append(line("M48.6 14V84M50 14V84M51.4 14V84", (238, 236, 226), 0.5))
    head = "M44.5 3Q50 0 55.5 3L54.5 17H45.5Z" if shape == "acoustic" else "M45 17L43 3Q52 -2 56 4L54.5 17Z"
    parts.append(brush.trim(head, darker(brush.main, 0.25)))
    pegs = "".join(oval(x, y, 1.7) for x in (42, 58) for y in (5, 9.5, 14))
    parts.append(flat(pegs, (232, 228, 214)) + line(pegs, (80, 70, 60), 0.5))
    if detail == "star":
        parts.append(
            flat(
                star(*{"acoustic": (38, 86), "electric": (38, 84), "flyingv": (50, 73)}[shape], 6),
                brush.second,
            )
        )
    return f'<g transform="rotate(24 50 50)">{"".join(parts)}</g>'


def _pentagon(x: float, y: float, r: float, turn: float = 0) -> str:
    """A regular pentagon."""
    points = ((x + r * math.sin(turn + i * 1.2566), y - r * math.cos(turn + i * 1.2566)) for i in range(5))
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) + "Z"


def ball(brush: Brush) -> str:
    """A ball; shapes soccer (dark patches), basketball (ribs), beach (panels)."""
    shape, detail = brush.look.shape, brush.look.detail
    whole = oval(50, 50, 44)
    ink = (34, 34, 38) if sum(brush.main) > 240 else (230, 230, 232)
    if shape == "soccer":
        base = lighter(brush.main, 0.82) if brush.look.color not in ("white", "silver") else (250, 250, 250)
        patch = brush.main if brush.look.color not in ("white", "silver") else _darkest(brush)
        spots = [(50 + 35 * math.sin(i * 1.2566), 50 - 35 * math.cos(i * 1.2566)) for i in range(5)]
        seams = "".join(
            f"M{50 + 15 * math.sin(i * 1.2566):.1f} {50 - 15 * math.cos(i * 1.2566):.1f}"
            f"L{50 + 27 * math.sin(i * 1.2566):.1f} {50 - 27 * math.cos(i * 1.2566):.1f}"
            for i in range(5)
        )
        ring = "".join(
            f"M{50 + 31 * math.sin(i * 1.2566 + 0.3):.1f} {50 - 31 * math.cos(i * 1.2566 + 0.3):.1f}"
            f"L{50 + 31 * math.sin(i * 1.2566 + 0.957):.1f} {50 - 31 * math.cos(i * 1.2566 + 0.957):.1f}"
            for i in range(5)
        )
        caps = "".join(_pentagon(x, y, 10, i * 1.2566 + math.pi) for i, (x, y) in enumerate(spots))
        art = (
            flat(whole, base)
            + flat(_pentagon(50, 50, 15) + caps, patch)
            + line(seams + ring, darker(base, 0.5), 1.4)
        )
    elif shape == "basketball":
        art = flat(whole, brush.main) + line(
            "M50 6V94M6 50H94M20 18C40 34 40 66 20 82M80 18C60 34 60 66 80 82", ink, 2.4
        )
    else:
        colors = (brush.main, (250, 250, 250), brush.second, (250, 250, 250), brush.main, brush.second)
        panels = ""
        for i, rgb in enumerate(colors):
            a, b = i * math.pi / 3 + 0.4, (i + 1) * math.pi / 3 + 0.4
            x0, y0, x1, y1 = (
                50 + 44 * math.sin(a),
                50 - 44 * math.cos(a),
                50 + 44 * math.sin(b),
                50 - 44 * math.cos(b),
            )
            panels += brush.trim(
                f"M42 36Q{(42 + x0) / 2 + 6:.1f} {(36 + y0) / 2:.1f} {x0:.1f} {y0:.1f}A44"
                f" 44 0 0 1 {x1:.1f} {y1:.1f}Q{(42 + x1) / 2 + 6:.1f} {(36 + y1) / 2:.1f} 42 36Z",
                rgb,
                0.7,
            )
        art = panels + brush.trim(oval(42, 36, 6), (250, 250, 250), 0.8)
    if detail == "star":
        art += flat(star(66, 66, 9), brush.second) + line(star(66, 66, 9), darker(brush.second, 0.4), 0.8)
    elif detail == "ring":
        art += line("M10 66C30 82 70 82 90 66", brush.second, 5)
    gloss = {"leather": "satin", "rubber": "soft", "plastic": "gloss"}[brush.look.material]
    return art + f'<path d="{whole}" fill="url(#g-ball-{gloss})" stroke="#2a2a2e" stroke-width="1.4"/>'


def _darkest(brush: Brush) -> tuple[int, int, int]:
    """The second color, or near black where that is pale."""
    return brush.second if sum(brush.second) < 420 else (40, 40, 44)


def teddy_bear(brush: Brush) -> str:
    """A teddy bear; shapes sitting, standing, chubby."""
    shape, detail = brush.look.shape, brush.look.detail
    pale = lighter(brush.main, 0.5) if sum(brush.main) < 600 else darker(brush.main, 0.14)
    wide = 25 if shape == "chubby" else 20
    parts = []
    if shape == "standing":
        leg = brush.skin("M32 70C28 80 28 90 30 94Q38 98 46 94L48 74Z", "soft")
    else:
        leg = brush.skin(oval(26, 84, 13, 12), "ball") + brush.trim(oval(24, 85, 7.5, 8), pale, 0.8)
    parts.append(brush.skin("M30 54C16 54 10 66 12 74C16 80 24 78 28 70Z", "soft"))
    parts.append(mirrored(parts[0]))
    if shape == "standing":
        parts.append(leg + mirrored(leg))
    parts.append(brush.skin(oval(50, 70, wide, 23), "ball"))
    parts.append(brush.trim(oval(50, 72, wide * 0.58, 14), pale, 0.7))
    if shape != "standing":
        parts.append(leg + mirrored(leg))
    ear = brush.skin(oval(27, 16, 10.5), "ball") + brush.trim(oval(27, 17, 5.6), pale, 0.6)
    parts.append(ear + mirrored(ear))
    parts.append(brush.skin(oval(50, 32, 28 if shape == "chubby" else 26, 23), "ball"))
    parts.append(brush.trim(oval(50, 40, 12, 9.5), pale, 0.8))
    eyes = oval(40, 28, 2.9) + oval(60, 28, 2.9)
    if sum(brush.main) < 260:
        parts.append(flat(oval(40, 28, 4.2) + oval(60, 28, 4.2), (236, 226, 210)))
    parts.append(
        flat(eyes, (26, 22, 22)) + flat(oval(39.2, 27.2, 0.9) + oval(59.2, 27.2, 0.9), (255, 255, 255))
    )
    parts.append(
        flat(oval(50, 36, 4, 2.9), (38, 28, 28))
        + line("M50 38V42M45 43.5Q48 46 50 42Q52 46 55 43.5", (38, 28, 28), 1.3)
    )
    if detail == "bowtie":
        parts.append(bow(brush, 50, 56, 11))
    elif detail == "scarf":
        parts.append(
            brush.trim("M32 50Q50 62 68 50L70 57Q50 68 30 57Z") + brush.trim("M56 60L64 58L66 78L57 79Z")
        )
    elif detail == "heart":
        parts.append(brush.trim(heart(50, 72, 9)))
    else:
        parts.append(
            brush.trim(box(53, 66, 12, 12, 1))
            + line("M52 68l3 0M52 74l3 0M57 65v3M62 65v3", (250, 246, 236), 0.9)
        )
    return "".join(parts)


def _wheel(x: float, rim: tuple[int, int, int]) -> str:
    """A spoked bicycle wheel."""
    spokes = "".join(
        f"M{x} 68L{x + 18 * math.cos(a):.1f} {68 + 18 * math.sin(a):.1f}"
        for a in (i * math.pi / 5 for i in range(10))
    )
    return (
        line(spokes, (150, 152, 158), 0.6)
        + line(oval(x, 68, 18.5), (38, 38, 42), 3.2)
        + line(oval(x, 68, 16.4), rim, 1)
        + flat(oval(x, 68, 2.4), (120, 122, 128))
    )


def bicycle(brush: Brush) -> str:
    """A bicycle, riding right; shapes city (low step), road (drop bar), cruiser (curved frame)."""
    shape, detail = brush.look.shape, brush.look.detail
    frame = {
        "city": "M22 68L46 68L36 34M46 68L70 38M40 48Q52 62 68 44M22 68L38 42",
        "road": "M22 68L46 68L36 34M46 68L69 40M36.5 38L68 36M22 68L37 40",
        "cruiser": "M22 68L46 68L37 36M46 68Q62 62 69 42M38 42Q54 32 68 38M22 68Q26 50 38 44",
    }[shape]
    width = 3.6 if brush.look.material == "metal" else 5
    parts = [_wheel(22, brush.second), _wheel(79, brush.second)]
    parts.append(tube(frame, brush.main, width) + tube("M67 30L70 40Q72 54 79 68", brush.main, width))
    if detail == "fenders":
        parts.append(
            line("M2 60A21 21 0 0 1 41 58M60 58A21 21 0 0 1 98 60", darker(brush.second, 0.4), 3.6)
            + line("M2 60A21 21 0 0 1 41 58M60 58A21 21 0 0 1 98 60", brush.second, 2.4)
        )
    parts.append(
        line("M35 33L34 28", (90, 92, 98), 2.4)
        + brush.trim("M24 26Q34 22 44 26Q42 30 34 30Q26 31 24 26Z", _WOOD)
    )
    bars = {
        "city": "M67 31L64 22Q58 18 54 22",
        "road": "M67 31L66 26L76 25Q84 28 80 36Q76 38 73 36",
        "cruiser": "M67 31L66 20Q54 14 48 22",
    }[shape]
    parts.append(
        line(bars, (60, 62, 68), 2.6)
        + line(
            {"city": "M58 20.5L54 22", "road": "M80 36L73 36", "cruiser": "M54 18L48 22"}[shape], _WOOD, 3.6
        )
    )
    if detail == "basket":
        parts.append(
            brush.trim("M72 26H94L90 44H76Z", (206, 160, 96))
            + line("M74 32H93M75 38H91M78 27L79 43M83 27V43M88 27L87 43", (130, 90, 46), 0.9)
        )
    elif detail == "rack":
        parts.append(
            line("M34 42H8M12 42L20 66M6 42V40", (80, 82, 88), 2.2) + brush.trim(box(10, 28, 18, 13, 1.5))
        )
    parts.append(
        line(oval(46, 68, 6), (70, 72, 78), 2.2)
        + line("M46 68L52 78M48.5 79H56", (50, 52, 58), 2.2)
        + line("M46 62H22M46 74H22", (90, 92, 98), 0.8)
    )
    return "".join(parts)


_DECKS = {
    "classic": "M16 30C4 24 4 10 16 10H84C96 10 96 24 84 30Z",
    "longboard": "M20 31C8 29 -2 24 2 19C12 12 30 10 50 10C72 10 92 13 98 20C99 25 90 30 80 31Z",
    "penny": "M14 30C6 27 6 15 14 12Q50 9 80 11C92 12 98 18 97 21C94 28 88 30 82 30Z",
}


def skateboard(brush: Brush) -> str:
    """A skateboard, tilted, its deck seen from above over two axles; shapes classic, longboard, penny."""
    shape, detail = brush.look.shape, brush.look.detail
    wheel_rgb = lighter(brush.second, 0.25)
    parts = []
    for x in (25, 75):
        parts.append(
            brush.trim(f"M{x - 6} 32H{x + 6}L{x + 4} 42H{x - 4}Z", _METAL)
            + line(f"M{x - 9} 43H{x + 9}", (120, 122, 128), 3)
        )
        for dx, y, r in ((7, 40, 5.6), (-2, 43, 6.8)):
            parts.append(brush.trim(oval(x + dx, y, r), wheel_rgb if dx < 0 else darker(wheel_rgb, 0.3), 1.2))
        parts.append(flat(oval(x - 2, 43, 3), (236, 236, 238)) + flat(oval(x - 2, 43, 1.2), (60, 60, 66)))
    under = _DECKS[shape]
    parts.insert(
        0, f'<g transform="translate(0 3.5)">{brush.trim(under, mix(_WOOD, (230, 190, 140), 0.5), 1.3)}</g>'
    )
    parts.append(brush.skin(under, "diag"))
    if detail == "stripe":
        parts.append(flat("M36 10.5L46 10.5L40 30L30 30ZM50 10.2L56 10.2L50 30L44 30Z", brush.second))
    elif detail == "star":
        parts.append(
            flat(star(50, 20.5, 9), brush.second) + line(star(50, 20.5, 9), darker(brush.second, 0.45), 0.7)
        )
    spots = [(x + dx, y) for x in (24, 76) for dx in (-3.5, 3.5) for y in (17, 24)]
    if detail == "bolts":
        parts.append(brush.trim("".join(oval(x, y, 2.3) for x, y in spots), rim=0.7))
        parts.append(flat("".join(oval(x, y, 0.8) for x, y in spots), (250, 250, 250)))
    else:
        heads = "".join(oval(x, y, 1.1) for x, y in spots)
        parts.append(flat(heads, (240, 240, 242) if sum(brush.main) < 380 else (60, 60, 64)))
    return f'<g transform="rotate(-14 50 50) translate(0 22)">{"".join(parts)}</g>'
