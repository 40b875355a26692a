"""What the encoder embeds: an `Item` of text and pictures, and the one canonical way a product becomes one.

The rendering of a product follows the shape `<title> <category path> key: value ...`; the characters of each
part are kept, so that later parts of the encoder can tell title tokens from attribute tokens. It leaves
tokenization to `backbone.py`.

Paper: MOON 3.1 (2): text = concat(title, category, attributes) without an instruction (paper reported); the
order of brand and description, and the separators, are ours.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image

from moontide.catalog.records import Product
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.images import decode

if TYPE_CHECKING:
    from moontide.catalog.regions import Box, Regions

Form = Literal["title", "image", "title_image", "rich", "rich_image"]
Crops = Literal["none", "added", "only"]
FORMS: tuple[str, ...] = ("title", "image", "title_image", "rich", "rich_image")


@dataclass(frozen=True)
class Cropped:
    """A part of a picture, cut when it is decoded: at the picture's own resolution, not at the model's.

    Args:
        source: an encoded picture, or pixels.
        box: x0, y0, x1, y1 as shares of its sides.
    """

    source: bytes | np.ndarray
    box: Box


Picture = bytes | np.ndarray | Cropped


def opened(picture: Picture, side: int | None) -> Image.Image:
    """Decode a picture, or the part of it that is wanted; an encoded whole at `side` or a little above.

    Raises:
        ImageError: the picture is refused.
    """
    if not isinstance(picture, Cropped):
        return Image.fromarray(picture) if isinstance(picture, np.ndarray) else decode(picture, side)
    whole = opened(picture.source, None)
    return whole.crop(edges(picture.box, whole.width, whole.height))


def edges(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in whole pixels of a box in shares; at least one pixel."""
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    return left, top, max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))


KINDS = ("special", "image", "query", "title", "brand", "category", "attribute", "description")
"""What a token can belong to; the index is its code in `token_kinds`."""


class PictureSource(Protocol):
    """Pictures by image id: a dict, or a dataset's `images`."""

    def __contains__(self, image_id: str, /) -> bool: ...
    def __getitem__(self, image_id: str, /) -> Picture: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """Characters `start` to `end` of a text, and what they say: one of `KINDS`; `key` names an attribute."""

    kind: str
    start: int
    end: int
    key: str | None = None


@dataclass(frozen=True)
class Item:
    """One thing to embed: a text, pictures, or both.

    Args:
        text: None and blank mean no text.
        images: encoded pictures (JPEG, PNG, WebP), or pixels already decoded, (height, width, 3) uint8.
        parts: what stretches of the text say; empty means all of it is a query.
        reasoning: what a reasoner wrote about it, see `reasoner.py`; it stands behind the text.

    Raises:
        DataError: neither a text nor a picture.
    """

    text: str | None = None
    images: tuple[Picture, ...] = ()
    parts: tuple[Part, ...] = ()
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise DataError(f"the text of an item must be a string, got {type(self.text).__name__}")
        if self.text is not None and not self.text.strip():
            object.__setattr__(self, "text", None)
        object.__setattr__(self, "images", tuple(image for image in self.images if image is not None))
        if self.text is None and not self.images:
            raise DataError("an item needs a text or a picture: both are empty")
        for image in self.images:
            image = image.source if isinstance(image, Cropped) else image
            if isinstance(image, np.ndarray):
                if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                    raise ImageError(
                        "not_pixels",
                        f"decoded pixels must be (h, w, 3) uint8, got {image.shape} {image.dtype}",
                    )
            elif not isinstance(image, bytes):
                kind = type(image).__name__
                raise ImageError("not_an_image", f"a picture must be bytes or pixels, got {kind}")


def canonical(value: Any) -> Item:
    """The `Item` that a value stands for; the order of keys and empty entries play no role.

    Args:
        value: an Item; a text; a picture (bytes, a Path, a Pillow image, pixels); or a dict with `text` and
            `image`, where `image` may be a list.

    Raises:
        DataError: nothing to embed, an unknown key, or a value of another type.
        ImageError: a picture that cannot be read.

    Example:
        >>> canonical({"image": None, "text": " red shoe "}).text
        'red shoe'
    """
    if isinstance(value, Item):
        return value
    if isinstance(value, str):
        return Item(text=value.strip())
    if isinstance(value, dict):
        unknown = sorted(map(str, set(value) - {"text", "image"}))
        if unknown:
            raise DataError(f"an item has text and image, not {', '.join(unknown)}")
        pictures = value.get("image")
        pictures = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        text = value.get("text")
        text = text.strip() if isinstance(text, str) else text
        return Item(text, tuple(_picture(picture) for picture in pictures if picture is not None))
    if value is None:
        raise DataError("an item needs a text or a picture: got None")
    return Item(images=(_picture(value),))


