"""A randomized test of creatives in a simulated market: every creative of a product before the same shoppers.

    contexts of a product: (moment, shopper, query, position) of its impressions in the log; where these are
        few, filled up with impressions of its category, where there are none there, of the whole log
    an impression: one context drawn with replacement, one creative drawn uniformly
    rate of a creative = mean over its product's contexts of the world's p_click
    clicks ~ Binomial(impressions, rate)

The last line is no approximation: contexts are drawn independently and with replacement, so each impression
of a creative is clicked with the mean chance, whatever the others do. So the truth is asked once for every
context and creative, and a test of ten million impressions costs what its contexts cost. The test is
balanced: as many impressions for each creative of a product, propensity 1 / number of creatives.

It may not be read by what trains or serves: these get the counts, as a shop would.

Paper: Creative4U 3.1 (more than 1,000 impressions for each image, paper reported) and its pitfalls (prefer
same-window randomized traffic, store propensities); the test is ours.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.progress import track
from moontide.foundation.seeds import stream
from moontide.foundation.storage import write_bytes
from moontide.market.world import World

FEW = 64  # contexts of a product, below which those of its category are added
MOST = 256  # contexts of a product; of more, a sample
ROWS = 65_536  # contexts judged together; bounds memory


@dataclass(frozen=True)
class Contexts:
    """Where and to whom the creatives of each product are shown.

    Args:
        world: the truth.
        at, shopper, query, position: one row an impression of the log (ms, codes, from 0).
        rows: rows of those columns, product after product.
        starts: (products + 1,) where each product's rows begin; products that are not tested have none.
    """

    world: World
    at: np.ndarray
    shopper: np.ndarray
    query: np.ndarray
    position: np.ndarray
    rows: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, world: World | None = None, seed: int = 0, most: int = MOST) -> Contexts:
        """The contexts of every product with at least two creatives.

        Args:
            world: None opens the dataset's.
            seed: of what is drawn where there are too few or too many.
            most: contexts of a product.

        Raises:
            DataError: not a simulated market, no log, or no product with two creatives.
            SettingsError: `most` is below 1.
        """
        if most < 1:
            raise SettingsError(f"contexts of a product must be at least 1, got {most}")
        dataset.require("market test-creatives", "creatives", "events")
        world = world or World.open(dataset)
        is_tested = (world.shelf.creatives >= 0).sum(1) > 1
        if not is_tested.any():
            raise DataError(
                f"no product of {dataset.path} has two creatives: build the market with --creatives 2 or more"
            )
        shown = dataset.table("events", ["kind", "at", "shopper_id", "query_id", "product_id", "position"])
        shown = shown.filter(pc.equal(shown.column("kind"), "impression"))
        if not len(shown):
            raise DataError(f"the log of {dataset.path} has no impressions to draw shoppers and queries from")
        product = _codes(shown.column("product_id"), world.product_ids)
        rows, starts = _drawn(world, product, is_tested, seed, most)
        at = shown.column("at").cast(pa.int64()).to_numpy()
        shopper = _codes(shown.column("shopper_id"), world.shopper_ids)
        query = _codes(shown.column("query_id"), world.query_ids)
        return cls(world, at, shopper, query, shown.column("position").to_numpy(), rows, starts)

    @property
    def creatives(self) -> np.ndarray:
        """Codes of the creatives that are tested, product after product."""
        made = self.world.shelf.creatives[np.diff(self.starts) > 0]
        return made[made >= 0]

    def owners(self) -> np.ndarray:
        """(creatives,) product code of each creative code; -1 where it belongs to none."""
        shelf = self.world.shelf
        found = np.full(max(len(shelf.creative_ids), 1), -1)
        product, place = np.nonzero(shelf.creatives >= 0)
        found[shelf.creatives[product, place]] = product
        return found

    def rates(
        self, product: np.ndarray, creative: np.ndarray, world: World | None = None, what: str | None = None
    ) -> np.ndarray:
        """Expected click-through rate of creatives over their products' contexts.

        Args:
            product, creative: (n,) codes.
            world: another truth over the same products, such as one with more creatives.
            what: shown beside the progress bar; None shows none.

        Returns:
            (n,) float64.

        Raises:
            DataError: a product without contexts.
        """
        num = np.diff(self.starts)[product]
        if len(num) and num.min() == 0:
            name = self.world.product_ids[int(product[num.argmin()])]
            raise DataError(f"product {name!r} has fewer than two creatives: it is not tested")
        found, edges = np.zeros(len(product)), np.r_[0, num.cumsum()]
        with track(int(edges[-1]), what or "judging creatives") as meter:
            first = 0
            while first < len(product):
                last = max(first + 1, int(np.searchsorted(edges, edges[first] + ROWS, side="right")) - 1)
                found[first:last] = self._means(product[first:last], creative[first:last], world)
                meter.step(int(edges[last] - edges[first]))
                first = last
        return found

    def _means(self, product: np.ndarray, creative: np.ndarray, world: World | None) -> np.ndarray:
        num = np.diff(self.starts)[product]
        begins = np.r_[0, num.cumsum()[:-1]]
        place = np.arange(num.sum()) - np.repeat(begins - self.starts[product], num)
        row = self.rows[place]
        p_click = (world or self.world).p_click(
            self.at[row], self.shopper[row], self.query[row], np.repeat(product, num),
            np.repeat(creative, num), self.position[row],
        )  # fmt: skip
        return np.add.reduceat(p_click, begins) / num


def _codes(column: pa.ChunkedArray, ids: list[str]) -> np.ndarray:
    found = pc.index_in(column, value_set=pa.array(ids, pa.string()))
    return found.fill_null(-1).to_numpy().astype(np.int64)


def _drawn(
    world: World, product: np.ndarray, is_tested: np.ndarray, seed: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the log for each tested product, and where each product's begin."""
    leaf = world.shelf.leaf
    by_product, product_edges = _grouped(product, len(world.shelf))
    by_leaf, leaf_edges = _grouped(leaf[product], len(world.shelf.leaves))
    pieces, num = [], np.zeros(len(world.shelf), np.int64)
    for code in np.flatnonzero(is_tested).tolist():
        rng = stream(seed, "creative test", "contexts", world.product_ids[code])
        own = by_product[product_edges[code] : product_edges[code + 1]]
        if len(own) > most:
            own = np.sort(rng.choice(own, most, replace=False))
        few = min(FEW, most)
        if len(own) < few:
            pool = by_leaf[leaf_edges[leaf[code]] : leaf_edges[leaf[code] + 1]]
            pool = pool if len(pool) else np.arange(len(product))
            own = np.concatenate([own, rng.choice(pool, few - len(own))])
        pieces.append(own)
        num[code] = len(own)
    return np.concatenate(pieces), np.r_[0, num.cumsum()]


