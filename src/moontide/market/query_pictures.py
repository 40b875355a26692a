"""The pictures shoppers search with: never a shop's own file, always the same for the same query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.seeds import stream
from moontide.market.render.creatives import altered_copy
from moontide.market.render.looks import Look
from moontide.market.render.raster import render_query
from moontide.market.render.shots import query_shot

LOOK_FIELDS = ("category", "color", "second_color", "pattern", "material", "shape", "detail")


def query_picture(
    source: Mapping[str, Look] | Dataset, product_id: str, rng: np.random.Generator, side: int = 112
) -> bytes:
    """A shopper's picture of a product; for many of one dataset keep a `QueryPictures`, it reads once."""
    if not isinstance(source, Dataset):
        return render_query(query_shot(source[product_id], rng).svg, rng, side)
    return QueryPictures(source, 0, side).draw(product_id, rng)[0]


class QueryPictures:
    """Pictures of image queries: a drawn product as a shopper's own photo, a real photo altered.

    Args:
        source: looks by product id (what `write_supply` gives), or a dataset: a simulated one (it has
            truth/looks), or one of real photos.
        seed: with product and number of a query it decides everything.
        side: pixels.

    Raises:
        DataError: (when drawing) the product is unknown, or has no picture that can be decoded.
    """

    def __init__(self, source: Mapping[str, Look] | Dataset, seed: int, side: int = 112):
        self.seed, self.side = seed, side
        self._looks = looks_of(source) if isinstance(source, Dataset) else source
        self._photos: dict[str, list[str]] = {}
        if isinstance(source, Dataset) and self._looks is None:
            self._images = source.images
            for row in source.table("products", ["product_id", "image_ids"]).to_pylist():
                names = [name for name in row["image_ids"] or () if name in self._images]
                self._photos |= {row["product_id"]: names} if names else {}
        self.product_ids = tuple(self._photos if self._looks is None else self._looks)  # can be asked for

    def picture(self, product_id: str, number: int) -> tuple[bytes, str]:
        """JPEG bytes of query `number` for a product, and "rendered view" or "altered copy"."""
        return self.draw(product_id, stream(self.seed, "query picture", product_id, number))

    def draw(self, product_id: str, rng: np.random.Generator) -> tuple[bytes, str]:
        """As `picture`, with the caller's source of chance."""
        if self._looks is not None:
            if product_id not in self._looks:
                raise DataError(f"no product has the id {product_id!r}: take one from the products table")
            return query_picture(self._looks, product_id, rng, self.side), "rendered view"
        names = self._photos.get(product_id)
        if not names:
            raise DataError(f"product {product_id!r} has no stored picture: take one of `product_ids`")
        photo = self._images[names[int(rng.integers(len(names)))]]
        try:
            return altered_copy(photo, rng, self.side), "altered copy"
        except (ImageError, ValueError, OSError) as error:
            raise DataError(f"the picture of product {product_id!r} cannot be decoded ({error})") from None


def looks_of(dataset: Dataset) -> dict[str, Look] | None:
    """The true looks of a simulated market by product id; None for a catalog of real photos."""
    if not (dataset.path / "truth" / "looks.parquet").exists():
        return None
    rows = dataset.truth("looks").to_pylist()
    return {row["product_id"]: Look(*(row[name] for name in LOOK_FIELDS)) for row in rows}
