"""Products of a dataset as panels of a heat-map: found, held against a query, their known boxes at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.catalog.regions import Box, Regions
from moontide.encoder.heatmap import Method, heat
from moontide.encoder.heatmap_picture import Panel
from moontide.encoder.model.backbone import edges
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Cropped, Item, Picture, ProductView, canonical
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.images import decode


def find_products(dataset: Dataset, ids: Sequence[str]) -> list[Product]:
    """The products with these ids, in this order.

    Raises:
        DataError: one is not there.
    """
    found = {product.product_id: product for product in dataset.products() if product.product_id in ids}
    for product_id in ids:
        if product_id not in found:
            raise DataError(f"no product of {dataset.path} has the id {product_id!r}")
    return [found[product_id] for product_id in ids]


def asked_item(text: str | None, picture: Path | None) -> Item:
    """What is asked, its picture read and looked at.

    Raises:
        DataError: nothing is asked. ImageError: the picture is refused; the text names the file.
    """
    item = canonical({"text": text, "image": picture})
    try:
        for image in item.images:
            _pixels(image)
    except ImageError as error:
        raise ImageError(error.reason, f"{picture}: {error}") from None
    return item


def panel_of(
    encoder: MoonEncoder,
    dataset: Dataset,
    product: Product,
    view: ProductView,
    regions: Regions,
    asked: Item | None,
    method: Method,
) -> Panel:
    """The product held against what is asked, else against its own title, else against itself.

    Raises:
        DataError: it has neither a text nor a picture. ImageError: a picture is refused.
    """
    item = view.item(product, dataset.images)
    against, what = asked, "the query picture"
    if asked is None:
        against = Item(product.title) if product.title.strip() else item
        what = "its title" if product.title.strip() else "itself"
    elif asked.text:
        what = f'"{asked.text}"' + (" and a picture" if asked.images else "")
    assert against is not None
    try:
        pictures = tuple(_pixels(image) for image in item.images)
        found = heat(encoder, item, against, method)
    except ImageError as error:
        raise ImageError(error.reason, f"a picture of product {product.product_id!r}: {error}") from None
    return Panel(
        f"{product.product_id} against {what}",
        found,
        item.text,
        pictures,
        _boxes(product, item, dataset, view, regions),
        _pixels(asked.images[0]) if asked is not None and asked.images else None,
    )


def _pixels(picture: Picture) -> np.ndarray:
    """A picture at its own size."""
    if isinstance(picture, Cropped):
        whole = _pixels(picture.source)
        left, top, right, bottom = edges(picture.box, whole.shape[1], whole.shape[0])
        return whole[top:bottom, left:right]
    return picture if isinstance(picture, np.ndarray) else np.asarray(decode(picture))


def _boxes(
    product: Product, item: Item, dataset: Dataset, view: ProductView, regions: Regions
) -> tuple[Box | None, ...]:
    """The known box of each picture of an item; crops have none."""
    ids = [image_id for image_id in product.image_ids if image_id in dataset.images][: view.num_images]
    each = len(item.images) // max(1, len(ids))  # a picture may be followed by its crop
    return tuple(
        None if place % each or isinstance(image, Cropped) else regions.box(ids[place // each], product.title)
        for place, image in enumerate(item.images)
    )
