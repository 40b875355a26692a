"""Advertisements: a product, drawn or photographed, on a ground with props, words and a border.

A creative is a template and a small dictionary of strings that can be stored; the same template, parameters
and seed give the same picture. `creative_photo` and `altered_copy` do to real photos what the rest does to
drawings. Where the background is a scene, the product stands on its floor: `y` is then the lower edge of the
product's box, else its middle.
"""

import numpy as np

from moontide.market.render.cutout import cut_out, photo_of
from moontide.market.render.lettering import width_of, word
from moontide.market.render.looks import COLORS, Look
from moontide.market.render.paint import box, darker, flat, lighter, luminance, oval
from moontide.market.render.photos import altered
from moontide.market.render.placement import Box, document, place, shadow
from moontide.market.render.raster import encode, rasterize
from moontide.market.render.scenery import SCENES, blocks, gradient, pick, plain, prop
from moontide.market.render.shots import Shot, compose

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
    background = pick(rng, backgrounds)
    tint, accent = pick(rng, tuple(COLORS)), pick(rng, tuple(COLORS))
    text = pick(rng, WORDS) if rng.random() < p_words else ""
    spot = pick(rng, _PLACES)
    if background in SCENES:
        spot = spot.replace("bottom", "top")  # the product stands below
    if template == "banner":
        spot = spot.split("_")[0]
    size = rng.uniform(*sizes)
    x, y = _free_spot(template, background in SCENES, spot if text else "", rng)
    tilt = rng.uniform(-14, 14) if background not in SCENES and rng.random() < 0.4 else 0
    params = {
        "background": background,
        "tint": tint,
        "accent": accent,
        "size": f"{size:.2f}",
        "x": f"{x:.2f}",
        "y": f"{y:.2f}",
        "tilt": f"{tilt:.0f}",
        "props": str(int(rng.integers(*props))),
        "text": text,
        "text_place": spot,
        "border": pick(rng, borders),
        "seed": str(int(rng.integers(1_000_000))),
    }
    return template, params


def _free_spot(template: str, is_scene: bool, spot: str, rng: np.random.Generator) -> tuple[float, float]:
    """Where the product goes, away from the words at `spot` (empty: no words)."""
    wander = 0.03 if template in ("clean", "close_up") else 0.05 if template == "banner" else 0.1
    x, y = 0.5 + rng.uniform(-wander, wander), 0.5 + rng.uniform(-wander, wander)
    if spot.endswith(("left", "right")):
        x += 0.06 if spot.endswith("left") else -0.06
    if spot:
        shift = {"banner": 0.085, "close_up": 0.03}.get(template, 0.06)
        y += shift if spot.startswith("top") else -shift
    return x, rng.uniform(0.82, 0.93) if is_scene else y


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


def _ground(params: dict[str, str], rng: np.random.Generator) -> tuple[str, tuple[float, float] | None]:
    """Background and props, and between which heights (fractions) things stand on it: None in no scene."""
    tint, accent, kind = COLORS[params["tint"]], COLORS[params["accent"]], params["background"]
    pale, level, floor = lighter(tint, 0.6), 86.0, None
    if kind in SCENES:
        scene = SCENES[kind](rng)
        svg, level, floor = scene.svg, scene.far, (scene.far / 100, scene.near / 100)
    elif kind == "gradient":
        svg = gradient(lighter(tint, 0.75), lighter(tint, 0.25))
    elif kind == "blocks":
        svg = blocks(pale, lighter(accent, 0.35), float(rng.uniform(-20, 20)))
    else:
        svg = plain(pale)
    spots = rng.permutation(6)[: int(params["props"])]
    props = "".join(
        prop(rng, 8 + spot * 17, level + rng.uniform(0, 4), rng.uniform(0.6, 1)) for spot in spots
    )
    return svg + props, floor


def _center(params: dict[str, str], floor: tuple[float, float] | None) -> tuple[float, float]:
    """Where the product goes; in a scene its lower edge is kept on the floor."""
    x, y = float(params["x"]), float(params["y"])
    return (x, min(max(y, floor[0] + 0.01), floor[1])) if floor else (x, y)


def _border(params: dict[str, str]) -> str:
    """The frame around the whole picture."""
    accent = COLORS[params["accent"]]
    widths = {"thin": ((2, 1.6),), "thick": ((3.5, 7),), "double": ((2, 2), (6, 1.2))}.get(
        params["border"], ()
    )
    return "".join(
        flat(
            f"{box(at - width / 2, at - width / 2, 100 - 2 * at + width, 100 - 2 * at + width)}"
            f"M{at + width / 2:g} {at + width / 2:g}v{100 - 2 * at - width:g}h{100 - 2 * at - width:g}"
            f"v{2 * at + width - 100:g}Z",
            accent,
        )
        for at, width in widths
    )


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
    if template == "banner" or spot in ("top", "bottom"):
        deep = height * 0.73 + (9 if template == "banner" else 7)
        top = 0 if spot.startswith("top") else 100 - deep
        baseline = top + (deep + height * 0.73) / 2
        return flat(box(0, top, 100, deep), accent) + word(text, 50 - wide / 2, baseline, height, ink)
    y = 17 if spot.startswith("top") else 94
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
        rng: decides whether the product is mirrored; the background comes from the stored seed.

    Raises:
        ValueError: template or parameters are not those of `sample_creative`.
    """
    params = _checked(template, params)
    scene_rng = np.random.default_rng(int(params["seed"]))
    ground, floor = _ground(params, scene_rng)
    placed = place(
        look,
        float(params["size"]),
        _center(params, floor),
        float(params["tilt"]),
        mirror=rng.random() < 0.5,
        floor=floor is not None,
    )
    return compose(ground, placed, _border(params) + _words(params, template))


def creative_photo(jpeg: bytes, template: str, params: dict[str, str], side: int = 112) -> tuple[bytes, Box]:
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
    ground, floor = _ground(params, np.random.default_rng(int(params["seed"])))
    subject = cutout.turned(float(params["tilt"])).sized(max(1, round(side * float(params["size"]))))
    x, y = _center(params, floor)
    left = round(x * side - subject.width / 2)
    top = round(y * side - subject.height / (1 if floor else 2))
    edges = (left, top, left + subject.width, top + subject.height)
    x0, y0, x1, y1 = (min(max(edge / side, 0.0), 1.0) for edge in edges)
    contact = shadow((x0, y0, x1, y1)) if cutout.is_cut else ""
    canvas = rasterize(document(ground + contact), side).convert("RGB")
    canvas.paste(subject.picture, (left, top), subject.picture)
    over = _border(params) + _words(params, template)
    if over:
        lettering = rasterize(document(over), side)
        canvas.paste(lettering, (0, 0), lettering)
    return encode(canvas), (x0, y0, x1, y1)


def altered_copy(jpeg: bytes, rng: np.random.Generator, side: int = 112) -> bytes:
    """A shopper's altered copy of a real photo: crop, mirror, turn, color, blur, another background.

    Raises:
        ValueError: the bytes are no picture.
    """
    return encode(altered(photo_of(jpeg), rng, side), int(rng.integers(66, 88)))
