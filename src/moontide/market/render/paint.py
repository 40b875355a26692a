"""Drawing primitives: outlines as path data, and the brush that paints them as a look asks."""

import math
from dataclasses import dataclass
from functools import cached_property

from moontide.market.render.looks import COLORS, Look
from moontide.market.render.surface import FINISHES

RGB = tuple[int, int, int]


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """The color `share` of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(rgb: RGB, share: float) -> RGB:
    """`rgb` moved toward black."""
    return mix(rgb, (0, 0, 0), share)


def lighter(rgb: RGB, share: float) -> RGB:
    """`rgb` moved toward white."""
    return mix(rgb, (255, 255, 255), share)


def hexed(rgb: RGB) -> str:
    """`rgb` as six hexadecimal digits.

    >>> hexed((255, 0, 16))
    'ff0010'
    """
    return "".join(f"{part:02x}" for part in rgb)


def luminance(rgb: RGB) -> float:
    """How bright a color looks, 0 to 1."""
    return (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]) / 255


def oval(x: float, y: float, rx: float, ry: float | None = None) -> str:
    """Path data of an ellipse around (x, y)."""
    ry = rx if ry is None else ry
    return f"M{x - rx:g} {y:g}a{rx:g} {ry:g} 0 1 1 {2 * rx:g} 0a{rx:g} {ry:g} 0 1 1 {-2 * rx:g} 0Z"


def box(x: float, y: float, w: float, h: float, r: float = 0) -> str:
    """Path data of a rectangle with corners rounded by `r`."""
    if not r:
        return f"M{x:g} {y:g}h{w:g}v{h:g}h{-w:g}Z"
    arc = f"a{r:g} {r:g} 0 0 1"
    return (
        f"M{x + r:g} {y:g}h{w - 2 * r:g}{arc} {r:g} {r:g}v{h - 2 * r:g}{arc} {-r:g} {r:g}"
        f"h{2 * r - w:g}{arc} {-r:g} {-r:g}v{2 * r - h:g}{arc} {r:g} {-r:g}Z"
    )


def flat(d: str, rgb: RGB, alpha: float = 1) -> str:
    """The outline `d` filled with one color."""
    opacity = f' fill-opacity="{alpha:g}"' if alpha < 1 else ""
    return f'<path d="{d}" fill="#{hexed(rgb)}"{opacity}/>'


def line(d: str, rgb: RGB, width: float = 1, alpha: float = 1, dash: str = "") -> str:
    """The open path `d` as a stroke with round ends."""
    extra = f' stroke-opacity="{alpha:g}"' if alpha < 1 else ""
    extra += f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{d}" fill="none" stroke="#{hexed(rgb)}" stroke-width="{width:g}" stroke-linecap="round" '
        f'stroke-linejoin="round"{extra}/>'
    )


def tube(d: str, rgb: RGB, width: float) -> str:
    """The open path `d` as a round bar: dark rim, body color, highlight."""
    shine = lighter(rgb, 0.45)
    return (
        line(d, darker(rgb, 0.5), width)
        + line(d, rgb, width - 1.6)
        + f'<g transform="translate(-{width / 7:.2g} -{width / 7:.2g})">{line(d, shine, width / 5, 0.8)}</g>'
    )


def moved(
    svg: str, x: float = 0, y: float = 0, scale: float = 1, angle: float = 0, mirror: bool = False
) -> str:
    """`svg` scaled, turned by `angle` degrees about the origin, then shifted by (x, y)."""
    steps = f"translate({x:g} {y:g})"
    steps += f" rotate({angle:g})" if angle else ""
    steps += f" scale({-scale if mirror else scale:g} {scale:g})" if scale != 1 or mirror else ""
    return f'<g transform="{steps}">{svg}</g>'


def mirrored(svg: str, width: float = 100) -> str:
    """`svg` flipped left to right inside a frame of that width."""
    return f'<g transform="matrix(-1 0 0 1 {width:g} 0)">{svg}</g>'


@dataclass(frozen=True)
class Brush:
    """Paints outlines with the color, pattern and material of one look."""

    look: Look

    @cached_property
    def main(self) -> RGB:
        """The look's color."""
        return COLORS[self.look.color]

    @cached_property
    def second(self) -> RGB:
        """The look's second color."""
        return COLORS[self.look.second_color]

    @cached_property
    def edge(self) -> RGB:
        """The color of outlines: a dark shade of the main one."""
        return darker(self.main, 0.58)

    @cached_property
    def seam(self) -> RGB:
        """The color of seams and stitches, always visible on the main one."""
        return lighter(self.main, 0.38) if luminance(self.main) < 0.32 else darker(self.main, 0.42)

    @cached_property
    def mark(self) -> RGB:
        """The color of a print on a pale patch: the first of second and main that is dark enough."""
        dark = (rgb for rgb in (self.second, self.main) if luminance(rgb) < 0.66)
        return next(dark, (70, 72, 80))

    def skin(
        self,
        d: str,
        axis: str = "soft",
        rgb: RGB | None = None,
        material: str = "",
        pattern: bool = True,
        rim: float = 1.2,
    ) -> str:
        """The outline `d` as a solid part: color, pattern, texture, shading, rim.

        Args:
            axis: the way the light falls: soft, round (a cylinder), down, diag or ball.
            rgb: another color than the main one; such a part carries no pattern.
            material: another material than the look's.
            rim: width of the outline, in units of the box.
        """
        base = rgb or self.main
        gloss, texture = FINISHES[material or self.look.material]
        edge = (
            f' stroke="#{hexed(darker(base, 0.58))}" stroke-width="{rim:g}" stroke-linejoin="round"'
            if rim
            else ""
        )
        has_pattern = pattern and rgb is None and self.look.pattern != "plain"
        if has_pattern or gloss == "glass":
            layers = [f"#{hexed(base)}" + ('" fill-opacity=".5' if gloss == "glass" else "")]
            layers += [f"url(#p-{self.look.pattern}-{hexed(self.second)})"] if has_pattern else []
            layers += [f"url(#t-{texture})"] if texture else []
            layers.append(f"url(#g-{axis}-{gloss})")
        else:  # shading mixed into the color: one opaque gradient costs half of a color and a clear gradient
            layers = [f"url(#b-{axis}-{gloss}-{hexed(base)})"] + ([f"url(#t-{texture})"] if texture else [])
        parts = [f'<path d="{d}" fill="{layer}"/>' for layer in layers[:-1]]
        return "".join(parts) + f'<path d="{d}" fill="{layers[-1]}"{edge}/>'

    def trim(self, d: str, rgb: RGB | None = None, rim: float = 0.9) -> str:
        """The outline `d` as a small flat part in the second color, with a rim."""
        rgb = rgb or self.second
        stroke = (
            f' stroke="#{hexed(darker(rgb, 0.55))}" stroke-width="{rim:g}" stroke-linejoin="round"'
            if rim
            else ""
        )
        return f'<path d="{d}" fill="#{hexed(rgb)}"{stroke}/>'

    def stitch(self, d: str, width: float = 0.8) -> str:
        """The open path `d` as a seam."""
        return line(d, self.seam, width)


