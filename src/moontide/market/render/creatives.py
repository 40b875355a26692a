"""Advertisements: a product, drawn or photographed, on a ground with props, words and a border.

A creative is a template and a small dictionary of strings that can be stored; the same template, parameters
and
seed give the same picture. `creative_photo` and `altered_copy` do to real photos what the rest does to
drawings.
"""

import numpy as np

from .cutout import Cutout, cut_out, photo_of
from .lettering import width_of, word
from .looks import COLORS, Look
from .paint import box, darker, flat, lighter, line, luminance, oval
from .photos import altered
from .placement import Box, Placed, document, place, shadow
from .raster import encode, rasterize
from .scenery import SCENES, blocks, gradient, pick, plain, prop
from .shots import Shot, compose

TEMPLATES: tuple[str, ...] = ("clean", "lifestyle", "banner", "close_up", "framed", "busy")
WORDS: tuple[str, ...] = (
    "SALE",
    "-30%",
    "-50%",
    "NEW IN",
    "HOT",
    "TOP",
    "2 FOR 1",
    "DEAL",
    "GIFT",
    "ONLY TODAY",
)

# template -> size range, backgrounds, number of props, chance of words, borders
_RECIPES: dict[str, tuple[tuple[float, float], tuple[str, ...], tuple[int, int], float, tuple[str, ...]]] = {
    "clean": ((0.66, 0.84), ("plain", "gradient"), (0, 1), 0.2, ("none",)),
    "lifestyle": ((0.42, 0.62), tuple(SCENES), (1, 4), 0.25, ("none", "thin")),
    "banner": ((0.5, 0.66), ("plain", "blocks", "gradient"), (0, 2), 1.0, ("none", "thick")),
    "close_up": ((0.95, 1.2), ("plain", "gradient", "blocks"), (0, 1), 0.3, ("none",)),
    "framed": ((0.56, 0.74), ("plain", "blocks", "gradient"), (0, 2), 0.4, ("thin", "thick", "double")),
    "busy": ((0.36, 0.54), (*SCENES, "blocks"), (3, 6), 0.8, ("none", "thin", "thick")),
}
_PLACES = ("top", "bottom", "top_left", "top_right", "bottom_left", "bottom_right")
_KEYS = (
    "background",
    "tint",
    "accent",
    "size",
    "x",
    "y",
    "tilt",
    "props",
    "text",
    "text_place",
    "border",
    "seed",
)


def sample_creative(rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """A template and its parameters, all strings."""
    template = pick(rng, TEMPLATES)
    sizes, backgrounds, props, p_words, borders = _RECIPES[template]
    wander = 0.04 if template in ("clean", "close_up") else 0.14
    params = {
        "background": pick(rng, backgrounds),
        "tint": pick(rng, tuple(COLORS)),
        "accent": pick(rng, tuple(COLORS)),
        "size": f"{rng.uniform(*sizes):.2f}",
        "x": f"{0.5 + rng.uniform(-wander, wander):.2f}",
        "y": f"{0.52 + rng.uniform(-wander, wander):.2f}",
        "tilt": f"{rng.uniform(-14, 14) if rng.random() < 0.4 else 0:.0f}",
        "props": str(int(rng.integers(*props))),
        "text": pick(rng, WORDS) if rng.random() < p_words else "",
        "text_place": pick(rng, _PLACES),
        "border": pick(rng, borders),
        "seed": str(int(rng.integers(1_000_000))),
    }
    return template, params


def _checked(template: str, params: dict[str, str]) -> dict[str, str]:
    """The parameters, or the ValueError they deserve."""
    if template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}: choose one of {', '.join(TEMPLATES)}")
    missing = [key for key in _KEYS if key not in params]
    if missing:
        raise ValueError(f"creative parameters lack {', '.join(missing)}: take them from sample_creative")
    for key, choices in (
        ("tint", COLORS),
        ("accent", COLORS),
        ("background", (*SCENES, "plain", "gradient", "blocks")),
    ):
        if params[key] not in choices:
            raise ValueError(f"unknown creative {key} {params[key]!r}: choose one of {', '.join(choices)}")
    return params


def _ground(params: dict[str, str], rng: np.random.Generator) -> str:
    """Background and props."""
    tint, accent, kind = COLORS[params["tint"]], COLORS[params["accent"]], params["background"]
    pale, level = lighter(tint, 0.6), 86.0
    if kind in SCENES:
        scene = SCENES[kind](rng)
        svg, level = scene.svg, scene.far
    elif kind == "gradient":
        svg = gradient(lighter(tint, 0.75), lighter(tint, 0.25))
    elif kind == "blocks":
        svg = blocks(pale, lighter(accent, 0.35), float(rng.uniform(-20, 20)))
    else:
        svg = plain(pale)
    spots = rng.permutation(6)[: int(params["props"])]
    return svg + "".join(
        prop(rng, 8 + spot * 17, level + rng.uniform(0, 4), rng.uniform(0.6, 1)) for spot in spots
    )


