"""Shoes, seen from the side with the toe to the right."""

from moontide.market.render.paint import Brush, bow, box, darker, flat, flower, lighter, line, oval, star

_WHITE = (244, 243, 240)
_METAL = (214, 190, 120)


def _laces(brush: Brush, rows: list[tuple[float, float, float, float]]) -> str:
    """Short thick bars with a dark rim, one per (x0, y0, x1, y1)."""
    d = "".join(f"M{x0:g} {y0:g}L{x1:g} {y1:g}" for x0, y0, x1, y1 in rows)
    rgb = _WHITE if brush.look.color not in ("white", "beige", "silver") else (70, 72, 80)
    return line(d, brush.edge, 3.2) + line(d, rgb, 2)


_SNEAKER_UPPERS = {
    "low": "M8 72C6 62 7 52 10 44C12 40 17 40 20 43C25 48 33 49 38 42L42 36C45 33 50 34 53 37L68 51"
    "C76 56 90 56 94 65C96 70 95 72 95 74L8 74Z",
    "high": "M9 73C7 55 9 38 11 18C12 13 16 12 21 14C28 16 36 16 43 14C46 14 47 17 47 20L52 36L69 52"
    "C77 57 90 57 94 65C96 70 95 72 95 74L9 74Z",
    "runner": "M6 70C4 62 2 50 8 40C11 36 16 40 19 44C25 50 34 49 39 41L44 36C48 33 52 35 55 38L69 50"
    "C78 54 92 54 96 64C97 69 95 72 95 74L8 74Z",
}


def sneaker(brush: Brush) -> str:
    """A lace-up sports shoe; shapes low, high, runner."""
    shape, detail = brush.look.shape, brush.look.detail
    sole = _WHITE if brush.look.color not in ("white", "silver") else brush.second
    parts = [brush.skin(_SNEAKER_UPPERS[shape], "soft")]
    if shape != "high":
        parts.append(
            flat(
                "M11 45C14 43 17 43 20 45C26 51 34 51 39 44L41 41C35 42 30 45 25 44C20 42 14 42 11 45Z",
                (40, 40, 46),
            )
        )
    toe = "M72 73C71 64 76 58 82 57C90 59 95 64 95 74Z"
    parts.append(brush.trim(toe, _WHITE if shape == "high" else darker(brush.main, 0.22)))
    parts.append(_sneaker_mark(brush, detail))
    top = 22 if shape == "high" else 39
    steps = 5 if shape == "high" else 4
    rows = [
        (
            44 + 5.6 * i + (i > 2) * 1,
            top + (52 - top) * i / steps + 1,
            51 + 5.6 * i,
            top + (52 - top) * i / steps - 4,
        )
        for i in range(steps)
    ]
    tongue = f"M41 {top - 6}L47 {top - 9}L53 {top - 5}L70 51L64 57L50 {top + 8}Z"
    parts.append(brush.trim(tongue, darker(brush.main, 0.3)))
    parts.append(_laces(brush, [(x0 - 1, y0 + 4, x1 + 2, y1 + 2) for x0, y0, x1, y1 in rows]))
    if shape == "runner":
        parts.append(
            brush.trim(
                "M3 76C2 72 4 70 8 70L95 70C99 72 98 80 94 84L76 84C70 80 60 82 50 86L10 87C4 86 3 80 3 76Z",
                sole,
            )
        )
        parts.append(line("M5 79C30 82 50 76 70 77L96 77", brush.second if sole == _WHITE else _WHITE, 2))
        parts.append(line("M10 88L50 87M74 85L93 85", (60, 60, 66), 2.2))
    else:
        parts.append(brush.trim(box(6, 72, 90, 13, 5), sole))
        parts.append(line("M9 77.5L93 77.5", brush.second if sole == _WHITE else darker(sole, 0.35), 1.8))
        parts.append(line("M10 85L92 85", (90, 84, 76), 2))
    return "".join(parts)


def _sneaker_mark(brush: Brush, detail: str) -> str:
    """What the side of a sneaker shows."""
    if detail == "swoosh":
        return brush.trim("M24 62C28 70 44 66 62 52C46 60 34 62 32 55C28 56 22 58 24 62Z")
    if detail == "stripes":
        d = "M30 70L39 50L44 50L36 70ZM40 70L48 53L53 53L46 70ZM50 70L57 56L62 58L56 70Z"
        return brush.trim(d)
    if detail == "star":
        return brush.trim(oval(32, 58, 9.5), _WHITE) + flat(star(32, 58, 7.5), brush.mark)
    return brush.trim("M8 72C6.5 62 7 53 10 46C16 50 22 62 22 72Z")


