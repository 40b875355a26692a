"""Patterns, textures and shading as SVG definitions that are found by name.

A drawing refers to `url(#NAME)` and never carries its own definitions; `definitions` reads the names out of
a finished body and writes each one once. Names say everything, so that objects in one scene share what is
equal: `p-dots-ffffff` a pattern in white, `t-knit` a texture, `g-round-gloss` a shading (white and black at
some opacity, laid over any color), `b-round-gloss-ff0000` the same mixed into red, `d-down-ff0000-0000ff`
one color into another, `s-shadow` a fixed glow or shadow.
Rasterizing a gradient costs about five times a flat fill, so small parts stay flat.
"""

import math
import re
from functools import lru_cache

# material -> (gloss of its shading, texture or None)
FINISHES: dict[str, tuple[str, str | None]] = {
    "leather": ("satin", "grain"),
    "patent": ("gloss", None),
    "suede": ("matte", "nap"),
    "canvas": ("matte", "weave"),
    "knit": ("matte", "knit"),
    "cotton": ("matte", None),
    "denim": ("matte", "twill"),
    "wool": ("soft", "rib"),
    "felt": ("soft", "fleck"),
    "silk": ("sheen", None),
    "velvet": ("velvet", None),
    "rubber": ("rubber", None),
    "straw": ("matte", "basket"),
    "metal": ("metal", None),
    "glass": ("glass", None),
    "wood": ("satin", "wood"),
    "ceramic": ("gloss", None),
    "enamel": ("gloss", "speckle"),
    "plastic": ("gloss", None),
    "plush": ("matte", "fur"),
    "wax": ("soft", None),
}

_PATTERNS: dict[str, tuple[float, float, str]] = {
    "stripes": (10, 10, '<path d="M0 0h10v4.6h-10Z" fill="#C"/>'),
    "dots": (11, 11, '<path d="M3 .4a2.6 2.6 0 1 1-.1 0ZM8.5 5.9a2.6 2.6 0 1 1-.1 0Z" fill="#C"/>'),
    "checks": (
        12,
        12,
        '<path d="M0 0h6v12h-6Z" fill="#C" fill-opacity=".6"/><path d="M0'
        ' 0h12v6h-12Z" fill="#C" fill-opacity=".6"/>',
    ),
    "floral": (
        16,
        16,
        '<path d="M5 1.2a2 2 0 0 1 2 2.4a2 2 0 0 1 1 3a2 2 0 0 1-3 1.2a2 2'
        " 0 0 1-3-1.2a2 2 0 0 1 1-3a2 2 0 0 1 2-2.4Z"
        "M13 9.5a1.8 1.8 0 0 1 1.6 2a1.8 1.8 0 0 1-.6 3a1.8 1.8 0 0 1-3-.5a1.8"
        ' 1.8 0 0 1 .2-3.2a1.8 1.8 0 0 1 1.8-1.3Z"'
        ' fill="#C"/><path d="M5 4.1a1 1 0 1 1-.1 0ZM12.8 11.3a.9 .9 0 1 1-.1 0Z" fill="#f3c13a"/>'
        '<path d="M8 8l3 1.4l-2.6 .8Z" fill="#3d8b4a"/>',
    ),
    "chevron": (12, 8, '<path d="M0 5l6-5l6 5v3.4l-6-5l-6 5Z" fill="#C"/>'),
    "stars": (
        16,
        16,
        '<path d="M5 .6l1.2 2.9l3.1 .2l-2.4 2l.8 3l-2.7-1.6l-2.7 1.6l.8-3l-2.4-2l3.1-.2Z'
        'M12.5 9l.9 2.1l2.3 .2l-1.8 1.5l.6 2.2l-2-1.2l-2 1.2l.6-2.2l-1.8-1.5l2.3-.2Z" fill="#C"/>',
    ),
}

