"""A product's creatives in a judge's order: every comparison the ranking asks for, put in both orders.

Paper: Creative4U 3.6 (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moontide.creative.judge import Duel, Judge
from moontide.creative.prompt import Asked
from moontide.creative.ranking import Ranking, rank_candidates


class Contest:
    """One product's creatives before one judge; a pair is asked once, however often it is wanted.

    Args:
        judge: who compares.
        title, queries: of the product, as in `Asked`.
        images: encoded pictures of its creatives.
        name: of the product, for errors.
    """

    def __init__(
        self,
        judge: Judge,
        title: str,
        queries: Sequence[tuple[str, int]],
        images: Sequence[bytes],
        name: str = "product",
    ):
        self.judge, self.title, self.queries = judge, title, tuple(queries)
        self.images, self.name = list(images), name
        self.duels: dict[tuple[int, int], Duel] = {}

    def compare(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Chance that the first of each pair is clicked more, mean of both orders.

        Raises:
            ImageError: a picture is missing or cannot be read.
        """
        keys = [(min(pair), max(pair)) for pair in pairs]
        new = [key for key in dict.fromkeys(keys) if key not in self.duels]
        duels = self.judge.duels([self._asked(i, j) for i, j in new])
        self.duels |= dict(zip(new, duels, strict=True))
        return [
            self.duels[key].s_a if key == tuple(pair) else 1 - self.duels[key].s_a
            for key, pair in zip(keys, pairs, strict=True)
        ]

    def _asked(self, i: int, j: int) -> Asked:
        return Asked(
            f"{self.name}: {i + 1} and {j + 1}", self.title, self.queries, self.images[i], self.images[j]
        )

    def rank(self, method: Any = "all", budget: int | None = None) -> Ranking:
        """The creatives in order; see `ranking.rank_candidates`."""

        def is_tie(i: int, j: int) -> bool:
            return self.duels[min(i, j), max(i, j)].is_tie

        return rank_candidates(len(self.images), self.compare, method=method, budget=budget, is_tie=is_tie)