_HEEL_UPPERS = {
    "pump": "M12 40C10 32 14 28 19 30C23 40 34 56 52 66C56 64 62 62 66 63C78 66"
    " 92 74 96 81C97 84 95 85 92 85L66 85C50 84 34 72 24 58C18 54 13 48 12 40Z",
    "strap": "M12 44C10 34 13 30 19 32C23 42 34 56 50 66C58 66 62 64 66 63C78 66"
    " 92 74 96 81C97 84 95 85 92 85L66 85C50 84 34 72 24 58C18 54 13 50 12 44Z",
    "platform": "M12 34C10 26 14 22 19 24C23 34 34 48 52 58C56 56 62 54 66 55C78 58"
    " 92 66 96 73C97 76 95 77 92 77L66 77C50 76 34 64 24 52C18 48 13 42 12 34Z",
}


def high_heel(brush: Brush) -> str:
    """A stiletto shoe; shapes pump, strap (around the ankle), platform (thick sole)."""
    shape, detail = brush.look.shape, brush.look.detail
    lift = 8 if shape == "platform" else 0
    heel_rgb = brush.second if detail == "contrast" else darker(brush.main, 0.25)
    parts = [
        brush.trim(
            f"M13 {46 - lift}C18 {52 - lift} 24 {58 - lift} 29 {64 - lift}C22 70"
            f" 19 80 18.5 93L12.5 93C13 80 12 62 11 {50 - lift}Z",
            heel_rgb,
        )
    ]
    if shape == "strap":
        parts.append(
            line(
                "M15 36C12 28 12 20 14 14C22 10 34 10 38 15C39 20 34 24 28 25C22 26 16 25 13.5 22",
                brush.edge,
                5,
            )
        )
        parts.append(
            line(
                "M15 36C12 28 12 20 14 14C22 10 34 10 38 15C39 20 34 24 28 25C22 26 16 25 13.5 22",
                brush.main,
                3.2,
            )
        )
        parts.append(brush.trim(box(33, 13, 6, 6, 1.5), _METAL))
    parts.append(
        flat(
            f"M16 {32 - lift}C24 {28 - lift} 40 {50 - lift} 66 {63 - lift}L52 {68 - lift}"
            f"C34 {58 - lift} 24 {44 - lift} 19 {32 - lift}Z",
            (226, 190, 160),
        )
    )
    parts.append(brush.skin(_HEEL_UPPERS[shape], "soft"))
    sole = brush.second if detail == "contrast" else (70, 44, 34)
    if shape == "platform":
        parts.append(
            brush.skin(
                "M50 70C58 76 78 76 96 75C99 82 98 92 93 93L66 93C58 90 52 82 50 70Z",
                "down",
                rgb=darker(brush.main, 0.2),
            )
        )
    else:
        parts.append(line("M26 61C36 74 50 84.5 66 85.5L93 86", sole, 2.6))
    parts.append(line("M68 86.5L94 86.5" if shape != "platform" else "M67 93.5L93 93.5", (60, 40, 34), 1.6))
    drop = 73 - lift
    if detail == "bow":
        parts.append(bow(brush, 72, drop - 6, 8))
    elif detail == "buckle":
        parts.append(line(f"M58 {drop + 8}Q68 {drop - 4} 77 {drop - 6}", brush.second, 4))
        parts.append(line(box(66, drop - 5, 7, 7, 1), _METAL, 2))
    return "".join(parts)


_BOOT_TOPS = {"ankle": 34, "mid": 20, "tall": 6}


def boot(brush: Brush) -> str:
    """A boot with a heavy sole; shapes ankle, mid, tall."""
    top, detail = _BOOT_TOPS[brush.look.shape], brush.look.detail
    upper = (
        f"M20 {top}C30 {top - 3} 44 {top - 3} 53 {top}L54 48C56 54 62 57 70 59C82 61 89 66 90 76L90 82L17 82"
        f"C15 72 18 62 19 52Z"
    )
    parts = [flat(oval(36.5, top, 16.5, 3.4), (46, 38, 36)), brush.skin(upper, "soft")]
    parts.append(
        flat(oval(36.5, top, 16.5, 3), (50, 42, 40)) + line(f"M20 {top}Q36 {top + 7} 53 {top}", brush.seam, 2)
    )
    parts.append(brush.stitch("M66 58C62 66 62 74 64 81M19 66C28 66 34 72 35 81"))
    parts.append(_boot_detail(brush, detail, top))
    parts.append(
        brush.trim("M15 80L91 80C93 84 92 88 91 90L46 90L44 94L16 94C14 90 14 84 15 80Z", (58, 46, 40))
    )
    parts.append(line("M18 83.5L89 83.5", (226, 190, 120), 1, dash="2.5 1.8"))
    return "".join(parts)


