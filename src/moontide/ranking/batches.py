"""Batches for the click model, made by the same code from stored samples and from live requests.

A batch has B requests with N candidates each (N = 1 in training). Products that occur several times, as
targets or as behaviors, are listed once: a batch holds the embedding rows of its U distinct *items*, and
indices into them. A batch of 1,024 histories of 50 has 50,000 behaviors but only as many items as the shop
has products.

Letters: B requests, N candidates, S behavior steps, F fields, D width, U distinct items, V distinct past
queries.
"""

# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moontide.ranking.content import ContentTable, VectorTable
from moontide.ranking.counters import dense_features
from moontide.ranking.entities import (
    PRODUCT_FIELDS,
    SHOPPER_FACT,
    SHOPPER_FIELDS,
    Entities,
    Vocabulary,
)
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.samples import HOUR_MS, History, Samples

NUM_AGES = 12  # hours since a behavior in octaves: 0-1, 1-3, 3-7, ... about 85 days
NUM_RECENCIES = 2 * NUM_AGES  # for clicks and for orders
NUM_HOURS = 24
AGE_OF_HOURS = np.log2(1 + np.arange(2 ** (NUM_AGES - 1))).astype(np.int64)  # the last stands for all beyond


@dataclass
class Behaviors:
    """The latest behaviors of each request, newest first.

    Args:
        item_BS: which item of the batch each is. is_real_BS: False for padding.
        recency_BS: row by kind and age of the behavior.
        query_BS: which of the batch's distinct queries it came from; None unless past queries are read.
    """

    item_BS: Tensor
    is_real_BS: Tensor
    recency_BS: Tensor
    query_BS: Tensor | None = None


@dataclass
class Content:
    """Frozen vectors of what a batch holds; zero where there is none.

    Args:
        item_UD, has_item_U: of the distinct items.
        query_BD, has_query_B: of the query asked.
        creative_BND, has_creative_BN: of the creative shown; None unless creatives are read.
    """

    item_UD: Tensor
    has_item_U: Tensor
    query_BD: Tensor
    has_query_B: Tensor
    creative_BND: Tensor | None = None
    has_creative_BN: Tensor | None = None


@dataclass
class PastQueries:
    """The V distinct queries behind a batch's behaviors; the first stands for "none".

    Args:
        row_V: of the embedding table. vector_VD, has_vector_V: frozen vectors.
    """

    row_V: Tensor
    vector_VD: Tensor
    has_vector_V: Tensor


@dataclass
class Batch:
    """One batch; rows are those of embedding tables.

    Args:
        request_rows_BF: of the feed's request fields. item_rows_UF: of its item fields.
        product_item_BN: which item each candidate is.
        short: the latest behaviors. long: many more of them, to be searched; None without a search.
        dense_BNF: FEATURES of `counters.py`, not yet scaled.
        position_BN: slot it was shown in, -1 unknown; None when scoring.
        content: None without vectors. queries: None unless past queries are read.
        label_BN: was clicked; None when scoring.
    """

    request_rows_BF: Tensor
    item_rows_UF: Tensor
    product_item_BN: Tensor
    short: Behaviors
    dense_BNF: Tensor
    long: Behaviors | None = None
    position_BN: Tensor | None = None
    content: Content | None = None
    queries: PastQueries | None = None
    label_BN: Tensor | None = None


