"""What there is to embed: a dataset's products, creatives and queries as a stream of entities.

An entity knows how to become an `Item` once its pictures are at hand. Its content hash comes from the same
rendering with each picture's SHA-256 in the picture's place: equal hashes mean equal input to the encoder,
and no picture has to be read to find that nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product, products_of, queries_of
from moontide.center.pictures import PictureIndex, open_streaming
from moontide.encoder.model.inputs import Form, Item, ProductView, query_item
from moontide.encoder.reasoned import Reasoned, content_hash
from moontide.foundation.errors import DataError

READ_ROWS = 1_024
TABLES = {"product": "products", "creative": "creatives", "query": "queries"}
_COLUMNS = {"creative": ["creative_id", "image_id"]}


@dataclass(frozen=True)
class Entity:
    """One thing to embed: its id, its pictures (and how many count), its item once their bytes are given."""

    entity_id: str
    image_ids: tuple[str, ...]
    num_images: int
    item: Callable[[Mapping[str, bytes]], Item]


@dataclass(frozen=True)
class Content:
    """An entity with the hash of its rendering, its pictures that are shown, and whether one was missing."""

    entity: Entity
    content_hash: str
    image_ids: tuple[str, ...]
    is_short: bool


def count_entities(dataset: Dataset, kind: str) -> int:
    """Rows of the table that `kind` comes from; 0 when the dataset lacks it."""
    return sum(open_streaming(file).metadata.num_rows for file in dataset.files(TABLES[kind]))


def entities(
    dataset: Dataset, kind: str, form: Form, view: ProductView, only: Collection[str] | None = None
) -> Iterator[Entity]:
    """All entities of a kind, in the order of their table, a record batch in memory at a time.

    Args:
        kind: "product", "creative" (its picture alone: the words are the product's) or "query".
        form: which parts of a product are rendered, see `encoder.model.inputs`.
        view: how the encoder is shown products.
        only: entity ids; None means all.
    """
    for file in dataset.files(TABLES[kind]):
        batches = open_streaming(file).iter_batches(
            batch_size=READ_ROWS, columns=_COLUMNS.get(kind), use_threads=False
        )
        for batch in batches:
            for entity in _entities_of(kind, batch, form, view):
                if only is None or entity.entity_id in only:
                    yield entity


def _entities_of(kind: str, batch: Any, form: Form, view: ProductView) -> Iterator[Entity]:
    if kind == "product":
        for product in products_of(batch):
            used = product.image_ids if form.endswith("image") else ()
            item = partial(_product, product, view, form)
            yield Entity(product.product_id, used, view.num_images, item)
    elif kind == "creative":
        for row in batch.to_pylist():
            shown = Product(row["creative_id"], "", image_ids=(row["image_id"],))
            item = partial(_product, shown, ProductView(), "image")
            yield Entity(row["creative_id"], shown.image_ids, 1, item)
    else:
        for query in queries_of(batch):
            used = (query.image_id,) if query.image_id else ()
            yield Entity(query.query_id, used, 1, partial(_query, query.text, query.image_id))


def _product(product: Product, view: ProductView, form: Form, pictures: Mapping[str, bytes]) -> Item:
    return view.item(product, pictures, form)


def _query(text: str | None, image_id: str | None, pictures: Mapping[str, bytes]) -> Item:
    return query_item(text=text, image=pictures.get(image_id) if image_id else None)


def contents(
    window: list[Entity], index: PictureIndex, reasoned: Reasoned | None = None
) -> tuple[list[Content], list[str]]:
    """The entities with their content hashes, and the ids of those that have neither words nor a picture.

    Args:
        reasoned: what the encoder wrote about them; it becomes a part of the item, and of its hash.
    """
    places = index.locate(image_id for entity in window for image_id in entity.image_ids)
    found, empty = [], []
    for entity in window:
        shown = [image_id for image_id in entity.image_ids if image_id in places][: entity.num_images]
        is_short = len(shown) < min(entity.num_images, len(entity.image_ids))
        try:
            item = entity.item({image_id: places[image_id].sha256 for image_id in shown})
        except DataError:
            empty.append(entity.entity_id)
        else:
            text = reasoned.texts.get(content_hash(item)) if reasoned else None
            if text is not None:
                item = replace(item, reasoning=text)
                entity = replace(entity, item=partial(_reasoned, entity.item, text))
            found.append(Content(entity, content_hash(item), tuple(shown), is_short))
    return found, empty


def _reasoned(make: Callable[[Mapping[str, bytes]], Item], text: str, pictures: Mapping[str, bytes]) -> Item:
    return replace(make(pictures), reasoning=text)