def _boot_detail(brush: Brush, detail: str, top: float) -> str:
    """Laces, buckle straps, a zip or an elastic side."""
    if detail == "laces":
        rows, y = [], top + 8
        while y < 56:
            shift = max(0, y - 46) * 0.9
            rows.append((42 + shift, y + 2, 53 + shift, y - 1))
            y += 6
        return brush.trim(
            f"M44 {top + 1}L53 {top}L54 48L66 58L58 62L44 52Z", darker(brush.main, 0.35)
        ) + _laces(brush, rows)
    if detail == "buckle":
        d = f"M19 62L58 54M20 {top + 10}L53 {top + 8}"
        buckles = box(40, 54.5, 8, 8, 1) + box(38, top + 5, 8, 8, 1)
        return line(d, brush.edge, 6) + line(d, brush.second, 4.4) + line(buckles, _METAL, 1.9)
    if detail == "zip":
        return (
            line(f"M36 {top + 3}L36 76", (48, 48, 52), 3.4)
            + line(f"M36 {top + 3}L36 76", (222, 222, 226), 1.7, dash="1.2 1.4")
            + flat(box(34.2, top + 4, 3.6, 8, 1), _METAL)
        )
    return brush.trim(f"M28 {top + 1}L44 {top + 1}L41 60L32 60Z", brush.second) + line(
        f"M32 {top + 3}L34 58M36 {top + 3}L36.5 58M40 {top + 3}L39 58", darker(brush.second, 0.35), 0.9
    )


def sandal(brush: Brush) -> str:
    """Summer shoes; shapes flipflop (a pair from above), strappy (flat, from the side), wedge."""
    if brush.look.shape == "flipflop":
        return _flip_flop(brush) + f'<g transform="matrix(-1 0 0 1 100 0)">{_flip_flop(brush)}</g>'
    detail = brush.look.detail
    is_wedge = brush.look.shape == "wedge"
    parts = [flat("M14 70C14 66 22 62 28 64C50 70 70 72 92 76L92 80L14 80Z", (206, 170, 128))]
    heel = (
        "M10 60C24 58 40 74 92 76C96 78 96 84 93 86L12 90C9 80 8 70 10 60Z"
        if is_wedge
        else "M8 76C30 74 70 78 93 76C97 78 96 84 93 86L10 86C6 84 5 79 8 76Z"
    )
    straps = "M72 60C62 54 52 46 44 33M54 46C50 58 42 66 36 77M44 33C34 40 20 39 13 33C22 27 36 27 44 33"
    parts.append(brush.skin("M9 70C7 54 10 42 13 33L20 38C19 50 21 60 26 72Z", "soft"))
    parts.append(
        line(straps, brush.edge, 7)
        + line(straps, brush.main, 5)
        + line(straps, brush.seam, 0.7, dash="1.6 1.6")
    )
    parts.append(brush.skin("M62 79C60 66 64 57 73 57C83 58 89 67 90 79Z", "soft"))
    parts.append(
        brush.trim(heel, (176, 128, 84))
        + line("M10 64C24 62 40 77 92 79" if is_wedge else "M8 79C30 77 70 80 93 79", (120, 82, 50), 1.1)
    )
    if is_wedge:
        parts.append(line("M12 70C24 70 40 80 90 81M12 77C24 77 40 84 80 84M12 84L60 85", (130, 92, 56), 1))
    if detail == "buckle":
        parts.append(line(box(35, 28, 9, 9, 1), _METAL, 2.4))
    elif detail == "flower":
        parts.append(flower(73, 62, 9, brush.second))
    elif detail == "studs":
        parts.append(
            flat(
                "".join(
                    oval(x, y, 1.7)
                    for x, y in (
                        (43, 58),
                        (47, 53),
                        (53, 53),
                        (58, 58),
                        (61, 65),
                        (66, 66),
                        (71, 62),
                        (77, 62),
                        (82, 68),
                    )
                ),
                _METAL,
            )
        )
    return "".join(parts)


def _flip_flop(brush: Brush) -> str:
    """The left one of a pair, from above, heel at the bottom."""
    detail = brush.look.detail
    sole = (
        "M28 6C40 4 47 16 46 32C45 46 43 54 43 66C43 82 40 95 29 95C18 95"
        " 14 84 14 70C14 56 8 44 8 30C8 16 16 8 28 6Z"
    )
    parts = [
        brush.trim(f"{sole}", darker(brush.main, 0.3)),
        f'<g transform="translate(3.2 3) scale(.88 .94)">{brush.skin(sole, "soft", rim=0.6)}</g>',
    ]
    strap = brush.second
    d = "M27 24C22 34 14 44 12 56M27 24C34 34 42 44 43 56"
    parts.append(
        line(d, darker(strap, 0.55), 7)
        + line(d, strap, 5.2)
        + line("M26 28C22 36 17 43 14 53", lighter(strap, 0.4), 1.1)
    )
    if detail == "flower":
        parts.append(flower(27, 27, 9, lighter(brush.main, 0.55)))
    elif detail == "buckle":
        parts.append(line(box(13, 41, 8, 8, 1), _METAL, 2.2))
    elif detail == "studs":
        parts.append(
            flat(
                "".join(
                    oval(x, y, 1.5) for x, y in ((24, 31), (20, 38), (16, 46), (31, 31), (36, 38), (40, 46))
                ),
                _METAL,
            )
        )
    return "".join(parts) + flat(oval(27, 24, 2.6), darker(strap, 0.3))