def star(x: float, y: float, r: float) -> str:
    """Path data of a five-pointed star around (x, y)."""
    corners = ((0, -1), (0.23, -0.32), (0.95, -0.31), (0.38, 0.12), (0.59, 0.81), (0, 0.4))
    points = [*corners, *((-a, b) for a, b in corners[-2:0:-1])]
    return "M" + "L".join(f"{x + a * r:.4g} {y + b * r:.4g}" for a, b in points) + "Z"


def heart(x: float, y: float, r: float) -> str:
    """Path data of a heart around (x, y)."""
    return (
        f"M{x:g} {y + r:g}c{-1.6 * r:g} {-r:g} {-1.2 * r:g} {-2 * r:g} {-0.5 * r:g} {-1.8 * r:g}"
        f"q{0.4 * r:g} {0.1 * r:g} {0.5 * r:g} {0.5 * r:g}q{0.1 * r:g} {-0.4 * r:g} {0.5 * r:g} {-0.5 * r:g}"
        f"c{0.7 * r:g} {-0.2 * r:g} {1.1 * r:g} {0.8 * r:g} {-0.5 * r:g} {1.8 * r:g}Z"
    )


def bow(brush: Brush, x: float, y: float, r: float, rgb: RGB | None = None) -> str:
    """A tied bow around (x, y), 2 r wide, in the second color."""
    wings = (
        f"M{x:g} {y:g}l{-r:g} {-0.6 * r:g}q{-0.3 * r:g} {0.6 * r:g} 0 {1.2 * r:g}Z"
        f"M{x:g} {y:g}l{r:g} {-0.6 * r:g}q{0.3 * r:g} {0.6 * r:g} 0 {1.2 * r:g}Z"
    )
    return brush.trim(wings, rgb) + brush.trim(oval(x, y, 0.24 * r, 0.28 * r), rgb)


def flower(x: float, y: float, r: float, rgb: RGB, heart_rgb: RGB = (246, 196, 50)) -> str:
    """A five-petaled flower around (x, y)."""
    spots = ((0, -0.62), (0.59, -0.19), (0.36, 0.5), (-0.36, 0.5), (-0.59, -0.19))
    petals = "".join(oval(round(x + a * r, 2), round(y + b * r, 2), round(0.44 * r, 2)) for a, b in spots)
    rim = f' stroke="#{hexed(darker(rgb, 0.4))}" stroke-width=".5"'
    return f'<path d="{petals}" fill="#{hexed(rgb)}"{rim}/>' + flat(oval(x, y, round(0.34 * r, 2)), heart_rgb)


def ring_marks(x: float, y: float, inner: float, outer: float, count: int = 12, skip: int = 1) -> str:
    """Path data of radial ticks around (x, y), `count` to the circle, every `skip`-th of them."""
    d = ""
    for i in range(0, count, skip):
        a = 2 * math.pi * i / count
        s, c = math.sin(a), -math.cos(a)
        d += f"M{x + inner * s:.1f} {y + inner * c:.1f}L{x + outer * s:.1f} {y + outer * c:.1f}"
    return d
