"""Replay and uplift by value: the logger replayed, no bias on uniform logs, shared places, whole lists."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.creative.bandit import BanditSettings, BetaBandit
from moontide.creative.replay import replay, replay_bandit, top_k_uplift
from moontide.foundation.errors import DataError


def uniform_log(num: int, seed: int = 0, products: int = 20, creatives: int = 3):
    """Impressions whose creatives were drawn uniformly, and the true rates."""
    rng = np.random.default_rng(seed)
    rates = np.random.default_rng(99).uniform(0.05, 0.5, (products, creatives))
    traffic = rng.choice(products, num, p=np.arange(1, products + 1) / (products * (products + 1) / 2))
    shown = rng.integers(0, creatives, num)
    return traffic, shown, rng.random(num) < rates[traffic, shown], rates


def test_the_policy_that_is_the_logger_has_the_logged_rate_in_every_figure():
    product, shown, is_click, _ = uniform_log(2000)
    found = replay(product, shown, shown, is_click)
    assert found.sctr == pytest.approx(is_click.mean())
    assert found.nsctr == pytest.approx(is_click.mean())
    assert found.logged_ctr == pytest.approx(is_click.mean())
    assert (found.coverage, found.matched, found.impressions) == (1.0, 2000, 2000)


def test_a_replay_of_three_products_has_the_values_of_the_formula():
    product = ["p"] * 4 + ["q"] * 2 + ["r"] * 2
    shown = ["a", "a", "b", "b", "c", "d", "e", "f"]
    chosen = ["a", "a", "a", "a", "c", "c", "g", "g"]
    is_click = [1, 0, 1, 1, 1, 0, 1, 1]
    found = replay(product, shown, chosen, is_click)
    assert found.sctr == pytest.approx(2 / 3)
    assert found.nsctr == pytest.approx((4 * 1 / 2 + 2 * 1 / 1) / 6)
    assert (found.num_products, found.num_unmatched, found.coverage) == (3, 1, pytest.approx(2 / 3))


def test_a_fixed_policy_is_replayed_without_bias_on_uniform_logs():
    found, truth = [], 0.0
    for seed in range(60):
        product, shown, is_click, rates = uniform_log(3000, seed)
        best = rates.argmax(1)
        found.append(replay(product, shown, best[product], is_click).sctr)
        weight = np.arange(1, 21) / 210
        truth = float(weight @ rates.max(1))
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(truth, abs=4 * error)
    assert error < 0.005


def test_products_that_never_match_are_left_out_of_both_sums_and_counted():
    found = replay(["p", "q"], ["a", "b"], ["a", "c"], [1, 1])
    assert (found.sctr, found.nsctr, found.num_unmatched) == (1.0, 1.0, 1)
    nothing = replay(["p", "q"], ["a", "b"], ["x", "x"], [1, 1])
    assert math.isnan(nothing.sctr)
    assert math.isnan(nothing.nsctr)
    assert nothing.coverage == 0


def test_a_bandit_replayed_on_uniform_logs_beats_the_logger_by_what_it_learns():
    product, shown, is_click, rates = uniform_log(20_000, products=5)
    shape = rates[:5].shape
    bandit = BetaBandit(np.ones(shape), np.ones(shape), BanditSettings(explore=0.05))
    found = replay_bandit(bandit, product, shown, is_click, every=500)
    assert found.sctr > found.logged_ctr * 1.2
    assert bandit.impressions.sum() == found.matched


def shop(num: int, seed: int, length: int | None = None):
    """Creatives of products, equally often shown: product, true rate, impressions, expected clicks."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, num) if length is None else np.full(num, length)
    product = np.repeat(np.arange(num), lengths)
    rate = rng.uniform(0.01, 0.1, len(product))
    return product, rate, np.full(len(product), 1000), 1000 * rate


@given(st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_with_equal_impressions_the_true_rate_is_the_best_score_at_every_k(seed):
    product, rate, shown, clicks = shop(12, seed, None)
    best = top_k_uplift(product, rate, shown, clicks).by_k
    other = top_k_uplift(product, np.random.default_rng(seed).random(len(rate)), shown, clicks).by_k
    assert all(a >= b - 1e-12 for a, b in zip(best, other, strict=True))
    even = top_k_uplift(*shop(12, seed, 4)).by_k  # lists of one length: it only falls
    assert all(a >= b - 1e-12 for a, b in pairwise(even))


def test_random_scores_have_no_uplift_on_average():
    product, _, shown, clicks = shop(40, 1, 5)
    rng = np.random.default_rng(0)
    found = np.array([top_k_uplift(product, rng.random(200), shown, clicks, 4).by_k for _ in range(400)])
    assert np.abs(found.mean(0)).max() < 4 * found.std(0).max() / 20


def test_the_whole_list_has_exactly_none():
    product, rate, shown, clicks = shop(9, 2)
    assert top_k_uplift(product, rate, shown, clicks).by_k[4:] == (0.0,) * 6


def test_uplift_of_one_product_has_the_value_by_hand():
    found = top_k_uplift(
        ["p", "p", "p", "alone"], [3.0, 1.0, 2.0, 9.0], [100, 100, 200, 50], [9, 3, 8, 50], 2
    )
    assert found.base_ctr == pytest.approx(20 / 400)
    assert found.by_k == (pytest.approx(0.09 / 0.05 - 1), pytest.approx((17 / 300) / 0.05 - 1))
    assert found.headline == pytest.approx(np.mean(found.by_k))
    assert found.num_products == 1


def test_creatives_of_equal_score_share_their_place():
    found = top_k_uplift(["p"] * 3, [1.0, 2.0, 1.0], [100] * 3, [4, 6, 2], 2)
    assert found.by_k[1] == pytest.approx((6 + 0.5 * 4 + 0.5 * 2) / 200 / 0.04 - 1)
    assert top_k_uplift(["p"] * 3, [0.0] * 3, [100] * 3, [4, 6, 2]).by_k == pytest.approx([0.0] * 10)


def test_mistakes_are_named():
    with pytest.raises(DataError, match="rows of equal number, got 1, 2, 1, 1"):
        replay(["p"], ["a", "b"], ["a"], [1])
    with pytest.raises(DataError, match="a replay needs rows"):
        replay([], [], [], [])
    with pytest.raises(DataError, match="products with two creatives and clicks"):
        top_k_uplift(["p", "q"], [1.0, 2.0], [10, 10], [1, 1])
    with pytest.raises(DataError, match="a finite score"):
        top_k_uplift(["p", "p"], [1.0, math.nan], [10, 10], [1, 1])
