"""A dataset's products as galleries: who is held out, who belongs to whom, and vectors made once a form.

Paper: MOON 3.5 (splits disjoint by product and SPU: ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.catalog.splits import cutoff
from moontide.encoder.model.inputs import Form, Item, ProductView, render_text
from moontide.encoder.stages.rows import groups_and_split, is_known
from moontide.foundation.seeds import stream

CHUNK = 4_096
Encode = Callable[[Sequence[Item]], np.ndarray]


@dataclass(frozen=True)
class Abilities:
    """Which forms an encoder has vectors for, and whether a text and a picture can be compared at all."""

    forms: frozenset[str] = frozenset(("t", "i", "mm"))
    crosses: bool = True

    def can(self, query: str, candidate: str) -> bool:
        """Whether it can hold such queries against such candidates."""
        return {query, candidate} <= self.forms and (self.crosses or {query, candidate} != {"t", "i"})

    @property
    def chooses(self) -> bool:
        """Whether it can hold a product against texts that its own text does not hold."""
        return {"t", "mm"} <= self.forms and self.crosses


@dataclass(frozen=True)
class Shown:
    """How the products of a gallery are shown: the form, and what is left out of its text."""

    form: Form
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """What is ranked: the vectors of `codes`, products of a pool in ascending order."""

    codes: np.ndarray
    vectors: np.ndarray

    def among(self, is_member: np.ndarray) -> Gallery:
        """The products for which a mask over all products of the pool is True."""
        kept = is_member[self.codes]
        return Gallery(self.codes[kept], self.vectors[kept])


class Pool:
    """The products of a dataset.

    Args:
        dataset: without splits no product is held out.
        encode: items to unit vectors: what is ranked and what is chosen from.
        view: how products are shown to the encoder.
        max_gallery: products at most, drawn by `seed`; those held out, new or judged always stay. None: all.
        before: start of the test period; None: the last 20 % of impressions by time, if there are any.
        abilities: what the encoder has vectors for.
        encode_queries: items to unit vectors where they are what is asked; None: `encode`.
        text: "title" never shows more of a product's text than its title.
    """

    def __init__(
        self,
        dataset: Dataset,
        encode: Encode,
        view: ProductView | None = None,
        max_gallery: int | None = None,
        seed: int = 0,
        before: datetime | None = None,
        abilities: Abilities = Abilities(),
        encode_queries: Encode | None = None,
        text: Literal["rich", "title"] = "rich",
    ):
        self.dataset, self.encode, self.seed, self.abilities = dataset, encode, seed, abilities
        self.encode_queries = encode_queries or encode
        self.view, self.text = view or ProductView(), text
        self.products = dataset.products()
        self.ids = [product.product_id for product in self.products]
        self.before = before or _test_start(dataset)
        self.group, is_train = groups_and_split(dataset, self.ids)
        self.is_held = ~is_train
        self.is_new = ~self.is_held & ~is_known(self.products, self.before)
        self.pictures = [[i for i in p.image_ids if i in dataset.images] for p in self.products]
        self.is_pictured = np.array([bool(found) for found in self.pictures], dtype=bool)
        self.is_member = np.ones(len(self.ids), bool)
        judged = set(dataset.table("judgments", ["product_id"]).column(0).to_pylist())
        stays = self.is_held | self.is_new | np.array([one in judged for one in self.ids], dtype=bool)
        rest = np.flatnonzero(~stays)
        if max_gallery is not None and len(self.ids) > max_gallery:
            keep = max(0, max_gallery - (len(self.ids) - len(rest)))
            self.is_member[rest] = False
            self.is_member[stream(seed, "gallery").choice(rest, keep, replace=False)] = True
        self._known: dict[Shown, Gallery] = {}
        self._can: dict[Shown, np.ndarray] = {}

    def can_show(self, shown: Shown) -> np.ndarray:
        """Which products have anything to show that way: (products,) bool."""
        shown = self._allowed(shown)
        if shown not in self._can:
            has_text = np.zeros(len(self.ids), bool)
            if shown.form != "image":
                is_rich = shown.form.startswith("rich")
                texts = (render_text(product, is_rich, shown.without)[0] for product in self.products)
                has_text = np.fromiter((bool(text) for text in texts), bool, len(self.ids))
            self._can[shown] = has_text | (self.is_pictured & shown.form.endswith("image"))
        return self._can[shown]

    def gallery(self, shown: Shown) -> Gallery:
        """All products of the pool that can be shown that way, embedded at the first call."""
        shown = self._allowed(shown)
        if shown not in self._known:
            codes = np.flatnonzero(self.is_member & self.can_show(shown))
            parts = [
                self.encode(self.items(codes[start : start + CHUNK], shown))
                for start in range(0, len(codes), CHUNK)  # the pictures of all at once need not fit
            ]
            self._known[shown] = Gallery(codes, np.concatenate(parts) if parts else np.zeros((0, 1)))
        return self._known[shown]

    def items(self, codes: np.ndarray, shown: Shown) -> list[Item]:
        """Products as items."""
        shown = self._allowed(shown)
        images = self.dataset.images if shown.form.endswith("image") else None
        return [self.view.item(self.products[code], images, shown.form, shown.without) for code in codes]

    def _allowed(self, shown: Shown) -> Shown:
        """How products are shown where this is asked: no rich text where only titles are."""
        if self.text == "rich" or not shown.form.startswith("rich"):
            return shown
        return replace(shown, form="title" if shown.form == "rich" else "title_image")

    def other_photo(self, code: int) -> str | None:
        """The last picture of a product, if the encoder is not shown it as a part of the product."""
        found = self.pictures[code]
        return found[-1] if len(found) > self.view.num_images else None

    def some(self, rows: np.ndarray, limit: int, *names: object) -> np.ndarray:
        """At most `limit` of the rows, drawn by seed and names, in order."""
        if len(rows) <= limit:
            return rows
        return np.sort(stream(self.seed, "queries", *names).choice(rows, limit, replace=False))

    def top_category(self, code: int) -> str:
        """The coarsest category of a product; empty for none."""
        product: Product = self.products[code]
        return product.category[0] if product.category else ""


def members_of(codes: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of a gallery by the label (group) of its products.

    Args:
        codes: products of the gallery; labels: of all products.

    Example:
        >>> members_of(np.array([0, 2, 3]), np.array([7, 7, 7, 9]))
        {7: array([0, 1]), 9: array([2])}
    """
    own = labels[codes]
    order = np.argsort(own, kind="stable")
    values, starts = np.unique(own[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True)) if len(codes) else {}


def _test_start(dataset: Dataset) -> datetime | None:
    events = dataset.table("events", ["kind", "at"])
    if not pc.any(pc.equal(events.column("kind"), "impression")).as_py():
        return None
    return cutoff(events)
