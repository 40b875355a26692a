"""Words as SVG outlines, from the font files that ship with matplotlib.

Outlines rather than <text>: the renderer then reads no fonts at all, which is faster and the same everywhere.
"""

from functools import lru_cache


@lru_cache(maxsize=512)
def outline(text: str) -> tuple[str, float]:
    """The outline of `text` in bold sans, 10 units high on the baseline y = 0, and its width.

    Raises:
        ValueError: the text is longer than 24 characters.
    """
    if len(text) > 24:
        raise ValueError(f"overlay text must have at most 24 characters, got {len(text)}: {text!r}")
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=10, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    parts = []
    for points, code in path.iter_segments(simplify=False):
        pairs = " ".join(f"{x:.4g} {-y:.4g}" for x, y in points.reshape(-1, 2))
        parts.append("Z" if code == 79 else {1: "M", 2: "L", 3: "Q", 4: "C"}[int(code)] + pairs)
    return "".join(parts), float(path.get_extents().x1) if text.strip() else 0.0


def word(text: str, x: float, y: float, height: float, fill: str) -> str:
    """`text` with its left baseline at (x, y), capitals about `height` * 0.73 high."""
    d, _ = outline(text)
    return f'<path transform="translate({x:.1f} {y:.1f}) scale({height / 10:.3g})" d="{d}" fill="#{fill}"/>'


def width_of(text: str, height: float) -> float:
    """The width of `text` at that height, in the same units."""
    return outline(text)[1] * height / 10
