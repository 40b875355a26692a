"""The small table of a run: recall of an encoder on held-out and on new products.

`evaluate.py` has the whole suite: all directions, classification, attributes, intervals, baselines.

Paper: MOON Embedding 3.6 (intermediate metric; ties, galleries, n and chance are ours), MOON 3.5.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Query
from moontide.encoder.metrics import alignment, chance_at, mean_cosine, recall_at, uniformity
from moontide.encoder.model.inputs import Item, ProductView, query_item
from moontide.encoder.pool import Encode, Pool, Shown, members_of
from moontide.encoder.stages.rows import log_rows

PHOTO, PRODUCT = Shown("image"), Shown("rich_image")
Asked = tuple[list[Item], np.ndarray, Shown]  # queries, codes of their products, what they are held against


def retrieval_table(
    dataset: Dataset,
    encode_items: Encode,
    before: datetime | None = None,
    max_queries: int = 1_000,
    max_gallery: int | None = None,
    seed: int = 0,
    view: ProductView | None = None,
) -> list[dict[str, Any]]:
    """Recall of an encoder on held-out products, in the directions the dataset allows.

    title -> photo and other photo -> product over two galleries (held-out products; all products); text and
    image queries of the test period -> product, for held-out products and for products new in the test
    period. Any product of the right group is a hit. Products without a picture are left out.

    Args:
        encode_items: items to unit vectors.
        before: start of the test period; None: the last 20 % of impressions by time.
        max_queries: drawn by `seed` where there are more.
        max_gallery: likewise for the gallery of all products; held-out and new ones always stay. None: all.
        view: how the encoder is shown products; None: one picture.

    Returns:
        rows: protocol, gallery, n, size, chance@10, recall@1, @5, @10, and alignment, uniformity, mean_cosine
        of the title-to-photo rows.
    """
    pool = Pool(dataset, encode_items, view, max_gallery, seed, before)
    rows = []
    for protocol, asked in (
        ("title -> photo", _titles(pool, max_queries)),
        ("other photo -> product", _other_photos(pool, max_queries)),
        *_asked(pool, max_queries),
    ):
        if len(asked[1]):
            rows += _rows(pool, protocol, *asked)
    return rows


def _titles(pool: Pool, limit: int) -> Asked:
    codes = pool.some(np.flatnonzero(pool.is_held & pool.is_pictured), limit, "title")
    codes = codes[pool.can_show(Shown("title"))[codes]]
    return pool.items(codes, Shown("title")), codes, PHOTO


def _other_photos(pool: Pool, limit: int) -> Asked:
    held = np.flatnonzero(pool.is_held)
    codes = np.array([code for code in held if pool.other_photo(code) is not None], dtype=np.int64)
    codes = pool.some(codes, limit, "photo")
    images = pool.dataset.images
    return [query_item(image=images[str(pool.other_photo(code))]) for code in codes], codes, PRODUCT


def _asked(pool: Pool, limit: int) -> list[tuple[str, Asked]]:
    """Queries of the test period whose chosen product is held out or new, by kind of query."""
    if pool.before is None or not pool.dataset.has("queries"):
        return []
    log = log_rows(pool.dataset, pool.ids, pool.is_member & pool.is_pictured, after=pool.before)
    queries = {query.query_id: query for query in pool.dataset.queries()}
    asked = [queries[log.query_ids[code]] for code in log.query]
    new = np.array([p.created_at is not None and p.created_at >= pool.before for p in pool.products])
    found: list[tuple[str, Asked]] = []
    for whom, wanted in (("held-out product", pool.is_held), ("new product", new)):
        for kind in ("text", "image"):
            has = np.array([_kind(query) == kind and _can_ask(pool, query) for query in asked], dtype=bool)
            rows = pool.some(np.flatnonzero(wanted[log.product] & has), limit, f"{whom} {kind}")
            items = [_ask(pool, asked[row]) for row in rows]
            found.append((f"{kind} query -> {whom}", (items, log.product[rows], PRODUCT)))
    return found


def _kind(query: Query) -> str:
    return "both" if query.text and query.image_id else "text" if query.text else "image"


def _can_ask(pool: Pool, query: Query) -> bool:
    return query.image_id is None or query.image_id in pool.dataset.images


def _ask(pool: Pool, query: Query) -> Item:
    return query_item(query.text, pool.dataset.images[query.image_id] if query.image_id else None)


def _rows(pool: Pool, protocol: str, items: list[Item], codes: np.ndarray, shown: Shown) -> list[dict]:
    vectors = pool.encode_queries(items)
    everything = pool.gallery(shown).among(pool.is_pictured)
    galleries = [("all", everything)]
    if pool.is_held[codes].all():
        galleries.insert(0, ("held-out", everything.among(pool.is_held)))
    rows = []
    for name, gallery in galleries:
        of_group = members_of(gallery.codes, pool.group)
        positives = [of_group[group] for group in pool.group[codes].tolist()]
        sizes = np.array([len(own) for own in positives])
        row: dict[str, Any] = {"protocol": protocol, "gallery": name}
        row |= {"n": len(codes), "size": len(gallery.codes)}
        row |= recall_at(vectors, gallery.vectors, positives)
        row |= {"chance@10": chance_at(sizes, len(gallery.codes), 10)}
        if protocol == "title -> photo" and name == "held-out":
            own = gallery.vectors[np.searchsorted(gallery.codes, codes)]
            row |= {"alignment": alignment(vectors, own), "uniformity": uniformity(gallery.vectors)}
            row |= {"mean_cosine": mean_cosine(gallery.vectors)}
        rows.append(row)
    return rows
