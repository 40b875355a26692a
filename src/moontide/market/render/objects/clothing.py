"""Clothes laid flat, seen from the front."""

from moontide.market.render.paint import Brush, bow, box, darker, flat, line, mirrored, oval, star

_METAL = (214, 190, 120)
_PALE = (246, 243, 236)


def _both(d_svg: str) -> str:
    """A left part and its mirror image."""
    return d_svg + mirrored(d_svg)


_TEE_BODY = "M34 12C40 16 60 16 66 12L76 17L76 92C60 95 40 95 24 92L24 17Z"
_TEE_SLEEVES = {
    "crew": "M25 16L6 38L18 50L27 40Z",
    "vneck": "M25 16L6 38L18 50L27 40Z",
    "longsleeve": "M26 16C17 20 13 30 11 44L5 82L16 85L27 46Z",
}


def t_shirt(brush: Brush) -> str:
    """A T-shirt; shapes crew, vneck, longsleeve."""
    shape, detail = brush.look.shape, brush.look.detail
    trim = brush.second if detail == "trim" else None
    parts = [_both(brush.skin(_TEE_SLEEVES[shape], "soft", rgb=trim))]
    parts.append(brush.skin(_TEE_BODY, "soft"))
    hem = "M9 77L17 80" if shape == "longsleeve" else "M8 35L20 47"
    parts.append(_both(brush.stitch(hem)) + brush.stitch("M24 88C40 91 60 91 76 88"))
    parts.append(line("M31 50Q34 66 30 84M69 54Q66 68 70 82", brush.seam, 1, 0.6))
    collar = darker(brush.main, 0.35) if trim is None else brush.second
    if shape == "vneck":
        parts.append(
            flat("M35 12L65 12L50 34Z", darker(brush.main, 0.55)) + line("M34 12L50 35L66 12", collar, 3.4)
        )
    else:
        parts.append(flat("M35 12C40 27 60 27 65 12C58 14 42 14 35 12Z", darker(brush.main, 0.55)))
        parts.append(line("M34.5 12C39 28 61 28 65.5 12", collar, 3.4))
    if detail == "pocket":
        parts.append(brush.trim("M56 38H69V50L62.5 54L56 50Z"))
    elif detail == "logo":
        parts.append(brush.trim(oval(50, 52, 13), _PALE) + flat(star(50, 53, 10), brush.mark))
    return "".join(parts)


def hoodie(brush: Brush) -> str:
    """A hooded sweatshirt; shapes pullover, zip, cropped."""
    shape, detail = brush.look.shape, brush.look.detail
    end = 80 if shape == "cropped" else 93
    contrast = brush.second if detail == "contrast" else None
    cuffs = brush.second if detail == "cuffs" else darker(brush.main, 0.28)
    parts = [_both(brush.skin("M28 30C18 33 13 42 11 54L5 82L17 86L29 56Z", "soft", rgb=contrast))]
    parts.append(_both(brush.trim("M5 80L18 84L16.5 92L3 88Z", cuffs)))
    parts.append(brush.skin(f"M30 28C40 34 60 34 70 28L77 34L78 {end - 6}L22 {end - 6}L23 34Z", "soft"))
    parts.append(brush.trim(box(22, end - 7, 56, 8, 2), cuffs))
    parts.append(
        brush.skin(
            "M28 33C22 16 36 4 50 4C64 4 78 16 72 33C66 40 56 43 50 44C44 43 34 40 28 33Z",
            "ball",
            rgb=contrast,
        )
    )
    parts.append(
        flat(
            "M35 30C31 18 40 11 50 11C60 11 69 18 65 30C60 37 54 40 50 41C46 40 40 37 35 30Z",
            darker(contrast or brush.main, 0.62),
        )
    )
    low = end - 10
    pocket = f"M34 {low}L36 {low - 14}L42 {low - 20}H58L64 {low - 14}L66 {low}Z"
    parts.append(brush.skin(pocket, "soft", pattern=False))
    if shape == "zip":
        parts.append(
            line(f"M50 42V{end}", (60, 60, 66), 3)
            + line(f"M50 42V{end}", (225, 225, 228), 1.5, dash="1.4 1.4")
        )
    cord = _PALE if brush.look.color not in ("white", "beige", "silver") else (90, 90, 96)
    parts.append(
        line("M42 38L41 56M58 38L59 58", brush.edge, 2.6) + line("M42 38L41 56M58 38L59 58", cord, 1.5)
    )
    if detail == "logo":
        parts.append(flat(star(50, 55, 8) if shape != "zip" else star(65, 52, 6), brush.second))
    return "".join(parts)


