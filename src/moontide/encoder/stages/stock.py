"""The products of a dataset as training sees them: who may be trained on, and what there is to show.

A picture that cannot be decoded is not shown; the others vary from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.inputs import Form, Item, Picture, PictureSource, ProductView
from moontide.encoder.stages.pictures import vary
from moontide.encoder.stages.rows import codes_of, groups_and_split, is_known


class Stock:
    """Records, groups and categories by product code, and items with pictures that vary.

    Args:
        dataset: products; splits where it has them.
        pictures: pixels by image id; one that is absent or cannot be decoded is not shown.
        before: products from this moment on are not trained on; None: all are.
        augment: strength of random picture variation, see `pictures.vary`.
        view: how products are shown.
    """

    def __init__(
        self,
        dataset: Dataset,
        pictures: PictureSource,
        before: datetime | None = None,
        augment: float = 0.0,
        view: ProductView = ProductView(),
    ):
        self.pictures, self.augment, self.view = pictures, augment, view
        self.products = dataset.products()
        self.product_ids = [product.product_id for product in self.products]
        self.group, self.is_train = groups_and_split(dataset, self.product_ids)
        self.is_train &= is_known(self.products, before)
        self._group_size = np.bincount(self.group)
        self.category = codes_of([product.category for product in self.products])
        self.category[[not product.category for product in self.products]] = -1
        self.has_title = np.array([bool(product.title.strip()) for product in self.products], dtype=bool)
        both = zip(self.products, self.is_train, strict=True)
        usable = [sum(i in pictures for i in one.image_ids) if wanted else 0 for one, wanted in both]
        self.num_pictures = np.array(usable, dtype=np.int64)  # of train products

    def can_show(self, form: str) -> np.ndarray:
        """Which products may be trained on and have what a form is named for."""
        has_picture = self.num_pictures > 0 if form.endswith("image") else True
        return self.is_train & has_picture & (True if form in ("image", "rich_image") else self.has_title)

    def image_ids(self, code: int) -> list[str]:
        """The usable pictures of a product, main one first."""
        return [image_id for image_id in self.products[code].image_ids if image_id in self.pictures]

    def choose(self, code: int, rng: np.random.Generator) -> list[str]:
        """As many of its pictures as the view shows, any of them."""
        ids = self.image_ids(code)
        if self.view.num_images == 1:
            return [ids[int(rng.integers(len(ids)))]]
        return [ids[at] for at in rng.permutation(len(ids))[: self.view.num_images]]

    def pick(
        self, pool: np.ndarray, num: int, product: int, banned: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """At most `num` products of a pool by chance: none of the product's group, none that is banned."""
        size = min(len(pool), num + self._group_size[self.group[product]] + len(banned))
        drawn = rng.choice(pool, size, replace=False)  # so many that enough are left
        return drawn[(self.group[drawn] != self.group[product]) & ~np.isin(drawn, banned)][:num]

    def item(self, code: int, form: Form, image_ids: Sequence[str], rng: np.random.Generator) -> Item:
        """A product with some of its pictures, varied.

        The crop of a region is cut from the picture as it was: its box would not fit the varied one.
        """
        product = self.products[code]
        if not form.endswith("image"):
            return self.view.item(product, None, form)
        plain = {image_id: self.pictures[image_id] for image_id in image_ids}
        varied = {image_id: self._vary(picture, rng) for image_id, picture in plain.items()}
        if self.view.regions is None:
            return self.view.item(product, varied, form)
        item = self.view.item(product, plain, form)
        new = {id(plain[image_id]): varied[image_id] for image_id in plain}
        return replace(item, images=tuple(new.get(id(picture), picture) for picture in item.images))

    def picture(self, image_id: str, rng: np.random.Generator) -> Picture:
        """A picture, varied."""
        return self._vary(self.pictures[image_id], rng)

    def _vary(self, picture: Picture, rng: np.random.Generator) -> Picture:
        return vary(picture, rng, self.augment) if isinstance(picture, np.ndarray) else picture
