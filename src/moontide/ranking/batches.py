"""Batches for the click model, made by the same code from stored samples and from live requests.

A batch has B requests with N candidates each (N = 1 in training). Products that occur several times, as
targets or as behaviors, are listed once: a batch holds the embedding rows of its U distinct *items*, and
indices into them. A batch of 1,024 histories of 50 has 50,000 behaviors but only as many items as the shop
has products.

Letters: B requests, N candidates, S behavior steps, F fields, U distinct items.
"""

# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moontide.ranking.content import ContentTable, VectorTable
from moontide.ranking.counters import dense_features
from moontide.ranking.entities import PRODUCT_FIELDS, SHOPPER_FIELDS, Entities, Vocabulary
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.samples import HOUR_MS, History, Samples

NUM_AGES = 12  # hours since a behavior in octaves: 0-1, 1-3, 3-7, ... about 85 days
NUM_RECENCIES = 2 * NUM_AGES  # for clicks and for orders
REQUEST_FIELDS = (*SHOPPER_FIELDS, "query", "hour")
NUM_HOURS = 24


@dataclass
class Comparison:
    """Cosines of targets (candidates, the query, creatives) with the shopper's behaviors, and what counts."""

    similarity_BNS: Tensor
    is_real_BNS: Tensor


@dataclass
class Content:
    """What frozen vectors say about a batch.

    Args:
        history: candidates against behaviors.
        query_history: the query against behaviors. creative_history: the creative shown against behaviors.
        query_cosine_BN: candidate against query, 0 where one is missing.
        flags_BNF: has a vector: product, query, both; share of behaviors that have one.
    """

    history: Comparison
    query_cosine_BN: Tensor
    flags_BNF: Tensor
    query_history: Comparison | None = None
    creative_history: Comparison | None = None


@dataclass
class Batch:
    """One batch; rows are those of embedding tables.

    Args:
        request_rows_BF: of REQUEST_FIELDS. item_rows_UF: of the feed's item fields.
        product_item_BN, behavior_item_BS: which item each candidate and each behavior is.
        is_real_BS: False for padding. recency_BS: row by kind and age of the behavior.
        dense_BNF: FEATURES of `counters.py`, not yet scaled.
        position_BN: slot it was shown in, -1 unknown; None when scoring.
        content: None without vectors.
        label_BN: was clicked; None when scoring.
    """

    request_rows_BF: Tensor
    item_rows_UF: Tensor
    product_item_BN: Tensor
    behavior_item_BS: Tensor
    is_real_BS: Tensor
    recency_BS: Tensor
    dense_BNF: Tensor
    position_BN: Tensor | None = None
    content: Content | None = None
    label_BN: Tensor | None = None