def _border(params: dict[str, str]) -> str:
    """The frame around the whole picture."""
    accent = COLORS[params["accent"]]
    widths = {"thin": ((2, 1.6),), "thick": ((3.5, 7),), "double": ((2, 2), (6, 1.2))}.get(
        params["border"], ()
    )
    return "".join(line(box(at, at, 100 - 2 * at, 100 - 2 * at), accent, width) for at, width in widths)


def _words(params: dict[str, str], template: str) -> str:
    """The overlay text on a band, a badge or a label."""
    text, spot = params["text"], params["text_place"]
    if not text:
        return ""
    accent = COLORS[params["accent"]]
    ink = "ffffff" if luminance(accent) < 0.62 else "222226"
    height = 14 if template == "banner" else 11
    height = min(height, 88 * height / max(1.0, width_of(text, height)))
    wide = width_of(text, height)
    y = 17 if spot.startswith("top") else 94
    if template == "banner" or spot in ("top", "bottom"):
        band = box(0, y - height * 0.73 - 4, 100, height * 0.73 + 8)
        return flat(band, accent) + word(text, 50 - wide / 2, y, height, ink)
    if len(text) <= 4:
        cx, cy = (18 if spot.endswith("left") else 82), (18 if spot.startswith("top") else 82)
        height *= min(1, 25 / wide)
        badge = flat(oval(cx, cy, 16), darker(accent, 0.25)) + flat(oval(cx, cy, 14.6), accent)
        return badge + word(text, cx - width_of(text, height) / 2, cy + height * 0.36, height, ink)
    height = 9
    wide = width_of(text, height)
    x = 4 if spot.endswith("left") else 90 - wide
    return flat(box(x, y - height - 1, wide + 6, height + 5, 2), accent) + word(text, x + 3, y, height, ink)


def creative_shot(look: Look, template: str, params: dict[str, str], rng: np.random.Generator) -> Shot:
    """The look as an advertisement.

    Args:
        template, params: from `sample_creative`.
        rng: places the props; a background is drawn from the stored seed, so that it is part of the creative.

    Raises:
        ValueError: template or parameters are not those of `sample_creative`.
    """
    params = _checked(template, params)
    scene_rng = np.random.default_rng(int(params["seed"]))
    center = (float(params["x"]), float(params["y"]))
    placed = place(look, float(params["size"]), center, float(params["tilt"]), mirror=rng.random() < 0.5)
    return compose(_ground(params, scene_rng), placed, _border(params) + _words(params, template))


def _photo_placed(photo: Cutout, params: dict[str, str]) -> Placed:
    """The cut-out photo as an SVG image, sized and placed as the parameters say."""
    width, height = photo.width, photo.height
    scale = 100 * float(params["size"]) / max(width, height)
    w, h = width * scale, height * scale
    x, y = 100 * float(params["x"]) - w / 2, 100 * float(params["y"]) - h / 2
    svg = f'<image x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" href="{photo.href}"/>'
    x0, y0, x1, y1 = (float(np.clip(edge / 100, 0, 1)) for edge in (x, y, x + w, y + h))
    return Placed(svg, (x0, y0, x1, y1))


def creative_photo(
    jpeg: bytes, template: str, params: dict[str, str], rng: np.random.Generator, side: int = 112
) -> tuple[bytes, Box]:
    """A real photo as an advertisement, and the box of its subject.

    The subject is cut out where the photo's border is nearly one color, else the photo stays a rectangle.

    Args:
        jpeg: the photo, any size Pillow reads.
        side: pixels of the advertisement.

    Raises:
        ValueError: template or parameters are not those of `sample_creative`, or the bytes are no picture.
    """
    params = _checked(template, params)
    cutout = cut_out(photo_of(jpeg), max_side=2 * side)
    if rng.random() < 0.5:
        cutout = cutout.mirrored()
    placed = _photo_placed(cutout, params)
    behind = _ground(params, np.random.default_rng(int(params["seed"])))
    contact = shadow(placed.box) if cutout.is_cut else ""
    svg = document(f"{behind}{contact}{placed.svg}{_border(params)}{_words(params, template)}")
    return encode(rasterize(svg, side)), placed.box


def altered_copy(jpeg: bytes, rng: np.random.Generator, side: int = 112) -> bytes:
    """A shopper's altered copy of a real photo: crop, mirror, turn, color, blur, another background.

    Raises:
        ValueError: the bytes are no picture.
    """
    return encode(altered(photo_of(jpeg), rng, side), int(rng.integers(66, 88)))
