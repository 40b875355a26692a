"""Matching by words alone: what a search falls back on when the encoder or its vectors are missing.

It finds a query's words in titles, rare words counting more; no pictures and no synonyms, on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")


class WordIndex:
    """Rows of titles by word.

    Example:
        >>> index = WordIndex(["Red boots", "Blue boots", "Red hat"])
        >>> scores, rows = index.search("red boots", k=2)
        >>> rows.tolist(), scores.round(2).tolist()
        ([0, 1], [1.0, 0.5])
    """

    def __init__(self, titles: Sequence[str]):
        self.num = len(titles)
        rows: dict[str, set[int]] = {}
        for row, title in enumerate(titles):
            for word in _words(title):
                rows.setdefault(word, set()).add(row)
        self._rows = {word: np.array(sorted(places), np.int64) for word, places in rows.items()}

    def search(self, text: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The rows that hold most of the text's words, best first, at most `k`; none if no word is known.

        Returns:
            scores in (0, 1]: the share of the text's known words, each weighted by log(1 + rows / rows with
            it); rows int64. Equal scores come by row.
        """
        scores, total = np.zeros(self.num), 0.0
        for word in _words(text):
            places = self._rows.get(word)
            if places is None:
                continue
            weight = float(np.log1p(self.num / len(places)))
            scores[places] += weight
            total += weight
        if allowed is not None:
            scores = np.where(allowed, scores, 0.0)
        rows = np.argsort(-scores, kind="stable")[:k]
        rows = rows[scores[rows] > 0]
        return scores[rows] / (total or 1.0), rows


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
