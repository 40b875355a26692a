"""Heat-maps as one picture: each product beside its map, its words shaded, the numbers below.

Drawn with Pillow on a light sheet, one panel a product. Every picture's map, and the words, have a scale of
their own; how much of the match each carries is told as a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.font_manager import fontManager
from PIL import Image, ImageDraw, ImageFont

from moontide.catalog.regions import Box
from moontide.encoder.heatmap import Heat, Word, mass_inside

Color = tuple[int, ...]
SIDE, GAP, MARGIN, COLUMN = 240, 10, 22, 400  # pixels: longest side of a picture, spaces, the text's width
LARGE, SMALL = 16, 13  # pixels: letters of the item's text, and of what is said about it
INK, MUTED, FRAME = (28, 28, 30), (110, 110, 115), (20, 130, 255)
WARM = np.array((235, 80, 20))  # what carries most
STRENGTH = 0.85  # of the warm color there
# Wide scripts: DejaVu, which every installation of matplotlib has, lacks them.
WIDE = ("Noto Sans CJK", "Noto Sans SC", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback",
        "Microsoft YaHei", "SimHei", "PingFang", "Hiragino", "Arial Unicode")  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One item and its heat.

    Args:
        title: what the item is and what it is held against.
        text: of the item; None without one.
        pictures: pixels of each of its pictures, as its grids are in order.
        boxes: x0, y0, x1, y1 of the product in each, as shares of the sides; None where it is not known.
        asked: pixels of the picture it is held against.
    """

    title: str
    heat: Heat
    text: str | None = None
    pictures: tuple[np.ndarray, ...] = ()
    boxes: tuple[Box | None, ...] = ()
    asked: np.ndarray | None = None

    def facts(self) -> list[str]:
        """The numbers: cosine, who carries the match, and how much of each map lies in the box."""
        share, words = self.heat.picture_share, self.heat.words
        lines = [f"cosine {self.heat.cosine:.3f}"]
        if self.pictures and self.text:
            lines[0] += f"; carried by the text {1 - share:.0%}, by the pictures {share:.0%}"
        for number, (grid, box) in enumerate(zip(self.heat.grids, self.boxes, strict=True), 1):
            said = [f"{grid.sum():.0%} of the match"] if len(self.pictures) > 1 else []
            if box is not None:
                inside, area = mass_inside(grid, box), mass_inside(np.ones((1, 1)), box)
                said.append(f"{inside:.0%} in the box ({area:.0%} of the area)")
            if said:
                which = f"picture {number}: " if len(self.pictures) > 1 else "map: "
                lines.append(which + ", ".join(said))
        if self.text and any(map(str.isalnum, self.text[words[-1].end if words else 0 :])):
            lines.append("words in gray are more than the encoder reads")
        return lines


