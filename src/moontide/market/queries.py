"""Queries: what can be asked (a noun, a color name, a title word, a picture) and the table of what was asked.

A query is a combination of parts, so head and tail come by themselves: few shoppers ask for more than the
noun in the same words. Pictures come from a pool, as trending posts do, so that one is asked with more
than once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from moontide.market.vocabulary import COLOR_NAMES, nouns_of

PARTS = ("noun", "color", "word", "picture")  # of a query; -1 where absent


@dataclass(frozen=True)
class Pool:
    """Pictures that shoppers ask with.

    Args:
        image_ids: of the pictures.
        product: (pictures,) code of the product shown; look: (pictures, width) coordinates of `Lens.look`.
    """

    image_ids: tuple[str, ...]
    product: np.ndarray
    look: np.ndarray

    @classmethod
    def empty(cls, width: int) -> Pool:
        """No pictures."""
        return cls((), np.empty(0, np.int64), np.empty((0, width), np.float32))


class Queries:
    """The table of distinct queries; grows while a log is made, unless it is closed.

    Args:
        leaves: the category path of each leaf code.
        words: the vocabulary's words.
        pool: pictures to ask with.
    """

    def __init__(self, leaves: list[tuple[str, ...]], words: tuple[str, ...], pool: Pool):
        self.words, self.pool = words, pool
        pairs = [(noun, leaf) for leaf, path in enumerate(leaves) for noun in nouns_of(path)]
        self.nouns = tuple(noun for noun, _ in pairs)
        self.noun_leaf = np.array([leaf for _, leaf in pairs], np.int64)
        self.first_noun = np.searchsorted(self.noun_leaf, np.arange(len(leaves)))
        self.num_nouns = np.bincount(self.noun_leaf, minlength=len(leaves))
        self.is_closed = False
        self._code: dict[tuple[int, ...], int] = {}
        self.part = {name: np.empty(0, np.int32) for name in PARTS}
        self.leaf = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._code)

    @property
    def ids(self) -> list[str]:
        """Ids of the queries by code."""
        return [f"q{number:07d}" for number in range(len(self))]

    def code(self, noun: np.ndarray, color: np.ndarray, word: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """The codes of queries given by parts, new ones added; a closed table drops parts until it knows one.

        Args:
            noun, color, word, picture: (rows,) codes, -1 where the query lacks the part.
        """
        parts = np.stack([noun, color, word, picture], axis=1).astype(np.int64)
        unique, back = np.unique(parts, axis=0, return_inverse=True)
        keys = [tuple(row) for row in unique.tolist()]
        codes = [self._known(key) if self.is_closed else self._code.get(key, -1) for key in keys]
        new = [at for at, code in enumerate(codes) if code < 0]
        if new:
            for at in new:
                codes[at] = self._code[keys[at]] = len(self._code)
            for column, name in enumerate(PARTS):
                self.part[name] = np.append(self.part[name], unique[new, column].astype(np.int32))
            self.leaf = np.append(self.leaf, self._leaf_of(unique[new]))
        return np.asarray(codes, np.int64)[back.ravel()]

    def _known(self, key: tuple[int, ...]) -> int:
        """The nearest known query: without the word, the picture, the color, then by another noun."""
        noun, color, word, picture = key
        leaf = self._leaf_of(np.array([key]))[0]
        first = int(self.first_noun[leaf])
        for near in (
            key, (noun, color, -1, -1), (noun, -1, word, -1), (noun, -1, -1, -1), (first, color, -1, -1),
            (first, -1, -1, -1), (-1, -1, -1, picture),
        ):  # fmt: skip
            if near in self._code:
                return self._code[near]
        same = np.flatnonzero(self.leaf == leaf)
        return int(same[0]) if len(same) else 0

    def _leaf_of(self, parts: np.ndarray) -> np.ndarray:
        """The leaf category each query is about: its noun's, else its picture's (set by `pool_leaf`)."""
        by_noun = self.noun_leaf[np.maximum(parts[:, 0], 0)]
        if not len(self.pool.product):
            return by_noun
        return np.where(parts[:, 0] >= 0, by_noun, self.pool_leaf[np.maximum(parts[:, 3], 0)])

    def forget(self) -> None:
        """Empty the table: nothing was asked yet."""
        self._code.clear()
        self.part = {name: np.empty(0, np.int32) for name in PARTS}
        self.leaf = np.empty(0, np.int64)

    def set_pool(self, pool: Pool, leaf: np.ndarray) -> None:
        """Give the pictures to ask with and the leaf category of each; they are sorted by leaf here."""
        order = np.argsort(leaf, kind="stable")
        ids = tuple(pool.image_ids[at] for at in order)
        self.pool, self.pool_leaf = Pool(ids, pool.product[order], pool.look[order]), leaf[order]
        self.pool_first = np.searchsorted(self.pool_leaf, np.arange(len(self.first_noun)))
        self.pool_count = np.bincount(self.pool_leaf, minlength=len(self.first_noun))

    def text(self, code: int) -> str | None:
        """What a query says; None for a picture alone."""
        noun, color, word = (int(self.part[name][code]) for name in ("noun", "color", "word"))
        said = [COLOR_NAMES[color]] * (color >= 0) + [self.words[word] if word >= 0 else ""] * (word >= 0)
        said += [self.nouns[noun]] * (noun >= 0)
        return " ".join(said) or None

    def open_table(self) -> pa.Table:
        """The `queries` table."""
        pictures = self.part["picture"].tolist()
        return pa.table(
            {
                "query_id": self.ids,
                "text": pa.array([self.text(code) for code in range(len(self))], pa.string()),
                "image_id": pa.array(
                    [self.pool.image_ids[at] if at >= 0 else None for at in pictures], pa.string()
                ),
            }
        )

    def truth_table(self) -> pa.Table:
        """`truth/queries`: the parts of every query."""
        return pa.table({"query_id": self.ids, **{name: self.part[name] for name in PARTS}})

    def restore(self, table: pa.Table) -> None:
        """Fill the table from `truth/queries`, and close it."""
        columns = [table.column(name).to_numpy().astype(np.int64) for name in PARTS]
        parts = np.stack(columns, axis=1)
        self._code = {tuple(row): number for number, row in enumerate(parts.tolist())}
        self.part = {name: column.astype(np.int32) for name, column in zip(PARTS, columns, strict=True)}
        self.leaf = self._leaf_of(parts)
        self.is_closed = True