def _grouped(code: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by code, and (num + 1,) where each code's rows begin."""
    return np.argsort(code, kind="stable"), np.r_[0, np.bincount(code, minlength=num).cumsum()]


def true_rates(contexts: Contexts) -> dict[str, float]:
    """Expected click-through rate of every tested creative, by id: for studies and tests alone."""
    creative = contexts.creatives
    rates = contexts.rates(contexts.owners()[creative], creative)
    ids = contexts.world.creative_ids
    return {ids[code]: rate for code, rate in zip(creative.tolist(), rates.tolist(), strict=True)}


def creative_test(
    dataset: Dataset,
    impressions: int = 2_000,
    seed: int = 0,
    contexts: Contexts | None = None,
    most: int = MOST,
) -> pa.Table:
    """Show every creative of every product with at least two equally often; gives counts.

    Args:
        impressions: of each creative.
        seed: the same one gives the same counts.
        contexts: None draws them by the seed.
        most: contexts of a product, where they are drawn here.

    Returns:
        creative_id, product_id, image_id, impressions, clicks, propensity, by product and creative.

    Raises:
        DataError: see `Contexts.of`.
        SettingsError: `impressions` or `most` is below 1.
    """
    if impressions < 1:
        raise SettingsError(f"impressions of a creative must be at least 1, got {impressions}")
    contexts = contexts or Contexts.of(dataset, seed=seed, most=most)
    shelf, creative = contexts.world.shelf, contexts.creatives
    product = contexts.owners()[creative]
    rates = contexts.rates(product, creative, what="testing creatives")
    clicks = stream(seed, "creative test", "clicks").binomial(impressions, rates)
    num = (shelf.creatives >= 0).sum(1)[product]
    return pa.table(
        {
            "creative_id": pa.array(shelf.creative_ids, pa.string()).take(pa.array(creative)),
            "product_id": pa.array(shelf.product_ids, pa.string()).take(pa.array(product)),
            "image_id": pa.array(shelf.creative_images, pa.string()).take(pa.array(creative)),
            "impressions": np.full(len(creative), impressions, np.int64),
            "clicks": clicks.astype(np.int64),
            "propensity": 1.0 / num,
        }
    )


def write_counts(path: Path | str, counts: pa.Table) -> None:
    """Write counts as Parquet, whole or not at all; `moontide creative pairs --stats` reads them.

    Raises:
        StorageError: the place cannot be written.
    """
    buffer = io.BytesIO()
    pq.write_table(counts, buffer, compression="zstd")
    write_bytes(Path(path), buffer.getvalue())
