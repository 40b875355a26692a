"""Which products come into question for a request: what the shop finds by words, category and popularity.

Matching belongs to the shop, not to a policy, and is the same for all arms of an experiment. It looks up
inverted lists and adds a few random products, so that new ones and hidden gems get a first chance.
Pictures are matched by the nearest average color, as a shop without an encoder would.
"""

from __future__ import annotations

import numpy as np

from moontide.foundation.seeds import stream
from moontide.market.perception import LAB
from moontide.market.vocabulary import COLOR_NAMES
from moontide.market.world import World

TOP = 30  # products of a category that count as popular
SIMILAR = 24  # products found for one picture


class Postings:
    """Products by key, in random order within a key.

    Args:
        keys, products: one entry each, same length.
        num_keys: keys are 0 to num_keys - 1.
    """

    def __init__(self, keys: np.ndarray, products: np.ndarray, num_keys: int, rng: np.random.Generator):
        order = np.lexsort((rng.random(len(keys)), keys))
        self._products = products[order]
        self._count = np.bincount(keys, minlength=num_keys)
        self._first = np.cumsum(self._count) - self._count

    def draw(self, keys: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """(rows, num) different products of each row's key from a random place on, -1 where there are fewer.

        Args:
            keys: (rows,); -1 gives none.
        """
        key = np.maximum(keys, 0)
        count = np.where(keys >= 0, self._count[key], 0)[:, None]
        start = (rng.random((len(keys), 1)) * count).astype(np.int64)
        step = np.arange(num)
        place = self._first[key][:, None] + (start + step) % np.maximum(count, 1)
        if not len(self._products):
            return np.full((len(keys), num), -1)
        return np.where(step < count, self._products[np.minimum(place, len(self._products) - 1)], -1)


class Matching:
    """Finds candidates; lists are shuffled anew every day.

    Args:
        world: the market.
        num_candidates: products matched to one request.
        seed: of the shuffles.
    """

    def __init__(self, world: World, num_candidates: int, seed: int):
        self.world, self.num, self.seed = world, num_candidates, seed
        shelf, words = world.shelf, world.vocabulary
        self._num_words = max(len(words.words), 1)
        product, column = np.nonzero(words.title >= 0)
        self._word_keys = (self._word_key(shelf.leaf[product], words.title[product, column]), product)
        product, color = np.nonzero(words.color)
        self._color_keys = (shelf.leaf[product] * len(COLOR_NAMES) + color, product)
        product, facet = shelf.facet_rows.T
        self._facet_of = {}  # (leaf, lower-case value) -> facet key in use
        self._facet_keys = self._number_facets(product, facet)
        self._similar = self._find_similar()
        self.shuffle(0)

    def _word_key(self, leaf: np.ndarray, word: np.ndarray) -> np.ndarray:
        return leaf * self._num_words + word

    def _number_facets(self, product: np.ndarray, facet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Facet boxes are offered within a category: pairs of leaf and facet get keys of their own."""
        pair = self.world.shelf.leaf[product] * max(len(self.world.shelf.facets), 1) + facet
        self._facet_pairs, keys = np.unique(pair, return_inverse=True)
        for key, one in enumerate(self._facet_pairs.tolist()):
            leaf, code = divmod(one, max(len(self.world.shelf.facets), 1))
            self._facet_of[leaf, self.world.shelf.facets[code][1].lower()] = key
        return keys.ravel(), product

    def facet_key(self, leaf: int, value: str) -> int:
        """The facet box of a category that shows a value; -1 if there is none."""
        return self._facet_of.get((leaf, value), -1)

    def facet(self, key: int) -> tuple[str, str]:
        """(key, value) of a facet box."""
        return self.world.shelf.facets[int(self._facet_pairs[key]) % max(len(self.world.shelf.facets), 1)]

    def _find_similar(self) -> np.ndarray:
        """(pictures, SIMILAR) for each picture shoppers ask with, products of its category nearest in
        color."""
        world, pool = self.world, self.world.queries.pool
        found = np.full((len(pool.product), SIMILAR), -1)
        lab = world.seen[world.main_picture][:, LAB]
        for leaf in range(len(world.shelf.leaves)) if len(pool.product) else ():
            inside = np.flatnonzero(world.shelf.leaf == leaf)
            rows = np.flatnonzero(world.queries.pool_leaf == leaf)
            asked = pool.look[rows][:, :3] * 25
            apart = np.linalg.norm(asked[:, None] - lab[inside][None], axis=2)
            near = np.argsort(apart, axis=1, kind="stable")[:, :SIMILAR]
            found[rows, : near.shape[1]] = inside[near]
        return found

    def shuffle(self, day: int) -> None:
        """A new day: lists in a new order, and what is popular counted anew."""
        rng, world = stream(self.seed, "matching", day), self.world
        num_leaves = len(world.shelf.leaves)
        products = np.arange(len(world.shelf))
        self._by_leaf = Postings(world.shelf.leaf, products, num_leaves, rng)
        self._by_word = Postings(*self._word_keys, num_leaves * self._num_words, rng)
        self._by_color = Postings(*self._color_keys, num_leaves * len(COLOR_NAMES), rng)
        self._by_facet = Postings(*self._facet_keys, len(self._facet_pairs), rng)
        order = np.lexsort((rng.random(len(products)), -world.memory.clicks, world.shelf.leaf))
        rank = np.arange(len(order)) - np.searchsorted(world.shelf.leaf[order], world.shelf.leaf[order])
        best = order[rank < TOP]
        self._popular = Postings(world.shelf.leaf[best], best, num_leaves, rng)

    def candidates(
        self, query: np.ndarray, facet: np.ndarray, at: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """(requests, num_candidates) product codes on sale at that moment, none twice, -1 padded at the end.

        Args:
            query: codes; facet: boxes ticked (`facet_key`), -1 for none, then everything has that value.
            at: ms.
        """
        queries, share = self.world.queries, self.num // 6
        leaf = queries.leaf[query]
        color, word, picture = (
            queries.part[name][query].astype(np.int64) for name in ("color", "word", "picture")
        )
        color_key = np.where(color >= 0, leaf * len(COLOR_NAMES) + color, -1)
        word_key = np.where(word >= 0, self._word_key(leaf, word), -1)
        pieces = [
            self._by_color.draw(color_key, share, rng),
            self._by_word.draw(word_key, share, rng),
            self._popular.draw(leaf, share + 2, rng),
            rng.integers(0, len(self.world.shelf), (len(query), 2)),
            self._by_leaf.draw(leaf, self.num, rng),
            rng.integers(0, len(self.world.shelf), (len(query), 8)),
        ]
        if len(self._similar):
            rows = rng.permuted(self._similar[np.maximum(picture, 0)], axis=1)[:, : self.num // 2]
            pieces.insert(0, np.where(picture[:, None] >= 0, rows, -1))
        found = np.concatenate(pieces, axis=1)
        ticked = facet >= 0
        if ticked.any():
            found[ticked] = -1
            found[ticked, : self.num] = self._by_facet.draw(facet[ticked], self.num, rng)
        return self._distinct(np.where(self._on_sale(found, at), found, -1))

    def some_of_leaf(self, leaf: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
        """(rows, num) products of each row's category that follow each other in today's order."""
        return self._by_leaf.draw(leaf, num, rng)

    def _on_sale(self, product: np.ndarray, at: np.ndarray) -> np.ndarray:
        return (product >= 0) & (self.world.shelf.created_ms[np.maximum(product, 0)] <= at[:, None])

    def _distinct(self, found: np.ndarray) -> np.ndarray:
        """The first `num` different products of each row, in order, -1 padded."""
        order = np.argsort(found, axis=1, kind="stable")
        ordered = np.take_along_axis(found, order, axis=1)
        is_first = np.ones(found.shape, bool)
        is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        keep = np.empty(found.shape, bool)
        np.put_along_axis(keep, order, is_first & (ordered >= 0), axis=1)
        front = np.argsort(~keep, axis=1, kind="stable")[:, : self.num]
        return np.where(np.take_along_axis(keep, front, axis=1), np.take_along_axis(found, front, axis=1), -1)
