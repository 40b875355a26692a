"""Rows of a log as codes: what was chosen for which query, what stood beside it, who may be trained on.

A query's code is that of its content: the same words asked twice are one query. It knows no pictures and no
items; `pairs.py` and `exposures.py` make those.

Paper: MOON Embedding 3.4: click, cart and order are positives (paper reported).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.foundation.errors import SettingsError

WEIGHTS = {"click": 1, "cart": 2, "order": 3}  # how often a pair is drawn; guess
BEHAVIORS = tuple(WEIGHTS)


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


@dataclass(frozen=True)
class Events:
    """Events of a log on known products under known queries, as codes.

    Args:
        weight: of `WEIGHTS`; 0 for what is no behavior.
        query: content codes.
        product: product codes.
        request: codes, -1 where the log names no request.
    """

    weight: np.ndarray
    query: np.ndarray
    product: np.ndarray
    request: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    def where(self, wanted: np.ndarray) -> Events:
        """Those a mask keeps."""
        return Events(*(column[wanted] for column in vars(self).values()))

    def keys(self, num_products: int) -> np.ndarray:
        """query * num_products + product of each event."""
        return self.query * num_products + self.product


class Lookup:
    """Distinct values by key, for instance the products of a request.

    Example:
        >>> Lookup(np.array([7, 3, 7, 7]), np.array([2, 1, 0, 2]))[7].tolist()
        [0, 2]
    """

    def __init__(self, keys: np.ndarray, values: np.ndarray):
        order = np.lexsort((values, keys))
        keys, values = keys[order], values[order]
        is_new = np.ones(len(keys), dtype=bool)
        is_new[1:] = (np.diff(keys) != 0) | (np.diff(values) != 0)
        self._keys, self._values = keys[is_new], values[is_new]

    def __getitem__(self, key: int) -> np.ndarray:
        low, high = np.searchsorted(self._keys, (key, key + 1))
        return self._values[low:high]


class SameRequest:
    """The products of some events that stood in a request in which a query and a product met.

    Args:
        chosen: events that say which requests belong to a (query, product) pair.
        others: events whose products are given.
    """

    def __init__(self, chosen: Events, others: Events, num_products: int):
        self._num_products = num_products
        chosen, others = chosen.where(chosen.request >= 0), others.where(others.request >= 0)
        self._requests = Lookup(chosen.keys(num_products), chosen.request)
        self._products = Lookup(others.request, others.product)

    def of(self, query: int, product: int) -> np.ndarray:
        """Product codes, each once."""
        requests = self._requests[query * self._num_products + product]
        found = [self._products[request] for request in requests]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


def log_rows(
    dataset: Dataset,
    product_ids: Sequence[str],
    is_wanted: np.ndarray,
    before: datetime | None = None,
    after: datetime | None = None,
    kinds: Sequence[str] = BEHAVIORS,
) -> LogRows:
    """Clicks, carts and orders on wanted products; a pair weighs as its strongest event.

    A dataset without a log but with judgments of source "train" and a grade above 0 (or none) gives those,
    as orders: image search benchmarks come like that.

    Args:
        before, after: events with after <= at < before.
        kinds: the behaviors that count.

    Raises:
        SettingsError: no kinds, or one that is no behavior.
    """
    check_kinds(kinds)
    content, query_ids = query_contents(dataset)
    if dataset.has("events"):
        events = read_events(dataset, product_ids, kinds, before, after)
    else:
        events = _judged(dataset, product_ids, content) if "order" in kinds else _no_events()
    events = events.where(is_wanted[events.product])
    keys, place = np.unique(events.keys(len(product_ids)), return_inverse=True)
    strongest = np.zeros(len(keys), dtype=np.int64)
    np.maximum.at(strongest, place, events.weight)
    return LogRows(keys // len(product_ids), keys % len(product_ids), strongest, query_ids)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds that are no behaviors, with a `SettingsError`."""
    unknown = [kind for kind in kinds if kind not in WEIGHTS]
    if unknown or not kinds:
        raise SettingsError(f"kinds must be some of {', '.join(WEIGHTS)}, got {', '.join(unknown) or 'none'}")