class Feed:
    """Makes batches for one dataset.

    Args:
        entities: of the dataset. vocabulary: of the model.
        steps: most behaviors of a history.
        attributes: whether attribute fields belong to an item.
        vectors: frozen vectors by code, None for a model of ids alone.
        use_query_history, use_creative: further comparisons, see `Content`.
    """

    def __init__(
        self,
        entities: Entities,
        vocabulary: Vocabulary,
        steps: int = 50,
        attributes: tuple[str, ...] = (),
        vectors: ContentTable | None = None,
        use_query_history: bool = False,
        use_creative: bool = False,
    ):
        self.steps, self.vectors = steps, vectors
        self.use_query_history, self.use_creative = use_query_history, use_creative
        self.item_fields = PRODUCT_FIELDS + attributes
        self._items = vocabulary.table(entities.products, self.item_fields)
        self._shoppers = vocabulary.table(entities.shoppers, SHOPPER_FIELDS)
        self._queries = vocabulary.rows("query", entities.query_ids)
        self._created_at = np.append(entities.created_at, -1)
        self._log_price = np.append(entities.log_price, np.nan)

    def of_samples(self, samples: Samples, rows: np.ndarray, unknown: np.ndarray | None = None) -> Batch:
        """The batch of stored impressions; `unknown` (rows, 3) hides ids of shopper, query and product."""
        return self.make(
            shopper=samples.shopper[rows],
            query=samples.query[rows],
            product=samples.product[rows, None],
            at=samples.at[rows],
            counters=samples.counters[rows, None],
            history=samples.history(rows, self.steps),
            creative=samples.creative[rows, None] if self.use_creative else None,
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
        item_rows, product_item, behavior_item = self._unique(product, history.product)
        if unknown is not None:
            item_rows, product_item = _hide_products(item_rows, product_item, unknown[:, 2])
        return Batch(
            request_rows_BF=torch.from_numpy(self._request_rows(shopper, query, at, unknown)),
            item_rows_UF=torch.from_numpy(item_rows),
            product_item_BN=torch.from_numpy(product_item),
            behavior_item_BS=torch.from_numpy(behavior_item),
            is_real_BS=torch.from_numpy(history.product >= 0),
            recency_BS=torch.from_numpy(_recency(history, at)),
            dense_BNF=torch.from_numpy(self._dense(product, at, counters)),
            position_BN=None if position is None else torch.from_numpy(position.astype(np.int64)),
            content=self._content(query, product, history, creative, query_vectors),
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

    def _unique(self, product: np.ndarray, behavior: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embedding rows of the distinct products, and which of them each candidate and behavior is."""
        seen = np.zeros(len(self._items), dtype=bool)
        seen[product], seen[behavior] = True, True
        place = np.cumsum(seen) - 1  # item number of a code; made anew, so that threads can share a feed
        return self._items[seen], place[product], place[behavior]

    def _dense(self, product: np.ndarray, at: np.ndarray, counters: np.ndarray) -> np.ndarray:
        return dense_features(counters, at[:, None], self._created_at[product], self._log_price[product])

    def _content(
        self,
        query: np.ndarray,
        product: np.ndarray,
        history: History,
        creative: np.ndarray | None,
        query_vectors: np.ndarray | None,
    ) -> Content | None:
        vectors = self.vectors
        if vectors is None:
            return None
        target_BND, has_target = vectors.product.take(product), vectors.product.present[product]
        past_BSD, has_past = vectors.product.take(history.product), vectors.product.present[history.product]
        asked_BD, has_query = self._query_vectors(query, query_vectors, target_BND.shape[-1])
        with_both = has_target & has_query[:, None]
        cosine_BN = torch.einsum("bnd,bd->bn", target_BND, asked_BD) * torch.from_numpy(with_both)
        real = history.product >= 0
        share = (has_past & real).sum(1) / np.maximum(real.sum(1), 1)
        flags = [has_target, np.broadcast_to(has_query[:, None], product.shape), with_both]
        flags.append(np.broadcast_to(share[:, None], product.shape))
        content = Content(
            history=_compare(target_BND, has_target, past_BSD, has_past),
            query_cosine_BN=cosine_BN,
            flags_BNF=torch.from_numpy(np.stack(flags, axis=-1).astype(np.float32)),
        )
        if self.use_query_history:
            content.query_history = _compare(asked_BD[:, None], has_query[:, None], past_BSD, has_past)
        if self.use_creative:
            content.creative_history = self._creative(product.shape, creative, past_BSD, has_past)
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

    def _creative(
        self, shape: tuple[int, ...], creative: np.ndarray | None, past_BSD: Tensor, has_past: np.ndarray
    ) -> Comparison:
        table = self.vectors.creative if self.vectors else None
        if table is None or creative is None:
            return _compare(
                torch.zeros(*shape, past_BSD.shape[-1]), np.zeros(shape, bool), past_BSD, has_past
            )
        return _compare(table.take(creative), table.present[creative], past_BSD, has_past)


def _compare(
    target_BND: Tensor, has_target: np.ndarray, past_BSD: Tensor, has_past: np.ndarray
) -> Comparison:
    is_real = has_target[:, :, None] & has_past[:, None]
    return Comparison(target_BND @ past_BSD.transpose(1, 2), torch.from_numpy(is_real))


def _cropped(history: History) -> History:
    """Without the columns in which every row is padding, but at least one column."""
    real = (history.product >= 0).any(0)
    steps = max(int(np.flatnonzero(real)[-1]) + 1 if real.any() else 1, 1)
    return History(history.product[:, :steps], history.at[:, :steps], history.kind[:, :steps])


def _recency(history: History, at: np.ndarray) -> np.ndarray:
    hours = np.maximum(at[:, None] - history.at, 0) / HOUR_MS
    age = np.minimum(np.log2(1 + hours).astype(np.int64), NUM_AGES - 1)
    row = np.where(history.kind == ORDER, NUM_AGES, 0) + age
    return np.where(history.product >= 0, row, 0)


def _hide_products(
    item_rows: np.ndarray, product_item: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give hidden targets a twin item without a product id; behaviors keep theirs."""
    place = np.flatnonzero(hidden)
    twins = item_rows[product_item[place, 0]].copy()
    twins[:, 0] = 0
    product_item = product_item.copy()
    product_item[place, 0] = len(item_rows) + np.arange(len(place))
    return np.concatenate([item_rows, twins]), product_item


assert ORDER == CLICK + 1
