"""A contact sheet: pictures of a dataset side by side, each with the id of its product."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError, ImageError, SettingsError
from moontide.foundation.images import decode
from moontide.foundation.storage import write_bytes

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
GAP, LABEL = 6, 16  # pixels between pictures, and for the id below one


def write_sheet(dataset: Dataset, path: Path, num: int = 48, columns: int = 8, side: int = 112) -> int:
    """Write main pictures of `num` products, evenly spread over the catalog, to one PNG or JPEG.

    A picture that cannot be read is a red cross. Proportions are kept, on a gray square of `side` pixels.

    Returns:
        How many pictures are on the sheet.

    Raises:
        SettingsError: the file has another ending, or a number is below 1.
        DataError: the dataset has no pictures.
        StorageError: the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingsError(f"a sheet is a .png or .jpg file, got {path.name!r}")
    if min(num, columns, side) < 1:
        raise SettingsError(f"num, columns and side must be above 0, got {num}, {columns} and {side}")
    dataset.require("a sheet", "products", "images")
    table = dataset.table("products", ["product_id", "image_ids"]).to_pylist()
    shown = [(row["product_id"], row["image_ids"][0]) for row in table if row["image_ids"]]
    shown = [shown[place * len(shown) // num] for place in range(num)] if len(shown) > num else shown
    if not shown:
        raise DataError(f"no product of {dataset.path} has a picture: import the catalog again with --images")
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, (product_id, image_id) in enumerate(shown):
        row, column = divmod(place, columns)
        left, top = GAP + column * (side + GAP), GAP + row * (side + LABEL + GAP)
        sheet.paste(_tile(dataset, image_id, side), (left, top))
        draw.text((left, top + side + 1), _fitting(product_id, side, font), fill="black", font=font)
    stream = io.BytesIO()
    sheet.save(stream, FORMATS[path.suffix.lower()])
    write_bytes(path, stream.getvalue())
    return len(shown)


def _tile(dataset: Dataset, image_id: str, side: int) -> Image.Image:
    tile = Image.new("RGB", (side, side), "#eeeeee")
    try:
        picture = decode(dataset.images[image_id])
    except (ImageError, DataError):
        draw = ImageDraw.Draw(tile)
        draw.line((0, 0, side, side), fill="red", width=3)
        draw.line((0, side, side, 0), fill="red", width=3)
        return tile
    picture.thumbnail((side, side))
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return tile


def _fitting(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, its start replaced by three points if it is too wide: ids differ at the end."""
    shown = text
    while font.getlength(shown) > width and len(text) > 1:
        text = text[1:]
        shown = "..." + text
    return shown