class Feed:
    """Makes batches for one dataset.

    Args:
        entities: of the dataset. vocabulary: of the model.
        steps: most behaviors of the short history. long_steps: of the long one, 0 without a search.
        attributes: whether attribute fields belong to an item.
        vectors: frozen vectors by code, None for a model of ids alone.
        has_creatives, has_queries: whether creatives' vectors and past queries are read.
        semantic: (products + 1, levels) semantic ids, further fields of an item; None without.
    """

    def __init__(
        self,
        entities: Entities,
        vocabulary: Vocabulary,
        steps: int = 50,
        attributes: tuple[str, ...] = (),
        vectors: ContentTable | None = None,
        long_steps: int = 0,
        has_creatives: bool = False,
        has_queries: bool = False,
        semantic: np.ndarray | None = None,
    ):
        self.steps, self.long_steps, self.vectors = steps, long_steps, vectors
        self.has_creatives, self.has_queries = has_creatives, has_queries
        self.request_fields = request_fields(vocabulary.values)
        self._items = vocabulary.table(entities.products, PRODUCT_FIELDS + attributes)
        if semantic is not None:
            self._items = np.concatenate([self._items, semantic], axis=1)
        self._shoppers = vocabulary.table(entities.shoppers, self.request_fields[:-2])
        self._queries = vocabulary.rows("query", entities.query_ids)
        self._created_at = np.append(entities.created_at, -1)
        self._log_price = np.append(entities.log_price, np.nan)

    @property
    def all_steps(self) -> int:
        """Behaviors of a request that are read at all."""
        return max(self.steps, self.long_steps)

    def of_samples(self, samples: Samples, rows: np.ndarray, unknown: np.ndarray | None = None) -> Batch:
        """The batch of stored impressions; `unknown` (rows, 3) hides ids of shopper, query and product."""
        return self.make(
            shopper=samples.shopper[rows],
            query=samples.query[rows],
            product=samples.product[rows, None],
            at=samples.at[rows],
            counters=samples.counters[rows, None],
            history=samples.history(rows, self.all_steps),
            creative=samples.creative[rows, None] if self.has_creatives else None,
            position=samples.position[rows, None],
            label=samples.label[rows, None],
            unknown=unknown,
        )

    def make(
        self,
        shopper: np.ndarray,
        query: np.ndarray,
        product: np.ndarray,
        at: np.ndarray,
        counters: np.ndarray,
        history: History,
        creative: np.ndarray | None = None,
        query_vectors: np.ndarray | None = None,
        position: np.ndarray | None = None,
        label: np.ndarray | None = None,
        unknown: np.ndarray | None = None,
    ) -> Batch:
        """A batch of requests.

        Args:
            shopper, query: (B,) codes, -1 unknown. product: (B, N) codes, -1 for no candidate.
            at: (B,) ms. counters: (B, N, len(COUNTERS)).
            history: (B, S), newest first.
            creative: (B, N) codes, -1 none.
            query_vectors: (B, D) instead of looking the queries up; a zero row is "no vector".
            position, label: (B, N), when they are known.
            unknown: (B, 3) bool, hides shopper, query and product ids (N must be 1).
        """
        history = _cropped(history)
        item_rows, product_item, behavior_item, code = self._unique(product, history.product)
        if unknown is not None:
            item_rows, product_item, code = _hide_products(item_rows, product_item, code, unknown[:, 2])
        queries, query_BS = self._past_queries(history)
        recency = torch.from_numpy(_recency(history, at))
        real, item_BS = torch.from_numpy(history.product >= 0), torch.from_numpy(behavior_item)
        all_behaviors = Behaviors(item_BS, real, recency, query_BS)
        return Batch(
            request_rows_BF=torch.from_numpy(self._request_rows(shopper, query, at, unknown)),
            item_rows_UF=torch.from_numpy(item_rows),
            product_item_BN=torch.from_numpy(product_item),
            short=_first(all_behaviors, self.steps),
            long=_first(all_behaviors, self.long_steps) if self.long_steps else None,
            dense_BNF=torch.from_numpy(self._dense(product, at, counters)),
            position_BN=None if position is None else torch.from_numpy(position.astype(np.int64)),
            content=self._content(query, code, product.shape, creative, query_vectors),
            queries=queries,
            label_BN=None if label is None else torch.from_numpy(label.astype(np.float32)),
        )

    def _request_rows(
        self, shopper: np.ndarray, query: np.ndarray, at: np.ndarray, unknown: np.ndarray | None
    ) -> np.ndarray:
        shopper_rows, query_rows = self._shoppers[shopper], self._queries[query]
        if unknown is not None:
            shopper_rows[unknown[:, 0], 0] = 0
            query_rows[unknown[:, 1]] = 0
        return np.column_stack([shopper_rows, query_rows, at // HOUR_MS % NUM_HOURS])

    def _unique(
        self, product: np.ndarray, behavior: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Embedding rows of the distinct products, which one each candidate and behavior is, their codes."""
        code, place = _distinct(len(self._items), product, behavior)
        return self._items[code], place[product], place[behavior], code

    def _past_queries(self, history: History) -> tuple[PastQueries | None, Tensor | None]:
        """The distinct queries behind the behaviors, "none" first, and which of them each behavior has."""
        if not self.has_queries:
            return None, None
        # An order repeats the query of its click, which a live shop need not know: clicks alone count.
        query = np.where((history.product >= 0) & (history.kind == CLICK), history.query, -1)
        code, place = _distinct(len(self._queries), query, np.array([-1]))
        code, place = np.roll(code, 1), (place + 1) % len(code)  # "none" is the last code
        table = self.vectors.query if self.vectors is not None else None
        if table is None:
            dim = self.vectors.product.dim if self.vectors is not None else 0
            vectors, has = torch.zeros(len(code), dim), np.zeros(len(code), bool)
        else:
            vectors, has = table.take(code), table.present[code]
        row = torch.from_numpy(self._queries[code])
        past = PastQueries(row, vectors, torch.from_numpy(has))
        return past, torch.from_numpy(place[query])

    def _dense(self, product: np.ndarray, at: np.ndarray, counters: np.ndarray) -> np.ndarray:
        return dense_features(counters, at[:, None], self._created_at[product], self._log_price[product])

    def _content(
        self,
        query: np.ndarray,
        code: np.ndarray,
        shape: tuple[int, ...],
        creative: np.ndarray | None,
        query_vectors: np.ndarray | None,
    ) -> Content | None:
        vectors = self.vectors
        if vectors is None:
            return None
        asked_BD, has_query = self._query_vectors(query, query_vectors, vectors.product.dim)
        content = Content(
            item_UD=vectors.product.take(code),
            has_item_U=torch.from_numpy(vectors.product.present[code]),
            query_BD=asked_BD,
            has_query_B=torch.from_numpy(has_query),
        )
        if self.has_creatives:
            table, dim = vectors.creative, vectors.product.dim
            if table is None or creative is None:
                content.creative_BND = torch.zeros(*shape, dim)
                content.has_creative_BN = torch.zeros(shape, dtype=torch.bool)
            else:
                content.creative_BND = table.take(creative)
                content.has_creative_BN = torch.from_numpy(table.present[creative])
        return content

    def _query_vectors(
        self, query: np.ndarray, given: np.ndarray | None, dim: int
    ) -> tuple[Tensor, np.ndarray]:
        if given is not None:
            table = VectorTable.of(given)
            return torch.from_numpy(table.vectors[:-1]), table.present[:-1]
        if self.vectors is None or self.vectors.query is None:
            return torch.zeros(len(query), dim), np.zeros(len(query), dtype=bool)
        return self.vectors.query.take(query), self.vectors.query.present[query]


def request_fields(names: Iterable[str]) -> tuple[str, ...]:
    """The fields of a request among a vocabulary's: the shopper's, then query and hour."""
    others = tuple(name for name in names if name.startswith(SHOPPER_FACT))
    return (*SHOPPER_FIELDS, *others, "query", "hour")


def _distinct(num: int, *codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct codes in ascending order (-1 counts as the last), and the place of each among them."""
    seen = np.zeros(num, dtype=bool)  # made anew, so that threads can share a feed
    for one in codes:
        seen[one] = True
    code = np.flatnonzero(seen)
    place = np.empty(num, dtype=np.int64)  # read at these codes alone
    place[code] = np.arange(len(code))
    return code, place


def _first(behaviors: Behaviors, steps: int) -> Behaviors:
    """The latest `steps` of them."""
    query = None if behaviors.query_BS is None else behaviors.query_BS[:, :steps]
    columns = (behaviors.item_BS, behaviors.is_real_BS, behaviors.recency_BS)
    return Behaviors(*(column[:, :steps] for column in columns), query)


def _cropped(history: History) -> History:
    """Without the columns in which every row is padding, but at least one column."""
    real = (history.product >= 0).any(0)
    steps = max(int(np.flatnonzero(real)[-1]) + 1 if real.any() else 1, 1)
    columns = (history.product, history.at, history.kind, history.query)
    return History(*(column[:, :steps] for column in columns))


def _recency(history: History, at: np.ndarray) -> np.ndarray:
    hours = (at[:, None] - history.at) // HOUR_MS
    age = AGE_OF_HOURS[np.clip(hours, 0, len(AGE_OF_HOURS) - 1, out=hours)]
    age += NUM_AGES * (history.kind == ORDER)
    age *= history.product >= 0
    return age


def _hide_products(
    item_rows: np.ndarray, product_item: np.ndarray, code: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give hidden targets a twin item without a product id; behaviors keep theirs."""
    place = np.flatnonzero(hidden)
    twin_of = product_item[place, 0]
    twins = item_rows[twin_of].copy()
    twins[:, 0] = 0
    product_item = product_item.copy()
    product_item[place, 0] = len(item_rows) + np.arange(len(place))
    return np.concatenate([item_rows, twins]), product_item, np.concatenate([code, code[twin_of]])


assert ORDER == CLICK + 1
