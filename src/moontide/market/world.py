"""A market as its shoppers see it: products, pictures, queries and tastes as arrays, and the true click
chance.

`World.open(dataset)` reads a simulated market's hidden truth; `World.create` makes the truth of a new one.
Codes are row numbers of the tables (products, creatives, shoppers, queries); -1 means none. Only market,
studies and tests may use it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.seeds import stream
from moontide.market import choice as truth
from moontide.market.choice import ChoiceSettings
from moontide.market.perception import COLUMN, LAB, SECOND_LAB, TEXTURE, Lens
from moontide.market.queries import Pool, Queries
from moontide.market.settings import MarketSettings
from moontide.market.shelf import Shelf
from moontide.market.shoppers import WORD_STEP, Shoppers, draw_shoppers
from moontide.market.vocabulary import COLOR_LAB, Vocabulary

RECENT = 6  # clicked products a shopper remembers
ROWS = 8_192  # impressions judged together; bounds memory


class Memory:
    """What changes while shoppers shop: their latest clicks, and what the shop counts.

    Args:
        recent: (shoppers, RECENT) products clicked last, newest first, -1 padded.
        clicks: (products,) clicks so far, older days counting less: what "popular" means to the shop.
    """

    def __init__(self, num_shoppers: int, num_products: int):
        self.recent = np.full((num_shoppers, RECENT), -1, np.int64)
        self.clicks: np.ndarray = np.zeros(num_products)

    def remember(self, shopper: np.ndarray, product: np.ndarray) -> None:
        """Note clicks in the order they happened."""
        np.add.at(self.clicks, product, 1)
        for who, what in zip(shopper.tolist(), product.tolist(), strict=True):
            self.recent[who, 1:] = self.recent[who, :-1]
            self.recent[who, 0] = what

    def fade(self) -> None:
        """A day passes: older clicks count less."""
        self.clicks *= 0.85


@dataclass
class World:
    """A market with its hidden truth; see the module's text for codes."""

    settings: MarketSettings
    choice: ChoiceSettings
    seed: int
    shelf: Shelf
    vocabulary: Vocabulary
    seen: (
        np.ndarray
    )  # (pictures, features) of `perceive`, by picture code; the last row stands for no picture
    main_picture: np.ndarray  # (products,) picture codes
    creative_picture: np.ndarray  # (creatives,) picture codes
    shoppers: Shoppers
    quality: np.ndarray  # (products,) reputation, mean 0, deviation 1
    demand: np.ndarray  # (leaves,) log of how often shoppers need something of it
    queries: Queries
    bar: float = 2.0
    memory: Memory = field(init=False)
    start_ms: int = field(init=False)
    end_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.start_ms = int(self.settings.start.timestamp() * 1000)
        self.end_ms = int(self.settings.end.timestamp() * 1000)
        self.memory = Memory(len(self.shoppers), len(self.shelf))
        lens = Lens.of(self.seen[self.main_picture])
        self.look = lens.look(self.seen)
        scaled = lens.standardize(self.seen)
        self._texture = scaled[:, TEXTURE].mean(1)
        self._outline = scaled[:, COLUMN["outline"]]
        leaf, price = self.shelf.leaf, self.shelf.price
        medians = [np.median(price[leaf == code]) for code in range(len(self.shelf.leaves))]
        self._budget = np.array(medians)
        self.leaf_path = np.zeros((len(self.shelf.leaves), 3), np.int64)
        self.leaf_path[leaf] = self.shelf.category

    @property
    def product_ids(self) -> list[str]:
        """Ids by product code."""
        return self.shelf.product_ids

    @property
    def shopper_ids(self) -> list[str]:
        """Ids by shopper code."""
        return self.shoppers.ids()

    @property
    def query_ids(self) -> list[str]:
        """Ids by query code."""
        return self.queries.ids

    @property
    def creative_ids(self) -> list[str]:
        """Ids by creative code."""
        return self.shelf.creative_ids

    @classmethod
    def create(
        cls,
        dataset: Dataset,
        settings: MarketSettings,
        seed: int,
        choice: ChoiceSettings,
        seen: dict[str, np.ndarray],
    ) -> World:
        """The truth of a new market over a catalog with prices, dates, campaigns and creatives.

        Args:
            dataset: the supply side.
            seen: what `perceive` gives for each picture a shopper can be shown, by image id.
        """
        shelf = Shelf.of(dataset, int(settings.start.timestamp() * 1000))
        rng = stream(seed, "world")
        num_leaves = len(shelf.leaves)
        rank = rng.permutation(num_leaves) + 1
        stocked = np.bincount(shelf.leaf, minlength=num_leaves)
        demand = 0.5 * np.log(stocked) - 0.7 * np.log(rank)
        quality = rng.normal(0, 1, len(shelf))
        return cls._assemble(dataset, settings, choice, seed, shelf, seen, None, quality, demand)

    @classmethod
    def open(cls, dataset: Dataset) -> World:
        """The truth of a simulated market, its memory as the log left it.

        Raises:
            DataError: the dataset is not a simulated market.
        """
        facts = json.loads(dataset.truth("market").column("facts")[0].as_py())
        settings, choice = MarketSettings(**facts["settings"]), ChoiceSettings(**facts["choice"])
        table = dataset.truth("perceptions")
        rows = table.column("seen").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        seen = dict(zip(table.column("image_id").to_pylist(), rows, strict=True))
        shelf = Shelf.of(dataset, int(settings.start.timestamp() * 1000))
        shoppers = Shoppers.of_table(dataset.truth("tastes"))
        quality = dataset.truth("products").column("quality").to_numpy()
        demand = np.array(facts["demand"])
        world = cls._assemble(
            dataset, settings, choice, facts["seed"], shelf, seen, shoppers, quality, demand
        )
        pool = dataset.truth("query_pictures")
        world.set_pool(pool.column("image_id").to_pylist(), pool.column("product").to_numpy(), seen)
        world.queries.restore(dataset.truth("queries"))
        world.bar = facts["bar"]
        world._remember_log(dataset)
        return world

    @classmethod
    def _assemble(cls, dataset, settings, choice, seed, shelf, seen, shoppers, quality, demand) -> World:
        vocabulary = Vocabulary.of(shelf.titles, shelf.leaves)
        code = {image: number for number, image in enumerate(seen)}
        rows = np.stack(list(seen.values())) if seen else np.zeros((0, len(COLUMN)), np.float32)
        rows = np.concatenate(
            [rows, rows.mean(0, keepdims=True) if len(rows) else np.zeros((1, len(COLUMN)))]
        )
        main = np.array([code.get(image, len(code)) for image in shelf.main_images], np.int64)
        creative = np.array([code.get(image, len(code)) for image in shelf.creative_images], np.int64)
        if shoppers is None:
            shoppers = draw_shoppers(
                settings.num_shoppers, rows[main][:, LAB], vocabulary.is_taste, len(shelf.leaves), seed
            )
        queries = Queries(shelf.leaves, vocabulary.words, Pool.empty(21))
        return cls(
            settings, choice, seed, shelf, vocabulary, rows.astype(np.float32), main, creative, shoppers,
            quality, demand, queries,
        )  # fmt: skip

    def set_pool(self, image_ids: list[str], product: np.ndarray, seen: dict[str, np.ndarray]) -> None:
        """Give the pictures shoppers ask with, and what is seen in them."""
        if not len(image_ids):
            return
        look = Lens.of(self.seen[self.main_picture]).look(np.stack([seen[image] for image in image_ids]))
        self.queries.set_pool(Pool(tuple(image_ids), product, look), self.shelf.leaf[product])

    def save(self, writer: DatasetWriter, seen: dict[str, np.ndarray]) -> None:
        """Write the truth: market, perceptions, tastes, products, queries, query_pictures."""
        facts = {
            "settings": self.settings.model_dump(mode="json"), "choice": self.choice.model_dump(),
            "seed": self.seed, "bar": self.bar, "demand": self.demand.tolist(),
        }  # fmt: skip
        writer.put_truth("market", pa.table({"facts": [json.dumps(facts)]}))
        flat = pa.array(np.stack(list(seen.values())).astype(np.float32).ravel())
        rows = pa.FixedSizeListArray.from_arrays(flat, len(COLUMN))
        writer.put_truth("perceptions", pa.table({"image_id": list(seen), "seen": rows}))
        writer.put_truth("tastes", self.shoppers.truth_table())
        writer.put_truth("products", pa.table({"product_id": self.product_ids, "quality": self.quality}))
        writer.put_truth("queries", self.queries.truth_table())
        pool = self.queries.pool
        pictures = {"image_id": pa.array(pool.image_ids, pa.string()), "product": pool.product}
        writer.put_truth("query_pictures", pa.table(pictures))

    def _remember_log(self, dataset: Dataset) -> None:
        """Bring the memory to the end of the log."""
        if not dataset.has("events"):
            return
        table = dataset.table("events", ["kind", "at", "shopper_id", "product_id"])
        table = table.filter(pc.equal(table.column("kind"), "click")).sort_by("at")
        place = {name: number for number, name in enumerate(self.product_ids)}
        shopper = np.array([int(name[1:]) for name in table.column("shopper_id").to_pylist()], np.int64)
        product = np.array([place[name] for name in table.column("product_id").to_pylist()], np.int64)
        self.memory.remember(shopper, product)
        days = (self.end_ms - table.column("at").cast(pa.int64()).to_numpy()) // 86_400_000
        self.memory.clicks = np.bincount(product, 0.85**days, len(self.shelf))

    def examination(self, shopper: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Chance that a shopper looks at a position (0 is the first); the arrays broadcast."""
        return truth.examination(position, self.shoppers.patience[shopper])

    def p_click(
        self,
        at: np.ndarray,
        shopper: np.ndarray,
        query: np.ndarray,
        product: np.ndarray,
        creative: np.ndarray,
        position: np.ndarray,
        printed: np.ndarray | None = None,
    ) -> np.ndarray:
        """True chance of a click on each impression: examination times attraction.

        Args:
            at: ms; shopper, query, product, creative: codes, creative -1 shows the main picture; position
            from 0. printed: word codes printed beside the title (rows, words), -1 padded; None prints
            nothing.

        Returns:
            (rows,) float64; 0 where product is -1.
        """
        examined = self.examination(shopper, position)
        return examined * self.attraction(at, shopper, query, product, creative, printed)

    def attraction(
        self,
        at: np.ndarray,
        shopper: np.ndarray,
        query: np.ndarray,
        product: np.ndarray,
        creative: np.ndarray,
        printed: np.ndarray | None = None,
    ) -> np.ndarray:
        """Chance of a click by someone who looks at the result; arguments as `p_click`."""
        appeal, match = self.judge(at, shopper, query, product, creative, printed)
        return np.where(product >= 0, truth.attraction(appeal, match, self.bar, self.choice), 0.0)

    def judge(self, at, shopper, query, product, creative, printed=None) -> tuple[np.ndarray, np.ndarray]:
        """(appeal, match) of each impression, in the sense of `choice.py`; arguments as `p_click`."""
        pieces = []
        for first in range(0, max(len(product), 1), ROWS):
            rows = slice(first, first + ROWS)
            at_, who, asked, shown = at[rows], shopper[rows], query[rows], np.maximum(product[rows], 0)
            picture = self.main_picture[shown]
            if len(self.creative_picture):
                made = creative[rows]
                picture = np.where(made >= 0, self.creative_picture[np.maximum(made, 0)], picture)
            extra = None if printed is None else printed[rows]
            appeal = self._plain_appeal(at_, who, shown)
            if not self.settings.blind:
                appeal = appeal + self._sighted_appeal(who, shown, picture, extra)
            pieces.append((appeal, self._match(asked, shown, picture)))
        return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])

    def _plain_appeal(self, at: np.ndarray, who: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """What a blind shopper weighs too: price, reputation, interest, having clicked the very product."""
        people, choice, leaf = self.shoppers, self.choice, self.shelf.leaf[shown]
        pain = truth.price_pain(self.shelf.price[shown], self._budget[leaf] * np.exp(people.affluence[who]))
        recent = self.memory.recent[who]
        if self.settings.blind:
            bored = (recent == shown[:, None]).any(1).astype(float)
        else:
            apart = (
                self.look[self.main_picture[np.maximum(recent, 0)]]
                - self.look[self.main_picture[shown]][:, None]
            )
            distance = np.sqrt(np.einsum("rnd,rnd->rn", apart, apart))
            same_leaf = self.shelf.leaf[np.maximum(recent, 0)] == leaf[:, None]
            nearest = np.where((recent >= 0) & same_leaf, distance, np.inf).min(1)
            bored = truth.boredom(nearest, people.bored_at[who])
        return (
            choice.quality * self.quality[shown]
            + choice.interest * people.interest(who, leaf, at)
            - choice.price * people.thrift[who] * pain
            - choice.boredom * people.variety[who] * bored
        )

    def _sighted_appeal(
        self, who: np.ndarray, shown: np.ndarray, picture: np.ndarray, printed: np.ndarray | None
    ) -> np.ndarray:
        """What is seen in the picture shown, and read in the title."""
        people, choice, seen = self.shoppers, self.choice, self.seen[picture]
        lab = seen[:, LAB]
        color = truth.color_pleasure(
            lab, seen[:, SECOND_LAB], people.ideals[who], people.strength[who], people.tolerance[who]
        )
        disliked = truth.nearness(np.linalg.norm(lab - people.averse_to[who], axis=1), 18.0)
        main = self.main_picture[shown]
        pattern = truth.fit(self._texture[main], people.texture[who], people.width[who])
        outline = truth.fit(self._outline[main], people.outline[who], people.width[who])
        faults = truth.presentation_faults(
            seen[:, COLUMN["share"]], seen[:, COLUMN["clutter"]], people.ideal_share[who], people.clutter[who]
        )
        words = self.vocabulary.title[shown]
        if printed is not None:
            words = np.concatenate([words, printed], axis=1)
        liking = np.where(words >= 0, people.word_liking[who[:, None], np.maximum(words, 0)], 0)
        read = np.clip(liking.sum(1) * WORD_STEP, -2, 2)
        return (
            choice.color * color
            - choice.aversion * disliked
            + choice.pattern * (0.6 * pattern + 0.4 * outline)
            - choice.presentation * faults
            + choice.words * read
        )

    def _match(self, asked: np.ndarray, shown: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """Whether what was asked for is there: category, then color, word and picture where asked."""
        queries = self.queries
        match = truth.category_match(self.leaf_path[queries.leaf[asked]], self.shelf.category[shown])
        color, word, picture_asked = (queries.part[name][asked] for name in ("color", "word", "picture"))
        rows = np.flatnonzero(color >= 0)
        if len(rows):
            seen = self.seen[picture[rows]]
            ideal = COLOR_LAB[color[rows]]
            apart = np.linalg.norm(seen[:, LAB] - ideal, axis=1)
            second = np.linalg.norm(seen[:, SECOND_LAB] - ideal, axis=1) + 12
            match[rows] *= truth.color_match(np.minimum(apart, second))
        rows = np.flatnonzero(word >= 0)
        if len(rows):
            has = (self.vocabulary.title[shown[rows]] == word[rows, None]).any(1)
            match[rows] *= np.where(has, 1.0, truth.WORD_MATCH)
        rows = np.flatnonzero(picture_asked >= 0)
        if len(rows):
            look = self.look[self.main_picture[shown[rows]]]
            match[rows] *= truth.picture_match(
                np.linalg.norm(look - queries.pool.look[picture_asked[rows]], axis=1)
            )
        return match