_TEXTURES: dict[str, tuple[float, float, str]] = {
    "grain": (
        5,
        5,
        '<path d="M1 1h1v1h-1ZM3.4 2.6h1v1h-1ZM.4 3.8h1v.8h-1Z" fill="#000" fill-opacity=".2"/>'
        '<path d="M2.2 .4h1v1h-1ZM1.6 3h1v1h-1Z" fill="#fff" fill-opacity=".22"/>',
    ),
    "nap": (
        6,
        5,
        '<path d="M0 1l2-.6M3 3l2-.6M1 4.4l1.4-.4" stroke="#fff" stroke-opacity=".28" stroke-width=".8"/>',
    ),
    "weave": (
        3.6,
        3.6,
        '<path d="M0 .6h3.6M.6 0v3.6" stroke="#fff" stroke-opacity=".26" stroke-width=".9"/>'
        '<path d="M0 2.4h3.6M2.4 0v3.6" stroke="#000" stroke-opacity=".18" stroke-width=".8"/>',
    ),
    "knit": (
        5,
        4,
        '<path d="M0 0l2.5 2.4l2.5-2.4" fill="none" stroke="#000" stroke-opacity=".34" stroke-width="1"/>'
        '<path d="M0 1.6l2.5 2.4l2.5-2.4" fill="none" stroke="#fff" stroke-opacity=".3" stroke-width=".9"/>',
    ),
    "twill": (
        3.6,
        3.6,
        '<path d="M-1 1l2-2M0 3.6l3.6-3.6M2.6 4.6l2-2" stroke="#fff" stroke-opacity=".34" stroke-width=".9"/>'
        '<path d="M0 1.8l1.8-1.8M1.8 3.6l1.8-1.8" stroke="#000" stroke-opacity=".2" stroke-width=".8"/>',
    ),
    "basket": (
        6,
        6,
        '<path d="M0 1.5h3M3 4.5h3" stroke="#000" stroke-opacity=".36" stroke-width="1.6"/>'
        '<path d="M4.5 0v3M1.5 3v3" stroke="#fff" stroke-opacity=".42" stroke-width="1.8"/>',
    ),
    "wood": (
        40,
        9,
        '<path d="M0 1.5c10 2 20-2 40 0M0 4.5c14-2 24 2 40 0M0 7.4c8 1 22 1.4 40 0" fill="none" '
        'stroke="#3a1c05" stroke-opacity=".4" stroke-width=".9"/>',
    ),
    "rib": (
        7,
        6,
        '<path d="M0 0l2.6 3l2.6-3M0 3l2.6 3l2.6-3" fill="none" stroke="#fff" stroke-opacity=".34" '
        'stroke-width="1.3"/><path d="M6 0v6" stroke="#000" stroke-opacity=".42" stroke-width="1.6"/>',
    ),
    "fleck": (
        9,
        8,
        '<path d="M1 1h1.8v1h-1.8ZM6 4h1.6v1.2h-1.6ZM3 6h1.2v1h-1.2Z" fill="#000" fill-opacity=".3"/>'
        '<path d="M4.4 2h1.6v1.2h-1.6ZM.6 4.4h1.4v1.2h-1.4ZM7.2 .4h1.2v1h-1.2Z" fill="#fff" '
        'fill-opacity=".42"/>',
    ),
    "speckle": (
        9,
        9,
        '<path d="M1 1h1.4v1.4h-1.4ZM6 3h1.4v1.4h-1.4Z" fill="#fff" fill-opacity=".7"/>'
        '<path d="M3 6h1.4v1.4h-1.4ZM7 7h1.2v1.2h-1.2Z" fill="#000" fill-opacity=".5"/>',
    ),
    "fur": (
        6,
        6,
        '<path d="M1 0l.8 2M4 1.4l-.8 2M1.8 3.6l.8 2M5 4l.4 1.6" stroke="#000"'
        ' stroke-opacity=".22" stroke-width=".7"/>'
        '<path d="M2.6 .4l.6 2M.4 3l.8 2" stroke="#fff" stroke-opacity=".3" stroke-width=".7"/>',
    ),
}

