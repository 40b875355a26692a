"""What shoppers come for and how they ask: from a need to a query, and on to the next query.

A need is a category, a favorite color of the moment and sometimes a word. Shoppers who find nothing add a
color or a word, tick a box, or use another noun; who clicked goes on to something else half of the time.
"""

from __future__ import annotations

import numpy as np

from moontide.market.matching import Matching
from moontide.market.vocabulary import COLOR_LAB, COLOR_NAMES
from moontide.market.world import World

SAYS_COLOR, SAYS_WORD = 0.26, 0.22  # share of first text queries that name a color, a title word
TICKS = 0.22  # of requests after one without a click
LOOKED_AT = 6  # pictures or titles a shopper has in mind when choosing what to ask with


class Needs:
    """The needs of some visits that run side by side, and the queries they lead to.

    Args:
        world, matching: the market.
        shopper, at: (visits,) codes and ms of the start.
        rng: source of chance.
    """

    def __init__(
        self, world: World, matching: Matching, shopper: np.ndarray, at: np.ndarray, rng: np.random.Generator
    ):
        self.world, self.matching, self.shopper, self.rng = world, matching, shopper, rng
        num = len(shopper)
        self.leaf, self.noun = np.zeros(num, np.int64), np.zeros(num, np.int64)
        self.color, self.word = np.full(num, -1), np.full(num, -1)
        self.facet = np.full(num, -1)
        self._start(np.arange(num), at)

    def ask(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The queries and ticked boxes (-1 none) of some visits' next requests.

        Returns:
            query codes and facet keys, (rows,) each.
        """
        settings, rng = self.world.settings, self.rng
        leaf, noun, color, word = (part[rows] for part in (self.leaf, self.noun, self.color, self.word))
        none = np.full(len(rows), -1)
        if settings.blind:
            return self.world.queries.code(self.world.queries.first_noun[leaf], none, none, none), none
        draw = rng.random(len(rows))
        facet = self.facet[rows]
        by_image = (draw < settings.image_queries) & (facet < 0)
        mixed = ~by_image & (draw < settings.image_queries + settings.mixed_queries) & (facet < 0)
        picture = np.where(by_image | mixed, self._picture(rows), -1)
        by_image, mixed = by_image & (picture >= 0), mixed & (picture >= 0)
        query = self.world.queries.code(
            np.where(by_image, -1, noun),
            np.where(by_image, -1, color),
            np.where(by_image | mixed, -1, word),
            picture,
        )
        return query, facet

    def go_on(self, rows: np.ndarray, has_clicked: np.ndarray, at: np.ndarray) -> None:
        """Decide what some visits ask next, knowing whether their last request led to a click."""
        draw = self.rng.random(len(rows))
        self.facet[rows] = -1
        self._start(rows[has_clicked & (draw < 0.5)], at[has_clicked & (draw < 0.5)])
        empty, rest = rows[~has_clicked], draw[~has_clicked]
        step = np.cumsum([TICKS, 0.24, 0.2, 0.14])
        if not self.world.settings.blind:
            self._tick(empty[rest < step[0]])
            add = empty[(rest >= step[0]) & (rest < step[1])]
            self.color[add] = self._wanted_color(add)
            add = empty[(rest >= step[1]) & (rest < step[2])]
            self.word[add] = self._wanted_word(add)
        other = empty[(rest >= step[2]) & (rest < step[3])]
        self.noun[other] = self._pick_noun(other)
        gone = rest >= step[3]
        self._start(empty[gone], at[~has_clicked][gone])

    def _start(self, rows: np.ndarray, at: np.ndarray) -> None:
        """A new need: its category by demand and the day's interest, its words by taste."""
        if not len(rows):
            return
        world, rng = self.world, self.rng
        num_leaves = len(world.shelf.leaves)
        interest = world.shoppers.interest(
            self.shopper[rows][:, None], np.arange(num_leaves)[None], at[:, None]
        )
        gumbel = rng.gumbel(size=(len(rows), num_leaves))
        self.leaf[rows] = (world.demand + interest + gumbel).argmax(1)
        self.noun[rows] = self._pick_noun(rows)
        self.color[rows] = self.word[rows] = -1
        if not world.settings.blind:
            draw = rng.random((2, len(rows)))
            self.color[rows] = np.where(draw[0] < SAYS_COLOR, self._wanted_color(rows), -1)
            self.word[rows] = np.where(draw[1] < SAYS_WORD, self._wanted_word(rows), -1)

    def _pick_noun(self, rows: np.ndarray) -> np.ndarray:
        queries, leaf = self.world.queries, self.leaf[rows]
        step = self.rng.random(len(rows)) ** 2 * queries.num_nouns[leaf]
        return queries.first_noun[leaf] + step.astype(np.int64)

    def _ideal(self, rows: np.ndarray) -> np.ndarray:
        """(rows, 3) one of each shopper's ideal colors, the strong ones more often."""
        people, who = self.world.shoppers, self.shopper[rows]
        mode = (people.strength[who] * self.rng.random((len(rows), people.strength.shape[1]))).argmax(1)
        return people.ideals[who, mode]

    def _wanted_color(self, rows: np.ndarray) -> np.ndarray:
        """The color name nearest to an ideal color."""
        return np.linalg.norm(self._ideal(rows)[:, None] - COLOR_LAB, axis=2).argmin(1)

    def _wanted_word(self, rows: np.ndarray) -> np.ndarray:
        """The most liked of the words on a few titles of the category; -1 if none is liked."""
        world = self.world
        titles = self.matching.some_of_leaf(self.leaf[rows], LOOKED_AT, self.rng)
        words = np.where(titles[:, :, None] >= 0, world.vocabulary.title[np.maximum(titles, 0)], -1)
        words = words.reshape(len(rows), titles.shape[1] * words.shape[2])
        if not len(world.vocabulary.words):
            return np.full(len(rows), -1)
        liking = world.shoppers.word_liking[self.shopper[rows][:, None], np.maximum(words, 0)].astype(float)
        liking = np.where(words >= 0, liking + self.rng.random(words.shape) * 0.5, -9)
        best = liking.argmax(1)[:, None]
        is_liked = np.take_along_axis(liking, best, axis=1)[:, 0] >= 1
        return np.where(is_liked, np.take_along_axis(words, best, axis=1)[:, 0], -1)

    def _picture(self, rows: np.ndarray) -> np.ndarray:
        """A picture of the category: of a few in mind the one nearest to an ideal color, -1 without any."""
        queries = self.world.queries
        if not len(queries.pool.product):
            return np.full(len(rows), -1)
        first, count = queries.pool_first[self.leaf[rows]], queries.pool_count[self.leaf[rows]]
        step = self.rng.random((len(rows), LOOKED_AT)) ** 1.5 * count[:, None]
        some = np.minimum(first[:, None] + step.astype(np.int64), len(queries.pool.product) - 1)
        apart = np.linalg.norm(queries.pool.look[some][:, :, :3] * 25 - self._ideal(rows)[:, None], axis=2)
        best = np.take_along_axis(some, apart.argmin(1)[:, None], axis=1)[:, 0]
        return np.where(count > 0, best, -1)

    def _tick(self, rows: np.ndarray) -> None:
        """Tick a box of the wanted color, else of the wanted word, where the category offers it."""
        color, word = self._wanted_color(rows), self._wanted_word(rows)
        words = self.world.vocabulary.words
        for row, name, said in zip(rows.tolist(), color.tolist(), word.tolist(), strict=True):
            values = [COLOR_NAMES[name]] + ([words[said]] if said >= 0 else [])
            if self.rng.random() < 0.5:
                values.reverse()
            keys = [self.matching.facet_key(int(self.leaf[row]), value) for value in values]
            self.facet[row] = next((key for key in keys if key >= 0), -1)