def read_events(
    dataset: Dataset,
    product_ids: Sequence[str],
    kinds: Sequence[str],
    before: datetime | None = None,
    after: datetime | None = None,
) -> Events:
    """Events of some kinds on products and under queries that the dataset knows, after <= at < before."""
    if not dataset.has("events") or not dataset.has("queries"):
        return _no_events()
    events = dataset.table("events", ["at", "kind", "query_id", "product_id", "request_id"])
    good = pc.is_in(events["kind"], pa.array(list(kinds)))
    if before is not None:
        good = pc.and_(good, pc.less(events["at"], pa.scalar(before, events["at"].type)))
    if after is not None:
        good = pc.and_(good, pc.greater_equal(events["at"], pa.scalar(after, events["at"].type)))
    events = events.filter(good)
    content, _ = query_contents(dataset)
    kind = pa.array(list(WEIGHTS))
    weight = np.array([*WEIGHTS.values(), 0], dtype=np.int64)[_place(events["kind"], kind)]
    product = _place(events["product_id"], pa.array(product_ids, pa.string()))
    query = _coded(events["query_id"], content)
    request = events["request_id"].combine_chunks().dictionary_encode()
    codes = request.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Events(weight, query, product, codes).where((query >= 0) & (product >= 0))


def query_contents(dataset: Dataset) -> tuple[dict[str, int], list[str]]:
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


def products_of(keys: np.ndarray, query: int, num_products: int) -> np.ndarray:
    """The products of one query among sorted keys query * num_products + product; none of query -1."""
    low, high = np.searchsorted(keys, (query * num_products, (query + 1) * num_products))
    return keys[low:high] - query * num_products


def num_exposures(dataset: Dataset, product_ids: Sequence[str], before: datetime | None = None) -> np.ndarray:
    """How often each product was shown before a moment."""
    shown = read_events(dataset, product_ids, ("impression",), before)
    return np.bincount(shown.product, minlength=len(product_ids))


def is_known(products: Sequence[Product], before: datetime | None) -> np.ndarray:
    """Whether each product was there before a moment; one without a date always was."""
    return np.array([before is None or p.created_at is None or p.created_at < before for p in products])


def groups_and_split(dataset: Dataset, product_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Group code, and whether it may be trained on, of each product; without splits each is its own group."""
    splits = dataset.table("splits")
    group_of = dict(zip(splits["product_id"].to_pylist(), splits["group_id"].to_pylist(), strict=True))
    side_of = dict(zip(splits["product_id"].to_pylist(), splits["split"].to_pylist(), strict=True))
    groups = codes_of([group_of.get(i, f"alone {i}") for i in product_ids])
    is_train = np.array([side_of.get(i, "test" if side_of else "train") == "train" for i in product_ids])
    return groups, is_train


def codes_of(values: Sequence[object]) -> np.ndarray:
    """A code per value, equal values sharing one, in order of appearance."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)


def _judged(dataset: Dataset, product_ids: Sequence[str], content: dict[str, int]) -> Events:
    judged = dataset.table("judgments")
    good = pc.equal(judged["source"], "train")
    good = pc.and_(good, pc.fill_null(pc.greater(judged["grade"], 0), True))
    judged = judged.filter(good)
    product = _place(judged["product_id"], pa.array(product_ids, pa.string()))
    query = _coded(judged["query_id"], content)
    weight, request = np.full(len(judged), WEIGHTS["order"]), np.full(len(judged), -1)
    return Events(weight, query, product, request).where((query >= 0) & (product >= 0))


def _coded(values: pa.ChunkedArray, code: dict[str, int]) -> np.ndarray:
    """The code of each value, -1 without one."""
    codes = np.array([*code.values(), -1], dtype=np.int64)
    return codes[_place(values, pa.array(list(code), pa.string()))]


def _place(values: pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    """Where each value stands among the known, -1 where it does not."""
    place: Any = pc.index_in(values, value_set=known)
    return pc.fill_null(place, -1).to_numpy().astype(np.int64)


def _no_events() -> Events:
    return Events(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
