"""How good vectors are at finding: recall with exact ranks, and the shape of the cloud.

Ties count against the positive: rank = 1 + #{other items: s >= s_p}. Constant vectors therefore have recall
0, not 1. With several positives a query hits when any of them ranks within k among the items that are no
positives.

Paper: MOON Embedding 3.6 (intermediate metric; ties, galleries, n and chance are ours), MOON 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from scipy.special import gammaln

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Query
from moontide.catalog.splits import cutoff
from moontide.encoder.model.inputs import Form, Item, product_item, query_item
from moontide.encoder.stages.pairs import groups_and_split, log_rows
from moontide.foundation.seeds import stream

KS = (1, 5, 10)
CHUNK = 512
Encode = Callable[[Sequence[Item]], np.ndarray]
Asked = tuple[list[Item], np.ndarray, Form]  # queries, codes of their products, form of the gallery


def ranks(queries: np.ndarray, gallery: np.ndarray, positives: Sequence[np.ndarray]) -> np.ndarray:
    """Rank of each query's best positive among the items that are none of its positives; 1 is best.

    Args:
        queries: (n, D); gallery: (m, D).
        positives: rows of the gallery for each query, at least one.

    Returns:
        (n,) int64
    """
    found = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ gallery.T
        for row, own in enumerate(positives[start : start + CHUNK]):
            assert len(own), "a query without positives has no rank"
            best = scores[row, own].max()
            others = int((scores[row] >= best).sum() - (scores[row, own] >= best).sum())
            found[start + row] = 1 + others
    return found


def recall_at(
    queries: np.ndarray, gallery: np.ndarray, positives: Sequence[np.ndarray], ks: Sequence[int] = KS
) -> dict[str, float]:
    """Share of queries with a positive within the first k, by k; NaN without queries.

    Weighting: every query counts once. Ties: against the positive.

    Returns:
        {"recall@1": ..., ...}

    Example:
        >>> recall_at(np.eye(3), np.eye(3), [np.array([0]), np.array([1]), np.array([0])], ks=(1,))
        {'recall@1': 0.6666666666666666}
    """
    if not len(queries):
        return {f"recall@{k}": float("nan") for k in ks}
    rank = ranks(queries, gallery, positives)
    return {f"recall@{k}": float((rank <= k).mean()) for k in ks}


def chance_at(num_positives: np.ndarray, size: int, k: int) -> float:
    """Recall of a random order: mean of 1 - C(size - p, k) / C(size, k)."""
    rest = size - num_positives
    possible = rest >= k
    part = np.zeros(len(num_positives))
    r, p = rest[possible], num_positives[possible]
    part[possible] = np.exp(gammaln(r + 1) - gammaln(r - k + 1) - gammaln(r + p + 1) + gammaln(r + p - k + 1))
    return float((1 - part).mean())


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of paired unit vectors; 0 is best."""
    return float(((first - second) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray, t: float = 2.0) -> float:
    """log mean exp(-t ||x - y||^2) over distinct pairs; lower is more even, 0 is one point."""
    squared = np.clip(2 - 2 * vectors @ vectors.T, 0, None)
    upper = np.triu_indices(len(vectors), 1)
    return float(np.log(np.exp(-t * squared[upper]).mean()))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine of distinct unit vectors; near 1 means collapse."""
    num = len(vectors)
    return float((np.square(vectors.sum(0)).sum() - num) / (num * (num - 1)))


def retrieval_table(
    dataset: Dataset,
    encode_items: Encode,
    before: datetime | None = None,
    max_queries: int = 1_000,
    max_gallery: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Recall of an encoder on held-out products, in the directions the dataset allows.

    title -> photo and other photo -> product over two galleries (held-out products; all products); text and
    image queries of the test period -> product, for held-out products and for products new in the test
    period. Any product of the right group is a hit.

    Args:
        encode_items: items to unit vectors.
        before: start of the test period; None: the last 20 % of impressions by time.
        max_queries: drawn by `seed` where there are more.
        max_gallery: likewise for the gallery of all products; held-out ones always stay. None: all.

    Returns:
        rows: protocol, gallery, n, size, chance@10, recall@1, @5, @10, and alignment, uniformity, mean_cosine
        of the title-to-photo rows.
    """
    pool = _Pool(dataset, encode_items, max_gallery, seed)
    rows = []
    for protocol, queries in (
        ("title -> photo", pool.titles(max_queries)),
        ("other photo -> product", pool.other_photos(max_queries)),
        *pool.asked(before, max_queries),
    ):
        if queries is not None:
            rows += pool.rows(protocol, *queries)
    return rows


class _Pool:
    """A dataset's products as a gallery, each form embedded once."""

    def __init__(self, dataset: Dataset, encode: Encode, max_gallery: int | None, seed: int):
        self.dataset, self.encode, self.seed = dataset, encode, seed
        self.products = dataset.products()
        ids = [product.product_id for product in self.products]
        self.group, self.is_train = groups_and_split(dataset, ids)
        pictured = np.array([any(i in dataset.images for i in p.image_ids) for p in self.products])
        self.test = np.flatnonzero(~self.is_train & pictured)
        train = np.flatnonzero(self.is_train & pictured)
        if max_gallery is not None and len(train) + len(self.test) > max_gallery:
            keep = max(0, max_gallery - len(self.test))
            train = np.sort(stream(seed, "gallery").choice(train, keep, replace=False))
        self.all = np.sort(np.concatenate([self.test, train]))
        self._vectors: dict[Form, np.ndarray] = {}

    def gallery(self, form: Form) -> np.ndarray:
        if form not in self._vectors:
            items = [product_item(self.products[code], self.dataset.images, form) for code in self.all]
            self._vectors[form] = self.encode(items)
        return self._vectors[form]

    def _some(self, codes: np.ndarray, name: str, limit: int) -> np.ndarray:
        if len(codes) <= limit:
            return codes
        return np.sort(stream(self.seed, "queries", name).choice(codes, limit, replace=False))

    def titles(self, limit: int) -> Asked | None:
        codes = self._some(self.test, "title", limit)
        codes = np.array([code for code in codes if self.products[code].title], dtype=np.int64)
        if not len(codes):
            return None
        return [product_item(self.products[code], None, "title") for code in codes], codes, "image"

    def other_photos(self, limit: int) -> Asked | None:
        images = self.dataset.images
        several = [code for code in self.test if sum(i in images for i in self.products[code].image_ids) > 1]
        codes = self._some(np.array(several, dtype=np.int64), "photo", limit)
        if not len(codes):
            return None
        last = [[i for i in self.products[code].image_ids if i in images][-1] for code in codes]
        return [query_item(image=images[i]) for i in last], codes, "rich_image"

    def asked(self, before: datetime | None, limit: int) -> list[tuple[str, Asked]]:
        """Queries of the test period whose chosen product is held out or new, by kind of query."""
        if not self.dataset.has("events") or not self.dataset.has("queries"):
            return []
        start = before or cutoff(self.dataset.table("events"))
        ids = [product.product_id for product in self.products]
        log = log_rows(self.dataset, ids, np.ones(len(ids), bool), after=start)
        queries = {query.query_id: query for query in self.dataset.queries()}
        created = [product.created_at for product in self.products]
        is_new = np.array([at is not None and at >= start for at in created])
        in_gallery = np.isin(log.product, self.all)
        found: list[tuple[str, Asked]] = []
        for whom, wanted in (("held-out product", ~self.is_train), ("new product", is_new)):
            for kind in ("text", "image"):
                asked = [queries[log.query_ids[code]] for code in log.query]
                has = [_kind(query) == kind and self._can_ask(query) for query in asked]
                rows = np.flatnonzero(wanted[log.product] & in_gallery & np.array(has, dtype=bool))
                rows = self._some(rows, f"{whom} {kind}", limit)
                if not len(rows):
                    continue
                items = [self._ask(queries[log.query_ids[code]]) for code in log.query[rows]]
                found.append((f"{kind} query -> {whom}", (items, log.product[rows], "rich_image")))
        return found

    def _ask(self, query: Query) -> Item:
        return query_item(query.text, self.dataset.images[query.image_id] if query.image_id else None)

    def _can_ask(self, query: Query) -> bool:
        return query.image_id is None or query.image_id in self.dataset.images

    def rows(self, protocol: str, items: list[Item], codes: np.ndarray, form: Form) -> list[dict[str, Any]]:
        vectors, everything = self.encode(items), self.gallery(form)
        rows = []
        galleries = [("all", self.all)]
        if np.isin(codes, self.test).all():
            galleries.insert(0, ("held-out", self.test))
        for name, members in galleries:
            gallery = everything[np.isin(self.all, members)]
            of_group: dict[int, list[int]] = {}
            for row, code in enumerate(members):
                of_group.setdefault(int(self.group[code]), []).append(row)
            positives = [np.array(of_group[int(self.group[code])]) for code in codes]
            sizes = np.array([len(own) for own in positives])
            row = {"protocol": protocol, "gallery": name, "n": len(codes), "size": len(members)}
            row |= recall_at(vectors, gallery, positives) | {"chance@10": chance_at(sizes, len(members), 10)}
            if protocol == "title -> photo" and name == "held-out":
                own = gallery[np.searchsorted(members, codes)]
                row |= {"alignment": alignment(vectors, own), "uniformity": uniformity(gallery)}
                row |= {"mean_cosine": mean_cosine(gallery)}
            rows.append(row)
        return rows


def _kind(query: Query) -> str:
    return "both" if query.text and query.image_id else "text" if query.text else "image"
