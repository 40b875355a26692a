"""Hard negatives: products that are easy to mistake for the positive, but were not chosen for its query.

Paper: MOON Embedding 3.5, MOON 3.4: products of the positive's category (paper reported), of the finest level
that holds others (ours); MIM 3.4: clicked in the same result but not bought (analog SCL, reading reported).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Literal

import numpy as np

from moontide.encoder.stages.rows import SameRequest, products_of
from moontide.encoder.stages.stock import Stock
from moontide.foundation.errors import DataError

HardKind = Literal["category", "clicked"]
OTHERS = 2  # a category level needs so many other products


class Neighbors:
    """Products to set against a positive.

    Args:
        stock: the products.
        positives: sorted keys query * num products + product: what was chosen for a query is no negative.
        clicked: the clicked products of a result, to come first; None: the category alone.
    """

    def __init__(self, stock: Stock, positives: np.ndarray, clicked: SameRequest | None = None):
        self.stock, self.positives, self.clicked = stock, positives, clicked
        self._shelves: dict[str, _Shelf] = {}

    def draw(
        self, query: int, product: int, form: str, num: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, Counter[str]]:
        """`num` products for a query (-1: of no log) and its positive, and how many came from where.

        Clicked ones come first, then those of the category, then any other; none is of the positive's group
        or was chosen for the query. Where fewer than `num` products are left, they repeat.

        Args:
            form: what the products must have something to show in.

        Returns:
            (num,) product codes; counts by "clicked", "category", "random".

        Raises:
            DataError: all products that can be shown are of one group.
        """
        shelf = self._shelf(form)
        counts: Counter[str] = Counter()
        chosen = products_of(self.positives, query, len(self.stock.products))
        found = np.zeros(0, dtype=np.int64)
        for source, pool, banned in self._pools(shelf, query, product, chosen):
            more = self.stock.pick(pool, num - len(found), product, np.concatenate([banned, found]), rng)
            counts[source] += len(more)
            found = np.concatenate([found, more])
            if len(found) == num:
                return found, counts
        counts["random"] += num - len(found)
        return np.resize(found, num), counts

    def _pools(
        self, shelf: _Shelf, query: int, product: int, chosen: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Where to look, and what is banned there."""
        if self.clicked is not None:
            clicked = self.clicked.of(query, product)
            yield "clicked", clicked[shelf.is_member[clicked]], chosen
        yield "category", shelf.neighbors(product, chosen), chosen
        yield "random", shelf.members, chosen
        yield "random", shelf.members, chosen[:0]  # all others were chosen for the query: masks see to that

    def _shelf(self, form: str) -> _Shelf:
        if form not in self._shelves:
            self._shelves[form] = _Shelf(self.stock, form)
        return self._shelves[form]


class _Shelf:
    """The products that can be shown in a form, by every level of their category."""

    def __init__(self, stock: Stock, form: str):
        self.stock, self.is_member = stock, stock.can_show(form)
        self.members = np.flatnonzero(self.is_member)
        if len(np.unique(stock.group[self.members])) < 2:
            raise DataError(
                f"hard negatives need two different products, and all {len(self.members)} that can be shown "
                f"as {form!r} are of one group: set the number of hard negatives to 0"
            )
        pools: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._of_group: Counter[tuple[tuple[str, ...], int]] = Counter()
        for code in self.members.tolist():
            for level in _levels(stock.products[code].category):
                pools[level].append(code)
                self._of_group[level, int(stock.group[code])] += 1
        self._pools = {level: np.array(codes, dtype=np.int64) for level, codes in pools.items()}

    def neighbors(self, product: int, chosen: np.ndarray) -> np.ndarray:
        """The finest category level with two products of other groups that were not chosen; else nothing."""
        group = int(self.stock.group[product])
        chosen = chosen[self.is_member[chosen] & (self.stock.group[chosen] != group)]
        for level in _levels(self.stock.products[product].category):
            pool = self._pools.get(level, self.members[:0])
            others = len(pool) - self._of_group[level, group]
            if others >= OTHERS and others - np.isin(chosen, pool).sum() >= OTHERS:
                return pool
        return self.members[:0]


def _levels(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A category path and those above it, finest first."""
    return [path[:depth] for depth in range(len(path), 0, -1)]