def _picture(value: Any) -> Picture:
    if isinstance(value, (bytes, np.ndarray, Cropped)):
        return value
    if isinstance(value, (str, Path)):
        try:
            return Path(value).read_bytes()
        except OSError as error:
            raise ImageError("not_a_file", f"no picture can be read at {value} ({error.strerror})") from None
    if isinstance(value, Image.Image):
        if value.mode in ("RGBA", "LA", "PA") or "transparency" in value.info:
            buffer = io.BytesIO()
            value.save(buffer, "PNG")
            return buffer.getvalue()
        return np.asarray(value.convert("RGB"))
    raise ImageError("not_an_image", f"a picture must be bytes, a file, pixels, got {type(value).__name__}")


def query_item(text: str | None = None, image: Picture | None = None) -> Item:
    """What a shopper asks, as an item: no category, no attributes, no crop.

    Paper: MOON 3.1 (6) (ours).
    """
    return Item(text.strip() if text else None, () if image is None else (image,))


def product_item(
    product: Product,
    images: PictureSource | None = None,
    form: Form = "rich_image",
    num_images: int = 1,
    without: Collection[str] = (),
    regions: Regions | None = None,
    crops: Crops = "added",
) -> Item:
    """A product in one of five forms, always rendered the same way.

    Args:
        product: the record.
        images: pictures by image id; needed by forms that end in image.
        form: "title", "image", "title_image", "rich" (all text) or "rich_image".
        num_images: how many of its pictures to take, main one first.
        without: what to leave out of the rich text: "brand", "category", "attributes", "description", or
            attribute keys; evaluation of an attribute must not read it from the text.
        regions: where the product is in its pictures: a picture is followed by its crop, one without a region
            by itself.
        crops: "only" has the crop in place of its picture (ablation).

    Raises:
        DataError: an unknown form, or the product has nothing to show in it.
    """
    if form not in FORMS:
        raise DataError(f"no form is called {form!r}: the forms are {', '.join(FORMS)}")
    text, parts = None, ()
    if form != "image":
        text, parts = render_text(product, form.startswith("rich"), without)
    pictures: tuple[Picture, ...] = ()
    if form.endswith("image"):
        ids = [image_id for image_id in product.image_ids if images is not None and image_id in images]
        pictures = _pictures(product.title, ids[:num_images], images, regions, crops)
    if not text and not pictures:
        raise DataError(
            f"product {product.product_id!r} has nothing to show as {form!r}: no text, no picture"
        )
    return Item(text or None, pictures, parts)


def _pictures(
    title: str, ids: list[str], images: PictureSource | None, regions: Regions | None, crops: Crops
) -> tuple[Picture, ...]:
    if images is None:
        return ()
    if regions is None:
        return tuple(images[image_id] for image_id in ids)
    pictures: list[Picture] = []
    for image_id in ids:
        picture = images[image_id]
        source = picture.source if isinstance(picture, Cropped) else picture
        box = regions.box(image_id, title)
        crop = picture if box is None else Cropped(source, box)
        pictures += [crop] if crops == "only" else [picture, crop]
    return tuple(pictures)


@dataclass(frozen=True)
class ProductView:
    """How an encoder is shown products: how many pictures, and whether each is followed by its crop.

    Paper: MOON 3.2: the crop of the core product is added, it never replaces the picture (paper).
    """

    num_images: int = 1
    regions: Regions | None = None
    crops: Crops = "added"

    def item(
        self,
        product: Product,
        images: PictureSource | None = None,
        form: Form = "rich_image",
        without: Collection[str] = (),
    ) -> Item:
        """The product in one of five forms; see `product_item`."""
        return product_item(product, images, form, self.num_images, without, self.regions, self.crops)


def render_text(
    product: Product, is_rich: bool = True, without: Collection[str] = ()
) -> tuple[str, tuple[Part, ...]]:
    """The text of a product and what its stretches say.

    Example:
        >>> text, parts = render_text(Product("1", "Red shoe", ("Wear", "Shoes"), None, {"color": ("red",)}))
        >>> text
        'Red shoe | Wear > Shoes | color: red'
        >>> [(part.kind, text[part.start : part.end]) for part in parts]
        [('title', 'Red shoe'), ('category', 'Wear > Shoes'), ('attribute', 'color: red')]
    """
    pieces: list[tuple[str, str | None, str]] = [("title", None, product.title)]
    if is_rich:
        pieces.append(("brand", None, product.brand or ""))
        pieces.append(("category", None, " > ".join(product.category)))
        for key in sorted(product.attributes) if "attributes" not in without else ():
            values = ", ".join(value for value in product.attributes[key] if value)
            if key not in without and values:
                pieces.append(("attribute", key, f"{key}: {values}"))
        pieces.append(("description", None, product.description or ""))
    text, parts = "", []
    for kind, key, piece in pieces:
        piece = " ".join(piece.split())
        if not piece or kind in without:
            continue
        text += " | " if text else ""
        parts.append(Part(kind, len(text), len(text) + len(piece), key))
        text += piece
    return text, tuple(parts)