_DRESSES = {
    "aline": "M34 10L40 10C42 22 58 22 60 10L66 10C67 22 68 30 64 44C70 60 78 76"
    " 84 90C66 97 34 97 16 90C22 76 30 60 36 44C32 30 33 22 34 10Z",
    "sheath": "M34 6L40 6C42 18 58 18 60 6L66 6C67 16 70 26 65 42C72 54 72 74 69"
    " 94C58 96 42 96 31 94C28 74 28 54 35 42C30 26 33 16 34 6Z",
    "gown": "M36 14C42 9 46 13 50 16C54 13 58 9 64 14C66 24 65 32 61 40C74 54"
    " 88 76 92 92C70 99 30 99 8 92C12 76 26 54 39 40C35 32 34 24 36 14Z",
}
_WAISTS = {"aline": (36, 44), "sheath": (35, 42), "gown": (39, 40)}


def dress(brush: Brush) -> str:
    """A dress; shapes aline, sheath (narrow), gown (strapless, wide)."""
    shape, detail = brush.look.shape, brush.look.detail
    left, waist = _WAISTS[shape]
    parts = []
    if shape == "gown":
        parts.append(line("M37 15Q40 4 45 2M63 15Q60 4 55 2", brush.edge, 1.6))
    else:
        top = 10 if shape == "aline" else 6
        parts.append(
            flat(
                f"M38 {top}C42 {top + 7} 58 {top + 7} 62 {top}L60 {top + 8}Q50 {top + 18} 40 {top + 8}Z",
                darker(brush.main, 0.6),
            )
        )
    parts.append(brush.skin(_DRESSES[shape], "soft"))
    if shape == "sheath":
        folds = "M40 56Q38 74 39 92M60 56Q62 74 61 92"
    else:
        folds = (
            f"M42 {waist + 6}Q36 72 30 92M50 {waist + 6}V94M58 {waist + 6}Q64 72"
            f" 70 92M37 {waist + 12}Q28 76 22 88M63 {waist + 12}Q72 76 78 88"
        )
    parts.append(line(folds, brush.seam, 1.1, 0.75))
    parts.append(brush.stitch(f"M{left} {waist}Q50 {waist + 4} {100 - left} {waist}", 1.2))
    if detail == "belt":
        parts.append(
            brush.trim(
                f"M{left - 0.5} {waist - 2}Q50 {waist + 2} {100.5 - left} {waist - 2}"
                f"L{101 - left} {waist + 4}Q50 {waist + 8} {left - 1} {waist + 4}Z"
            )
        )
        parts.append(line(box(46, waist - 0.5, 8, 7, 1), _METAL, 1.8))
    elif detail == "bow":
        parts.append(bow(brush, 50, waist + 2, 11))
    elif detail == "buttons":
        parts.append(brush.trim("".join(oval(50, y, 2) for y in range(24, 90, 11)), rim=0.6))
    else:
        y = {"aline": 17, "sheath": 13, "gown": 17}[shape]
        parts.append(
            _both(brush.trim(f"M50 {y + 6}L39 {y - 4}Q34 {y + 5} 40 {y + 9}Q47 {y + 11} 50 {y + 6}Z", _PALE))
        )
    return "".join(parts)


_LEGS = {
    "straight": ("M26 6H74L77 30L76 94L56 94L51 40L49 40L44 94L24 94L23 30Z", 24, 44),
    "skinny": ("M29 6H71L73 30L66 94L54 94L51 42L49 42L46 94L34 94L27 30Z", 34, 46),
    "flared": ("M29 6H71L73 30L71 60L82 94L56 94L51 42L49 42L44 94L18 94L29 60L27 30Z", 18, 44),
}


def trousers(brush: Brush) -> str:
    """Long trousers; shapes straight, skinny, flared."""
    outline, hem_left, hem_right = _LEGS[brush.look.shape]
    detail, left = brush.look.detail, 26 if brush.look.shape == "straight" else 29
    parts = [brush.skin(outline, "soft"), line("M50 40V16", brush.edge, 1.2)]
    parts.append(flat("M49 40L43 94H45Q48 60 50 44Z", darker(brush.main, 0.5), 0.5))
    parts.append(_both(brush.stitch(f"M{left} 14C{left + 9} 14 {left + 11} 20 {left + 8} 26", 1.1)))
    parts.append(
        brush.stitch("M50 32Q58 30 57 16", 1) + _both(brush.stitch(f"M{hem_left} 90H{hem_right}", 1))
    )
    parts.append(_both(line(f"M{(hem_left + hem_right) / 2} 86Q38 60 37 34", brush.seam, 0.9, 0.6)))
    band = darker(brush.main, 0.22)
    parts.append(
        brush.trim(box(left - 0.5, 4, 101 - 2 * left, 8, 1), brush.second if detail == "belt" else band)
    )
    loops = "".join(box(x, 3, 3, 10, 0.6) for x in (33, 64))
    parts.append(brush.trim(loops, brush.main, 0.7))
    if detail == "belt":
        parts.append(line(box(45, 4.5, 10, 7, 1), _METAL, 2))
    else:
        parts.append(brush.trim(oval(50, 8, 2.2), _METAL, 0.6))
    if detail == "cargo":
        parts.append(
            _both(brush.trim(box(25, 46, 15, 18, 1.5), band) + brush.trim(box(24, 44, 17, 6, 1), brush.main))
        )
    elif detail == "sidestripe":
        edge = {
            "straight": "M24.5 14L25 30L26.5 93",
            "skinny": "M30 14L29 30L36 93",
            "flared": "M30 14L29.5 30L31 60L21.5 93",
        }
        parts.append(_both(line(edge[brush.look.shape], brush.second, 3.6)))
    return "".join(parts)


