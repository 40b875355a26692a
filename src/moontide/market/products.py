"""The catalog of a simulated shop: who sells what, at which price, since when.

Products come in groups (SPUs): most stand alone, some are colorways that share everything but their colors. A
brand leans to some categories and to a price tier, a merchant to some departments. All of it follows from the
seed and the product's number. How often a product is bought is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from moontide.foundation.seeds import stream
from moontide.market.listing import Facts, House, Listing, write_listing
from moontide.market.render.looks import CATEGORIES, Look, sample_look
from moontide.market.settings import MarketSettings
from moontide.market.words import SELLING_POINTS_OFTEN_BANNED, brand_names, sample_hidden

COLORWAYS = (0.76, 0.14, 0.07, 0.03)  # chance that an SPU has 1, 2, 3 or 4 products
DEAR = {
    "leather": 0.1,
    "silk": 0.12,
    "suede": 0.06,
    "wood": 0.06,
    "metal": 0.05,
    "plastic": -0.15,
    "rubber": -0.1,
}
_DEPARTMENTS = tuple(dict.fromkeys(kind.department for kind in CATEGORIES.values()))
_NAMES = tuple(CATEGORIES)


@dataclass(frozen=True)
class MarketProduct:
    """One product of the simulated shop, all that is true and all that is printed."""

    product_id: str
    spu_id: str
    merchant_id: str
    facts: Facts
    listing: Listing
    price_cents: int
    created_at: datetime
    is_new: bool

    @property
    def look(self) -> Look:
        """What pictures show."""
        return self.facts.look


@dataclass(frozen=True)
class Merchant:
    """One who sells; `weight` is the share of the products, `departments` are the usual ones."""

    merchant_id: str
    tier: str
    allows_title_changes: bool
    banned: tuple[str, ...]
    house: House
    departments: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class _Brands:
    names: list[str]
    tier: np.ndarray  # (brands,) -1 budget, 0 middle, 1 premium
    chance: np.ndarray  # (brands, categories), columns sum to 1


def sample_merchants(num: int, seed: int) -> list[Merchant]:
    """Merchants by falling size (Zipf): the first 4 % are large, the next 20 % medium, the rest small."""
    rng = stream(seed, "merchants")
    merchants = []
    for rank in range(num):
        tier = "large" if rank < max(1, 0.04 * num) else "medium" if rank < max(2, 0.24 * num) else "small"
        manner = ("terse", "plain", "stuffed")[int(np.searchsorted([0.25, 0.65], rng.random()))]
        house = House(manner, bool(rng.random() < 0.65), 2.0 if tier == "small" else 1.0)
        num_banned = int(rng.integers(1, 4)) if rng.random() < 0.3 else 0
        banned = rng.choice(SELLING_POINTS_OFTEN_BANNED, num_banned, replace=False)
        homes = rng.choice(_DEPARTMENTS, int(rng.integers(1, 3)) + 2 * (tier == "large"), replace=False)
        allows = bool(rng.random() < (0.7 if tier == "large" else 0.88))
        weight = 1 / (rank + 3) ** 0.9
        merchants.append(
            Merchant(
                f"m{rank:04d}", tier, allows, tuple(map(str, banned)), house, tuple(map(str, homes)), weight
            )
        )
    return merchants


def sample_catalog(settings: MarketSettings, seed: int) -> Iterator[MarketProduct]:
    """The products of a market one by one, the same for the same settings and seed.

    About `settings.new_share` of them are created inside the log, at any moment of it alike; the others in
    the years before. Colorways of one SPU follow each other.
    """
    merchants = sample_merchants(settings.num_merchants, seed)
    brands = _sample_brands(min(400, max(20, settings.num_products // 25)), seed)
    sizes = {name: _merchant_chances(merchants, CATEGORIES[name].department) for name in _NAMES}
    number = spu = 0
    while number < settings.num_products:
        rng = stream(seed, "spu", spu)
        group = _sample_group(rng, spu, brands, merchants, sizes)
        for member, facts in enumerate(group.looks[: settings.num_products - number]):
            yield _finish(group, facts, f"p{number:06d}", member, settings, seed)
            number += 1
        spu += 1


@dataclass(frozen=True)
class _Group:
    spu_id: str
    looks: list[Facts]
    merchant: Merchant
    price_cents: int
    chance_new: float
    shares_title: bool


def _sample_group(
    rng: np.random.Generator,
    spu: int,
    brands: _Brands,
    merchants: list[Merchant],
    sizes: dict[str, np.ndarray],
) -> _Group:
    """What the colorways of one SPU have in common."""
    look = sample_look(rng)
    column = _NAMES.index(look.category)
    brand = int(rng.choice(len(brands.names), p=brands.chance[:, column]))
    merchant = merchants[int(rng.choice(len(merchants), p=sizes[look.category]))]
    hidden = sample_hidden(look, rng)
    looks = [look]
    for _ in range(int(rng.choice(len(COLORWAYS), p=COLORWAYS))):
        other = sample_look(rng, look.category)
        if other.color not in {known.color for known in looks}:
            looks.append(replace(look, color=other.color, second_color=other.second_color))
    price = _price(look, float(brands.tier[brand]), rng)
    facts = [Facts(known, brands.names[brand], hidden) for known in looks]
    return _Group(f"s{spu:06d}", facts, merchant, price, float(rng.random()), bool(rng.random() < 0.6))


def _finish(
    group: _Group, facts: Facts, product_id: str, member: int, settings: MarketSettings, seed: int
) -> MarketProduct:
    """One member of the group with its own words, price and date."""
    rng = stream(seed, "product", product_id)
    words = stream(seed, "words", group.spu_id if group.shares_title else product_id)
    is_new = group.chance_new < settings.new_share
    price = group.price_cents
    if member and rng.random() < 0.2:  # a color on sale
        low, high = CATEGORIES[facts.look.category].price_cents
        price = round_price(price * float(rng.uniform(0.8, 0.95)), low, high, rng)
    return MarketProduct(
        product_id=product_id,
        spu_id=group.spu_id,
        merchant_id=group.merchant.merchant_id,
        facts=facts,
        listing=write_listing(facts, group.merchant.house, words),
        price_cents=price,
        created_at=sample_created(is_new, settings, rng),
        is_new=is_new,
    )


def sample_created(is_new: bool, settings: MarketSettings, rng: np.random.Generator) -> datetime:
    """A moment inside the log for a new product, else in the four years before it, recent ones more often."""
    if is_new:
        seconds = rng.random() * timedelta(days=settings.days).total_seconds()
        return settings.start + timedelta(seconds=int(seconds))
    return settings.start - timedelta(seconds=int(86_400 * (1 + min(rng.exponential(240), 1460))))


def _price(look: Look, tier: float, rng: np.random.Generator) -> int:
    """A shop price in cents: lognormal in the category's range, moved by brand tier and material."""
    low, high = CATEGORIES[look.category].price_cents
    spread = np.log(high / low)
    middle = (np.log(low) + np.log(high)) / 2 + 0.2 * spread * tier + DEAR.get(look.material, 0)
    return round_price(float(np.exp(rng.normal(middle, spread / 7))), low, high, rng)


