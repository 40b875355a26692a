"""Simulated shoppers: what each one likes, when they shop, what they can afford. None of it is visible to
a shop.

Tastes are points and thresholds in what can be seen (`perception.py`) and read (title words), never
attributes. They carry over from one kind of product to the next: who likes deep blue likes it on mugs and
on boots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from moontide.foundation.seeds import stream

MODES = 3  # ideal colors of one shopper, at most
SEGMENTS = ("budget", "middle", "premium")
DEVICES = ("mobile", "desktop", "tablet")
REGIONS = ("north", "east", "south", "west")
DAY_MS = 86_400_000
WORD_STEP = 0.5  # likings of words are stored in halves


@dataclass(frozen=True)
class Shoppers:
    """All shoppers as arrays; the first axis is the shopper.

    Habits: `activity` (visits, relative), `hours` (chance of each hour of the day), `patience` (of
    `examination`), `curiosity` (further requests in a visit). Colors: `ideals` (shoppers, MODES, 3) Lab,
    `strength`, `tolerance`, `averse_to`. Deviations from the catalog's mean: `texture`, `outline` and
    their widths. `ideal_share`, `clutter`: of pictures. `word_liking`: (shoppers, words) in steps of
    WORD_STEP. `affluence`: log budget over the category's median price; `thrift`: how much a high price
    hurts. `lean`, `phase`, `period_days`: (shoppers, categories), interest and its drift. `variety`: how
    boredom weighs, below 0 for who likes more of the same; `bored_at`: within which distance.
    """

    activity: np.ndarray
    hours: np.ndarray
    patience: np.ndarray
    curiosity: np.ndarray
    ideals: np.ndarray
    strength: np.ndarray
    tolerance: np.ndarray
    averse_to: np.ndarray
    texture: np.ndarray
    outline: np.ndarray
    width: np.ndarray
    ideal_share: np.ndarray
    clutter: np.ndarray
    word_liking: np.ndarray
    affluence: np.ndarray
    thrift: np.ndarray
    lean: np.ndarray
    phase: np.ndarray
    period_days: np.ndarray
    variety: np.ndarray
    bored_at: np.ndarray
    segment: np.ndarray
    device: np.ndarray
    region: np.ndarray

    def __len__(self) -> int:
        return len(self.activity)

    def ids(self) -> list[str]:
        """The shoppers' ids, in order."""
        return [f"u{number:06d}" for number in range(len(self))]

    def interest(self, shopper: np.ndarray, category: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Interest in a category at a moment (ms): a steady lean and a slow swing of some weeks.

        All three broadcast against each other; mean 0, deviation about 1 over shoppers.
        """
        period = self.period_days[shopper, category] * DAY_MS
        swing = np.sin(2 * np.pi * at / period + self.phase[shopper, category])
        return self.lean[shopper, category] + 0.9 * swing

    def open_table(self) -> pa.Table:
        """What a shop knows: the `shoppers` table."""
        return pa.table(
            {
                "shopper_id": self.ids(),
                "segment": [SEGMENTS[code] for code in self.segment],
                "device": [DEVICES[code] for code in self.device],
                "region": [REGIONS[code] for code in self.region],
            }
        )

    def truth_table(self) -> pa.Table:
        """Everything, one row a shopper: `truth/tastes`; arrays of more axes are flattened lists."""
        columns = {"shopper_id": pa.array(self.ids())}
        for field in fields(self):
            value = getattr(self, field.name)
            if value.ndim == 1:
                columns[field.name] = pa.array(value)
            else:
                flat = pa.array(np.ascontiguousarray(value).ravel())
                columns[field.name] = pa.FixedSizeListArray.from_arrays(flat, value[0].size)
        return pa.table(columns)

    @classmethod
    def of_table(cls, table: pa.Table) -> Shoppers:
        """The shoppers of a `truth/tastes` table."""
        arrays = {}
        for field in fields(cls):
            column = table.column(field.name).combine_chunks()
            if isinstance(column.type, pa.FixedSizeListType):
                column = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
            else:
                column = column.to_numpy(zero_copy_only=False)
            arrays[field.name] = column
        arrays["ideals"] = arrays["ideals"].reshape(len(table), MODES, 3)
        return cls(**arrays)


def draw_shoppers(
    num: int, colors: np.ndarray, is_taste_word: np.ndarray, num_categories: int, seed: int
) -> Shoppers:
    """Shoppers with tastes of their own, drawn without regard to any product's sales.

    Args:
        num: how many.
        colors: (pictures, 3) Lab colors seen in the catalog: fashions are shared, so ideals lie near them.
        is_taste_word: (words,) True where a word may please or displease (no nouns, no fillers).
        num_categories: leaves of the category tree.
    """
    rng = stream(seed, "shoppers")
    single = np.float32
    affluence = rng.normal(0.35, 0.45, num)
    device = rng.choice(3, num, p=[0.72, 0.23, 0.05])
    patience = np.clip(rng.beta(9, 2, num) + np.where(device == 1, 0.04, -0.01), 0.5, 0.97)
    modes = rng.choice(MODES, num, p=[0.45, 0.35, 0.2]) + 1
    strength = rng.uniform(0.7, 1.0, (num, MODES)) * (np.arange(MODES) < modes[:, None])
    return Shoppers(
        activity=rng.lognormal(0, 0.8, num).astype(single),
        hours=_hours(num, rng),
        patience=patience.astype(single),
        curiosity=np.clip(rng.beta(4, 4, num), 0.15, 0.85).astype(single),
        ideals=_color_points(colors, (num, MODES), rng),
        strength=strength.astype(single),
        tolerance=rng.uniform(16, 34, num).astype(single),
        averse_to=_color_points(colors, (num,), rng),
        texture=rng.normal(0, 0.9, num).astype(single),
        outline=rng.normal(0, 0.9, num).astype(single),
        width=rng.uniform(0.9, 1.8, num).astype(single),
        ideal_share=rng.normal(0.36, 0.06, num).astype(single),
        clutter=rng.normal(1.1, 0.25, num).astype(single),
        word_liking=_word_liking(num, is_taste_word, rng),
        affluence=affluence.astype(single),
        thrift=np.clip(rng.normal(1, 0.4, num), 0.1, 2).astype(single),
        lean=rng.normal(0, 0.8, (num, num_categories)).astype(single),
        phase=rng.uniform(0, 2 * np.pi, (num, num_categories)).astype(single),
        period_days=rng.uniform(15, 60, (num, num_categories)).astype(single),
        variety=rng.normal(0.5, 0.6, num).astype(single),
        bored_at=rng.uniform(0.5, 1.3, num).astype(single),
        segment=np.digitize(affluence + rng.normal(0, 0.3, num), [0.1, 0.65]),
        device=device,
        region=rng.integers(0, len(REGIONS), num),
    )


def _hours(num: int, rng: np.random.Generator) -> np.ndarray:
    """(shoppers, 24) chance of shopping in each hour (UTC): one habitual time, evenings more than nights."""
    hour = np.arange(24)
    habit = rng.choice(24, num, p=_evening_share())
    away = np.abs(hour - habit[:, None])
    weight = np.exp(-(np.minimum(away, 24 - away) ** 2) / (2 * 2.5**2)) + 0.35 * _evening_share() * 24 / 3
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def _evening_share() -> np.ndarray:
    hour = np.arange(24)
    share = 0.15 + np.exp(-((hour - 20.5) ** 2) / 18) + 0.6 * np.exp(-((hour - 12.5) ** 2) / 10)
    return share / share.sum()


def _color_points(colors: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Points near colors that exist; squared ranks make some of them common favorites."""
    favorites = colors[rng.permutation(len(colors))[: max(8, len(colors) // 20)]]
    pick = (rng.random(shape) ** 1.6 * len(favorites)).astype(int)
    return (favorites[pick] + rng.normal(0, 6, (*shape, 3))).astype(np.float32)


def _word_liking(num: int, is_taste_word: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(shoppers, words) int8 in WORD_STEP: a few words please everybody a little, each shopper has their
    own."""
    num_words = len(is_taste_word)
    common = rng.choice([-1, 0, 1], num_words, p=[0.06, 0.82, 0.12])
    draw = rng.random((num, num_words), dtype=np.float32)
    own = np.where(draw < 0.08, 2, np.where(draw < 0.13, -2, 0))
    return ((common + own) * is_taste_word).astype(np.int8)