# gloss -> stops of (offset, w white or k black, opacity), from the lit edge to the dark one
_GLOSSES: dict[str, str] = {
    "matte": "0w.16 .4w.02 1k.3",
    "soft": "0w.25 .5w.06 1k.18",
    "satin": "0w.1 .22w.36 .5w0 1k.38",
    "rubber": "0w.12 .14w.14 .24w.52 .34w.46 .46w.04 1k.34",
    "gloss": "0k.08 .13w.1 .2w.72 .3w.62 .4w.04 .62k0 1k.4",
    "sheen": "0k.1 .22w.5 .42k.14 .6w.34 1k.3",
    "velvet": "0w.42 .2w0 .55k.3 .85k.06 1w.26",
    "metal": "0k.5 .14w.25 .26w.85 .4k.05 .58k.42 .74w.5 .88k.12 1k.55",
    "glass": "0k.18 .1w.2 .18w.75 .3w.3 .5w.04 .8w.2 1k.22",
    "flat": "0w.06 1k.12",
}
_AXES = {
    "round": 'x1="0" y1="0" x2="1" y2="0"',
    "soft": 'x1=".15" y1="0" x2=".5" y2="1"',
    "down": 'x1="0" y1="0" x2="0" y2="1"',
    "diag": 'x1="0" y1="0" x2="1" y2=".9"',
}
_DISCS = {
    "ball": 'cx=".34" cy=".3" r=".72"',
    "shadow": "",
    "lamp": 'cx=".5" cy=".8" r=".6"',
}
_CLEAR_STOPS = {
    "shadow": '<stop offset="0" stop-opacity=".42"/><stop offset=".6" stop-opacity=".2"/>'
    '<stop offset="1" stop-opacity="0"/>',
    "lamp": '<stop stop-color="#fff2b8" stop-opacity=".6"/>'
    '<stop offset="1" stop-color="#ffd970" stop-opacity="0"/>',
}


_LEAST_TILE = 11  # units of a texture's tile: 5 pixels where a product fills half of a picture of 112


def _stops(gloss: str, base: str = "") -> str:
    """The <stop> elements of one entry of `_GLOSSES`; mixed into the color `base` if one is given."""
    found = re.findall(r"([\d.]+)([wk])([\d.]+)", _GLOSSES[gloss])
    stops = []
    for at, ink, alpha in found:
        light = 255 if ink == "w" else 0
        if base:
            parts = (int(base[i : i + 2], 16) for i in (0, 2, 4))
            color = "".join(f"{round(part + (light - part) * float(alpha)):02x}" for part in parts)
            stops.append(f'<stop offset="{at}" stop-color="#{color}"/>')
        else:
            color = f"{light:02x}" * 3
            stops.append(f'<stop offset="{at}" stop-color="#{color}" stop-opacity="{alpha}"/>')
    return "".join(stops)


def _tile(name: str, width: float, height: float, body: str, least: float = 0) -> str:
    """One pattern or texture as a <pattern>, its motif repeated until the tile is `least` units a side.

    The renderer rounds a tile to whole pixels: a tile of one or two would come out as one even gray.
    """
    across, down = max(1, math.ceil(least / width)), max(1, math.ceil(least / height))
    spots = [(x * width, y * height) for y in range(down) for x in range(across)]
    body = "".join(f'<g transform="translate({x:g} {y:g})">{body}</g>' if x or y else body for x, y in spots)
    size = f'width="{across * width:g}" height="{down * height:g}" patternUnits="userSpaceOnUse"'
    return f'<pattern id="{name}" {size}>{body}</pattern>'


def _gradient(name: str, axis: str, stops: str) -> str:
    """A shading: linear along one of `_AXES`, `ball` lit from the upper left, or a `lamp` lit from within."""
    if axis in _DISCS:
        return f'<radialGradient id="{name}" {_DISCS[axis]}>{stops}</radialGradient>'
    return f'<linearGradient id="{name}" {_AXES[axis]}>{stops}</linearGradient>'


@lru_cache(maxsize=4096)
def definition(name: str) -> str:
    """The SVG definition that the name of a fill stands for."""
    kind, first, *rest = name.split("-")
    if kind == "p":
        width, height, body = _PATTERNS[first]
        return _tile(name, width, height, body.replace("#C", "#" + rest[0]))
    if kind == "t":
        return _tile(name, *_TEXTURES[first], least=_LEAST_TILE)
    if kind == "d":
        stops = f'<stop stop-color="#{rest[0]}"/><stop offset="1" stop-color="#{rest[1]}"/>'
        return _gradient(name, first, stops)
    if kind == "s":
        return _gradient(name, first, _CLEAR_STOPS[first])
    return _gradient(name, first, _stops(*rest))


def definitions(body: str) -> str:
    """The <defs> element with every fill that `body` refers to by url(#NAME), each once, in stable order."""
    names = sorted(set(re.findall(r"url\(#([\w-]+)\)", body)))
    return "<defs>" + "".join(definition(name) for name in names) + "</defs>" if names else ""
