"""Caps and hats."""

from moontide.market.render.paint import Brush, bow, darker, flat, flower, lighter, line, oval, star

_PALE = (246, 243, 236)
_LETTER = "M50 58L58 39L66 58M53.5 52H62.5"  # an A, the same in mirrored views
_BRIMS = {
    "baseball": "M52 66C66 60 88 62 97 72C99 76 96 79 92 78C80 72 64 72 50 74Z",
    "trucker": "M52 66C66 60 88 62 97 72C99 76 96 79 92 78C80 72 64 72 50 74Z",
    "flat": "M50 66L97 63C99 64 99 68 97 69L50 74Z",
}


def cap(brush: Brush) -> str:
    """A peaked cap, peak to the right; shapes baseball, trucker (mesh back), flat (snapback)."""
    shape, detail = brush.look.shape, brush.look.detail
    crown = "M8 68C4 36 26 20 46 20C66 20 78 38 78 68C60 76 26 76 8 68Z"
    if shape == "flat":
        crown = "M8 70C5 40 10 22 26 20C40 18 56 18 66 21C76 26 78 48 78 68C60 76 26 76 8 70Z"
    parts = [brush.skin(crown, "ball")]
    if shape == "trucker":
        mesh = "M8 68C4 36 26 20 46 20C38 32 36 54 40 74C28 74 16 72 8 68Z"
        parts.append(
            flat(mesh, _PALE)
            + line(
                "M10 46L38 56M9 58L39 66M16 34L37 44M26 25L38 32M18 70L28 24M28 72"
                "L34 22M10 62L20 30M36 38L14 70M38 52L24 72M36 26L8 58",
                brush.second,
                1,
            )
        )
        parts.append(line(mesh, brush.edge, 1.2))
    else:
        parts.append(brush.stitch("M46 20C36 34 34 56 38 73M46 20C58 34 62 54 62 72", 1.2))
    peak = brush.second if detail in ("band", "none") else darker(brush.main, 0.2)
    parts.append(brush.skin(_BRIMS[shape], "down", rgb=peak))
    parts.append(
        line("M56 69C70 65 84 67 92 74" if shape != "flat" else "M54 70L95 66", lighter(peak, 0.35), 0.9)
    )
    parts.append(brush.trim(oval(45, 19.5, 4, 2.6)))
    if detail == "logo":
        parts.append(brush.trim(oval(58, 48, 9.5, 10.5), _PALE) + flat(star(58, 48, 8), brush.mark))
    elif detail == "letter":
        parts.append(line(_LETTER, brush.edge, 5.6) + line(_LETTER, brush.second, 3.6))
    elif detail == "band":
        parts.append(line("M8.5 65C26 73 58 73 78 65", brush.second, 4.6))
    return "".join(parts)


_HATS = {
    "fedora": (
        "M3 72C16 62 34 66 50 66C66 66 84 62 97 72C86 82 66 84 50 84C34 84 14 82 3 72Z",
        "M23 70C23 46 26 22 36 18C42 16 46 22 50 24C54 22 58 16 64 18C74 22 77 46 77 70C62 76 38 76 23 70Z",
        "M22.5 62C38 69 62 69 77.5 62L77.8 71C62 77 38 77 22.2 71Z",
    ),
    "sunhat": (
        "M1 72C10 60 30 60 50 60C70 60 90 60 99 72C96 86 70 90 50 90C30 90 4 86 1 72Z",
        "M27 68C26 42 34 24 50 24C66 24 74 42 73 68C60 75 40 75 27 68Z",
        "M26.5 60C40 67 60 67 73.5 60L73.5 69C60 76 40 76 26.5 69Z",
    ),
    "cowboy": (
        "M2 54C8 52 14 66 26 68C40 70 60 70 74 68C86 66 92 52 98 54C98 74 74 86 50 86C26 86 2 74 2 54Z",
        "M24 70C24 44 26 20 36 17C42 16 46 24 50 24C54 24 58 16 64 17C74 20 76 44 76 70C62 76 38 76 24 70Z",
        "M24 62C38 69 62 69 76 62L76.5 71C62 77 38 77 23.5 71Z",
    ),
}


def hat(brush: Brush) -> str:
    """A brimmed hat; shapes fedora, sunhat (wide brim), cowboy."""
    shape, detail = brush.look.shape, brush.look.detail
    brim, crown, band = _HATS[shape]
    if shape == "cowboy":
        parts = [brush.skin(crown, "soft"), brush.skin(brim, "down")]
        parts.append(flat("M24 66C38 73 62 73 76 66L76 70C62 76 38 76 24 70Z", (0, 0, 0), 0.2))
        band = "M24 57C38 65 62 65 76 57L76 66C62 73 38 73 24 66Z"
    else:
        parts = [brush.skin(brim, "down"), brush.skin(crown, "soft")]
    if shape != "sunhat":
        parts.append(
            flat(
                "M40 21C44 26 48 40 50 48C52 40 56 26 60 21C56 20 53 24 50 24.5C47 24 44 20 40 21Z",
                (0, 0, 0),
                0.22,
            )
        )
    else:
        parts.append(line("M8 74Q50 90 92 74M34 36Q50 42 66 36M29 48Q50 55 71 48", brush.seam, 1))
    parts.append(brush.trim(band))
    if detail == "bow":
        parts.append(bow(brush, 70, 66, 9))
    elif detail == "feather":
        tint = lighter(brush.second, 0.4)
        parts.append(
            brush.trim("M70 66C74 48 82 34 92 26C92 42 84 58 72 68Z", tint)
            + line("M71 67Q80 46 90 30", darker(tint, 0.5), 1)
        )
    elif detail == "flower":
        parts.append(flower(68, 65, 9.5, lighter(brush.second, 0.35)))
    else:
        parts.append(flat("M66 66L74 62L74 72L66 74Z", darker(brush.second, 0.3)))
    return "".join(parts)
