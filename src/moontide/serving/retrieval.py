"""Finding candidates: the nearest products to a query's vector, or the titles that hold its words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moontide.serving.answer import Step
from moontide.serving.parts import Parts
from moontide.serving.request import Request
from moontide.serving.stock import Stock
from moontide.serving.words import WordIndex


@dataclass(frozen=True)
class Candidates:
    """Product rows with their relevance, most relevant first, no row twice."""

    rows: np.ndarray
    relevance: np.ndarray

    def above(self, cut: float) -> Candidates:
        """Those more relevant than `cut`."""
        kept = self.relevance > cut
        return Candidates(self.rows[kept], self.relevance[kept])


class Retrieval:
    """Searches the hot shard under the campaign filter and without it; falls back on words.

    The shard numbers its rows in its own order; everything outside this file speaks of stock rows.
    """

    def __init__(self, stock: Stock, parts: Parts):
        self._stock, self._parts = stock, parts
        self._words = WordIndex([product.title for product in stock.products])
        self._num_advertised = int(stock.is_advertised.sum())
        self.num_found = 0
        shard = parts.shard
        if shard is None:
            return
        places = [stock.row_of.get(product_id, -1) for product_id in shard.ids]
        self._stock_row = np.array(places, np.int64).reshape(-1)
        is_sold = self._stock_row >= 0  # the center may hold vectors of products that are no longer sold
        self.num_found = int(is_sold.sum())
        advertised = np.zeros(len(places), bool)
        advertised[is_sold] = stock.is_advertised[self._stock_row[is_sold]]
        self._sold, self._advertised = shard.filter(is_sold), shard.filter(advertised)
        self._shard_row = {int(row): place for place, row in enumerate(self._stock_row) if row >= 0}

    def search(
        self, request: Request, query: np.ndarray | None, num: int, step: Step
    ) -> tuple[Candidates, Candidates]:
        """At most `num` advertised candidates, and at most `num` of all products."""
        if query is None or self._parts.shard is None:
            return self._by_words(request, num, step)
        found = []
        for chosen in (self._advertised, self._sold):
            scores, rows = self._parts.shard.search(query[None], num, chosen)
            found.append(Candidates(self._stock_row[rows[0]], scores[0]))
        ads, products = found
        step.text = (
            f"{len(ads.rows)} of {self._num_advertised:,} advertised products, "
            f"{len(products.rows)} of {len(self._stock.products):,} products"
        )
        lost = len(self._stock.products) - self.num_found
        if lost:
            step.degrade(f"{lost:,} of them have no vector and cannot be found")
        return ads, products

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of the stock rows that have one, (at most len(rows), dim)."""
        if self._parts.shard is None:
            return np.zeros((0, 0), np.float32)
        places = [self._shard_row[int(row)] for row in rows if int(row) in self._shard_row]
        return self._parts.shard.vectors_of(np.array(places, np.int64))

    def _by_words(self, request: Request, num: int, step: Step) -> tuple[Candidates, Candidates]:
        """What the titles give: for a text without the encoder or without vectors."""
        why = "the query has no vector"
        if self._parts.shard is None:
            why = self._parts.missing.get("retrieve", "no vectors")
        done = "titles were matched by words" if request.text else "a picture alone finds nothing"
        step.degrade(f"{why}: {done}")
        found = []
        for allowed in (self._stock.is_advertised, None):
            scores, rows = self._words.search(request.text or "", num, allowed)
            found.append(Candidates(rows, scores))
        return found[0], found[1]
