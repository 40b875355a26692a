"""What a live ranker remembers: counts of everything shown and clicked, and each shopper's latest behaviors.

It holds in arrays what `facts.py` computes from the log: after the same events both say the same, number
for number. Whoever calls keeps the order of time: a request sees all that was observed before it was
scored.
"""

from __future__ import annotations

import numpy as np

from moontide.ranking.counters import COUNTED, COUNTERS, PLACE
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.samples import History, Samples

KINDS_COUNTED = ("shows", "clicks", "orders")


class OnlineState:
    """Counters and histories, updated by events.

    Args:
        num_products, num_shoppers, num_queries: how many codes there are; shoppers may be added (`grow`).
        leaf: (products,) category code of each product, -1 for none.
        steps: behaviors kept of one shopper.
    """

    def __init__(
        self, num_products: int, num_shoppers: int, num_queries: int, leaf: np.ndarray, steps: int = 50
    ):
        self.steps, self.leaf = steps, np.append(leaf, -1)
        sizes = {"product": num_products, "shopper": num_shoppers, "query": num_queries}
        sizes["leaf"] = int(leaf.max(initial=-1)) + 1
        # One row more than there are codes, for code -1: counts there are not read, behaviors not written.
        self._counts = {name: np.zeros((sizes[name] + 1, len(KINDS_COUNTED)), np.int64) for name in COUNTED}
        self._all = np.zeros(len(KINDS_COUNTED), np.int64)
        self._num_behaviors = np.zeros(num_shoppers + 1, np.int64)
        # Codes are kept one higher, so that "none" is zero: zeros that were never written take no memory,
        # and shoppers who did nothing cost nothing.
        kinds = {"product": np.int32, "at": np.int64, "kind": np.uint8, "query": np.int32}
        self._ring = {name: np.zeros((num_shoppers + 1, steps), kind) for name, kind in kinds.items()}

    @classmethod
    def of_samples(cls, samples: Samples, steps: int = 50, until_ms: int | None = None) -> OnlineState:
        """The state after a log's events, or after those before `until_ms`."""
        entities = samples.entities
        sizes = (len(entities.products), len(entities.shoppers), len(entities.query_ids))
        state = cls(*sizes, entities.leaf_codes(), steps)
        shown = samples.at < (np.inf if until_ms is None else until_ms)
        state.show(samples.shopper[shown], samples.query[shown], samples.product[shown])
        owner = np.repeat(np.arange(len(entities.shoppers)), np.diff(samples.behavior_start))
        done = samples.behavior_at < (np.inf if until_ms is None else until_ms)
        # Behaviors stand shopper by shopper; a stable sort by time keeps the order within each shopper.
        order = np.flatnonzero(done)[np.argsort(samples.behavior_at[done], kind="stable")]
        product, kind = samples.behavior_product[order], samples.behavior_kind[order]
        query = samples.behavior_query[order]
        state._behave(owner[order], query, product, samples.behavior_at[order], kind)
        return state

    def show(self, shopper: np.ndarray, query: np.ndarray, product: np.ndarray) -> None:
        """Count impressions; codes of one length, products of -1 are empty slots."""
        real = product >= 0
        self._add(0, shopper[real], query[real], product[real])

    def click(self, shopper: np.ndarray, query: np.ndarray, product: np.ndarray, at: np.ndarray) -> None:
        """Count clicks and add them to histories, in the order given."""
        self._behave(shopper, query, product, at, np.full(len(product), CLICK, np.uint8))

    def order(self, shopper: np.ndarray, product: np.ndarray, at: np.ndarray) -> None:
        """Count orders and add them to histories, in the order given."""
        query = np.full(len(product), -1)
        self._behave(shopper, query, product, at, np.full(len(product), ORDER, np.uint8))

    def counters(self, shopper: np.ndarray, query: np.ndarray, product: np.ndarray) -> np.ndarray:
        """Counters (B, N, len(COUNTERS)) of requests (B,) with candidates (B, N)."""
        codes = {"product": product, "leaf": self.leaf[product]}
        codes |= {"shopper": shopper[:, None], "query": query[:, None]}
        counted = np.empty((*product.shape, len(COUNTERS)), np.int64)
        for name, code in codes.items():
            values = np.where((code >= 0)[..., None], self._counts[name][code], 0)
            for number, what in enumerate(KINDS_COUNTED):
                if (place := PLACE.get(f"{name}_{what}")) is not None:
                    counted[..., place] = values[..., number]
        counted[..., PLACE["all_shows"]], counted[..., PLACE["all_clicks"]] = self._all[0], self._all[1]
        return counted

    def history(self, shopper: np.ndarray, steps: int | None = None) -> History:
        """The latest behaviors of shoppers (B,), newest first, padded at the end; -1 has none."""
        steps = min(steps or self.steps, self.steps)
        held = self._num_behaviors[shopper]
        place = (held[:, None] - 1 - np.arange(steps)) % self.steps
        is_real = np.arange(steps) < held[:, None]
        rows = {name: ring[shopper[:, None], place] for name, ring in self._ring.items()}
        product, query = (np.where(is_real, rows[name] - 1, -1) for name in ("product", "query"))
        return History(product, rows["at"], rows["kind"], query)

    def grow(self, num_shoppers: int) -> None:
        """Make room for shoppers up to code `num_shoppers - 1`; those there stay as they are."""
        held = len(self._num_behaviors)
        if num_shoppers < held:
            return
        room = max(num_shoppers + 1, held + held // 4)  # some to spare, so that not every newcomer copies all

        def longer(rows: np.ndarray) -> np.ndarray:
            """The rows that were written, in a larger array; not the last one, which is for "no shopper"."""
            fresh = np.zeros((room, *rows.shape[1:]), rows.dtype)
            fresh[written] = rows[written]
            return fresh

        written = np.flatnonzero(self._counts["shopper"][:-1].any(1) | (self._num_behaviors[:-1] > 0))
        self._counts["shopper"] = longer(self._counts["shopper"])
        self._num_behaviors = longer(self._num_behaviors)
        self._ring = {name: longer(ring) for name, ring in self._ring.items()}

    def _add(self, what: int, shopper: np.ndarray, query: np.ndarray, product: np.ndarray) -> None:
        codes = {"product": product, "shopper": shopper, "query": query, "leaf": self.leaf[product]}
        for name, code in codes.items():
            np.add.at(self._counts[name][:, what], code, 1)
        self._all[what] += len(product)

    def _behave(
        self, shopper: np.ndarray, query: np.ndarray, product: np.ndarray, at: np.ndarray, kind: np.ndarray
    ) -> None:
        real = product >= 0
        shopper, query, product, at, kind = (c[real] for c in (shopper, query, product, at, kind))
        for what, code in ((1, CLICK), (2, ORDER)):
            mine = kind == code
            self._add(what, shopper[mine], query[mine], product[mine])
        known = shopper >= 0
        shopper, product, at, kind, query = (c[known] for c in (shopper, product, at, kind, query))
        nth = _nth_of_its_kind(shopper)
        place = (self._num_behaviors[shopper] + nth) % self.steps
        codes, which, totals = np.unique(shopper, return_inverse=True, return_counts=True)
        kept = nth >= totals[which] - self.steps  # of more than a ring's worth, the latest
        for name, column in (("product", product + 1), ("at", at), ("kind", kind), ("query", query + 1)):
            self._ring[name][shopper[kept], place[kept]] = column[kept]
        self._num_behaviors[codes] += totals


def _nth_of_its_kind(code: np.ndarray) -> np.ndarray:
    """For each entry, how many equal ones stand before it."""
    order = np.argsort(code, kind="stable")
    edges = np.flatnonzero(np.r_[True, code[order][1:] != code[order][:-1]]) if len(code) else order
    first = np.repeat(edges, np.diff(np.r_[edges, len(code)]))
    nth = np.empty(len(code), np.int64)
    nth[order] = np.arange(len(code)) - first
    return nth
