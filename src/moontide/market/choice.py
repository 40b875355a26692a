"""What makes a simulated shopper click: the hidden truth, as pure array functions and one versioned set of
numbers.

    p_click  = examination(position) * attraction
    attraction = highest * match * Phi(appeal - bar)
    appeal   = looks + words + price + quality + interest - boredom

Every part of `appeal` saturates: a color pleases within a distance of an ideal point and not at all
beyond, a picture may be busy up to a threshold, a price hurts above a budget. `match` multiplies (what was
asked must be there). So the truth is neither a logistic regression nor an inner product of vectors, and no
ranker of this package contains it.

The numbers were set once, from plausibility and the public marginals that `report.py` prints (CTR of 1 to
5 %, falling with position; popularity and history lengths with heavy tails). They may not be changed
because a model lost; a change makes a new `version`, and figures of two versions are never compared.
"""

from __future__ import annotations

import numpy as np
import pydantic
from scipy.special import ndtr

from moontide.foundation.settings import Settings

Real = np.ndarray


class ChoiceSettings(Settings):
    """The market's constants; weights are in standard deviations of the shopper's own momentary whim."""

    version: str = pydantic.Field("2026.1", description="changes with any number below")
    base_ctr: float = pydantic.Field(0.028, gt=0, lt=0.5, description="CTR of random slates; sets the bar")
    highest: float = pydantic.Field(0.6, gt=0, le=1, description="attraction of a perfect result")
    color: float = pydantic.Field(1.0, ge=0, description="weight of nearness to an ideal color, 0 to 1")
    aversion: float = pydantic.Field(
        0.5, ge=0, description="weight of nearness to the disliked color, 0 to 1"
    )
    pattern: float = pydantic.Field(0.3, ge=0, description="weight of fit of texture and outline, -1 to 1")
    presentation: float = pydantic.Field(
        0.35, ge=0, description="weight of the shown picture's faults, 0 to 2"
    )
    words: float = pydantic.Field(0.22, ge=0, description="weight of a liked word in the title; two at most")
    price: float = pydantic.Field(0.5, ge=0, description="weight of log price over budget")
    quality: float = pydantic.Field(0.22, ge=0, description="weight of reputation: known to all, in no table")
    interest: float = pydantic.Field(0.15, ge=0, description="weight of the day's interest in the category")
    boredom: float = pydantic.Field(0.6, ge=0, description="weight of having clicked something just like it")
    p_cart: float = pydantic.Field(0.11, ge=0, le=1, description="carts per click, on average")
    p_order: float = pydantic.Field(0.28, ge=0, le=1, description="orders per cart, on average")
    order_delay_hours: float = pydantic.Field(7.0, gt=0, description="median time from click to order")


def examination(position: Real, patience: Real) -> Real:
    """Chance that the result at `position` (0 is the first) is looked at.

    e(k) = 0.12 + 0.88 * patience^k. Also called: position bias, propensity of examination.
    Paper: position-based model of clicks (Craswell et al., 2008), the curve is ours.
    """
    return 0.12 + 0.88 * patience**position


def nearness(distance: Real, tolerance: Real | float) -> Real:
    """1 at distance 0, about 0 beyond twice the tolerance: exp(-(d / tolerance)^2)."""
    return np.exp(-((distance / tolerance) ** 2))


def fit(value: Real, ideal: Real, width: Real) -> Real:
    """1 at the ideal, falling linearly to -1 at two widths and beyond."""
    return np.maximum(1 - np.abs(value - ideal) / width, -1)


def color_pleasure(lab: Real, second: Real, ideals: Real, strength: Real, tolerance: Real) -> Real:
    """How near a picture's subject comes to the best of its shopper's ideal colors, 0 to 1.

    Args:
        lab, second: (rows, 3) the subject's larger and smaller color.
        ideals: (rows, modes, 3); strength: (rows, modes) 0 where the mode is not used.
        tolerance: (rows,) distance in Lab units.
    """
    first = np.linalg.norm(lab[:, None] - ideals, axis=-1)
    other = np.linalg.norm(second[:, None] - ideals, axis=-1) + 12  # the smaller color counts less
    return (strength * nearness(np.minimum(first, other), tolerance[:, None])).max(1)


def presentation_faults(share: Real, clutter: Real, ideal_share: Real, allowed_clutter: Real) -> Real:
    """What is wrong with the shown picture, 0 to 2: subject too small or large, ground too busy."""
    size = np.maximum(np.abs(share - ideal_share) - 0.07, 0) / 0.15
    busy = np.maximum(clutter - allowed_clutter, 0) / 0.5
    return np.minimum(size, 1) + np.minimum(busy, 1)


def price_pain(price: Real, budget: Real) -> Real:
    """Log of price over budget above it; a little suspicion below a third of it."""
    over = np.log(price / budget)
    return np.clip(np.maximum(over, 0) + 0.3 * np.maximum(-over - 1.1, 0), 0, 2)


def boredom(distance: Real, bored_at: Real) -> Real:
    """1 for what looks exactly like something clicked lately, 0 from the distance `bored_at` on."""
    return np.maximum(1 - distance / bored_at, 0)


def category_match(asked: Real, shown: Real) -> Real:
    """1 in the category that was asked for, less in its group and department.

    Args:
        asked, shown: (rows, 3) codes of department, group, category.
    """
    same = asked == shown
    return np.select([same[:, 2], same[:, 1] & same[:, 0], same[:, 0]], [1.0, 0.35, 0.15], 0.04)


def color_match(distance: Real) -> Real:
    """Whether the subject has the color asked for: 1 at distance 0, 0.35 far away."""
    return 0.35 + 0.65 * nearness(distance, 32.0)


def picture_match(distance: Real) -> Real:
    """Whether the product looks like the picture asked with (units of `Lens.look`): 1 down to 0.2."""
    return 0.2 + 0.8 * nearness(distance, 1.1)


WORD_MATCH = 0.55  # match of a title that lacks the word asked for


def attraction(appeal: Real, match: Real, bar: float, choice: ChoiceSettings) -> Real:
    """Chance that a result that is looked at is clicked."""
    return choice.highest * match * ndtr(appeal - bar)


def cart_chance(attraction: Real, choice: ChoiceSettings) -> Real:
    """Chance that a clicked result goes into the cart: `p_cart` on average, more for what attracts more.

    Attraction of what is clicked is about a fifth of the highest, by the spread of appeal around the bar.
    """
    return np.minimum(choice.p_cart * (0.5 + 0.5 * attraction / (0.2 * choice.highest)), 1.0)


def find_bar(appeal: Real, match: Real, examined: Real, choice: ChoiceSettings) -> float:
    """The bar at which random slates have the click-through rate `base_ctr`, by bisection.

    Args:
        appeal, match, examined: (impressions,) of randomly chosen results.
    """
    low, high = -5.0, 10.0
    for _ in range(40):
        bar = (low + high) / 2
        rate = float((examined * attraction(appeal, match, bar, choice)).mean())
        low, high = (bar, high) if rate > choice.base_ctr else (low, bar)
    return (low + high) / 2