def round_price(cents: float, low: int, high: int, rng: np.random.Generator) -> int:
    """Cents as shops print them (19.99, 24.95, 149.00), inside [low, high].

    Example:
        >>> round_price(2013.4, 900, 3900, np.random.default_rng(0))
        1999
    """
    chance = rng.random()
    if cents >= 10_000:  # 129.00, 149.99
        rounded = round(cents / 1_000) * 1_000 - (100 if chance < 0.7 else 1)
    else:
        rounded = round(cents / 100) * 100 - (1 if chance < 0.65 else 5 if chance < 0.85 else 0)
    return int(min(max(rounded, low), high))


def _sample_brands(num: int, seed: int) -> _Brands:
    rng = stream(seed, "brands")
    departments = np.array([kind.department for kind in CATEGORIES.values()])
    affinity = np.full((num, len(_NAMES)), 0.01)
    for brand in range(num):
        home = np.flatnonzero(departments == departments[rng.integers(len(_NAMES))])
        affinity[brand, home] = 0.1
        affinity[brand, rng.choice(home, min(len(home), int(rng.integers(2, 5))), replace=False)] = 1
    weighted = affinity / (rng.permutation(num)[:, None] + 4) ** 0.8
    tier = rng.choice([-1, 0, 1], num, p=[0.3, 0.45, 0.25])
    return _Brands(brand_names(num, rng), tier, weighted / weighted.sum(axis=0))


def _merchant_chances(merchants: list[Merchant], department: str) -> np.ndarray:
    weights = np.array([m.weight * (1 if department in m.departments else 0.08) for m in merchants])
    return weights / weights.sum()