def overlay(picture: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A picture, gray and pale, under a map in one warm color.

    Args:
        picture: (height, width, 3) uint8.
        grid: (rows, columns) weights, not negative, of the whole picture; the largest is shown at full
            strength.

    Returns:
        (height, width, 3) uint8
    """
    height, width = picture.shape[:2]
    small = Image.fromarray((grid / (grid.max() or 1.0)).astype(np.float32))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    alpha = STRENGTH * smooth[:, :, None] ** 0.75  # weak places are seen, too
    gray = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)[:, :, None]
    return (alpha * WARM + (1 - alpha) * (255 - 0.6 * (255 - gray))).round().astype(np.uint8)


def draw_sheet(panels: Sequence[Panel]) -> Image.Image:
    """All panels, one below the other."""
    drawn = [_draw_panel(panel) for panel in panels]
    sheet = Image.new("RGB", (max(one.width for one in drawn), sum(one.height for one in drawn)), "white")
    at = 0
    for one in drawn:
        sheet.paste(one, (0, at))
        at += one.height
        ImageDraw.Draw(sheet).line((MARGIN, at - 1, sheet.width - MARGIN, at - 1), fill=(225, 225, 228))
    return sheet


def _draw_panel(panel: Panel) -> Image.Image:
    left = 2 * (SIDE + GAP) + MARGIN if panel.pictures else 0
    # Drawn on a sheet that is surely tall enough, then cut.
    room = (len(panel.pictures) + 2) * (SIDE + GAP) + (len(panel.title + (panel.text or "")) + 20) * 2 * LARGE
    canvas = Image.new("RGB", (left + COLUMN + 2 * MARGIN, room), "white")
    draw, bottom = ImageDraw.Draw(canvas), MARGIN
    for picture, grid, box in zip(panel.pictures, panel.heat.grids, panel.boxes, strict=True):
        heated = overlay(_fitted(picture), grid)
        for column, shown in enumerate((_fitted(picture), heated)):
            at = (MARGIN + column * (SIDE + GAP), bottom)
            canvas.paste(Image.fromarray(shown), at)
            if box is not None:
                edges = np.array(box) * (shown.shape[1::-1] * 2)
                draw.rectangle([float(edge) + at[n % 2] for n, edge in enumerate(edges)], outline=FRAME)
        bottom += heated.shape[0] + GAP
    across, down = left + MARGIN, MARGIN
    down = _write(draw, _plain(panel.title, MUTED), across, down, SMALL) + GAP // 2
    if panel.asked is not None:
        asked = Image.fromarray(panel.asked)
        asked.thumbnail((SIDE // 3, SIDE // 3))
        canvas.paste(asked, (across, down))
        down += asked.height + GAP
    if panel.text:
        down = _write(draw, _shaded(panel.text, panel.heat.words), across, down, LARGE) + GAP
    for fact in panel.facts():
        down = _write(draw, _plain(fact, INK), across, down, SMALL)
    return canvas.crop((0, 0, canvas.width, max(bottom, down) + MARGIN))


def _fitted(picture: np.ndarray) -> np.ndarray:
    """At the sheet's size: small pictures are enlarged, proportions kept."""
    image = Image.fromarray(picture)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _write(
    draw: ImageDraw.ImageDraw,
    pieces: Iterable[tuple[str, Color, Color | None]],
    left: int,
    top: int,
    size: int,
) -> int:
    """Write pieces (text, ink, ground) in lines of the column's width; returns where the next line begins."""
    at, line = float(left), round(1.65 * size)
    for piece, ink, ground in pieces:
        font = _font(piece, size)
        width = font.getlength(piece)
        if at > left and at + width > left + COLUMN:
            at, top = float(left), top + line
        if at == left and piece.isspace():
            continue
        if ground is not None:
            draw.rounded_rectangle((at - 2, top - 1, at + width + 2, top + 1.3 * size), 4, fill=ground)
        draw.text((at, top), piece, fill=ink, font=font)
        at += width
    return top + line


def _plain(text: str, ink: Color) -> list[tuple[str, Color, Color | None]]:
    return [(piece, ink, None) for piece in re.findall(r"\s+|\S+", text)]


def _shaded(text: str, words: Sequence[Word]) -> Iterator[tuple[str, Color, Color | None]]:
    """A text in pieces, each word on a ground as warm as its weight."""
    most = max((word.weight for word in words), default=0.0) or 1.0
    at = 0
    for word in words:
        yield from _plain(text[at : word.start], MUTED)
        warm = 0.75 * word.weight / most  # black letters stay readable
        ground = tuple(int(x) for x in warm * WARM + (1 - warm) * 255)
        yield text[word.start : word.end], INK, ground if warm else None
        at = word.end
    yield from _plain(text[at:], MUTED)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has the characters of `text`, where this machine has one."""
    return _load(_wide_font() if any(one >= "\u2e80" for one in text) else None, size)


@cache
def _load(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    plain = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path or str(plain), size)


@cache
def _wide_font() -> str | None:
    found = (font.fname for name in WIDE for font in fontManager.ttflist if font.name.startswith(name))
    return next(found, None)
