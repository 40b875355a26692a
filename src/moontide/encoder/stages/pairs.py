"""What is paired with what in post-training: rows of the log and views of the catalog, on a fixed schedule.

Every step has one pairing of forms, so that in-batch negatives cannot be told apart by their form. Only
products of the train split and events before the cutoff enter. A batch is a function of seed and step alone.

Paper: MOON Embedding 3.4: one global pairing per step (ours), positives from click, cart and order (paper);
the catalog pairings are ours, they bind text to pictures before a log is long enough to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.encoder.model.inputs import Form, Item, Picture, PictureSource, product_item, query_item
from moontide.encoder.stages.pictures import vary
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream

WEIGHTS = {"click": 1, "cart": 2, "order": 3}  # how often a pair is drawn; guess


@dataclass(frozen=True)
class Pairing:
    """One row of the schedule: the two forms, how often, and where the pairs come from.

    A query form of a log row is "text", "image" or "text_image"; of a catalog row it is a product form, and
    its picture is another one than the item's where there is another.
    """

    query_form: Form | Literal["text", "text_image"]
    item_form: Form
    share: float
    source: str


BEHAVIOR = (
    Pairing("text", "rich_image", 0.30, "log"),
    Pairing("text", "image", 0.20, "log"),
    Pairing("text", "title_image", 0.15, "log"),
    Pairing("image", "image", 0.15, "log"),
    Pairing("image", "rich_image", 0.15, "log"),
    Pairing("text_image", "rich_image", 0.05, "log"),
)
CATALOG = (
    Pairing("title", "image", 0.60, "catalog"),
    Pairing("image", "image", 0.20, "catalog"),
    Pairing("image", "rich_image", 0.10, "catalog"),
    Pairing("title_image", "rich_image", 0.10, "catalog"),
)


@dataclass(frozen=True)
class Batch:
    """The items of one step and the codes its masks need; item i is the positive of query i."""

    pairing: Pairing
    queries: list[Item]
    items: list[Item]
    product: np.ndarray
    content: np.ndarray
    query: np.ndarray


def schedule(pairings: Sequence[Pairing], num_steps: int) -> np.ndarray:
    """Which pairing each step takes: shares kept as evenly as whole steps allow, in every stretch.

    Example:
        >>> shares = (0.5, 0.25, 0.25)
        >>> schedule([Pairing("text", "image", share, "log") for share in shares], 8).tolist()
        [0, 1, 2, 0, 0, 1, 2, 0]
    """
    share = np.array([pairing.share for pairing in pairings], dtype=np.float64)
    share /= share.sum()
    taken, order = np.zeros(len(share)), np.empty(num_steps, dtype=np.int64)
    for step in range(num_steps):
        order[step] = np.argmax(share * (step + 1) - taken)
        taken[order[step]] += 1
    return order


class TrainingPairs:
    """The pairs of a dataset.

    Args:
        dataset: products, splits, images; queries and events for the log.
        pictures: pixels by image id.
        before: events and products from this moment on are not seen; None: all are.
        catalog_share: share of steps that pair a product with another view of itself.
        augment: strength of random picture variation, see `pictures.vary`.
        table: the pairings to choose from; those without rows are left out.

    Raises:
        DataError: nothing to pair.
    """

    def __init__(
        self,
        dataset: Dataset,
        pictures: PictureSource,
        before: datetime | None = None,
        catalog_share: float = 0.4,
        augment: float = 0.0,
        seed: int = 0,
        table: Sequence[Pairing] = (*BEHAVIOR, *CATALOG),
    ):
        self.pictures, self.augment, self.seed = pictures, augment, seed
        self.products = dataset.products()
        self.group, self.is_train = groups_and_split(dataset, [p.product_id for p in self.products])
        self.is_train &= is_known(self.products, before)
        self.rows = log_rows(dataset, [p.product_id for p in self.products], self.is_train, before)
        self._queries = {query.query_id: query for query in dataset.queries()} if len(self.rows.query) else {}
        self._known: dict[tuple[str, str, str], np.ndarray] = {}
        self.pairings = self._pairings(table, catalog_share)
        if not self.pairings:
            raise DataError(
                f"{dataset.path} has nothing to pair: no train product with a picture, no click on one"
            )

    def _pairings(self, table: Sequence[Pairing], catalog_share: float) -> list[Pairing]:
        """The pairings that have rows, their shares within log and catalog as set."""
        found: list[Pairing] = []
        for source, share in (("log", 1 - catalog_share), ("catalog", catalog_share)):
            rows = [row for row in table if row.source == source and len(self._members(row)) > 1]
            total = sum(row.share for row in rows)
            found += [replace(row, share=share * row.share / total) for row in rows if share]
        return found

    @cached_property
    def _pictured(self) -> np.ndarray:
        """How many usable pictures each product has."""
        return np.array([sum(i in self.pictures for i in p.image_ids) for p in self.products])

    def _members(self, pairing: Pairing) -> np.ndarray:
        """Rows a pairing may draw: log rows, repeated by weight, or product codes."""
        key = (pairing.source, pairing.query_form, pairing.item_form)
        if key not in self._known:
            self._known[key] = self._find(pairing)
        return self._known[key]

    def _find(self, pairing: Pairing) -> np.ndarray:
        if pairing.source == "log":
            forms = {"text": (True, False), "image": (False, True), "text_image": (True, True)}
            wants = forms[pairing.query_form]
            has = self._query_has
            good = np.array([has[code] == wants for code in self.rows.query], dtype=bool)
            good = good.reshape(-1) & (self._pictured[self.rows.product] > 0)
            rows = np.flatnonzero(good)
            return np.repeat(rows, self.rows.weight[rows])
        needs = 2 if pairing.query_form.endswith("image") and pairing.item_form.endswith("image") else 1
        has_title = np.array([bool(product.title) for product in self.products])
        return np.flatnonzero(self.is_train & (self._pictured >= needs) & has_title)

    @cached_property
    def _query_has(self) -> list[tuple[bool, bool]]:
        has = []
        for query_id in self.rows.query_ids:
            query = self._queries[query_id]
            picture = query.image_id is not None
            has.append((bool(query.text), picture and query.image_id in self.pictures))
        return has

    def plan(self, num_steps: int) -> np.ndarray:
        """Which of `pairings` each step takes."""
        return schedule(self.pairings, num_steps)

    def batch(self, number: int, turn: int, step: int, size: int) -> Batch:
        """The pairs of one step.

        Args:
            number: which pairing.
            turn: how often it was taken before: its position in the data.
            step: of the stage; seeds the picture variations.
            size: pairs; fewer if there are not as many.
        """
        pairing = self.pairings[number]
        members = self._members(pairing)
        size = min(size, len(members))
        per_epoch = len(members) // size
        rng = stream(self.seed, "pairs", pairing.query_form, pairing.item_form, turn // per_epoch)
        at = (turn % per_epoch) * size
        rows = members[rng.permutation(len(members))[at : at + size]]
        rng = stream(self.seed, "views", step)
        if pairing.source == "log":
            product, query = self.rows.product[rows], self.rows.query[rows]
            made = [self._log_pair(pairing, *codes, rng) for codes in zip(query, product, strict=True)]
        else:
            product, query = rows, np.full(len(rows), -1)
            made = [self._views(pairing, self.products[code], rng) for code in rows]
        content = _codes([(item.text, one) for _, item, one in made])
        return Batch(pairing, [q for q, _, _ in made], [i for _, i, _ in made], product, content, query)

    def _log_pair(
        self, pairing: Pairing, query: int, product: int, rng: np.random.Generator
    ) -> tuple[Item, Item, str | None]:
        asked = self._queries[self.rows.query_ids[query]]
        seen = asked.image_id is not None and asked.image_id in self.pictures
        picture = self._varied(asked.image_id, rng) if seen else None
        text = asked.text if pairing.query_form.startswith("text") else None
        ids = [i for i in self.products[product].image_ids if i in self.pictures]
        shown = ids[int(rng.integers(len(ids)))]
        return query_item(text, picture), *self._form(product, pairing.item_form, shown, rng)

    def _views(
        self, pairing: Pairing, product: Product, rng: np.random.Generator
    ) -> tuple[Item, Item, str | None]:
        ids = [i for i in product.image_ids if i in self.pictures]
        order = rng.permutation(len(ids))
        shown, other = ids[order[0]], ids[order[-1]]
        query, _ = self._form(product, cast(Form, pairing.query_form), other, rng)
        return query, *self._form(product, pairing.item_form, shown, rng)

    def _form(
        self, product: int | Product, form: Form, image_id: str, rng: np.random.Generator
    ) -> tuple[Item, str | None]:
        record = product if isinstance(product, Product) else self.products[product]
        if not form.endswith("image"):
            return product_item(record, None, form), None
        varied = {image_id: self._varied(image_id, rng)}
        return product_item(record, varied, form), image_id

    def _varied(self, image_id: str, rng: np.random.Generator) -> Picture:
        pixels = self.pictures[image_id]
        return vary(pixels, rng, self.augment) if isinstance(pixels, np.ndarray) else pixels


@dataclass(frozen=True)
class LogRows:
    """Distinct (query, product) pairs of a log; equal query contents share a code."""

    query: np.ndarray
    product: np.ndarray
    weight: np.ndarray
    query_ids: list[str]

    def keys(self, num_products: int) -> np.ndarray:
        """Sorted keys query * num_products + product of all pairs, for `masks.not_negative`."""
        return np.sort(self.query * num_products + self.product)


def is_known(products: Sequence[Product], before: datetime | None) -> np.ndarray:
    """Whether each product was there before a moment; one without a date always was."""
    return np.array([before is None or p.created_at is None or p.created_at < before for p in products])


def groups_and_split(dataset: Dataset, product_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Group code, and whether it may be trained on, of each product; without splits each is its own group."""
    splits = dataset.table("splits")
    group_of = dict(zip(splits["product_id"].to_pylist(), splits["group_id"].to_pylist(), strict=True))
    side_of = dict(zip(splits["product_id"].to_pylist(), splits["split"].to_pylist(), strict=True))
    groups = _codes([group_of.get(i, f"alone {i}") for i in product_ids])
    is_train = np.array([side_of.get(i, "test" if side_of else "train") == "train" for i in product_ids])
    return groups, is_train


