"""Triplets: a query, what was chosen for it, and what it was shown and nobody touched.

Every member comes in up to three forms, text, picture and both, which show the very same pixels: the vision
tower need see them once. Only products of the train split and events before the cutoff enter. A batch is a
function of seed and step alone.

Paper: MOON2.0 2, 3.1-3.3: purchases as positives, exposed items of low relevance as negatives, forms t, i, mm
(paper reported); low relevance read as another category (ours); the text of a product is its title (paper
reported).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.inputs import Item, Part, PictureSource, ProductView, query_item
from moontide.encoder.objectives.masks import is_member
from moontide.encoder.stages.hard import Neighbors
from moontide.encoder.stages.rows import (
    BEHAVIORS,
    WEIGHTS,
    SameRequest,
    codes_of,
    log_rows,
    products_of,
    read_events,
)
from moontide.encoder.stages.stock import Stock
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream

_Three = tuple[Item | None, Item | None, Item | None]
Augmented = Mapping[str, tuple[str | None, Sequence[str]]]


@dataclass(frozen=True)
class Forms:
    """Items of a batch by form; None where a query has no such form."""

    text: list[Item | None]
    image: list[Item | None]
    text_image: list[Item | None]


@dataclass(frozen=True)
class Shown(Forms):
    """Products of a batch by form, and the codes masks need; category -1: none; equal titles share a code."""

    product: np.ndarray
    group: np.ndarray
    category: np.ndarray
    title: np.ndarray


@dataclass(frozen=True)
class TripletBatch:
    """The triplets of one step.

    Args:
        query, positive, negative: items of row i belong together.
        query_code: (B,) equal for queries of the same content.
        sources: where the negative of each row came from, see `Triplets`.
        num_augmented: positives shown with what augmentation adds.
    """

    query: Forms
    positive: Shown
    negative: Shown
    query_code: np.ndarray
    sources: tuple[str, ...]
    num_augmented: int


class Triplets:
    """The triplets of a dataset.

    A negative was exposed under the query, and nobody clicked, carted or ordered it, nor one of its group,
    under the same words and picture. It is drawn from the first of these that has any: "request" (request of
    the positive, another leaf category), "query" (same query, another leaf category), "request, same
    category", "query, same category", "random" (a product of another category that was not exposed).

    Args:
        dataset: products, queries, and events, or judgments of source "train".
        pictures: pixels by image id.
        before: events and products from this moment on are not seen; None: all are.
        kinds: the behaviors that make a positive.
        augment: strength of random picture variation, see `pictures.vary`.
        view: how products are shown.
        whole: text of the form of both: the title, or all of it, as where the vectors are searched.
        augmented: by product id, an enriched title and more pictures; only positives with text and picture
            show them, on the training side alone.
        drop: probability that a positive does without.
        negatives: "clicked" looks first for what was clicked in the request of the positive and not chosen,
            then for products of its category: MIM's hard negatives.

    Attributes:
        rows: the log rows; those with something to show are drawn.
        positives: sorted keys of everything chosen, for `masks.not_negative`.
        left_out: rows without, because of their "product" (no title, no usable picture) or "query"; and each
            "added picture" that is absent or broken.

    Raises:
        DataError: no positives, or all products are of one group.
    """

    def __init__(
        self,
        dataset: Dataset,
        pictures: PictureSource,
        before: datetime | None = None,
        kinds: Sequence[str] = ("order",),
        augment: float = 0.0,
        seed: int = 0,
        view: ProductView = ProductView(),
        whole: Literal["title_image", "rich_image"] = "title_image",
        augmented: Augmented | None = None,
        drop: float = 0.3,
        negatives: Literal["exposed", "clicked"] = "exposed",
    ):
        self.stock, self.pictures, self.seed = Stock(dataset, pictures, before, augment, view), pictures, seed
        self.whole, self.augmented, self.drop = whole, augmented or {}, drop
        self.products, self.group, self.category = self.stock.products, self.stock.group, self.stock.category
        self.title = codes_of([" ".join(product.title.lower().split()) for product in self.products])
        rows = log_rows(dataset, self.stock.product_ids, self.stock.is_train, before, kinds=kinds)
        self._num = len(self.products)
        self.positives = rows.keys(self._num)
        self._queries = {query.query_id: query for query in dataset.queries()} if len(rows.query) else {}
        is_shown = self.stock.can_show("title") & self.stock.can_show("image")
        self._members = np.flatnonzero(is_shown)
        is_product = is_shown[rows.product]
        is_query = np.array([self._is_askable(rows.query_ids[code]) for code in rows.query], dtype=bool)
        self.rows, found = rows, np.flatnonzero(is_product & is_query)
        self.left_out = self._count_left_out(is_product, is_query)
        if not len(found):
            raise DataError(
                f"{dataset.path} has no triplets: of {len(rows.query)} pairs of a query and a train product "
                f"by {' or '.join(kinds)}, none has a title and a picture to show; import a log with "
                f"{' or '.join(kinds)} events, or let clicks count as positives"
            )
        if len(np.unique(self.group[self._members])) < 2:
            raise DataError(
                f"{dataset.path} has no negatives: all {len(self._members)} train products with title and "
                "picture are of one group; import more products"
            )
        weight = rows.weight[found]
        self._drawn = np.repeat(found, weight // np.gcd.reduce(weight))
        self._read_exposures(dataset, before, kinds, is_shown)
        self._neighbors = (
            Neighbors(self.stock, self.positives, self._clicked) if negatives == "clicked" else None
        )

    def __len__(self) -> int:
        return len(self._drawn)

    def _is_askable(self, query_id: str) -> bool:
        query = self._queries[query_id]
        return bool(query.text) or (query.image_id is not None and query.image_id in self.pictures)

    def _count_left_out(self, is_product: np.ndarray, is_query: np.ndarray) -> Counter[str]:
        added = [self.augmented.get(self.stock.product_ids[code], (None, ()))[1] for code in self._members]
        return +Counter(
            {
                "product": int((~is_product).sum()),
                "query": int((is_product & ~is_query).sum()),
                "added picture": sum(one not in self.pictures for image_ids in added for one in image_ids),
            }
        )

    def _read_exposures(
        self, dataset: Dataset, before: datetime | None, kinds: Sequence[str], is_shown: np.ndarray
    ) -> None:
        events = read_events(dataset, self.stock.product_ids, ("impression", *BEHAVIORS), before)
        keys, is_behavior = events.keys(self._num), events.weight > 0
        self._touched = np.unique(np.concatenate([keys[is_behavior], self.positives]))
        by_group = np.unique(self._touched // self._num * self._num + self.group[self._touched % self._num])
        is_touched = is_member(events.query * self._num + self.group[events.product], by_group)
        is_exposed = ~is_behavior & is_shown[events.product] & ~is_touched
        exposed = events.where(is_exposed)
        self._exposed = np.unique(exposed.keys(self._num))
        is_kind = np.isin(events.weight, [WEIGHTS[kind] for kind in kinds])
        self._same_request = SameRequest(events.where(is_kind), exposed, self._num)
        is_other = is_behavior & is_shown[events.product] & ~is_member(keys, self.positives)
        self._clicked = SameRequest(events.where(is_kind), events.where(is_other), self._num)
        self._elsewhere: dict[int, np.ndarray] = {}

    def batch(self, step: int, size: int) -> TripletBatch:
        """The triplets of one step: every row once an epoch, fewer than `size` if there are not as many."""
        size = min(size, len(self._drawn))
        per_epoch = len(self._drawn) // size
        order = stream(self.seed, "triplets", step // per_epoch).permutation(len(self._drawn))
        at = (step % per_epoch) * size
        rows = self._drawn[order[at : at + size]]
        rng = stream(self.seed, "negatives", step)
        query, product = self.rows.query[rows], self.rows.product[rows]
        drawn = [self._negative(*pair, rng) for pair in zip(query.tolist(), product.tolist(), strict=True)]
        negative = np.array([code for code, _ in drawn], dtype=np.int64)
        rng = stream(self.seed, "views", step)
        asked = [self._asked(code, rng) for code in query.tolist()]
        chosen = [self._shown(code, rng) for code in product.tolist()]
        whole = [
            self._augment(code, forms, rng) for code, forms in zip(product.tolist(), chosen, strict=True)
        ]
        others = [self._shown(code, rng) for code in negative.tolist()]
        return TripletBatch(
            Forms(*_columns(asked)),
            self._with_codes(whole, product),
            self._with_codes(others, negative),
            query,
            tuple(source for _, source in drawn),
            sum(one is not other for one, other in zip(whole, chosen, strict=True)),
        )

    def _negative(self, query: int, product: int, rng: np.random.Generator) -> tuple[int, str]:
        if self._neighbors is not None:
            found, counts = self._neighbors.draw(query, product, "title_image", 1, rng)
            return int(found[0]), next(iter(+counts))
        for source, pool, banned in self._pools(query, product):
            found = self.stock.pick(pool, 1, product, banned, rng)
            if len(found):
                return int(found[0]), source
        raise AssertionError("there are two groups")

    def _pools(self, query: int, product: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Where to look for a negative, and what is banned there."""
        none = np.zeros(0, dtype=np.int64)
        request, shown = self._same_request.of(query, product), products_of(self._exposed, query, self._num)
        yield "request", request[self._is_elsewhere(request, product)], none
        yield "query", shown[self._is_elsewhere(shown, product)], none
        yield "request, same category", request, none
        yield "query, same category", shown, none
        touched, category = products_of(self._touched, query, self._num), int(self.category[product])
        if category not in self._elsewhere:
            self._elsewhere[category] = self._members[self._is_elsewhere(self._members, product)]
        yield "random", self._elsewhere[category], touched
        yield "random", self._members, touched
        yield "random", self._members, none

    def _is_elsewhere(self, codes: np.ndarray, product: int) -> np.ndarray:
        """Whether products are known to be of another leaf category than a product."""
        category = self.category[codes]
        return (category != self.category[product]) & (category >= 0) & (self.category[product] >= 0)

    def _asked(self, code: int, rng: np.random.Generator) -> _Three:
        query = self._queries[self.rows.query_ids[code]]
        picture = None
        if query.image_id is not None and query.image_id in self.pictures:
            picture = self.stock.picture(query.image_id, rng)
        text = query_item(query.text) if query.text else None
        image = query_item(image=picture) if picture is not None else None
        return text, image, query_item(query.text, picture) if text and image else None

    def _shown(self, code: int, rng: np.random.Generator) -> _Three:
        both = self.stock.item(code, self.whole, self.stock.choose(code, rng), rng)
        return self.stock.item(code, "title", (), rng), Item(images=both.images), both

    def _augment(self, code: int, forms: _Three, rng: np.random.Generator) -> _Three:
        is_dropped = rng.random() < self.drop
        title, image_ids = self.augmented.get(self.products[code].product_id, (None, ()))
        image_ids = [image_id for image_id in image_ids if image_id in self.pictures]
        text, image, both = forms
        if is_dropped or not (title or image_ids):
            return forms
        assert both is not None
        images = (*both.images, *(self.stock.picture(image_id, rng) for image_id in image_ids))
        both = replace(both, images=images)
        return text, image, with_title(both, title) if title else both

    def _with_codes(self, forms: Sequence[_Three], code: np.ndarray) -> Shown:
        codes = (code, self.group[code], self.category[code], self.title[code])
        return Shown(*_columns(forms), *codes)


def with_title(item: Item, title: str) -> Item:
    """An item whose text goes on with another title.

    Paper: MOON2.0 2: both titles are read, the original first (paper reported; the separator is ours).
    """
    start = f"{item.text} | " if item.text else ""
    title = " ".join(title.split())
    part = Part("title", len(start), len(start) + len(title))
    return replace(item, text=start + title, parts=(*item.parts, part))


def _columns(rows: Sequence[_Three]) -> tuple[list[Item | None], list[Item | None], list[Item | None]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