_SKIRTS = {
    "pleated": "M32 14H68L90 84L81 88L74 84L66 89L58 85L50 90L42 85L34 89L26 84L19 88L10 84Z",
    "flared": "M33 14H67C72 36 84 62 94 80C84 88 78 82 70 88C62 92 56 86 50 90C44"
    " 86 38 92 30 88C22 82 16 88 6 80C16 62 28 36 33 14Z",
    "tiered": "M32 14H68L76 36Q80 38 78 42L86 60Q90 62 88 66L96 86Q91 92 85 88Q79"
    " 94 73 90Q67 96 61 91Q55 97 50 92Q45 97 39 91Q33 96 27 90Q21 94 15"
    " 88Q9 92 4 86L12 66Q10 62 14 60L22 42Q20 38 24 36Z",
}


def skirt(brush: Brush) -> str:
    """A skirt; shapes pleated, flared, tiered (ruffles)."""
    shape, detail = brush.look.shape, brush.look.detail
    parts = [brush.skin(_SKIRTS[shape], "soft")]
    if shape == "pleated":
        parts.append(line("M36 20L26 84M43 20L42 85M50 20V89M57 20L58 85M64 20L74 84", brush.edge, 1.2))
        parts.append(
            flat("M36 20L26 84L34 89L40 20ZM50 20V90L58 85L54 20ZM64 20L74 84L81 88L67 20Z", (0, 0, 0), 0.16)
        )
    elif shape == "flared":
        parts.append(
            line(
                "M38 22Q32 60 30 86M50 24V88M62 22Q68 60 70 86M45 30Q43 60 41 84M55 30Q57 60 59 84",
                brush.seam,
                1.2,
            )
        )
    else:
        parts.append(line("M26 34Q50 41 74 34M16 58Q50 67 84 58", brush.edge, 1.4))
        parts.append(
            line(
                "M28 40L25 56M39 42L37 59M50 43V60M61 42L63 59M72 40L75 56M18 65L15"
                " 84M34 68L32 88M50 69V89M66 68L68 88M82 65L85 84",
                brush.seam,
                1,
            )
        )
    is_belted = detail == "belt"
    parts.append(brush.trim("M31 8H69L70 18H30Z", brush.second if is_belted else darker(brush.main, 0.25)))
    if is_belted:
        parts.append(line(box(45, 8.5, 10, 9, 1.5), _METAL, 2))
    elif detail == "buttons":
        parts.append(brush.trim("".join(oval(50, y, 2.3) for y in range(26, 84, 12)), rim=0.6))
    elif detail == "hem":
        hems = {
            "pleated": "M12 80L19 83L26 79L34 84L42 80L50 85L58 80L66 84L74 79L81 83L88 80",
            "flared": "M9 77C18 83 23 77 31 83C38 87 44 81 50 85C56 81 62 87 69 83C77 77 82 83 91 77",
            "tiered": "M8 82Q50 92 92 82",
        }
        parts.append(line(hems[shape], brush.second, 4.4))
    return "".join(parts)


_SOCK_TOPS = {"ankle": 34, "crew": 18, "knee": 4}


def _one_sock(brush: Brush) -> str:
    """A sock from the side, toe to the right, 70 wide."""
    top, detail = _SOCK_TOPS[brush.look.shape], brush.look.detail
    parts = [
        brush.skin(f"M14 {top}H40L41 58C44 66 56 70 64 74C72 79 72 90 62 92L40 93C24 92 12 84 12 70Z", "soft")
    ]
    if detail in ("heeltoe", "both"):
        parts.append(brush.trim("M13 62C22 62 30 70 30 80C30 86 28 89 26 90C16 86 11 76 13 62Z"))
        parts.append(brush.trim("M56 71C52 78 52 86 55 92.500L63 92C72 89 72 79 64 74Z"))
    band = brush.second if detail in ("cuff", "both") else darker(brush.main, 0.18)
    parts.append(brush.trim(box(12, top - 2, 30, 12, 2), band))
    ribs = "".join(f"M{x} {top}V{top + 8}" for x in range(17, 40, 5))
    return "".join(parts) + line(ribs, darker(band, 0.3), 1)


def sock(brush: Brush) -> str:
    """A pair of socks; shapes ankle, crew, knee."""
    one = _one_sock(brush)
    return (
        f'<g transform="translate(27 -3) scale(.98)">{one}</g><g transform="trans'
        f'late(2 4) scale(.98)">{one}</g>'
    )