def log_rows(
    dataset: Dataset,
    product_ids: Sequence[str],
    is_wanted: np.ndarray,
    before: datetime | None = None,
    after: datetime | None = None,
) -> LogRows:
    """Clicks, carts and orders on wanted products; a pair weighs as its strongest event.

    Args:
        before, after: events with after <= at < before.
    """
    empty = np.zeros(0, dtype=np.int64)
    if not dataset.has("events") or not dataset.has("queries"):
        return LogRows(empty, empty, empty, [])
    events = dataset.table("events", ["at", "kind", "query_id", "product_id"])
    good = pc.and_(
        pc.is_in(events["kind"], pa.array(list(WEIGHTS))),
        pc.and_(pc.is_valid(events["query_id"]), pc.is_valid(events["product_id"])),
    )
    if before is not None:
        good = pc.and_(good, pc.less(events["at"], pa.scalar(before, events["at"].type)))
    if after is not None:
        good = pc.and_(good, pc.greater_equal(events["at"], pa.scalar(after, events["at"].type)))
    events = events.filter(good)
    code_of = {product_id: code for code, product_id in enumerate(product_ids)}
    product = np.array([code_of.get(i, -1) for i in events["product_id"].to_pylist()], dtype=np.int64)
    content, query_ids = _query_codes(dataset)
    query = np.array([content.get(i, -1) for i in events["query_id"].to_pylist()], dtype=np.int64)
    weight = np.array([WEIGHTS[kind] for kind in events["kind"].to_pylist()], dtype=np.int64)
    known = (product >= 0) & (query >= 0)
    known[known] &= is_wanted[product[known]]
    product, query, weight = product[known], query[known], weight[known]
    keys, place = np.unique(query * len(product_ids) + product, return_inverse=True)
    strongest = np.zeros(len(keys), dtype=np.int64)
    np.maximum.at(strongest, place, weight)
    return LogRows(keys // len(product_ids), keys % len(product_ids), strongest, query_ids)


def _query_codes(dataset: Dataset) -> tuple[dict[str, int], list[str]]:
    """Code of every query by its content (text in lower case, picture), and one query id per code."""
    codes: dict[tuple[str, str | None], int] = {}
    content, first = {}, []
    for query in dataset.queries():
        key = (" ".join((query.text or "").lower().split()), query.image_id)
        if key == ("", None):
            continue
        if key not in codes:
            codes[key] = len(first)
            first.append(query.query_id)
        content[query.query_id] = codes[key]
    return content, first


def _codes(values: Sequence[object]) -> np.ndarray:
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)
